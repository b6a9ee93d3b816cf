/*
 * Salvage: what can be saved of a damaged directory, into a new store.
 *
 *   newest good checkpoint --> bare store
 *       its places may be gone or damaged: each value is verified when it is taken
 *   log entries, by index  --> applied to it, by the code that applies them always; where entries
 *   are missing, over the gap
 *   settled records        --> candidates, newest first
 *
 *   export
 *       every key, its versions newest first: the first one that is intact -> image; else the
 *       newest intact settled record; else lost
 *            without a checkpoint keys known by settled records alone come, too (some may have been
 *            deleted since)
 *
 * What is not exact over a gap, and said in the report: deletes and compares that would have come
 * out otherwise, versions counted anew. Read only: the directory is seen through an overlay.
 */
#include "fsck.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bare_store.h"
#include "checkpoint.h"
#include "image.h"
#include "overlay.h"
#include "survey.h"
#include "value.h"

enum { LINES_MAX = 1000 }; /* of one kind; then only counted */

struct found_entry {
    uint64_t index, term, first_revision;
    struct bp_pos at; /* of the payload: also the order of appending */
    uint32_t count, size;
    uint8_t type;
};

struct candidate {
    size_t key_at; /* in `keys` */
    uint32_t key_size;
    struct bp_version version;
};

struct salvage {
    struct bp_disk *disk; /* the overlay's */
    const char *dir;
    struct bp_store *store;
    struct bp_image *image;
    struct bp_buffer *report;
    uint64_t from;     /* the index the checkpoint covers */
    uint64_t revision; /* the newest seen anywhere */
    bool has_checkpoint;

    struct found_entry *entries;
    uint64_t n_entries, entries_capacity;
    struct candidate *candidates; /* by key, newest first */
    uint64_t n_candidates, candidates_capacity;
    struct bp_buffer keys;

    /* the export */
    uint64_t next_candidate;
    uint8_t key[BP_STORED_KEY_MAX];
    uint32_t key_size; /* 0: before the first */
    bool done, first;  /* with this key; at its newest version */
    uint8_t *value;
    struct bp_error *err;
    uint64_t kept, older, lost, leases_dropped, gaps, failed_entries, settled_only;
};

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory to salvage");
}

/* Room for one more. */
static bool make_room(void **list, uint64_t n, uint64_t *capacity, size_t size) {
    if (n < *capacity) {
        return true;
    }
    uint64_t more = *capacity == 0 ? 1024 : *capacity * 2;
    void *grown = realloc(*list, more * size);
    if (grown != NULL) {
        *list = grown;
        *capacity = more;
    }
    return grown != NULL;
}

/* ---- the checkpoint ------------------------------------------------------------------------- */

static int load_leases(struct salvage *salvage, struct bp_slice payload) {
    struct bp_lease_record lease;
    while (bp_ckpt_lease_next(&payload, &lease) > 0) {
        if (!bp_leases_exists(salvage->store->leases, lease.id) &&
            bp_leases_grant(salvage->store->leases, lease.id, lease.ttl_ms, 0) != 0) {
            return -1;
        }
    }
    return 0;
}

static void load_request_ids(struct salvage *salvage, struct bp_slice payload) {
    struct bp_request_id_record record;
    while (bp_ckpt_request_id_next(&payload, &record) > 0) {
        struct bp_outcome outcome = {.revision = record.revision,
                                     .deleted = record.deleted,
                                     .lease = record.lease,
                                     .ttl_ms = record.ttl_ms,
                                     .succeeded = record.succeeded != 0};
        struct bp_slice id = bp_slice(record.id, record.id_size);
        if (bp_request_ids_find(salvage->store->request_ids, id) == NULL) {
            bp_request_ids_add(salvage->store->request_ids, id, record.fingerprint, &outcome);
        }
    }
}

static int load_versions(struct salvage *salvage, struct bp_ckpt_version_reader *reader,
                         struct bp_slice payload, struct bp_error *err) {
    int got, code = BP_OK;
    bp_ckpt_version_reader_aim(reader, payload);
    while (code == BP_OK && (got = bp_ckpt_version_next(reader)) > 0) {
        code = bp_index_load(salvage->store->index, bp_slice(reader->key, reader->key_size),
                             reader->versions, reader->n, err);
    }
    return code;
}

static int load_blocks(struct salvage *salvage, struct bp_ckpt_file *file,
                       struct bp_ckpt_version_reader *reader, uint64_t blocks,
                       struct bp_error *err) {
    int code = BP_OK;
    for (uint64_t i = 0; i < blocks && code == BP_OK; i++) {
        struct bp_ckpt_block block;
        code = bp_ckpt_file_next(file, &block, err);
        if (code == BP_OK && block.section == BP_CKPT_LEASES &&
            load_leases(salvage, block.payload) != 0) {
            code = no_memory(err);
        } else if (code == BP_OK && block.section == BP_CKPT_REQUEST_IDS) {
            load_request_ids(salvage, block.payload);
        } else if (code == BP_OK && block.section == BP_CKPT_VERSIONS) {
            code = load_versions(salvage, reader, block.payload, err);
        }
    }
    return code;
}

/*
 * Every byte of it was verified by fsck a moment ago; that its segments are all there is not asked
 * for, unlike at a start.
 */
static int load_checkpoint(struct salvage *salvage, uint64_t number, struct bp_error *err) {
    char path[BP_CKPT_PATH_MAX];
    struct bp_ckpt_summary summary;
    struct bp_ckpt_file file;
    bp_ckpt_path(salvage->dir, number, false, path);
    int code = bp_ckpt_verify(salvage->disk, path, BP_SITE_CHECKPOINT_READ, &summary, err);
    if (code != BP_OK) {
        return code;
    }
    struct bp_ckpt_version_reader *reader = malloc(sizeof *reader);
    code = reader == NULL
               ? no_memory(err)
               : bp_ckpt_file_open(&file, salvage->disk, path, BP_SITE_CHECKPOINT_READ, err);
    if (code == BP_OK) {
        bp_ckpt_version_reader_init(reader);
        code = load_blocks(salvage, &file, reader, summary.totals.blocks, err);
        bp_ckpt_version_reader_free(reader);
        bp_ckpt_file_close(&file);
    }
    free(reader);
    struct bp_store *store = salvage->store;
    const struct bp_ckpt_meta *meta = &summary.meta;
    code =
        code != BP_OK ? code : bp_index_load_finish(store->index, meta->compaction_revision, err);
    store->system = meta->system;
    store->applied_index = salvage->from = meta->applied_index;
    store->applied_term = meta->applied_term;
    store->next_revision = meta->next_revision;
    store->compaction_revision = meta->compaction_revision;
    salvage->has_checkpoint = true;
    bp_ckpt_summary_free(&summary);
    return code;
}

/* ---- segments ------------------------------------------------------------------------------- */

static int note_entry(void *arg, const struct bp_entry *entry, struct bp_error *err) {
    struct salvage *salvage = arg;
    if (entry->index <= salvage->from) {
        return BP_OK;
    }
    void *list = salvage->entries;
    bool room =
        make_room(&list, salvage->n_entries, &salvage->entries_capacity, sizeof *salvage->entries);
    salvage->entries = list;
    if (!room) {
        return no_memory(err);
    }
    salvage->entries[salvage->n_entries++] =
        (struct found_entry){.index = entry->index,
                             .term = entry->term,
                             .first_revision = entry->first_revision,
                             .at = entry->at,
                             .count = entry->count,
                             .size = entry->size,
                             .type = entry->type};
    return BP_OK;
}

static int note_record(void *arg, const struct bp_settled_record *record, bool sound,
                       struct bp_error *err) {
    struct salvage *salvage = arg;
    if (!sound) {
        return BP_OK;
    }
    void *list = salvage->candidates;
    bool room = make_room(&list, salvage->n_candidates, &salvage->candidates_capacity,
                          sizeof *salvage->candidates);
    salvage->candidates = list;
    size_t key_at = salvage->keys.size;
    bp_buffer_append(&salvage->keys, record->key.data, record->key.size);
    if (!room || salvage->keys.failed) {
        return no_memory(err);
    }
    salvage->candidates[salvage->n_candidates++] = (struct candidate){
        .key_at = key_at, .key_size = (uint32_t)record->key.size, .version = record->version};
    if (record->version.revision > salvage->revision) {
        salvage->revision = record->version.revision;
    }
    return BP_OK;
}

/*
 * Into the table, so that values can be read, and what is in it noted. A segment without a good
 * header stays out.
 */
static int read_segment(struct salvage *salvage, const uint8_t store_id[16],
                        const struct bp_survey *survey, struct bp_error *err) {
    struct bp_survey_visitor visitor = {.arg = salvage, .entry = note_entry, .record = note_record};
    struct bp_segment *segment;
    struct bp_error why = {0};
    const char *suffix = survey->kind == BP_SEGMENT_LOG ? "log" : "set";
    int code = survey->headed ? bp_segment_open(salvage->store->segments, survey->id, survey->kind,
                                                store_id, &segment, &why)
                              : survey->error.code;
    if (code != BP_OK && why.reason == BP_REASON_OUT_OF_MEMORY) {
        *err = why;
        return code;
    }
    if (code != BP_OK) {
        bp_fsck_line(salvage->report, "rebuild: segment %08" PRIx32 ".%s cannot be used: %s",
                     survey->id, suffix, why.message[0] != 0 ? why.message : survey->error.message);
        return BP_OK;
    }
    return bp_survey_visit(salvage->disk, salvage->dir, survey, &visitor, err);
}

static int by_index(const void *a, const void *b) {
    const struct found_entry *x = a, *y = b;
    if (x->index != y->index) {
        return x->index < y->index ? -1 : 1;
    }
    return bp_pos_u64(x->at) < bp_pos_u64(y->at) ? -1 : bp_pos_u64(x->at) > bp_pos_u64(y->at);
}

static int by_key(const void *a, const void *b, void *arg) {
    const struct candidate *x = a, *y = b;
    const uint8_t *keys = arg;
    int order = bp_slice_compare(bp_slice(keys + x->key_at, x->key_size),
                                 bp_slice(keys + y->key_at, y->key_size));
    if (order != 0) {
        return order;
    }
    return x->version.revision > y->version.revision ? -1
                                                     : x->version.revision < y->version.revision;
}

/* ---- the log -------------------------------------------------------------------------------- */

static int apply_one(struct salvage *salvage, const struct found_entry *found, uint8_t *payload,
                     struct bp_error *why) {
    struct bp_store *store = salvage->store;
    const struct bp_segment *segment = bp_segments_find(store->segments, found->at.segment);
    int rc = bp_disk_read(salvage->disk, BP_SITE_RECOVER_READ, segment->fd, payload, found->size,
                          found->at.offset);
    if (rc < 0) {
        return bp_fail_io(why, rc, "it cannot be read");
    }
    struct bp_entry entry = {.index = found->index,
                             .term = found->term,
                             .first_revision = found->first_revision,
                             .count = found->count,
                             .type = found->type,
                             .payload = payload,
                             .size = found->size,
                             .at = found->at};
    if (found->first_revision < store->next_revision && found->count > 0) {
        return bp_fail(why, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "its revisions were taken already");
    }
    store->applied_index = found->index - 1;
    if (found->first_revision > store->next_revision) {
        store->next_revision = found->first_revision;
    }
    return bp_apply_entry(store, &entry, NULL, why);
}

static void note_gap(struct salvage *salvage, uint64_t last, uint64_t next) {
    if (salvage->gaps++ < LINES_MAX) {
        bp_fsck_line(salvage->report, "rebuild: log entries %" PRIu64 " to %" PRIu64 " are lost",
                     last + 1, next - 1);
    }
}

/* Of entries with one index the one appended last counts. */
static int apply_all(struct salvage *salvage, struct bp_error *err) {
    uint8_t *payload = malloc(BP_GROUP_MAX);
    uint64_t last = salvage->from;
    if (payload == NULL) {
        return no_memory(err);
    }
    if (salvage->n_entries > 1) {
        qsort(salvage->entries, salvage->n_entries, sizeof *salvage->entries, by_index);
    }
    int code = BP_OK;
    for (uint64_t i = 0; i < salvage->n_entries && code == BP_OK; i++) {
        const struct found_entry *found = &salvage->entries[i];
        if (i + 1 < salvage->n_entries && found[1].index == found->index) {
            continue;
        }
        if (found->index != last + 1) {
            note_gap(salvage, last, found->index);
        }
        last = found->index;
        struct bp_error why = {0};
        if (apply_one(salvage, found, payload, &why) == BP_OK) {
            continue;
        }
        if (why.reason == BP_REASON_OUT_OF_MEMORY) {
            *err = why;
            code = why.code;
        } else if (salvage->failed_entries++ < LINES_MAX) {
            bp_fsck_line(salvage->report, "rebuild: log entry %" PRIu64 " could not be applied: %s",
                         found->index, why.message);
        }
    }
    free(payload);
    return code;
}

/* ---- the export ----------------------------------------------------------------------------- */

static struct bp_slice candidate_key(const struct salvage *salvage, uint64_t i) {
    return bp_slice(salvage->keys.data + salvage->candidates[i].key_at,
                    salvage->candidates[i].key_size);
}

static int keep(struct salvage *salvage, struct bp_slice key, const struct bp_version *version) {
    struct bp_version kept = *version;
    if (kept.lease != 0 && !bp_image_has_lease(salvage->image, kept.lease)) {
        kept.lease = 0;
        salvage->leases_dropped++;
    }
    salvage->kept++;
    return bp_image_put(salvage->image, key, &kept, bp_slice(salvage->value, kept.value.size),
                        salvage->err);
}

/* The value into salvage->value, verified. */
static bool readable(const struct salvage *salvage, const struct bp_version *version) {
    return version->value.size == 0 ||
           bp_value_read(salvage->store->segments, &version->value, 0, version->value.size,
                         salvage->value, NULL) == BP_OK;
}

static void say_lost(struct salvage *salvage, struct bp_slice key, const char *what) {
    char text[200];
    size_t n = 0;
    for (size_t i = 1; i < key.size && n < sizeof text - 8;
         i++) { /* printable; the keyspace byte apart */
        uint8_t c = key.data[i];
        n += (size_t)snprintf(text + n, sizeof text - n,
                              c >= 0x20 && c < 0x7f && c != '\\' ? "%c" : "\\x%02x", c);
    }
    text[n] = 0;
    if (salvage->lost + salvage->older <= LINES_MAX) {
        bp_fsck_line(salvage->report, "rebuild: key %c:%s%s: %s", key.data[0], text,
                     n >= sizeof text - 8 ? "..." : "", what);
    }
}

/* Settled records of keys below `key` (all, when it is empty): keys that only they know. */
static int pass_candidates(struct salvage *salvage, struct bp_slice key) {
    int code = BP_OK;
    while (code == BP_OK && salvage->next_candidate < salvage->n_candidates) {
        uint64_t i = salvage->next_candidate;
        struct bp_slice own = candidate_key(salvage, i);
        if (key.size > 0 && bp_slice_compare(own, key) >= 0) {
            break;
        }
        bool taken = false;
        for (; salvage->next_candidate < salvage->n_candidates &&
               bp_slice_equal(candidate_key(salvage, salvage->next_candidate), own);
             salvage->next_candidate++) {
            const struct bp_version *version =
                &salvage->candidates[salvage->next_candidate].version;
            if (!taken && code == BP_OK && !salvage->has_checkpoint && readable(salvage, version)) {
                taken = true;
                salvage->settled_only++;
                code = keep(salvage, own, version);
            }
        }
    }
    return code;
}

/* No version in the index was intact: an older copy in a settled segment? */
static int end_key(struct salvage *salvage) {
    struct bp_slice key = bp_slice(salvage->key, salvage->key_size);
    bool own = true, taken = salvage->done;
    int code = BP_OK;
    for (; own && salvage->next_candidate < salvage->n_candidates; salvage->next_candidate += own) {
        const struct bp_version *version = &salvage->candidates[salvage->next_candidate].version;
        own = bp_slice_equal(candidate_key(salvage, salvage->next_candidate), key);
        if (own && !taken && code == BP_OK && readable(salvage, version)) {
            taken = true;
            salvage->older++;
            say_lost(salvage, key, "its newest value is damaged; an older one is kept");
            code = keep(salvage, key, version);
        }
    }
    if (!taken) {
        salvage->lost++;
        say_lost(salvage, key, "LOST: no intact value is left");
    }
    salvage->done = true;
    return code;
}

static int begin_key(struct salvage *salvage, struct bp_slice key) {
    int code = salvage->key_size > 0 ? end_key(salvage) : BP_OK;
    code = code != BP_OK ? code : pass_candidates(salvage, key);
    memcpy(salvage->key, key.data, key.size);
    salvage->key_size = (uint32_t)key.size;
    salvage->done = false;
    salvage->first = true;
    return code;
}

/* Runs under a leaf's lock, as the only thread there is. */
static int export_version(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct salvage *salvage = arg;
    int code = BP_OK;
    if (!bp_slice_equal(key, bp_slice(salvage->key, salvage->key_size))) {
        code = begin_key(salvage, key);
    }
    if (code != BP_OK || salvage->done) {
        return code;
    }
    if ((version->flags & BP_VERSION_TOMBSTONE) != 0) {
        salvage->done = salvage->first; /* deleted; below a damaged value it says nothing */
    } else if (readable(salvage, version)) {
        salvage->done = true;
        if (!salvage->first) {
            salvage->older++;
            say_lost(salvage, key, "its newest value is damaged; an older one is kept");
        }
        code = keep(salvage, key, version);
    }
    salvage->first = false;
    return code;
}

static int export_state(struct salvage *salvage, struct bp_error *err) {
    const struct bp_store *store = salvage->store;
    uint64_t n;
    struct bp_lease_record *leases = bp_leases_snapshot(store->leases, &n);
    int code = leases == NULL && n > 0 ? no_memory(err) : BP_OK;
    for (uint64_t i = 0; i < n && code == BP_OK; i++) {
        code = bp_image_lease(salvage->image, &leases[i], err);
    }
    free(leases);
    for (uint64_t i = 0; i < bp_request_ids_count(store->request_ids); i++) {
        (void)bp_image_request_id(salvage->image, bp_request_ids_at(store->request_ids, i));
    }
    return code;
}

static int export_keys(struct salvage *salvage, struct bp_error *err) {
    salvage->err = err;
    if (salvage->n_candidates > 1) {
        qsort_r(salvage->candidates, salvage->n_candidates, sizeof *salvage->candidates, by_key,
                salvage->keys.data);
    }
    int code = bp_index_scan_versions(salvage->store->index, (struct bp_slice){0}, 0, UINT64_MAX,
                                      export_version, salvage);
    if (code == BP_OK && salvage->key_size > 0) {
        code = end_key(salvage);
    }
    return code != BP_OK ? code : pass_candidates(salvage, (struct bp_slice){0});
}

/* ---- all of it ------------------------------------------------------------------------------ */

static void report_result(const struct salvage *salvage, const char *dir) {
    struct bp_buffer *report = salvage->report;
    if (salvage->gaps + salvage->failed_entries > 0) {
        bp_fsck_line(report,
                     "rebuild: %" PRIu64 " gaps in the log, %" PRIu64
                     " entries not applied: later transactions may have come out "
                     "otherwise than they were answered, and deleted keys may be back",
                     salvage->gaps, salvage->failed_entries);
    }
    if (salvage->settled_only > 0) {
        bp_fsck_line(report,
                     "rebuild: without a checkpoint, %" PRIu64
                     " keys are known from settled segments alone: some may have been deleted",
                     salvage->settled_only);
    }
    if (salvage->leases_dropped > 0) {
        bp_fsck_line(report, "rebuild: %" PRIu64 " keys lost their lease and will not expire",
                     salvage->leases_dropped);
    }
    bp_fsck_line(report,
                 "rebuild: %" PRIu64 " keys saved into %s, %" PRIu64
                 " of them with an older value; %" PRIu64 " keys LOST",
                 salvage->kept, dir, salvage->older, salvage->lost);
}

static int run(struct salvage *salvage, const uint8_t store_id[16], const uint64_t *checkpoint,
               const struct bp_surveys *surveys, const char *rebuild_dir, struct bp_error *err) {
    int code = checkpoint != NULL ? load_checkpoint(salvage, *checkpoint, err) : BP_OK;
    for (uint32_t i = 0; i < surveys->n && code == BP_OK; i++) {
        code = read_segment(salvage, store_id, &surveys->list[i], err);
    }
    code = code != BP_OK ? code : apply_all(salvage, err);
    code = code != BP_OK ? code : export_state(salvage, err);
    code = code != BP_OK ? code : export_keys(salvage, err);
    if (code == BP_OK) {
        uint64_t newest = salvage->store->next_revision - 1;
        uint32_t version = salvage->store->system.cluster_version;
        code =
            bp_image_finish(salvage->image, newest > salvage->revision ? newest : salvage->revision,
                            version > 0 ? version : 1, err);
    }
    if (code == BP_OK) {
        report_result(salvage, rebuild_dir);
    }
    return code;
}

int bp_salvage(struct bp_disk *disk, const char *dir, const uint8_t store_id[16],
               const uint64_t *checkpoint, const struct bp_surveys *surveys,
               const char *rebuild_dir, struct bp_buffer *report, struct bp_error *err) {
    struct salvage *salvage = calloc(1, sizeof *salvage);
    struct bp_overlay *overlay = NULL;
    struct bp_options options = {.dir = rebuild_dir};
    if (salvage == NULL) {
        return no_memory(err);
    }
    salvage->dir = dir;
    salvage->report = report;
    salvage->value = malloc(BP_VALUE_MAX);
    int code = salvage->value == NULL ? no_memory(err) : bp_overlay_new(disk, dir, &overlay, err);
    if (code == BP_OK) {
        salvage->disk = bp_overlay_disk(overlay);
        code = salvage->disk == NULL
                   ? no_memory(err)
                   : bp_bare_store_new(&options, salvage->disk, dir, &salvage->store, err);
    }
    code = code != BP_OK ? code : bp_image_new(&options, disk, &salvage->image, err);
    code = code != BP_OK ? code : run(salvage, store_id, checkpoint, surveys, rebuild_dir, err);
    bp_image_free(salvage->image);
    bp_bare_store_free(salvage->store);
    bp_disk_free(salvage->disk);
    bp_overlay_free(overlay);
    bp_buffer_free(&salvage->keys);
    free(salvage->entries);
    free(salvage->candidates);
    free(salvage->value);
    free(salvage);
    return code;
}

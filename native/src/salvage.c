/*
 * Salvage: what can be saved of a damaged directory, into a new store.
 *
 *   newest good checkpoint --> bare store
 *       its places may be gone or damaged: each value is verified when it is taken
 *   log entries, by index  --> applied to it, by the code that applies them always; where entries
 *   are missing, over the gap
 *   settled records        --> candidates, newest first
 *
 *   all of it --> salvage_export.c --> image of a new store
 *
 * What is not exact over a gap, and said in the report: deletes and compares that would have come
 * out otherwise, versions counted anew. Read only: the directory is seen through an overlay.
 */
#include "salvage_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "overlay.h"
#include "survey.h"

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

static int load_leases(struct bp_salvage *salvage, struct bp_slice payload) {
    struct bp_lease_record lease;
    while (bp_ckpt_lease_next(&payload, &lease) > 0) {
        if (!bp_leases_exists(salvage->store->leases, lease.id) &&
            bp_leases_grant(salvage->store->leases, lease.id, lease.ttl_ms, 0) != 0) {
            return -1;
        }
    }
    return 0;
}

static void load_request_ids(struct bp_salvage *salvage, struct bp_slice payload) {
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

static int load_versions(struct bp_salvage *salvage, struct bp_ckpt_version_reader *reader,
                         struct bp_slice payload, struct bp_error *err) {
    int got, code = BP_OK;
    bp_ckpt_version_reader_aim(reader, payload);
    while (code == BP_OK && (got = bp_ckpt_version_next(reader)) > 0) {
        code = bp_index_load(salvage->store->index, bp_slice(reader->key, reader->key_size),
                             reader->versions, reader->n, err);
    }
    return code;
}

static int load_blocks(struct bp_salvage *salvage, struct bp_ckpt_file *file,
                       struct bp_ckpt_version_reader *reader, uint64_t blocks,
                       struct bp_error *err) {
    int code = BP_OK;
    for (uint64_t i = 0; i < blocks && code == BP_OK; i++) {
        struct bp_ckpt_block block;
        code = bp_ckpt_file_next(file, &block, err);
        if (code == BP_OK && block.section == BP_CKPT_LEASES &&
            load_leases(salvage, block.payload) != 0) {
            code = bp_salvage_no_memory(err);
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
static int load_checkpoint(struct bp_salvage *salvage, uint64_t number, struct bp_error *err) {
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
               ? bp_salvage_no_memory(err)
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
    struct bp_salvage *salvage = arg;
    if (entry->index <= salvage->from) {
        return BP_OK;
    }
    void *list = salvage->entries;
    bool room =
        make_room(&list, salvage->n_entries, &salvage->entries_capacity, sizeof *salvage->entries);
    salvage->entries = list;
    if (!room) {
        return bp_salvage_no_memory(err);
    }
    salvage->entries[salvage->n_entries++] =
        (struct bp_salvage_entry){.index = entry->index,
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
    struct bp_salvage *salvage = arg;
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
        return bp_salvage_no_memory(err);
    }
    salvage->candidates[salvage->n_candidates++] = (struct bp_salvage_candidate){
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
static int read_segment(struct bp_salvage *salvage, const uint8_t store_id[16],
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
    const struct bp_salvage_entry *x = a, *y = b;
    if (x->index != y->index) {
        return x->index < y->index ? -1 : 1;
    }
    return bp_pos_u64(x->at) < bp_pos_u64(y->at) ? -1 : bp_pos_u64(x->at) > bp_pos_u64(y->at);
}

/* ---- the log -------------------------------------------------------------------------------- */

static int apply_one(struct bp_salvage *salvage, const struct bp_salvage_entry *found,
                     uint8_t *payload, struct bp_error *why) {
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

static void note_gap(struct bp_salvage *salvage, uint64_t last, uint64_t next) {
    if (salvage->gaps++ < BP_SALVAGE_LINES_MAX) {
        bp_fsck_line(salvage->report, "rebuild: log entries %" PRIu64 " to %" PRIu64 " are lost",
                     last + 1, next - 1);
    }
}

/* Of entries with one index the one appended last counts. */
static int apply_all(struct bp_salvage *salvage, struct bp_error *err) {
    uint8_t *payload = malloc(BP_GROUP_MAX);
    uint64_t last = salvage->from;
    if (payload == NULL) {
        return bp_salvage_no_memory(err);
    }
    if (salvage->n_entries > 1) {
        qsort(salvage->entries, salvage->n_entries, sizeof *salvage->entries, by_index);
    }
    int code = BP_OK;
    for (uint64_t i = 0; i < salvage->n_entries && code == BP_OK; i++) {
        const struct bp_salvage_entry *found = &salvage->entries[i];
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
        } else if (salvage->failed_entries++ < BP_SALVAGE_LINES_MAX) {
            bp_fsck_line(salvage->report, "rebuild: log entry %" PRIu64 " could not be applied: %s",
                         found->index, why.message);
        }
    }
    free(payload);
    return code;
}

/* ---- all of it ------------------------------------------------------------------------------ */

static void report_result(const struct bp_salvage *salvage, const char *dir) {
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

static int run(struct bp_salvage *salvage, const uint8_t store_id[16], const uint64_t *checkpoint,
               const struct bp_surveys *surveys, const char *rebuild_dir, struct bp_error *err) {
    int code = checkpoint != NULL ? load_checkpoint(salvage, *checkpoint, err) : BP_OK;
    for (uint32_t i = 0; i < surveys->n && code == BP_OK; i++) {
        code = read_segment(salvage, store_id, &surveys->list[i], err);
    }
    code = code != BP_OK ? code : apply_all(salvage, err);
    code = code != BP_OK ? code : bp_salvage_export_state(salvage, err);
    code = code != BP_OK ? code : bp_salvage_export_keys(salvage, err);
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
    struct bp_salvage *salvage = calloc(1, sizeof *salvage);
    struct bp_overlay *overlay = NULL;
    struct bp_options options = {.dir = rebuild_dir};
    if (salvage == NULL) {
        return bp_salvage_no_memory(err);
    }
    salvage->dir = dir;
    salvage->report = report;
    salvage->value = malloc(BP_VALUE_MAX);
    int code = salvage->value == NULL ? bp_salvage_no_memory(err)
                                      : bp_overlay_new(disk, dir, &overlay, err);
    if (code == BP_OK) {
        salvage->disk = bp_overlay_disk(overlay);
        code = salvage->disk == NULL
                   ? bp_salvage_no_memory(err)
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

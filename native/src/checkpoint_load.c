/*
 * Opening a store from its checkpoints.
 *
 *   *.ckpt, newest first
 *        verify every byte -> settled segments it names open? log segments long enough?
 *                               |no                    |yes
 *                               v                      v
 *                           the one before it,       load; the next older one is kept beside it
 *                           none left: corruption, unless the log
 *                           reaches back to entry 1 (store.c)
 *
 *   loaded   leases, request ids, every version; the state hash must come out as it was at the cut
 *   later    bp_clean_attach, once the log is open, gives every segment its live bytes and removes
 *            what no kept checkpoint names
 *
 * Nothing on disk changes here: a directory that cannot be opened stays as it was found. A file
 * passes verification before anything of it is loaded, so falling back never has to undo. A file
 * that verifies and then does not load is not a torn one: that is an error.
 */
#include "checkpoint.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "keeper.h"
#include "store.h"

/* ---- is it usable? --------------------------------------------------------------------------- */

static int unusable(const char *path, const char *what, struct bp_error *err) {
    size_t n = strlen(path), shown = n < 120 ? n : 120;
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT, "%s: %s; run `bedplate fsck`",
                   path + (n - shown), what);
}

/* A log segment that versions lie in: the log itself opens it, here only its length can be told. */
static int check_log_segment(struct bp_store *store, const struct bp_ckpt_segment *named,
                             const char *path, struct bp_error *err) {
    char file[BP_PATH_MAX];
    uint64_t size = 0;
    bp_segment_path(store->segments, named->id, BP_SEGMENT_LOG, false, file, sizeof file);
    int fd = bp_disk_open(store->disk, BP_SITE_NONE, file, BP_O_READ);
    int rc = fd < 0 ? fd : bp_disk_size(store->disk, fd, &size);
    if (fd >= 0) {
        bp_disk_close(store->disk, fd);
    }
    if (rc < 0 && rc != -ENOENT) {
        return bp_fail_io(err, rc, "cannot open log segment %08" PRIx32, named->id);
    }
    return rc == 0 && size >= named->used
               ? BP_OK
               : unusable(path, "names a log segment that is missing or too short", err);
}

static int open_settled(struct bp_store *store, const struct bp_ckpt_segment *named,
                        const char *path, struct bp_error *err) {
    struct bp_segment *segment = bp_segments_find(store->segments, named->id);
    if (segment != NULL) {
        return BP_OK; /* the newer checkpoint names it too, and knows more of it */
    }
    int code = bp_segment_open(store->segments, named->id, BP_SEGMENT_SETTLED, store->store_id,
                               &segment, err);
    if (code != BP_OK) {
        return code;
    }
    if (segment->size < named->used) {
        bp_segments_remove(store->segments, named->id);
        return unusable(path, "names a settled segment that is too short", err);
    }
    segment->used = named->used;
    segment->value_bytes = named->value_bytes;
    segment->sealed = true;
    return BP_OK;
}

static void close_settled(struct bp_store *store, const struct bp_ckpt_summary *summary,
                          uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (summary->segments[i].kind == BP_SEGMENT_SETTLED) {
            bp_segments_remove(store->segments, summary->segments[i].id);
        }
    }
}

/*
 * Opens what it names. `fresh`: on failure the settled segments it opened are closed again (no
 * other checkpoint opened any).
 */
static int open_named(struct bp_store *store, const struct bp_ckpt_summary *summary,
                      const char *path, bool fresh, struct bp_error *err) {
    bp_segments_reserve_id(store->segments, summary->meta.start.segment);
    for (uint32_t i = 0; i < summary->n_segments; i++) {
        const struct bp_ckpt_segment *named = &summary->segments[i];
        bp_segments_reserve_id(store->segments, named->id);
        int code = named->kind == BP_SEGMENT_LOG ? check_log_segment(store, named, path, err)
                                                 : open_settled(store, named, path, err);
        if (code != BP_OK) {
            close_settled(store, summary, fresh ? i : 0);
            return code;
        }
    }
    return BP_OK;
}

static int check_identity(const struct bp_store *store, const struct bp_ckpt_summary *summary,
                          uint64_t number, const char *path, struct bp_error *err) {
    if (memcmp(summary->header.store_id, store->store_id, sizeof store->store_id) != 0) {
        return unusable(path, "belongs to another store", err);
    }
    return summary->header.number == number ? BP_OK : unusable(path, "was renamed", err);
}

/* The newest one gets every byte read; of an older one only what keeping it takes. */
static int prepare(struct bp_store *store, uint64_t number, bool newest,
                   struct bp_ckpt_summary *summary, struct bp_error *err) {
    char path[BP_CKPT_PATH_MAX];
    bp_ckpt_path(store->dir, number, false, path);
    int code = newest ? bp_ckpt_verify(store->disk, path, BP_SITE_CHECKPOINT_READ, summary, err)
                      : bp_ckpt_peek(store->disk, path, BP_SITE_CHECKPOINT_READ, summary, err);
    if (code != BP_OK) {
        return code;
    }
    code = check_identity(store, summary, number, path, err);
    code = code == BP_OK ? open_named(store, summary, path, newest, err) : code;
    if (code != BP_OK) {
        bp_ckpt_summary_free(summary);
    }
    return code;
}

/*
 * Damage and unreadable files lead to the one before; a newer format or no memory do not get better
 * there.
 */
static bool may_fall_back(const struct bp_error *err) {
    return err->reason != BP_REASON_FORMAT_UNSUPPORTED && err->reason != BP_REASON_OUT_OF_MEMORY;
}

/* ---- loading --------------------------------------------------------------------------------- */

struct load {
    struct bp_store *store;
    const struct bp_ckpt_summary *summary;
    struct bp_ckpt_file file;
    struct bp_ckpt_version_reader reader;
    uint64_t *live; /* bytes, by position in summary->segments */
    uint32_t hint;
    uint64_t keys, versions, now_ns;
};

static int malformed(const struct load *load, const char *what, struct bp_error *err) {
    return bp_ckpt_file_corrupt(&load->file, load->file.offset, what, err);
}

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "no memory to load the checkpoint");
}

static int load_leases(struct load *load, struct bp_slice payload, struct bp_error *err) {
    struct bp_leases *leases = load->store->leases;
    struct bp_lease_record lease;
    int got;
    while ((got = bp_ckpt_lease_next(&payload, &lease)) > 0) {
        if (bp_leases_exists(leases, lease.id)) {
            return malformed(load, "a lease twice", err);
        }
        if (bp_leases_grant(leases, lease.id, lease.ttl_ms, load->now_ns) != 0) {
            return no_memory(err);
        }
    }
    return got == 0 ? BP_OK : malformed(load, "a malformed lease", err);
}

static int load_request_ids(struct load *load, struct bp_slice payload, struct bp_error *err) {
    struct bp_request_ids *table = load->store->request_ids;
    struct bp_request_id_record record;
    int got;
    while ((got = bp_ckpt_request_id_next(&payload, &record)) > 0) {
        struct bp_slice id = bp_slice(record.id, record.id_size);
        if (bp_request_ids_find(table, id) != NULL) {
            return malformed(load, "a request id twice", err);
        }
        struct bp_outcome outcome = {.revision = record.revision,
                                     .deleted = record.deleted,
                                     .lease = record.lease,
                                     .ttl_ms = record.ttl_ms,
                                     .succeeded = record.succeeded != 0};
        bp_request_ids_add(table, id, record.fingerprint, &outcome);
    }
    return got == 0 ? BP_OK : malformed(load, "a malformed request id", err);
}

/* The position of `id` in the checkpoint's list of segments; n_segments when it is not there. */
static uint32_t segment_of(struct load *load, uint32_t id) {
    const struct bp_ckpt_segment *segments = load->summary->segments;
    uint32_t low = 0, high = load->summary->n_segments;
    if (load->hint < high && segments[load->hint].id == id) {
        return load->hint;
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (segments[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == load->summary->n_segments || segments[low].id != id) {
        return load->summary->n_segments;
    }
    load->hint = low;
    return low;
}

/* Every value lies in a segment that the file lists, and within what it lists of it. */
static bool count_live(struct load *load) {
    for (uint32_t i = 0; i < load->reader.n; i++) {
        const struct bp_value_ref *value = &load->reader.versions[i].value;
        if (value->size == 0) {
            continue;
        }
        uint32_t at = segment_of(load, value->at.segment);
        if (at == load->summary->n_segments ||
            value->at.offset + value->size > load->summary->segments[at].used) {
            return false;
        }
        load->live[at] += value->size;
    }
    return true;
}

static int load_versions(struct load *load, struct bp_slice payload, struct bp_error *err) {
    struct bp_ckpt_version_reader *reader = &load->reader;
    const uint64_t newest = load->summary->meta.next_revision - 1;
    int got;
    bp_ckpt_version_reader_aim(reader, payload);
    while ((got = bp_ckpt_version_next(reader)) > 0) {
        if (reader->versions[0].revision > newest || !count_live(load)) {
            return malformed(load, "a version that cannot be", err);
        }
        int code = bp_index_load(load->store->index, bp_slice(reader->key, reader->key_size),
                                 reader->versions, reader->n, err);
        if (code != BP_OK) {
            return code;
        }
        load->keys++;
        load->versions += reader->n;
    }
    if (got == -2) {
        return no_memory(err);
    }
    return got == 0 ? BP_OK : malformed(load, "a malformed version", err);
}

static int load_block(struct load *load, const struct bp_ckpt_block *block, struct bp_error *err) {
    switch (block->section) {
    case BP_CKPT_LEASES:
        return load_leases(load, block->payload, err);
    case BP_CKPT_REQUEST_IDS:
        return load_request_ids(load, block->payload, err);
    case BP_CKPT_VERSIONS:
        return load_versions(load, block->payload, err);
    default: /* the rest was read when the file was verified */
        return BP_OK;
    }
}

static int load_blocks(struct load *load, struct bp_error *err) {
    if (bp_request_ids_resize(load->store->request_ids,
                              load->summary->meta.system.request_ids_max) != 0) {
        return no_memory(err);
    }
    for (uint64_t i = 0; i < load->summary->totals.blocks; i++) {
        struct bp_ckpt_block block;
        int code = bp_ckpt_file_next(&load->file, &block, err);
        code = code == BP_OK ? load_block(load, &block, err) : code;
        if (code != BP_OK) {
            return code;
        }
    }
    const struct bp_ckpt_totals *totals = &load->summary->totals;
    bool all = load->keys == totals->keys && load->versions == totals->versions;
    return all ? BP_OK : malformed(load, "other totals than its trailer says", err);
}

/* What the index came to is what it was when the file was written. */
static int finish_index(struct load *load, struct bp_error *err) {
    const struct bp_ckpt_meta *meta = &load->summary->meta;
    uint64_t hash[2];
    int code = bp_index_load_finish(load->store->index, meta->compaction_revision, err);
    if (code != BP_OK) {
        return code;
    }
    bp_index_state_hash(load->store->index, hash);
    bool same = hash[0] == meta->state_hash[0] && hash[1] == meta->state_hash[1];
    return same ? BP_OK : malformed(load, "a state whose hash differs from the one recorded", err);
}

static int note_live(struct load *load, struct bp_error *err) {
    for (uint32_t i = 0; i < load->summary->n_segments; i++) {
        if (bp_clean_note_live(load->store, load->summary->segments[i].id, load->live[i]) != 0) {
            return no_memory(err);
        }
    }
    return BP_OK;
}

static void take_meta(struct bp_store *store, const struct bp_ckpt_summary *summary) {
    const struct bp_ckpt_meta *meta = &summary->meta;
    store->system = meta->system;
    store->member_id = store->member_id != 0 ? store->member_id : meta->member_id;
    store->applied_index = meta->applied_index;
    store->applied_term = meta->applied_term;
    store->next_revision = meta->next_revision;
    store->compaction_revision = meta->compaction_revision;
    store->applied_end = meta->start;
    store->applied_sequence = meta->start_sequence;
    store->compaction_hash[0] = meta->compaction_hash[0];
    store->compaction_hash[1] = meta->compaction_hash[1];
    store->compaction_hash_index = meta->compaction_hash_index;
    store->recovery_checkpoint_keys = summary->totals.keys;
}

static int load_state(struct bp_store *store, uint64_t number,
                      const struct bp_ckpt_summary *summary, struct bp_error *err) {
    char path[BP_CKPT_PATH_MAX];
    bp_ckpt_path(store->dir, number, false, path);
    struct load *load =
        calloc(1, sizeof *load); /* a key's bytes are too much for the stack of a small thread */
    uint64_t *live = calloc((size_t)summary->n_segments + 1, sizeof *live);
    if (load == NULL || live == NULL) {
        free(load);
        free(live);
        return no_memory(err);
    }
    load->store = store;
    load->summary = summary;
    load->live = live;
    load->now_ns = bp_disk_boot_ns(store->disk);
    int code = bp_ckpt_file_open(&load->file, store->disk, path, BP_SITE_CHECKPOINT_READ, err);
    if (code == BP_OK) {
        code = load_blocks(load, err);
        code = code == BP_OK ? finish_index(load, err) : code;
        code = code == BP_OK ? note_live(load, err) : code;
        bp_ckpt_file_close(&load->file);
    }
    if (code == BP_OK) {
        take_meta(store, summary);
    }
    bp_ckpt_version_reader_free(&load->reader);
    free(live);
    free(load);
    return code;
}

/* ---- which are kept -------------------------------------------------------------------------- */

static int keep(struct bp_store *store, const struct bp_ckpt_summary *summary,
                struct bp_error *err) {
    struct bp_keeper *keeper = &store->keeper;
    assert(keeper->n_checkpoints < 2);
    uint32_t *ids = malloc(((size_t)summary->n_segments + 1) * sizeof *ids);
    if (ids == NULL) {
        return no_memory(err);
    }
    for (uint32_t i = 0; i < summary->n_segments; i++) {
        ids[i] = summary->segments[i].id;
    }
    const struct bp_ckpt_meta *meta = &summary->meta;
    uint64_t now = bp_disk_boot_ns(store->disk);
    keeper->checkpoints[keeper->n_checkpoints++] =
        (struct bp_checkpoint_info){.number = summary->header.number,
                                    .index = meta->applied_index,
                                    .revision = meta->next_revision - 1,
                                    .bytes = summary->totals.file_size,
                                    .made_ns = now,
                                    .start = meta->start,
                                    .segments = ids,
                                    .n_segments = summary->n_segments};
    if (keeper->n_checkpoints == 1) {
        atomic_store(&keeper->checkpoint_index, meta->applied_index);
        atomic_store(&keeper->checkpoint_bytes, summary->totals.file_size);
        atomic_store(&keeper->checkpoint_ns, now);
    }
    return BP_OK;
}

/* The newest one that is usable into *summary, its position into *at. */
static int choose(struct bp_store *store, const uint64_t *numbers, uint32_t n, uint32_t *at,
                  struct bp_ckpt_summary *summary, struct bp_error *err) {
    struct bp_error first = {0};
    for (*at = 0; *at < n; (*at)++) {
        struct bp_error why = {0};
        int code = prepare(store, numbers[*at], true, summary, &why);
        if (code == BP_OK) {
            return BP_OK;
        }
        if (!may_fall_back(&why)) {
            *err = why;
            return code;
        }
        atomic_fetch_add(&store->counters.checkpoint_failures, 1);
        first = first.code == 0 ? why : first;
    }
    /* The error of the newest one says the most. */
    *err = first;
    return first.reason == BP_REASON_STORE_CORRUPT
               ? first.code
               : bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                         "no checkpoint can be read: %.200s", first.message);
}

/* The next older one that could stand in, if there is any. */
static int keep_older(struct bp_store *store, const uint64_t *numbers, uint32_t n, uint64_t index,
                      struct bp_error *err) {
    for (uint32_t i = 0; i < n; i++) {
        struct bp_ckpt_summary summary;
        struct bp_error ignored = {0};
        if (prepare(store, numbers[i], false, &summary, &ignored) != BP_OK) {
            continue;
        }
        int code = summary.meta.applied_index <= index ? keep(store, &summary, err) : BP_OK;
        bp_ckpt_summary_free(&summary);
        if (code != BP_OK || store->keeper.n_checkpoints == 2) {
            return code;
        }
    }
    return BP_OK;
}

static int load_from(struct bp_store *store, const uint64_t *numbers, uint32_t n,
                     struct bp_log_start *start, bool *found, struct bp_error *err) {
    struct bp_ckpt_summary summary = {0};
    uint32_t at = 0;
    int code = choose(store, numbers, n, &at, &summary, err);
    *found = code == BP_OK;
    code = code == BP_OK ? load_state(store, numbers[at], &summary, err) : code;
    code = code == BP_OK ? keep(store, &summary, err) : code;
    const struct bp_ckpt_meta *meta = &summary.meta;
    if (code == BP_OK && meta->start_sequence != BP_LOG_ANEW) {
        /* Those before an installed one are of a log that it replaced: the next one deletes them. */
        code = keep_older(store, numbers + at + 1, n - at - 1, meta->applied_index, err);
    }
    *start = (struct bp_log_start){.at = meta->start,
                                   .sequence = meta->start_sequence,
                                   .durable = meta->durable,
                                   .index = meta->applied_index,
                                   .term = meta->applied_term,
                                   .revision = meta->next_revision - 1,
                                   .hardstate = meta->hardstate};
    bp_ckpt_summary_free(&summary);
    return code;
}

int bp_checkpoint_load(struct bp_store *store, struct bp_log_start *start, bool *found,
                       struct bp_error *err) {
    uint64_t *numbers = NULL;
    uint32_t n = 0;
    *found = false;
    memset(start, 0, sizeof *start);
    int code = bp_ckpt_list(store->disk, store->dir, &numbers, &n, err);
    if (code == BP_OK && n > 0) {
        code = load_from(store, numbers, n, start, found, err);
    }
    free(numbers);
    return code;
}

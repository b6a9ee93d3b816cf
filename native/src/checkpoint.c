/*
 * Writing checkpoints (checkpoint.h draws the file).
 *
 *   under `apply`    copy META, leases, request ids; pin the compaction revision; writers wait for
 *                    this copy only
 *   then             walk the index between the compaction revision and the cut's revision, one
 *                    leaf's lock at a time, into blocks
 *                    .tmp -> sync every few MiB -> trailer -> sync -> rename -> sync directory
 *   then             the oldest of three goes, and whatever else has a checkpoint's name
 *
 * Why the walk sees the cut though writers go on: versions are never changed, only added above the
 * cut's revision (and left out here) or trimmed below the pinned one (and not wanted here). Places
 * change only by cleaning, which holds the same keeper.mutex.
 *
 * Invariants
 *   - The log is durable through the cut's index before the file gets its name (in interval mode
 *     that takes asking).
 *   - Of the files with a checkpoint's name the newest two are kept; a segment one of them names,
 *     or replay from it needs, stays.
 *   - A failed step discards this file and changes nothing else; the next attempt cuts anew.
 */
#include "checkpoint.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "crc32c.h"
#include "keeper.h"
#include "store.h"

#define SYNC_EVERY                                                                                 \
    (4u << 20)            /* dirty bytes: one large sync at the end would hold up the log's own */
#define REST_PERCENT 100u /* of the time the last piece took */
#define SYNC_WAIT_MS_MAX 10000u /* interval mode: for the log's sync */
#define CUT_ATTEMPTS 16u

/* ---- the cut --------------------------------------------------------------------------------- */

struct cut {
    struct bp_ckpt_meta meta;
    uint64_t log_bytes; /* appended since the last checkpoint */
    uint32_t pin;
    struct bp_lease_record *leases;
    uint64_t n_leases;
    struct bp_request_id_record *request_ids;
    uint64_t n_request_ids;
};

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "no memory for a checkpoint");
}

static void copy_meta(struct bp_store *store, struct cut *cut) {
    struct bp_ckpt_meta *meta = &cut->meta;
    *meta = (struct bp_ckpt_meta){
        .applied_index = store->applied_index,
        .applied_term = store->applied_term,
        .next_revision = store->next_revision,
        .compaction_revision = store->compaction_revision,
        .start = store->applied_end,
        .start_sequence = store->applied_sequence,
        .raft_compacted_index = store->applied_index,
        .hardstate = bp_log_hardstate(store->log),
        .member_id = store->member_id,
        .compaction_hash = {store->compaction_hash[0], store->compaction_hash[1]},
        .compaction_hash_index = store->compaction_hash_index,
        .system = store->system,
    };
    if (meta->hardstate.commit < meta->applied_index) {
        meta->hardstate.commit = meta->applied_index; /* what was applied was committed */
    }
    bp_index_state_hash(store->index, meta->state_hash);
    cut->log_bytes = atomic_load(&store->bytes_since_checkpoint);
}

static void copy_request_ids(const struct bp_store *store, struct cut *cut) {
    for (uint64_t i = 0; i < cut->n_request_ids; i++) {
        cut->request_ids[i] = *bp_request_ids_at(store->request_ids, i);
    }
}

/* The copy, in memory that was taken before. False: the request-id table has outgrown it. */
static bool cut_locked(struct bp_store *store, struct cut *cut, uint64_t capacity, int *code,
                       struct bp_error *err) {
    cut->n_request_ids = bp_request_ids_count(store->request_ids);
    if (cut->n_request_ids > capacity) {
        return false;
    }
    uint64_t pinned = store->compaction_revision > 0 ? store->compaction_revision : 1;
    *code = bp_pins_add(store, pinned, &cut->pin, err);
    if (*code != BP_OK) {
        return true;
    }
    copy_meta(store, cut);
    copy_request_ids(store, cut);
    cut->leases = bp_leases_snapshot(store->leases, &cut->n_leases);
    if (cut->leases == NULL && cut->n_leases > 0) {
        bp_pins_remove(store, cut->pin);
        *code = no_memory(err);
    }
    return true;
}

static int take_cut(struct bp_store *store, struct cut *cut, struct bp_error *err) {
    *cut = (struct cut){0};
    uint64_t capacity = 0;
    for (uint32_t attempt = 0; attempt < CUT_ATTEMPTS; attempt++) {
        int code = BP_OK;
        pthread_mutex_lock(&store->apply);
        bool done = cut_locked(store, cut, capacity, &code, err);
        pthread_mutex_unlock(&store->apply);
        if (done) {
            if (code != BP_OK) {
                free(cut->request_ids);
            }
            return code;
        }
        free(cut->request_ids); /* room for what may come until the next attempt */
        capacity = cut->n_request_ids + cut->n_request_ids / 4 + 1024;
        cut->request_ids = malloc(capacity * sizeof *cut->request_ids);
        if (cut->request_ids == NULL) {
            return no_memory(err);
        }
    }
    free(cut->request_ids);
    return bp_fail(err, BP_UNAVAILABLE, BP_REASON_OUT_OF_MEMORY,
                   "the request-id table grows too fast to be copied");
}

static void drop_cut(struct bp_store *store, struct cut *cut) {
    bp_pins_remove(store, cut->pin);
    free(cut->leases);
    free(cut->request_ids);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

struct writer {
    struct bp_store *store;
    int fd;
    uint64_t offset, synced; /* bytes written, bytes of them synced */
    uint64_t piece_began_ns;
    struct bp_buffer block; /* header's room, then the payload so far */
    uint32_t section;
    uint32_t number;
    struct bp_ckpt_totals totals;
    /* the walk */
    struct bp_ckpt_version_writer versions;
    struct bp_ckpt_segment *segments; /* ascending */
    uint32_t n_segments, segments_capacity, segment_hint;
};

enum walk_result { WALK_FULL = 1, WALK_NO_MEMORY = 2, WALK_UNKNOWN_SEGMENT = 3 };

static int write_failed(const struct writer *writer, int rc, struct bp_error *err) {
    return bp_fail_io(err, rc, "cannot write the checkpoint at offset %" PRIu64, writer->offset);
}

static int sync_piece(struct writer *writer, struct bp_error *err) {
    struct bp_store *store = writer->store;
    int rc = bp_disk_sync(store->disk, BP_SITE_CHECKPOINT_SYNC, writer->fd);
    if (rc < 0) {
        return bp_fail_io(err, rc, "cannot sync the checkpoint");
    }
    writer->synced = writer->offset;
    bool hurry = atomic_load_explicit(&store->disk_full, memory_order_relaxed);
    bp_keeper_breathe(store, bp_disk_boot_ns(store->disk) - writer->piece_began_ns,
                      hurry ? 0 : REST_PERCENT);
    writer->piece_began_ns = bp_disk_boot_ns(store->disk);
    return bp_keeper_stopping(store)
               ? bp_fail(err, BP_UNAVAILABLE, BP_REASON_STORE_CLOSED, "the store is closing")
               : BP_OK;
}

static void begin_block(struct writer *writer, uint32_t section) {
    writer->section = section;
    writer->block.size = 0;
    (void)bp_buffer_grow(&writer->block, BP_CKPT_BLOCK_HEADER);
    writer->versions.any = false;
}

static int end_block(struct writer *writer, struct bp_error *err) {
    struct bp_buffer *block = &writer->block;
    if (block->failed || block->size - BP_CKPT_BLOCK_HEADER > UINT32_MAX) {
        return no_memory(err);
    }
    uint32_t crc = bp_ckpt_block_finish(block->data, (uint32_t)(block->size - BP_CKPT_BLOCK_HEADER),
                                        writer->section, writer->number);
    int rc = bp_reserve_write(writer->store, BP_SITE_CHECKPOINT_WRITE, writer->fd, block->data,
                              block->size, writer->offset);
    if (rc < 0) {
        return write_failed(writer, rc, err);
    }
    uint8_t bytes[4];
    bp_put_u32(bytes, crc);
    writer->totals.chain = bp_crc32c(writer->totals.chain, bytes, sizeof bytes);
    writer->number++;
    writer->offset += block->size;
    return writer->offset - writer->synced >= SYNC_EVERY ? sync_piece(writer, err) : BP_OK;
}

/* Between records: starts the next block of the section when this one is full. */
static int next_record(struct writer *writer, struct bp_error *err) {
    if (writer->block.size < BP_CKPT_BLOCK) {
        return BP_OK;
    }
    int code = end_block(writer, err);
    begin_block(writer, writer->section);
    return code;
}

/* Ends a section's last block, if it holds anything. */
static int end_section(struct writer *writer, struct bp_error *err) {
    bool holds = writer->block.size > BP_CKPT_BLOCK_HEADER || writer->block.failed;
    return holds ? end_block(writer, err) : BP_OK;
}

/* ---- sections -------------------------------------------------------------------------------- */

static int write_head(struct writer *writer, const struct cut *cut, uint64_t number,
                      struct bp_error *err) {
    struct bp_ckpt_header header = {.number = number};
    memcpy(header.store_id, writer->store->store_id, sizeof header.store_id);
    begin_block(writer, BP_CKPT_HEADER);
    bp_ckpt_header_encode(&header, &writer->block);
    int code = end_block(writer, err);
    begin_block(writer, BP_CKPT_META);
    bp_ckpt_meta_encode(&cut->meta, &writer->block);
    return code == BP_OK ? end_block(writer, err) : code;
}

static int write_leases(struct writer *writer, const struct cut *cut, struct bp_error *err) {
    int code = BP_OK;
    begin_block(writer, BP_CKPT_LEASES);
    for (uint64_t i = 0; code == BP_OK && i < cut->n_leases; i++) {
        bp_ckpt_lease_encode(&cut->leases[i], &writer->block);
        code = next_record(writer, err);
    }
    writer->totals.leases = cut->n_leases;
    return code == BP_OK ? end_section(writer, err) : code;
}

static int write_request_ids(struct writer *writer, const struct cut *cut, struct bp_error *err) {
    int code = BP_OK;
    begin_block(writer, BP_CKPT_REQUEST_IDS);
    for (uint64_t i = 0; code == BP_OK && i < cut->n_request_ids; i++) {
        bp_ckpt_request_id_encode(&cut->request_ids[i], &writer->block);
        code = next_record(writer, err);
    }
    writer->totals.request_ids = cut->n_request_ids;
    return code == BP_OK ? end_section(writer, err) : code;
}

/* The slot of `id` among writer->segments, or where it belongs. */
static uint32_t segment_slot(const struct writer *writer, uint32_t id) {
    uint32_t low = 0, high = writer->n_segments;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (writer->segments[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static int add_segment(struct writer *writer, uint32_t slot, uint32_t id) {
    const struct bp_segment *segment = bp_segments_find(writer->store->segments, id);
    if (segment == NULL) {
        return WALK_UNKNOWN_SEGMENT;
    }
    if (writer->n_segments == writer->segments_capacity) {
        uint32_t capacity = writer->segments_capacity == 0 ? 64 : writer->segments_capacity * 2;
        struct bp_ckpt_segment *segments = realloc(writer->segments, capacity * sizeof *segments);
        if (segments == NULL) {
            return WALK_NO_MEMORY;
        }
        writer->segments = segments;
        writer->segments_capacity = capacity;
    }
    struct bp_ckpt_segment *at = writer->segments + slot;
    memmove(at + 1, at, (writer->n_segments - slot) * sizeof *at);
    *at = (struct bp_ckpt_segment){
        .id = id, .kind = (uint32_t)segment->header.kind, .used = BP_SEGMENT_HEADER};
    if (segment->header.kind ==
        BP_SEGMENT_SETTLED) { /* the keeper's own: nobody else writes these fields */
        at->used = segment->used;
        at->value_bytes = segment->value_bytes;
    }
    writer->n_segments++;
    return 0;
}

static int note_place(struct writer *writer, const struct bp_value_ref *value) {
    uint32_t slot = writer->segment_hint;
    if (slot >= writer->n_segments || writer->segments[slot].id != value->at.segment) {
        slot = segment_slot(writer, value->at.segment);
        if (slot == writer->n_segments || writer->segments[slot].id != value->at.segment) {
            int result = add_segment(writer, slot, value->at.segment);
            if (result != 0) {
                return result;
            }
        }
        writer->segment_hint = slot;
    }
    struct bp_ckpt_segment *segment = &writer->segments[slot];
    uint32_t end = value->at.offset + value->size;
    if (segment->used < end) {
        assert(segment->kind ==
               BP_SEGMENT_LOG); /* nothing refers to a settled record that is not synced */
        segment->used = end;
    }
    return 0;
}

/* Under a leaf's lock: copies only. Stops before a new key when the block is full. */
static int visit_version(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct writer *writer = arg;
    const struct bp_ckpt_version_writer *last = &writer->versions;
    if (writer->block.size >= BP_CKPT_BLOCK &&
        !bp_slice_equal(key, bp_slice(last->key, last->key_size))) {
        return WALK_FULL;
    }
    bool new_key = bp_ckpt_version_encode(&writer->versions, key, version, &writer->block);
    writer->totals.keys += new_key;
    writer->totals.versions++;
    return version->value.size > 0 ? note_place(writer, &version->value) : 0;
}

static int walk_failed(int result, struct bp_error *err) {
    return result == WALK_NO_MEMORY ? no_memory(err)
                                    : bp_fail(err, BP_INTERNAL, BP_REASON_STORE_CORRUPT,
                                              "the index names a segment that is not known");
}

static int write_versions(struct writer *writer, const struct cut *cut, struct bp_error *err) {
    uint8_t next[BP_STORED_KEY_MAX + 1];
    struct bp_slice start = bp_slice(next, 0);
    int result = WALK_FULL;
    begin_block(writer, BP_CKPT_VERSIONS);
    while (result == WALK_FULL) {
        result = bp_index_scan_versions(writer->store->index, start, cut->meta.compaction_revision,
                                        cut->meta.next_revision - 1, visit_version, writer);
        if (result == WALK_FULL) { /* go on with the first key above the last one */
            memcpy(next, writer->versions.key, writer->versions.key_size);
            next[writer->versions.key_size] = 0;
            start = bp_slice(next, writer->versions.key_size + 1);
            int code = next_record(writer, err);
            if (code != BP_OK) {
                return code;
            }
        }
    }
    return result == 0 ? end_section(writer, err) : walk_failed(result, err);
}

static int write_segments(struct writer *writer, struct bp_error *err) {
    int code = BP_OK;
    begin_block(writer, BP_CKPT_SEGMENTS);
    writer->totals.segments = writer->n_segments;
    writer->totals.segments_at = writer->n_segments > 0 ? writer->offset : 0;
    for (uint32_t i = 0; code == BP_OK && i < writer->n_segments; i++) {
        bp_ckpt_segment_encode(&writer->segments[i], &writer->block);
        code = next_record(writer, err);
    }
    return code == BP_OK ? end_section(writer, err) : code;
}

static int write_trailer(struct writer *writer, struct bp_error *err) {
    writer->totals.blocks = writer->number;
    writer->totals.file_size = writer->offset + BP_CKPT_BLOCK_HEADER + BP_CKPT_TRAILER_SIZE;
    begin_block(writer, BP_CKPT_TRAILER);
    bp_ckpt_trailer_encode(&writer->totals, &writer->block);
    return end_block(writer, err);
}

/* ---- the file -------------------------------------------------------------------------------- */

/*
 * In interval mode the log may be behind: nothing may name values, or a replay start, that a power
 * cut takes back.
 */
static int wait_for_log(struct bp_store *store, const struct cut *cut, struct bp_error *err) {
    if (store->options.interval_ms == 0) {
        return BP_OK; /* applied <= durable, always */
    }
    for (uint32_t ms = 0; ms < SYNC_WAIT_MS_MAX && !atomic_load(&store->poisoned); ms++) {
        if (atomic_load(&store->durable) >= cut->meta.applied_index) {
            return BP_OK;
        }
        bp_driver_chore(store, false, true);
        if (store->options.manual) {
            (void)bp_step_drive(store);
        } else {
            struct timespec pause = {.tv_nsec = 1000000};
            (void)nanosleep(&pause, NULL);
        }
    }
    return bp_fail(err, BP_UNAVAILABLE, BP_REASON_IO_FAILED,
                   "the log is not synced through index %" PRIu64, cut->meta.applied_index);
}

static int write_sections(struct writer *writer, const struct cut *cut, uint64_t number,
                          struct bp_error *err) {
    int code = write_head(writer, cut, number, err);
    code = code == BP_OK ? write_leases(writer, cut, err) : code;
    code = code == BP_OK ? write_request_ids(writer, cut, err) : code;
    code = code == BP_OK ? write_versions(writer, cut, err) : code;
    code = code == BP_OK ? write_segments(writer, err) : code;
    code = code == BP_OK ? write_trailer(writer, err) : code;
    return code == BP_OK && writer->synced < writer->offset ? sync_piece(writer, err) : code;
}

/*
 * The final name. A file whose name may not last is taken away again: what it names is not kept for
 * it.
 */
static int publish(struct bp_store *store, const char *tmp, uint64_t number, struct bp_error *err) {
    char path[BP_CKPT_PATH_MAX];
    bp_ckpt_path(store->dir, number, false, path);
    int rc = bp_disk_rename(store->disk, BP_SITE_CHECKPOINT_RENAME, tmp, path);
    if (rc < 0) {
        return bp_fail_io(err, rc, "cannot rename the checkpoint");
    }
    rc = bp_disk_sync_dir(store->disk, BP_SITE_CHECKPOINT_DIR_SYNC, store->dir);
    if (rc < 0) {
        (void)bp_disk_unlink(store->disk, BP_SITE_CHECKPOINT_UNLINK, path);
        return bp_fail_io(err, rc, "cannot sync the directory of the checkpoint");
    }
    return BP_OK;
}

static int write_file(struct bp_store *store, const struct cut *cut, struct writer *writer,
                      uint64_t number, struct bp_error *err) {
    char tmp[BP_CKPT_PATH_MAX];
    bp_ckpt_path(store->dir, number, true, tmp);
    *writer = (struct writer){.store = store, .piece_began_ns = bp_disk_boot_ns(store->disk)};
    (void)bp_disk_unlink(store->disk, BP_SITE_NONE,
                         tmp); /* one that an earlier failure could not take away */
    writer->fd = bp_disk_open(store->disk, BP_SITE_CHECKPOINT_CREATE, tmp,
                              BP_O_WRITE | BP_O_CREATE | BP_O_EXCL);
    if (writer->fd < 0) {
        return bp_fail_io(err, writer->fd, "cannot create the checkpoint");
    }
    int code = write_sections(writer, cut, number, err);
    bp_disk_close(store->disk, writer->fd);
    code = code == BP_OK ? wait_for_log(store, cut, err) : code;
    code = code == BP_OK ? publish(store, tmp, number, err) : code;
    if (code != BP_OK) {
        (void)bp_disk_unlink(store->disk, BP_SITE_CHECKPOINT_UNLINK, tmp);
    }
    bp_buffer_free(&writer->block);
    return code;
}

/* ---- keeping two ----------------------------------------------------------------------------- */

static bool is_kept(const struct bp_keeper *keeper, uint64_t number) {
    for (uint32_t i = 0; i < keeper->n_checkpoints; i++) {
        if (keeper->checkpoints[i].number == number) {
            return true;
        }
    }
    return false;
}

/* Best effort: a file left over only takes space, and the next checkpoint tries again. */
static void unlink_others(struct bp_store *store) {
    uint64_t *numbers;
    uint32_t n;
    if (bp_ckpt_list(store->disk, store->dir, &numbers, &n, NULL) != BP_OK) {
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!is_kept(&store->keeper, numbers[i])) {
            char path[BP_CKPT_PATH_MAX];
            bp_ckpt_path(store->dir, numbers[i], false, path);
            (void)bp_disk_unlink(store->disk, BP_SITE_CHECKPOINT_UNLINK, path);
        }
    }
    free(numbers);
}

static void keep(struct bp_store *store, const struct cut *cut, const struct writer *writer,
                 uint64_t number, uint32_t *ids) {
    struct bp_keeper *keeper = &store->keeper;
    for (uint32_t i = 0; i < writer->n_segments; i++) {
        ids[i] = writer->segments[i].id;
    }
    if (keeper->n_checkpoints == 2) {
        free(keeper->checkpoints[1].segments);
    }
    keeper->checkpoints[1] = keeper->checkpoints[0];
    keeper->checkpoints[0] = (struct bp_checkpoint_info){.number = number,
                                                         .index = cut->meta.applied_index,
                                                         .revision = cut->meta.next_revision - 1,
                                                         .bytes = writer->offset,
                                                         .made_ns = bp_disk_boot_ns(store->disk),
                                                         .start = cut->meta.start,
                                                         .segments = ids,
                                                         .n_segments = writer->n_segments};
    keeper->n_checkpoints = keeper->n_checkpoints == 0 ? 1 : 2;
    atomic_store(&keeper->checkpoint_index, cut->meta.applied_index);
    atomic_store(&keeper->checkpoint_bytes, writer->offset);
    atomic_store(&keeper->checkpoint_ns, keeper->checkpoints[0].made_ns);
    atomic_fetch_sub(&store->bytes_since_checkpoint, cut->log_bytes);
    unlink_others(store);
}

static uint64_t next_number(const struct bp_keeper *keeper, uint64_t applied_index) {
    uint64_t above = keeper->n_checkpoints > 0 ? keeper->checkpoints[0].number + 1 : 0;
    return above > applied_index ? above : applied_index;
}

static int write_and_keep(struct bp_store *store, const struct cut *cut, struct bp_error *err) {
    struct writer writer;
    uint64_t number = next_number(&store->keeper, cut->meta.applied_index);
    int code = write_file(store, cut, &writer, number, err);
    if (code == BP_OK) {
        uint32_t *ids = malloc((writer.n_segments + 1) * sizeof *ids);
        if (ids != NULL) {
            keep(store, cut, &writer, number, ids);
        } else { /* without knowing what it names it cannot be kept */
            char path[BP_CKPT_PATH_MAX];
            bp_ckpt_path(store->dir, number, false, path);
            (void)bp_disk_unlink(store->disk, BP_SITE_CHECKPOINT_UNLINK, path);
            code = no_memory(err);
        }
    }
    free(writer.segments);
    return code;
}

int bp_checkpoint_write(struct bp_store *store, struct bp_error *err) {
    if (atomic_load(&store->poisoned) || atomic_load(&store->damaged)) {
        /* An entry may have been applied in part, and the log is no place to replay from. */
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_LOG_POISONED,
                       "no checkpoint is made of a store that has stopped");
    }
    struct cut cut;
    int code = take_cut(store, &cut, err);
    if (code == BP_OK) {
        code = write_and_keep(store, &cut, err);
        drop_cut(store, &cut);
    }
    atomic_fetch_add(
        code == BP_OK ? &store->counters.checkpoints : &store->counters.checkpoint_failures, 1);
    return code;
}

/* ---- asked by others ------------------------------------------------------------------------- */

bool bp_checkpoint_due(const struct bp_store *store) {
    const struct bp_keeper *keeper = &store->keeper;
    uint64_t newest = keeper->n_checkpoints > 0 ? keeper->checkpoints[0].bytes : 0;
    uint64_t limit =
        store->options.checkpoint_bytes > newest ? store->options.checkpoint_bytes : newest;
    return atomic_load_explicit(&store->bytes_since_checkpoint, memory_order_relaxed) > limit ||
           bp_clean_waits(store);
}

uint32_t bp_checkpoint_replay_segment(const struct bp_store *store) {
    /*
     * With fewer than two, the log itself is what stands in for the one that may turn out damaged.
     */
    const struct bp_keeper *keeper = &store->keeper;
    return keeper->n_checkpoints < 2 ? 0 : keeper->checkpoints[1].start.segment;
}

static bool names(const struct bp_checkpoint_info *checkpoint, uint32_t segment) {
    uint32_t low = 0, high = checkpoint->n_segments;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (checkpoint->segments[middle] < segment) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < checkpoint->n_segments && checkpoint->segments[low] == segment;
}

bool bp_checkpoint_names(const struct bp_store *store, uint32_t segment) {
    const struct bp_keeper *keeper = &store->keeper;
    for (uint32_t i = 0; i < keeper->n_checkpoints; i++) {
        if (names(&keeper->checkpoints[i], segment)) {
            return true;
        }
    }
    return false;
}

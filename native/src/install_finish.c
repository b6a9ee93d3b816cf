/*
 * The end of an install: from files that nothing names to the state of the store, by one rename.
 *
 *   own segments synced
 *   keeper.mutex: no checkpoint, no cleaning meanwhile
 *     log retired: its end is known, and no segment comes behind it
 *     target  [HEADER][META]..........[SEGMENTS][TRAILER]  synced
 *     rename -> sync of the directory
 *
 * Invariants
 *   - A failure before the rename takes the retirement back: the store goes on as if nothing had
 *     been. From a rename of which nobody knows whether it lasts, the store stays retired: whichever
 *     state it opens to, nothing was acknowledged in between.
 *   - The number of the new checkpoint is above all others there are.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "install_internal.h"

/* ---- what the checkpoint says ----------------------------------------------------------------- */

/* Of the newest log segment; the log is retired, so there will be no newer one. */
static struct bp_pos log_end(const struct bp_store *store) {
    struct bp_pos end = {0};
    const struct bp_segment *segment = bp_segments_next(store->segments, 0);
    for (; segment != NULL; segment = bp_segments_next(store->segments, segment->header.id)) {
        if (segment->header.kind == BP_SEGMENT_LOG) {
            end =
                (struct bp_pos){.segment = segment->header.id, .offset = bp_segment_used(segment)};
        }
    }
    return end;
}

static void fill_meta(const struct bp_install *install, uint64_t term, uint64_t vote,
                      struct bp_ckpt_meta *meta) {
    const struct bp_manifest_meta *from = &install->reader.meta;
    *meta = (struct bp_ckpt_meta){
        .applied_index = from->applied_index,
        .applied_term = from->applied_term,
        .next_revision = from->next_revision,
        .compaction_revision = from->compaction_revision,
        .start = log_end(install->store),
        .start_sequence = BP_LOG_ANEW,
        .raft_compacted_index = from->applied_index,
        /* Entries behind the index are not here, so a higher commit index would say nothing. */
        .hardstate = {.term = term, .vote = vote, .commit = from->applied_index},
        .member_id = install->store->member_id,
        .state_hash = {from->state_hash[0], from->state_hash[1]},
        .compaction_hash = {from->compaction_hash[0], from->compaction_hash[1]},
        .compaction_hash_index = from->compaction_hash_index,
        .system = from->system,
    };
}

/* Kinds, and what settled segments hold: the keeper's own fields, so keeper.mutex is held. */
static void describe_segment(const struct bp_segment *segment, struct bp_ckpt_segment *named) {
    named->id = segment->header.id;
    named->kind = (uint32_t)segment->header.kind;
    if (segment->header.kind == BP_SEGMENT_SETTLED) {
        named->used = segment->used;
        named->value_bytes = segment->value_bytes;
    }
}

static int write_segment(struct bp_install *install, const struct bp_ckpt_segment *named,
                         struct bp_error *err) {
    int code = bp_install_target_room(install, BP_CKPT_SEGMENTS, err);
    if (code == BP_OK) {
        bp_ckpt_segment_encode(named, &install->target.block);
        install->target.totals.segments++;
    }
    return code;
}

/* Those of the store and our own, ascending: two lists merged. */
static int write_segments(struct bp_install *install, struct bp_error *err) {
    struct bp_ckpt_totals *totals = &install->target.totals;
    const struct bp_segment *own = bp_segments_next(install->own, 0);
    uint32_t i = 0;
    int code = BP_OK;
    totals->segments = 0;
    totals->segments_at = install->target.file.size;
    while (code == BP_OK && (own != NULL || i < install->n_segments)) {
        struct bp_ckpt_segment named = {0};
        if (i < install->n_segments && install->segments[i].used == BP_SEGMENT_HEADER) {
            i++; /* held for a value that turned out damaged */
            continue;
        }
        if (own != NULL && (i == install->n_segments || own->header.id < install->segments[i].id)) {
            describe_segment(own, &named);
            own = bp_segments_next(install->own, own->header.id);
        } else {
            named = install->segments[i++];
            describe_segment(bp_segments_find(install->store->segments, named.id), &named);
        }
        code = write_segment(install, &named, err);
    }
    totals->segments_at = totals->segments == 0 ? 0 : totals->segments_at;
    return code == BP_OK ? bp_install_target_flush(install, err) : code;
}

/* One block at `offset`; *chain goes on. */
static int write_at(struct bp_install *install, struct bp_buffer *block, uint32_t section,
                    uint32_t number, uint64_t offset, uint32_t *chain, struct bp_error *err) {
    if (!bp_ckpt_block_end(block, section, number, chain)) {
        return bp_install_no_memory(err);
    }
    int rc = bp_disk_write(install->store->disk, BP_SITE_CHECKPOINT_WRITE, install->target.file.fd,
                           block->data, block->size, offset);
    return rc < 0 ? bp_install_write_failed(install, rc, "write a checkpoint", err) : BP_OK;
}

static int write_head(struct bp_install *install, struct bp_buffer *block,
                      const struct bp_ckpt_meta *meta, uint64_t number, struct bp_error *err) {
    struct bp_ckpt_header header = {.number = number};
    struct bp_ckpt_totals *totals = &install->target.totals;
    memcpy(header.store_id, install->store->store_id, sizeof header.store_id);
    totals->chain = 0;
    bp_ckpt_block_begin(block);
    bp_ckpt_header_encode(&header, block);
    int code = write_at(install, block, BP_CKPT_HEADER, 0, 0, &totals->chain, err);
    uint64_t offset = block->size;
    if (code != BP_OK) {
        return code;
    }
    bp_ckpt_block_begin(block);
    bp_ckpt_meta_encode(meta, block);
    return write_at(install, block, BP_CKPT_META, 1, offset, &totals->chain, err);
}

static int write_trailer(struct bp_install *install, struct bp_buffer *block,
                         struct bp_error *err) {
    struct bp_install_target *target = &install->target;
    struct bp_ckpt_totals *totals = &target->totals;
    uint32_t ignored = 0;
    for (uint32_t i = 0; i < target->n_crcs; i++) {
        uint8_t crc[4];
        bp_put_u32(crc, target->crcs[i]);
        totals->chain = bp_crc32c(totals->chain, crc, sizeof crc);
    }
    totals->blocks = target->n_crcs + 2;
    totals->file_size = target->file.size + BP_CKPT_BLOCK_HEADER + BP_CKPT_TRAILER_SIZE;
    bp_ckpt_block_begin(block);
    bp_ckpt_trailer_encode(totals, block);
    int code = write_at(install, block, BP_CKPT_TRAILER, target->n_crcs + 2, target->file.size,
                        &ignored, err);
    int rc = code == BP_OK ? bp_disk_truncate(install->store->disk, BP_SITE_CHECKPOINT_WRITE,
                                              target->file.fd, totals->file_size)
                           : 0;
    return rc < 0 ? bp_install_write_failed(install, rc, "write a checkpoint", err) : code;
}

static int write_target(struct bp_install *install, const struct bp_ckpt_meta *meta,
                        uint64_t number, struct bp_error *err) {
    struct bp_install_target *target = &install->target;
    const uint64_t size = target->file.size;
    const uint32_t n_crcs = target->n_crcs;
    struct bp_buffer block = {0};
    int code = write_segments(install, err);
    code = code == BP_OK ? write_head(install, &block, meta, number, err) : code;
    code = code == BP_OK ? write_trailer(install, &block, err) : code;
    code = code == BP_OK ? bp_install_target_sync(install, err) : code;
    bp_buffer_free(&block);
    if (code != BP_OK) { /* finish may be tried again */
        target->file.size = size;
        target->n_crcs = n_crcs;
        target->block.size = 0;
        target->ended = false;
    }
    return code;
}

/* ---- the name --------------------------------------------------------------------------------- */

static int choose_number(const struct bp_install *install, uint64_t *number, struct bp_error *err) {
    uint64_t *numbers = NULL;
    uint32_t n = 0;
    const struct bp_store *store = install->store;
    int code = bp_ckpt_list(store->disk, store->dir, &numbers, &n, err);
    *number = install->reader.meta.applied_index;
    if (code == BP_OK && n > 0 && numbers[0] >= *number) {
        *number = numbers[0] + 1;
    }
    free(numbers);
    return code;
}

/* *named: the file may have its final name. */
static int give_name(struct bp_install *install, uint64_t number, bool *named,
                     struct bp_error *err) {
    struct bp_store *store = install->store;
    char path[BP_CKPT_PATH_MAX];
    bp_ckpt_path(store->dir, number, false, path);
    int rc =
        bp_disk_rename(store->disk, BP_SITE_CHECKPOINT_RENAME, install->target.file.path, path);
    *named = rc != -ENOSPC && rc != -EDQUOT;
    if (rc < 0) {
        return bp_fail_io(err, rc, "cannot rename the checkpoint of an install");
    }
    rc = bp_disk_sync_dir(store->disk, BP_SITE_CHECKPOINT_DIR_SYNC, store->dir);
    return rc < 0 ? bp_fail_io(err, rc, "cannot sync the directory of an install") : BP_OK;
}

/* ---- finish ----------------------------------------------------------------------------------- */

/* A member never goes back behind what it has applied. Another cluster's state is no measure. */
static int check_index(const struct bp_install *install, struct bp_error *err) {
    struct bp_store *store = install->store;
    const struct bp_manifest_meta *meta = &install->reader.meta;
    pthread_mutex_lock(&store->apply);
    uint64_t applied = store->applied_index;
    bool same = memcmp(store->system.cluster_id, meta->system.cluster_id, 16) == 0;
    pthread_mutex_unlock(&store->apply);
    return same && meta->applied_index < applied
               ? bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_FIELD_INVALID,
                         "the snapshot ends at index %" PRIu64 ", and %" PRIu64
                         " is applied here already",
                         meta->applied_index, applied)
               : BP_OK;
}

static int check_term(const struct bp_install *install, uint64_t term, struct bp_error *err) {
    uint64_t known = atomic_load(&install->store->term),
             applied = install->reader.meta.applied_term;
    known = known > applied ? known : applied;
    return term < known ? bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "term",
                                        "term %" PRIu64 " is below term %" PRIu64
                                        ", which this member knows of",
                                        term, known)
                        : BP_OK;
}

/* keeper.mutex held. */
static int replace(struct bp_install *install, uint64_t term, uint64_t vote, struct bp_error *err) {
    struct bp_ckpt_meta meta;
    uint64_t number;
    bool named = false;
    bp_log_retire(install->store->log, false);
    int code = choose_number(install, &number, err);
    if (code == BP_OK) {
        fill_meta(install, term, vote, &meta);
        code = write_target(install, &meta, number, err);
    }
    code = code == BP_OK ? give_name(install, number, &named, err) : code;
    if (named) {
        install->stage = BP_INSTALL_DONE;
    } else {
        bp_log_retire(install->store->log, true);
    }
    return code;
}

int bp_install_finish(struct bp_install *install, uint64_t term, uint64_t vote,
                      struct bp_error *err) {
    struct bp_store *store = install->store;
    if (install->stage != BP_INSTALL_READY) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_MALFORMED_REQUEST,
                       "the snapshot is not complete");
    }
    int code = check_term(install, term, err);
    code = code == BP_OK ? bp_install_own_sync(install, err) : code;
    if (code != BP_OK) {
        return code;
    }
    pthread_mutex_lock(&store->keeper.mutex);
    code = check_index(install, err);
    code = code == BP_OK ? replace(install, term, vote, err) : code;
    pthread_mutex_unlock(&store->keeper.mutex);
    return code;
}

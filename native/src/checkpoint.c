/*
 * Writing checkpoints: the file, and which are kept.
 *
 *   checkpoint_cut.c      the cut, while writers wait
 *   checkpoint_writer.c   its bytes, while they go on
 *   here                  .tmp -> written and synced -> log synced -> rename -> sync directory
 *                         -> the oldest of three goes, and whatever else has a checkpoint's name
 *
 * Invariants
 *   - The log is durable through the cut's index before the file gets its name (in interval mode
 *     that takes asking).
 *   - Of the files with a checkpoint's name the newest two are kept; a segment one of them names,
 *     or replay from it needs, stays.
 *   - A failed step discards this file and changes nothing else; the next attempt cuts anew.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "checkpoint_internal.h"
#include "raft.h"

#define SYNC_WAIT_MS_MAX 10000u /* interval mode: for the log's sync */

/* ---- the file -------------------------------------------------------------------------------- */

/*
 * In interval mode the log may be behind: nothing may name values, or a replay start, that a power
 * cut takes back.
 */
static int wait_for_log(struct bp_store *store, const struct bp_ckpt_cut *cut,
                        struct bp_error *err) {
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

static int write_file(struct bp_store *store, const struct bp_ckpt_cut *cut,
                      struct bp_ckpt_writer *writer, uint64_t number, struct bp_error *err) {
    char tmp[BP_CKPT_PATH_MAX];
    bp_ckpt_path(store->dir, number, true, tmp);
    *writer =
        (struct bp_ckpt_writer){.store = store, .piece_began_ns = bp_disk_boot_ns(store->disk)};
    (void)bp_disk_unlink(store->disk, BP_SITE_NONE,
                         tmp); /* one that an earlier failure could not take away */
    writer->fd = bp_disk_open(store->disk, BP_SITE_CHECKPOINT_CREATE, tmp,
                              BP_O_WRITE | BP_O_CREATE | BP_O_EXCL);
    if (writer->fd < 0) {
        return bp_fail_io(err, writer->fd, "cannot create the checkpoint");
    }
    int code = bp_ckpt_write_sections(writer, cut, number, err);
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

static void keep(struct bp_store *store, const struct bp_ckpt_cut *cut,
                 const struct bp_ckpt_writer *writer, uint64_t number, uint32_t *ids) {
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

static int write_and_keep(struct bp_store *store, const struct bp_ckpt_cut *cut,
                          struct bp_error *err) {
    struct bp_ckpt_writer writer;
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
            code = bp_ckpt_no_memory(err);
        }
    }
    free(writer.segments);
    return code;
}

static bool is_empty(struct bp_store *store) {
    pthread_mutex_lock(&store->apply);
    bool empty = store->system.voters == 0;
    pthread_mutex_unlock(&store->apply);
    return empty;
}

int bp_checkpoint_write(struct bp_store *store, struct bp_error *err) {
    if (atomic_load(&store->poisoned) || atomic_load(&store->damaged)) {
        /* An entry may have been applied in part, and the log is no place to replay from. */
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_LOG_POISONED,
                       "no checkpoint is made of a store that has stopped");
    }
    if (store->log != NULL && bp_log_retired(store->log)) {
        /* It would be newer than the one that was installed, and hold less. */
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_STORE_CLOSED,
                       "the store was replaced by an installed snapshot; reopen it");
    }
    if (is_empty(store)) {
        return BP_OK; /* a member that joins has no state yet */
    }
    struct bp_ckpt_cut cut;
    int code = bp_ckpt_cut_take(store, BP_PIN_KEEPER, &cut, err);
    if (code == BP_OK) {
        code = write_and_keep(store, &cut, err);
        bp_ckpt_cut_drop(store, &cut);
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
    if (keeper->n_checkpoints < 2) {
        return 0;
    }
    /* In a cluster also what other members may still ask for. */
    struct bp_raft *raft = atomic_load_explicit(&store->raft, memory_order_acquire);
    uint32_t served = raft != NULL ? bp_raft_first_segment(raft) : UINT32_MAX;
    uint32_t start = keeper->checkpoints[1].start.segment;
    return start < served ? start : served;
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

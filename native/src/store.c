/*
 * Opening and closing a store (store_open.h has the steps).
 *
 *   open
 *       parts -> lock -> identity -> reserve -> recover: newest checkpoint, log, replay, a new term
 *          -> live -> threads
 *   close  refuse -> finish what is queued -> threads down -> mark, sync -> unlock
 *
 * Nothing is served or acknowledged before open returns, and open changes nothing it could not do
 * again: a crash anywhere in it leaves a directory that opens to the same state.
 */
#include "store.h"

#include <stdio.h>
#include <stdlib.h>

#include "raft.h"
#include "scrub.h"
#include "store_files.h"
#include "store_open.h"

#define NS_PER_MS 1000000ull

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "no memory to open the store");
}

static void value_died(void *ctx, const struct bp_value_ref *value) {
    struct bp_store *store = ctx;
    struct bp_segment *segment = bp_segments_find(store->segments, value->at.segment);
    if (segment != NULL) {
        atomic_fetch_sub_explicit(&segment->live_bytes, (int64_t)value->size, memory_order_relaxed);
    }
}

void bp_store_abandon(struct bp_store *store) {
    if (store == NULL) {
        return;
    }
    bp_keeper_stop(store);
    bp_raft_stop(store, true);
    bp_driver_stop(store);
    bp_readers_stop(store);
    bp_raft_free(bp_raft_of(store));
    bp_scrubber_free(store->keeper.scrubber);
    bp_compactor_free(store);
    bp_reserve_close(store);
    bp_store_parts_free(store);
    bp_disk_free(store->disk);
    free(store);
}

static void go_live(struct bp_store *store) {
    uint64_t now = bp_disk_boot_ns(store->disk), last = bp_log_last_index(store->log);
    store->applied_end = bp_log_end(store->log);
    store->applied_sequence = bp_log_sequence(store->log);
    store->opened_ns = now;
    store->driver.last_append_ns = now;
    struct bp_raft *raft = bp_raft_of(store);
    atomic_store(&store->committed, raft != NULL ? raft->committed : last);
    atomic_store(&store->durable, last);
    bp_leases_restart(store->leases, now);
    bp_apply_publish(store);
}

static int start_threads(struct bp_store *store, struct bp_error *err) {
    int code = bp_readers_start(store, err);
    code = code != BP_OK ? code : bp_driver_start(store, err);
    code = code != BP_OK ? code : bp_keeper_start(store, err);
    return code != BP_OK ? code : bp_raft_start(store, err);
}

static int open_parts(struct bp_store *store, struct bp_error *err) {
    bool fresh = false, unsynced = false;
    struct bp_index_hooks hooks = {.ctx = store, .dead = value_died};
    int code = bp_store_parts_make(store, &hooks, err);
    code = code != BP_OK ? code : bp_store_lock(store->disk, store->dir, &store->lock_fd, err);
    code = code != BP_OK ? code : bp_store_identify(store, &fresh, &unsynced, err);
    if (code != BP_OK) {
        return code;
    }
    uint64_t began = bp_disk_boot_ns(store->disk);
    if (!fresh) {
        (void)bp_reserve_open(store, err);
    }
    code = bp_store_recover(store, fresh, unsynced, err);
    if (code == BP_OK && bp_disk_random(store->disk, &store->driver.next_lease_id,
                                        sizeof store->driver.next_lease_id) < 0) {
        code = bp_fail(err, BP_INTERNAL, BP_REASON_IO_FAILED, "no random bytes");
    }
    if (code != BP_OK) {
        return code;
    }
    if (fresh) {
        (void)bp_reserve_open(store, err);
    }
    bp_reserve_back(store);
    go_live(store);
    store->recovery_ms = (bp_disk_boot_ns(store->disk) - began) / NS_PER_MS;
    return start_threads(store, err);
}

int bp_store_open(const struct bp_options *options, struct bp_disk *disk, struct bp_store **out,
                  struct bp_error *err) {
    struct bp_options filled = *options;
    bp_options_fill(&filled);
    int code = disk == NULL ? no_memory(err) : bp_options_check(&filled, err);
    struct bp_store *store = code == BP_OK ? calloc(1, sizeof *store) : NULL;
    if (store == NULL) {
        bp_disk_free(disk);
        return code != BP_OK ? code : no_memory(err);
    }
    store->options = filled;
    (void)snprintf(store->dir, sizeof store->dir, "%s", options->dir);
    store->options.dir = store->dir;
    store->options.failpoints = NULL;
    store->disk = disk;
    store->lock_fd = -1;
    bp_store_fill_limits(store);
    code = open_parts(store, err);
    if (code != BP_OK) {
        bp_store_abandon(store);
        return code;
    }
    *out = store;
    return BP_OK;
}

int bp_open(const struct bp_options *options, struct bp_store **store, struct bp_error *err) {
    struct bp_io io;
    bp_io_posix(&io);
    struct bp_disk *disk = bp_disk_new(&io);
    if (disk != NULL && options->failpoints != NULL) {
        int code = bp_disk_arm_text(disk, options->failpoints, err);
        if (code != BP_OK) {
            bp_disk_free(disk);
            return code;
        }
    }
    return bp_store_open(options, disk, store, err);
}

int bp_close(struct bp_store *store, struct bp_error *err) {
    bp_keeper_stop(store);
    bp_hub_close(store->hub);
    if (store->options.manual) {
        bp_step_drive(store);
    }
    bp_raft_stop(store, false);
    bp_driver_stop(store);
    bp_readers_stop(store);
    int code = BP_OK;
    if (!bp_log_poisoned(store->log) && !bp_log_retired(store->log)) {
        code = bp_log_sync(store->log, err);
        code = code != BP_OK ? code : bp_log_mark(store->log, err);
        code = code != BP_OK ? code : bp_log_sync(store->log, err);
        if (code == BP_OK && store->options.interval_ms != 0) {
            code = bp_store_unsynced_end(store->disk, store->dir, err);
        }
    }
    bp_store_abandon(store);
    return code;
}

void bp_store_view(struct bp_store *store, struct bp_view *view) {
    view->index = store->index;
    view->segments = store->segments;
    view->epoch = &store->epoch;
    /* The floor first: a revision published after it is above it. */
    view->floor = atomic_load_explicit(&store->floor, memory_order_acquire);
    view->revision = atomic_load_explicit(&store->revision, memory_order_acquire);
}

int bp_fail_compacted(struct bp_error *err, const struct bp_store *store) {
    uint64_t floor = atomic_load_explicit(&store->floor, memory_order_acquire);
    int code = bp_fail(err, BP_OUT_OF_RANGE, BP_REASON_REVISION_COMPACTED,
                       "the revision is compacted; the oldest readable one is %llu",
                       (unsigned long long)floor);
    if (err != NULL) {
        err->revision = floor;
    }
    return code;
}

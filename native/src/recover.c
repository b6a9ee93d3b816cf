/*
 * Disaster: a majority is gone, and one survivor's directory becomes a cluster of its own.
 *
 *   lock, identity        refused: open elsewhere, no store
 *   checkpoint, log       all of it applied, also what was never committed
 *   one frame             HARDSTATE, CONFIG { new cluster id, this member }, JUMP   <- from here on
 *                         it is another cluster
 *   checkpoint            so that the next start replays nothing of the old one
 *   STORE                 says so too, and that this member has a beginning of its own
 *
 * Invariants
 *   - Whatever step a crash interrupts, the directory is a member of the old cluster or the only one
 *     of the new; what is left undone behind the frame costs the next start time, or nothing.
 *   - Members of the old cluster are told apart by the cluster id: the member keeps its own.
 *   - Who does it twice has two clusters: no run knows of another.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_files.h"
#include "store_open.h"

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory to recover");
}

static void ignore_dead(void *ctx, const struct bp_value_ref *value) {
    (void)ctx;
    (void)value;
}

/* Only what is there: neither the directory nor anything in it is made. */
static int check_directory(struct bp_disk *disk, const char *dir, struct bp_error *err) {
    struct bp_store_files files;
    int code = bp_store_files_list(disk, dir, &files, err);
    if (code == BP_OK && !files.store) {
        code =
            bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_STORE_CORRUPT, "%s holds no store", dir);
    }
    return code;
}

static int take_over(struct bp_store *store, struct bp_error *err) {
    bool fresh = false, unsynced = false;
    struct bp_index_hooks hooks = {.ctx = store, .dead = ignore_dead};
    int code = check_directory(store->disk, store->dir, err);
    code = code != BP_OK ? code : bp_store_parts_make(store, &hooks, err);
    code = code != BP_OK ? code : bp_store_lock(store->disk, store->dir, &store->lock_fd, err);
    code = code != BP_OK ? code : bp_store_identify(store, &fresh, &unsynced, err);
    if (code != BP_OK) {
        return code;
    }
    (void)bp_reserve_open(store, err);
    return bp_store_take_over(store, err);
}

/* The state is what the log says; the rest only makes the next start short. */
static int settle(struct bp_store *store, struct bp_error *err) {
    struct bp_store_identity identity = {.member_id = store->member_id};
    store->applied_end = bp_log_end(store->log);
    store->applied_sequence = bp_log_sequence(store->log);
    atomic_store(&store->committed, store->applied_index);
    atomic_store(&store->durable, store->applied_index);
    bp_apply_publish(store);
    int code = bp_step_checkpoint(store, 1, err);
    memcpy(identity.store_id, store->store_id, sizeof identity.store_id);
    memcpy(identity.cluster_id, store->system.cluster_id, sizeof identity.cluster_id);
    code = code != BP_OK ? code : bp_store_identity_write(store->disk, store->dir, &identity, err);
    code = code != BP_OK ? code : bp_log_mark(store->log, err);
    return code != BP_OK ? code : bp_log_sync(store->log, err);
}

int bp_recover_on(struct bp_disk *disk, const struct bp_options *options, struct bp_recovered *out,
                  struct bp_error *err) {
    struct bp_options filled = *options;
    filled.manual = 1;
    filled.interval_ms = 0;
    filled.clustered = filled.joining = filled.n_members = 0;
    bp_options_fill(&filled);
    int code = bp_options_check(&filled, err);
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
    code = take_over(store, err);
    code = code != BP_OK ? code : settle(store, err);
    if (code == BP_OK) {
        *out = (struct bp_recovered){.member_id = store->member_id,
                                     .revision = store->next_revision - 1};
        memcpy(out->cluster_id, store->system.cluster_id, sizeof out->cluster_id);
    }
    bp_store_abandon(store);
    return code;
}

int bp_recover(const struct bp_options *options, struct bp_recovered *out, struct bp_error *err) {
    struct bp_io io;
    bp_io_posix(&io);
    struct bp_disk *disk = bp_disk_new(&io);
    return disk == NULL ? no_memory(err) : bp_recover_on(disk, options, out, err);
}

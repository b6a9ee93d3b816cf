/*
 * From the files of a store to a state that may serve.
 *
 *   newest checkpoint that can be used -> newer ones aside
 *     -> log: verify, copy the tail, new segment -> replay
 *     -> fresh:  the first entry, which makes us a cluster of one; then STORE
 *        else:   the election of a cluster of one: a new term, a no-op
 *     -> durability noted
 *
 * Invariants
 *   - Nothing here is visible to a client, and a crash anywhere in it leaves a directory that opens
 *     to the same state.
 *   - What replay does is determined by the log and the checkpoint, never by today's options.
 *   - A full disk does not keep a store from opening: the reserve's last segment is for this.
 */
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "store_files.h"
#include "store_open.h"

#define REVISION_JUMP_MIN (1ull << 32)
#define REPLAY_TRIM_EVERY 64u /* entries */

/* ---- the log --------------------------------------------------------------------------------- */

/* What a try that failed has opened, so that another may open it again. */
static void forget_log_segments(struct bp_store *store) {
    struct bp_segment *segment = bp_segments_next(store->segments, 0);
    while (segment != NULL) {
        uint32_t id = segment->header.id;
        if (segment->header.kind == BP_SEGMENT_LOG) {
            bp_segments_remove(store->segments, id);
        }
        segment = bp_segments_next(store->segments, id);
    }
}

static int open_log(struct bp_store *store, const struct bp_log_start *start,
                    struct bp_recovery *recovery, struct bp_error *err) {
    struct bp_log_options options = {.segment_size = store->options.segment_size};
    memcpy(options.store_id, store->store_id, sizeof options.store_id);
    int code = bp_log_open(store->segments, &options, start, &store->log, recovery, err);
    /*
     * A full disk must not keep a store from opening: that is what the last segment of the reserve
     * is for.
     */
    if (code != BP_OK && err->reason == BP_REASON_DISK_FULL &&
        bp_reserve_release(store, store->options.segment_size, true) > 0) {
        atomic_store_explicit(&store->disk_full, true, memory_order_relaxed);
        forget_log_segments(store);
        code = bp_log_open(store->segments, &options, start, &store->log, recovery, err);
    }
    return code;
}

struct replay {
    struct bp_store *store;
    struct bp_error *err;
    uint64_t entries, bytes;
};

static int replay_entry(void *arg, const struct bp_entry *entry) {
    struct replay *replay = arg;
    struct bp_store *store = replay->store;
    int code = bp_apply_entry(store, entry, NULL, replay->err);
    replay->bytes += BP_ENTRY_HEADER + entry->size;
    if (code == BP_OK && ++replay->entries % REPLAY_TRIM_EVERY == 0) {
        (void)bp_index_trim(store->index, store->compaction_revision, 4096);
    }
    return code;
}

static int replay_log(struct bp_store *store, const struct bp_recovery *recovery,
                      struct bp_error *err) {
    struct replay replay = {.store = store, .err = err};
    int code = bp_log_replay(store->log, recovery, 0, recovery->n, replay_entry, &replay, err);
    store->recovery_entries = replay.entries;
    store->recovery_log_bytes = replay.bytes;
    store->recovery_copied_bytes = recovery->copied_bytes;
    store->recovery_discarded_bytes = recovery->discarded_bytes;
    return code;
}

/* ---- the first entries of a term ------------------------------------------------------------- */

static int append_and_apply(struct bp_store *store, struct bp_entry *entries, uint32_t n,
                            const struct bp_hardstate *hardstate, struct bp_error *err) {
    int code = bp_log_append(store->log, entries, n, hardstate, err);
    if (code != BP_OK && err->reason == BP_REASON_DISK_FULL &&
        bp_reserve_release(store, store->options.segment_size, true) > 0) {
        code = bp_log_append(store->log, entries, n, hardstate, err);
    }
    code = code != BP_OK ? code : bp_log_sync(store->log, err);
    for (uint32_t i = 0; i < n && code == BP_OK; i++) {
        code = bp_apply_entry(store, &entries[i], NULL, err);
    }
    return code;
}

/* The first entry of all: a cluster of one, ourselves. */
static int bootstrap(struct bp_store *store, struct bp_error *err) {
    struct bp_system system = {.cluster_version = 1,
                               .voters = 1,
                               .request_ids_max = (uint32_t)store->options.request_ids_max};
    int rc = bp_disk_random(store->disk, system.cluster_id, sizeof system.cluster_id);
    rc = rc < 0 ? rc : bp_disk_random(store->disk, &system.members[0], sizeof system.members[0]);
    if (rc < 0) {
        return bp_fail_io(err, rc, "no random bytes");
    }
    system.members[0] |= 1; /* 0 means nobody */
    uint8_t payload[BP_CONFIG_SIZE_MAX];
    struct bp_entry entry = {.index = 1, .term = 1, .type = BP_ENTRY_CONFIG, .payload = payload};
    entry.size = bp_system_encode(&system, BP_CAUSE_BOOTSTRAP, payload);
    entry.first_revision = store->next_revision;
    struct bp_hardstate hardstate = {.term = 1, .vote = system.members[0], .commit = 0};
    store->member_id = system.members[0];
    atomic_store_explicit(&store->term, 1, memory_order_relaxed);
    int code = append_and_apply(store, &entry, 1, &hardstate, err);
    code = code != BP_OK ? code
                         : bp_store_identity_write(store->disk, store->dir, store->store_id, err);
    if (code == BP_OK) {
        bp_store_creating_end(store->disk, store->dir);
    }
    return code;
}

static uint64_t jumped_revision(const struct bp_store *store) {
    uint64_t by_step = store->next_revision - 1 + REVISION_JUMP_MIN;
    uint64_t by_clock = bp_disk_real_ns(store->disk) / 1000000000ull << 20;
    return by_step > by_clock ? by_step : by_clock;
}

/*
 * The election of a cluster of one: a new term, voted for by ourselves, and an empty entry that
 * commits all before it. After an unclean stop in interval mode revisions jump, because some that
 * clients saw may be gone. A changed size of the request-id table is proposed like any change of
 * the configuration: apply goes by what the log says.
 */
static int lead_alone(struct bp_store *store, const struct bp_recovery *recovery, bool jump,
                      struct bp_error *err) {
    struct bp_system system = store->system;
    if (system.voters != 1 || system.members[0] == 0) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_FORMAT_UNSUPPORTED,
                       "%s belongs to a cluster of %u voters", store->dir, system.voters);
    }
    store->member_id = system.members[0];
    struct bp_hardstate hardstate = {.term = recovery->hardstate.term + 1,
                                     .vote = store->member_id,
                                     .commit = store->applied_index};
    if (hardstate.term <= store->applied_term) {
        hardstate.term = store->applied_term + 1;
    }
    uint8_t config[BP_CONFIG_SIZE_MAX], leap[16] = {0};
    struct bp_entry entries[3];
    uint32_t n = 0;
    memset(entries, 0, sizeof entries);
    entries[n++] = (struct bp_entry){
        .type = BP_ENTRY_NOOP, .payload = leap, .first_revision = store->next_revision};
    if (system.request_ids_max != store->options.request_ids_max) {
        system.request_ids_max = (uint32_t)store->options.request_ids_max;
        uint32_t size = bp_system_encode(&system, BP_CAUSE_CHANGE, config);
        entries[n++] = (struct bp_entry){.type = BP_ENTRY_CONFIG,
                                         .payload = config,
                                         .size = size,
                                         .first_revision = store->next_revision};
    }
    if (jump) {
        uint64_t revision = jumped_revision(store);
        bp_put_u64(leap, revision);
        leap[8] = BP_CAUSE_UNCLEAN_START;
        entries[n++] = (struct bp_entry){.type = BP_ENTRY_JUMP,
                                         .payload = leap,
                                         .size = sizeof leap,
                                         .first_revision = revision};
    }
    for (uint32_t i = 0; i < n; i++) {
        entries[i].index = store->applied_index + 1 + i;
        entries[i].term = hardstate.term;
    }
    atomic_store_explicit(&store->term, hardstate.term, memory_order_relaxed);
    return append_and_apply(store, entries, n, &hardstate, err);
}

/*
 * Before interval mode answers anything, the next start must be able to know; once the jump is
 * durable, it need not any more.
 */
static int note_durability(struct bp_store *store, bool unsynced, struct bp_error *err) {
    if (store->options.interval_ms == 0) {
        return unsynced ? bp_store_unsynced_end(store->disk, store->dir, err) : BP_OK;
    }
    int code = unsynced ? BP_OK : bp_store_unsynced_begin(store->disk, store->dir, err);
    if (code != BP_OK && err->reason == BP_REASON_DISK_FULL &&
        bp_reserve_release(store, store->options.segment_size, true) > 0) {
        code = bp_store_unsynced_begin(store->disk, store->dir, err);
    }
    return code;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/*
 * Every checkpoint is damaged, for the reason in *err. The log alone will do where it still reaches
 * back to entry 1; else that reason stands, and nothing on disk has changed: a chain with a segment
 * missing is refused before anything is made.
 */
static int open_log_alone(struct bp_store *store, struct bp_recovery *recovery,
                          struct bp_error *err) {
    const struct bp_error damage = *err;
    const struct bp_log_start nothing = {.founded = true};
    int code = open_log(store, &nothing, recovery, err);
    /* A log that begins empty, as a restore makes it, is the end of one that is not here. */
    if (code == BP_OK && recovery->n > 0) {
        return bp_checkpoint_discard_all(store, err);
    }
    if (code == BP_OK || err->reason == BP_REASON_STORE_CORRUPT) {
        *err = damage;
        code = damage.code;
    }
    return code;
}

static int open_log_from(struct bp_store *store, const struct bp_log_start *start,
                         struct bp_recovery *recovery, struct bp_error *err) {
    struct bp_ckpt_aside aside;
    int code = bp_checkpoint_set_aside(store, &aside, err);
    if (code == BP_OK) {
        code = open_log(store, start, recovery, err);
        if (code != BP_OK) {
            bp_checkpoint_put_back(store, &aside);
        }
    }
    bp_ckpt_aside_free(&aside);
    return code;
}

int bp_store_recover(struct bp_store *store, bool fresh, bool unsynced, struct bp_error *err) {
    struct bp_log_start start = {0};
    struct bp_recovery recovery = {0};
    bool found = false;
    store->next_revision = 2; /* revision 1 is the empty store */
    int code = fresh ? BP_OK : bp_checkpoint_load(store, &start, &found, err);
    start.founded = !fresh;
    if (code == BP_DATA_LOSS && !found && err->reason == BP_REASON_STORE_CORRUPT) {
        code = open_log_alone(store, &recovery, err);
    } else {
        code = code != BP_OK ? code : open_log_from(store, &start, &recovery, err);
    }
    code = code != BP_OK ? code : replay_log(store, &recovery, err);
    if (code == BP_OK) {
        code = fresh ? bootstrap(store, err) : lead_alone(store, &recovery, unsynced, err);
    }
    bp_recovery_free(&recovery);
    return code != BP_OK ? code : note_durability(store, unsynced, err);
}

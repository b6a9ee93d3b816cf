/*
 * From the files of a store to a state that may serve.
 *
 *   newest checkpoint that can be used -> newer ones aside
 *     -> log: verify, copy the tail, new segment -> replay: all of a cluster of one, else through
 *        what HARDSTATE calls committed; the rest into the table of Raft's driver (raft.h)
 *     -> fresh:  the first entry, which makes us a cluster of one, or of the members we were given;
 *                who joins one has no entry yet; then STORE
 *        else:   the election of a cluster of one: a new term, a no-op; of more it is Raft's
 *     -> durability noted
 *
 * Taking over (recover.c) is the same up to the log, replays all of it, and goes on from there as a
 * cluster of its own.
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
#include "crc32c.h"
#include "raft.h"
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

static void note_replay(struct bp_store *store, const struct bp_recovery *recovery,
                        const struct replay *replay) {
    store->recovery_entries = replay->entries;
    store->recovery_log_bytes = replay->bytes;
    store->recovery_copied_bytes = recovery->copied_bytes;
    store->recovery_discarded_bytes = recovery->discarded_bytes;
}

static int replay_log(struct bp_store *store, const struct bp_recovery *recovery,
                      struct bp_error *err) {
    struct replay replay = {.store = store, .err = err};
    int code = bp_log_replay(store->log, recovery, 0, recovery->n, replay_entry, &replay, err);
    note_replay(store, recovery, &replay);
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

static int write_identity(struct bp_store *store, struct bp_error *err) {
    const struct bp_options *options = &store->options;
    struct bp_store_identity identity = {.joined = store->joined};
    memcpy(identity.store_id, store->store_id, sizeof identity.store_id);
    if (options->joining != 0 || options->n_members > 0) {
        identity.member_id = options->member_id;
        memcpy(identity.cluster_id, options->cluster_id, sizeof identity.cluster_id);
    }
    int code = bp_store_identity_write(store->disk, store->dir, &identity, err);
    if (code == BP_OK) {
        bp_store_creating_end(store->disk, store->dir);
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
    return code != BP_OK ? code : write_identity(store, err);
}

/* ---- more than one member -------------------------------------------------------------------- */

static int by_number(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/*
 * The members we were given are the voters, and committed: each of them founds itself with the very
 * same bytes, so nothing here comes from this member's own configuration.
 */
static int found_cluster(struct bp_store *store, struct bp_raft *raft, struct bp_error *err) {
    const struct bp_options *options = &store->options;
    struct bp_system system = {.cluster_version = 1,
                               .voters = (uint16_t)options->n_members,
                               .request_ids_max = BP_REQUEST_IDS_DEFAULT};
    memcpy(system.cluster_id, options->cluster_id, sizeof system.cluster_id);
    memcpy(system.members, options->members, options->n_members * sizeof system.members[0]);
    qsort(system.members, options->n_members, sizeof system.members[0], by_number);
    uint8_t payload[BP_CONFIG_SIZE_MAX];
    struct bp_entry entry = {.index = 1, .term = 1, .type = BP_ENTRY_CONFIG, .payload = payload};
    entry.size = bp_system_encode(&system, BP_CAUSE_BOOTSTRAP, payload);
    entry.first_revision = store->next_revision;
    struct bp_hardstate hardstate = {.term = 1, .commit = 1};
    int code = append_and_apply(store, &entry, 1, &hardstate, err);
    if (code != BP_OK) {
        return code;
    }
    uint64_t size = bp_log_frame_size(&entry, 1, true);
    struct bp_place place = {.at = entry.at,
                             .frame = bp_log_end(store->log).offset - (uint32_t)size,
                             .sequence = bp_log_sequence(store->log) - 1};
    return bp_raft_recovered(raft, &entry, &place, true, err);
}

static int begin_cluster(struct bp_store *store, struct bp_error *err) {
    const struct bp_options *options = &store->options;
    struct bp_raft *raft;
    store->member_id = options->member_id;
    store->joined = options->joining != 0;
    memcpy(store->system.cluster_id, options->cluster_id, sizeof options->cluster_id);
    int code = bp_raft_new(store, 0, 0, store->next_revision, &raft, err);
    if (code != BP_OK) {
        return code;
    }
    code = options->joining != 0 ? BP_OK : found_cluster(store, raft, err);
    code = code != BP_OK ? code : write_identity(store, err);
    if (code != BP_OK) {
        bp_raft_free(raft);
        return code;
    }
    struct bp_hardstate hardstate = bp_log_hardstate(store->log);
    bp_raft_install(store, raft, &hardstate, store->applied_index);
    atomic_store_explicit(&store->term, hardstate.term, memory_order_relaxed);
    return BP_OK;
}

/* Is this all there is: ourselves, a voter? */
static bool is_alone(const struct bp_store *store, const struct bp_system *system) {
    return system->voters == 1 && system->learners == 0 &&
           (store->member_id == 0 || system->members[0] == store->member_id);
}

struct membership_check {
    struct bp_store *store;
    bool alone;
};

static int refuse_interval(const struct bp_store *store, struct bp_error *err) {
    return store->options.interval_ms == 0
               ? BP_OK
               : bp_fail_field(err, BP_FAILED_PRECONDITION, BP_REASON_FIELD_INVALID, "interval_ms",
                               "%s has more members: durability by interval is for one alone",
                               store->dir);
}

static int check_membership(void *arg, const struct bp_entry *entry) {
    struct membership_check *check = arg;
    struct bp_system system;
    int cause;
    if (!bp_system_decode(entry->payload, entry->size, &system, &cause)) {
        return BP_OK; /* whoever applies it says so */
    }
    if (entry->index == 1 && check->store->member_id == 0) {
        check->store->member_id = system.members[0]; /* who founded a cluster of one */
    }
    check->alone = check->alone && is_alone(check->store, &system);
    return BP_OK;
}

/*
 * Every entry of a cluster of one is committed as soon as it is durable, whatever HARDSTATE says.
 * With any other membership, also one that is in the log and perhaps not committed, Raft decides.
 */
static int find_alone(struct bp_store *store, const struct bp_recovery *recovery, bool *alone,
                      struct bp_error *err) {
    struct membership_check check = {
        .store = store,
        .alone = !store->joined && (store->applied_index == 0 || is_alone(store, &store->system))};
    int code = BP_OK;
    for (uint64_t i = 0; i < recovery->n && code == BP_OK; i++) {
        if (recovery->entries[i].type == BP_ENTRY_CONFIG) {
            code = bp_log_replay(store->log, recovery, i, 1, check_membership, &check, err);
        }
    }
    *alone = check.alone;
    return code;
}

struct rejoin {
    struct replay replay;
    struct bp_raft *raft;
    const struct bp_recovery *recovery;
    uint64_t committed;
};

static int rejoin_entry(void *arg, const struct bp_entry *entry) {
    struct rejoin *rejoin = arg;
    const struct bp_found *found =
        &rejoin->recovery->entries[entry->index - rejoin->recovery->entries[0].index];
    struct bp_place place = {.at = found->at, .frame = found->frame, .sequence = found->sequence};
    bool committed = entry->index <= rejoin->committed;
    int code = committed ? replay_entry(&rejoin->replay, entry) : BP_OK;
    return code != BP_OK
               ? code
               : bp_raft_recovered(rejoin->raft, entry, &place, committed, rejoin->replay.err);
}

/* What HARDSTATE calls committed is applied; what is behind it may still be superseded. */
static int rejoin_cluster(struct bp_store *store, const struct bp_recovery *recovery,
                          struct bp_error *err) {
    struct bp_raft *raft;
    uint64_t last = store->applied_index + recovery->n;
    struct bp_hardstate hardstate = recovery->hardstate;
    if (hardstate.commit > last) {
        return bp_fail(
            err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
            "%s: the log ends at entry %llu, and entry %llu was committed; see `bedplate "
            "fsck`",
            store->dir, (unsigned long long)last, (unsigned long long)hardstate.commit);
    }
    int code = bp_raft_new(store, store->applied_index, store->applied_term, store->next_revision,
                           &raft, err);
    if (code != BP_OK) {
        return code;
    }
    hardstate.commit =
        hardstate.commit > store->applied_index ? hardstate.commit : store->applied_index;
    struct rejoin rejoin = {.replay = {.store = store, .err = err},
                            .raft = raft,
                            .recovery = recovery,
                            .committed = hardstate.commit};
    code = bp_log_replay(store->log, recovery, 0, recovery->n, rejoin_entry, &rejoin, err);
    note_replay(store, recovery, &rejoin.replay);
    if (code != BP_OK) {
        bp_raft_free(raft);
        return code;
    }
    bp_raft_install(store, raft, &hardstate, hardstate.commit);
    atomic_store_explicit(&store->term, hardstate.term, memory_order_relaxed);
    return BP_OK;
}

/* ---- a single member ------------------------------------------------------------------------- */

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

static int begin(struct bp_store *store, struct bp_error *err) {
    const struct bp_options *options = &store->options;
    bool given = options->joining != 0 || options->n_members > 0;
    int code = given ? begin_cluster(store, err) : bootstrap(store, err);
    /* One that stays alone for now, under Raft from its first entry on. */
    if (code == BP_OK && !given && options->clustered != 0) {
        code = bp_raft_take_resting(store, err);
    }
    return code;
}

static int go_on(struct bp_store *store, const struct bp_recovery *recovery, bool unsynced,
                 struct bp_error *err) {
    bool alone;
    bool clustered = store->options.clustered != 0;
    int code = find_alone(store, recovery, &alone, err);
    code = code != BP_OK || alone ? code : refuse_interval(store, err);
    /* Who lost revisions that clients may have seen must jump first, and does so alone. */
    if (code != BP_OK || !alone || (clustered && !unsynced)) {
        return code != BP_OK ? code : rejoin_cluster(store, recovery, err);
    }
    code = replay_log(store, recovery, err);
    code = code != BP_OK ? code : lead_alone(store, recovery, unsynced, err);
    return code == BP_OK && clustered ? bp_raft_take_resting(store, err) : code;
}

/* From the files to a log that is open, with what it holds in *recovery. */
static int open_files(struct bp_store *store, bool fresh, struct bp_recovery *recovery,
                      struct bp_error *err) {
    struct bp_log_start start = {0};
    bool found = false;
    store->next_revision = 2; /* revision 1 is the empty store */
    int code = fresh ? BP_OK : bp_checkpoint_load(store, &start, &found, err);
    start.founded = !fresh && !store->joined;
    if (code == BP_DATA_LOSS && !found && err->reason == BP_REASON_STORE_CORRUPT) {
        return open_log_alone(store, recovery, err);
    }
    return code != BP_OK ? code : open_log_from(store, &start, recovery, err);
}

int bp_store_recover(struct bp_store *store, bool fresh, bool unsynced, struct bp_error *err) {
    struct bp_recovery recovery = {0};
    int code = open_files(store, fresh, &recovery, err);
    if (code == BP_OK) {
        code = fresh ? begin(store, err) : go_on(store, &recovery, unsynced, err);
    }
    bp_recovery_free(&recovery);
    return code != BP_OK ? code : note_durability(store, unsynced, err);
}

/* ---- a survivor alone ------------------------------------------------------------------------ */

/*
 * A new cluster in one frame, so that a crash leaves the old one or the new one. The term is above
 * every one seen, and the same frame says that all of it is committed.
 */
static int found_anew(struct bp_store *store, const struct bp_recovery *recovery,
                      struct bp_error *err) {
    struct bp_system system = store->system;
    system.voters = 1;
    system.learners = 0;
    memset(system.members, 0, sizeof system.members);
    system.members[0] = store->member_id != 0 ? store->member_id : store->system.members[0];
    int rc = bp_disk_random(store->disk, system.cluster_id, sizeof system.cluster_id);
    if (rc < 0) {
        return bp_fail_io(err, rc, "no random bytes");
    }
    uint8_t config[BP_CONFIG_SIZE_MAX], leap[16] = {0};
    uint64_t revision = jumped_revision(store), term = recovery->hardstate.term;
    term = (term > store->applied_term ? term : store->applied_term) + 1;
    bp_put_u64(leap, revision);
    leap[8] = BP_CAUSE_RECOVER;
    struct bp_entry entries[2] = {
        {.index = store->applied_index + 1,
         .term = term,
         .type = BP_ENTRY_CONFIG,
         .payload = config,
         .size = bp_system_encode(&system, BP_CAUSE_RECOVER, config),
         .first_revision = store->next_revision},
        {.index = store->applied_index + 2,
         .term = term,
         .type = BP_ENTRY_JUMP,
         .payload = leap,
         .size = sizeof leap,
         .first_revision = revision},
    };
    struct bp_hardstate hardstate = {
        .term = term, .vote = system.members[0], .commit = store->applied_index + 2};
    store->member_id = system.members[0];
    atomic_store_explicit(&store->term, term, memory_order_relaxed);
    return append_and_apply(store, entries, 2, &hardstate, err);
}

int bp_store_take_over(struct bp_store *store, struct bp_error *err) {
    struct bp_recovery recovery = {0};
    int code = open_files(store, false, &recovery, err);
    code = code != BP_OK ? code : replay_log(store, &recovery, err);
    if (code == BP_OK && store->system.voters == 0) {
        code = bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_STORE_CORRUPT,
                       "%s joined a cluster and received nothing of it: there is nothing to go on "
                       "with",
                       store->dir);
    }
    code = code != BP_OK ? code : found_anew(store, &recovery, err);
    bp_recovery_free(&recovery);
    return code;
}

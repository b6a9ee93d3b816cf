/*
 * What a leader proposes by the clock: compaction, and the end of leases. Both become entries, so
 * every member does the same.
 *
 *   samples    (time, revision) ... one every 1/64 of the history's age limit, in a ring
 *                    |<---- history_ms_max ---->| now
 *                    ^ the newest sample at least that old: everything up to its revision may be
 *                    forgotten
 *
 *   by age     the sample's revision, when an effect lies at or below it
 *   by size    history_versions_max or history_bytes_max passed: as many revisions as leave about
 *              three quarters of that
 *   by need    the disk is full: all history, at once, so that what was deleted makes room
 *
 * An idle store has no effect that grows too old, so it proposes nothing. One compaction is open at
 * a time, and none by size while the index still forgets what the last one allowed.
 */
#include <stdlib.h>

#include "keeper.h"
#include "ops.h"
#include "raft.h"
#include "store.h"

#define SAMPLES 128u
#define SAMPLES_PER_AGE 64u
#define PROPOSALS_PER_AGE 16u /* history is kept for at most 1/16 more than asked */
#define NS_PER_MS 1000000ull
#define SAMPLE_NS_MIN (10 * NS_PER_MS)
#define NEED_EVERY_NS                                                                              \
    (1000 * NS_PER_MS)   /* on a full disk, where deletes come one after the other */
#define EXPIRY_IDS 1024u /* leases of one request */
#define EXPIRIES 4u      /* requests open at a time */

/*
 * One open request that revokes leases. Part of the compactor, so that nothing is lost when the
 * store is dropped under it.
 */
struct expiry {
    struct bp_store *store;
    _Atomic bool open;
    uint32_t n;
    uint64_t ids[EXPIRY_IDS];
};

struct bp_compactor {
    struct sample {
        uint64_t ns, revision;
    } samples[SAMPLES];
    uint32_t n, next; /* `next` is where the next sample goes, and the oldest when full */
    uint64_t proposed_ns;
    _Atomic bool open; /* a compaction is proposed and not applied */
    struct expiry expiries[EXPIRIES];
};

static struct bp_compactor *compactor_of(struct bp_store *store) {
    if (store->keeper.compactor == NULL) {
        store->keeper.compactor = calloc(1, sizeof *store->keeper.compactor);
    }
    return store->keeper.compactor;
}

void bp_compactor_free(struct bp_store *store) {
    free(store->keeper.compactor);
    store->keeper.compactor = NULL;
}

/* ---- samples --------------------------------------------------------------------------------- */

static uint64_t age_ns(const struct bp_store *store) {
    uint64_t ms = store->options.history_ms_max;
    return ms > UINT64_MAX / NS_PER_MS ? UINT64_MAX : ms * NS_PER_MS;
}

static void sample(const struct bp_store *store, struct bp_compactor *compactor, uint64_t now_ns) {
    uint64_t every = age_ns(store) / SAMPLES_PER_AGE;
    every = every < SAMPLE_NS_MIN ? SAMPLE_NS_MIN : every;
    const struct sample *last = &compactor->samples[(compactor->next + SAMPLES - 1) % SAMPLES];
    if (compactor->n > 0 && now_ns - last->ns < every) {
        return;
    }
    uint64_t revision = atomic_load_explicit(&store->revision, memory_order_acquire);
    compactor->samples[compactor->next] = (struct sample){.ns = now_ns, .revision = revision};
    compactor->next = (compactor->next + 1) % SAMPLES;
    compactor->n += compactor->n < SAMPLES;
}

/*
 * The newest revision that was already there history_ms_max ago; 0 if nothing is known of that
 * time.
 */
static uint64_t aged_revision(const struct bp_store *store, const struct bp_compactor *compactor,
                              uint64_t now_ns) {
    uint64_t age = age_ns(store), revision = 0;
    for (uint32_t i = 0; i < compactor->n; i++) {
        const struct sample *one = &compactor->samples[i];
        if (now_ns - one->ns >= age && one->revision > revision) {
            revision = one->revision;
        }
    }
    return revision;
}

/* ---- compaction ------------------------------------------------------------------------------ */

/* Raising the floor to `target` must forget something: else it is an entry for nothing. */
static uint64_t target_by_age(const struct bp_store *store, const struct bp_compactor *compactor,
                              uint64_t now_ns, uint64_t floor) {
    if (compactor->proposed_ns != 0 &&
        now_ns - compactor->proposed_ns < age_ns(store) / PROPOSALS_PER_AGE) {
        return 0;
    }
    uint64_t target = aged_revision(store, compactor, now_ns);
    return bp_history_between(store, floor, target) ? target : 0;
}

/*
 * The share of the history to drop so that three quarters of the limit are left: 0 within the
 * limit.
 */
static double excess(uint64_t have, uint64_t max) {
    return have <= max ? 0.0 : 1.0 - 0.75 * (double)max / (double)have;
}

static uint64_t target_by_size(const struct bp_store *store, uint64_t floor) {
    if (bp_index_trimmed(store->index) < floor) {
        return 0; /* the last one is still being carried out, or a reader pins what it allowed */
    }
    struct bp_index_stats stats;
    bp_index_get_stats(store->index, &stats);
    double versions = excess(stats.history_effects, store->options.history_versions_max);
    double bytes = excess(stats.history_value_bytes, store->options.history_bytes_max);
    double share = versions > bytes ? versions : bytes;
    uint64_t revision = atomic_load_explicit(&store->revision, memory_order_acquire);
    if (share == 0.0 || revision <= floor) {
        return 0;
    }
    uint64_t step = (uint64_t)((double)(revision - floor) * share) + 1;
    return step < revision - floor ? floor + step : revision;
}

/* Writes are refused for want of space: they matter more than what has been. */
static uint64_t target_by_need(const struct bp_store *store, const struct bp_compactor *compactor,
                               uint64_t now_ns, uint64_t floor) {
    if (!atomic_load_explicit(&store->disk_full, memory_order_relaxed) ||
        (compactor->proposed_ns != 0 && now_ns - compactor->proposed_ns < NEED_EVERY_NS)) {
        return 0;
    }
    uint64_t revision = atomic_load_explicit(&store->revision, memory_order_acquire);
    return bp_history_between(store, floor, revision) ? revision : 0;
}

static void compaction_done(void *arg, int code) {
    struct bp_compactor *compactor = arg;
    (void)code; /* refused or not, the next tick looks anew */
    atomic_store(&compactor->open, false);
}

static void propose_compaction(struct bp_store *store, struct bp_compactor *compactor,
                               uint64_t target) {
    struct bp_builder builder;
    bp_builder_init(&builder);
    bp_builder_begin(&builder, BP_REQUEST_COMPACT, bp_slice(NULL, 0), 0);
    bp_builder_u64(&builder, target);
    int code = bp_builder_finish(&builder, NULL);
    atomic_store(&compactor->open, true);
    code =
        code == BP_OK ? bp_driver_propose(store, &builder, compaction_done, compactor, NULL) : code;
    if (code != BP_OK) {
        atomic_store(&compactor->open, false);
    }
    bp_builder_free(&builder);
}

/* In a cluster the leader's clock alone decides. */
static bool proposes(struct bp_store *store) {
    struct bp_raft *raft = bp_raft_of(store);
    return raft == NULL || bp_raft_leading(raft);
}

static void compact(struct bp_store *store, struct bp_compactor *compactor, uint64_t now_ns) {
    sample(store, compactor, now_ns);
    if (atomic_load(&compactor->open) || !proposes(store)) {
        return;
    }
    uint64_t floor = atomic_load_explicit(&store->floor, memory_order_acquire);
    uint64_t by_age = target_by_age(store, compactor, now_ns, floor),
             by_size = target_by_size(store, floor);
    uint64_t by_need = target_by_need(store, compactor, now_ns, floor);
    uint64_t target = by_age > by_size ? by_age : by_size;
    target = by_need > target ? by_need : target;
    if (target > floor) {
        compactor->proposed_ns = now_ns;
        propose_compaction(store, compactor, target);
    }
}

/* ---- leases ---------------------------------------------------------------------------------- */

static void expiry_done(void *arg, int code) {
    struct expiry *expiry = arg;
    if (code != BP_OK) {
        bp_leases_unmark(expiry->store->leases, expiry->ids, expiry->n);
    }
    atomic_store(&expiry->open, false);
}

/* True when there may be more. */
static bool expire(struct bp_store *store, struct expiry *expiry, uint64_t now_ns) {
    expiry->store = store;
    expiry->n = bp_leases_expire(store->leases, now_ns, expiry->ids, EXPIRY_IDS);
    if (expiry->n == 0) {
        return false;
    }
    struct bp_builder builder;
    bp_builder_init(&builder);
    bp_builder_begin(&builder, BP_REQUEST_LEASE_REVOKE, bp_slice(NULL, 0), 0);
    bp_builder_u64(&builder, expiry->n);
    for (uint32_t i = 0; i < expiry->n; i++) {
        bp_builder_u64(&builder, expiry->ids[i]);
    }
    int code = bp_builder_finish(&builder, NULL);
    atomic_store(&expiry->open, true);
    code = code == BP_OK ? bp_driver_propose(store, &builder, expiry_done, expiry, NULL) : code;
    if (code != BP_OK) {
        expiry_done(expiry, code);
    }
    bp_builder_free(&builder);
    return code == BP_OK && expiry->n == EXPIRY_IDS;
}

void bp_compact_tick(struct bp_store *store, uint64_t now_ns) {
    struct bp_compactor *compactor = compactor_of(store);
    if (compactor == NULL || atomic_load(&store->poisoned)) {
        return;
    }
    compact(store, compactor, now_ns);
    bool more = proposes(store);
    for (uint32_t i = 0; i < EXPIRIES && more; i++) {
        if (!atomic_load(&compactor->expiries[i].open)) {
            more = expire(store, &compactor->expiries[i], now_ns);
        }
    }
}

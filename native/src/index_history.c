/*
 * The history: every effect since the trimmed revision, in order, as a queue of (revision, item).
 *
 *   trimmed      head                                              tail
 *      |           v                                                v
 *      |  ...... [ (7, item) (8, item) (8, item) ][ (9, item) ...   ]       chunks of 1024 effects
 *
 * Trimming an effect (r, item): the item's versions older than r go, and r's own if it is a
 * tombstone; if that was the newest, the item goes. Each effect supersedes at most one version, so
 * a step is O(1): it looks at the list's tail only.
 *
 * Lock order: history, then nodes. The applier appends without the lock, pops under it, and changes
 * items after it has let go. Readers hold it shared for at most EFFECTS_PER_LOCK effects: while
 * they do, no effect leaves and so no item that one names.
 *
 * Invariants: revisions never fall from head to tail; an item has an effect for each of its
 * versions above the trimmed revision, and at most one version at or below it, which is no
 * tombstone unless its effect is still in the queue.
 */
#include <assert.h>
#include <string.h>

#include "index_internal.h"

enum { RING_FIRST = 256, EFFECTS_PER_LOCK = 256, POP_GROUP = 64 };

_Static_assert((BP_HISTORY_CHUNK & (BP_HISTORY_CHUNK - 1)) == 0, "a power of two");

static uint64_t load(const _Atomic uint64_t *number) {
    return atomic_load_explicit(number, memory_order_relaxed);
}

int bp_history_init(struct bp_history *history) {
    memset(history, 0, sizeof *history);
    bp_slab_init(&history->slab);
    pthread_rwlockattr_t attr;
    if (pthread_rwlockattr_init(&attr) != 0) {
        return -1;
    }
    /* Readers that come and go without pause must not keep trim out. No thread takes it twice. */
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    int failed = pthread_rwlock_init(&history->lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    return failed == 0 ? 0 : -1;
}

void bp_history_destroy(struct bp_history *history) {
    pthread_rwlock_destroy(&history->lock);
    bp_slab_destroy(&history->slab);
}

static void lock_shared(const struct bp_history *history) {
    int failed = pthread_rwlock_rdlock(&((struct bp_history *)(uintptr_t)history)->lock);
    assert(failed == 0);
    (void)failed;
}

static void unlock(const struct bp_history *history) {
    pthread_rwlock_unlock(&((struct bp_history *)(uintptr_t)history)->lock);
}

static void lock_exclusive(struct bp_history *history) {
    int failed = pthread_rwlock_wrlock(&history->lock);
    assert(failed == 0);
    (void)failed;
}

/* ---- the queue ------------------------------------------------------------------------------- */

enum { CHUNK_BYTES = BP_HISTORY_CHUNK * sizeof(struct bp_effect) };

static struct bp_effect **chunk_at(const struct bp_history *history, uint64_t number) {
    return &history->ring[number / BP_HISTORY_CHUNK & (history->ring_size - 1)];
}

struct bp_effect *bp_history_effect(const struct bp_history *history, uint64_t number) {
    return &(*chunk_at(history, number))[number % BP_HISTORY_CHUNK];
}

static bool ring_grow(struct bp_history *history) {
    uint64_t old_size = history->ring_size, size = old_size == 0 ? RING_FIRST : old_size * 2;
    struct bp_effect **ring = bp_slab_alloc(&history->slab, size * sizeof(struct bp_effect *)),
                     **old = history->ring;
    if (ring == NULL) {
        return false;
    }
    uint64_t first = load(&history->head) / BP_HISTORY_CHUNK;
    for (uint64_t i = 0; i < old_size; i++) {
        ring[(first + i) & (size - 1)] = old[(first + i) & (old_size - 1)];
    }
    lock_exclusive(history);
    history->ring = ring;
    history->ring_size = size;
    unlock(history);
    bp_slab_free(&history->slab, old, old_size * sizeof(struct bp_effect *));
    return true;
}

/*
 * A chunk exists for the tail exactly if the tail is inside one, or if an earlier reserve was not
 * used.
 */
bool bp_history_reserve(struct bp_history *history) {
    uint64_t tail = load(&history->tail), first = load(&history->head) / BP_HISTORY_CHUNK;
    if (tail % BP_HISTORY_CHUNK != 0 || history->spare) {
        return true;
    }
    if (tail / BP_HISTORY_CHUNK - first == history->ring_size && !ring_grow(history)) {
        return false;
    }
    struct bp_effect *chunk = bp_slab_alloc(&history->slab, CHUNK_BYTES);
    if (chunk == NULL) {
        return false;
    }
    *chunk_at(history, tail) = chunk;
    history->spare = true;
    return true;
}

void bp_history_push(struct bp_history *history, uint64_t revision, struct bp_item *item) {
    uint64_t tail = load(&history->tail);
    *bp_history_effect(history, tail) = (struct bp_effect){.revision = revision, .item = item};
    history->spare = false;
    atomic_store_explicit(&history->tail, tail + 1,
                          memory_order_release); /* readers see the effect with the number */
}

bool bp_history_fill(struct bp_history *history, const struct bp_effect *effects, uint64_t n,
                     uint64_t floor) {
    for (uint64_t i = 0; i < n; i++) {
        if (!bp_history_reserve(history)) {
            return false;
        }
        bp_history_push(history, effects[i].revision, effects[i].item);
    }
    history->popped_revision = floor;
    atomic_store_explicit(&history->trimmed, floor, memory_order_release);
    return true;
}

/* Take up to n effects with revision <= `through` off the queue. */
static uint32_t pop(struct bp_history *history, uint64_t through, struct bp_effect *effects,
                    uint32_t n) {
    uint64_t head = load(&history->head), tail = load(&history->tail);
    uint32_t got = 0;
    if (head == tail || bp_history_effect(history, head)->revision > through) {
        return 0;
    }
    lock_exclusive(history);
    for (; got < n && head < tail; got++) {
        struct bp_effect *effect = bp_history_effect(history, head);
        if (effect->revision > through) {
            break;
        }
        effects[got] = *effect;
        head++;
        if (head % BP_HISTORY_CHUNK == 0) {
            bp_slab_free(&history->slab, *chunk_at(history, head - 1), CHUNK_BYTES);
        }
    }
    history->popped_revision = effects[got - 1].revision;
    atomic_store_explicit(&history->head, head, memory_order_relaxed);
    unlock(history);
    return got;
}

/* ---- trimming -------------------------------------------------------------------------------- */

/*
 * Forgetting the effect of `revision` changes nothing when it superseded nothing that is retained
 * and is no tombstone.
 */
static bool keeps_all(const struct bp_item *item, uint64_t revision) {
    const struct bp_older *tail = bp_older_tail(item);
    if (tail != NULL) {
        return tail->revision > revision || (tail->revision == revision && tail->version != 0);
    }
    return item->revision != revision || item->version != 0;
}

static bool tail_goes(const struct bp_item *item, uint64_t revision) {
    const struct bp_older *tail = bp_older_tail(item);
    return tail != NULL &&
           (tail->revision < revision || (tail->revision == revision && tail->version == 0));
}

static void drop(struct bp_index *index, struct bp_older *older) {
    bp_counter_sub(&index->counters.versions, 1);
    if (older->version != 0) {
        struct bp_version version;
        bp_older_version(older, &version);
        bp_counter_sub(&index->counters.history_value_bytes, version.value.size);
        if (index->hooks.dead != NULL) {
            index->hooks.dead(index->hooks.ctx, &version.value);
        }
    }
    bp_slab_free(&index->slab, older, sizeof *older);
}

static void drop_item(struct bp_index *index, struct bp_path *path, uint32_t at,
                      struct bp_item *item) {
    bp_tree_remove(index, path, at);
    bp_counter_sub(&index->counters.versions, 1);
    bp_counter_sub(&index->counters.items, 1);
    bp_counter_sub(&index->counters.key_bytes, item->key_size);
    bp_item_free(index, item);
}

static void forget(struct bp_index *index, struct bp_item *item, uint64_t revision) {
    if (keeps_all(item, revision)) {
        return;
    }
    struct bp_path path;
    bool found;
    bp_tree_descend(index, bp_item_key(item), &path);
    uint32_t at = bp_leaf_search(path.leaf, bp_item_key(item), &found);
    assert(found && path.leaf->items[at] == item);
    while (tail_goes(item, revision)) { /* once, or twice when the second is a tombstone */
        bp_rw_lock_exclusive(&path.leaf->node.lock);
        struct bp_older *older = bp_older_pop(item);
        bp_rw_unlock_exclusive(&path.leaf->node.lock);
        drop(index, older);
    }
    if (item->older == NULL && item->revision == revision && item->version == 0) {
        drop_item(index, &path, at, item);
    }
}

static void forget_all(struct bp_index *index, const struct bp_effect *effects, uint32_t n) {
    struct bp_slice keys[POP_GROUP];
    uint32_t k = 0;
    for (uint32_t i = 0; i < n; i++) {
        __builtin_prefetch(effects[i].item);
        __builtin_prefetch((const char *)effects[i].item + 64);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!keeps_all(effects[i].item, effects[i].revision)) {
            keys[k++] = bp_item_key(effects[i].item);
        }
    }
    bp_index_warm(index, keys, k);
    for (uint32_t i = 0; i < n; i++) {
        forget(index, effects[i].item, effects[i].revision);
    }
}

static void raise_trimmed(struct bp_history *history, uint64_t revision) {
    if (load(&history->trimmed) < revision) {
        atomic_store_explicit(&history->trimmed, revision, memory_order_release);
    }
}

bool bp_index_trim(struct bp_index *index, uint64_t revision, uint32_t max_effects) {
    struct bp_history *history = &index->history;
    struct bp_effect effects[POP_GROUP];
    while (max_effects > 0) {
        uint32_t n =
            pop(history, revision, effects, max_effects < POP_GROUP ? max_effects : POP_GROUP);
        if (n == 0) {
            break;
        }
        forget_all(index, effects, n);
        max_effects -= n;
    }
    uint64_t head = load(&history->head);
    if (head < load(&history->tail) && bp_history_effect(history, head)->revision <= revision) {
        raise_trimmed(history, bp_history_effect(history, head)->revision - 1);
        return true;
    }
    raise_trimmed(history, revision);
    return false;
}

uint64_t bp_index_trimmed(const struct bp_index *index) {
    return atomic_load_explicit(&index->history.trimmed, memory_order_acquire);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The first effect number in [low, tail) with revision >= `revision`. The caller holds the lock. */
static uint64_t first_at(const struct bp_history *history, uint64_t low, uint64_t tail,
                         uint64_t revision) {
    while (low < tail) {
        uint64_t middle = low + (tail - low) / 2;
        if (bp_history_effect(history, middle)->revision < revision) {
            low = middle + 1;
        } else {
            tail = middle;
        }
    }
    return low;
}

struct reading {
    uint64_t at; /* number of the next effect; valid once placed */
    bool placed;
    uint64_t through;
    uint64_t left;     /* effects before the next revision must not begin */
    uint64_t revision; /* of the last effect visited */
    bool finished;
    bp_history_visit visit;
    void *arg;
};

static int visit_effect(const struct bp_index *index, struct reading *reading,
                        const struct bp_effect *effect) {
    struct bp_version version, previous;
    struct bp_slice key = bp_item_key(effect->item);
    bool found = bp_index_get_exact(index, key, effect->revision, &version, &previous);
    assert(found); /* an effect in the queue has its version */
    (void)found;
    return reading->visit(reading->arg, effect->revision, key, &version, &previous);
}

/* One lock period. */
static int read_some(const struct bp_index *index, struct reading *reading) {
    const struct bp_history *history = &index->history;
    uint64_t tail = atomic_load_explicit(&history->tail, memory_order_acquire);
    for (uint32_t n = 0; n < EFFECTS_PER_LOCK; n++, reading->at++) {
        const struct bp_effect *effect =
            reading->at < tail ? bp_history_effect(history, reading->at) : NULL;
        bool next_revision = effect == NULL || effect->revision != reading->revision;
        if (effect == NULL || effect->revision > reading->through ||
            (next_revision && reading->left == 0)) {
            reading->finished = true;
            reading->revision = effect != NULL && effect->revision <= reading->through
                                    ? effect->revision
                                    : reading->through + 1;
            return 0;
        }
        reading->revision = effect->revision;
        int result = visit_effect(index, reading, effect);
        if (result != 0) {
            return result;
        }
        reading->left -= reading->left > 0;
    }
    return 0;
}

int bp_history_scan(const struct bp_index *index, uint64_t from, uint64_t through, uint32_t max,
                    uint64_t *next, bp_history_visit visit, void *arg) {
    const struct bp_history *history = &index->history;
    struct reading reading = {.through = through, .left = max, .visit = visit, .arg = arg};
    int result = 0;
    *next = from;
    while (result == 0 && !reading.finished) {
        lock_shared(history);
        uint64_t gone = history->popped_revision, trimmed = load(&history->trimmed);
        gone = gone > trimmed ? gone : trimmed;
        if (reading.placed ? reading.at < load(&history->head) : from <= gone) {
            result = BP_OUT_OF_RANGE;
        } else {
            if (!reading.placed) {
                reading.at =
                    first_at(history, load(&history->head),
                             atomic_load_explicit(&history->tail, memory_order_acquire), from);
                reading.placed = true;
            }
            result = read_some(index, &reading);
        }
        unlock(history);
    }
    if (reading.finished) {
        *next = reading.revision;
    } else if (reading.revision != 0) {
        *next = reading.revision; /* where the visitor stopped: this revision was not seen whole */
    }
    return result;
}

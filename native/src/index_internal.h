/*
 * What the parts of the index share: items, versions, nodes, locks. index.h is the interface.
 *
 *   item   | revision, create, at | older | size, crc, version | lease | key size | key ... |
 *                                     |                             54 bytes beside the key
 *                                     v  head             tail
 *            older versions:        [ v7 ] -> [ v6 ] -> [ v5 ]      `older` links
 *                                      '-------newer------^         and `newer` of v5 is v6
 *
 * `newer` of the head is the tail, of any other the version before it: both ends are a step away.
 * Every older version also has a `jump` 2^k versions down (k: the trailing zero bits of its depth),
 * so that a version of a key that is written a million times is found in a few dozen steps. A jump
 * past the tail dangles: depths tell, never the pointer.
 *
 * Who guards what
 *   node.lock     every field of a node; of an item in a leaf: its version fields, lease slot and
 *                 older versions. The applier, being the only one to write them, reads without it.
 *                 `at` alone is written by others too (relocate, under the shared lock) and so is
 *                 atomic everywhere.
 *   item.key      constant from creation; no item leaves while the history's lock is held and an
 *                 effect in the queue names it.
 *   lease_place, attachments, hash, counters
 *                 the applier's own (any thread may read the counters, and the id of a slot that an
 *                 item it has under lock is attached to).
 */
#ifndef BP_INDEX_INTERNAL_H
#define BP_INDEX_INTERNAL_H

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "index.h"
#include "limits.h"
#include "slab.h"

/* ---- the lock of a node ---------------------------------------------------------------------- */

/*
 * Readers count in the low bits; the one writer sets the high bit, which keeps new readers out, and
 * waits for the count to drop. Nothing blocks or waits for I/O under it, so waiting is a short spin
 * and then giving up the processor.
 */
#define BP_RW_WRITER 0x80000000u

typedef _Atomic uint32_t bp_rw_lock;

static inline void bp_rw_pause(uint32_t *spins) {
    if (++*spins < 64) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ __volatile__("yield");
#endif
    } else {
        sched_yield();
    }
}

static inline void bp_rw_lock_shared(bp_rw_lock *lock) {
    uint32_t spins = 0;
    while ((atomic_fetch_add_explicit(lock, 1, memory_order_acquire) & BP_RW_WRITER) != 0) {
        atomic_fetch_sub_explicit(lock, 1, memory_order_relaxed);
        while ((atomic_load_explicit(lock, memory_order_relaxed) & BP_RW_WRITER) != 0) {
            bp_rw_pause(&spins);
        }
    }
}

static inline void bp_rw_unlock_shared(bp_rw_lock *lock) {
    atomic_fetch_sub_explicit(lock, 1, memory_order_release);
}

static inline void bp_rw_lock_exclusive(bp_rw_lock *lock) {
    uint32_t spins = 0;
    atomic_fetch_or_explicit(lock, BP_RW_WRITER, memory_order_acquire);
    while (atomic_load_explicit(lock, memory_order_acquire) != BP_RW_WRITER) {
        bp_rw_pause(&spins);
    }
}

static inline void bp_rw_unlock_exclusive(bp_rw_lock *lock) {
    atomic_fetch_and_explicit(lock, ~BP_RW_WRITER, memory_order_release);
}

/* ---- items and versions ---------------------------------------------------------------------- */

struct bp_older {
    uint64_t revision;
    uint64_t create_revision;
    _Atomic uint64_t at; /* bp_pos_u64 */
    uint64_t lease;
    uint32_t size;
    uint32_t crc;
    uint32_t version; /* 0: a tombstone */
    uint32_t depth;   /* one more than the version below it when it was pushed; wraps */
    struct bp_older *older, *newer, *jump;
};

struct bp_item {
    uint64_t revision; /* of the newest version */
    uint64_t create_revision;
    _Atomic uint64_t at;
    struct bp_older *older; /* the head, or NULL */
    uint32_t size;
    uint32_t crc;
    uint32_t version;     /* 0: a tombstone */
    uint32_t lease_slot;  /* 0: none */
    uint32_t lease_place; /* where the lease's list holds this item */
    uint16_t key_size;
    uint8_t key[];
};

enum { BP_ITEM_HEADER = offsetof(struct bp_item, key) };

_Static_assert(BP_ITEM_HEADER == 54, "54 bytes beside each key");

static inline size_t bp_item_bytes(size_t key_size) { return BP_ITEM_HEADER + key_size; }

static inline struct bp_slice bp_item_key(const struct bp_item *item) {
    return bp_slice(item->key, item->key_size);
}

static inline bool bp_item_live(const struct bp_item *item) { return item->version != 0; }

static inline struct bp_pos bp_pos_of(uint64_t at) {
    struct bp_pos pos = {.segment = (uint32_t)(at >> 32), .offset = (uint32_t)at};
    return pos;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/*
 * Every key that the tree routes to a leaf begins with the `skip` bytes its two fences (the
 * separators left and right of it in its ancestors) have in common; a fence at the edge of the tree
 * is absent, and skip 0. So a search in a leaf never needs to look at a key to check the prefix. In
 * an inner node `skip` bytes are common to its separators, and a search compares them with the
 * first.
 */
enum { BP_LEAF_FANOUT = 63, BP_INNER_FANOUT = 255, BP_TREE_HEIGHT_MAX = 16 };

struct bp_node {
    bp_rw_lock lock;
    uint16_t skip;
    uint8_t count; /* items, or separators */
    uint8_t level; /* 0: a leaf */
};

struct bp_leaf {
    struct bp_node node;
    uint32_t heads[BP_LEAF_FANOUT];
    struct bp_item *items[BP_LEAF_FANOUT];
};

struct bp_separator {
    uint16_t size;
    uint8_t bytes[];
};

struct bp_inner {
    struct bp_node node;
    uint32_t heads[BP_INNER_FANOUT];
    struct bp_separator
        *separators[BP_INNER_FANOUT]; /* child i holds keys >= separator i - 1 and < separator i */
    struct bp_node *children[BP_INNER_FANOUT + 1];
};

_Static_assert(sizeof(struct bp_leaf) == 768, "a leaf is 12 cache lines");

static inline struct bp_slice bp_separator_key(const struct bp_separator *separator) {
    return bp_slice(separator->bytes, separator->size);
}

/*
 * The four bytes after the first `skip`, big-endian, padded with zeros: heads order as keys do, up
 * to ties.
 */
static inline uint32_t bp_head_of(struct bp_slice key, size_t skip) {
    size_t n = key.size - skip;
    if (n >= 4) {
        const uint8_t *p = key.data + skip;
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    uint32_t head = 0;
    for (size_t i = 0; i < n; i++) {
        head |= (uint32_t)key.data[skip + i] << (24 - 8 * i);
    }
    return head;
}

static inline uint16_t bp_common_prefix(struct bp_slice a, struct bp_slice b) {
    size_t n = a.size < b.size ? a.size : b.size, i = 0;
    while (i < n && a.data[i] == b.data[i]) {
        i++;
    }
    return (uint16_t)i;
}

static inline struct bp_leaf *bp_leaf_of(struct bp_node *node) {
    assert(node->level == 0);
    return (struct bp_leaf *)node;
}

static inline struct bp_inner *bp_inner_of(struct bp_node *node) {
    assert(node->level > 0);
    return (struct bp_inner *)node;
}

/* ---- leases ---------------------------------------------------------------------------------- */

enum { BP_ATTACHMENT_CHUNKS = 26, BP_ATTACHMENT_CHUNK_FIRST = 64 };

struct bp_attachment_list {
    uint64_t id; /* 0: a free slot; `count` is then the next free one */
    uint32_t count;
    uint32_t capacity;
    union {
        struct bp_item *one; /* capacity 1 */
        struct bp_item **many;
    } items;
};

/*
 * Chunk k holds BP_ATTACHMENT_CHUNK_FIRST << k slots and never moves: a reader may look up the id
 * of an attached item's slot.
 */
struct bp_attachments {
    struct bp_slab *slab;
    struct bp_attachment_list *chunks[BP_ATTACHMENT_CHUNKS];
    uint32_t *table; /* id -> slot, open addressing; 0 empty */
    uint32_t table_size;
    uint32_t chunk_count;
    uint32_t used; /* slots with an id */
    uint32_t high; /* slots ever handed out, slot 0 (none) included */
    uint32_t free; /* first free slot, or 0 */
};

/* ---- history --------------------------------------------------------------------------------- */

enum { BP_HISTORY_CHUNK = 1024 };

struct bp_effect {
    uint64_t revision;
    struct bp_item *item;
};

/*
 * Effect number s lies in ring[(s / CHUNK) & mask][s % CHUNK]. Effects [head, tail) exist. The
 * applier appends without the lock (tail is released after the effect is written); what moves or
 * frees memory takes it exclusively.
 */
struct bp_history {
    pthread_rwlock_t lock;
    struct bp_effect **ring;
    uint64_t ring_size; /* a power of two, or 0 */
    _Atomic uint64_t head, tail;
    bool spare;               /* the chunk for the tail is there though the tail is not in it yet */
    uint64_t popped_revision; /* of the newest effect that was popped (lock) */
    _Atomic uint64_t trimmed;
    struct bp_slab slab;
};

/* ---- the index ------------------------------------------------------------------------------- */

struct bp_counters {
    _Atomic uint64_t keys, items, versions, key_bytes, live_value_bytes, history_value_bytes;
};

/*
 * The newest revision at which any of the keys that share the stamp changed. Few enough to stay in
 * the processor's caches, many enough that a row of the value cache outlives writes to other keys.
 */
enum { BP_STAMPS = 1 << 18 };

struct bp_index {
    bp_rw_lock root_lock; /* guards root */
    struct bp_node *root;
    uint8_t apart[48]; /* readers write the line above */

    struct bp_index_hooks hooks;
    _Atomic uint64_t *stamps; /* BP_STAMPS of them; the applier stores */
    uint64_t loaded;          /* the newest revision out of a checkpoint: those left no stamps */
    uint8_t between[32];      /* nobody writes the line above, the applier those below */

    uint64_t hash[2];
    struct bp_slab slab;
    struct bp_attachments leases;
    struct bp_history history;
    struct bp_counters counters;
};

static inline _Atomic uint64_t *bp_stamp_of(const struct bp_index *index, uint64_t hash) {
    return &index->stamps[hash & (BP_STAMPS - 1)];
}

/* Only the applier changes counters, so these are no read-modify-write instructions. */
static inline void bp_counter_add(_Atomic uint64_t *counter, uint64_t n) {
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static inline void bp_counter_sub(_Atomic uint64_t *counter, uint64_t n) {
    bp_counter_add(counter, 0 - n);
}

/* ---- index_item.c ---------------------------------------------------------------------------- */

struct bp_item *bp_item_new(struct bp_index *index, struct bp_slice key);
void bp_item_free(struct bp_index *index, struct bp_item *item);
/* The newest version of an item nobody else knows yet. */
void bp_item_write(struct bp_item *item, const struct bp_version *version, uint32_t slot);
void bp_item_version(const struct bp_index *index, const struct bp_item *item,
                     struct bp_version *version);
void bp_older_version(const struct bp_older *older, struct bp_version *version);
/* The newest of the list with revision <= `revision`, or NULL. `head` may be NULL. */
struct bp_older *bp_older_find(struct bp_older *head, uint64_t revision);
/* Make `older` the head of the item's list. */
void bp_older_push(struct bp_item *item, struct bp_older *older);
/* Take off the tail. The list is not empty. */
struct bp_older *bp_older_pop(struct bp_item *item);
static inline struct bp_older *bp_older_tail(const struct bp_item *item) {
    return item->older == NULL ? NULL : item->older->newer;
}
/* The version visible at `revision`, tombstones included; false when the key had none. */
bool bp_item_at(const struct bp_index *index, const struct bp_item *item, uint64_t revision,
                struct bp_version *version);

/* ---- index_tree.c ---------------------------------------------------------------------------- */

struct bp_path {
    struct bp_leaf *leaf;
    uint32_t height; /* inner nodes above the leaf, the root first */
    struct {
        struct bp_inner *node;
        uint32_t child;
    } at[BP_TREE_HEIGHT_MAX];
};

/* A copy of a separator, to go on from after its node was unlocked. */
struct bp_fence {
    bool present;
    uint16_t size;
    uint8_t bytes[BP_STORED_KEY_MAX];
};

/* The applier: to the leaf where `key` belongs, without locks. */
void bp_tree_descend(const struct bp_index *index, struct bp_slice key, struct bp_path *path);
/* To the last leaf. */
void bp_tree_descend_last(const struct bp_index *index, struct bp_path *path);
/* Fences of the leaf at the end of a path; false when it lies at that edge of the tree. */
bool bp_path_low(const struct bp_path *path, uint32_t level, struct bp_slice *fence);
bool bp_path_high(const struct bp_path *path, uint32_t level, struct bp_slice *fence);
/*
 * First position in a leaf whose key is >= key; *equal says whether it is that key. `key` is routed
 * to this leaf or is its high fence.
 */
uint32_t bp_leaf_search(const struct bp_leaf *leaf, struct bp_slice key, bool *equal);
/* A reader: the leaf where `key` belongs, locked shared. */
struct bp_leaf *bp_tree_lock_leaf(const struct bp_index *index, struct bp_slice key);
/* As above, copying the leaf's high fence. */
struct bp_leaf *bp_tree_lock_forward(const struct bp_index *index, struct bp_slice key,
                                     struct bp_fence *high);
/* The leaf with the keys right before `key` (NULL: the last leaf), copying its low fence. */
struct bp_leaf *bp_tree_lock_backward(const struct bp_index *index, const struct bp_slice *key,
                                      struct bp_fence *low);
void bp_tree_unlock(const struct bp_leaf *leaf);
/* ---- index_shape.c --------------------------------------------------------------------------- */

int bp_tree_init(struct bp_index *index);
/*
 * Make room for one more at position `at` of the path's leaf, splitting as needed; path and *at are
 * renewed. False: out of memory or too high.
 */
bool bp_tree_make_room(struct bp_index *index, struct bp_slice key, struct bp_path *path,
                       uint32_t *at);
/* Put the item at its place; there is room. */
void bp_tree_insert(struct bp_leaf *leaf, uint32_t at, struct bp_item *item);
/* Take the item at `at` out of the path's leaf, merging what has become too empty. */
void bp_tree_remove(struct bp_index *index, struct bp_path *path, uint32_t at);

/* ---- index_lease.c --------------------------------------------------------------------------- */

void bp_attachments_init(struct bp_attachments *leases, struct bp_slab *slab);
/* The slot of `id` with room for one more item; 0 when memory is out. */
uint32_t bp_attachment_reserve(struct bp_attachments *leases, uint64_t id);
/* Give back what a reserve made, if nothing was attached. */
void bp_attachment_unreserve(struct bp_attachments *leases, uint32_t slot);
uint32_t bp_attachment_find(const struct bp_attachments *leases, uint64_t id);
uint64_t bp_attachment_id(const struct bp_attachments *leases, uint32_t slot);
/* The caller sets item->lease_slot, under the leaf's lock; these keep the lists and lease_place. */
void bp_attach(struct bp_attachments *leases, uint32_t slot, struct bp_item *item);
void bp_detach(struct bp_attachments *leases, uint32_t slot, struct bp_item *item);
struct bp_item *const *bp_attachment_items(const struct bp_attachments *leases, uint32_t slot,
                                           uint32_t *count);
const char *bp_attachments_check(const struct bp_attachments *leases, uint64_t *attached);

/* ---- index_hash.c ---------------------------------------------------------------------------- */

struct bp_key_hash {
    uint64_t lane[2];
};

struct bp_key_hash bp_hash_key(struct bp_slice key);
/* The first lane of it alone. */
uint64_t bp_hash_key_lane(struct bp_slice key);
/* Add to, or take from, `sum` the term of one live version. */
void bp_hash_add(uint64_t sum[2], const struct bp_key_hash *key, const struct bp_version *version);
void bp_hash_sub(uint64_t sum[2], const struct bp_key_hash *key, const struct bp_version *version);

/* ---- index_history.c ------------------------------------------------------------------------- */

int bp_history_init(struct bp_history *history);
void bp_history_destroy(struct bp_history *history);
/* Room for one more effect; then push cannot fail. */
bool bp_history_reserve(struct bp_history *history);
void bp_history_push(struct bp_history *history, uint64_t revision, struct bp_item *item);
struct bp_effect *bp_history_effect(const struct bp_history *history, uint64_t number);
/*
 * Fill an empty history with effects in order of revision; everything <= floor counts as trimmed.
 * False: out of memory.
 */
bool bp_history_fill(struct bp_history *history, const struct bp_effect *effects, uint64_t n,
                     uint64_t floor);

#endif

/*
 * The index: every key in memory, in order, with all its retained versions. Values stay in
 * segments.
 *
 * Keys here are stored keys: one keyspace byte, then the client's key (1 .. BP_STORED_KEY_MAX
 * bytes).
 *
 *   B+tree leaf [head u32 x F][item* x F]
 *       head: four key bytes after the node's common prefix, big-endian, so that a
 *        |
 *            search touches the node only and compares whole keys on a tie
 *        v
 *   item: newest version inline | older -> version -> version | lease slot, lease position | key
 *   bytes
 *
 * Threads: one applier changes it; any number of readers. A reader holds one node's lock at a time
 * and copies out what it needs (versions are plain values); a visitor runs under the leaf's lock
 * and must only copy. Lock order: history, then nodes top-down.
 *
 * Stamps say, by a hash of the key, how lately a key may have changed: with one, a reader that
 * remembers the newest version of a key knows whether it still is (value_rows.h).
 *
 * A version is visible at revision R when it is the newest of its key with revision <= R; a
 * tombstone hides the key. Nothing is visible to readers at R before the applier publishes R
 * (store.h): a request's effects appear together.
 */
#ifndef BP_INDEX_H
#define BP_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "error.h"
#include "segment.h"

struct bp_value_ref {
    /* first byte of the value; a value above BP_CRC_CHUNK has its CRC table right before it */
    struct bp_pos at;
    uint32_t size;
    uint32_t crc; /* of the value, or of its CRC table */
};

enum { BP_VERSION_TOMBSTONE = 1 };

struct bp_version {
    uint64_t revision;        /* mod_revision */
    uint64_t create_revision; /* 0 for a tombstone */
    uint64_t lease;           /* 0 none */
    uint32_t version;         /* 1 at creation; 0 for a tombstone */
    uint32_t flags;
    struct bp_value_ref value;
};

struct bp_index;

struct bp_index_hooks {
    void *ctx;
    /*
     * A version (not a tombstone) left the index: its value is dead. Called by the thread that
     * trims.
     */
    void (*dead)(void *ctx, const struct bp_value_ref *value);
};

struct bp_index_stats {
    uint64_t keys;  /* with a live newest version */
    uint64_t items; /* including those whose newest version is a tombstone */
    uint64_t versions;
    /* items, nodes, old versions, lease lists (allocated, slack included) */
    uint64_t memory_bytes;
    uint64_t history_effects;
    uint64_t history_memory_bytes;
    uint64_t history_value_bytes; /* bytes of values only history keeps */
    uint64_t key_bytes;           /* sum of stored key sizes */
    uint64_t live_value_bytes;
};

struct bp_index *bp_index_new(const struct bp_index_hooks *hooks);
void bp_index_free(struct bp_index *index);
/* any thread */
void bp_index_get_stats(const struct bp_index *index, struct bp_index_stats *stats);

/* ---- the applier ----------------------------------------------------------------------------- */

/* Bring the paths of these keys into the processor's caches, interleaved; changes nothing. */
void bp_index_warm(const struct bp_index *index, const struct bp_slice *keys, uint32_t n);
/*
 * Set key at `revision` (> every revision of that key). `lease` 0 none; keep_lease takes the
 * previous version's lease.
 * *previous is the version that was newest (version 0 when the key was absent or deleted).
 * RESOURCE_EXHAUSTED/OUT_OF_MEMORY only; then nothing changed.
 */
int bp_index_put(struct bp_index *index, struct bp_slice key, uint64_t revision, uint64_t lease,
                 bool keep_lease, const struct bp_value_ref *value, struct bp_version *previous,
                 struct bp_error *err);
/*
 * Adds a tombstone if the key is live. 1 deleted, 0 was absent, negative never; -1 out of memory.
 */
int bp_index_delete(struct bp_index *index, struct bp_slice key, uint64_t revision,
                    struct bp_version *previous);
/*
 * The newest version, ignoring publication; false when absent or a tombstone. The applier's own
 * look-up (no locks).
 */
bool bp_index_newest(const struct bp_index *index, struct bp_slice key, struct bp_version *version);
/*
 * The next live key >= start and < end (applier's own, no locks): copies it to buf
 * (BP_STORED_KEY_MAX). false at the end.
 */
bool bp_index_next_live(const struct bp_index *index, struct bp_slice start, struct bp_slice end,
                        uint8_t *buf, struct bp_slice *key, struct bp_version *version);
/*
 * Forget what nobody at or above `revision` can see: of each key changed at or below it, versions
 * older than the newest one <= revision, tombstones too. Bounded: at most max_effects steps;
 * returns true while more is to do. `revision` never falls.
 */
bool bp_index_trim(struct bp_index *index, uint64_t revision, uint32_t max_effects);
/* every effect <= this has left the history */
uint64_t bp_index_trimmed(const struct bp_index *index);
/*
 * Keys attached to a lease now: copies up to n keys (as slices into buf) in insertion-independent,
 * key order is NOT promised; returns how many exist.
 */
uint64_t bp_index_lease_count(const struct bp_index *index, uint64_t lease);
/*
 * Visits the keys attached to `lease`; applier thread, or any thread under the caller's promise
 * that the applier rests.
 */
int bp_index_lease_visit(const struct bp_index *index, uint64_t lease,
                         int (*visit)(void *arg, struct bp_slice key), void *arg);
/*
 * 128-bit sum over live newest versions of H(key, revision, create_revision, version, lease, size,
 * crc): independent of layout and order.
 */
void bp_index_state_hash(const struct bp_index *index, uint64_t hash[2]);
/* The term of one version in that sum, for recomputation by scrub. */
void bp_index_hash_version(struct bp_slice key, const struct bp_version *version, uint64_t hash[2]);

/* ---- the cleaner ----------------------------------------------------------------------------- */

/* The version of `key` with exactly this revision and this place, retained. Any thread. */
bool bp_index_refers(const struct bp_index *index, struct bp_slice key, uint64_t revision,
                     struct bp_pos at, struct bp_version *version);
/*
 * Point that version at `to` (same size and crc). False when it is gone or lies elsewhere. Safe
 * beside the applier and readers.
 */
bool bp_index_relocate(struct bp_index *index, struct bp_slice key, uint64_t revision,
                       struct bp_pos from, struct bp_pos to);

/* ---- readers --------------------------------------------------------------------------------- */

/* What the stamps go by; of no other meaning. */
uint64_t bp_index_key_hash(struct bp_slice key);
/*
 * No lower than the newest revision that changed a key of this hash (keys share stamps). Stamped
 * before the revision is published: whoever reads it after a published revision knows of all
 * changes up to that one. For the thread that took the view.
 */
uint64_t bp_index_changed(const struct bp_index *index, uint64_t hash);
/* Visible version at `revision`; false when there is none. */
bool bp_index_get(const struct bp_index *index, struct bp_slice key, uint64_t revision,
                  struct bp_version *version);
/*
 * The version written exactly at `revision` (tombstones included), and the one it replaced (may be
 * NULL; version 0 if none retained).
 */
bool bp_index_get_exact(const struct bp_index *index, struct bp_slice key, uint64_t revision,
                        struct bp_version *version, struct bp_version *previous);

typedef int (*bp_index_visit)(void *arg, struct bp_slice key, const struct bp_version *version);
/*
 * Visit what is visible at `revision` in [start, end) (end empty: to the end of the index),
 * ascending or, with reverse, descending. Goes leaf by leaf. A non-zero return stops and is
 * returned.
 */
int bp_index_scan(const struct bp_index *index, struct bp_slice start, struct bp_slice end,
                  uint64_t revision, bool reverse, bp_index_visit visit, void *arg);
/*
 * Every version with floor-visible or newer content: per key, ascending keys, versions newest
 * first, revision <= `through`, down to and including the newest one <= floor (left out when that
 * one is a tombstone). For checkpoints, backups.
 */
int bp_index_scan_versions(const struct bp_index *index, struct bp_slice start, uint64_t floor,
                           uint64_t through, bp_index_visit visit, void *arg);
/*
 * Effects with from <= revision <= through in order of revision (within one revision in the order
 * they were applied; after a load in order of key). The version is as of that revision, `previous`
 * what it replaced (version 0: nothing, or a tombstone). After `max` effects no further revision is
 * begun: one that was begun is given whole. Returns the visitor's non-zero, or 0; *next is where to
 * go on: the first revision not begun (through + 1 when finished), or the one the visitor stopped
 * in. OUT_OF_RANGE (11) when `from` is trimmed, in whole or in part.
 */
typedef int (*bp_history_visit)(void *arg, uint64_t revision, struct bp_slice key,
                                const struct bp_version *version,
                                const struct bp_version *previous);
int bp_history_scan(const struct bp_index *index, uint64_t from, uint64_t through, uint32_t max,
                    uint64_t *next, bp_history_visit visit, void *arg);

/* ---- loading a checkpoint -------------------------------------------------------------------- */

/*
 * Append a key above all others with its versions, newest first. Then finish once: rebuilds leases
 * and history (effects > floor).
 */
int bp_index_load(struct bp_index *index, struct bp_slice key, const struct bp_version *versions,
                  uint32_t n, struct bp_error *err);
int bp_index_load_finish(struct bp_index *index, uint64_t floor, struct bp_error *err);

/*
 * Walks the whole tree and every list and asserts the invariants above; returns a text of the first
 * violation or NULL. Tests and fuzzers.
 */
const char *bp_index_check(const struct bp_index *index);

#endif

/*
 * Intervals: sets of key ranges, asked which of them hold a key. What the watches of a store are
 * found by.
 *
 *   [k, k+0)   one key       hash of the key -> chain
 *   [a, z)     a range
 *       treap by (start, serial), each node knowing the interval of its subtree that ends last
 *
 * Intrusive: the caller owns the nodes, so adding cannot fail. A look-up costs O(log n + found).
 * One thread at a time.
 */
#ifndef BP_INTERVAL_H
#define BP_INTERVAL_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"

struct bp_interval {
    struct bp_slice start,
        end; /* set by the owner: start < end, neither changes nor moves while it is in a set */
    /* the set's own */
    bool single;
    uint64_t serial, priority, hash;
    struct bp_interval *left, *right; /* range; in a chain `right` is the next one */
    struct bp_interval *last;         /* of this subtree, the one that ends last */
};

enum { BP_INTERVALS_FIRST = 64 };

struct bp_intervals {
    uint64_t seed, next_serial, singles;
    struct bp_interval *root;
    uint64_t mask; /* chains - 1 */
    struct bp_interval **chains;
    struct bp_interval *first_chains[BP_INTERVALS_FIRST];
};

/*
 * `seed` should be random: chains cannot be made long on purpose then. The set must not move in
 * memory.
 */
void bp_intervals_init(struct bp_intervals *set, uint64_t seed);
/* The nodes stay the caller's. */
void bp_intervals_destroy(struct bp_intervals *set);
void bp_intervals_add(struct bp_intervals *set, struct bp_interval *interval);
void bp_intervals_remove(struct bp_intervals *set, struct bp_interval *interval);
/* Every interval with start <= key < end, in no order. `visit` must not change the set. */
void bp_intervals_visit(const struct bp_intervals *set, struct bp_slice key,
                        void (*visit)(void *arg, struct bp_interval *interval), void *arg);
/* NULL, or the first invariant found broken. For tests. */
const char *bp_intervals_check(const struct bp_intervals *set);

#endif

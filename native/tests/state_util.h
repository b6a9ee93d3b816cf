/*
 * The whole replicated state of a store as bytes, for comparing it before and after; and looks at
 * its directory.
 */
#ifndef BP_TESTS_STATE_UTIL_H
#define BP_TESTS_STATE_UTIL_H

#include "../src/buffer.h"
#include "store_util.h"

/*
 * Everything a client could tell apart: every retained version with its value's bytes (each read
 * and verified), the history's effects, leases, request ids, revisions, cluster id, state hash. Not
 * where values lie, nor indexes: a restart adds an empty entry.
 */
struct bp_buffer state_of(struct bp_store *store);
/* Fails the test, naming the first difference, unless both are the same. Frees both. */
void state_must_equal(struct bp_buffer before, struct bp_buffer after);

/* Files in the store's directory whose name ends in `suffix`, and the bytes they take. */
struct dir_use {
    uint32_t files;
    uint64_t bytes;
};
struct dir_use dir_use(struct bp_store *store, const char *suffix);
/* Path of the n-th newest checkpoint (0: the newest); false when there is none. */
bool checkpoint_path(struct bp_store *store, uint32_t n, char path[4224]);

/* Cleaning steps until there is nothing to do (at most 100,000). */
void clean_all(struct bp_store *store);
/* Checkpoints as they fall due, and cleaning, until neither has anything to do. */
void settle(struct bp_store *store);
void must_checkpoint(struct bp_store *store);

/* A pseudo-random number; the same sequence for the same seed. */
uint64_t test_random(uint64_t *seed);

#endif

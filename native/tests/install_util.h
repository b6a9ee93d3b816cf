/* What the tests of snapshots share: two stores, and the way from one to the other. */
#ifndef BP_TESTS_INSTALL_UTIL_H
#define BP_TESTS_INSTALL_UTIL_H

#include "../src/install.h"
#include "state_util.h"

/* A store with something of everything: as in test_checkpoint, smaller. */
void install_fill(struct bp_store *store, uint64_t seed, uint32_t writes);
/* A whole manifest as bytes; *index may be NULL. */
struct bp_buffer manifest_of(struct bp_store *store, uint64_t *index);
/* Its bytes in pieces of `piece`; the code of the first that fails. */
int install_take(struct bp_install *install, struct bp_buffer manifest, size_t piece,
                 struct bp_error *err);
/*
 * Asks and answers until all is there: BP_OK, or the first error; NOT_FOUND when an answer brought
 * nothing. At most `batches` answers (then BP_CANCELLED).
 */
int install_values(struct bp_install *install, struct bp_store *sender, uint32_t batches,
                   struct bp_error *err);
/* All of it, finish included; the install is freed. */
int install_all(struct bp_store *receiver, struct bp_store *sender, struct bp_install_state *state,
                struct bp_error *err);
/* A clean stop, and the store again. */
struct bp_store *install_reopen(struct bp_sim *sim, const struct bp_options *options,
                                struct bp_store *store);

#endif

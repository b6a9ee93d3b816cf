/* The steps of opening a store, one file each; store.c puts them in order. */
#ifndef BP_STORE_OPEN_H
#define BP_STORE_OPEN_H

#include "store.h"

/* ---- store_options.c: what may be configured ------------------------------------------------- */

/* Zeros become the defaults of bedplate.h. */
void bp_options_fill(struct bp_options *options);
/* INVALID_ARGUMENT naming the option. */
int bp_options_check(const struct bp_options *options, struct bp_error *err);
/* store->limits and store->format_limits, from store->options. */
void bp_store_fill_limits(struct bp_store *store);

/* ---- store_parts.c: what every store is made of, a bare one too ------------------------------ */

/*
 * Locks, segments, index, leases, request ids, hub, value cache; store->disk, dir and options are
 * set. RESOURCE_EXHAUSTED: free what there is.
 */
int bp_store_parts_make(struct bp_store *store, const struct bp_index_hooks *hooks,
                        struct bp_error *err);
/* Those, whatever else the keeper holds in memory, and the log; lets go of LOCK. Not the disk. */
void bp_store_parts_free(struct bp_store *store);

/* ---- store_identity.c: whose directory it is ------------------------------------------------- */

/*
 * Reads store->store_id, or mints one for a directory where nothing was finished yet (*fresh).
 * *unsynced: the last owner ran in interval mode and did not stop cleanly.
 */
int bp_store_identify(struct bp_store *store, bool *fresh, bool *unsynced, struct bp_error *err);

/* ---- store_recover.c: from the files to a state that may serve ------------------------------- */

/*
 * As far as is known to be committed: of a single member everything, else what HARDSTATE says; the
 * rest is in the table of a cluster's driver, which is installed.
 */
int bp_store_recover(struct bp_store *store, bool fresh, bool unsynced, struct bp_error *err);
/*
 * Everything the files hold, committed or not; behind it, durable in one frame, this member as the
 * only one of a cluster with a new id, and the revision jumped (STORAGE.md 5). No driver.
 * FAILED_PRECONDITION for a member that has received nothing.
 */
int bp_store_take_over(struct bp_store *store, struct bp_error *err);

/* ---- recover.c: a survivor's store as a cluster of its own ------------------------------------ */

/* bp_recover on that disk, which is freed. */
int bp_recover_on(struct bp_disk *disk, const struct bp_options *options, struct bp_recovered *out,
                  struct bp_error *err);

#endif

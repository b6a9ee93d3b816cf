/*
 * A bare store: the state and the segment table of a store, without log, threads or clients.
 * Offline work (restore, fsck) fills one, or reads one, through the same functions the running
 * store uses.
 */
#ifndef BP_BARE_STORE_H
#define BP_BARE_STORE_H

#include "store.h"

/*
 * `disk` stays the caller's. Nothing on it is touched. Zero segment_size and request_ids_max get
 * their defaults.
 */
int bp_bare_store_new(const struct bp_options *options, struct bp_disk *disk, const char *dir,
                      struct bp_store **store, struct bp_error *err);
/* Also closes store->log, if one was opened, and store->lock_fd. */
void bp_bare_store_free(struct bp_store *store);

#endif

/*
 * An overlay: a directory that looks writable and is not. What is made, renamed or removed in it
 * happens in memory, over the files that are there; so offline checks can run the production code
 * on a directory without changing it.
 */
#ifndef BP_OVERLAY_H
#define BP_OVERLAY_H

#include "error.h"
#include "io.h"

struct bp_overlay;

/* `base` must outlive it. One directory, plain files, one thread. */
int bp_overlay_new(struct bp_disk *base, const char *dir, struct bp_overlay **overlay,
                   struct bp_error *err);
void bp_overlay_free(struct bp_overlay *overlay);
/*
 * A disk of its own, which whoever gets it frees before the overlay; NULL when out of memory.
 * Locking always succeeds on it.
 */
struct bp_disk *bp_overlay_disk(struct bp_overlay *overlay);

#endif

/*
 * What the files of the keeper share: checkpoint.c, checkpoint_load.c, clean.c, reserve.c,
 * compact.c, keeper.c.
 */
#ifndef BP_KEEPER_H
#define BP_KEEPER_H

#include "store.h"

/* ---- keeper.c -------------------------------------------------------------------------------- */

/*
 * Long work of the keeper calls this between bounded pieces, keeper.mutex held: runs the tick if it
 * is due, then rests for rest_percent of busy_ns, so that clients keep the disk and the processor.
 * Nothing with options.manual.
 */
void bp_keeper_breathe(struct bp_store *store, uint64_t busy_ns, uint32_t rest_percent);
/* One round of the thread, keeper.mutex held; true: it ended with work left. */
bool bp_keeper_round(struct bp_store *store);
/* True once the store is closing: long work gives up. */
bool bp_keeper_stopping(struct bp_store *store);

/* ---- clean.c --------------------------------------------------------------------------------- */

/*
 * How much of its time cleaning should rest, in percent of the time it worked: less the more
 * garbage there is, 0 on a full disk.
 */
uint32_t bp_clean_rest_percent(const struct bp_store *store);
/* Unlinks one segment that nothing needs any more; false: there is none. keeper.mutex held. */
bool bp_clean_reap(struct bp_store *store);
/*
 * The last step copied, unlinked or looked for something. Trimming is not followed by rests: it
 * must keep up with the writers.
 */
bool bp_clean_worked(const struct bp_store *store);
/*
 * From bp_checkpoint_load: versions of the checkpoint hold `live` bytes in `segment`, which may not
 * be in the table yet. Once the log is open, bp_clean_attach (from bp_keeper_start) gives every
 * segment its share. -1 out of memory.
 */
int bp_clean_note_live(struct bp_store *store, uint32_t segment, uint64_t live);
int bp_clean_attach(struct bp_store *store, struct bp_error *err);
/* True when the history holds an effect with after < revision <= through. */
bool bp_history_between(const struct bp_store *store, uint64_t after, uint64_t through);

/* ---- reserve.c ------------------------------------------------------------------------------- */

/* bp_disk_write by checkpoints and cleaning: a full disk is met with pieces of the reserve. */
int bp_reserve_write(struct bp_store *store, int site, int fd, const void *buf, size_t n,
                     uint64_t offset);

#endif

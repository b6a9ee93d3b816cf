/*
 * Read sections: how a reader keeps a segment's file handle alive without a lock.
 *
 *   reader:   enter -> look up the index -> pread the value -> leave
 *   cleaner:  point the index elsewhere -> epoch advance -> (later) epoch passed? -> close and
 *   unlink
 *
 * Two counters, one of them current. `advance` makes the other one current once it has drained;
 * `passed` says whether every reader that entered before a given advance has left. A read section
 * is short: one look-up, one bounded scan step.
 */
#ifndef BP_EPOCH_H
#define BP_EPOCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct bp_epoch {
    _Atomic uint64_t current; /* grows; its low bit picks the counter new readers use */
    _Atomic int64_t readers[2];
};

/* Returns the token to leave with. */
uint32_t bp_epoch_enter(struct bp_epoch *epoch);
void bp_epoch_leave(struct bp_epoch *epoch, uint32_t token);
/*
 * One thread (the keeper) calls these. The ticket of a change made before the call: `passed` turns
 * true when no earlier reader is left.
 */
uint64_t bp_epoch_ticket(struct bp_epoch *epoch);
/*
 * Non-blocking: advances where it can and says whether the ticket has passed. Call it again later
 * when false.
 */
bool bp_epoch_passed(struct bp_epoch *epoch, uint64_t ticket);

#endif

/*
 * Watches: who wants to hear of which keys, and from where. Nothing is buffered for a watch: it
 * reads the history when it is asked.
 *
 *   applier: effect on key k at revision r --note--> every watch whose range holds k and that is
 *   clean is marked dirty from r
 *   publish
 *       --wake--> one completion for each newly dirty watch that waits
 *   client:  bp_watch_next: history from the watch's revision, filtered, until a response is full
 *   or the present is reached
 *
 * A watch is clean at R when no effect <= R in its range is unread; then it may skip to the first
 * noted revision. One whose next revision is at or below the compaction revision, or more than
 * watch_lag_max effects behind, is cancelled with the revision to resume from.
 */
#ifndef BP_WATCH_H
#define BP_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"

struct bp_hub;
struct bp_store;

struct bp_hub *bp_hub_new(struct bp_store *store);
void bp_hub_free(struct bp_hub *hub);
/* The applier, for every effect, before its revision is published. Cheap without watches. */
void bp_hub_note(struct bp_hub *hub, struct bp_slice key, uint64_t revision);
/* After publication of `revision`. */
void bp_hub_publish(struct bp_hub *hub, uint64_t revision);
/* Progress marks that are due; from the tick. */
void bp_hub_tick(struct bp_hub *hub, uint64_t now_ns);
/* End every watch with UNAVAILABLE/STORE_CLOSED: the store is closing. */
void bp_hub_close(struct bp_hub *hub);
uint64_t bp_hub_watches(const struct bp_hub *hub);
uint64_t bp_hub_lag_cancels(const struct bp_hub *hub);

#endif

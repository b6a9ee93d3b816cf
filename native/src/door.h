/* What driver.c uses of the door (door.c); ticket.h has what everybody uses. */
#ifndef BP_DOOR_H
#define BP_DOOR_H

#include "store.h"

/*
 * Queue tickets first .. last, counted as `tickets` of `bytes` together; on failure nothing is
 * queued. driver.mutex held.
 */
int bp_door_enter(struct bp_store *store, struct bp_ticket *first, struct bp_ticket *last,
                  uint64_t tickets, uint64_t bytes, struct bp_error *err);

#endif

/* The compares of a request (apply_compare.c). */
#ifndef BP_APPLY_COMPARE_H
#define BP_APPLY_COMPARE_H

#include "store.h"

/*
 * Whether all compares of the request hold, as of now. Caller holds `apply`. Non-zero: a value that
 * decides could not be read, and nothing may be decided.
 */
int bp_apply_compares(struct bp_store *store, const struct bp_request *request, bool *result,
                      struct bp_error *err);
/*
 * Whether the values that would decide, as of what is published, can be read: DATA_LOSS/VALUE_DAMAGED
 * else. Before the request enters the log: in it, a damaged value would stop the member, and every
 * start after it. What a request ahead of it writes meanwhile was written a moment ago.
 */
int bp_check_compared(struct bp_store *store, const struct bp_request *request,
                      struct bp_error *err);

#endif

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

#endif

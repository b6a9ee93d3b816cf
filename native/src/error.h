/*
 * Errors: one code a caller can act on (the numbers are gRPC's), one stable reason, one sentence
 * for people.
 *
 * Every fallible function returns an int that is BP_OK or a bp_code, and fills `struct bp_error`
 * when it is not BP_OK. `reason` is part of the public contract (google.rpc.ErrorInfo.reason):
 * never renamed, only added.
 */
#ifndef BP_ERROR_H
#define BP_ERROR_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "../include/bedplate.h" /* struct bp_error */

enum bp_code {
    BP_OK = 0,
    BP_CANCELLED = 1,
    BP_INVALID_ARGUMENT = 3,
    BP_DEADLINE_EXCEEDED = 4,
    BP_NOT_FOUND = 5,
    BP_ALREADY_EXISTS = 6,
    BP_PERMISSION_DENIED = 7,
    BP_RESOURCE_EXHAUSTED = 8,
    BP_FAILED_PRECONDITION = 9,
    BP_ABORTED = 10,
    BP_OUT_OF_RANGE = 11,
    BP_INTERNAL = 13,
    BP_UNAVAILABLE = 14,
    BP_DATA_LOSS = 15,
    BP_UNAUTHENTICATED = 16,
};

/* X(name): the enumerator is BP_REASON_name, the public string is "name". */
#define BP_REASONS(X)                                                                              \
    X(NONE)                                                                                        \
    X(MALFORMED_REQUEST)                                                                           \
    X(KEY_EMPTY)                                                                                   \
    X(KEY_TOO_LARGE)                                                                               \
    X(VALUE_TOO_LARGE)                                                                             \
    X(REQUEST_TOO_LARGE)                                                                           \
    X(TOO_MANY_OPS)                                                                                \
    X(RANGE_INVALID)                                                                               \
    X(PAGE_TOKEN_INVALID)                                                                          \
    X(FIELD_INVALID)                                                                               \
    X(DUPLICATE_KEY)                                                                               \
    X(REQUEST_ID_TOO_LARGE)                                                                        \
    X(REQUEST_ID_REUSED)                                                                           \
    X(REVISION_COMPACTED)                                                                          \
    X(REVISION_IN_FUTURE)                                                                          \
    X(LEASE_NOT_FOUND)                                                                             \
    X(LEASE_EXISTS)                                                                                \
    X(TOO_MANY_LEASES)                                                                             \
    X(TOO_MANY_WATCHES)                                                                            \
    X(WATCH_TOO_SLOW)                                                                              \
    X(DISK_FULL)                                                                                   \
    X(INDEX_FULL)                                                                                  \
    X(QUEUE_FULL)                                                                                  \
    X(LOG_POISONED)                                                                                \
    X(STORE_CLOSED)                                                                                \
    X(VALUE_DAMAGED)                                                                               \
    X(STORE_LOCKED)                                                                                \
    X(STORE_CORRUPT)                                                                               \
    X(FORMAT_UNSUPPORTED)                                                                          \
    X(IO_FAILED)                                                                                   \
    X(OUT_OF_MEMORY)                                                                               \
    X(TOKEN_MISSING)                                                                               \
    X(TOKEN_UNKNOWN)                                                                               \
    X(SCOPE_MISSING)                                                                               \
    X(DEADLINE_PASSED)                                                                             \
    X(LEASE_EXPIRED)                                                                               \
    X(REPLY_TOO_LARGE)                                                                             \
    X(KEY_NOT_FOUND)                                                                               \
    X(NO_LEADER)                                                                                   \
    X(LEADER_LOST)

enum bp_reason {
#define BP_REASON_ENUM(name) BP_REASON_##name,
    BP_REASONS(BP_REASON_ENUM)
#undef BP_REASON_ENUM
        BP_REASON_COUNT
};

/* Fill `err` (may be NULL) and return `code`, so that callers write `return bp_fail(...)`. */
int bp_fail(struct bp_error *err, int code, int reason, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int bp_fail_field(struct bp_error *err, int code, int reason, const char *field, const char *fmt,
                  ...) __attribute__((format(printf, 5, 6)));
/*
 * From a negative errno: ENOSPC and EDQUOT become RESOURCE_EXHAUSTED/DISK_FULL, ENOMEM
 * OUT_OF_MEMORY, the rest IO_FAILED.
 */
int bp_fail_io(struct bp_error *err, int negative_errno, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* bp_reason_name (bedplate.h): the public string of a reason; "NONE" for an unknown number. */

#endif

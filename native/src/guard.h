/*
 * The guard: the one check every call passes before it does anything, and the counters of what
 * passed. Fed by Python (tokens, methods), called by the gRPC interceptor and, later, by the native
 * front: there is no path around it.
 *
 *   enter   token known? -> scope held? -> deadline ahead? -> request small enough?  -> in flight
 *   exit    code, latency -> counters
 *
 * A guard without tokens lets everyone in; whether the daemon may listen like that is the daemon's
 * decision. Tokens come as SHA-256 hashes: the guard never sees one. All functions may be called by
 * any thread at any time, except new and free.
 */
#ifndef BP_GUARD_H
#define BP_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h" /* and the functions: bedplate.h */

#define BP_TOKEN_HASH_SIZE 32u
#define BP_GUARD_NAME_MAX 64u /* bytes of a token's or method's name, its end included */
#define BP_GUARD_TOKENS_MAX 65536u
#define BP_GUARD_METHODS_MAX 128u /* method numbers are below it */
#define BP_GUARD_CODES 17u        /* gRPC's status codes, 0 .. 16 */
#define BP_GUARD_BUCKETS 18u      /* of latency; the last one has no upper bound */

/* A scope is one bit: what may be done to which service. No scope implies another. */
enum bp_service {
    BP_SERVICE_KV = 0,
    BP_SERVICE_OBJECT = 1,
    BP_SERVICE_ADMIN = 2,
    BP_SERVICE_CLUSTER = 3
};
/* To the cluster, writing is what its members do: `cluster:peer`. */
enum bp_access { BP_ACCESS_READ = 0, BP_ACCESS_WRITE = 1, BP_ACCESS_ADMIN = 2 };
#define BP_SCOPE(service, access) (1u << ((service) * 3 + (access)))
#define BP_SCOPE_NONE 0u /* of a method: open to anyone, token or not (health) */
#define BP_SCOPES_ALL 0xfffu

#endif

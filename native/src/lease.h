/*
 * Leases: which exist (replicated: grant and revoke are entries) and when they end (this leader's
 * memory, boot clock).
 *
 *   id -> {ttl_ms, deadline_ns}
 *       deadline = now + ttl at grant, at keep-alive, and at every start of the store
 *
 * Grant and revoke are called by the applier; the rest by any thread (one mutex). A lease that
 * expire() has handed out is ending: it can no longer be kept alive, so that its revocation,
 * already proposed, never meets a client that was told it lives.
 */
#ifndef BP_LEASE_H
#define BP_LEASE_H

#include <stdbool.h>
#include <stdint.h>

struct bp_leases;

struct bp_lease_record { /* as checkpoints keep it */
    uint64_t id;
    uint64_t ttl_ms;
};

struct bp_leases *bp_leases_new(void);
void bp_leases_free(struct bp_leases *leases);
/* 0, or -1 out of memory. The id must be new. */
int bp_leases_grant(struct bp_leases *leases, uint64_t id, uint64_t ttl_ms, uint64_t now_ns);
bool bp_leases_revoke(struct bp_leases *leases, uint64_t id); /* false when unknown */
bool bp_leases_exists(const struct bp_leases *leases, uint64_t id);
uint64_t bp_leases_count(const struct bp_leases *leases);
/* A fresh full TTL; false when unknown or ending. */
bool bp_leases_keep_alive(struct bp_leases *leases, uint64_t id, uint64_t now_ns, uint64_t *ttl_ms);
bool bp_leases_get(const struct bp_leases *leases, uint64_t id, uint64_t now_ns, uint64_t *ttl_ms,
                   uint64_t *remaining_ms);
/*
 * Up to max ids whose deadline has passed, marked ending. `unmark` gives them back when the
 * proposal failed.
 */
uint32_t bp_leases_expire(struct bp_leases *leases, uint64_t now_ns, uint64_t *ids, uint32_t max);
void bp_leases_unmark(struct bp_leases *leases, const uint64_t *ids, uint32_t n);
/* Every lease gets its full TTL from now (a new leader, a restart). */
void bp_leases_restart(struct bp_leases *leases, uint64_t now_ns);
/*
 * All records, malloc'ed, ascending by id; NULL with *n 0 when none, NULL with *n > 0 out of
 * memory.
 */
struct bp_lease_record *bp_leases_snapshot(const struct bp_leases *leases, uint64_t *n);

#endif

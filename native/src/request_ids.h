/*
 * The request-id table: what the newest requests that carried an id came to. Replicated state:
 * apply alone changes it, checkpoints carry it.
 *
 *   ring of `max` records, oldest first  <--  hash of the id -> record
 *
 * The result kept is the outcome (revision, succeeded, deleted, lease): with the request the client
 * sends again and the history, a reply is rebuilt from it. When full, the oldest leaves: the same
 * on every member, because `max` is replicated too (system.h).
 */
#ifndef BP_REQUEST_IDS_H
#define BP_REQUEST_IDS_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "limits.h"
#include "wire.h"

struct bp_request_ids;

struct bp_request_id_record { /* as checkpoints keep it, oldest first */
    uint64_t fingerprint;
    uint64_t revision, deleted, lease, ttl_ms;
    uint8_t succeeded;
    uint8_t id_size;
    uint8_t id[BP_REQUEST_ID_MAX];
};

struct bp_request_ids *bp_request_ids_new(uint64_t max);
void bp_request_ids_free(struct bp_request_ids *table);
/*
 * From now on at most `max` records: the oldest leave. 0, or -1 out of memory (then nothing
 * changed).
 */
int bp_request_ids_resize(struct bp_request_ids *table, uint64_t max);
const struct bp_request_id_record *bp_request_ids_find(const struct bp_request_ids *table,
                                                       struct bp_slice id);
/* The id is not in the table. Cannot fail: all memory is taken by bp_request_ids_new. */
void bp_request_ids_add(struct bp_request_ids *table, struct bp_slice id, uint64_t fingerprint,
                        const struct bp_outcome *outcome);
uint64_t bp_request_ids_count(const struct bp_request_ids *table);
/* i = 0 is the oldest. */
const struct bp_request_id_record *bp_request_ids_at(const struct bp_request_ids *table,
                                                     uint64_t i);

#endif

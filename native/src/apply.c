/*
 * Apply: what a committed entry does to the state. The same bytes on the same state give the same
 * state on every member: nothing here looks at a clock, a limit or the disk's free space; those
 * were checked before the entry was proposed.
 *
 *   entry REQUESTS: request i gets revision first_revision + i, always, whatever comes of it
 *     KV            request id known? -> its first outcome.
 *         compares -> branch -> leases exist? -> writes, in order
 *     LEASE_GRANT   new lease, or LEASE_EXISTS        LEASE_REVOKE
 *         deletes the keys attached, then the leases
 *     COMPACT       raises the compaction revision, records the state hash
 *   entry NOOP, CONFIG, JUMP: no revision; CONFIG sets who we are and how many request ids are
 *   remembered, JUMP where revisions go on
 *
 * A request that is refused by state (unknown lease, request id reused) changes nothing and still
 * takes its revision. A compare that must read a damaged value decides nothing: the member stops
 * (the caller's err), because deciding without the value is divergence.
 */
#include <assert.h>
#include <string.h>

#include "apply_compare.h"
#include "store.h"

/* Where a request's bytes lie in the log, so that a value's place can be told from its address. */
struct origin {
    const uint8_t *payload;
    struct bp_pos at;
};

static struct bp_pos place(const struct origin *origin, const uint8_t *byte) {
    return (struct bp_pos){.segment = origin->at.segment,
                           .offset = origin->at.offset + (uint32_t)(byte - origin->payload)};
}

static void refuse(struct bp_applied *applied, int code, int reason) {
    applied->code = code;
    applied->reason = reason;
    applied->outcome.succeeded = false;
}

const char *bp_apply_explain(int reason) {
    switch (reason) {
    case BP_REASON_LEASE_NOT_FOUND:
        return "no lease has this id; nothing was changed";
    case BP_REASON_LEASE_EXISTS:
        return "a lease with this id exists";
    case BP_REASON_REQUEST_ID_REUSED:
        return "this request_id was used for a different request";
    case BP_REASON_REVISION_IN_FUTURE:
        return "the revision has not been reached yet";
    case BP_REASON_REVISION_COMPACTED:
        return "the revision is compacted already";
    default:
        return "refused";
    }
}

/* ---- writes ---------------------------------------------------------------------------------- */

static int out_of_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "no memory to apply an entry that is in the log");
}

static int put(struct bp_store *store, const struct bp_op *op, uint64_t revision,
               const struct origin *origin, struct bp_error *err) {
    struct bp_value_ref value = {.at = place(origin, op->value.data),
                                 .size = (uint32_t)op->value.size,
                                 .crc = op->value_crc};
    struct bp_version previous;
    int code = bp_index_put(store->index, op->key, revision, op->lease,
                            (op->flags & BP_OPF_KEEP_LEASE) != 0, &value, &previous, err);
    if (code != BP_OK) {
        return out_of_memory(err);
    }
    struct bp_segment *segment = bp_segments_find(store->segments, value.at.segment);
    assert(segment != NULL);
    atomic_fetch_add_explicit(&segment->live_bytes, (int64_t)value.size, memory_order_relaxed);
    atomic_fetch_add_explicit(&store->counters.value_bytes_appended, value.size,
                              memory_order_relaxed);
    bp_hub_note(store->hub, op->key, revision);
    return BP_OK;
}

static int delete_one(struct bp_store *store, struct bp_slice key, uint64_t revision,
                      uint64_t *deleted, struct bp_error *err) {
    struct bp_version previous;
    int existed = bp_index_delete(store->index, key, revision, &previous);
    if (existed < 0) {
        return out_of_memory(err);
    }
    if (existed > 0) {
        (*deleted)++;
        bp_hub_note(store->hub, key, revision);
    }
    return BP_OK;
}

static int delete_range(struct bp_store *store, const struct bp_op *op, uint64_t revision,
                        uint64_t *deleted, struct bp_error *err) {
    uint8_t buffers[2][BP_STORED_KEY_MAX];
    struct bp_slice from = op->key, key;
    struct bp_version version;
    uint32_t turn = 0;
    /*
     * Each round deletes one live key at or behind `from`, so the loop ends with the range's keys.
     */
    while (bp_index_next_live(store->index, from, op->end, buffers[turn], &key, &version)) {
        int code = delete_one(store, key, revision, deleted, err);
        if (code != BP_OK) {
            return code;
        }
        from = key;
        turn ^= 1u;
    }
    return BP_OK;
}

static int apply_branch(struct bp_store *store, const struct bp_request *request, bool then,
                        uint64_t revision, const struct origin *origin, uint64_t *deleted,
                        struct bp_error *err) {
    uint32_t at = then ? request->then_at : request->else_at;
    uint32_t n = then ? request->n_then : request->n_else;
    int code = BP_OK;
    for (uint32_t i = 0; i < n && code == BP_OK; i++) {
        struct bp_op op;
        bp_request_op(request, &at, &op);
        switch (op.op) {
        case BP_OP_PUT:
            code = put(store, &op, revision, origin, err);
            break;
        case BP_OP_DELETE:
            code = delete_one(store, op.key, revision, deleted, err);
            break;
        case BP_OP_DELETE_RANGE:
            code = delete_range(store, &op, revision, deleted, err);
            break;
        default: /* GET, SCAN: answered from history when the reply is built */
            break;
        }
    }
    return code;
}

static bool leases_exist(const struct bp_store *store, const struct bp_request *request,
                         bool then) {
    uint32_t at = then ? request->then_at : request->else_at;
    uint32_t n = then ? request->n_then : request->n_else;
    for (uint32_t i = 0; i < n; i++) {
        struct bp_op op;
        bp_request_op(request, &at, &op);
        if (op.op == BP_OP_PUT && op.lease != 0 && !bp_leases_exists(store->leases, op.lease)) {
            return false;
        }
    }
    return true;
}

/* ---- requests -------------------------------------------------------------------------------- */

static bool seen_before(struct bp_store *store, const struct bp_request *request,
                        struct bp_applied *applied) {
    const struct bp_request_id_record *record =
        request->id.size == 0 ? NULL : bp_request_ids_find(store->request_ids, request->id);
    if (record == NULL) {
        return false;
    }
    if (record->fingerprint != request->fingerprint) {
        refuse(applied, BP_FAILED_PRECONDITION, BP_REASON_REQUEST_ID_REUSED);
        return true;
    }
    applied->outcome = (struct bp_outcome){.revision = record->revision,
                                           .deleted = record->deleted,
                                           .lease = record->lease,
                                           .ttl_ms = record->ttl_ms,
                                           .succeeded = record->succeeded};
    return true;
}

static int apply_kv(struct bp_store *store, const struct bp_request *request, uint64_t revision,
                    const struct origin *origin, struct bp_applied *applied, struct bp_error *err) {
    if (seen_before(store, request, applied)) {
        return BP_OK;
    }
    bool then;
    int code = bp_apply_compares(store, request, &then, err);
    if (code != BP_OK) {
        return code;
    }
    if (!leases_exist(store, request, then)) {
        refuse(applied, BP_NOT_FOUND, BP_REASON_LEASE_NOT_FOUND);
        return BP_OK;
    }
    applied->outcome.succeeded = then;
    code = apply_branch(store, request, then, revision, origin, &applied->outcome.deleted, err);
    if (code == BP_OK && request->id.size > 0) {
        bp_request_ids_add(store->request_ids, request->id, request->fingerprint,
                           &applied->outcome);
    }
    return code;
}

static int apply_grant(struct bp_store *store, const struct bp_request *request,
                       struct bp_applied *applied, struct bp_error *err) {
    if (bp_leases_exists(store->leases, request->lease)) {
        refuse(applied, BP_ALREADY_EXISTS, BP_REASON_LEASE_EXISTS);
        return BP_OK;
    }
    applied->outcome.lease = request->lease;
    applied->outcome.ttl_ms = request->ttl_ms;
    if (bp_leases_grant(store->leases, request->lease, request->ttl_ms,
                        bp_disk_boot_ns(store->disk)) != 0) {
        return out_of_memory(err);
    }
    return BP_OK;
}

struct copied_key {
    uint8_t bytes[BP_STORED_KEY_MAX];
    size_t size;
};

static int copy_key(void *arg, struct bp_slice key) {
    struct copied_key *copied = arg;
    memcpy(copied->bytes, key.data, key.size);
    copied->size = key.size;
    return 1;
}

static int revoke_one(struct bp_store *store, uint64_t lease, uint64_t revision, uint64_t *deleted,
                      struct bp_error *err) {
    struct copied_key copied;
    /* Deleting a key detaches it, so each round takes one off the lease's list. */
    while (bp_index_lease_visit(store->index, lease, copy_key, &copied) != 0) {
        struct bp_slice key = {.data = copied.bytes, .size = copied.size};
        int code = delete_one(store, key, revision, deleted, err);
        if (code != BP_OK) {
            return code;
        }
    }
    bp_leases_revoke(store->leases, lease);
    return BP_OK;
}

static int apply_revoke(struct bp_store *store, const struct bp_request *request, uint64_t revision,
                        struct bp_applied *applied, struct bp_error *err) {
    uint64_t n = request->leases.size / 8, known = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t lease = bp_get_u64(request->leases.data + 8 * i);
        if (!bp_leases_exists(store->leases, lease)) {
            continue;
        }
        known++;
        applied->outcome.lease = lease;
        int code = revoke_one(store, lease, revision, &applied->outcome.deleted, err);
        if (code != BP_OK) {
            return code;
        }
    }
    if (known == 0) {
        refuse(applied, BP_NOT_FOUND, BP_REASON_LEASE_NOT_FOUND);
    }
    return BP_OK;
}

static void apply_compact(struct bp_store *store, const struct bp_request *request, uint64_t index,
                          uint64_t revision, struct bp_applied *applied) {
    uint64_t to = request->revision == 0 ? revision - 1 : request->revision;
    if (to >= revision) {
        refuse(applied, BP_OUT_OF_RANGE, BP_REASON_REVISION_IN_FUTURE);
        return;
    }
    if (to > store->compaction_revision) {
        store->compaction_revision = to;
    }
    bp_index_state_hash(store->index, store->compaction_hash);
    store->compaction_hash_index = index;
}

static int apply_request(struct bp_store *store, const struct bp_request *request, uint64_t index,
                         uint64_t revision, const struct origin *origin, struct bp_applied *applied,
                         struct bp_error *err) {
    memset(applied, 0, sizeof *applied);
    applied->outcome.revision = revision;
    applied->outcome.succeeded = true;
    switch (request->kind) {
    case BP_REQUEST_KV:
        return apply_kv(store, request, revision, origin, applied, err);
    case BP_REQUEST_LEASE_GRANT:
        return apply_grant(store, request, applied, err);
    case BP_REQUEST_LEASE_REVOKE:
        return apply_revoke(store, request, revision, applied, err);
    default:
        apply_compact(store, request, index, revision, applied);
        return BP_OK;
    }
}

/* ---- entries --------------------------------------------------------------------------------- */

#define WARM_MAX 64u

/*
 * The first keys of the entry's requests, so that their paths are in the caches when their turn
 * comes.
 */
static uint64_t warm(const struct bp_store *store, const struct bp_entry *entry, uint64_t offset) {
    struct bp_slice keys[WARM_MAX];
    uint32_t n = 0;
    while (n < WARM_MAX && offset < entry->size) {
        struct bp_request request;
        if (bp_request_decode(entry->payload + offset, entry->size - offset, &request, NULL) !=
            BP_OK) {
            break;
        }
        offset += request.size;
        uint32_t at = request.then_at;
        for (uint32_t i = 0; request.kind == BP_REQUEST_KV && i < request.n_then && n < WARM_MAX;
             i++) {
            struct bp_op op;
            bp_request_op(&request, &at, &op);
            keys[n++] = op.key;
        }
    }
    bp_index_warm(store->index, keys, n);
    return offset;
}

static int apply_requests(struct bp_store *store, const struct bp_entry *entry,
                          struct bp_applied *applied, struct bp_error *err) {
    struct origin origin = {.payload = entry->payload, .at = entry->at};
    uint64_t offset = 0, warmed = 0;
    for (uint32_t i = 0; i < entry->count; i++) {
        if (offset >= warmed) {
            warmed = warm(store, entry, offset);
        }
        struct bp_request request;
        int code = bp_request_decode(entry->payload + offset, entry->size - offset, &request, err);
        if (code != BP_OK) {
            return bp_fail(
                err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                "entry %llu, request %u: an op this version does not know; it must not be skipped",
                (unsigned long long)entry->index, i);
        }
        struct bp_applied ignored;
        struct bp_applied *into = applied != NULL ? &applied[i] : &ignored;
        code = apply_request(store, &request, entry->index, entry->first_revision + i, &origin,
                             into, err);
        if (code != BP_OK) {
            return code;
        }
        offset += request.size;
    }
    if (offset != entry->size) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "entry %llu holds more than its %u requests",
                       (unsigned long long)entry->index, entry->count);
    }
    return BP_OK;
}

static int apply_config(struct bp_store *store, const struct bp_entry *entry,
                        struct bp_error *err) {
    int cause;
    if (!bp_system_decode(entry->payload, entry->size, &store->system, &cause)) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "entry %llu: malformed membership", (unsigned long long)entry->index);
    }
    return bp_request_ids_resize(store->request_ids, store->system.request_ids_max) == 0
               ? BP_OK
               : out_of_memory(err);
}

int bp_apply_entry(struct bp_store *store, const struct bp_entry *entry, struct bp_applied *applied,
                   struct bp_error *err) {
    if (entry->index != store->applied_index + 1) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT, "entry %llu follows entry %llu",
                       (unsigned long long)entry->index, (unsigned long long)store->applied_index);
    }
    if (entry->type == BP_ENTRY_JUMP ? entry->first_revision < store->next_revision
                                     : entry->first_revision != store->next_revision) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "entry %llu begins at revision %llu, expected %llu",
                       (unsigned long long)entry->index, (unsigned long long)entry->first_revision,
                       (unsigned long long)store->next_revision);
    }
    int code = BP_OK;
    switch (entry->type) {
    case BP_ENTRY_REQUESTS:
        code = apply_requests(store, entry, applied, err);
        break;
    case BP_ENTRY_CONFIG:
        code = apply_config(store, entry, err);
        break;
    case BP_ENTRY_NOOP:
    case BP_ENTRY_JUMP:
        break;
    default:
        code = bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "entry %llu has a type this version does not know: %u",
                       (unsigned long long)entry->index, entry->type);
        break;
    }
    if (code == BP_OK) {
        store->applied_index = entry->index;
        store->applied_term = entry->term;
        store->next_revision = entry->first_revision + entry->count;
    }
    return code;
}

void bp_apply_publish(struct bp_store *store) {
    uint64_t revision = store->next_revision - 1;
    atomic_store_explicit(&store->floor, store->compaction_revision, memory_order_release);
    atomic_store_explicit(&store->revision, revision, memory_order_release);
    bp_hub_publish(store->hub, revision);
}

/*
 * At the leader: batches of requests that other members forwarded (raft.h draws the bytes).
 *
 *   bytes -> tickets -> queued together, in order -> answered in any order -> the last answer
 *   builds the outcomes: one completion
 *
 * As with a Pipeline frame (pipeline.c) `remaining` counts the requests not yet answered, and
 * whoever brings it to zero owns the batch. Here no reply is built: outcomes are of fixed size, and
 * the member whose client asked makes the reply.
 */
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "raft.h"

struct bp_forwarded {
    struct bp_queue *queue;
    uint64_t cookie;
    uint32_t n;
    _Atomic uint32_t remaining;
    struct bp_reply outcomes; /* each slot is written by who answers it */
};

static void forwarded_free(struct bp_forwarded *batch) {
    bp_reply_free(&batch->outcomes);
    free(batch);
}

static void finish(struct bp_forwarded *batch) {
    uint8_t *bytes = batch->outcomes.data;
    uint64_t size = batch->outcomes.size;
    bp_put_u32(bytes + size - 4, bp_crc32c(0, bytes, size - 4));
    struct bp_reply outcomes = batch->outcomes;
    batch->outcomes = (struct bp_reply){0};
    bp_queue_pay(batch->queue, batch->cookie, BP_OK, outcomes, 0, NULL);
    forwarded_free(batch);
}

static void answered_one(struct bp_forwarded *batch) {
    if (atomic_fetch_sub_explicit(&batch->remaining, 1, memory_order_acq_rel) == 1) {
        finish(batch);
    }
}

void bp_forwarded_answered(struct bp_store *store, struct bp_ticket *ticket) {
    (void)store;
    struct bp_forwarded *batch = ticket->forwarded;
    uint8_t *p = batch->outcomes.data + BP_FORWARD_HEAD + ticket->frame_slot * BP_OUTCOME_SIZE;
    bp_put_u32(p, (uint32_t)ticket->code);
    bp_put_u32(p + 4, ticket->error != NULL ? (uint32_t)ticket->error->reason : 0);
    bp_put_u64(p + 8, ticket->outcome.revision);
    bp_put_u64(p + 16, ticket->outcome.deleted);
    bp_put_u64(p + 24, ticket->outcome.succeeded);
    bp_put_u64(p + 32, ticket->outcome.lease);
    bp_put_u64(p + 40, ticket->outcome.ttl_ms);
    bp_put_u64(p + 48, ticket->remaining_ms);
    bp_ticket_clear(ticket);
    free(ticket);
    answered_one(batch);
}

/* ---- tickets --------------------------------------------------------------------------------- */

static int malformed(struct bp_error *err) {
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_MALFORMED_REQUEST, "a forwarded batch is damaged");
}

/* A copy of one request, decoded and checked as a client's. */
static int make_write(struct bp_ticket *ticket, const uint8_t *bytes, uint32_t size,
                      struct bp_error *err) {
    uint8_t *copy = malloc(size + 1u);
    if (copy == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a request");
    }
    memcpy(copy, bytes, size);
    ticket->call.is_write = true;
    ticket->call.request.buf = copy;
    ticket->call.request.size = size;
    int code = bp_request_decode(copy, size, &ticket->request, err);
    if (code == BP_OK && ticket->request.size != size) {
        code = malformed(err);
    }
    code = code != BP_OK ? code : bp_request_check_keys(&ticket->request, err);
    if (code == BP_OK) {
        bp_ticket_classify(ticket);
    }
    return code;
}

static int make_ticket(struct bp_forwarded *batch, uint32_t slot, int kind, const uint8_t *bytes,
                       uint32_t size, struct bp_ticket **out, struct bp_error *err) {
    static const int kinds[] = {[BP_FORWARD_WRITE] = BP_TICKET_WRITE,
                                [BP_FORWARD_PLACE] = BP_TICKET_PLACE,
                                [BP_FORWARD_KEEP_ALIVE] = BP_TICKET_READ,
                                [BP_FORWARD_GET_LEASE] = BP_TICKET_READ};
    bool lease = kind == BP_FORWARD_KEEP_ALIVE || kind == BP_FORWARD_GET_LEASE;
    if (kind < BP_FORWARD_WRITE || kind > BP_FORWARD_GET_LEASE || (lease && size != 8)) {
        return malformed(err);
    }
    struct bp_ticket *ticket = *out = bp_ticket_new(kinds[kind]);
    if (ticket == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a request");
    }
    ticket->forwarded = batch;
    ticket->frame_slot = slot;
    if (lease) {
        ticket->call.read.method =
            kind == BP_FORWARD_KEEP_ALIVE ? BP_METHOD_KEEP_ALIVE : BP_METHOD_GET_LEASE;
        ticket->call.read.lease = bp_get_u64(bytes);
    }
    return kind == BP_FORWARD_WRITE ? make_write(ticket, bytes, size, err) : BP_OK;
}

static void free_list(struct bp_tickets *list) {
    for (struct bp_ticket *ticket = list->first, *next; ticket != NULL; ticket = next) {
        next = ticket->next;
        bp_ticket_clear(ticket);
        free(ticket);
    }
}

/* All of them or none. */
static int make_tickets(struct bp_forwarded *batch, const uint8_t *bytes, uint64_t size,
                        struct bp_tickets *list, struct bp_error *err) {
    uint64_t at = BP_FORWARD_HEAD, end = size - 4;
    int code = BP_OK;
    for (uint32_t i = 0; i < batch->n && code == BP_OK; i++) {
        uint64_t padded = end - at >= 8 ? bp_align8_u64(bp_get_u32(bytes + at)) : UINT64_MAX;
        if (padded > end - at - 8) {
            return malformed(err);
        }
        struct bp_ticket *ticket = NULL;
        code = make_ticket(batch, i, bytes[at + 4], bytes + at + 8, bp_get_u32(bytes + at), &ticket,
                           err);
        if (ticket != NULL) {
            bp_tickets_add(list, ticket);
        }
        at += 8 + padded;
    }
    return code == BP_OK && at != end ? malformed(err) : code;
}

static int no_leader(struct bp_error *err) {
    struct bp_error why;
    bp_no_leader(&why);
    if (err != NULL) {
        *err = why;
    }
    return why.code;
}

static struct bp_forwarded *new_batch(struct bp_queue *queue, uint64_t cookie, uint64_t number,
                                      uint32_t n) {
    struct bp_forwarded *batch = calloc(1, sizeof *batch);
    uint64_t size = BP_FORWARD_HEAD + (uint64_t)n * BP_OUTCOME_SIZE + 4;
    uint8_t *outcomes = calloc(1, size);
    if (batch == NULL || outcomes == NULL) {
        free(batch);
        free(outcomes);
        return NULL;
    }
    batch->queue = queue;
    batch->cookie = cookie;
    batch->n = n;
    atomic_init(&batch->remaining, n);
    batch->outcomes = (struct bp_reply){.data = outcomes, .size = size};
    bp_put_u64(outcomes, number);
    bp_put_u32(outcomes + 8, n);
    return batch;
}

int bp_raft_forwarded(struct bp_store *store, struct bp_queue *queue, const void *requests,
                      uint64_t size, uint64_t cookie, struct bp_error *err) {
    const uint8_t *bytes = requests;
    if (size < BP_FORWARD_HEAD + 4 ||
        bp_crc32c(0, bytes, size - 4) != bp_get_u32(bytes + size - 4)) {
        return malformed(err);
    }
    uint32_t n = bp_get_u32(bytes + 8);
    if (n == 0 || n > (size - BP_FORWARD_HEAD - 4) / 8) {
        return malformed(err);
    }
    if (!bp_raft_leading(bp_raft_of(store))) {
        return no_leader(err);
    }
    struct bp_forwarded *batch = new_batch(queue, cookie, bp_get_u64(bytes), n);
    if (batch == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a forwarded batch");
    }
    struct bp_tickets list;
    bp_tickets_init(&list);
    int code = make_tickets(batch, bytes, size, &list, err);
    code = code != BP_OK ? code : bp_queue_promise(queue, err);
    if (code == BP_OK) {
        code = bp_driver_submit(store, list.first, err);
        if (code == BP_OK) {
            return BP_OK;
        }
        bp_queue_forgive(queue);
    }
    free_list(&list);
    forwarded_free(batch);
    return code;
}

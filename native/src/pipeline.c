/*
 * Pipeline frames: many requests in, one answer out.
 *
 *   frame -> ops -> tickets -> queued together, in order -> answered in any order -> the last
 *   answer builds the response
 *
 * `remaining` counts the ops not yet answered; whoever brings it to zero owns the frame.
 */
#include <stdlib.h>
#include <string.h>

#include "store.h"
#include "ticket.h"

struct bp_pipeline {
    struct bp_queue *queue;
    uint64_t cookie;
    uint32_t n;
    _Atomic uint32_t remaining;
    struct bp_wire_frame_op *ops; /* ids, and the errors of ops that never ran */
    struct bp_ticket **tickets;   /* answered ones, by op */
};

static void frame_free(struct bp_pipeline *frame) {
    for (uint32_t i = 0; i < frame->n; i++) {
        if (frame->tickets[i] != NULL) {
            bp_ticket_clear(frame->tickets[i]);
            free(frame->tickets[i]);
        }
        bp_wire_call_free(&frame->ops[i].call);
    }
    free(frame->tickets);
    free(frame->ops);
    free(frame);
}

/* One result; one that no longer fits the response is told so, whatever it came to. */
static void add_result(const struct bp_store *store, const struct bp_pipeline *frame, uint32_t i,
                       size_t head, struct bp_buffer *response) {
    const struct bp_wire_frame_op *op = &frame->ops[i];
    const struct bp_ticket *ticket = frame->tickets[i];
    if (ticket == NULL) {
        bp_wire_frame_result(response, op->id, op->call.method, NULL, &op->error);
        return;
    }
    struct bp_error no_memory, too_large;
    const struct bp_error *error = NULL;
    if (ticket->code != BP_OK) {
        bp_fail(&no_memory, ticket->code, BP_REASON_OUT_OF_MEMORY,
                "failed, and no memory to say why");
        error = ticket->error != NULL ? ticket->error : &no_memory;
    } else if (response->size > head &&
               response->size + ticket->reply.size > store->limits.reply_bytes_max) {
        bp_fail(&too_large, BP_RESOURCE_EXHAUSTED, BP_REASON_REPLY_TOO_LARGE,
                "the results of this frame are over the limit; ask again in another frame");
        error = &too_large;
    }
    bp_wire_frame_result(response, op->id, ticket->method, &ticket->reply, error);
}

static void frame_finish(struct bp_store *store, struct bp_pipeline *frame) {
    struct bp_buffer response = {0};
    bp_wire_frame_begin(&response, atomic_load_explicit(&store->revision, memory_order_acquire));
    size_t head = response.size;
    for (uint32_t i = 0; i < frame->n; i++) {
        add_result(store, frame, i, head, &response);
    }
    struct bp_error *error = NULL;
    if (response.failed) {
        error = malloc(sizeof *error);
        bp_fail(error, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                "no memory for the results; the requests were applied");
        bp_buffer_free(&response);
    }
    struct bp_reply reply = {.data = response.data, .size = response.size};
    bool failed = response.failed;
    bp_queue_push(frame->queue, frame->cookie, failed ? BP_RESOURCE_EXHAUSTED : BP_OK,
                  failed ? (struct bp_reply){0} : reply, 0, error);
    bp_queue_release(frame->queue);
    frame_free(frame);
}

static void answered_one(struct bp_store *store, struct bp_pipeline *frame) {
    if (atomic_fetch_sub_explicit(&frame->remaining, 1, memory_order_acq_rel) == 1) {
        frame_finish(store, frame);
    }
}

void bp_pipeline_answered(struct bp_store *store, struct bp_ticket *ticket) {
    struct bp_pipeline *frame = ticket->frame;
    frame->tickets[ticket->frame_slot] = ticket;
    answered_one(store, frame);
}

static struct bp_ticket *ticket_of(struct bp_pipeline *frame, uint32_t i) {
    struct bp_wire_frame_op *op = &frame->ops[i];
    struct bp_ticket *ticket = bp_ticket_new(op->call.is_write ? BP_TICKET_WRITE : BP_TICKET_READ);
    if (ticket == NULL) {
        return NULL;
    }
    ticket->method = op->call.method;
    ticket->call = op->call;
    memset(&op->call, 0, sizeof op->call);
    ticket->frame = frame;
    ticket->frame_slot = i;
    return ticket;
}

/* Tickets for the ops that decoded, linked in order. What fails here fails alone. */
static struct bp_ticket *make_tickets(struct bp_pipeline *frame, uint32_t *n) {
    struct bp_ticket *first = NULL, **tail = &first;
    *n = 0;
    for (uint32_t i = 0; i < frame->n; i++) {
        struct bp_wire_frame_op *op = &frame->ops[i];
        if (op->code != BP_OK) {
            continue;
        }
        struct bp_ticket *ticket = ticket_of(frame, i);
        if (ticket == NULL) {
            bp_fail(&op->error, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                    "no memory for the request");
            continue;
        }
        if (ticket->kind == BP_TICKET_WRITE) {
            int code = bp_request_decode(ticket->call.request.buf, ticket->call.request.size,
                                         &ticket->request, &op->error);
            if (code != BP_OK) {
                bp_ticket_clear(ticket);
                free(ticket);
                continue;
            }
            bp_ticket_classify(ticket);
        }
        *tail = ticket;
        tail = &ticket->next;
        (*n)++;
    }
    return first;
}

static void free_list(struct bp_ticket *ticket) {
    while (ticket != NULL) {
        struct bp_ticket *next = ticket->next;
        bp_ticket_clear(ticket);
        free(ticket);
        ticket = next;
    }
}

int bp_submit_frame(struct bp_store *store, struct bp_queue *queue, uint8_t keyspace,
                    const void *bytes, uint64_t size, uint64_t cookie, struct bp_error *err) {
    struct bp_pipeline *frame = calloc(1, sizeof *frame);
    if (frame == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a frame");
    }
    const struct bp_wire_limits *limits = bp_store_limits(store, keyspace);
    int code = bp_wire_decode_frame(keyspace, bytes, size, limits, &frame->ops, &frame->n, err);
    if (code != BP_OK) {
        free(frame);
        return code;
    }
    frame->tickets = calloc(frame->n + 1u, sizeof(struct bp_ticket *));
    if (frame->tickets == NULL) {
        frame->n = 0;
        free(frame->ops);
        free(frame);
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a frame");
    }
    frame->queue = queue;
    frame->cookie = cookie;
    uint32_t n;
    struct bp_ticket *first = make_tickets(frame, &n);
    /* One more than the tickets, so that the frame outlives this function whoever answers first. */
    atomic_store_explicit(&frame->remaining, n + 1, memory_order_relaxed);
    bp_queue_retain(queue);
    code = first == NULL ? BP_OK : bp_driver_submit(store, first, err);
    if (code != BP_OK) {
        free_list(first);
        bp_queue_release(queue);
        frame_free(frame);
        return code;
    }
    answered_one(store, frame);
    return BP_OK;
}

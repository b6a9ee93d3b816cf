/*
 * Pipeline frames: many requests in, one answer out.
 *
 *   frame -> ops -> tickets -> queued together, in order -> answered in any order -> the last
 *   answer builds the response
 *
 * `remaining` counts the ops not yet answered; whoever brings it to zero owns the frame.
 *
 * Every op of a frame that was taken has one result: what fails fails op by op, a store that is
 * closing too. A frame as a whole is refused only when it is malformed, or when the queue is full
 * now: then nothing of it ran, and it may be sent again.
 *
 * Answered replies wait here for the last one. They are bounded twice: in the frame by what its
 * response may hold, and over all frames and queues by the backlog (queue.c).
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
    _Atomic uint64_t held_bytes;  /* of their replies; in the store's backlog */
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

static int too_large(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_REPLY_TOO_LARGE,
                   "the results of this frame are over the limit; ask again in another frame");
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
    struct bp_error no_memory, unfit;
    const struct bp_error *error = NULL;
    if (ticket->code != BP_OK) {
        bp_fail(&no_memory, ticket->code, BP_REASON_OUT_OF_MEMORY,
                "failed, and no memory to say why");
        error = ticket->error != NULL ? ticket->error : &no_memory;
    } else if (response->size > head &&
               response->size + ticket->reply.size > store->limits.reply_bytes_max) {
        (void)too_large(&unfit);
        error = &unfit;
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
        if (error != NULL) {
            bp_fail(error, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                    "no memory for the results; the requests were applied");
        }
        bp_buffer_free(&response);
    }
    struct bp_reply reply = {.data = response.data, .size = response.size};
    bool failed = response.failed;
    bp_backlog_drop_bytes(store->backlog, atomic_load(&frame->held_bytes));
    bp_queue_pay(frame->queue, frame->cookie, failed ? BP_RESOURCE_EXHAUSTED : BP_OK,
                 failed ? (struct bp_reply){0} : reply, 0, error);
    frame_free(frame);
}

static void answered_one(struct bp_store *store, struct bp_pipeline *frame) {
    if (atomic_fetch_sub_explicit(&frame->remaining, 1, memory_order_acq_rel) == 1) {
        frame_finish(store, frame);
    }
}

/* Keeps the reply until the frame is complete, or not at all where the response has no room. */
static void hold_reply(struct bp_store *store, struct bp_pipeline *frame,
                       struct bp_ticket *ticket) {
    uint64_t size = ticket->reply.size, before = atomic_fetch_add(&frame->held_bytes, size);
    if (ticket->code == BP_OK && before > 0 && before + size > store->limits.reply_bytes_max) {
        struct bp_error err;
        (void)too_large(&err);
        atomic_fetch_sub(&frame->held_bytes, size);
        bp_buffer_free(&ticket->reply);
        bp_ticket_fail(ticket, &err);
        return;
    }
    bp_backlog_add_bytes(store->backlog, size);
}

void bp_pipeline_answered(struct bp_store *store, struct bp_ticket *ticket) {
    struct bp_pipeline *frame = ticket->frame;
    hold_reply(store, frame, ticket);
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

/* None of them runs, and each says so. */
static void refuse_all(struct bp_store *store, struct bp_ticket *ticket,
                       const struct bp_error *why) {
    while (ticket != NULL) {
        struct bp_ticket *next = ticket->next;
        bp_ticket_fail(ticket, why);
        bp_pipeline_answered(store, ticket);
        ticket = next;
    }
}

/* The queue is too full for these now; at another time they would fit. */
static bool may_try_again(const struct bp_store *store, const struct bp_ticket *first,
                          const struct bp_error *why) {
    uint64_t tickets = 0, bytes = 0;
    for (const struct bp_ticket *ticket = first; ticket != NULL; ticket = ticket->next) {
        tickets++;
        bytes += bp_ticket_bytes(ticket);
    }
    return why->reason == BP_REASON_QUEUE_FULL && tickets <= store->options.queue_max &&
           bytes <= store->options.queue_bytes_max;
}

/* Takes the frame, unless it fails: then it is still the caller's. */
static int send_frame(struct bp_store *store, struct bp_pipeline *frame, struct bp_error *err) {
    int code = bp_queue_promise(frame->queue, err);
    if (code != BP_OK) {
        return code;
    }
    uint32_t n;
    struct bp_ticket *first = make_tickets(frame, &n);
    /* One more than the tickets, so that the frame outlives this function whoever answers first. */
    atomic_store_explicit(&frame->remaining, n + 1, memory_order_relaxed);
    struct bp_error why = {0};
    code = first == NULL ? BP_OK : bp_driver_submit(store, first, &why);
    if (code != BP_OK && may_try_again(store, first, &why)) {
        free_list(first);
        bp_queue_forgive(frame->queue);
        if (err != NULL) {
            *err = why;
        }
        return code;
    }
    if (code != BP_OK) {
        refuse_all(store, first, &why);
    }
    answered_one(store, frame);
    return BP_OK;
}

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory for a frame");
}

int bp_submit_frame(struct bp_store *store, struct bp_queue *queue, uint8_t keyspace,
                    const void *bytes, uint64_t size, uint64_t cookie, struct bp_error *err) {
    struct bp_pipeline *frame = calloc(1, sizeof *frame);
    if (frame == NULL) {
        return no_memory(err);
    }
    const struct bp_wire_limits *limits = bp_store_limits(store, keyspace);
    int code = bp_wire_decode_frame(keyspace, bytes, size, limits, &frame->ops, &frame->n, err);
    if (code != BP_OK) {
        free(frame);
        return code;
    }
    frame->queue = queue;
    frame->cookie = cookie;
    frame->tickets = calloc(frame->n + 1u, sizeof(struct bp_ticket *));
    if (frame->tickets == NULL) {
        bp_wire_frame_free(frame->ops, frame->n);
        free(frame);
        return no_memory(err);
    }
    code = send_frame(store, frame, err);
    if (code != BP_OK) {
        frame_free(frame);
    }
    return code;
}

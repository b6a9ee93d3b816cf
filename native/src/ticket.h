/*
 * A ticket: one request on its way through the engine, and who is to be told.
 *
 *   submit -> [driver: write, or read in its place among writes] -> [reader: values for the reply]
 *   -> completed
 *
 * Exactly one destination is set: a waiter (a blocked caller, the ticket lies on its stack), a
 * queue, a frame, a batch that another member forwarded, or a callback. Whoever completes the ticket hands its memory over and never
 * touches it again.
 */
#ifndef BP_TICKET_H
#define BP_TICKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "error.h"
#include "ops.h"
#include "wire.h"

struct bp_store;
struct bp_pipeline;
struct bp_forwarded;

enum bp_waiter_state { BP_WAITING = 0, BP_DONE = 1, BP_LEAD = 2 };

struct bp_waiter {
    _Atomic uint32_t state; /* a futex */
};

enum bp_ticket_kind {
    BP_TICKET_WRITE = 1, /* request: through the log */
    BP_TICKET_READ,      /* call.read */
    BP_TICKET_VALUE,     /* value: one value's bytes */
    BP_TICKET_PLACE,     /* of a read that another member answers: outcome.revision alone */
};

struct bp_value_want {
    struct bp_slice key; /* stored key */
    uint64_t revision;
    uint32_t offset, length;
    uint8_t *prefix; /* owned together with the key, one allocation */
    uint32_t prefix_size;
};

struct bp_ticket {
    struct bp_ticket *next;
    int kind;
    /* wire method, or 0: the op encoding, answered with the bare outcome */
    int method;
    bool grows;        /* may add to the store: refused when disk or index is full */
    bool needs_values; /* the reply takes reading: built by a reader */
    bool first;        /* of what entered the queue together: an arrival */
    bool applied;      /* written: `outcome` is set and only the reply is missing */
    /* a read of the newest state that the driver gave the revision of its place */
    bool placed;
    bool admitted; /* a reader has it, or will: it leaves when that is done */
    /* a lease call that the leader answered: outcome has what it said, remaining_ms too */
    bool remote;
    uint64_t remaining_ms;
    uint32_t pin; /* keeps the history the reply needs; pin number + 1, 0 none */
    /* owns the request's bytes unless they are borrowed (waiter, op encoding) */
    struct bp_wire_call call;
    struct bp_request request;
    struct bp_value_want value;

    struct bp_waiter *waiter;
    struct bp_queue *queue;
    uint64_t cookie;
    struct bp_pipeline *frame;
    struct bp_forwarded *forwarded;
    uint32_t frame_slot; /* in the frame or the batch */
    void (*done)(void *arg, int code);
    void *done_arg;

    int code;
    struct bp_error *error; /* owned; set when code is not BP_OK and memory allowed */
    struct bp_outcome outcome;
    struct bp_buffer reply;
    uint32_t aux;
};

/* A heap ticket; NULL when out of memory. */
struct bp_ticket *bp_ticket_new(int kind);
/* Frees what the ticket owns, not the ticket. */
void bp_ticket_clear(struct bp_ticket *ticket);
void bp_ticket_fail(struct bp_ticket *ticket, const struct bp_error *err);
void bp_ticket_fail_with(struct bp_ticket *ticket, int code, int reason, const char *message);
uint64_t bp_ticket_bytes(const struct bp_ticket *ticket);
/* What the driver must know about a decoded write. */
void bp_ticket_classify(struct bp_ticket *ticket);
/*
 * The reply of an applied write, or the answer of a read, into ticket->reply; sets code and error.
 */
void bp_ticket_answer(struct bp_store *store, struct bp_ticket *ticket);
/* read.c: answer a READ or VALUE ticket. */
void bp_read_answer(struct bp_store *store, struct bp_ticket *ticket);
/* Tell the destination. */
void bp_ticket_complete(struct bp_store *store, struct bp_ticket *ticket);

/* ---- waiters --------------------------------------------------------------------------------- */

uint32_t bp_waiter_wait(struct bp_waiter *waiter); /* the state that ended the wait */
void bp_waiter_wake(struct bp_waiter *waiter, uint32_t state);

/* ---- queues (queue.c) ------------------------------------------------------------------------ */

/*
 * What nobody has taken yet, over all queues of a store, which may outlive it. `completions`: those
 * promised, and those that wait; `bytes`: replies that wait, also in a frame that is not complete.
 */
struct bp_backlog {
    _Atomic uint64_t references, completions, bytes;
    uint64_t completions_max, bytes_max;
};

struct bp_backlog *bp_backlog_new(uint64_t completions_max, uint64_t bytes_max);
void bp_backlog_release(struct bp_backlog *backlog); /* may be NULL */
uint64_t bp_backlog_bytes(const struct bp_backlog *backlog);
/* May another reply be made? What waits is over its limit by one for each reader at most. */
bool bp_backlog_has_room(const struct bp_backlog *backlog);
/* Replies that wait outside of a queue, in a frame. */
void bp_backlog_add_bytes(struct bp_backlog *backlog, uint64_t bytes);
void bp_backlog_drop_bytes(struct bp_backlog *backlog, uint64_t bytes);

/*
 * One completion will come: room for it is kept, so that an answer is never lost. Until it is taken
 * it counts against queue_max: RESOURCE_EXHAUSTED/QUEUE_FULL. Holds the queue until it is paid.
 */
int bp_queue_promise(struct bp_queue *queue, struct bp_error *err);
/* The submission failed: no completion comes. */
void bp_queue_forgive(struct bp_queue *queue);
/* Pay a promise; takes `reply` and `error`. */
void bp_queue_pay(struct bp_queue *queue, uint64_t cookie, int code, struct bp_reply reply,
                  uint32_t aux, struct bp_error *error);
/* A completion nobody promised: a watch's, which owes one at most. */
void bp_queue_push(struct bp_queue *queue, uint64_t cookie, int code, struct bp_reply reply,
                   uint32_t aux, struct bp_error *error);
void bp_queue_retain(struct bp_queue *queue);
void bp_queue_release(struct bp_queue *queue);

/* ---- frames (pipeline.c) --------------------------------------------------------------------- */

/* One op of the frame is answered; the last one completes the frame. Takes the ticket. */
void bp_pipeline_answered(struct bp_store *store, struct bp_ticket *ticket);

/* ---- batches of other members (raft_forwarded.c) --------------------------------------------- */

/* One request of the batch is done; the last one answers the batch. Takes the ticket. */
void bp_forwarded_answered(struct bp_store *store, struct bp_ticket *ticket);

/* ---- the door (door.c) ----------------------------------------------------------------------- */

/*
 * Queue tickets (a list linked by next, in order) for the role; on failure nothing is queued. Async
 * tickets wake the driver thread.
 */
int bp_driver_submit(struct bp_store *store, struct bp_ticket *first, struct bp_error *err);
/*
 * Count a read that goes straight to the readers as open, within the same limits; `leave` when it
 * is completed.
 */
int bp_driver_admit(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err);
void bp_driver_leave(struct bp_store *store, uint64_t tickets, uint64_t bytes);
/* driver.c: queue a ticket with a waiter; returns when it is done, driving if nobody else does. */
int bp_driver_execute(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err);
/* A linearizable read of a blocked caller, in a cluster: waits for its gate and answers it. */
int bp_driver_wait_read(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err);

#endif

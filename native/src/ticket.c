/* Tickets: what is common to every way through the engine. The life of one is drawn in ticket.h. */
#include "ticket.h"

#include <assert.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store.h"

struct bp_ticket *bp_ticket_new(int kind) {
    struct bp_ticket *ticket = calloc(1, sizeof *ticket);
    if (ticket != NULL) {
        ticket->kind = kind;
    }
    return ticket;
}

void bp_ticket_clear(struct bp_ticket *ticket) {
    bp_wire_call_free(&ticket->call);
    free(ticket->value.prefix);
    ticket->value.prefix = NULL;
    bp_buffer_free(&ticket->reply);
    free(ticket->error);
    ticket->error = NULL;
}

void bp_ticket_fail(struct bp_ticket *ticket, const struct bp_error *err) {
    assert(err->code != BP_OK);
    ticket->code = err->code;
    if (ticket->error == NULL) {
        ticket->error = malloc(sizeof *ticket->error);
    }
    if (ticket->error != NULL) {
        *ticket->error = *err;
    }
}

void bp_ticket_fail_with(struct bp_ticket *ticket, int code, int reason, const char *message) {
    struct bp_error err;
    bp_fail(&err, code, reason, "%s", message);
    bp_ticket_fail(ticket, &err);
}

uint64_t bp_ticket_bytes(const struct bp_ticket *ticket) {
    return sizeof *ticket + ticket->request.size;
}

void bp_ticket_classify(struct bp_ticket *ticket) {
    const struct bp_request *request = &ticket->request;
    ticket->grows = request->kind == BP_REQUEST_LEASE_GRANT;
    ticket->needs_values = ticket->method != 0 && bp_wire_reads_history(ticket->method, request);
    uint32_t ops = request->kind == BP_REQUEST_KV ? (uint32_t)request->n_then + request->n_else : 0;
    uint32_t at = request->then_at;
    for (uint32_t i = 0; i < ops && !ticket->grows; i++) {
        struct bp_op op;
        if (i == request->n_then) {
            at = request->else_at;
        }
        bp_request_op(request, &at, &op);
        ticket->grows = op.op == BP_OP_PUT;
    }
}

static void answer_outcome(struct bp_ticket *ticket) {
    uint8_t *out = bp_buffer_grow(&ticket->reply, 24);
    if (out != NULL) {
        bp_put_u64(out, ticket->outcome.revision);
        bp_put_u64(out + 8, ticket->outcome.deleted);
        bp_put_u64(out + 16, ticket->outcome.succeeded);
    }
}

static void unpin(struct bp_store *store, struct bp_ticket *ticket) {
    if (ticket->pin != 0) {
        bp_pins_remove(store, ticket->pin - 1);
        ticket->pin = 0;
    }
}

/* The reply of a write that its request, its outcome and the history determine. */
static int answer_write(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err) {
    struct bp_view view;
    bp_store_view(store, &view);
    uint64_t oldest = ticket->outcome.revision - 1;
    if (ticket->pin != 0 && view.floor > oldest) {
        view.floor = oldest; /* compacted meanwhile, but pinned */
    }
    int code = bp_wire_write_reply(ticket->method, &ticket->request, &ticket->outcome, &view,
                                   &store->limits, &ticket->reply, err);
    if (code == BP_OK && ticket->pin == 0 && ticket->needs_values &&
        atomic_load_explicit(&store->floor, memory_order_acquire) > oldest) {
        code = bp_fail_compacted(err, store);
    }
    return code;
}

/* The write took effect; only its reply is missing. The contract has one reason for that. */
static int no_reply(const struct bp_ticket *ticket, const char *why, struct bp_error *err) {
    return ticket->kind == BP_TICKET_WRITE
               ? bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_REPLY_TOO_LARGE,
                         "%s for the reply; the request was applied", why)
               : bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_QUEUE_FULL, "%s for the reply", why);
}

/*
 * Replies that are read wait in memory until their consumer takes them: none is made beyond what
 * may wait there. A blocked caller takes its own at once.
 */
static bool has_room(const struct bp_store *store, const struct bp_ticket *ticket) {
    bool waits = ticket->queue != NULL || ticket->frame != NULL;
    bool reads = ticket->kind != BP_TICKET_WRITE || ticket->needs_values;
    return !waits || !reads || bp_backlog_has_room(store->backlog);
}

static int answer(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err) {
    assert(ticket->applied);
    int code = BP_OK;
    if (ticket->method != 0) {
        code = answer_write(store, ticket, err);
    } else if (ticket->queue != NULL) {
        answer_outcome(ticket);
    }
    return code == BP_OK && ticket->reply.failed ? no_reply(ticket, "no memory", err) : code;
}

void bp_ticket_answer(struct bp_store *store, struct bp_ticket *ticket) {
    struct bp_error err = {0};
    int code = ticket->code;
    if (code == BP_OK && !has_room(store, ticket)) {
        code = no_reply(ticket, "too many answers wait to be taken: no room", &err);
        bp_ticket_fail(ticket, &err);
    } else if (code == BP_OK && ticket->kind != BP_TICKET_WRITE) {
        if (ticket->kind != BP_TICKET_PLACE) {
            bp_read_answer(store, ticket);
        }
    } else if (code == BP_OK && (code = answer(store, ticket, &err)) != BP_OK) {
        bp_ticket_fail(ticket, &err);
    }
    unpin(store, ticket);
}

void bp_ticket_complete(struct bp_store *store, struct bp_ticket *ticket) {
    if (ticket->waiter != NULL) {
        bp_waiter_wake(ticket->waiter, BP_DONE); /* the ticket is gone from here on */
        return;
    }
    if (ticket->frame != NULL) {
        bp_pipeline_answered(store, ticket);
        return;
    }
    if (ticket->forwarded != NULL) {
        bp_forwarded_answered(store, ticket);
        return;
    }
    if (ticket->done != NULL) {
        ticket->done(ticket->done_arg, ticket->code);
    }
    if (ticket->queue != NULL) {
        struct bp_reply reply = {0};
        if (ticket->code == BP_OK) {
            reply = (struct bp_reply){.data = ticket->reply.data, .size = ticket->reply.size};
            memset(&ticket->reply, 0, sizeof ticket->reply);
        }
        bp_queue_pay(ticket->queue, ticket->cookie, ticket->code, reply, ticket->aux,
                     ticket->error);
        ticket->error = NULL;
    }
    bp_ticket_clear(ticket);
    free(ticket);
}

static long futex(_Atomic uint32_t *word, int op, uint32_t value) {
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

uint32_t bp_waiter_wait(struct bp_waiter *waiter) {
    for (;;) {
        uint32_t state = atomic_load_explicit(&waiter->state, memory_order_acquire);
        if (state != BP_WAITING) {
            return state;
        }
        futex(&waiter->state, FUTEX_WAIT, BP_WAITING);
    }
}

void bp_waiter_wake(struct bp_waiter *waiter, uint32_t state) {
    _Atomic uint32_t *word = &waiter->state;
    atomic_store_explicit(word, state, memory_order_release);
    /*
     * The waiter may have returned and its stack frame be gone: waking an address nobody waits on
     * is harmless.
     */
    futex(word, FUTEX_WAKE, 1);
}

/*
 * A follower's writes and lease calls go to the leader in batches (raft.h draws the bytes).
 *
 *   queue, lease calls --bp_raft_forward--> batch {number, tickets} + bytes for the leader
 *   outcomes --bp_raft_answer--> tickets get them; the batch waits until this member has applied
 *                                the newest revision among them
 *            --> answered here: replies are built from the local history
 *
 * So a client reads what it wrote, also from this member. What the keeper of a member that led
 * proposed (expiry, compaction) is never forwarded: only a leader's clock decides that.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "raft.h"

/* ---- requests -------------------------------------------------------------------------------- */

static void put_item(struct bp_buffer *out, int kind, const void *bytes, uint32_t size) {
    size_t padded = bp_align8(size);
    uint8_t *p = bp_buffer_grow(out, 8 + padded);
    if (p != NULL) {
        memset(p, 0, 8 + padded);
        bp_put_u32(p, size);
        p[4] = (uint8_t)kind;
        memcpy(p + 8, bytes, size);
    }
}

static void put_ticket(struct bp_buffer *out, const struct bp_ticket *ticket) {
    const struct bp_wire_read *read = &ticket->call.read;
    uint8_t lease[8];
    if (ticket->kind == BP_TICKET_WRITE) {
        put_item(out, BP_FORWARD_WRITE, ticket->request.base, ticket->request.size);
    } else if (ticket->kind == BP_TICKET_READ && read->method == BP_METHOD_KEEP_ALIVE) {
        bp_put_u64(lease, read->lease);
        put_item(out, BP_FORWARD_KEEP_ALIVE, lease, sizeof lease);
    } else if (ticket->kind == BP_TICKET_READ && read->method == BP_METHOD_GET_LEASE) {
        bp_put_u64(lease, read->lease);
        put_item(out, BP_FORWARD_GET_LEASE, lease, sizeof lease);
    } else {
        put_item(out, BP_FORWARD_PLACE, lease, 0);
    }
}

static void put_requests(struct bp_buffer *out, const struct bp_forward *forward) {
    uint8_t *p = bp_buffer_grow(out, BP_FORWARD_HEAD);
    if (p != NULL) {
        bp_put_u64(p, forward->number);
        bp_put_u32(p + 8, (uint32_t)forward->tickets.n);
        bp_put_u32(p + 12, 0);
    }
    for (const struct bp_ticket *ticket = forward->tickets.first; ticket != NULL;
         ticket = ticket->next) {
        put_ticket(out, ticket);
    }
    uint32_t crc = out->failed ? 0 : bp_crc32c(0, out->data, out->size);
    if ((p = bp_buffer_grow(out, 4)) != NULL) {
        bp_put_u32(p, crc);
    }
}

/* ---- taking ---------------------------------------------------------------------------------- */

static bool is_internal(const struct bp_ticket *ticket) { return ticket->done != NULL; }

/* The queue's first tickets, those of about `bytes_max`. */
static void take_queued(struct bp_store *store, uint64_t bytes_max, struct bp_tickets *out) {
    struct bp_driver *driver = &store->driver;
    uint64_t bytes = 0;
    pthread_mutex_lock(&driver->mutex);
    while (driver->head != NULL && (out->n == 0 || bytes < bytes_max)) {
        struct bp_ticket *ticket = driver->head;
        driver->head = ticket->next;
        driver->queued--;
        driver->queued_arrivals -= ticket->first;
        driver->queued_bytes -= bp_ticket_bytes(ticket);
        bytes += bp_ticket_bytes(ticket);
        bp_tickets_add(out, ticket);
    }
    if (driver->head == NULL) {
        driver->tail = &driver->head;
    }
    pthread_mutex_unlock(&driver->mutex);
}

/* Splits off what was refused, or proposed by this member's own clock, or is read here anyway. */
static void sort_out(struct bp_store *store, struct bp_tickets *taken, struct bp_tickets *kept) {
    struct bp_error why;
    bp_no_leader(&why);
    struct bp_ticket *ticket = taken->first;
    while (ticket != NULL) {
        struct bp_ticket *next = ticket->next;
        ticket->next = NULL;
        bool local = ticket->kind == BP_TICKET_READ && ticket->call.read.serializable;
        if (ticket->code == BP_OK && is_internal(ticket)) {
            bp_ticket_fail(ticket, &why);
        }
        if (ticket->code != BP_OK || local) {
            (void)bp_tickets_answer(store, ticket);
        } else {
            bp_tickets_add(kept, ticket);
        }
        ticket = next;
    }
    bp_tickets_init(taken);
}

/* Behind those that wait, so that answers come in the order of the questions. mutex held. */
static void add_forward(struct bp_raft *raft, struct bp_forward *forward) {
    struct bp_forward **link = &raft->forwards;
    while (*link != NULL) {
        link = &(*link)->next;
    }
    forward->next = NULL;
    *link = forward;
}

/* The batch joins those that wait; false: the store is closing. */
static bool enlist(struct bp_raft *raft, struct bp_forward *forward) {
    pthread_mutex_lock(&raft->mutex);
    bool open = !raft->stopping;
    if (open) {
        add_forward(raft, forward);
    }
    pthread_mutex_unlock(&raft->mutex);
    return open;
}

static uint64_t refuse_batch(struct bp_store *store, struct bp_forward *forward,
                             struct bp_buffer *bytes) {
    struct bp_error why;
    (void)bp_fail(&why, BP_UNAVAILABLE, BP_REASON_NO_LEADER,
                  "the request could not be sent to the leader; nothing was done");
    bp_tickets_refuse(store, &forward->tickets, &why);
    bp_buffer_free(bytes);
    free(forward);
    return 0;
}

uint64_t bp_raft_forward(struct bp_store *store, uint64_t bytes_max, struct bp_reply *out) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_forward *forward = calloc(1, sizeof *forward);
    *out = (struct bp_reply){0};
    if (forward == NULL) {
        return 0;
    }
    struct bp_tickets taken;
    bp_tickets_init(&taken);
    bp_tickets_init(&forward->tickets);
    take_queued(store, bytes_max, &taken);
    pthread_mutex_lock(&raft->mutex);
    bp_tickets_move(&taken, &raft->lease_calls);
    forward->number = ++raft->next_number;
    pthread_mutex_unlock(&raft->mutex);
    sort_out(store, &taken, &forward->tickets);
    if (forward->tickets.n == 0) {
        free(forward);
        return 0;
    }
    struct bp_buffer bytes = {0};
    put_requests(&bytes, forward);
    uint64_t number = forward->number;
    if (bytes.failed || !enlist(raft, forward)) {
        return refuse_batch(store, forward, &bytes);
    }
    *out = (struct bp_reply){.data = bytes.data, .size = bytes.size};
    return number;
}

/* ---- answers --------------------------------------------------------------------------------- */

static struct bp_forward *unlink_forward(struct bp_raft *raft, uint64_t number, bool answered) {
    struct bp_forward **link = &raft->forwards;
    while (*link != NULL && ((*link)->number != number || ((*link)->revision != 0) != answered)) {
        link = &(*link)->next;
    }
    struct bp_forward *found = *link;
    if (found != NULL) {
        *link = found->next;
    }
    return found;
}

/* What the leader says of one request. */
static void take_outcome(struct bp_ticket *ticket, const uint8_t *p, uint64_t *newest) {
    int code = (int)bp_get_u32(p), reason = (int)bp_get_u32(p + 4);
    uint64_t revision = bp_get_u64(p + 8);
    ticket->outcome = (struct bp_outcome){.revision = revision,
                                          .deleted = bp_get_u64(p + 16),
                                          .succeeded = bp_get_u64(p + 24) != 0,
                                          .lease = bp_get_u64(p + 32),
                                          .ttl_ms = bp_get_u64(p + 40)};
    ticket->remaining_ms = bp_get_u64(p + 48);
    ticket->applied = true;
    if (code != BP_OK) {
        struct bp_error why;
        (void)bp_fail(&why, code, reason, "the leader says: %s (%s)", bp_apply_explain(reason),
                      bp_reason_name(reason));
        bp_ticket_fail(ticket, &why);
        return;
    }
    *newest = revision > *newest ? revision : *newest;
    if (ticket->kind == BP_TICKET_READ) {
        bool lease = ticket->call.read.lease != 0;
        ticket->remote = lease;
        ticket->placed = !lease && ticket->call.read.revision == 0;
        ticket->call.read.revision = ticket->placed ? revision : ticket->call.read.revision;
    }
}

static bool check_outcomes(const uint8_t *bytes, uint64_t size) {
    return size >= BP_FORWARD_HEAD + 4 &&
           size == BP_FORWARD_HEAD + 4 + (uint64_t)bp_get_u32(bytes + 8) * BP_OUTCOME_SIZE &&
           bp_crc32c(0, bytes, size - 4) == bp_get_u32(bytes + size - 4);
}

void bp_raft_open_answers(struct bp_raft *raft, struct bp_tickets *ready) {
    uint64_t revision = atomic_load_explicit(&raft->store->revision, memory_order_acquire);
    struct bp_forward **link = &raft->forwards;
    while (*link != NULL) {
        struct bp_forward *forward = *link;
        if (forward->revision != 0 && forward->revision <= revision) {
            *link = forward->next;
            bp_tickets_move(ready, &forward->tickets);
            free(forward);
        } else {
            link = &forward->next;
        }
    }
}

/* Its tickets have their outcomes: it waits for the newest of them. */
static void park(struct bp_store *store, struct bp_forward *forward, uint64_t newest) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_tickets ready;
    bp_tickets_init(&ready);
    pthread_mutex_lock(&raft->mutex);
    forward->revision = newest;
    add_forward(raft, forward);
    bp_raft_open_answers(raft, &ready);
    pthread_mutex_unlock(&raft->mutex);
    (void)bp_tickets_answer(store, ready.first);
}

int bp_raft_answer(struct bp_store *store, const void *outcomes, uint64_t size,
                   struct bp_error *err) {
    struct bp_raft *raft = bp_raft_of(store);
    const uint8_t *bytes = outcomes;
    struct bp_error damaged;
    (void)bp_fail(&damaged, BP_DATA_LOSS, BP_REASON_MALFORMED_REQUEST,
                  "the leader's outcomes are damaged");
    if (!check_outcomes(bytes, size)) {
        if (err != NULL) {
            *err = damaged;
        }
        return damaged.code;
    }
    pthread_mutex_lock(&raft->mutex);
    struct bp_forward *forward = unlink_forward(raft, bp_get_u64(bytes), false);
    pthread_mutex_unlock(&raft->mutex);
    if (forward == NULL) {
        return BP_OK; /* failed meanwhile */
    }
    if (forward->tickets.n != bp_get_u32(bytes + 8)) {
        struct bp_error why;
        bp_leader_lost(&why);
        bp_tickets_refuse(store, &forward->tickets, &why);
        free(forward);
        if (err != NULL) {
            *err = damaged;
        }
        return damaged.code;
    }
    const uint8_t *p = bytes + BP_FORWARD_HEAD;
    uint64_t newest = 1; /* the empty store's: always there */
    for (struct bp_ticket *ticket = forward->tickets.first; ticket != NULL;
         ticket = ticket->next, p += BP_OUTCOME_SIZE) {
        take_outcome(ticket, p, &newest);
    }
    park(store, forward, newest);
    return BP_OK;
}

void bp_raft_forward_failed(struct bp_store *store, uint64_t batch, int sent) {
    struct bp_raft *raft = bp_raft_of(store);
    pthread_mutex_lock(&raft->mutex);
    struct bp_forward *forward = unlink_forward(raft, batch, false);
    pthread_mutex_unlock(&raft->mutex);
    if (forward == NULL) {
        return;
    }
    struct bp_error why;
    if (sent) {
        bp_leader_lost(&why);
    } else {
        bp_no_leader(&why);
    }
    bp_tickets_refuse(store, &forward->tickets, &why);
    free(forward);
}

/* ---- refusing -------------------------------------------------------------------------------- */

void bp_raft_take_queue(struct bp_store *store, bool (*wanted)(const struct bp_ticket *),
                        struct bp_tickets *out) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->mutex);
    struct bp_ticket **link = &driver->head;
    while (*link != NULL) {
        struct bp_ticket *ticket = *link;
        if (wanted != NULL && !wanted(ticket)) {
            link = &ticket->next;
            continue;
        }
        *link = ticket->next;
        driver->queued--;
        driver->queued_arrivals -= ticket->first;
        driver->queued_bytes -= bp_ticket_bytes(ticket);
        bp_tickets_add(out, ticket);
    }
    driver->tail = link;
    pthread_mutex_unlock(&driver->mutex);
}

void bp_raft_refuse_queued(struct bp_store *store) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_tickets all;
    bp_tickets_init(&all);
    bp_raft_take_queue(store, NULL, &all);
    pthread_mutex_lock(&raft->mutex);
    bp_tickets_move(&all, &raft->reads);
    bp_tickets_move(&all, &raft->lease_calls);
    raft->reads_minimum = 0;
    pthread_mutex_unlock(&raft->mutex);
    struct bp_error why;
    bp_no_leader(&why);
    bp_tickets_refuse(store, &all, &why);
}

/* Batches with answers that wait to be applied leave the list. mutex held. */
static void take_answered(struct bp_raft *raft, struct bp_tickets *out) {
    struct bp_forward **link = &raft->forwards;
    while (*link != NULL) {
        struct bp_forward *forward = *link;
        if (forward->revision == 0) {
            link = &forward->next;
            continue;
        }
        *link = forward->next;
        bp_tickets_move(out, &forward->tickets);
        free(forward);
    }
}

/* They succeeded elsewhere, and nothing here could show it. */
static void doubt(struct bp_store *store, struct bp_tickets *answered) {
    struct bp_error why;
    (void)bp_fail(
        &why, BP_UNAVAILABLE, BP_REASON_LEADER_LOST,
        "this member's disk is full or stalls; whether the request took effect is unknown "
        "here");
    for (struct bp_ticket *ticket = answered->first; ticket != NULL; ticket = ticket->next) {
        ticket->applied = false;
    }
    bp_tickets_refuse(store, answered, &why);
}

void bp_raft_give_up(struct bp_store *store) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_tickets queued, undone, answered;
    bp_tickets_init(&queued);
    bp_tickets_init(&undone);
    bp_tickets_init(&answered);
    bp_raft_take_queue(store, NULL, &queued);
    sort_out(store, &queued, &undone);
    pthread_mutex_lock(&raft->mutex);
    bp_tickets_move(&undone, &raft->lease_calls);
    bp_raft_take_released(raft, &undone);
    take_answered(raft, &answered);
    pthread_mutex_unlock(&raft->mutex);
    struct bp_error why;
    if (atomic_load_explicit(&store->disk_full, memory_order_relaxed)) {
        (void)bp_fail(&why, BP_UNAVAILABLE, BP_REASON_DISK_FULL,
                      "this member's disk is full, so it falls behind; nothing was done");
    } else {
        (void)bp_fail(&why, BP_UNAVAILABLE, BP_REASON_NO_LEADER,
                      "this member's disk stalls, so it falls behind; nothing was done");
    }
    bp_tickets_refuse(store, &undone, &why);
    doubt(store, &answered);
}

/*
 * The door: how tickets come into the engine, and how many may be in it.
 *
 *   submit   async writes and frames --> queue --> [role]        one list, in the order of entering
 *   execute  (driver.c) a blocked caller's --^
 *   admit    reads that go straight to the readers, counted only
 *   leave    whoever completes a ticket says so
 *
 * Invariants, under driver.mutex
 *   - open and open_bytes are those of all tickets that entered and have not left, at most
 *     options.queue_max and queue_bytes_max.
 *   - A closed door lets nobody in; bp_driver_stop waits there until everybody has left.
 */
#include <stdlib.h>

#include "door.h"
#include "raft.h"
#include "ticket.h"

static int may_enter(struct bp_store *store, uint64_t tickets, uint64_t bytes,
                     struct bp_error *err) {
    const struct bp_driver *driver = &store->driver;
    if (driver->closed) {
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_STORE_CLOSED, "the store is closing");
    }
    if (driver->open + tickets > store->options.queue_max ||
        driver->open_bytes + bp_backlog_bytes(store->backlog) + bytes >
            store->options.queue_bytes_max) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_QUEUE_FULL,
                       "%llu requests of %llu bytes are open, and answers of %llu bytes wait to be "
                       "taken",
                       (unsigned long long)driver->open, (unsigned long long)driver->open_bytes,
                       (unsigned long long)bp_backlog_bytes(store->backlog));
    }
    return BP_OK;
}

int bp_door_enter(struct bp_store *store, struct bp_ticket *first, struct bp_ticket *last,
                  uint64_t tickets, uint64_t bytes, struct bp_error *err) {
    struct bp_driver *driver = &store->driver;
    int code = may_enter(store, tickets, bytes, err);
    if (code == BP_OK) {
        *driver->tail = first;
        driver->tail = &last->next;
        driver->open += tickets;
        driver->open_bytes += bytes;
        struct bp_raft *raft = bp_raft_of(store);
        if (raft != NULL) {
            first->first = true;
            driver->queued_arrivals++;
            driver->queued += tickets;
            driver->queued_bytes += bytes;
        }
    }
    return code;
}

int bp_driver_admit(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err) {
    struct bp_driver *driver = &store->driver;
    uint64_t bytes = bp_ticket_bytes(ticket);
    pthread_mutex_lock(&driver->mutex);
    int code = may_enter(store, 1, bytes, err);
    if (code == BP_OK) {
        driver->open++;
        driver->open_bytes += bytes;
        ticket->admitted = true;
    }
    pthread_mutex_unlock(&driver->mutex);
    return code;
}

void bp_driver_leave(struct bp_store *store, uint64_t tickets, uint64_t bytes) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->mutex);
    driver->open -= tickets;
    driver->open_bytes -= bytes;
    if (driver->closed && driver->open == 0) {
        pthread_cond_broadcast(&driver->wake);
    }
    pthread_mutex_unlock(&driver->mutex);
}

int bp_driver_submit(struct bp_store *store, struct bp_ticket *first, struct bp_error *err) {
    struct bp_driver *driver = &store->driver;
    uint64_t tickets = 0, bytes = 0;
    struct bp_ticket *last = first;
    for (struct bp_ticket *ticket = first; ticket != NULL; ticket = ticket->next) {
        tickets++;
        bytes += bp_ticket_bytes(ticket);
        last = ticket;
    }
    pthread_mutex_lock(&driver->mutex);
    int code = bp_door_enter(store, first, last, tickets, bytes, err);
    if (code == BP_OK && !driver->driving && !driver->taken) {
        pthread_cond_signal(&driver->wake);
    }
    uint64_t queued_bytes = driver->queued_bytes, arrivals = driver->queued_arrivals;
    pthread_mutex_unlock(&driver->mutex);
    bp_raft_queued(store, queued_bytes, arrivals);
    return code;
}

int bp_driver_propose(struct bp_store *store, struct bp_builder *builder,
                      void (*done)(void *arg, int code), void *arg, struct bp_error *err) {
    struct bp_ticket *ticket = bp_ticket_new(BP_TICKET_WRITE);
    if (ticket == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a request");
    }
    ticket->call.is_write = true;
    ticket->call.request = *builder;
    bp_builder_init(builder); /* the bytes are the ticket's now */
    int code = bp_request_decode(ticket->call.request.buf, ticket->call.request.size,
                                 &ticket->request, err);
    if (code == BP_OK) {
        bp_ticket_classify(ticket);
        ticket->done = done;
        ticket->done_arg = arg;
        code = bp_driver_submit(store, ticket, err);
    }
    if (code != BP_OK) {
        bp_ticket_clear(ticket);
        free(ticket);
    }
    return code;
}

void bp_driver_chore(struct bp_store *store, bool mark, bool sync) {
    struct bp_driver *driver = &store->driver;
    struct bp_raft *raft = bp_raft_of(store);
    if (raft != NULL) {
        bp_raft_mark(raft);
        return;
    }
    pthread_mutex_lock(&driver->mutex);
    driver->want_mark = driver->want_mark || mark;
    driver->want_sync = driver->want_sync || sync;
    if (!driver->driving) {
        pthread_cond_signal(&driver->wake);
    }
    pthread_mutex_unlock(&driver->mutex);
}

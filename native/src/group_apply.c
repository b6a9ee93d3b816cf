/*
 * A durable group: applied in its turn, published, answered.
 *
 *   turn n    | apply -> publish |
 *   turn n+1                     | apply -> publish |        under store->apply, in the log's order
 *   answers           ...............  ..............         by whoever gathered the group
 *
 * Invariants
 *   - For a one-member cluster durable means committed.
 *   - Nothing after an entry that could not be applied is decided: the member stops writing.
 *   - Reads that came through the queue are answered as of their place among the writes.
 *   - History that a reply needs is pinned before `apply` is let go, and unpinned when it is built.
 */
#include "group.h"

#include <assert.h>

/*
 * A damaged value or no memory in the middle of applying: nothing after it may be decided, so the
 * member stops writing.
 */
static void stop_member(struct bp_store *store, struct bp_group *group,
                        const struct bp_error *err) {
    atomic_store_explicit(&store->poisoned, true, memory_order_relaxed);
    atomic_store_explicit(&store->damaged, true, memory_order_relaxed);
    struct bp_error stopped; /* they are durable: a start that gets over this applies them */
    (void)bp_fail(&stopped, BP_UNAVAILABLE, BP_REASON_LOG_POISONED,
                  "an entry could not be applied, so nothing after it was: %s", err->message);
    for (struct bp_ticket *ticket = group->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->kind == BP_TICKET_WRITE && ticket->code == BP_OK && !ticket->applied) {
            bp_ticket_fail(ticket, &stopped);
        }
    }
}

static struct bp_ticket *next_write(struct bp_ticket *ticket) {
    while (ticket != NULL && (ticket->kind != BP_TICKET_WRITE || ticket->code != BP_OK)) {
        ticket = ticket->next;
    }
    return ticket;
}

static void take_outcome(struct bp_store *store, struct bp_ticket *ticket,
                         const struct bp_applied *applied) {
    ticket->applied = true;
    ticket->outcome = applied->outcome;
    /* Under `apply`, so nothing the reply needs can have been trimmed yet. */
    uint32_t pin;
    if (ticket->needs_values && applied->code == BP_OK &&
        bp_pins_add(store, BP_PIN_WRITE, ticket->outcome.revision - 1, &pin, NULL) == BP_OK) {
        ticket->pin = pin + 1;
    }
    if (applied->code != BP_OK) {
        bp_ticket_fail_with(ticket, applied->code, applied->reason,
                            bp_apply_explain(applied->reason));
    }
}

/*
 * Reads that came through the queue are answered at the revision of the last write before them.
 * `revision` is the newest one before the group. Counted by what was applied: a write whose fate is
 * unknown has no revision that a reader may see.
 */
void bp_tickets_place(struct bp_ticket *first, uint64_t revision) {
    for (struct bp_ticket *ticket = first; ticket != NULL; ticket = ticket->next) {
        if (ticket->kind == BP_TICKET_WRITE) {
            revision += ticket->applied;
        } else if (ticket->kind == BP_TICKET_PLACE) {
            ticket->outcome.revision = revision;
            ticket->applied = true;
        } else if (ticket->kind == BP_TICKET_READ && ticket->call.read.revision == 0) {
            ticket->call.read.revision = revision;
            ticket->placed = true;
        }
    }
}

struct bp_ticket *bp_tickets_outcomes(struct bp_store *store, struct bp_ticket *ticket,
                                      const struct bp_applied *applied, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        ticket = next_write(ticket);
        assert(ticket != NULL);
        take_outcome(store, ticket, &applied[i]);
        ticket = ticket->next;
    }
    return ticket;
}

/* False: the member has stopped, and what is applied ends somewhere within the group. */
static bool apply_entries(struct bp_store *store, struct bp_group *group) {
    struct bp_applied *applied = store->driver.applied;
    struct bp_ticket *ticket = group->first;
    for (uint32_t i = 0; i < group->n_entries; i++) {
        struct bp_error err = {0};
        const struct bp_entry *entry = &group->entries[i];
        if (bp_apply_entry(store, entry, applied, &err) != BP_OK) {
            stop_member(store, group, &err);
            return false;
        }
        ticket = bp_tickets_outcomes(store, ticket, applied, entry->count);
    }
    return true;
}

static void await_turn(struct bp_store *store, uint32_t turn) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->turn_mutex);
    while (driver->applied_turn != turn) {
        pthread_cond_wait(&driver->turned, &driver->turn_mutex);
    }
    pthread_mutex_unlock(&driver->turn_mutex);
}

static void end_turn(struct bp_store *store) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->turn_mutex);
    driver->applied_turn++;
    pthread_cond_broadcast(&driver->turned);
    pthread_mutex_unlock(&driver->turn_mutex);
}

/* Applies the group when its turn has come. */
void bp_group_apply(struct bp_store *store, struct bp_group *group) {
    await_turn(store, group->turn);
    pthread_mutex_lock(&store->apply);
    uint64_t before = store->next_revision - 1;
    if (group->n_entries > 0) {
        atomic_store_explicit(&store->committed, group->last_index, memory_order_relaxed);
        if (apply_entries(store, group)) {
            store->applied_end = group->end;
            store->applied_sequence = group->sequence;
        }
        bp_apply_publish(store);
    }
    bp_tickets_place(group->first, before);
    pthread_mutex_unlock(&store->apply);
    atomic_fetch_sub(&store->driver.granting, group->grants);
    end_turn(store);
}

/* Its reply takes reading: a reader builds it, and until then it counts as open. */
static bool goes_to_reader(const struct bp_ticket *ticket) {
    return ticket->code == BP_OK && ticket->waiter == NULL && ticket->kind != BP_TICKET_PLACE &&
           (ticket->kind != BP_TICKET_WRITE || ticket->needs_values);
}

uint64_t bp_tickets_answer(struct bp_store *store, struct bp_ticket *first) {
    uint64_t tickets = 0, bytes = 0;
    for (struct bp_ticket *ticket = first; ticket != NULL; ticket = ticket->next) {
        ticket->admitted = goes_to_reader(ticket);
        if (ticket->waiter == NULL && !ticket->admitted) {
            tickets++;
            bytes += bp_ticket_bytes(ticket);
        }
    }
    bp_driver_leave(store, tickets, bytes);
    tickets = 0;
    for (struct bp_ticket *ticket = first, *next; ticket != NULL; ticket = next) {
        next = ticket->next;
        tickets++;
        ticket->next = NULL;
        if (ticket->admitted) {
            bp_readers_push(store, ticket);
            continue;
        }
        if (ticket->waiter == NULL) {
            bp_ticket_answer(store, ticket);
        }
        bp_ticket_complete(store, ticket);
    }
    return tickets;
}

uint64_t bp_group_answer(struct bp_store *store, struct bp_group *group) {
    return bp_tickets_answer(store, group->first);
}

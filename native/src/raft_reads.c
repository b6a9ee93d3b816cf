/*
 * Linearizable reads: nobody may answer one before the leader has proved that it led when it came.
 *
 *   read ----------\                                              /--> readers
 *                   reads --gate n--> {n, tickets} --release(n, index)--> once applied >= index
 *   lease call --\ /  (a leader)                                  \--> lease calls, where this
 *                 +-- lease calls --forward--> the leader              member leads no more
 *
 * One gate takes everything queued so far, so one message asks for all of it. Lease calls are
 * answered from a leader's memory: a leader's gate takes them along, a follower sends them on.
 *
 * Invariant: a read that came through the queue is answered behind the writes before it, also when
 * those are in a group of their own (`minimum`); a leader that was one forgets the minimum with
 * those writes.
 */
#include <stdlib.h>

#include "raft.h"

static bool is_lease_call(const struct bp_ticket *ticket) {
    return ticket->kind == BP_TICKET_READ && (ticket->call.read.method == BP_METHOD_KEEP_ALIVE ||
                                              ticket->call.read.method == BP_METHOD_GET_LEASE);
}

bool bp_raft_gated(struct bp_store *store, const struct bp_ticket *ticket) {
    if (bp_raft_of(store) == NULL) {
        return false;
    }
    if (ticket->kind == BP_TICKET_VALUE) {
        uint64_t revision = ticket->value.revision;
        return revision == 0 ||
               revision > atomic_load_explicit(&store->revision, memory_order_acquire);
    }
    return ticket->kind == BP_TICKET_PLACE ||
           (ticket->kind == BP_TICKET_READ && !ticket->call.read.serializable);
}

void bp_raft_read(struct bp_store *store, struct bp_ticket *ticket, bool placed) {
    struct bp_raft *raft = bp_raft_of(store);
    pthread_mutex_lock(&raft->mutex);
    bool closed = raft->stopping;
    if (!closed) {
        bp_tickets_add(is_lease_call(ticket) ? &raft->lease_calls : &raft->reads, ticket);
        if (placed) {
            raft->reads_minimum = raft->table.last;
        }
    }
    pthread_mutex_unlock(&raft->mutex);
    if (closed) {
        bp_ticket_fail_with(ticket, BP_UNAVAILABLE, BP_REASON_STORE_CLOSED, "the store is closing");
        (void)bp_tickets_answer(store, ticket);
        return;
    }
    if (!atomic_load_explicit(&raft->held_reads, memory_order_acquire)) {
        bp_raft_signal(raft);
    }
}

/* ---- gates ----------------------------------------------------------------------------------- */

uint64_t bp_raft_gate(struct bp_store *store) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_gate *gate = calloc(1, sizeof *gate);
    if (gate == NULL) {
        return 0; /* they wait for the next one */
    }
    bp_tickets_init(&gate->tickets);
    pthread_mutex_lock(&raft->mutex);
    bp_tickets_move(&gate->tickets, &raft->reads);
    if (raft->leading) {
        bp_tickets_move(&gate->tickets, &raft->lease_calls);
    }
    uint64_t number = 0;
    if (gate->tickets.n > 0) {
        number = gate->number = ++raft->next_number;
        gate->minimum = raft->reads_minimum;
        raft->reads_minimum = 0;
        struct bp_gate **link = &raft->gates;
        while (*link != NULL) {
            link = &(*link)->next;
        }
        *link = gate;
    }
    pthread_mutex_unlock(&raft->mutex);
    if (number == 0) {
        free(gate);
    }
    return number;
}

/* The gate's reads into *ready; its lease calls wait on where this member leads no more. */
static void open_gate(struct bp_raft *raft, struct bp_gate *gate, struct bp_tickets *ready) {
    struct bp_ticket *ticket = gate->tickets.first;
    while (ticket != NULL) {
        struct bp_ticket *next = ticket->next;
        bool elsewhere = !raft->leading && is_lease_call(ticket);
        bp_tickets_add(elsewhere ? &raft->lease_calls : ready, ticket);
        ticket = next;
    }
    free(gate);
}

void bp_raft_open_gates(struct bp_raft *raft, struct bp_tickets *ready) {
    struct bp_gate **link = &raft->gates;
    while (*link != NULL) {
        struct bp_gate *gate = *link;
        uint64_t index = gate->index > gate->minimum ? gate->index : gate->minimum;
        if (gate->released && index <= raft->applied) {
            *link = gate->next;
            open_gate(raft, gate, ready);
        } else {
            link = &gate->next;
        }
    }
}

void bp_raft_run_reads(struct bp_store *store, struct bp_tickets *ready) {
    uint64_t revision = atomic_load_explicit(&store->revision, memory_order_acquire);
    for (struct bp_ticket *ticket = ready->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->kind == BP_TICKET_PLACE) {
            ticket->outcome.revision = revision;
            ticket->applied = true;
        }
    }
    (void)bp_tickets_answer(store, ready->first);
    bp_tickets_init(ready);
}

static struct bp_gate *find_gate(struct bp_raft *raft, uint64_t number) {
    struct bp_gate *gate = raft->gates;
    while (gate != NULL && gate->number != number) {
        gate = gate->next;
    }
    return gate;
}

/* Out of the list, its tickets into *refused. */
static void remove_gate(struct bp_raft *raft, struct bp_gate *gone, struct bp_tickets *refused) {
    struct bp_gate **link = &raft->gates;
    while (*link != gone) {
        link = &(*link)->next;
    }
    *link = gone->next;
    bp_tickets_move(refused, &gone->tickets);
    free(gone);
}

void bp_raft_take_released(struct bp_raft *raft, struct bp_tickets *out) {
    struct bp_gate *gate = raft->gates;
    while (gate != NULL) {
        struct bp_gate *next = gate->next;
        if (gate->released) {
            remove_gate(raft, gate, out);
        }
        gate = next;
    }
}

void bp_raft_release(struct bp_store *store, uint64_t number, uint64_t index, int refuse) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_tickets ready, refused;
    bp_tickets_init(&ready);
    bp_tickets_init(&refused);
    pthread_mutex_lock(&raft->mutex);
    struct bp_gate *gate = find_gate(raft, number);
    if (gate != NULL && refuse != 0) {
        remove_gate(raft, gate, &refused);
    } else if (gate != NULL) {
        gate->released = true;
        gate->index = index;
        bp_raft_open_gates(raft, &ready);
    }
    bool waits = raft->lease_calls.n > 0;
    pthread_mutex_unlock(&raft->mutex);
    struct bp_error why;
    bp_no_leader(&why);
    bp_tickets_refuse(store, &refused, &why);
    bp_raft_run_reads(store, &ready);
    if (waits) {
        bp_raft_signal(raft);
    }
}

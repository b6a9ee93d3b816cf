/*
 * A leader's groups: tickets that wait until entries of theirs are applied.
 *
 *   queue --bp_group_gather--> group of entries and tickets
 *                 | writes                        | reads alone
 *                 v                               v
 *     bytes copied into one blob,             the reads: a gate proves that we lead
 *     entries at the table's end,
 *     group in the list ... applied (raft_apply.c) -> answered
 *                        or superseded, or we lead no more -> LEADER_LOST
 *
 * A read among a group's writes is placed: that they were committed in our term proves that we led
 * when it came.
 *
 * Invariants
 *   - Groups lie in the list in the order of their entries, and each entry's slot names its group.
 *   - A group leaves the list once: with the applier, or with whoever fails it; `busy` says whose.
 *   - A blob has what its entries need: tickets may go before the entries are written.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "raft.h"

/* ---- lists of tickets ------------------------------------------------------------------------ */

void bp_tickets_init(struct bp_tickets *list) {
    list->first = NULL;
    list->tail = &list->first;
    list->n = 0;
}

void bp_tickets_add(struct bp_tickets *list, struct bp_ticket *ticket) {
    ticket->next = NULL;
    *list->tail = ticket;
    list->tail = &ticket->next;
    list->n++;
}

void bp_tickets_move(struct bp_tickets *list, struct bp_tickets *from) {
    if (from->first != NULL) {
        *list->tail = from->first;
        list->tail = from->tail;
        list->n += from->n;
        bp_tickets_init(from);
    }
}

void bp_tickets_refuse(struct bp_store *store, struct bp_tickets *list,
                       const struct bp_error *why) {
    for (struct bp_ticket *ticket = list->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->code == BP_OK && !ticket->applied) {
            bp_ticket_fail(ticket, why);
        }
    }
    (void)bp_tickets_answer(store, list->first);
    bp_tickets_init(list);
}

void bp_no_leader(struct bp_error *err) {
    (void)bp_fail(err, BP_UNAVAILABLE, BP_REASON_NO_LEADER,
                  "the cluster has no leader here now; nothing was done");
}

void bp_leader_lost(struct bp_error *err) {
    (void)bp_fail(err, BP_UNAVAILABLE, BP_REASON_LEADER_LOST,
                  "leadership was lost; whether the request took effect is unknown");
}

/* ---- losing ---------------------------------------------------------------------------------- */

static void forget_group(struct bp_raft *raft, const struct bp_raft_group *group) {
    for (uint64_t i = group->first_index; i <= group->last_index; i++) {
        struct bp_slot *slot = bp_table_slot(&raft->table, i);
        if (slot != NULL && slot->group == group) {
            slot->group = NULL;
        }
    }
}

void bp_raft_detach(struct bp_raft *raft, uint64_t index, struct bp_raft_group **lost) {
    struct bp_raft_group **link = &raft->groups;
    while (*link != NULL) {
        struct bp_raft_group *group = *link;
        if (group->last_index < index) {
            link = &group->next;
            continue;
        }
        forget_group(raft, group);
        if (group->busy) { /* the applier finishes it */
            group->lost = true;
            link = &group->next;
            continue;
        }
        *link = group->next;
        group->next = *lost;
        *lost = group;
    }
    raft->groups_tail = link;
}

void bp_raft_detach_one(struct bp_raft *raft, struct bp_raft_group *gone) {
    struct bp_raft_group **link = &raft->groups;
    while (*link != gone) {
        link = &(*link)->next;
    }
    forget_group(raft, gone);
    *link = gone->next;
    if (gone->next == NULL) {
        raft->groups_tail = link;
    }
}

void bp_raft_fail_groups(struct bp_store *store, struct bp_raft_group *groups,
                         const struct bp_error *why) {
    while (groups != NULL) {
        struct bp_raft_group *next = groups->next;
        bp_tickets_refuse(store, &groups->tickets, why);
        free(groups);
        groups = next;
    }
}

/* ---- gathering ------------------------------------------------------------------------------- */

/* The group's payloads in a blob, which the entries point into from now on. */
static struct bp_blob *copy_payloads(struct bp_group *group) {
    struct bp_blob *blob = bp_blob_new(group->payload_bytes);
    uint64_t offset = 0;
    for (uint32_t i = 0; blob != NULL && i < group->n_entries; i++) {
        struct bp_entry *entry = &group->entries[i];
        memcpy(blob->data + offset, entry->payload, entry->size);
        entry->payload = blob->data + offset;
        offset += entry->size;
    }
    return blob;
}

static struct bp_raft_group *make_group(struct bp_group *gathered) {
    struct bp_raft_group *group = calloc(1, sizeof *group);
    if (group != NULL) {
        bp_tickets_init(&group->tickets);
        for (struct bp_ticket *ticket = gathered->first, *next; ticket != NULL; ticket = next) {
            next = ticket->next;
            bp_tickets_add(&group->tickets, ticket);
        }
        group->cursor = group->tickets.first;
        gathered->first = NULL;
    }
    return group;
}

/* False: no memory. */
static bool append_group(struct bp_raft *raft, struct bp_group *gathered, struct bp_blob *blob,
                         struct bp_raft_group *group, uint64_t term) {
    struct bp_table *table = &raft->table;
    pthread_mutex_lock(&raft->mutex);
    bool room = bp_table_reserve(table, gathered->n_entries);
    group->first_index = table->last + 1;
    for (uint32_t i = 0; room && i < gathered->n_entries; i++) {
        struct bp_entry *entry = &gathered->entries[i];
        entry->index = table->last + 1;
        entry->term = term;
        entry->first_revision = bp_table_next_revision(table);
        int code =
            bp_table_append(table, entry, blob, bp_crc32c(0, entry->payload, entry->size), NULL);
        assert(code == BP_OK); /* numbered by the table itself */
        (void)code;
        bp_table_slot(table, entry->index)->group = group;
    }
    if (room) {
        group->last_index = table->last;
        *raft->groups_tail = group;
        raft->groups_tail = &group->next;
    }
    pthread_mutex_unlock(&raft->mutex);
    return room;
}

static void refuse_gathered(struct bp_store *store, struct bp_group *gathered) {
    struct bp_error err;
    (void)bp_fail(&err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                  "no memory to replicate the request");
    for (struct bp_ticket *ticket = gathered->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->code == BP_OK) {
            bp_ticket_fail(ticket, &err);
        }
    }
    (void)bp_tickets_answer(store, gathered->first);
    gathered->first = NULL;
}

/* Reads alone, and writes that were refused. */
static void pass_reads(struct bp_store *store, struct bp_group *gathered) {
    struct bp_ticket *ticket = gathered->first;
    while (ticket != NULL) {
        struct bp_ticket *next = ticket->next;
        ticket->next = NULL;
        if (ticket->code == BP_OK && bp_raft_gated(store, ticket)) {
            bp_raft_read(store, ticket, true);
        } else {
            (void)bp_tickets_answer(store, ticket);
        }
        ticket = next;
    }
    gathered->first = NULL;
}

/* They are in the driver's queue no more. */
static void count_taken(struct bp_store *store, const struct bp_group *gathered) {
    pthread_mutex_lock(&store->driver.mutex);
    store->driver.queued -= gathered->taken;
    store->driver.queued_arrivals -= gathered->taken_arrivals;
    store->driver.queued_bytes -= gathered->taken_bytes;
    pthread_mutex_unlock(&store->driver.mutex);
}

static uint64_t gathered_bytes(const struct bp_group *group) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < group->n_entries; i++) {
        bytes += bp_entry_bytes(group->entries[i].size);
    }
    return bytes;
}

static uint32_t append_gathered(struct bp_store *store, struct bp_group *gathered, uint64_t term) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_blob *blob = copy_payloads(gathered);
    struct bp_raft_group *group = blob != NULL ? make_group(gathered) : NULL;
    bool appended = group != NULL && append_group(raft, gathered, blob, group, term);
    bp_blob_drop(blob); /* the slots hold it */
    if (appended) {
        return gathered->n_entries;
    }
    if (group != NULL) {
        gathered->first = group->tickets.first;
        free(group);
    }
    refuse_gathered(store, gathered);
    return 0;
}

uint32_t bp_raft_gather(struct bp_store *store, uint64_t term, uint64_t bytes_max, uint64_t *last,
                        uint64_t *bytes) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_group *gathered = &raft->gathered;
    bp_group_gather(store, gathered, bytes_max);
    count_taken(store, gathered);
    uint32_t n = 0;
    *bytes = 0;
    if (gathered->writes == 0) {
        pass_reads(store, gathered);
    } else {
        n = append_gathered(store, gathered, term);
        *bytes = n > 0 ? gathered_bytes(gathered) : 0;
    }
    pthread_mutex_lock(&raft->mutex);
    *last = raft->table.last;
    pthread_mutex_unlock(&raft->mutex);
    return n;
}

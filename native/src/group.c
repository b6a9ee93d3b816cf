/*
 * Gathering: the longest prefix of the queue that fits one frame.
 *
 *   queue    t t t t t t ...
 *              |
 *              v
 *   entries  [small requests, gathered][one large request][small ...]
 *   payload   in staging                where it lies      in staging
 *
 * Invariants
 *   - A ticket taken off the queue is in the group; what did not fit is back at the queue's front.
 *   - The entries carry exactly the writes of the group that nothing has failed, in their order.
 *   - Limits, memory and a full disk are looked at here and never at apply: apply is determined by
 *     the log.
 */
#include "group.h"

#include <assert.h>
#include <string.h>

#include "apply_compare.h"

#define LARGE_REQUEST (32u << 10) /* written from where it lies instead of being gathered */
#define GATHER_MAX (1u << 20)     /* payload of one gathered entry */

uint64_t bp_group_frame_bytes(const struct bp_group *group) {
    return group->payload_bytes + (uint64_t)(group->n_entries + 1) * BP_ENTRY_HEADER;
}

/* Why this write may not enter the log now, before anything is written; BP_OK if it may. */
static int admit(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err) {
    if (atomic_load_explicit(&store->poisoned, memory_order_relaxed)) {
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_LOG_POISONED,
                       "the log failed earlier and takes no writes until the daemon is restarted");
    }
    if (ticket->request.n_compares > 0) {
        int code = bp_check_compared(store, &ticket->request, err);
        if (code != BP_OK) {
            return code;
        }
    }
    if (!ticket->grows) {
        return BP_OK;
    }
    if (atomic_load_explicit(&store->disk_full, memory_order_relaxed)) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_DISK_FULL,
                       "the disk is full; deletes and reads go on");
    }
    if (store->options.index_memory_max != 0) {
        struct bp_index_stats stats;
        bp_index_get_stats(store->index, &stats);
        if (stats.memory_bytes + stats.history_memory_bytes >= store->options.index_memory_max) {
            return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_INDEX_FULL,
                           "index.memory_max is reached; deletes and reads go on");
        }
    }
    if (ticket->request.kind == BP_REQUEST_LEASE_GRANT &&
        bp_leases_count(store->leases) + atomic_load(&store->driver.granting) >=
            store->options.leases_max) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_TOO_MANY_LEASES,
                       "limits.leases_max leases exist");
    }
    return BP_OK;
}

/*
 * A grant without an id gets one that no lease has; the request's bytes are ours to complete until
 * they are written.
 */
static void choose_lease(struct bp_store *store, struct bp_ticket *ticket) {
    struct bp_request *request = &ticket->request;
    if (request->kind != BP_REQUEST_LEASE_GRANT || request->lease != 0) {
        return;
    }
    do {
        store->driver.next_lease_id =
            (store->driver.next_lease_id * 6364136223846793005ull + 1442695040888963407ull) >> 1;
    } while (store->driver.next_lease_id == 0 ||
             bp_leases_exists(store->leases, store->driver.next_lease_id));
    request->lease = store->driver.next_lease_id;
    bp_put_u64(ticket->call.request.buf + request->size - 16, request->lease);
}

static void add_write(struct bp_group *group, struct bp_ticket *ticket) {
    const struct bp_request *request = &ticket->request;
    bool large = request->size >= LARGE_REQUEST;
    struct bp_entry *last = group->n_entries > 0 ? &group->entries[group->n_entries - 1] : NULL;
    bool joins = !large && group->open && last->size + request->size <= GATHER_MAX;
    if (!joins) {
        last = &group->entries[group->n_entries++];
        memset(last, 0, sizeof *last);
        last->type = BP_ENTRY_REQUESTS;
        last->payload = large ? request->base : group->staging + group->staged;
    }
    if (!large) {
        assert(group->staged + request->size <= BP_GROUP_MAX);
        memcpy(group->staging + group->staged, request->base, request->size);
        group->staged += request->size;
    }
    last->size += request->size;
    last->count++;
    group->open = !large;
    group->writes++;
    group->payload_bytes += request->size;
}

static bool fits(const struct bp_group *group, const struct bp_ticket *ticket, uint64_t bytes_max) {
    if (ticket->kind != BP_TICKET_WRITE) {
        return true;
    }
    uint64_t bytes = bp_group_frame_bytes(group) + ticket->request.size + BP_ENTRY_HEADER;
    return group->n_entries + 1 < BP_GROUP_ENTRIES_MAX && bytes <= BP_GROUP_MAX &&
           (bytes <= bytes_max || group->writes == 0);
}

/*
 * Takes tickets off the queue into the group. Refused ones stay in the group, failed, and take no
 * part in the log.
 */
void bp_group_gather(struct bp_store *store, struct bp_group *group, uint64_t bytes_max) {
    struct bp_driver *driver = &store->driver;
    group->turn = driver->turn;
    group->staging = driver->staging[group->turn % BP_GROUPS_IN_FLIGHT];
    group->first = NULL;
    group->tail = &group->first;
    group->writes = group->n_entries = group->staged = group->grants = 0;
    group->payload_bytes = group->taken = group->taken_arrivals = group->taken_bytes = 0;
    group->open = false;
    pthread_mutex_lock(&driver->mutex);
    struct bp_ticket *queued = driver->head;
    struct bp_ticket **tail = driver->tail;
    driver->head = NULL;
    driver->tail = &driver->head;
    group->mark = driver->want_mark;
    group->sync = driver->want_sync;
    driver->want_mark = driver->want_sync = false;
    pthread_mutex_unlock(&driver->mutex);

    while (queued != NULL && fits(group, queued, bytes_max)) {
        struct bp_ticket *ticket = queued;
        queued = ticket->next;
        ticket->next = NULL;
        *group->tail = ticket;
        group->tail = &ticket->next;
        group->taken++;
        group->taken_arrivals += ticket->first;
        group->taken_bytes += bp_ticket_bytes(ticket);
        if (ticket->kind == BP_TICKET_WRITE && ticket->code == BP_OK) {
            struct bp_error err;
            if (admit(store, ticket, &err) != BP_OK) {
                bp_ticket_fail(ticket, &err);
                continue;
            }
            choose_lease(store, ticket);
            if (ticket->request.kind == BP_REQUEST_LEASE_GRANT) {
                group->grants++;
                atomic_fetch_add(&store->driver.granting, 1);
            }
            add_write(group, ticket);
        }
    }
    if (queued != NULL) { /* what did not fit goes back to the front */
        pthread_mutex_lock(&driver->mutex);
        *tail = driver->head;
        if (driver->head == NULL) {
            driver->tail = tail;
        }
        driver->head = queued;
        pthread_mutex_unlock(&driver->mutex);
    }
}

/* Rebuilds the entries from the tickets that still stand. */
void bp_group_regather(struct bp_group *group) {
    group->writes = group->n_entries = group->staged = 0;
    group->payload_bytes = 0;
    group->open = false;
    for (struct bp_ticket *ticket = group->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->kind == BP_TICKET_WRITE && ticket->code == BP_OK) {
            add_write(group, ticket);
        }
    }
}

/*
 * The driver: takes what is queued, writes it as one frame, makes it durable, applies it, tells the
 * waiters.
 *
 *   queue  t t t t t t ...          group = the longest prefix that fits one frame
 *            |
 *            v
 *   entries  [small requests, gathered][one large request][small ...]
 *       payloads: staging | the request's own bytes
 *            |
 *   the role   gather -> append -> sync            one thread at a time; owns the log
 *   the turn   apply -> publish
 *       groups in the order they were written, under store->apply
 *   anyone     answer and wake
 *
 * The driver is a role, not a thread: a blocked caller that finds it free takes it for everything
 * queued, and when its group is durable hands the role to the next blocked caller before it
 * applies, so that the next sync runs meanwhile. Two driver threads do the same for asynchronous
 * callers. While one group syncs the next one gathers in the queue: the size of groups sets itself,
 * there is no timer. At most two groups are written and not yet applied; each has a staging buffer
 * of its own.
 *
 * For a one-member cluster durable means committed. Reads that came through the queue are answered
 * as of their place among the writes.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"
#include "ticket.h"

#define LARGE_REQUEST (32u << 10) /* written from where it lies instead of being gathered */
#define GATHER_MAX (1u << 20)     /* payload of one gathered entry */
#define ENTRIES_MAX 512u
#define SLOW_SYNC_NS 1000000000ull
#define REQUEST_SIZE_MIN (BP_REQUEST_HEADER + 8u) /* the smallest request: a COMPACT */
#define APPLIED_MAX (BP_ENTRY_MAX / REQUEST_SIZE_MIN + 1u)

/* One group on its way: tickets in order, the entries that carry the writes among them. */
struct group {
    uint32_t turn; /* groups are applied in the order of their turns */
    /* gathered small requests; one of driver.staging, until the group is applied */
    uint8_t *staging;
    /* of its entries; where its frame ends, and the next frame's sequence */
    uint64_t last_index;
    struct bp_pos end;
    uint64_t sequence;
    struct bp_ticket *first, **tail;
    uint32_t writes;
    uint64_t payload_bytes;
    struct bp_entry entries[ENTRIES_MAX];
    uint32_t n_entries;
    uint32_t staged; /* bytes used in driver.staging */
    bool open;       /* the last entry is a gathered one that may grow */
    bool mark, sync; /* chores that came with it */
};

static void count_max(_Atomic uint64_t *max, uint64_t value) {
    uint64_t seen = atomic_load_explicit(max, memory_order_relaxed);
    while (seen < value && !atomic_compare_exchange_weak_explicit(
                               max, &seen, value, memory_order_relaxed, memory_order_relaxed)) {
    }
}

static void count(_Atomic uint64_t *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ---- gathering ------------------------------------------------------------------------------- */

static uint64_t group_frame_bytes(const struct group *group) {
    return group->payload_bytes + (uint64_t)(group->n_entries + 1) * BP_ENTRY_HEADER;
}

/* Why this write may not enter the log now, before anything is written; BP_OK if it may. */
static int admit(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err) {
    if (atomic_load_explicit(&store->poisoned, memory_order_relaxed)) {
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_LOG_POISONED,
                       "the log failed earlier and takes no writes until the daemon is restarted");
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
        bp_leases_count(store->leases) >= store->options.leases_max) {
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

static void add_write(struct group *group, struct bp_ticket *ticket) {
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

static bool fits(const struct group *group, const struct bp_ticket *ticket) {
    if (ticket->kind != BP_TICKET_WRITE) {
        return true;
    }
    return group->n_entries + 1 < ENTRIES_MAX &&
           group_frame_bytes(group) + ticket->request.size + BP_ENTRY_HEADER <= BP_GROUP_MAX;
}

/*
 * Takes tickets off the queue into the group. Refused ones stay in the group, failed, and take no
 * part in the log.
 */
static void gather(struct bp_store *store, struct group *group) {
    struct bp_driver *driver = &store->driver;
    group->turn = driver->turn;
    group->staging = driver->staging[group->turn % BP_GROUPS_IN_FLIGHT];
    group->first = NULL;
    group->tail = &group->first;
    group->writes = group->n_entries = group->staged = 0;
    group->payload_bytes = 0;
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

    while (queued != NULL && fits(group, queued)) {
        struct bp_ticket *ticket = queued;
        queued = ticket->next;
        ticket->next = NULL;
        *group->tail = ticket;
        group->tail = &ticket->next;
        if (ticket->kind == BP_TICKET_WRITE && ticket->code == BP_OK) {
            struct bp_error err;
            if (admit(store, ticket, &err) != BP_OK) {
                bp_ticket_fail(ticket, &err);
                continue;
            }
            choose_lease(store, ticket);
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

/* ---- append and sync ------------------------------------------------------------------------- */

static void number_entries(struct bp_store *store, struct group *group) {
    uint64_t index = bp_log_last_index(store->log), revision = store->driver.next_revision;
    uint64_t term = atomic_load_explicit(&store->term, memory_order_relaxed);
    for (uint32_t i = 0; i < group->n_entries; i++) {
        group->entries[i].index = ++index;
        group->entries[i].term = term;
        group->entries[i].first_revision = revision;
        revision += group->entries[i].count;
    }
}

static void fail_writes(struct group *group, bool only_growing, const struct bp_error *err) {
    for (struct bp_ticket *ticket = group->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->kind == BP_TICKET_WRITE && ticket->code == BP_OK &&
            (!only_growing || ticket->grows)) {
            bp_ticket_fail(ticket, err);
        }
    }
}

/* Rebuilds the entries from the tickets that still stand. */
static void regather(struct group *group) {
    group->writes = group->n_entries = group->staged = 0;
    group->payload_bytes = 0;
    group->open = false;
    for (struct bp_ticket *ticket = group->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->kind == BP_TICKET_WRITE && ticket->code == BP_OK) {
            add_write(group, ticket);
        }
    }
}

/*
 * A full disk: what would grow the store is refused, the rest is tried again with a segment of the
 * reserve.
 */
static int append_on_full_disk(struct bp_store *store, struct group *group, struct bp_error *err) {
    atomic_store_explicit(&store->disk_full, true, memory_order_relaxed);
    bp_keeper_wake(store);
    fail_writes(group, true, err);
    regather(group);
    if (group->n_entries == 0) {
        return BP_OK;
    }
    bp_reserve_release(store, store->options.segment_size, false);
    number_entries(store, group);
    return bp_log_append(store->log, group->entries, group->n_entries, NULL, err);
}

static void count_group(struct bp_store *store, const struct group *group) {
    struct bp_counters *counters = &store->counters;
    uint32_t bucket = 0;
    while (bucket < 15 && group->writes >= 2u << bucket) {
        bucket++;
    }
    uint64_t bytes = group_frame_bytes(group);
    count(&counters->groups, 1);
    count(&counters->group_requests, group->writes);
    count(&counters->group_bytes, group->payload_bytes);
    count(&counters->group_buckets[bucket], 1);
    count(&counters->bytes_appended, bytes);
    count(&store->bytes_since_checkpoint, bytes);
}

static int sync_log(struct bp_store *store, struct bp_error *err) {
    uint64_t before = bp_disk_boot_ns(store->disk);
    int code = bp_log_sync(store->log, err);
    uint64_t took = bp_disk_boot_ns(store->disk) - before;
    struct bp_counters *counters = &store->counters;
    uint32_t bucket = 0;
    while (bucket < 23 && took >= 16000ull << bucket) {
        bucket++;
    }
    count(&counters->syncs, 1);
    count(&counters->sync_ns_total, took);
    count(&counters->sync_buckets[bucket], 1);
    count_max(&counters->sync_ns_max, took);
    if (took >= SLOW_SYNC_NS) {
        count(&counters->slow_syncs, 1);
    }
    if (code == BP_OK) {
        atomic_store_explicit(&store->durable, bp_log_last_index(store->log), memory_order_relaxed);
    }
    return code;
}

/* The group is in the log; its revisions are taken, whatever becomes of the sync. */
static void note_written(struct bp_store *store, struct group *group) {
    const struct bp_entry *last = &group->entries[group->n_entries - 1];
    group->last_index = last->index;
    group->end = bp_log_end(store->log);
    group->sequence = bp_log_sequence(store->log);
    store->driver.next_revision = last->first_revision + last->count;
    store->driver.last_append_ns = bp_disk_boot_ns(store->disk);
    count_group(store, group);
}

/* On return every write of the group is in the log and durable, or failed. */
static void write_group(struct bp_store *store, struct group *group) {
    struct bp_error err = {0};
    number_entries(store, group);
    int code = bp_log_append(store->log, group->entries, group->n_entries, NULL, &err);
    if (code != BP_OK && err.reason == BP_REASON_DISK_FULL && !bp_log_poisoned(store->log)) {
        code = append_on_full_disk(store, group, &err);
    }
    if (code == BP_OK && group->n_entries > 0) {
        note_written(store, group);
        if (store->options.interval_ms == 0) {
            code = sync_log(store, &err);
        }
    }
    if (code != BP_OK) {
        if (bp_log_poisoned(store->log)) {
            atomic_store_explicit(&store->poisoned, true, memory_order_relaxed);
        }
        fail_writes(group, false, &err);
        group->n_entries = 0;
    }
}

/* ---- apply ----------------------------------------------------------------------------------- */

/*
 * A damaged value or no memory in the middle of applying: nothing after it may be decided, so the
 * member stops writing.
 */
static void stop_member(struct bp_store *store, struct group *group, const struct bp_error *err) {
    atomic_store_explicit(&store->poisoned, true, memory_order_relaxed);
    atomic_store_explicit(&store->damaged, true, memory_order_relaxed);
    for (struct bp_ticket *ticket = group->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->kind == BP_TICKET_WRITE && ticket->code == BP_OK && !ticket->applied) {
            bp_ticket_fail(ticket, err);
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
        bp_pins_add(store, ticket->outcome.revision - 1, &pin, NULL) == BP_OK) {
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
static void place_reads(struct group *group, uint64_t revision) {
    for (struct bp_ticket *ticket = group->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->kind == BP_TICKET_WRITE) {
            revision += ticket->applied;
        } else if (ticket->kind == BP_TICKET_READ && ticket->call.read.revision == 0) {
            ticket->call.read.revision = revision;
            ticket->placed = true;
        }
    }
}

/* False: the member has stopped, and what is applied ends somewhere within the group. */
static bool apply_entries(struct bp_store *store, struct group *group) {
    struct bp_applied *applied = store->driver.applied;
    struct bp_ticket *ticket = group->first;
    for (uint32_t i = 0; i < group->n_entries; i++) {
        struct bp_error err = {0};
        const struct bp_entry *entry = &group->entries[i];
        if (bp_apply_entry(store, entry, applied, &err) != BP_OK) {
            stop_member(store, group, &err);
            return false;
        }
        for (uint32_t k = 0; k < entry->count; k++) {
            ticket = next_write(ticket);
            assert(ticket != NULL);
            take_outcome(store, ticket, &applied[k]);
            ticket = ticket->next;
        }
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
static void apply_group(struct bp_store *store, struct group *group) {
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
    place_reads(group, before);
    pthread_mutex_unlock(&store->apply);
    end_turn(store);
}

/* Answers in order. What takes reading goes to a reader; a blocked caller builds its own reply. */
static uint64_t complete_group(struct bp_store *store, struct group *group) {
    uint64_t tickets = 0, bytes = 0;
    for (struct bp_ticket *ticket = group->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->waiter == NULL) {
            tickets++;
            bytes += bp_ticket_bytes(ticket);
        }
    }
    bp_driver_leave(store, tickets, bytes);
    tickets = 0;
    for (struct bp_ticket *ticket = group->first, *next; ticket != NULL; ticket = next) {
        next = ticket->next;
        tickets++;
        ticket->next = NULL;
        bool reads = ticket->kind != BP_TICKET_WRITE || ticket->needs_values;
        if (ticket->code == BP_OK && ticket->waiter == NULL && reads) {
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

/* ---- the role -------------------------------------------------------------------------------- */

/*
 * Marks and syncs that were asked for. Whoever has the role does them, or blocked callers passing
 * it on would put them off for ever.
 */
static void do_chores(struct bp_store *store, bool mark, bool sync) {
    if ((!mark && !sync) || atomic_load_explicit(&store->poisoned, memory_order_relaxed)) {
        return;
    }
    struct bp_error err;
    int code = sync ? sync_log(store, &err) : BP_OK;
    if (code == BP_OK && mark) {
        code = bp_log_mark(store->log, &err);
    }
    if (code != BP_OK && bp_log_poisoned(store->log)) {
        atomic_store_explicit(&store->poisoned, true, memory_order_relaxed);
    }
}

/*
 * Gathers and writes one group and does the chores; false when nothing was queued. The caller has
 * the role. Waits first until the group before the last is applied, whose staging buffer this one
 * uses.
 */
static bool write_next(struct bp_store *store, struct group *group) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->turn_mutex);
    while (driver->turn - driver->applied_turn >= BP_GROUPS_IN_FLIGHT) {
        pthread_cond_wait(&driver->turned, &driver->turn_mutex);
    }
    pthread_mutex_unlock(&driver->turn_mutex);
    gather(store, group);
    if (group->writes > 0) {
        write_group(store, group);
    }
    do_chores(store, group->mark, group->sync);
    if (group->first == NULL) {
        return false;
    }
    driver->turn++;
    return true;
}

static uint64_t finish_group(struct bp_store *store, struct group *group) {
    apply_group(store, group);
    return complete_group(store, group);
}

static bool holds_waiter(const struct group *group, const struct bp_waiter *waiter) {
    const struct bp_ticket *ticket = group->first;
    while (ticket != NULL && ticket->waiter != waiter) {
        ticket = ticket->next;
    }
    return ticket != NULL;
}

/*
 * Gives the role to the first blocked caller in the queue, or to the driver thread, or lets it lie.
 * driver.mutex held.
 */
static struct bp_waiter *pass_role(struct bp_driver *driver) {
    for (struct bp_ticket *ticket = driver->head; ticket != NULL; ticket = ticket->next) {
        if (ticket->waiter != NULL) {
            return ticket->waiter; /* `driving` stays set: it is theirs now */
        }
    }
    driver->driving = false;
    if (driver->head != NULL || driver->want_mark || driver->want_sync) {
        pthread_cond_signal(&driver->wake);
    }
    return NULL;
}

static void release_role(struct bp_store *store) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->mutex);
    struct bp_waiter *next = pass_role(driver);
    pthread_mutex_unlock(&driver->mutex);
    if (next != NULL) {
        bp_waiter_wake(next, BP_LEAD);
    }
}

/*
 * Drives until the group with the caller's own request is written, passes the role on, and sees
 * that group through.
 */
static void lead(struct bp_store *store, const struct bp_waiter *own) {
    struct group group;
    bool done = false;
    while (!done && write_next(store, &group)) {
        done = holds_waiter(&group, own);
        if (done) {
            release_role(store);
        }
        finish_group(store, &group);
    }
    assert(done); /* our own request is queued until it is in a group */
}

static bool has_work(const struct bp_driver *driver) {
    return driver->head != NULL || driver->want_mark || driver->want_sync;
}

static void *driver_thread(void *arg) {
    struct bp_store *store = arg;
    struct bp_driver *driver = &store->driver;
    struct group group;
    pthread_mutex_lock(&driver->mutex);
    for (;;) {
        if (has_work(driver) && !driver->driving) {
            driver->driving = true;
            pthread_mutex_unlock(&driver->mutex);
            bool written = write_next(store, &group);
            release_role(store);
            if (written) {
                finish_group(store, &group);
            }
            pthread_mutex_lock(&driver->mutex);
        } else if (driver->stopping && driver->head == NULL && !driver->driving) {
            break;
        } else {
            pthread_cond_wait(&driver->wake, &driver->mutex);
        }
    }
    pthread_cond_broadcast(&driver->wake); /* the other thread may be waiting for this end */
    pthread_mutex_unlock(&driver->mutex);
    return NULL;
}

/* ---- the door -------------------------------------------------------------------------------- */

static int may_enter(struct bp_store *store, uint64_t tickets, uint64_t bytes,
                     struct bp_error *err) {
    const struct bp_driver *driver = &store->driver;
    if (driver->closed) {
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_STORE_CLOSED, "the store is closing");
    }
    if (driver->open + tickets > store->options.queue_max ||
        driver->open_bytes + bytes > store->options.queue_bytes_max) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_QUEUE_FULL,
                       "%llu requests of %llu bytes are waiting", (unsigned long long)driver->open,
                       (unsigned long long)driver->open_bytes);
    }
    return BP_OK;
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
    int code = may_enter(store, tickets, bytes, err);
    if (code == BP_OK) {
        *driver->tail = first;
        driver->tail = &last->next;
        driver->open += tickets;
        driver->open_bytes += bytes;
        if (!driver->driving) {
            pthread_cond_signal(&driver->wake);
        }
    }
    pthread_mutex_unlock(&driver->mutex);
    return code;
}

int bp_driver_execute(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err) {
    struct bp_driver *driver = &store->driver;
    struct bp_waiter waiter = {.state = BP_WAITING};
    uint64_t bytes = bp_ticket_bytes(ticket);
    ticket->waiter = &waiter;
    pthread_mutex_lock(&driver->mutex);
    int code = may_enter(store, 1, bytes, err);
    bool leads = false;
    if (code == BP_OK) {
        *driver->tail = ticket;
        driver->tail = &ticket->next;
        driver->open++;
        driver->open_bytes += bytes;
        leads = !driver->driving;
        driver->driving = true;
    }
    pthread_mutex_unlock(&driver->mutex);
    if (code != BP_OK) {
        return code;
    }
    if (leads || bp_waiter_wait(&waiter) == BP_LEAD) {
        lead(store, &waiter);
    }
    ticket->waiter = NULL;
    bp_ticket_answer(store, ticket);
    bp_driver_leave(store, 1, bytes); /* the store may be closed and gone from here on */
    if (ticket->code != BP_OK && ticket->error != NULL && err != NULL) {
        *err = *ticket->error;
    }
    return ticket->code;
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
    pthread_mutex_lock(&driver->mutex);
    driver->want_mark = driver->want_mark || mark;
    driver->want_sync = driver->want_sync || sync;
    if (!driver->driving) {
        pthread_cond_signal(&driver->wake);
    }
    pthread_mutex_unlock(&driver->mutex);
}

uint64_t bp_step_drive(struct bp_store *store) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->mutex);
    assert(!driver->driving);
    driver->driving = true;
    pthread_mutex_unlock(&driver->mutex);
    uint64_t completed = 0;
    struct group group;
    while (write_next(store, &group)) {
        completed += finish_group(store, &group);
    }
    pthread_mutex_lock(&driver->mutex);
    driver->driving = false;
    pthread_mutex_unlock(&driver->mutex);
    return completed;
}

int bp_driver_start(struct bp_store *store, struct bp_error *err) {
    struct bp_driver *driver = &store->driver;
    driver->next_revision = store->next_revision;
    driver->applied = malloc(APPLIED_MAX * sizeof *driver->applied);
    bool memory = driver->applied != NULL;
    for (uint32_t i = 0; i < BP_GROUPS_IN_FLIGHT; i++) {
        driver->staging[i] = malloc(BP_GROUP_MAX);
        memory = memory && driver->staging[i] != NULL;
    }
    if (!memory) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the driver");
    }
    while (!store->options.manual && driver->n_threads < BP_GROUPS_IN_FLIGHT) {
        if (pthread_create(&driver->threads[driver->n_threads], NULL, driver_thread, store) != 0) {
            return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                           "no thread for the driver");
        }
        driver->n_threads++;
    }
    return BP_OK;
}

/* With options.manual nobody drives what is still queued: its owners are told. */
static void refuse_queued(struct bp_store *store) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->mutex);
    struct bp_ticket *ticket = driver->head;
    driver->head = NULL;
    driver->tail = &driver->head;
    pthread_mutex_unlock(&driver->mutex);
    while (ticket != NULL) {
        struct bp_ticket *next = ticket->next;
        ticket->next = NULL;
        bp_ticket_fail_with(ticket, BP_UNAVAILABLE, BP_REASON_STORE_CLOSED, "the store was closed");
        bp_driver_leave(store, 1, bp_ticket_bytes(ticket));
        bp_ticket_complete(store, ticket);
        ticket = next;
    }
}

/*
 * Blocked callers count as open until they touch the store no more, so neither a group nor an
 * answer outlives what is freed here.
 */
void bp_driver_stop(struct bp_store *store) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->mutex);
    driver->closed = true;
    while (driver->n_threads > 0 && driver->open > 0) {
        pthread_cond_wait(&driver->wake, &driver->mutex);
    }
    driver->stopping = true;
    pthread_cond_broadcast(&driver->wake);
    pthread_mutex_unlock(&driver->mutex);
    while (driver->n_threads > 0) {
        pthread_join(driver->threads[--driver->n_threads], NULL);
    }
    refuse_queued(store);
    for (uint32_t i = 0; i < BP_GROUPS_IN_FLIGHT; i++) {
        free(driver->staging[i]);
        driver->staging[i] = NULL;
    }
    free(driver->applied);
    driver->applied = NULL;
}

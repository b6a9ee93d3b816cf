/*
 * The driver: takes what is queued, writes it as one frame, makes it durable, applies it, tells the
 * waiters.
 *
 *   queue  t t t t t t ...          group = the longest prefix that fits one frame (group.c)
 *            |
 *            v
 *   the role   gather -> append -> sync            one thread at a time; owns the log
 *   the turn   apply -> publish                    groups in the order they were written
 *   anyone     answer and wake
 *
 * The driver is a role, not a thread: a blocked caller that finds it free takes it for everything
 * queued, and when its group is durable hands the role to the next blocked caller before it
 * applies, so that the next sync runs meanwhile. Two driver threads do the same for asynchronous
 * callers. While one group syncs the next one gathers in the queue: the size of groups sets itself,
 * there is no timer. At most two groups are written and not yet applied; each has a staging buffer
 * of its own.
 */
#include <assert.h>
#include <stdlib.h>

#include "door.h"
#include "group.h"
#include "raft.h"

/* ---- one group ------------------------------------------------------------------------------- */

/*
 * Marks and syncs that were asked for. Whoever has the role does them, or blocked callers passing
 * it on would put them off for ever.
 */
static void do_chores(struct bp_store *store, bool mark, bool sync) {
    if ((!mark && !sync) || atomic_load_explicit(&store->poisoned, memory_order_relaxed)) {
        return;
    }
    struct bp_error err;
    int code = sync ? bp_driver_sync(store, &err) : BP_OK;
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
static bool write_next(struct bp_store *store, struct bp_group *group) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->turn_mutex);
    while (driver->turn - driver->applied_turn >= BP_GROUPS_IN_FLIGHT) {
        pthread_cond_wait(&driver->turned, &driver->turn_mutex);
    }
    pthread_mutex_unlock(&driver->turn_mutex);
    bp_group_gather(store, group, BP_GROUP_MAX);
    if (group->writes > 0) {
        bp_group_write(store, group);
    }
    do_chores(store, group->mark, group->sync);
    if (group->first == NULL) {
        return false;
    }
    driver->turn++;
    return true;
}

static uint64_t finish_group(struct bp_store *store, struct bp_group *group) {
    bp_group_apply(store, group);
    return bp_group_answer(store, group);
}

/* ---- the role -------------------------------------------------------------------------------- */

static bool holds_waiter(const struct bp_group *group, const struct bp_waiter *waiter) {
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
    if (driver->taken) {
        driver->driving = false;
        pthread_cond_broadcast(&driver->wake); /* bp_raft_take waits for this */
        return NULL;
    }
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
    struct bp_group group;
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

/* With nobody to step it meanwhile, a caller would wait for ever. */
static int may_wait(struct bp_store *store, struct bp_error *err) {
    return store->options.manual && bp_raft_of(store) != NULL
               ? bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_NONE,
                         "a stepped store of a cluster has no calls that wait")
               : BP_OK;
}

int bp_driver_wait_read(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err) {
    struct bp_waiter waiter = {.state = BP_WAITING};
    uint64_t bytes = bp_ticket_bytes(ticket);
    int code = may_wait(store, err);
    code = code != BP_OK ? code : bp_driver_admit(store, ticket, err);
    if (code == BP_OK) {
        ticket->waiter = &waiter;
        bp_raft_read(store, ticket, false);
        (void)bp_waiter_wait(&waiter);
        ticket->waiter = NULL;
        bp_ticket_answer(store, ticket);
        bp_driver_leave(store, 1, bytes);
        code = ticket->code;
        if (code != BP_OK && ticket->error != NULL && err != NULL) {
            *err = *ticket->error;
        }
    }
    return code;
}

int bp_driver_execute(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err) {
    struct bp_driver *driver = &store->driver;
    int may = may_wait(store, err);
    if (may != BP_OK) {
        return may;
    }
    struct bp_waiter waiter = {.state = BP_WAITING};
    uint64_t bytes = bp_ticket_bytes(ticket);
    ticket->waiter = &waiter;
    pthread_mutex_lock(&driver->mutex);
    int code = bp_door_enter(store, ticket, ticket, 1, bytes, err);
    bool leads = false;
    if (code == BP_OK) {
        leads = !driver->driving && !driver->taken;
        driver->driving = driver->driving || leads;
    }
    uint64_t queued_bytes = driver->queued_bytes, arrivals = driver->queued_arrivals;
    pthread_mutex_unlock(&driver->mutex);
    bp_raft_queued(store, queued_bytes, arrivals);
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

uint64_t bp_step_drive(struct bp_store *store) {
    struct bp_driver *driver = &store->driver;
    if (bp_raft_of(store) != NULL) {
        return 0; /* bp_step_log and bp_step_apply, then */
    }
    pthread_mutex_lock(&driver->mutex);
    assert(!driver->driving);
    driver->driving = true;
    pthread_mutex_unlock(&driver->mutex);
    uint64_t completed = 0;
    struct bp_group group;
    while (write_next(store, &group)) {
        completed += finish_group(store, &group);
    }
    pthread_mutex_lock(&driver->mutex);
    driver->driving = false;
    pthread_mutex_unlock(&driver->mutex);
    return completed;
}

uint64_t bp_step_log(struct bp_store *store) {
    return bp_raft_of(store) != NULL ? bp_raft_log_round(store) : 0;
}

uint64_t bp_step_apply(struct bp_store *store) {
    return bp_raft_of(store) != NULL ? bp_raft_apply_round(store) : 0;
}

/* ---- the threads ----------------------------------------------------------------------------- */

static bool has_work(const struct bp_driver *driver) {
    return driver->head != NULL || driver->want_mark || driver->want_sync;
}

static void *driver_thread(void *arg) {
    struct bp_store *store = arg;
    struct bp_driver *driver = &store->driver;
    struct bp_group group;
    pthread_mutex_lock(&driver->mutex);
    for (;;) {
        if (has_work(driver) && !driver->driving && !driver->taken) {
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

int bp_driver_start(struct bp_store *store, struct bp_error *err) {
    struct bp_driver *driver = &store->driver;
    driver->next_revision = store->next_revision;
    driver->applied = malloc(BP_APPLIED_MAX * sizeof *driver->applied);
    bool memory = driver->applied != NULL;
    for (uint32_t i = 0; i < BP_GROUPS_IN_FLIGHT; i++) {
        driver->staging[i] = malloc(BP_GROUP_MAX);
        memory = memory && driver->staging[i] != NULL;
    }
    if (!memory) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the driver");
    }
    bool alone = !store->options.manual && !driver->taken;
    while (alone && driver->n_threads < BP_GROUPS_IN_FLIGHT) {
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
    bool threads = driver->n_threads > 0 || (driver->taken && !store->options.manual);
    while (threads && driver->open > 0) {
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

/*
 * From a store that was recovered, or is running alone, to one that is driven by Raft; and its end.
 *
 *   recovered   store_recover.c fills the table and installs the driver before anything is served
 *   running     bp_raft_take: nobody leads any more -> what is written is applied -> an empty table
 *               behind it -> installed; callers that wait in the queue wait on
 *   end         door closed -> log thread writes what it was given -> everything that waits fails
 *
 * Invariant: `store->raft` is set once, under driver.mutex, when everything in it is ready; so who
 * queues a ticket under that mutex knows who will drive it.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "crc32c.h"
#include "raft.h"

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "no memory for a cluster's driver");
}

static void init_locks(struct bp_raft *raft) {
    pthread_mutex_init(&raft->mutex, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&raft->log_wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&raft->apply_wake, NULL);
}

int bp_raft_new(struct bp_store *store, uint64_t index, uint64_t term, uint64_t next_revision,
                struct bp_raft **out, struct bp_error *err) {
    struct bp_raft *raft = calloc(1, sizeof *raft);
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (raft == NULL || fd < 0) {
        if (fd >= 0) {
            close(fd);
        }
        free(raft);
        return no_memory(err);
    }
    init_locks(raft);
    raft->store = store;
    raft->fd = fd;
    raft->work_tail = &raft->work;
    raft->groups_tail = &raft->groups;
    bp_tickets_init(&raft->reads);
    bp_tickets_init(&raft->lease_calls);
    struct bp_table *table = &raft->table;
    table->base = table->last = table->handed = table->durable = table->evicted = index;
    table->base_term = term;
    table->base_revision = next_revision;
    table->base_system = store->system;
    *out = raft;
    return BP_OK;
}

int bp_raft_recovered(struct bp_raft *raft, const struct bp_entry *entry,
                      const struct bp_place *place, bool applied, struct bp_error *err) {
    struct bp_table *table = &raft->table;
    struct bp_blob *blob = applied ? NULL : bp_blob_new(entry->size);
    struct bp_entry kept = *entry;
    if (!bp_table_reserve(table, 1) || (!applied && blob == NULL)) {
        bp_blob_drop(blob);
        return no_memory(err);
    }
    if (blob != NULL) {
        memcpy(blob->data, entry->payload, entry->size);
        kept.payload = blob->data;
    }
    int code = bp_table_append(table, &kept, blob, bp_crc32c(0, entry->payload, entry->size), err);
    bp_blob_drop(blob);
    if (code == BP_OK) {
        bp_table_slot(table, entry->index)->place = *place;
        table->evicted = applied ? entry->index : table->evicted;
    }
    return code;
}

void bp_raft_install(struct bp_store *store, struct bp_raft *raft,
                     const struct bp_hardstate *hardstate, uint64_t committed) {
    struct bp_driver *driver = &store->driver;
    raft->table.handed = raft->table.last;
    bp_table_settle(&raft->table);
    assert(raft->table.durable == raft->table.last);
    raft->hardstate = *hardstate;
    raft->log_end = bp_log_durable(store->log);
    raft->log_sequence = bp_log_sequence(store->log);
    raft->applied = store->applied_index;
    raft->committed = committed;
    raft->system = store->system;
    raft->hash_index = store->compaction_hash_index;
    raft->hash[0] = store->compaction_hash[0];
    raft->hash[1] = store->compaction_hash[1];
    pthread_mutex_lock(&driver->mutex);
    driver->taken = true;
    for (struct bp_ticket *ticket = driver->head; ticket != NULL; ticket = ticket->next) {
        ticket->first = true;
        driver->queued_arrivals++;
        driver->queued++;
        driver->queued_bytes += bp_ticket_bytes(ticket);
    }
    atomic_store_explicit(&store->raft, raft, memory_order_release);
    pthread_mutex_unlock(&driver->mutex);
    bp_raft_signal(raft);
}

int bp_raft_start(struct bp_store *store, struct bp_error *err) {
    struct bp_raft *raft = bp_raft_of(store);
    if (raft == NULL || store->options.manual) {
        return BP_OK;
    }
    raft->log_started = pthread_create(&raft->log_thread, NULL, bp_raft_log_thread, store) == 0;
    raft->apply_started = raft->log_started && pthread_create(&raft->apply_thread, NULL,
                                                              bp_raft_apply_thread, store) == 0;
    return raft->apply_started ? BP_OK
                               : bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                                         "no thread for a cluster's driver");
}

/* ---- a running store ------------------------------------------------------------------------- */

/* Nobody leads any more, and what was written is applied. */
static void quiesce(struct bp_store *store) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->mutex);
    driver->taken = true;
    while (driver->driving) {
        pthread_cond_wait(&driver->wake, &driver->mutex);
    }
    pthread_mutex_unlock(&driver->mutex);
    pthread_mutex_lock(&driver->turn_mutex);
    while (driver->turn != driver->applied_turn) {
        pthread_cond_wait(&driver->turned, &driver->turn_mutex);
    }
    pthread_mutex_unlock(&driver->turn_mutex);
}

/* They go on as if nothing had been asked. */
static void resume(struct bp_store *store) {
    struct bp_driver *driver = &store->driver;
    pthread_mutex_lock(&driver->mutex);
    driver->taken = false;
    pthread_cond_broadcast(&driver->wake);
    pthread_mutex_unlock(&driver->mutex);
}

int bp_raft_take_resting(struct bp_store *store, struct bp_error *err) {
    struct bp_raft *raft = NULL;
    int code = bp_log_sync(store->log, err);
    pthread_mutex_lock(&store->apply);
    code = code != BP_OK ? code
                         : bp_raft_new(store, store->applied_index, store->applied_term,
                                       store->next_revision, &raft, err);
    pthread_mutex_unlock(&store->apply);
    if (code == BP_OK && bp_log_last_index(store->log) != raft->table.base) {
        bp_raft_free(raft);
        code = bp_fail(err, BP_UNAVAILABLE, BP_REASON_LOG_POISONED,
                       "the store has stopped: not all of its log is applied");
    }
    if (code == BP_OK) {
        struct bp_hardstate hardstate = bp_log_hardstate(store->log);
        hardstate.commit = raft->table.base;
        bp_raft_install(store, raft, &hardstate, raft->table.base);
    }
    return code;
}

int bp_raft_take(struct bp_store *store, struct bp_error *err) {
    if (bp_raft_of(store) != NULL) {
        return BP_OK;
    }
    if (store->options.interval_ms != 0) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_FIELD_INVALID,
                       "durability by interval is for a single member alone");
    }
    quiesce(store);
    int code = bp_raft_take_resting(store, err);
    if (code != BP_OK) {
        resume(store);
        return code;
    }
    return bp_raft_start(store, err);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void stop_threads(struct bp_raft *raft, bool abandoned) {
    pthread_mutex_lock(&raft->mutex);
    raft->stopping = true;
    raft->abandoned = abandoned;
    pthread_cond_broadcast(&raft->log_wake);
    pthread_cond_broadcast(&raft->apply_wake);
    pthread_mutex_unlock(&raft->mutex);
    if (raft->log_started) {
        pthread_join(raft->log_thread, NULL);
        raft->log_started = false;
    }
    if (raft->apply_started) {
        pthread_join(raft->apply_thread, NULL);
        raft->apply_started = false;
    }
}

/* Every ticket, wherever it waits. */
static void collect(struct bp_store *store, struct bp_raft *raft, struct bp_tickets *all,
                    struct bp_raft_group **groups) {
    bp_raft_take_queue(store, NULL, all);
    pthread_mutex_lock(&raft->mutex);
    bp_tickets_move(all, &raft->reads);
    bp_tickets_move(all, &raft->lease_calls);
    while (raft->gates != NULL) {
        struct bp_gate *gate = raft->gates;
        raft->gates = gate->next;
        bp_tickets_move(all, &gate->tickets);
        free(gate);
    }
    while (raft->forwards != NULL) {
        struct bp_forward *forward = raft->forwards;
        raft->forwards = forward->next;
        bp_tickets_move(all, &forward->tickets);
        free(forward);
    }
    bp_raft_detach(raft, 0, groups);
    pthread_mutex_unlock(&raft->mutex);
}

void bp_raft_stop(struct bp_store *store, bool abandoned) {
    struct bp_raft *raft = bp_raft_of(store);
    if (raft == NULL) {
        return;
    }
    pthread_mutex_lock(&store->driver.mutex);
    store->driver.closed = true;
    pthread_mutex_unlock(&store->driver.mutex);
    stop_threads(raft, abandoned);
    struct bp_tickets all;
    struct bp_raft_group *groups = NULL;
    bp_tickets_init(&all);
    collect(store, raft, &all, &groups);
    struct bp_error why;
    (void)bp_fail(&why, BP_UNAVAILABLE, BP_REASON_STORE_CLOSED, "the store was closed");
    bp_tickets_refuse(store, &all, &why);
    bp_raft_fail_groups(store, groups, &why);
}

void bp_raft_free(struct bp_raft *raft) {
    if (raft == NULL) {
        return;
    }
    bp_raft_log_free(raft);
    bp_table_free(&raft->table);
    pthread_mutex_destroy(&raft->mutex);
    pthread_cond_destroy(&raft->log_wake);
    pthread_cond_destroy(&raft->apply_wake);
    close(raft->fd);
    free(raft);
}

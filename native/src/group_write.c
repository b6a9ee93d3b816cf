/*
 * A group into the log: numbered, appended, synced, counted.
 *
 *   number -> append -----------------> sync -> every write durable
 *               | full disk               | failed
 *               v                         v
 *       refuse what grows the store,    the log is poisoned: every write failed, outcome unknown
 *       the rest again from the reserve
 *
 * Invariants
 *   - Indexes and revisions are given out here, by the role alone, and once: also a group whose
 *     sync failed has used its own.
 *   - In interval mode written counts as durable; whoever has the role syncs when the keeper asks.
 */
#include "group.h"

#define SLOW_SYNC_NS 1000000000ull

static void count_max(_Atomic uint64_t *max, uint64_t value) {
    uint64_t seen = atomic_load_explicit(max, memory_order_relaxed);
    while (seen < value && !atomic_compare_exchange_weak_explicit(
                               max, &seen, value, memory_order_relaxed, memory_order_relaxed)) {
    }
}

static void count(_Atomic uint64_t *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static void number_entries(struct bp_store *store, struct bp_group *group) {
    uint64_t index = bp_log_last_index(store->log), revision = store->driver.next_revision;
    uint64_t term = atomic_load_explicit(&store->term, memory_order_relaxed);
    for (uint32_t i = 0; i < group->n_entries; i++) {
        group->entries[i].index = ++index;
        group->entries[i].term = term;
        group->entries[i].first_revision = revision;
        revision += group->entries[i].count;
    }
}

static void fail_writes(struct bp_group *group, bool only_growing, const struct bp_error *err) {
    for (struct bp_ticket *ticket = group->first; ticket != NULL; ticket = ticket->next) {
        if (ticket->kind == BP_TICKET_WRITE && ticket->code == BP_OK &&
            (!only_growing || ticket->grows)) {
            bp_ticket_fail(ticket, err);
        }
    }
}

/*
 * A full disk: what would grow the store is refused, the rest is tried again with a segment of the
 * reserve.
 */
static int append_on_full_disk(struct bp_store *store, struct bp_group *group,
                               struct bp_error *err) {
    atomic_store_explicit(&store->disk_full, true, memory_order_relaxed);
    bp_keeper_wake(store);
    fail_writes(group, true, err);
    bp_group_regather(group);
    if (group->n_entries == 0) {
        return BP_OK;
    }
    bp_reserve_release(store, store->options.segment_size, false);
    number_entries(store, group);
    return bp_log_append(store->log, group->entries, group->n_entries, NULL, err);
}

static void count_group(struct bp_store *store, const struct bp_group *group) {
    struct bp_store_counters *counters = &store->counters;
    uint32_t bucket = 0;
    while (bucket < 15 && group->writes >= 2u << bucket) {
        bucket++;
    }
    uint64_t bytes = bp_group_frame_bytes(group);
    count(&counters->groups, 1);
    count(&counters->group_requests, group->writes);
    count(&counters->group_bytes, group->payload_bytes);
    count(&counters->group_buckets[bucket], 1);
    count(&counters->bytes_appended, bytes);
    count(&store->bytes_since_checkpoint, bytes);
}

int bp_driver_sync(struct bp_store *store, struct bp_error *err) {
    uint64_t before = bp_disk_boot_ns(store->disk);
    int code = bp_log_sync(store->log, err);
    uint64_t took = bp_disk_boot_ns(store->disk) - before;
    struct bp_store_counters *counters = &store->counters;
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
static void note_written(struct bp_store *store, struct bp_group *group) {
    const struct bp_entry *last = &group->entries[group->n_entries - 1];
    group->last_index = last->index;
    group->end = bp_log_end(store->log);
    group->sequence = bp_log_sequence(store->log);
    store->driver.next_revision = last->first_revision + last->count;
    store->driver.last_append_ns = bp_disk_boot_ns(store->disk);
    count_group(store, group);
}

/* On return every write of the group is in the log and durable, or failed. */
void bp_group_write(struct bp_store *store, struct bp_group *group) {
    struct bp_error err = {0};
    number_entries(store, group);
    int code = bp_log_append(store->log, group->entries, group->n_entries, NULL, &err);
    if (code != BP_OK && err.reason == BP_REASON_DISK_FULL && !bp_log_poisoned(store->log)) {
        code = append_on_full_disk(store, group, &err);
    }
    if (code == BP_OK && group->n_entries > 0) {
        note_written(store, group);
        if (store->options.interval_ms == 0) {
            code = bp_driver_sync(store, &err);
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

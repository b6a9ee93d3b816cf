/*
 * What the store says of itself: a snapshot of counters, each read on its own, none of them holding
 * anything up.
 */
#include <string.h>

#include "raft.h"
#include "store.h"

static uint64_t load(const _Atomic uint64_t *counter) {
    return atomic_load_explicit((_Atomic uint64_t *)(uintptr_t)counter, memory_order_relaxed);
}

static void segments_status(struct bp_store *store, struct bp_status *status) {
    uint32_t id = 0;
    uint32_t token = bp_epoch_enter(&store->epoch); /* keeps each segment while it is looked at */
    for (struct bp_segment *segment; (segment = bp_segments_next(store->segments, id)) != NULL;) {
        id = segment->header.id;
        if (segment->header.kind == BP_SEGMENT_LOG) {
            status->log_segments++;
            status->log_bytes += segment->size;
        } else {
            status->settled_segments++;
            status->settled_bytes += segment->size;
        }
        status->damaged_segments += segment->damaged;
    }
    bp_epoch_leave(&store->epoch, token);
}

static void index_status(struct bp_store *store, struct bp_status *status) {
    struct bp_index_stats stats;
    bp_index_get_stats(store->index, &stats);
    status->keys = stats.keys;
    status->items = stats.items;
    status->versions = stats.versions;
    status->index_bytes = stats.memory_bytes;
    status->key_bytes = stats.key_bytes;
    status->live_value_bytes = stats.live_value_bytes;
    status->history_effects = stats.history_effects;
    status->history_bytes = stats.history_memory_bytes;
    status->history_value_bytes = stats.history_value_bytes;
}

static void counters_status(const struct bp_store_counters *counters, struct bp_status *status) {
    status->groups = load(&counters->groups);
    status->group_requests = load(&counters->group_requests);
    status->group_bytes = load(&counters->group_bytes);
    status->bytes_appended = load(&counters->bytes_appended);
    status->value_bytes_appended = load(&counters->value_bytes_appended);
    status->syncs = load(&counters->syncs);
    status->sync_ns_total = load(&counters->sync_ns_total);
    status->sync_ns_max = load(&counters->sync_ns_max);
    status->slow_syncs = load(&counters->slow_syncs);
    for (uint32_t i = 0; i < 24; i++) {
        status->sync_buckets[i] = load(&counters->sync_buckets[i]);
    }
    for (uint32_t i = 0; i < 16; i++) {
        status->group_buckets[i] = load(&counters->group_buckets[i]);
    }
    status->checkpoints = load(&counters->checkpoints);
    status->checkpoint_failures = load(&counters->checkpoint_failures);
    status->cleaned_segments = load(&counters->cleaned_segments);
    status->cleaned_bytes = load(&counters->cleaned_bytes);
    status->scrubbed_bytes = load(&counters->scrubbed_bytes);
    status->scrub_findings = load(&counters->scrub_findings);
}

static void applied_status(struct bp_store *store, struct bp_status *status) {
    pthread_mutex_lock(&store->apply);
    memcpy(status->cluster_id, store->system.cluster_id, sizeof status->cluster_id);
    status->applied_index = store->applied_index;
    status->compaction_revision = store->compaction_revision;
    status->request_ids = bp_request_ids_count(store->request_ids);
    bp_index_state_hash(store->index, status->state_hash);
    pthread_mutex_unlock(&store->apply);
}

void bp_get_status(struct bp_store *store, struct bp_status *status) {
    memset(status, 0, sizeof *status);
    memcpy(status->store_id, store->store_id, sizeof status->store_id);
    status->member_id = status->vote = store->member_id;
    status->term = load(&store->term);
    status->revision = load(&store->revision);
    status->committed_index = load(&store->committed);
    status->durable_index = load(&store->durable);
    status->last_index = status->committed_index;
    struct bp_raft *raft = bp_raft_of(store);
    if (raft != NULL) {
        bp_raft_status(raft, status);
    }
    status->poisoned = atomic_load(&store->poisoned);
    status->disk_full = atomic_load(&store->disk_full);
    status->durability_interval_ms = store->options.interval_ms;
    applied_status(store, status);
    index_status(store, status);
    counters_status(&store->counters, status);
    segments_status(store, status);
    status->leases = bp_leases_count(store->leases);
    status->watches = bp_hub_watches(store->hub);
    status->watch_lag_cancels = bp_hub_lag_cancels(store->hub);
    (void)bp_disk_space(store->disk, store->dir, &status->disk_free_bytes,
                        &status->disk_total_bytes);
    status->disk_reserve_bytes = bp_reserve_size(store);
    status->checkpoint_index = load(&store->keeper.checkpoint_index);
    status->checkpoint_bytes = load(&store->keeper.checkpoint_bytes);
    uint64_t made = load(&store->keeper.checkpoint_ns);
    status->checkpoint_age_ms = made == 0 ? 0 : (bp_disk_boot_ns(store->disk) - made) / 1000000u;
    status->failpoint_hits = bp_disk_faults(store->disk);
    status->recovery_ms = store->recovery_ms;
    status->recovery_entries = store->recovery_entries;
    status->recovery_log_bytes = store->recovery_log_bytes;
    status->recovery_checkpoint_keys = store->recovery_checkpoint_keys;
    status->recovery_copied_bytes = store->recovery_copied_bytes;
    status->recovery_discarded_bytes = store->recovery_discarded_bytes;
    pthread_mutex_lock(&store->driver.mutex);
    status->open_requests = store->driver.open;
    status->open_request_bytes = store->driver.open_bytes;
    pthread_mutex_unlock(&store->driver.mutex);
}

const char *bp_version_string(void) { return "0.1.0"; }

/*
 * What every store is made of; the state that apply, checkpoints and values work on.
 *
 *   make   locks -> segments, value cache -> index, leases, request ids -> hub
 *   free   in the other order; the log before the segments it writes to, the cache behind them
 *
 * A part that is not there (yet) is NULL, so that free serves whatever make came to. Threads are
 * stopped before.
 */
#include <stdlib.h>

#include "repair.h"
#include "store_open.h"
#include "ticket.h"
#include "value_cache.h"

static void init_locks(struct bp_store *store) {
    pthread_mutex_init(&store->apply, NULL);
    pthread_mutex_init(&store->driver.mutex, NULL);
    pthread_mutex_init(&store->driver.turn_mutex, NULL);
    pthread_cond_init(&store->driver.turned, NULL);
    pthread_mutex_init(&store->pins.mutex, NULL);
    pthread_mutex_init(&store->keeper.mutex, NULL);
    pthread_mutex_init(&store->keeper.wake_mutex, NULL);
    pthread_cond_init(&store->driver.wake, NULL);
    pthread_condattr_t monotonic; /* the keeper waits by interval, never by wall clock */
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&store->keeper.wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    store->driver.tail = &store->driver.head;
}

int bp_store_parts_make(struct bp_store *store, const struct bp_index_hooks *hooks,
                        struct bp_error *err) {
    init_locks(store);
    store->segments = bp_segments_new(store->disk, store->dir);
    store->value_cache = bp_value_cache_new(store->options.value_cache_bytes);
    store->damage = bp_damage_new();
    if (store->segments != NULL) {
        bp_segments_set_cache(store->segments, store->value_cache);
        bp_segments_set_damage(store->segments, store->damage);
    }
    store->backlog = bp_backlog_new(store->options.queue_max, store->options.queue_bytes_max);
    store->index = bp_index_new(hooks);
    store->leases = bp_leases_new();
    store->request_ids = bp_request_ids_new(store->options.request_ids_max);
    store->hub = bp_hub_new(store);
    store->apply_scratch = malloc(BP_VALUE_MAX);
    bool all = store->segments != NULL && store->damage != NULL && store->backlog != NULL &&
               store->index != NULL && store->leases != NULL && store->request_ids != NULL &&
               store->hub != NULL && store->apply_scratch != NULL;
    return all ? BP_OK
               : bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                         "no memory for a store");
}

static void destroy_locks(struct bp_store *store) {
    pthread_mutex_destroy(&store->apply);
    pthread_mutex_destroy(&store->driver.mutex);
    pthread_mutex_destroy(&store->driver.turn_mutex);
    pthread_cond_destroy(&store->driver.turned);
    pthread_mutex_destroy(&store->pins.mutex);
    pthread_mutex_destroy(&store->keeper.mutex);
    pthread_mutex_destroy(&store->keeper.wake_mutex);
    pthread_cond_destroy(&store->driver.wake);
    pthread_cond_destroy(&store->keeper.wake);
}

void bp_store_parts_free(struct bp_store *store) {
    bp_cleaner_free(store); /* bp_checkpoint_load may have left something for it */
    for (uint32_t i = 0; i < store->keeper.n_checkpoints; i++) {
        free(store->keeper.checkpoints[i].segments);
    }
    bp_hub_free(store->hub);
    bp_request_ids_free(store->request_ids);
    bp_leases_free(store->leases);
    bp_index_free(store->index);
    if (store->log != NULL) {
        bp_log_close(store->log);
    }
    bp_segments_free(store->segments);
    bp_value_cache_free(store->value_cache);
    bp_damage_free(store->damage);
    bp_backlog_release(store->backlog); /* queues may be left */
    free(store->apply_scratch);
    if (store->lock_fd >= 0) {
        bp_disk_close(store->disk, store->lock_fd);
    }
    destroy_locks(store);
}

/*
 * A bare store (see bare_store.h): the parts that apply, checkpoints and values work on.
 *
 *   has     segments, index, leases, request ids, hub, pins, locks
 *       options.manual is set: nothing here rests or wakes
 *   hasn't  driver, keeper, readers, reserve; a log only if the owner opens one
 */
#include "bare_store.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

static void init_locks(struct bp_store *store) {
    pthread_mutex_init(&store->apply, NULL);
    pthread_mutex_init(&store->driver.mutex, NULL);
    pthread_mutex_init(&store->pins.mutex, NULL);
    pthread_mutex_init(&store->keeper.mutex, NULL);
    pthread_mutex_init(&store->keeper.wake_mutex, NULL);
    pthread_cond_init(&store->driver.wake, NULL);
    pthread_cond_init(&store->keeper.wake, NULL);
    store->driver.tail = &store->driver.head;
}

static bool make_parts(struct bp_store *store) {
    struct bp_index_hooks hooks = {0};
    store->segments = bp_segments_new(store->disk, store->dir);
    store->index = bp_index_new(&hooks);
    store->leases = bp_leases_new();
    store->request_ids = bp_request_ids_new(store->options.request_ids_max);
    store->hub = bp_hub_new(store);
    store->apply_scratch = malloc(BP_VALUE_MAX);
    return store->segments != NULL && store->index != NULL && store->leases != NULL &&
           store->request_ids != NULL && store->hub != NULL && store->apply_scratch != NULL;
}

int bp_bare_store_new(const struct bp_options *options, struct bp_disk *disk, const char *dir,
                      struct bp_store **out, struct bp_error *err) {
    struct bp_store *store = calloc(1, sizeof *store);
    if (store == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a store");
    }
    store->options = *options;
    store->options.manual = 1;
    store->options.interval_ms = 0;
    if (store->options.segment_size == 0) {
        store->options.segment_size = BP_SEGMENT_SIZE;
    }
    if (store->options.request_ids_max == 0) {
        store->options.request_ids_max = BP_REQUEST_IDS_DEFAULT;
    }
    (void)snprintf(store->dir, sizeof store->dir, "%s", dir);
    store->options.dir = store->dir;
    store->disk = disk;
    store->lock_fd = -1;
    store->next_revision = 2; /* revision 1 is the empty store */
    init_locks(store);
    if (!make_parts(store)) {
        bp_bare_store_free(store);
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a store");
    }
    *out = store;
    return BP_OK;
}

void bp_bare_store_free(struct bp_store *store) {
    if (store == NULL) {
        return;
    }
    for (uint32_t i = 0; i < store->keeper.n_checkpoints; i++) {
        free(store->keeper.checkpoints[i].segments);
    }
    bp_cleaner_free(store); /* bp_checkpoint_load may have left something for it */
    bp_hub_free(store->hub);
    bp_request_ids_free(store->request_ids);
    bp_leases_free(store->leases);
    bp_index_free(store->index);
    if (store->log != NULL) {
        bp_log_close(store->log);
    }
    bp_segments_free(store->segments);
    free(store->apply_scratch);
    if (store->lock_fd >= 0) {
        bp_disk_close(store->disk, store->lock_fd);
    }
    pthread_mutex_destroy(&store->apply);
    pthread_mutex_destroy(&store->driver.mutex);
    pthread_mutex_destroy(&store->pins.mutex);
    pthread_mutex_destroy(&store->keeper.mutex);
    pthread_mutex_destroy(&store->keeper.wake_mutex);
    pthread_cond_destroy(&store->driver.wake);
    pthread_cond_destroy(&store->keeper.wake);
    free(store);
}

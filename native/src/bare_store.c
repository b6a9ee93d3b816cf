/*
 * A bare store (see bare_store.h): the parts that apply, checkpoints and values work on.
 *
 *   has     the parts of every store (store_parts.c), without a value cache
 *       options.manual is set: nothing here rests or wakes
 *   hasn't  driver, keeper, readers, reserve; a log only if the owner opens one
 */
#include "bare_store.h"

#include <stdio.h>
#include <stdlib.h>

#include "store_open.h"

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
    store->options.value_cache_bytes = 0;
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
    const struct bp_index_hooks hooks = {0};
    int code = bp_store_parts_make(store, &hooks, err);
    if (code != BP_OK) {
        bp_bare_store_free(store);
        return code;
    }
    *out = store;
    return BP_OK;
}

void bp_bare_store_free(struct bp_store *store) {
    if (store != NULL) {
        bp_store_parts_free(store);
        free(store);
    }
}

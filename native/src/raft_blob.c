/*
 * Blobs: blocks of bytes that the table, the log thread and the applier hold together.
 *
 *   [references][data ...]     freed by whoever lets go last; never written to after it is shared
 */
#include <assert.h>
#include <stdlib.h>

#include "raft.h"

struct bp_blob *bp_blob_new(uint64_t size) {
    struct bp_blob *blob = malloc(sizeof *blob + size);
    if (blob != NULL) {
        atomic_init(&blob->references, 1);
    }
    return blob;
}

struct bp_blob *bp_blob_hold(struct bp_blob *blob) {
    if (blob != NULL) {
        uint32_t before = atomic_fetch_add_explicit(&blob->references, 1, memory_order_relaxed);
        assert(before > 0);
        (void)before;
    }
    return blob;
}

void bp_blob_drop(struct bp_blob *blob) {
    if (blob != NULL &&
        atomic_fetch_sub_explicit(&blob->references, 1, memory_order_acq_rel) == 1) {
        free(blob);
    }
}

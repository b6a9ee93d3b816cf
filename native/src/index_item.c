/*
 * Items and their older versions: creation, the list with jumps, what is visible when.
 *
 *   jump of depth d: to d - (lowest set bit of d)
 *
 *   depth    8 ----------------------------------------------> 0
 *            7 -> 6 ---> 4 ------------> 0
 *            older:  8 -> 7 -> 6 -> 5 -> 4 -> 3 ...
 *
 * From d any target below is reached in O(log^2) steps: jump while the landing is still too new,
 * else step by one. Versions leave only at the tail, so a jump from depth d is good exactly while
 * its length is <= d - depth of the tail.
 *
 * Invariants: revisions fall strictly along `older`; depths fall by one; all are below the item's
 * newest revision.
 */
#include <assert.h>
#include <string.h>

#include "index_internal.h"

struct bp_item *bp_item_new(struct bp_index *index, struct bp_slice key) {
    assert(key.size > 0 && key.size <= BP_STORED_KEY_MAX);
    struct bp_item *item = bp_slab_alloc(&index->slab, bp_item_bytes(key.size));
    if (item == NULL) {
        return NULL;
    }
    memset(item, 0, BP_ITEM_HEADER);
    item->key_size = (uint16_t)key.size;
    memcpy(item->key, key.data, key.size);
    return item;
}

void bp_item_free(struct bp_index *index, struct bp_item *item) {
    bp_slab_free(&index->slab, item, bp_item_bytes(item->key_size));
}

void bp_item_write(struct bp_item *item, const struct bp_version *version, uint32_t slot) {
    item->revision = version->revision;
    item->create_revision = version->create_revision;
    atomic_init(&item->at, bp_pos_u64(version->value.at));
    item->size = version->value.size;
    item->crc = version->value.crc;
    item->version = version->version;
    item->lease_slot = slot;
}

void bp_item_version(const struct bp_index *index, const struct bp_item *item,
                     struct bp_version *version) {
    *version = (struct bp_version){
        .revision = item->revision,
        .create_revision = item->create_revision,
        .lease = item->lease_slot == 0 ? 0 : bp_attachment_id(&index->leases, item->lease_slot),
        .version = item->version,
        .flags = item->version == 0 ? BP_VERSION_TOMBSTONE : 0,
        .value = {.at = bp_pos_of(atomic_load_explicit(&item->at, memory_order_relaxed)),
                  .size = item->size,
                  .crc = item->crc},
    };
}

void bp_older_version(const struct bp_older *older, struct bp_version *version) {
    *version = (struct bp_version){
        .revision = older->revision,
        .create_revision = older->create_revision,
        .lease = older->lease,
        .version = older->version,
        .flags = older->version == 0 ? BP_VERSION_TOMBSTONE : 0,
        .value = {.at = bp_pos_of(atomic_load_explicit(&older->at, memory_order_relaxed)),
                  .size = older->size,
                  .crc = older->crc},
    };
}

static uint32_t jump_length(const struct bp_older *older) {
    return older->depth & (0u - older->depth); /* 0 at depth 0, after a wrap: no jump */
}

struct bp_older *bp_older_find(struct bp_older *head, uint64_t revision) {
    if (head == NULL || head->revision <= revision) {
        return head;
    }
    const uint32_t last = head->newer->depth;
    struct bp_older *older = head;
    while (older != NULL && older->revision > revision) {
        uint32_t length = jump_length(older);
        if (length > 1 && length <= older->depth - last && older->jump->revision > revision) {
            older = older->jump;
        } else {
            older = older->older;
        }
    }
    return older;
}

/* The version `length` below the one that is pushed on `head`, or NULL when it is gone. */
static struct bp_older *jump_target(struct bp_older *head, uint32_t length) {
    const uint32_t last = head->newer->depth;
    struct bp_older *target = head;
    uint32_t rest = length - 1;
    while (rest > 0) {
        uint32_t step = jump_length(target);
        if (step == 0 || step > rest || step > target->depth - last) {
            return NULL;
        }
        target = step == 1 ? target->older : target->jump;
        rest -= step;
    }
    return target;
}

void bp_older_push(struct bp_item *item, struct bp_older *older) {
    struct bp_older *head = item->older;
    older->older = head;
    older->jump = NULL;
    if (head == NULL) {
        older->newer = older;
        older->depth = 1;
    } else {
        assert(older->revision > head->revision);
        older->newer = head->newer; /* the tail */
        older->depth = head->depth + 1;
        uint32_t length = jump_length(older);
        if (length > 1) {
            older->jump = jump_target(head, length);
        }
        head->newer = older;
    }
    item->older = older;
}

struct bp_older *bp_older_pop(struct bp_item *item) {
    struct bp_older *head = item->older, *tail = head->newer;
    if (tail == head) {
        item->older = NULL;
    } else {
        tail->newer->older = NULL;
        head->newer = tail->newer;
    }
    return tail;
}

bool bp_item_at(const struct bp_index *index, const struct bp_item *item, uint64_t revision,
                struct bp_version *version) {
    if (item->revision <= revision) {
        bp_item_version(index, item, version);
        return true;
    }
    const struct bp_older *older = bp_older_find(item->older, revision);
    if (older == NULL) {
        return false;
    }
    bp_older_version(older, version);
    return true;
}

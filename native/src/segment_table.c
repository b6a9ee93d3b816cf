/*
 * The table of known segments (segment.h): id -> segment, looked up by readers without a lock.
 *
 *   id (32 bits)  | 11 root | 11 middle | 10 leaf |
 *
 *   root[2048] --> middle[2048] --> leaf[1024] --> struct bp_segment
 *
 * Invariants
 *   - Ids only grow, so nodes are added and never moved or freed before the table is: a look-up
 *     is three loads.
 *   - A segment is complete before its pointer is stored (release) and is freed only by remove(),
 *     whose caller has waited for the readers (epoch.h).
 *   - `mutex` guards adding and removing; next_id is atomic on its own.
 */
#include "segment.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEAF_BITS = 10, MIDDLE_BITS = 11, ROOT_BITS = 11 };
_Static_assert(LEAF_BITS + MIDDLE_BITS + ROOT_BITS == 32, "every id has a place");

#define LEAF_SLOTS (1u << LEAF_BITS)
#define MIDDLE_SLOTS (1u << MIDDLE_BITS)
#define ROOT_SLOTS (1u << ROOT_BITS)

struct leaf {
    _Atomic(struct bp_segment *) slots[LEAF_SLOTS];
};

struct middle {
    _Atomic(struct leaf *) slots[MIDDLE_SLOTS];
};

struct bp_segments {
    struct bp_disk *disk;
    struct bp_value_cache *cache;
    struct bp_damage *damage;
    char *dir;
    pthread_mutex_t mutex;
    _Atomic uint64_t next_id; /* 64 bits, so that running out is noticed and does not wrap */
    _Atomic(struct middle *) root[ROOT_SLOTS];
};

void bp_segments_set_cache(struct bp_segments *segments, struct bp_value_cache *cache) {
    segments->cache = cache;
}

struct bp_value_cache *bp_segments_cache(const struct bp_segments *segments) {
    return segments->cache;
}

void bp_segments_set_damage(struct bp_segments *segments, struct bp_damage *damage) {
    segments->damage = damage;
}

struct bp_damage *bp_segments_damage(const struct bp_segments *segments) {
    return segments->damage;
}

static uint32_t root_slot(uint32_t id) { return id >> (LEAF_BITS + MIDDLE_BITS); }
static uint32_t middle_slot(uint32_t id) { return (id >> LEAF_BITS) & (MIDDLE_SLOTS - 1); }
static uint32_t leaf_slot(uint32_t id) { return id & (LEAF_SLOTS - 1); }

struct bp_segments *bp_segments_new(struct bp_disk *disk, const char *dir) {
    struct bp_segments *segments = calloc(1, sizeof *segments);
    if (segments == NULL) {
        return NULL;
    }
    segments->disk = disk;
    segments->dir = strdup(dir);
    if (segments->dir == NULL || pthread_mutex_init(&segments->mutex, NULL) != 0) {
        free(segments->dir);
        free(segments);
        return NULL;
    }
    atomic_store(&segments->next_id, 1);
    return segments;
}

static void free_leaf(struct bp_segments *segments, struct leaf *leaf) {
    for (uint32_t i = 0; leaf != NULL && i < LEAF_SLOTS; i++) {
        struct bp_segment *segment = atomic_load(&leaf->slots[i]);
        if (segment != NULL) {
            bp_disk_close(segments->disk, segment->fd);
            free(segment);
        }
    }
    free(leaf);
}

void bp_segments_free(struct bp_segments *segments) {
    if (segments == NULL) {
        return;
    }
    for (uint32_t i = 0; i < ROOT_SLOTS; i++) {
        struct middle *middle = atomic_load(&segments->root[i]);
        for (uint32_t k = 0; middle != NULL && k < MIDDLE_SLOTS; k++) {
            free_leaf(segments, atomic_load(&middle->slots[k]));
        }
        free(middle);
    }
    pthread_mutex_destroy(&segments->mutex);
    free(segments->dir);
    free(segments);
}

struct bp_disk *bp_segments_disk(const struct bp_segments *segments) { return segments->disk; }

const char *bp_segments_dir(const struct bp_segments *segments) { return segments->dir; }

void bp_segment_path(const struct bp_segments *segments, uint32_t id, int kind, bool tmp,
                     char *path, size_t size) {
    (void)snprintf(path, size, "%s/%08x.%s%s", segments->dir, id,
                   kind == BP_SEGMENT_LOG ? "log" : "set", tmp ? ".tmp" : "");
}

struct bp_segment *bp_segments_find(const struct bp_segments *segments, uint32_t id) {
    struct middle *middle =
        atomic_load_explicit(&segments->root[root_slot(id)], memory_order_acquire);
    if (middle == NULL) {
        return NULL;
    }
    struct leaf *leaf = atomic_load_explicit(&middle->slots[middle_slot(id)], memory_order_acquire);
    return leaf == NULL ? NULL
                        : atomic_load_explicit(&leaf->slots[leaf_slot(id)], memory_order_acquire);
}

struct bp_segment *bp_segments_next(const struct bp_segments *segments, uint32_t from) {
    uint64_t last = bp_segments_last_id(segments);
    uint64_t id = (uint64_t)from + 1;
    while (id <= last) {
        uint32_t at = (uint32_t)id;
        struct middle *middle =
            atomic_load_explicit(&segments->root[root_slot(at)], memory_order_acquire);
        if (middle == NULL) {
            id = ((id >> (LEAF_BITS + MIDDLE_BITS)) + 1) << (LEAF_BITS + MIDDLE_BITS);
            continue;
        }
        struct leaf *leaf =
            atomic_load_explicit(&middle->slots[middle_slot(at)], memory_order_acquire);
        if (leaf == NULL) {
            id = ((id >> LEAF_BITS) + 1) << LEAF_BITS;
            continue;
        }
        struct bp_segment *segment =
            atomic_load_explicit(&leaf->slots[leaf_slot(at)], memory_order_acquire);
        if (segment != NULL) {
            return segment;
        }
        id++;
    }
    return NULL;
}

uint32_t bp_segments_last_id(const struct bp_segments *segments) {
    return (uint32_t)(atomic_load(&segments->next_id) - 1);
}

uint32_t bp_segments_take_id(struct bp_segments *segments) {
    uint64_t id = atomic_fetch_add(&segments->next_id, 1);
    assert(id <= UINT32_MAX); /* at 64 MiB each: 2^58 bytes written */
    return (uint32_t)id;
}

void bp_segments_reserve_id(struct bp_segments *segments, uint32_t id) {
    uint64_t next = atomic_load(&segments->next_id);
    while (next <= id &&
           !atomic_compare_exchange_weak(&segments->next_id, &next, (uint64_t)id + 1)) {
    }
}

/* The leaf that holds `id`, made if need be; NULL when out of memory. Under `mutex`. */
static struct leaf *leaf_for(struct bp_segments *segments, uint32_t id) {
    struct middle *middle = atomic_load(&segments->root[root_slot(id)]);
    if (middle == NULL) {
        middle = calloc(1, sizeof *middle);
        if (middle == NULL) {
            return NULL;
        }
        atomic_store_explicit(&segments->root[root_slot(id)], middle, memory_order_release);
    }
    struct leaf *leaf = atomic_load(&middle->slots[middle_slot(id)]);
    if (leaf == NULL) {
        leaf = calloc(1, sizeof *leaf);
        if (leaf != NULL) {
            atomic_store_explicit(&middle->slots[middle_slot(id)], leaf, memory_order_release);
        }
    }
    return leaf;
}

int bp_segments_add(struct bp_segments *segments, const struct bp_segment *segment,
                    struct bp_segment **out, struct bp_error *err) {
    uint32_t id = segment->header.id;
    assert(id != 0);
    struct bp_segment *copy = malloc(sizeof *copy);
    if (copy == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for segment %08x", id);
    }
    *copy = *segment;
    pthread_mutex_lock(&segments->mutex);
    struct leaf *leaf = leaf_for(segments, id);
    if (leaf == NULL) {
        pthread_mutex_unlock(&segments->mutex);
        free(copy);
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the segment table");
    }
    assert(atomic_load(&leaf->slots[leaf_slot(id)]) == NULL); /* ids are never used twice */
    bp_segments_reserve_id(segments, id);
    atomic_store_explicit(&leaf->slots[leaf_slot(id)], copy, memory_order_release);
    pthread_mutex_unlock(&segments->mutex);
    *out = copy;
    return BP_OK;
}

void bp_segments_remove(struct bp_segments *segments, uint32_t id) {
    struct bp_segment *segment = NULL;
    pthread_mutex_lock(&segments->mutex);
    if (bp_segments_find(segments, id) != NULL) {
        struct leaf *leaf = leaf_for(segments, id); /* exists */
        segment = atomic_exchange(&leaf->slots[leaf_slot(id)], NULL);
    }
    pthread_mutex_unlock(&segments->mutex);
    if (segment != NULL) {
        bp_disk_close(segments->disk, segment->fd);
        free(segment);
    }
}

/*
 * Loading a checkpoint: keys arrive in ascending order, each with its versions, newest first.
 *
 *   | 57 of 63 | 57 of 63 | 57 of 63 | 12 of 63, next ->      every key goes behind the last one
 *
 * Leaves keep some room because the next puts fall anywhere. Then the history is rebuilt: all
 * versions above the floor, sorted by revision (radix sort, eleven bits a pass, stable: within one
 * revision effects come in order of key).
 *
 * The input is a file's: order, flags and sizes are checked, and a violation is corruption, never
 * undefined behaviour.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "index_internal.h"

enum { FILL = BP_LEAF_FANOUT * 9 / 10 + 1, RADIX_BITS = 11, RADIX = 1 << RADIX_BITS };

static int corrupt(struct bp_error *err, const char *what) {
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                   "the checkpoint's index is damaged: %s", what);
}

static int out_of_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "no memory to load the index");
}

static const char *wrong_versions(const struct bp_version *versions, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const struct bp_version *v = &versions[i];
        bool tombstone = (v->flags & BP_VERSION_TOMBSTONE) != 0;
        if (v->revision == 0 || (i > 0 && v->revision >= versions[i - 1].revision)) {
            return "versions of a key are not in order";
        }
        if (tombstone != (v->version == 0) ||
            (tombstone && (v->create_revision | v->lease | v->value.size) != 0)) {
            return "a tombstone that is none";
        }
        if (v->create_revision > v->revision) {
            return "a version older than its key";
        }
    }
    return n == 0 ? "a key without a version" : NULL;
}

static void free_versions(struct bp_index *index, struct bp_item *item) {
    while (item->older != NULL) {
        bp_slab_free(&index->slab, bp_older_pop(item), sizeof(struct bp_older));
    }
    bp_item_free(index, item);
}

/* An item with all its versions, attached to nothing. */
static struct bp_item *item_load(struct bp_index *index, struct bp_slice key,
                                 const struct bp_version *versions, uint32_t n) {
    struct bp_item *item = bp_item_new(index, key);
    if (item == NULL) {
        return NULL;
    }
    for (uint32_t i = n; i-- > 1;) { /* oldest first: each push makes a new head */
        const struct bp_version *v = &versions[i];
        struct bp_older *older = bp_slab_alloc(&index->slab, sizeof *older);
        if (older == NULL) {
            free_versions(index, item);
            return NULL;
        }
        *older = (struct bp_older){.revision = v->revision,
                                   .create_revision = v->create_revision,
                                   .lease = v->lease,
                                   .size = v->value.size,
                                   .crc = v->value.crc,
                                   .version = v->version};
        atomic_init(&older->at, bp_pos_u64(v->value.at));
        bp_older_push(item, older);
    }
    bp_item_write(item, &versions[0], 0);
    return item;
}

static void account(struct bp_index *index, struct bp_slice key, const struct bp_version *versions,
                    uint32_t n) {
    struct bp_counters *c = &index->counters;
    index->loaded = index->loaded > versions[0].revision ? index->loaded : versions[0].revision;
    bp_counter_add(&c->items, 1);
    bp_counter_add(&c->versions, n);
    bp_counter_add(&c->key_bytes, key.size);
    if (versions[0].version != 0) {
        struct bp_key_hash hash = bp_hash_key(key);
        bp_hash_add(index->hash, &hash, &versions[0]);
        bp_counter_add(&c->keys, 1);
        bp_counter_add(&c->live_value_bytes, versions[0].value.size);
    }
    for (uint32_t i = 1; i < n; i++) {
        bp_counter_add(&c->history_value_bytes, versions[i].value.size);
    }
}

int bp_index_load(struct bp_index *index, struct bp_slice key, const struct bp_version *versions,
                  uint32_t n, struct bp_error *err) {
    if (key.size == 0 || key.size > BP_STORED_KEY_MAX) {
        return corrupt(err, "a key of impossible size");
    }
    const char *wrong = wrong_versions(versions, n);
    if (wrong != NULL) {
        return corrupt(err, wrong);
    }
    struct bp_path path;
    bp_tree_descend_last(index, &path);
    uint32_t at = path.leaf->node.count;
    if (at > 0 && bp_slice_compare(bp_item_key(path.leaf->items[at - 1]), key) >= 0) {
        return corrupt(err, "keys are not in order");
    }
    struct bp_item *item = item_load(index, key, versions, n);
    if (item == NULL) {
        return out_of_memory(err);
    }
    uint32_t slot =
        versions[0].lease == 0 ? 0 : bp_attachment_reserve(&index->leases, versions[0].lease);
    bool ready = (versions[0].lease == 0 || slot != 0) &&
                 (at < FILL || bp_tree_make_room(index, key, &path, &at));
    if (!ready) {
        bp_attachment_unreserve(&index->leases, slot);
        free_versions(index, item);
        return out_of_memory(err);
    }
    if (slot != 0) {
        item->lease_slot = slot;
        bp_attach(&index->leases, slot, item);
    }
    bp_tree_insert(path.leaf, at, item);
    account(index, key, versions, n);
    return BP_OK;
}

/* ---- the history ----------------------------------------------------------------------------- */

struct effects {
    struct bp_effect *list;
    uint64_t n;
    uint64_t min, max; /* revisions */
};

static void collect(struct effects *effects, struct bp_item *item, uint64_t revision) {
    effects->list[effects->n++] = (struct bp_effect){.revision = revision, .item = item};
    effects->min = revision < effects->min ? revision : effects->min;
    effects->max = revision > effects->max ? revision : effects->max;
}

/* False when the item keeps more below the floor than one version that is no tombstone. */
static bool collect_item(struct effects *effects, struct bp_item *item, uint64_t floor) {
    if (item->revision > floor) {
        collect(effects, item, item->revision);
    }
    uint32_t below = item->revision <= floor ? 1 : 0;
    bool tombstone = below > 0 && item->version == 0;
    for (const struct bp_older *older = item->older; older != NULL; older = older->older) {
        if (older->revision > floor) {
            collect(effects, item, older->revision);
        } else {
            below++;
            tombstone = tombstone || older->version == 0;
        }
    }
    return below <= 1 && !tombstone;
}

static bool collect_all(const struct bp_index *index, struct effects *effects, uint64_t floor) {
    struct bp_slice from = {0};
    bool more = true;
    while (more) {
        struct bp_path path;
        bp_tree_descend(index, from, &path);
        for (uint32_t i = 0; i < path.leaf->node.count; i++) {
            if (i + 8 < path.leaf->node.count) {
                __builtin_prefetch(path.leaf->items[i + 8]);
            }
            if (!collect_item(effects, path.leaf->items[i], floor)) {
                return false;
            }
        }
        more = bp_path_high(&path, path.height, &from);
    }
    return true;
}

/*
 * Stable, least significant digits first. `spare` is as long as the list; returns the one that
 * holds the result.
 */
static struct bp_effect *sort(struct effects *effects, struct bp_effect *spare) {
    struct bp_effect *from = effects->list, *to = spare;
    uint64_t span = effects->n == 0 ? 0 : effects->max - effects->min;
    for (uint32_t shift = 0; shift < 64 && span >> shift != 0; shift += RADIX_BITS) {
        uint64_t starts[RADIX] = {0}, sum = 0;
        for (uint64_t i = 0; i < effects->n; i++) {
            starts[(from[i].revision - effects->min) >> shift & (RADIX - 1)]++;
        }
        for (uint32_t digit = 0; digit < RADIX; digit++) {
            uint64_t count = starts[digit];
            starts[digit] = sum;
            sum += count;
        }
        for (uint64_t i = 0; i < effects->n; i++) {
            to[starts[(from[i].revision - effects->min) >> shift & (RADIX - 1)]++] = from[i];
        }
        struct bp_effect *swap = from;
        from = to;
        to = swap;
    }
    return from;
}

int bp_index_load_finish(struct bp_index *index, uint64_t floor, struct bp_error *err) {
    uint64_t versions = atomic_load_explicit(&index->counters.versions, memory_order_relaxed);
    size_t bytes = ((size_t)versions + 1) * sizeof(struct bp_effect);
    struct effects effects = {.list = malloc(bytes), .min = UINT64_MAX};
    struct bp_effect *spare = malloc(bytes);
    int code = BP_OK;
    if (effects.list == NULL || spare == NULL) {
        code = out_of_memory(err);
    } else if (!collect_all(index, &effects, floor)) {
        code = corrupt(err, "versions below the floor that nobody can see");
    } else {
        struct bp_effect *sorted = sort(&effects, spare);
        if (!bp_history_fill(&index->history, sorted, effects.n, floor)) {
            code = out_of_memory(err);
        }
    }
    free(effects.list);
    free(spare);
    return code;
}

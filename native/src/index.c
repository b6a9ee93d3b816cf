/*
 * The index (index.h): what the applier changes and what single look-ups see.
 *
 *   put      allocate all -> leaf locked: newest version moves to the list, the new one is written
 *            -> lease lists -> stamp -> history
 *   delete   the same with a tombstone
 *   get      couple down, leaf shared: copy out one version
 *
 * Every allocation precedes every change, so a put that runs out of memory leaves nothing behind
 * but perhaps a split node. The effect enters the history after the leaf is unlocked: the history's
 * lock comes before any node's.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "index_internal.h"

struct bp_index *bp_index_new(const struct bp_index_hooks *hooks) {
    struct bp_index *index = aligned_alloc(64, (sizeof *index + 63u) / 64u * 64u);
    if (index == NULL) {
        return NULL;
    }
    memset(index, 0, sizeof *index);
    if (hooks != NULL) {
        index->hooks = *hooks;
    }
    bp_slab_init(&index->slab);
    bp_attachments_init(&index->leases, &index->slab);
    index->stamps = calloc(BP_STAMPS, sizeof *index->stamps); /* touched as keys change */
    if (index->stamps == NULL || bp_history_init(&index->history) != 0) {
        free((void *)index->stamps);
        free(index);
        return NULL;
    }
    if (bp_tree_init(index) != 0) {
        bp_index_free(index);
        return NULL;
    }
    return index;
}

void bp_index_free(struct bp_index *index) {
    if (index == NULL) {
        return;
    }
    bp_history_destroy(&index->history);
    bp_slab_destroy(&index->slab); /* nodes, items, versions and lease lists all lie in it */
    free((void *)index->stamps);
    free(index);
}

static uint64_t counter(const _Atomic uint64_t *value) {
    return atomic_load_explicit(value, memory_order_relaxed);
}

void bp_index_get_stats(const struct bp_index *index, struct bp_index_stats *stats) {
    const struct bp_counters *c = &index->counters;
    uint64_t trimmed_effects = counter(&index->history.head),
             effects = counter(&index->history.tail);
    *stats = (struct bp_index_stats){
        .keys = counter(&c->keys),
        .items = counter(&c->items),
        .versions = counter(&c->versions),
        .memory_bytes = sizeof *index + bp_slab_bytes(&index->slab),
        .history_effects = effects - trimmed_effects,
        .history_memory_bytes = bp_slab_bytes(&index->history.slab),
        .history_value_bytes = counter(&c->history_value_bytes),
        .key_bytes = counter(&c->key_bytes),
        .live_value_bytes = counter(&c->live_value_bytes),
    };
}

/* ---- put and delete -------------------------------------------------------------------------- */

/* Everything a change needs, taken before anything is changed. */
struct change {
    struct bp_older *older; /* for the version that is superseded */
    uint32_t slot;          /* the new version's lease slot */
    bool reserved;          /* the slot was reserved here: give it back on failure */
};

static void change_undo(struct bp_index *index, struct change *change) {
    bp_slab_free(&index->slab, change->older, sizeof *change->older);
    if (change->reserved) {
        bp_attachment_unreserve(&index->leases, change->slot);
    }
}

/* `item` is NULL for a new key, `lease` 0 for none. False: out of memory, nothing taken. */
static bool change_prepare(struct bp_index *index, const struct bp_item *item, uint64_t lease,
                           struct change *change) {
    *change = (struct change){0};
    if (!bp_history_reserve(&index->history)) {
        return false;
    }
    if (lease != 0) {
        if (item != NULL && item->lease_slot != 0 &&
            bp_attachment_id(&index->leases, item->lease_slot) == lease) {
            change->slot = item->lease_slot;
        } else {
            change->slot = bp_attachment_reserve(&index->leases, lease);
            change->reserved = true;
            if (change->slot == 0) {
                return false;
            }
        }
    }
    if (item != NULL) {
        change->older = bp_slab_alloc(&index->slab, sizeof *change->older);
        if (change->older == NULL) {
            change_undo(index, change);
            return false;
        }
    }
    return true;
}

/*
 * Move the item's newest version to the head of its list and write `version` in its place, under
 * the leaf's lock.
 */
static void supersede(struct bp_index *index, struct bp_leaf *leaf, struct bp_item *item,
                      const struct bp_version *version, const struct change *change) {
    struct bp_older *older = change->older;
    uint32_t old_slot = item->lease_slot;
    *older = (struct bp_older){
        .revision = item->revision,
        .create_revision = item->create_revision,
        .lease = old_slot == 0 ? 0 : bp_attachment_id(&index->leases, old_slot),
        .size = item->size,
        .crc = item->crc,
        .version = item->version,
    };
    bp_rw_lock_exclusive(&leaf->node.lock);
    atomic_init(
        &older->at,
        atomic_load_explicit(&item->at,
                             memory_order_relaxed)); /* under the lock: relocate may come before */
    bp_older_push(item, older);
    item->revision = version->revision;
    item->create_revision = version->create_revision;
    atomic_store_explicit(&item->at, bp_pos_u64(version->value.at), memory_order_relaxed);
    item->size = version->value.size;
    item->crc = version->value.crc;
    item->version = version->version;
    item->lease_slot = change->slot;
    bp_rw_unlock_exclusive(&leaf->node.lock);

    if (old_slot != change->slot) {
        if (old_slot != 0) {
            bp_detach(&index->leases, old_slot, item);
        }
        if (change->slot != 0) {
            bp_attach(&index->leases, change->slot, item);
        }
    }
}

/*
 * The bookkeeping of one change: stamp, counters, hash, history. `previous` is a live version or has
 * version 0.
 */
static void account(struct bp_index *index, const struct bp_key_hash *key, struct bp_item *item,
                    const struct bp_version *previous, const struct bp_version *version) {
    struct bp_counters *c = &index->counters;
    /* Before the revision is published (release): a reader of that revision finds the stamp. */
    atomic_store_explicit(bp_stamp_of(index, key->lane[0]), version->revision,
                          memory_order_relaxed);
    bp_counter_add(&c->versions, 1);
    if (previous->version != 0) {
        bp_hash_sub(index->hash, key, previous);
        bp_counter_sub(&c->keys, 1);
        bp_counter_sub(&c->live_value_bytes, previous->value.size);
        bp_counter_add(&c->history_value_bytes, previous->value.size);
    }
    if (version->version != 0) {
        bp_hash_add(index->hash, key, version);
        bp_counter_add(&c->keys, 1);
        bp_counter_add(&c->live_value_bytes, version->value.size);
    }
    bp_history_push(&index->history, version->revision, item);
}

/* The key's hash; its stamp is asked for, so that writing it does not wait. */
static struct bp_key_hash hash_ahead(const struct bp_index *index, struct bp_slice key) {
    struct bp_key_hash hash = bp_hash_key(key);
    __builtin_prefetch((const void *)bp_stamp_of(index, hash.lane[0]), 1);
    return hash;
}

static int out_of_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "the index is out of memory");
}

/* A new item with `version`, at `at` of the path's leaf. */
static struct bp_item *insert_new(struct bp_index *index, struct bp_slice key, struct bp_path *path,
                                  uint32_t at, const struct bp_version *version, uint32_t slot) {
    struct bp_item *item = bp_item_new(index, key);
    if (item == NULL) {
        return NULL;
    }
    if (path->leaf->node.count == BP_LEAF_FANOUT && !bp_tree_make_room(index, key, path, &at)) {
        bp_item_free(index, item);
        return NULL;
    }
    bp_item_write(item, version, slot);
    if (slot != 0) {
        bp_attach(&index->leases, slot, item);
    }
    bp_tree_insert(path->leaf, at, item);
    bp_counter_add(&index->counters.items, 1);
    bp_counter_add(&index->counters.key_bytes, key.size);
    return item;
}

int bp_index_put(struct bp_index *index, struct bp_slice key, uint64_t revision, uint64_t lease,
                 bool keep_lease, const struct bp_value_ref *value, struct bp_version *previous,
                 struct bp_error *err) {
    struct bp_path path;
    struct bp_version none,
        version = {
            .revision = revision, .create_revision = revision, .version = 1, .value = *value};
    struct change change;
    bool found;
    previous = previous != NULL ? previous : &none;
    memset(previous, 0, sizeof *previous);
    const struct bp_key_hash hash = hash_ahead(index, key);
    bp_tree_descend(index, key, &path);
    uint32_t at = bp_leaf_search(path.leaf, key, &found);
    struct bp_item *item = found ? path.leaf->items[at] : NULL;
    if (found) {
        assert(item->revision < revision);
        if (bp_item_live(item)) {
            bp_item_version(index, item, previous);
            version.create_revision = previous->create_revision;
            version.version = previous->version == UINT32_MAX ? UINT32_MAX : previous->version + 1;
        }
    }
    version.lease = keep_lease ? previous->lease : lease;
    if (!change_prepare(index, item, version.lease, &change)) {
        return out_of_memory(err);
    }
    if (found) {
        supersede(index, path.leaf, item, &version, &change);
    } else {
        item = insert_new(index, key, &path, at, &version, change.slot);
        if (item == NULL) {
            change_undo(index, &change);
            return out_of_memory(err);
        }
    }
    account(index, &hash, item, previous, &version);
    return BP_OK;
}

int bp_index_delete(struct bp_index *index, struct bp_slice key, uint64_t revision,
                    struct bp_version *previous) {
    struct bp_path path;
    struct bp_version none, tombstone = {.revision = revision, .flags = BP_VERSION_TOMBSTONE};
    struct change change;
    bool found;
    previous = previous != NULL ? previous : &none;
    memset(previous, 0, sizeof *previous);
    const struct bp_key_hash hash = hash_ahead(index, key);
    bp_tree_descend(index, key, &path);
    uint32_t at = bp_leaf_search(path.leaf, key, &found);
    struct bp_item *item = found ? path.leaf->items[at] : NULL;
    if (item == NULL || !bp_item_live(item)) {
        return 0;
    }
    assert(item->revision < revision);
    bp_item_version(index, item, previous);
    if (!change_prepare(index, item, 0, &change)) {
        return -1;
    }
    supersede(index, path.leaf, item, &tombstone, &change);
    account(index, &hash, item, previous, &tombstone);
    return 1;
}

/* ---- the applier's look-ups ------------------------------------------------------------------ */

bool bp_index_newest(const struct bp_index *index, struct bp_slice key,
                     struct bp_version *version) {
    struct bp_path path;
    bool found;
    bp_tree_descend(index, key, &path);
    uint32_t at = bp_leaf_search(path.leaf, key, &found);
    if (!found || !bp_item_live(path.leaf->items[at])) {
        return false;
    }
    bp_item_version(index, path.leaf->items[at], version);
    return true;
}

bool bp_index_next_live(const struct bp_index *index, struct bp_slice start, struct bp_slice end,
                        uint8_t *buf, struct bp_slice *key, struct bp_version *version) {
    struct bp_slice from = start;
    bool more = true, found;
    while (more) {
        struct bp_path path;
        bp_tree_descend(index, from, &path);
        uint32_t at = from.size == 0 ? 0 : bp_leaf_search(path.leaf, from, &found);
        for (; at < path.leaf->node.count; at++) {
            const struct bp_item *item = path.leaf->items[at];
            if (end.size > 0 && bp_slice_compare(bp_item_key(item), end) >= 0) {
                return false;
            }
            if (bp_item_live(item)) {
                memcpy(buf, item->key, item->key_size);
                *key = bp_slice(buf, item->key_size);
                bp_item_version(index, item, version);
                return true;
            }
        }
        more = bp_path_high(&path, path.height, &from);
    }
    return false;
}

/* ---- look-ups of any thread ------------------------------------------------------------------ */

uint64_t bp_index_key_hash(struct bp_slice key) { return bp_hash_key_lane(key); }

uint64_t bp_index_changed(const struct bp_index *index, uint64_t hash) {
    uint64_t stamp = atomic_load_explicit(bp_stamp_of(index, hash), memory_order_relaxed);
    return stamp > index->loaded ? stamp : index->loaded;
}

bool bp_index_get(const struct bp_index *index, struct bp_slice key, uint64_t revision,
                  struct bp_version *version) {
    bool found;
    const struct bp_leaf *leaf = bp_tree_lock_leaf(index, key);
    uint32_t at = bp_leaf_search(leaf, key, &found);
    found = found && bp_item_at(index, leaf->items[at], revision, version);
    bp_tree_unlock(leaf);
    return found && version->version != 0;
}

bool bp_index_get_exact(const struct bp_index *index, struct bp_slice key, uint64_t revision,
                        struct bp_version *version, struct bp_version *previous) {
    bool found;
    const struct bp_leaf *leaf = bp_tree_lock_leaf(index, key);
    uint32_t at = bp_leaf_search(leaf, key, &found);
    if (found) {
        const struct bp_item *item = leaf->items[at];
        found = bp_item_at(index, item, revision, version) && version->revision == revision;
        if (found && previous != NULL && !bp_item_at(index, item, revision - 1, previous)) {
            memset(previous, 0, sizeof *previous);
        }
    }
    bp_tree_unlock(leaf);
    return found;
}

/* ---- the cleaner ----------------------------------------------------------------------------- */

bool bp_index_refers(const struct bp_index *index, struct bp_slice key, uint64_t revision,
                     struct bp_pos at, struct bp_version *version) {
    return bp_index_get_exact(index, key, revision, version, NULL) && version->version != 0 &&
           bp_pos_u64(version->value.at) == bp_pos_u64(at);
}

bool bp_index_relocate(struct bp_index *index, struct bp_slice key, uint64_t revision,
                       struct bp_pos from, struct bp_pos to) {
    bool found;
    /*
     * Shared is enough: of all fields only `at` changes, atomically, and the applier moves versions
     * under the exclusive lock.
     */
    struct bp_leaf *leaf = bp_tree_lock_leaf(index, key);
    uint32_t i = bp_leaf_search(leaf, key, &found);
    _Atomic uint64_t *at = NULL;
    if (found) {
        struct bp_item *item = leaf->items[i];
        struct bp_older *older =
            item->revision > revision ? bp_older_find(item->older, revision) : NULL;
        if (item->revision == revision && item->version != 0) {
            at = &item->at;
        } else if (older != NULL && older->revision == revision && older->version != 0) {
            at = &older->at;
        }
    }
    uint64_t expected = bp_pos_u64(from);
    bool moved = at != NULL &&
                 atomic_compare_exchange_strong_explicit(
                     at, &expected, bp_pos_u64(to), memory_order_relaxed, memory_order_relaxed);
    bp_tree_unlock(leaf);
    return moved;
}

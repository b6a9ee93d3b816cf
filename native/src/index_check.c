/*
 * The check: every invariant of the index, walked. For tests and fuzzers; nobody else may use the
 * index meanwhile.
 *
 *   tree      fences, order, heads, skip, levels, locks free
 *   items     versions in order, depths, links, jumps; one version at most at or below trimmed
 *   totals    counters and state hash recomputed; leases name exactly the attached items; the
 *             history names every version above the trimmed revision
 */
#include <string.h>

#include "index_internal.h"

struct totals {
    uint64_t keys, items, versions, key_bytes, live_value_bytes, history_value_bytes;
    uint64_t attached;
    uint64_t recent; /* versions above the newest popped effect */
    uint64_t hash[2];
};

static size_t shared_prefix(struct bp_slice a, struct bp_slice b) {
    size_t i = 0;
    while (i < a.size && i < b.size && a.data[i] == b.data[i]) {
        i++;
    }
    return i;
}

static uint32_t expected_head(struct bp_slice key, size_t skip) {
    uint32_t head = 0;
    for (size_t i = 0; i < 4; i++) {
        head = head << 8 | (skip + i < key.size ? key.data[skip + i] : 0u);
    }
    return head;
}

static uint64_t gone(const struct bp_index *index) {
    uint64_t trimmed = bp_index_trimmed(index);
    return trimmed > index->history.popped_revision ? trimmed : index->history.popped_revision;
}

static const char *check_list(const struct bp_index *index, const struct bp_item *item,
                              struct totals *totals) {
    const uint64_t trimmed = bp_index_trimmed(index), recent = gone(index);
    uint32_t below = item->revision <= trimmed;
    const struct bp_older *head = item->older;
    uint64_t above = item->revision;
    for (const struct bp_older *o = head; o != NULL; o = o->older) {
        uint32_t length = o->depth & (0u - o->depth);
        if (o->revision >= above) {
            return "versions are not in order";
        }
        if (o->older != NULL && (o->older->depth + 1 != o->depth || o->older->newer != o)) {
            return "a version's links are wrong";
        }
        if (o->older == NULL && head->newer != o) {
            return "the head does not know the tail";
        }
        if (length > 1 && length <= o->depth - head->newer->depth &&
            o->jump->depth != o->depth - length) {
            return "a jump lands wrong";
        }
        if (o->version == 0 && (o->create_revision != 0 || o->size != 0 || o->lease != 0)) {
            return "a tombstone with contents";
        }
        above = o->revision;
        below += o->revision <= trimmed;
        totals->recent += o->revision > recent;
        totals->versions++;
        totals->history_value_bytes += o->size;
        if (o->revision <= trimmed && o->version == 0) {
            return "a trimmed tombstone was kept";
        }
    }
    return below > 1 ? "more than one version below the trimmed revision" : NULL;
}

static const char *check_item(const struct bp_index *index, const struct bp_item *item,
                              struct totals *totals) {
    totals->items++;
    totals->versions++;
    totals->key_bytes += item->key_size;
    totals->attached += item->lease_slot != 0;
    totals->recent += item->revision > gone(index);
    if (bp_item_live(item)) {
        struct bp_version version;
        struct bp_key_hash key = bp_hash_key(bp_item_key(item));
        bp_item_version(index, item, &version);
        bp_hash_add(totals->hash, &key, &version);
        totals->keys++;
        totals->live_value_bytes += item->size;
    } else if (item->revision <= bp_index_trimmed(index)) {
        return "a trimmed tombstone was kept";
    } else if (item->lease_slot != 0 || item->create_revision != 0 || item->size != 0) {
        return "a tombstone with contents";
    }
    return check_list(index, item, totals);
}

struct range {
    const struct bp_slice *low, *high; /* NULL: none */
};

static bool in_range(struct bp_slice key, struct range range) {
    return (range.low == NULL || bp_slice_compare(*range.low, key) <= 0) &&
           (range.high == NULL || bp_slice_compare(key, *range.high) < 0);
}

static const char *check_leaf(const struct bp_index *index, const struct bp_leaf *leaf,
                              struct range range, struct totals *totals) {
    size_t skip =
        range.low != NULL && range.high != NULL ? shared_prefix(*range.low, *range.high) : 0;
    if (leaf->node.skip != skip || leaf->node.count > BP_LEAF_FANOUT) {
        return "a leaf's skip or count is wrong";
    }
    for (uint32_t i = 0; i < leaf->node.count; i++) {
        struct bp_slice key = bp_item_key(leaf->items[i]);
        if (!in_range(key, range)) {
            return "a key lies outside its leaf's fences";
        }
        if (i > 0 && bp_slice_compare(bp_item_key(leaf->items[i - 1]), key) >= 0) {
            return "keys of a leaf are not in order";
        }
        if (leaf->heads[i] != expected_head(key, skip)) {
            return "a leaf's head is wrong";
        }
        const char *wrong = check_item(index, leaf->items[i], totals);
        if (wrong != NULL) {
            return wrong;
        }
    }
    return NULL;
}

static const char *check_inner_keys(const struct bp_inner *inner, struct range range) {
    for (uint32_t i = 0; i < inner->node.count; i++) {
        struct bp_slice key = bp_separator_key(inner->separators[i]);
        if (!in_range(key, range) || (range.low != NULL && bp_slice_equal(*range.low, key))) {
            return "a separator lies outside its node's fences";
        }
        if (i > 0 && bp_slice_compare(bp_separator_key(inner->separators[i - 1]), key) >= 0) {
            return "separators are not in order";
        }
        if (shared_prefix(bp_separator_key(inner->separators[0]), key) < inner->node.skip) {
            return "a separator without the node's prefix";
        }
        if (inner->heads[i] != expected_head(key, inner->node.skip)) {
            return "an inner node's head is wrong";
        }
    }
    return NULL;
}

static const char *check_node(const struct bp_index *index, const struct bp_node *node,
                              uint32_t level, struct range range, struct totals *totals) {
    if (node->level != level || atomic_load_explicit(&node->lock, memory_order_relaxed) != 0) {
        return "a node of the wrong level, or locked";
    }
    if (level == 0) {
        return check_leaf(index, (const struct bp_leaf *)node, range, totals);
    }
    const struct bp_inner *inner = (const struct bp_inner *)node;
    const char *wrong = check_inner_keys(inner, range);
    for (uint32_t i = 0; i <= inner->node.count && wrong == NULL; i++) {
        struct bp_slice low =
            i == 0 ? bp_slice(NULL, 0) : bp_separator_key(inner->separators[i - 1]);
        struct bp_slice high =
            i == inner->node.count ? bp_slice(NULL, 0) : bp_separator_key(inner->separators[i]);
        struct range inside = {.low = i == 0 ? range.low : &low,
                               .high = i == inner->node.count ? range.high : &high};
        wrong = check_node(index, inner->children[i], level - 1, inside,
                           totals); /* as deep as the tree: bounded by its limit */
    }
    return wrong;
}

static const char *check_history(const struct bp_index *index, const struct totals *totals) {
    uint64_t head = atomic_load_explicit(&index->history.head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&index->history.tail, memory_order_relaxed);
    uint64_t last = 0, recent = 0;
    for (uint64_t i = head; i < tail; i++) {
        const struct bp_effect *effect = bp_history_effect(&index->history, i);
        struct bp_version version;
        if (effect->revision < last || effect->revision <= bp_index_trimmed(index)) {
            return "effects are not in order, or trimmed";
        }
        if (!bp_index_get_exact(index, bp_item_key(effect->item), effect->revision, &version,
                                NULL)) {
            return "an effect without its version";
        }
        last = effect->revision;
        recent += effect->revision > gone(index);
    }
    return recent == totals->recent ? NULL : "a version without its effect";
}

static const char *check_totals(const struct bp_index *index, const struct totals *totals) {
    struct bp_index_stats stats;
    bp_index_get_stats(index, &stats);
    if (totals->keys != stats.keys || totals->items != stats.items ||
        totals->versions != stats.versions) {
        return "keys, items or versions are miscounted";
    }
    if (totals->key_bytes != stats.key_bytes ||
        totals->live_value_bytes != stats.live_value_bytes ||
        totals->history_value_bytes != stats.history_value_bytes) {
        return "bytes are miscounted";
    }
    if (totals->hash[0] != index->hash[0] || totals->hash[1] != index->hash[1]) {
        return "the state hash is wrong";
    }
    return NULL;
}

const char *bp_index_check(const struct bp_index *index) {
    struct totals totals = {0};
    struct range all = {0};
    uint64_t attached = 0;
    if (index->root->level > BP_TREE_HEIGHT_MAX) {
        return "the tree is too high";
    }
    const char *wrong = check_node(index, index->root, index->root->level, all, &totals);
    if (wrong == NULL) {
        wrong = check_totals(index, &totals);
    }
    if (wrong == NULL) {
        wrong = bp_attachments_check(&index->leases, &attached);
    }
    if (wrong == NULL && attached != totals.attached) {
        wrong = "leases hold items that are not attached";
    }
    return wrong != NULL ? wrong : check_history(index, &totals);
}

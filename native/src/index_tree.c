/*
 * The tree: a B+tree whose nodes are searched by four bytes a key.
 *
 *   inner  [heads ...]  [separators ...]  [children ...]
 *             |
 *   leaf   [heads ...]  [items ...]
 *
 *   head      the four key bytes after the first `skip`, big-endian, padded with zeros
 *   child i   keys >= separator i-1 and < separator i. A separator is the shortest prefix of the
 *             right key that is above the left key, so it may equal no key.
 *   fences    of a leaf: low, the nearest separator left of its path, and high, right of it;
 *             its skip is their common prefix
 *
 * The applier descends without locks. Readers couple: they hold a parent until they hold the child,
 * never wait sideways or upwards. How the structure changes beneath them: index_shape.c.
 *
 * Invariants: keys ascend in a leaf and lie between its fences; separators ascend; heads are right
 * for skip; all leaves are at level 0.
 */
#include <assert.h>
#include <string.h>

#include "index_internal.h"

/* ---- heads ----------------------------------------------------------------------------------- */

/*
 * The number of heads < head. The mask instead of a conditional: compilers make a branch of that,
 * and it is mispredicted half of the time.
 */
static inline uint32_t lower_bound(const uint32_t *heads, uint32_t n, uint32_t head) {
    uint32_t low = 0;
    while (n > 1) {
        uint32_t half = n / 2;
        low += half & (0u - (heads[low + half - 1] < head));
        n -= half;
    }
    return low + (n == 1 && heads[low] < head);
}

static inline struct bp_slice after(struct bp_slice key, size_t skip) {
    return bp_slice(key.data + skip, key.size - skip);
}

/*
 * Heads at [low, result) equal head. Ties are few but where a leaf at the tree's edge has no prefix
 * to skip.
 */
static inline uint32_t tie_end(const uint32_t *heads, uint32_t n, uint32_t low, uint32_t head) {
    uint32_t end = low;
    while (end < n && heads[end] == head) {
        end++;
    }
    return end;
}

uint32_t bp_leaf_search(const struct bp_leaf *leaf, struct bp_slice key, bool *equal) {
    const uint32_t skip = leaf->node.skip, n = leaf->node.count;
    assert(key.size >= skip);
    uint32_t head = bp_head_of(key, skip);
    uint32_t low = lower_bound(leaf->heads, n, head);
    uint32_t high = tie_end(leaf->heads, n, low, head);
    struct bp_slice rest = after(key, skip);
    *equal = false;
    if (high - low > 2 &&
        bp_slice_compare(after(bp_item_key(leaf->items[high - 1]), skip), rest) < 0) {
        return high; /* ascending keys: behind the last */
    }
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        int order = bp_slice_compare(after(bp_item_key(leaf->items[middle]), skip), rest);
        if (order == 0) {
            *equal = true;
            return middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/*
 * The child for `key`: the number of separators <= key, or with `before` < key (the child that ends
 * at or contains what precedes key).
 */
static uint32_t inner_search(const struct bp_inner *inner, struct bp_slice key, bool before) {
    const uint32_t skip = inner->node.skip, n = inner->node.count;
    if (n == 0) {
        return 0;
    }
    if (skip > 0) {
        size_t shared = key.size < skip ? key.size : skip;
        int order = shared == 0 ? 0 : memcmp(key.data, inner->separators[0]->bytes, shared);
        if (order != 0 || key.size < skip) {
            return order <= 0 ? 0 : n; /* a key that ends within the prefix is below it */
        }
    }
    uint32_t head = bp_head_of(key, skip);
    uint32_t low = lower_bound(inner->heads, n, head);
    uint32_t high = low;
    while (high < n && inner->heads[high] == head) {
        high++;
    }
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        int order = bp_slice_compare(bp_separator_key(inner->separators[middle]), key);
        if (order < 0 || (order == 0 && !before)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* ---- descending ------------------------------------------------------------------------------ */

/*
 * All of a leaf in one go: a search touches several lines of heads and one of items, each known
 * only after the one before.
 */
static inline void prefetch_node(const struct bp_node *node) {
    const char *p = (const char *)node;
    for (size_t line = 0; line < sizeof(struct bp_leaf); line += 64) {
        __builtin_prefetch(p + line);
    }
}

void bp_tree_descend(const struct bp_index *index, struct bp_slice key, struct bp_path *path) {
    struct bp_node *node = index->root;
    path->height = 0;
    while (node->level > 0) {
        struct bp_inner *inner = bp_inner_of(node);
        uint32_t child = inner_search(inner, key, false);
        assert(path->height < BP_TREE_HEIGHT_MAX);
        path->at[path->height].node = inner;
        path->at[path->height].child = child;
        path->height++;
        node = inner->children[child];
        prefetch_node(node);
    }
    path->leaf = bp_leaf_of(node);
}

void bp_tree_descend_last(const struct bp_index *index, struct bp_path *path) {
    struct bp_node *node = index->root;
    path->height = 0;
    while (node->level > 0) {
        struct bp_inner *inner = bp_inner_of(node);
        path->at[path->height].node = inner;
        path->at[path->height].child = inner->node.count;
        path->height++;
        node = inner->children[inner->node.count];
    }
    path->leaf = bp_leaf_of(node);
}

bool bp_path_low(const struct bp_path *path, uint32_t level, struct bp_slice *fence) {
    while (level-- > 0) {
        uint32_t child = path->at[level].child;
        if (child > 0) {
            *fence = bp_separator_key(path->at[level].node->separators[child - 1]);
            return true;
        }
    }
    return false;
}

bool bp_path_high(const struct bp_path *path, uint32_t level, struct bp_slice *fence) {
    while (level-- > 0) {
        const struct bp_inner *inner = path->at[level].node;
        uint32_t child = path->at[level].child;
        if (child < inner->node.count) {
            *fence = bp_separator_key(inner->separators[child]);
            return true;
        }
    }
    return false;
}

static void fence_copy(struct bp_fence *fence, const struct bp_separator *separator) {
    fence->present = true;
    fence->size = separator->size;
    memcpy(fence->bytes, separator->bytes, separator->size);
}

/* The locks are not part of what a const index promises to keep. */
static struct bp_node *lock_root(const struct bp_index *index) {
    struct bp_index *mutable = (struct bp_index *)(uintptr_t)index;
    bp_rw_lock_shared(&mutable->root_lock);
    struct bp_node *root = mutable->root;
    bp_rw_lock_shared(&root->lock);
    bp_rw_unlock_shared(&mutable->root_lock);
    return root;
}

static struct bp_node *lock_child(struct bp_inner *inner, uint32_t child) {
    struct bp_node *node = inner->children[child];
    prefetch_node(node);
    bp_rw_lock_shared(&node->lock);
    bp_rw_unlock_shared(&inner->node.lock);
    return node;
}

struct bp_leaf *bp_tree_lock_leaf(const struct bp_index *index, struct bp_slice key) {
    struct bp_node *node = lock_root(index);
    while (node->level > 0) {
        struct bp_inner *inner = bp_inner_of(node);
        node = lock_child(inner, inner_search(inner, key, false));
    }
    return bp_leaf_of(node);
}

struct bp_leaf *bp_tree_lock_forward(const struct bp_index *index, struct bp_slice key,
                                     struct bp_fence *high) {
    struct bp_node *node = lock_root(index);
    high->present = false;
    while (node->level > 0) {
        struct bp_inner *inner = bp_inner_of(node);
        uint32_t child = inner_search(inner, key, false);
        if (child < inner->node.count) {
            fence_copy(high, inner->separators[child]);
        }
        node = lock_child(inner, child);
    }
    return bp_leaf_of(node);
}

struct bp_leaf *bp_tree_lock_backward(const struct bp_index *index, const struct bp_slice *key,
                                      struct bp_fence *low) {
    struct bp_node *node = lock_root(index);
    low->present = false;
    while (node->level > 0) {
        struct bp_inner *inner = bp_inner_of(node);
        uint32_t child = key == NULL ? inner->node.count : inner_search(inner, *key, true);
        if (child > 0) {
            fence_copy(low, inner->separators[child - 1]);
        }
        node = lock_child(inner, child);
    }
    return bp_leaf_of(node);
}

void bp_tree_unlock(const struct bp_leaf *leaf) {
    bp_rw_unlock_shared(&((struct bp_leaf *)(uintptr_t)leaf)->node.lock);
}

/* ---- warming --------------------------------------------------------------------------------- */

enum { WARM_GROUP = 16 };

/*
 * Each round takes every key of the group one step further; what a step will touch was asked for a
 * round earlier, so the misses of the group overlap.
 */
static void warm_group(const struct bp_index *index, const struct bp_slice *keys, uint32_t n) {
    struct bp_node *nodes[WARM_GROUP];
    struct bp_item **places[WARM_GROUP];
    for (uint32_t i = 0; i < n; i++) {
        nodes[i] = index->root;
    }
    for (uint32_t level = index->root->level; level > 0; level--) {
        for (uint32_t i = 0; i < n; i++) {
            struct bp_inner *inner = bp_inner_of(nodes[i]);
            nodes[i] = inner->children[inner_search(inner, keys[i], false)];
            prefetch_node(nodes[i]);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        struct bp_leaf *leaf = bp_leaf_of(nodes[i]);
        uint32_t at =
            lower_bound(leaf->heads, leaf->node.count, bp_head_of(keys[i], leaf->node.skip));
        places[i] = at < leaf->node.count ? &leaf->items[at] : NULL;
        __builtin_prefetch(&leaf->items[at < leaf->node.count ? at : 0]);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (places[i] != NULL) {
            __builtin_prefetch(*places[i]);
            __builtin_prefetch((const char *)*places[i] + 64);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        if (places[i] != NULL) {
            __builtin_prefetch((*places[i])->older); /* NULL does no harm */
        }
    }
}

void bp_index_warm(const struct bp_index *index, const struct bp_slice *keys, uint32_t n) {
    for (uint32_t i = 0; i < n; i += WARM_GROUP) {
        warm_group(index, keys + i, n - i < WARM_GROUP ? n - i : WARM_GROUP);
    }
}

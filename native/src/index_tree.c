/*
 * The tree: a B+tree whose nodes are searched by four bytes a key.
 *
 *   inner  [heads ...]  [separators ...]  [children ...]        child i: keys >= separator i-1 and < separator i
 *             |
 *   leaf   [heads ...]  [items ...]                             head: the four key bytes after the first `skip`, big-endian, zero padded
 *
 *   fences of a leaf:  low = nearest separator left of its path, high = nearest right of it. skip = common prefix of both.
 *   A separator is the shortest prefix of the right key that is above the left key, so it may equal no key.
 *
 * The applier alone changes the structure and descends without locks; it locks what it changes,
 * parents before children, left before right. Readers couple: they hold a parent until they hold
 * the child, never wait sideways or upwards. So a node that is locked together with its parent has
 * no reader in it or waiting for it, and may be freed.
 *
 * Invariants: keys ascend in a leaf and lie between its fences; separators ascend; heads are right
 * for skip; all leaves at level 0. Splits: half and half; at the end of the tree the left stays
 * full (ascending keys fill leaves). Merges: a node at most a quarter full is joined with a
 * neighbour under the same parent when both fit in three quarters. An inner node may be left with
 * one child.
 */
#include <assert.h>
#include <string.h>

#include "index_internal.h"

enum {
    LEAF_LOW = BP_LEAF_FANOUT / 4,
    LEAF_JOINED_MAX = BP_LEAF_FANOUT * 3 / 4,
    INNER_LOW = BP_INNER_FANOUT / 4,
    INNER_JOINED_MAX = BP_INNER_FANOUT * 3 / 4,
};

/* ---- heads ----------------------------------------------------------------------------------- */

static inline uint32_t head_of(struct bp_slice key, size_t skip) {
    size_t n = key.size - skip;
    if (n >= 4) {
        const uint8_t *p = key.data + skip;
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    uint32_t head = 0;
    for (size_t i = 0; i < n; i++) {
        head |= (uint32_t)key.data[skip + i] << (24 - 8 * i);
    }
    return head;
}

static uint16_t common_prefix(struct bp_slice a, struct bp_slice b) {
    size_t n = a.size < b.size ? a.size : b.size, i = 0;
    while (i < n && a.data[i] == b.data[i]) {
        i++;
    }
    return (uint16_t)i;
}

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
    uint32_t head = head_of(key, skip);
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
    uint32_t head = head_of(key, skip);
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

static void leaf_fill_heads(struct bp_leaf *leaf, uint32_t from, uint32_t to) {
    for (uint32_t i = from; i < to; i++) {
        __builtin_prefetch(leaf->items[i]->key);
    }
    for (uint32_t i = from; i < to; i++) {
        leaf->heads[i] = head_of(bp_item_key(leaf->items[i]), leaf->node.skip);
    }
}

/* Set skip to what the separators share, recomputing heads. */
static void inner_fill_heads(struct bp_inner *inner) {
    uint32_t n = inner->node.count;
    inner->node.skip = 0;
    if (n > 0) {
        inner->node.skip = common_prefix(bp_separator_key(inner->separators[0]),
                                         bp_separator_key(inner->separators[n - 1]));
    }
    for (uint32_t i = 0; i < n; i++) {
        inner->heads[i] = head_of(bp_separator_key(inner->separators[i]), inner->node.skip);
    }
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static struct bp_node *node_new(struct bp_index *index, uint32_t level) {
    size_t size = level == 0 ? sizeof(struct bp_leaf) : sizeof(struct bp_inner);
    struct bp_node *node = bp_slab_alloc(&index->slab, size);
    if (node != NULL) {
        memset(node, 0, sizeof *node);
        node->level = (uint8_t)level;
    }
    return node;
}

static void node_free(struct bp_index *index, struct bp_node *node) {
    bp_slab_free(&index->slab, node,
                 node->level == 0 ? sizeof(struct bp_leaf) : sizeof(struct bp_inner));
}

static size_t separator_bytes(size_t key_size) { return sizeof(struct bp_separator) + key_size; }

static void separator_free(struct bp_index *index, struct bp_separator *separator) {
    bp_slab_free(&index->slab, separator, separator_bytes(separator->size));
}

/* The shortest s with left < s <= right. */
static struct bp_separator *separator_between(struct bp_index *index, struct bp_slice left,
                                              struct bp_slice right) {
    size_t size = (size_t)common_prefix(left, right) + 1;
    assert(size <= right.size && bp_slice_compare(left, right) < 0);
    struct bp_separator *separator = bp_slab_alloc(&index->slab, separator_bytes(size));
    if (separator != NULL) {
        separator->size = (uint16_t)size;
        memcpy(separator->bytes, right.data, size);
    }
    return separator;
}

int bp_tree_init(struct bp_index *index) {
    index->root = node_new(index, 0);
    return index->root == NULL ? -1 : 0;
}

/* ---- descending ------------------------------------------------------------------------------ */

static inline struct bp_leaf *leaf_of(struct bp_node *node) {
    assert(node->level == 0);
    return (struct bp_leaf *)node;
}

static inline struct bp_inner *inner_of(struct bp_node *node) {
    assert(node->level > 0);
    return (struct bp_inner *)node;
}

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
        struct bp_inner *inner = inner_of(node);
        uint32_t child = inner_search(inner, key, false);
        assert(path->height < BP_TREE_HEIGHT_MAX);
        path->at[path->height].node = inner;
        path->at[path->height].child = child;
        path->height++;
        node = inner->children[child];
        prefetch_node(node);
    }
    path->leaf = leaf_of(node);
}

void bp_tree_descend_last(const struct bp_index *index, struct bp_path *path) {
    struct bp_node *node = index->root;
    path->height = 0;
    while (node->level > 0) {
        struct bp_inner *inner = inner_of(node);
        path->at[path->height].node = inner;
        path->at[path->height].child = inner->node.count;
        path->height++;
        node = inner->children[inner->node.count];
    }
    path->leaf = leaf_of(node);
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
        struct bp_inner *inner = inner_of(node);
        node = lock_child(inner, inner_search(inner, key, false));
    }
    return leaf_of(node);
}

struct bp_leaf *bp_tree_lock_forward(const struct bp_index *index, struct bp_slice key,
                                     struct bp_fence *high) {
    struct bp_node *node = lock_root(index);
    high->present = false;
    while (node->level > 0) {
        struct bp_inner *inner = inner_of(node);
        uint32_t child = inner_search(inner, key, false);
        if (child < inner->node.count) {
            fence_copy(high, inner->separators[child]);
        }
        node = lock_child(inner, child);
    }
    return leaf_of(node);
}

struct bp_leaf *bp_tree_lock_backward(const struct bp_index *index, const struct bp_slice *key,
                                      struct bp_fence *low) {
    struct bp_node *node = lock_root(index);
    low->present = false;
    while (node->level > 0) {
        struct bp_inner *inner = inner_of(node);
        uint32_t child = key == NULL ? inner->node.count : inner_search(inner, *key, true);
        if (child > 0) {
            fence_copy(low, inner->separators[child - 1]);
        }
        node = lock_child(inner, child);
    }
    return leaf_of(node);
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
            struct bp_inner *inner = inner_of(nodes[i]);
            nodes[i] = inner->children[inner_search(inner, keys[i], false)];
            prefetch_node(nodes[i]);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        struct bp_leaf *leaf = leaf_of(nodes[i]);
        uint32_t at = lower_bound(leaf->heads, leaf->node.count, head_of(keys[i], leaf->node.skip));
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

/* ---- inserting and splitting ----------------------------------------------------------------- */

void bp_tree_insert(struct bp_leaf *leaf, uint32_t at, struct bp_item *item) {
    uint32_t n = leaf->node.count;
    assert(n < BP_LEAF_FANOUT && at <= n);
    uint32_t head = head_of(bp_item_key(item), leaf->node.skip);
    bp_rw_lock_exclusive(&leaf->node.lock);
    memmove(&leaf->heads[at + 1], &leaf->heads[at], (n - at) * sizeof leaf->heads[0]);
    memmove(&leaf->items[at + 1], &leaf->items[at], (n - at) * sizeof leaf->items[0]);
    leaf->heads[at] = head;
    leaf->items[at] = item;
    leaf->node.count++;
    bp_rw_unlock_exclusive(&leaf->node.lock);
}

/*
 * Put `separator` and the child right of it at `at`. The caller holds the node's lock; there is
 * room.
 */
static void inner_insert(struct bp_inner *inner, uint32_t at, struct bp_separator *separator,
                         struct bp_node *right) {
    uint32_t n = inner->node.count;
    assert(n < BP_INNER_FANOUT && at <= n);
    memmove(&inner->heads[at + 1], &inner->heads[at], (n - at) * sizeof inner->heads[0]);
    memmove(&inner->separators[at + 1], &inner->separators[at],
            (n - at) * sizeof inner->separators[0]);
    memmove(&inner->children[at + 2], &inner->children[at + 1],
            (n - at) * sizeof inner->children[0]);
    inner->separators[at] = separator;
    inner->children[at + 1] = right;
    inner->node.count++;
    struct bp_slice key = bp_separator_key(separator);
    struct bp_slice other = bp_separator_key(inner->separators[at == 0 ? n : 0]);
    if (n == 0 || common_prefix(key, other) < inner->node.skip) {
        inner_fill_heads(inner);
    } else {
        inner->heads[at] = head_of(key, inner->node.skip);
    }
}

static void leaf_reskip(struct bp_leaf *leaf, uint16_t skip) {
    if (leaf->node.skip != skip) {
        leaf->node.skip = skip;
        leaf_fill_heads(leaf, 0, leaf->node.count);
    }
}

static uint16_t fence_skip(bool has_low, struct bp_slice low, bool has_high, struct bp_slice high) {
    return has_low && has_high ? common_prefix(low, high) : 0;
}

/*
 * Where to cut a full leaf that gets `key` at `at`: ascending and descending runs leave full leaves
 * behind, others two halves.
 */
static uint32_t leaf_cut(const struct bp_leaf *leaf, uint32_t at, bool last) {
    uint32_t n = leaf->node.count;
    if (at == n) {
        return last ? n : n - n / 10;
    }
    return at == 0 ? n / 10 : (n + 1) / 2;
}

/*
 * The leaf at the end of the path, for which its parent has room, becomes two. The new item itself
 * is not put in.
 */
static bool split_leaf(struct bp_index *index, struct bp_slice key, struct bp_path *path,
                       uint32_t at) {
    struct bp_leaf *left = path->leaf;
    struct bp_inner *parent = path->at[path->height - 1].node;
    uint32_t child = path->at[path->height - 1].child, n = left->node.count;
    struct bp_slice low = {0}, high = {0};
    bool has_low = bp_path_low(path, path->height, &low),
         has_high = bp_path_high(path, path->height, &high);
    uint32_t cut = leaf_cut(left, at, !has_high);

    struct bp_slice first = cut < n ? bp_item_key(left->items[cut]) : key;
    struct bp_separator *separator =
        separator_between(index, bp_item_key(left->items[cut - 1]), first);
    struct bp_leaf *right = (struct bp_leaf *)node_new(index, 0);
    if (separator == NULL || right == NULL) {
        bp_slab_free(&index->slab, separator,
                     separator == NULL ? 1 : separator_bytes(separator->size));
        bp_slab_free(&index->slab, right, sizeof *right);
        return false;
    }
    struct bp_slice fence = bp_separator_key(separator);
    right->node.skip = left->node.skip;
    right->node.count = (uint8_t)(n - cut);
    memcpy(right->heads, &left->heads[cut], (n - cut) * sizeof right->heads[0]);
    memcpy(right->items, &left->items[cut], (n - cut) * sizeof right->items[0]);
    leaf_reskip(right, fence_skip(true, fence, has_high, high));

    bp_rw_lock_exclusive(&parent->node.lock);
    bp_rw_lock_exclusive(&left->node.lock);
    left->node.count = (uint8_t)cut;
    leaf_reskip(left, fence_skip(has_low, low, true, fence));
    inner_insert(parent, child, separator, &right->node);
    bp_rw_unlock_exclusive(&left->node.lock);
    bp_rw_unlock_exclusive(&parent->node.lock);
    return true;
}

/* The full inner node at `level` of the path becomes two; the one above has room. */
static bool split_inner(struct bp_index *index, const struct bp_path *path, uint32_t level) {
    struct bp_inner *left = path->at[level].node, *parent = path->at[level - 1].node;
    uint32_t child = path->at[level - 1].child, n = left->node.count;
    struct bp_slice unused;
    bool last = path->at[level].child == n && !bp_path_high(path, level, &unused);
    uint32_t cut = last ? n - 1 : n / 2; /* this separator moves up */
    struct bp_inner *right = (struct bp_inner *)node_new(index, left->node.level);
    if (right == NULL) {
        return false;
    }
    right->node.count = (uint8_t)(n - cut - 1);
    memcpy(right->separators, &left->separators[cut + 1],
           (n - cut - 1) * sizeof right->separators[0]);
    memcpy(right->children, &left->children[cut + 1], (n - cut) * sizeof right->children[0]);
    inner_fill_heads(right);

    bp_rw_lock_exclusive(&parent->node.lock);
    bp_rw_lock_exclusive(&left->node.lock);
    left->node.count = (uint8_t)cut;
    inner_fill_heads(left);
    inner_insert(parent, child, left->separators[cut], &right->node);
    bp_rw_unlock_exclusive(&left->node.lock);
    bp_rw_unlock_exclusive(&parent->node.lock);
    return true;
}

static bool grow_root(struct bp_index *index) {
    uint32_t level = index->root->level + 1u;
    struct bp_inner *root =
        level > BP_TREE_HEIGHT_MAX ? NULL : (struct bp_inner *)node_new(index, level);
    if (root == NULL) {
        return false;
    }
    root->children[0] = index->root;
    bp_rw_lock_exclusive(&index->root_lock);
    index->root = &root->node;
    bp_rw_unlock_exclusive(&index->root_lock);
    return true;
}

bool bp_tree_make_room(struct bp_index *index, struct bp_slice key, struct bp_path *path,
                       uint32_t *at) {
    bool equal;
    /*
     * Full inner nodes right above the leaf are split first, the highest first, so that a split
     * touches two nodes only.
     */
    for (uint32_t round = 0; round < 2 * BP_TREE_HEIGHT_MAX; round++) {
        uint32_t full = path->height;
        while (full > 0 && path->at[full - 1].node->node.count == BP_INNER_FANOUT) {
            full--;
        }
        if (full == 0) {
            if (!grow_root(index)) {
                return false;
            }
        } else if (full < path->height) {
            if (!split_inner(index, path, full)) {
                return false;
            }
        } else {
            if (!split_leaf(index, key, path, *at)) {
                return false;
            }
            bp_tree_descend(index, key, path);
            *at = bp_leaf_search(path->leaf, key, &equal);
            assert(!equal && path->leaf->node.count < BP_LEAF_FANOUT);
            return true;
        }
        bp_tree_descend(index, key, path);
    }
    return false;
}

/* ---- removing and merging -------------------------------------------------------------------- */

/*
 * Take separator `at` and the child right of it out. The caller holds the node's lock. skip may
 * stay shorter than it could be.
 */
static void inner_remove(struct bp_inner *inner, uint32_t at) {
    uint32_t n = inner->node.count;
    memmove(&inner->heads[at], &inner->heads[at + 1], (n - at - 1) * sizeof inner->heads[0]);
    memmove(&inner->separators[at], &inner->separators[at + 1],
            (n - at - 1) * sizeof inner->separators[0]);
    memmove(&inner->children[at + 1], &inner->children[at + 2],
            (n - at - 1) * sizeof inner->children[0]);
    inner->node.count--;
}

static void join_leaves(struct bp_leaf *left, const struct bp_leaf *right, uint16_t skip) {
    uint32_t n = left->node.count, m = right->node.count;
    memcpy(&left->heads[n], right->heads, m * sizeof left->heads[0]);
    memcpy(&left->items[n], right->items, m * sizeof left->items[0]);
    left->node.count = (uint8_t)(n + m);
    uint16_t left_skip = left->node.skip, right_skip = right->node.skip;
    left->node.skip = skip;
    if (left_skip != skip) {
        leaf_fill_heads(left, 0, n);
    }
    if (right_skip != skip) {
        leaf_fill_heads(left, n, n + m);
    }
}

static void join_inners(struct bp_inner *left, struct bp_separator *between,
                        const struct bp_inner *right) {
    uint32_t n = left->node.count, m = right->node.count;
    left->separators[n] = between;
    memcpy(&left->separators[n + 1], right->separators, m * sizeof left->separators[0]);
    memcpy(&left->children[n + 1], right->children, (m + 1) * sizeof left->children[0]);
    left->node.count = (uint8_t)(n + m + 1);
    inner_fill_heads(left);
}

/* Join children `at` and `at + 1` of the path's inner node at `level`. */
static void join(struct bp_index *index, struct bp_path *path, uint32_t level, uint32_t at) {
    struct bp_inner *parent = path->at[level].node;
    struct bp_node *left = parent->children[at], *right = parent->children[at + 1];
    struct bp_separator *between = parent->separators[at];
    struct bp_slice low = {0}, high = {0};
    path->at[level].child = at;
    bool has_low = bp_path_low(path, level + 1, &low);
    path->at[level].child = at + 1;
    bool has_high = bp_path_high(path, level + 1, &high);

    bp_rw_lock_exclusive(&parent->node.lock);
    bp_rw_lock_exclusive(&left->lock);
    bp_rw_lock_exclusive(&right->lock);
    if (left->level == 0) {
        join_leaves(leaf_of(left), leaf_of(right), fence_skip(has_low, low, has_high, high));
    } else {
        join_inners(inner_of(left), between, inner_of(right));
    }
    inner_remove(parent, at);
    bp_rw_unlock_exclusive(&left->lock);
    bp_rw_unlock_exclusive(&parent->node.lock);
    if (left->level == 0) {
        separator_free(index, between);
    }
    node_free(index, right); /* nobody is in it or waits for it: its parent was locked too */
}

/*
 * Can these neighbours become one? An empty node may fill its neighbour to the brim, for it would
 * never get another chance.
 */
static bool may_join(const struct bp_node *left, const struct bp_node *right) {
    uint32_t inner = left->level > 0, n = left->count, m = right->count;
    uint32_t brim = inner ? BP_INNER_FANOUT : BP_LEAF_FANOUT;
    uint32_t most = inner ? INNER_JOINED_MAX : LEAF_JOINED_MAX;
    return n + m + inner <= (n == 0 || m == 0 ? brim : most);
}

static void shrink_root(struct bp_index *index) {
    while (index->root->level > 0 && index->root->count == 0) {
        struct bp_inner *root = inner_of(index->root);
        bp_rw_lock_exclusive(&index->root_lock);
        bp_rw_lock_exclusive(&root->node.lock);
        index->root = root->children[0];
        bp_rw_unlock_exclusive(&index->root_lock);
        node_free(index, &root->node);
    }
}

void bp_tree_remove(struct bp_index *index, struct bp_path *path, uint32_t at) {
    struct bp_leaf *leaf = path->leaf;
    uint32_t n = leaf->node.count;
    assert(at < n);
    bp_rw_lock_exclusive(&leaf->node.lock);
    memmove(&leaf->heads[at], &leaf->heads[at + 1], (n - at - 1) * sizeof leaf->heads[0]);
    memmove(&leaf->items[at], &leaf->items[at + 1], (n - at - 1) * sizeof leaf->items[0]);
    leaf->node.count--;
    bp_rw_unlock_exclusive(&leaf->node.lock);

    const struct bp_node *low = &leaf->node;
    for (uint32_t level = path->height; level-- > 0;) {
        if (low->count > (low->level == 0 ? LEAF_LOW : INNER_LOW)) {
            break;
        }
        struct bp_inner *parent = path->at[level].node;
        uint32_t child = path->at[level].child;
        if (child > 0 && may_join(parent->children[child - 1], parent->children[child])) {
            join(index, path, level, child - 1);
        } else if (child < parent->node.count &&
                   may_join(parent->children[child], parent->children[child + 1])) {
            join(index, path, level, child);
        }
        low = &parent->node;
    }
    shrink_root(index);
}

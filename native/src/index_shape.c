/*
 * The shape of the tree: inserting and splitting, removing and joining.
 *
 *   [ a b c d e f ]  <->  [ a b c ] d' [ d e f ]      d': the separator, in the parent
 *
 * The applier alone changes the structure; it locks what it changes, parents before children, left
 * before right. A reader waits for a node only while it holds the parent, so a node that is locked
 * together with its parent has no reader in it or waiting for it, and may be freed.
 *
 * Splits: half and half; at the end of the tree the left stays full (ascending keys fill leaves).
 * Joins: a node at most a quarter full goes together with a neighbour under the same parent when
 * both fit in three quarters. An inner node may be left with one child.
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

static void leaf_fill_heads(struct bp_leaf *leaf, uint32_t from, uint32_t to) {
    for (uint32_t i = from; i < to; i++) {
        __builtin_prefetch(leaf->items[i]->key);
    }
    for (uint32_t i = from; i < to; i++) {
        leaf->heads[i] = bp_head_of(bp_item_key(leaf->items[i]), leaf->node.skip);
    }
}

/* Set skip to what the separators share, recomputing heads. */
static void inner_fill_heads(struct bp_inner *inner) {
    uint32_t n = inner->node.count;
    inner->node.skip = 0;
    if (n > 0) {
        inner->node.skip = bp_common_prefix(bp_separator_key(inner->separators[0]),
                                            bp_separator_key(inner->separators[n - 1]));
    }
    for (uint32_t i = 0; i < n; i++) {
        inner->heads[i] = bp_head_of(bp_separator_key(inner->separators[i]), inner->node.skip);
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
    size_t size = (size_t)bp_common_prefix(left, right) + 1;
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

/* ---- inserting and splitting ----------------------------------------------------------------- */

void bp_tree_insert(struct bp_leaf *leaf, uint32_t at, struct bp_item *item) {
    uint32_t n = leaf->node.count;
    assert(n < BP_LEAF_FANOUT && at <= n);
    uint32_t head = bp_head_of(bp_item_key(item), leaf->node.skip);
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
    if (n == 0 || bp_common_prefix(key, other) < inner->node.skip) {
        inner_fill_heads(inner);
    } else {
        inner->heads[at] = bp_head_of(key, inner->node.skip);
    }
}

static void leaf_reskip(struct bp_leaf *leaf, uint16_t skip) {
    if (leaf->node.skip != skip) {
        leaf->node.skip = skip;
        leaf_fill_heads(leaf, 0, leaf->node.count);
    }
}

static uint16_t fence_skip(bool has_low, struct bp_slice low, bool has_high, struct bp_slice high) {
    return has_low && has_high ? bp_common_prefix(low, high) : 0;
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
        join_leaves(bp_leaf_of(left), bp_leaf_of(right), fence_skip(has_low, low, has_high, high));
    } else {
        join_inners(bp_inner_of(left), between, bp_inner_of(right));
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
        struct bp_inner *root = bp_inner_of(index->root);
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

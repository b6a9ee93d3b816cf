/*
 * Intervals (see interval.h):
 *
 *   chains  | 0 | 1 | ... | mask |        hash(key) & mask -> single -> single -> NULL
 *                 v
 *   treap                     [d, p)  last: [f, z)
 *                            /      \
 *            [a, c) last: itself   [f, z) last: itself
 *
 * Invariants: ordered by (start, serial), heap by priority, serials differ; `last` of a node is the
 * interval with the greatest end in its subtree. Priorities are a hash of the serial, so the tree's
 * depth is O(log n) whatever ranges clients choose, and the recursions below are as shallow.
 */
#include "interval.h"

#include <assert.h>
#include <stdlib.h>

/* ---- hashing -------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= UINT64_C(0xd6e8feb86659fd93);
    x ^= x >> 32;
    x *= UINT64_C(0xd6e8feb86659fd93);
    return x ^ (x >> 32);
}

static uint64_t hash_key(const struct bp_intervals *set, struct bp_slice key) {
    uint64_t hash = set->seed ^ mix(key.size);
    size_t at = 0;
    for (; key.size - at >= 8; at += 8) {
        hash = mix(hash ^ bp_get_u64(key.data + at));
    }
    uint64_t rest = 0;
    for (; at < key.size; at++) {
        rest = rest << 8 | key.data[at];
    }
    return mix(hash ^ rest);
}

static bool is_single(const struct bp_interval *interval) {
    return interval->end.size == interval->start.size + 1 &&
           interval->end.data[interval->start.size] == 0 &&
           bp_slice_has_prefix(interval->end, interval->start);
}

/* ---- chains --------------------------------------------------------------------------------- */

static struct bp_interval **chain_of(const struct bp_intervals *set, uint64_t hash) {
    return &set->chains[hash & set->mask];
}

/* Twice the chains; when there is no memory they only grow longer. */
static void grow_chains(struct bp_intervals *set) {
    uint64_t n = (set->mask + 1) * 2;
    struct bp_interval **chains = calloc(n, sizeof(struct bp_interval *));
    if (chains == NULL) {
        return;
    }
    for (uint64_t i = 0; i <= set->mask; i++) {
        struct bp_interval *next;
        for (struct bp_interval *at = set->chains[i]; at != NULL; at = next) {
            next = at->right;
            at->right = chains[at->hash & (n - 1)];
            chains[at->hash & (n - 1)] = at;
        }
    }
    if (set->chains != set->first_chains) {
        free(set->chains);
    }
    set->chains = chains;
    set->mask = n - 1;
}

static void remove_single(struct bp_intervals *set, struct bp_interval *interval) {
    struct bp_interval **link = chain_of(set, interval->hash);
    while (*link != interval) {
        assert(*link != NULL);
        link = &(*link)->right;
    }
    *link = interval->right;
    set->singles--;
}

/* ---- the treap ------------------------------------------------------------------------------ */

static int order(const struct bp_interval *a, const struct bp_interval *b) {
    int by_start = bp_slice_compare(a->start, b->start);
    return by_start != 0 ? by_start : a->serial < b->serial ? -1 : a->serial > b->serial;
}

static struct bp_interval *ends_last(struct bp_interval *a, struct bp_interval *b) {
    return b != NULL && bp_slice_compare(b->end, a->end) > 0 ? b : a;
}

static void update(struct bp_interval *node) {
    node->last = node;
    node->last = ends_last(node->last, node->left == NULL ? NULL : node->left->last);
    node->last = ends_last(node->last, node->right == NULL ? NULL : node->right->last);
}

/* Everything before `at` to *less, everything behind it to *more. */
static void split(struct bp_interval *root, const struct bp_interval *at, struct bp_interval **less,
                  struct bp_interval **more) {
    if (root == NULL) {
        *less = *more = NULL;
    } else if (order(root, at) < 0) {
        split(root->right, at, &root->right, more);
        *less = root;
        update(root);
    } else {
        split(root->left, at, less, &root->left);
        *more = root;
        update(root);
    }
}

/* All of `less` lies before all of `more`. */
static struct bp_interval *merge(struct bp_interval *less, struct bp_interval *more) {
    if (less == NULL || more == NULL) {
        return less != NULL ? less : more;
    }
    if (less->priority > more->priority) {
        less->right = merge(less->right, more);
        update(less);
        return less;
    }
    more->left = merge(less, more->left);
    update(more);
    return more;
}

static struct bp_interval *insert(struct bp_interval *root, struct bp_interval *node) {
    if (root == NULL || node->priority > root->priority) {
        split(root, node, &node->left, &node->right);
        update(node);
        return node;
    }
    if (order(node, root) < 0) {
        root->left = insert(root->left, node);
    } else {
        root->right = insert(root->right, node);
    }
    update(root);
    return root;
}

static struct bp_interval *cut_out(struct bp_interval *root, const struct bp_interval *node) {
    assert(root != NULL);
    if (root == node) {
        return merge(root->left, root->right);
    }
    if (order(node, root) < 0) {
        root->left = cut_out(root->left, node);
    } else {
        root->right = cut_out(root->right, node);
    }
    update(root);
    return root;
}

static void visit_tree(struct bp_interval *root, struct bp_slice key,
                       void (*visit)(void *arg, struct bp_interval *interval), void *arg) {
    /* Goes right by looping; left only where something may end behind the key. */
    while (root != NULL && bp_slice_compare(root->last->end, key) > 0) {
        visit_tree(root->left, key, visit, arg);
        if (bp_slice_compare(root->start, key) > 0) {
            return;
        }
        if (bp_slice_compare(root->end, key) > 0) {
            visit(arg, root);
        }
        root = root->right;
    }
}

/* ---- the set -------------------------------------------------------------------------------- */

void bp_intervals_init(struct bp_intervals *set, uint64_t seed) {
    *set = (struct bp_intervals){.seed = seed, .mask = BP_INTERVALS_FIRST - 1};
    set->chains = set->first_chains;
}

void bp_intervals_destroy(struct bp_intervals *set) {
    if (set->chains != set->first_chains) {
        free(set->chains);
    }
    set->chains = NULL;
    set->root = NULL;
}

void bp_intervals_add(struct bp_intervals *set, struct bp_interval *interval) {
    assert(bp_slice_compare(interval->start, interval->end) < 0);
    interval->serial = set->next_serial++;
    interval->single = is_single(interval);
    interval->left = interval->right = interval->last = NULL;
    if (!interval->single) {
        interval->priority = mix(interval->serial ^ set->seed);
        set->root = insert(set->root, interval);
        return;
    }
    if (set->singles > set->mask) {
        grow_chains(set);
    }
    interval->hash = hash_key(set, interval->start);
    struct bp_interval **chain = chain_of(set, interval->hash);
    interval->right = *chain;
    *chain = interval;
    set->singles++;
}

void bp_intervals_remove(struct bp_intervals *set, struct bp_interval *interval) {
    if (interval->single) {
        remove_single(set, interval);
    } else {
        set->root = cut_out(set->root, interval);
    }
}

void bp_intervals_visit(const struct bp_intervals *set, struct bp_slice key,
                        void (*visit)(void *arg, struct bp_interval *interval), void *arg) {
    if (set->singles > 0) {
        uint64_t hash = hash_key(set, key);
        for (struct bp_interval *at = *chain_of(set, hash); at != NULL; at = at->right) {
            if (at->hash == hash && bp_slice_equal(at->start, key)) {
                visit(arg, at);
            }
        }
    }
    visit_tree(set->root, key, visit, arg);
}

/* ---- check ---------------------------------------------------------------------------------- */

static const char *check_tree(const struct bp_interval *node, const struct bp_interval **before) {
    if (node == NULL) {
        return NULL;
    }
    const struct bp_interval *left = node->left, *right = node->right;
    const char *wrong = check_tree(left, before);
    if (wrong != NULL) {
        return wrong;
    }
    if (*before != NULL && order(*before, node) >= 0) {
        return "ranges are out of order";
    }
    *before = node;
    if ((left != NULL && left->priority > node->priority) ||
        (right != NULL && right->priority > node->priority)) {
        return "a child's priority is above its parent's";
    }
    struct bp_interval copy = *node;
    update(&copy);
    const struct bp_interval *last = copy.last == &copy ? node : copy.last;
    if (!bp_slice_equal(last->end, node->last->end)) {
        return "`last` is not the interval that ends last";
    }
    return check_tree(right, before);
}

const char *bp_intervals_check(const struct bp_intervals *set) {
    uint64_t singles = 0;
    for (uint64_t i = 0; i <= set->mask; i++) {
        for (const struct bp_interval *at = set->chains[i]; at != NULL; at = at->right) {
            if ((at->hash & set->mask) != i || !at->single) {
                return "an interval is in the wrong chain";
            }
            singles++;
        }
    }
    const struct bp_interval *before = NULL;
    return singles != set->singles ? "the count of single keys is wrong"
                                   : check_tree(set->root, &before);
}

/*
 * Scans: leaf by leaf, one lock at a time.
 *
 *   descend to `from` -> leaf locked shared, its far fence copied -> visit -> unlock
 *        ^------------------------- from = fence ------------------------------'
 *
 * A fence cuts the space of keys, not the tree: whatever splits or joins between two leaves,
 * everything on this side of the copied fence has been visited and nothing beyond it. Leaves need
 * no links to their neighbours.
 */
#include <assert.h>
#include <string.h>

#include "index_internal.h"

enum { AHEAD = 6, VERSIONS_PER_LOCK = 256 };

struct scan {
    const struct bp_index *index;
    uint64_t revision;
    bp_index_visit visit;
    void *arg;
};

static int visit_item(const struct scan *scan, const struct bp_item *item) {
    struct bp_version version;
    if (!bp_item_at(scan->index, item, scan->revision, &version) || version.version == 0) {
        return 0;
    }
    return scan->visit(scan->arg, bp_item_key(item), &version);
}

static void prefetch_item(const struct bp_leaf *leaf, uint32_t at) {
    if (at < leaf->node.count) {
        __builtin_prefetch(leaf->items[at]);
        __builtin_prefetch((const char *)leaf->items[at] + 64);
    }
}

static int visit_up(const struct scan *scan, const struct bp_leaf *leaf, uint32_t from,
                    uint32_t to) {
    for (uint32_t i = from; i < to; i++) {
        prefetch_item(leaf, i + AHEAD);
        int result = visit_item(scan, leaf->items[i]);
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

static int visit_down(const struct scan *scan, const struct bp_leaf *leaf, uint32_t from,
                      uint32_t to) {
    for (uint32_t i = to; i-- > from;) {
        prefetch_item(leaf, i - AHEAD); /* wraps to beyond the count near the start */
        int result = visit_item(scan, leaf->items[i]);
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

static uint32_t position(const struct bp_leaf *leaf, struct bp_slice key) {
    bool equal;
    return key.size == 0 ? 0 : bp_leaf_search(leaf, key, &equal);
}

static int scan_up(const struct scan *scan, struct bp_slice start, struct bp_slice end) {
    struct bp_fence fences[2];
    struct bp_slice from = start;
    for (uint32_t turn = 0;; turn ^= 1u) { /* the fence behind `from` and the next one take turns */
        struct bp_fence *high = &fences[turn];
        const struct bp_leaf *leaf = bp_tree_lock_forward(scan->index, from, high);
        struct bp_slice beyond = bp_slice(high->bytes, high->present ? high->size : 0);
        bool last = !high->present || (end.size > 0 && bp_slice_compare(end, beyond) <= 0);
        uint32_t stop = last && end.size > 0 ? position(leaf, end) : leaf->node.count;
        int result = visit_up(scan, leaf, position(leaf, from), stop);
        bp_tree_unlock(leaf);
        if (result != 0 || last) {
            return result;
        }
        from = beyond;
    }
}

static int scan_down(const struct scan *scan, struct bp_slice start, struct bp_slice end) {
    struct bp_fence fences[2];
    struct bp_slice to = end;
    for (uint32_t turn = 0;; turn ^= 1u) {
        struct bp_fence *low = &fences[turn];
        const struct bp_leaf *leaf =
            bp_tree_lock_backward(scan->index, to.size == 0 ? NULL : &to, low);
        struct bp_slice below = bp_slice(low->bytes, low->present ? low->size : 0);
        bool last = !low->present || bp_slice_compare(start, below) >= 0;
        uint32_t first = last ? position(leaf, start) : 0;
        uint32_t stop = to.size == 0 ? leaf->node.count : position(leaf, to);
        int result = visit_down(scan, leaf, first, stop);
        bp_tree_unlock(leaf);
        if (result != 0 || last) {
            return result;
        }
        to = below;
    }
}

int bp_index_scan(const struct bp_index *index, struct bp_slice start, struct bp_slice end,
                  uint64_t revision, bool reverse, bp_index_visit visit, void *arg) {
    const struct scan scan = {.index = index, .revision = revision, .visit = visit, .arg = arg};
    if (end.size > 0 && bp_slice_compare(start, end) >= 0) {
        return 0;
    }
    return reverse ? scan_down(&scan, start, end) : scan_up(&scan, start, end);
}

/* ---- all versions ---------------------------------------------------------------------------- */

struct version_scan {
    const struct bp_index *index;
    uint64_t floor;
    uint64_t through; /* of every key */
    uint64_t below; /* of the key where the last lock period stopped: its versions above are done */
    uint32_t left;  /* versions that may still be visited under this lock */
    bp_index_visit visit;
    void *arg;
};

/*
 * Steps to the next version of the item at or below `through`, newest first: the item's own, then
 * the list.
 */
static bool next_version(const struct version_scan *scan, const struct bp_item *item,
                         uint64_t through, bool first, const struct bp_older **older,
                         struct bp_version *version) {
    if (first && item->revision <= through) {
        bp_item_version(scan->index, item, version);
        *older = item->older;
        return true;
    }
    if (first) {
        *older = bp_older_find(item->older, through);
    }
    if (*older == NULL) {
        return false;
    }
    bp_older_version(*older, version);
    *older = (*older)->older;
    return true;
}

/*
 * 1: all of this key done, 0: the lock has been held long enough (below says where to go on),
 * negative: *result stops the scan.
 */
static int visit_versions(struct version_scan *scan, const struct bp_item *item, uint64_t through,
                          int *result) {
    struct bp_version version;
    const struct bp_older *older = NULL;
    for (bool first = true; next_version(scan, item, through, first, &older, &version);
         first = false) {
        if (version.revision <= scan->floor && version.version == 0) {
            return 1;
        }
        if (scan->left == 0) {
            scan->below = version.revision;
            return 0;
        }
        scan->left--;
        *result = scan->visit(scan->arg, bp_item_key(item), &version);
        if (*result != 0) {
            return -1;
        }
        if (version.revision <= scan->floor) {
            return 1;
        }
    }
    return 1;
}

/* Visit the leaf's items from `from` on. True: stopped within it, at the key copied to *resume. */
static bool visit_leaf_versions(struct version_scan *scan, const struct bp_leaf *leaf,
                                struct bp_slice from, bool resumed, struct bp_fence *resume,
                                int *result) {
    bool equal = false;
    uint32_t at = from.size == 0 ? 0 : bp_leaf_search(leaf, from, &equal);
    scan->left = VERSIONS_PER_LOCK;
    for (uint32_t i = at; i < leaf->node.count; i++) {
        prefetch_item(leaf, i + AHEAD);
        const struct bp_item *item = leaf->items[i];
        uint64_t through = resumed && equal && i == at ? scan->below : scan->through;
        int done = visit_versions(scan, item, through, result);
        if (done <= 0) {
            resume->present = true;
            resume->size = item->key_size;
            memcpy(resume->bytes, item->key, item->key_size);
            return true;
        }
    }
    return false;
}

int bp_index_scan_versions(const struct bp_index *index, struct bp_slice start, uint64_t floor,
                           uint64_t through, bp_index_visit visit, void *arg) {
    struct version_scan scan = {
        .index = index, .floor = floor, .through = through, .visit = visit, .arg = arg};
    struct bp_fence fences[2];
    struct bp_slice from = start;
    bool resumed = false;
    for (uint32_t turn = 0;; turn ^= 1u) {
        struct bp_fence *next = &fences[turn];
        int result = 0;
        const struct bp_leaf *leaf = bp_tree_lock_forward(index, from, next);
        resumed = visit_leaf_versions(&scan, leaf, from, resumed, next, &result);
        bp_tree_unlock(leaf);
        if (result != 0 || !next->present) {
            return result;
        }
        from = bp_slice(next->bytes, next->size);
    }
}

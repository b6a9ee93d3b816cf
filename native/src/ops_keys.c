/*
 * The duplicate-key rule (see ops.h): a branch writes a key at most once; deletes may overlap each
 * other (not with `once`).
 *
 *   writes of a branch, sorted by first key, deletes before puts, then by position:
 *
 *      delete a..f  |=================)
 *      delete c          |                        fine: deletes may overlap
 *      put    d             X                     refused: before `reach`, the furthest end so far
 *      put    g                    |
 *      put    g                    X              refused: same key as the write before it
 *
 * Usual requests name their keys in ascending order and without ranges: one pass sees that and
 * sorts nothing. Otherwise a merge sort, O(n log n) whatever the keys, compares eight bytes behind
 * the common prefix first.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "ops.h"

struct write {
    struct bp_slice key, end; /* end empty: this key alone */
    uint64_t head;            /* eight bytes behind the common prefix, big-endian */
    uint32_t index;           /* among the ops of its branch */
    bool is_put;
};

static uint64_t head_of(struct bp_slice key, size_t skip) {
    uint64_t head = 0;
    for (size_t i = 0; i < 8; i++) {
        head = head << 8 | (skip + i < key.size ? key.data[skip + i] : 0u);
    }
    return head;
}

static size_t common_prefix(struct bp_slice a, struct bp_slice b, size_t at_most) {
    size_t n = a.size < b.size ? a.size : b.size, i = 0;
    n = n < at_most ? n : at_most;
    while (i < n && a.data[i] == b.data[i]) {
        i++;
    }
    return i;
}

static bool sorts_before(const struct write *a, const struct write *b) {
    if (a->head != b->head) {
        return a->head < b->head;
    }
    int order = bp_slice_compare(a->key, b->key);
    if (order != 0) {
        return order < 0;
    }
    return a->is_put != b->is_put ? !a->is_put : a->index < b->index;
}

/*
 * Bottom-up: `from` in runs of `width` is merged into `to`, in ceil(log2 n) rounds. Returns the
 * sorted one.
 */
static struct write *merge_sort(struct write *from, struct write *to, uint32_t n) {
    for (uint32_t width = 1; width < n; width *= 2) {
        for (uint32_t low = 0; low < n; low += 2 * width) {
            uint32_t middle = low + width < n ? low + width : n;
            uint32_t high = low + 2 * width < n ? low + 2 * width : n, a = low, b = middle;
            for (uint32_t i = low; i < high; i++) {
                bool right = b < high && (a >= middle || sorts_before(&from[b], &from[a]));
                to[i] = from[right ? b++ : a++];
            }
        }
        struct write *sorted = to;
        to = from;
        from = sorted;
    }
    return from;
}

/*
 * The rule over sorted writes. The later op of a colliding pair is reported, as the reader of an
 * error expects.
 */
static bool sweep(const struct write *writes, uint32_t n, bool once,
                  struct bp_key_conflict *conflict) {
    const struct write *reach = NULL; /* the range delete so far that ends furthest */
    for (uint32_t i = 0; i < n; i++) {
        const struct write *w = &writes[i], *other = NULL;
        if ((w->is_put || once) && i > 0 && bp_slice_equal(w->key, w[-1].key)) {
            other = &w[-1];
        } else if (w->is_put && reach != NULL && bp_slice_compare(w->key, reach->end) < 0) {
            other = reach;
        }
        if (other != NULL) {
            conflict->index = w->index > other->index ? w->index : other->index;
            conflict->other = w->index > other->index ? other->index : w->index;
            return true;
        }
        if (w->end.size > 0 && (reach == NULL || bp_slice_compare(w->end, reach->end) > 0)) {
            reach = w;
        }
    }
    return false;
}

/*
 * The branch's writes in the order given. *ascending: by key, no key twice, no range: nothing can
 * collide.
 */
static uint32_t collect(const struct bp_request *request, uint32_t at, uint32_t n_ops,
                        struct write *writes, bool *ascending, size_t *prefix) {
    uint32_t n = 0;
    *ascending = true;
    *prefix = SIZE_MAX;
    for (uint32_t i = 0; i < n_ops; i++) {
        struct bp_op op;
        bp_request_op(request, &at, &op);
        if (op.op != BP_OP_PUT && op.op != BP_OP_DELETE && op.op != BP_OP_DELETE_RANGE) {
            continue;
        }
        writes[n] =
            (struct write){.key = op.key, .end = op.end, .index = i, .is_put = op.op == BP_OP_PUT};
        *prefix = common_prefix(writes[0].key, op.key, *prefix);
        *ascending = *ascending && op.end.size == 0 &&
                     (n == 0 || bp_slice_compare(writes[n - 1].key, op.key) < 0);
        n++;
    }
    return n;
}

static bool branch_conflict(const struct bp_request *request, int branch, bool once,
                            struct write *writes, struct bp_key_conflict *conflict) {
    uint32_t at = branch == 0 ? request->then_at : request->else_at;
    uint32_t n_ops = branch == 0 ? request->n_then : request->n_else;
    bool ascending;
    size_t prefix;
    uint32_t n = collect(request, at, n_ops, writes, &ascending, &prefix);
    if (n < 2 || ascending) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        writes[i].head = head_of(writes[i].key, prefix);
    }
    conflict->branch = branch;
    return sweep(merge_sort(writes, writes + n_ops, n), n, once, conflict);
}

int bp_request_find_conflict(const struct bp_request *request, bool once, bool *found,
                             struct bp_key_conflict *conflict, struct bp_error *err) {
    uint32_t most = request->n_then > request->n_else ? request->n_then : request->n_else;
    *found = false;
    if (request->kind != BP_REQUEST_KV || most < 2) {
        return BP_OK;
    }
    struct write *writes = malloc(2u * most * sizeof *writes);
    if (writes == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory to check %u ops", most);
    }
    *found = branch_conflict(request, 0, once, writes, conflict) ||
             branch_conflict(request, 1, once, writes, conflict);
    free(writes);
    return BP_OK;
}

int bp_request_check_keys(const struct bp_request *request, struct bp_error *err) {
    struct bp_key_conflict conflict = {0};
    bool found;
    int code = bp_request_find_conflict(request, false, &found, &conflict, err);
    if (code != BP_OK || !found) {
        return code;
    }
    const char *list = conflict.branch == 0 ? "then_ops" : "else_ops";
    code =
        bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_DUPLICATE_KEY,
                "%s[%u] and %s[%u] write the same key", list, conflict.other, list, conflict.index);
    if (err != NULL) {
        snprintf(err->field, sizeof err->field, "%s[%u]", list, conflict.index);
    }
    return code;
}

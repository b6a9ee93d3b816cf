/*
 * Replies of writes, made after the fact from the request, its outcome and history (see wire.h).
 *
 *   state before (revision - 1) --op 0--op 1--op 2-- ... --> state after (revision)
 *
 * Op i reads the state after for keys that ops 0 .. i-1 wrote (the cover), the state before for all
 * others. That is exact because a branch writes a key at most once: what an earlier op wrote, no
 * later op changes, except to delete the deleted again.
 *
 * Invariant: a reply never shows half of what it should. Where it needs history and that no longer
 * reaches the state before, there is no reply but REVISION_COMPACTED.
 */
#include "wire_cover.h"
#include "wire_read.h"

/* Bytes that a reply takes beside keys and values. */
enum {
    DELETE_RESERVED = 2 * 11 + 2, /* revision, deleted, previous_truncated */
    TXN_RESERVED = 11 + 2,        /* revision, succeeded */
    RESULT_RESERVED = 2 * 5 + 14, /* two lengths; a count and a flag */
    GET_RESERVED = 6 + 5 + 4 * 11 /* tag and length of a KeyValue and its key; its numbers */
};

/* What the results of one reply are made with. */
struct reply {
    const struct bp_request *request;
    const struct bp_outcome *outcome;
    const struct bp_view *view;
    const struct bp_wire_limits *limits;
    struct bp_buffer *out;
    struct bp_error *err;
    uint64_t before; /* the revision whose state the request found */
    uint64_t left;   /* bytes of keys and values that still fit */
    struct bp_wire_cover cover;
};

/* The only op of a Put or Delete. */
static struct bp_op single_op(const struct bp_request *request) {
    struct bp_op op;
    uint32_t at = request->then_at;
    bp_request_op(request, &at, &op);
    return op;
}

/* ---- Put and Delete ------------------------------------------------------------------------- */

static int put_reply(struct reply *r) {
    struct bp_op op = single_op(r->request);
    bp_pb_uint(r->out, 1, r->outcome->revision);
    return (op.flags & BP_OPF_RETURN_PREVIOUS) == 0
               ? BP_OK
               : bp_wire_key(r->view, op.key, r->before, false, 2, r->out, NULL, NULL, r->err);
}

static int deleted_versions(struct reply *r, const struct bp_op *op, bool *truncated) {
    if (op->op == BP_OP_DELETE) {
        return bp_wire_key(r->view, op->key, r->before, false, 3, r->out, NULL, NULL, r->err);
    }
    struct bp_wire_page page = {.view = r->view,
                                .out = r->out,
                                .field = 3,
                                .keys_left = r->limits->scan_page_max,
                                .bytes_left = bp_wire_budget(r->limits, DELETE_RESERVED),
                                .at_least_one = true};
    int code = bp_wire_page_range(&page, op->key, op->end, r->before, r->err);
    *truncated = page.more;
    bp_wire_page_free(&page);
    return code;
}

static int delete_reply(struct reply *r) {
    struct bp_op op = single_op(r->request);
    bool truncated = false;
    int code = BP_OK;
    bp_pb_uint(r->out, 1, r->outcome->revision);
    bp_pb_uint(r->out, 2, r->outcome->deleted);
    if ((op.flags & BP_OPF_RETURN_PREVIOUS) != 0) {
        code = deleted_versions(r, &op, &truncated);
    }
    bp_pb_uint(r->out, 4, truncated);
    return code;
}

/* ---- Txn ------------------------------------------------------------------------------------ */

/* Keys that this delete found: those there before the request and not deleted by an earlier op. */
static uint64_t count_deleted(const struct reply *r, const struct bp_op *op) {
    if (op->op == BP_OP_DELETE) {
        struct bp_version version;
        return !bp_wire_cover_holds(&r->cover, op->key) &&
               bp_index_get(r->view->index, op->key, r->before, &version);
    }
    struct bp_wire_pieces pieces = bp_wire_cover_pieces(&r->cover, op->key, op->end);
    uint64_t deleted = 0;
    for (uint32_t i = 0; i < pieces.n; i += 2) { /* the gaps */
        struct bp_wire_piece piece;
        bp_wire_cover_piece(&pieces, i, &piece);
        deleted += bp_wire_count(r->view, piece.start, piece.end, r->before);
    }
    return deleted;
}

static void delete_result(struct reply *r, const struct bp_op *op, bool only_delete) {
    size_t result = bp_pb_open(r->out, 2);
    bp_pb_uint(r->out, 1, only_delete ? r->outcome->deleted : count_deleted(r, op));
    bp_pb_close(r->out, result);
}

static int get_result(struct reply *r, const struct bp_op *op) {
    bool omitted = false;
    uint64_t revision = bp_wire_cover_holds(&r->cover, op->key) ? r->outcome->revision : r->before;
    size_t result = bp_pb_open(r->out, 3);
    int code = bp_wire_key(r->view, op->key, revision, (op->flags & BP_OPF_KEYS_ONLY) != 0, 1,
                           r->out, &r->left, &omitted, r->err);
    bp_pb_uint(r->out, 2, omitted);
    bp_pb_close(r->out, result);
    return code;
}

/* Piece by piece in the order asked for: covered ones after the request, the others before it. */
static int scan_pieces(struct reply *r, const struct bp_op *op, struct bp_wire_page *page,
                       uint64_t *count) {
    struct bp_wire_pieces pieces = bp_wire_cover_pieces(&r->cover, op->key, op->end);
    int code = BP_OK;
    for (uint32_t i = 0; i < pieces.n && code == BP_OK && !page->more; i++) {
        struct bp_wire_piece piece;
        bp_wire_cover_piece(&pieces, page->reverse ? pieces.n - 1 - i : i, &piece);
        uint64_t revision = piece.covered ? r->outcome->revision : r->before;
        if ((op->flags & BP_OPF_COUNT_ONLY) != 0) {
            *count += bp_wire_count(r->view, piece.start, piece.end, revision);
        } else {
            code = bp_wire_page_range(page, piece.start, piece.end, revision, r->err);
        }
    }
    return code;
}

static int scan_result(struct reply *r, const struct bp_op *op) {
    struct bp_wire_page page = {.view = r->view,
                                .out = r->out,
                                .field = 1,
                                .keys_only = (op->flags & BP_OPF_KEYS_ONLY) != 0,
                                .reverse = (op->flags & BP_OPF_REVERSE) != 0,
                                .keys_left = op->limit != 0 ? op->limit : UINT64_MAX,
                                .bytes_left = r->left};
    uint64_t counted = 0;
    size_t result = bp_pb_open(r->out, 4);
    int code = scan_pieces(r, op, &page, &counted);
    bp_pb_uint(r->out, 2, page.count + counted);
    bp_pb_uint(r->out, 3, page.more);
    bp_pb_close(r->out, result);
    r->left = page.bytes_left;
    bp_wire_page_free(&page);
    return code;
}

/* Later ops see what this one wrote. */
static bool cover_write(struct reply *r, const struct bp_op *op) {
    bool writes = op->op == BP_OP_PUT || op->op == BP_OP_DELETE || op->op == BP_OP_DELETE_RANGE;
    return !writes || bp_wire_cover_add(&r->cover, op->key, op->end);
}

static int op_result(struct reply *r, const struct bp_op *op, bool only_delete) {
    int code = BP_OK;
    size_t result = bp_pb_open(r->out, 3);
    switch (op->op) {
    case BP_OP_PUT:
        bp_pb_head(r->out, 1, 0);
        break;
    case BP_OP_GET:
        code = get_result(r, op);
        break;
    case BP_OP_SCAN:
        code = scan_result(r, op);
        break;
    default:
        delete_result(r, op, only_delete);
        break;
    }
    bp_pb_close(r->out, result);
    return code;
}

/* What a branch's results are made of, known before the first is written. */
struct tally {
    uint32_t deletes, reads;
    /* Bytes of the results without keys and values of scans and values of gets. */
    uint64_t reserved;
};

static struct tally tally_branch(const struct bp_request *request, uint32_t at, uint32_t n) {
    struct tally tally = {0};
    for (uint32_t i = 0; i < n; i++) {
        struct bp_op op;
        bp_request_op(request, &at, &op);
        tally.deletes += op.op == BP_OP_DELETE || op.op == BP_OP_DELETE_RANGE;
        tally.reads += op.op == BP_OP_GET || op.op == BP_OP_SCAN;
        tally.reserved += RESULT_RESERVED + (op.op == BP_OP_GET ? op.key.size + GET_RESERVED : 0);
    }
    return tally;
}

/* Counting one delete needs no history: the outcome says it. Several have to be told apart. */
static bool tally_reads_history(const struct tally *tally) {
    return tally->reads > 0 || tally->deletes > 1;
}

static int branch_results(struct reply *r) {
    const struct bp_request *request = r->request;
    bool then = r->outcome->succeeded;
    uint32_t at = then ? request->then_at : request->else_at;
    uint32_t n = then ? request->n_then : request->n_else;
    struct tally tally = tally_branch(request, at, n);
    bool history = tally_reads_history(&tally);
    int code = history ? bp_wire_check_retained(r->view, r->before, r->err) : BP_OK;
    r->left = bp_wire_budget(r->limits, TXN_RESERVED + tally.reserved);
    for (uint32_t i = 0; i < n && code == BP_OK; i++) {
        struct bp_op op;
        bp_request_op(request, &at, &op);
        code = op_result(r, &op, tally.deletes == 1);
        if (code == BP_OK && history && !cover_write(r, &op)) {
            code = bp_fail(r->err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                           "no memory for the reply");
        }
    }
    bp_wire_cover_free(&r->cover);
    return code;
}

static int txn_reply(struct reply *r) {
    bp_pb_uint(r->out, 1, r->outcome->revision);
    bp_pb_uint(r->out, 2, r->outcome->succeeded);
    return branch_results(r);
}

/* ---- Batch and leases ----------------------------------------------------------------------- */

static void batch_reply(struct reply *r) {
    const struct bp_request *request = r->request;
    uint64_t puts = 0;
    uint32_t at = request->then_at;
    for (uint32_t i = 0; i < request->n_then; i++) {
        struct bp_op op;
        bp_request_op(request, &at, &op);
        puts += op.op == BP_OP_PUT;
    }
    bp_pb_uint(r->out, 1, r->outcome->revision);
    bp_pb_uint(r->out, 2, puts);
    bp_pb_uint(r->out, 3, r->outcome->deleted);
}

static void lease_reply(struct reply *r, int method) {
    bp_pb_uint(r->out, 1, r->outcome->revision);
    if (method == BP_METHOD_GRANT_LEASE) {
        bp_pb_uint(r->out, 2, r->outcome->lease);
        bp_pb_uint(r->out, 3, r->outcome->ttl_ms / 1000);
    } else {
        bp_pb_uint(r->out, 2, r->outcome->deleted);
    }
}

bool bp_wire_reads_history(int method, const struct bp_request *request) {
    if (method == BP_METHOD_PUT || method == BP_METHOD_DELETE) {
        return (single_op(request).flags & BP_OPF_RETURN_PREVIOUS) != 0;
    }
    if (method != BP_METHOD_TXN) {
        return false;
    }
    struct tally then_ops = tally_branch(request, request->then_at, request->n_then);
    struct tally else_ops = tally_branch(request, request->else_at, request->n_else);
    return tally_reads_history(&then_ops) || tally_reads_history(&else_ops);
}

static int make_reply(struct reply *r, int method) {
    switch (method) {
    case BP_METHOD_PUT:
        return put_reply(r);
    case BP_METHOD_DELETE:
        return delete_reply(r);
    case BP_METHOD_TXN:
        return txn_reply(r);
    case BP_METHOD_BATCH:
        batch_reply(r);
        return BP_OK;
    case BP_METHOD_GRANT_LEASE:
    case BP_METHOD_REVOKE_LEASE:
        lease_reply(r, method);
        return BP_OK;
    default:
        return bp_fail(r->err, BP_INTERNAL, BP_REASON_NONE, "method %d writes nothing", method);
    }
}

int bp_wire_write_reply(int method, const struct bp_request *request,
                        const struct bp_outcome *outcome, const struct bp_view *view,
                        const struct bp_wire_limits *limits, struct bp_buffer *reply,
                        struct bp_error *err) {
    struct bp_error own;
    size_t before = reply->size;
    struct reply r = {.request = request,
                      .outcome = outcome,
                      .view = view,
                      .limits = limits,
                      .out = reply,
                      .err = err != NULL ? err : &own,
                      .before = outcome->revision - 1};
    int code = BP_OK;
    if (method != BP_METHOD_TXN && bp_wire_reads_history(method, request)) {
        code = bp_wire_check_retained(view, r.before, r.err);
    }
    if (code == BP_OK) {
        code = make_reply(&r, method);
    }
    if (code == BP_OK) {
        code = bp_wire_finish_reply(reply, r.err);
    }
    if (code != BP_OK) {
        reply->size = before;
    }
    return code;
}

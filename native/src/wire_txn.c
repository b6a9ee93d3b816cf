/*
 * Txn and Batch: their requests into the op encoding, which wants the id first and the ops by kind.
 *
 *   on the wire   else_ops  compares  then_ops  then_ops  request_id ...    any order
 *   1st pass      counts and the request id: stepping over fields, not into them
 *   2nd pass      compares            straight into the builder
 *   3rd, 4th      then-ops, else-ops  the same; passes for what is absent are left out
 *
 * Invariant: what is built names no key twice (ops_keys.c), so the order of its effects cannot
 * matter where the contract says so.
 */
#include "wire_fields.h"

static const struct bp_wire_path no_path = {0};

/* What the parts of one request are built with. */
struct txn_build {
    const struct bp_wire_limits *limits;
    struct bp_wire_call *call;
    struct bp_error *err;
};

/* ---- compares ------------------------------------------------------------------------------- */

static int add_compare(const struct txn_build *b, struct bp_slice message,
                       struct bp_wire_path *path) {
    struct bp_compare c = {.operator = BP_EQUAL}; /* target 0: none yet */
    uint32_t relation = 0;
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, 1, BP_PB_LEN)) {
            c.key = f.bytes;
        } else if (bp_pb_is(&f, 2, BP_PB_VARINT)) {
            relation = (uint32_t)f.value;
        } else if (bp_pb_is(&f, 3, BP_PB_LEN)) {
            c.target = BP_TARGET_VALUE;
            c.value = f.bytes;
        } else if (f.number >= 4 && f.number <= 7 && f.type == BP_PB_VARINT) {
            c.target = (uint8_t)(f.number - 4 + BP_TARGET_MOD);
            c.operand = f.value;
        }
    }
    if (r.malformed) {
        return bp_wire_malformed(b->err, path);
    }
    int code = bp_wire_check_key(c.key, "key", b->limits, path, b->err);
    if (code != BP_OK) {
        return code;
    }
    if (relation > BP_LESS) {
        return bp_wire_fail(b->err, path, "operator", BP_REASON_FIELD_INVALID,
                            "%u is no CompareOperator", relation);
    }
    if (c.target == 0) {
        return bp_wire_fail(b->err, path, NULL, BP_REASON_FIELD_INVALID,
                            "the compare names nothing to compare with");
    }
    if (c.target == BP_TARGET_VALUE) {
        code = bp_wire_check_value(c.value, b->limits, path, b->err);
    }
    if (code == BP_OK) {
        c.operator = relation == 0 ? BP_EQUAL : (uint8_t)relation;
        bp_builder_compare(&b->call->request, b->call->keyspace, &c);
    }
    return code;
}

/* ---- ops ------------------------------------------------------------------------------------ */

/*
 * A TxnOp: the member of its oneof that came last, with what earlier occurrences of the same member
 * said.
 */
struct txn_op {
    uint32_t member; /* field number, 0 none */
    struct bp_wire_put put;
    struct bp_wire_delete del;
    struct bp_wire_get get;
    struct bp_wire_scan scan;
};

enum { TXN_PUT = 1, TXN_DELETE = 2, TXN_GET = 3, TXN_SCAN = 4 };
static const char *const txn_member_names[] = {NULL, "put", "delete", "get", "scan"};

static int parse_member(const struct bp_pb_field *f, struct txn_op *op, struct bp_wire_path *path,
                        struct bp_error *err) {
    bool fresh = op->member != f->number; /* another member replaces, the same one merges */
    op->member = f->number;
    path->member = txn_member_names[f->number];
    switch (f->number) {
    case TXN_PUT:
        op->put = fresh ? (struct bp_wire_put){0} : op->put;
        return bp_wire_parse_put(f->bytes, false, path, &op->put, err);
    case TXN_DELETE:
        op->del = fresh ? (struct bp_wire_delete){0} : op->del;
        return bp_wire_parse_delete(f->bytes, false, path, &op->del, err);
    case TXN_GET:
        op->get = fresh ? (struct bp_wire_get){0} : op->get;
        return bp_wire_parse_get(f->bytes, false, path, &op->get, err);
    default:
        op->scan = fresh ? (struct bp_wire_scan){0} : op->scan;
        return bp_wire_parse_scan(f->bytes, false, path, &op->scan, err);
    }
}

static int add_txn_op(const struct txn_build *b, int branch, struct bp_slice message,
                      struct bp_wire_path *path) {
    struct txn_op parsed;
    parsed.member = 0;
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (f.number >= TXN_PUT && f.number <= TXN_SCAN && f.type == BP_PB_LEN) {
            int code = parse_member(&f, &parsed, path, b->err);
            if (code != BP_OK) {
                return code;
            }
        }
    }
    path->member = txn_member_names[parsed.member];
    if (r.malformed) {
        return bp_wire_malformed(b->err, path);
    }
    struct bp_op op;
    struct bp_wire_bounds bounds;
    int code;
    switch (parsed.member) {
    case TXN_PUT:
        code = bp_wire_put_op(&parsed.put, b->limits, path, &op, b->err);
        break;
    case TXN_DELETE:
        code = bp_wire_delete_op(&parsed.del, b->limits, path, &op, b->err);
        break;
    case TXN_GET:
        code = bp_wire_get_op(&parsed.get, b->limits, path, &op, b->err);
        break;
    case TXN_SCAN:
        code = bp_wire_scan_op(&parsed.scan, b->limits, path, &bounds, &op, b->err);
        break;
    default:
        code = bp_wire_fail(b->err, path, NULL, BP_REASON_FIELD_INVALID, "the op says nothing");
        break;
    }
    if (code == BP_OK) {
        bp_builder_op(&b->call->request, branch, b->call->keyspace, &op);
    }
    return code;
}

static int add_batch_op(const struct txn_build *b, struct bp_slice message,
                        struct bp_wire_path *path) {
    enum { PUT = 1, DELETE_KEY = 2 };
    uint32_t member = 0;
    struct bp_wire_put put = {0};
    struct bp_slice del_key = bp_slice(NULL, 0);
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, PUT, BP_PB_LEN)) {
            put = member == PUT ? put : (struct bp_wire_put){0};
            member = PUT;
            path->member = "put";
            int code = bp_wire_parse_put(f.bytes, false, path, &put, b->err);
            if (code != BP_OK) {
                return code;
            }
        } else if (bp_pb_is(&f, DELETE_KEY, BP_PB_LEN)) {
            member = DELETE_KEY;
            del_key = f.bytes;
        }
    }
    path->member = member == PUT ? "put" : NULL;
    if (r.malformed) {
        return bp_wire_malformed(b->err, path);
    }
    if (member == 0) {
        return bp_wire_fail(b->err, path, NULL, BP_REASON_FIELD_INVALID, "the op says nothing");
    }
    struct bp_op op = {.op = BP_OP_DELETE, .key = del_key};
    int code = member == PUT ? bp_wire_put_op(&put, b->limits, path, &op, b->err)
                             : bp_wire_check_key(del_key, "delete_key", b->limits, path, b->err);
    if (code == BP_OK) {
        bp_builder_op(&b->call->request, 0, b->call->keyspace, &op);
    }
    return code;
}

/* ---- requests ------------------------------------------------------------------------------- */

enum { LISTS_MAX = 3 };

/* The lists of a message and its request id, found by stepping over it once. */
struct outline {
    uint32_t lists; /* fields 1 .. lists are the lists, the next one is request_id */
    uint32_t counts[LISTS_MAX];
    struct bp_slice request_id;
};

static int read_outline(struct bp_slice message, struct outline *outline, struct bp_error *err) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (f.type != BP_PB_LEN || f.number > outline->lists + 1) {
            continue;
        }
        if (f.number <= outline->lists) {
            outline->counts[f.number - 1]++;
        } else {
            int code = bp_wire_parse_request_id(&f, &outline->request_id, err);
            if (code != BP_OK) {
                return code;
            }
        }
    }
    return r.malformed ? bp_wire_malformed(err, &no_path)
                       : bp_wire_check_request_id(outline->request_id, err);
}

static int check_count(uint32_t count, uint32_t most, const char *list, struct bp_error *err) {
    if (count > most) {
        return bp_wire_fail(err, &no_path, list, BP_REASON_TOO_MANY_OPS,
                            "%s has %u elements, the most is %u", list, count, most);
    }
    return BP_OK;
}

typedef int (*add_element)(const struct txn_build *b, struct bp_slice message,
                           struct bp_wire_path *path);

static int add_then(const struct txn_build *b, struct bp_slice message, struct bp_wire_path *path) {
    return add_txn_op(b, 0, message, path);
}

static int add_else(const struct txn_build *b, struct bp_slice message, struct bp_wire_path *path) {
    return add_txn_op(b, 1, message, path);
}

/*
 * Add every element of one list, in order. The outline found the message well formed at this level.
 */
static int add_list(const struct txn_build *b, struct bp_slice message, uint32_t number,
                    const char *list, uint32_t count, add_element add) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    for (uint32_t i = 0; i < count && bp_pb_next(&r, &f);) {
        if (!bp_pb_is(&f, number, BP_PB_LEN)) {
            continue;
        }
        struct bp_wire_path path = {.list = list, .index = i++};
        int code = add(b, f.bytes, &path);
        if (code != BP_OK) {
            return code;
        }
    }
    return BP_OK;
}

static void begin(struct bp_wire_call *call, struct bp_slice message, uint64_t n_ops,
                  struct bp_slice id) {
    call->is_write = true;
    /*
     * Per op our header and padding take at most 40 bytes more than protobuf's: usually one
     * allocation.
     */
    bp_builder_reserve(&call->request, message.size + 40u * n_ops + 128u);
    bp_builder_begin(&call->request, BP_REQUEST_KV, id, 0);
}

/* Close the request and refuse a key that is written twice. */
static int finish(struct bp_wire_call *call, struct bp_slice id, bool once,
                  const char *const lists[2], struct bp_error *err) {
    if (id.size > 0) {
        bp_builder_fingerprint(&call->request, call->method);
    }
    struct bp_request request;
    struct bp_key_conflict conflict = {0};
    bool found = false;
    int code = bp_builder_finish(&call->request, err);
    if (code == BP_OK) {
        code = bp_request_decode(call->request.buf, call->request.size, &request, err);
    }
    if (code == BP_OK) {
        code = bp_request_find_conflict(&request, once, &found, &conflict, err);
    }
    if (code != BP_OK || !found) {
        return code;
    }
    struct bp_wire_path path = {.list = lists[conflict.branch], .index = conflict.index};
    return bp_wire_fail(err, &path, NULL, BP_REASON_DUPLICATE_KEY,
                        "%s[%u] names a key that %s[%u] writes too", path.list, conflict.index,
                        path.list, conflict.other);
}

int bp_wire_decode_txn(struct bp_slice message, const struct bp_wire_limits *limits,
                       struct bp_wire_call *call, struct bp_error *err) {
    static const struct {
        const char *name;
        add_element add;
    } lists[LISTS_MAX] = {
        {"compares", add_compare}, {"then_ops", add_then}, {"else_ops", add_else}};
    static const char *const branches[2] = {"then_ops", "else_ops"};
    struct outline outline = {.lists = LISTS_MAX};
    int code = read_outline(message, &outline, err);
    uint64_t n_ops = 0;
    for (uint32_t i = 0; i < LISTS_MAX && code == BP_OK; i++) {
        code = check_count(outline.counts[i], limits->txn_ops_max, lists[i].name, err);
        n_ops += outline.counts[i];
    }
    if (code != BP_OK) {
        return code;
    }
    begin(call, message, n_ops, outline.request_id);
    const struct txn_build build = {.limits = limits, .call = call, .err = err};
    for (uint32_t i = 0; i < LISTS_MAX && code == BP_OK; i++) {
        code = add_list(&build, message, i + 1, lists[i].name, outline.counts[i], lists[i].add);
    }
    return code == BP_OK ? finish(call, outline.request_id, false, branches, err) : code;
}

int bp_wire_decode_batch(struct bp_slice message, const struct bp_wire_limits *limits,
                         struct bp_wire_call *call, struct bp_error *err) {
    static const char *const branches[2] = {"ops", "ops"};
    struct outline outline = {.lists = 1};
    int code = read_outline(message, &outline, err);
    if (code == BP_OK) {
        code = check_count(outline.counts[0], limits->batch_ops_max, "ops", err);
    }
    if (code == BP_OK && outline.counts[0] == 0) {
        code = bp_wire_fail(err, &no_path, "ops", BP_REASON_FIELD_INVALID, "ops is empty");
    }
    if (code != BP_OK) {
        return code;
    }
    begin(call, message, outline.counts[0], outline.request_id);
    const struct txn_build build = {.limits = limits, .call = call, .err = err};
    code = add_list(&build, message, 1, "ops", outline.counts[0], add_batch_op);
    return code == BP_OK ? finish(call, outline.request_id, true, branches, err) : code;
}

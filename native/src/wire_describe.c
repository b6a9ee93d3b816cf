/*
 * The tests' window: a decoded request encoded again, as protobuf of the message it came from, in
 * one normal form (see wire.h).
 *
 *   client bytes --bp_wire_decode--> request or read --describe--> protobuf, the same message?
 *
 * It encodes from what the engine understood, not from the client's fields, so a field that
 * decoding lost or confused shows.
 */
#include "wire_fields.h"

static struct bp_slice client_key(struct bp_slice stored) {
    return bp_slice(stored.data + 1, stored.size - 1);
}

/*
 * The end of the keyspace is the next keyspace byte: clients write it as nothing (scans) or as one
 * byte 0 (deletes).
 */
static bool is_open_end(uint8_t keyspace, struct bp_slice end) {
    return end.size == 1 && end.data[0] == keyspace + 1;
}

static void describe_range(struct bp_buffer *out, uint8_t keyspace, struct bp_slice start,
                           struct bp_slice end) {
    bp_pb_bytes(out, 1, client_key(start));
    if (!is_open_end(keyspace, end)) {
        bp_pb_bytes(out, 2, client_key(end));
    }
}

static void describe_put(struct bp_buffer *out, const struct bp_op *op) {
    bp_pb_bytes(out, 1, client_key(op->key));
    bp_pb_bytes(out, 2, op->value);
    bp_pb_uint(out, 3, op->lease);
    bp_pb_uint(out, 4, (op->flags & BP_OPF_KEEP_LEASE) != 0);
}

static void describe_delete(struct bp_buffer *out, const struct bp_op *op) {
    uint8_t keyspace = op->key.data[0];
    bp_pb_bytes(out, 1, client_key(op->key));
    if (op->op == BP_OP_DELETE_RANGE) {
        bp_pb_bytes(out, 2, is_open_end(keyspace, op->end) ? bp_slice("", 1) : client_key(op->end));
    }
}

static void describe_txn_op(struct bp_buffer *out, uint32_t list, const struct bp_op *op) {
    static const uint32_t members[] = {[BP_OP_PUT] = 1,
                                       [BP_OP_DELETE] = 2,
                                       [BP_OP_DELETE_RANGE] = 2,
                                       [BP_OP_GET] = 3,
                                       [BP_OP_SCAN] = 4};
    size_t element = bp_pb_open(out, list), member = bp_pb_open(out, members[op->op]);
    switch (op->op) {
    case BP_OP_PUT:
        describe_put(out, op);
        break;
    case BP_OP_GET:
        bp_pb_bytes(out, 1, client_key(op->key));
        break;
    case BP_OP_SCAN:
        describe_range(out, op->key.data[0], op->key, op->end);
        bp_pb_uint(out, 4, op->limit);
        bp_pb_uint(out, 5, (op->flags & BP_OPF_REVERSE) != 0);
        bp_pb_uint(out, 6, (op->flags & BP_OPF_KEYS_ONLY) != 0);
        bp_pb_uint(out, 7, (op->flags & BP_OPF_COUNT_ONLY) != 0);
        break;
    default:
        describe_delete(out, op);
        break;
    }
    bp_pb_close(out, member);
    bp_pb_close(out, element);
}

static void describe_compare(struct bp_buffer *out, const struct bp_compare *compare) {
    size_t element = bp_pb_open(out, 1);
    bp_pb_bytes(out, 1, client_key(compare->key));
    bp_pb_uint(out, 2, compare->operator);
    if (compare->target == BP_TARGET_VALUE) {
        bp_pb_bytes_always(out, 3, compare->value);
    } else {
        bp_pb_uint_always(out, 4u + compare->target - BP_TARGET_MOD, compare->operand);
    }
    bp_pb_close(out, element);
}

static void describe_txn(struct bp_buffer *out, const struct bp_request *request) {
    uint32_t at = request->compares_at;
    struct bp_op op;
    for (uint32_t i = 0; i < request->n_compares; i++) {
        struct bp_compare compare;
        bp_request_compare(request, &at, &compare);
        describe_compare(out, &compare);
    }
    for (uint32_t i = 0; i < (uint32_t)request->n_then + request->n_else; i++) {
        bp_request_op(request, &at, &op);
        describe_txn_op(out, i < request->n_then ? 2 : 3, &op);
    }
    bp_pb_bytes(out, 4, request->id);
}

static void describe_batch(struct bp_buffer *out, const struct bp_request *request) {
    uint32_t at = request->then_at;
    for (uint32_t i = 0; i < request->n_then; i++) {
        struct bp_op op;
        bp_request_op(request, &at, &op);
        size_t element = bp_pb_open(out, 1);
        if (op.op == BP_OP_PUT) {
            size_t put = bp_pb_open(out, 1);
            describe_put(out, &op);
            bp_pb_close(out, put);
        } else {
            bp_pb_bytes_always(out, 2, client_key(op.key));
        }
        bp_pb_close(out, element);
    }
    bp_pb_bytes(out, 2, request->id);
}

static void describe_single(struct bp_buffer *out, int method, const struct bp_request *request) {
    uint32_t at = request->then_at;
    struct bp_op op;
    bp_request_op(request, &at, &op);
    bool previous = (op.flags & BP_OPF_RETURN_PREVIOUS) != 0;
    if (method == BP_METHOD_PUT) {
        describe_put(out, &op);
        bp_pb_uint(out, 5, previous);
        bp_pb_bytes(out, 6, request->id);
    } else {
        describe_delete(out, &op);
        bp_pb_uint(out, 3, previous);
        bp_pb_bytes(out, 4, request->id);
    }
}

static int describe_write(struct bp_buffer *out, const struct bp_wire_call *call,
                          struct bp_error *err) {
    struct bp_request request;
    int code = bp_request_decode(call->request.buf, call->request.size, &request, err);
    if (code != BP_OK) {
        return code;
    }
    switch (call->method) {
    case BP_METHOD_TXN:
        describe_txn(out, &request);
        break;
    case BP_METHOD_BATCH:
        describe_batch(out, &request);
        break;
    case BP_METHOD_GRANT_LEASE:
        bp_pb_uint(out, 1, request.ttl_ms / 1000);
        bp_pb_uint(out, 2, request.lease);
        break;
    case BP_METHOD_REVOKE_LEASE:
        bp_pb_uint(out, 1, bp_get_u64(request.leases.data));
        break;
    default:
        describe_single(out, call->method, &request);
        break;
    }
    return BP_OK;
}

static void describe_read(struct bp_buffer *out, const struct bp_wire_call *call) {
    const struct bp_wire_read *read = &call->read;
    uint64_t consistency = read->serializable ? 2 : 1;
    switch (call->method) {
    case BP_METHOD_GET:
        bp_pb_bytes(out, 1, client_key(read->start));
        bp_pb_uint(out, 2, read->revision);
        bp_pb_uint(out, 3, consistency);
        break;
    case BP_METHOD_SCAN:
        describe_range(out, call->keyspace, read->start, read->end);
        bp_pb_uint(out, 4, read->limit);
        bp_pb_uint(out, 5, read->reverse);
        bp_pb_uint(out, 6, read->keys_only);
        bp_pb_uint(out, 7, read->count_only);
        bp_pb_uint(out, 8, read->revision);
        bp_pb_uint(out, 9, consistency);
        break;
    case BP_METHOD_GET_LEASE:
        bp_pb_uint(out, 1, read->lease);
        bp_pb_uint(out, 2, read->want_keys);
        bp_pb_uint(out, 3, read->limit);
        break;
    default: /* KEEP_ALIVE */
        bp_pb_uint(out, 1, read->lease);
        break;
    }
}

static int describe_call(struct bp_buffer *out, const struct bp_wire_call *call,
                         struct bp_error *err) {
    if (call->is_write) {
        return describe_write(out, call, err);
    }
    describe_read(out, call);
    return BP_OK;
}

static int describe_watch(uint8_t keyspace, const uint8_t *buf, uint64_t n,
                          const struct bp_wire_limits *limits, struct bp_buffer *out,
                          struct bp_error *err) {
    struct bp_wire_watch watch;
    int code = bp_wire_decode_watch(keyspace, buf, n, limits, &watch, err);
    if (code == BP_OK) {
        describe_range(out, keyspace, watch.start, watch.end);
        bp_pb_uint(out, 4, watch.start_revision);
        bp_pb_uint(out, 5, watch.progress_ms);
        bp_pb_uint(out, 6, watch.with_values);
        bp_pb_uint(out, 7, watch.with_previous);
        bp_pb_uint(out, 8, watch.no_puts);
        bp_pb_uint(out, 9, watch.no_deletes);
        bp_wire_watch_free(&watch);
    }
    return code;
}

/* The frame fails with its first bad op. */
static int describe_frame(uint8_t keyspace, const uint8_t *buf, uint64_t n,
                          const struct bp_wire_limits *limits, struct bp_buffer *out,
                          struct bp_error *err) {
    static const uint32_t members[] = {[BP_METHOD_PUT] = 2,
                                       [BP_METHOD_DELETE] = 3,
                                       [BP_METHOD_GET] = 4,
                                       [BP_METHOD_TXN] = 5,
                                       [BP_METHOD_BATCH] = 6};
    struct bp_wire_frame_op *ops;
    uint32_t n_ops;
    int code = bp_wire_decode_frame(keyspace, buf, n, limits, &ops, &n_ops, err);
    for (uint32_t i = 0; i < n_ops && code == BP_OK; i++) {
        if (ops[i].code != BP_OK) {
            if (err != NULL) {
                *err = ops[i].error;
            }
            code = ops[i].code;
            break;
        }
        size_t op = bp_pb_open(out, 1);
        bp_pb_uint(out, 1, ops[i].id);
        size_t request = bp_pb_open(out, members[ops[i].call.method]);
        code = describe_call(out, &ops[i].call, err);
        bp_pb_close(out, request);
        bp_pb_close(out, op);
    }
    bp_wire_frame_free(ops, n_ops);
    return code;
}

int bp_wire_describe(int method, uint8_t keyspace, const uint8_t *buf, uint64_t n,
                     const struct bp_wire_limits *limits, struct bp_buffer *text,
                     struct bp_error *err) {
    int code;
    if (method == BP_METHOD_WATCH) {
        code = describe_watch(keyspace, buf, n, limits, text, err);
    } else if (method == BP_METHOD_PIPELINE) {
        code = describe_frame(keyspace, buf, n, limits, text, err);
    } else {
        struct bp_wire_call call;
        code = bp_wire_decode(method, keyspace, buf, n, limits, &call, err);
        if (code == BP_OK) {
            code = describe_call(text, &call, err);
            bp_wire_call_free(&call);
        }
    }
    return code == BP_OK && text->failed ? bp_wire_no_memory(err) : code;
}

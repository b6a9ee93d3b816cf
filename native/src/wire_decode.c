/*
 * Requests of the unary methods: protobuf bytes in, an encoded request or a read out (see wire.h).
 *
 *   Put, Delete, Txn, Batch, GrantLease, RevokeLease  -->  call.request   [op encoding, ops.h]
 *   Get, Scan, GetLease, KeepAlive                    -->  call.read      [stored keys it owns]
 *
 * A value goes from the client's bytes into the request once: one copy and one checksum, no tree in
 * between.
 */
#include <assert.h>
#include <stdlib.h>

#include "wire_fields.h"
#include "wire_token.h"

static const struct bp_wire_path no_path = {0};

/* A write of one op: Put and Delete. */
static int build_single(struct bp_wire_call *call, struct bp_slice id, const struct bp_op *op,
                        struct bp_error *err) {
    struct bp_builder *builder = &call->request;
    call->is_write = true;
    bp_builder_reserve(builder, BP_REQUEST_HEADER + BP_OP_HEADER + id.size + op->key.size +
                                    op->end.size + op->value.size +
                                    bp_crc_table_size((uint32_t)op->value.size) + 32u);
    bp_builder_begin(builder, BP_REQUEST_KV, id, 0);
    bp_builder_op(builder, 0, call->keyspace, op);
    if (id.size > 0) {
        bp_builder_fingerprint(builder, call->method);
    }
    return bp_builder_finish(builder, err);
}

static int decode_put(struct bp_slice message, const struct bp_wire_limits *limits,
                      struct bp_wire_call *call, struct bp_error *err) {
    struct bp_wire_put put = {0};
    struct bp_op op;
    int code = bp_wire_parse_put(message, true, &no_path, &put, err);
    if (code == BP_OK) {
        code = bp_wire_check_request_id(put.request_id, err);
    }
    if (code == BP_OK) {
        code = bp_wire_put_op(&put, limits, &no_path, &op, err);
    }
    return code == BP_OK ? build_single(call, put.request_id, &op, err) : code;
}

static int decode_delete(struct bp_slice message, const struct bp_wire_limits *limits,
                         struct bp_wire_call *call, struct bp_error *err) {
    struct bp_wire_delete del = {0};
    struct bp_op op;
    int code = bp_wire_parse_delete(message, true, &no_path, &del, err);
    if (code == BP_OK) {
        code = bp_wire_check_request_id(del.request_id, err);
    }
    if (code == BP_OK) {
        code = bp_wire_delete_op(&del, limits, &no_path, &op, err);
    }
    return code == BP_OK ? build_single(call, del.request_id, &op, err) : code;
}

static int decode_get(struct bp_slice message, const struct bp_wire_limits *limits,
                      struct bp_wire_call *call, struct bp_error *err) {
    struct bp_wire_get get = {0};
    struct bp_wire_read *read = &call->read;
    int code = bp_wire_parse_get(message, true, &no_path, &get, err);
    if (code == BP_OK) {
        code = bp_wire_check_key(get.key, "key", limits, &no_path, err);
    }
    if (code == BP_OK) {
        code = bp_wire_check_consistency(get.consistency, &read->serializable, err);
    }
    if (code != BP_OK) {
        return code;
    }
    read->revision = get.revision;
    return bp_wire_store_range(call->keyspace, get.key, bp_slice(NULL, 0), &read->keys,
                               &read->start, &read->end, err);
}

static int bad_token(struct bp_error *err, const char *what) {
    return bp_wire_fail(err, &no_path, "page_token", BP_REASON_PAGE_TOKEN_INVALID, "%s", what);
}

/*
 * Move the range to where the token says. It must be ours, for this range, direction and revision.
 */
static int apply_token(struct bp_slice bytes, struct bp_wire_read *read, struct bp_error *err) {
    struct bp_token token;
    if (!bp_token_parse(bytes, &token)) {
        return bad_token(err, "page_token is not one that this server made");
    }
    if (token.binding != read->binding || bp_slice_compare(token.key, read->start) < 0 ||
        bp_slice_compare(token.key, read->end) >= 0) {
        return bad_token(err, "page_token belongs to another range or direction");
    }
    if (token.revision == 0 || (read->revision != 0 && read->revision != token.revision)) {
        return bad_token(err, "page_token belongs to another revision");
    }
    size_t fixed = read->reverse ? read->start.size : read->end.size;
    uint8_t *keys = malloc(fixed + token.key.size + 1);
    if (keys == NULL) {
        return bp_wire_no_memory(err);
    }
    struct bp_slice moved = bp_slice(keys, token.key.size);
    memcpy(keys, token.key.data, token.key.size);
    keys[token.key.size] =
        0; /* descending, the token's key is the last one wanted: end behind it */
    uint8_t *other = keys + token.key.size + 1;
    memcpy(other, read->reverse ? read->start.data : read->end.data, fixed);
    if (read->reverse) {
        moved.size++;
        read->start = bp_slice(other, fixed);
        read->end = moved;
    } else {
        read->start = moved;
        read->end = bp_slice(other, fixed);
    }
    free(read->keys);
    read->keys = keys;
    read->revision = token.revision;
    return BP_OK;
}

static int decode_scan(struct bp_slice message, const struct bp_wire_limits *limits,
                       struct bp_wire_call *call, struct bp_error *err) {
    struct bp_wire_scan scan = {0};
    struct bp_wire_bounds bounds;
    struct bp_wire_read *read = &call->read;
    int code = bp_wire_parse_scan(message, true, &no_path, &scan, err);
    if (code == BP_OK) {
        code = bp_wire_check_range(&scan.range, limits, &no_path, &bounds, err);
    }
    if (code == BP_OK) {
        code = bp_wire_check_limit(scan.limit, "limit", limits, &no_path, &read->limit, err);
    }
    if (code == BP_OK) {
        code = bp_wire_check_consistency(scan.consistency, &read->serializable, err);
    }
    if (code == BP_OK) {
        code = bp_wire_store_range(call->keyspace, bounds.start, bounds.end, &read->keys,
                                   &read->start, &read->end, err);
    }
    if (code != BP_OK) {
        return code;
    }
    read->revision = scan.revision;
    read->reverse = scan.reverse;
    read->keys_only = scan.keys_only;
    read->count_only = scan.count_only;
    read->binding = bp_token_binding(read->start, read->end, read->reverse);
    if (scan.page_token.size == 0) {
        return BP_OK;
    }
    return scan.count_only ? bad_token(err, "page_token must be empty with count_only")
                           : apply_token(scan.page_token, read, err);
}

static int decode_method(int method, struct bp_slice message, const struct bp_wire_limits *limits,
                         struct bp_wire_call *call, struct bp_error *err) {
    switch (method) {
    case BP_METHOD_GET:
        return decode_get(message, limits, call, err);
    case BP_METHOD_PUT:
        return decode_put(message, limits, call, err);
    case BP_METHOD_DELETE:
        return decode_delete(message, limits, call, err);
    case BP_METHOD_SCAN:
        return decode_scan(message, limits, call, err);
    case BP_METHOD_TXN:
        return bp_wire_decode_txn(message, limits, call, err);
    case BP_METHOD_BATCH:
        return bp_wire_decode_batch(message, limits, call, err);
    case BP_METHOD_GRANT_LEASE:
    case BP_METHOD_REVOKE_LEASE:
    case BP_METHOD_GET_LEASE:
    case BP_METHOD_KEEP_ALIVE:
        return bp_wire_decode_lease(method, message, limits, call, err);
    default:
        return bp_fail(err, BP_INTERNAL, BP_REASON_NONE, "method %d is not a unary one", method);
    }
}

int bp_wire_decode(int method, uint8_t keyspace, const uint8_t *buf, uint64_t n,
                   const struct bp_wire_limits *limits, struct bp_wire_call *call,
                   struct bp_error *err) {
    assert(limits->key_max <= BP_KEY_MAX && limits->value_max <= BP_VALUE_MAX);
    *call = (struct bp_wire_call){.method = method, .keyspace = keyspace};
    call->read.method = method;
    bp_builder_init(&call->request);
    if (n > limits->request_max) {
        return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_REQUEST_TOO_LARGE,
                       "the request has %llu bytes, the most is %u", (unsigned long long)n,
                       limits->request_max);
    }
    int code = decode_method(method, bp_slice(buf, (size_t)n), limits, call, err);
    if (code != BP_OK) {
        bp_wire_call_free(call);
    }
    return code;
}

void bp_wire_call_free(struct bp_wire_call *call) {
    bp_builder_free(&call->request);
    free(call->read.keys);
    call->read = (struct bp_wire_read){0};
}

/*
 * The messages that requests share (see wire_fields.h).
 *
 *   TxnRequest.then_ops[3] = { put = { key, value, lease_id, keep_lease } }
 *                  path: list "then_ops", index 3, member "put"   field: "then_ops[3].put.key"
 *
 * Invariant: nothing is judged before its whole message is read, because a later field replaces an
 * earlier one.
 */
#include "wire_fields.h"

#include <stdio.h>
#include <stdlib.h>

static const struct bp_wire_path no_path = {0};

int bp_wire_fail(struct bp_error *err, const struct bp_wire_path *path, const char *field,
                 int reason, const char *fmt, ...) {
    if (err == NULL) {
        return BP_INVALID_ARGUMENT;
    }
    char text[sizeof err->message], name[sizeof err->field] = "";
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (path->list != NULL) {
        snprintf(name, sizeof name, "%s[%u]%s%s%s%s", path->list, path->index,
                 path->member != NULL ? "." : "", path->member != NULL ? path->member : "",
                 field != NULL ? "." : "", field != NULL ? field : "");
    } else {
        snprintf(name, sizeof name, "%s", field != NULL ? field : "");
    }
    return bp_fail_field(err, BP_INVALID_ARGUMENT, reason, name, "%s", text);
}

int bp_wire_malformed(struct bp_error *err, const struct bp_wire_path *path) {
    return bp_wire_fail(err, path, NULL, BP_REASON_MALFORMED_REQUEST,
                        "the request is not a protobuf message of this method");
}

int bp_wire_no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory for the call");
}

/* ---- parsing -------------------------------------------------------------------------------- */

int bp_wire_parse_request_id(const struct bp_pb_field *field, struct bp_slice *id,
                             struct bp_error *err) {
    if (!bp_utf8_valid(field->bytes)) {
        return bp_wire_fail(err, &no_path, "request_id", BP_REASON_MALFORMED_REQUEST,
                            "request_id is not valid UTF-8");
    }
    *id = field->bytes;
    return BP_OK;
}

int bp_wire_parse_put(struct bp_slice message, bool whole, const struct bp_wire_path *path,
                      struct bp_wire_put *put, struct bp_error *err) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, 1, BP_PB_LEN)) {
            put->key = f.bytes;
        } else if (bp_pb_is(&f, 2, BP_PB_LEN)) {
            put->value = f.bytes;
        } else if (bp_pb_is(&f, 3, BP_PB_VARINT)) {
            put->lease = f.value;
        } else if (bp_pb_is(&f, 4, BP_PB_VARINT)) {
            put->keep_lease = f.value != 0;
        } else if (whole && bp_pb_is(&f, 5, BP_PB_VARINT)) {
            put->return_previous = f.value != 0;
        } else if (whole && bp_pb_is(&f, 6, BP_PB_LEN)) {
            int code = bp_wire_parse_request_id(&f, &put->request_id, err);
            if (code != BP_OK) {
                return code;
            }
        }
    }
    return r.malformed ? bp_wire_malformed(err, path) : BP_OK;
}

int bp_wire_parse_delete(struct bp_slice message, bool whole, const struct bp_wire_path *path,
                         struct bp_wire_delete *del, struct bp_error *err) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, 1, BP_PB_LEN)) {
            del->key = f.bytes;
        } else if (bp_pb_is(&f, 2, BP_PB_LEN)) {
            del->range_end = f.bytes;
        } else if (whole && bp_pb_is(&f, 3, BP_PB_VARINT)) {
            del->return_previous = f.value != 0;
        } else if (whole && bp_pb_is(&f, 4, BP_PB_LEN)) {
            int code = bp_wire_parse_request_id(&f, &del->request_id, err);
            if (code != BP_OK) {
                return code;
            }
        }
    }
    return r.malformed ? bp_wire_malformed(err, path) : BP_OK;
}

int bp_wire_parse_get(struct bp_slice message, bool whole, const struct bp_wire_path *path,
                      struct bp_wire_get *get, struct bp_error *err) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, 1, BP_PB_LEN)) {
            get->key = f.bytes;
        } else if (whole && bp_pb_is(&f, 2, BP_PB_VARINT)) {
            get->revision = f.value;
        } else if (whole && bp_pb_is(&f, 3, BP_PB_VARINT)) {
            get->consistency = (uint32_t)f.value;
        }
    }
    return r.malformed ? bp_wire_malformed(err, path) : BP_OK;
}

/* Fields 1 to 7, which Scan and ScanOp have in common. */
static void parse_scan_field(const struct bp_pb_field *f, struct bp_wire_scan *scan) {
    if (bp_pb_is(f, 1, BP_PB_LEN)) {
        scan->range.start = f->bytes;
    } else if (bp_pb_is(f, 2, BP_PB_LEN)) {
        scan->range.end = f->bytes;
    } else if (bp_pb_is(f, 3, BP_PB_LEN)) {
        scan->range.prefix = f->bytes;
    } else if (bp_pb_is(f, 4, BP_PB_VARINT)) {
        scan->limit = (uint32_t)f->value;
    } else if (bp_pb_is(f, 5, BP_PB_VARINT)) {
        scan->reverse = f->value != 0;
    } else if (bp_pb_is(f, 6, BP_PB_VARINT)) {
        scan->keys_only = f->value != 0;
    } else if (bp_pb_is(f, 7, BP_PB_VARINT)) {
        scan->count_only = f->value != 0;
    }
}

int bp_wire_parse_scan(struct bp_slice message, bool whole, const struct bp_wire_path *path,
                       struct bp_wire_scan *scan, struct bp_error *err) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (whole && bp_pb_is(&f, 8, BP_PB_VARINT)) {
            scan->revision = f.value;
        } else if (whole && bp_pb_is(&f, 9, BP_PB_VARINT)) {
            scan->consistency = (uint32_t)f.value;
        } else if (whole && bp_pb_is(&f, 10, BP_PB_LEN)) {
            scan->page_token = f.bytes;
        } else {
            parse_scan_field(&f, scan);
        }
    }
    return r.malformed ? bp_wire_malformed(err, path) : BP_OK;
}

/* ---- checking ------------------------------------------------------------------------------- */

static int key_too_large(struct bp_slice key, uint32_t most, const struct bp_wire_path *path,
                         const char *field, struct bp_error *err) {
    return bp_wire_fail(err, path, field, BP_REASON_KEY_TOO_LARGE,
                        "%s has %zu bytes, the most is %u", field, key.size, most);
}

int bp_wire_check_key(struct bp_slice key, const char *field, const struct bp_wire_limits *limits,
                      const struct bp_wire_path *path, struct bp_error *err) {
    if (key.size == 0) {
        return bp_wire_fail(err, path, field, BP_REASON_KEY_EMPTY, "%s is empty", field);
    }
    return key.size > limits->key_max ? key_too_large(key, limits->key_max, path, field, err)
                                      : BP_OK;
}

int bp_wire_check_value(struct bp_slice value, const struct bp_wire_limits *limits,
                        const struct bp_wire_path *path, struct bp_error *err) {
    if (value.size > limits->value_max) {
        return bp_wire_fail(err, path, "value", BP_REASON_VALUE_TOO_LARGE,
                            "value has %zu bytes, the most is %u", value.size, limits->value_max);
    }
    return BP_OK;
}

int bp_wire_check_request_id(struct bp_slice id, struct bp_error *err) {
    if (id.size > BP_REQUEST_ID_MAX) {
        return bp_wire_fail(err, &no_path, "request_id", BP_REASON_REQUEST_ID_TOO_LARGE,
                            "request_id has %zu bytes, the most is %u", id.size, BP_REQUEST_ID_MAX);
    }
    return BP_OK;
}

int bp_wire_check_consistency(uint32_t consistency, bool *serializable, struct bp_error *err) {
    enum { LINEARIZABLE = 1, SERIALIZABLE = 2 }; /* 0, unspecified, is linearizable */
    if (consistency > SERIALIZABLE) {
        return bp_wire_fail(err, &no_path, "consistency", BP_REASON_FIELD_INVALID,
                            "%u is no Consistency", consistency);
    }
    *serializable = consistency == SERIALIZABLE;
    return BP_OK;
}

/*
 * The first key behind all that begin with `prefix`: its last byte below 0xff plus one. Empty when
 * there is none.
 */
static struct bp_slice prefix_end(struct bp_slice prefix, uint8_t successor[BP_KEY_MAX]) {
    size_t n = prefix.size;
    while (n > 0 && prefix.data[n - 1] == 0xff) {
        n--;
    }
    if (n > 0) {
        memcpy(successor, prefix.data, n);
        successor[n - 1]++;
    }
    return bp_slice(successor, n);
}

int bp_wire_check_range(const struct bp_wire_range *range, const struct bp_wire_limits *limits,
                        const struct bp_wire_path *path, struct bp_wire_bounds *bounds,
                        struct bp_error *err) {
    struct bp_slice start = range->start, end = range->end, prefix = range->prefix;
    if (prefix.size > 0) {
        if (start.size > 0 || end.size > 0) {
            return bp_wire_fail(err, path, "prefix", BP_REASON_RANGE_INVALID,
                                "prefix cannot be combined with start or end");
        }
        if (prefix.size > limits->key_max) {
            return key_too_large(prefix, limits->key_max, path, "prefix", err);
        }
        bounds->start = prefix;
        bounds->end = prefix_end(prefix, bounds->successor);
        return BP_OK;
    }
    if (start.size > limits->key_max) {
        return key_too_large(start, limits->key_max, path, "start", err);
    }
    /* One byte more than a key: the end behind the largest key is that key and a byte 0. */
    if (end.size > limits->key_max + 1u) {
        return key_too_large(end, limits->key_max + 1u, path, "end", err);
    }
    if (end.size > 0 && bp_slice_compare(end, start) <= 0) {
        return bp_wire_fail(err, path, "end", BP_REASON_RANGE_INVALID, "end is not after start");
    }
    bounds->start = start;
    bounds->end = end;
    return BP_OK;
}

int bp_wire_check_limit(uint32_t asked, const char *field, const struct bp_wire_limits *limits,
                        const struct bp_wire_path *path, uint64_t *limit, struct bp_error *err) {
    if (asked > limits->scan_page_max) {
        return bp_wire_fail(err, path, field, BP_REASON_FIELD_INVALID, "%s is %u, the most is %u",
                            field, asked, limits->scan_page_max);
    }
    *limit = asked != 0 ? asked : limits->scan_page_max;
    return BP_OK;
}

/* ---- ops ------------------------------------------------------------------------------------ */

int bp_wire_put_op(const struct bp_wire_put *put, const struct bp_wire_limits *limits,
                   const struct bp_wire_path *path, struct bp_op *op, struct bp_error *err) {
    int code = bp_wire_check_key(put->key, "key", limits, path, err);
    if (code == BP_OK) {
        code = bp_wire_check_value(put->value, limits, path, err);
    }
    if (code != BP_OK) {
        return code;
    }
    if (put->keep_lease && put->lease != 0) {
        return bp_wire_fail(err, path, "keep_lease", BP_REASON_FIELD_INVALID,
                            "keep_lease and lease_id cannot both be set");
    }
    int flags = (put->keep_lease ? BP_OPF_KEEP_LEASE : 0) |
                (put->return_previous ? BP_OPF_RETURN_PREVIOUS : 0);
    *op = (struct bp_op){.op = BP_OP_PUT,
                         .flags = (uint8_t)flags,
                         .lease = put->lease,
                         .key = put->key,
                         .value = put->value};
    return BP_OK;
}

int bp_wire_delete_op(const struct bp_wire_delete *del, const struct bp_wire_limits *limits,
                      const struct bp_wire_path *path, struct bp_op *op, struct bp_error *err) {
    int code = bp_wire_check_key(del->key, "key", limits, path, err);
    if (code != BP_OK) {
        return code;
    }
    struct bp_slice end = del->range_end;
    bool to_the_end = end.size == 1 && end.data[0] == 0;
    if (end.size > limits->key_max + 1u) {
        return key_too_large(end, limits->key_max + 1u, path, "range_end", err);
    }
    if (end.size > 0 && !to_the_end && bp_slice_compare(end, del->key) <= 0) {
        return bp_wire_fail(err, path, "range_end", BP_REASON_RANGE_INVALID,
                            "range_end is not after key");
    }
    *op = (struct bp_op){.op = end.size == 0 ? BP_OP_DELETE : BP_OP_DELETE_RANGE,
                         .flags = del->return_previous ? BP_OPF_RETURN_PREVIOUS : 0,
                         .key = del->key,
                         .end = to_the_end ? bp_slice(NULL, 0) : end};
    return BP_OK;
}

int bp_wire_get_op(const struct bp_wire_get *get, const struct bp_wire_limits *limits,
                   const struct bp_wire_path *path, struct bp_op *op, struct bp_error *err) {
    *op = (struct bp_op){.op = BP_OP_GET, .key = get->key};
    return bp_wire_check_key(get->key, "key", limits, path, err);
}

int bp_wire_scan_op(const struct bp_wire_scan *scan, const struct bp_wire_limits *limits,
                    const struct bp_wire_path *path, struct bp_wire_bounds *bounds,
                    struct bp_op *op, struct bp_error *err) {
    uint64_t limit = 0;
    int code = bp_wire_check_range(&scan->range, limits, path, bounds, err);
    if (code == BP_OK) {
        code = bp_wire_check_limit(scan->limit, "limit", limits, path, &limit, err);
    }
    if (code != BP_OK) {
        return code;
    }
    int flags = (scan->reverse ? BP_OPF_REVERSE : 0) | (scan->keys_only ? BP_OPF_KEYS_ONLY : 0) |
                (scan->count_only ? BP_OPF_COUNT_ONLY : 0);
    *op = (struct bp_op){.op = BP_OP_SCAN,
                         .flags = (uint8_t)flags,
                         .limit = limit,
                         .key = bounds->start,
                         .end = bounds->end};
    return BP_OK;
}

int bp_wire_store_range(uint8_t keyspace, struct bp_slice start, struct bp_slice end,
                        uint8_t **keys, struct bp_slice *stored_start, struct bp_slice *stored_end,
                        struct bp_error *err) {
    uint8_t *at = malloc(start.size + end.size + 2);
    if (at == NULL) {
        return bp_wire_no_memory(err);
    }
    *keys = at;
    at[0] = keyspace;
    if (start.size > 0) {
        memcpy(at + 1, start.data, start.size);
    }
    *stored_start = bp_slice(at, start.size + 1);
    at += start.size + 1;
    at[0] = (uint8_t)(end.size == 0 ? keyspace + 1 : keyspace);
    if (end.size > 0) {
        memcpy(at + 1, end.data, end.size);
    }
    *stored_end = bp_slice(at, end.size + 1);
    return BP_OK;
}

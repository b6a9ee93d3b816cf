/*
 * The op encoding (see ops.h): its decoder (ops_build.c has the builder).
 *
 *   request  [header 24][request id, padded][compare]...[then op]...[else op]...
 *   op       [header 24][key, padded][CRC table, padded][value or range end, padded]
 *
 * Invariants
 *   - The decoder reads nothing outside buf[0..n) and accepts exactly what the builder can make:
 *     sizes are multiples of 8, padding and unused fields are zero, the parts fill the whole. So
 *     equal requests are equal bytes, on every member.
 *   - What decode accepted, the iterators read without checks.
 */
#include "ops.h"

#include <assert.h>

#include "crc32c.h"

_Static_assert(BP_VALUE_MAX % BP_CRC_CHUNK == 0, "the chunks of the largest value fill it");
_Static_assert(BP_REQUEST_MAX < UINT32_MAX / 2, "sizes and offsets in a request are u32");

enum { CHUNKS_MAX = BP_VALUE_MAX / BP_CRC_CHUNK };

static uint32_t align8_u32(uint32_t n) { return (n + 7u) & ~7u; }

uint32_t bp_crc_table_size(uint32_t value_size) {
    if (value_size <= BP_CRC_CHUNK) {
        return 0;
    }
    uint32_t chunks = (value_size + (BP_CRC_CHUNK - 1)) / BP_CRC_CHUNK;
    return align8_u32(chunks * 4u);
}

uint32_t bp_value_checksum(struct bp_slice value, uint8_t *table) {
    if (value.size <= BP_CRC_CHUNK) {
        return bp_crc32c(0, value.data, value.size);
    }
    assert(value.size <= BP_VALUE_MAX);
    uint8_t crcs[CHUNKS_MAX * 4u] = {0};
    uint32_t chunks = 0;
    for (size_t at = 0; at < value.size; at += BP_CRC_CHUNK) {
        size_t n = value.size - at < BP_CRC_CHUNK ? value.size - at : BP_CRC_CHUNK;
        bp_put_u32(crcs + 4u * chunks++, bp_crc32c(0, value.data + at, n));
    }
    if (table != NULL) {
        memcpy(table, crcs, bp_crc_table_size((uint32_t)value.size));
    }
    return bp_crc32c(0, crcs, 4u * chunks);
}

/* ---- decoding ------------------------------------------------------------------------------- */

/* A cursor over the part of the request that is still to be read. */
struct reader {
    const uint8_t *base;
    uint32_t at, size;
};

static int malformed(struct bp_error *err, uint32_t at, const char *what) {
    return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_MALFORMED_REQUEST,
                   "malformed encoded request at byte %u: %s", at, what);
}

static bool is_zero(const uint8_t *at, uint32_t n) {
    uint8_t any = 0;
    for (uint32_t i = 0; i < n; i++) {
        any |= at[i];
    }
    return any == 0;
}

/* The next n bytes and their padding; false when they are not there or the padding is not zero. */
static bool take(struct reader *r, uint32_t n, const uint8_t **data) {
    assert(r->at <= r->size && r->at % 8 == 0);
    if (n > r->size || align8_u32(n) > r->size - r->at) {
        return false;
    }
    *data = r->base + r->at;
    r->at += align8_u32(n);
    return is_zero(*data + n, align8_u32(n) - n);
}

static bool is_keyspace(uint8_t byte) {
    return byte == BP_KEYSPACE_USER || byte == BP_KEYSPACE_OBJECT || byte == BP_KEYSPACE_SYSTEM;
}

/*
 * A key, and behind it `table` + `n` bytes of value or range end, whose start is returned in *data.
 */
static const char *check_body(struct reader *r, uint32_t key_size, uint32_t table, uint32_t n,
                              const uint8_t **key, const uint8_t **data) {
    const uint8_t *crcs;
    if (key_size == 0 || key_size > BP_STORED_KEY_MAX) {
        return "key size";
    }
    if (!take(r, key_size, key)) {
        return "key outside the request or padding not zero";
    }
    if (!is_keyspace((*key)[0])) {
        return "unknown keyspace";
    }
    if (!take(r, table, &crcs) || !take(r, n, data)) {
        return "value or range end outside the request or padding not zero";
    }
    uint32_t chunks = (n + (BP_CRC_CHUNK - 1)) / BP_CRC_CHUNK;
    return table == 0 || is_zero(crcs + 4u * chunks, table - 4u * chunks) ? NULL
                                                                          : "CRC table padding";
}

static const char *check_compare(struct reader *r) {
    const uint8_t *header, *key, *value;
    if (!take(r, BP_OP_HEADER, &header)) {
        return "compare outside the request";
    }
    uint8_t target = header[0], relation = header[1];
    uint32_t value_size = bp_get_u32(header + 4);
    if (target < BP_TARGET_VALUE || target > BP_TARGET_LEASE || relation < BP_EQUAL ||
        relation > BP_LESS) {
        return "unknown compare";
    }
    bool on_value = target == BP_TARGET_VALUE;
    if (bp_get_u32(header + 20) != 0 || value_size > BP_VALUE_MAX ||
        (!on_value && value_size != 0) || (on_value && bp_get_u64(header + 8) != 0) ||
        (!on_value && bp_get_u32(header + 16) != 0)) {
        return "compare fields";
    }
    return check_body(r, bp_get_u16(header + 2), 0, value_size, &key, &value);
}

/* Which fields and flags each op may use: everything else must be zero. */
struct op_shape {
    uint8_t flags;
    bool has_operand, has_crc, has_value, has_end;
};

static const struct op_shape op_shapes[] = {
    [BP_OP_PUT] = {BP_OPF_KEEP_LEASE | BP_OPF_RETURN_PREVIOUS, true, true, true, false},
    [BP_OP_DELETE] = {BP_OPF_RETURN_PREVIOUS, false, false, false, false},
    [BP_OP_DELETE_RANGE] = {BP_OPF_RETURN_PREVIOUS, false, false, false, true},
    [BP_OP_GET] = {BP_OPF_KEYS_ONLY, false, false, false, false},
    [BP_OP_SCAN] = {BP_OPF_REVERSE | BP_OPF_KEYS_ONLY | BP_OPF_COUNT_ONLY, true, false, false,
                    true},
};

/*
 * A range is not empty and stays inside its keyspace; its last possible end is the next keyspace
 * byte alone.
 */
static bool range_is_valid(struct bp_slice key, struct bp_slice end) {
    if (end.size == 0 || end.size > BP_RANGE_END_MAX || bp_slice_compare(key, end) >= 0) {
        return false;
    }
    return end.data[0] == key.data[0] || (end.size == 1 && end.data[0] == key.data[0] + 1);
}

static const char *check_op(struct reader *r) {
    const uint8_t *header, *key, *data;
    if (!take(r, BP_OP_HEADER, &header)) {
        return "op outside the request";
    }
    uint8_t op = header[0], flags = header[1];
    if (op < BP_OP_PUT || op > BP_OP_SCAN) {
        return "unknown op";
    }
    const struct op_shape *shape = &op_shapes[op];
    uint32_t size = bp_get_u32(header + 4);
    if ((flags & ~shape->flags) != 0 || bp_get_u32(header + 20) != 0 ||
        (!shape->has_operand && bp_get_u64(header + 8) != 0) ||
        (!shape->has_crc && bp_get_u32(header + 16) != 0) ||
        (!shape->has_value && !shape->has_end && size != 0) || size > BP_VALUE_MAX) {
        return "op fields";
    }
    if (op == BP_OP_PUT && (flags & BP_OPF_KEEP_LEASE) != 0 && bp_get_u64(header + 8) != 0) {
        return "a put with a lease and keep-lease";
    }
    uint32_t table = shape->has_value ? bp_crc_table_size(size) : 0;
    uint16_t key_size = bp_get_u16(header + 2);
    const char *wrong = check_body(r, key_size, table, size, &key, &data);
    if (wrong == NULL && shape->has_end &&
        !range_is_valid(bp_slice(key, key_size), bp_slice(data, size))) {
        return "range end";
    }
    return wrong;
}

static const char *check_compares(struct reader *r, uint32_t n) {
    const char *wrong = NULL;
    for (uint32_t i = 0; i < n && wrong == NULL; i++) {
        wrong = check_compare(r);
    }
    return wrong;
}

static const char *check_branch(struct reader *r, uint32_t n) {
    const char *wrong = NULL;
    for (uint32_t i = 0; i < n && wrong == NULL; i++) {
        wrong = check_op(r);
    }
    return wrong;
}

static const char *check_kv(struct reader *r, struct bp_request *request) {
    request->compares_at = r->at;
    const char *wrong = check_compares(r, request->n_compares);
    request->then_at = r->at;
    if (wrong == NULL) {
        wrong = check_branch(r, request->n_then);
    }
    request->else_at = r->at;
    return wrong == NULL ? check_branch(r, request->n_else) : wrong;
}

static const char *check_kind(struct reader *r, struct bp_request *request) {
    const uint8_t *p;
    if (request->kind == BP_REQUEST_KV) {
        return check_kv(r, request);
    }
    if (request->n_compares != 0 || request->n_then != 0 || request->n_else != 0) {
        return "ops in a request of another kind";
    }
    switch (request->kind) {
    case BP_REQUEST_LEASE_GRANT:
        if (!take(r, 16, &p)) {
            return "lease grant";
        }
        request->lease = bp_get_u64(p);
        request->ttl_ms = bp_get_u64(p + 8);
        return request->ttl_ms == 0 ? "lease without a time to live" : NULL;
    case BP_REQUEST_LEASE_REVOKE: {
        if (!take(r, 8, &p)) {
            return "lease revoke";
        }
        uint64_t count = bp_get_u64(p);
        if (count == 0 || count != (r->size - r->at) / 8u || !take(r, (uint32_t)count * 8u, &p)) {
            return "lease count";
        }
        request->leases = bp_slice(p, (size_t)count * 8u);
        return NULL;
    }
    case BP_REQUEST_COMPACT:
        if (!take(r, 8, &p)) {
            return "compaction";
        }
        request->revision = bp_get_u64(p);
        return NULL;
    default:
        return "unknown kind";
    }
}

int bp_request_decode(const uint8_t *buf, uint64_t n, struct bp_request *request,
                      struct bp_error *err) {
    *request = (struct bp_request){.base = buf};
    uint32_t size = n < BP_REQUEST_HEADER ? 0 : bp_get_u32(buf);
    if (size < BP_REQUEST_HEADER || size > n || size > BP_REQUEST_MAX || size % 8 != 0) {
        return malformed(err, 0, "size");
    }
    if (buf[5] != BP_OPS_VERSION) {
        return malformed(err, 5, "unknown encoding version");
    }
    if (buf[6] > BP_REQUEST_ID_MAX || buf[7] != 0 || bp_get_u16(buf + 22) != 0) {
        return malformed(err, 6, "header fields");
    }
    request->size = size;
    request->kind = buf[4];
    request->fingerprint = bp_get_u64(buf + 8);
    request->n_compares = bp_get_u16(buf + 16);
    request->n_then = bp_get_u16(buf + 18);
    request->n_else = bp_get_u16(buf + 20);
    struct reader r = {.base = buf, .at = BP_REQUEST_HEADER, .size = size};
    const uint8_t *id;
    if (!take(&r, buf[6], &id)) {
        return malformed(err, BP_REQUEST_HEADER, "request id");
    }
    request->id = bp_slice(id, buf[6]);
    const char *wrong = check_kind(&r, request);
    if (wrong == NULL && r.at != r.size) {
        wrong = "bytes behind the last op";
    }
    return wrong == NULL ? BP_OK : malformed(err, r.at, wrong);
}

void bp_request_compare(const struct bp_request *request, uint32_t *at,
                        struct bp_compare *compare) {
    assert(*at >= request->compares_at && *at < request->then_at);
    const uint8_t *header = request->base + *at, *key = header + BP_OP_HEADER;
    uint16_t key_size = bp_get_u16(header + 2);
    uint32_t value_size = bp_get_u32(header + 4);
    *compare = (struct bp_compare){
        .target = header[0],
        .operator = header[1],
        .operand = bp_get_u64(header + 8),
        .value_crc = bp_get_u32(header + 16),
        .key = bp_slice(key, key_size),
        .value = bp_slice(key + align8_u32(key_size), value_size),
    };
    *at += BP_OP_HEADER + align8_u32(key_size) + align8_u32(value_size);
    assert(*at <= request->then_at);
}

void bp_request_op(const struct bp_request *request, uint32_t *at, struct bp_op *op) {
    assert(*at >= request->then_at && *at < request->size);
    const uint8_t *header = request->base + *at, *key = header + BP_OP_HEADER;
    uint16_t key_size = bp_get_u16(header + 2);
    uint32_t size = bp_get_u32(header + 4);
    uint64_t operand = bp_get_u64(header + 8);
    *op = (struct bp_op){.op = header[0],
                         .flags = header[1],
                         .value_crc = bp_get_u32(header + 16),
                         .key = bp_slice(key, key_size)};
    uint32_t table = 0;
    if (op->op == BP_OP_PUT) {
        table = bp_crc_table_size(size);
        op->lease = operand;
        op->value = bp_slice(key + align8_u32(key_size) + table, size);
    } else {
        op->limit = operand;
        op->end = bp_slice(key + align8_u32(key_size), size);
    }
    *at += BP_OP_HEADER + align8_u32(key_size) + table + align8_u32(size);
    assert(*at <= request->size);
}

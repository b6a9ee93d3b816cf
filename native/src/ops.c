/*
 * The op encoding (see ops.h): its decoder and its builder.
 *
 *   request  [header 24][request id, padded][compare]...[then op]...[else op]...
 *   op       [header 24][key, padded][CRC table, padded][value or range end, padded]
 *
 * Invariants
 *   - The decoder reads nothing outside buf[0..n) and accepts exactly what the builder can make:
 *     sizes are multiples of 8, padding and unused fields are zero, the parts fill the whole. So
 *     equal requests are equal bytes, on every member.
 *   - What decode accepted, the iterators read without checks.
 *   - The builder costs one copy and one checksum of what it is given: it is on the path of every
 *     put.
 */
#include "ops.h"

#include <assert.h>
#include <stdlib.h>

#include "crc32c.h"

_Static_assert(BP_VALUE_MAX % BP_CRC_CHUNK == 0, "the chunks of the largest value fill it");
_Static_assert(BP_REQUEST_MAX < UINT32_MAX / 2, "sizes and offsets in a request are u32");

enum { ENCODING_VERSION = 1, FIRST_CAPACITY = 512, RANGE_END_MAX = BP_STORED_KEY_MAX + 1 };
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
    if (end.size == 0 || end.size > RANGE_END_MAX || bp_slice_compare(key, end) >= 0) {
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
    if (buf[5] != ENCODING_VERSION) {
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

/* ---- building ------------------------------------------------------------------------------- */

void bp_builder_init(struct bp_builder *builder) { *builder = (struct bp_builder){0}; }

void bp_builder_free(struct bp_builder *builder) {
    free(builder->buf);
    *builder = (struct bp_builder){0};
}

static bool make_room(struct bp_builder *builder, uint32_t capacity) {
    uint8_t *buf = realloc(builder->buf, capacity);
    if (buf == NULL) {
        return false;
    }
    builder->buf = buf;
    builder->capacity = capacity;
    return true;
}

void bp_builder_reserve(struct bp_builder *builder, uint64_t bytes) {
    uint64_t capacity = bytes < BP_REQUEST_MAX ? bytes : BP_REQUEST_MAX;
    if (capacity > builder->capacity) {
        (void)make_room(builder, (uint32_t)bp_align8_u64(capacity)); /* best effort */
    }
}

/* n (a multiple of 8) more bytes, not initialised; NULL once anything failed. */
static uint8_t *builder_grow(struct bp_builder *builder, uint64_t n) {
    assert(n % 8 == 0);
    if (builder->failed) {
        return NULL;
    }
    if (n > BP_REQUEST_MAX - builder->size) {
        builder->failed = builder->too_large = true;
        return NULL;
    }
    uint32_t need = builder->size + (uint32_t)n;
    if (need > builder->capacity) {
        uint32_t capacity = builder->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : builder->capacity;
        while (capacity < need) {
            capacity *= 2;
        }
        if (!make_room(builder, capacity)) {
            builder->failed = true;
            return NULL;
        }
    }
    uint8_t *at = builder->buf + builder->size;
    builder->size = need;
    return at;
}

/* Copy n bytes and zero the padding behind them; returns where the next part goes. */
static uint8_t *write_padded(uint8_t *at, const void *data, size_t n) {
    size_t padded = bp_align8(n);
    if (padded != n) {
        memset(at + padded - 8, 0, 8);
    }
    if (n > 0) {
        memcpy(at, data, n);
    }
    return at + padded;
}

/* A stored key: the keyspace byte, then the client's key. */
static uint8_t *write_key(uint8_t *at, uint8_t keyspace, struct bp_slice key) {
    size_t padded = bp_align8(key.size + 1);
    memset(at + padded - 8, 0, 8);
    at[0] = keyspace;
    if (key.size > 0) {
        memcpy(at + 1, key.data, key.size);
    }
    return at + padded;
}

void bp_builder_begin(struct bp_builder *builder, int kind, struct bp_slice id,
                      uint64_t fingerprint) {
    assert(id.size <= BP_REQUEST_ID_MAX && kind > 0 && kind <= UINT8_MAX);
    builder->size = 0;
    builder->failed = builder->too_large = false;
    uint8_t *at = builder_grow(builder, BP_REQUEST_HEADER + bp_align8(id.size));
    if (at == NULL) {
        return;
    }
    memset(at, 0, BP_REQUEST_HEADER);
    at[4] = (uint8_t)kind;
    at[5] = ENCODING_VERSION;
    at[6] = (uint8_t)id.size;
    bp_put_u64(at + 8, fingerprint);
    write_padded(at + BP_REQUEST_HEADER, id.data, id.size);
}

/* Count one more compare (16), then-op (18) or else-op (20) in the header. */
static void count_one(struct bp_builder *builder, uint32_t offset) {
    uint16_t n = bp_get_u16(builder->buf + offset);
    if (n == UINT16_MAX) {
        builder->failed = builder->too_large = true;
        return;
    }
    bp_put_u16(builder->buf + offset, (uint16_t)(n + 1));
}

void bp_builder_compare(struct bp_builder *builder, uint8_t keyspace,
                        const struct bp_compare *compare) {
    bool on_value = compare->target == BP_TARGET_VALUE;
    struct bp_slice value = on_value ? compare->value : bp_slice(NULL, 0);
    assert(compare->key.size <= BP_KEY_MAX && value.size <= BP_VALUE_MAX);
    uint8_t *at = builder_grow(builder, BP_OP_HEADER + bp_align8(compare->key.size + 1) +
                                            bp_align8(value.size));
    if (at == NULL) {
        return;
    }
    assert(bp_get_u16(builder->buf + 18) == 0 && bp_get_u16(builder->buf + 20) == 0);
    at[0] = compare->target;
    at[1] = compare->operator;
    bp_put_u16(at + 2, (uint16_t)(compare->key.size + 1));
    bp_put_u32(at + 4, (uint32_t)value.size);
    bp_put_u64(at + 8, on_value ? 0 : compare->operand);
    bp_put_u32(at + 16, on_value ? bp_value_checksum(value, NULL) : 0);
    bp_put_u32(at + 20, 0);
    write_padded(write_key(at + BP_OP_HEADER, keyspace, compare->key), value.data, value.size);
    count_one(builder, 16);
}

static void build_put(struct bp_builder *builder, uint8_t keyspace, const struct bp_op *op) {
    assert(op->value.size <= BP_VALUE_MAX);
    uint32_t table = bp_crc_table_size((uint32_t)op->value.size);
    uint8_t *at = builder_grow(builder, BP_OP_HEADER + bp_align8(op->key.size + 1) + table +
                                            bp_align8(op->value.size));
    if (at == NULL) {
        return;
    }
    at[0] = op->op;
    at[1] = op->flags;
    bp_put_u16(at + 2, (uint16_t)(op->key.size + 1));
    bp_put_u32(at + 4, (uint32_t)op->value.size);
    bp_put_u64(at + 8, op->lease);
    uint8_t *body = write_key(at + BP_OP_HEADER, keyspace, op->key);
    bp_put_u32(at + 16, bp_value_checksum(op->value, body));
    bp_put_u32(at + 20, 0);
    write_padded(body + table, op->value.data, op->value.size);
}

static void build_keyed(struct bp_builder *builder, uint8_t keyspace, const struct bp_op *op) {
    bool ranged = op->op == BP_OP_DELETE_RANGE || op->op == BP_OP_SCAN;
    size_t end_size = ranged ? op->end.size + 1 : 0;
    assert(op->end.size < RANGE_END_MAX);
    uint8_t *at =
        builder_grow(builder, BP_OP_HEADER + bp_align8(op->key.size + 1) + bp_align8(end_size));
    if (at == NULL) {
        return;
    }
    at[0] = op->op;
    at[1] = op->flags;
    bp_put_u16(at + 2, (uint16_t)(op->key.size + 1));
    bp_put_u32(at + 4, (uint32_t)end_size);
    bp_put_u64(at + 8, op->op == BP_OP_SCAN ? op->limit : 0);
    bp_put_u64(at + 16, 0);
    uint8_t *end = write_key(at + BP_OP_HEADER, keyspace, op->key);
    if (ranged) {
        /* An open end becomes explicit: the next keyspace byte. */
        uint8_t first = (uint8_t)(op->end.size == 0 ? keyspace + 1 : keyspace);
        write_key(end, first, op->end);
    }
}

void bp_builder_op(struct bp_builder *builder, int branch, uint8_t keyspace,
                   const struct bp_op *op) {
    assert(branch == 0 || branch == 1);
    assert(op->key.size <= BP_KEY_MAX && op->op >= BP_OP_PUT && op->op <= BP_OP_SCAN);
    if (op->op == BP_OP_PUT) {
        build_put(builder, keyspace, op);
    } else {
        build_keyed(builder, keyspace, op);
    }
    if (!builder->failed) {
        assert(branch == 1 || bp_get_u16(builder->buf + 20) == 0);
        count_one(builder, branch == 0 ? 18 : 20);
    }
}

void bp_builder_u64(struct bp_builder *builder, uint64_t value) {
    uint8_t *at = builder_grow(builder, 8);
    if (at != NULL) {
        bp_put_u64(at, value);
    }
}

/*
 * One step of a multiply-fold hash: both halves of the product, so that every input bit reaches
 * every output bit.
 */
static uint64_t fold(uint64_t a, uint64_t b) {
    __extension__ typedef unsigned __int128 u128;
    u128 product = (u128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

void bp_builder_fingerprint(struct bp_builder *builder, int method) {
    if (builder->failed) {
        return;
    }
    const uint64_t k0 = 0x9e3779b97f4a7c15u, k1 = 0xd6e8feb86659fd93u; /* odd, well mixed */
    uint8_t *buf = builder->buf;
    uint64_t hash = fold((uint64_t)method ^ k0, bp_get_u64(buf + 16) ^ k1) ^ buf[4];
    size_t body = BP_REQUEST_HEADER + bp_align8(buf[6]);
    for (size_t at = body; at < builder->size; at += 8) {
        hash = fold(hash ^ bp_get_u64(buf + at), k0) + k1;
    }
    hash = fold(hash ^ (builder->size - body), k1);
    bp_put_u64(buf + 8, hash == 0 ? 1 : hash);
}

int bp_builder_finish(struct bp_builder *builder, struct bp_error *err) {
    if (builder->too_large) {
        return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_REQUEST_TOO_LARGE,
                       "the request is larger than %u bytes when encoded", BP_REQUEST_MAX);
    }
    if (builder->failed) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the request");
    }
    assert(builder->size >= BP_REQUEST_HEADER && builder->size % 8 == 0);
    bp_put_u32(builder->buf, builder->size);
    return BP_OK;
}

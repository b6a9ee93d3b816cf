/*
 * The op encoding (see ops.h): its builder.
 *
 *   begin -> [compare]... -> [then op]... -> [else op]... -> finish
 *   buf   [header 24][request id, padded][compare]...[then op]...[else op]...   doubles as it grows
 *
 * Invariants
 *   - What finish lets through, decode accepts; equal requests are equal bytes.
 *   - It costs one copy and one checksum of what it is given: it is on the path of every put.
 *   - After a failure (no memory, too large) everything further is ignored, and finish says why.
 */
#include "ops.h"

#include <assert.h>
#include <stdlib.h>

enum { FIRST_CAPACITY = 512 };

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
    at[5] = BP_OPS_VERSION;
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
    assert(op->end.size < BP_RANGE_END_MAX);
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

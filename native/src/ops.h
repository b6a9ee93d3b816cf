/*
 * The op encoding: what a REQUESTS entry's payload is made of. Ours, versioned; client protobuf
 * never reaches the log. Every length is checked against what holds it before use; every size is a
 * multiple of 8; padding is zero.
 *
 *   request  0 u32 size (whole)  4 u8 kind  5 u8 encoding version (1)  6 u8 request-id size (0..64)
 *   7 u8 flags (0)
 *            8 u64 fingerprint (of the client's request, 0 without an id)
 *           16 u16 compares  18 u16 then-ops  20 u16 else-ops  22 u16 zero
 *           24 request id, padded; then by kind
 *   KV            compares, then-ops, else-ops
 *   LEASE_GRANT   u64 lease id, u64 ttl_ms
 *   LEASE_REVOKE  u64 count, then u64 lease ids            (expiry proposes many at once)
 *   COMPACT       u64 revision
 *
 *   compare  0 u8 target  1 u8 operator  2 u16 key size  4 u32 value size  8 u64 operand  16 u32
 *   value crc  20 u32 zero
 *           24 key, padded; value, padded (target VALUE only)
 *   op       0 u8 op  1 u8 flags  2 u16 key size
 *       4 u32 value size (PUT) | range-end size (DELETE_RANGE, SCAN; at most BP_STORED_KEY_MAX + 1)
 *            8 u64 lease (PUT) | limit (SCAN)  16 u32 value crc  20 u32 zero
 *           24 key, padded; [CRC table: u32 per 64 KiB chunk, padded, when value size > 64 KiB];
 *           value | range end, padded
 *
 * Keys carry their keyspace byte. The value's crc is of the value, or of its CRC table when there
 * is one. The CRC table ends (padding included) where the value starts; its real entries come
 * first. A branch writes a key at most once (a put overlapping a put or a delete range is refused
 * when the request is made).
 */
#ifndef BP_OPS_H
#define BP_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "error.h"
#include "limits.h"

enum bp_request_kind {
    BP_REQUEST_KV = 1,
    BP_REQUEST_LEASE_GRANT = 2,
    BP_REQUEST_LEASE_REVOKE = 3,
    BP_REQUEST_COMPACT = 4
};
enum bp_op_code {
    BP_OP_PUT = 1,
    BP_OP_DELETE = 2,
    BP_OP_DELETE_RANGE = 3,
    BP_OP_GET = 4,
    BP_OP_SCAN = 5
};
enum bp_op_flag {
    BP_OPF_KEEP_LEASE = 1,      /* PUT: keep the lease the key has */
    BP_OPF_RETURN_PREVIOUS = 2, /* PUT, DELETE, DELETE_RANGE */
    BP_OPF_REVERSE = 4,         /* SCAN */
    BP_OPF_KEYS_ONLY = 8,       /* SCAN, GET */
    BP_OPF_COUNT_ONLY = 16,     /* SCAN */
};
enum bp_target {
    BP_TARGET_VALUE = 1,
    BP_TARGET_MOD = 2,
    BP_TARGET_CREATE = 3,
    BP_TARGET_VERSION = 4,
    BP_TARGET_LEASE = 5
};
enum bp_operator { BP_EQUAL = 1, BP_NOT_EQUAL = 2, BP_GREATER = 3, BP_LESS = 4 };

#define BP_REQUEST_HEADER 24u
#define BP_OPS_VERSION 1u
#define BP_RANGE_END_MAX (BP_STORED_KEY_MAX + 1u) /* behind the largest key */
#define BP_OP_HEADER 24u

struct bp_compare {
    uint8_t target, operator;
    uint64_t operand;
    uint32_t value_crc;
    struct bp_slice key, value;
};

struct bp_op {
    uint8_t op, flags;
    uint64_t lease; /* PUT */
    uint64_t limit; /* SCAN, 0 none */
    uint32_t value_crc;
    struct bp_slice key;
    struct bp_slice value; /* PUT */
    /*
     * ranges: exclusive end, never empty (made explicit: the keyspace's end is the next keyspace
     * byte)
     */
    struct bp_slice end;
};

struct bp_request {
    uint8_t kind;
    uint16_t n_compares, n_then, n_else;
    uint32_t size;
    uint64_t fingerprint;
    struct bp_slice id;
    const uint8_t *base;                    /* the encoded request */
    uint32_t compares_at, then_at, else_at; /* offsets from base; KV only */
    uint64_t lease, ttl_ms;                 /* LEASE_GRANT */
    uint64_t revision;                      /* COMPACT */
    struct bp_slice leases;                 /* LEASE_REVOKE: packed u64, little-endian */
};

/*
 * Decode and fully validate the request that begins at buf[0..n) (an entry holds several, one
 * behind the other): lengths, kinds, CRC table sizes, limits, zero padding.
 * INVALID_ARGUMENT/MALFORMED_REQUEST. Does not recompute value CRCs. Pure; fuzzed.
 */
int bp_request_decode(const uint8_t *buf, uint64_t n, struct bp_request *request,
                      struct bp_error *err);
/*
 * Iterate: `*at` starts at compares_at / then_at / else_at and moves on. Only on a decoded request
 * (asserts, does not fail).
 */
void bp_request_compare(const struct bp_request *request, uint32_t *at, struct bp_compare *compare);
void bp_request_op(const struct bp_request *request, uint32_t *at, struct bp_op *op);
/* Number of bytes of the CRC table before a value of this size, padded; 0 up to BP_CRC_CHUNK. */
uint32_t bp_crc_table_size(uint32_t value_size);

/* ---- building -------------------------------------------------------------------------------- */

/*
 * A growing request. Zero-initialise with bp_builder_init; ops must come in order compares, then,
 * else.
 */
struct bp_builder {
    uint8_t *buf;
    uint32_t size, capacity;
    bool failed;    /* out of memory or over BP_REQUEST_MAX; checked once at finish */
    bool too_large; /* which of the two */
};
void bp_builder_init(struct bp_builder *builder);
void bp_builder_free(struct bp_builder *builder);
/*
 * Room for `bytes` in all, so that a builder whose size can be guessed allocates once. Best effort.
 */
void bp_builder_reserve(struct bp_builder *builder, uint64_t bytes);
void bp_builder_begin(struct bp_builder *builder, int kind, struct bp_slice id,
                      uint64_t fingerprint);
/* `key` is given without the keyspace byte, which is `keyspace`. Computes value_crc. */
void bp_builder_compare(struct bp_builder *builder, uint8_t keyspace,
                        const struct bp_compare *compare);
/*
 * branch 0 then, 1 else. Computes value CRCs and the CRC table. `key` and `end` are given without
 * the keyspace byte, which is `keyspace`.
 */
void bp_builder_op(struct bp_builder *builder, int branch, uint8_t keyspace,
                   const struct bp_op *op);
/*
 * Set the header's fingerprint to a hash of everything behind the request id, never 0. `method`
 * goes in too, so that one id used for requests of two kinds is noticed even where they encode
 * alike. Stable for ever: it is kept in the request-id table.
 */
void bp_builder_fingerprint(struct bp_builder *builder, int method);
void bp_builder_u64(struct bp_builder *builder, uint64_t value);
/*
 * INVALID_ARGUMENT/REQUEST_TOO_LARGE or RESOURCE_EXHAUSTED/OUT_OF_MEMORY; else buf[0..size) is one
 * valid request.
 */
int bp_builder_finish(struct bp_builder *builder, struct bp_error *err);
/*
 * The duplicate-key rule above, over both branches of a finished request:
 * INVALID_ARGUMENT/DUPLICATE_KEY. O(n log n).
 */
int bp_request_check_keys(const struct bp_request *request, struct bp_error *err);
/*
 * The same, saying which op (`branch`, `index`) collides with an earlier one (`other`). With
 * `once`, deletes of one key collide too (Batch).
 */
struct bp_key_conflict {
    int branch;
    uint32_t index, other;
};
int bp_request_find_conflict(const struct bp_request *request, bool once, bool *found,
                             struct bp_key_conflict *conflict, struct bp_error *err);
/*
 * The checksum kept for a value: its CRC32C, or that of its CRC table, which is then written to
 * `table` (padded; may be NULL).
 */
uint32_t bp_value_checksum(struct bp_slice value, uint8_t *table);

#endif

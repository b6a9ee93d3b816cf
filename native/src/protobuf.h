/*
 * Protobuf's wire: a reader over one message's fields and a writer into a buffer. No schema, no
 * allocation, no recursion.
 *
 *   message   field field field ...
 *   field     tag varint (number << 3 | type), then by type
 *             0 VARINT  1..10 bytes        2 LEN  length varint, bytes
 *             1 I64     8 bytes            5 I32  4 bytes          3, 4 a group (skipped)
 *
 * What the schema does not know, or knows with another type, its reader skips, as protobuf demands.
 * Malformed is: a tag or length of more than five bytes or 32 bits, field number 0, a varint of
 * more than ten bytes, types 6 and 7, a group without its end or an end without its group, and
 * anything that reaches past the message.
 */
#ifndef BP_PROTOBUF_H
#define BP_PROTOBUF_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "bytes.h"

enum bp_pb_type { BP_PB_VARINT = 0, BP_PB_I64 = 1, BP_PB_LEN = 2, BP_PB_I32 = 5 };

struct bp_pb_reader {
    const uint8_t *at, *end;
    bool malformed;
};

struct bp_pb_field {
    uint32_t number;
    uint32_t type;
    uint64_t value;        /* VARINT, I64, I32 */
    struct bp_slice bytes; /* LEN: borrowed from the message */
};

static inline struct bp_pb_reader bp_pb_read(struct bp_slice message) {
    struct bp_pb_reader r = {.at = message.data, .end = message.data};
    if (message.size > 0) { /* an empty slice may have no address to count from */
        r.end += message.size;
    }
    return r;
}

/*
 * The next field; groups are passed over. false at the end and when malformed (then `malformed` is
 * set, for ever).
 */
bool bp_pb_next(struct bp_pb_reader *reader, struct bp_pb_field *field);
/*
 * A varint of at most ten bytes at *at; false when it does not end before `end`. For packed fields.
 */
bool bp_pb_varint(const uint8_t **at, const uint8_t *end, uint64_t *value);

/* This number with this type? Another type of a known number is an unknown field. */
static inline bool bp_pb_is(const struct bp_pb_field *field, uint32_t number, uint32_t type) {
    return field->number == number && field->type == type;
}

/* Valid UTF-8: shortest forms, no surrogates, at most U+10FFFF. */
bool bp_utf8_valid(struct bp_slice text);

/* ---- writing: fields with the default value are left out, as proto3 does ---- */

/* Bytes of v as a varint, 1 to 10. */
static inline uint32_t bp_pb_varint_size(uint64_t v) {
    uint32_t bits = 64u - (uint32_t)__builtin_clzll(v | 1u);
    return (bits + 6u) / 7u;
}

/*
 * Bytes of a field with a number below 16, none for the default value: of a number, and of n bytes.
 */
static inline uint64_t bp_pb_uint_size(uint64_t value) {
    return value == 0 ? 0 : 1u + bp_pb_varint_size(value);
}

static inline uint64_t bp_pb_bytes_size(uint64_t n) {
    return n == 0 ? 0 : 1u + bp_pb_varint_size(n) + n;
}

/* Writes v at `at` (bp_pb_varint_size bytes) and returns where it ends. */
static inline uint8_t *bp_pb_store_varint(uint8_t *at, uint64_t v) {
    while (v >= 0x80) {
        *at++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *at++ = (uint8_t)v;
    return at;
}

void bp_pb_uint(struct bp_buffer *out, uint32_t number, uint64_t value);
/* The same, also when the value is 0: elements of oneofs. */
void bp_pb_uint_always(struct bp_buffer *out, uint32_t number, uint64_t value);
void bp_pb_bytes(struct bp_buffer *out, uint32_t number, struct bp_slice bytes);
/* Also when empty: elements of repeated fields and oneofs. */
void bp_pb_bytes_always(struct bp_buffer *out, uint32_t number, struct bp_slice bytes);
void bp_pb_text(struct bp_buffer *out, uint32_t number, const char *text);
/* The tag and length of a LEN field whose `size` bytes follow. */
void bp_pb_head(struct bp_buffer *out, uint32_t number, uint64_t size);
/*
 * A message of unknown length: open, write its fields, close. Nests. Closing moves the content when
 * its length needs more than a byte.
 */
size_t bp_pb_open(struct bp_buffer *out, uint32_t number);
void bp_pb_close(struct bp_buffer *out, size_t opened);

#endif

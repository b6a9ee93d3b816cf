/*
 * Bytes: little-endian integers at any alignment, borrowed slices, and their order.
 *
 *   put_u32(p, 0x0a0b0c0d)     p: | 0d | 0c | 0b | 0a |
 *
 * Every format of the store is little-endian. The shifts below compile to one load or store (gcc >=
 * 5, clang) and are right on any machine. Nothing here checks bounds: decoders do, before they
 * call.
 */
#ifndef BP_BYTES_H
#define BP_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t bp_get_u16(const void *p) {
    const uint8_t *b = p;
    return (uint16_t)(b[0] | (b[1] << 8));
}

static inline uint32_t bp_get_u32(const void *p) {
    const uint8_t *b = p;
    return (uint32_t)b[0] | ((uint32_t)b[1] << 8) | ((uint32_t)b[2] << 16) | ((uint32_t)b[3] << 24);
}

static inline uint64_t bp_get_u64(const void *p) {
    const uint8_t *b = p;
    return (uint64_t)b[0] | ((uint64_t)b[1] << 8) | ((uint64_t)b[2] << 16) |
           ((uint64_t)b[3] << 24) | ((uint64_t)b[4] << 32) | ((uint64_t)b[5] << 40) |
           ((uint64_t)b[6] << 48) | ((uint64_t)b[7] << 56);
}

static inline void bp_put_u16(void *p, uint16_t v) {
    uint8_t *b = p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}

static inline void bp_put_u32(void *p, uint32_t v) {
    uint8_t *b = p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
    b[2] = (uint8_t)(v >> 16);
    b[3] = (uint8_t)(v >> 24);
}

static inline void bp_put_u64(void *p, uint64_t v) {
    uint8_t *b = p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
    b[2] = (uint8_t)(v >> 16);
    b[3] = (uint8_t)(v >> 24);
    b[4] = (uint8_t)(v >> 32);
    b[5] = (uint8_t)(v >> 40);
    b[6] = (uint8_t)(v >> 48);
    b[7] = (uint8_t)(v >> 56);
}

/*
 * Round up to a multiple of 8, the alignment of everything in the log. `n` must not exceed SIZE_MAX
 * - 7.
 */
static inline size_t bp_align8(size_t n) { return (n + 7u) & ~(size_t)7u; }

static inline uint64_t bp_align8_u64(uint64_t n) { return (n + 7u) & ~(uint64_t)7u; }

/*
 * Borrowed bytes: whoever hands one out says how long they live. `data` may be NULL when `size` is
 * 0.
 */
struct bp_slice {
    const uint8_t *data;
    size_t size;
};

static inline struct bp_slice bp_slice(const void *data, size_t size) {
    struct bp_slice s = {.data = data, .size = size};
    return s;
}

/*
 * The order of keys: bytes as unsigned numbers, a proper prefix before what it begins. <0, 0 or >0.
 */
static inline int bp_slice_compare(struct bp_slice a, struct bp_slice b) {
    size_t n = a.size < b.size ? a.size : b.size;
    int order = n == 0 ? 0 : memcmp(a.data, b.data, n); /* memcmp(NULL, .., 0) is undefined */
    if (order != 0) {
        return order;
    }
    return a.size < b.size ? -1 : a.size > b.size;
}

static inline bool bp_slice_equal(struct bp_slice a, struct bp_slice b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static inline bool bp_slice_has_prefix(struct bp_slice s, struct bp_slice prefix) {
    return s.size >= prefix.size &&
           (prefix.size == 0 || memcmp(s.data, prefix.data, prefix.size) == 0);
}

#endif

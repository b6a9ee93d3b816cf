/*
 * CRC32C in hardware, three lanes at a time (see crc32c_tables.h for the constants).
 *
 * The crc32 instruction takes 8 bytes a cycle but answers three cycles later, so one chain runs at
 * a third of its speed. Any input of 96 bytes and more is cut into three lanes whose chains run
 * interleaved, then joined:
 *
 *   data   |--- lane A, w words ---|--- lane B ---|--- lane C ---|last|  up to 23 bytes: one chain
 *   chains   crc                     0              0              |
 *                |                   |              |              |
 *                * x^(2 lanes)       * x^(1 lane)   |              |     two carry-less products
 *                +---------+---------+              |              |
 *                          v                        v              v
 *                          +------------------> crc32(C, last ^ sum)     this step reduces all
 *
 * The lane length follows the input (a table has the constants of every length), so 300 bytes gain
 * as 4 KiB do: nothing is set up and nothing is aligned first.
 *
 * Invariants: `crc` is complemented at the edges of the public functions only; every implementation
 * agrees on all inputs (test_crc32c); nothing is cached, the processor is asked each time, which
 * costs one load and a test.
 */
#include "crc32c.h"

#include "bytes.h"
#include "crc32c_tables.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

/* ---- the table */

static uint32_t table_extend(uint32_t crc, const uint8_t *p, size_t n) {
    while (n >= 8) {
        uint64_t word = bp_get_u64(p) ^ crc;
        crc = bp_crc_table[7][word & 0xFF] ^ bp_crc_table[6][(word >> 8) & 0xFF] ^
              bp_crc_table[5][(word >> 16) & 0xFF] ^ bp_crc_table[4][(word >> 24) & 0xFF] ^
              bp_crc_table[3][(word >> 32) & 0xFF] ^ bp_crc_table[2][(word >> 40) & 0xFF] ^
              bp_crc_table[1][(word >> 48) & 0xFF] ^ bp_crc_table[0][word >> 56];
        p += 8;
        n -= 8;
    }
    for (; n > 0; n--) {
        crc = (crc >> 8) ^ bp_crc_table[0][(crc ^ *p++) & 0xFF];
    }
    return crc;
}

uint32_t bp_crc32c_table(uint32_t crc, const void *data, size_t n) {
    return ~table_extend(~crc, data, n);
}

/* a * b mod P, bit by bit. */
static uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (int i = 0; i < 32; i++) {
        product ^= b & (0u - (a >> 31));
        a <<= 1;
        b = (b >> 1) ^ (0x82F63B78u & (0u - (b & 1u)));
    }
    return product;
}

static uint32_t table_carry(uint32_t crc, uint64_t length) {
    for (unsigned k = 0; length != 0; k = k + 1 == BP_CRC_SHIFTS ? 0 : k + 1, length >>= 1) {
        if ((length & 1) != 0) {
            crc = multiply(crc, bp_crc_shift[k]);
        }
    }
    return crc;
}

/* ---- the instruction */

#if defined(__x86_64__)

#define BP_CRC_HARDWARE "sse4.2"
#define BP_CRC_TARGET __attribute__((target("sse4.2,pclmul")))

static inline int hardware_has_crc(void) {
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

BP_CRC_TARGET static inline uint64_t step_u64(uint64_t crc, uint64_t word) {
    return _mm_crc32_u64(crc, word);
}

BP_CRC_TARGET static inline uint64_t step_u32(uint64_t crc, uint32_t word) {
    return _mm_crc32_u32((uint32_t)crc, word);
}

BP_CRC_TARGET static inline uint64_t step_u16(uint64_t crc, uint16_t word) {
    return _mm_crc32_u16((uint32_t)crc, word);
}

BP_CRC_TARGET static inline uint64_t step_u8(uint64_t crc, uint8_t word) {
    return _mm_crc32_u8((uint32_t)crc, word);
}

BP_CRC_TARGET static inline uint64_t clmul(uint64_t a, uint32_t b) {
    __m128i product =
        _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)a), _mm_cvtsi32_si128((int32_t)b), 0);
    return (uint64_t)_mm_cvtsi128_si64(product);
}

#elif defined(__aarch64__) && defined(__linux__)

#define BP_CRC_HARDWARE "armv8"
#define BP_CRC_TARGET __attribute__((target("+crc+crypto")))

static inline int hardware_has_crc(void) {
    const unsigned long want = (1ul << 4) | (1ul << 7); /* HWCAP_PMULL, HWCAP_CRC32 */
    return (getauxval(AT_HWCAP) & want) == want;
}

BP_CRC_TARGET static inline uint64_t step_u64(uint64_t crc, uint64_t word) {
    return __crc32cd((uint32_t)crc, word);
}

BP_CRC_TARGET static inline uint64_t step_u32(uint64_t crc, uint32_t word) {
    return __crc32cw((uint32_t)crc, word);
}

BP_CRC_TARGET static inline uint64_t step_u16(uint64_t crc, uint16_t word) {
    return __crc32ch((uint32_t)crc, word);
}

BP_CRC_TARGET static inline uint64_t step_u8(uint64_t crc, uint8_t word) {
    return __crc32cb((uint32_t)crc, word);
}

BP_CRC_TARGET static inline uint64_t clmul(uint64_t a, uint32_t b) {
    return (uint64_t)vmull_p64((poly64_t)a, (poly64_t)b);
}

#endif

#if defined(BP_CRC_HARDWARE)

/* Three lanes of `words` words each, joined: see the drawing. */
BP_CRC_TARGET static inline uint64_t lanes_extend(uint64_t crc, const uint8_t *p, size_t words) {
    const uint8_t *a = p, *b = p + 8 * words, *c = p + 16 * words;
    uint64_t crc_b = 0, crc_c = 0;
    for (size_t i = 0; i + 1 < words; i++) {
        crc = step_u64(crc, bp_get_u64(a));
        crc_b = step_u64(crc_b, bp_get_u64(b));
        crc_c = step_u64(crc_c, bp_get_u64(c));
        a += 8;
        b += 8;
        c += 8;
    }
    crc = step_u64(crc, bp_get_u64(a));
    crc_b = step_u64(crc_b, bp_get_u64(b));
    uint64_t sum = clmul(crc, bp_crc_lane[words][0]) ^ clmul(crc_b, bp_crc_lane[words][1]);
    return step_u64(crc_c, bp_get_u64(c) ^ sum);
}

enum { LANES_MIN = 96 }; /* bytes; below, one chain is done before three are joined (measured) */

BP_CRC_TARGET static uint32_t hardware_extend(uint32_t start, const uint8_t *p, size_t n) {
    uint64_t crc = start;
    while (n >= LANES_MIN) {
        size_t words = n / 24 < BP_CRC_LANE_WORDS_MAX ? n / 24 : BP_CRC_LANE_WORDS_MAX;
        crc = lanes_extend(crc, p, words);
        p += 24 * words;
        n -= 24 * words;
    }
    for (; n >= 8; n -= 8, p += 8) {
        crc = step_u64(crc, bp_get_u64(p));
    }
    if ((n & 4) != 0) {
        crc = step_u32(crc, bp_get_u32(p));
        p += 4;
    }
    if ((n & 2) != 0) {
        crc = step_u16(crc, bp_get_u16(p));
        p += 2;
    }
    if ((n & 1) != 0) {
        crc = step_u8(crc, *p);
    }
    return (uint32_t)crc;
}

BP_CRC_TARGET static uint32_t hardware_carry(uint32_t start, uint64_t length) {
    uint64_t crc = start;
    for (unsigned k = 0; length != 0; k = k + 1 == BP_CRC_SHIFTS ? 0 : k + 1, length >>= 1) {
        if ((length & 1) != 0) {
            crc = step_u64(0, clmul(crc, bp_crc_carry[k]));
        }
    }
    return (uint32_t)crc;
}

#else

#define BP_CRC_HARDWARE "table"

static inline int hardware_has_crc(void) { return 0; }

static uint32_t hardware_extend(uint32_t crc, const uint8_t *p, size_t n) {
    return table_extend(crc, p, n);
}

static uint32_t hardware_carry(uint32_t crc, uint64_t length) { return table_carry(crc, length); }

#endif

/* ---- the choice */

uint32_t bp_crc32c(uint32_t crc, const void *data, size_t n) {
    return hardware_has_crc() ? ~hardware_extend(~crc, data, n) : ~table_extend(~crc, data, n);
}

uint32_t bp_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b) {
    /* The complements at both ends cancel: carrying is linear and each side complements once. */
    uint32_t carried =
        hardware_has_crc() ? hardware_carry(crc_a, length_b) : table_carry(crc_a, length_b);
    return carried ^ crc_b;
}

const char *bp_crc32c_implementation(void) {
    return hardware_has_crc() ? BP_CRC_HARDWARE : "table";
}

/*
 * CRC32C: known answers, every implementation equal on every length and alignment, constants
 * recomputed, speed on request.
 */
#include "crc32c.h"

#include "../src/crc32c_tables.h"
#include "check.h"

#include <stdint.h>
#include <time.h>

static uint64_t random_state = 0x9E3779B97F4A7C15u;

static uint64_t random_u64(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void fill_random(uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        p[i] = (uint8_t)(random_u64() >> 32);
    }
}

/* The definition, one bit at a time: shares nothing with the code under test. */
static uint32_t slow_crc(uint32_t crc, const uint8_t *p, size_t n) {
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0x82F63B78u : 0u);
        }
    }
    return ~crc;
}

static void check_all(const uint8_t *p, size_t n, uint32_t start) {
    uint32_t want = slow_crc(start, p, n);
    CHECK_EQ_U64(bp_crc32c(start, p, n), want);
    CHECK_EQ_U64(bp_crc32c_table(start, p, n), want);
}

static void known_answers(void) {
    uint8_t block[32];
    CHECK_EQ_U64(bp_crc32c(0, "123456789", 9), 0xE3069283u);
    CHECK_EQ_U64(bp_crc32c_table(0, "123456789", 9), 0xE3069283u);
    CHECK_EQ_U64(bp_crc32c(0, "", 0), 0);
    /* RFC 3720, B.4 */
    memset(block, 0, sizeof block);
    CHECK_EQ_U64(bp_crc32c(0, block, sizeof block), 0x8A9136AAu);
    memset(block, 0xFF, sizeof block);
    CHECK_EQ_U64(bp_crc32c(0, block, sizeof block), 0x62A8AB43u);
    for (int i = 0; i < 32; i++) {
        block[i] = (uint8_t)i;
    }
    CHECK_EQ_U64(bp_crc32c(0, block, sizeof block), 0x46DD794Eu);
    for (int i = 0; i < 32; i++) {
        block[i] = (uint8_t)(31 - i);
    }
    CHECK_EQ_U64(bp_crc32c(0, block, sizeof block), 0x113FDB5Cu);
    static const uint8_t iscsi_read[48] = {
        0x01, 0xc0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 4, 0,
        0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 2,    0, 0, 0, 0, 0, 0, 0};
    CHECK_EQ_U64(bp_crc32c(0, iscsi_read, sizeof iscsi_read), 0xD9963A56u);
}

static void every_short_length_agrees(void) {
    static uint8_t data[1200];
    fill_random(data, sizeof data);
    for (size_t n = 0; n <= 1100; n++) {
        check_all(data + n % 8, n, n % 3 == 0 ? 0 : (uint32_t)random_u64());
    }
}

static void every_alignment_agrees(void) {
    static uint8_t data[4096 + 128];
    static const size_t lengths[] = {0, 1, 7, 8, 16, 24, 63, 95, 96, 97, 255, 300, 4080, 4096};
    fill_random(data, sizeof data);
    for (size_t at = 0; at < 64; at++) {
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            check_all(data + at, lengths[i], 0);
        }
    }
}

static void long_and_random_lengths_agree(void) {
    enum { SIZE = 70000 };
    static uint8_t data[SIZE];
    fill_random(data, sizeof data);
    for (size_t n = 4070; n < 4200; n++) { /* one pass of lanes, two passes */
        check_all(data, n, 1);
    }
    for (int round = 0; round < 300; round++) {
        size_t at = random_u64() % (SIZE / 2), n = random_u64() % (SIZE / 2);
        CHECK_EQ_U64(bp_crc32c(7, data + at, n), bp_crc32c_table(7, data + at, n));
    }
    check_all(data, SIZE, 0);
}

static void exact_bounds_are_read(void) {
    /* A heap block of exactly n bytes, so that ASan sees a read past it. */
    for (size_t n = 1; n <= 320; n++) {
        uint8_t *data = malloc(n);
        CHECK(data != NULL);
        fill_random(data, n);
        check_all(data, n, 0);
        free(data);
    }
}

static void pieces_extend_to_the_whole(void) {
    static uint8_t data[3000];
    fill_random(data, sizeof data);
    uint32_t whole = bp_crc32c(0, data, sizeof data);
    for (size_t cut = 0; cut <= sizeof data; cut += 37) {
        uint32_t crc = bp_crc32c(bp_crc32c(0, data, cut), data + cut, sizeof data - cut);
        CHECK_EQ_U64(crc, whole);
    }
}

static void combine_is_concatenation(void) {
    static uint8_t data[3000];
    fill_random(data, sizeof data);
    uint32_t whole = bp_crc32c(0, data, sizeof data);
    for (size_t cut = 0; cut <= sizeof data; cut++) {
        uint32_t a = bp_crc32c(0, data, cut), b = bp_crc32c(0, data + cut, sizeof data - cut);
        CHECK_EQ_U64(bp_crc32c_combine(a, b, sizeof data - cut), whole);
    }
    CHECK_EQ_U64(bp_crc32c_combine(whole, 0, 0), whole);
    CHECK_EQ_U64(bp_crc32c_combine(0, whole, sizeof data), whole);
}

static void combine_takes_huge_lengths(void) {
    /* (a . zeros(n)) . zeros(m) = a . zeros(n + m), beyond anything that could be summed. */
    uint32_t a = bp_crc32c(0, "bedplate", 8);
    for (int round = 0; round < 200; round++) {
        uint64_t n = random_u64() >> 2, m = random_u64() >> 2;
        uint32_t twice = bp_crc32c_combine(bp_crc32c_combine(a, 0, n), 0, m);
        CHECK_EQ_U64(twice, bp_crc32c_combine(a, 0, n + m));
    }
    uint32_t sixteen = a; /* 2^32 zero bytes, by way of 16 lengths of 2^28 */
    for (int i = 0; i < 16; i++) {
        sixteen = bp_crc32c_combine(sixteen, 0, 1u << 28);
    }
    CHECK_EQ_U64(bp_crc32c_combine(a, 0, (uint64_t)1 << 32), sixteen);
}

static void a_flipped_bit_changes_the_sum(void) {
    static uint8_t data[600];
    fill_random(data, sizeof data);
    uint32_t whole = bp_crc32c(0, data, sizeof data);
    for (size_t bit = 0; bit < sizeof data * 8; bit++) {
        data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        CHECK(bp_crc32c(0, data, sizeof data) != whole);
        data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

/* x^n mod P by definition: bit 31 is x^0. */
static uint32_t times_x(uint32_t a) { return (a >> 1) ^ ((a & 1u) != 0 ? 0x82F63B78u : 0u); }

static uint32_t times(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (int i = 31; i >= 0; i--, b = times_x(b)) {
        product ^= ((a >> i) & 1u) != 0 ? b : 0;
    }
    return product;
}

static uint32_t power_of_x(uint64_t n) {
    uint32_t result = 0x80000000u, base = 0x40000000u;
    for (; n != 0; n >>= 1, base = times(base, base)) {
        result = (n & 1) != 0 ? times(result, base) : result;
    }
    return result;
}

static void constants_follow_from_the_polynomial(void) {
    const uint64_t order = 0x7FFFFFFF;
    CHECK_EQ_U64(power_of_x(order), 0x80000000u);
    for (unsigned j = 0; j < 8; j++) {
        for (unsigned i = 0; i < 256; i++) {
            uint32_t want = 0;
            for (unsigned k = 0; k < 8; k++) {
                want ^= ((i >> k) & 1u) != 0 ? power_of_x(32 + 8 * j + 7 - k) : 0;
            }
            CHECK_EQ_U64(bp_crc_table[j][i], want);
        }
    }
    for (unsigned k = 0; k < BP_CRC_SHIFTS; k++) {
        CHECK_EQ_U64(bp_crc_shift[k], power_of_x((uint64_t)8 << k));
    }
#if defined(__x86_64__) || (defined(__aarch64__) && defined(__linux__))
    for (unsigned k = 0; k < BP_CRC_SHIFTS; k++) {
        CHECK_EQ_U64(bp_crc_carry[k], power_of_x(((uint64_t)8 << k) + order - 33));
    }
    for (uint64_t w = 1; w <= BP_CRC_LANE_WORDS_MAX; w++) {
        CHECK_EQ_U64(bp_crc_lane[w][0], power_of_x(128 * w + order - 33));
        CHECK_EQ_U64(bp_crc_lane[w][1], power_of_x(64 * w + order - 33));
    }
#endif
}

static void the_implementation_has_a_name(void) {
    const char *name = bp_crc32c_implementation();
    CHECK(strcmp(name, "sse4.2") == 0 || strcmp(name, "armv8") == 0 || strcmp(name, "table") == 0);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Each sum starts from the last, as values of one frame do not: the worst case for short inputs. */
static void bench_one(const char *name, uint32_t (*crc32c)(uint32_t, const void *, size_t),
                      const uint8_t *data, size_t n) {
    double best = 0;
    uint32_t crc = 0;
    for (int round = 0; round < 7; round++) {
        size_t calls = (size_t)20000000 / (n + 16);
        double start = seconds();
        for (size_t i = 0; i < calls; i++) {
            crc ^= crc32c(0, data + (crc & 7), n);
        }
        double rate = (double)(calls * n) / (seconds() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    printf("%-7s %6zu B  %6.2f GB/s  %7.1f ns  (%08x)\n", name, n, best, (double)n / best, crc);
}

static int bench(void) {
    static uint8_t data[65536 + 64];
    static const size_t sizes[] = {16, 32, 64, 96, 128, 200, 256, 300, 1024, 4096, 65536};
    fill_random(data, sizeof data);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        bench_one(bp_crc32c_implementation(), bp_crc32c, data, sizes[i]);
    }
    bench_one("table", bp_crc32c_table, data, 4096);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        return bench();
    }
    TESTS_BEGIN;
    RUN(known_answers);
    RUN(every_short_length_agrees);
    RUN(every_alignment_agrees);
    RUN(long_and_random_lengths_agree);
    RUN(exact_bounds_are_read);
    RUN(pieces_extend_to_the_whole);
    RUN(combine_is_concatenation);
    RUN(combine_takes_huge_lengths);
    RUN(a_flipped_bit_changes_the_sum);
    RUN(constants_follow_from_the_polynomial);
    RUN(the_implementation_has_a_name);
    TESTS_END;
}

/*
 * What is written: keys by number, values that belong to their key, and orders of keys that never
 * depend on the clock.
 *
 *   key
 *       [ 8 bytes: the number, big-endian, so that byte order is numeric order ][ '.' to the size ]
 *   value  bytes of one random block, starting at a place that the key's number picks: no two
 *   neighbours alike, nothing compressible
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "settings.h"

uint64_t bench_now_ns(void);
/* CPU seconds of this process so far, all threads. */
double bench_cpu_seconds(void);

struct rng {
    uint64_t state;
};
uint64_t rng_next(struct rng *rng);
uint64_t rng_below(struct rng *rng, uint64_t n);

/* Writes key_size bytes. */
void workload_key(const struct settings *settings, uint64_t number, uint8_t *key);

struct values {
    uint8_t *block;
    uint32_t value_size;
};
bool values_init(struct values *values, const struct settings *settings);
void values_free(struct values *values);
const uint8_t *values_of(const struct values *values, uint64_t number);

/* A random order of 0..n-1, each once, in constant memory; another `pass`, another order. */
struct shuffle {
    uint64_t n, mask, seed;
    uint32_t half_bits;
};
void shuffle_init(struct shuffle *shuffle, uint64_t n, uint64_t seed, uint64_t pass);
uint64_t shuffle_at(const struct shuffle *shuffle, uint64_t i);

#endif

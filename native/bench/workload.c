/*
 * shuffle: a Feistel network of four rounds over the smallest even number of bits that holds n,
 * walked until it lands below n.
 *
 *        L | R      ->   R | L ^ hash(R, round)
 */
#include "workload.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define VALUE_SPREAD 65536u

uint64_t bench_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

double bench_cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t rng_next(struct rng *rng) {
    rng->state += 0x9e3779b97f4a7c15u;
    return mix(rng->state);
}

uint64_t rng_below(struct rng *rng, uint64_t n) {
    __extension__ typedef unsigned __int128 u128;
    return (uint64_t)(((u128)rng_next(rng) * n) >> 64);
}

void workload_key(const struct settings *settings, uint64_t number, uint8_t *key) {
    for (uint32_t i = 0; i < 8; i++) {
        key[i] = (uint8_t)(number >> (56 - 8 * i));
    }
    memset(key + 8, '.', settings->key_size - 8);
}

bool values_init(struct values *values, const struct settings *settings) {
    values->value_size = settings->value_size;
    size_t words = (VALUE_SPREAD + settings->value_size) / 8 + 1;
    values->block = malloc(words * 8);
    if (values->block == NULL) {
        return false;
    }
    struct rng rng = {settings->seed};
    for (size_t i = 0; i < words; i++) {
        uint64_t word = rng_next(&rng);
        memcpy(values->block + i * 8, &word, 8);
    }
    return true;
}

void values_free(struct values *values) {
    free(values->block);
    values->block = NULL;
}

const uint8_t *values_of(const struct values *values, uint64_t number) {
    return values->block + mix(number) % VALUE_SPREAD;
}

void shuffle_init(struct shuffle *shuffle, uint64_t n, uint64_t seed, uint64_t pass) {
    shuffle->n = n;
    shuffle->half_bits = 1;
    while (shuffle->half_bits < 16 && 1ull << (2 * shuffle->half_bits) < n) {
        shuffle->half_bits++;
    }
    shuffle->mask = (1ull << shuffle->half_bits) - 1;
    shuffle->seed = mix(seed ^ mix(pass + 1));
}

static uint64_t permute(const struct shuffle *shuffle, uint64_t i) {
    uint64_t left = i >> shuffle->half_bits, right = i & shuffle->mask;
    for (uint64_t round = 0; round < 4; round++) {
        uint64_t next = left ^ (mix(right ^ shuffle->seed ^ (round << 56)) & shuffle->mask);
        left = right;
        right = next;
    }
    return (left << shuffle->half_bits) | right;
}

uint64_t shuffle_at(const struct shuffle *shuffle, uint64_t i) {
    do {
        i = permute(shuffle, i);
    } while (i >= shuffle->n); /* ends: a permutation's cycle comes back to where it began */
    return i;
}

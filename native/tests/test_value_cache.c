/* The value cache: what it returns is what was put, or nothing; whoever writes over whom. */
#include <pthread.h>

#include "../src/crc32c.h"
#include "../src/value_cache.h"
#include "check.h"

/* A value whose bytes follow from its number. */
static struct bp_value_ref make(uint32_t number, uint8_t bytes[BP_VALUE_CACHE_VALUE_MAX]) {
    uint32_t size = 1 + number * 37 % BP_VALUE_CACHE_VALUE_MAX;
    for (uint32_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)((number + i) * 2654435761u >> 24);
    }
    return (struct bp_value_ref){
        .at = {.segment = 1 + number / 1000, .offset = 8 + number % 1000 * 1024},
        .size = size,
        .crc = bp_crc32c(0, bytes, size)};
}

static void test_what_was_put_is_found_and_nothing_else(void) {
    struct bp_value_cache *cache = bp_value_cache_new(16u << 20);
    uint8_t bytes[BP_VALUE_CACHE_VALUE_MAX], got[BP_VALUE_CACHE_VALUE_MAX];
    uint32_t found = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        struct bp_value_ref value = make(i, bytes);
        CHECK(!bp_value_cache_get(cache, &value, got));
        bp_value_cache_put(cache, &value, bytes);
        CHECK(bp_value_cache_get(cache, &value, got) && memcmp(got, bytes, value.size) == 0);
    }
    for (uint32_t i = 0; i < 2000; i++) {
        struct bp_value_ref value = make(i, bytes);
        if (bp_value_cache_get(cache, &value, got)) {
            CHECK(memcmp(got, bytes, value.size) == 0);
            found++;
        }
        value.at.offset += 8;
        CHECK(!bp_value_cache_get(cache, &value, got));
    }
    CHECK(found > 1500); /* 1 MiB of values in 16 MiB: few fell on each other */
    bp_value_cache_free(cache);
}

static void test_a_small_cache_forgets_but_never_mixes_up(void) {
    struct bp_value_cache *cache = bp_value_cache_new(BP_VALUE_CACHE_BYTES_MIN);
    uint8_t bytes[BP_VALUE_CACHE_VALUE_MAX], got[BP_VALUE_CACHE_VALUE_MAX];
    uint32_t found = 0;
    for (uint32_t i = 0; i < 50000; i++) {
        struct bp_value_ref value = make(i, bytes);
        bp_value_cache_put(cache, &value, bytes);
        value = make(i / 2, bytes);
        if (bp_value_cache_get(cache, &value, got)) {
            CHECK(memcmp(got, bytes, value.size) == 0);
            found++;
        }
    }
    CHECK(found < 49000);
    bp_value_cache_free(cache);
    CHECK(bp_value_cache_new(BP_VALUE_CACHE_BYTES_MIN - 1) == NULL);
}

struct worker {
    struct bp_value_cache *cache;
    uint32_t first;
    pthread_t thread;
};

static void *put_and_get(void *arg) {
    struct worker *worker = arg;
    uint8_t bytes[BP_VALUE_CACHE_VALUE_MAX], got[BP_VALUE_CACHE_VALUE_MAX];
    for (uint32_t i = 0; i < 20000; i++) {
        struct bp_value_ref value = make((worker->first + i * 7) % 3000, bytes);
        if (bp_value_cache_get(worker->cache, &value, got)) {
            CHECK(memcmp(got, bytes, value.size) == 0);
        } else {
            bp_value_cache_put(worker->cache, &value, bytes);
        }
    }
    return NULL;
}

static void test_threads_never_read_a_torn_value(void) {
    struct bp_value_cache *cache = bp_value_cache_new(BP_VALUE_CACHE_BYTES_MIN);
    struct worker workers[3];
    for (uint32_t i = 0; i < 3; i++) {
        workers[i] = (struct worker){.cache = cache, .first = i * 11};
        CHECK(pthread_create(&workers[i].thread, NULL, put_and_get, &workers[i]) == 0);
    }
    for (uint32_t i = 0; i < 3; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    bp_value_cache_free(cache);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_what_was_put_is_found_and_nothing_else);
    RUN(test_a_small_cache_forgets_but_never_mixes_up);
    RUN(test_threads_never_read_a_torn_value);
    TESTS_END;
}

/*
 * The value cache: one array of 64-byte lines, no locks, no lists, no counts.
 *
 *   value of n bytes -> k = lines for 16 + n bytes -> place h mod (lines / k), of two hashes of
 *   where the value lies on disk
 *
 *   |k lines                    |k lines                    |
 *   |place u64|size:crc u64|bytes|                          |
 *
 * Values of other sizes share the same lines and may write over each other, and a reader may meet a
 * half-written entry: the value's CRC settles it. What does not match the place, the size and the
 * CRC that the index gives is simply not there. A place on disk is never used twice (segment.h), so
 * an entry can be absent but never stale.
 *
 * Words are loaded and stored one by one, relaxed: no tearing within a word, and no order is needed
 * beside the CRC.
 */
#include "value_cache.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "crc32c.h"

#define LINE 64u
#define WORDS_PER_LINE (LINE / 8u)
#define TAG_WORDS 2u

struct bp_value_cache {
    uint64_t lines;
    size_t mapped;
    _Atomic uint64_t *words;
};

_Static_assert((BP_VALUE_CACHE_VALUE_MAX + TAG_WORDS * 8) % LINE == 0,
               "the largest value fills its last line");

struct bp_value_cache *bp_value_cache_new(uint64_t bytes) {
    if (bytes < BP_VALUE_CACHE_BYTES_MIN) {
        return NULL;
    }
    struct bp_value_cache *cache = malloc(sizeof *cache);
    if (cache == NULL) {
        return NULL;
    }
    cache->lines = bytes / LINE;
    cache->mapped = cache->lines * LINE;
    void *map = mmap(NULL, cache->mapped, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        free(cache);
        return NULL;
    }
    (void)madvise(map, cache->mapped, MADV_HUGEPAGE); /* fewer TLB misses where the kernel can */
    cache->words = map;
    return cache;
}

void bp_value_cache_free(struct bp_value_cache *cache) {
    if (cache != NULL) {
        munmap((void *)cache->words, cache->mapped);
        free(cache);
    }
}

static uint64_t words_of(uint32_t size) { return ((uint64_t)size + 7) / 8; }

static uint64_t tag_of(const struct bp_value_ref *value) {
    return (uint64_t)value->size << 32 | value->crc;
}

/* The first word of the value's place; `way` 0 or 1. */
static _Atomic uint64_t *place(const struct bp_value_cache *cache, const struct bp_value_ref *value,
                               uint32_t way) {
    uint64_t k = (words_of(value->size) + TAG_WORDS + WORDS_PER_LINE - 1) / WORDS_PER_LINE;
    uint64_t h = bp_pos_u64(value->at) * (way == 0 ? 0x9e3779b97f4a7c15ull : 0xc2b2ae3d27d4eb4full);
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9ull;
    uint64_t slot = (uint64_t)((unsigned __int128)h * (cache->lines / k) >> 64);
    return cache->words + slot * k * WORDS_PER_LINE;
}

static bool holds(const _Atomic uint64_t *entry, const struct bp_value_ref *value) {
    return atomic_load_explicit(&entry[0], memory_order_relaxed) == bp_pos_u64(value->at) &&
           atomic_load_explicit(&entry[1], memory_order_relaxed) == tag_of(value);
}

static void copy_out(const _Atomic uint64_t *words, uint8_t *out, uint32_t size) {
    uint32_t whole = size / 8;
    for (uint32_t i = 0; i < whole; i++) {
        uint64_t word = atomic_load_explicit(&words[i], memory_order_relaxed);
        memcpy(out + 8u * i, &word, 8);
    }
    if (size % 8 != 0) {
        uint64_t word = atomic_load_explicit(&words[whole], memory_order_relaxed);
        memcpy(out + 8u * whole, &word, size % 8);
    }
}

bool bp_value_cache_get(const struct bp_value_cache *cache, const struct bp_value_ref *value,
                        uint8_t *out) {
    for (uint32_t way = 0; way < 2; way++) {
        const _Atomic uint64_t *entry = place(cache, value, way);
        if (holds(entry, value)) {
            copy_out(entry + TAG_WORDS, out, value->size);
            if (bp_crc32c(0, out, value->size) == value->crc) {
                return true;
            }
        }
    }
    return false;
}

void bp_value_cache_put(struct bp_value_cache *cache, const struct bp_value_ref *value,
                        const uint8_t *bytes) {
    _Atomic uint64_t *entry = place(cache, value, 0);
    /* An occupied first place sends the value to its second one, whoever is there. */
    if (atomic_load_explicit(&entry[0], memory_order_relaxed) != 0) {
        entry = place(cache, value, 1);
    }
    uint64_t whole = value->size / 8;
    atomic_store_explicit(&entry[0], 0, memory_order_relaxed);
    for (uint64_t i = 0; i < words_of(value->size); i++) {
        uint64_t word = 0;
        memcpy(&word, bytes + 8 * i, i < whole ? 8 : value->size % 8);
        atomic_store_explicit(&entry[TAG_WORDS + i], word, memory_order_relaxed);
    }
    atomic_store_explicit(&entry[1], tag_of(value), memory_order_relaxed);
    atomic_store_explicit(&entry[0], bp_pos_u64(value->at), memory_order_relaxed);
}

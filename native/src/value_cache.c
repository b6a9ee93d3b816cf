/*
 * The value cache: one array of 64-byte lines, no locks, no lists, no counts.
 *
 *   value of n bytes -> k = lines for 16 + n bytes -> place h mod (lines / k), of two hashes of
 *   where the value lies on disk
 *
 *   |k lines                    |k lines                    |                  ...| spans |
 *   |place u64|size:crc u64|bytes|
 *
 * Entries of other sizes, and rows (value_rows.c), share the same lines and may write over each
 * other, and a reader may meet a half-written entry: the value's CRC settles it. What does not
 * match the place, the size and the CRC that the index gives is simply not there. A place on disk
 * is never used twice (segment.h), so an entry can be absent but never stale.
 *
 * Words are loaded and stored one by one, relaxed: no tearing within a word, and no order is needed
 * beside the CRC.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "crc32c.h"
#include "value_cache_internal.h"

enum { TAG_WORDS = 2 };

_Static_assert((BP_VALUE_CACHE_VALUE_MAX + TAG_WORDS * 8) % BP_LINE == 0,
               "the largest value fills its last line");

struct bp_value_cache *bp_value_cache_new(uint64_t bytes) {
    if (bytes < BP_VALUE_CACHE_BYTES_MIN) {
        return NULL;
    }
    struct bp_value_cache *cache = malloc(sizeof *cache);
    if (cache == NULL) {
        return NULL;
    }
    cache->n_spans = bytes / (BP_LINES_PER_SPAN * BP_LINE + 1);
    cache->lines = cache->n_spans * BP_LINES_PER_SPAN;
    cache->mapped = cache->lines * BP_LINE + cache->n_spans;
    void *map = mmap(NULL, cache->mapped, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        free(cache);
        return NULL;
    }
    (void)madvise(map, cache->mapped, MADV_HUGEPAGE); /* fewer TLB misses where the kernel can */
    cache->words = map;
    cache->spans = (_Atomic uint8_t *)map + cache->lines * BP_LINE;
    return cache;
}

void bp_value_cache_free(struct bp_value_cache *cache) {
    if (cache != NULL) {
        munmap((void *)cache->words, cache->mapped);
        free(cache);
    }
}

static uint64_t tag_of(const struct bp_value_ref *value) {
    return (uint64_t)value->size << 32 | value->crc;
}

/* The first word of the value's place; `way` 0 or 1. */
static _Atomic uint64_t *place(const struct bp_value_cache *cache, const struct bp_value_ref *value,
                               uint32_t way) {
    uint64_t h = bp_pos_u64(value->at) * (way == 0 ? 0x9e3779b97f4a7c15ull : 0xc2b2ae3d27d4eb4full);
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9ull;
    return bp_line_slot(cache, h,
                        (bp_words_of(value->size) + TAG_WORDS + BP_LINE_WORDS - 1) / BP_LINE_WORDS);
}

static bool holds(const _Atomic uint64_t *entry, const struct bp_value_ref *value) {
    return bp_word(&entry[0]) == bp_pos_u64(value->at) && bp_word(&entry[1]) == tag_of(value);
}

void bp_value_cache_ahead(const struct bp_value_cache *cache, const struct bp_value_ref *value) {
    const uint8_t *entry = (const uint8_t *)place(cache, value, 0);
    for (uint32_t at = 0; at < value->size + TAG_WORDS * 8; at += BP_LINE) {
        __builtin_prefetch(entry + at);
    }
}

bool bp_value_cache_has(const struct bp_value_cache *cache, const struct bp_value_ref *value) {
    return holds(place(cache, value, 0), value) || holds(place(cache, value, 1), value);
}

bool bp_value_cache_get(const struct bp_value_cache *cache, const struct bp_value_ref *value,
                        uint8_t *out) {
    for (uint32_t way = 0; way < 2; way++) {
        const _Atomic uint64_t *entry = place(cache, value, way);
        if (holds(entry, value)) {
            bp_words_out(entry + TAG_WORDS, out, value->size);
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
    if (bp_word(&entry[0]) != 0) {
        entry = place(cache, value, 1);
    }
    bp_word_set(&entry[0], 0);
    bp_words_in(entry + TAG_WORDS, bytes, value->size);
    bp_word_set(&entry[1], tag_of(value));
    bp_word_set(&entry[0], bp_pos_u64(value->at));
}

/*
 * What the two kinds of entries of the value cache share: the lines. value_cache.c draws them.
 */
#ifndef BP_VALUE_CACHE_INTERNAL_H
#define BP_VALUE_CACHE_INTERNAL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "value_cache.h"

enum { BP_LINE = 64, BP_LINE_WORDS = BP_LINE / 8, BP_LINES_PER_SPAN = 8 };

struct bp_value_cache {
    uint64_t lines, n_spans;
    size_t mapped;
    _Atomic uint64_t *words;
    _Atomic uint8_t *spans; /* value_rows.c; behind the last line */
};

static inline uint64_t bp_words_of(uint64_t bytes) { return (bytes + 7) / 8; }

/* Entries of the same number of lines go together: their places are lines / k slots of k lines. */
static inline _Atomic uint64_t *bp_line_slot(const struct bp_value_cache *cache, uint64_t hash,
                                             uint64_t k) {
    uint64_t slot = (uint64_t)((unsigned __int128)hash * (cache->lines / k) >> 64);
    return cache->words + slot * k * BP_LINE_WORDS;
}

static inline uint64_t bp_word(const _Atomic uint64_t *word) {
    return atomic_load_explicit(word, memory_order_relaxed);
}

static inline void bp_word_set(_Atomic uint64_t *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline void bp_words_out(const _Atomic uint64_t *words, uint8_t *out, size_t size) {
    size_t whole = size / 8;
    for (size_t i = 0; i < whole; i++) {
        uint64_t word = bp_word(&words[i]);
        memcpy(out + 8 * i, &word, 8);
    }
    if (size % 8 != 0) {
        uint64_t word = bp_word(&words[whole]);
        memcpy(out + 8 * whole, &word, size % 8);
    }
}

static inline void bp_words_in(_Atomic uint64_t *words, const uint8_t *bytes, size_t size) {
    size_t whole = size / 8;
    for (size_t i = 0; i < bp_words_of(size); i++) {
        uint64_t word = 0;
        memcpy(&word, bytes + 8 * i, i < whole ? 8 : size % 8);
        bp_word_set(&words[i], word);
    }
}

#endif

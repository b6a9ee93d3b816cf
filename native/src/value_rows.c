/*
 * Rows (value_rows.h), in the lines of the value cache.
 *
 *   row    | check:key size:value size | as of | revision | create | lease | version:crc | key | value |
 *            u32   u16      u16          u64     u64        u64      u64     u32     u32   padded to 8
 *
 *   spans  | u8 | u8 | ...   one for every 8 lines: how many lines the last row has whose hash
 *                            picked this span. A value's size is not known before it is found.
 *
 *   get    hash -> span k -> one of two slots of k lines -> the same key? as of >= changed?
 *
 * Invariants
 *   - `check` is the CRC32C of everything behind it up to the value; `crc` is the value's own. An
 *     entry that is half written, written over, or of the other kind fails one of them, or is of
 *     another key, and counts as absent.
 *   - A row whose key was changed above `as of` is never returned. The applier stamps a change
 *     before it publishes its revision, and a get reads the stamp after the published revision: a
 *     change the get must see, it sees in the stamp. A change that is stamped and not yet published
 *     sends the get to the index, which answers for the revision published.
 *   - revision <= the view's: a row of a version published after the view was taken is not for it.
 */
#include "value_rows.h"

#include "crc32c.h"
#include "value_cache_internal.h"

enum { HEAD_WORDS = 6, HEAD_AND_KEY_MAX = HEAD_WORDS * 8 + BP_ROW_KEY_MAX };

_Static_assert((HEAD_AND_KEY_MAX + BP_VALUE_CACHE_VALUE_MAX + BP_LINE - 1) / BP_LINE <= UINT8_MAX,
               "a span holds the lines of the largest row");
_Static_assert(BP_ROW_KEY_MAX % 8 == 0, "the longest key ends a word");

/* ---- where a row lies ------------------------------------------------------------------------ */

static uint64_t head_words(uint64_t key_size) { return HEAD_WORDS + bp_words_of(key_size); }

static _Atomic uint8_t *span_of(const struct bp_value_cache *cache, uint64_t hash) {
    uint64_t mixed = hash * 0x9e3779b97f4a7c15ull;
    return cache->spans + (uint64_t)((unsigned __int128)mixed * cache->n_spans >> 64);
}

static _Atomic uint64_t *slot_of(const struct bp_value_cache *cache, uint64_t hash, uint64_t k,
                                 uint32_t way) {
    return bp_line_slot(cache, way == 0 ? hash : (hash ^ hash >> 31) * 0xc2b2ae3d27d4eb4full, k);
}

static bool has_key(const _Atomic uint64_t *row, struct bp_slice key) {
    if ((bp_word(&row[0]) >> 16 & UINT16_MAX) != key.size) {
        return false;
    }
    uint8_t bytes[BP_ROW_KEY_MAX];
    bp_words_out(row + HEAD_WORDS, bytes, key.size);
    return memcmp(bytes, key.data, key.size) == 0;
}

/* ---- one row --------------------------------------------------------------------------------- */

static uint64_t first_word(const uint64_t head[HEAD_WORDS], struct bp_slice key, uint32_t size) {
    uint64_t sizes = (uint64_t)key.size << 16 | size;
    uint32_t check = bp_crc32c((uint32_t)sizes, head + 1, (HEAD_WORDS - 1) * sizeof head[0]);
    return (uint64_t)bp_crc32c(check, key.data, key.size) << 32 | sizes;
}

/* `k`: the lines it may fill. */
static bool read_row(const _Atomic uint64_t *row, uint64_t k, const struct bp_row_want *want,
                     uint8_t *out, uint32_t capacity, struct bp_version *version) {
    uint64_t head[HEAD_WORDS];
    for (uint32_t i = 0; i < HEAD_WORDS; i++) {
        head[i] = bp_word(&row[i]);
    }
    uint32_t size = head[0] & UINT16_MAX;
    if (head[1] < want->changed || head[2] > want->revision || size > capacity ||
        head_words(want->key.size) + bp_words_of(size) > k * BP_LINE_WORDS ||
        !has_key(row, want->key) || head[0] != first_word(head, want->key, size)) {
        return false;
    }
    *version = (struct bp_version){.revision = head[2],
                                   .create_revision = head[3],
                                   .lease = head[4],
                                   .version = (uint32_t)(head[5] >> 32),
                                   .value = {.size = size, .crc = (uint32_t)head[5]}};
    bp_words_out(row + head_words(want->key.size), out, size);
    return bp_crc32c(0, out, size) == version->value.crc;
}

bool bp_rows_get(const struct bp_value_cache *cache, const struct bp_row_want *want, uint8_t *out,
                 uint32_t capacity, struct bp_version *version) {
    if (cache == NULL || want->key.size > BP_ROW_KEY_MAX) {
        return false;
    }
    uint64_t k = atomic_load_explicit(span_of(cache, want->hash), memory_order_relaxed);
    if (k == 0) {
        return false;
    }
    const _Atomic uint64_t *first = slot_of(cache, want->hash, k, 0);
    for (uint64_t line = 0; line < k; line++) {
        __builtin_prefetch((const uint8_t *)first + line * BP_LINE);
    }
    return read_row(first, k, want, out, capacity, version) ||
           read_row(slot_of(cache, want->hash, k, 1), k, want, out, capacity, version);
}

/* A key has one version of a revision, and that never changes: of whatever age the row is. */
bool bp_rows_value(const struct bp_value_cache *cache, const struct bp_row_want *want,
                   const struct bp_version *version, uint8_t *out) {
    const struct bp_row_want exact = {
        .key = want->key, .hash = want->hash, .revision = version->revision};
    struct bp_version found;
    return bp_rows_get(cache, &exact, out, version->value.size, &found) &&
           found.revision == version->revision && found.value.size == version->value.size &&
           found.value.crc == version->value.crc;
}

static bool is_free_for(const _Atomic uint64_t *row, struct bp_slice key) {
    return bp_word(&row[0]) == 0 || has_key(row, key);
}

/*
 * The slot to write to: one that is free or holds an older row of the key, else one of the two; not
 * always the same one, or what nobody reads any more would keep the other for ever.
 */
static _Atomic uint64_t *slot_for(const struct bp_value_cache *cache,
                                  const struct bp_row_want *want, uint64_t k) {
    _Atomic uint64_t *first = slot_of(cache, want->hash, k, 0),
                     *second = slot_of(cache, want->hash, k, 1);
    if (is_free_for(first, want->key)) {
        return first;
    }
    return is_free_for(second, want->key) || ((want->hash ^ want->revision) & 1) != 0 ? second
                                                                                      : first;
}

void bp_rows_put(struct bp_value_cache *cache, const struct bp_row_want *want,
                 const struct bp_version *version, const uint8_t *bytes) {
    struct bp_slice key = want->key;
    uint32_t size = version->value.size;
    if (cache == NULL || key.size > BP_ROW_KEY_MAX || size > BP_VALUE_CACHE_VALUE_MAX ||
        want->changed > want->revision) {
        return;
    }
    uint64_t at = head_words(key.size);
    uint64_t k = (at + bp_words_of(size) + BP_LINE_WORDS - 1) / BP_LINE_WORDS;
    _Atomic uint64_t *row = slot_for(cache, want, k);
    const uint64_t head[HEAD_WORDS] = {0,
                                       want->revision,
                                       version->revision,
                                       version->create_revision,
                                       version->lease,
                                       (uint64_t)version->version << 32 | version->value.crc};
    bp_word_set(&row[0], 0);
    for (uint32_t i = 1; i < HEAD_WORDS; i++) {
        bp_word_set(&row[i], head[i]);
    }
    bp_words_in(row + HEAD_WORDS, key.data, key.size);
    bp_words_in(row + at, bytes, size);
    bp_word_set(&row[0], first_word(head, key, size));
    atomic_store_explicit(span_of(cache, want->hash), (uint8_t)k, memory_order_relaxed);
}

/*
 * Rows: the newest version of a key together with its value, so that a hot get asks neither the
 * index nor a segment. They live in the lines of the value cache; value_rows.c draws one.
 *
 * A row says "this was the newest version of the key as of revision A". It is good as long as the
 * index has not stamped a change of the key above A (bp_index_changed): whoever gets one brings the
 * stamp, read after the view it answers for, and whoever puts one brings the view's revision.
 */
#ifndef BP_VALUE_ROWS_H
#define BP_VALUE_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "index.h"
#include "value_cache.h"

/* Longer keys get no row. */
#define BP_ROW_KEY_MAX 256u

/* What a get is about. */
struct bp_row_want {
    struct bp_slice key; /* a stored key */
    uint64_t hash;       /* bp_index_key_hash of it */
    uint64_t changed;    /* bp_index_changed of that, read after `revision` was taken */
    uint64_t revision;   /* of the view that is answered for */
};

/*
 * The version of the key visible at want->revision, and its value, of at most `capacity` bytes, in
 * `out`, matching its CRC. version->value has no place. False: ask the index; `out` may be written
 * to. A NULL cache has no rows. Any thread.
 */
bool bp_rows_get(const struct bp_value_cache *cache, const struct bp_row_want *want, uint8_t *out,
                 uint32_t capacity, struct bp_version *version);
/*
 * The value of `version`, which the index gave for the key, from a row that may have been overtaken
 * by a change elsewhere under its stamp. `out` has room for it. Any thread.
 */
bool bp_rows_value(const struct bp_value_cache *cache, const struct bp_row_want *want,
                   const struct bp_version *version, uint8_t *out);
/*
 * `version` was visible at want->revision or at a later one, `bytes` are its value's and match its
 * CRC. Keeps nothing that is too large, or may have been overtaken meanwhile. Any thread.
 */
void bp_rows_put(struct bp_value_cache *cache, const struct bp_row_want *want,
                 const struct bp_version *version, const uint8_t *bytes);

#endif

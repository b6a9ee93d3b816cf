/*
 * The value cache: small values that were read lately, so that a hot read costs no system call. Its
 * workings are drawn in value_cache.c; value_rows.h is its other face.
 */
#ifndef BP_VALUE_CACHE_H
#define BP_VALUE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "index.h"

/* Values above this are not kept: their read is worth its system call. */
#define BP_VALUE_CACHE_VALUE_MAX 1008u
#define BP_VALUE_CACHE_BYTES_MIN (1u << 20)

struct bp_value_cache;

/*
 * Address space for `bytes`, memory as it fills. NULL below BP_VALUE_CACHE_BYTES_MIN or when there
 * is no room.
 */
struct bp_value_cache *bp_value_cache_new(uint64_t bytes);
void bp_value_cache_free(struct bp_value_cache *cache);
/* The whole value into `out`, matching its CRC; false when it is not here. Any thread. */
bool bp_value_cache_get(const struct bp_value_cache *cache, const struct bp_value_ref *value,
                        uint8_t *out);
/* `bytes` are the value's and match its CRC. Any thread. */
void bp_value_cache_put(struct bp_value_cache *cache, const struct bp_value_ref *value,
                        const uint8_t *bytes);
/* Ask the processor for the lines where the value most likely is; it is got soon. Any thread. */
void bp_value_cache_ahead(const struct bp_value_cache *cache, const struct bp_value_ref *value);
/* A get would most likely find it: its tag is here, its bytes are not looked at. Any thread. */
bool bp_value_cache_has(const struct bp_value_cache *cache, const struct bp_value_ref *value);

#endif

/*
 * Settled segments: values the cleaner copied out of other segments, each with all that is known of
 * it.
 *
 *   segment  [header 4096, segment.h][record][record]...
 *   record   0 u32 size (whole, multiple of 8)
 *            4 u32 CRC32C of bytes 8..56, the key and the CRC table
 *            8 u64 revision  16 u64 create_revision  24 u64 lease  32 u32 version
 *           36 u32 value size  40 u32 value crc  44 u16 stored key size  46 u16 zero  48 u64
 *           segment's salt
 *           56 key, padded; [CRC table, padded]; value, padded
 *
 * A record is durable, and its segment's name too, before the index or a checkpoint points at it.
 * CRCs are the original ones.
 */
#ifndef BP_SETTLED_H
#define BP_SETTLED_H

#include "bytes.h"
#include "error.h"
#include "index.h"
#include "limits.h"
#include "segment.h"

#define BP_SETTLED_RECORD 56u

struct bp_settled_record {
    struct bp_slice key;
    struct bp_version version; /* value.at is where the value lies in the segment */
    uint32_t size;
};

#define BP_SETTLED_RECORD_MAX                                                                      \
    (BP_SETTLED_RECORD + BP_STORED_KEY_MAX + 7u + BP_VALUE_MAX / BP_CRC_CHUNK * 4u + BP_VALUE_MAX)

/* Bytes a record takes. */
uint32_t bp_settled_size(uint32_t key_size, uint32_t value_size);
/*
 * Write one record; `table` is the value's CRC table, padded (bp_value_checksum), for values that
 * have one. Returns the offset of the value in it. Places in `version` are ignored.
 */
uint32_t bp_settled_encode(uint8_t *out, uint64_t salt, struct bp_slice key,
                           const struct bp_version *version, const uint8_t *table,
                           struct bp_slice value);
/*
 * Parse the record at buf[0..n) whose file offset is `offset`: BP_OK, or OUT_OF_RANGE when there is
 * none. Pure; fuzzed.
 */
int bp_settled_decode(const uint8_t *buf, uint64_t n, uint32_t segment, uint32_t offset,
                      uint64_t salt, struct bp_settled_record *record);
/* Walk all records of a settled segment (values are not verified). */
int bp_settled_walk(struct bp_segments *segments, const struct bp_segment *segment, int site,
                    int (*each)(void *arg, const struct bp_settled_record *record), void *arg,
                    struct bp_error *err);

#endif

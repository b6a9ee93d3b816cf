/*
 * Reading values: the only way bytes leave a segment for a client. Nothing is returned that did not
 * match its CRC32C.
 *
 *   value <= 64 KiB:  [bytes]                     crc of the bytes is in the index
 *   value  > 64 KiB:  [crc][crc]...[pad][bytes]
 *       crc of the table (without padding) is in the index; each 64 KiB chunk has its own,
 *                                                 so a read verifies only the chunks it returns
 */
#ifndef BP_VALUE_H
#define BP_VALUE_H

#include "error.h"
#include "index.h"
#include "segment.h"

/*
 * Copy value[offset .. offset+size) to out, verified. The caller is inside a read section.
 * DATA_LOSS/VALUE_DAMAGED names file and offset and marks the segment damaged;
 * UNAVAILABLE/IO_FAILED when the read itself fails.
 */
int bp_value_read(struct bp_segments *segments, const struct bp_value_ref *value, uint32_t offset,
                  uint32_t size, uint8_t *out, struct bp_error *err);
/* The same from the segment, whatever the value cache has, and leaving nothing in it. */
int bp_value_fetch(struct bp_segments *segments, const struct bp_value_ref *value, uint32_t offset,
                   uint32_t size, uint8_t *out, struct bp_error *err);
/*
 * These values are read next, each whole, one after the other: bring the small ones into the value
 * cache, those near each other in a segment with one read. Only warms: what cannot be read or fails
 * its checksum is left for bp_value_read to report. The caller is inside a read section.
 */
void bp_value_ahead(struct bp_segments *segments, const struct bp_version *versions, uint32_t n);
/*
 * Check the value and, when chunked, its table, without copying out; `scratch` holds BP_CRC_CHUNK
 * bytes. For scrub.
 */
int bp_value_verify(struct bp_segments *segments, const struct bp_value_ref *value, int site,
                    uint8_t *scratch, struct bp_error *err);

#endif

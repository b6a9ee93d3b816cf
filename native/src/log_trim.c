/*
 * Giving up the zeros behind the newest segment's data before a newer one is durable: what recovery
 * does when the disk is too full for the new one.
 *
 *   before  |header|frame|frame| torn |...... zeros ......|    header.size bytes
 *   after   |header|frame|frame| torn |mark|
 *
 *   mark (16 bytes, little-endian)
 *   0  u64 complement of the segment's salt     8  u32 offset of the mark
 *   12 u32 CRC32C of bytes 0..11
 *
 * A file that lost its end to something else (a copy that stopped, truncate) looks like a tail that
 * a power cut tore, but for its size: the newest segment has the size in its header or ends with
 * this mark. Older segments need none: the header behind them says where they end.
 *
 * Invariants
 *   - The mark is durable before the file becomes shorter.
 *   - Nothing that was written is overwritten: the mark lies in preallocated zeros.
 *   - The mark is no frame: no salt begins it, and nothing behind it is read.
 */
#include "log_internal.h"

#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"

#define MARK 16u

static void encode(const struct bp_segment *segment, uint32_t at, uint8_t mark[MARK]) {
    bp_put_u64(mark, ~segment->header.salt);
    bp_put_u32(mark + 8, at);
    bp_put_u32(mark + 12, bp_crc32c(0, mark, 12));
}

int bp_trim_newest(struct bp_segments *segments, const struct bp_segment *segment,
                   uint32_t dirty_end) {
    struct bp_disk *disk = bp_segments_disk(segments);
    uint64_t at = bp_align8_u64(dirty_end);
    if (at + MARK >= segment->size) {
        return 0;
    }
    uint8_t mark[MARK];
    encode(segment, (uint32_t)at, mark);
    int rc = bp_disk_write(disk, BP_SITE_LOG_TRIM, segment->fd, mark, MARK, at);
    rc = rc < 0 ? rc : bp_disk_sync(disk, BP_SITE_LOG_TRIM, segment->fd);
    return rc < 0 ? rc : bp_disk_truncate(disk, BP_SITE_LOG_TRIM, segment->fd, at + MARK);
}

int bp_trim_check(struct bp_segments *segments, struct bp_segment *segment, struct bp_error *err) {
    if (segment->size >= segment->header.size) {
        return BP_OK;
    }
    uint8_t mark[MARK], expected[MARK];
    uint32_t at = segment->size - MARK; /* a segment is never shorter than its header */
    int rc =
        bp_disk_read(bp_segments_disk(segments), BP_SITE_RECOVER_READ, segment->fd, mark, MARK, at);
    if (rc < 0) {
        return bp_fail_io(err, rc, "cannot read the end of segment %08" PRIx32, segment->header.id);
    }
    encode(segment, at, expected);
    if (memcmp(mark, expected, MARK) == 0) {
        segment->size = segment->used = at;
        return BP_OK;
    }
    char path[BP_LOG_PATH];
    bp_segment_path(segments, segment->header.id, BP_SEGMENT_LOG, false, path, sizeof path);
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                   "%s: the file ends at offset %" PRIu32 " but was made %" PRIu32
                   " bytes long; what was cut off may have held acknowledged writes; restore it "
                   "from a backup or run `bedplate fsck`",
                   bp_path_tail(path), segment->size, segment->header.size);
}

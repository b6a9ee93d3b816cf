/*
 * A window over a segment file, from which frames are decoded; and the walk over one segment's
 * entries.
 *
 *   file    |.........[ frame ][ frame ][ fra|me ]...............|
 *                      ^ start               ^ start + filled     ^ limit
 *   window             [=====================]
 *       what is left of a cut frame moves to the front, then READ_AHEAD more is read
 *
 * Invariants: memory is one window (a largest frame and one read-ahead), whatever the file's size;
 * nothing at or past `limit` is looked at; `start` is a multiple of 8 where offsets asked for are.
 */
#include "log_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"

#define READ_AHEAD                                                                                 \
    (1u << 20) /* large enough to hide the system call, small enough to stay in the cache */
#define WINDOW (BP_FRAME_MAX + READ_AHEAD)

int bp_frame_reader_init(struct bp_frame_reader *reader, struct bp_disk *disk, int site,
                         struct bp_error *err) {
    *reader = (struct bp_frame_reader){.disk = disk, .site = site, .fd = -1};
    reader->buf = malloc(WINDOW);
    if (reader->buf == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory to read the log");
    }
    return BP_OK;
}

void bp_frame_reader_free(struct bp_frame_reader *reader) {
    free(reader->buf);
    reader->buf = NULL;
}

void bp_frame_reader_aim(struct bp_frame_reader *reader, int fd, uint64_t limit) {
    reader->fd = fd;
    reader->limit = limit;
    reader->start = reader->filled = 0;
}

int bp_frame_reader_bytes(struct bp_frame_reader *reader, uint64_t offset, uint64_t want,
                          uint8_t **data, uint64_t *have, struct bp_error *err) {
    assert(want <= BP_FRAME_MAX);
    uint64_t left = offset < reader->limit ? reader->limit - offset : 0;
    want = want < left ? want : left;
    bool inside = offset >= reader->start && offset <= reader->start + reader->filled;
    uint64_t ready = inside ? reader->start + reader->filled - offset : 0;
    if (ready < want || (!inside && left > 0)) {
        if (ready > 0) {
            memmove(reader->buf, reader->buf + (offset - reader->start), ready);
        }
        uint64_t more = want - ready > READ_AHEAD ? want - ready : READ_AHEAD;
        more = more < left - ready ? more : left - ready;
        reader->start = offset;
        reader->filled = ready;
        int rc = bp_disk_read(reader->disk, reader->site, reader->fd, reader->buf + ready, more,
                              offset + ready);
        if (rc < 0) {
            return bp_fail_io(err, rc, "cannot read a log segment at offset %" PRIu64,
                              offset + ready);
        }
        reader->filled += more;
        reader->bytes_read += more;
        ready += more;
    }
    *data = ready > 0 ? reader->buf + (offset - reader->start) : reader->buf;
    *have = ready;
    return BP_OK;
}

int bp_frame_reader_frame(struct bp_frame_reader *reader, uint64_t offset, uint64_t salt,
                          struct bp_frame *frame, uint64_t *size, struct bp_error *err) {
    uint8_t *data;
    uint64_t have;
    *size = 0;
    int rc = bp_frame_reader_bytes(reader, offset, BP_FRAME_HEADER, &data, &have, err);
    if (rc != BP_OK || have < BP_FRAME_HEADER || bp_get_u64(data) != salt) {
        return rc;
    }
    uint32_t body_size = bp_get_u32(data + 16);
    if (body_size > BP_GROUP_MAX) {
        return BP_OK;
    }
    rc = bp_frame_reader_bytes(reader, offset, BP_FRAME_HEADER + (uint64_t)body_size, &data, &have,
                               err);
    if (rc != BP_OK) {
        return rc;
    }
    if (bp_frame_decode(data, have, salt, frame, size) != BP_OK) {
        *size = 0;
    }
    return BP_OK;
}

/* ---- the walk -------------------------------------------------------------------------------- */

static int walk_damage(const struct bp_segments *segments, const struct bp_segment *segment,
                       uint64_t offset, struct bp_error *err) {
    char path[BP_LOG_PATH];
    bp_segment_path(segments, segment->header.id, BP_SEGMENT_LOG, false, path, sizeof path);
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                   "%s: the frame at offset %" PRIu64 " is damaged; run `bedplate fsck`",
                   bp_path_tail(path), offset);
}

int bp_log_walk(struct bp_segments *segments, const struct bp_segment *segment, int site,
                int (*each)(void *arg, const struct bp_entry *entry), void *arg,
                struct bp_error *err) {
    assert(segment->header.kind == BP_SEGMENT_LOG);
    struct bp_frame_reader reader;
    int rc = bp_frame_reader_init(&reader, bp_segments_disk(segments), site, err);
    if (rc != BP_OK) {
        return rc;
    }
    /* The driver may be adding frames: what lies below `used` is complete. */
    uint64_t end = bp_segment_used(segment);
    uint64_t offset = BP_SEGMENT_HEADER, sequence = segment->header.first_sequence;
    bp_frame_reader_aim(&reader, segment->fd, end);
    while (rc == BP_OK && offset < end) {
        struct bp_frame frame;
        uint64_t size;
        rc = bp_frame_reader_frame(&reader, offset, segment->header.salt, &frame, &size, err);
        if (rc != BP_OK) {
            break;
        }
        if (size == 0 || frame.sequence != sequence) {
            rc = walk_damage(segments, segment, offset, err);
            break;
        }
        struct bp_entry entry;
        struct bp_hardstate hardstate;
        uint32_t at = 0;
        int record;
        while (rc == BP_OK &&
               (record = bp_frame_next_record(&frame, &at, &entry, &hardstate)) != 0) {
            if (record < 0) {
                rc = walk_damage(segments, segment, offset, err);
            } else if (record == 1) {
                entry.at.segment = segment->header.id;
                entry.at.offset += (uint32_t)offset;
                rc = each(arg, &entry);
            }
        }
        offset += size;
        sequence++;
    }
    bp_frame_reader_free(&reader);
    return rc;
}

/*
 * The segment that recovery makes: frames that were whole but perhaps never durable, written again
 * under a fresh salt.
 *
 *   old   |header|kept....|frame 8|frame 9| torn |        sequence s, s+1
 *                          |       |
 *   new   |header|frame 8'|frame 9'|mark|                 sequence first_sequence, ..; salt new
 *
 * Invariants
 *   - The new file gets its name when all of it is synced; until then nothing but a .tmp has
 *     changed, so a crash here repeats.
 *   - The copy is byte for byte, frame for frame, but for header and CRC: offsets shift by one
 *     constant.
 *   - The mark says that the copied frames are durable: damage to them from now on is damage, not
 *     a tear.
 *   - On a full disk a smaller segment does: only preallocated zeros are given up for it, nothing
 *     that was written.
 */
#include "log_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"

#define FLUSH_AT (1u << 20)
#define BUFFER (FLUSH_AT + BP_FRAME_MAX)
#define SMALL_ROOM                                                                                 \
    (64u << 10) /* bytes for HARDSTATE and the like in a segment made on a full disk */

struct writer {
    struct bp_disk *disk;
    int fd;
    uint32_t offset; /* where buf goes */
    uint32_t filled;
    uint8_t *buf;
};

static int flush(struct writer *writer, struct bp_error *err) {
    int rc = bp_disk_write(writer->disk, BP_SITE_RECOVER_COPY, writer->fd, writer->buf,
                           writer->filled, writer->offset);
    if (rc < 0) {
        return bp_fail_io(err, rc, "cannot copy the log's tail to a new segment");
    }
    writer->offset += writer->filled;
    writer->filled = 0;
    return BP_OK;
}

static void put_frame(struct writer *writer, uint64_t salt, uint64_t sequence, struct bp_pos synced,
                      const uint8_t *body, uint32_t body_size) {
    uint8_t *out = writer->buf + writer->filled;
    bp_frame_put_header(out, salt, sequence, body_size, synced);
    if (body_size > 0) {
        memcpy(out + BP_FRAME_HEADER, body, body_size);
    }
    bp_frame_put_crc(out, bp_crc32c(0, out, BP_FRAME_HEADER + body_size));
    writer->filled += BP_FRAME_HEADER + body_size;
}

/*
 * All frames of [begin, end), checked once more as they are read, and the mark. *sequence moves on.
 */
static int copy_frames(struct bp_segments *segments, struct bp_frame_reader *reader,
                       const struct bp_copy *copy, const struct bp_segment_header *header,
                       struct writer *writer, uint64_t *sequence, struct bp_error *err) {
    struct bp_pos synced = {.segment = header->id, .offset = BP_SEGMENT_HEADER};
    uint64_t offset = copy->begin, expected = copy->sequence;
    bp_frame_reader_aim(reader, copy->from->fd, copy->end);
    while (offset < copy->end) {
        struct bp_frame frame;
        uint64_t size;
        int rc = bp_frame_reader_frame(reader, offset, copy->from->header.salt, &frame, &size, err);
        if (rc == BP_OK && (size == 0 || frame.sequence != expected)) {
            rc = bp_log_corrupt(segments, copy->from, offset,
                                "a frame that was whole a moment ago is damaged", err);
        }
        if (rc != BP_OK) {
            return rc;
        }
        put_frame(writer, header->salt, (*sequence)++, synced, frame.body, frame.body_size);
        rc = writer->filled >= FLUSH_AT ? flush(writer, err) : BP_OK;
        if (rc != BP_OK) {
            return rc;
        }
        offset += size;
        expected++;
    }
    assert(writer->offset + writer->filled == BP_SEGMENT_HEADER + copy->end - copy->begin);
    synced.offset = writer->offset + writer->filled;
    put_frame(writer, header->salt, (*sequence)++, synced, NULL, 0);
    return flush(writer, err);
}

static int write_content(struct bp_segments *segments, struct bp_frame_reader *reader,
                         const struct bp_copy *copy, const struct bp_segment_header *header, int fd,
                         uint64_t *sequence, struct bp_error *err) {
    struct writer writer = {
        .disk = bp_segments_disk(segments),
        .fd = fd,
        .offset = BP_SEGMENT_HEADER,
        .buf = malloc(BUFFER),
    };
    if (writer.buf == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory to copy the log's tail");
    }
    int rc = copy_frames(segments, reader, copy, header, &writer, sequence, err);
    free(writer.buf);
    if (rc == BP_OK) {
        int synced = bp_disk_sync(writer.disk, BP_SITE_RECOVER_SYNC, fd);
        rc = synced < 0 ? bp_fail_io(err, synced, "cannot sync the copy of the log's tail") : BP_OK;
    }
    return rc;
}

/* The file for the new segment, of `*size` bytes, or of `least` where the disk is full. */
static int make_file(struct bp_segments *segments, const struct bp_copy *copy, uint32_t id,
                     uint32_t least, uint32_t *size, int *fd, struct bp_error *err) {
    struct bp_error local;
    err = err != NULL ? err : &local;
    int rc = bp_segment_make_tmp(segments, id, BP_SEGMENT_LOG, *size, fd, err);
    if (rc == BP_OK || err->reason != BP_REASON_DISK_FULL) {
        return rc;
    }
    if (copy->from != NULL) {
        (void)bp_trim_newest(segments, copy->from, copy->dirty_end);
        rc = bp_segment_make_tmp(segments, id, BP_SEGMENT_LOG, *size, fd, err);
    }
    if (rc != BP_OK && err->reason == BP_REASON_DISK_FULL) {
        *size = least;
        rc = bp_segment_make_tmp(segments, id, BP_SEGMENT_LOG, *size, fd, err);
    }
    return rc;
}

int bp_copy_run(struct bp_segments *segments, const struct bp_log_options *options,
                struct bp_frame_reader *reader, const struct bp_copy *copy,
                struct bp_segment **segment, uint64_t *sequence, struct bp_error *err) {
    uint32_t used = BP_SEGMENT_HEADER;
    used += copy->end > copy->begin ? copy->end - copy->begin + BP_FRAME_HEADER : 0;
    uint32_t least = (uint32_t)bp_align8(used + SMALL_ROOM);
    uint32_t size = options->segment_size > used ? options->segment_size : used;
    struct bp_segment_header header = copy->header;
    header.id = bp_segments_take_id(segments);
    int rc = bp_segment_new_salt(segments, &header.salt, err);
    int fd;
    if (rc == BP_OK) {
        rc = make_file(segments, copy, header.id, least, &size, &fd, err);
    }
    if (rc != BP_OK) {
        return rc;
    }
    *sequence = header.first_sequence;
    if (copy->end > copy->begin) {
        rc = write_content(segments, reader, copy, &header, fd, sequence, err);
        if (rc != BP_OK) {
            bp_segment_drop_tmp(segments, header.id, BP_SEGMENT_LOG, fd);
            return rc;
        }
    }
    bool fatal; /* a failed recovery stops the store whatever it was */
    return bp_segment_publish(segments, &header, fd, size, used, segment, &fatal, err);
}

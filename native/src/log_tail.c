/*
 * The tail of the newest segment: what of it was ever durable, what is whole, what a power cut
 * tore.
 *
 *   |header|frame|frame|frame| torn |frame|....... zeros .......|
 *                 ^synced     ^valid_end   ^dirty_end
 *           kept | copied     | discarded  |
 *
 * Unsynced pages reach a disk in any order, so a good frame may lie behind a torn one: it is
 * discarded with it, but what it says is known: `synced` is the largest synced_through of all valid
 * frames, those found behind the tear by looking for the salt at every 8 bytes included. A tear
 * below it is no tear but damage: refuse.
 *
 * Why a frame found by its salt may be believed: it was written by this log into this file (log.c:
 * no stale headers), or is a copy of one inside a value; either way what it calls durable was
 * durable then, and durable bytes are never written again.
 */
#include "log_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "bytes.h"

int bp_log_corrupt(const struct bp_segments *segments, const struct bp_segment *segment,
                   uint64_t offset, const char *what, struct bp_error *err) {
    char path[BP_LOG_PATH];
    bp_segment_path(segments, segment->header.id, segment->header.kind, false, path, sizeof path);
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                   "%s: %s at offset %" PRIu64 "; run `bedplate fsck`", bp_path_tail(path), what,
                   offset);
}

static void believe(struct bp_pos *synced, struct bp_pos claim) {
    if (bp_pos_u64(claim) > bp_pos_u64(*synced)) {
        *synced = claim;
    }
}

/* Over the good frames; *end is where they stop. */
static int scan_good(struct bp_segments *segments, struct bp_frame_reader *reader,
                     const struct bp_segment *segment, uint32_t begin, uint64_t sequence,
                     uint32_t *end, struct bp_pos *synced, struct bp_error *err) {
    uint64_t offset = begin;
    while (offset < segment->size) {
        struct bp_frame frame;
        uint64_t size;
        int rc = bp_frame_reader_frame(reader, offset, segment->header.salt, &frame, &size, err);
        if (rc != BP_OK) {
            return rc;
        }
        if (size == 0 || frame.sequence != sequence) {
            break;
        }
        struct bp_pos here = {.segment = segment->header.id, .offset = (uint32_t)offset};
        if (bp_pos_u64(frame.synced_through) > bp_pos_u64(here)) {
            return bp_log_corrupt(segments, segment, offset,
                                  "a frame that calls itself synced before it was written", err);
        }
        believe(synced, frame.synced_through);
        offset += size;
        sequence++;
    }
    *end = (uint32_t)offset;
    return BP_OK;
}

/*
 * The first 8 bytes in data[0..n) that are the salt (an offset), or n; *dirty is behind the last
 * non-zero byte before that.
 */
static uint64_t find_salt(const uint8_t *data, uint64_t n, uint64_t salt, uint64_t *dirty) {
    for (uint64_t block = 0; block < n; block += BP_SECTOR) {
        uint64_t end = block + BP_SECTOR < n ? block + BP_SECTOR : n;
        uint64_t any = 0;
        for (uint64_t i = block; i + 8 <= end;
             i += 8) { /* no early exit: nearly every block is zero */
            uint64_t word;
            memcpy(&word, data + i, 8); /* zero in any byte order */
            any |= word;
        }
        for (uint64_t i = block; any != 0 && i + 8 <= end; i += 8) {
            uint64_t word = bp_get_u64(data + i);
            if (word == salt) {
                return i;
            }
            *dirty = word != 0 ? i + 8 : *dirty;
        }
    }
    return n;
}

/* Behind the good frames: where zeros begin, and what frames lying there call synced. */
static int scan_behind(struct bp_frame_reader *reader, const struct bp_segment *segment,
                       uint32_t valid_end, uint32_t *dirty_end, struct bp_pos *synced,
                       struct bp_error *err) {
    uint64_t offset = valid_end, dirty_at = valid_end;
    while (offset + 8 <= segment->size) {
        uint8_t *data;
        uint64_t have;
        int rc = bp_frame_reader_bytes(reader, offset, BP_SECTOR, &data, &have, err);
        if (rc != BP_OK) {
            return rc;
        }
        uint64_t n = have & ~(uint64_t)7, dirty = 0;
        uint64_t at = find_salt(data, n, segment->header.salt, &dirty);
        dirty_at = dirty > 0 ? offset + dirty : dirty_at;
        offset += at;
        if (at == n) {
            continue; /* n >= 8, so this ends */
        }
        struct bp_frame frame;
        uint64_t size;
        rc = bp_frame_reader_frame(reader, offset, segment->header.salt, &frame, &size, err);
        if (rc != BP_OK) {
            return rc;
        }
        if (size > 0) {
            believe(synced, frame.synced_through);
        }
        offset += size > 0 ? size : 8;
        dirty_at = offset;
    }
    *dirty_end = (uint32_t)dirty_at;
    return BP_OK;
}

int bp_tail_scan(struct bp_segments *segments, struct bp_frame_reader *reader,
                 const struct bp_segment *segment, uint32_t begin, uint64_t sequence,
                 struct bp_pos durable, struct bp_tail *tail, struct bp_error *err) {
    /*
     * The header, and what a checkpoint covers before `begin`, were durable before anything here
     * was written.
     */
    struct bp_pos synced = {.segment = segment->header.id, .offset = begin};
    believe(&synced, durable);
    bp_frame_reader_aim(reader, segment->fd, segment->size);
    int rc = scan_good(segments, reader, segment, begin, sequence, &tail->valid_end, &synced, err);
    if (rc == BP_OK) {
        rc = scan_behind(reader, segment, tail->valid_end, &tail->dirty_end, &synced, err);
    }
    if (rc != BP_OK) {
        return rc;
    }
    struct bp_pos end = {.segment = segment->header.id, .offset = tail->valid_end};
    if (bp_pos_u64(synced) > bp_pos_u64(end)) {
        char what[96];
        (void)snprintf(what, sizeof what,
                       "a damaged frame (the log was durable through %08" PRIx32 ".log:%" PRIu32
                       ")",
                       synced.segment, synced.offset);
        return bp_log_corrupt(segments, segment, tail->valid_end, what, err);
    }
    tail->synced = synced.offset;
    return BP_OK;
}

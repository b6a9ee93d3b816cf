/*
 * Frames and records as bytes (log.h has the drawing): decoding whatever a disk may hold, encoding
 * what the log writes.
 *
 *   buf --> header plausible? --> CRC32C of header and body --> records, each checked against the
 *   body it lies in
 *
 * Invariants
 *   - Decoding is pure: no allocation, no read outside buf[0..n), any bytes are fine.
 *   - A frame is accepted only whole: salt, length and CRC together. What is in an accepted frame
 *     was written by this log, so a malformed record there (-1) is never a torn write.
 */
#include <assert.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"
#include "log_internal.h"

_Static_assert(BP_GROUP_MAX % 8 == 0 && BP_FRAME_HEADER % 8 == 0 && BP_ENTRY_HEADER % 8 == 0,
               "frames are 8-byte aligned");

#define HARDSTATE_PAYLOAD 24u
#define RECORD_VERSION 1u
#define CRC_AT 20u

int bp_frame_decode(const uint8_t *buf, uint64_t n, uint64_t salt, struct bp_frame *frame,
                    uint64_t *size) {
    if (n < BP_FRAME_HEADER || bp_get_u64(buf) != salt) {
        return BP_OUT_OF_RANGE;
    }
    uint32_t body_size = bp_get_u32(buf + 16);
    if (body_size > BP_GROUP_MAX || body_size % 8 != 0 || body_size > n - BP_FRAME_HEADER) {
        return BP_OUT_OF_RANGE;
    }
    uint8_t header[BP_FRAME_HEADER];
    memcpy(header, buf, sizeof header);
    bp_put_u32(header + CRC_AT, 0);
    uint32_t crc = bp_crc32c(0, header, sizeof header);
    crc = bp_crc32c(crc, buf + BP_FRAME_HEADER, body_size);
    if (crc != bp_get_u32(buf + CRC_AT)) {
        return BP_OUT_OF_RANGE;
    }
    *frame = (struct bp_frame){
        .sequence = bp_get_u64(buf + 8),
        .synced_through = {.segment = bp_get_u32(buf + 24), .offset = bp_get_u32(buf + 28)},
        .body = buf + BP_FRAME_HEADER,
        .body_size = body_size,
    };
    *size = BP_FRAME_HEADER + (uint64_t)body_size;
    return BP_OK;
}

static int next_hardstate(const uint8_t *record, uint32_t left, uint32_t *offset,
                          struct bp_hardstate *hardstate) {
    if (left < BP_HARDSTATE_RECORD || bp_get_u32(record + 4) != HARDSTATE_PAYLOAD) {
        return -1;
    }
    *hardstate = (struct bp_hardstate){
        .term = bp_get_u64(record + 8),
        .vote = bp_get_u64(record + 16),
        .commit = bp_get_u64(record + 24),
    };
    *offset += BP_HARDSTATE_RECORD;
    return 2;
}

/* The bytes between the payload and the next multiple of 8 are zero. */
static bool padding_is_zero(const uint8_t *payload, uint32_t size) {
    uint8_t any = 0;
    for (size_t i = size; i < bp_align8(size); i++) {
        any |= payload[i];
    }
    return any == 0;
}

static int next_entry(const uint8_t *record, uint32_t left, uint32_t *offset,
                      struct bp_entry *entry) {
    if (left < BP_ENTRY_HEADER || record[0] < BP_ENTRY_NOOP || record[0] > BP_ENTRY_JUMP) {
        return -1;
    }
    uint32_t size = bp_get_u32(record + 4);
    if (size > BP_ENTRY_MAX || bp_align8(size) > left - BP_ENTRY_HEADER) {
        return -1;
    }
    *entry = (struct bp_entry){
        .index = bp_get_u64(record + 8),
        .term = bp_get_u64(record + 16),
        .first_revision = bp_get_u64(record + 24),
        .count = bp_get_u32(record + 32),
        .type = record[0],
        .payload = record + BP_ENTRY_HEADER,
        .size = size,
        .at = {.segment = 0, .offset = BP_FRAME_HEADER + *offset + BP_ENTRY_HEADER},
    };
    if (entry->index == 0 || entry->first_revision > UINT64_MAX - entry->count ||
        bp_get_u32(record + 36) != 0 || !padding_is_zero(entry->payload, size)) {
        return -1;
    }
    *offset += BP_ENTRY_HEADER + (uint32_t)bp_align8(size);
    return 1;
}

int bp_frame_next_record(const struct bp_frame *frame, uint32_t *offset, struct bp_entry *entry,
                         struct bp_hardstate *hardstate) {
    assert(*offset <= frame->body_size && *offset % 8 == 0);
    uint32_t left = frame->body_size - *offset;
    if (left == 0) {
        return 0;
    }
    const uint8_t *record = frame->body + *offset;
    if (left < 8 || record[1] != RECORD_VERSION || bp_get_u16(record + 2) != 0) {
        return -1;
    }
    return record[0] == BP_RECORD_HARDSTATE ? next_hardstate(record, left, offset, hardstate)
                                            : next_entry(record, left, offset, entry);
}

/* ---- encoding -------------------------------------------------------------------------------- */

void bp_frame_put_header(uint8_t *header, uint64_t salt, uint64_t sequence, uint32_t body_size,
                         struct bp_pos synced_through) {
    bp_put_u64(header, salt);
    bp_put_u64(header + 8, sequence);
    bp_put_u32(header + 16, body_size);
    bp_put_u32(header + CRC_AT, 0);
    bp_put_u32(header + 24, synced_through.segment);
    bp_put_u32(header + 28, synced_through.offset);
}

void bp_frame_put_crc(uint8_t *header, uint32_t crc) { bp_put_u32(header + CRC_AT, crc); }

static void put_record_header(uint8_t *out, uint8_t type, uint32_t size) {
    out[0] = type;
    out[1] = RECORD_VERSION;
    bp_put_u16(out + 2, 0);
    bp_put_u32(out + 4, size);
}

uint32_t bp_frame_put_entry(uint8_t *out, const struct bp_entry *entry) {
    put_record_header(out, entry->type, entry->size);
    bp_put_u64(out + 8, entry->index);
    bp_put_u64(out + 16, entry->term);
    bp_put_u64(out + 24, entry->first_revision);
    bp_put_u32(out + 32, entry->count);
    bp_put_u32(out + 36, 0);
    return BP_ENTRY_HEADER;
}

uint32_t bp_frame_put_hardstate(uint8_t *out, const struct bp_hardstate *hardstate) {
    put_record_header(out, BP_RECORD_HARDSTATE, HARDSTATE_PAYLOAD);
    bp_put_u64(out + 8, hardstate->term);
    bp_put_u64(out + 16, hardstate->vote);
    bp_put_u64(out + 24, hardstate->commit);
    return BP_HARDSTATE_RECORD;
}

/*
 * Fuzz target: what recovery reads from a disk that may hold anything.
 *
 *   input   [u8 mode][bytes]
 *     mode 0   a segment header block (padded with zeros)           bp_segment_header_decode
 *     mode 1   as mode 0, with the CRC made right
 *         so that what lies behind it is reached
 *     mode 2   bytes with frames, salt in the first 8
 *         bp_frame_decode at every 8 bytes, records
 *     mode 3   as mode 2, with the first frame's CRC made right
 *     mode 4   a frame body                                          bp_frame_next_record
 *
 * Whatever is accepted must say the same when it is encoded again, lie inside what was given, and
 * end.
 */
#include <stdlib.h>
#include <string.h>

#include "../src/bytes.h"
#include "../src/crc32c.h"
#include "../src/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void header(const uint8_t *data, size_t size, int fix_crc) {
    uint8_t block[BP_SEGMENT_HEADER] = {0}, again[BP_SEGMENT_HEADER];
    memcpy(block, data, size < sizeof block ? size : sizeof block);
    if (fix_crc) {
        bp_put_u32(block + sizeof block - 4, bp_crc32c(0, block, sizeof block - 4));
    }
    struct bp_segment_header header;
    struct bp_error err = {0};
    int rc = bp_segment_header_decode(block, "fuzz", &header, &err);
    REQUIRE(rc == BP_OK || err.message[0] != '\0');
    if (rc == BP_OK && header.format == BP_FORMAT_VERSION) { /* only those are written */
        bp_segment_header_encode(&header, again);
        REQUIRE(memcmp(block, again, sizeof block) == 0);
    }
}

static void records(const struct bp_frame *frame) {
    uint32_t offset = 0, before = 0;
    struct bp_entry entry;
    struct bp_hardstate hardstate;
    int got;
    while ((got = bp_frame_next_record(frame, &offset, &entry, &hardstate)) > 0) {
        REQUIRE(offset > before && offset <= frame->body_size && offset % 8 == 0);
        before = offset;
        if (got == 1) {
            REQUIRE(entry.index > 0 && entry.size <= BP_ENTRY_MAX);
            REQUIRE(entry.payload >= frame->body &&
                    entry.payload + entry.size <= frame->body + frame->body_size);
            REQUIRE(entry.at.offset == BP_FRAME_HEADER + (uint32_t)(entry.payload - frame->body));
            volatile uint8_t sum = 0; /* touch every byte: the address sanitizer watches */
            for (uint32_t i = 0; i < entry.size; i++) {
                sum = (uint8_t)(sum + entry.payload[i]);
            }
        }
    }
    REQUIRE(got == 0 ? offset == frame->body_size : got == -1);
}

static void frames(const uint8_t *data, size_t size, int fix_crc) {
    if (size < BP_FRAME_HEADER) {
        return;
    }
    uint8_t *copy = malloc(size); /* exactly as large, so that reading on is seen */
    REQUIRE(copy != NULL);
    memcpy(copy, data, size);
    uint64_t salt = bp_get_u64(copy);
    uint32_t body_size = bp_get_u32(copy + 16);
    if (fix_crc && body_size <= size - BP_FRAME_HEADER) {
        bp_put_u32(copy + 20, 0);
        bp_put_u32(copy + 20, bp_crc32c(0, copy, BP_FRAME_HEADER + body_size));
    }
    for (size_t at = 0; at + 8 <= size; at += 8) {
        struct bp_frame frame;
        uint64_t whole = 0;
        if (bp_frame_decode(copy + at, size - at, salt, &frame, &whole) == BP_OK) {
            REQUIRE(whole == BP_FRAME_HEADER + frame.body_size && whole <= size - at);
            records(&frame);
        }
    }
    free(copy);
}

static void body(const uint8_t *data, size_t size) {
    size -= size % 8;
    if (size > BP_GROUP_MAX) {
        return;
    }
    uint8_t *copy = malloc(size + 1);
    REQUIRE(copy != NULL);
    memcpy(copy, data, size);
    struct bp_frame frame = {.body = copy, .body_size = (uint32_t)size};
    records(&frame);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    uint8_t mode = data[0] % 5;
    data++;
    size--;
    switch (mode) {
    case 0:
    case 1:
        header(data, size, mode == 1);
        break;
    case 2:
    case 3:
        frames(data, size, mode == 3);
        break;
    default:
        body(data, size);
        break;
    }
    return 0;
}

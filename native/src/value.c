/*
 * Reading values (value.h has the drawing): pread, checksum, and only then the caller sees bytes.
 *
 *   want                       |----------------|
 *   value   [table][ chunk 0 ][ chunk 1 ][ chunk 2 ][ chunk 3 ]
 *                   cut: through `edge`   whole: straight into `out`
 *
 * Invariants
 *   - A chunk is verified whole before any byte of it counts; the table is verified before it is
 *     believed.
 *   - Bytes of `out` are meaningful only after BP_OK.
 *   - A file that ends early is damage like any other (DATA_LOSS); a device that will not read is
 *     UNAVAILABLE.
 */
#include "value.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"
#include "limits.h"
#include "log_internal.h"
#include "value_cache.h"

#define CHUNKS_MAX (BP_VALUE_MAX / BP_CRC_CHUNK)

_Static_assert(BP_VALUE_MAX % BP_CRC_CHUNK == 0, "the largest value fills its chunks");

struct source {
    struct bp_segments *segments;
    struct bp_segment *segment;
    const struct bp_value_ref *value;
    int site;
    uint8_t table[CHUNKS_MAX * 4]; /* chunked values only */
};

static int damaged(const struct source *source, uint64_t offset, struct bp_error *err) {
    char path[BP_LOG_PATH];
    bp_segment_path(source->segments, source->segment->header.id, source->segment->header.kind,
                    false, path, sizeof path);
    __atomic_store_n(&source->segment->damaged, true, __ATOMIC_RELAXED);
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_VALUE_DAMAGED,
                   "%s: the value at offset %" PRIu64 " fails its checksum", bp_path_tail(path),
                   offset);
}

/* Read n bytes at file offset `offset` and check them. */
static int read_checked(const struct source *source, uint64_t offset, uint32_t n, uint32_t crc,
                        uint8_t *out, struct bp_error *err) {
    int rc = bp_disk_read(bp_segments_disk(source->segments), source->site, source->segment->fd,
                          out, n, offset);
    if (rc == -ENODATA) {
        return damaged(source, offset, err);
    }
    if (rc < 0) {
        (void)bp_fail_io(err, rc, "cannot read a value in segment %08" PRIx32 " at offset %" PRIu64,
                         source->segment->header.id, offset);
        if (err != NULL) {
            err->code = BP_UNAVAILABLE;
            err->reason = BP_REASON_IO_FAILED;
        }
        return BP_UNAVAILABLE;
    }
    return bp_crc32c(0, out, n) == crc ? BP_OK : damaged(source, offset, err);
}

static uint32_t chunk_count(uint32_t size) {
    return size <= BP_CRC_CHUNK ? 0 : (size + BP_CRC_CHUNK - 1) / BP_CRC_CHUNK;
}

/* Find the segment and, for a chunked value, its verified table. */
static int open_source(struct bp_segments *segments, const struct bp_value_ref *value, int site,
                       struct source *source, struct bp_error *err) {
    source->segments = segments;
    source->segment = bp_segments_find(segments, value->at.segment);
    source->value = value;
    source->site = site;
    if (source->segment == NULL) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_VALUE_DAMAGED,
                       "segment %08" PRIx32 ", which holds a value at offset %" PRIu32
                       ", is missing",
                       value->at.segment, value->at.offset);
    }
    uint32_t chunks = chunk_count(value->size);
    uint32_t table_size = (uint32_t)bp_align8(chunks * 4);
    if (value->size > BP_VALUE_MAX || value->at.offset < table_size + BP_SEGMENT_HEADER) {
        return damaged(source, value->at.offset, err);
    }
    return chunks == 0 ? BP_OK
                       : read_checked(source, value->at.offset - table_size, chunks * 4, value->crc,
                                      source->table, err);
}

static uint32_t chunk_size(const struct bp_value_ref *value, uint32_t chunk) {
    uint32_t left = value->size - chunk * BP_CRC_CHUNK;
    return left < BP_CRC_CHUNK ? left : BP_CRC_CHUNK;
}

/* A whole chunk (of a small value: the value) to `out`, verified. */
static int read_chunk(const struct source *source, uint32_t chunk, uint8_t *out,
                      struct bp_error *err) {
    const struct bp_value_ref *value = source->value;
    uint32_t crc = value->size <= BP_CRC_CHUNK ? value->crc : bp_get_u32(source->table + 4 * chunk);
    return read_checked(source, (uint64_t)value->at.offset + chunk * BP_CRC_CHUNK,
                        chunk_size(value, chunk), crc, out, err);
}

/* Part of one chunk: all of it is read and verified, bytes [from, to) are copied out. */
static int read_edge(const struct source *source, uint32_t chunk, uint32_t from, uint32_t to,
                     uint8_t *out, struct bp_error *err) {
    uint8_t edge[BP_CRC_CHUNK];
    int rc = read_chunk(source, chunk, edge, err);
    if (rc == BP_OK) {
        memcpy(out, edge + from, to - from);
    }
    return rc;
}

int bp_value_read(struct bp_segments *segments, const struct bp_value_ref *value, uint32_t offset,
                  uint32_t size, uint8_t *out, struct bp_error *err) {
    if (offset > value->size || size > value->size - offset) {
        return bp_fail(err, BP_OUT_OF_RANGE, BP_REASON_RANGE_INVALID,
                       "bytes %" PRIu32 "..%" PRIu64 " of a value of %" PRIu32 " bytes", offset,
                       (uint64_t)offset + size, value->size);
    }
    if (size == 0) {
        return BP_OK; /* no byte, nothing to check */
    }
    struct bp_value_cache *cache = bp_segments_cache(segments);
    bool small = cache != NULL && size == value->size && size <= BP_VALUE_CACHE_VALUE_MAX;
    if (small && bp_value_cache_get(cache, value, out)) {
        return BP_OK;
    }
    uint8_t *begin = out;
    struct source source;
    int rc = open_source(segments, value, BP_SITE_VALUE_READ, &source, err);
    uint32_t end = offset + size;
    while (rc == BP_OK && offset < end) {
        uint32_t chunk = offset / BP_CRC_CHUNK, from = offset % BP_CRC_CHUNK;
        uint32_t whole = chunk_size(value, chunk);
        uint32_t to = end - chunk * BP_CRC_CHUNK < whole ? end - chunk * BP_CRC_CHUNK : whole;
        rc = from == 0 && to == whole ? read_chunk(&source, chunk, out, err)
                                      : read_edge(&source, chunk, from, to, out, err);
        out += to - from;
        offset += to - from;
    }
    if (small && rc == BP_OK) {
        bp_value_cache_put(cache, value, begin);
    }
    return rc;
}

int bp_value_verify(struct bp_segments *segments, const struct bp_value_ref *value, int site,
                    uint8_t *scratch, struct bp_error *err) {
    struct source source;
    int rc = open_source(segments, value, site, &source, err);
    if (rc == BP_OK && value->size == 0) {
        return value->crc == 0 ? BP_OK : damaged(&source, value->at.offset, err);
    }
    uint32_t chunks = chunk_count(value->size);
    chunks = chunks == 0 ? 1 : chunks;
    for (uint32_t chunk = 0; rc == BP_OK && chunk < chunks; chunk++) {
        rc = read_chunk(&source, chunk, scratch, err);
    }
    return rc;
}

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

int bp_value_fetch(struct bp_segments *segments, const struct bp_value_ref *value, uint32_t offset,
                   uint32_t size, uint8_t *out, struct bp_error *err) {
    if (offset > value->size || size > value->size - offset) {
        return bp_fail(err, BP_OUT_OF_RANGE, BP_REASON_RANGE_INVALID,
                       "bytes %" PRIu32 "..%" PRIu64 " of a value of %" PRIu32 " bytes", offset,
                       (uint64_t)offset + size, value->size);
    }
    if (size == 0) {
        return BP_OK; /* no byte, nothing to check */
    }
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
    return rc;
}

static bool is_kept(const struct bp_value_ref *value) {
    return value->size > 0 && value->size <= BP_VALUE_CACHE_VALUE_MAX;
}

int bp_value_read(struct bp_segments *segments, const struct bp_value_ref *value, uint32_t offset,
                  uint32_t size, uint8_t *out, struct bp_error *err) {
    struct bp_value_cache *cache = bp_segments_cache(segments);
    bool kept = cache != NULL && offset == 0 && size == value->size && is_kept(value);
    if (kept && bp_value_cache_get(cache, value, out)) {
        return BP_OK;
    }
    int rc = bp_value_fetch(segments, value, offset, size, out, err);
    if (kept && rc == BP_OK) {
        bp_value_cache_put(cache, value, out);
    }
    return rc;
}

/* ---- several values -------------------------------------------------------------------------- */

/*
 * Values that the cache has not, in order of place, cut into runs:
 *
 *   segment   [v3]..[v9][v1]........................[v4].[v2]
 *             '---- run ---'  > GAP: not read       '- run -'
 */
enum { AHEAD_MAX = 128, RUN_GAP = 2048, RUN_BYTES = 32 << 10 };

static uint64_t place_of(const struct bp_version *version) { return bp_pos_u64(version->value.at); }

/* Those among the n that are to be read, in order of place. */
static uint32_t absent_of(const struct bp_value_cache *cache, const struct bp_version *versions,
                          uint32_t n, const struct bp_version *absent[AHEAD_MAX]) {
    uint32_t m = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (is_kept(&versions[i].value)) {
            bp_value_cache_ahead(cache, &versions[i].value);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct bp_version *version = &versions[i];
        if (!is_kept(&version->value) || bp_value_cache_has(cache, &version->value)) {
            continue;
        }
        uint32_t at = m++; /* few, and mostly in order already */
        for (; at > 0 && place_of(absent[at - 1]) > place_of(version); at--) {
            absent[at] = absent[at - 1];
        }
        absent[at] = version;
    }
    return m;
}

/* How many of the first of these one read takes; *size: its bytes, from the first's place on. */
static uint32_t run_of(const struct bp_version *const *absent, uint32_t n, uint32_t *size) {
    uint64_t begin = place_of(absent[0]), end = begin + absent[0]->value.size;
    uint32_t run = 1;
    /* The segment is the upper half of a place: another one is far away. */
    for (; run < n; run++) {
        uint64_t next = place_of(absent[run]), next_end = next + absent[run]->value.size;
        if (next > end + RUN_GAP || next_end > begin + RUN_BYTES) {
            break;
        }
        end = next_end > end ? next_end : end;
    }
    *size = (uint32_t)(end - begin);
    return run;
}

static void read_run(struct bp_segments *segments, const struct bp_version *const *absent,
                     uint32_t n, uint32_t size) {
    uint8_t bytes[RUN_BYTES];
    struct bp_pos at = absent[0]->value.at;
    const struct bp_segment *segment = bp_segments_find(segments, at.segment);
    if (segment == NULL || bp_disk_read(bp_segments_disk(segments), BP_SITE_VALUE_READ, segment->fd,
                                        bytes, size, at.offset) != 0) {
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct bp_value_ref *value = &absent[i]->value;
        const uint8_t *found = bytes + (value->at.offset - at.offset);
        if (bp_crc32c(0, found, value->size) == value->crc) {
            bp_value_cache_put(bp_segments_cache(segments), value, found);
        }
    }
}

void bp_value_ahead(struct bp_segments *segments, const struct bp_version *versions, uint32_t n) {
    const struct bp_value_cache *cache = bp_segments_cache(segments);
    for (uint32_t i = 0; cache != NULL && i < n; i += AHEAD_MAX) {
        const struct bp_version *absent[AHEAD_MAX];
        uint32_t m = absent_of(cache, versions + i, n - i < AHEAD_MAX ? n - i : AHEAD_MAX, absent);
        for (uint32_t run, size, k = 0; k < m; k += run) {
            run = run_of(absent + k, m - k, &size);
            if (run > 1) { /* one alone is as well read where it is wanted */
                read_run(segments, absent + k, run, size);
            }
        }
    }
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

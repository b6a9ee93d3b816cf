/*
 * Records of settled segments (settled.h draws one).
 *
 *   [head 56][key, padded][CRC table, padded][value, padded]
 *     ^ CRC32C over 8..56, the key and the table: what `size` says follows from the sizes below it,
 *     and the value has its own
 *
 * A record says which segment it belongs to by that segment's salt, so bytes of another file, or of
 * nothing, are never taken for one.
 */
#include "settled.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "crc32c.h"
#include "log_internal.h"
#include "ops.h"

_Static_assert(BP_SETTLED_RECORD_MAX <= BP_FRAME_MAX, "the reader's window holds any record");

/* Where the parts of a record begin. */
struct layout {
    uint32_t table, value, size;
};

static struct layout layout_of(uint32_t key_size, uint32_t value_size) {
    struct layout layout = {.table = BP_SETTLED_RECORD + (uint32_t)bp_align8(key_size)};
    layout.value = layout.table + bp_crc_table_size(value_size);
    layout.size = layout.value + (uint32_t)bp_align8(value_size);
    return layout;
}

uint32_t bp_settled_size(uint32_t key_size, uint32_t value_size) {
    return layout_of(key_size, value_size).size;
}

static uint32_t head_crc(const uint8_t *record, uint32_t value_at) {
    return bp_crc32c(0, record + 8, value_at - 8);
}

uint32_t bp_settled_encode(uint8_t *out, uint64_t salt, struct bp_slice key,
                           const struct bp_version *version, const uint8_t *table,
                           struct bp_slice value) {
    assert(key.size > 0 && key.size <= BP_STORED_KEY_MAX && value.size <= BP_VALUE_MAX);
    assert(version->value.size == value.size);
    struct layout layout = layout_of((uint32_t)key.size, (uint32_t)value.size);
    memset(out, 0, layout.table);
    bp_put_u32(out, layout.size);
    bp_put_u64(out + 8, version->revision);
    bp_put_u64(out + 16, version->create_revision);
    bp_put_u64(out + 24, version->lease);
    bp_put_u32(out + 32, version->version);
    bp_put_u32(out + 36, version->value.size);
    bp_put_u32(out + 40, version->value.crc);
    bp_put_u16(out + 44, (uint16_t)key.size);
    bp_put_u64(out + 48, salt);
    memcpy(out + BP_SETTLED_RECORD, key.data, key.size);
    if (layout.value > layout.table) {
        memcpy(out + layout.table, table, layout.value - layout.table);
    }
    if (value.size > 0) {
        memcpy(out + layout.value, value.data, value.size);
    }
    memset(out + layout.value + value.size, 0, layout.size - layout.value - value.size);
    bp_put_u32(out + 4, head_crc(out, layout.value));
    return layout.value;
}

int bp_settled_decode(const uint8_t *buf, uint64_t n, uint32_t segment, uint32_t offset,
                      uint64_t salt, struct bp_settled_record *record) {
    if (n < BP_SETTLED_RECORD || bp_get_u64(buf + 48) != salt || bp_get_u16(buf + 46) != 0) {
        return BP_OUT_OF_RANGE;
    }
    uint32_t key_size = bp_get_u16(buf + 44), value_size = bp_get_u32(buf + 36);
    if (key_size == 0 || key_size > BP_STORED_KEY_MAX || value_size > BP_VALUE_MAX) {
        return BP_OUT_OF_RANGE;
    }
    struct layout layout = layout_of(key_size, value_size);
    if (bp_get_u32(buf) != layout.size || layout.size > n || layout.size > UINT32_MAX - offset ||
        bp_get_u32(buf + 4) != head_crc(buf, layout.value)) {
        return BP_OUT_OF_RANGE;
    }
    record->key = bp_slice(buf + BP_SETTLED_RECORD, key_size);
    record->size = layout.size;
    record->version = (struct bp_version){
        .revision = bp_get_u64(buf + 8),
        .create_revision = bp_get_u64(buf + 16),
        .lease = bp_get_u64(buf + 24),
        .version = bp_get_u32(buf + 32),
        .value = {.at = {.segment = segment, .offset = offset + layout.value},
                  .size = value_size,
                  .crc = bp_get_u32(buf + 40)},
    };
    bool sane = record->version.revision > 0 && record->version.create_revision > 0 &&
                record->version.create_revision <= record->version.revision &&
                record->version.version > 0;
    return sane ? BP_OK : BP_OUT_OF_RANGE;
}

static int walk_damage(const struct bp_segments *segments, const struct bp_segment *segment,
                       uint64_t offset, struct bp_error *err) {
    char path[BP_LOG_PATH];
    bp_segment_path(segments, segment->header.id, BP_SEGMENT_SETTLED, false, path, sizeof path);
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                   "%s: the record at offset %" PRIu64 " is damaged; run `bedplate fsck`",
                   bp_path_tail(path), offset);
}

int bp_settled_walk(struct bp_segments *segments, const struct bp_segment *segment, int site,
                    int (*each)(void *arg, const struct bp_settled_record *record), void *arg,
                    struct bp_error *err) {
    assert(segment->header.kind == BP_SEGMENT_SETTLED);
    struct bp_frame_reader reader;
    int code = bp_frame_reader_init(&reader, bp_segments_disk(segments), site, err);
    if (code != BP_OK) {
        return code;
    }
    uint64_t end = __atomic_load_n(&segment->used, __ATOMIC_ACQUIRE),
             offset = BP_SEGMENT_HEADER; /* the keeper may be adding */
    bp_frame_reader_aim(&reader, segment->fd, end);
    while (code == BP_OK && offset < end) {
        uint8_t *data;
        uint64_t have;
        code = bp_frame_reader_bytes(&reader, offset, BP_SETTLED_RECORD_MAX, &data, &have, err);
        if (code != BP_OK || (have >= 4 && bp_get_u32(data) == 0)) {
            break; /* the preallocated rest, where nobody knows the end */
        }
        struct bp_settled_record record;
        if (bp_settled_decode(data, have, segment->header.id, (uint32_t)offset,
                              segment->header.salt, &record) != BP_OK) {
            code = walk_damage(segments, segment, offset, err);
        } else {
            code = each(arg, &record);
            offset += record.size;
        }
    }
    bp_frame_reader_free(&reader);
    return code;
}

/*
 * The records of a checkpoint as bytes (checkpoint.h has every layout). Pure: no file, no store;
 * the fuzzer runs exactly this.
 *
 *   varint   7 bits a byte, low ones first, high bit set where more follow; at most 10 bytes
 *
 * Decoders trust nothing: each length is checked against what is left before it is used, and
 * nothing is written for a record that turns out malformed but the reader's own scratch.
 */
#include "checkpoint.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "limits.h"

enum { NEW_KEY = 1, TOMBSTONE = 2, LEASE = 4, FIRST = 8, EMPTY = 16, ALL_FLAGS = 31 };

#define VARINT_MAX 10u
#define REQUEST_ID_FIXED 42u
#define VERSION_FIXED_MAX                                                                          \
    (1u + 6u * VARINT_MAX + 8u + 4u + 4u) /* a record without its key's bytes */

static const uint8_t magic[8] = "BPCKPT\0";

/* ---- blocks ---------------------------------------------------------------------------------- */

uint64_t bp_ckpt_block_size(const uint8_t *header) {
    return (uint64_t)BP_CKPT_BLOCK_HEADER + bp_get_u32(header + 4);
}

int bp_ckpt_block_decode(const uint8_t *buf, uint64_t n, struct bp_ckpt_block *block,
                         uint64_t *size) {
    if (n < BP_CKPT_BLOCK_HEADER || bp_ckpt_block_size(buf) > n) {
        return BP_OUT_OF_RANGE;
    }
    uint64_t whole = bp_ckpt_block_size(buf);
    *block = (struct bp_ckpt_block){
        .section = bp_get_u32(buf + 8),
        .number = bp_get_u32(buf + 12),
        .crc = bp_get_u32(buf),
        .payload = bp_slice(buf + BP_CKPT_BLOCK_HEADER, whole - BP_CKPT_BLOCK_HEADER)};
    *size = whole;
    return bp_crc32c(0, buf + 4, whole - 4) == block->crc ? BP_OK : BP_OUT_OF_RANGE;
}

uint32_t bp_ckpt_block_finish(uint8_t *block, uint32_t payload_size, uint32_t section,
                              uint32_t number) {
    bp_put_u32(block + 4, payload_size);
    bp_put_u32(block + 8, section);
    bp_put_u32(block + 12, number);
    uint32_t crc = bp_crc32c(0, block + 4, BP_CKPT_BLOCK_HEADER - 4 + (size_t)payload_size);
    bp_put_u32(block, crc);
    return crc;
}

/* ---- fixed records --------------------------------------------------------------------------- */

void bp_ckpt_header_encode(const struct bp_ckpt_header *header, struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_HEADER_SIZE);
    if (p != NULL) {
        memcpy(p, magic, 8);
        bp_put_u32(p + 8, BP_FORMAT_VERSION);
        bp_put_u32(p + 12, 0);
        memcpy(p + 16, header->store_id, 16);
        bp_put_u64(p + 32, header->number);
    }
}

int bp_ckpt_header_decode(struct bp_slice payload, struct bp_ckpt_header *header,
                          uint32_t *format) {
    const uint8_t *p = payload.data;
    if (payload.size < 12 || memcmp(p, magic, 8) != 0) {
        return BP_DATA_LOSS;
    }
    *format =
        bp_get_u32(p + 8); /* comes before the size: a newer format may have a longer header */
    if (*format > BP_FORMAT_VERSION) {
        return BP_FAILED_PRECONDITION;
    }
    if (payload.size != BP_CKPT_HEADER_SIZE || *format == 0 || bp_get_u32(p + 12) != 0) {
        return BP_DATA_LOSS;
    }
    memcpy(header->store_id, p + 16, 16);
    header->number = bp_get_u64(p + 32);
    return BP_OK;
}

void bp_ckpt_meta_encode(const struct bp_ckpt_meta *meta, struct bp_buffer *out) {
    uint8_t config[BP_CONFIG_SIZE_MAX];
    uint32_t size = bp_system_encode(&meta->system, BP_CAUSE_CHANGE, config);
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_META_SIZE + size);
    if (p == NULL) {
        return;
    }
    bp_put_u64(p, meta->applied_index);
    bp_put_u64(p + 8, meta->applied_term);
    bp_put_u64(p + 16, meta->next_revision);
    bp_put_u64(p + 24, meta->compaction_revision);
    bp_put_u32(p + 32, meta->start.segment);
    bp_put_u32(p + 36, meta->start.offset);
    bp_put_u64(p + 40, meta->start_sequence);
    bp_put_u64(p + 48, meta->raft_compacted_index);
    bp_put_u64(p + 56, meta->hardstate.term);
    bp_put_u64(p + 64, meta->hardstate.vote);
    bp_put_u64(p + 72, meta->hardstate.commit);
    bp_put_u64(p + 80, meta->member_id);
    bp_put_u64(p + 88, meta->state_hash[0]);
    bp_put_u64(p + 96, meta->state_hash[1]);
    bp_put_u64(p + 104, meta->compaction_hash[0]);
    bp_put_u64(p + 112, meta->compaction_hash[1]);
    bp_put_u64(p + 120, meta->compaction_hash_index);
    bp_put_u32(p + 128, size);
    bp_put_u32(p + 132, 0);
    memcpy(p + BP_CKPT_META_SIZE, config, size);
}

bool bp_ckpt_meta_decode(struct bp_slice payload, struct bp_ckpt_meta *meta) {
    const uint8_t *p = payload.data;
    if (payload.size < BP_CKPT_META_SIZE ||
        payload.size - BP_CKPT_META_SIZE != bp_get_u32(p + 128)) {
        return false;
    }
    *meta = (struct bp_ckpt_meta){
        .applied_index = bp_get_u64(p),
        .applied_term = bp_get_u64(p + 8),
        .next_revision = bp_get_u64(p + 16),
        .compaction_revision = bp_get_u64(p + 24),
        .start = {.segment = bp_get_u32(p + 32), .offset = bp_get_u32(p + 36)},
        .start_sequence = bp_get_u64(p + 40),
        .raft_compacted_index = bp_get_u64(p + 48),
        .hardstate = {.term = bp_get_u64(p + 56),
                      .vote = bp_get_u64(p + 64),
                      .commit = bp_get_u64(p + 72)},
        .member_id = bp_get_u64(p + 80),
        .state_hash = {bp_get_u64(p + 88), bp_get_u64(p + 96)},
        .compaction_hash = {bp_get_u64(p + 104), bp_get_u64(p + 112)},
        .compaction_hash_index = bp_get_u64(p + 120),
    };
    int cause;
    return bp_system_decode(p + BP_CKPT_META_SIZE, bp_get_u32(p + 128), &meta->system, &cause) &&
           bp_get_u32(p + 132) == 0 && meta->next_revision > 0 &&
           meta->compaction_revision < meta->next_revision && meta->start.segment != 0 &&
           meta->start.offset >= BP_SEGMENT_HEADER && meta->start.offset % 8 == 0;
}

void bp_ckpt_lease_encode(const struct bp_lease_record *lease, struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_LEASE_SIZE);
    if (p != NULL) {
        bp_put_u64(p, lease->id);
        bp_put_u64(p + 8, lease->ttl_ms);
    }
}

static void skip(struct bp_slice *payload, size_t n) {
    assert(n <= payload->size);
    payload->data += n;
    payload->size -= n;
}

int bp_ckpt_lease_next(struct bp_slice *payload, struct bp_lease_record *lease) {
    if (payload->size < BP_CKPT_LEASE_SIZE) {
        return payload->size == 0 ? 0 : -1;
    }
    *lease = (struct bp_lease_record){.id = bp_get_u64(payload->data),
                                      .ttl_ms = bp_get_u64(payload->data + 8)};
    skip(payload, BP_CKPT_LEASE_SIZE);
    return lease->id != 0 ? 1 : -1;
}

void bp_ckpt_request_id_encode(const struct bp_request_id_record *record, struct bp_buffer *out) {
    assert(record->id_size <= BP_REQUEST_ID_MAX);
    uint8_t *p = bp_buffer_grow(out, REQUEST_ID_FIXED + (size_t)record->id_size);
    if (p != NULL) {
        bp_put_u64(p, record->fingerprint);
        bp_put_u64(p + 8, record->revision);
        bp_put_u64(p + 16, record->deleted);
        bp_put_u64(p + 24, record->lease);
        bp_put_u64(p + 32, record->ttl_ms);
        p[40] = record->succeeded;
        p[41] = record->id_size;
        memcpy(p + REQUEST_ID_FIXED, record->id, record->id_size);
    }
}

int bp_ckpt_request_id_next(struct bp_slice *payload, struct bp_request_id_record *record) {
    const uint8_t *p = payload->data;
    if (payload->size < REQUEST_ID_FIXED) {
        return payload->size == 0 ? 0 : -1;
    }
    *record = (struct bp_request_id_record){.fingerprint = bp_get_u64(p),
                                            .revision = bp_get_u64(p + 8),
                                            .deleted = bp_get_u64(p + 16),
                                            .lease = bp_get_u64(p + 24),
                                            .ttl_ms = bp_get_u64(p + 32),
                                            .succeeded = p[40],
                                            .id_size = p[41]};
    if (record->succeeded > 1 || record->id_size == 0 || record->id_size > BP_REQUEST_ID_MAX ||
        record->id_size > payload->size - REQUEST_ID_FIXED) {
        return -1;
    }
    memcpy(record->id, p + REQUEST_ID_FIXED, record->id_size);
    skip(payload, REQUEST_ID_FIXED + (size_t)record->id_size);
    return 1;
}

void bp_ckpt_segment_encode(const struct bp_ckpt_segment *segment, struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_SEGMENT_SIZE);
    if (p != NULL) {
        bp_put_u32(p, segment->id);
        bp_put_u32(p + 4, segment->kind);
        bp_put_u32(p + 8, segment->used);
        bp_put_u32(p + 12, 0);
        bp_put_u64(p + 16, segment->value_bytes);
    }
}

int bp_ckpt_segment_next(struct bp_slice *payload, struct bp_ckpt_segment *segment) {
    const uint8_t *p = payload->data;
    if (payload->size < BP_CKPT_SEGMENT_SIZE) {
        return payload->size == 0 ? 0 : -1;
    }
    *segment = (struct bp_ckpt_segment){.id = bp_get_u32(p),
                                        .kind = bp_get_u32(p + 4),
                                        .used = bp_get_u32(p + 8),
                                        .value_bytes = bp_get_u64(p + 16)};
    bool good = segment->id != 0 &&
                (segment->kind == BP_SEGMENT_LOG || segment->kind == BP_SEGMENT_SETTLED) &&
                segment->used >= BP_SEGMENT_HEADER && segment->value_bytes <= segment->used &&
                bp_get_u32(p + 12) == 0;
    skip(payload, BP_CKPT_SEGMENT_SIZE);
    return good ? 1 : -1;
}

void bp_ckpt_trailer_encode(const struct bp_ckpt_totals *totals, struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_TRAILER_SIZE);
    if (p != NULL) {
        bp_put_u64(p, totals->leases);
        bp_put_u64(p + 8, totals->request_ids);
        bp_put_u64(p + 16, totals->keys);
        bp_put_u64(p + 24, totals->versions);
        bp_put_u64(p + 32, totals->segments);
        bp_put_u64(p + 40, totals->blocks);
        bp_put_u64(p + 48, totals->segments_at);
        bp_put_u64(p + 56, totals->file_size);
        bp_put_u32(p + 64, totals->chain);
        bp_put_u32(p + 68, 0);
    }
}

bool bp_ckpt_trailer_decode(struct bp_slice payload, struct bp_ckpt_totals *totals) {
    const uint8_t *p = payload.data;
    if (payload.size != BP_CKPT_TRAILER_SIZE) {
        return false;
    }
    *totals = (struct bp_ckpt_totals){.leases = bp_get_u64(p),
                                      .request_ids = bp_get_u64(p + 8),
                                      .keys = bp_get_u64(p + 16),
                                      .versions = bp_get_u64(p + 24),
                                      .segments = bp_get_u64(p + 32),
                                      .blocks = bp_get_u64(p + 40),
                                      .segments_at = bp_get_u64(p + 48),
                                      .file_size = bp_get_u64(p + 56),
                                      .chain = bp_get_u32(p + 64)};
    return bp_get_u32(p + 68) == 0;
}

/* ---- versions, written ----------------------------------------------------------------------- */

static uint8_t *put_varint(uint8_t *p, uint64_t value) {
    while (value >= 0x80) {
        *p++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *p++ = (uint8_t)value;
    return p;
}

static uint32_t shared_prefix(const struct bp_ckpt_version_writer *writer, struct bp_slice key) {
    uint32_t n = writer->key_size < key.size ? writer->key_size : (uint32_t)key.size, i = 0;
    while (i < n && writer->key[i] == key.data[i]) {
        i++;
    }
    return i;
}

static uint8_t *put_version(uint8_t *p, const struct bp_version *version, uint8_t flags,
                            uint64_t revision) {
    p = put_varint(p, revision);
    if ((flags & (TOMBSTONE | FIRST)) == 0) {
        p = put_varint(p, version->revision - version->create_revision);
        p = put_varint(p, version->version);
    }
    if ((flags & LEASE) != 0) {
        bp_put_u64(p, version->lease);
        p += 8;
    }
    if ((flags & TOMBSTONE) == 0) {
        bp_put_u32(p, version->value.crc);
        p += 4;
    }
    if ((flags & (TOMBSTONE | EMPTY)) == 0) {
        p = put_varint(p, version->value.size);
        p = put_varint(p, version->value.at.segment);
        bp_put_u32(p, version->value.at.offset);
        p += 4;
    }
    return p;
}

static uint8_t flags_of(const struct bp_version *version, bool new_key) {
    uint32_t flags = new_key ? NEW_KEY : 0;
    if ((version->flags & BP_VERSION_TOMBSTONE) != 0) {
        return (uint8_t)(flags | TOMBSTONE);
    }
    flags |= version->lease != 0 ? LEASE : 0;
    flags |= version->version == 1 && version->create_revision == version->revision ? FIRST : 0;
    flags |= version->value.size == 0 ? EMPTY : 0;
    return (uint8_t)flags;
}

bool bp_ckpt_version_encode(struct bp_ckpt_version_writer *writer, struct bp_slice key,
                            const struct bp_version *version, struct bp_buffer *out) {
    assert(key.size > 0 && key.size <= BP_STORED_KEY_MAX);
    bool same = writer->any && bp_slice_equal(key, bp_slice(writer->key, writer->key_size));
    size_t before = out->size;
    uint8_t *begin = bp_buffer_grow(out, VERSION_FIXED_MAX + key.size), *p = begin;
    if (begin == NULL) {
        return !same;
    }
    uint8_t flags = flags_of(version, !same);
    *p++ = flags;
    uint64_t revision = version->revision;
    if (same) {
        assert(version->revision < writer->revision);
        revision = writer->revision - version->revision;
    } else {
        uint32_t shared = writer->any ? shared_prefix(writer, key) : 0,
                 rest = (uint32_t)key.size - shared;
        p = put_varint(p, shared);
        p = put_varint(p, rest);
        memcpy(p, key.data + shared, rest);
        p += rest;
        memcpy(writer->key + shared, key.data + shared, rest);
        writer->key_size = (uint32_t)key.size;
        writer->any = true;
    }
    writer->revision = version->revision;
    p = put_version(p, version, flags, revision);
    out->size = before + (size_t)(p - begin);
    return !same;
}

/* ---- versions, read -------------------------------------------------------------------------- */

/* All checks of one record end in `bad`, so that the fields are read in a row. */
struct cursor {
    const uint8_t *p, *end;
    bool bad;
};

static uint64_t take_varint(struct cursor *cursor) {
    if (cursor->p < cursor->end && *cursor->p < 0x80) { /* nearly all */
        return *cursor->p++;
    }
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 64; shift += 7) {
        if (cursor->p == cursor->end) {
            break;
        }
        uint8_t byte = *cursor->p++;
        if (shift == 63 && byte > 1) {
            break; /* more than 64 bits */
        }
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return value;
        }
    }
    cursor->bad = true;
    return 0;
}

static const uint8_t *take(struct cursor *cursor, uint64_t n) {
    if ((uint64_t)(cursor->end - cursor->p) < n) {
        cursor->bad = true;
        return NULL;
    }
    const uint8_t *at = cursor->p;
    cursor->p += n;
    return at;
}

static uint32_t take_u32(struct cursor *cursor) {
    const uint8_t *at = take(cursor, 4);
    return at == NULL ? 0 : bp_get_u32(at);
}

static uint32_t take_varint_u32(struct cursor *cursor) {
    uint64_t value = take_varint(cursor);
    cursor->bad |= value > UINT32_MAX;
    return (uint32_t)value;
}

static void take_value(struct cursor *cursor, uint8_t flags, struct bp_value_ref *value) {
    value->crc = take_u32(cursor);
    if ((flags & EMPTY) == 0) {
        value->size = take_varint_u32(cursor);
        value->at.segment = take_varint_u32(cursor);
        value->at.offset = take_u32(cursor);
        cursor->bad |= value->size == 0 || value->size > BP_VALUE_MAX || value->at.segment == 0 ||
                       value->at.offset < BP_SEGMENT_HEADER ||
                       value->at.offset > UINT32_MAX - value->size;
    }
}

/* `above`: the revision of the version before, 0 for a key's first. */
static void take_version(struct cursor *cursor, uint8_t flags, uint64_t above,
                         struct bp_version *version) {
    memset(version, 0, sizeof *version);
    uint64_t revision = take_varint(cursor);
    if (above != 0) {
        cursor->bad |= revision >= above;
        revision = above - revision;
        cursor->bad |= revision == above;
    }
    cursor->bad |= revision == 0;
    version->revision = revision;
    if ((flags & TOMBSTONE) != 0) {
        cursor->bad |= (flags & (LEASE | FIRST | EMPTY)) != 0;
        version->flags = BP_VERSION_TOMBSTONE;
        return;
    }
    version->create_revision = revision;
    version->version = 1;
    if ((flags & FIRST) == 0) {
        uint64_t age = take_varint(cursor);
        cursor->bad |= age >= revision;
        version->create_revision = revision - age;
        version->version = take_varint_u32(cursor);
        cursor->bad |= version->version == 0;
    }
    if ((flags & LEASE) != 0) {
        const uint8_t *at = take(cursor, 8);
        version->lease = at == NULL ? 0 : bp_get_u64(at);
        cursor->bad |= version->lease == 0;
    }
    take_value(cursor, flags, &version->value);
}

static void take_key(struct bp_ckpt_version_reader *reader, struct cursor *cursor) {
    uint64_t shared = take_varint(cursor), rest = take_varint(cursor);
    if (cursor->bad || shared > reader->key_size || rest == 0 ||
        rest > BP_STORED_KEY_MAX - shared) {
        cursor->bad = true;
        return;
    }
    const uint8_t *at = take(cursor, rest);
    if (at == NULL) {
        return;
    }
    /* The new key is above the last one exactly where the parts behind the shared bytes are. */
    struct bp_slice old = bp_slice(reader->key + shared, reader->key_size - shared);
    cursor->bad |= bp_slice_compare(old, bp_slice(at, rest)) >= 0;
    memcpy(reader->key + shared, at, rest);
    reader->key_size = (uint32_t)(shared + rest);
}

void bp_ckpt_version_reader_init(struct bp_ckpt_version_reader *reader) {
    reader->rest = bp_slice(NULL, 0);
    reader->versions = NULL;
    reader->n = reader->capacity = reader->key_size = 0;
}

void bp_ckpt_version_reader_free(struct bp_ckpt_version_reader *reader) {
    free(reader->versions);
    bp_ckpt_version_reader_init(reader);
}

void bp_ckpt_version_reader_aim(struct bp_ckpt_version_reader *reader, struct bp_slice payload) {
    reader->rest = payload;
}

static bool version_room(struct bp_ckpt_version_reader *reader) {
    if (reader->n < reader->capacity) {
        return true;
    }
    uint32_t capacity =
        reader->capacity == 0 ? 16 : reader->capacity * 2; /* a block's bytes bound it */
    struct bp_version *versions = realloc(reader->versions, capacity * sizeof *versions);
    if (versions == NULL) {
        return false;
    }
    reader->versions = versions;
    reader->capacity = capacity;
    return true;
}

int bp_ckpt_version_next(struct bp_ckpt_version_reader *reader) {
    reader->n = 0;
    if (reader->rest.size == 0) {
        return 0;
    }
    struct cursor cursor = {.p = reader->rest.data, .end = reader->rest.data + reader->rest.size};
    if ((*cursor.p & NEW_KEY) == 0) {
        return -1;
    }
    do {
        uint8_t flags = *cursor.p++;
        if (!version_room(reader)) {
            return -2;
        }
        if ((flags & NEW_KEY) != 0) {
            take_key(reader, &cursor);
        }
        uint64_t above = reader->n == 0 ? 0 : reader->versions[reader->n - 1].revision;
        take_version(&cursor, flags, above, &reader->versions[reader->n]);
        if (cursor.bad || flags > ALL_FLAGS) {
            return -1;
        }
        reader->n++;
    } while (cursor.p < cursor.end && (*cursor.p & NEW_KEY) == 0);
    reader->rest = bp_slice(cursor.p, (size_t)(cursor.end - cursor.p));
    return 1;
}

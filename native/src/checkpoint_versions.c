/*
 * The versions of keys in a checkpoint, as bytes (checkpoint.h has the layout). Pure, as
 * checkpoint_codec.c.
 *
 *   block    [key a: version 9, 7, 4][key b: ...]    a key's versions newest first, keys ascending
 *   key      what it shares with the one before, and the rest
 *   varint   7 bits a byte, low ones first, high bit set where more follow; at most 10 bytes
 *
 * A manifest (manifest.h) has the same records without the places: these are one member's own.
 *
 * The reader trusts nothing: each length is checked against what is left before it is used, and
 * nothing is written for a record that turns out malformed but its own scratch.
 */
#include "checkpoint.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "limits.h"

enum { NEW_KEY = 1, TOMBSTONE = 2, LEASE = 4, FIRST = 8, EMPTY = 16, ALL_FLAGS = 31 };

#define VARINT_MAX 10u
#define VERSION_FIXED_MAX                                                                          \
    (1u + 6u * VARINT_MAX + 8u + 4u + 4u) /* a record without its key's bytes */

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
                            uint64_t revision, bool placeless) {
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
        if (!placeless) {
            p = put_varint(p, version->value.at.segment);
            bp_put_u32(p, version->value.at.offset);
            p += 4;
        }
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
    p = put_version(p, version, flags, revision, writer->placeless);
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

static void take_value(struct cursor *cursor, uint8_t flags, bool placeless,
                       struct bp_value_ref *value) {
    value->crc = take_u32(cursor);
    if ((flags & EMPTY) != 0) {
        return;
    }
    value->size = take_varint_u32(cursor);
    cursor->bad |= value->size == 0 || value->size > BP_VALUE_MAX;
    if (!placeless) {
        value->at.segment = take_varint_u32(cursor);
        value->at.offset = take_u32(cursor);
        cursor->bad |= value->at.segment == 0 || value->at.offset < BP_SEGMENT_HEADER ||
                       value->at.offset > UINT32_MAX - value->size;
    }
}

/* `above`: the revision of the version before, 0 for a key's first. */
static void take_version(struct cursor *cursor, uint8_t flags, bool placeless, uint64_t above,
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
    take_value(cursor, flags, placeless, &version->value);
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
    reader->placeless = false;
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
        take_version(&cursor, flags, reader->placeless, above, &reader->versions[reader->n]);
        if (cursor.bad || flags > ALL_FLAGS) {
            return -1;
        }
        reader->n++;
    } while (cursor.p < cursor.end && (*cursor.p & NEW_KEY) == 0);
    reader->rest = bp_slice(cursor.p, (size_t)(cursor.end - cursor.p));
    return 1;
}

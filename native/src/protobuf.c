/*
 * Protobuf's wire (see protobuf.h).
 *
 *   open(7)    [tag 7|2] [len: 1 byte kept] | content ...
 *   close      [tag 7|2] [len: n bytes]     | content ...        moved by n - 1 bytes
 *
 * Invariant of the reader: at <= end, and everything before `at` was well formed. It reads no byte
 * at or past `end`.
 */
#include "protobuf.h"

#include <assert.h>

enum { GROUP_START = 3, GROUP_END = 4 };
enum { GROUP_DEPTH_MAX = 100 }; /* protobuf's own limit on nesting */

bool bp_pb_varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
    uint64_t v = 0;
    const uint8_t *p = *at;
    for (uint32_t shift = 0; shift < 70 && p < end; shift += 7) {
        uint8_t byte = *p++;
        v |= (uint64_t)(byte & 0x7f) << shift; /* of the tenth byte only one bit counts */
        if (byte < 0x80) {
            *at = p;
            *value = v;
            return true;
        }
    }
    return false;
}

/* A tag or a length: at most five bytes, 32 bits. */
static bool short_varint(const uint8_t **at, const uint8_t *end, uint32_t *value) {
    const uint8_t *last = end - *at > 5 ? *at + 5 : end;
    uint64_t v;
    if (!bp_pb_varint(at, last, &v) || v > UINT32_MAX) {
        return false;
    }
    *value = (uint32_t)v;
    return true;
}

static bool skip_bytes(struct bp_pb_reader *r, size_t n) {
    if ((size_t)(r->end - r->at) < n) {
        return false;
    }
    r->at += n;
    return true;
}

/* The content of one field that is no group. */
static bool read_value(struct bp_pb_reader *r, struct bp_pb_field *field) {
    const uint8_t *start = r->at;
    uint32_t size;
    switch (field->type) {
    case BP_PB_VARINT:
        return bp_pb_varint(&r->at, r->end, &field->value);
    case BP_PB_I64:
        if (!skip_bytes(r, 8)) {
            return false;
        }
        field->value = bp_get_u64(start);
        return true;
    case BP_PB_I32:
        if (!skip_bytes(r, 4)) {
            return false;
        }
        field->value = bp_get_u32(start);
        return true;
    case BP_PB_LEN:
        if (!short_varint(&r->at, r->end, &size)) {
            return false;
        }
        field->bytes = bp_slice(r->at, size);
        return skip_bytes(r, size);
    default:
        return false;
    }
}

static bool read_tag(struct bp_pb_reader *r, struct bp_pb_field *field) {
    uint32_t tag;
    if (!short_varint(&r->at, r->end, &tag)) {
        return false;
    }
    field->number = tag >> 3;
    field->type = tag & 7u;
    return field->number != 0;
}

/*
 * Pass over a group whose start tag was just read, and the groups in it: each must end with its own
 * number.
 */
static bool skip_group(struct bp_pb_reader *r, uint32_t number) {
    uint32_t open[GROUP_DEPTH_MAX], depth = 0;
    open[depth++] = number;
    while (depth > 0) {
        struct bp_pb_field field;
        if (!read_tag(r, &field)) {
            return false;
        }
        if (field.type == GROUP_START) {
            if (depth == GROUP_DEPTH_MAX) {
                return false;
            }
            open[depth++] = field.number;
        } else if (field.type == GROUP_END) {
            if (open[--depth] != field.number) {
                return false;
            }
        } else if (!read_value(r, &field)) {
            return false;
        }
    }
    return true;
}

bool bp_pb_next(struct bp_pb_reader *reader, struct bp_pb_field *field) {
    while (!reader->malformed && reader->at < reader->end) {
        if (!read_tag(reader, field)) {
            reader->malformed = true;
        } else if (field->type == GROUP_START) {
            reader->malformed = !skip_group(reader, field->number);
        } else if (read_value(reader, field)) {
            return true;
        } else {
            reader->malformed = true;
        }
    }
    return false;
}

/* Bytes of the character at p, or 0 when it is none. */
static size_t utf8_character(const uint8_t *p, size_t left) {
    uint8_t lead = p[0], low = 0x80, high = 0xbf; /* the range of the second byte */
    size_t n = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xc2 || lead > 0xf4 || left < n) {
        return 0;
    }
    if (lead == 0xe0) {
        low = 0xa0;
    } else if (lead == 0xed) {
        high = 0x9f; /* surrogates */
    } else if (lead == 0xf0) {
        low = 0x90;
    } else if (lead == 0xf4) {
        high = 0x8f;
    }
    if (p[1] < low || p[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return n;
}

bool bp_utf8_valid(struct bp_slice text) {
    for (size_t at = 0; at < text.size;) {
        size_t n = utf8_character(text.data + at, text.size - at);
        if (n == 0) {
            return false;
        }
        at += n;
    }
    return true;
}

/* ---- writing -------------------------------------------------------------------------------- */

void bp_pb_uint_always(struct bp_buffer *out, uint32_t number, uint64_t value) {
    uint64_t tag = (uint64_t)number << 3 | BP_PB_VARINT;
    uint8_t *at = bp_buffer_grow(out, bp_pb_varint_size(tag) + bp_pb_varint_size(value));
    if (at != NULL) {
        bp_pb_store_varint(bp_pb_store_varint(at, tag), value);
    }
}

void bp_pb_uint(struct bp_buffer *out, uint32_t number, uint64_t value) {
    if (value != 0) {
        bp_pb_uint_always(out, number, value);
    }
}

void bp_pb_head(struct bp_buffer *out, uint32_t number, uint64_t size) {
    uint64_t tag = (uint64_t)number << 3 | BP_PB_LEN;
    uint8_t *at = bp_buffer_grow(out, bp_pb_varint_size(tag) + bp_pb_varint_size(size));
    if (at != NULL) {
        bp_pb_store_varint(bp_pb_store_varint(at, tag), size);
    }
}

void bp_pb_bytes_always(struct bp_buffer *out, uint32_t number, struct bp_slice bytes) {
    bp_pb_head(out, number, bytes.size);
    bp_buffer_append(out, bytes.data, bytes.size);
}

void bp_pb_bytes(struct bp_buffer *out, uint32_t number, struct bp_slice bytes) {
    if (bytes.size > 0) {
        bp_pb_bytes_always(out, number, bytes);
    }
}

void bp_pb_text(struct bp_buffer *out, uint32_t number, const char *text) {
    bp_pb_bytes(out, number, bp_slice(text, strlen(text)));
}

size_t bp_pb_open(struct bp_buffer *out, uint32_t number) {
    bp_pb_head(out, number, 0);
    return out->size;
}

void bp_pb_close(struct bp_buffer *out, size_t opened) {
    if (out->failed) {
        return;
    }
    assert(opened > 0 && opened <= out->size);
    size_t size = out->size - opened, more = bp_pb_varint_size(size) - 1;
    if (more > 0) {
        if (bp_buffer_grow(out, more) == NULL) {
            return;
        }
        memmove(out->data + opened + more, out->data + opened, size);
    }
    bp_pb_store_varint(out->data + opened - 1, size);
}

/*
 *   gRPC      u8 0 | u32 size, big-endian | message
 *   protobuf  field:  varint (number << 3 | type) | varint            type 0
 *                                                 | varint size, bytes      2
 *                                                 | 8 bytes, 4 bytes        1, 5
 */
#include "load_message.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

bool message_init(struct message *message, size_t capacity) {
    *message = (struct message){.bytes = malloc(capacity), .capacity = capacity};
    return message->bytes != NULL;
}

void message_free(struct message *message) {
    free(message->bytes);
    message->bytes = NULL;
}

static void put(struct message *message, const void *bytes, size_t size) {
    assert(message->size + size <= message->capacity);
    if (size > 0) {
        memcpy(message->bytes + message->size, bytes, size);
        message->size += size;
    }
}

static void put_varint(struct message *message, uint64_t value) {
    uint8_t bytes[10];
    size_t n = 0;
    for (; value >= 0x80; value >>= 7) {
        bytes[n++] = (uint8_t)(value | 0x80);
    }
    bytes[n++] = (uint8_t)value;
    put(message, bytes, n);
}

void message_begin(struct message *message) {
    static const uint8_t prefix[GRPC_PREFIX];
    message->size = 0;
    put(message, prefix, sizeof prefix);
}

void message_end(struct message *message) {
    size_t size = message->size - GRPC_PREFIX;
    for (uint32_t i = 0; i < 4; i++) {
        message->bytes[1 + i] = (uint8_t)(size >> (24 - 8 * i));
    }
}

void message_uint(struct message *message, uint32_t field, uint64_t value) {
    put_varint(message, (uint64_t)field << 3);
    put_varint(message, value);
}

void message_fixed32(struct message *message, uint32_t field, uint32_t value) {
    uint8_t bytes[4];
    for (uint32_t i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    put_varint(message, (uint64_t)field << 3 | 5);
    put(message, bytes, sizeof bytes);
}

void message_head(struct message *message, uint32_t field, size_t size) {
    put_varint(message, (uint64_t)field << 3 | 2);
    put_varint(message, size);
}

void message_bytes(struct message *message, uint32_t field, const void *bytes, size_t size) {
    message_head(message, field, size);
    put(message, bytes, size);
}

size_t message_field_size(size_t size) {
    size_t n = 2 + size;
    for (size_t rest = size; rest >= 0x80; rest >>= 7) {
        n++;
    }
    return n;
}

static bool get_varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (uint32_t shift = 0; shift < 64 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return true;
        }
    }
    return false;
}

struct field {
    uint32_t number, type;
    uint64_t value; /* type 0 */
    const uint8_t *bytes;
    size_t size; /* type 2 */
};

static bool next_field(const uint8_t **at, const uint8_t *end, struct field *field) {
    uint64_t tag, size = 0;
    if (!get_varint(at, end, &tag)) {
        return false;
    }
    field->number = (uint32_t)(tag >> 3);
    field->type = tag & 7;
    if (field->type == 0) {
        return get_varint(at, end, &field->value);
    }
    if (field->type == 2 && !get_varint(at, end, &size)) {
        return false;
    }
    size = field->type == 1 ? 8 : field->type == 5 ? 4 : size;
    if (size > (uint64_t)(end - *at)) {
        return false;
    }
    field->bytes = *at;
    field->size = (size_t)size;
    *at += size;
    return true;
}

uint64_t message_find_uint(const uint8_t *bytes, size_t size, uint32_t number) {
    const uint8_t *at = bytes;
    struct field field;
    while (next_field(&at, bytes + size, &field)) {
        if (field.number == number && field.type == 0) {
            return field.value;
        }
    }
    return 0;
}

bool message_find_bytes(const uint8_t *bytes, size_t size, uint32_t number, const uint8_t **found,
                        size_t *found_size) {
    const uint8_t *at = bytes;
    struct field field;
    while (next_field(&at, bytes + size, &field)) {
        if (field.number == number && field.type == 2) {
            *found = field.bytes;
            *found_size = field.size;
            return true;
        }
    }
    return false;
}

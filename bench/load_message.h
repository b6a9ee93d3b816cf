/*
 * gRPC messages by hand: the few requests that the load needs, for Bedplate and for etcd, and
 * reading one number from a reply.
 */
#ifndef LOAD_MESSAGE_H
#define LOAD_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GRPC_PREFIX 5u

/*
 * Bytes with room for all that is ever written to them: the writer never checks, its owner sized
 * it.
 */
struct message {
    uint8_t *bytes;
    size_t size, capacity;
};

bool message_init(struct message *message, size_t capacity);
void message_free(struct message *message);
/* Room for the gRPC prefix; message_end fills it in. */
void message_begin(struct message *message);
void message_end(struct message *message);

void message_uint(struct message *message, uint32_t field, uint64_t value);
void message_fixed32(struct message *message, uint32_t field, uint32_t value);
void message_bytes(struct message *message, uint32_t field, const void *bytes, size_t size);
/* Tag and length of `size` bytes that follow by other calls. */
void message_head(struct message *message, uint32_t field, size_t size);
/* Bytes that message_head or message_bytes takes for `size` bytes (field numbers below 16). */
size_t message_field_size(size_t size);

/* The first varint field `field` of a message (prefix cut off); 0 when absent. */
uint64_t message_find_uint(const uint8_t *bytes, size_t size, uint32_t field);
/* The first bytes field `field`: true, and where it lies. */
bool message_find_bytes(const uint8_t *bytes, size_t size, uint32_t field, const uint8_t **found,
                        size_t *found_size);

#endif

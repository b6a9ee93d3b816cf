/*
 * Page tokens: where a scan goes on. Opaque to clients, little-endian, checked before use.
 *
 *   0 u8 version (1)  1 u8 zero  2 u16 key size  4 u32 CRC32C of the token with this field 0
 *   8 u64 revision   16 u32 binding  20 u32 zero   24 stored key
 *
 * The binding is a checksum of the range and direction, so that a token cannot be carried to
 * another scan by mistake. A token is not a secret and grants nothing: what it names is checked
 * against the request it comes with.
 */
#ifndef BP_WIRE_TOKEN_H
#define BP_WIRE_TOKEN_H

#include "buffer.h"
#include "bytes.h"
#include "limits.h"

/* Bytes of the longest token as a field of a reply. */
#define BP_TOKEN_FIELD_MAX (24u + BP_STORED_KEY_MAX + 4u)

struct bp_token {
    uint64_t revision;
    uint32_t binding;
    struct bp_slice key; /* the first of the next page, stored; borrowed */
};

/* Appends the token as bytes field `number`. */
void bp_token_append(struct bp_buffer *out, uint32_t number, const struct bp_token *token);
/* false when it is not a token, whole and unchanged. */
bool bp_token_parse(struct bp_slice bytes, struct bp_token *token);
uint32_t bp_token_binding(struct bp_slice start, struct bp_slice end, bool reverse);

#endif

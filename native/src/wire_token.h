/*
 * Page tokens: where a scan goes on. Opaque to clients, little-endian, checked before use.
 *
 *   0 u8 version (1)  1 u8 kind  2 u16 key size  4 u32 CRC32C of the token with this field 0
 *   8 u64 revision (SCAN) or lease id (LEASE)   16 u32 binding  20 u32 zero   24 stored key
 *
 * The binding is a checksum of the range and direction, so that a token cannot be carried to another scan by mistake. A token is not a
 * secret and grants nothing: what it names is checked against the request it comes with.
 */
#ifndef BP_WIRE_TOKEN_H
#define BP_WIRE_TOKEN_H

#include "buffer.h"
#include "bytes.h"

enum bp_token_kind {
    BP_TOKEN_SCAN = 1,  /* key: the first of the next page */
    BP_TOKEN_LEASE = 2, /* key: the last of this page */
};

struct bp_token {
    uint64_t scope; /* revision or lease id */
    uint32_t binding;
    struct bp_slice key; /* borrowed */
};

/* Appends the token as bytes field `number`. */
void bp_token_append(struct bp_buffer *out, uint32_t number, int kind, const struct bp_token *token);
/* false when it is not a token of this kind, whole and unchanged. */
bool bp_token_parse(struct bp_slice bytes, int kind, struct bp_token *token);
uint32_t bp_token_binding(struct bp_slice start, struct bp_slice end, bool reverse);

#endif

/*
 * Page tokens (see wire_token.h for the drawing).
 *
 * Invariant: parse accepts exactly the bytes append made, for any key of 1 to BP_STORED_KEY_MAX
 * bytes.
 */
#include "wire_token.h"

#include <assert.h>

#include "crc32c.h"
#include "limits.h"
#include "protobuf.h"

enum { VERSION = 1, HEADER = 24 };

static uint32_t token_crc(const uint8_t *token, size_t n) {
    static const uint8_t zero[4] = {0};
    uint32_t crc = bp_crc32c(0, token, 4);
    crc = bp_crc32c(crc, zero, 4);
    return bp_crc32c(crc, token + 8, n - 8);
}

void bp_token_append(struct bp_buffer *out, uint32_t number, const struct bp_token *token) {
    size_t n = HEADER + token->key.size;
    assert(token->key.size > 0 && token->key.size <= BP_STORED_KEY_MAX);
    bp_pb_head(out, number, n);
    uint8_t *at = bp_buffer_grow(out, n);
    if (at == NULL) {
        return;
    }
    at[0] = VERSION;
    at[1] = 0;
    bp_put_u16(at + 2, (uint16_t)token->key.size);
    bp_put_u64(at + 8, token->revision);
    bp_put_u32(at + 16, token->binding);
    bp_put_u32(at + 20, 0);
    memcpy(at + HEADER, token->key.data, token->key.size);
    bp_put_u32(at + 4, token_crc(at, n));
}

bool bp_token_parse(struct bp_slice bytes, struct bp_token *token) {
    const uint8_t *at = bytes.data;
    if (bytes.size <= HEADER || bytes.size > HEADER + BP_STORED_KEY_MAX || at[0] != VERSION ||
        at[1] != 0 || bp_get_u16(at + 2) != bytes.size - HEADER || bp_get_u32(at + 20) != 0 ||
        bp_get_u32(at + 4) != token_crc(at, bytes.size)) {
        return false;
    }
    token->revision = bp_get_u64(at + 8);
    token->binding = bp_get_u32(at + 16);
    token->key = bp_slice(at + HEADER, bytes.size - HEADER);
    return true;
}

uint32_t bp_token_binding(struct bp_slice start, struct bp_slice end, bool reverse) {
    uint8_t head[8] = {0}; /* the sizes keep ("ab", "c") and ("a", "bc") apart */
    bp_put_u32(head, (uint32_t)start.size);
    head[4] = reverse;
    uint32_t crc = bp_crc32c(0, head, sizeof head);
    crc = bp_crc32c(crc, start.data, start.size);
    return bp_crc32c(crc, end.data, end.size);
}

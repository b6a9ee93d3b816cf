/*
 * A growing byte buffer that remembers having run out of memory, so that writers check once at the
 * end.
 */
#ifndef BP_BUFFER_H
#define BP_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bp_buffer {
    uint8_t *data;
    size_t size, capacity;
    bool failed;
};

void bp_buffer_free(struct bp_buffer *buffer);
/* Room for n more bytes: a pointer to them with size already grown, or NULL with `failed` set. */
uint8_t *bp_buffer_grow(struct bp_buffer *buffer, size_t n);
void bp_buffer_append(struct bp_buffer *buffer, const void *data, size_t n);

#endif

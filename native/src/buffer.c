/*
 * The growing byte buffer (see buffer.h):
 *
 *   data  [ written ............ | room ........ ]
 *          0                 size           capacity
 *
 * Invariants: size <= capacity; once `failed` is set the buffer grows no more and what it holds is
 * not to be used, so a writer may append blindly and look once at the end.
 */
#include "buffer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 256 };

void bp_buffer_free(struct bp_buffer *buffer) {
    free(buffer->data);
    *buffer = (struct bp_buffer){0};
}

/* Doubling keeps the cost of n appends linear. */
static bool make_room(struct bp_buffer *buffer, size_t n) {
    if (n > SIZE_MAX / 4 - buffer->size) {
        return false;
    }
    size_t need = buffer->size + n, capacity = buffer->capacity;
    if (capacity < FIRST_CAPACITY) {
        capacity = FIRST_CAPACITY;
    }
    while (capacity < need) {
        capacity *= 2;
    }
    uint8_t *data = realloc(buffer->data, capacity);
    if (data == NULL) {
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

uint8_t *bp_buffer_grow(struct bp_buffer *buffer, size_t n) {
    assert(buffer->size <= buffer->capacity);
    if (buffer->failed) {
        return NULL;
    }
    /* An empty buffer gets memory even for n = 0, so that only failure returns NULL. */
    if ((n > buffer->capacity - buffer->size || buffer->data == NULL) && !make_room(buffer, n)) {
        buffer->failed = true;
        return NULL;
    }
    uint8_t *at = buffer->data + buffer->size;
    buffer->size += n;
    return at;
}

void bp_buffer_append(struct bp_buffer *buffer, const void *data, size_t n) {
    uint8_t *at = bp_buffer_grow(buffer, n);
    if (at != NULL && n > 0) {
        memcpy(at, data, n);
    }
}

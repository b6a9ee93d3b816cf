/*
 * What the earlier ops of a branch have written: a set of keys and ranges, kept as sorted, disjoint
 * spans.
 *
 *   covered   |--span--|      |       |----span----|
 *   a range        <=======================>
 *   its pieces     in  | out  |  out  | in |       `in` is read after the request, `out` before
 */
#ifndef BP_WIRE_COVER_H
#define BP_WIRE_COVER_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "limits.h"

/* A place between keys: right before `key`, or right behind it. */
struct bp_bound {
    struct bp_slice key;
    bool behind;
};
struct bp_span {
    struct bp_slice start;
    struct bp_bound end;
};
struct bp_wire_cover { /* zero-initialise; slices are borrowed */
    struct bp_span *spans;
    uint32_t n, capacity;
};

void bp_wire_cover_free(struct bp_wire_cover *cover);
/* Add [start, end), or `start` alone when end is empty. false: no memory. */
bool bp_wire_cover_add(struct bp_wire_cover *cover, struct bp_slice start, struct bp_slice end);
bool bp_wire_cover_holds(const struct bp_wire_cover *cover, struct bp_slice key);

/* The pieces of [start, end) in ascending order: n of them, some may be empty. */
struct bp_wire_pieces {
    const struct bp_wire_cover *cover;
    struct bp_slice start, end;
    uint32_t first, n;
};
struct bp_wire_piece {
    struct bp_slice start, end; /* into what the cover borrows, or the buffers below */
    bool covered;
    uint8_t start_key[BP_STORED_KEY_MAX + 2], end_key[BP_STORED_KEY_MAX + 2]; /* not initialised */
};
struct bp_wire_pieces bp_wire_cover_pieces(const struct bp_wire_cover *cover, struct bp_slice start,
                                           struct bp_slice end);
void bp_wire_cover_piece(const struct bp_wire_pieces *pieces, uint32_t i,
                         struct bp_wire_piece *piece);

#endif

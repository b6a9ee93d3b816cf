/*
 * The set of keys already written (see wire_cover.h for the drawing).
 *
 * Invariant: spans[i].start < spans[i].end <= spans[i + 1].start, as places between keys. A bound
 * "behind k" lies before every key that is greater than k: it is the same place as "before k
 * followed by a byte 0", without needing that key to exist.
 */
#include "wire_cover.h"

#include <assert.h>
#include <stdlib.h>

static int compare_bounds(struct bp_bound a, struct bp_bound b) {
    int order = bp_slice_compare(a.key, b.key);
    return order != 0 ? order : (int)a.behind - (int)b.behind;
}

static struct bp_bound before(struct bp_slice key) {
    return (struct bp_bound){.key = key, .behind = false};
}

void bp_wire_cover_free(struct bp_wire_cover *cover) {
    free(cover->spans);
    *cover = (struct bp_wire_cover){0};
}

/* The first span that ends behind `at`; n when there is none. */
static uint32_t first_ending_after(const struct bp_wire_cover *cover, struct bp_bound at) {
    uint32_t low = 0, high = cover->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (compare_bounds(cover->spans[middle].end, at) > 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

/* The first span, from `low` on, that starts at or behind `at`. */
static uint32_t first_starting_at(const struct bp_wire_cover *cover, uint32_t low,
                                  struct bp_bound at) {
    uint32_t high = cover->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (compare_bounds(before(cover->spans[middle].start), at) >= 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static bool make_room(struct bp_wire_cover *cover) {
    if (cover->n < cover->capacity) {
        return true;
    }
    uint32_t capacity = cover->capacity == 0 ? 16 : cover->capacity * 2;
    struct bp_span *spans = realloc(cover->spans, capacity * sizeof *spans);
    if (spans == NULL) {
        return false;
    }
    cover->spans = spans;
    cover->capacity = capacity;
    return true;
}

bool bp_wire_cover_add(struct bp_wire_cover *cover, struct bp_slice start, struct bp_slice end) {
    struct bp_span span = {.start = start, .end = before(end)};
    if (end.size == 0) {
        span.end = (struct bp_bound){.key = start, .behind = true};
    }
    if (!make_room(cover)) {
        return false;
    }
    /* Spans [low, high) overlap the new one and become part of it. */
    uint32_t low = first_ending_after(cover, before(start));
    uint32_t high = first_starting_at(cover, low, span.end);
    if (low < high) {
        const struct bp_span *first = &cover->spans[low], *last = &cover->spans[high - 1];
        if (bp_slice_compare(first->start, span.start) < 0) {
            span.start = first->start;
        }
        if (compare_bounds(last->end, span.end) > 0) {
            span.end = last->end;
        }
    }
    memmove(cover->spans + low + 1, cover->spans + high, (cover->n - high) * sizeof *cover->spans);
    cover->spans[low] = span;
    cover->n = cover->n - (high - low) + 1;
    return true;
}

bool bp_wire_cover_holds(const struct bp_wire_cover *cover, struct bp_slice key) {
    uint32_t i = first_ending_after(cover, before(key));
    return i < cover->n && bp_slice_compare(cover->spans[i].start, key) <= 0;
}

struct bp_wire_pieces bp_wire_cover_pieces(const struct bp_wire_cover *cover, struct bp_slice start,
                                           struct bp_slice end) {
    uint32_t low = first_ending_after(cover, before(start));
    uint32_t high = first_starting_at(cover, low, before(end));
    return (struct bp_wire_pieces){
        .cover = cover, .start = start, .end = end, .first = low, .n = 2 * (high - low) + 1};
}

/* The smallest key at or behind a bound; `buf` holds it where it is not a key we have. */
static struct bp_slice bound_key(struct bp_bound at, uint8_t *buf) {
    if (!at.behind) {
        return at.key;
    }
    assert(at.key.size <= BP_STORED_KEY_MAX);
    memcpy(buf, at.key.data, at.key.size);
    buf[at.key.size] = 0;
    return bp_slice(buf, at.key.size + 1);
}

/* Even pieces are the gaps, odd ones the spans between them; both clipped to the range. */
void bp_wire_cover_piece(const struct bp_wire_pieces *pieces, uint32_t i,
                         struct bp_wire_piece *piece) {
    assert(i < pieces->n);
    const struct bp_span *spans = pieces->cover->spans;
    uint32_t k = pieces->first + i / 2;
    struct bp_bound from = before(pieces->start), to = before(pieces->end);
    piece->covered = i % 2 == 1;
    if (piece->covered) {
        if (compare_bounds(before(spans[k].start), from) > 0) {
            from = before(spans[k].start);
        }
        if (compare_bounds(spans[k].end, to) < 0) {
            to = spans[k].end;
        }
    } else {
        if (i > 0) {
            from = spans[k - 1].end;
        }
        if (i + 1 < pieces->n && compare_bounds(before(spans[k].start), to) < 0) {
            to = before(spans[k].start);
        }
        if (compare_bounds(from, to) > 0) {
            from = to; /* a span reaches past the range: no gap is left behind it */
        }
    }
    piece->start = bound_key(from, piece->start_key);
    piece->end = bound_key(to, piece->end_key);
}

/*
 * The slab: memory for the many small, long-lived objects of an index, without a header for each.
 *
 *   arena (2 MiB, aligned)  | page 0 | page 1 | ... | page 31 |
 *   page (64 KiB, aligned)  | header 64 B | object | object | ... |   of one size, a multiple of 8
 *
 * An object's page is found by masking its address. A free object holds the next free one of its
 * page. Pages with room form a list per size; a page that empties goes back to its arena, an arena
 * that empties to the kernel (the last one stays). Objects above BP_SLAB_OBJECT_MAX come from
 * malloc, linked so that destroying the slab frees them too.
 *
 * Invariants: used <= capacity of a page; a page is in the list of its size if and only if it has
 * room; the caller frees with the size it asked for. Objects whose size is a multiple of 64 are
 * aligned to 64, all others to 8.
 *
 * One thread at a time allocates and frees; any thread may read the byte count.
 */
#ifndef BP_SLAB_H
#define BP_SLAB_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BP_SLAB_PAGE = 64 << 10,
    BP_SLAB_ARENA = 2 << 20,
    BP_SLAB_PAGES = BP_SLAB_ARENA / BP_SLAB_PAGE,
    BP_SLAB_OBJECT_MAX = 1024,
    BP_SLAB_CLASSES = BP_SLAB_OBJECT_MAX / 8 + 1,
};

struct bp_slab_page;
struct bp_slab_arena;
struct bp_slab_large;

struct bp_slab {
    struct bp_slab_page *room[BP_SLAB_CLASSES]; /* pages with a free object, by size / 8 */
    struct bp_slab_arena *arenas;               /* with a free page */
    struct bp_slab_arena *full;
    struct bp_slab_large *large;
    uint32_t arena_count;
    _Atomic uint64_t
        bytes; /* taken from the system: touched pages, large objects with their headers */
    uint64_t fail_after; /* tests: the n-th allocation from now fails, once; 0 never */
};

void bp_slab_init(struct bp_slab *slab);
/* Frees everything ever allocated from it. */
void bp_slab_destroy(struct bp_slab *slab);
/* NULL when memory is out. The bytes are not cleared. `size` > 0. */
void *bp_slab_alloc(struct bp_slab *slab, size_t size);
/* `size` is what was asked for; NULL is allowed. */
void bp_slab_free(struct bp_slab *slab, void *object, size_t size);

static inline uint64_t bp_slab_bytes(const struct bp_slab *slab) {
    return atomic_load_explicit(&slab->bytes, memory_order_relaxed);
}

#endif

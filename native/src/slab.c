/*
 * The slab (slab.h): pages of equal objects in aligned arenas.
 *
 *   page:  | header | obj 0 | obj 1 | free | obj 3 | free | ...    | never used yet |
 *              |  |                     ^-------------'            ^
 *              |  '--- free ----------------------------^           |
 *              '------ bump ----------------------------------------'
 *
 * Objects are carved off at `bump` until the page has no more, so that a page is touched only as
 * far as it is used. Arenas after the first few ask for huge pages: random look-ups in a large
 * index would otherwise miss the TLB each time. Under AddressSanitizer free objects are poisoned,
 * so that use after free is found here as in malloc.
 */
#include "slab.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLAB_SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define SLAB_SANITIZED 1
#endif

#if defined(SLAB_SANITIZED)
#include <sanitizer/asan_interface.h>
#define SLAB_POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define SLAB_UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define SLAB_POISON(p, n) ((void)0)
#define SLAB_UNPOISON(p, n) ((void)0)
#endif

enum { SLAB_HUGE_FROM = 3 }; /* arenas before huge pages are asked for: small stores stay small */

struct bp_slab_arena {
    struct bp_slab_arena *next, *prev;
    uint8_t *base;
    uint32_t free_pages; /* one bit a page */
    uint32_t touched;    /* pages that count in bytes */
};

struct bp_slab_page {
    struct bp_slab_page *next, *prev;
    struct bp_slab_arena *arena;
    void *free;
    uint32_t bump; /* offset of the first byte never handed out */
    uint32_t used;
    uint32_t size;
    uint8_t zero[20];
};

struct bp_slab_large {
    struct bp_slab_large *next, *prev;
    uint8_t zero[48];
};

static_assert(sizeof(struct bp_slab_page) == 64, "objects of 64 k bytes must be aligned to 64");
static_assert(sizeof(struct bp_slab_large) == 64, "large objects are aligned to 64");
static_assert(BP_SLAB_PAGES == 32, "free_pages has one bit a page");

static void count_bytes(struct bp_slab *slab, uint64_t add, uint64_t sub) {
    uint64_t bytes = atomic_load_explicit(&slab->bytes, memory_order_relaxed);
    assert(bytes + add >= sub);
    atomic_store_explicit(&slab->bytes, bytes + add - sub, memory_order_relaxed);
}

void bp_slab_init(struct bp_slab *slab) { memset(slab, 0, sizeof *slab); }

static void unmap_all(struct bp_slab_arena *list) {
    while (list != NULL) {
        struct bp_slab_arena *arena = list;
        list = arena->next;
        SLAB_UNPOISON(arena->base, BP_SLAB_ARENA);
        munmap(arena->base, BP_SLAB_ARENA);
        free(arena);
    }
}

void bp_slab_destroy(struct bp_slab *slab) {
    unmap_all(slab->arenas);
    unmap_all(slab->full);
    while (slab->large != NULL) {
        struct bp_slab_large *large = slab->large;
        slab->large = large->next;
        free(large);
    }
    bp_slab_init(slab);
}

/* ---- arenas ---------------------------------------------------------------------------------- */

/* Map twice the size and give back what lies outside the aligned half. */
static uint8_t *map_aligned(void) {
    size_t size = 2u * (size_t)BP_SLAB_ARENA;
    uint8_t *raw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) {
        return NULL;
    }
    size_t before = (size_t)(-(uintptr_t)raw & (uintptr_t)(BP_SLAB_ARENA - 1));
    if (before > 0) {
        munmap(raw, before);
    }
    munmap(raw + before + BP_SLAB_ARENA, size - before - BP_SLAB_ARENA);
    return raw + before;
}

static void arena_link(struct bp_slab_arena **list, struct bp_slab_arena *arena) {
    arena->prev = NULL;
    arena->next = *list;
    if (arena->next != NULL) {
        arena->next->prev = arena;
    }
    *list = arena;
}

static void arena_unlink(struct bp_slab_arena **list, struct bp_slab_arena *arena) {
    if (arena->prev != NULL) {
        arena->prev->next = arena->next;
    } else {
        *list = arena->next;
    }
    if (arena->next != NULL) {
        arena->next->prev = arena->prev;
    }
}

static struct bp_slab_arena *arena_new(struct bp_slab *slab) {
    struct bp_slab_arena *arena = malloc(sizeof *arena);
    uint8_t *base = arena == NULL ? NULL : map_aligned();
    if (base == NULL) {
        free(arena);
        return NULL;
    }
    *arena = (struct bp_slab_arena){.base = base, .free_pages = UINT32_MAX};
    if (slab->arena_count >= SLAB_HUGE_FROM && madvise(base, BP_SLAB_ARENA, MADV_HUGEPAGE) == 0) {
        arena->touched = UINT32_MAX; /* the first touch may bring in the whole */
        count_bytes(slab, BP_SLAB_ARENA, 0);
    }
    arena_link(&slab->arenas, arena);
    slab->arena_count++;
    return arena;
}

static void arena_release(struct bp_slab *slab, struct bp_slab_arena *arena) {
    arena_unlink(&slab->arenas, arena);
    slab->arena_count--;
    count_bytes(slab, 0, (uint64_t)__builtin_popcount(arena->touched) * BP_SLAB_PAGE);
    munmap(arena->base, BP_SLAB_ARENA);
    free(arena);
}

/* ---- pages ----------------------------------------------------------------------------------- */

static void page_link(struct bp_slab *slab, struct bp_slab_page *page) {
    struct bp_slab_page **list = &slab->room[page->size / 8];
    page->prev = NULL;
    page->next = *list;
    if (page->next != NULL) {
        page->next->prev = page;
    }
    *list = page;
}

static void page_unlink(struct bp_slab *slab, struct bp_slab_page *page) {
    if (page->prev != NULL) {
        page->prev->next = page->next;
    } else {
        slab->room[page->size / 8] = page->next;
    }
    if (page->next != NULL) {
        page->next->prev = page->prev;
    }
}

static bool page_has_room(const struct bp_slab_page *page) {
    return page->free != NULL || page->bump + page->size <= BP_SLAB_PAGE;
}

static struct bp_slab_page *page_new(struct bp_slab *slab, uint32_t size) {
    struct bp_slab_arena *arena = slab->arenas != NULL ? slab->arenas : arena_new(slab);
    if (arena == NULL) {
        return NULL;
    }
    uint32_t number = (uint32_t)__builtin_ctz(arena->free_pages);
    uint32_t bit = 1u << number;
    arena->free_pages &= ~bit;
    if ((arena->touched & bit) == 0) {
        arena->touched |= bit;
        count_bytes(slab, BP_SLAB_PAGE, 0);
    }
    if (arena->free_pages == 0) {
        arena_unlink(&slab->arenas, arena);
        arena_link(&slab->full, arena);
    }
    struct bp_slab_page *page = (void *)(arena->base + (size_t)number * BP_SLAB_PAGE);
    *page = (struct bp_slab_page){.arena = arena, .bump = sizeof *page, .size = size};
    page_link(slab, page);
    return page;
}

static void page_release(struct bp_slab *slab, struct bp_slab_page *page) {
    struct bp_slab_arena *arena = page->arena;
    uint32_t number = (uint32_t)((size_t)((uint8_t *)page - arena->base) / BP_SLAB_PAGE);
    page_unlink(slab, page);
    SLAB_UNPOISON(page, BP_SLAB_PAGE);
    if (arena->free_pages == 0) {
        arena_unlink(&slab->full, arena);
        arena_link(&slab->arenas, arena);
    }
    arena->free_pages |= 1u << number;
    if (arena->free_pages == UINT32_MAX && slab->arena_count > 1) {
        arena_release(slab, arena);
    }
}

/* ---- objects --------------------------------------------------------------------------------- */

static uint64_t large_bytes(size_t size) {
    return ((uint64_t)size + sizeof(struct bp_slab_large) + 63u) / 64u * 64u;
}

static void *large_alloc(struct bp_slab *slab, size_t size) {
    if (size > SIZE_MAX / 2) {
        return NULL;
    }
    struct bp_slab_large *large = aligned_alloc(64, (size_t)large_bytes(size));
    if (large == NULL) {
        return NULL;
    }
    large->prev = NULL;
    large->next = slab->large;
    if (large->next != NULL) {
        large->next->prev = large;
    }
    slab->large = large;
    count_bytes(slab, large_bytes(size), 0);
    return large + 1;
}

static void large_free(struct bp_slab *slab, void *object, size_t size) {
    struct bp_slab_large *large = (struct bp_slab_large *)object - 1;
    if (large->prev != NULL) {
        large->prev->next = large->next;
    } else {
        slab->large = large->next;
    }
    if (large->next != NULL) {
        large->next->prev = large->prev;
    }
    count_bytes(slab, 0, large_bytes(size));
    free(large);
}

void *bp_slab_alloc(struct bp_slab *slab, size_t size) {
    assert(size > 0);
    if (slab->fail_after > 0 && --slab->fail_after == 0) {
        return NULL;
    }
    if (size > BP_SLAB_OBJECT_MAX) {
        return large_alloc(slab, size);
    }
    uint32_t rounded = ((uint32_t)size + 7u) & ~7u;
    struct bp_slab_page *page = slab->room[rounded / 8];
    if (page == NULL) {
        page = page_new(slab, rounded);
        if (page == NULL) {
            return NULL;
        }
    }
    void *object = page->free;
    if (object != NULL) {
        SLAB_UNPOISON(object, rounded);
        memcpy(&page->free, object, sizeof page->free);
    } else {
        object = (uint8_t *)page + page->bump;
        page->bump += rounded;
    }
    page->used++;
    if (!page_has_room(page)) {
        page_unlink(slab, page);
    }
    return object;
}

void bp_slab_free(struct bp_slab *slab, void *object, size_t size) {
    if (object == NULL) {
        return;
    }
    if (size > BP_SLAB_OBJECT_MAX) {
        large_free(slab, object, size);
        return;
    }
    struct bp_slab_page *page = (void *)((uintptr_t)object & ~(uintptr_t)(BP_SLAB_PAGE - 1));
    assert(page->size == (((uint32_t)size + 7u) & ~7u) && page->used > 0);
    bool had_room = page_has_room(page);
    memcpy(object, &page->free, sizeof page->free);
    page->free = object;
    SLAB_POISON(object, page->size);
    page->used--;
    if (!had_room) {
        page_link(slab, page);
    }
    if (page->used == 0) {
        page_release(slab, page);
    }
}

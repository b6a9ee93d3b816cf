/*
 * A file of the simulated disk: a sorted array of the pages that exist, each in two versions.
 *
 *   cells     number   now        disk       dirty
 *             0        page a     page a     00000000    clean: both are one page
 *             1        page c     page b     00000110    sectors 1 and 2 written since
 *             7        page d     (zeros)    11111111    never synced
 *             9        (zeros)    page e     11111111    cut off, not yet durably
 *
 *   sync      disk = now, nothing dirty                   (a pointer, not a copy)
 *   write     copies a page first that anything else refers to: `disk`, or a clone of the file
 *   clone     copies the array and adds a reference to each page
 *   cut       each dirty sector is kept or goes back to the disk's version; then disk = now
 *
 * A shrink is one change of metadata: either it is undone as a whole (the old size, and behind the
 * smallest size since then the old sectors: nothing written after it survives there), or it is kept
 * and what lay behind never comes back.
 *
 * Invariants: cells are strictly ascending, none has both versions NULL, none lies wholly behind
 * max(size, size_synced); both versions of a clean sector read alike; bytes of the last page behind
 * `size` are stale and zeroed when the file grows over them.
 */
#include "sim_file.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { SECTORS = BP_SIM_PAGE / BP_SIM_SECTOR };
_Static_assert(SECTORS == 8, "the sectors of a page fit the bits of `dirty`");

/*
 * Clones in other threads share pages: only the count needs care, a page with one reference is its
 * owner's alone.
 */
struct bp_sim_page {
    atomic_uint references;
    uint8_t data[BP_SIM_PAGE];
};

uint64_t bp_sim_random(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

int bp_sim_chance(uint32_t per_1024, uint64_t *state) {
    return (bp_sim_random(state) >> 20) % 1024 < per_1024;
}

/* ---- pages ---------------------------------------------------------------------------------- */

/* A page of its own with the bytes of `from`, or zeros. */
static struct bp_sim_page *page_new(const struct bp_sim_page *from) {
    struct bp_sim_page *page = malloc(sizeof *page);
    if (page != NULL) {
        atomic_init(&page->references, 1);
        if (from != NULL) {
            memcpy(page->data, from->data, BP_SIM_PAGE);
        } else {
            memset(page->data, 0, BP_SIM_PAGE);
        }
    }
    return page;
}

static struct bp_sim_page *page_share(struct bp_sim_page *page) {
    if (page != NULL) {
        atomic_fetch_add_explicit(&page->references, 1, memory_order_relaxed);
    }
    return page;
}

static void page_release(struct bp_sim_page *page) {
    if (page != NULL &&
        atomic_fetch_sub_explicit(&page->references, 1, memory_order_acq_rel) == 1) {
        free(page);
    }
}

static void page_set(struct bp_sim_page **slot, struct bp_sim_page *page) {
    page_release(*slot);
    *slot = page;
}

/* Make cell->now a page nobody else refers to. 0 or -ENOMEM. */
static int cell_own(struct bp_sim_cell *cell) {
    if (cell->now != NULL &&
        atomic_load_explicit(&cell->now->references, memory_order_acquire) == 1) {
        return 0;
    }
    struct bp_sim_page *page = page_new(cell->now);
    if (page == NULL) {
        return -ENOMEM;
    }
    page_set(&cell->now, page);
    return 0;
}

static void cell_drop(struct bp_sim_cell *cell) {
    page_set(&cell->now, NULL);
    page_set(&cell->disk, NULL);
}

/* ---- cells ---------------------------------------------------------------------------------- */

static uint64_t pages_for(uint64_t bytes) {
    return bytes / BP_SIM_PAGE + (bytes % BP_SIM_PAGE != 0);
}

/* The index of the first cell whose number is at least `number`. */
static size_t cell_at(const struct bp_sim_file *file, uint64_t number) {
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (file->cells[middle].number < number) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static struct bp_sim_cell *cell_find(const struct bp_sim_file *file, uint64_t number) {
    size_t i = cell_at(file, number);
    return i < file->count && file->cells[i].number == number ? &file->cells[i] : NULL;
}

/* The cell of a page, made if there is none. NULL when out of memory. */
static struct bp_sim_cell *cell_make(struct bp_sim_file *file, uint64_t number) {
    size_t i = cell_at(file, number);
    if (i < file->count && file->cells[i].number == number) {
        return &file->cells[i];
    }
    if (file->count == file->room) {
        size_t room = file->room == 0 ? 8 : file->room * 2;
        struct bp_sim_cell *cells = realloc(file->cells, room * sizeof *cells);
        if (cells == NULL) {
            return NULL;
        }
        file->cells = cells;
        file->room = room;
    }
    memmove(&file->cells[i + 1], &file->cells[i], (file->count - i) * sizeof *file->cells);
    file->count++;
    file->cells[i] = (struct bp_sim_cell){.number = number};
    return &file->cells[i];
}

/* Bytes of disk the file takes with `allocated` bytes preallocated. */
static uint64_t cost_with(const struct bp_sim_file *file, uint64_t allocated) {
    uint64_t pages = pages_for(allocated);
    for (size_t i = cell_at(file, pages); i < file->count; i++) {
        pages += file->cells[i].now != NULL;
    }
    return pages * BP_SIM_PAGE;
}

/*
 * Drop the cells that are zeros in both versions, and those behind both sizes; count the cost anew.
 */
static void compact(struct bp_sim_file *file) {
    uint64_t high = file->size > file->size_synced ? file->size : file->size_synced;
    size_t kept = 0;
    for (size_t i = 0; i < file->count; i++) {
        struct bp_sim_cell *cell = &file->cells[i];
        if (cell->number >= pages_for(high)) {
            cell_drop(cell);
        }
        if (cell->now != NULL || cell->disk != NULL) {
            file->cells[kept++] = *cell;
        }
    }
    file->count = kept;
    file->cost = cost_with(file, file->allocated);
}

/* ---- the file ------------------------------------------------------------------------------- */

void bp_sim_file_init(struct bp_sim_file *file) {
    *file = (struct bp_sim_file){.dirty_from = UINT64_MAX};
}

void bp_sim_file_drop(struct bp_sim_file *file) {
    for (size_t i = 0; i < file->count; i++) {
        cell_drop(&file->cells[i]);
    }
    free(file->cells);
    bp_sim_file_init(file);
}

int bp_sim_file_clone(const struct bp_sim_file *file, struct bp_sim_file *copy) {
    struct bp_sim_cell *cells = NULL;
    if (file->count > 0 && (cells = malloc(file->count * sizeof *cells)) == NULL) {
        bp_sim_file_init(copy);
        return -ENOMEM;
    }
    *copy = *file;
    copy->cells = cells;
    copy->room = file->count;
    for (size_t i = 0; i < file->count; i++) {
        cells[i] = file->cells[i];
        page_share(cells[i].now);
        page_share(cells[i].disk);
    }
    return 0;
}

size_t bp_sim_file_read(const struct bp_sim_file *file, void *buf, size_t n, uint64_t offset) {
    if (offset >= file->size) {
        return 0;
    }
    uint64_t left = file->size - offset;
    n = left < n ? (size_t)left : n;
    uint8_t *out = buf;
    for (size_t done = 0; done < n;) {
        uint64_t at = offset + done;
        size_t inside = at % BP_SIM_PAGE, part = BP_SIM_PAGE - inside;
        part = part < n - done ? part : n - done;
        const struct bp_sim_cell *cell = cell_find(file, at / BP_SIM_PAGE);
        if (cell != NULL && cell->now != NULL) {
            memcpy(out + done, cell->now->data + inside, part);
        } else {
            memset(out + done, 0, part);
        }
        done += part;
    }
    return n;
}

static void mark_dirty(struct bp_sim_file *file, struct bp_sim_cell *cell, size_t from, size_t to) {
    file->dirty_from = cell->number < file->dirty_from ? cell->number : file->dirty_from;
    for (size_t s = from / BP_SIM_SECTOR; s * BP_SIM_SECTOR < to; s++) {
        cell->dirty |= (uint8_t)(1u << s);
    }
}

/* Before the file grows: what is stale behind its end in the last page must read as zeros. */
static int zero_stale_tail(struct bp_sim_file *file) {
    size_t inside = file->size % BP_SIM_PAGE;
    struct bp_sim_cell *cell = cell_find(file, file->size / BP_SIM_PAGE);
    if (inside == 0 || cell == NULL || cell->now == NULL) {
        return 0;
    }
    bool stale = false;
    for (size_t i = inside; i < BP_SIM_PAGE && !stale; i++) {
        stale = cell->now->data[i] != 0;
    }
    if (!stale) {
        return 0;
    }
    if (cell_own(cell) != 0) {
        return -ENOMEM;
    }
    memset(cell->now->data + inside, 0, BP_SIM_PAGE - inside);
    mark_dirty(file, cell, inside, BP_SIM_PAGE);
    return 0;
}

static int grow(struct bp_sim_file *file, uint64_t size) {
    if (size <= file->size) {
        return 0;
    }
    int result = zero_stale_tail(file);
    if (result == 0) {
        file->size = size;
    }
    return result;
}

long bp_sim_file_write(struct bp_sim_file *file, const void *buf, size_t n, uint64_t offset,
                       uint64_t budget) {
    uint64_t number = offset / BP_SIM_PAGE;
    size_t inside = offset % BP_SIM_PAGE, room = BP_SIM_PAGE - inside;
    n = n < room ? n : room;
    const struct bp_sim_cell *old = cell_find(file, number);
    bool paid = number < pages_for(file->allocated) || (old != NULL && old->now != NULL);
    if (!paid && budget < BP_SIM_PAGE) {
        return -ENOSPC;
    }
    struct bp_sim_cell *cell = cell_make(file, number);
    if (cell == NULL || cell_own(cell) != 0 || grow(file, offset + n) != 0) {
        compact(file); /* a new cell may have no page */
        return -ENOMEM;
    }
    file->cost += paid ? 0 : BP_SIM_PAGE;
    memcpy(cell->now->data + inside, buf, n);
    mark_dirty(file, cell, inside, inside + n);
    return (long)n;
}

int bp_sim_file_resize(struct bp_sim_file *file, uint64_t size) {
    if (size >= file->size) {
        return grow(file, size);
    }
    file->size = size;
    file->size_low = size < file->size_low ? size : file->size_low;
    file->allocated = size < file->allocated ? size : file->allocated;
    for (size_t i = cell_at(file, pages_for(size)); i < file->count; i++) {
        page_set(&file->cells[i].now, NULL);
        mark_dirty(file, &file->cells[i], 0, BP_SIM_PAGE);
    }
    compact(file);
    return 0;
}

int bp_sim_file_allocate(struct bp_sim_file *file, uint64_t size, uint64_t budget) {
    uint64_t allocated = size > file->allocated ? size : file->allocated;
    uint64_t cost = cost_with(file, allocated);
    if (cost - file->cost > budget) {
        return -ENOSPC;
    }
    int result = grow(file, size);
    if (result == 0) {
        file->allocated = allocated;
        file->cost = cost;
    }
    return result;
}

void bp_sim_file_sync(struct bp_sim_file *file) {
    for (size_t i = cell_at(file, file->dirty_from); i < file->count; i++) {
        struct bp_sim_cell *cell = &file->cells[i];
        if (cell->dirty != 0) {
            page_set(&cell->disk, page_share(cell->now));
            cell->dirty = 0;
        }
    }
    bool shrunk = file->size_low < file->size_synced;
    file->size_synced = file->size_low = file->size;
    file->dirty_from = UINT64_MAX;
    if (shrunk) {
        compact(file); /* what was cut off is gone from the medium too */
    }
}

/* ---- the power cut -------------------------------------------------------------------------- */

/* Which sectors of a page go back to the medium's version, and what of that version is gone. */
struct loss {
    uint8_t reverted;    /* bit s: sector s */
    uint64_t zeros_from; /* from this offset on: a truncation became durable */
};

static bool has_bit(unsigned bits, unsigned i) { return (bits & (1u << i)) != 0; }

/* Put together a page of kept and reverted sectors. */
static void cell_revert(struct bp_sim_cell *cell, struct loss loss) {
    uint64_t start = cell->number * BP_SIM_PAGE;
    bool whole = loss.reverted == cell->dirty && loss.zeros_from >= start + BP_SIM_PAGE;
    if (whole || cell_own(cell) != 0) { /* out of memory: losing all of it is a possible cut too */
        page_set(&cell->now, page_share(cell->disk));
        return;
    }
    for (unsigned s = 0; s < SECTORS; s++) {
        if (!has_bit(loss.reverted, s)) {
            continue;
        }
        uint8_t *sector = cell->now->data + s * BP_SIM_SECTOR;
        uint64_t at = start + s * BP_SIM_SECTOR;
        size_t left = loss.zeros_from <= at                  ? 0
                      : loss.zeros_from - at < BP_SIM_SECTOR ? (size_t)(loss.zeros_from - at)
                                                             : BP_SIM_SECTOR;
        memset(sector, 0, BP_SIM_SECTOR);
        if (cell->disk != NULL) {
            memcpy(sector, cell->disk->data + s * BP_SIM_SECTOR, left);
        }
    }
}

uint64_t bp_sim_file_cut(struct bp_sim_file *file, uint32_t keep_per_1024, uint64_t *random) {
    uint64_t lost = 0;
    bool resized = file->size != file->size_synced || file->size_low < file->size_synced;
    bool size_kept = !resized || bp_sim_chance(keep_per_1024, random);
    bool shrunk = file->size_low < file->size_synced;
    /*
     * Undone shrink: sectors that reach behind size_low go back. Kept shrink: the medium's are
     * forgotten there.
     */
    uint64_t lost_from = shrunk && !size_kept ? file->size_low : UINT64_MAX;
    uint64_t zeros_from = shrunk && size_kept ? file->size_low : UINT64_MAX;
    for (size_t i = cell_at(file, file->dirty_from); i < file->count; i++) {
        struct bp_sim_cell *cell = &file->cells[i];
        struct loss loss = {.reverted = 0, .zeros_from = zeros_from};
        for (unsigned s = 0; s < SECTORS; s++) {
            if (!has_bit(cell->dirty, s)) {
                continue;
            }
            bool keep = bp_sim_chance(keep_per_1024, random);
            uint64_t end = cell->number * BP_SIM_PAGE + (s + 1) * (uint64_t)BP_SIM_SECTOR;
            if (!keep || end > lost_from) {
                loss.reverted |= (uint8_t)(1u << s);
                lost++;
            }
        }
        if (loss.reverted != 0) {
            cell_revert(cell, loss);
        }
        page_set(&cell->disk, page_share(cell->now));
        cell->dirty = 0;
    }
    file->size = size_kept ? file->size : file->size_synced;
    file->size_synced = file->size_low = file->size;
    file->dirty_from = UINT64_MAX;
    file->allocated = file->allocated < file->size ? file->allocated : file->size;
    compact(file);
    return lost;
}

int bp_sim_file_flip(struct bp_sim_file *file, uint64_t offset, unsigned bit) {
    if (offset >= file->size || bit > 7) {
        return -ERANGE;
    }
    struct bp_sim_cell *cell = cell_make(file, offset / BP_SIM_PAGE);
    if (cell == NULL) {
        return -ENOMEM;
    }
    bool clean = cell->dirty == 0;
    struct bp_sim_page *now = page_new(cell->now);
    struct bp_sim_page *disk = clean ? page_share(now) : page_new(cell->disk);
    if (now == NULL || disk == NULL) {
        page_release(now);
        page_release(disk);
        compact(file);
        return -ENOMEM;
    }
    now->data[offset % BP_SIM_PAGE] ^= (uint8_t)(1u << bit);
    if (!clean) {
        disk->data[offset % BP_SIM_PAGE] ^= (uint8_t)(1u << bit);
    }
    page_set(&cell->now, now);
    page_set(&cell->disk, disk);
    compact(file); /* a hole may have become a page */
    return 0;
}

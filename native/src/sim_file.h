/*
 * One file of the simulated disk: what readers see, and what a power cut would leave of it.
 * Not thread safe (io_sim.c locks), but clones in different threads may share pages.
 */
#ifndef BP_SIM_FILE_H
#define BP_SIM_FILE_H

#include <stddef.h>
#include <stdint.h>

enum { BP_SIM_PAGE = 4096, BP_SIM_SECTOR = 512 };

/* splitmix64: the next number of a deterministic stream. */
uint64_t bp_sim_random(uint64_t *state);
/* True with probability per_1024 / 1024. */
int bp_sim_chance(uint32_t per_1024, uint64_t *state);

struct bp_sim_page;

struct bp_sim_cell {
    uint64_t number;         /* of the page: offset / BP_SIM_PAGE; cells are sorted by it */
    struct bp_sim_page *now; /* what readers see; NULL is zeros */
    struct bp_sim_page
        *disk;     /* what was synced last; NULL is zeros; the same page as now when clean */
    uint8_t dirty; /* bit s: sector s differs, or may, from the medium */
};

struct bp_sim_file {
    struct bp_sim_cell *cells;
    size_t count, room;
    uint64_t size;        /* what readers see */
    uint64_t size_synced; /* what a power cut may go back to */
    uint64_t size_low;    /* the smallest size since the last sync: a truncation not yet durable */
    uint64_t allocated;   /* bytes preallocated: they cost space though no page is there */
    uint64_t cost;        /* bytes it takes of the disk: whole pages, holes free */
    uint64_t dirty_from;  /* no cell below this number is dirty */
};

void bp_sim_file_init(struct bp_sim_file *file);
void bp_sim_file_drop(struct bp_sim_file *file);
/* Shares the pages. 0 or -ENOMEM, `copy` then empty. */
int bp_sim_file_clone(const struct bp_sim_file *file, struct bp_sim_file *copy);

/* [offset, offset + n) clipped to the size; the bytes read. */
size_t bp_sim_file_read(const struct bp_sim_file *file, void *buf, size_t n, uint64_t offset);
/*
 * Write at most up to the end of one page and at most `budget` bytes of new space (UINT64_MAX: no
 * limit). The bytes written, > 0 for n > 0, or -ENOSPC or -ENOMEM with nothing changed.
 */
long bp_sim_file_write(struct bp_sim_file *file, const void *buf, size_t n, uint64_t offset,
                       uint64_t budget);
int bp_sim_file_resize(struct bp_sim_file *file, uint64_t size);
/* Preallocate [0, size). 0, -ENOSPC or -ENOMEM with nothing changed. */
int bp_sim_file_allocate(struct bp_sim_file *file, uint64_t size, uint64_t budget);
/* Everything is durable. */
void bp_sim_file_sync(struct bp_sim_file *file);
/*
 * The power goes: each unsynced sector, and the size, stays with probability keep_per_1024 / 1024.
 * How many sectors did not.
 */
uint64_t bp_sim_file_cut(struct bp_sim_file *file, uint32_t keep_per_1024, uint64_t *random);
/* Flip a bit in what readers see and on the medium. 0, -ERANGE or -ENOMEM. */
int bp_sim_file_flip(struct bp_sim_file *file, uint64_t offset, unsigned bit);

#endif

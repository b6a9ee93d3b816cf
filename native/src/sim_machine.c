/*
 * The simulated machine in a test's hands: the plug, the clock, the size of the disk, and a look at
 * files behind the engine's back (io_sim.c is what the engine sees).
 *
 *   writes    ....................|     bp_sim_cut_after_bytes(n): the n-th byte from now is lost,
 *                              n-1 n    the write that holds it torn there, and the machine off
 *                                       until bp_sim_power_cut() turns it on again
 *
 * Everything random comes from the seed: one stream for bp_io's random, another for the cuts, so
 * that a workload that draws more numbers still meets the same cut.
 *
 * Invariants: `lock` guards every field; cut_left is meaningful only while cut_armed.
 */
#include "sim_machine.h"

#include <errno.h>
#include <stdlib.h>

static const uint64_t boot_ns_at_start = 1000000000u;

/* ---- the machine ---------------------------------------------------------------------------- */

struct bp_sim *bp_sim_new(uint64_t seed) {
    struct bp_sim *sim = calloc(1, sizeof *sim);
    if (sim == NULL) {
        return NULL;
    }
    if (pthread_mutex_init(&sim->lock, NULL) != 0) {
        free(sim);
        return NULL;
    }
    bp_sim_tree_init(&sim->tree);
    sim->powered = true;
    sim->first_handle = 3; /* as a process finds it */
    sim->boot_ns = boot_ns_at_start;
    sim->random_state = seed;
    sim->cut_state = bp_sim_random(&seed);
    return sim;
}

void bp_sim_free(struct bp_sim *sim) {
    if (sim != NULL) {
        bp_sim_tree_drop(&sim->tree);
        free(sim->handles);
        pthread_mutex_destroy(&sim->lock);
        free(sim);
    }
}

struct bp_sim *bp_sim_clone(const struct bp_sim *original, uint64_t seed) {
    struct bp_sim *copy = bp_sim_new(seed);
    if (copy == NULL) {
        return NULL;
    }
    struct bp_sim *sim = bp_sim_lock(original);
    int result = bp_sim_tree_clone(&sim->tree, &copy->tree);
    copy->powered = sim->powered;
    copy->sync_lies = sim->sync_lies;
    copy->capacity = sim->capacity;
    copy->boot_ns = sim->boot_ns;
    bp_sim_unlock(sim);
    if (result != 0) {
        bp_sim_free(copy);
        return NULL;
    }
    return copy;
}

void bp_sim_advance_ns(struct bp_sim *sim, uint64_t ns) {
    bp_sim_lock(sim);
    sim->boot_ns += ns;
    bp_sim_unlock(sim);
}

void bp_sim_power_cut(struct bp_sim *sim, uint32_t keep_per_1024) {
    bp_sim_lock(sim);
    sim->first_handle += (int)sim->handle_count;
    sim->handle_count = 0;
    sim->lost_sectors += bp_sim_tree_cut(&sim->tree, keep_per_1024, &sim->cut_state);
    sim->cut_armed = false;
    sim->powered = true;
    bp_sim_unlock(sim);
}

void bp_sim_cut_after_bytes(struct bp_sim *sim, uint64_t bytes) {
    bp_sim_lock(sim);
    sim->cut_armed = bytes > 0;
    sim->cut_left = bytes > 0 ? bytes - 1 : 0;
    bp_sim_unlock(sim);
}

void bp_sim_set_capacity(struct bp_sim *sim, uint64_t bytes) {
    bp_sim_lock(sim);
    sim->capacity = bytes;
    bp_sim_unlock(sim);
}

void bp_sim_set_sync_lies(struct bp_sim *sim, int lies) {
    bp_sim_lock(sim);
    sim->sync_lies = lies != 0;
    bp_sim_unlock(sim);
}

uint64_t bp_sim_bytes_written(const struct bp_sim *original) {
    struct bp_sim *sim = bp_sim_lock(original);
    uint64_t bytes = sim->bytes_written;
    bp_sim_unlock(sim);
    return bytes;
}

uint64_t bp_sim_sync_count(const struct bp_sim *original) {
    struct bp_sim *sim = bp_sim_lock(original);
    uint64_t count = sim->sync_count;
    bp_sim_unlock(sim);
    return count;
}

uint64_t bp_sim_lost_sectors(const struct bp_sim *original) {
    struct bp_sim *sim = bp_sim_lock(original);
    uint64_t sectors = sim->lost_sectors;
    bp_sim_unlock(sim);
    return sectors;
}

/* ---- the test's own look at files ----------------------------------------------------------- */

/* The file readers find under a path, or NULL. Under `lock`. */
static struct bp_sim_file *file_at(struct bp_sim *sim, const char *path) {
    char inner[BP_SIM_PATH_MAX];
    if (bp_sim_path(path, inner) != 0) {
        return NULL;
    }
    uint32_t node = bp_sim_tree_find(&sim->tree, inner);
    return node == BP_SIM_NONE || sim->tree.nodes[node].is_dir ? NULL : &sim->tree.nodes[node].file;
}

int bp_sim_flip(struct bp_sim *sim, const char *path, uint64_t offset, unsigned bit) {
    bp_sim_lock(sim);
    struct bp_sim_file *file = file_at(sim, path);
    int result = file == NULL ? -ENOENT : bp_sim_file_flip(file, offset, bit);
    bp_sim_unlock(sim);
    return result;
}

int bp_sim_file_size(const struct bp_sim *original, const char *path, uint64_t *size) {
    struct bp_sim *sim = bp_sim_lock(original);
    const struct bp_sim_file *file = file_at(sim, path);
    if (file != NULL) {
        *size = file->size;
    }
    bp_sim_unlock(sim);
    return file == NULL ? -ENOENT : 0;
}

int bp_sim_read_file(const struct bp_sim *original, const char *path, void *buf, size_t n,
                     uint64_t offset) {
    struct bp_sim *sim = bp_sim_lock(original);
    const struct bp_sim_file *file = file_at(sim, path);
    int result = file == NULL ? -ENOENT : 0;
    if (file != NULL && bp_sim_file_read(file, buf, n, offset) != n) {
        result = -ERANGE;
    }
    bp_sim_unlock(sim);
    return result;
}

/*
 * The simulated machine, as sim_machine.c (what a test does with it) and io_sim.c (what the engine
 * sees of it) share it.
 */
#ifndef BP_SIM_MACHINE_H
#define BP_SIM_MACHINE_H

#include <pthread.h>
#include <stdbool.h>

#include "io.h"
#include "sim_tree.h"

struct bp_sim_handle {
    bool used;
    bool writable;
    bool locked;
    uint32_t node;
};

struct bp_sim {
    pthread_mutex_t lock;
    struct bp_sim_tree tree;
    struct bp_sim_handle *handles;
    uint32_t handle_count, handle_room;
    int first_handle; /* the number of handles[0] in this life */
    bool powered;
    bool cut_armed;
    bool sync_lies;
    uint64_t cut_left; /* bytes that may still be written before the cut */
    uint64_t capacity; /* bytes, 0 none */
    uint64_t boot_ns;
    uint64_t random_state; /* of bp_io's random */
    uint64_t cut_state;    /* of the cuts */
    uint64_t bytes_written;
    uint64_t sync_count;
    uint64_t lost_sectors; /* by cuts */
};

/* Reading functions lock too, so they need the mutex of a const machine. */
static inline struct bp_sim *bp_sim_lock(const struct bp_sim *sim) {
    struct bp_sim *locked = (struct bp_sim *)(uintptr_t)sim;
    pthread_mutex_lock(&locked->lock);
    return locked;
}

static inline void bp_sim_unlock(struct bp_sim *sim) { pthread_mutex_unlock(&sim->lock); }

#endif

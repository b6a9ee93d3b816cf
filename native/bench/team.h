/*
 * Threads that do one operation over and over until the time is up, their latencies in one
 * histogram.
 */
#ifndef BENCH_TEAM_H
#define BENCH_TEAM_H

#include <stdbool.h>
#include <stdint.h>

#include "histogram.h"
#include "settings.h"

/*
 * One thread's state: made before the clock starts, freed after it stops. NULL: it could not be
 * made.
 */
struct worker_type {
    void *(*make)(void *shared, uint32_t thread);
    /* One operation; false, having said why, ends the run as failed. */
    bool (*step)(void *worker);
    void (*free)(void *worker);
};

struct team_result {
    struct histogram latency;
    uint64_t operations;
    double seconds, cpu_seconds; /* of the counted part; cpu of the whole process */
};

/* Returns false when a worker failed. */
bool team_run(const struct settings *settings, const struct worker_type *type, void *shared,
              struct team_result *result);

#endif

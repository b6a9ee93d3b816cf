/*
 *   barrier | warm-up, not counted | counted, `seconds` | stop
 *
 * Each thread reads the clock twice an operation and decides by itself in which part it is: an
 * operation counts when it began and ended in the counted part.
 */
#include "team.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "workload.h"

struct team {
    const struct worker_type *type;
    uint64_t from_ns, to_ns;
    pthread_barrier_t start;
    atomic_bool failed;
};

struct member {
    struct team *team;
    pthread_t thread;
    void *worker;
    struct histogram latency;
};

static void *run_member(void *arg) {
    struct member *member = arg;
    struct team *team = member->team;
    pthread_barrier_wait(&team->start);
    for (;;) {
        uint64_t began = bench_now_ns();
        if (began >= team->to_ns || atomic_load_explicit(&team->failed, memory_order_relaxed)) {
            return NULL;
        }
        if (!team->type->step(member->worker)) {
            atomic_store(&team->failed, true);
            return NULL;
        }
        uint64_t ended = bench_now_ns();
        if (began >= team->from_ns && ended <= team->to_ns) {
            histogram_add(&member->latency, ended - began);
        }
    }
}

static void sleep_until(uint64_t ns) {
    struct timespec at = {.tv_sec = (time_t)(ns / 1000000000u),
                          .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) != 0) {
    }
}

static bool make_workers(struct team *team, struct member *members, uint32_t n, void *shared) {
    for (uint32_t i = 0; i < n; i++) {
        members[i].team = team;
        members[i].worker = team->type->make(shared, i);
        if (members[i].worker == NULL) {
            fprintf(stderr, "bedplate-bench: out of memory\n");
            return false;
        }
    }
    return true;
}

/*
 * Threads wait at the barrier, which counts this one too, so that none starts before all are there.
 */
static void run_threads(struct team *team, const struct settings *settings, struct member *members,
                        struct team_result *result) {
    uint32_t n = settings->threads;
    pthread_barrier_init(&team->start, NULL, n + 1);
    for (uint32_t i = 0; i < n; i++) {
        if (pthread_create(&members[i].thread, NULL, run_member, &members[i]) != 0) {
            fprintf(stderr, "bedplate-bench: cannot start %u threads\n", n);
            exit(1); /* those that run hold the barrier; the parent process tidies up */
        }
    }
    team->from_ns = bench_now_ns() + (uint64_t)(settings->warmup * 1e9);
    team->to_ns = team->from_ns + (uint64_t)(settings->seconds * 1e9);
    pthread_barrier_wait(&team->start);
    sleep_until(team->from_ns);
    double cpu = bench_cpu_seconds();
    sleep_until(team->to_ns);
    result->cpu_seconds = bench_cpu_seconds() - cpu;
    for (uint32_t i = 0; i < n; i++) {
        pthread_join(members[i].thread, NULL);
        histogram_merge(&result->latency, &members[i].latency);
    }
    pthread_barrier_destroy(&team->start);
    result->operations = result->latency.count;
    result->seconds = settings->seconds;
}

bool team_run(const struct settings *settings, const struct worker_type *type, void *shared,
              struct team_result *result) {
    struct team team = {.type = type};
    *result = (struct team_result){0};
    struct member *members = calloc(settings->threads, sizeof *members);
    if (members == NULL) {
        fprintf(stderr, "bedplate-bench: out of memory\n");
        return false;
    }
    bool made = make_workers(&team, members, settings->threads, shared);
    if (made) {
        run_threads(&team, settings, members, result);
    }
    for (uint32_t i = 0; i < settings->threads; i++) {
        if (members[i].worker != NULL) {
            type->free(members[i].worker);
        }
    }
    free(members);
    return made && !atomic_load(&team.failed);
}

/*
 * get: point reads of random keys that all exist, the value copied out and its checksum verified by
 * the store.
 *
 *   thread   bp_get(random key) -> check size, and that the value is that key's -> ...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/error.h"
#include "../src/protobuf.h"
#include "../src/wire.h"
#include "commands.h"
#include "feed.h"
#include "record.h"
#include "team.h"

struct shared {
    const struct settings *settings;
    bp_store *store;
    struct values values;
};

struct worker {
    const struct shared *shared;
    struct rng rng;
    struct bp_buffer request;
    uint8_t key[4096];
    uint8_t *value;
};

static void *make(void *arg, uint32_t thread) {
    struct shared *shared = arg;
    struct worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL) {
        return NULL;
    }
    worker->shared = shared;
    worker->rng.state = (shared->settings->seed << 16) + thread + 1;
    worker->value = malloc((size_t)shared->settings->value_size + 1);
    if (worker->value == NULL) {
        free(worker);
        return NULL;
    }
    return worker;
}

static void free_worker(void *arg) {
    struct worker *worker = arg;
    bp_buffer_free(&worker->request);
    free(worker->value);
    free(worker);
}

static bool get_wire(struct worker *worker) {
    const struct settings *settings = worker->shared->settings;
    struct bp_reply reply;
    struct bp_error error;
    worker->request.size = 0;
    bp_pb_bytes(&worker->request, 1, (struct bp_slice){worker->key, settings->key_size});
    if (bp_call_wire(worker->shared->store, BP_METHOD_GET, BP_KEYSPACE_USER, worker->request.data,
                     worker->request.size, &reply, &error) != BP_OK) {
        return bench_fail("get", &error) == 0;
    }
    bool whole = reply.size > settings->value_size;
    bp_reply_free(&reply);
    return whole;
}

static bool get_value(struct worker *worker, uint64_t number) {
    const struct settings *settings = worker->shared->settings;
    struct bp_error error;
    uint32_t size;
    uint64_t revision;
    if (bp_get(worker->shared->store, BP_KEYSPACE_USER, worker->key, settings->key_size,
               worker->value, settings->value_size + 1, &size, &revision, &error) != BP_OK) {
        return bench_fail("get", &error) == 0;
    }
    /* The ends tell a wrong value as surely as all of it, and cost less than what is measured. */
    const uint8_t *expected = values_of(&worker->shared->values, number);
    uint32_t probe = settings->value_size < 8 ? settings->value_size : 8;
    if (size != settings->value_size || memcmp(worker->value, expected, probe) != 0 ||
        memcmp(worker->value + size - probe, expected + size - probe, probe) != 0) {
        fprintf(stderr, "bedplate-bench: get: the value of another key\n");
        return false;
    }
    return true;
}

static bool step(void *arg) {
    struct worker *worker = arg;
    const struct settings *settings = worker->shared->settings;
    uint64_t number = rng_below(&worker->rng, settings->keys);
    workload_key(settings, number, worker->key);
    return settings->wire ? get_wire(worker) : get_value(worker, number);
}

/* Every key once, so that what the cache can hold is in it. */
static bool read_all(struct shared *shared) {
    struct worker *worker = make(shared, 0);
    bool good = worker != NULL;
    for (uint64_t number = 0; good && number < shared->settings->keys; number++) {
        workload_key(shared->settings, number, worker->key);
        good = get_value(worker, number);
    }
    if (worker != NULL) {
        free_worker(worker);
    }
    return good;
}

static int run(const struct settings *settings, struct shared *shared) {
    const struct worker_type type = {make, step, free_worker};
    struct team_result result;
    struct record record;
    if (bench_fill(shared->store, settings, settings->order) != 0 || !read_all(shared) ||
        !team_run(settings, &type, shared, &result)) {
        return 1;
    }
    record_begin(&record, "get");
    record_count(&record, "threads", settings->threads);
    record_count(&record, "keys", settings->keys);
    record_count(&record, "cache", settings->cache);
    record_number(&record, "ops_per_s", (double)result.operations / result.seconds, 0);
    record_latency(&record, &result.latency);
    record_number(&record, "cpu_us_per_op", result.cpu_seconds * 1e6 / (double)result.operations,
                  3);
    record_print(&record, settings->json);
    return 0;
}

int command_get(const struct settings *settings) {
    struct shared shared = {.settings = settings};
    struct bench_place place;
    struct bp_error error;
    bench_place(&place, settings, "get");
    place.options.value_cache_bytes = settings->cache;
    if (!values_init(&shared.values, settings)) {
        return 1;
    }
    if (bp_open(&place.options, &shared.store, &error) != BP_OK) {
        values_free(&shared.values);
        return bench_fail("open", &error);
    }
    int status = run(settings, &shared);
    if (bp_close(shared.store, &error) != BP_OK) {
        status = bench_fail("close", &error);
    }
    values_free(&shared.values);
    return status;
}

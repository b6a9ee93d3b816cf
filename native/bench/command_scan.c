/*
 * scan: pages of --limit keys with their values from a random key on, as a ScanRequest answers
 * them.
 *
 *   thread
 *       bp_call_wire(Scan {start: random key, limit}) -> the reply holds at least limit values'
 *       bytes -> ...
 */
#include <stdio.h>
#include <stdlib.h>

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
};

struct worker {
    const struct shared *shared;
    struct rng rng;
    struct bp_buffer request;
    uint8_t key[4096];
};

static void *make(void *arg, uint32_t thread) {
    struct shared *shared = arg;
    struct worker *worker = calloc(1, sizeof *worker);
    if (worker != NULL) {
        worker->shared = shared;
        worker->rng.state = (shared->settings->seed << 16) + thread + 1;
    }
    return worker;
}

static void free_worker(void *arg) {
    struct worker *worker = arg;
    bp_buffer_free(&worker->request);
    free(worker);
}

/* How many keys a whole page may begin at. */
static uint64_t starts(const struct settings *settings) {
    return settings->keys > settings->limit ? settings->keys - settings->limit : 1;
}

static bool scan_from(struct worker *worker, uint64_t number) {
    const struct settings *settings = worker->shared->settings;
    struct bp_reply reply;
    struct bp_error error;
    workload_key(settings, number, worker->key);
    worker->request.size = 0;
    bp_pb_bytes(&worker->request, 1, (struct bp_slice){worker->key, settings->key_size});
    bp_pb_uint(&worker->request, 4, settings->limit);
    if (bp_call_wire(worker->shared->store, BP_METHOD_SCAN, BP_KEYSPACE_USER, worker->request.data,
                     worker->request.size, &reply, &error) != BP_OK) {
        return bench_fail("scan", &error) == 0;
    }
    uint64_t keys = settings->keys < settings->limit ? settings->keys : settings->limit;
    bool whole = reply.size >= keys * (settings->key_size + settings->value_size);
    bp_reply_free(&reply);
    if (!whole) {
        fprintf(stderr, "bedplate-bench: scan: a page of %u keys is too small\n", settings->limit);
    }
    return whole;
}

static bool step(void *arg) {
    struct worker *worker = arg;
    return scan_from(worker, rng_below(&worker->rng, starts(worker->shared->settings)));
}

/* Every key once, so that what the cache can hold is in it. */
static bool scan_all(struct shared *shared) {
    struct worker *worker = make(shared, 0);
    bool good = worker != NULL;
    for (uint64_t n = 0; good && n < starts(shared->settings); n += shared->settings->limit) {
        good = scan_from(worker, n);
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
    if (bench_fill(shared->store, settings, settings->order) != 0 || !scan_all(shared) ||
        !team_run(settings, &type, shared, &result)) {
        return 1;
    }
    record_begin(&record, "scan");
    record_count(&record, "threads", settings->threads);
    record_count(&record, "keys", settings->keys);
    record_count(&record, "limit", settings->limit);
    record_count(&record, "cache", settings->cache);
    record_number(&record, "ops_per_s", (double)result.operations / result.seconds, 0);
    record_number(&record, "keys_per_s",
                  (double)result.operations * settings->limit / result.seconds, 0);
    record_latency(&record, &result.latency);
    record_number(&record, "cpu_us_per_op", result.cpu_seconds * 1e6 / (double)result.operations,
                  3);
    record_print(&record, settings->json);
    return 0;
}

int command_scan(const struct settings *settings) {
    struct shared shared = {.settings = settings};
    struct bench_place place;
    struct bp_error error;
    bench_place(&place, settings, "scan");
    place.options.value_cache_bytes = settings->cache;
    if (bp_open(&place.options, &shared.store, &error) != BP_OK) {
        return bench_fail("open", &error);
    }
    int status = run(settings, &shared);
    if (bp_close(shared.store, &error) != BP_OK) {
        status = bench_fail("close", &error);
    }
    return status;
}

/*
 * put: durable puts, each thread waiting for its own; what one thread waits is encode + queue +
 * append + sync + apply.
 *
 *   thread  encode -> bp_execute ................................. -> encode -> ...
 *                     |  driver role: [group of all that wait] append, sync, apply
 *
 * With --wire the request is a PutRequest through bp_call_wire, the way a gRPC call comes in.
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
    struct values values;
};

struct worker {
    const struct shared *shared;
    struct rng rng;
    struct bp_builder builder;
    struct bp_buffer request;
    uint8_t key[4096];
};

static void *make(void *arg, uint32_t thread) {
    struct shared *shared = arg;
    struct worker *worker = calloc(1, sizeof *worker);
    if (worker != NULL) {
        worker->shared = shared;
        worker->rng.state = (shared->settings->seed << 16) + thread;
        bp_builder_init(&worker->builder);
    }
    return worker;
}

static void free_worker(void *arg) {
    struct worker *worker = arg;
    bp_builder_free(&worker->builder);
    bp_buffer_free(&worker->request);
    free(worker);
}

static bool put_wire(struct worker *worker, const uint8_t *value) {
    const struct settings *settings = worker->shared->settings;
    struct bp_reply reply;
    struct bp_error error;
    worker->request.size = 0;
    bp_pb_bytes(&worker->request, 1, (struct bp_slice){worker->key, settings->key_size});
    bp_pb_bytes(&worker->request, 2, (struct bp_slice){value, settings->value_size});
    int code = bp_call_wire(worker->shared->store, BP_METHOD_PUT, BP_KEYSPACE_USER,
                            worker->request.data, worker->request.size, &reply, &error);
    if (code != BP_OK) {
        return bench_fail("put", &error) == 0;
    }
    bp_reply_free(&reply);
    return true;
}

static bool put_ops(struct worker *worker, const uint8_t *value) {
    struct bp_error error;
    uint64_t revision, deleted;
    int succeeded;
    bp_builder_begin(&worker->builder, BP_REQUEST_KV, (struct bp_slice){NULL, 0}, 0);
    bench_encode_put(&worker->builder, worker->shared->settings, worker->key, value, 0);
    int code = bp_builder_finish(&worker->builder, &error);
    if (code == BP_OK) {
        code = bp_execute(worker->shared->store, worker->builder.buf, worker->builder.size,
                          &revision, &deleted, &succeeded, &error);
    }
    return code == BP_OK || bench_fail("put", &error) == 0;
}

static bool step(void *arg) {
    struct worker *worker = arg;
    const struct settings *settings = worker->shared->settings;
    uint64_t number = rng_below(&worker->rng, settings->keys);
    workload_key(settings, number, worker->key);
    const uint8_t *value = values_of(&worker->shared->values, rng_next(&worker->rng));
    return settings->wire ? put_wire(worker, value) : put_ops(worker, value);
}

static void report(const struct settings *settings, const struct team_result *result,
                   const struct bp_status *before, const struct bp_status *after) {
    struct record record;
    double operations = (double)result->operations;
    double groups = (double)(after->groups - before->groups);
    double syncs = (double)(after->syncs - before->syncs);
    record_begin(&record, "put");
    record_count(&record, "threads", settings->threads);
    record_number(&record, "ops_per_s", operations / result->seconds, 0);
    record_latency(&record, &result->latency);
    record_number(&record, "syncs_per_s", syncs / (settings->warmup + result->seconds), 0);
    record_number(&record, "sync_mean_us",
                  (double)(after->sync_ns_total - before->sync_ns_total) / syncs / 1000, 2);
    record_number(&record, "puts_per_group",
                  (double)(after->group_requests - before->group_requests) / groups, 1);
    record_number(&record, "bytes_per_group",
                  (double)(after->bytes_appended - before->bytes_appended) / groups, 0);
    record_number(&record, "cpu_us_per_op", result->cpu_seconds * 1e6 / operations, 2);
    record_print(&record, settings->json);
}

int command_put(const struct settings *settings) {
    struct shared shared = {.settings = settings};
    struct bench_place place;
    struct bp_error error;
    struct bp_status before, after;
    struct team_result result;
    bench_place(&place, settings, "put");
    if (!values_init(&shared.values, settings)) {
        return 1;
    }
    if (bp_open(&place.options, &shared.store, &error) != BP_OK) {
        values_free(&shared.values);
        return bench_fail("open", &error);
    }
    bp_get_status(shared.store, &before);
    const struct worker_type type = {make, step, free_worker};
    int status = team_run(settings, &type, &shared, &result) ? 0 : 1;
    bp_get_status(shared.store, &after);
    if (bp_close(shared.store, &error) != BP_OK) {
        status = bench_fail("close", &error);
    }
    values_free(&shared.values);
    if (status == 0) {
        report(settings, &result, &before, &after);
    }
    return status;
}

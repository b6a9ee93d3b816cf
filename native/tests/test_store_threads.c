/*
 * The store under threads: blocked callers, asynchronous callers, readers and the keeper at once,
 * on the simulated disk (no waiting for a real one) with the real driver, reader and keeper
 * threads. Meant for TSan as much as for its own checks.
 */
#include <poll.h>
#include <pthread.h>

#include "../src/ops.h"
#include "store_util.h"

#define WRITERS 4u
#define PUTS 400u

struct shared {
    struct bp_store *store;
    _Atomic bool stop;
};

struct writer {
    struct shared *shared;
    uint32_t number;
    pthread_t thread;
};

/* Puts its own keys, and after each acknowledgement must read what it wrote. */
static void *blocking_writer(void *arg) {
    struct writer *writer = arg;
    uint64_t last = 0;
    for (uint32_t i = 0; i < PUTS; i++) {
        char key[32], value[32], got[64];
        uint64_t revision;
        (void)snprintf(key, sizeof key, "w%u-%u", writer->number, i % 50);
        (void)snprintf(value, sizeof value, "%u", i);
        CHECK(test_put(writer->shared->store, key, value, &revision) == BP_OK);
        CHECK(revision > last);
        last = revision;
        CHECK(test_get(writer->shared->store, key, got, sizeof got) && strcmp(got, value) == 0);
    }
    return NULL;
}

static void submit_one(struct bp_store *store, struct bp_queue *queue, uint32_t i) {
    struct bp_builder builder;
    struct bp_error err;
    char key[32];
    (void)snprintf(key, sizeof key, "async-%u", i);
    bp_builder_init(&builder);
    bp_builder_begin(&builder, BP_REQUEST_KV, (struct bp_slice){0}, 0);
    struct bp_op op = {.op = BP_OP_PUT,
                       .key = {.data = (const uint8_t *)key, .size = strlen(key)},
                       .value = {.data = (const uint8_t *)key, .size = strlen(key)}};
    bp_builder_op(&builder, 0, BP_KEYSPACE_USER, &op);
    CHECK_OK(bp_builder_finish(&builder, &err), &err);
    CHECK_OK(bp_submit(store, queue, builder.buf, builder.size, i, &err), &err);
    bp_builder_free(&builder);
}

/* Keeps a window open; every cookie must come back exactly once. */
static void *async_writer(void *arg) {
    struct writer *writer = arg;
    struct bp_store *store = writer->shared->store;
    struct bp_queue *queue = bp_queue_new(store);
    CHECK(queue != NULL);
    static uint8_t seen[PUTS * 4];
    memset(seen, 0, sizeof seen);
    uint32_t submitted = 0, completed = 0;
    while (completed < PUTS * 4) {
        while (submitted < PUTS * 4 && submitted - completed < 64) {
            submit_one(store, queue, submitted++);
        }
        struct pollfd wait = {.fd = bp_queue_fd(queue), .events = POLLIN};
        CHECK(poll(&wait, 1, 20000) == 1);
        struct bp_completion done[32];
        uint32_t n = bp_queue_take(queue, done, 32);
        for (uint32_t i = 0; i < n; i++) {
            CHECK(done[i].code == BP_OK && done[i].reply.size == 24 && seen[done[i].cookie]++ == 0);
            bp_completion_free(&done[i]);
        }
        completed += n;
    }
    bp_queue_free(queue);
    return NULL;
}

/* What is read at one revision never goes back in time. */
static void *reader(void *arg) {
    struct shared *shared = arg;
    uint32_t seen[WRITERS] = {0};
    for (uint32_t i = 0; !atomic_load(&shared->stop); i++) {
        char key[32], value[64];
        uint32_t w = i % WRITERS;
        (void)snprintf(key, sizeof key, "w%u-0", w);
        if (test_get(shared->store, key, value, sizeof value)) {
            uint32_t number = (uint32_t)strtoul(value, NULL, 10);
            CHECK(number >= seen[w]);
            seen[w] = number;
        }
        struct bp_status status;
        if (i % 64 == 0) {
            bp_get_status(shared->store, &status);
        }
    }
    return NULL;
}

/* Deletes, compactions and checkpoints beside it all. */
static void *meddler(void *arg) {
    struct shared *shared = arg;
    for (uint32_t i = 0; !atomic_load(&shared->stop); i++) {
        struct bp_error err = {0};
        struct bp_status status;
        bp_get_status(shared->store, &status);
        CHECK(test_delete(shared->store, "meddler", NULL) == BP_OK);
        CHECK(test_put(shared->store, "meddler", "x", NULL) == BP_OK);
        if (i % 8 == 0) {
            CHECK(test_compact(shared->store, status.revision) == BP_OK);
            CHECK_OK(bp_step_checkpoint(shared->store, 1, &err), &err);
        }
        bp_step_clean(shared->store);
    }
    return NULL;
}

static void test_writers_readers_and_the_keeper_get_on(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = test_options();
    options.manual = 0;
    options.checkpoint_bytes = 64u << 10;
    struct shared shared = {.store = test_must_open(sim, &options)};
    struct writer writers[WRITERS + 1];
    pthread_t readers[2], meddles;
    for (uint32_t i = 0; i <= WRITERS; i++) {
        writers[i] = (struct writer){.shared = &shared, .number = i};
        CHECK(pthread_create(&writers[i].thread, NULL, i < WRITERS ? blocking_writer : async_writer,
                             &writers[i]) == 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(pthread_create(&readers[i], NULL, reader, &shared) == 0);
    }
    CHECK(pthread_create(&meddles, NULL, meddler, &shared) == 0);
    for (uint32_t i = 0; i <= WRITERS; i++) {
        pthread_join(writers[i].thread, NULL);
    }
    atomic_store(&shared.stop, true);
    pthread_join(readers[0], NULL);
    pthread_join(readers[1], NULL);
    pthread_join(meddles, NULL);
    pthread_mutex_lock(
        &shared.store->keeper.mutex); /* it may be reading the index, or trimming it */
    pthread_mutex_lock(&shared.store->apply);
    CHECK(bp_index_check(shared.store->index) == NULL);
    pthread_mutex_unlock(&shared.store->apply);
    pthread_mutex_unlock(&shared.store->keeper.mutex);
    struct bp_status before, after;
    bp_get_status(shared.store, &before);
    struct bp_error err;
    CHECK_OK(bp_close(shared.store, &err), &err);
    options.manual = 1;
    shared.store = test_must_open(sim, &options);
    bp_get_status(shared.store, &after);
    CHECK_EQ_U64(after.revision, before.revision);
    CHECK(memcmp(after.state_hash, before.state_hash, 16) == 0);
    bp_store_abandon(shared.store);
    bp_sim_free(sim);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_writers_readers_and_the_keeper_get_on);
    TESTS_END;
}

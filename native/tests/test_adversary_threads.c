/*
 * Everything at once, with limits so small that all of them are met, and a close in the middle of
 * it: blocked callers, queues, frames, reads, watches, leases, compactions, checkpoints and
 * cleaning by real threads, on the simulated disk. Meant for TSan and ASan as much as for its own
 * checks.
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>

#include "../src/ops.h"
#include "state_util.h"
#include "wire_util.h"

#define WRITERS 3u
#define ROUNDS 150u

struct shared {
    struct bp_store *store;
    _Atomic bool stop;
    _Atomic uint32_t refused;
};

static struct bp_options tiny_limits(void) {
    struct bp_options options = test_options();
    options.manual = 0;
    options.queue_max = 24;
    options.watch_lag_max = 40;
    options.watches_max = 3;
    options.leases_max = 5;
    options.history_versions_max = 50;
    options.checkpoint_bytes = 32u << 10;
    options.reply_bytes_max = 8u << 10;
    options.request_ids_max = 3;
    options.value_cache_bytes = 1u << 20;
    return options;
}

/* Refusals by limits are fine; what is answered OK must be seen at once. */
static void *writer(void *arg) {
    struct shared *shared = arg;
    static _Atomic uint32_t numbers;
    uint32_t number = atomic_fetch_add(&numbers, 1);
    char key[32], value[700], got[800], id[32];
    for (uint32_t i = 0; i < ROUNDS; i++) {
        (void)snprintf(key, sizeof key, "w%u-%u", number, i % 7);
        (void)snprintf(value, sizeof value, "%u %0*u", i, (int)(i * 31 % 600), i);
        (void)snprintf(id, sizeof id, "%u-%u", number, i);
        int code = test_put_bytes(shared->store, key, value, (uint32_t)strlen(value), 0,
                                  i % 3 == 0 ? id : NULL, NULL);
        if (code == BP_RESOURCE_EXHAUSTED) {
            atomic_fetch_add(&shared->refused, 1);
            sched_yield();
            continue;
        }
        CHECK_EQ_U64(code, BP_OK);
        CHECK(test_get(shared->store, key, got, sizeof got) && strcmp(got, value) == 0);
    }
    return NULL;
}

/* Drains one completion, waiting for it. */
static struct bp_completion take_one(struct bp_queue *queue) {
    struct bp_completion done;
    while (bp_queue_take(queue, &done, 1) == 0) {
        struct pollfd wait = {.fd = bp_queue_fd(queue), .events = POLLIN};
        CHECK(poll(&wait, 1, 20000) == 1);
    }
    return done;
}

/*
 * Frames of put and get of one key: the get is answered with this put or, when compaction overtook
 * it, a later one: always one of ours.
 */
static void *framer(void *arg) {
    struct shared *shared = arg;
    struct bp_queue *queue = bp_queue_new(shared->store);
    CHECK(queue != NULL);
    uint32_t open = 0;
    for (uint32_t i = 0; i < ROUNDS * 2; i++) {
        struct bp_buffer frame = {0};
        struct bp_error err = {0};
        char value[32];
        (void)snprintf(value, sizeof value, "framed-%u", i);
        for (uint32_t k = 0; k < 3; k++) {
            test_frame_op(&frame, 2 * k, TEST_FRAME_PUT, "framed", value, false);
            test_frame_op(&frame, 2 * k + 1, TEST_FRAME_GET, "framed", NULL, false);
        }
        int code = bp_submit_frame(shared->store, queue, 'u', frame.data, frame.size, i, &err);
        bp_buffer_free(&frame);
        open += code == BP_OK;
        CHECK(code == BP_OK || code == BP_RESOURCE_EXHAUSTED);
        if (open > 1 || (code != BP_OK && open > 0)) {
            struct bp_completion done = take_one(queue);
            CHECK_EQ_U64(done.code, BP_OK);
            CHECK(memmem(done.reply.data, done.reply.size, "framed-", 7) != NULL);
            CHECK(memmem(done.reply.data, done.reply.size, "COMPACTED", 9) == NULL);
            bp_completion_free(&done);
            open--;
        }
    }
    while (open-- > 0) {
        struct bp_completion done = take_one(queue);
        bp_completion_free(&done);
    }
    bp_queue_free(queue);
    return NULL;
}

/* More reads than the queue has room for: refused, or answered, each exactly once. */
static void *flooder(void *arg) {
    struct shared *shared = arg;
    struct bp_queue *queue = bp_queue_new(shared->store);
    CHECK(queue != NULL);
    uint64_t submitted = 0, completed = 0;
    while (!atomic_load(&shared->stop)) {
        struct bp_error err = {0};
        int code = bp_submit_value(shared->store, queue, 'u', "w0-1", 4, 0, 0, 100, "p", 1,
                                   submitted, &err);
        CHECK(code == BP_OK || err.reason == BP_REASON_QUEUE_FULL);
        submitted += code == BP_OK;
        struct bp_completion done[8];
        uint32_t n = code == BP_OK && submitted % 16 != 0 ? 0 : bp_queue_take(queue, done, 8);
        for (uint32_t i = 0; i < n; i++) {
            CHECK(done[i].code == BP_OK || done[i].code == BP_NOT_FOUND);
            bp_completion_free(&done[i]);
        }
        completed += n;
        if (n == 0) {
            sched_yield();
        }
    }
    while (completed < submitted) {
        struct bp_completion done = take_one(queue);
        bp_completion_free(&done);
        completed++;
    }
    bp_queue_free(queue);
    return NULL;
}

/* Opens, reads a while, falls behind on purpose, closes: cancelled or not, nothing hangs. */
static void *watcher(void *arg) {
    struct shared *shared = arg;
    struct bp_queue *queue = bp_queue_new(shared->store);
    CHECK(queue != NULL);
    for (uint32_t i = 0; !atomic_load(&shared->stop); i++) {
        struct bp_watch *watch;
        struct bp_error err = {0};
        uint8_t request[] = {0x1a, 1, 'w'}; /* prefix "w" */
        int code =
            bp_watch_open(shared->store, queue, 'u', request, sizeof request, i, &watch, &err);
        CHECK(code == BP_OK || err.reason == BP_REASON_TOO_MANY_WATCHES);
        for (uint32_t k = 0; code == BP_OK && k < 5 + i % 20; k++) {
            struct bp_reply reply;
            int got = bp_watch_next(watch, &reply);
            bp_reply_free(&reply);
            if (got == 2) {
                break;
            }
            if (got == 0) {
                struct pollfd wait = {.fd = bp_queue_fd(queue), .events = POLLIN};
                (void)poll(&wait, 1, 20);
                struct bp_completion done[4];
                uint32_t n = bp_queue_take(queue, done, 4);
                while (n-- > 0) {
                    bp_completion_free(&done[n]);
                }
            }
        }
        if (code == BP_OK) {
            bp_watch_close(watch);
        }
    }
    bp_queue_free(queue);
    return NULL;
}

static void *lessor(void *arg) {
    struct shared *shared = arg;
    struct bp_sim *sim = bp_disk_io(shared->store->disk)->ctx;
    for (uint32_t i = 0; !atomic_load(&shared->stop); i++) {
        uint64_t id = 1 + i % 8, ttl, deleted;
        int code = test_grant(shared->store, id, 1000 + i % 500);
        CHECK(code == BP_OK || code == BP_ALREADY_EXISTS || code == BP_RESOURCE_EXHAUSTED);
        code = test_put_bytes(shared->store, "leased", "v", 1, id, NULL, NULL);
        CHECK(code == BP_OK || code == BP_NOT_FOUND || code == BP_RESOURCE_EXHAUSTED);
        (void)bp_leases_keep_alive(shared->store->leases, id, bp_disk_boot_ns(shared->store->disk),
                                   &ttl);
        bp_sim_advance_ns(sim, 50000000);
        if (i % 5 == 0) {
            code = test_revoke(shared->store, id, &deleted);
            CHECK(code == BP_OK || code == BP_NOT_FOUND || code == BP_RESOURCE_EXHAUSTED);
        }
    }
    return NULL;
}

static void *meddler(void *arg) {
    struct shared *shared = arg;
    for (uint32_t i = 0; !atomic_load(&shared->stop); i++) {
        struct bp_error err = {0};
        struct bp_status status;
        bp_get_status(shared->store, &status);
        int code = test_compact(shared->store, status.revision);
        CHECK(code == BP_OK || code == BP_RESOURCE_EXHAUSTED);
        (void)bp_step_checkpoint(shared->store, i % 4 == 0, &err);
        bp_step_tick(shared->store);
        bp_step_clean(shared->store);
    }
    return NULL;
}

static void test_all_parts_get_on_where_every_limit_is_met(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = tiny_limits();
    struct shared shared = {.store = test_must_open(sim, &options)};
    static void *(*const background[])(void *) = {flooder, watcher, watcher, lessor, meddler};
    pthread_t writers[WRITERS + 1], others[5];
    for (uint32_t i = 0; i <= WRITERS; i++) {
        CHECK(pthread_create(&writers[i], NULL, i < WRITERS ? writer : framer, &shared) == 0);
    }
    for (uint32_t i = 0; i < 5; i++) {
        CHECK(pthread_create(&others[i], NULL, background[i], &shared) == 0);
    }
    for (uint32_t i = 0; i <= WRITERS; i++) {
        pthread_join(writers[i], NULL);
    }
    atomic_store(&shared.stop, true);
    for (uint32_t i = 0; i < 5; i++) {
        pthread_join(others[i], NULL);
    }
    struct bp_status before, after;
    struct bp_error err;
    bp_get_status(shared.store, &before);
    CHECK_EQ_U64(before.open_requests, 0);
    CHECK_EQ_U64(before.open_request_bytes, 0);
    pthread_mutex_lock(
        &shared.store->keeper.mutex); /* it may be reading the index, or trimming it */
    pthread_mutex_lock(&shared.store->apply);
    const char *broken = bp_index_check(shared.store->index);
    if (broken != NULL) {
        fprintf(stderr, "index: %s\n", broken);
    }
    CHECK(broken == NULL);
    pthread_mutex_unlock(&shared.store->apply);
    pthread_mutex_unlock(&shared.store->keeper.mutex);
    CHECK_OK(bp_close(shared.store, &err), &err);
    options.manual = 1;
    shared.store = test_must_open(sim, &options);
    bp_get_status(shared.store, &after);
    CHECK(after.revision >=
          before.revision); /* the keeper may have proposed something in between */
    bp_store_abandon(shared.store);
    bp_sim_free(sim);
}

struct blocked {
    struct shared *shared;
    _Atomic uint32_t *ready;
    uint32_t number, acknowledged;
    pthread_t thread;
};

static void *put_until_refused(void *arg) {
    struct blocked *blocked = arg;
    char key[32], value[32];
    for (uint32_t i = 0;; i++) {
        (void)snprintf(key, sizeof key, "blocked-%u", blocked->number);
        (void)snprintf(value, sizeof value, "%u", i);
        if (test_put(blocked->shared->store, key, value, NULL) != BP_OK) {
            break;
        }
        blocked->acknowledged = i;
        if (i == 3) {
            atomic_fetch_add(blocked->ready, 1);
        }
        if (i >
            /*
             * the next one may find the store gone: whoever closes must know that nobody comes any
             * more
             */
            3) {
            break;
        }
    }
    return NULL;
}

/*
 * Closing waits for callers that are blocked in the store, whether they hold the driver's role or
 * not.
 */
static void test_closing_waits_for_blocked_callers(void) {
    for (uint32_t round = 0; round < 40; round++) {
        struct bp_sim *sim = bp_sim_new(round);
        struct bp_options options = test_options();
        struct bp_error err;
        _Atomic uint32_t ready = 0;
        options.manual = 0;
        struct shared shared = {.store = test_must_open(sim, &options)};
        struct blocked blocked[4];
        for (uint32_t i = 0; i < 4; i++) {
            blocked[i] = (struct blocked){.shared = &shared, .ready = &ready, .number = i};
            CHECK(pthread_create(&blocked[i].thread, NULL, put_until_refused, &blocked[i]) == 0);
        }
        while (atomic_load(&ready) < 4) {
            sched_yield();
        }
        while (atomic_load(&ready) < 4 + round % 2) {
            struct bp_status status;
            bp_get_status(shared.store, &status);
            if (status.open_requests > 0 || status.revision >= 21) {
                break; /* the last puts are under way, or done */
            }
            sched_yield();
        }
        bp_driver_stop(
            shared.store); /* what bp_close waits in; then nobody touches the store any more */
        for (uint32_t i = 0; i < 4; i++) {
            pthread_join(blocked[i].thread, NULL);
        }
        bp_readers_stop(shared.store);
        CHECK_OK(bp_close(shared.store, &err), &err);
        options.manual = 1;
        shared.store = test_must_open(sim, &options);
        for (uint32_t i = 0; i < 4; i++) {
            char key[32], value[32];
            (void)snprintf(key, sizeof key, "blocked-%u", i);
            CHECK(test_get(shared.store, key, value, sizeof value));
            CHECK(strtoul(value, NULL, 10) >= blocked[i].acknowledged);
        }
        bp_store_abandon(shared.store);
        bp_sim_free(sim);
    }
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_all_parts_get_on_where_every_limit_is_met);
    RUN(test_closing_waits_for_blocked_callers);
    TESTS_END;
}

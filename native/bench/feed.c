/*
 * The feed, one thread:
 *
 *   encode, submit ... until `window` puts are open --> poll the queue's eventfd --> take answers,
 *   each checked --> encode ...
 */
#include "feed.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "../src/error.h"

#define TAKE_MAX 256u
#define WAIT_MS_MAX 60000

int bench_fail(const char *what, const struct bp_error *error) {
    fprintf(stderr, "bedplate-bench: %s: %s (%s)\n", what, error->message,
            bp_reason_name(error->reason));
    return 1;
}

void bench_place(struct bench_place *place, const struct settings *settings, const char *name) {
    memset(place, 0, sizeof *place);
    snprintf(place->path, sizeof place->path, "%s/%s", settings->dir, name);
    place->options.dir = place->path;
}

void bench_encode_put(struct bp_builder *builder, const struct settings *settings,
                      const uint8_t *key, const uint8_t *value, uint64_t lease) {
    struct bp_op op = {
        .op = BP_OP_PUT,
        .lease = lease,
        .key = {key, settings->key_size},
        .value = {value, settings->value_size},
    };
    bp_builder_op(builder, 0, BP_KEYSPACE_USER, &op);
}

/* Takes what is answered, and waits for the first. Returns puts answered, or UINT64_MAX. */
static uint64_t take(bp_queue *queue) {
    struct bp_completion done[TAKE_MAX];
    uint64_t puts = 0;
    for (;;) {
        uint32_t n = bp_queue_take(queue, done, TAKE_MAX);
        for (uint32_t i = 0; i < n; i++) {
            if (done[i].code != 0) {
                bench_fail("put", done[i].error);
                return UINT64_MAX;
            }
            puts += done[i].cookie;
            bp_completion_free(&done[i]);
        }
        if (n == TAKE_MAX) {
            continue;
        }
        if (puts > 0) {
            return puts;
        }
        struct pollfd readable = {.fd = bp_queue_fd(queue), .events = POLLIN};
        if (poll(&readable, 1, WAIT_MS_MAX) == 0) {
            fprintf(stderr, "bedplate-bench: no answer in %d s\n", WAIT_MS_MAX / 1000);
            return UINT64_MAX;
        }
    }
}

struct feeder {
    bp_store *store;
    bp_queue *queue;
    const struct settings *settings;
    const struct feed *feed;
    struct values values;
    struct shuffle shuffle;
    struct bp_builder builder;
};

static int submit(struct feeder *feeder, uint64_t at, uint32_t puts) {
    const struct settings *settings = feeder->settings;
    struct bp_error error;
    uint8_t key[4096];
    bp_builder_begin(&feeder->builder, BP_REQUEST_KV, (struct bp_slice){NULL, 0}, 0);
    for (uint64_t i = at; i < at + puts; i++) {
        uint64_t number =
            feeder->feed->order == BENCH_ASCENDING ? i : shuffle_at(&feeder->shuffle, i);
        uint64_t lease = feeder->feed->leases == 0 ? 0 : 1 + number % feeder->feed->leases;
        workload_key(settings, number, key);
        bench_encode_put(&feeder->builder, settings, key,
                         values_of(&feeder->values, number + feeder->feed->pass), lease);
    }
    if (bp_builder_finish(&feeder->builder, &error) != BP_OK) {
        return bench_fail("encode", &error);
    }
    if (bp_submit(feeder->store, feeder->queue, feeder->builder.buf, feeder->builder.size, puts,
                  &error) != BP_OK) {
        return bench_fail("submit", &error);
    }
    return 0;
}

static int pump(struct feeder *feeder, uint64_t first, uint64_t count) {
    const struct feed *feed = feeder->feed;
    uint64_t sent = 0, open = 0;
    while (sent < count || open > 0) {
        while (sent < count && (open == 0 || open + feed->batch <= feed->window)) {
            uint64_t left = count - sent;
            uint32_t puts = left < feed->batch ? (uint32_t)left : feed->batch;
            if (submit(feeder, first + sent, puts) != 0) {
                return 1;
            }
            sent += puts;
            open += puts;
        }
        uint64_t answered = take(feeder->queue);
        if (answered == UINT64_MAX) {
            return 1;
        }
        open -= answered;
    }
    return 0;
}

int bench_feed(bp_store *store, const struct settings *settings, const struct feed *feed,
               uint64_t first, uint64_t count) {
    struct feeder feeder = {.store = store, .settings = settings, .feed = feed};
    int status = 1;
    shuffle_init(&feeder.shuffle, settings->keys, settings->seed, feed->pass);
    bp_builder_init(&feeder.builder);
    feeder.queue = bp_queue_new(store);
    if (feeder.queue == NULL || !values_init(&feeder.values, settings)) {
        fprintf(stderr, "bedplate-bench: out of memory\n");
    } else {
        status = pump(&feeder, first, count);
    }
    values_free(&feeder.values);
    bp_queue_free(feeder.queue);
    bp_builder_free(&feeder.builder);
    return status;
}

int bench_fill(bp_store *store, const struct settings *settings, enum bench_order order) {
    struct feed feed = {.order = order, .batch = 100, .window = 6400};
    return bench_feed(store, settings, &feed, 0, settings->keys);
}

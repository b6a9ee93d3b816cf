/*
 * memory: what the index takes beside the keys themselves, each key with one version and a lease,
 * nothing in history.
 *
 *   open, leases, RSS  ->  fill  ->  compact to the newest revision  ->  RSS
 *
 * Two figures: what the index says of itself, and what the process grew by, less the keys, less
 * what else is known to have grown (history). The first is judged; the second shows that it does
 * not lie.
 */
#include <malloc.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../src/error.h"
#include "commands.h"
#include "feed.h"
#include "record.h"

#define LEASES 1000u
#define TTL_MS 86400000u
#define SETTLE_MS_MAX 30000u

static uint64_t resident_bytes(void) {
    unsigned long long total, resident = 0;
    malloc_trim(0);
    FILE *file = fopen("/proc/self/statm", "re");
    if (file != NULL) {
        if (fscanf(file, "%llu %llu", &total, &resident) != 2) {
            resident = 0;
        }
        fclose(file);
    }
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int grant_leases(bp_store *store) {
    struct bp_builder builder;
    struct bp_error error;
    uint64_t revision, deleted;
    int succeeded, code = BP_OK;
    bp_builder_init(&builder);
    for (uint64_t lease = 1; lease <= LEASES && code == BP_OK; lease++) {
        bp_builder_begin(&builder, BP_REQUEST_LEASE_GRANT, (struct bp_slice){NULL, 0}, 0);
        bp_builder_u64(&builder, lease);
        bp_builder_u64(&builder, TTL_MS);
        code = bp_builder_finish(&builder, &error);
        if (code == BP_OK) {
            code = bp_execute(store, builder.buf, builder.size, &revision, &deleted, &succeeded,
                              &error);
        }
    }
    bp_builder_free(&builder);
    return code == BP_OK ? 0 : bench_fail("lease", &error);
}

/* Compacts to the newest revision and waits until the keeper has trimmed the history. */
static int settle(bp_store *store, struct bp_status *status) {
    struct bp_error error;
    struct bp_completion done;
    bp_queue *queue = bp_queue_new(store);
    if (queue == NULL || bp_submit_compact(store, queue, 0, 0, &error) != BP_OK) {
        fprintf(stderr, "bedplate-bench: cannot compact\n");
        bp_queue_free(queue);
        return 1;
    }
    struct pollfd readable = {.fd = bp_queue_fd(queue), .events = POLLIN};
    poll(&readable, 1, SETTLE_MS_MAX);
    if (bp_queue_take(queue, &done, 1) == 1) {
        bp_completion_free(&done);
    }
    bp_queue_free(queue);
    uint64_t limit = bench_now_ns() + SETTLE_MS_MAX * 1000000ull;
    for (bp_get_status(store, status); status->history_effects > 1000 && bench_now_ns() < limit;
         bp_get_status(store, status)) {
        usleep(10000);
    }
    return 0;
}

static int run(const struct settings *settings, bp_store *store) {
    struct feed feed = {.order = settings->order, .batch = 100, .window = 6400, .leases = LEASES};
    struct bp_status status;
    struct record record;
    uint64_t before = resident_bytes();
    if (grant_leases(store) != 0 || bench_feed(store, settings, &feed, 0, settings->keys) != 0 ||
        settle(store, &status) != 0) {
        return 1;
    }
    double keys = (double)status.keys;
    double grown = (double)resident_bytes() - (double)before;
    record_begin(&record, "memory");
    record_text(&record, "order", settings->order == BENCH_RANDOM ? "random" : "ascending");
    record_count(&record, "keys", status.keys);
    record_count(&record, "leases", status.leases);
    record_count(&record, "index_bytes", status.index_bytes);
    record_count(&record, "key_bytes", status.key_bytes);
    record_number(&record, "beside_key_bytes",
                  (double)(status.index_bytes - status.key_bytes) / keys, 1);
    record_number(&record, "rss_beside_key_bytes",
                  (grown - (double)status.key_bytes - (double)status.history_bytes) / keys, 1);
    record_number(&record, "rss_grown_mb", grown / 1e6, 1);
    record_number(&record, "history_mb", (double)status.history_bytes / 1e6, 1);
    record_print(&record, settings->json);
    return 0;
}

int command_memory(const struct settings *settings) {
    struct bench_place place;
    struct bp_error error;
    bp_store *store;
    bench_place(&place, settings, "memory");
    if (bp_open(&place.options, &store, &error) != BP_OK) {
        return bench_fail("open", &error);
    }
    int status = run(settings, store);
    if (bp_close(store, &error) != BP_OK) {
        return bench_fail("close", &error);
    }
    return status;
}

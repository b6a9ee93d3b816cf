/*
 * async: puts submitted by one thread that never waits for a single one: a window of them is open,
 * in requests of --batch.
 *
 *   pass 0   every key is new             (random order, or ascending)
 *   pass 1   every key gets a new value   (another random order, or ascending again)
 *
 * Bytes to disk are the log's, and what the kernel says this process wrote (checkpoints and
 * cleaning included).
 */
#include <inttypes.h>
#include <stdio.h>

#include "../src/error.h"
#include "commands.h"
#include "feed.h"
#include "record.h"

/*
 * write_bytes of /proc/self/io: bytes this process caused to be sent to storage. 0 where there is
 * none.
 */
static uint64_t disk_bytes(void) {
    FILE *file = fopen("/proc/self/io", "re");
    char line[128];
    uint64_t bytes = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "write_bytes: %" SCNu64, &bytes) == 1) {
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return bytes;
}

struct mark {
    uint64_t ns, disk;
    double cpu;
    struct bp_status status;
};

static void take_mark(bp_store *store, struct mark *mark) {
    mark->ns = bench_now_ns();
    mark->disk = disk_bytes();
    mark->cpu = bench_cpu_seconds();
    bp_get_status(store, &mark->status);
}

static void report(const struct settings *settings, const char *part, uint64_t puts,
                   const struct mark *from, const struct mark *to) {
    struct record record;
    double seconds = (double)(to->ns - from->ns) / 1e9;
    uint64_t groups = to->status.groups - from->status.groups;
    uint64_t log_bytes = to->status.bytes_appended - from->status.bytes_appended;
    record_begin(&record, "async");
    record_text(&record, "part", part);
    record_text(&record, "order", settings->order == BENCH_RANDOM ? "random" : "ascending");
    record_count(&record, "batch", settings->batch);
    record_count(&record, "window", settings->window);
    record_count(&record, "puts", puts);
    record_number(&record, "puts_per_s", (double)puts / seconds, 0);
    record_number(&record, "log_mb_per_s", (double)log_bytes / seconds / 1e6, 1);
    record_number(&record, "disk_mb_per_s", (double)(to->disk - from->disk) / seconds / 1e6, 1);
    record_number(&record, "puts_per_group", (double)puts / (double)groups, 1);
    record_number(&record, "sync_share",
                  (double)(to->status.sync_ns_total - from->status.sync_ns_total) / 1e9 / seconds,
                  3);
    record_number(&record, "cpu_us_per_put", (to->cpu - from->cpu) * 1e6 / (double)puts, 3);
    record_count(&record, "checkpoints", to->status.checkpoints - from->status.checkpoints);
    record_print(&record, settings->json);
}

static int run_passes(const struct settings *settings, bp_store *store) {
    uint64_t left = settings->count != 0 ? settings->count : 2 * settings->keys;
    struct feed feed = {
        .order = settings->order, .batch = settings->batch, .window = settings->window};
    struct mark start, from, to;
    uint64_t puts = 0;
    take_mark(store, &start);
    to = start;
    while (left > 0) {
        uint64_t part = left < settings->keys ? left : settings->keys;
        from = to;
        if (bench_feed(store, settings, &feed, 0, part) != 0) {
            return 1;
        }
        take_mark(store, &to);
        report(settings, feed.pass == 0 ? "insert" : "update", part, &from, &to);
        feed.pass++;
        puts += part;
        left -= part;
    }
    report(settings, "all", puts, &start, &to);
    uint64_t keys = puts < settings->keys ? puts : settings->keys;
    if (to.status.keys != keys) {
        fprintf(stderr, "bedplate-bench: %" PRIu64 " keys in the store, %" PRIu64 " were put\n",
                to.status.keys, keys);
        return 1;
    }
    return 0;
}

int command_async(const struct settings *settings) {
    struct bench_place place;
    struct bp_error error;
    bp_store *store;
    bench_place(&place, settings, "async");
    if (bp_open(&place.options, &store, &error) != BP_OK) {
        return bench_fail("open", &error);
    }
    int status = run_passes(settings, store);
    if (bp_close(store, &error) != BP_OK) {
        return bench_fail("close", &error);
    }
    return status;
}

/*
 * Watches: every change of the range, once, in order; woken, resumed, fragmented, cancelled. And
 * the interval sets they are found by.
 */
#include <poll.h>
#include <pthread.h>

#include "../src/interval.h"
#include "../src/protobuf.h"
#include "../src/ticket.h"
#include "../src/watch_internal.h"
#include "store_util.h"

/* ---- a client ------------------------------------------------------------------------------- */

struct watch_request {
    const char *start, *end, *prefix;
    uint64_t start_revision;
    uint32_t progress_ms;
    bool with_values, with_previous, skip_puts, skip_deletes;
};

static struct bp_slice text(const char *s) { return bp_slice(s, s == NULL ? 0 : strlen(s)); }

static int open_watch(struct bp_store *store, struct bp_queue *queue,
                      const struct watch_request *request, struct bp_watch **watch,
                      struct bp_error *err) {
    struct bp_buffer bytes = {0};
    bp_pb_bytes(&bytes, 1, text(request->start));
    bp_pb_bytes(&bytes, 2, text(request->end));
    bp_pb_bytes(&bytes, 3, text(request->prefix));
    bp_pb_uint(&bytes, 4, request->start_revision);
    bp_pb_uint(&bytes, 5, request->progress_ms);
    bp_pb_uint(&bytes, 6, request->with_values);
    bp_pb_uint(&bytes, 7, request->with_previous);
    bp_pb_uint(&bytes, 8, request->skip_puts);
    bp_pb_uint(&bytes, 9, request->skip_deletes);
    CHECK(!bytes.failed);
    int code =
        bp_watch_open(store, queue, BP_KEYSPACE_USER, bytes.data, bytes.size, 77, watch, err);
    bp_buffer_free(&bytes);
    return code;
}

static struct bp_watch *must_open_watch(struct bp_store *store, struct bp_queue *queue,
                                        struct watch_request request) {
    struct bp_watch *watch = NULL;
    struct bp_error err = {0};
    CHECK_OK(open_watch(store, queue, &request, &watch, &err), &err);
    return watch;
}

/*
 * A WatchResponse as text: "@9 +k=v -l +m(old)" and what kind it is: "created", "fragment",
 * "progress", "canceled REASON 12".
 */
struct response {
    uint64_t revision;
    bool created, fragment, progress, canceled;
    char reason[64];
    uint64_t resume;
    uint32_t n_events;
    char events[512];
    struct bp_reply bytes;
};

static void append(struct response *response, const char *piece, struct bp_slice bytes) {
    size_t used = strlen(response->events);
    (void)snprintf(response->events + used, sizeof response->events - used, "%s%.*s", piece,
                   (int)(bytes.size < 40 ? bytes.size : 40),
                   bytes.data != NULL ? (const char *)bytes.data : "");
}

static void read_key_value(struct bp_slice message, struct bp_slice *key, struct bp_slice *value) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, 1, BP_PB_LEN)) {
            *key = f.bytes;
        } else if (bp_pb_is(&f, 2, BP_PB_LEN)) {
            *value = f.bytes;
        }
    }
}

static void read_event(struct response *response, struct bp_slice message) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    bool is_delete = false, has_previous = false;
    struct bp_slice key = {0}, value = {0}, previous_key = {0}, previous = {0};
    while (bp_pb_next(&r, &f)) {
        if (f.number == 1) {
            is_delete = f.value == 2;
        } else if (f.number == 2) {
            read_key_value(f.bytes, &key, &value);
        } else if (f.number == 3) {
            read_key_value(f.bytes, &previous_key, &previous);
            has_previous = true;
        }
    }
    append(response, response->n_events++ == 0 ? "" : " ", (struct bp_slice){0});
    append(response, is_delete ? "-" : "+", key);
    if (value.size > 0) {
        append(response, "=", value);
    }
    if (has_previous) {
        append(response, "(", previous);
        append(response, ")", (struct bp_slice){0});
    }
}

static void read_canceled(struct response *response, struct bp_slice message) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    response->canceled = true;
    while (bp_pb_next(&r, &f)) {
        if (f.number == 1) {
            (void)snprintf(response->reason, sizeof response->reason, "%.*s", (int)f.bytes.size,
                           (const char *)f.bytes.data);
        } else if (f.number == 3) {
            response->resume = f.value;
        }
    }
}

static void read_response(struct response *response, struct bp_slice message) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        switch (f.number) {
        case 1:
            response->revision = f.value;
            break;
        case 2:
            read_event(response, f.bytes);
            break;
        case 3:
            response->fragment = f.value != 0;
            break;
        case 4:
            response->created = f.value != 0;
            break;
        case 5:
            response->progress = f.value != 0;
            break;
        case 6:
            read_canceled(response, f.bytes);
            break;
        default:
            break;
        }
    }
    CHECK(!r.malformed);
}

static int next(struct bp_watch *watch, struct response *response) {
    struct bp_reply reply;
    memset(response, 0, sizeof *response);
    int result = bp_watch_next(watch, &reply);
    if (result != 0) {
        read_response(response, bp_slice(reply.data, (size_t)reply.size));
    } else {
        CHECK(reply.data == NULL);
    }
    response->bytes.size = reply.size;
    bp_reply_free(&reply);
    CHECK((result == 2) == response->canceled);
    return result;
}

static void expect_created(struct bp_watch *watch, uint64_t revision) {
    struct response response;
    CHECK_EQ_U64(next(watch, &response), 1);
    CHECK(response.created && response.n_events == 0);
    CHECK_EQ_U64(response.revision, revision);
}

static void expect_events(struct bp_watch *watch, uint64_t revision, const char *events) {
    struct response response;
    CHECK_EQ_U64(next(watch, &response), 1);
    CHECK(!response.created && !response.fragment && !response.progress);
    if (strcmp(response.events, events) != 0) {
        fprintf(stderr, "got \"%s\", expected \"%s\"\n", response.events, events);
    }
    CHECK(strcmp(response.events, events) == 0);
    CHECK_EQ_U64(response.revision, revision);
}

static void expect_nothing(struct bp_watch *watch) {
    struct response response;
    CHECK_EQ_U64(next(watch, &response), 0);
}

static void expect_canceled(struct bp_watch *watch, const char *reason, uint64_t resume) {
    struct response response;
    CHECK_EQ_U64(next(watch, &response), 2);
    if (strcmp(response.reason, reason) != 0) {
        fprintf(stderr, "got \"%s\", expected \"%s\"\n", response.reason, reason);
    }
    CHECK(strcmp(response.reason, reason) == 0);
    CHECK_EQ_U64(response.resume, resume);
}

/* Completions waiting in the queue, taken. */
static uint32_t wakes(struct bp_queue *queue) {
    struct bp_completion completions[64];
    uint32_t n = bp_queue_take(queue, completions, 64);
    for (uint32_t i = 0; i < n; i++) {
        CHECK_EQ_U64(completions[i].cookie, 77);
        CHECK_EQ_U64(completions[i].code, 0);
        bp_completion_free(&completions[i]);
    }
    return n;
}

struct rig {
    struct bp_sim *sim;
    struct bp_store *store;
    struct bp_queue *queue;
    uint64_t revision; /* before the test's first write */
};

static void setup_with(struct rig *rig, const struct bp_options *options) {
    rig->sim = bp_sim_new(1);
    rig->store = test_must_open(rig->sim, options);
    rig->queue = bp_queue_new(rig->store);
    rig->revision = atomic_load(&rig->store->revision);
}

static void setup(struct rig *rig) {
    struct bp_options options = test_options();
    setup_with(rig, &options);
}

static void teardown(struct rig *rig) {
    bp_queue_free(rig->queue);
    bp_store_abandon(rig->store);
    bp_sim_free(rig->sim);
}

static void put(struct rig *rig, const char *key, const char *value) {
    CHECK(test_put(rig->store, key, value, NULL) == BP_OK);
}

/*
 * A watch is born as if something had been noted that it could not see (watch.c), so the first
 * publication may wake it for nothing. This is that publication.
 */
static void settle(struct rig *rig) {
    bp_hub_publish(rig->store->hub, atomic_load(&rig->store->revision));
    CHECK_EQ_U64(wakes(rig->queue), 0);
}

static void trim_to(struct rig *rig, uint64_t revision) {
    CHECK(test_compact(rig->store, revision) == BP_OK);
    for (int i = 0; i < 1000 && bp_step_clean(rig->store); i++) {
    }
}

/* ---- events --------------------------------------------------------------------------------- */

static void test_a_watch_hears_of_its_range_only(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    struct bp_watch *watch =
        must_open_watch(rig.store, rig.queue,
                        (struct watch_request){.start = "b", .end = "d", .with_values = true});
    struct bp_watch *key = must_open_watch(
        rig.store, rig.queue, (struct watch_request){.prefix = "c1", .with_values = true});
    expect_created(watch, r);
    expect_created(key, r);
    settle(&rig);
    expect_nothing(watch);
    expect_nothing(key);
    put(&rig, "a", "1");
    CHECK_EQ_U64(wakes(rig.queue), 0);
    put(&rig, "b", "2");
    CHECK_EQ_U64(wakes(rig.queue), 1);
    put(&rig, "c1", "3");
    CHECK_EQ_U64(wakes(rig.queue), 1); /* the second watch; the first is awake */
    put(&rig, "d", "4");
    CHECK_EQ_U64(wakes(rig.queue), 0);
    expect_events(watch, r + 4, "+b=2 +c1=3");
    expect_events(key, r + 4, "+c1=3");
    expect_nothing(watch);
    expect_nothing(key);
    CHECK_EQ_U64(bp_hub_watches(rig.store->hub), 2);
    bp_watch_close(watch);
    bp_watch_close(key);
    CHECK_EQ_U64(bp_hub_watches(rig.store->hub), 0);
    put(&rig, "b", "5");
    CHECK_EQ_U64(wakes(rig.queue), 0);
    teardown(&rig);
}

static void test_a_single_key_is_watched_by_its_successor(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    uint8_t request[] = {0x0a, 1, 'k', 0x12, 2, 'k', 0};
    struct bp_watch *watch;
    struct bp_error err;
    CHECK_OK(bp_watch_open(rig.store, rig.queue, BP_KEYSPACE_USER, request, sizeof request, 77,
                           &watch, &err),
             &err);
    expect_created(watch, r);
    settle(&rig);
    expect_nothing(watch);
    put(&rig, "k0", "no");
    put(&rig, "j", "no");
    CHECK_EQ_U64(wakes(rig.queue), 0);
    put(&rig, "k", "yes");
    CHECK_EQ_U64(wakes(rig.queue), 1);
    expect_events(watch, r + 3, "+k");
    bp_watch_close(watch);
    teardown(&rig);
}

static void test_deletes_previous_values_and_filters(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    struct bp_watch *all = must_open_watch(
        rig.store, rig.queue, (struct watch_request){.with_values = true, .with_previous = true});
    struct bp_watch *puts =
        must_open_watch(rig.store, rig.queue, (struct watch_request){.skip_deletes = true});
    struct bp_watch *deletes =
        must_open_watch(rig.store, rig.queue, (struct watch_request){.skip_puts = true});
    expect_created(all, r);
    expect_created(puts, r);
    expect_created(deletes, r);
    put(&rig, "k", "one");
    put(&rig, "k", "two");
    CHECK(test_delete(rig.store, "k", NULL) == BP_OK);
    put(&rig, "k", "three");
    expect_events(all, r + 4, "+k=one +k=two(one) -k(two) +k=three");
    expect_events(puts, r + 4, "+k +k +k");
    expect_events(deletes, r + 4, "-k");
    expect_nothing(deletes);
    CHECK_EQ_U64(wakes(rig.queue), 0);
    put(&rig, "k", "four"); /* wakes the watch of deletes, who then has nothing to say */
    CHECK_EQ_U64(wakes(rig.queue), 1);
    expect_nothing(deletes);
    bp_watch_close(all);
    bp_watch_close(puts);
    bp_watch_close(deletes);
    teardown(&rig);
}

static void test_a_watch_from_an_old_revision_catches_up_and_goes_live(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    for (int i = 0; i < 1500; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "k%04d", i);
        put(&rig, i % 3 == 0 ? key : "other", "v");
    }
    struct bp_watch *watch = must_open_watch(
        rig.store, rig.queue, (struct watch_request){.prefix = "k", .start_revision = r + 1});
    expect_created(watch, r);
    uint32_t events = 0;
    uint64_t last = r;
    for (int i = 0; i < 100 && events < 500; i++) {
        struct response response;
        int result = next(watch, &response);
        if (result == 1) {
            CHECK(response.revision > last && !response.fragment);
            last = response.revision;
            events += response.n_events;
        }
    }
    CHECK_EQ_U64(events, 500);
    CHECK_EQ_U64(last, r + 1500);
    expect_nothing(watch);
    (void)wakes(rig.queue);
    put(&rig, "kx", "live");
    CHECK_EQ_U64(wakes(rig.queue), 1);
    expect_events(watch, r + 1501, "+kx");
    expect_nothing(watch);
    bp_watch_close(watch);
    teardown(&rig);
}

/* Long stretches of history without anything for the watch are scanned in turns. */
static void test_a_long_scan_gives_way_to_others(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    for (int i = 0; i < 5; i++) {
        CHECK(test_batch(rig.store, "x", 9000, "v", NULL) == BP_OK);
    }
    put(&rig, "k", "v");
    struct bp_watch *watch = must_open_watch(
        rig.store, rig.queue, (struct watch_request){.prefix = "k", .start_revision = r + 1});
    expect_created(watch, r);
    struct response response;
    int turns = 0;
    while (next(watch, &response) == 0) {
        CHECK_EQ_U64(wakes(rig.queue), 1);
        turns++;
        CHECK(turns < 100);
    }
    CHECK(turns >= 2);
    CHECK(strcmp(response.events, "+k") == 0);
    expect_nothing(watch);
    CHECK_EQ_U64(wakes(rig.queue), 0);
    bp_watch_close(watch);
    teardown(&rig);
}

static void test_large_revisions_come_in_fragments(void) {
    struct rig rig;
    struct bp_options options = test_options();
    options.reply_bytes_max = 4096;
    setup_with(&rig, &options);
    uint64_t r = rig.revision;
    struct bp_watch *watch = must_open_watch(rig.store, rig.queue, (struct watch_request){0});
    expect_created(watch, r);
    put(&rig, "first", "v");
    CHECK(test_batch(rig.store, "x", 1000, "v", NULL) == BP_OK);
    put(&rig, "last", "v");
    expect_events(watch, r + 1,
                  "+first"); /* a whole revision is not mixed with a part of the next */
    uint32_t events = 0, fragments = 0;
    struct response response;
    do {
        CHECK_EQ_U64(next(watch, &response), 1);
        CHECK(response.bytes.size <= 4096 + 32);
        CHECK(!response.fragment || response.revision == r + 2);
        CHECK(response.n_events > 0);
        events += response.n_events;
        fragments += response.fragment;
    } while (response.fragment && fragments < 1000);
    CHECK(fragments >= 5);
    /* What followed the last fragment may hold the next revision, too. */
    if (events < 1001) {
        CHECK_EQ_U64(response.revision, r + 2);
        expect_events(watch, r + 3, "+last");
        events++;
    }
    CHECK_EQ_U64(events, 1001);
    expect_nothing(watch);
    bp_watch_close(watch);
    teardown(&rig);
}

static void test_an_event_larger_than_a_reply_is_sent_alone(void) {
    struct rig rig;
    struct bp_options options = test_options();
    options.reply_bytes_max = 4096;
    setup_with(&rig, &options);
    static uint8_t large[200 << 10];
    memset(large, 'x', sizeof large);
    struct bp_watch *watch =
        must_open_watch(rig.store, rig.queue, (struct watch_request){.with_values = true});
    expect_created(watch, rig.revision);
    put(&rig, "a", "v");
    CHECK(test_put_bytes(rig.store, "b", large, sizeof large, 0, NULL, NULL) == BP_OK);
    put(&rig, "c", "v");
    expect_events(watch, rig.revision + 1, "+a=v");
    struct response response;
    CHECK_EQ_U64(next(watch, &response), 1);
    CHECK(response.n_events == 1 && response.bytes.size > sizeof large && !response.fragment);
    expect_events(watch, rig.revision + 3, "+c=v");
    bp_watch_close(watch);
    teardown(&rig);
}

static void test_a_damaged_value_ends_the_watch_after_what_is_whole(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    put(&rig, "a", "fine");
    put(&rig, "b", "will be damaged");
    struct bp_version version;
    CHECK(bp_index_get(rig.store->index, bp_slice("ub", 2), r + 2, &version));
    char path[BP_PATH_MAX];
    bp_segment_path(rig.store->segments, version.value.at.segment, BP_SEGMENT_LOG, false, path,
                    sizeof path);
    CHECK(bp_sim_flip(rig.sim, path, version.value.at.offset, 3) == 0);
    struct bp_watch *watch = must_open_watch(
        rig.store, rig.queue, (struct watch_request){.start_revision = r + 1, .with_values = true});
    expect_created(watch, r);
    expect_events(watch, r + 1, "+a=fine");
    expect_canceled(watch, "VALUE_DAMAGED", r + 2);
    bp_watch_close(watch);
    teardown(&rig);
}

/* ---- beginnings and ends -------------------------------------------------------------------- */

static void test_where_a_watch_may_begin(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    for (int i = 0; i < 5; i++) {
        put(&rig, "k", "v");
    }
    trim_to(&rig, r + 3); /* takes a revision itself */
    uint64_t present = atomic_load(&rig.store->revision);
    struct bp_watch *watch;
    struct bp_error err;
    struct watch_request request = {.start_revision = r + 3};
    CHECK_EQ_U64(open_watch(rig.store, rig.queue, &request, &watch, &err), BP_OUT_OF_RANGE);
    CHECK_EQ_U64(err.reason, BP_REASON_REVISION_COMPACTED);
    CHECK_EQ_U64(err.revision, r + 3);
    request.start_revision = present + 2;
    CHECK_EQ_U64(open_watch(rig.store, rig.queue, &request, &watch, &err), BP_OUT_OF_RANGE);
    CHECK_EQ_U64(err.reason, BP_REASON_REVISION_IN_FUTURE);
    request = (struct watch_request){.start = "b", .end = "a"};
    CHECK_EQ_U64(open_watch(rig.store, rig.queue, &request, &watch, &err), BP_INVALID_ARGUMENT);
    CHECK_EQ_U64(bp_hub_watches(rig.store->hub), 0);

    watch = must_open_watch(rig.store, rig.queue, (struct watch_request){.start_revision = r + 4});
    expect_created(watch, r + 3);
    expect_events(watch, present, "+k +k");
    bp_watch_close(watch);
    watch = must_open_watch(rig.store, rig.queue,
                            (struct watch_request){.start_revision = present + 1});
    expect_created(watch, present);
    expect_nothing(watch);
    put(&rig, "k", "v");
    CHECK_EQ_U64(wakes(rig.queue), 1);
    expect_events(watch, present + 1, "+k");
    bp_watch_close(watch);
    teardown(&rig);
}

static void test_a_watch_that_compaction_overtakes_is_cancelled(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    struct bp_watch *slow = must_open_watch(rig.store, rig.queue, (struct watch_request){0});
    struct bp_watch *idle =
        must_open_watch(rig.store, rig.queue, (struct watch_request){.prefix = "other"});
    expect_created(slow, r);
    expect_created(idle, r);
    settle(&rig);
    for (int i = 0; i < 5; i++) {
        put(&rig, "k", "v");
    }
    trim_to(&rig, r + 3);
    expect_canceled(slow, "REVISION_COMPACTED", r + 4);
    expect_nothing(idle); /* missed nothing */
    put(&rig, "other", "v");
    expect_events(idle, r + 7, "+other");
    bp_watch_close(slow);
    bp_watch_close(idle);
    teardown(&rig);
}

static void test_a_watch_too_far_behind_is_cancelled(void) {
    struct rig rig;
    struct bp_options options = test_options();
    options.watch_lag_max = 10;
    setup_with(&rig, &options);
    uint64_t r = rig.revision;
    struct bp_watch *slow =
        must_open_watch(rig.store, rig.queue, (struct watch_request){.prefix = "k"});
    struct bp_watch *reading =
        must_open_watch(rig.store, rig.queue, (struct watch_request){.prefix = "k"});
    struct bp_watch *other =
        must_open_watch(rig.store, rig.queue, (struct watch_request){.prefix = "z"});
    expect_created(slow, r);
    expect_created(reading, r);
    expect_created(other, r);
    for (uint64_t i = 1; i <= 11; i++) {
        put(&rig, "k", "v");
        expect_events(reading, r + i, "+k");
    }
    expect_canceled(slow, "WATCH_TOO_SLOW", r + 1);
    expect_nothing(other);
    expect_nothing(reading);
    CHECK_EQ_U64(bp_hub_lag_cancels(rig.store->hub), 1);
    bp_watch_close(slow);
    /* Resumed, it is not behind: what lies in history is read at its own pace. */
    slow = must_open_watch(rig.store, rig.queue,
                           (struct watch_request){.prefix = "k", .start_revision = r + 1});
    expect_created(slow, r);
    expect_events(slow, r + 11, "+k +k +k +k +k +k +k +k +k +k +k");
    /* One request that brings more than the limit finds it waiting: not its fault. */
    expect_nothing(slow);
    CHECK(test_batch(rig.store, "k", 12, "v", NULL) == BP_OK);
    struct response response;
    CHECK_EQ_U64(next(slow, &response), 1);
    CHECK_EQ_U64(response.n_events, 12);
    bp_watch_close(slow);
    bp_watch_close(reading);
    bp_watch_close(other);
    teardown(&rig);
}

static void test_progress_is_told_when_nothing_was_sent(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    struct bp_watch *watch = must_open_watch(
        rig.store, rig.queue, (struct watch_request){.prefix = "k", .progress_ms = 100});
    expect_created(watch, r);
    settle(&rig);
    expect_nothing(watch);
    put(&rig, "other", "v");
    bp_sim_advance_ns(rig.sim, 99 * UINT64_C(1000000));
    bp_step_tick(rig.store);
    CHECK_EQ_U64(wakes(rig.queue), 0);
    bp_sim_advance_ns(rig.sim, UINT64_C(1000000));
    bp_step_tick(rig.store);
    CHECK_EQ_U64(wakes(rig.queue), 1);
    struct response response;
    CHECK_EQ_U64(next(watch, &response), 1);
    CHECK(response.progress && response.n_events == 0);
    CHECK_EQ_U64(response.revision, r + 1);
    expect_nothing(watch);
    /* An event puts the next mark off. */
    bp_sim_advance_ns(rig.sim, 60 * UINT64_C(1000000));
    put(&rig, "k", "v");
    CHECK_EQ_U64(wakes(rig.queue), 1);
    expect_events(watch, r + 2, "+k");
    expect_nothing(watch);
    bp_sim_advance_ns(rig.sim, 60 * UINT64_C(1000000));
    bp_step_tick(rig.store);
    CHECK_EQ_U64(wakes(rig.queue), 0);
    bp_watch_close(watch);
    teardown(&rig);
}

static void test_watches_are_limited(void) {
    struct rig rig;
    struct bp_options options = test_options();
    options.watches_max = 2;
    setup_with(&rig, &options);
    struct bp_watch *watches[2], *third;
    for (int i = 0; i < 2; i++) {
        watches[i] = must_open_watch(rig.store, rig.queue, (struct watch_request){0});
    }
    struct bp_error err;
    struct watch_request request = {0};
    CHECK_EQ_U64(open_watch(rig.store, rig.queue, &request, &third, &err), BP_RESOURCE_EXHAUSTED);
    CHECK_EQ_U64(err.reason, BP_REASON_TOO_MANY_WATCHES);
    bp_watch_close(watches[0]);
    third = must_open_watch(rig.store, rig.queue, (struct watch_request){0});
    bp_watch_close(watches[1]);
    bp_watch_close(third);
    teardown(&rig);
}

static void test_closing_the_store_ends_every_watch(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    struct bp_watch *waiting = must_open_watch(rig.store, rig.queue, (struct watch_request){0});
    struct bp_watch *behind = must_open_watch(rig.store, rig.queue, (struct watch_request){0});
    expect_created(waiting, r);
    expect_created(behind, r);
    put(&rig, "k", "v");
    expect_events(waiting, r + 1, "+k");
    expect_nothing(waiting);
    bp_hub_close(rig.store->hub);
    CHECK_EQ_U64(wakes(rig.queue), 1);
    expect_canceled(waiting, "STORE_CLOSED", r + 2);
    expect_canceled(behind, "STORE_CLOSED", r + 1); /* it can resume there */
    struct bp_watch *late;
    struct bp_error err;
    struct watch_request request = {0};
    CHECK_EQ_U64(open_watch(rig.store, rig.queue, &request, &late, &err), BP_UNAVAILABLE);
    CHECK_EQ_U64(err.reason, BP_REASON_STORE_CLOSED);
    bp_watch_close(waiting);
    bp_watch_close(behind);
    teardown(&rig);
}

/* ---- between note and publish --------------------------------------------------------------- */

/*
 * The applier noted an effect before it saw the watch: the publication that follows must wake it.
 */
static void test_an_effect_noted_before_the_watch_was_there_is_heard_of(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    struct bp_error err;
    struct bp_value_ref value = {0};
    struct bp_version previous;
    CHECK_OK(
        bp_index_put(rig.store->index, bp_slice("uk", 2), r + 1, 0, false, &value, &previous, &err),
        &err);
    bp_hub_note(rig.store->hub, bp_slice("uk", 2), r + 1); /* nobody is there */
    struct bp_watch *watch = must_open_watch(rig.store, rig.queue, (struct watch_request){0});
    expect_created(watch, r);
    expect_nothing(watch);
    atomic_store(&rig.store->revision, r + 1);
    bp_hub_publish(rig.store->hub, r + 1);
    CHECK_EQ_U64(wakes(rig.queue), 1);
    expect_events(watch, r + 1, "+k");
    expect_nothing(watch);
    bp_watch_close(watch);
    teardown(&rig);
}

/*
 * It may read an effect after it is visible and before its publication is announced: the
 * announcement is then no news.
 */
static void test_an_effect_read_before_its_announcement_comes_once(void) {
    struct rig rig;
    setup(&rig);
    uint64_t r = rig.revision;
    struct bp_watch *watch = must_open_watch(rig.store, rig.queue, (struct watch_request){0});
    expect_created(watch, r);
    struct bp_error err;
    struct bp_value_ref value = {0};
    struct bp_version previous;
    CHECK_OK(
        bp_index_put(rig.store->index, bp_slice("uk", 2), r + 1, 0, false, &value, &previous, &err),
        &err);
    bp_hub_note(rig.store->hub, bp_slice("uk", 2), r + 1);
    expect_nothing(watch);
    atomic_store(&rig.store->revision, r + 1);
    expect_events(watch, r + 1, "+k");
    expect_nothing(watch);
    bp_hub_publish(rig.store->hub, r + 1);
    CHECK_EQ_U64(wakes(rig.queue), 0);
    expect_nothing(watch);
    bp_watch_close(watch);
    teardown(&rig);
}

/* ---- threads -------------------------------------------------------------------------------- */

enum { WRITES = 3000, WATCHERS = 3 };

struct writer {
    struct bp_store *store;
    _Atomic bool done;
};

static void *write_all(void *arg) {
    struct writer *writer = arg;
    for (int i = 0; i < WRITES; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "k%d", i % 7);
        CHECK(test_put(writer->store, key, "v", NULL) == BP_OK);
        if (i % 500 == 499) {
            CHECK(test_batch(writer->store, "k", 300, "v", NULL) == BP_OK);
        }
    }
    atomic_store(&writer->done, true);
    return NULL;
}

static void wait_for_queue(struct bp_queue *queue) {
    struct pollfd fd = {.fd = bp_queue_fd(queue), .events = POLLIN};
    CHECK(poll(&fd, 1, 60000) == 1); /* a lost wake-up ends here */
    (void)wakes(queue);
}

struct watcher {
    struct bp_store *store;
    uint64_t last; /* the last revision that will be written, once known */
    uint64_t from;
    uint64_t events;
    bool reopen;
};

/*
 * Watches from `from` to the end, perhaps closing and resuming all the while; counts what it hears.
 */
static void *watch_all(void *arg) {
    struct watcher *watcher = arg;
    struct bp_queue *queue = bp_queue_new(watcher->store);
    struct watch_request request = {.prefix = "k", .start_revision = watcher->from};
    struct bp_watch *watch = must_open_watch(watcher->store, queue, request);
    uint64_t reached = watcher->from - 1, responses = 0;
    while (reached < watcher->last) {
        struct response response;
        int result = next(watch, &response);
        CHECK(result != 2);
        if (result == 0) {
            wait_for_queue(queue);
            continue;
        }
        if (response.created) {
            CHECK_EQ_U64(response.revision, reached);
            continue;
        }
        CHECK(response.n_events > 0 && response.revision >= reached);
        watcher->events += response.n_events;
        reached = response.revision;
        if (watcher->reopen && !response.fragment && ++responses % 5 == 0) {
            bp_watch_close(watch);
            (void)wakes(queue);
            request.start_revision = reached + 1;
            watch = must_open_watch(watcher->store, queue, request);
        }
    }
    bp_watch_close(watch);
    bp_queue_free(queue);
    return NULL;
}

static void test_threads_hear_of_every_write_once(void) {
    struct rig rig;
    setup(&rig);
    uint64_t batches = WRITES / 500;
    struct writer writer = {.store = rig.store};
    struct watcher watchers[WATCHERS];
    pthread_t threads[WATCHERS], thread;
    for (int i = 0; i < WATCHERS; i++) {
        watchers[i] = (struct watcher){.store = rig.store,
                                       .from = rig.revision + 1,
                                       .last = rig.revision + WRITES + batches,
                                       .reopen = i > 0};
        CHECK(pthread_create(&threads[i], NULL, watch_all, &watchers[i]) == 0);
    }
    CHECK(pthread_create(&thread, NULL, write_all, &writer) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    for (int i = 0; i < WATCHERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK_EQ_U64(watchers[i].events, WRITES + batches * 300);
    }
    teardown(&rig);
}

/* ---- interval sets -------------------------------------------------------------------------- */

enum { INTERVALS = 600, KEY_SPACE = 40 };

struct found {
    const struct bp_interval *intervals;
    bool hit[INTERVALS];
    uint32_t n;
};

static void mark(void *arg, struct bp_interval *interval) {
    struct found *found = arg;
    size_t i = (size_t)(interval - found->intervals);
    CHECK(!found->hit[i]);
    found->hit[i] = true;
    found->n++;
}

static void test_interval_sets_agree_with_looking_at_all(void) {
    static struct bp_interval intervals[INTERVALS];
    static uint8_t bytes[INTERVALS][2][3];
    bool in[INTERVALS] = {false};
    struct bp_intervals set;
    bp_intervals_init(&set, 42);
    uint64_t seed = 7;
    for (uint32_t round = 0; round < 4000; round++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint32_t i = (uint32_t)(seed >> 33) % INTERVALS;
        if (in[i]) {
            bp_intervals_remove(&set, &intervals[i]);
        } else {
            bytes[i][0][0] = bytes[i][1][0] = (uint8_t)((seed >> 40) % KEY_SPACE);
            size_t end = 2;
            bytes[i][1][1] = 0;
            if (i % 2 == 0) {
                bytes[i][1][0] = (uint8_t)(bytes[i][0][0] + 1 + (seed >> 50) % 9);
                end = 1;
            }
            intervals[i].start = bp_slice(bytes[i][0], 1);
            intervals[i].end = bp_slice(bytes[i][1], end);
            bp_intervals_add(&set, &intervals[i]);
        }
        in[i] = !in[i];
        if (round % 16 != 0) {
            continue;
        }
        const char *wrong = bp_intervals_check(&set);
        if (wrong != NULL) {
            fprintf(stderr, "%s\n", wrong);
        }
        CHECK(wrong == NULL);
        uint8_t key = (uint8_t)((seed >> 20) % (KEY_SPACE + 12));
        struct found found = {.intervals = intervals};
        bp_intervals_visit(&set, bp_slice(&key, 1), mark, &found);
        for (uint32_t j = 0; j < INTERVALS; j++) {
            struct bp_slice k = bp_slice(&key, 1);
            bool want = in[j] && bp_slice_compare(intervals[j].start, k) <= 0 &&
                        bp_slice_compare(k, intervals[j].end) < 0;
            CHECK(found.hit[j] == want);
        }
    }
    bp_intervals_destroy(&set);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_a_watch_hears_of_its_range_only);
    RUN(test_a_single_key_is_watched_by_its_successor);
    RUN(test_deletes_previous_values_and_filters);
    RUN(test_a_watch_from_an_old_revision_catches_up_and_goes_live);
    RUN(test_a_long_scan_gives_way_to_others);
    RUN(test_large_revisions_come_in_fragments);
    RUN(test_an_event_larger_than_a_reply_is_sent_alone);
    RUN(test_a_damaged_value_ends_the_watch_after_what_is_whole);
    RUN(test_where_a_watch_may_begin);
    RUN(test_a_watch_that_compaction_overtakes_is_cancelled);
    RUN(test_a_watch_too_far_behind_is_cancelled);
    RUN(test_progress_is_told_when_nothing_was_sent);
    RUN(test_watches_are_limited);
    RUN(test_closing_the_store_ends_every_watch);
    RUN(test_an_effect_noted_before_the_watch_was_there_is_heard_of);
    RUN(test_an_effect_read_before_its_announcement_comes_once);
    RUN(test_threads_hear_of_every_write_once);
    RUN(test_interval_sets_agree_with_looking_at_all);
    TESTS_END;
}

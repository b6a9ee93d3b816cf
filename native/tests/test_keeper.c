/*
 * The keeper beside everybody else: checkpoints and cleaning while clients write and read, what the
 * tick proposes, and its own thread.
 */
#include <pthread.h>
#include <sched.h>

#include "../src/keeper.h"
#include "state_util.h"

/* `writes` puts of random keys below `keys`. */
static void put_values(struct bp_store *store, uint64_t seed, uint32_t writes, uint32_t keys,
                       uint32_t size) {
    uint8_t *value = malloc(size);
    CHECK(value != NULL);
    for (uint32_t i = 0; i < writes; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "key/%06llu",
                       (unsigned long long)(test_random(&seed) % keys));
        memset(value, (int)(test_random(&seed) & 0xff), size);
        CHECK(test_put_bytes(store, key, value, size, 0, NULL, NULL) == BP_OK);
    }
    free(value);
}

/* Keys 250..299, which put_values with keys <= 250 leaves alone. */
static void put_lasting(struct bp_store *store) {
    uint8_t value[2000];
    for (uint32_t k = 250; k < 300; k++) {
        char key[32];
        (void)snprintf(key, sizeof key, "key/%06u", k);
        memset(value, (int)(k % 251), sizeof value);
        CHECK(test_put_bytes(store, key, value, sizeof value, 0, NULL, NULL) == BP_OK);
    }
}

/* ---- checkpoints beside writers -------------------------------------------------------------- */

struct writing {
    struct bp_store *store;
    _Atomic bool stop;
    _Atomic uint64_t written;
};

static void *write_on(void *arg) {
    struct writing *writing = arg;
    uint64_t seed = 99;
    while (!atomic_load(&writing->stop)) {
        char key[32], value[32];
        (void)snprintf(key, sizeof key, "key/%llu/%06llu", (unsigned long long)(seed % 10),
                       (unsigned long long)(test_random(&seed) % 2000));
        (void)snprintf(value, sizeof value, "%llu", (unsigned long long)seed);
        CHECK((test_random(&seed) % 8 == 0 ? test_delete(writing->store, key, NULL)
                                           : test_put(writing->store, key, value, NULL)) == BP_OK);
        atomic_fetch_add(&writing->written, 1);
    }
    return NULL;
}

static void test_the_cut_is_exact_while_clients_write(void) {
    struct bp_sim *sim = bp_sim_new(12);
    struct bp_options options = test_options();
    options.manual = 0;
    struct bp_store *store = test_must_open(sim, &options);
    for (uint32_t i = 0; i < 10; i++) { /* a walk that takes a while */
        char prefix[16];
        (void)snprintf(prefix, sizeof prefix, "key/%u/", i);
        CHECK(test_batch(store, prefix, 2000, "v", NULL) == BP_OK);
    }
    struct writing writing = {.store = store};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, write_on, &writing) == 0);
    /* The last checkpoint counts: it must be one that many writes went on beside. */
    for (uint32_t i = 0, beside = 0; beside < 3; i++) {
        uint64_t seen = atomic_load(&writing.written);
        must_checkpoint(store);
        beside += atomic_load(&writing.written) > seen + 50;
        if (i == 1) {
            CHECK(test_compact(store, 0) == BP_OK); /* trimming beside the next cuts */
        }
    }
    atomic_store(&writing.stop, true);
    CHECK(pthread_join(thread, NULL) == 0);
    struct bp_error err = {0};
    pthread_mutex_lock(&store->keeper.mutex); /* its thread rests */
    struct bp_buffer before = state_of(store);
    pthread_mutex_unlock(&store->keeper.mutex);
    CHECK_OK(bp_close(store, &err), &err);
    options.manual = 1;
    store = test_must_open(sim, &options);
    CHECK(store->recovery_checkpoint_keys > 0); /* its state hash was checked */
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- cleaning beside readers ----------------------------------------------------------------- */

struct reading {
    struct bp_store *store;
    _Atomic bool stop;
    _Atomic uint64_t reads;
};

static void *read_on(void *arg) {
    struct reading *reading = arg;
    uint64_t seed = 3;
    static _Thread_local uint8_t value[8192], expected[8192];
    while (!atomic_load(&reading->stop)) {
        char key[32];
        uint32_t k = 250 + (uint32_t)(test_random(&seed) % 50),
                 size; /* written once, moved by cleaning */
        struct bp_error err = {0};
        (void)snprintf(key, sizeof key, "key/%06u", k);
        CHECK_OK(bp_get(reading->store, BP_KEYSPACE_USER, key, (uint32_t)strlen(key), value,
                        sizeof value, &size, NULL, &err),
                 &err);
        memset(expected, (int)(k % 251), 2000);
        CHECK(size == 2000 && memcmp(value, expected, size) == 0);
        atomic_fetch_add(&reading->reads, 1);
    }
    return NULL;
}

static void test_readers_never_notice_cleaning(void) {
    struct bp_sim *sim = bp_sim_new(500);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    put_lasting(store);
    put_values(store, 77, 5000, 250, 2000);
    CHECK(test_compact(store, 0) == BP_OK);
    must_checkpoint(store);
    must_checkpoint(store);
    struct reading readings[2] = {{.store = store}, {.store = store}};
    pthread_t threads[2];
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, read_on, &readings[i]) == 0);
    }
    for (uint32_t round = 0; round < 4; round++) {
        put_values(store, round, 200, 250, 2000);
        CHECK(test_compact(store, 0) == BP_OK);
        must_checkpoint(store);
        settle(store);
    }
    uint64_t seen = atomic_load(&readings[0].reads);
    while (atomic_load(&readings[0].reads) < seen + 10) {
        sched_yield();
    }
    for (uint32_t i = 0; i < 2; i++) {
        atomic_store(&readings[i].stop, true);
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(atomic_load(&store->counters.cleaned_segments) > 0);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- what the tick proposes ------------------------------------------------------------------ */

#define MS 1000000ull

/* Ticks once every `step_ms` of simulated time, carrying out what was proposed. */
static void pass_time(struct bp_sim *sim, struct bp_store *store, uint64_t ms, uint64_t step_ms) {
    for (uint64_t at = 0; at < ms; at += step_ms) {
        bp_sim_advance_ns(sim, step_ms * MS);
        bp_step_tick(store);
        (void)bp_step_drive(store);
    }
}

static void test_history_is_compacted_by_age_also_without_writes(void) {
    struct bp_sim *sim = bp_sim_new(20);
    struct bp_options options = test_options();
    options.history_ms_max = 10000;
    struct bp_store *store = test_must_open(sim, &options);
    pass_time(sim, store, 1000, 100);
    put_values(store, 1, 50, 10, 100);
    uint64_t written = store->next_revision - 1;
    pass_time(sim, store, 9000, 100);
    CHECK_EQ_U64(store->compaction_revision, 0); /* younger than the limit */
    pass_time(sim, store, 2500, 100);
    CHECK_EQ_U64(store->compaction_revision, written);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_an_idle_store_proposes_nothing(void) {
    struct bp_sim *sim = bp_sim_new(21);
    struct bp_options options = test_options();
    options.history_ms_max = 1000;
    struct bp_store *store = test_must_open(sim, &options);
    put_values(store, 1, 50, 10, 100);
    pass_time(sim, store, 5000, 100);
    clean_all(store);
    uint64_t index = store->applied_index;
    pass_time(sim, store, 60000, 100);
    CHECK_EQ_U64(store->applied_index, index);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_busy_store_compacts_no_more_often_than_it_must(void) {
    struct bp_sim *sim = bp_sim_new(22);
    struct bp_options options = test_options();
    options.history_ms_max = 16000;
    struct bp_store *store = test_must_open(sim, &options);
    uint64_t raised = 0, last = 0, oldest = 0, times[700] = {0};
    for (uint32_t i = 0; i < 640; i++) { /* 64 seconds */
        times[i] = store->next_revision;
        put_values(store, i, 2, 10, 100);
        pass_time(sim, store, 100, 100);
        raised += store->compaction_revision != last;
        last = store->compaction_revision;
        while (oldest < i && times[oldest] <= last) {
            oldest++;
        }
        CHECK(i < 190 ||
              (i - oldest >= 158 && i - oldest <= 185)); /* 16 s kept, and at most an eighth more */
    }
    CHECK(raised >= 30 && raised <= 60);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_history_is_compacted_by_number_and_by_bytes(void) {
    for (uint32_t by_bytes = 0; by_bytes < 2; by_bytes++) {
        struct bp_sim *sim = bp_sim_new(23);
        struct bp_options options = test_options();
        if (by_bytes) {
            options.history_bytes_max = 100000;
        } else {
            options.history_versions_max = 1000;
        }
        struct bp_store *store = test_must_open(sim, &options);
        for (uint32_t i = 0; i < 40; i++) {
            put_values(store, i, 100, 10, 1000);
            pass_time(sim, store, 100, 100);
            clean_all(store);
            struct bp_index_stats stats;
            bp_index_get_stats(store->index, &stats);
            CHECK(by_bytes ? stats.history_value_bytes <= 210000 : stats.history_effects <= 1110);
        }
        CHECK(store->compaction_revision > 0);
        CHECK(store->next_revision - store->compaction_revision >
              (by_bytes ? 50 : 600)); /* not all of it */
        bp_store_abandon(store);
        bp_sim_free(sim);
    }
}

static void test_expired_leases_are_revoked_in_batches(void) {
    struct bp_sim *sim = bp_sim_new(24);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    for (uint64_t lease = 1; lease <= 3000; lease++) {
        CHECK(test_grant(store, lease, 2000) == BP_OK);
    }
    CHECK(test_grant(store, 5000, 60000) == BP_OK);
    CHECK(test_put_bytes(store, "gone", "v", 1, 9999, NULL, NULL) == BP_NOT_FOUND);
    CHECK(test_put_bytes(store, "gone", "v", 1, 7, NULL, NULL) == BP_OK);
    CHECK(test_put_bytes(store, "stays", "v", 1, 5000, NULL, NULL) == BP_OK);
    uint64_t index = store->applied_index;
    pass_time(sim, store, 3000, 500);
    CHECK_EQ_U64(bp_leases_count(store->leases), 1);
    CHECK(store->applied_index - index <= 4);
    char value[8];
    CHECK(!test_get(store, "gone", value, sizeof value));
    CHECK(test_get(store, "stays", value, sizeof value));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static uint64_t (*sim_clock)(void *ctx);
static struct bp_store *written_to;

/* Every look at the clock is 30 ms later, and clients have written a megabyte meanwhile. */
static uint64_t slow_clock(void *ctx) {
    bp_sim_advance_ns(ctx, 30 * MS);
    if (written_to != NULL) {
        atomic_fetch_add(&written_to->bytes_since_checkpoint, 1u << 20);
    }
    return sim_clock(ctx);
}

static struct bp_store *open_slow(struct bp_sim *sim, const struct bp_options *options) {
    struct bp_io io;
    struct bp_store *store;
    struct bp_error err = {0};
    bp_sim_io(sim, &io);
    sim_clock = io.clock_boot_ns;
    io.clock_boot_ns = slow_clock;
    struct bp_disk *disk = bp_disk_new(&io);
    CHECK(disk != NULL);
    CHECK_OK(bp_store_open(options, disk, &store, &err), &err);
    return store;
}

/* Segments that hold nothing and that no kept checkpoint needs. */
static uint32_t count_free(struct bp_store *store) {
    uint32_t n = 0, replay = bp_checkpoint_replay_segment(store);
    for (struct bp_segment *s = bp_segments_next(store->segments, 0); s != NULL;
         s = bp_segments_next(store->segments, s->header.id)) {
        n += s->header.kind == BP_SEGMENT_LOG && s->header.id < replay &&
             atomic_load(&s->live_bytes) == 0 && !bp_checkpoint_names(store, s->header.id);
    }
    return n;
}

static void test_what_a_checkpoint_frees_is_gone_though_the_next_is_due_already(void) {
    struct bp_sim *sim = bp_sim_new(25);
    struct bp_options options = test_options();
    options.checkpoint_bytes = 1u << 20; /* always due */
    struct bp_store *store = open_slow(sim, &options);
    for (uint32_t round = 0; round < 5; round++) {
        put_values(store, round, 600, 20, 64000); /* many segments */
        CHECK(test_compact(store, 0) == BP_OK);
        uint64_t made = atomic_load(&store->counters.checkpoints);
        while (bp_index_trimmed(store->index) < atomic_load(&store->floor)) {
            (void)bp_step_clean(store); /* what was overwritten is dead before the round */
        }
        written_to = store;
        (void)bp_keeper_round(store);
        written_to = NULL;
        (void)bp_step_drive(store);
        CHECK_EQ_U64(atomic_load(&store->counters.checkpoints), made + 1);
        CHECK_EQ_U64(count_free(store), 0);
    }
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* The thread goes on after a moment then, and not after a tick. */
static void test_a_round_that_a_checkpoint_cuts_short_says_that_work_is_left(void) {
    struct bp_sim *sim = bp_sim_new(26);
    struct bp_options options = test_options();
    options.checkpoint_bytes = 1u << 20;
    struct bp_store *store = open_slow(sim, &options);
    for (uint32_t i = 0; i < 10; i++) {
        CHECK(test_batch(store, "key/", 2000, "v", NULL) == BP_OK);
    }
    CHECK(test_compact(store, 0) == BP_OK); /* much to trim, in many steps */
    written_to = store;
    uint32_t rounds = 1;
    while (bp_keeper_round(store)) {
        CHECK(++rounds < 100);
    }
    written_to = NULL;
    CHECK(rounds > 2);
    CHECK_EQ_U64(atomic_load(&store->counters.checkpoints), rounds);
    CHECK_EQ_U64(bp_index_trimmed(store->index), atomic_load(&store->floor));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- the thread ------------------------------------------------------------------------------ */

/*
 * Waits for the keeper to get there, without sleeping. The harness's time limit ends a wait for
 * something that never comes.
 */
#define WAIT_FOR(condition)                                                                        \
    while (!(condition)) {                                                                         \
        sched_yield();                                                                             \
    }

static void test_the_thread_checkpoints_cleans_and_expires_by_itself(void) {
    struct bp_sim *sim = bp_sim_new(30);
    struct bp_options options = test_options();
    options.manual = 0;
    options.checkpoint_bytes = 1u << 20;
    options.history_versions_max = 100;
    struct bp_store *store = test_must_open(sim, &options);
    CHECK(test_grant(store, 9, 31536000000) == BP_OK);
    put_lasting(store);
    uint64_t seed = 0;
    while (atomic_load(&store->counters.cleaned_segments) < 2) {
        put_values(store, seed++, 500, 200, 4000);
        WAIT_FOR((bp_sim_advance_ns(sim, MS),
                  atomic_load(&store->floor) + 1000 > atomic_load(&store->revision)));
    }
    CHECK(atomic_load(&store->counters.checkpoints) >= 2);
    CHECK_EQ_U64(bp_leases_count(store->leases), 1);
    bp_sim_advance_ns(sim, 31536000001 * MS);
    WAIT_FOR((bp_sim_advance_ns(sim, MS), bp_leases_count(store->leases) == 0));
    struct bp_error err = {0};
    CHECK_OK(bp_close(store, &err), &err);
    options.manual = 1;
    store = test_must_open(sim, &options);
    char value[4096];
    CHECK(test_get(store, "key/000299", value, sizeof value));
    struct bp_buffer state = state_of(store); /* every value that is retained can be read */
    bp_buffer_free(&state);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_the_cut_is_exact_while_clients_write);
    RUN(test_readers_never_notice_cleaning);
    RUN(test_history_is_compacted_by_age_also_without_writes);
    RUN(test_an_idle_store_proposes_nothing);
    RUN(test_a_busy_store_compacts_no_more_often_than_it_must);
    RUN(test_history_is_compacted_by_number_and_by_bytes);
    RUN(test_expired_leases_are_revoked_in_batches);
    RUN(test_what_a_checkpoint_frees_is_gone_though_the_next_is_due_already);
    RUN(test_a_round_that_a_checkpoint_cuts_short_says_that_work_is_left);
    RUN(test_the_thread_checkpoints_cleans_and_expires_by_itself);
    TESTS_END;
}

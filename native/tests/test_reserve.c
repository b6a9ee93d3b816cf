/*
 * The disk reserve, and a disk that is full: clients are refused, the way out stays open, and
 * writing comes back by itself.
 */
#include "state_util.h"

#define MIB (1024u * 1024u)

static struct bp_options reserve_options(void) {
    struct bp_options options = test_options(); /* segments of 8 MiB */
    options.disk_reserve = 32 * MIB;
    options.checkpoint_bytes = 4 * MIB;
    return options;
}

static uint64_t free_space(struct bp_store *store) {
    uint64_t free_bytes, total_bytes;
    CHECK(bp_disk_space(store->disk, store->dir, &free_bytes, &total_bytes) == 0);
    return free_bytes;
}

static void ticks(struct bp_store *store, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        bp_step_tick(store);
    }
}

static int put_value(struct bp_store *store, uint32_t k, struct bp_error *err) {
    static uint8_t value[100000];
    char key[32];
    struct bp_builder builder;
    (void)snprintf(key, sizeof key, "key/%06u", k);
    memset(value, (int)(k % 251), sizeof value);
    bp_builder_init(&builder);
    bp_builder_begin(&builder, BP_REQUEST_KV, (struct bp_slice){0}, 0);
    struct bp_op op = {
        .op = BP_OP_PUT, .key = bp_slice(key, strlen(key)), .value = bp_slice(value, sizeof value)};
    bp_builder_op(&builder, 0, BP_KEYSPACE_USER, &op);
    CHECK(bp_builder_finish(&builder, err) == BP_OK);
    int code = bp_execute(store, builder.buf, builder.size, NULL, NULL, NULL, err);
    bp_builder_free(&builder);
    return code;
}

/* Puts new keys until one is refused; how many were taken. */
static uint32_t fill_disk(struct bp_store *store, uint32_t from) {
    struct bp_error err = {0};
    for (uint32_t i = from; i < from + 10000; i++) {
        int code = put_value(store, i, &err);
        if (code != BP_OK) {
            CHECK_EQ_U64(code, BP_RESOURCE_EXHAUSTED);
            CHECK_EQ_U64(err.reason, BP_REASON_DISK_FULL);
            return i - from;
        }
        if (i % 50 == 0) {
            ticks(store, 1);
        }
    }
    CHECK(!"the disk never fills up");
    return 0;
}

static void test_the_reserve_grows_to_its_target_and_no_further(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = reserve_options();
    struct bp_store *store = test_must_open(sim, &options);
    ticks(store, 10);
    CHECK_EQ_U64(bp_reserve_size(store), 32 * MIB);
    CHECK_EQ_U64(dir_use(store, "reserve").bytes, 32 * MIB);
    CHECK(!atomic_load(&store->disk_full));
    bp_store_abandon(store);
    options.disk_reserve = 16 * MIB;
    store = test_must_open(sim, &options);
    CHECK_EQ_U64(bp_reserve_size(store), 32 * MIB); /* found as it was */
    ticks(store, 1);
    CHECK_EQ_U64(bp_reserve_size(store), 16 * MIB);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_by_default_it_is_four_segments_and_room_for_a_checkpoint(void) {
    struct bp_sim *sim = bp_sim_new(2);
    struct bp_options options = reserve_options();
    options.disk_reserve = 0;
    struct bp_store *store = test_must_open(sim, &options);
    CHECK(test_batch(store, "k", 5000, "v", NULL) == BP_OK);
    must_checkpoint(store);
    ticks(store, 10);
    uint64_t checkpoint = dir_use(store, ".ckpt").bytes;
    CHECK(checkpoint > 10000);
    CHECK_EQ_U64(bp_reserve_size(store), 4ull * options.segment_size + checkpoint + checkpoint / 4);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_growing_leaves_a_segment_free(void) {
    struct bp_sim *sim = bp_sim_new(3);
    struct bp_options options = reserve_options();
    bp_sim_set_capacity(sim, 70 * MIB);
    struct bp_store *store = test_must_open(sim, &options);
    bp_sim_set_capacity(sim, 8 * MIB * 4);
    ticks(store, 10);
    CHECK(bp_reserve_size(store) > 0 && bp_reserve_size(store) < 32 * MIB);
    CHECK(free_space(store) >= options.segment_size);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_the_last_segment_is_for_recovery_alone(void) {
    struct bp_sim *sim = bp_sim_new(4);
    struct bp_options options = reserve_options();
    struct bp_store *store = test_must_open(sim, &options);
    ticks(store, 10);
    CHECK_EQ_U64(bp_reserve_release(store, 10 * MIB, false), 10 * MIB);
    CHECK_EQ_U64(bp_reserve_release(store, 100 * MIB, false), 14 * MIB);
    CHECK_EQ_U64(bp_reserve_release(store, 1, false), 0);
    CHECK_EQ_U64(bp_reserve_size(store), options.segment_size);
    CHECK_EQ_U64(bp_reserve_release(store, 100 * MIB, true), 8 * MIB);
    CHECK_EQ_U64(bp_reserve_size(store), 0);
    ticks(store, 10);
    CHECK_EQ_U64(bp_reserve_size(store), 32 * MIB);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_full_disk_refuses_growth_and_recovers_by_itself(void) {
    struct bp_sim *sim = bp_sim_new(5);
    struct bp_options options = reserve_options();
    bp_sim_set_capacity(sim, 160 * MIB);
    struct bp_store *store = test_must_open(sim, &options);
    ticks(store, 10);
    uint32_t taken = fill_disk(store, 0);
    CHECK(taken > 500);
    CHECK(atomic_load(&store->disk_full));
    char key[32], value[100001];
    (void)snprintf(key, sizeof key, "key/%06u", taken - 1);
    CHECK(test_get(store, key, value, sizeof value)); /* reads go on */
    settle(store);                                    /* checkpoints have their room */
    struct bp_error err = {0};
    CHECK(put_value(store, 999999, &err) == BP_RESOURCE_EXHAUSTED);
    uint64_t deleted;
    CHECK(test_delete_range(store, "key/", "key/000600", &deleted) == BP_OK && deleted > 400);
    for (uint32_t i = 0; i < 20; i++) { /* nobody compacts but the store itself */
        bp_sim_advance_ns(sim, 1000000000);
        ticks(store, 1);
        bp_step_drive(store);
        settle(store);
    }
    ticks(store, 1);
    CHECK(!atomic_load(&store->disk_full));
    CHECK_EQ_U64(bp_reserve_size(store), 32 * MIB);
    CHECK_OK(put_value(store, 999999, &err), &err);
    struct bp_buffer before = state_of(store);
    bp_store_abandon(store);
    store = test_must_open(sim, &options);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_store_on_a_full_disk_opens_again_and_again(void) {
    struct bp_sim *sim = bp_sim_new(6);
    struct bp_options options = reserve_options();
    bp_sim_set_capacity(sim, 120 * MIB);
    struct bp_store *store = test_must_open(sim, &options);
    ticks(store, 10);
    (void)fill_disk(store, 0);
    struct bp_buffer before = state_of(store);
    for (uint32_t i = 0; i < 3; i++) {
        bp_store_abandon(store);
        bp_sim_power_cut(sim, 0);
        /* Somebody else eats what is free: each start has but a piece of the reserve. */
        struct bp_io io;
        uint64_t free_bytes, total_bytes;
        bp_sim_io(sim, &io);
        CHECK(io.space(io.ctx, "store", &free_bytes, &total_bytes) == 0);
        bp_sim_set_capacity(sim, total_bytes - free_bytes);
        store = test_must_open(sim, &options);
        struct bp_buffer copy = {0};
        bp_buffer_append(&copy, before.data, before.size);
        state_must_equal(copy, state_of(store));
        ticks(store, 1);
    }
    uint64_t deleted; /* and there is a way out of it */
    CHECK(test_delete_range(store, "key/", "key0", &deleted) == BP_OK && deleted > 0);
    CHECK(test_compact(store, 0) == BP_OK);
    for (uint32_t i = 0; i < 20; i++) {
        settle(store);
        ticks(store, 1);
    }
    struct bp_error err = {0};
    CHECK_OK(put_value(store, 1, &err), &err);
    bp_buffer_free(&before);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_others_filling_the_disk_is_noticed(void) {
    struct bp_sim *sim = bp_sim_new(7);
    struct bp_options options = reserve_options();
    bp_sim_set_capacity(sim, 200 * MIB);
    struct bp_store *store = test_must_open(sim, &options);
    ticks(store, 10);
    CHECK(bp_reserve_release(store, options.segment_size, false) > 0);
    struct bp_io io;
    bp_sim_io(sim, &io);
    int fd = io.open(io.ctx, "others", BP_O_WRITE | BP_O_CREATE);
    CHECK(fd >= 0 && io.allocate(io.ctx, fd, free_space(store) - options.segment_size / 2) == 0);
    ticks(store, 1);
    CHECK(atomic_load(&store->disk_full)); /* the reserve is short and cannot grow */
    CHECK(io.truncate(io.ctx, fd, 0) == 0 && io.close(io.ctx, fd) == 0);
    ticks(store, 3);
    CHECK(!atomic_load(&store->disk_full));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_the_reserve_grows_to_its_target_and_no_further);
    RUN(test_by_default_it_is_four_segments_and_room_for_a_checkpoint);
    RUN(test_growing_leaves_a_segment_free);
    RUN(test_the_last_segment_is_for_recovery_alone);
    RUN(test_a_full_disk_refuses_growth_and_recovers_by_itself);
    RUN(test_a_store_on_a_full_disk_opens_again_and_again);
    RUN(test_others_filling_the_disk_is_noticed);
    TESTS_END;
}

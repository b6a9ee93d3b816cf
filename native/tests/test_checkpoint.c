/*
 * Checkpoints: an exact cut, whole or not there, and what is left when one is not.
 */
#include "../src/checkpoint.h"
#include "state_util.h"

/* ---- a store with something of everything ---------------------------------------------------- */

static uint8_t big_value[200000];

static void fill(struct bp_store *store, uint64_t seed, uint32_t writes) {
    memset(big_value, (int)(seed & 0xff), sizeof big_value);
    (void)test_grant(store, 1000 + seed, 60000);
    for (uint32_t i = 0; i < writes; i++) {
        char key[32], value[64], id[32];
        uint64_t dice = test_random(&seed) % 16;
        (void)snprintf(key, sizeof key, "key/%llu", (unsigned long long)(test_random(&seed) % 200));
        (void)snprintf(value, sizeof value, "value %llu of %u",
                       (unsigned long long)test_random(&seed), i);
        (void)snprintf(id, sizeof id, "request %u", i);
        int code = BP_OK;
        if (dice == 0) {
            code = test_delete(store, key, NULL);
        } else if (dice == 1) {
            code = test_put_bytes(store, key, "", 0, 0, NULL, NULL);
        } else if (dice == 2 && i % 8 == 0) {
            code = test_put_bytes(store, key, big_value, (uint32_t)sizeof big_value, 0, NULL, NULL);
        } else if (dice == 3) {
            code = test_put_bytes(store, key, value, (uint32_t)strlen(value), 0, id, NULL);
        } else if (dice == 4) {
            code = test_batch(store, "batch/", 20, value, NULL);
        } else if (dice == 5) {
            (void)test_put_bytes(store, key, value, (uint32_t)strlen(value), 1001, NULL, NULL);
        } else {
            code = test_put(store, key, value, NULL);
        }
        CHECK(code == BP_OK);
    }
}

/* ---- round trips ----------------------------------------------------------------------------- */

static void test_a_checkpoint_holds_everything(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    fill(store, 1, 400);
    CHECK(test_compact(store, 200) == BP_OK);
    fill(store, 2, 100);
    must_checkpoint(store);
    struct bp_buffer before = state_of(store);
    store = test_reopen(sim, &options, store);
    CHECK(store->recovery_checkpoint_keys > 0);
    CHECK_EQ_U64(store->recovery_entries, 0);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_replay_goes_on_where_the_checkpoint_ends(void) {
    struct bp_sim *sim = bp_sim_new(2);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    fill(store, 1, 300);
    must_checkpoint(store);
    fill(store, 2, 50);
    struct bp_buffer before = state_of(store);
    store = test_reopen(sim, &options, store);
    CHECK(store->recovery_checkpoint_keys > 0);
    CHECK(store->recovery_entries > 0 && store->recovery_entries < 100);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_an_empty_store_can_be_checkpointed(void) {
    struct bp_sim *sim = bp_sim_new(3);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_buffer before = state_of(store);
    must_checkpoint(store);
    must_checkpoint(store);
    store = test_reopen(sim, &options, store);
    CHECK_EQ_U64(store->keeper.n_checkpoints, 2);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_many_blocks_and_many_versions_of_one_key(void) {
    struct bp_sim *sim = bp_sim_new(4);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    for (uint32_t i = 0; i < 12; i++) {
        char prefix[50] = "", key[BP_KEY_MAX + 1];
        memset(prefix, 'a' + (int)i, 4 * i + 1);
        CHECK(test_batch(store, prefix, 2000, "v", NULL) == BP_OK);
        memset(key, 'a' + (int)i, sizeof key);
        key[BP_KEY_MAX - i] = 0;
        CHECK(test_put(store, key, "long", NULL) == BP_OK);
    }
    for (uint32_t i = 0; i < 20000; i++) {
        CHECK(test_put(store, "hot", "x", NULL) == BP_OK);
    }
    must_checkpoint(store);
    CHECK(dir_use(store, ".ckpt").bytes > BP_CKPT_BLOCK);
    struct bp_buffer before = state_of(store);
    store = test_reopen(sim, &options, store);
    CHECK_EQ_U64(store->recovery_checkpoint_keys, 12 * 2001 + 1);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_two_checkpoints_are_kept(void) {
    struct bp_sim *sim = bp_sim_new(5);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    for (uint32_t i = 0; i < 5; i++) {
        fill(store, i, 20);
        must_checkpoint(store);
        CHECK_EQ_U64(dir_use(store, ".ckpt").files, i == 0 ? 1 : 2);
    }
    must_checkpoint(store); /* nothing was written since: a file of its own all the same */
    CHECK_EQ_U64(dir_use(store, ".ckpt").files, 2);
    CHECK_EQ_U64(store->keeper.checkpoints[0].index, store->keeper.checkpoints[1].index);
    store = test_reopen(sim, &options, store);
    CHECK_EQ_U64(store->keeper.n_checkpoints, 2);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_checkpoint_is_due_by_the_log_since_the_last(void) {
    struct bp_sim *sim = bp_sim_new(6);
    struct bp_options options = test_options();
    options.checkpoint_bytes = 100000;
    struct bp_store *store = test_must_open(sim, &options);
    char value[1000];
    memset(value, 'v', sizeof value);
    CHECK(!bp_checkpoint_due(store));
    for (uint32_t i = 0; i < 60; i++) {
        CHECK(test_put_bytes(store, "k", value, sizeof value, 0, NULL, NULL) == BP_OK);
    }
    CHECK(!bp_checkpoint_due(store));
    for (uint32_t i = 0; i < 60; i++) {
        CHECK(test_put_bytes(store, "k", value, sizeof value, 0, NULL, NULL) == BP_OK);
    }
    CHECK(bp_checkpoint_due(store));
    struct bp_error err;
    CHECK_OK(bp_step_checkpoint(store, 0, &err), &err);
    CHECK(!bp_checkpoint_due(store));
    CHECK_EQ_U64(atomic_load(&store->counters.checkpoints), 1);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_in_interval_mode_the_log_is_synced_first(void) {
    struct bp_sim *sim = bp_sim_new(7);
    struct bp_options options = test_options();
    options.interval_ms = 1000;
    struct bp_store *store = test_must_open(sim, &options);
    fill(store, 1, 100);
    bp_step_tick(store); /* the interval's first sync is behind us */
    (void)bp_step_drive(store);
    fill(store, 101, 100);
    must_checkpoint(store);
    uint64_t revision = store->next_revision;
    uint64_t hash[2], after[2];
    bp_index_state_hash(store->index, hash);
    bp_sim_power_cut(sim, 0); /* nothing that was not synced is left */
    store = test_reopen(sim, &options, store);
    CHECK(store->next_revision > revision); /* jumped: the stop was not clean */
    bp_index_state_hash(store->index, after);
    CHECK(hash[0] == after[0] && hash[1] == after[1]);
    struct bp_buffer state = state_of(store); /* reads every value: they are there too */
    bp_buffer_free(&state);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- writes while it is written -------------------------------------------------------------- */

/*
 * Before each write of a checkpoint's block: puts and deletes all over the keys, and a compaction.
 */
static struct {
    struct bp_store *store; /* NULL: sleep */
    ssize_t (*pwritev)(void *ctx, int fd, const struct iovec *iov, int n, uint64_t offset);
    uint64_t seed;
    uint32_t times;
} between;

static ssize_t write_between(void *ctx, int fd, const struct iovec *iov, int n, uint64_t offset) {
    struct bp_store *store = between.store;
    between.store = NULL; /* the writes below come here too */
    for (uint32_t i = 0; store != NULL && i < 50; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "%02llu/%06llu",
                       (unsigned long long)(test_random(&between.seed) % 30),
                       (unsigned long long)(test_random(&between.seed) % 2000));
        CHECK((i % 5 == 0 ? test_delete(store, key, NULL)
                          : test_put(store, key, "between", NULL)) == BP_OK);
    }
    if (store != NULL) {
        between.times++;
        CHECK(test_compact(store, 0) == BP_OK);
        while (bp_index_trim(store->index, bp_pins_min(store), 1000)) { /* the pin alone holds it */
        }
        between.store = store;
    }
    return between.pwritev(ctx, fd, iov, n, offset);
}

static void test_the_cut_is_exact_whatever_is_written_meanwhile(void) {
    struct bp_sim *sim = bp_sim_new(14);
    struct bp_options options = test_options();
    options.interval_ms =
        3600000; /* what comes after the cut is not durable: only the checkpoint is */
    struct bp_io io;
    bp_sim_io(sim, &io);
    between.pwritev = io.pwritev;
    io.pwritev = write_between;
    struct bp_disk *disk = bp_disk_new(&io);
    struct bp_store *store;
    struct bp_error err = {0};
    CHECK(disk != NULL);
    CHECK_OK(bp_store_open(&options, disk, &store, &err), &err);
    for (uint32_t i = 0; i < 30; i++) {
        char prefix[16];
        (void)snprintf(prefix, sizeof prefix, "%02u/", i);
        CHECK(test_batch(store, prefix, 2000, "first", NULL) == BP_OK);
        CHECK(test_batch(store, prefix, 100, "second", NULL) == BP_OK);
    }
    bp_driver_chore(store, false, true);
    (void)bp_step_drive(store);
    struct bp_buffer before = state_of(store);
    between.store = store;
    must_checkpoint(store);
    between.store = NULL;
    CHECK(between.times > 4);
    bp_store_abandon(store);
    bp_sim_power_cut(sim, 0);
    store = test_must_open(sim, &options);
    CHECK(store->recovery_checkpoint_keys == 60000);
    struct bp_buffer after = state_of(store);
    CHECK(bp_get_u64(after.data) > bp_get_u64(before.data)); /* jumped, as the stop was not clean */
    bp_put_u64(after.data, bp_get_u64(before.data));
    state_must_equal(before, after);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void damage(struct bp_sim *sim, const char *path, uint64_t offset) {
    CHECK(bp_sim_flip(sim, path, offset, 3) == 0);
}

static void test_a_damaged_newest_one_leads_to_the_one_before(void) {
    struct bp_sim *sim = bp_sim_new(8);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    fill(store, 1, 200);
    must_checkpoint(store);
    fill(store, 2, 200);
    must_checkpoint(store);
    fill(store, 3, 20);
    struct bp_buffer before = state_of(store);
    char path[4224];
    uint64_t size;
    CHECK(checkpoint_path(store, 0, path));
    CHECK(bp_sim_file_size(sim, path, &size) == 0);
    damage(sim, path, size / 2);
    store = test_reopen(sim, &options, store);
    CHECK_EQ_U64(store->keeper.n_checkpoints, 1);
    CHECK(store->recovery_entries > 100);
    state_must_equal(before, state_of(store));
    must_checkpoint(store);
    CHECK_EQ_U64(dir_use(store, ".ckpt").files, 2); /* the damaged one is gone */
    store = test_reopen(sim, &options, store);
    CHECK_EQ_U64(store->keeper.n_checkpoints, 2);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* A store whose newest checkpoint cannot be read once, in a log whose end is not known synced. */
static struct bp_store *open_past_the_newest(struct bp_sim *sim, const struct bp_options *options) {
    struct bp_store *store = NULL;
    struct bp_error err = {0};
    struct bp_disk *disk = test_disk(sim);
    CHECK(bp_disk_arm(disk, BP_SITE_CHECKPOINT_READ, BP_FAULT_EIO, 1, 1, 0) == 0);
    return bp_store_open(options, disk, &store, &err) == BP_OK ? store : NULL;
}

/* What was passed over names places in the log that may have moved since. */
static void test_a_newest_one_that_could_not_be_read_once_is_never_used_again(void) {
    struct bp_sim *sim = bp_sim_new(14);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    fill(store, 1, 60);
    must_checkpoint(store);
    fill(store, 2, 60);
    must_checkpoint(store);
    bp_store_abandon(store);
    bp_sim_power_cut(sim, 0);
    store = open_past_the_newest(sim, &options);
    CHECK(store != NULL && store->keeper.n_checkpoints == 1);
    CHECK_EQ_U64(dir_use(store, ".ckpt").files, 1);
    fill(store, 3, 20);
    struct bp_buffer before = state_of(store);
    bp_store_abandon(store);
    bp_sim_power_cut(sim, 0); /* its name is gone for good */
    store = test_must_open(sim, &options);
    CHECK_EQ_U64(store->keeper.n_checkpoints, 1);
    CHECK_EQ_U64(dir_use(store, ".ckpt").files + dir_use(store, ".tmp").files, 1);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_power_cut_while_a_newest_one_is_passed_over_loses_nothing(void) {
    for (uint64_t bytes = 1; bytes < 20000; bytes += 487) {
        struct bp_sim *sim = bp_sim_new(bytes);
        struct bp_options options = test_options();
        struct bp_store *store = test_must_open(sim, &options);
        fill(store, 1, 60);
        must_checkpoint(store);
        fill(store, 2, 60);
        must_checkpoint(store);
        struct bp_buffer before = state_of(store);
        bp_store_abandon(store);
        bp_sim_power_cut(sim, 0);
        bp_sim_cut_after_bytes(sim, bytes);
        store = open_past_the_newest(sim, &options);
        if (store != NULL) {
            bp_store_abandon(store);
        }
        bp_sim_power_cut(sim, (uint32_t)(bytes % 1000));
        store = test_must_open(sim, &options);
        state_must_equal(before, state_of(store));
        bp_store_abandon(store);
        bp_sim_free(sim);
    }
}

/* The start is refused, and everything is as it was: for a disk that recovers, and for fsck. */
static void test_a_log_that_is_refused_leaves_the_newest_one_its_name(void) {
    struct bp_sim *sim = bp_sim_new(15);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    fill(store, 1, 60);
    must_checkpoint(store);
    struct bp_pos at = store->applied_end; /* replay from the older one starts here */
    fill(store, 2, 60);
    must_checkpoint(store);
    struct bp_buffer before = state_of(store);
    char log[4224], newest[4224];
    CHECK(checkpoint_path(store, 0, newest));
    bp_segment_path(store->segments, at.segment, BP_SEGMENT_LOG, false, log, sizeof log);
    bp_store_abandon(store);
    damage(sim, log, at.offset + 40);
    CHECK(open_past_the_newest(sim, &options) == NULL);
    bp_sim_power_cut(sim, 0);
    uint64_t size;
    CHECK(bp_sim_file_size(sim, newest, &size) == 0);
    store = test_must_open(sim, &options); /* from which the damage is not looked at */
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* A log that no longer reaches back to its first entry cannot stand in for them. */
static void test_both_damaged_is_corruption_and_touches_nothing(void) {
    struct bp_sim *sim = bp_sim_new(9);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    char paths[2][4224];
    uint64_t deleted;
    fill(store, 9, 10);
    bp_store_abandon(store);
    store = test_must_open(sim, &options); /* the log goes on in a second segment */
    CHECK(test_delete_range(store, "", "~", &deleted) == BP_OK);
    CHECK(test_compact(store, atomic_load(&store->revision)) == BP_OK);
    while (dir_use(store, ".log").files > 1) {
        must_checkpoint(store);
        clean_all(store);
    }
    for (uint32_t i = 0; i < 2; i++) {
        fill(store, i, 100);
        must_checkpoint(store);
    }
    CHECK(checkpoint_path(store, 0, paths[0]) && checkpoint_path(store, 1, paths[1]));
    bp_store_abandon(store);
    for (uint32_t i = 0; i < 2; i++) {
        damage(sim, paths[i], 60);
    }
    struct bp_error err = {0};
    uint64_t written = bp_sim_bytes_written(sim);
    CHECK(test_open(sim, &options, &store, &err) == BP_DATA_LOSS);
    CHECK_EQ_U64(err.reason, BP_REASON_STORE_CORRUPT);
    CHECK(strstr(err.message, ".ckpt") != NULL && strstr(err.message, "offset") != NULL);
    CHECK_EQ_U64(bp_sim_bytes_written(sim), written);
    bp_sim_free(sim);
}

static void test_any_flipped_byte_is_noticed(void) {
    struct bp_sim *sim = bp_sim_new(10);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    CHECK(test_grant(store, 1001, 5000) == BP_OK);
    fill(store, 5, 12);
    must_checkpoint(store);
    fill(store, 6, 3);
    must_checkpoint(store);
    struct bp_buffer before = state_of(store);
    char path[4224];
    uint64_t size;
    CHECK(checkpoint_path(store, 0, path));
    CHECK(bp_sim_file_size(sim, path, &size) == 0);
    bp_store_abandon(store);
    for (uint64_t at = 0; at < size; at += at < 200 ? 1 : 7) {
        struct bp_sim *copy = bp_sim_clone(sim, at);
        damage(copy, path, at);
        store = test_must_open(copy, &options);
        CHECK_EQ_U64(store->keeper.n_checkpoints, 1); /* the older one */
        struct bp_buffer same = {0};
        bp_buffer_append(&same, before.data, before.size);
        state_must_equal(same, state_of(store));
        bp_store_abandon(store);
        bp_sim_free(copy);
    }
    bp_buffer_free(&before);
    bp_sim_free(sim);
}

/* Rewrite a file of the simulated disk from `offset` on. */
static void overwrite(struct bp_sim *sim, const char *path, const void *bytes, size_t n,
                      uint64_t offset) {
    struct bp_io io;
    bp_sim_io(sim, &io);
    int fd = io.open(io.ctx, path, BP_O_WRITE);
    CHECK(fd >= 0);
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = n};
    CHECK(io.pwritev(io.ctx, fd, &iov, 1, offset) == (ssize_t)n);
    CHECK(io.datasync(io.ctx, fd) == 0);
    CHECK(io.close(io.ctx, fd) == 0);
}

static void test_a_newer_format_is_refused_and_not_fallen_back_from(void) {
    struct bp_sim *sim = bp_sim_new(11);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    fill(store, 1, 50);
    must_checkpoint(store);
    fill(store, 2, 50);
    must_checkpoint(store);
    char path[4224];
    CHECK(checkpoint_path(store, 0, path));
    bp_store_abandon(store);
    uint8_t block[BP_CKPT_BLOCK_HEADER + BP_CKPT_HEADER_SIZE];
    CHECK(bp_sim_read_file(sim, path, block, sizeof block, 0) == 0);
    bp_put_u32(block + BP_CKPT_BLOCK_HEADER + 8, BP_FORMAT_VERSION + 1);
    (void)bp_ckpt_block_finish(block, BP_CKPT_HEADER_SIZE, BP_CKPT_HEADER, 0);
    overwrite(sim, path, block, sizeof block, 0);
    struct bp_error err = {0};
    CHECK(test_open(sim, &options, &store, &err) == BP_FAILED_PRECONDITION);
    CHECK_EQ_U64(err.reason, BP_REASON_FORMAT_UNSUPPORTED);
    bp_sim_free(sim);
}

/* ---- failures while writing ------------------------------------------------------------------ */

static const int sites[] = {BP_SITE_CHECKPOINT_CREATE,   BP_SITE_CHECKPOINT_WRITE,
                            BP_SITE_CHECKPOINT_SYNC,     BP_SITE_CHECKPOINT_RENAME,
                            BP_SITE_CHECKPOINT_DIR_SYNC, BP_SITE_CHECKPOINT_UNLINK};
#define SITES (sizeof sites / sizeof sites[0])

/* A store with two checkpoints and more written since. */
static struct bp_store *store_with_two(struct bp_sim *sim, const struct bp_options *options) {
    struct bp_store *store = test_must_open(sim, options);
    fill(store, 1, 60);
    must_checkpoint(store);
    fill(store, 2, 60);
    must_checkpoint(store);
    fill(store, 3, 60);
    return store;
}

static void test_a_failed_step_discards_that_file_only(void) {
    const int faults[] = {BP_FAULT_EIO, BP_FAULT_ENOSPC};
    for (uint32_t i = 0; i < SITES * 2; i++) {
        int site = sites[i / 2], fault = faults[i % 2];
        struct bp_sim *sim = bp_sim_new(20 + i);
        struct bp_options options = test_options();
        struct bp_store *store = store_with_two(sim, &options);
        struct bp_buffer before = state_of(store);
        struct bp_error err = {0};
        CHECK(bp_disk_arm(store->disk, site, fault, 1, 1, 0) == 0);
        int code = bp_step_checkpoint(store, 1, &err);
        bool cleaning_up =
            site == BP_SITE_CHECKPOINT_UNLINK; /* the old one stays a while: no failure */
        CHECK(cleaning_up ? code == BP_OK : code != BP_OK);
        CHECK_EQ_U64(dir_use(store, ".tmp").files, 0);
        CHECK_EQ_U64(dir_use(store, ".ckpt").files, cleaning_up ? 3 : 2);
        CHECK_EQ_U64(atomic_load(&store->counters.checkpoint_failures), cleaning_up ? 0 : 1);
        CHECK(test_put(store, "after", "the failure", NULL) == BP_OK);
        CHECK(test_delete(store, "after", NULL) == BP_OK);
        must_checkpoint(store);
        CHECK_EQ_U64(dir_use(store, ".ckpt").files, 2);
        bp_buffer_free(&before);
        before = state_of(store);
        store = test_reopen(sim, &options, store);
        CHECK_EQ_U64(store->recovery_entries, 0);
        state_must_equal(before, state_of(store));
        bp_store_abandon(store);
        bp_sim_free(sim);
    }
}

static void crash_once(int site, int fault, uint64_t hit, uint32_t keep) {
    struct bp_sim *sim = bp_sim_new((uint64_t)site * 1000 + hit * 10 + keep);
    struct bp_options options = test_options();
    struct bp_store *store = store_with_two(sim, &options);
    struct bp_buffer before = state_of(store);
    struct bp_error err = {0};
    CHECK(bp_disk_arm(store->disk, site, fault, hit, 1, 0) == 0);
    (void)bp_step_checkpoint(store, 1, &err);
    bp_store_abandon(store);
    bp_sim_power_cut(sim, keep);
    store = test_must_open(sim, &options);
    CHECK(store->keeper.n_checkpoints >= 1);
    CHECK(store->recovery_entries < 130); /* the newest or the one before it */
    state_must_equal(before, state_of(store));
    CHECK(test_put(store, "after", "the crash", NULL) == BP_OK);
    must_checkpoint(store);
    before = state_of(store);
    bp_store_abandon(store);
    bp_sim_power_cut(sim, keep);
    store = test_must_open(sim, &options);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_crash_at_any_step_loses_nothing(void) {
    const int faults[] = {BP_FAULT_SHORT, BP_FAULT_CRASH, BP_FAULT_CRASH_AFTER};
    const uint32_t keeps[] = {0, 512, 1024};
    for (uint32_t site = 0; site < SITES; site++) {
        for (uint32_t fault = 0; fault < 3; fault++) {
            for (uint32_t keep = 0; keep < 3; keep++) {
                for (uint64_t hit = 1; hit <= (sites[site] == BP_SITE_CHECKPOINT_WRITE ? 5 : 1);
                     hit++) {
                    crash_once(sites[site], faults[fault], hit, keeps[keep]);
                }
            }
        }
    }
}

static void test_an_unsynced_checkpoint_is_never_believed(void) {
    /* Cut the power at many bytes of the checkpoint's own writing, with random sectors kept. */
    for (uint32_t i = 0; i < 40; i++) {
        struct bp_sim *sim = bp_sim_new(500 + i);
        struct bp_options options = test_options();
        struct bp_store *store = store_with_two(sim, &options);
        struct bp_buffer before = state_of(store);
        struct bp_error err = {0};
        bp_sim_cut_after_bytes(sim, 1 + i * 331);
        (void)bp_step_checkpoint(store, 1, &err);
        bp_store_abandon(store);
        bp_sim_power_cut(sim, i * 26);
        store = test_must_open(sim, &options);
        state_must_equal(before, state_of(store));
        bp_store_abandon(store);
        bp_sim_free(sim);
    }
}

/*
 * A mark behind the cut's last frame is not synced: replay must neither need it nor stumble over
 * its absence.
 */
static void test_a_mark_that_is_lost_hurts_no_checkpoint(void) {
    for (uint32_t newest_damaged = 0; newest_damaged < 2; newest_damaged++) {
        struct bp_sim *sim = bp_sim_new(13);
        struct bp_options options = test_options();
        struct bp_store *store = test_must_open(sim, &options);
        fill(store, 1, 60);
        must_checkpoint(store);
        fill(store, 2, 60);
        bp_driver_chore(store, true, false);
        (void)bp_step_drive(store);
        must_checkpoint(store);
        struct bp_buffer before = state_of(store);
        char path[4224];
        CHECK(checkpoint_path(store, 0, path));
        bp_store_abandon(store);
        bp_sim_power_cut(sim, 0);
        if (newest_damaged) {
            damage(sim, path, 100);
        }
        store = test_must_open(sim, &options);
        state_must_equal(before, state_of(store));
        fill(store, 3, 20);
        before = state_of(store);
        bp_store_abandon(store);
        bp_sim_power_cut(sim, 0);
        store = test_must_open(sim, &options);
        state_must_equal(before, state_of(store));
        bp_store_abandon(store);
        bp_sim_free(sim);
    }
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_a_checkpoint_holds_everything);
    RUN(test_replay_goes_on_where_the_checkpoint_ends);
    RUN(test_an_empty_store_can_be_checkpointed);
    RUN(test_many_blocks_and_many_versions_of_one_key);
    RUN(test_two_checkpoints_are_kept);
    RUN(test_a_checkpoint_is_due_by_the_log_since_the_last);
    RUN(test_in_interval_mode_the_log_is_synced_first);
    RUN(test_the_cut_is_exact_whatever_is_written_meanwhile);
    RUN(test_a_damaged_newest_one_leads_to_the_one_before);
    RUN(test_a_newest_one_that_could_not_be_read_once_is_never_used_again);
    RUN(test_a_power_cut_while_a_newest_one_is_passed_over_loses_nothing);
    RUN(test_a_log_that_is_refused_leaves_the_newest_one_its_name);
    RUN(test_both_damaged_is_corruption_and_touches_nothing);
    RUN(test_any_flipped_byte_is_noticed);
    RUN(test_a_newer_format_is_refused_and_not_fallen_back_from);
    RUN(test_a_failed_step_discards_that_file_only);
    RUN(test_a_crash_at_any_step_loses_nothing);
    RUN(test_an_unsynced_checkpoint_is_never_believed);
    RUN(test_a_mark_that_is_lost_hurts_no_checkpoint);
    TESTS_END;
}

/*
 * The store as a whole, on a simulated disk: what one request does, what survives a restart, and
 * power cuts at every byte.
 */
#include "store_util.h"

/* ---- requests -------------------------------------------------------------------------------- */

static void test_a_value_put_is_read_back_and_deleted(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    char value[64];
    uint64_t first, second;
    CHECK(!test_get(store, "a", value, sizeof value));
    CHECK(test_put(store, "a", "one", &first) == BP_OK);
    CHECK(test_get(store, "a", value, sizeof value) && strcmp(value, "one") == 0);
    CHECK(test_put(store, "a", "two", &second) == BP_OK);
    CHECK_EQ_U64(second, first + 1);
    CHECK(test_get(store, "a", value, sizeof value) && strcmp(value, "two") == 0);
    CHECK(test_delete(store, "a", NULL) == BP_OK);
    CHECK(!test_get(store, "a", value, sizeof value));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_compares_decide_the_branch(void) {
    struct bp_sim *sim = bp_sim_new(2);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    int succeeded;
    uint64_t revision;
    char value[64];
    CHECK(test_cas(store, "k", 0, "made", &succeeded) == BP_OK && succeeded);
    CHECK(test_cas(store, "k", 0, "again", &succeeded) == BP_OK && !succeeded);
    CHECK(test_compare_value(store, "k", "made", "next", &succeeded) == BP_OK && succeeded);
    CHECK(test_compare_value(store, "k", "made", "never", &succeeded) == BP_OK && !succeeded);
    CHECK(test_compare_value(store, "absent", "", "never", &succeeded) == BP_OK && !succeeded);
    CHECK(test_get(store, "k", value, sizeof value) && strcmp(value, "next") == 0);
    CHECK(test_put(store, "k", "x", &revision) == BP_OK);
    CHECK(test_cas(store, "k", revision, "y", &succeeded) == BP_OK && succeeded);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_request_id_acts_once_also_after_a_restart(void) {
    struct bp_sim *sim = bp_sim_new(3);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    uint64_t first, again;
    CHECK(test_put_bytes(store, "k", "v", 1, 0, "id-1", &first) == BP_OK);
    CHECK(test_put(store, "k", "other", NULL) == BP_OK);
    CHECK(test_put_bytes(store, "k", "v", 1, 0, "id-1", &again) == BP_OK);
    CHECK_EQ_U64(again, first);
    bp_store_abandon(store);
    store = test_must_open(sim, &options);
    CHECK(test_put_bytes(store, "k", "v", 1, 0, "id-1", &again) == BP_OK);
    CHECK_EQ_U64(again, first);
    char value[64];
    CHECK(test_get(store, "k", value, sizeof value) && strcmp(value, "other") == 0);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_leases_take_their_keys_with_them(void) {
    struct bp_sim *sim = bp_sim_new(4);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    char value[64];
    uint64_t deleted;
    CHECK(test_put_bytes(store, "k", "v", 1, 9, NULL, NULL) == BP_NOT_FOUND);
    CHECK(!test_get(store, "k", value, sizeof value));
    CHECK(test_grant(store, 9, 5000) == BP_OK);
    CHECK(test_grant(store, 9, 5000) == BP_ALREADY_EXISTS);
    CHECK(test_put_bytes(store, "k", "v", 1, 9, NULL, NULL) == BP_OK);
    CHECK(test_put_bytes(store, "l", "v", 1, 9, NULL, NULL) == BP_OK);
    CHECK(test_put(store, "l", "kept", NULL) == BP_OK); /* a put without the lease detaches */
    CHECK(test_revoke(store, 9, &deleted) == BP_OK);
    CHECK_EQ_U64(deleted, 1);
    CHECK(!test_get(store, "k", value, sizeof value));
    CHECK(test_get(store, "l", value, sizeof value));
    CHECK(test_revoke(store, 9, &deleted) == BP_NOT_FOUND);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_lease_expires_by_the_clock_and_a_restart_gives_it_its_full_time(void) {
    struct bp_sim *sim = bp_sim_new(5);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    char value[64];
    CHECK(test_grant(store, 3, 10000) == BP_OK);
    CHECK(test_put_bytes(store, "k", "v", 1, 3, NULL, NULL) == BP_OK);
    bp_sim_advance_ns(sim, 9000000000ull);
    bp_step_tick(store);
    bp_step_drive(store);
    CHECK(test_get(store, "k", value, sizeof value));
    bp_store_abandon(store);
    store = test_must_open(sim, &options);
    bp_sim_advance_ns(sim, 9000000000ull);
    bp_step_tick(store);
    bp_step_drive(store);
    CHECK(test_get(store, "k", value, sizeof value));
    bp_sim_advance_ns(sim, 1100000000ull);
    bp_step_tick(store);
    bp_step_drive(store);
    CHECK(!test_get(store, "k", value, sizeof value));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_large_values_are_whole_after_a_restart(void) {
    struct bp_sim *sim = bp_sim_new(6);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    uint8_t *value = malloc(BP_VALUE_MAX), *got = malloc(BP_VALUE_MAX);
    CHECK(value != NULL && got != NULL);
    for (uint32_t i = 0; i < BP_VALUE_MAX; i++) {
        value[i] = (uint8_t)(i * 2654435761u >> 24);
    }
    static const uint32_t sizes[] = {0, 1, 65536, 65537, 200000, BP_VALUE_MAX};
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            char key[16];
            (void)snprintf(key, sizeof key, "large%u", i);
            if (round == 0) {
                CHECK(test_put_bytes(store, key, value, sizes[i], 0, NULL, NULL) == BP_OK);
            }
            uint32_t size;
            struct bp_error err;
            CHECK_OK(bp_get(store, 'u', key, (uint32_t)strlen(key), got, BP_VALUE_MAX, &size, NULL,
                            &err),
                     &err);
            CHECK_EQ_U64(size, sizes[i]);
            CHECK(memcmp(got, value, size) == 0);
        }
        if (round == 0) {
            bp_store_abandon(store);
            store = test_must_open(sim, &options);
        }
    }
    free(value);
    free(got);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_second_owner_is_refused(void) {
    struct bp_sim *sim = bp_sim_new(7);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options), *second = NULL;
    struct bp_error err;
    CHECK(test_open(sim, &options, &second, &err) == BP_FAILED_PRECONDITION);
    CHECK(err.reason == BP_REASON_STORE_LOCKED);
    bp_store_abandon(store);
    store = test_must_open(sim, &options);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_store_that_lost_its_identity_is_refused_and_left_as_it_is(void) {
    struct bp_sim *sim = bp_sim_new(8);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_error err = {0};
    struct bp_io io;
    uint64_t size = 0;
    CHECK(test_put(store, "precious", "data", NULL) == BP_OK);
    bp_store_abandon(store);
    bp_sim_io(sim, &io);
    CHECK(io.rename(io.ctx, "store/STORE", "store/STORE.tmp") == 0);
    CHECK(test_open(sim, &options, &store, &err) == BP_DATA_LOSS);
    CHECK(err.reason == BP_REASON_STORE_CORRUPT);
    CHECK(bp_sim_file_size(sim, "store/00000001.log", &size) == 0 && size > 0);
    CHECK(io.rename(io.ctx, "store/STORE.tmp", "store/STORE") == 0);
    char value[64];
    store = test_must_open(sim, &options);
    CHECK(test_get(store, "precious", value, sizeof value) && strcmp(value, "data") == 0);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_log_without_its_first_entry_is_refused_and_left_as_it_is(void) {
    struct bp_sim *sim = bp_sim_new(9);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_error err = {0};
    struct bp_io io;
    uint64_t size = 0;
    bp_store_abandon(store);
    bp_sim_io(sim, &io);
    int fd = io.open(io.ctx, "store/00000001.log", BP_O_WRITE);
    CHECK(fd >= 0 && io.truncate(io.ctx, fd, BP_SEGMENT_HEADER) == 0);
    io.close(io.ctx, fd);
    CHECK(test_open(sim, &options, &store, &err) == BP_DATA_LOSS);
    CHECK(err.reason == BP_REASON_STORE_CORRUPT && strstr(err.message, "00000001.log") != NULL);
    CHECK(bp_sim_file_size(sim, "store/00000001.log", &size) == 0 && size == BP_SEGMENT_HEADER);
    CHECK(bp_sim_file_size(sim, "store/00000002.log", &size) < 0);
    bp_sim_free(sim);
}

/* ---- power cuts ------------------------------------------------------------------------------ */

#define STATES_MAX 512u

/* The state hash after each revision of a workload; what a recovered store must equal. */
struct history {
    uint64_t hash[STATES_MAX][2];
    uint64_t leases[STATES_MAX];
    uint64_t last;  /* newest revision submitted */
    uint64_t acked; /* newest revision acknowledged */
};

static void note_state(struct bp_store *store, struct history *history) {
    struct bp_status status;
    bp_get_status(store, &status);
    CHECK(status.revision < STATES_MAX);
    memcpy(history->hash[status.revision], status.state_hash, sizeof status.state_hash);
    history->leases[status.revision] = status.leases;
    history->acked = status.revision;
}

/* Step i of a fixed workload touching every kind of request; false once the disk is gone. */
static bool workload_step(struct bp_store *store, uint32_t i) {
    char key[32], value[200];
    struct bp_error err;
    (void)snprintf(key, sizeof key, "key-%u", i * 7 % 13);
    (void)snprintf(value, sizeof value, "value-%u-%.*s", i, (int)(i * 37 % 150),
                   "..............................................................................."
                   ".................................................................");
    switch (i % 10) {
    case 3:
        return test_delete(store, key, NULL) == BP_OK;
    case 5:
        return test_batch(store, "batch-", 3 + i % 4, value, NULL) == BP_OK;
    case 6: {
        int code = test_grant(store, 1 + i % 3, 60000);
        return code == BP_OK || code == BP_ALREADY_EXISTS;
    }
    case 7: {
        int code =
            test_put_bytes(store, key, value, (uint32_t)strlen(value), 1 + i % 3, NULL, NULL);
        return code == BP_OK || code == BP_NOT_FOUND;
    }
    case 8: {
        uint64_t deleted;
        int code = i % 20 == 8 ? test_revoke(store, 1 + i % 3, &deleted)
                               : test_delete_range(store, "batch-", "batch-000002", &deleted);
        return code == BP_OK || code == BP_NOT_FOUND;
    }
    case 9:
        if (i % 20 == 9) {
            struct bp_status status;
            bp_get_status(store, &status);
            int code = test_compact(store, status.revision > 6 ? status.revision - 5 : 1);
            return code == BP_OK && bp_step_checkpoint(store, 1, &err) == BP_OK;
        }
        bp_step_clean(store);
        bp_sim_advance_ns((struct bp_sim *)bp_disk_io(store->disk)->ctx, 150000000);
        bp_step_tick(store); /* an idle mark */
        bp_step_drive(store);
        return !atomic_load(&store->poisoned) &&
               test_put_bytes(store, key, value, 9, 0, key, NULL) != BP_UNAVAILABLE;
    default:
        return test_put(store, key, value, NULL) == BP_OK;
    }
}

static uint32_t run_workload(struct bp_store *store, uint32_t from, uint32_t to,
                             struct history *history) {
    uint32_t i = from;
    for (; i < to && workload_step(store, i); i++) {
        note_state(store, history);
    }
    return i;
}

static void check_prefix(struct bp_store *store, const struct history *reference, uint64_t acked,
                         uint64_t where) {
    struct bp_status status;
    bp_get_status(store, &status);
    if (status.revision < acked || status.revision >= STATES_MAX) {
        fprintf(stderr,
                "cut at %" PRIu64 ": revision %" PRIu64 " recovered, %" PRIu64
                " was acknowledged\n",
                where, status.revision, acked);
        exit(1);
    }
    if (memcmp(status.state_hash, reference->hash[status.revision], 16) != 0 ||
        status.leases != reference->leases[status.revision]) {
        fprintf(stderr,
                "cut at %" PRIu64 ": the state at revision %" PRIu64 " is not the one it was\n",
                where, status.revision);
        exit(1);
    }
    const char *broken = bp_index_check(store->index);
    if (broken != NULL) {
        fprintf(stderr, "cut at %" PRIu64 ": %s\n", where, broken);
        exit(1);
    }
}

#define WORKLOAD 60u

static void reference_run(struct history *reference, uint64_t *bytes) {
    struct bp_sim *sim = bp_sim_new(11);
    struct bp_options options = test_options();
    memset(reference, 0, sizeof *reference);
    struct bp_store *store = test_must_open(sim, &options);
    note_state(store, reference);
    CHECK_EQ_U64(run_workload(store, 0, WORKLOAD, reference), WORKLOAD);
    *bytes = bp_sim_bytes_written(sim);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* One run cut after `cut` bytes; `keep` of 1024 unsynced sectors survive. */
static void cut_and_recover(const struct history *reference, uint64_t cut, uint32_t keep) {
    struct bp_sim *sim = bp_sim_new(cut * 31 + keep);
    struct bp_options options = test_options();
    struct bp_store *store = NULL;
    struct bp_error err;
    struct history run;
    memset(&run, 0, sizeof run);
    bp_sim_cut_after_bytes(sim, cut);
    if (test_open(sim, &options, &store, &err) == BP_OK) {
        note_state(store, &run);
        run_workload(store, 0, WORKLOAD, &run);
        bp_store_abandon(store);
    }
    bp_sim_power_cut(sim, keep);
    store = test_must_open(sim, &options);
    check_prefix(store, reference, run.acked, cut);
    /* What is written after a recovery survives a second and a third crash. */
    for (uint32_t crash = 0; crash < 2; crash++) {
        char key[32];
        (void)snprintf(key, sizeof key, "after-%u", crash);
        CHECK(test_put(store, key, "survives", NULL) == BP_OK);
        bp_store_abandon(store);
        bp_sim_power_cut(sim, keep);
        store = test_must_open(sim, &options);
        for (uint32_t i = 0; i <= crash; i++) {
            char value[32];
            (void)snprintf(key, sizeof key, "after-%u", i);
            if (!test_get(store, key, value, sizeof value) || strcmp(value, "survives") != 0) {
                fprintf(stderr,
                        "cut at %" PRIu64
                        ", kept %u: a write after the recovery was lost in crash %u\n",
                        cut, keep, crash);
                exit(1);
            }
        }
    }
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_power_cut_at_every_byte_leaves_a_prefix_with_all_that_was_acknowledged(void) {
    static struct history reference;
    uint64_t bytes;
    reference_run(&reference, &bytes);
    const char *stride_text = getenv("BP_CUT_STRIDE");
    uint64_t stride = stride_text != NULL ? strtoull(stride_text, NULL, 10) : 97;
    CHECK(stride > 0);
    static const uint32_t keeps[] = {0, 512, 1024};
    for (uint64_t cut = 1; cut < bytes; cut += stride) {
        cut_and_recover(&reference, cut, keeps[cut % 3]);
    }
}

/*
 * The control: with a disk whose sync does nothing, the same check must see acknowledged writes go.
 */
static void test_the_power_cut_check_sees_a_lying_sync(void) {
    struct bp_options options = test_options();
    uint32_t lost = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct bp_sim *sim = bp_sim_new(seed);
        struct bp_store *store = test_must_open(sim, &options);
        bp_sim_set_sync_lies(sim, 1);
        struct history run;
        memset(&run, 0, sizeof run);
        run_workload(store, 0, 30, &run);
        bp_store_abandon(store);
        bp_sim_power_cut(sim, 0);
        struct bp_error err;
        struct bp_status status = {0};
        if (test_open(sim, &options, &store, &err) == BP_OK) {
            bp_get_status(store, &status);
            bp_store_abandon(store);
        }
        lost += status.revision < run.acked;
        bp_sim_free(sim);
    }
    CHECK_EQ_U64(lost, 20);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_a_value_put_is_read_back_and_deleted);
    RUN(test_compares_decide_the_branch);
    RUN(test_a_request_id_acts_once_also_after_a_restart);
    RUN(test_leases_take_their_keys_with_them);
    RUN(test_a_lease_expires_by_the_clock_and_a_restart_gives_it_its_full_time);
    RUN(test_large_values_are_whole_after_a_restart);
    RUN(test_a_second_owner_is_refused);
    RUN(test_a_store_that_lost_its_identity_is_refused_and_left_as_it_is);
    RUN(test_a_log_without_its_first_entry_is_refused_and_left_as_it_is);
    RUN(test_a_power_cut_at_every_byte_leaves_a_prefix_with_all_that_was_acknowledged);
    RUN(test_the_power_cut_check_sees_a_lying_sync);
    TESTS_END;
}

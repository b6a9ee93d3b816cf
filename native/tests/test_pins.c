/*
 * Pins: backups are bounded, and however many there are, checkpoints are made and the replies of
 * writes have their history.
 */
#include "wire_util.h"

struct backups {
    struct bp_backup *open[BP_PINS_READERS];
};

static void open_all(struct bp_store *store, struct backups *backups) {
    struct bp_error err = {0};
    uint64_t revision;
    for (uint32_t i = 0; i < BP_PINS_READERS; i++) {
        CHECK_OK(bp_backup_new(store, &backups->open[i], &revision, &err), &err);
    }
}

static void close_all(struct backups *backups) {
    for (uint32_t i = 0; i < BP_PINS_READERS; i++) {
        bp_backup_free(backups->open[i]);
    }
}

static void test_so_many_backups_at_a_time_and_no_more(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_error err = {0};
    struct backups backups;
    struct bp_backup *one_more;
    uint64_t revision;
    open_all(store, &backups);
    CHECK(bp_backup_new(store, &one_more, &revision, &err) == BP_RESOURCE_EXHAUSTED);
    CHECK_EQ_U64(err.reason, BP_REASON_QUEUE_FULL);
    bp_backup_free(backups.open[3]);
    CHECK_OK(bp_backup_new(store, &backups.open[3], &revision, &err), &err);
    close_all(&backups);
    CHECK_EQ_U64(bp_pins_min(store), UINT64_MAX);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_checkpoint_is_made_while_all_backups_are_open(void) {
    struct bp_sim *sim = bp_sim_new(2);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_error err = {0};
    struct backups backups;
    open_all(store, &backups);
    CHECK_OK(bp_step_checkpoint(store, 1, &err), &err);
    close_all(&backups);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* More writes than there are slots, and a compaction behind them in the same group. */
static void test_writes_have_the_history_of_their_replies_while_all_backups_are_open(void) {
    enum { N = 300 };
    struct bp_sim *sim = bp_sim_new(3);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_queue *queue = bp_queue_new(store);
    struct bp_error err = {0};
    struct backups backups;
    CHECK(test_put(store, "k", "before", NULL) == BP_OK);
    open_all(store, &backups);
    for (uint32_t i = 0; i < N; i++) {
        CHECK_OK(test_submit_put(store, queue, "k", "before", i, &err), &err);
    }
    CHECK_OK(bp_submit_compact(store, queue, 0, N, &err), &err);
    bp_step_drive(store);
    for (uint32_t i = 0; i < N; i++) {
        struct bp_completion done = test_take(queue);
        CHECK_OK(done.code, done.error);
        CHECK_EQ_U64(test_count_in(&done.reply, "before"), 1);
        bp_completion_free(&done);
    }
    close_all(&backups);
    CHECK_EQ_U64(bp_pins_min(store), UINT64_MAX);
    bp_queue_free(queue);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_write_joins_the_newest_pin_that_holds_what_it_needs(void) {
    struct bp_sim *sim = bp_sim_new(4);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_error err = {0};
    uint32_t pins[BP_PINS_WRITES], late[2], none;
    for (uint32_t i = 0; i < BP_PINS_WRITES; i++) {
        CHECK_OK(bp_pins_add(store, BP_PIN_WRITE, 100 + i, &pins[i], &err), &err);
    }
    CHECK_OK(bp_pins_add(store, BP_PIN_WRITE, 1000, &late[0], &err), &err);
    CHECK_OK(bp_pins_add(store, BP_PIN_WRITE, 105, &late[1], &err), &err);
    CHECK_EQ_U64(late[0], pins[BP_PINS_WRITES - 1]);
    CHECK_EQ_U64(late[1], pins[5]);
    CHECK(bp_pins_add(store, BP_PIN_WRITE, 99, &none, &err) == BP_RESOURCE_EXHAUSTED);
    for (uint32_t i = 0; i < BP_PINS_WRITES; i++) {
        CHECK_EQ_U64(bp_pins_min(store), i <= 5 ? 100 + i : 105);
        bp_pins_remove(store, pins[i]);
    }
    CHECK_EQ_U64(bp_pins_min(store), 105);
    bp_pins_remove(store, late[1]);
    CHECK_EQ_U64(bp_pins_min(store), 100 + BP_PINS_WRITES - 1);
    bp_pins_remove(store, late[0]);
    CHECK_EQ_U64(bp_pins_min(store), UINT64_MAX);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_so_many_backups_at_a_time_and_no_more);
    RUN(test_a_checkpoint_is_made_while_all_backups_are_open);
    RUN(test_writes_have_the_history_of_their_replies_while_all_backups_are_open);
    RUN(test_a_write_joins_the_newest_pin_that_holds_what_it_needs);
    TESTS_END;
}

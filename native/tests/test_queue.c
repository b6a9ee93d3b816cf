/*
 * What waits is bounded: requests that are open, answers nobody takes, replies a frame holds; and a
 * frame that was taken has a result for every op.
 */
#include "../src/ticket.h"
#include "wire_util.h"

enum { LARGE = 256 << 10 };

struct rig {
    struct bp_sim *sim;
    struct bp_store *store;
    struct bp_queue *queue;
};

static struct rig begin(struct bp_options options) {
    struct rig rig = {.sim = bp_sim_new(1)};
    rig.store = test_must_open(rig.sim, &options);
    rig.queue = bp_queue_new(rig.store);
    CHECK(rig.queue != NULL);
    return rig;
}

static void end(struct rig *rig) {
    bp_queue_free(rig->queue);
    CHECK_EQ_U64(rig->store->backlog->completions, 0);
    CHECK_EQ_U64(rig->store->backlog->bytes, 0);
    CHECK_EQ_U64(rig->store->driver.open, 0);
    bp_store_abandon(rig->store);
    bp_sim_free(rig->sim);
}

static int read_value(struct rig *rig, const char *key, struct bp_error *err) {
    return bp_submit_value(rig->store, rig->queue, 'u', key, (uint32_t)strlen(key), 0, 0,
                           UINT32_MAX, NULL, 0, 7, err);
}

static void drop_one(struct rig *rig, int code) {
    struct bp_completion done = test_take(rig->queue);
    CHECK_EQ_U64(done.code, code);
    bp_completion_free(&done);
}

static void put_large(struct rig *rig, const char *key) {
    char *value = malloc(LARGE);
    CHECK(value != NULL);
    memset(value, 'v', LARGE);
    CHECK(test_put_bytes(rig->store, key, value, LARGE, 0, NULL, NULL) == BP_OK);
    free(value);
}

static void test_an_answer_counts_until_it_is_taken(void) {
    struct bp_options options = test_options();
    options.queue_max = 4;
    struct rig rig = begin(options);
    struct bp_error err = {0};
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_OK(test_submit_put(rig.store, rig.queue, "k", "v", i, &err), &err);
    }
    bp_step_drive(rig.store);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_OK(read_value(&rig, "k", &err), &err);
    }
    CHECK_EQ_U64(rig.store->driver.open, 0); /* all are answered */
    for (uint32_t taken = 0; taken < 4; taken++) {
        CHECK(read_value(&rig, "k", &err) == BP_RESOURCE_EXHAUSTED);
        CHECK_EQ_U64(err.reason, BP_REASON_QUEUE_FULL);
        CHECK(test_submit_put(rig.store, rig.queue, "k", "v", 9, &err) == BP_RESOURCE_EXHAUSTED);
        CHECK_EQ_U64(err.reason, BP_REASON_QUEUE_FULL);
        drop_one(&rig, BP_OK);
        CHECK_OK(read_value(&rig, "k", &err), &err);
    }
    CHECK(test_put(rig.store, "k", "w", NULL) == BP_OK); /* takes its answer itself */
    end(&rig); /* what is dropped with its queue does not count any more */
}

static void test_every_queue_of_a_store_shares_the_bound(void) {
    struct bp_options options = test_options();
    options.queue_max = 1;
    struct rig rig = begin(options);
    struct bp_queue *other = bp_queue_new(rig.store);
    struct bp_error err = {0};
    CHECK_OK(test_submit_put(rig.store, other, "k", "v", 0, &err), &err);
    CHECK(test_submit_put(rig.store, rig.queue, "k", "v", 0, &err) == BP_RESOURCE_EXHAUSTED);
    bp_queue_free(other); /* its request is still open, and completes into nothing */
    CHECK(test_submit_put(rig.store, rig.queue, "k", "v", 0, &err) == BP_RESOURCE_EXHAUSTED);
    bp_step_drive(rig.store);
    CHECK_OK(test_submit_put(rig.store, rig.queue, "k", "v", 0, &err), &err);
    bp_step_drive(rig.store);
    end(&rig);
}

static void test_replies_nobody_takes_are_bounded_in_bytes(void) {
    struct bp_options options = test_options();
    options.queue_bytes_max = 4 * LARGE;
    struct rig rig = begin(options);
    struct bp_error err = {0};
    put_large(&rig, "k");
    uint32_t n = 0;
    while (read_value(&rig, "k", &err) == BP_OK) {
        CHECK(++n <= 4);
    }
    CHECK_EQ_U64(err.reason, BP_REASON_QUEUE_FULL);
    CHECK(n >= 3);
    CHECK(test_put(rig.store, "k2", "v", NULL) == BP_RESOURCE_EXHAUSTED);
    drop_one(&rig, BP_OK);
    CHECK_OK(read_value(&rig, "k", &err), &err);
    end(&rig);
}

/* All of them are let in before the first is answered. */
static void test_reads_beyond_the_bytes_that_may_wait_are_refused_one_by_one(void) {
    struct bp_options options = test_options();
    options.queue_bytes_max = 4 * LARGE;
    struct rig rig = begin(options);
    struct bp_error err = {0};
    struct bp_buffer frame = {0};
    put_large(&rig, "k");
    for (uint32_t i = 0; i < 12; i++) {
        test_frame_op(&frame, i, TEST_FRAME_GET, "k", NULL, false);
    }
    CHECK_OK(bp_submit_frame(rig.store, rig.queue, 'u', frame.data, frame.size, 0, &err), &err);
    bp_step_drive(rig.store);
    struct bp_completion done = test_take(rig.queue);
    CHECK_EQ_U64(done.code, BP_OK);
    CHECK_EQ_U64(test_count_in(&done.reply, "QUEUE_FULL"), 8);
    CHECK(done.reply.size < 5 * LARGE);
    bp_completion_free(&done);
    bp_buffer_free(&frame);
    end(&rig);
}

static void test_a_write_whose_reply_has_no_room_says_that_it_was_applied(void) {
    struct bp_options options = test_options();
    options.queue_bytes_max = 4 * LARGE;
    struct rig rig = begin(options);
    struct bp_error err = {0};
    char key[2] = "a", value[2];
    for (; key[0] < 'i'; key[0]++) {
        put_large(&rig, key);
    }
    for (key[0] = 'a'; key[0] < 'i'; key[0]++) {
        CHECK_OK(test_submit_put(rig.store, rig.queue, key, "2", 0, &err), &err);
    }
    bp_step_drive(rig.store);
    for (uint32_t i = 0; i < 8; i++) {
        struct bp_completion done = test_take(rig.queue);
        CHECK_EQ_U64(done.code, i < 4 ? BP_OK : BP_RESOURCE_EXHAUSTED);
        CHECK(i < 4 || done.error->reason == BP_REASON_REPLY_TOO_LARGE);
        bp_completion_free(&done);
    }
    for (key[0] = 'a'; key[0] < 'i'; key[0]++) {
        CHECK(test_get(rig.store, key, value, sizeof value) && value[0] == '2');
    }
    CHECK_EQ_U64(bp_pins_min(rig.store), UINT64_MAX);
    end(&rig);
}

/* The bound on all that waits is never met: the frame itself holds no more than it may answer. */
static void test_a_frame_holds_no_more_than_its_response_may(void) {
    struct bp_options options = test_options();
    options.reply_bytes_max = 4 * LARGE;
    options.queue_bytes_max = 6 * LARGE;
    struct rig rig = begin(options);
    struct bp_error err = {0};
    struct bp_buffer frame = {0};
    put_large(&rig, "k");
    for (uint32_t i = 0; i < 12; i++) {
        test_frame_op(&frame, i, TEST_FRAME_GET, "k", NULL, false);
    }
    CHECK_OK(bp_submit_frame(rig.store, rig.queue, 'u', frame.data, frame.size, 0, &err), &err);
    bp_step_drive(rig.store);
    struct bp_completion done = test_take(rig.queue);
    CHECK_EQ_U64(done.code, BP_OK);
    CHECK_EQ_U64(test_count_in(&done.reply, "QUEUE_FULL"), 0);
    CHECK_EQ_U64(test_count_in(&done.reply, "REPLY_TOO_LARGE"), 9);
    CHECK(done.reply.size < 4 * LARGE + 4096);
    bp_completion_free(&done);
    bp_buffer_free(&frame);
    end(&rig);
}

struct seen {
    struct bp_store *store;
    uint64_t open;
};

static void look(void *arg, int code) {
    struct seen *seen = arg;
    CHECK_EQ_U64(code, BP_NOT_FOUND);
    pthread_mutex_lock(&seen->store->driver.mutex);
    seen->open = seen->store->driver.open;
    pthread_mutex_unlock(&seen->store->driver.mutex);
}

static void test_a_read_in_its_place_among_writes_is_open_until_a_reader_has_answered_it(void) {
    struct rig rig = begin(test_options());
    struct seen seen = {.store = rig.store};
    struct bp_error err = {0};
    struct bp_ticket *ticket = bp_ticket_new(BP_TICKET_VALUE);
    uint8_t *key = malloc(2);
    CHECK(ticket != NULL && key != NULL);
    memcpy(key, "uk", 2);
    ticket->value = (struct bp_value_want){.key = {.data = key, .size = 2}, .prefix = key};
    ticket->done = look;
    ticket->done_arg = &seen;
    CHECK_OK(bp_driver_submit(rig.store, ticket, &err), &err);
    bp_step_drive(rig.store);
    CHECK_EQ_U64(seen.open, 1);
    end(&rig);
}

static void test_a_closed_store_answers_every_op_of_a_frame(void) {
    struct rig rig = begin(test_options());
    struct bp_error err = {0};
    struct bp_buffer frame = {0};
    test_frame_op(&frame, 1, TEST_FRAME_PUT, "k", "v", false);
    test_frame_op(&frame, 2, TEST_FRAME_GET, "k", NULL, false);
    test_frame_op(&frame, 3, TEST_FRAME_PUT, "", "v", false); /* malformed alone */
    bp_driver_stop(rig.store);
    CHECK_OK(bp_submit_frame(rig.store, rig.queue, 'u', frame.data, frame.size, 5, &err), &err);
    struct bp_completion done = test_take(rig.queue);
    CHECK(done.cookie == 5 && done.code == BP_OK);
    CHECK_EQ_U64(test_count_in(&done.reply, "STORE_CLOSED"), 2);
    CHECK_EQ_U64(test_count_in(&done.reply, "KEY_EMPTY"), 1);
    bp_completion_free(&done);
    bp_buffer_free(&frame);
    end(&rig);
}

static void test_a_failed_log_answers_every_op_of_a_frame(void) {
    struct rig rig = begin(test_options());
    struct bp_error err = {0};
    struct bp_buffer frame = {0};
    CHECK(bp_disk_arm(rig.store->disk, BP_SITE_LOG_SYNC, BP_FAULT_EIO, 1, 0, 0) == 0);
    test_frame_op(&frame, 1, TEST_FRAME_PUT, "k", "v", false);
    test_frame_op(&frame, 2, TEST_FRAME_GET, "k", NULL, false);
    for (uint32_t i = 0; i < 2; i++) { /* in the group that fails, and in one after it */
        CHECK_OK(bp_submit_frame(rig.store, rig.queue, 'u', frame.data, frame.size, 5, &err), &err);
        bp_step_drive(rig.store);
        struct bp_completion done = test_take(rig.queue);
        CHECK_EQ_U64(done.code, BP_OK);
        CHECK_EQ_U64(test_count_in(&done.reply, "LOG_POISONED"), 2);
        bp_completion_free(&done);
    }
    bp_buffer_free(&frame);
    end(&rig);
}

static void test_a_frame_is_refused_while_the_queue_is_full_and_answered_if_it_never_fits(void) {
    struct bp_options options = test_options();
    options.queue_max = 3;
    struct rig rig = begin(options);
    struct bp_error err = {0};
    struct bp_buffer frame = {0};
    test_frame_op(&frame, 1, TEST_FRAME_PUT, "k", "v", false);
    test_frame_op(&frame, 2, TEST_FRAME_PUT, "k", "v", false);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_OK(test_submit_put(rig.store, rig.queue, "k", "v", 0, &err), &err);
    }
    CHECK(bp_submit_frame(rig.store, rig.queue, 'u', frame.data, frame.size, 5, &err) ==
          BP_RESOURCE_EXHAUSTED);
    CHECK_EQ_U64(err.reason, BP_REASON_QUEUE_FULL);
    bp_step_drive(rig.store);
    drop_one(&rig, BP_OK);
    drop_one(&rig, BP_OK);
    CHECK_OK(bp_submit_frame(rig.store, rig.queue, 'u', frame.data, frame.size, 5, &err), &err);
    bp_step_drive(rig.store);
    drop_one(&rig, BP_OK);
    test_frame_op(&frame, 3, TEST_FRAME_PUT, "k", "v", false);
    test_frame_op(&frame, 4, TEST_FRAME_PUT, "k", "v", false);
    CHECK_OK(bp_submit_frame(rig.store, rig.queue, 'u', frame.data, frame.size, 6, &err), &err);
    struct bp_completion done = test_take(rig.queue);
    CHECK_EQ_U64(test_count_in(&done.reply, "QUEUE_FULL"), 4);
    bp_completion_free(&done);
    bp_buffer_free(&frame);
    end(&rig);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_an_answer_counts_until_it_is_taken);
    RUN(test_every_queue_of_a_store_shares_the_bound);
    RUN(test_replies_nobody_takes_are_bounded_in_bytes);
    RUN(test_reads_beyond_the_bytes_that_may_wait_are_refused_one_by_one);
    RUN(test_a_write_whose_reply_has_no_room_says_that_it_was_applied);
    RUN(test_a_frame_holds_no_more_than_its_response_may);
    RUN(test_a_read_in_its_place_among_writes_is_open_until_a_reader_has_answered_it);
    RUN(test_a_closed_store_answers_every_op_of_a_frame);
    RUN(test_a_failed_log_answers_every_op_of_a_frame);
    RUN(test_a_frame_is_refused_while_the_queue_is_full_and_answered_if_it_never_fits);
    TESTS_END;
}

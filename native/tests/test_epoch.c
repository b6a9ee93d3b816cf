/*
 * Read sections: what a reader may still use is not taken away, and nobody waits for a reader who
 * came later.
 */
#include "../src/epoch.h"

#include <pthread.h>
#include <sched.h>

#include "check.h"

static void without_readers_a_ticket_passes_at_once(void) {
    struct bp_epoch epoch = {0};
    for (int i = 0; i < 10; i++) {
        CHECK(bp_epoch_passed(&epoch, bp_epoch_ticket(&epoch)));
    }
}

static void a_ticket_waits_for_every_reader_that_came_before_it(void) {
    for (int lead = 0; lead < 4; lead++) { /* with either counter current */
        struct bp_epoch epoch = {0};
        for (int i = 0; i < lead; i++) {
            CHECK(bp_epoch_passed(&epoch, bp_epoch_ticket(&epoch) - 1));
        }
        uint32_t first = bp_epoch_enter(&epoch), second = bp_epoch_enter(&epoch);
        uint64_t ticket = bp_epoch_ticket(&epoch);
        CHECK(!bp_epoch_passed(&epoch, ticket));
        uint32_t third = bp_epoch_enter(&epoch);
        bp_epoch_leave(&epoch, first);
        CHECK(!bp_epoch_passed(&epoch, ticket));
        bp_epoch_leave(&epoch, second);
        CHECK(bp_epoch_passed(&epoch, ticket)); /* the third came after the keeper had moved on */
        bp_epoch_leave(&epoch, third);
    }
}

static void later_readers_do_not_hold_an_earlier_ticket_up(void) {
    struct bp_epoch epoch = {0};
    uint32_t held = bp_epoch_enter(&epoch);
    uint64_t ticket = bp_epoch_ticket(&epoch);
    CHECK(!bp_epoch_passed(&epoch, ticket));
    for (int i = 0; i < 5; i++) {
        uint32_t next = bp_epoch_enter(&epoch); /* always one inside */
        bp_epoch_leave(&epoch, held);
        held = next;
        (void)bp_epoch_passed(&epoch, ticket);
    }
    CHECK(bp_epoch_passed(&epoch, ticket));
    bp_epoch_leave(&epoch, held);
}

static void a_reader_in_the_older_counter_is_waited_for_by_both_tickets(void) {
    struct bp_epoch epoch = {0};
    uint32_t old = bp_epoch_enter(&epoch);
    uint64_t first = bp_epoch_ticket(&epoch);
    CHECK(!bp_epoch_passed(&epoch, first));
    uint64_t second = bp_epoch_ticket(&epoch);
    CHECK(!bp_epoch_passed(&epoch, second));
    bp_epoch_leave(&epoch, old);
    CHECK(bp_epoch_passed(&epoch, second));
    CHECK(bp_epoch_passed(&epoch, first));
}

/*
 * Objects that readers reach through a pointer, and the keeper takes away: the value behind it is
 * gone once it is "freed".
 */
struct shared {
    struct bp_epoch epoch;
    _Atomic(uint64_t *) current;
    atomic_bool done;
    atomic_uint reads;
};

static void *read_all_the_time(void *arg) {
    struct shared *shared = arg;
    while (!atomic_load(&shared->done)) {
        uint32_t token = bp_epoch_enter(&shared->epoch);
        const uint64_t *object = atomic_load(&shared->current);
        for (int i = 0; i < 20; i++) {
            CHECK_EQ_U64(*object, 0x600d); /* a plain read: the thread sanitizer watches it */
        }
        bp_epoch_leave(&shared->epoch, token);
        atomic_fetch_add(&shared->reads, 1);
    }
    return NULL;
}

static void nothing_is_freed_under_a_reader(void) {
    enum { THREADS = 3, ROUNDS = 2000 };
    struct shared shared = {0};
    uint64_t *object = malloc(sizeof *object);
    CHECK(object != NULL);
    *object = 0x600d;
    atomic_store(&shared.current, object);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, read_all_the_time, &shared) == 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t *next = malloc(sizeof *next);
        CHECK(next != NULL);
        *next = 0x600d;
        uint64_t *old = atomic_exchange(&shared.current, next);
        uint64_t ticket = bp_epoch_ticket(&shared.epoch);
        while (!bp_epoch_passed(&shared.epoch, ticket)) {
            sched_yield();
        }
        *old = 0xbad;
        free(old);
    }
    while (atomic_load(&shared.reads) < 100) {
        sched_yield();
    }
    atomic_store(&shared.done, true);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    free(atomic_load(&shared.current));
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(without_readers_a_ticket_passes_at_once);
    RUN(a_ticket_waits_for_every_reader_that_came_before_it);
    RUN(later_readers_do_not_hold_an_earlier_ticket_up);
    RUN(a_reader_in_the_older_counter_is_waited_for_by_both_tickets);
    RUN(nothing_is_freed_under_a_reader);
    TESTS_END;
}

/*
 * The guard: who gets in, in which order refusals come, what is counted, and tokens replaced under
 * load.
 */
#include "guard.h"

#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

enum { PUT = 2, GET = 1, HEALTH = 9 };

static struct bp_guard *open_guard(void) {
    struct bp_error err;
    struct bp_guard *guard = bp_guard_new();
    CHECK(guard != NULL);
    CHECK_OK(bp_guard_set_method(guard, GET, "/kv/Get", BP_SCOPE(BP_SERVICE_KV, BP_ACCESS_READ),
                                 100, &err),
             &err);
    CHECK_OK(bp_guard_set_method(guard, PUT, "/kv/Put", BP_SCOPE(BP_SERVICE_KV, BP_ACCESS_WRITE),
                                 100, &err),
             &err);
    CHECK_OK(bp_guard_set_method(guard, HEALTH, "/health/Check", BP_SCOPE_NONE, 0, &err), &err);
    return guard;
}

static struct bp_guard_token token(uint8_t seed, uint32_t scopes) {
    struct bp_guard_token t = {.scopes = scopes};
    memset(t.hash, seed, sizeof t.hash);
    snprintf(t.name, sizeof t.name, "token-%u", seed);
    return t;
}

static void set_tokens(struct bp_guard *guard, const struct bp_guard_token *tokens, uint32_t n) {
    struct bp_error err;
    CHECK_OK(bp_guard_set_tokens(guard, tokens, n, &err), &err);
}

static int enter(struct bp_guard *guard, uint32_t method, const struct bp_guard_token *t,
                 int *reason) {
    struct bp_error err = {0};
    int code = bp_guard_enter(guard, method, t != NULL ? t->hash : NULL, 10, 1000, 2000, &err);
    *reason = code == BP_OK ? BP_REASON_NONE : err.reason;
    if (code == BP_OK) {
        bp_guard_exit(guard, method, BP_OK, 1);
    }
    return code;
}

static void expect(struct bp_guard *guard, uint32_t method, const struct bp_guard_token *t,
                   int code, int reason) {
    int got_reason, got = enter(guard, method, t, &got_reason);
    if (got != code || got_reason != reason) {
        fprintf(stderr, "method %u: %d %s\n", method, got, bp_reason_name(got_reason));
        CHECK(got == code && got_reason == reason);
    }
}

static void test_without_tokens_everyone_gets_in(void) {
    struct bp_guard *guard = open_guard();
    struct bp_guard_token stranger = token(9, 0);
    expect(guard, PUT, NULL, BP_OK, BP_REASON_NONE);
    expect(guard, PUT, &stranger, BP_OK, BP_REASON_NONE);
    bp_guard_free(guard);
}

static void test_a_token_opens_what_its_scopes_say_and_nothing_else(void) {
    struct bp_guard *guard = open_guard();
    struct bp_guard_token tokens[] = {
        token(1, BP_SCOPE(BP_SERVICE_KV, BP_ACCESS_READ)),
        token(2, BP_SCOPE(BP_SERVICE_KV, BP_ACCESS_WRITE)),
        token(3, BP_SCOPES_ALL & ~BP_SCOPE(BP_SERVICE_KV, BP_ACCESS_READ)), token(4, 0)};
    struct bp_guard_token stranger = tokens[0];
    stranger.hash[31] ^= 1; /* the same slot, one bit apart at the far end */
    set_tokens(guard, tokens, 4);
    expect(guard, GET, &tokens[0], BP_OK, BP_REASON_NONE);
    expect(guard, PUT, &tokens[0], BP_PERMISSION_DENIED, BP_REASON_SCOPE_MISSING);
    expect(guard, PUT, &tokens[1], BP_OK, BP_REASON_NONE);
    expect(guard, GET, &tokens[1], BP_PERMISSION_DENIED, BP_REASON_SCOPE_MISSING);
    expect(guard, GET, &tokens[2], BP_PERMISSION_DENIED, BP_REASON_SCOPE_MISSING);
    expect(guard, GET, &tokens[3], BP_PERMISSION_DENIED, BP_REASON_SCOPE_MISSING);
    expect(guard, GET, &stranger, BP_UNAUTHENTICATED, BP_REASON_TOKEN_UNKNOWN);
    expect(guard, GET, NULL, BP_UNAUTHENTICATED, BP_REASON_TOKEN_MISSING);
    expect(guard, HEALTH, NULL, BP_OK, BP_REASON_NONE);
    bp_guard_free(guard);
}

static void test_every_bit_of_a_hash_counts(void) {
    struct bp_guard *guard = open_guard();
    struct bp_guard_token known = token(7, BP_SCOPES_ALL);
    set_tokens(guard, &known, 1);
    for (int bit = 0; bit < 256; bit++) {
        struct bp_guard_token other = known;
        other.hash[bit / 8] ^= (uint8_t)(1 << bit % 8);
        expect(guard, GET, &other, BP_UNAUTHENTICATED, BP_REASON_TOKEN_UNKNOWN);
    }
    expect(guard, GET, &known, BP_OK, BP_REASON_NONE);
    bp_guard_free(guard);
}

static void test_thousands_of_tokens_that_share_a_slot_are_told_apart(void) {
    enum { N = 3000 };
    struct bp_guard *guard = open_guard();
    struct bp_guard_token *tokens = calloc(N, sizeof *tokens);
    CHECK(tokens != NULL);
    for (uint32_t i = 0; i < N; i++) {
        tokens[i] = token(0, i % 2 == 0 ? BP_SCOPE(BP_SERVICE_KV, BP_ACCESS_READ) : 0);
        memcpy(tokens[i].hash + 28, &i, 4);
    }
    set_tokens(guard, tokens, N);
    for (uint32_t i = 0; i < N; i += 97) {
        expect(guard, GET, &tokens[i], i % 2 == 0 ? BP_OK : BP_PERMISSION_DENIED,
               i % 2 == 0 ? BP_REASON_NONE : BP_REASON_SCOPE_MISSING);
    }
    free(tokens);
    bp_guard_free(guard);
}

static void test_bad_token_lists_leave_the_old_one(void) {
    struct bp_guard *guard = open_guard();
    struct bp_guard_token good = token(1, BP_SCOPES_ALL), twice[2] = {token(2, 1), token(2, 2)};
    struct bp_guard_token scope = token(3, BP_SCOPES_ALL + 1), name = token(4, 1);
    struct bp_error err;
    memset(name.name, 'x', sizeof name.name);
    set_tokens(guard, &good, 1);
    CHECK(bp_guard_set_tokens(guard, twice, 2, &err) == BP_INVALID_ARGUMENT);
    CHECK(bp_guard_set_tokens(guard, &scope, 1, &err) == BP_INVALID_ARGUMENT);
    CHECK(bp_guard_set_tokens(guard, &name, 1, &err) == BP_INVALID_ARGUMENT);
    CHECK(bp_guard_set_tokens(guard, &good, BP_GUARD_TOKENS_MAX + 1, &err) == BP_INVALID_ARGUMENT);
    expect(guard, GET, &good, BP_OK, BP_REASON_NONE);
    expect(guard, GET, &twice[0], BP_UNAUTHENTICATED, BP_REASON_TOKEN_UNKNOWN);
    bp_guard_free(guard);
}

static void test_a_token_is_known_by_its_name(void) {
    struct bp_guard *guard = open_guard();
    struct bp_guard_token known = token(5, 6), stranger = token(6, 6);
    char name[BP_GUARD_NAME_MAX];
    uint32_t scopes;
    CHECK(!bp_guard_identify(guard, known.hash, name, &scopes));
    set_tokens(guard, &known, 1);
    CHECK(bp_guard_identify(guard, known.hash, name, &scopes));
    CHECK(strcmp(name, "token-5") == 0 && scopes == 6);
    CHECK(!bp_guard_identify(guard, stranger.hash, name, &scopes));
    CHECK(!bp_guard_identify(guard, NULL, name, &scopes));
    bp_guard_free(guard);
}

static void test_methods_nobody_made_known_are_closed(void) {
    struct bp_guard *guard = open_guard();
    struct bp_guard_stats stats;
    struct bp_error err;
    expect(guard, 3, NULL, BP_PERMISSION_DENIED, BP_REASON_SCOPE_MISSING);
    expect(guard, BP_GUARD_METHODS_MAX, NULL, BP_PERMISSION_DENIED, BP_REASON_SCOPE_MISSING);
    CHECK(!bp_guard_snapshot(guard, 3, &stats));
    CHECK(!bp_guard_snapshot(guard, BP_GUARD_METHODS_MAX, &stats));
    CHECK(bp_guard_set_method(guard, BP_GUARD_METHODS_MAX, "m", 1, 0, &err) == BP_INVALID_ARGUMENT);
    CHECK(bp_guard_set_method(guard, 3, "", 1, 0, &err) == BP_INVALID_ARGUMENT);
    CHECK(bp_guard_set_method(guard, 3, "m", 3, 0, &err) == BP_INVALID_ARGUMENT); /* two scopes */
    CHECK(bp_guard_set_method(guard, GET, "another", 1, 0, &err) == BP_INVALID_ARGUMENT);
    bp_guard_free(guard);
}

static void test_deadlines_and_sizes_are_checked_after_the_token(void) {
    struct bp_guard *guard = open_guard();
    struct bp_guard_token known = token(1, BP_SCOPES_ALL);
    struct bp_error err;
    const uint8_t *hash = known.hash;
    set_tokens(guard, &known, 1);
    CHECK(bp_guard_enter(guard, GET, NULL, 101, 5, 5, &err) == BP_UNAUTHENTICATED);
    CHECK(bp_guard_enter(guard, GET, hash, 101, 5, 5, &err) == BP_DEADLINE_EXCEEDED);
    CHECK(err.reason == BP_REASON_DEADLINE_PASSED);
    CHECK(bp_guard_enter(guard, GET, hash, 101, 4, 5, &err) == BP_INVALID_ARGUMENT);
    CHECK(err.reason == BP_REASON_REQUEST_TOO_LARGE);
    CHECK(bp_guard_enter(guard, GET, hash, 100, 4, 5, &err) == BP_OK);
    CHECK(bp_guard_enter(guard, GET, hash, 100, UINT64_MAX, 0, &err) == BP_OK);  /* no deadline */
    CHECK(bp_guard_enter(guard, HEALTH, hash, UINT64_MAX, 4, 5, &err) == BP_OK); /* no limit */
    bp_guard_free(guard);
}

static void test_counters_tell_what_happened(void) {
    struct bp_guard *guard = open_guard();
    struct bp_guard_token known = token(1, BP_SCOPES_ALL);
    struct bp_guard_stats stats;
    struct bp_error err;
    set_tokens(guard, &known, 1);
    for (int i = 0; i < 3; i++) {
        CHECK(bp_guard_enter(guard, GET, known.hash, 7, 1, 0, &err) == BP_OK);
    }
    CHECK(bp_guard_enter(guard, GET, NULL, 7, 1, 0, &err) == BP_UNAUTHENTICATED);
    bp_guard_exit(guard, GET, BP_OK, 50000);
    bp_guard_exit(guard, GET, 99, 50001);
    CHECK(bp_guard_snapshot(guard, GET, &stats));
    CHECK(strcmp(stats.name, "/kv/Get") == 0 && stats.in_flight == 1 && stats.denied == 1);
    CHECK(stats.codes[BP_OK] == 1 && stats.codes[BP_INTERNAL] == 1);
    CHECK(stats.codes[BP_UNAUTHENTICATED] == 1);
    CHECK(stats.latency_sum_ns == 100001);
    CHECK(stats.latency[0] == 1 && stats.latency[1] == 1); /* a bound belongs to its bucket */
    bp_guard_exit(guard, GET, BP_OK, UINT64_MAX);
    CHECK(bp_guard_snapshot(guard, GET, &stats));
    CHECK(stats.latency[BP_GUARD_BUCKETS - 1] == 1 && stats.in_flight == 0);
    for (uint32_t i = 1; i < BP_GUARD_BUCKETS; i++) {
        CHECK(bp_guard_bucket_bound(i) > bp_guard_bucket_bound(i - 1));
    }
    CHECK(bp_guard_bucket_bound(BP_GUARD_BUCKETS - 1) == UINT64_MAX);
    bp_guard_free(guard);
}

/* ---- threads ---- */

enum { CALLERS = 3, CALLS = 20000 };

struct shared {
    struct bp_guard *guard;
    struct bp_guard_token always, sometimes;
    atomic_bool done;
    _Atomic uint64_t in;
};

static void *call(void *arg) {
    struct shared *s = arg;
    for (int i = 0; i < CALLS; i++) {
        int reason;
        CHECK(enter(s->guard, GET, &s->always, &reason) == BP_OK); /* in every table */
        if (enter(s->guard, GET, &s->sometimes, &reason) == BP_OK) {
            atomic_fetch_add(&s->in, 1);
        } else {
            CHECK(reason == BP_REASON_TOKEN_UNKNOWN);
        }
    }
    return NULL;
}

static void *reload(void *arg) {
    struct shared *s = arg;
    struct bp_guard_token both[] = {s->always, s->sometimes};
    for (uint32_t i = 0; !atomic_load(&s->done); i++) {
        struct bp_guard_stats stats;
        set_tokens(s->guard, both, 1 + i % 2);
        CHECK(bp_guard_snapshot(s->guard, GET, &stats));
    }
    return NULL;
}

static void test_tokens_are_replaced_while_calls_run(void) {
    struct shared s = {.guard = open_guard(),
                       .always = token(1, BP_SCOPES_ALL),
                       .sometimes = token(2, BP_SCOPES_ALL)};
    pthread_t callers[CALLERS], reloader;
    struct bp_guard_stats stats;
    set_tokens(s.guard, &s.always, 1);
    CHECK(pthread_create(&reloader, NULL, reload, &s) == 0);
    for (int i = 0; i < CALLERS; i++) {
        CHECK(pthread_create(&callers[i], NULL, call, &s) == 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        CHECK(pthread_join(callers[i], NULL) == 0);
    }
    atomic_store(&s.done, true);
    CHECK(pthread_join(reloader, NULL) == 0);
    CHECK(bp_guard_snapshot(s.guard, GET, &stats));
    uint64_t in = atomic_load(&s.in), all = (uint64_t)CALLERS * CALLS;
    CHECK_EQ_U64(stats.codes[BP_OK], all + in);
    CHECK_EQ_U64(stats.denied, all - in);
    CHECK_EQ_U64(stats.in_flight, 0);
    bp_guard_free(s.guard);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_without_tokens_everyone_gets_in);
    RUN(test_a_token_opens_what_its_scopes_say_and_nothing_else);
    RUN(test_every_bit_of_a_hash_counts);
    RUN(test_thousands_of_tokens_that_share_a_slot_are_told_apart);
    RUN(test_bad_token_lists_leave_the_old_one);
    RUN(test_a_token_is_known_by_its_name);
    RUN(test_methods_nobody_made_known_are_closed);
    RUN(test_deadlines_and_sizes_are_checked_after_the_token);
    RUN(test_counters_tell_what_happened);
    RUN(test_tokens_are_replaced_while_calls_run);
    TESTS_END;
}

/*
 * A snapshot between two stores that are in use: writers, readers, checkpoints and cleaning on both
 * sides, each by its own threads.
 */
#include <pthread.h>
#include <sched.h>

#include "install_util.h"

struct user {
    struct bp_store *store;
    atomic_bool stop;
    pthread_t thread;
    _Atomic uint64_t writes;
};

/* Overwrites, deletes, compacts and reads until it is told to stop, or the store takes no more. */
static void *use(void *arg) {
    struct user *user = arg;
    uint64_t seed = 1;
    char value[2000];
    memset(value, 'v', sizeof value);
    for (uint64_t i = 0; !atomic_load(&user->stop); i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "key/%llu", (unsigned long long)test_random(&seed) % 200);
        int code = i % 7 == 0
                       ? test_delete(user->store, key, NULL)
                       : test_put_bytes(user->store, key, value, sizeof value, 0, NULL, NULL);
        if (code == BP_OK && i % 200 == 0) {
            code = test_compact(user->store, 0);
        }
        if (code != BP_OK) {
            break;
        }
        atomic_fetch_add(&user->writes, 1);
        struct bp_error err;
        uint32_t size;
        (void)bp_get(user->store, BP_KEYSPACE_USER, key, (uint32_t)strlen(key), value, sizeof value,
                     &size, NULL, &err);
    }
    return NULL;
}

static void begin_use(struct user *user, struct bp_store *store) {
    user->store = store;
    atomic_init(&user->stop, false);
    CHECK(pthread_create(&user->thread, NULL, use, user) == 0);
}

/* Until it has written `n` more. */
static void let_write(struct user *user, uint64_t n) {
    uint64_t until = atomic_load(&user->writes) + n;
    while (atomic_load(&user->writes) < until) {
        (void)sched_yield();
    }
}

static void end_use(struct user *user) {
    atomic_store(&user->stop, true);
    pthread_join(user->thread, NULL);
}

/* A manifest and its values, with writes in between on both sides. */
static void transfer(struct bp_install *install, struct user *from, struct user *to,
                     struct bp_error *err) {
    struct bp_manifest *manifest;
    uint64_t index, term, n;
    static uint8_t piece[3000];
    let_write(from, 20);
    CHECK_OK(bp_manifest_new(from->store, &manifest, &index, &term, err), err);
    do {
        CHECK_OK(bp_manifest_next(manifest, piece, sizeof piece, &n, err), err);
        CHECK_OK(bp_install_manifest(install, piece, n, err), err);
    } while (n > 0);
    let_write(from, 20);
    let_write(to, 20);
    CHECK_OK(install_values(install, from->store, UINT32_MAX, err), err);
    bp_manifest_free(manifest);
}

static void test_two_stores_in_use(void) {
    struct bp_options options = test_options();
    options.manual = 0;
    options.checkpoint_bytes = 1u << 20;
    options.scrub_bytes_per_s = 1u << 30;
    struct bp_sim *from_sim = bp_sim_new(1), *to_sim = bp_sim_new(2);
    struct bp_store *from = test_must_open(from_sim, &options),
                    *to = test_must_open(to_sim, &options);
    install_fill(from, 1, 300);
    install_fill(to, 2, 300);
    struct user users[2] = {0};
    begin_use(&users[0], from);
    begin_use(&users[1], to);
    struct bp_install *install;
    struct bp_install_state state;
    struct bp_error err = {0};
    CHECK_OK(bp_install_new(to, &install, &err), &err);
    for (uint32_t round = 0; round < 4; round++) {
        CHECK_OK(bp_install_restart(install, &err), &err);
        transfer(install, &users[0], &users[1], &err);
    }
    CHECK_OK(bp_install_finish(install, 1000, 0, &err), &err);
    bp_install_look(install, &state);
    end_use(&users[0]);
    end_use(&users[1]);
    bp_install_free(install);
    CHECK_OK(bp_close(to, &err), &err);
    options.manual = 1; /* what looks at it all has it to itself */
    to = test_must_open(to_sim, &options);
    /* The hash was checked when the checkpoint was loaded; every value is read here. */
    struct bp_buffer all = state_of(to);
    CHECK_EQ_U64(to->next_revision - 1, state.revision);
    bp_buffer_free(&all);
    CHECK_OK(bp_close(to, &err), &err);
    CHECK_OK(bp_close(from, &err), &err);
    bp_sim_free(from_sim);
    bp_sim_free(to_sim);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_two_stores_in_use);
    TESTS_END;
}

/*
 * One applier, one cleaner and readers on one index at once: meant for ThreadSanitizer, and right
 * without it.
 *
 *   applier   put, delete in revisions of a few effects -> publish; trims what no reader pins
 *   readers   pin the published revision, then get, scan both ways, read history: what is seen at
 *             it must not change
 *   cleaner   relocates whatever it finds
 *
 * The value of key k at revision r has size f(k, r) and crc g(k, r): whoever sees anything else saw
 * a torn or foreign version.
 *
 * Revisions are published and pinned as the store does. Threads end after a number of rounds, not
 * after a time.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "index_internal.h"
#include "index_model.h"

enum { READERS = 3, KEYS = 1000, REVISIONS = 20000, REVISIONS_MAX = 300000, READER_ROUNDS = 400 };

struct shared {
    struct bp_index *index;
    _Atomic uint64_t published;
    _Atomic uint64_t pins[READERS]; /* UINT64_MAX: none */
    pthread_mutex_t pinning;        /* pin and choosing what to trim exclude each other */
    _Atomic int
        reading; /* readers that have rounds left: the applier goes on while there are some */
    _Atomic bool done;
};

static uint64_t mix(struct bp_slice key, uint64_t revision) {
    uint64_t h = revision * 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < key.size; i++) {
        h = (h ^ key.data[i]) * 0x100000001b3u;
    }
    return h ^ (h >> 29);
}

static void check_value(struct bp_slice key, const struct bp_version *version) {
    uint64_t h = mix(key, version->revision);
    CHECK_EQ_U64(version->value.size, (uint32_t)h & 0xffff);
    CHECK_EQ_U64(version->value.crc, (uint32_t)(h >> 32));
    CHECK(version->value.at.segment >= 1 && version->version >= 1);
    CHECK(version->create_revision <= version->revision && version->lease == mix(key, 1) % 50);
}

static struct bp_slice key_number(uint64_t n, uint8_t *buf) {
    return bp_slice(buf, (size_t)sprintf((char *)buf, "u%s/%05u", n % 3 == 0 ? "alpha" : "beta",
                                         (unsigned)(n * 7 % KEYS)));
}

/* ---- the applier ----------------------------------------------------------------------------- */

static void apply_revision(struct shared *shared, struct random *random, uint64_t revision) {
    bool used[KEYS] = {false};
    /*
     * The set of keys waxes and wanes to almost nothing, so that leaves split and join and the root
     * grows and goes.
     */
    uint64_t delete_share = revision / 1500 % 2 == 0 ? 10 : 100;
    for (uint64_t n = 1 + random_below(random, 6); n > 0; n--) {
        uint8_t buf[32];
        uint64_t number = random_below(random, KEYS);
        struct bp_slice key = key_number(number, buf);
        struct bp_error err;
        if (used[number]) {
            continue;
        }
        used[number] = true;
        if (random_below(random, 101) < delete_share) {
            CHECK(bp_index_delete(shared->index, key, revision, NULL) >= 0);
            continue;
        }
        uint64_t h = mix(key, revision);
        struct bp_value_ref value = {.at = {1, (uint32_t)revision},
                                     .size = (uint32_t)h & 0xffff,
                                     .crc = (uint32_t)(h >> 32)};
        CHECK_OK(
            bp_index_put(shared->index, key, revision, mix(key, 1) % 50, false, &value, NULL, &err),
            &err);
    }
}

static void *applier(void *arg) {
    struct shared *shared = arg;
    struct random random = {1};
    for (uint64_t revision = 1; revision <= REVISIONS_MAX; revision++) {
        if (revision > REVISIONS && atomic_load(&shared->reading) == 0) {
            break;
        }
        apply_revision(shared, &random, revision);
        atomic_store(&shared->published, revision);
        if (revision % 16 == 0) {
            pthread_mutex_lock(&shared->pinning);
            uint64_t floor = revision;
            for (int i = 0; i < READERS; i++) {
                uint64_t pin = atomic_load(&shared->pins[i]);
                floor = pin < floor ? pin : floor;
            }
            pthread_mutex_unlock(&shared->pinning);
            floor = floor > 200 ? floor - 200 : 0;
            bp_index_trim(shared->index, floor, 256);
        }
    }
    atomic_store(&shared->done, true);
    return NULL;
}

/* ---- readers --------------------------------------------------------------------------------- */

struct seen {
    uint64_t count, sum[2], revision;
    uint8_t last[BP_STORED_KEY_MAX];
    size_t last_size;
    bool reverse;
};

static int see(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct seen *seen = arg;
    uint64_t term[2];
    check_value(key, version);
    CHECK(version->revision <= seen->revision);
    if (seen->last_size > 0) {
        int order = bp_slice_compare(bp_slice(seen->last, seen->last_size), key);
        CHECK(seen->reverse ? order > 0 : order < 0);
    }
    memcpy(seen->last, key.data, key.size);
    seen->last_size = key.size;
    struct bp_version copy = *version;
    bp_index_hash_version(key, &copy,
                          term); /* no place in it: the cleaner may move values between two scans */
    seen->sum[0] += term[0];
    seen->sum[1] += term[1];
    seen->count++;
    return 0;
}

static struct seen scan_at(const struct shared *shared, uint64_t revision, bool reverse) {
    struct seen seen = {.revision = revision, .reverse = reverse};
    struct bp_slice all = {0};
    CHECK(bp_index_scan(shared->index, all, all, revision, reverse, see, &seen) == 0);
    return seen;
}

static int see_effect(void *arg, uint64_t revision, struct bp_slice key,
                      const struct bp_version *version, const struct bp_version *previous) {
    uint64_t *last = arg;
    CHECK(revision >= *last && version->revision == revision);
    CHECK(previous->version == 0 || previous->revision < revision);
    if (version->version != 0) {
        check_value(key, version);
    }
    *last = revision;
    return 0;
}

static void read_once(struct shared *shared, int number, struct random *random) {
    pthread_mutex_lock(&shared->pinning);
    uint64_t revision = atomic_load(&shared->published), next;
    atomic_store(&shared->pins[number], revision);
    pthread_mutex_unlock(&shared->pinning);
    struct seen up = scan_at(shared, revision, false), down = scan_at(shared, revision, true),
                again = scan_at(shared, revision, false);
    CHECK_EQ_U64(up.count, down.count);
    CHECK(up.sum[0] == down.sum[0] && up.sum[1] == down.sum[1]);
    CHECK(up.sum[0] == again.sum[0] && up.sum[1] == again.sum[1]);
    for (int i = 0; i < 200; i++) {
        uint8_t buf[32];
        struct bp_version first, second;
        struct bp_slice key = key_number(random_below(random, KEYS), buf);
        bool found = bp_index_get(shared->index, key, revision, &first);
        CHECK(bp_index_get(shared->index, key, revision, &second) == found);
        if (found) {
            check_value(key, &first);
            CHECK(first.revision == second.revision && first.version == second.version);
            CHECK(bp_index_get_exact(shared->index, key, first.revision, &second, NULL));
        }
    }
    uint64_t last = 0, trimmed = bp_index_trimmed(shared->index);
    int result = bp_history_scan(shared->index, trimmed + 1 + random_below(random, 100), revision,
                                 3000, &next, see_effect, &last);
    CHECK(result == 0 || result == BP_OUT_OF_RANGE);
    atomic_store(&shared->pins[number], UINT64_MAX);
}

struct reader {
    struct shared *shared;
    int number;
};

static void *reader(void *arg) {
    struct reader *reader = arg;
    struct random random = {100u + (uint64_t)reader->number};
    for (int round = 0; round < READER_ROUNDS; round++) {
        read_once(reader->shared, reader->number, &random);
    }
    atomic_fetch_sub(&reader->shared->reading, 1);
    return NULL;
}

/* ---- the cleaner ----------------------------------------------------------------------------- */

struct moves {
    struct {
        uint8_t key[32];
        size_t size;
        uint64_t revision;
        struct bp_pos at;
    } found[400];
    uint32_t n;
};

static int find_some(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct moves *moves = arg;
    if (moves->n == 400) {
        return 1;
    }
    if (version->version != 0) {
        memcpy(moves->found[moves->n].key, key.data, key.size);
        moves->found[moves->n].size = key.size;
        moves->found[moves->n].revision = version->revision;
        moves->found[moves->n++].at = version->value.at;
    }
    return 0;
}

static void *cleaner(void *arg) {
    struct shared *shared = arg;
    struct random random = {7};
    uint64_t moved = 0;
    uint32_t segment = 2;
    while (!atomic_load(&shared->done) || moved < 1000) {
        struct moves moves = {.n = 0};
        uint8_t buf[32];
        struct bp_slice from = key_number(random_below(&random, KEYS), buf);
        bp_index_scan_versions(shared->index, from, 0, atomic_load(&shared->published), find_some,
                               &moves);
        for (uint32_t i = 0; i < moves.n; i++) {
            struct bp_slice key = bp_slice(moves.found[i].key, moves.found[i].size);
            struct bp_version version;
            bool refers = bp_index_refers(shared->index, key, moves.found[i].revision,
                                          moves.found[i].at, &version);
            struct bp_pos to = {segment, i};
            /* Only this thread moves values, so what does not refer any more is gone. */
            bool done = bp_index_relocate(shared->index, key, moves.found[i].revision,
                                          moves.found[i].at, to);
            CHECK(!done || refers);
            CHECK(!done || !bp_index_relocate(shared->index, key, moves.found[i].revision,
                                              moves.found[i].at, to));
            moved += done;
        }
        segment++;
        if (moves.n == 0 && atomic_load(&shared->done)) {
            break;
        }
    }
    return NULL;
}

static void threads_see_whole_versions_and_stable_revisions(void) {
    struct shared shared = {
        .index = bp_index_new(NULL), .reading = READERS, .pinning = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[READERS + 2];
    struct reader readers[READERS];
    CHECK(shared.index != NULL);
    for (int i = 0; i < READERS; i++) {
        atomic_init(&shared.pins[i], UINT64_MAX);
        readers[i] = (struct reader){.shared = &shared, .number = i};
    }
    CHECK(pthread_create(&threads[0], NULL, applier, &shared) == 0);
    CHECK(pthread_create(&threads[1], NULL, cleaner, &shared) == 0);
    for (int i = 0; i < READERS; i++) {
        CHECK(pthread_create(&threads[2 + i], NULL, reader, &readers[i]) == 0);
    }
    for (int i = 0; i < READERS + 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    const char *wrong = bp_index_check(shared.index);
    if (wrong != NULL) {
        fprintf(stderr, "bp_index_check: %s\n", wrong);
    }
    CHECK(wrong == NULL);
    bp_index_free(shared.index);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(threads_see_whole_versions_and_stable_revisions);
    TESTS_END;
}

/*
 * What the index costs alone: ns an operation and bytes a key, with 16-byte keys (17 stored), a
 * fixed seed.
 *
 *   bench_index [keys, default 1000000]
 *
 * Every figure is one pass over all keys in this process, so repeat it and take medians. "warm"
 * puts are preceded by bp_index_warm over groups of 64, as apply does. Memory beside the key counts
 * everything allocated, slack included: items, nodes, lease lists.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "index.h"

enum { GROUP = 64, KEY = 17 };

struct bench {
    struct bp_index *index;
    uint64_t n, revision;
    uint8_t *keys; /* n x KEY */
    /*
     * The same in another order, laid out in it: reading the next key costs nothing, as in a
     * request.
     */
    uint8_t *shuffled;
};

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t mix(uint64_t z) {
    z = (z + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void report(const char *what, uint64_t start, uint64_t n) {
    double ns = (double)(now_ns() - start);
    printf("%-44s %8.1f ns    %7.3f M/s\n", what, ns / (double)n, (double)n * 1e3 / ns);
}

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static struct bp_slice key_at(const struct bench *bench, uint64_t i) {
    return bp_slice(bench->keys + i * KEY, KEY);
}

static struct bp_slice shuffled_at(const struct bench *bench, uint64_t i) {
    return bp_slice(bench->shuffled + i * KEY, KEY);
}

static void put(struct bench *bench, struct bp_slice key, uint64_t i, uint64_t lease) {
    struct bp_value_ref value = {.at = {1, (uint32_t)i}, .size = 256, .crc = (uint32_t)i};
    struct bp_version previous;
    struct bp_error err;
    if (bp_index_put(bench->index, key, ++bench->revision, lease, false, &value, &previous, &err) !=
        BP_OK) {
        fail(err.message);
    }
}

static void put_groups(struct bench *bench, bool shuffle, uint64_t lease) {
    struct bp_slice keys[GROUP];
    for (uint64_t i = 0; i < bench->n; i += GROUP) {
        uint32_t n = bench->n - i < GROUP ? (uint32_t)(bench->n - i) : GROUP;
        for (uint32_t k = 0; k < n; k++) {
            keys[k] = shuffle ? shuffled_at(bench, i + k) : key_at(bench, i + k);
        }
        bp_index_warm(bench->index, keys, n);
        for (uint32_t k = 0; k < n; k++) {
            put(bench, keys[k], i + k, lease);
        }
    }
}

static void trim_all(struct bench *bench) {
    while (bp_index_trim(bench->index, bench->revision, 4096)) {
    }
}

static int count(void *arg, struct bp_slice key, const struct bp_version *version) {
    (void)key, (void)version;
    ++*(uint64_t *)arg;
    return 0;
}

/* A checkpoint in memory. */
struct saved {
    struct bp_version *versions;
    uint8_t *keys;
    uint64_t n;
};

static int save(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct saved *saved = arg;
    memcpy(saved->keys + saved->n * KEY, key.data, KEY);
    saved->versions[saved->n++] = *version;
    return 0;
}

static void print_memory(const struct bench *bench, const char *when) {
    struct bp_index_stats stats;
    bp_index_get_stats(bench->index, &stats);
    printf("%-44s %8.1f B a key beside the key; history %.1f B an effect\n", when,
           (double)(stats.memory_bytes - stats.key_bytes) / (double)stats.items,
           stats.history_effects == 0
               ? 0.0
               : (double)stats.history_memory_bytes / (double)stats.history_effects);
}

static void get_all(struct bench *bench) {
    struct bp_version version;
    uint64_t found = 0, start = now_ns();
    for (uint64_t i = 0; i < bench->n; i++) {
        found += bp_index_get(bench->index, shuffled_at(bench, i), bench->revision, &version);
    }
    report("get, random", start, bench->n);
    if (found != bench->n) {
        fail("a key is missing");
    }
}

static void scan_all(struct bench *bench) {
    struct bp_slice all = {0};
    for (int reverse = 0; reverse < 2; reverse++) {
        uint64_t n = 0, start = now_ns();
        bp_index_scan(bench->index, all, all, bench->revision, reverse != 0, count, &n);
        report(reverse != 0 ? "scan, descending, a key" : "scan, ascending, a key", start, n);
    }
}

static void load(const struct bench *bench) {
    struct bp_error err;
    struct bp_slice all = {0};
    struct bp_index *loaded = bp_index_new(NULL);
    struct saved saved = {.versions = malloc(bench->n * sizeof *saved.versions),
                          .keys = malloc(bench->n * KEY)};
    if (loaded == NULL || saved.versions == NULL || saved.keys == NULL) {
        fail("no memory");
    }
    uint64_t start = now_ns();
    bp_index_scan_versions(bench->index, all, bench->revision, bench->revision, save, &saved);
    report("scan of versions, a version", start, saved.n);
    start = now_ns();
    for (uint64_t i = 0; i < saved.n; i++) {
        if (bp_index_load(loaded, bp_slice(saved.keys + i * KEY, KEY), &saved.versions[i], 1,
                          &err) != BP_OK) {
            fail(err.message);
        }
    }
    report("load, a key", start, saved.n);
    start = now_ns();
    if (bp_index_load_finish(loaded, 0, &err) != BP_OK) {
        fail(err.message);
    }
    report("load_finish, all in the history, an effect", start, saved.n);
    uint64_t hashes[2][2];
    bp_index_state_hash(bench->index, hashes[0]);
    bp_index_state_hash(loaded, hashes[1]);
    if (memcmp(hashes[0], hashes[1], sizeof hashes[0]) != 0) {
        fail("loaded something else");
    }
    bp_index_free(loaded);
    free(saved.versions);
    free(saved.keys);
}

static void make_keys(struct bench *bench, bool ascending) {
    for (uint64_t i = 0; i < bench->n; i++) {
        uint8_t *key = bench->keys + i * KEY;
        key[0] = 'u';
        for (int k = 0; k < 8; k++) {
            key[1 + k] = (uint8_t)((ascending ? i : mix(2 * i)) >> (56 - 8 * k));
            key[9 + k] = (uint8_t)((ascending ? 0 : mix(2 * i + 1)) >> (56 - 8 * k));
        }
    }
}

static void shuffle(struct bench *bench) {
    memcpy(bench->shuffled, bench->keys, bench->n * KEY);
    for (uint64_t i = bench->n; i > 1; i--) {
        uint8_t swap[KEY], *a = bench->shuffled + (i - 1) * KEY,
                           *b = bench->shuffled + mix(i) % i * KEY;
        memcpy(swap, a, KEY);
        memcpy(a, b, KEY);
        memcpy(b, swap, KEY);
    }
}

static void random_keys(struct bench *bench) {
    make_keys(bench, false);
    shuffle(bench);
    uint64_t start = now_ns();
    put_groups(bench, false, 42);
    report("put, random, new key, a lease, warm", start, bench->n);
    print_memory(bench, "memory, random, one version and a lease");
    start = now_ns();
    put_groups(bench, true, 42);
    report("put, random, existing key, warm", start, bench->n);
    start = now_ns();
    trim_all(bench);
    report("trim, an effect", start, 2 * bench->n);
    start = now_ns();
    for (uint64_t i = 0; i < bench->n; i++) {
        put(bench, shuffled_at(bench, i), i, 42);
    }
    report("put, random, existing key, cold", start, bench->n);
    trim_all(bench);
    get_all(bench);
    scan_all(bench);
    load(bench);
    start = now_ns();
    for (uint64_t i = 0; i < bench->n; i++) {
        bp_index_delete(bench->index, key_at(bench, i), ++bench->revision, NULL);
    }
    report("delete, random, cold", start, bench->n);
    start = now_ns();
    trim_all(bench);
    report("trim of a delete, item and leaf go", start, bench->n);
}

int main(int argc, char **argv) {
    struct bench bench = {.n = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000};
    bench.keys = malloc(bench.n * KEY);
    bench.shuffled = malloc(bench.n * KEY);
    bench.index = bp_index_new(NULL);
    if (bench.shuffled == NULL || bench.n == 0 || bench.keys == NULL || bench.index == NULL) {
        fail("no memory");
    }
    random_keys(&bench);
    bp_index_free(bench.index);

    bench.index = bp_index_new(NULL);
    make_keys(&bench, true);
    uint64_t start = now_ns();
    put_groups(&bench, false, 42);
    report("put, ascending, new key, a lease, warm", start, bench.n);
    print_memory(&bench, "memory, ascending, one version and a lease");
    bp_index_free(bench.index);
    free(bench.keys);
    free(bench.shuffled);
    return 0;
}

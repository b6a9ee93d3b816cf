/*
 * The index against a naive multi-version map: random operations on keys that are hard on the tree,
 * then one test for each promise that random operations would meet too rarely.
 */
#include "index_internal.h"
#include "index_model.h"

static struct bp_value_ref value_number(uint64_t n) {
    struct bp_value_ref value = {
        .at = {.segment = (uint32_t)(1 + n % 1000), .offset = (uint32_t)(n * 8)},
        .size = (uint32_t)(n % 5000),
        .crc = (uint32_t)(n * 2654435761u)};
    return value;
}

struct dead {
    uint64_t count, bytes;
};

static void note_dead(void *ctx, const struct bp_value_ref *value) {
    struct dead *dead = ctx;
    dead->count++;
    dead->bytes += value->size;
}

static void check_index(const struct bp_index *index) {
    const char *wrong = bp_index_check(index);
    if (wrong != NULL) {
        fprintf(stderr, "bp_index_check: %s\n", wrong);
        exit(1);
    }
}

static struct bp_index *new_index(struct dead *dead) {
    struct bp_index_hooks hooks = {.ctx = dead, .dead = dead == NULL ? NULL : note_dead};
    struct bp_index *index = bp_index_new(&hooks);
    CHECK(index != NULL);
    return index;
}

/* ---- random operations ----------------------------------------------------------------------- */

struct run {
    struct bp_index *index;
    struct model model;
    struct dead dead;
    struct random random;
    uint64_t revision, trimmed, keys;
    uint64_t value;
};

static struct bp_slice some_key(struct run *run, uint8_t *buf) {
    return hard_key(random_below(&run->random, run->keys), buf);
}

/*
 * A revision at which `key` may change: mostly the current one, so that many effects share a
 * revision.
 */
static uint64_t writable_revision(struct run *run, struct bp_slice key) {
    const struct bp_version *newest = model_at(model_find(&run->model, key), UINT64_MAX);
    if (random_below(&run->random, 3) == 0 ||
        (newest != NULL && newest->revision == run->revision) || run->revision == run->trimmed) {
        run->revision += 1 + random_below(&run->random, 2);
    }
    return run->revision;
}

static void do_put(struct run *run) {
    uint8_t buf[BP_STORED_KEY_MAX];
    struct bp_slice key = some_key(run, buf);
    struct bp_value_ref value = value_number(run->value++);
    struct bp_version previous, *old = model_newest(&run->model, key), want = {0};
    want = old != NULL ? *old : want;
    uint64_t revision = writable_revision(run, key);
    bool keep = random_below(&run->random, 4) == 0;
    uint64_t lease = random_below(&run->random, 2) == 0 ? 0 : 1 + random_below(&run->random, 30);
    struct bp_error err;
    if (random_below(&run->random, 8) == 0) {
        bp_index_warm(run->index, &key, 1);
    }
    CHECK_OK(bp_index_put(run->index, key, revision, lease, keep, &value, &previous, &err), &err);
    check_version(&previous, &want);
    model_put(&run->model, key, revision, lease, keep, &value);
}

static void do_delete(struct run *run) {
    uint8_t buf[BP_STORED_KEY_MAX];
    struct bp_slice key = some_key(run, buf);
    struct bp_version previous, *old = model_newest(&run->model, key), want = {0};
    want = old != NULL ? *old : want;
    uint64_t revision = writable_revision(run, key);
    int deleted = bp_index_delete(run->index, key, revision, &previous);
    check_version(&previous, &want);
    CHECK((deleted == 1) == model_delete(&run->model, key, revision));
}

/* As apply does: next_live, delete, on from there. */
static void do_delete_range(struct run *run) {
    uint8_t bufs[2][BP_STORED_KEY_MAX], start_buf[BP_STORED_KEY_MAX], end_buf[BP_STORED_KEY_MAX];
    struct bp_slice start = some_key(run, start_buf), end = some_key(run, end_buf), from = start,
                    key;
    struct bp_version version;
    run->revision++;
    uint64_t left = 50;
    size_t at = model_position(&run->model, start);
    for (uint32_t turn = 0;
         left > 0 && bp_index_next_live(run->index, from, end, bufs[turn], &key, &version);
         turn ^= 1u) {
        while (model_live(&run->model.keys[at], UINT64_MAX) == NULL) {
            at++;
        }
        CHECK(bp_slice_equal(model_slice(&run->model.keys[at]), key));
        check_version(&version, model_live(&run->model.keys[at], UINT64_MAX));
        CHECK(bp_index_delete(run->index, key, run->revision, NULL) == 1);
        CHECK(model_delete(&run->model, key, run->revision));
        from = key;
        left--;
    }
    for (; left > 0 && at < run->model.n &&
           bp_slice_compare(model_slice(&run->model.keys[at]), end) < 0;
         at++) {
        CHECK(model_live(&run->model.keys[at], UINT64_MAX) == NULL);
    }
}

static uint64_t readable_revision(struct run *run) {
    return run->trimmed + random_below(&run->random, run->revision - run->trimmed + 2);
}

static void do_get(struct run *run) {
    uint8_t buf[BP_STORED_KEY_MAX];
    struct bp_slice key = some_key(run, buf);
    struct bp_version version, previous;
    const struct model_key *entry = model_find(&run->model, key);
    uint64_t revision = readable_revision(run);
    const struct bp_version *want = model_live(entry, revision);
    CHECK(bp_index_get(run->index, key, revision, &version) == (want != NULL));
    if (want != NULL) {
        check_version(&version, want);
    }
    want = model_newest(&run->model, key);
    CHECK(bp_index_newest(run->index, key, &version) == (want != NULL));
    want = model_at(entry, revision);
    bool exact = want != NULL && want->revision == revision;
    CHECK(bp_index_get_exact(run->index, key, revision, &version, &previous) == exact);
    if (exact) {
        static const struct bp_version none;
        const struct bp_version *before = model_at(entry, revision - 1);
        check_version(&version, want);
        check_version(&previous, before != NULL ? before : &none);
    }
}

static void do_scan(struct run *run) {
    uint8_t start_buf[BP_STORED_KEY_MAX], end_buf[BP_STORED_KEY_MAX];
    struct bp_slice start = some_key(run, start_buf), end = some_key(run, end_buf);
    uint64_t shape = random_below(&run->random, 8);
    start.size = shape == 0 || shape == 1 ? 0 : start.size;
    end.size = shape == 1 || shape == 2 ? 0 : end.size;
    check_scan(run->index, &run->model, start, end, readable_revision(run),
               random_below(&run->random, 2) == 0,
               random_below(&run->random, 2) * random_below(&run->random, 200));
}

static void do_trim(struct run *run) {
    uint64_t target = readable_revision(run);
    target = target > run->revision ? run->revision : target;
    run->trimmed = target;
    uint64_t before = bp_index_trimmed(run->index);
    for (uint32_t step = 1 + (uint32_t)random_below(&run->random, 100);
         bp_index_trim(run->index, target, step);) {
        CHECK(bp_index_trimmed(run->index) >= before && bp_index_trimmed(run->index) < target);
        if (random_below(&run->random, 10) == 0) {
            check_index(run->index); /* half trimmed is a state like any other */
        }
    }
    CHECK(bp_index_trimmed(run->index) >= target);
    model_trim(&run->model, target);
    CHECK_EQ_U64(run->dead.count, run->model.dead_count);
    CHECK_EQ_U64(run->dead.bytes, run->model.dead_bytes);
}

static void do_relocate(struct run *run) {
    if (run->model.n == 0) {
        return;
    }
    struct model_key *key = &run->model.keys[random_below(&run->random, run->model.n)];
    struct bp_version *version = &key->versions[random_below(&run->random, key->n)], found;
    struct bp_pos from = version->value.at,
                  to = {.segment = 5000, .offset = (uint32_t)run->value++};
    struct bp_pos elsewhere = {.segment = 4999, .offset = from.offset};
    CHECK(!bp_index_relocate(run->index, model_slice(key), version->revision, elsewhere, to));
    CHECK(!bp_index_refers(run->index, model_slice(key), version->revision, elsewhere, &found));
    bool live = version->version != 0;
    CHECK(bp_index_refers(run->index, model_slice(key), version->revision, from, &found) == live);
    CHECK(bp_index_relocate(run->index, model_slice(key), version->revision, from, to) == live);
    if (live) {
        version->value.at = to;
    }
}

static int count_attached(void *arg, struct bp_slice key) {
    struct run *run = ((void **)arg)[0];
    uint64_t *lease = ((void **)arg)[1];
    const struct bp_version *version = model_newest(&run->model, key);
    CHECK(version != NULL);
    CHECK_EQ_U64(version->lease, *lease);
    return 0;
}

static void check_leases(struct run *run) {
    uint64_t attached[40] = {0};
    for (size_t i = 0; i < run->model.n; i++) {
        const struct bp_version *version = model_live(&run->model.keys[i], UINT64_MAX);
        if (version != NULL) {
            attached[version->lease]++;
        }
    }
    for (uint64_t lease = 1; lease < 40; lease++) {
        void *arg[2] = {run, &lease};
        CHECK_EQ_U64(bp_index_lease_count(run->index, lease), attached[lease]);
        CHECK(bp_index_lease_visit(run->index, lease, count_attached, arg) == 0);
    }
}

static void check_whole(struct run *run) {
    uint64_t hash[2], sum[2] = {0}, keys = 0, versions = 0;
    struct bp_slice all = {0};
    check_index(run->index);
    check_leases(run);
    for (size_t i = 0; i < run->model.n; i++) {
        const struct bp_version *version = model_live(&run->model.keys[i], UINT64_MAX);
        uint64_t term[2];
        versions += run->model.keys[i].n;
        if (version != NULL) {
            bp_index_hash_version(model_slice(&run->model.keys[i]), version, term);
            sum[0] += term[0];
            sum[1] += term[1];
            keys++;
        }
    }
    bp_index_state_hash(run->index, hash);
    CHECK(hash[0] == sum[0] && hash[1] == sum[1]);
    struct bp_index_stats stats;
    bp_index_get_stats(run->index, &stats);
    CHECK_EQ_U64(stats.keys, keys);
    CHECK_EQ_U64(stats.items, run->model.n);
    CHECK_EQ_U64(stats.versions, versions);
    CHECK_EQ_U64(stats.history_effects, run->model.effect_n);
    check_scan(run->index, &run->model, all, all, run->revision, false, 0);
    check_scan(run->index, &run->model, all, all, run->revision, true, 0);
}

static void run_start(struct run *run, uint64_t seed, uint64_t keys) {
    memset(run, 0, sizeof *run);
    run->random.state = seed;
    run->keys = keys;
    run->revision = 1;
    run->value = 1;
    run->index = new_index(&run->dead);
}

static void run_steps(struct run *run, uint32_t steps, uint32_t delete_share) {
    for (uint32_t step = 0; step < steps; step++) {
        uint64_t dice = random_below(&run->random, 100);
        if (dice < 90u - delete_share) {
            random_below(&run->random, 3) == 0 ? do_get(run) : do_put(run);
        } else if (dice < 90) {
            do_delete(run);
        } else if (dice < 95) {
            do_relocate(run);
        } else if (dice < 97) {
            do_scan(run);
        } else if (dice < 99) {
            random_below(&run->random, 20) == 0 ? do_delete_range(run) : do_get(run);
        } else if (random_below(&run->random, 12) == 0) {
            do_trim(run);
        }
        if (step % 10000 == 9999) {
            check_whole(run);
        }
    }
}

static void run_end(struct run *run) {
    check_whole(run);
    bp_index_free(run->index);
    model_free(&run->model);
}

static void random_operations_agree_with_a_naive_map(void) {
    static const uint64_t sizes[] = {3, 60, 800, 20000};
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct run run;
        run_start(&run, seed + 1, sizes[seed % 4]);
        run_steps(&run, 40000, seed % 3 == 0 ? 40 : 15);
        run_end(&run);
    }
}

/* Grow, shrink to nothing, grow again: splits and joins at every level. */
static void growing_and_shrinking_keeps_order(void) {
    struct run run;
    run_start(&run, 99, 30000);
    for (uint32_t round = 0; round < 3; round++) {
        run_steps(&run, 25000, 5);
        run_steps(&run, 15000, 85);
    }
    run_end(&run);
}

/* ---- loading --------------------------------------------------------------------------------- */

struct loader {
    struct bp_index *index;
    uint8_t key[BP_STORED_KEY_MAX];
    size_t size;
    struct bp_version versions[4096];
    uint32_t n;
};

static void loader_flush(struct loader *loader) {
    struct bp_error err;
    if (loader->n > 0) {
        CHECK_OK(bp_index_load(loader->index, bp_slice(loader->key, loader->size), loader->versions,
                               loader->n, &err),
                 &err);
    }
    loader->n = 0;
}

static int loader_visit(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct loader *loader = arg;
    if (!bp_slice_equal(key, bp_slice(loader->key, loader->size))) {
        loader_flush(loader);
        memcpy(loader->key, key.data, key.size);
        loader->size = key.size;
    }
    CHECK(loader->n < 4096);
    loader->versions[loader->n++] = *version;
    return 0;
}

static struct bp_index *reload(const struct bp_index *index, uint64_t floor, uint64_t through) {
    static struct loader loader; /* large; tests run one at a time */
    struct bp_error err;
    memset(&loader, 0, sizeof loader);
    loader.index = new_index(NULL);
    CHECK(bp_index_scan_versions(index, bp_slice(NULL, 0), floor, through, loader_visit, &loader) ==
          0);
    loader_flush(&loader);
    CHECK_OK(bp_index_load_finish(loader.index, floor, &err), &err);
    return loader.index;
}

static void a_checkpoint_loads_to_the_same_state(void) {
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct run run;
        run_start(&run, seed + 500, seed % 2 == 0 ? 50 : 5000);
        run_steps(&run, 20000, 20);
        uint64_t floor = readable_revision(&run), hashes[2][2];
        floor = floor > run.revision ? run.revision : floor;
        struct bp_index *loaded = reload(run.index, floor, run.revision);
        check_index(loaded);
        CHECK_EQ_U64(bp_index_trimmed(loaded), floor);
        bp_index_state_hash(run.index, hashes[0]);
        bp_index_state_hash(loaded, hashes[1]);
        CHECK(hashes[0][0] == hashes[1][0] && hashes[0][1] == hashes[1][1]);
        struct bp_index *original = run.index;
        while (bp_index_trim(original, floor, 1000)) {
        }
        model_trim(&run.model, floor);
        run.trimmed = floor;
        check_whole(&run);
        run.index = loaded; /* and goes on from there like the original */
        run.dead = (struct dead){.count = run.model.dead_count, .bytes = run.model.dead_bytes};
        check_whole(&run);
        bp_index_free(original);
        loaded->hooks = (struct bp_index_hooks){.ctx = &run.dead, .dead = note_dead};
        run_steps(&run, 10000, 20);
        run_end(&run);
    }
}

/*
 * A checkpoint cut at `through` has nothing of what came after it, whether keys were put, changed
 * or deleted since.
 */
static void a_cut_in_the_past_is_exact(void) {
    struct run run;
    run_start(&run, 77, 2000);
    run_steps(&run, 10000, 20);
    do_trim(&run);
    uint64_t through = run.revision++, floor = run.trimmed, hash[2], cut_hash[2];
    bp_index_state_hash(run.index, hash);
    for (uint32_t i = 0; i < 5000; i++) {
        random_below(&run.random, 4) == 0 ? do_delete(&run) : do_put(&run);
    }
    struct bp_index *cut = reload(run.index, floor, through);
    struct bp_slice all = {0};
    check_index(cut);
    check_scan(cut, &run.model, all, all, through, false, 0);
    bp_index_state_hash(cut, cut_hash);
    CHECK(cut_hash[0] == hash[0] && cut_hash[1] == hash[1]);
    bp_index_free(cut);
    run_end(&run);
}

static void a_damaged_checkpoint_is_refused(void) {
    struct bp_index *index = new_index(NULL);
    struct bp_error err;
    struct bp_version live = {
        .revision = 5, .create_revision = 5, .version = 1, .value = value_number(3)};
    struct bp_version pair[2] = {live, live};
    struct bp_version ghost = {.revision = 5, .version = 1, .flags = BP_VERSION_TOMBSTONE};
    struct bp_version grave = {.revision = 5, .flags = BP_VERSION_TOMBSTONE};
    uint8_t huge[BP_STORED_KEY_MAX + 1] = {1};
    CHECK_OK(bp_index_load(index, bp_slice("m", 1), &live, 1, &err), &err);
    CHECK(bp_index_load(index, bp_slice("m", 1), &live, 1, &err) == BP_DATA_LOSS);
    CHECK(bp_index_load(index, bp_slice("a", 1), &live, 1, &err) == BP_DATA_LOSS);
    CHECK(bp_index_load(index, bp_slice("z", 1), pair, 2, &err) == BP_DATA_LOSS);
    CHECK(bp_index_load(index, bp_slice("z", 1), &ghost, 1, &err) == BP_DATA_LOSS);
    CHECK(bp_index_load(index, bp_slice("z", 1), &live, 0, &err) == BP_DATA_LOSS);
    CHECK(bp_index_load(index, bp_slice("", 0), &live, 1, &err) == BP_DATA_LOSS);
    CHECK(bp_index_load(index, bp_slice(huge, sizeof huge), &live, 1, &err) == BP_DATA_LOSS);
    CHECK_OK(bp_index_load(index, bp_slice("z", 1), &grave, 1, &err), &err);
    CHECK(bp_index_load_finish(index, 7, &err) ==
          BP_DATA_LOSS); /* a tombstone at or below the floor */
    bp_index_free(index);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static struct bp_slice number_key(uint64_t n, uint8_t buf[17]) {
    buf[0] = 'u';
    for (int i = 0; i < 16; i++) {
        buf[1 + i] = (uint8_t)"0123456789abcdef"[n >> (60 - 4 * i) & 15];
    }
    return bp_slice(buf, 17);
}

static void put_number(struct bp_index *index, uint64_t n, uint64_t revision, uint64_t lease) {
    uint8_t buf[17];
    struct bp_value_ref value = value_number(n);
    struct bp_error err;
    CHECK_OK(bp_index_put(index, number_key(n, buf), revision, lease, false, &value, NULL, &err),
             &err);
}

static uint64_t memory_of(const struct bp_index *index) {
    struct bp_index_stats stats;
    bp_index_get_stats(index, &stats);
    return stats.memory_bytes;
}

static void ascending_keys_fill_leaves(void) {
    struct bp_index *up = new_index(NULL), *down = new_index(NULL);
    const uint64_t n = 60000;
    for (uint64_t i = 0; i < n; i++) {
        put_number(up, i, i + 1, 0);
        put_number(down, n - i, i + 1, 0);
    }
    check_index(up);
    check_index(down);
    CHECK(memory_of(up) < n * (72 + 13) + BP_SLAB_ARENA);   /* item 54 + 17, leaf 12.2 when full */
    CHECK(memory_of(down) < n * (72 + 15) + BP_SLAB_ARENA); /* nine tenths full */
    bp_index_free(up);
    bp_index_free(down);
}

static void memory_beside_the_key_stays_below_96_bytes(void) {
    struct bp_index *index = new_index(NULL);
    struct random random = {4};
    const uint64_t n = 200000;
    for (uint64_t i = 0; i < n; i++) {
        put_number(index, random_next(&random), i + 1, 42);
    }
    while (bp_index_trim(index, n, 10000)) {
    }
    check_index(index);
    uint64_t beside = memory_of(index) / n - 17;
    CHECK(beside <= 96);
    bp_index_free(index);
}

static void memory_returns_when_everything_is_deleted(void) {
    struct bp_index *index = new_index(NULL);
    uint64_t empty = memory_of(index), revision = 0;
    for (uint32_t round = 0; round < 2; round++) {
        struct random random = {round}, again = {round};
        for (uint32_t i = 0; i < 100000; i++) {
            put_number(index, random_next(&random), ++revision, i % 3 == 0 ? i : 0);
        }
        CHECK(memory_of(index) > 5000000);
        uint8_t buf[17];
        for (uint32_t i = 0; i < 100000; i++) {
            CHECK(bp_index_delete(index, number_key(random_next(&again), buf), ++revision, NULL) ==
                  1);
        }
        while (bp_index_trim(index, revision, 777)) {
        }
        check_index(index);
        struct bp_index_stats stats;
        bp_index_get_stats(index, &stats);
        CHECK_EQ_U64(stats.items, 0);
        CHECK_EQ_U64(stats.versions, 0);
        CHECK_EQ_U64(stats.history_effects, 0);
        CHECK(memory_of(index) <= empty + BP_SLAB_ARENA);
        CHECK(stats.history_memory_bytes <= 64 << 10);
    }
    bp_index_free(index);
}

static void a_key_written_often_is_found_at_every_revision(void) {
    struct bp_index *index = new_index(NULL);
    struct bp_slice key = bp_slice("uhot", 4);
    struct bp_error err;
    struct bp_version version, previous;
    const uint64_t n = 30000;
    for (uint64_t r = 1; r <= n; r++) {
        struct bp_value_ref value = value_number(r);
        CHECK_OK(bp_index_put(index, key, 2 * r, 0, false, &value, NULL, &err), &err);
    }
    check_index(index);
    for (uint64_t trimmed = 0; trimmed < n; trimmed += 7001) {
        while (bp_index_trim(index, 2 * trimmed, 100)) {
        }
        check_index(index);
        for (uint64_t r = trimmed > 0 ? trimmed : 1; r <= n; r++) {
            CHECK(bp_index_get(index, key, 2 * r + 1, &version));
            CHECK_EQ_U64(version.revision, 2 * r);
            CHECK_EQ_U64(version.version, r);
            CHECK(!bp_index_get_exact(index, key, 2 * r + 1, &version, &previous));
            if (r > trimmed) {
                CHECK(bp_index_get_exact(index, key, 2 * r, &version, &previous));
                CHECK_EQ_U64(previous.revision, 2 * (r - 1));
            }
        }
    }
    bp_index_free(index);
}

/* A list older than 2^32 pushes: depths wrap, jumps must not. */
static void depths_survive_wrapping(void) {
    struct bp_index *index = new_index(NULL);
    struct bp_slice key = bp_slice("uhot", 4);
    struct bp_error err;
    struct bp_path path;
    struct bp_version version;
    for (uint64_t r = 1; r <= 2000; r++) {
        struct bp_value_ref value = value_number(r);
        CHECK_OK(bp_index_put(index, key, r, 0, false, &value, NULL, &err), &err);
        if (r == 2) {
            bp_tree_descend(index, key, &path);
            path.leaf->items[0]->older->depth = UINT32_MAX - 700;
        }
    }
    check_index(index);
    for (uint64_t trimmed = 0; trimmed < 2000; trimmed += 333) {
        while (bp_index_trim(index, trimmed, 100)) {
        }
        check_index(index);
        for (uint64_t r = trimmed > 0 ? trimmed : 1; r <= 2000; r++) {
            CHECK(bp_index_get(index, key, r, &version));
            CHECK_EQ_U64(version.revision, r);
        }
    }
    bp_index_free(index);
}

static void a_deleted_key_begins_anew(void) {
    struct bp_index *index = new_index(NULL);
    struct bp_slice key = bp_slice("ukey", 4);
    struct bp_error err;
    struct bp_version version;
    struct bp_value_ref value = value_number(9);
    CHECK_OK(bp_index_put(index, key, 1, 5, false, &value, NULL, &err), &err);
    CHECK_OK(bp_index_put(index, key, 2, 0, true, &value, NULL, &err), &err);
    CHECK(bp_index_newest(index, key, &version) && version.version == 2 &&
          version.create_revision == 1 && version.lease == 5);
    CHECK(bp_index_delete(index, key, 3, &version) == 1);
    CHECK_EQ_U64(bp_index_lease_count(index, 5), 0);
    CHECK(bp_index_delete(index, key, 4, &version) == 0);
    CHECK(!bp_index_get(index, key, 3, &version));
    CHECK_OK(bp_index_put(index, key, 5, 0, true, &value, &version, &err), &err);
    CHECK_EQ_U64(version.version, 0);
    CHECK(bp_index_newest(index, key, &version) && version.version == 1 &&
          version.create_revision == 5 && version.lease == 0);
    CHECK(bp_index_get(index, key, 2, &version) && version.version == 2 && version.lease == 5);
    check_index(index);
    bp_index_free(index);
}

/* ---- the state hash -------------------------------------------------------------------------- */

/* Checkpoints and replicas record these sums: if this test fails, the format has changed. */
static void the_state_hash_is_part_of_the_format(void) {
    static const struct {
        const char *key;
        uint64_t hash[2];
    } golden[] = {
        {"u", {0xfd3f10f677ff6ba5, 0x4bdd15b3723d0f39}},
        {"ukey-of-16-bytes", {0xddff75b92a0f91f8, 0x7ad310f37898f46e}},
        {"uusers/07/0012345/and/then/some", {0x01b29e5849b4b39f, 0xdeb29c7ea0229b58}},
    };
    struct bp_version version = {.revision = 0x0102030405060708,
                                 .create_revision = 7,
                                 .lease = 0xfedcba9876543210,
                                 .version = 3,
                                 .value = {.at = {1, 2}, .size = 256, .crc = 0xe3069283}};
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        uint64_t hash[2], moved[2];
        struct bp_slice key = bp_slice(golden[i].key, strlen(golden[i].key));
        bp_index_hash_version(key, &version, hash);
        CHECK_EQ_U64(hash[0], golden[i].hash[0]);
        CHECK_EQ_U64(hash[1], golden[i].hash[1]);
        struct bp_version elsewhere = version;
        elsewhere.value.at.segment = 99; /* where a value lies is each member's own business */
        bp_index_hash_version(key, &elsewhere, moved);
        CHECK(moved[0] == hash[0] && moved[1] == hash[1]);
    }
}

static void every_field_changes_the_state_hash(void) {
    struct bp_version base = {.revision = 9,
                              .create_revision = 8,
                              .lease = 7,
                              .version = 6,
                              .value = {.size = 5, .crc = 4}};
    struct bp_version v[7] = {base, base, base, base, base, base, base};
    v[1].revision++;
    v[2].create_revision++;
    v[3].lease++;
    v[4].version++;
    v[5].value.size++;
    v[6].value.crc++;
    uint64_t hashes[9][2];
    for (int i = 0; i < 7; i++) {
        bp_index_hash_version(bp_slice("ukey", 4), &v[i], hashes[i]);
    }
    bp_index_hash_version(bp_slice("ukez", 4), &base, hashes[7]);
    bp_index_hash_version(bp_slice("ukey\0", 5), &base, hashes[8]);
    for (int i = 0; i < 9; i++) {
        for (int k = 0; k < i; k++) {
            CHECK(hashes[i][0] != hashes[k][0] && hashes[i][1] != hashes[k][1]);
        }
    }
}

/* ---- out of memory --------------------------------------------------------------------------- */

static void a_change_without_memory_changes_nothing(void) {
    struct bp_index *index = new_index(NULL);
    struct random random = {11};
    struct bp_error err;
    uint64_t failures = 0, revision = 0;
    for (uint32_t i = 0; i < 30000; i++) {
        uint8_t buf[BP_STORED_KEY_MAX];
        struct bp_slice key = hard_key(random_below(&random, 3000), buf);
        struct bp_value_ref value = value_number(i);
        uint64_t before[2], after[2],
            lease = random_below(&random, 2) * (1 + random_below(&random, 500));
        bp_index_state_hash(index, before);
        index->slab.fail_after = 1 + random_below(&random, 4);
        index->history.slab.fail_after = random_below(&random, 2);
        revision++;
        bool is_delete = random_below(&random, 4) == 0;
        int code = is_delete ? bp_index_delete(index, key, revision, NULL)
                             : bp_index_put(index, key, revision, lease, false, &value, NULL, &err);
        index->slab.fail_after = index->history.slab.fail_after = 0;
        bool failed = is_delete ? code < 0 : code != BP_OK;
        if (failed) {
            CHECK(is_delete ||
                  (code == BP_RESOURCE_EXHAUSTED && err.reason == BP_REASON_OUT_OF_MEMORY));
            bp_index_state_hash(index, after);
            CHECK(before[0] == after[0] && before[1] == after[1]);
            failures++;
        }
        if (i % 3000 == 0) {
            check_index(index);
        }
    }
    CHECK(failures > 3000);
    check_index(index);
    bp_index_free(index);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(random_operations_agree_with_a_naive_map);
    RUN(growing_and_shrinking_keeps_order);
    RUN(a_checkpoint_loads_to_the_same_state);
    RUN(a_cut_in_the_past_is_exact);
    RUN(a_damaged_checkpoint_is_refused);
    RUN(ascending_keys_fill_leaves);
    RUN(memory_beside_the_key_stays_below_96_bytes);
    RUN(memory_returns_when_everything_is_deleted);
    RUN(a_key_written_often_is_found_at_every_revision);
    RUN(depths_survive_wrapping);
    RUN(a_deleted_key_begins_anew);
    RUN(the_state_hash_is_part_of_the_format);
    RUN(every_field_changes_the_state_hash);
    RUN(a_change_without_memory_changes_nothing);
    TESTS_END;
}

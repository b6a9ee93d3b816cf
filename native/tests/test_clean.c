/*
 * Cleaning: disk comes back, values do not get lost on the way, and none is copied for ever.
 */
#include "../src/checkpoint.h"
#include "../src/clean.h"
#include "../src/settled.h"
#include "../src/value.h"
#include "state_util.h"

#define KEYS 400u
#define VALUE 4000u

static struct bp_options small_options(void) {
    struct bp_options options = test_options();
    options.checkpoint_bytes = 4u << 20;
    return options;
}

static void make_value(uint8_t *value, uint32_t size, uint64_t seed) {
    for (uint32_t i = 0; i < size; i++) {
        value[i] = (uint8_t)(i % 8 == 0 ? test_random(&seed) : seed >> i % 8 * 8);
    }
}

static void put_random(struct bp_store *store, uint64_t *seed, uint32_t keys, uint32_t size) {
    static _Thread_local uint8_t value[BP_VALUE_MAX];
    char key[32];
    (void)snprintf(key, sizeof key, "key/%06llu", (unsigned long long)(test_random(seed) % keys));
    make_value(value, size, test_random(seed));
    CHECK(test_put_bytes(store, key, value, size, 0, NULL, NULL) == BP_OK);
}

/* Every key once, so that what lives is known. */
static void put_all(struct bp_store *store, uint32_t keys, uint32_t size) {
    uint8_t *value = malloc(size + 1);
    CHECK(value != NULL);
    for (uint32_t i = 0; i < keys; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "key/%06u", i);
        make_value(value, size, i);
        CHECK(test_put_bytes(store, key, value, size, 0, NULL, NULL) == BP_OK);
    }
    free(value);
}

static void storm(struct bp_store *store, uint64_t seed, uint32_t writes, uint32_t keys,
                  uint32_t size) {
    for (uint32_t i = 0; i < writes; i++) {
        put_random(store, &seed, keys, size);
        if (i % 500 == 499) {
            CHECK(test_compact(store, 0) == BP_OK);
            settle(store);
        }
    }
    CHECK(test_compact(store, 0) == BP_OK);
    settle(store);
}

static uint64_t data_bytes(struct bp_store *store) {
    return dir_use(store, ".log").bytes + dir_use(store, ".set").bytes +
           dir_use(store, ".ckpt").bytes;
}

static uint64_t live_bytes(struct bp_store *store) {
    struct bp_index_stats stats;
    bp_index_get_stats(store->index, &stats);
    return stats.live_value_bytes + stats.key_bytes + stats.history_value_bytes;
}

/* Log written since the older checkpoint kept, whole segments: what replay from it would need. */
static uint64_t replay_bytes(struct bp_store *store) {
    uint64_t bytes = 0;
    uint32_t from = bp_checkpoint_replay_segment(store);
    for (struct bp_segment *s = bp_segments_next(store->segments, 0); s != NULL;
         s = bp_segments_next(store->segments, s->header.id)) {
        bytes += s->header.kind == BP_SEGMENT_LOG && s->header.id >= from ? s->size : 0;
    }
    return bytes;
}

/* Each segment's live bytes are what the index says. */
static int sum_live(void *arg, struct bp_slice key, const struct bp_version *version) {
    int64_t *live = arg;
    (void)key;
    live[version->value.at.segment % 4096] += version->value.size;
    return 0;
}

static void live_bytes_must_add_up(struct bp_store *store) {
    static int64_t live[4096];
    memset(live, 0, sizeof live);
    CHECK(bp_index_trimmed(store->index) >= store->compaction_revision);
    CHECK(bp_index_scan_versions(store->index, (struct bp_slice){0}, store->compaction_revision,
                                 store->next_revision, sum_live, live) == 0);
    for (struct bp_segment *s = bp_segments_next(store->segments, 0); s != NULL;
         s = bp_segments_next(store->segments, s->header.id)) {
        CHECK_EQ_U64(atomic_load(&s->live_bytes), live[s->header.id % 4096]);
    }
}

/* ---- disk comes back ------------------------------------------------------------------------- */

static void test_an_overwrite_storm_returns_to_twice_the_live_data(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    put_all(store, KEYS * 5, VALUE);
    storm(store, 1, 10000, KEYS * 5, VALUE);
    uint64_t allowed = 2 * live_bytes(store) + dir_use(store, ".ckpt").bytes + replay_bytes(store);
    CHECK(data_bytes(store) <= allowed);
    CHECK(atomic_load(&store->counters.cleaned_segments) > 0);
    live_bytes_must_add_up(store);
    struct bp_buffer before = state_of(store);
    store = test_reopen(sim, &options, store);
    state_must_equal(before, state_of(store));
    clean_all(store);
    live_bytes_must_add_up(store);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_values_are_written_at_most_twice(void) {
    struct bp_sim *sim = bp_sim_new(2);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    put_all(store, KEYS * 5, VALUE);
    storm(store, 2, 12000, KEYS * 5, VALUE);
    uint64_t written = atomic_load(&store->counters.value_bytes_appended),
             copied = atomic_load(&store->counters.cleaned_bytes);
    CHECK(copied > 0);
    CHECK(copied <= written);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_delete_storm_leaves_next_to_nothing(void) {
    struct bp_sim *sim = bp_sim_new(3);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    storm(store, 3, 6000, KEYS, VALUE);
    uint64_t deleted;
    CHECK(test_delete_range(store, "key/", "key0", &deleted) == BP_OK && deleted == KEYS);
    CHECK(test_compact(store, 0) == BP_OK);
    settle(store);
    CHECK_EQ_U64(dir_use(store, ".set").files, 0);
    CHECK(dir_use(store, ".log").bytes <=
          2 * (uint64_t)options.segment_size); /* the one in use, and the next one's */
    struct bp_index_stats stats;
    bp_index_get_stats(store->index, &stats);
    CHECK_EQ_U64(stats.items, 0);
    store = test_reopen(sim, &options, store);
    CHECK_EQ_U64(store->recovery_checkpoint_keys, 0);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_small_values_that_live_are_copied_once_at_most(void) {
    struct bp_sim *sim = bp_sim_new(4);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    for (uint32_t i = 0; i < 60; i++) { /* tiny values: most of every file is not value */
        char prefix[16];
        (void)snprintf(prefix, sizeof prefix, "%02u/", i);
        CHECK(test_batch(store, prefix, 5000, "tiny", NULL) == BP_OK);
    }
    CHECK(test_compact(store, 0) == BP_OK);
    must_checkpoint(store);
    must_checkpoint(store);
    settle(store);
    uint64_t cleaned = atomic_load(&store->counters.cleaned_bytes),
             checkpoints = atomic_load(&store->counters.checkpoints);
    for (uint32_t i = 0; i < 3; i++) {
        must_checkpoint(store);
        settle(store);
    }
    CHECK_EQ_U64(atomic_load(&store->counters.cleaned_bytes), cleaned);
    CHECK_EQ_U64(atomic_load(&store->counters.checkpoints), checkpoints + 3);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_an_idle_store_comes_to_rest_after_any_number_of_restarts(void) {
    struct bp_sim *sim = bp_sim_new(5);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    uint64_t seed = 5;
    for (uint32_t i = 0; i < 12; i++) {
        for (uint32_t k = 0; k < 40; k++) {
            put_random(store, &seed, 100, 1000);
        }
        CHECK(test_compact(store, 0) == BP_OK);
        must_checkpoint(store);
        must_checkpoint(store);
        settle(store);
        CHECK(!bp_checkpoint_due(store));
        store = test_reopen(sim, &options, store);
    }
    CHECK(dir_use(store, ".set").files <= 6);
    CHECK(dir_use(store, ".log").files <= 4);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_history_is_not_cleaned_away(void) {
    struct bp_sim *sim = bp_sim_new(6);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    uint64_t seed = 6;
    for (uint32_t i = 0; i < 6000; i++) { /* nothing is compacted: every version is history */
        put_random(store, &seed, 50, VALUE);
    }
    struct bp_buffer before = state_of(store);
    must_checkpoint(store);
    must_checkpoint(store);
    settle(store);
    CHECK_EQ_U64(atomic_load(&store->counters.cleaned_bytes), 0);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- checkpoints and segments ---------------------------------------------------------------- */

static void test_a_segment_stays_while_a_kept_checkpoint_needs_it(void) {
    struct bp_sim *sim = bp_sim_new(7);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    put_all(store, KEYS * 8, VALUE);
    must_checkpoint(store);
    must_checkpoint(store);
    uint64_t deleted;
    CHECK(test_delete_range(store, "key/", "key0", &deleted) == BP_OK);
    CHECK(test_compact(store, 0) == BP_OK);
    clean_all(store);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(bp_clean_waits(store));
        for (uint32_t c = 0; c < store->keeper.n_checkpoints; c++) {
            for (uint32_t s = 0; s < store->keeper.checkpoints[c].n_segments; s++) {
                CHECK(bp_segments_find(store->segments, store->keeper.checkpoints[c].segments[s]) !=
                      NULL);
            }
        }
        must_checkpoint(store);
        clean_all(store);
    }
    CHECK(!bp_clean_waits(store));
    CHECK(dir_use(store, ".log").bytes <= 2 * (uint64_t)options.segment_size);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_the_older_checkpoint_opens_after_cleaning(void) {
    struct bp_sim *sim = bp_sim_new(8);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    put_all(store, KEYS * 5, VALUE);
    storm(store, 8, 8000, KEYS * 5, VALUE);
    must_checkpoint(store);
    uint64_t seed = 88;
    for (uint32_t i = 0; i < 100; i++) {
        put_random(store, &seed, KEYS * 5, VALUE);
    }
    CHECK(test_compact(store, 0) == BP_OK);
    must_checkpoint(store);
    clean_all(store); /* places change, and what only older checkpoints needed goes */
    struct bp_buffer before = state_of(store);
    char path[4224];
    CHECK(checkpoint_path(store, 0, path));
    bp_store_abandon(store);
    CHECK(bp_sim_flip(sim, path, 30, 1) == 0);
    store = test_must_open(sim, &options);
    CHECK_EQ_U64(store->keeper.n_checkpoints, 1);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_empty_values_outlive_their_segment(void) {
    struct bp_sim *sim = bp_sim_new(9);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    char value[8];
    CHECK(test_put_bytes(store, "empty", "", 0, 0, NULL, NULL) == BP_OK);
    storm(store, 9, 6000, 50, VALUE);
    CHECK(bp_segments_find(store->segments, 1) == NULL); /* where it was written */
    CHECK(test_get(store, "empty", value, sizeof value) && value[0] == 0);
    must_checkpoint(store);
    struct bp_buffer before = state_of(store);
    store = test_reopen(sim, &options, store);
    CHECK(test_get(store, "empty", value, sizeof value) && value[0] == 0);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_large_values_keep_their_chunk_checksums(void) {
    struct bp_sim *sim = bp_sim_new(10);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    static uint8_t value[BP_VALUE_MAX], part[100];
    make_value(value, 700001, 7);
    CHECK(test_put_bytes(store, "large", value, 700001, 0, NULL, NULL) == BP_OK);
    storm(store, 10, 5000, 50, VALUE);
    struct bp_slice key = bp_slice("ularge", 6);
    struct bp_version version;
    struct bp_error err = {0};
    CHECK(bp_index_get(store->index, key, store->next_revision, &version));
    CHECK_EQ_U64(bp_segments_find(store->segments, version.value.at.segment)->header.kind,
                 BP_SEGMENT_SETTLED);
    CHECK_OK(bp_value_read(store->segments, &version.value, 300000, sizeof part, part, &err), &err);
    CHECK(memcmp(part, value + 300000, sizeof part) == 0);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- failures -------------------------------------------------------------------------------- */

/* Two checkpoints, everything compacted, most of the log dead: cleaning has work. */
static struct bp_store *store_with_garbage(struct bp_sim *sim, const struct bp_options *options) {
    struct bp_store *store = test_must_open(sim, options);
    uint64_t seed = 77;
    put_all(store, 300, 2000);
    for (uint32_t i = 0; i < 5500; i++) {
        put_random(store, &seed, 250, 2000); /* keys 250.. stay in the first segment */
    }
    CHECK(test_compact(store, 0) == BP_OK);
    must_checkpoint(store);
    must_checkpoint(store);
    return store;
}

/* Steps until the armed fault strikes or cleaning ends. */
static void clean_into_fault(struct bp_store *store, int site) {
    uint64_t hits = bp_disk_hits(store->disk, site);
    for (uint32_t i = 0; i < 20000 && bp_step_clean(store) != 0; i++) {
        if (bp_disk_hits(store->disk, site) > hits + 3) {
            return;
        }
    }
}

static const int sites[] = {BP_SITE_SETTLED_CREATE, BP_SITE_SETTLED_WRITE,    BP_SITE_SETTLED_SYNC,
                            BP_SITE_SETTLED_RENAME, BP_SITE_SETTLED_DIR_SYNC, BP_SITE_LOG_UNLINK,
                            BP_SITE_SETTLED_UNLINK};
#define SITES (sizeof sites / sizeof sites[0])

static void test_a_failed_step_of_cleaning_loses_nothing(void) {
    const int faults[] = {BP_FAULT_EIO, BP_FAULT_ENOSPC};
    for (uint32_t i = 0; i < SITES * 2 * 2; i++) {
        int site = sites[i / 4], fault = faults[i % 2];
        struct bp_sim *sim = bp_sim_new(100 + i);
        struct bp_options options = small_options();
        struct bp_store *store = store_with_garbage(sim, &options);
        struct bp_buffer before = state_of(store);
        CHECK(bp_disk_arm(store->disk, site, fault, 1 + i / 2 % 2, 1, 0) == 0);
        clean_into_fault(store, site);
        struct bp_buffer after = state_of(store);
        struct bp_buffer copy = {0};
        bp_buffer_append(&copy, before.data, before.size);
        state_must_equal(copy, after);
        settle(store); /* the next attempt succeeds */
        CHECK(atomic_load(&store->counters.cleaned_segments) > 0);
        live_bytes_must_add_up(store);
        store = test_reopen(sim, &options, store);
        state_must_equal(before, state_of(store));
        bp_store_abandon(store);
        bp_sim_free(sim);
    }
}

static void crash_once(int site, int fault, uint64_t hit, uint32_t keep) {
    struct bp_sim *sim = bp_sim_new((uint64_t)site * 1000 + hit * 10 + keep);
    struct bp_options options = small_options();
    struct bp_store *store = store_with_garbage(sim, &options);
    struct bp_buffer before = state_of(store);
    CHECK(bp_disk_arm(store->disk, site, fault, hit, 1, 0) == 0);
    clean_into_fault(store, site);
    bp_store_abandon(store);
    bp_sim_power_cut(sim, keep);
    store = test_must_open(sim, &options);
    struct bp_buffer copy = {0};
    bp_buffer_append(&copy, before.data, before.size);
    state_must_equal(copy, state_of(store));
    settle(store);
    must_checkpoint(store);
    settle(store);
    live_bytes_must_add_up(store);
    bp_store_abandon(store);
    bp_sim_power_cut(sim, keep);
    store = test_must_open(sim, &options);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_crash_at_any_step_of_cleaning_loses_nothing(void) {
    const int faults[] = {BP_FAULT_SHORT, BP_FAULT_CRASH, BP_FAULT_CRASH_AFTER};
    for (uint32_t site = 0; site < SITES; site++) {
        for (uint32_t fault = 0; fault < 3; fault++) {
            for (uint64_t hit = 1; hit <= 2; hit++) {
                crash_once(sites[site], faults[fault], hit, (uint32_t)hit * 512 - 512);
            }
        }
    }
}

static void test_power_cuts_between_cleaning_and_checkpoints_lose_nothing(void) {
    struct bp_options options = small_options();
    struct bp_sim *sim = bp_sim_new(300);
    struct bp_store *store = store_with_garbage(sim, &options);
    struct bp_buffer before = state_of(store);
    uint32_t cuts = 0;
    for (uint32_t i = 0; i < 400; i++) {
        (void)bp_step_clean(store);
        if (i % 40 == 39) {
            must_checkpoint(store);
        }
        if (i % 7 != 0) {
            continue;
        }
        struct bp_sim *copy = bp_sim_clone(sim, i);
        bp_sim_power_cut(copy, i % 3 * 512);
        struct bp_store *other = test_must_open(copy, &options);
        struct bp_buffer same = {0};
        bp_buffer_append(&same, before.data, before.size);
        state_must_equal(same, state_of(other));
        bp_store_abandon(other);
        bp_sim_free(copy);
        cuts++;
    }
    CHECK(cuts > 3);
    bp_buffer_free(&before);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void find_place(struct bp_store *store, const char *stored_key, struct bp_value_ref *value) {
    struct bp_version version;
    CHECK(bp_index_get(store->index, bp_slice(stored_key, strlen(stored_key)), store->next_revision,
                       &version));
    *value = version.value;
}

static void test_a_segment_with_a_damaged_value_is_kept_and_reported(void) {
    struct bp_sim *sim = bp_sim_new(400);
    struct bp_options options = small_options();
    struct bp_store *store = store_with_garbage(sim, &options);
    struct bp_value_ref value;
    char path[4224], got[2100];
    find_place(store, "ukey/000290", &value);
    bp_segment_path(store->segments, value.at.segment, BP_SEGMENT_LOG, false, path, sizeof path);
    CHECK(bp_sim_flip(sim, path, value.at.offset + 77, 5) == 0);
    settle(store);
    struct bp_segment *kept = bp_segments_find(store->segments, value.at.segment);
    CHECK(kept != NULL && kept->damaged);
    CHECK(atomic_load(&store->counters.scrub_findings) == 1);
    struct bp_error err = {0};
    uint32_t size;
    CHECK(bp_get(store, BP_KEYSPACE_USER, "key/000290", 10, got, sizeof got, &size, NULL, &err) ==
          BP_DATA_LOSS);
    CHECK(test_get(store, "key/000289", got, sizeof got)); /* its neighbours are fine */
    CHECK(test_get(store, "key/000010", got, sizeof got));
    /* The damaged value is overwritten: now nothing needs the segment. */
    for (uint32_t i = 250; i < 300; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "key/%06u", i);
        CHECK(test_put(store, key, "new", NULL) == BP_OK);
    }
    CHECK(test_compact(store, 0) == BP_OK);
    must_checkpoint(store);
    must_checkpoint(store);
    settle(store);
    CHECK(bp_segments_find(store->segments, value.at.segment) == NULL);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_damaged_settled_value_is_kept_and_reported(void) {
    struct bp_sim *sim = bp_sim_new(401);
    struct bp_options options = small_options();
    struct bp_store *store = store_with_garbage(sim, &options);
    settle(store);
    struct bp_value_ref value;
    char path[4224];
    find_place(store, "ukey/000290", &value);
    CHECK_EQ_U64(bp_segments_find(store->segments, value.at.segment)->header.kind,
                 BP_SEGMENT_SETTLED);
    bp_segment_path(store->segments, value.at.segment, BP_SEGMENT_SETTLED, false, path,
                    sizeof path);
    CHECK(bp_sim_flip(sim, path, value.at.offset + 77, 5) == 0);
    uint64_t deleted; /* its neighbours die, so the segment is worth cleaning */
    CHECK(test_delete_range(store, "key/000250", "key/000290", &deleted) == BP_OK && deleted == 40);
    CHECK(test_compact(store, 0) == BP_OK);
    settle(store);
    struct bp_segment *kept = bp_segments_find(store->segments, value.at.segment);
    CHECK(kept != NULL && kept->damaged);
    CHECK_EQ_U64(atomic_load(&store->counters.scrub_findings), 1);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- a victim that dies ---------------------------------------------------------------------- */

static void test_a_victim_that_dies_meanwhile_stays_until_it_is_let_go(void) {
    struct bp_sim *sim = bp_sim_new(499);
    struct bp_options options = small_options();
    struct bp_store *store = test_must_open(sim, &options);
    put_all(store, KEYS * 5, VALUE);
    must_checkpoint(store);
    for (uint64_t seed = 1, i = 0; i < KEYS * 5; i++) {
        put_random(store, &seed, KEYS * 5, VALUE);
    }
    CHECK(test_compact(store, 0) == BP_OK);
    must_checkpoint(store);
    must_checkpoint(store);
    while (store->keeper.cleaner == NULL || store->keeper.cleaner->victim == 0) {
        CHECK(bp_step_clean(store) == 1);
    }
    uint32_t victim = store->keeper.cleaner->victim;
    for (uint32_t i = 0; i < KEYS * 5; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "key/%06u", i);
        CHECK(test_delete(store, key, NULL) == BP_OK);
    }
    CHECK(test_compact(store, 0) == BP_OK);
    while (bp_index_trim(store->index, atomic_load(&store->floor), 256)) {
    }
    CHECK_EQ_U64(atomic_load(&bp_segments_find(store->segments, victim)->live_bytes), 0);
    must_checkpoint(store);
    must_checkpoint(store);
    while (bp_clean_reap(store)) {
    }
    CHECK(bp_segments_find(store->segments, victim) != NULL);
    settle(store);
    CHECK(bp_segments_find(store->segments, victim) == NULL);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- readers --------------------------------------------------------------------------------- */

static void test_a_reader_inside_a_read_keeps_the_segment(void) {
    struct bp_sim *sim = bp_sim_new(501);
    struct bp_options options = small_options();
    struct bp_store *store = store_with_garbage(sim, &options);
    static uint8_t value[4096];
    struct bp_value_ref place;
    struct bp_error err = {0};
    uint32_t token = bp_epoch_enter(&store->epoch);
    find_place(store, "ukey/000290", &place);
    settle(store);
    must_checkpoint(store);
    must_checkpoint(store);
    settle(store);
    struct bp_value_ref moved;
    find_place(store, "ukey/000290", &moved);
    CHECK(moved.at.segment != place.at.segment);
    CHECK_OK(bp_value_read(store->segments, &place, 0, place.size, value, &err),
             &err); /* as it was when the reader came */
    bp_epoch_leave(&store->epoch, token);
    settle(store);
    CHECK(bp_segments_find(store->segments, place.at.segment) == NULL);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- the record ------------------------------------------------------------------------------ */

static void test_a_settled_record_is_read_back_and_any_flip_is_noticed(void) {
    const uint32_t sizes[] = {1, 7, 8, 65536, 65537, 200000};
    for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *buf = malloc(BP_SETTLED_RECORD_MAX), *value = malloc(sizes[i]), table[64 + 8];
        CHECK(buf != NULL && value != NULL);
        make_value(value, sizes[i], i);
        struct bp_slice key = bp_slice("ukey", 4), bytes = bp_slice(value, sizes[i]);
        struct bp_version version = {.revision = 9, .create_revision = 5, .lease = 3, .version = 2};
        version.value.size = sizes[i];
        version.value.crc = bp_value_checksum(bytes, table);
        uint32_t value_at = bp_settled_encode(buf, 77, key, &version, table, bytes),
                 size = bp_settled_size(4, sizes[i]);
        struct bp_settled_record record;
        CHECK(bp_settled_decode(buf, size, 6, 4096, 77, &record) == BP_OK);
        CHECK(record.size == size && bp_slice_equal(record.key, key));
        CHECK(record.version.revision == 9 && record.version.create_revision == 5 &&
              record.version.lease == 3);
        CHECK(record.version.value.at.segment == 6 &&
              record.version.value.at.offset == 4096 + value_at);
        CHECK(bp_settled_decode(buf, size - 1, 6, 4096, 77, &record) == BP_OUT_OF_RANGE);
        CHECK(bp_settled_decode(buf, size, 6, 4096, 78, &record) == BP_OUT_OF_RANGE);
        for (uint32_t at = 0; at < value_at; at++) {
            buf[at] ^= 4;
            bool padding = at >= BP_SETTLED_RECORD + 4 && at < BP_SETTLED_RECORD + 8;
            CHECK(padding || bp_settled_decode(buf, size, 6, 4096, 77, &record) == BP_OUT_OF_RANGE);
            buf[at] ^= 4;
        }
        free(buf);
        free(value);
    }
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_an_overwrite_storm_returns_to_twice_the_live_data);
    RUN(test_values_are_written_at_most_twice);
    RUN(test_a_delete_storm_leaves_next_to_nothing);
    RUN(test_small_values_that_live_are_copied_once_at_most);
    RUN(test_an_idle_store_comes_to_rest_after_any_number_of_restarts);
    RUN(test_history_is_not_cleaned_away);
    RUN(test_a_segment_stays_while_a_kept_checkpoint_needs_it);
    RUN(test_the_older_checkpoint_opens_after_cleaning);
    RUN(test_empty_values_outlive_their_segment);
    RUN(test_large_values_keep_their_chunk_checksums);
    RUN(test_a_failed_step_of_cleaning_loses_nothing);
    RUN(test_a_crash_at_any_step_of_cleaning_loses_nothing);
    RUN(test_power_cuts_between_cleaning_and_checkpoints_lose_nothing);
    RUN(test_a_segment_with_a_damaged_value_is_kept_and_reported);
    RUN(test_a_damaged_settled_value_is_kept_and_reported);
    RUN(test_a_victim_that_dies_meanwhile_stays_until_it_is_let_go);
    RUN(test_a_reader_inside_a_read_keeps_the_segment);
    RUN(test_a_settled_record_is_read_back_and_any_flip_is_noticed);
    TESTS_END;
}

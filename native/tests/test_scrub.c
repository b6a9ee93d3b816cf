/*
 * Scrubbing: what is sound gives no finding, what is damaged is named with file, offset, key and
 * revision, before any client asks for it.
 */
#include <pthread.h>

#include "../src/checkpoint.h"
#include "../src/scrub_internal.h"
#include "store_util.h"

struct pass {
    uint32_t findings, steps;
    uint64_t bytes, most_bytes; /* in all; in one step */
    struct bp_finding last;
};

static struct pass scrub(struct bp_store *store) {
    struct pass pass = {0};
    struct bp_scrub *scrub = bp_scrub_new(store);
    CHECK(scrub != NULL);
    static struct bp_finding finding;
    int result;
    do {
        struct bp_error err = {0};
        uint64_t before = pass.bytes;
        result = bp_scrub_next(scrub, &finding, &pass.bytes, &err);
        if (result > 2) {
            fprintf(stderr, "scrub failed: %s\n", err.message);
        }
        CHECK(result <= 2);
        if (result == 1) {
            pass.findings++;
            pass.last = finding;
        }
        uint64_t step = pass.bytes - before;
        pass.most_bytes = step > pass.most_bytes ? step : pass.most_bytes;
        CHECK(++pass.steps < 100000);
    } while (result != 2);
    bp_scrub_free(scrub);
    return pass;
}

static struct bp_version version_of(struct bp_store *store, const char *stored_key,
                                    uint64_t revision) {
    struct bp_version version;
    CHECK(bp_index_get(store->index, bp_slice(stored_key, strlen(stored_key)), revision, &version));
    return version;
}

static void flip(struct bp_sim *sim, struct bp_store *store, struct bp_pos at) {
    char path[BP_PATH_MAX];
    const struct bp_segment *segment = bp_segments_find(store->segments, at.segment);
    CHECK(segment != NULL);
    bp_segment_path(store->segments, at.segment, segment->header.kind, false, path, sizeof path);
    CHECK(bp_sim_flip(sim, path, at.offset, 5) == 0);
}

static uint8_t large[300001];

static void fill(struct bp_store *store) {
    memset(large, 'l', sizeof large);
    CHECK(test_put(store, "a", "one", NULL) == BP_OK);
    CHECK(test_put(store, "a", "two", NULL) == BP_OK);
    CHECK(test_put(store, "gone", "x", NULL) == BP_OK);
    CHECK(test_delete(store, "gone", NULL) == BP_OK);
    CHECK(test_put(store, "empty", "", NULL) == BP_OK);
    CHECK(test_put_bytes(store, "large", large, sizeof large, 0, NULL, NULL) == BP_OK);
    CHECK(test_batch(store, "many", 3000, "a value of some bytes", NULL) == BP_OK);
}

static void test_a_sound_store_has_no_findings(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    CHECK_EQ_U64(scrub(store).findings, 0); /* the empty one, too */
    fill(store);
    struct bp_error err = {0};
    CHECK_OK(bp_step_checkpoint(store, 1, &err), &err);
    struct pass pass = scrub(store);
    CHECK_EQ_U64(pass.findings, 0);
    CHECK_EQ_U64(bp_pins_min(store), UINT64_MAX);
    CHECK(pass.bytes >= sizeof large + 3000 * 21);
    bp_store_abandon(store);
    store = test_must_open(sim, &options); /* now there is a closed log segment */
    pass = scrub(store);
    CHECK_EQ_U64(pass.findings, 0);
    struct bp_status status;
    bp_get_status(store, &status);
    CHECK_EQ_U64(status.scrubbed_bytes, pass.bytes);
    CHECK_EQ_U64(status.scrub_findings, 0);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_flipped_byte_in_any_retained_value_is_found(void) {
    struct bp_sim *original = bp_sim_new(2);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(original, &options);
    fill(store);
    bp_store_abandon(store);
    static const struct {
        const char *key;
        uint64_t revision;
        uint32_t offset;
    } places[] = {{"ua", 2, 1},
                  {"ua", 3, 0},
                  {"ularge", UINT64_MAX, 0},
                  {"ularge", UINT64_MAX, 200000},
                  {"umany002999", UINT64_MAX, 20}};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct bp_sim *sim = bp_sim_clone(original, i);
        store = test_must_open(sim, &options);
        struct bp_version version = version_of(store, places[i].key, places[i].revision);
        struct bp_pos at = version.value.at;
        at.offset += places[i].offset;
        flip(sim, store, at);
        struct pass pass = scrub(store);
        CHECK(pass.findings >= 1);
        /* A closed log segment may report its frame, too; the value comes first. */
        struct bp_scrub *again = bp_scrub_new(store);
        static struct bp_finding finding;
        struct bp_error err = {0};
        uint64_t bytes = 0;
        int result;
        while ((result = bp_scrub_next(again, &finding, &bytes, &err)) == 0) {
        }
        CHECK_EQ_U64(result, 1);
        CHECK(finding.key_size == strlen(places[i].key) &&
              memcmp(finding.key, places[i].key, finding.key_size) == 0);
        CHECK_EQ_U64(finding.revision, version.revision);
        CHECK_EQ_U64(finding.offset, version.value.at.offset);
        CHECK(strstr(finding.file, ".log") != NULL && finding.message[0] != 0);
        bp_scrub_free(again);
        CHECK(bp_segments_find(store->segments, version.value.at.segment)->damaged);
        bp_store_abandon(store);
        bp_sim_free(sim);
    }
    bp_sim_free(original);
}

static void test_every_one_of_many_damages_is_found(void) {
    struct bp_sim *sim = bp_sim_new(3);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    fill(store);
    for (int i = 0; i < 10; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "umany%06d", i * 300 + i % 2);
        flip(sim, store, version_of(store, key, UINT64_MAX).value.at);
    }
    flip(sim, store, version_of(store, "ua", 2).value.at); /* both versions of one key */
    flip(sim, store, version_of(store, "ua", 3).value.at);
    CHECK_EQ_U64(scrub(store).findings, 12);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_value_the_disk_will_not_read_is_a_finding(void) {
    struct bp_sim *sim = bp_sim_new(4);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    fill(store);
    CHECK(bp_disk_arm(store->disk, BP_SITE_SCRUB_READ, BP_FAULT_EIO, 5, 1, 0) == 0);
    CHECK_EQ_U64(scrub(store).findings, 1);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_damaged_checkpoint_is_found(void) {
    struct bp_sim *original = bp_sim_new(5);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(original, &options);
    fill(store);
    struct bp_error err = {0};
    CHECK_OK(bp_step_checkpoint(store, 1, &err), &err);
    uint64_t *numbers, size;
    uint32_t n;
    CHECK_OK(bp_ckpt_list(store->disk, store->dir, &numbers, &n, &err), &err);
    CHECK_EQ_U64(n, 1);
    char path[BP_CKPT_PATH_MAX];
    bp_ckpt_path("store", numbers[0], false, path);
    CHECK(bp_sim_file_size(original, path, &size) == 0);
    for (uint64_t at = 3; at < size; at += size / 40) {
        CHECK(bp_sim_flip(original, path, at, 1) == 0);
        struct pass pass = scrub(store);
        CHECK_EQ_U64(pass.findings, 1);
        CHECK(strstr(pass.last.file, ".ckpt") != NULL && pass.last.key_size == 0);
        CHECK(bp_sim_flip(original, path, at, 1) == 0);
    }
    CHECK_EQ_U64(scrub(store).findings, 0);
    free(numbers);
    bp_store_abandon(store);
    bp_sim_free(original);
}

/* Not in a value: in what the next start would have to replay. */
static void test_a_damaged_frame_of_a_closed_log_segment_is_found(void) {
    struct bp_sim *sim = bp_sim_new(6);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    CHECK(test_put(store, "key", "value", NULL) == BP_OK);
    struct bp_error err = {0};
    CHECK_OK(bp_close(store, &err), &err); /* a crash would have the tail copied */
    store = test_must_open(sim, &options);
    struct bp_pos at = version_of(store, "ukey", UINT64_MAX).value.at;
    CHECK(bp_segments_next(store->segments, at.segment) != NULL);
    at.offset -= 4; /* the key before it */
    flip(sim, store, at);
    struct pass pass = scrub(store);
    CHECK_EQ_U64(pass.findings, 1);
    CHECK(pass.last.key_size == 0 && strstr(pass.last.file, ".log") != NULL);
    CHECK(pass.last.offset < at.offset);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_an_index_that_does_not_add_up_is_found(void) {
    struct bp_sim *sim = bp_sim_new(7);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    for (int i = 0; i < 3; i++) {
        char prefix[32];
        (void)snprintf(prefix, sizeof prefix, "p%d-", i);
        CHECK(test_batch(store, prefix, 9000, "v", NULL) == BP_OK);
    }
    static struct bp_finding finding;
    for (int broken = 0; broken < 2; broken++) {
        struct bp_scrub *pass = bp_scrub_new(store);
        struct bp_error err = {0};
        uint64_t bytes = 0;
        CHECK_EQ_U64(bp_scrub_next(pass, &finding, &bytes, &err), 0);
        CHECK(pass->stage == BP_SCRUB_HASH && pass->pinned); /* too many keys for one step */
        CHECK(test_put(store, "p0-000001", "written meanwhile", NULL) == BP_OK);
        pass->expected[1] ^= (uint64_t)broken;
        int result = 0;
        while (pass->stage == BP_SCRUB_HASH && result == 0) {
            result = bp_scrub_next(pass, &finding, &bytes, &err);
        }
        CHECK_EQ_U64(result, broken);
        CHECK(!pass->pinned && finding.key_size == 0 && finding.file[0] == 0);
        bp_scrub_free(pass);
    }
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_steps_are_bounded_also_for_a_key_with_many_versions(void) {
    struct bp_sim *sim = bp_sim_new(8);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    enum { VERSIONS = 40000 };
    for (int i = 0; i < VERSIONS; i++) {
        CHECK(test_put(store, "hot", "0123456789", NULL) == BP_OK);
    }
    for (int i = 0; i < 8; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "large%d", i);
        CHECK(test_put_bytes(store, key, large, sizeof large, 0, NULL, NULL) == BP_OK);
    }
    struct pass pass = scrub(store);
    CHECK_EQ_U64(pass.findings, 0);
    CHECK(pass.bytes >= VERSIONS * 10 + 8 * sizeof large);
    CHECK(pass.bytes < 3 * (VERSIONS * 10 + 8 * sizeof large));
    CHECK(pass.most_bytes <= 2u << 20);
    flip(sim, store, version_of(store, "uhot", 100).value.at); /* deep down */
    pass = scrub(store);
    CHECK_EQ_U64(pass.findings, 1);
    CHECK_EQ_U64(pass.last.revision, 100);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_the_background_keeps_its_pace(void) {
    struct bp_sim *sim = bp_sim_new(9);
    struct bp_options options = test_options();
    options.scrub_bytes_per_s = 1 << 20;
    struct bp_store *store = test_must_open(sim, &options);
    for (int i = 0; i < 60; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "large%02d", i);
        CHECK(test_put_bytes(store, key, large, sizeof large, 0, NULL, NULL) == BP_OK);
    }
    struct bp_status status;
    (void)bp_scrub_background(store); /* looks at the clock */
    for (int tick = 0; tick < 100; tick++) {
        bp_sim_advance_ns(sim, UINT64_C(100000000));
        (void)bp_scrub_background(store);
    }
    bp_get_status(store, &status);
    CHECK(status.scrubbed_bytes >= 8u << 20 && status.scrubbed_bytes <= 12u << 20); /* 10 s */
    for (int tick = 0; tick < 300; tick++) {
        bp_sim_advance_ns(sim, UINT64_C(100000000));
        (void)bp_scrub_background(store);
    }
    bp_get_status(store, &status);
    uint64_t pass = status.scrubbed_bytes;
    CHECK(pass >= 60 * sizeof large &&
          pass < 121 * sizeof large); /* values, log segments; no second pass yet */
    flip(sim, store, version_of(store, "ularge07", UINT64_MAX).value.at);
    for (int tick = 0; tick < 700; tick++) {
        bp_sim_advance_ns(sim, UINT64_C(10000000000));
        (void)bp_scrub_background(store);
    }
    bp_get_status(store, &status);
    CHECK_EQ_U64(status.scrub_findings, 2); /* the value, and the frame it lies in */
    CHECK(status.scrubbed_bytes >= pass + 60 * sizeof large);
    bp_scrubber_free(store->keeper.scrubber);
    store->keeper.scrubber = NULL;
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* An hour must not pass before what a new store was given is looked at for the first time. */
static void test_a_pass_over_an_empty_store_does_not_put_off_the_first_real_one(void) {
    struct bp_sim *sim = bp_sim_new(11);
    struct bp_options options = test_options();
    options.scrub_bytes_per_s = 1 << 20;
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_status status;
    for (int second = 0; second < 300; second++) {
        (void)bp_scrub_background(store);
        bp_sim_advance_ns(sim, UINT64_C(1000000000));
    }
    bp_get_status(store, &status);
    CHECK_EQ_U64(status.scrubbed_bytes, 0);
    for (int i = 0; i < 8; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "large%02d", i);
        CHECK(test_put_bytes(store, key, large, sizeof large, 0, NULL, NULL) == BP_OK);
    }
    for (int second = 0; second < 60 + 20; second++) {
        bp_sim_advance_ns(sim, UINT64_C(1000000000));
        (void)bp_scrub_background(store);
    }
    bp_get_status(store, &status);
    uint64_t pass = status.scrubbed_bytes;
    CHECK(pass >= 8 * sizeof large);
    for (int second = 0; second < 3400; second++) { /* and that one counts */
        bp_sim_advance_ns(sim, UINT64_C(1000000000));
        (void)bp_scrub_background(store);
    }
    bp_get_status(store, &status);
    CHECK_EQ_U64(status.scrubbed_bytes, pass);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- beside everything else ----------------------------------------------------------------- */

static void *write_and_clean(void *arg) {
    struct bp_store *store = arg;
    for (int i = 0; i < 1500; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "k%d", i % 50);
        CHECK(test_put_bytes(store, key, large, 100 + (uint32_t)i * 20, 0, NULL, NULL) == BP_OK);
        if (i % 100 == 99) {
            struct bp_error err = {0};
            CHECK(test_compact(store, atomic_load(&store->revision)) == BP_OK);
            CHECK_OK(bp_step_checkpoint(store, 1, &err), &err);
            for (int step = 0; step < 500 && bp_step_clean(store); step++) {
            }
        }
    }
    return NULL;
}

static void test_scrubbing_beside_writes_and_cleaning_finds_nothing(void) {
    struct bp_sim *sim = bp_sim_new(10);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, write_and_clean, store) == 0);
    for (int i = 0; i < 20; i++) {
        struct pass pass = scrub(store);
        if (pass.findings != 0) {
            fprintf(stderr, "%s %llu: %s\n", pass.last.file, (unsigned long long)pass.last.offset,
                    pass.last.message);
        }
        CHECK_EQ_U64(pass.findings, 0);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_a_sound_store_has_no_findings);
    RUN(test_a_flipped_byte_in_any_retained_value_is_found);
    RUN(test_every_one_of_many_damages_is_found);
    RUN(test_a_value_the_disk_will_not_read_is_a_finding);
    RUN(test_a_damaged_checkpoint_is_found);
    RUN(test_a_damaged_frame_of_a_closed_log_segment_is_found);
    RUN(test_an_index_that_does_not_add_up_is_found);
    RUN(test_steps_are_bounded_also_for_a_key_with_many_versions);
    RUN(test_the_background_keeps_its_pace);
    RUN(test_a_pass_over_an_empty_store_does_not_put_off_the_first_real_one);
    RUN(test_scrubbing_beside_writes_and_cleaning_finds_nothing);
    TESTS_END;
}

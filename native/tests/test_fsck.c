/*
 * fsck: says what is there without changing a byte, knows a torn tail from damage, and saves what
 * is intact.
 */
#include "../src/checkpoint.h"
#include "../src/fsck.h"
#include "store_util.h"

struct result {
    int code;
    struct bp_error err;
    char text[16384];
};

static void fsck(struct bp_sim *sim, const char *rebuild, struct result *result) {
    struct bp_disk *disk = test_disk(sim);
    struct bp_reply reply;
    memset(result, 0, sizeof *result);
    result->code = bp_fsck_on(disk, "store", rebuild, &reply, &result->err);
    CHECK(reply.size < sizeof result->text);
    if (reply.size > 0) {
        memcpy(result->text, reply.data, reply.size);
    }
    bp_reply_free(&reply);
    bp_disk_free(disk);
}

static void expect(const struct result *result, int code, const char *words) {
    if (result->code != code || strstr(result->text, words) == NULL) {
        fprintf(stderr, "code %d (%s), expected %d and \"%s\" in:\n%s", result->code,
                result->err.message, code, words, result->text);
        exit(1);
    }
}

/* Bytes written to the medium: what fsck must not add to. */
static void expect_untouched(struct bp_sim *sim, uint64_t written, uint64_t syncs) {
    CHECK_EQ_U64(bp_sim_bytes_written(sim), written);
    CHECK_EQ_U64(bp_sim_sync_count(sim), syncs);
}

static uint8_t large[100001];

/* A store with a checkpoint, settled segments and log behind it; closed cleanly. */
static void make(struct bp_sim *sim) {
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_error err = {0};
    memset(large, 'l', sizeof large);
    for (int i = 0; i < 200; i++) { /* garbage around values that live: two segments to clean */
        char key[32];
        (void)snprintf(key, sizeof key, i % 10 == 0 ? "keep%03d" : "churn", i);
        CHECK(test_put_bytes(store, key, large, sizeof large - (uint32_t)i, 0, NULL, NULL) ==
              BP_OK);
    }
    CHECK(test_grant(store, 5, 60000) == BP_OK);
    CHECK(test_put_bytes(store, "leased", "v", 1, 5, NULL, NULL) == BP_OK);
    CHECK(test_put(store, "gone", "x", NULL) == BP_OK);
    CHECK(test_compact(store, atomic_load(&store->revision)) == BP_OK);
    for (int round = 0; round < 4; round++) {
        CHECK_OK(bp_step_checkpoint(store, 1, &err), &err);
        for (int i = 0; i < 5000 && bp_step_clean(store); i++) {
        }
    }
    CHECK(test_delete(store, "gone", NULL) == BP_OK);
    CHECK(test_put(store, "after", "the checkpoint", NULL) == BP_OK);
    CHECK_OK(bp_close(store, &err), &err);
}

struct search {
    const char *suffix;
    char *name;
    bool last;
};

static int match(void *arg, const char *name) {
    struct search *search = arg;
    size_t n = strlen(name), m = strlen(search->suffix);
    if (n >= m && strcmp(name + n - m, search->suffix) == 0 &&
        (search->name[0] == 0 || (strcmp(name, search->name) > 0) == search->last)) {
        (void)snprintf(search->name, 64, "%s", name);
    }
    return 0;
}

/* The first (or last) file of a kind by name. */
static bool find_file(struct bp_sim *sim, const char *suffix, bool last, char name[64]) {
    struct bp_disk *disk = test_disk(sim);
    struct search search = {.suffix = suffix, .name = name, .last = last};
    name[0] = 0;
    CHECK(bp_disk_list(disk, "store", match, &search) == 0);
    bp_disk_free(disk);
    return name[0] != 0;
}

static void path_in_store(const char *name, char path[80]) {
    (void)snprintf(path, 80, "store/%.64s", name);
}

static void remove_file(struct bp_sim *sim, const char *path) {
    struct bp_disk *disk = test_disk(sim);
    CHECK(bp_disk_unlink(disk, BP_SITE_NONE, path) == 0);
    bp_disk_free(disk);
}

/* ---- reports -------------------------------------------------------------------------------- */

static void test_a_sound_store_is_called_sound_and_left_alone(void) {
    struct bp_sim *sim = bp_sim_new(1);
    static struct result result;
    make(sim);
    uint64_t written = bp_sim_bytes_written(sim), syncs = bp_sim_sync_count(sim);
    fsck(sim, NULL, &result);
    expect(&result, BP_OK, "advice: nothing to do");
    expect(&result, BP_OK, "checkpoint ");
    expect(&result, BP_OK, ".set: good");
    expect(&result, BP_OK, ".log: good");
    expect(&result, BP_OK, "open: it would, with");
    CHECK(strstr(result.text, "DAMAGED") == NULL);
    expect_untouched(sim, written, syncs);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    char value[64];
    CHECK(test_get(store, "after", value, sizeof value));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_a_running_daemon_is_left_alone(void) {
    struct bp_sim *sim = bp_sim_new(2);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    static struct result result;
    fsck(sim, NULL, &result);
    CHECK_EQ_U64(result.code, BP_FAILED_PRECONDITION);
    CHECK_EQ_U64(result.err.reason, BP_REASON_STORE_LOCKED);
    bp_store_abandon(store);
    struct bp_disk *disk = test_disk(sim);
    struct bp_reply reply;
    CHECK(bp_fsck_on(disk, "nowhere", NULL, &reply, &result.err) != BP_OK);
    CHECK(bp_disk_mkdir(disk, "empty") == 0);
    CHECK_EQ_U64(bp_fsck_on(disk, "empty", NULL, &reply, &result.err), BP_FAILED_PRECONDITION);
    CHECK(bp_disk_open(disk, BP_SITE_NONE, "empty/LOCK", BP_O_READ) < 0);
    bp_disk_free(disk);
    bp_sim_free(sim);
}

/* After a power cut: the same verdict as a start, whatever was lost. */
static void test_a_torn_tail_is_not_damage(void) {
    uint32_t torn = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct bp_sim *sim = bp_sim_new(seed);
        struct bp_options options = test_options();
        struct bp_store *store = test_must_open(sim, &options);
        for (int i = 0; i < 20; i++) {
            CHECK(test_put(store, "k", "some value", NULL) == BP_OK);
        }
        bp_sim_cut_after_bytes(sim, 300 + seed * 37);
        for (int i = 0; i < 10; i++) {
            (void)test_put_bytes(store, "l", large, 3000, 0, NULL, NULL);
        }
        bp_store_abandon(store);
        bp_sim_power_cut(sim, 512);
        static struct result result;
        uint64_t written = bp_sim_bytes_written(sim);
        fsck(sim, NULL, &result);
        expect(&result, BP_OK, "open: it would, with");
        CHECK(strstr(result.text, "DAMAGED") == NULL);
        CHECK_EQ_U64(bp_sim_bytes_written(sim), written);
        torn += strstr(result.text, "torn tail") != NULL;
        store = test_must_open(sim, &options);
        bp_store_abandon(store);
        bp_sim_free(sim);
    }
    CHECK(torn > 5);
}

static void test_damage_is_named_with_file_and_offset(void) {
    struct bp_sim *original = bp_sim_new(4);
    static struct result result;
    make(original);
    char name[64], path[80];
    static const char *const kinds[] = {".log", ".set", ".ckpt"};
    for (size_t i = 0; i < 3; i++) {
        struct bp_sim *sim = bp_sim_clone(original, i);
        uint64_t size;
        CHECK(find_file(sim, kinds[i], i == 2, name));
        path_in_store(name, path);
        CHECK(bp_sim_file_size(sim, path, &size) == 0);
        CHECK(bp_sim_flip(sim, path, i == 2 ? size / 2 : 4096 + 300, 2) == 0);
        fsck(sim, NULL, &result);
        expect(&result, BP_DATA_LOSS, name);
        char line[96];
        (void)snprintf(line, sizeof line, "%s %s: DAMAGED", i == 2 ? "checkpoint" : "segment",
                       name);
        expect(&result, BP_DATA_LOSS, line);
        CHECK(strstr(result.text, i == 1 ? "record at offset 4096" : "offset ") != NULL);
        CHECK(strstr(result.text, "advice: nothing to do") == NULL);
        bp_sim_free(sim);
    }
    bp_sim_free(original);
}

static void test_a_missing_file_is_noticed(void) {
    struct bp_sim *original = bp_sim_new(5);
    static struct result result;
    make(original);
    char name[64], path[80];
    static const char *const kinds[] = {".log", ".set", "STORE"};
    for (size_t i = 0; i < 3; i++) {
        struct bp_sim *sim = bp_sim_clone(original, i);
        CHECK(find_file(sim, kinds[i], true, name));
        path_in_store(name, path);
        remove_file(sim, path);
        fsck(sim, NULL, &result);
        expect(&result, BP_DATA_LOSS, "open: it would NOT");
        expect(&result, BP_DATA_LOSS, "--rebuild");
        bp_sim_free(sim);
    }
    bp_sim_free(original);
}

/* ---- rebuilding ----------------------------------------------------------------------------- */

static struct bp_store *open_rebuilt(struct bp_sim *sim) {
    struct bp_options options = test_options();
    options.dir = "rebuilt";
    return test_must_open(sim, &options);
}

static uint32_t count_kept(struct bp_store *store) {
    uint32_t n = 0, size;
    static uint8_t value[1 << 20];
    for (int i = 0; i < 200; i += 10) {
        char key[32];
        (void)snprintf(key, sizeof key, "keep%03d", i);
        struct bp_error err = {0};
        int code = bp_get(store, BP_KEYSPACE_USER, key, 7, value, sizeof value, &size, NULL, &err);
        CHECK(code == BP_OK || code == BP_NOT_FOUND);
        if (code == BP_OK) {
            CHECK(size == sizeof large - (uint32_t)i && memcmp(value, large, size) == 0);
            n++;
        }
    }
    return n;
}

static void test_rebuilding_a_sound_store_loses_nothing(void) {
    struct bp_sim *sim = bp_sim_new(6);
    static struct result result;
    make(sim);
    fsck(sim, "rebuilt", &result);
    expect(&result, BP_OK, " 0 keys LOST");
    CHECK(strstr(result.text, "lost\n") == NULL);
    struct bp_store *store = open_rebuilt(sim);
    char value[64];
    CHECK_EQ_U64(count_kept(store), 20);
    CHECK(test_get(store, "after", value, sizeof value) && strcmp(value, "the checkpoint") == 0);
    CHECK(!test_get(store, "gone", value, sizeof value));
    uint64_t deleted;
    CHECK(test_revoke(store, 5, &deleted) == BP_OK);
    CHECK_EQ_U64(deleted, 1);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_rebuilding_without_checkpoints_uses_log_and_settled_segments(void) {
    struct bp_sim *sim = bp_sim_new(7);
    static struct result result;
    char name[64], path[80];
    make(sim);
    while (find_file(sim, ".ckpt", true, name)) {
        path_in_store(name, path);
        remove_file(sim, path);
    }
    fsck(sim, "rebuilt", &result);
    expect(&result, BP_DATA_LOSS, "open: it would NOT");
    expect(&result, BP_DATA_LOSS, "settled segments alone");
    struct bp_store *store = open_rebuilt(sim);
    char value[64];
    CHECK_EQ_U64(count_kept(store), 20);
    CHECK(test_get(store, "after", value, sizeof value));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_rebuilding_around_a_damaged_value_says_which_is_lost(void) {
    struct bp_sim *sim = bp_sim_new(8);
    static struct result result;
    char name[64], path[80];
    make(sim);
    CHECK(find_file(sim, ".set", false, name));
    path_in_store(name, path);
    CHECK(bp_sim_flip(sim, path, 4096 + 5000, 1) == 0); /* in the first record's value */
    fsck(sim, "rebuilt", &result);
    expect(&result, BP_DATA_LOSS, " 1 keys LOST");
    expect(&result, BP_DATA_LOSS, "rebuild: key u:");
    struct bp_store *store = open_rebuilt(sim);
    struct bp_index_stats stats;
    bp_index_get_stats(store->index, &stats);
    CHECK_EQ_U64(stats.keys, 20 + 3 - 1); /* kept, churn, leased, after; and one of them lost */
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_rebuilding_over_a_gap_in_the_log_keeps_both_sides(void) {
    struct bp_sim *sim = bp_sim_new(9);
    struct bp_options options = test_options();
    static struct result result;
    struct bp_error err = {0};
    struct bp_store *store = test_must_open(sim, &options);
    CHECK(test_put(store, "before", "1", NULL) == BP_OK);
    CHECK(test_put(store, "twice", "old", NULL) == BP_OK);
    struct bp_version version;
    CHECK(test_put(store, "victim", "2", NULL) == BP_OK);
    CHECK(bp_index_get(store->index, bp_slice("uvictim", 7), UINT64_MAX, &version));
    char path[BP_PATH_MAX];
    bp_segment_path(store->segments, version.value.at.segment, BP_SEGMENT_LOG, false, path,
                    sizeof path);
    CHECK(test_put(store, "twice", "new", NULL) == BP_OK);
    CHECK(test_put(store, "behind", "3", NULL) == BP_OK);
    CHECK_OK(bp_close(store, &err), &err);
    CHECK(bp_sim_flip(sim, path, version.value.at.offset, 0) == 0);
    fsck(sim, "rebuilt", &result);
    expect(&result, BP_DATA_LOSS, "open: it would NOT");
    expect(&result, BP_DATA_LOSS, "are lost");
    store = open_rebuilt(sim);
    char value[64];
    CHECK(test_get(store, "before", value, sizeof value));
    CHECK(test_get(store, "behind", value, sizeof value));
    CHECK(test_get(store, "twice", value, sizeof value) && strcmp(value, "new") == 0);
    CHECK(!test_get(store, "victim", value, sizeof value));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* Any byte of any file flipped: fsck never crashes, and its verdict on opening is the engine's. */
static void test_no_flipped_byte_confuses_it(void) {
    struct bp_sim *original = bp_sim_new(10);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(original, &options);
    struct bp_error err = {0};
    CHECK(test_put(store, "a", "one", NULL) == BP_OK);
    CHECK_OK(bp_step_checkpoint(store, 1, &err), &err);
    CHECK(test_put(store, "b", "two", NULL) == BP_OK);
    CHECK_OK(bp_close(store, &err), &err);
    static struct result result;
    static const char *const kinds[] = {".log", ".ckpt", "STORE"};
    for (size_t k = 0; k < 3; k++) {
        char name[64], path[80];
        uint64_t size;
        CHECK(find_file(original, kinds[k], false, name));
        path_in_store(name, path);
        CHECK(bp_sim_file_size(original, path, &size) == 0);
        for (uint64_t at = 0; at < size && at < 5000; at += at >= 100 && at < 4090 ? 797 : 11) {
            struct bp_sim *sim = bp_sim_clone(original, at);
            CHECK(bp_sim_flip(sim, path, at, (unsigned)at % 8) == 0);
            fsck(sim, at % 5 == 0 ? "rebuilt" : NULL, &result);
            bool opens = strstr(result.text, "open: it would, with") != NULL;
            CHECK(opens || result.code != BP_OK);
            if (result.code == BP_OK || result.code == BP_DATA_LOSS) {
                struct bp_store *tried = NULL;
                CHECK(opens == (test_open(sim, &options, &tried, &err) == BP_OK));
                if (opens) {
                    bp_store_abandon(tried);
                }
            }
            bp_sim_free(sim);
        }
    }
    bp_sim_free(original);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_a_sound_store_is_called_sound_and_left_alone);
    RUN(test_a_running_daemon_is_left_alone);
    RUN(test_a_torn_tail_is_not_damage);
    RUN(test_damage_is_named_with_file_and_offset);
    RUN(test_a_missing_file_is_noticed);
    RUN(test_rebuilding_a_sound_store_loses_nothing);
    RUN(test_rebuilding_without_checkpoints_uses_log_and_settled_segments);
    RUN(test_rebuilding_around_a_damaged_value_says_which_is_lost);
    RUN(test_rebuilding_over_a_gap_in_the_log_keeps_both_sides);
    RUN(test_no_flipped_byte_confuses_it);
    TESTS_END;
}

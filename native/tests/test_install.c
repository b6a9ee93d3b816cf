/*
 * Installing another member's state: the sender's state exactly or the old one, whatever breaks; and
 * only what is not here already crosses over.
 */
#include "../src/fsck.h"
#include "../src/value.h"
#include "install_util.h"

/* ---- a pair of stores ------------------------------------------------------------------------- */

struct pair {
    struct bp_sim *from_sim, *to_sim;
    struct bp_options options;
    struct bp_store *from, *to;
};

/*
 * Each the only member of a cluster of its own, but under one member id: a store that installs the
 * other's state is its only voter again, and takes writes.
 */
static struct bp_store *found(struct bp_sim *sim, const struct bp_options *options,
                              uint8_t cluster) {
    struct bp_options founding = *options;
    founding.member_id = founding.members[0] = 7;
    founding.n_members = 1;
    memset(founding.cluster_id, cluster, sizeof founding.cluster_id);
    bp_store_abandon(test_must_open(sim, &founding));
    return test_must_open(sim, options);
}

static struct pair make_pair(uint64_t seed) {
    struct pair pair = {.from_sim = bp_sim_new(seed), .to_sim = bp_sim_new(seed + 1000)};
    pair.options = test_options();
    pair.from = found(pair.from_sim, &pair.options, 1);
    pair.to = found(pair.to_sim, &pair.options, 2);
    return pair;
}

/* The second one begins as a copy of the first one's disk: a member that fell behind. */
static void copy_to_second(struct pair *pair) {
    bp_store_abandon(pair->to);
    bp_sim_free(pair->to_sim);
    pair->to_sim = bp_sim_clone(pair->from_sim, 77);
    pair->to = test_must_open(pair->to_sim, &pair->options);
}

static void free_pair(struct pair *pair) {
    bp_store_abandon(pair->from);
    bp_store_abandon(pair->to);
    bp_sim_free(pair->from_sim);
    bp_sim_free(pair->to_sim);
}

static void must_install(struct pair *pair, struct bp_install_state *state) {
    struct bp_error err = {0};
    CHECK_OK(install_all(pair->to, pair->from, state, &err), &err);
    pair->to = install_reopen(pair->to_sim, &pair->options, pair->to);
}

static void must_be_equal(struct pair *pair) {
    state_must_equal(state_of(pair->from), state_of(pair->to));
}

static void must_be_sound(const struct bp_sim *sim) {
    struct bp_sim *copy = bp_sim_clone(sim, 1); /* which nobody has open */
    struct bp_disk *disk = test_disk(copy);
    struct bp_reply report = {0};
    struct bp_error err = {0};
    int code = bp_fsck_on(disk, "store", NULL, &report, &err);
    if (code != BP_OK) {
        fprintf(stderr, "%s\n%.*s\n", err.message, (int)report.size, (const char *)report.data);
    }
    CHECK(code == BP_OK);
    bp_reply_free(&report);
    bp_disk_free(disk);
    bp_sim_free(copy);
}

/* ---- whole installs --------------------------------------------------------------------------- */

static void test_an_empty_store_gets_everything(void) {
    struct pair pair = make_pair(1);
    struct bp_install_state state;
    install_fill(pair.from, 1, 300);
    CHECK(test_compact(pair.from, 150) == BP_OK);
    install_fill(pair.from, 2, 100);
    uint64_t member = pair.to->member_id;
    uint8_t id[16];
    memcpy(id, pair.to->store_id, sizeof id);
    struct bp_error err = {0};
    CHECK_OK(install_all(pair.to, pair.from, &state, &err), &err);
    CHECK(state.done && state.held == 0 && state.fetched_bytes == state.value_bytes);
    CHECK_EQ_U64(state.index, pair.from->applied_index);
    char path[BP_CKPT_PATH_MAX];
    struct bp_ckpt_summary summary;
    CHECK(checkpoint_path(pair.to, 0, path));
    CHECK_OK(bp_ckpt_verify(pair.to->disk, path, BP_SITE_NONE, &summary, &err), &err);
    CHECK_EQ_U64(summary.meta.member_id, member); /* who we are stays ours */
    CHECK(memcmp(summary.header.store_id, id, sizeof id) == 0);
    CHECK(summary.meta.hardstate.term == 1000 && summary.meta.hardstate.vote == 7);
    CHECK_EQ_U64(summary.meta.hardstate.commit, state.index);
    bp_ckpt_summary_free(&summary);
    pair.to = install_reopen(pair.to_sim, &pair.options, pair.to);
    CHECK(atomic_load(&pair.to->term) > 1000);
    must_be_equal(&pair);
    must_be_sound(pair.to_sim);
    free_pair(&pair);
}

static void test_a_store_without_a_key_can_be_installed(void) {
    struct pair pair = make_pair(2);
    install_fill(pair.to, 3, 50);
    must_install(&pair, NULL);
    must_be_equal(&pair);
    must_be_sound(pair.to_sim);
    free_pair(&pair);
}

static void test_only_what_differs_is_fetched(void) {
    struct pair pair = make_pair(3);
    struct bp_install_state state;
    install_fill(pair.from, 1, 400);
    copy_to_second(&pair);
    for (uint32_t i = 0; i < 20; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "new/%u", i);
        CHECK(test_put(pair.from, key, "twelve bytes", NULL) == BP_OK);
    }
    must_install(&pair, &state);
    CHECK(state.fetched == 20 && state.fetched_bytes == 20 * 12);
    CHECK(state.held_bytes == state.value_bytes - 20 * 12 && state.held_bytes > 5000);
    must_be_equal(&pair);
    free_pair(&pair);
}

static void test_values_in_settled_segments_are_held_too(void) {
    struct pair pair = make_pair(4);
    struct bp_install_state state;
    static uint8_t large[1 << 20];
    for (uint32_t i = 0; i < 40; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "large/%u", i % 5 == 0 ? i : 1); /* one in five lives */
        memset(large, (int)i, sizeof large);
        CHECK(test_put_bytes(pair.from, key, large, sizeof large, 0, NULL, NULL) == BP_OK);
    }
    CHECK(test_compact(pair.from, 0) == BP_OK);
    for (uint32_t i = 0; i < 4; i++) {
        CHECK(test_put(pair.from, "more", "more", NULL) == BP_OK);
        must_checkpoint(pair.from);
        clean_all(pair.from);
    }
    CHECK(dir_use(pair.from, ".set").files > 0);
    copy_to_second(&pair);
    CHECK(test_put(pair.from, "new", "new", NULL) == BP_OK);
    CHECK(test_put(pair.from, "new", "newer", NULL) == BP_OK);
    must_install(&pair, &state);
    CHECK_EQ_U64(state.fetched_bytes, 8);
    must_be_equal(&pair);
    must_be_sound(pair.to_sim);
    free_pair(&pair);
}

/* The same revisions and some of the same keys, and other values: nothing of it may stay. */
static void test_another_history_is_replaced(void) {
    for (uint32_t shared = 0; shared < 2; shared++) {
        struct pair pair = make_pair(5 + shared);
        struct bp_install_state state;
        install_fill(pair.from, 1, 100);
        if (shared == 1) {
            copy_to_second(&pair);
        }
        install_fill(pair.to, 2, 30);
        install_fill(pair.from, 3, 80);
        must_install(&pair, &state);
        CHECK((state.held > 0) == (shared == 1));
        must_be_equal(&pair);
        must_be_sound(pair.to_sim);
        free_pair(&pair);
    }
}

/* A log that is longer, with higher revisions and more checkpoints, is no reason to keep it. */
static void test_a_longer_history_is_replaced_and_cleaned_away(void) {
    struct pair pair = make_pair(8);
    static uint8_t large[1 << 20];
    for (uint32_t i = 0; i < 30; i++) {
        CHECK(test_put_bytes(pair.to, "large", large, sizeof large, 0, NULL, NULL) == BP_OK);
    }
    must_checkpoint(pair.to);
    must_checkpoint(pair.to);
    CHECK(dir_use(pair.to, ".log").bytes > 24u << 20);
    install_fill(pair.from, 1, 20);
    must_install(&pair, NULL);
    CHECK_EQ_U64(pair.to->keeper.n_checkpoints, 1);
    must_be_equal(&pair);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK(test_put(pair.to, "after", "x", NULL) == BP_OK);
        must_checkpoint(pair.to);
        clean_all(pair.to);
        pair.to = test_reopen(pair.to_sim, &pair.options, pair.to);
    }
    CHECK_EQ_U64(dir_use(pair.to, ".ckpt").files, 2);
    CHECK(dir_use(pair.to, ".log").bytes < 24u << 20);
    must_be_sound(pair.to_sim);
    free_pair(&pair);
}

static void test_an_installed_store_goes_on_like_any_other(void) {
    struct pair pair = make_pair(9);
    install_fill(pair.from, 1, 100);
    install_fill(pair.to, 2, 60);
    must_install(&pair, NULL);
    for (uint64_t round = 0; round < 6; round++) {
        install_fill(pair.to, 10 + round, 40);
        if (round % 2 == 0) {
            must_checkpoint(pair.to);
            clean_all(pair.to);
        }
        struct bp_buffer before = state_of(pair.to);
        bp_store_abandon(pair.to);
        bp_sim_power_cut(pair.to_sim, (uint32_t)round * 200);
        pair.to = test_must_open(pair.to_sim, &pair.options);
        state_must_equal(before, state_of(pair.to));
    }
    must_be_sound(pair.to_sim);
    free_pair(&pair);
}

static void test_installs_follow_each_other(void) {
    struct pair pair = make_pair(10);
    for (uint64_t round = 0; round < 4; round++) {
        install_fill(pair.from, 1 + round, 60);
        for (uint32_t starts = 0; starts < round; starts++) {
            pair.to = test_reopen(pair.to_sim, &pair.options, pair.to);
        }
        struct bp_error err = {0};
        struct bp_install *install;
        struct bp_install_state state;
        struct bp_buffer manifest = manifest_of(pair.from, NULL);
        CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
        CHECK_OK(install_take(install, manifest, 4000, &err), &err);
        CHECK_OK(install_values(install, pair.from, UINT32_MAX, &err), &err);
        CHECK_OK(bp_install_finish(install, 1000 + 100 * round, 0, &err), &err);
        bp_install_look(install, &state);
        CHECK(round == 0 || state.held_bytes > state.fetched_bytes);
        bp_install_free(install);
        bp_buffer_free(&manifest);
        pair.to = install_reopen(pair.to_sim, &pair.options, pair.to);
        must_be_equal(&pair);
    }
    must_be_sound(pair.to_sim);
    free_pair(&pair);
}

static void test_the_manifest_may_arrive_in_any_split(void) {
    struct pair pair = make_pair(11);
    struct bp_error err = {0};
    install_fill(pair.from, 1, 80);
    struct bp_buffer manifest = manifest_of(pair.from, NULL);
    const size_t pieces[] = {1, 2, 15, 16, 17, 4097, 1u << 30};
    for (uint32_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        struct bp_install *install;
        struct bp_install_state state;
        CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
        CHECK_OK(install_take(install, manifest, pieces[i], &err), &err);
        bp_install_look(install, &state);
        CHECK(state.complete && !state.ready && state.revision == pair.from->next_revision - 1);
        CHECK(bp_install_manifest(install, "x", 1, &err) == BP_FAILED_PRECONDITION);
        bp_install_free(install);
    }
    bp_buffer_free(&manifest);
    CHECK_EQ_U64(dir_use(pair.to, ".tmp").files, 0);
    free_pair(&pair);
}

static void test_many_blocks_and_many_versions_of_one_key(void) {
    struct pair pair = make_pair(12);
    for (uint32_t i = 0; i < 12; i++) {
        char prefix[64] = "";
        memset(prefix, 'a' + (int)i, 5 * i + 1);
        CHECK(test_batch(pair.from, prefix, 3000, prefix, NULL) == BP_OK);
    }
    for (uint32_t i = 0; i < 15000; i++) {
        CHECK(test_put(pair.from, "hot", i % 2 == 0 ? "x" : "yy", NULL) == BP_OK);
    }
    struct bp_buffer manifest = manifest_of(pair.from, NULL);
    CHECK(manifest.size > 2 * BP_CKPT_BLOCK);
    bp_buffer_free(&manifest);
    must_install(&pair, NULL);
    must_be_equal(&pair);
    free_pair(&pair);
}

/* ---- while others go on ----------------------------------------------------------------------- */

static void test_the_sender_goes_on_writing(void) {
    struct pair pair = make_pair(13);
    struct bp_error err = {0};
    struct bp_manifest *manifest;
    struct bp_install *install;
    uint64_t index, term, n;
    uint8_t piece[500];
    install_fill(pair.from, 1, 300);
    struct bp_buffer before = state_of(pair.from);
    CHECK_OK(bp_manifest_new(pair.from, &manifest, &index, &term, &err), &err);
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    for (uint64_t i = 0;; i++) { /* everything that could take away what the manifest names */
        install_fill(pair.from, 100 + i, 5);
        CHECK(test_compact(pair.from, 0) == BP_OK);
        if (i % 8 == 0) {
            must_checkpoint(pair.from);
            clean_all(pair.from);
        }
        CHECK_OK(bp_manifest_next(manifest, piece, sizeof piece, &n, &err), &err);
        if (n == 0) {
            break;
        }
        CHECK_OK(bp_install_manifest(install, piece, n, &err), &err);
    }
    for (uint32_t i = 0; i < 3; i++) {
        must_checkpoint(pair.from);
        clean_all(pair.from);
    }
    CHECK_OK(install_values(install, pair.from, UINT32_MAX, &err), &err);
    bp_manifest_free(manifest);
    CHECK_OK(bp_install_finish(install, 1000, 0, &err), &err);
    bp_install_free(install);
    pair.to = install_reopen(pair.to_sim, &pair.options, pair.to);
    state_must_equal(before, state_of(pair.to));
    free_pair(&pair);
}

/* What the target names in the receiver's segments stays, though the receiver itself is done with it. */
static void test_the_receiver_goes_on_cleaning(void) {
    struct pair pair = make_pair(14);
    struct bp_error err = {0};
    struct bp_install *install;
    struct bp_install_state state;
    static uint8_t large[1 << 20];
    for (uint32_t i = 0; i < 20; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "large/%u", i);
        memset(large, (int)i, sizeof large);
        CHECK(test_put_bytes(pair.from, key, large, sizeof large, 0, NULL, NULL) == BP_OK);
    }
    copy_to_second(&pair);
    install_fill(pair.from, 1, 60);
    struct bp_buffer manifest = manifest_of(pair.from, NULL);
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    CHECK_OK(install_take(install, manifest, 4096, &err), &err);
    CHECK(install_values(install, pair.from, 0, &err) == BP_CANCELLED);
    CHECK(test_delete_range(pair.to, "large/", "large0", NULL) == BP_OK);
    for (uint32_t i = 0; i < 4; i++) {
        CHECK(test_put_bytes(pair.to, "x", large, sizeof large, 0, NULL, NULL) == BP_OK);
        CHECK(test_compact(pair.to, 0) == BP_OK);
        must_checkpoint(pair.to);
        clean_all(pair.to);
    }
    CHECK_OK(install_values(install, pair.from, UINT32_MAX, &err), &err);
    bp_install_look(install, &state);
    CHECK(state.held_bytes >= 20u << 20);
    CHECK_OK(bp_install_finish(install, 1000, 0, &err), &err);
    clean_all(pair.to);
    bp_install_free(install);
    clean_all(pair.to);
    bp_buffer_free(&manifest);
    pair.to = install_reopen(pair.to_sim, &pair.options, pair.to);
    must_be_equal(&pair);
    free_pair(&pair);
}

static void test_a_segment_is_let_go_with_the_install(void) {
    struct pair pair = make_pair(15);
    struct bp_error err = {0};
    struct bp_install *install;
    static uint8_t large[1 << 20];
    for (uint32_t i = 0; i < 20; i++) {
        CHECK(test_put_bytes(pair.from, "k", large, sizeof large, 0, NULL, NULL) == BP_OK);
    }
    copy_to_second(&pair);
    CHECK(test_put(pair.from, "new", "new", NULL) == BP_OK);
    struct bp_buffer manifest = manifest_of(pair.from, NULL);
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    CHECK_OK(install_take(install, manifest, 4096, &err), &err);
    CHECK_OK(install_values(install, pair.from, 9, &err), &err);
    CHECK(test_delete(pair.to, "k", NULL) == BP_OK);
    for (uint32_t i = 0; i < 4; i++) {
        CHECK(test_put(pair.to, "x", "x", NULL) == BP_OK);
        CHECK(test_compact(pair.to, 0) == BP_OK);
        must_checkpoint(pair.to);
        clean_all(pair.to);
    }
    uint32_t held = dir_use(pair.to, ".log").files;
    bp_install_free(install);
    clean_all(pair.to);
    CHECK(dir_use(pair.to, ".log").files < held);
    CHECK_EQ_U64(dir_use(pair.to, ".tmp").files, 0);
    bp_buffer_free(&manifest);
    free_pair(&pair);
}

/* ---- what breaks on the way ------------------------------------------------------------------- */

static void test_damaged_bytes_are_refused_and_change_nothing(void) {
    struct pair pair = make_pair(16);
    struct bp_error err = {0};
    struct bp_install *install;
    install_fill(pair.from, 1, 60);
    install_fill(pair.to, 2, 30);
    struct bp_buffer manifest = manifest_of(pair.from, NULL), before = state_of(pair.to);
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    for (size_t i = 0; i < manifest.size; i += 1 + manifest.size / 3000) {
        manifest.data[i] ^= 0x10;
        int code = install_take(install, manifest, 1u << 20, &err);
        manifest.data[i] ^= 0x10;
        struct bp_install_state state;
        bp_install_look(install, &state);
        CHECK(!state.complete && (code == BP_DATA_LOSS || code == BP_OK)); /* a size: still waits */
        CHECK_OK(bp_install_restart(install, &err), &err);
        struct bp_reply nothing;
        CHECK(bp_install_wanted(install, 0, &nothing, &err) == BP_FAILED_PRECONDITION);
    }
    for (size_t n = 0; n < manifest.size; n += 1 + manifest.size / 500) { /* one that ends early */
        struct bp_install_state state;
        CHECK_OK(bp_install_manifest(install, manifest.data, n, &err), &err);
        bp_install_look(install, &state);
        CHECK(!state.complete);
        CHECK_OK(bp_install_restart(install, &err), &err);
    }
    struct bp_buffer longer = {0};
    bp_buffer_append(&longer, manifest.data, manifest.size);
    bp_buffer_append(&longer, "x", 1);
    CHECK(install_take(install, longer, 1u << 30, &err) == BP_DATA_LOSS);
    bp_buffer_free(&longer);
    CHECK_OK(install_take(install, manifest, 1u << 20, &err), &err);
    struct bp_reply wanted, values;
    uint32_t taken = 0;
    CHECK(bp_install_wanted(install, 0, &wanted, &err) == 1);
    for (uint64_t i = 0; i < wanted.size; i += 1 + wanted.size / 300) {
        wanted.data[i] ^= 1;
        CHECK(bp_fetch(pair.from, wanted.data, wanted.size, &values, &err) == BP_INVALID_ARGUMENT);
        wanted.data[i] ^= 1;
    }
    CHECK_OK(bp_fetch(pair.from, wanted.data, wanted.size, &values, &err), &err);
    CHECK(bp_install_values(install, wanted.data, wanted.size, &taken, &err) == BP_DATA_LOSS);
    for (uint64_t i = 0; i < values.size; i += 1 + values.size / 300) {
        values.data[i] ^= 1;
        CHECK(bp_install_values(install, values.data, values.size, &taken, &err) == BP_DATA_LOSS);
        CHECK_EQ_U64(taken, 0);
        values.data[i] ^= 1;
    }
    bp_reply_free(&wanted);
    bp_reply_free(&values);
    state_must_equal(before, state_of(pair.to));
    CHECK_OK(install_values(install, pair.from, UINT32_MAX, &err), &err);
    CHECK_OK(bp_install_finish(install, 1000, 0, &err), &err);
    bp_install_free(install);
    bp_buffer_free(&manifest);
    pair.to = install_reopen(pair.to_sim, &pair.options, pair.to);
    must_be_equal(&pair);
    free_pair(&pair);
}

/* A well-formed message with a value that is not the one asked for. */
static void test_a_value_that_is_not_the_one_is_refused(void) {
    struct pair pair = make_pair(17);
    struct bp_error err = {0};
    struct bp_install *install;
    struct bp_reply wanted;
    CHECK(test_put(pair.from, "k", "right", NULL) == BP_OK);
    struct bp_buffer manifest = manifest_of(pair.from, NULL);
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    CHECK_OK(install_take(install, manifest, 100, &err), &err);
    CHECK(bp_install_wanted(install, 0, &wanted, &err) == 1);
    struct bp_slice records;
    struct bp_fetch_record record;
    struct bp_fetch_batch batch;
    uint32_t taken;
    CHECK(bp_fetch_open(bp_slice(wanted.data, wanted.size), BP_FETCH_WANTED, &records));
    CHECK(bp_fetch_next(&records, BP_FETCH_WANTED, &record));
    for (uint32_t i = 0; i < 2; i++) {
        bp_fetch_begin(&batch, BP_FETCH_VALUES);
        record.crc = i == 0 ? record.crc : bp_crc32c(0, "wrong", 5); /* says so, or lies */
        memcpy(bp_fetch_add(&batch, &record), "wrong", 5);
        CHECK(bp_fetch_end(&batch));
        int code = bp_install_values(install, batch.out.data, batch.out.size, &taken, &err);
        CHECK(code == (i == 0 ? BP_DATA_LOSS : BP_OK) && taken == 0);
        bp_buffer_free(&batch.out);
    }
    CHECK_OK(install_values(install, pair.from, 1, &err), &err);
    bp_reply_free(&wanted);
    bp_buffer_free(&manifest);
    bp_install_free(install);
    free_pair(&pair);
}

/* Questions that are out together ask for different values, in whatever order they are answered. */
static void test_questions_ahead_ask_for_other_values(void) {
    static uint8_t value[200000];
    struct pair pair = make_pair(19);
    struct bp_error err = {0};
    struct bp_install *install;
    struct bp_reply wanted[4], values;
    struct bp_install_state state;
    uint32_t taken, n = 0, sum = 0;
    for (uint32_t i = 0; i < 15; i++) {
        char key[16];
        (void)snprintf(key, sizeof key, "k%02u", i);
        CHECK(test_put_bytes(pair.from, key, value, sizeof value, 0, NULL, NULL) == BP_OK);
    }
    struct bp_buffer manifest = manifest_of(pair.from, NULL);
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    CHECK_OK(install_take(install, manifest, 1000, &err), &err);
    do {
        CHECK(n < 4);
        CHECK(bp_install_wanted(install, n > 0, &wanted[n], &err) == 1);
    } while (wanted[n].size > 0 && ++n > 0);
    CHECK_EQ_U64(n, 3); /* a batch ends behind the value that passes 1 MiB */
    for (uint32_t i = n; i-- > 0;) {
        CHECK_OK(bp_fetch(pair.from, wanted[i].data, wanted[i].size, &values, &err), &err);
        CHECK_OK(bp_install_values(install, values.data, values.size, &taken, &err), &err);
        sum += taken;
        bp_reply_free(&wanted[i]);
        bp_reply_free(&values);
    }
    CHECK_EQ_U64(sum, 15);
    CHECK(bp_install_wanted(install, 0, &wanted[0], &err) == 2);
    bp_install_look(install, &state);
    CHECK(state.ready && state.fetched == 15);
    bp_buffer_free(&manifest);
    bp_install_free(install);
    free_pair(&pair);
}

/* The stream broke, and what the manifest names is gone meanwhile: what came is not fetched again. */
static void goes_on(uint32_t rounds) {
    struct pair pair = make_pair(18 + 100 * rounds);
    struct bp_error err = {0};
    struct bp_install *install;
    struct bp_install_state state;
    static uint8_t large[300000];
    for (uint32_t i = 0; i < 30; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "large/%02u", i);
        memset(large, (int)i, sizeof large);
        CHECK(test_put_bytes(pair.from, key, large, sizeof large, 0, NULL, NULL) == BP_OK);
    }
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    uint64_t before = 0;
    for (uint32_t round = 0; round < rounds; round++) {
        char key[32];
        (void)snprintf(key, sizeof key, "large/%02u", 28 - round);
        CHECK(test_put(pair.from, key, "another one", NULL) == BP_OK);
        CHECK(test_compact(pair.from, 0) == BP_OK);
        clean_all(pair.from);
        struct bp_buffer manifest = manifest_of(pair.from, NULL);
        /* The second one breaks before it has got as far as the first. */
        size_t some = round == 1 ? manifest.size / 2 : manifest.size;
        CHECK_OK(bp_install_manifest(install, manifest.data, some, &err), &err);
        int code =
            round == 1 ? BP_OK : install_values(install, pair.from, round == 0 ? 5 : 1, &err);
        CHECK(code == (round == 1 ? BP_OK : BP_CANCELLED));
        bp_install_look(install, &state);
        CHECK(round != 0 || state.fetched >= 15);
        CHECK(round < 2 || state.fetched <= 6);
        before += state.fetched;
        CHECK_OK(bp_install_restart(install, &err), &err);
        bp_buffer_free(&manifest);
    }
    struct bp_buffer manifest = manifest_of(pair.from, NULL);
    CHECK_OK(install_take(install, manifest, 100, &err), &err);
    CHECK_OK(install_values(install, pair.from, UINT32_MAX, &err), &err);
    bp_install_look(install, &state);
    CHECK(state.fetched + before <= 30 + 3);
    CHECK_OK(bp_install_finish(install, 1000, 0, &err), &err);
    bp_install_free(install);
    bp_buffer_free(&manifest);
    pair.to = install_reopen(pair.to_sim, &pair.options, pair.to);
    must_be_equal(&pair);
    must_be_sound(pair.to_sim);
    free_pair(&pair);
}

static void test_an_install_goes_on_with_a_new_manifest(void) {
    for (uint32_t rounds = 1; rounds < 4; rounds++) {
        goes_on(rounds);
    }
}

static void test_values_that_are_gone_are_left_out(void) {
    struct pair pair = make_pair(19);
    struct bp_error err = {0};
    struct bp_install *install;
    CHECK(test_put(pair.from, "k", "one", NULL) == BP_OK);
    struct bp_buffer manifest = manifest_of(pair.from, NULL);
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    CHECK_OK(install_take(install, manifest, 100, &err), &err);
    CHECK(test_put(pair.from, "k", "two", NULL) == BP_OK);
    CHECK(test_compact(pair.from, 0) == BP_OK);
    clean_all(pair.from);
    CHECK(install_values(install, pair.from, UINT32_MAX, &err) == BP_NOT_FOUND);
    CHECK(bp_install_finish(install, 1000, 0, &err) == BP_FAILED_PRECONDITION);
    bp_install_free(install);
    bp_buffer_free(&manifest);
    free_pair(&pair);
}

static void test_a_full_disk_changes_nothing_and_may_be_tried_again(void) {
    struct pair pair = make_pair(20);
    struct bp_error err = {0};
    struct bp_install *install;
    install_fill(pair.from, 1, 300);
    install_fill(pair.to, 2, 30);
    struct bp_buffer manifest = manifest_of(pair.from, NULL), before = state_of(pair.to);
    uint64_t free_bytes, total;
    bp_sim_set_capacity(pair.to_sim, 1u << 30);
    CHECK(bp_disk_space(pair.to->disk, "store", &free_bytes, &total) == 0);
    const uint64_t used = total - free_bytes;
    bp_sim_set_capacity(pair.to_sim, used + 4096);
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    CHECK(install_take(install, manifest, 1000, &err) == BP_RESOURCE_EXHAUSTED);
    CHECK(err.reason == BP_REASON_DISK_FULL);
    uint64_t capacity = used + manifest.size + 4096;
    bp_sim_set_capacity(pair.to_sim, capacity);
    CHECK_OK(install_take(install, manifest, 1000, &err), &err);
    uint32_t full = 0;
    int code = BP_UNAVAILABLE;
    while (code != BP_OK) {
        code = install_values(install, pair.from, UINT32_MAX, &err);
        code = code == BP_OK ? bp_install_finish(install, 1000, 0, &err) : code;
        CHECK(code == BP_OK ||
              (code == BP_RESOURCE_EXHAUSTED && err.reason == BP_REASON_DISK_FULL));
        full += code != BP_OK;
        if (full == 3) {
            CHECK(test_put(pair.to, "key/1", "still works", NULL) == BP_OK);
            CHECK(test_delete(pair.to, "key/1", NULL) == BP_OK);
        }
        bp_sim_set_capacity(pair.to_sim, capacity += 20011);
    }
    CHECK(full > 10);
    bp_install_free(install);
    bp_buffer_free(&manifest);
    bp_buffer_free(&before);
    bp_sim_set_capacity(pair.to_sim, 0);
    pair.to = install_reopen(pair.to_sim, &pair.options, pair.to);
    must_be_equal(&pair);
    must_be_sound(pair.to_sim);
    free_pair(&pair);
}

/* ---- crashes ---------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STRIDE 101u
#else
#define STRIDE 1u
#endif

static struct bp_buffer copy_of(const struct bp_buffer *buffer) {
    struct bp_buffer copy = {0};
    bp_buffer_append(&copy, buffer->data, buffer->size);
    return copy;
}

struct crash {
    struct bp_sim *base, *from_sim;
    struct bp_options options;
    struct bp_store *from;
    struct bp_buffer old, new;
    uint32_t olds, news;
};

static void put_some(struct bp_store *store, uint32_t from, uint32_t to) {
    for (uint32_t i = from; i < to; i++) {
        char key[16], value[64];
        (void)snprintf(key, sizeof key, "k%u", i % 9);
        (void)snprintf(value, sizeof value, "the sender's value %u", i);
        CHECK(test_put_bytes(store, key, value, (uint32_t)strlen(value), 0, value, NULL) == BP_OK);
    }
}

/* A receiver that has some of the sender's values, and some of its own in their place. */
static void begin_crash(struct crash *crash, uint64_t seed) {
    *crash = (struct crash){.from_sim = bp_sim_new(seed), .options = test_options()};
    crash->options.request_ids_max = 8;
    crash->from = found(crash->from_sim, &crash->options, 1);
    put_some(crash->from, 0, 4);
    crash->base = bp_sim_clone(crash->from_sim, seed + 1);
    put_some(crash->from, 4, 14);
    CHECK(test_grant(crash->from, 9, 60000) == BP_OK);
    struct bp_store *to = found(crash->base, &crash->options, 2);
    CHECK(test_put(to, "k1", "the old value", NULL) == BP_OK);
    must_checkpoint(to);
    CHECK(test_put(to, "k2", "another old value", NULL) == BP_OK);
    crash->old = state_of(to);
    crash->new = state_of(crash->from);
    bp_store_abandon(to);
}

/* After a crash of `sim`: one state or the other, and nothing that belongs to neither. */
static void check_after(struct crash *crash, struct bp_sim *sim, uint32_t keep, bool must_be_new) {
    bp_sim_power_cut(sim, keep);
    struct bp_store *store = test_must_open(sim, &crash->options);
    struct bp_buffer state = state_of(store);
    bool is_new =
        state.size == crash->new.size && memcmp(state.data, crash->new.data, state.size) == 0;
    CHECK(is_new || !must_be_new);
    crash->olds += !is_new;
    crash->news += is_new;
    state_must_equal(copy_of(is_new ? &crash->new : &crash->old), state);
    CHECK_EQ_U64(dir_use(store, ".tmp").files, 0);
    CHECK(is_new || dir_use(store, ".set").files == 0);
    CHECK(test_put(store, "after", "after", NULL) == BP_OK);
    struct bp_buffer before = state_of(store);
    store = test_reopen(sim, &crash->options, store);
    state_must_equal(before, state_of(store));
    bp_store_abandon(store);
}

static void end_crash(struct crash *crash) {
    CHECK(crash->olds > 0 && crash->news > 0);
    bp_buffer_free(&crash->old);
    bp_buffer_free(&crash->new);
    bp_store_abandon(crash->from);
    bp_sim_free(crash->from_sim);
    bp_sim_free(crash->base);
}

static void test_a_power_cut_at_every_byte_leaves_the_old_state_or_the_new(void) {
    struct crash crash;
    begin_crash(&crash, 21);
    for (uint64_t byte = 1;; byte += STRIDE) {
        struct bp_sim *sim = bp_sim_clone(crash.base, byte);
        struct bp_store *to = test_must_open(sim, &crash.options);
        struct bp_error err = {0};
        bp_sim_cut_after_bytes(sim, byte);
        int code = install_all(to, crash.from, NULL, &err);
        bp_store_abandon(to);
        check_after(&crash, sim, (uint32_t)(byte % 3 * 512), code == BP_OK);
        bp_sim_free(sim);
        if (code == BP_OK) {
            break;
        }
    }
    end_crash(&crash);
}

/* Renames, syncs and unlinks write no byte: a crash before and after each of them. */
static void test_a_crash_at_every_step_leaves_the_old_state_or_the_new(void) {
    struct crash crash;
    begin_crash(&crash, 23);
    static const int faults[] = {BP_FAULT_CRASH, BP_FAULT_CRASH_AFTER, BP_FAULT_EIO,
                                 BP_FAULT_ENOSPC};
    for (int site = 1; site < BP_SITE_COUNT; site++) {
        for (uint32_t i = 0; i < 4 * 64; i++) {
            struct bp_sim *sim = bp_sim_clone(crash.base, i);
            struct bp_store *to = test_must_open(sim, &crash.options);
            struct bp_error err = {0};
            uint64_t hit = i / 4 + 1, before = bp_disk_hits(to->disk, site);
            CHECK(bp_disk_arm(to->disk, site, faults[i % 4], hit, 1, 0) == 0);
            int code = install_all(to, crash.from, NULL, &err);
            bool reached = bp_disk_hits(to->disk, site) - before >= hit;
            bp_store_abandon(to);
            check_after(&crash, sim, i / 4 % 3 * 512, code == BP_OK);
            bp_sim_free(sim);
            if (!reached) {
                break;
            }
        }
    }
    end_crash(&crash);
}

/* The first start after an install makes the new log: crashes in it lose nothing either. */
static void test_a_power_cut_in_the_first_start_leaves_the_new_state(void) {
    struct crash crash;
    begin_crash(&crash, 25);
    struct bp_store *to = test_must_open(crash.base, &crash.options);
    struct bp_error err = {0};
    CHECK_OK(install_all(to, crash.from, NULL, &err), &err);
    bp_store_abandon(to);
    for (uint64_t byte = 1;; byte += 7) {
        struct bp_sim *sim = bp_sim_clone(crash.base, byte);
        bp_sim_power_cut(sim, 0);
        bp_sim_cut_after_bytes(sim, byte);
        int code = test_open(sim, &crash.options, &to, &err);
        if (code == BP_OK) {
            bp_store_abandon(to);
        }
        check_after(&crash, sim, (uint32_t)(byte % 3 * 512), true);
        bp_sim_free(sim);
        if (code == BP_OK) {
            break;
        }
    }
    crash.olds++; /* not what this test is about */
    end_crash(&crash);
}

/* ---- after it --------------------------------------------------------------------------------- */

static void test_a_replaced_store_takes_no_write_and_makes_no_checkpoint(void) {
    struct pair pair = make_pair(26);
    struct bp_error err = {0};
    struct bp_install *install;
    install_fill(pair.from, 1, 30);
    CHECK(test_put(pair.to, "k", "old", NULL) == BP_OK);
    CHECK_OK(install_all(pair.to, pair.from, NULL, &err), &err);
    CHECK(test_put(pair.to, "k", "lost", NULL) == BP_UNAVAILABLE);
    CHECK(bp_step_checkpoint(pair.to, 1, &err) == BP_UNAVAILABLE);
    CHECK(bp_install_new(pair.to, &install, &err) == BP_FAILED_PRECONDITION);
    char value[16];
    CHECK(test_get(pair.to, "k", value, sizeof value) && strcmp(value, "old") == 0);
    pair.to = install_reopen(pair.to_sim, &pair.options, pair.to);
    must_be_equal(&pair);
    free_pair(&pair);
}

/* Its bytes say that an install was here; the log before it must not come back from the dead. */
static void test_a_damaged_installed_checkpoint_never_leads_to_the_old_history(void) {
    for (uint32_t marks = 0; marks < 2; marks++) {
        struct pair pair = make_pair(28 + marks);
        install_fill(pair.from, 1, 50);
        install_fill(pair.to, 2, 50);
        must_checkpoint(pair.to);
        if (marks == 1) { /* one at the very end of the old log */
            CHECK(test_put(pair.to, "k", "v", NULL) == BP_OK);
            must_checkpoint(pair.to);
        }
        must_install(&pair, NULL);
        CHECK(test_put(pair.to, "k", "after", NULL) == BP_OK);
        char path[BP_CKPT_PATH_MAX];
        CHECK(checkpoint_path(pair.to, 0, path));
        bp_store_abandon(pair.to);
        CHECK(bp_sim_flip(pair.to_sim, path, 300, 1) == 0);
        struct bp_error err = {0};
        CHECK(test_open(pair.to_sim, &pair.options, &pair.to, &err) == BP_DATA_LOSS);
        CHECK(bp_sim_flip(pair.to_sim, path, 300, 1) == 0);
        pair.to = test_must_open(pair.to_sim, &pair.options);
        char value[16];
        CHECK(test_get(pair.to, "k", value, sizeof value) && strcmp(value, "after") == 0);
        free_pair(&pair);
    }
}

/* ---- limits ----------------------------------------------------------------------------------- */

static void test_limits(void) {
    struct pair pair = make_pair(31);
    struct bp_error err = {0};
    struct bp_manifest *manifests[BP_PINS_SNAPSHOTS], *more;
    struct bp_install *install, *second;
    uint64_t index, term;
    install_fill(pair.from, 1, 20);
    for (uint32_t i = 0; i < BP_PINS_SNAPSHOTS; i++) {
        CHECK_OK(bp_manifest_new(pair.from, &manifests[i], &index, &term, &err), &err);
    }
    CHECK(bp_manifest_new(pair.from, &more, &index, &term, &err) == BP_RESOURCE_EXHAUSTED);
    CHECK(err.reason == BP_REASON_QUEUE_FULL);
    must_checkpoint(pair.from); /* which has pins of its own */
    for (uint32_t i = 0; i < BP_PINS_SNAPSHOTS; i++) {
        bp_manifest_free(manifests[i]);
    }
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    CHECK(bp_install_new(pair.to, &second, &err) == BP_RESOURCE_EXHAUSTED);
    CHECK(bp_install_finish(install, 1000, 0, &err) == BP_FAILED_PRECONDITION);
    struct bp_buffer manifest = manifest_of(pair.from, NULL);
    CHECK_OK(install_take(install, manifest, 100, &err), &err);
    CHECK_OK(install_values(install, pair.from, UINT32_MAX, &err), &err);
    CHECK(bp_install_finish(install, 0, 0, &err) == BP_INVALID_ARGUMENT);
    bp_install_free(install);
    bp_buffer_free(&manifest);
    bp_store_abandon(pair.to);
    bp_sim_free(pair.to_sim);
    pair.to_sim = bp_sim_new(1);
    pair.options.interval_ms = 100;
    pair.to = test_must_open(pair.to_sim, &pair.options);
    CHECK(bp_install_new(pair.to, &install, &err) == BP_FAILED_PRECONDITION);
    free_pair(&pair);
}

static void test_a_member_never_goes_back(void) {
    struct pair pair = make_pair(32);
    struct bp_error err = {0};
    install_fill(pair.from, 1, 20);
    struct bp_buffer before = state_of(pair.from);
    copy_to_second(&pair); /* its start has added an entry: it is ahead now */
    install_fill(pair.to, 1, 20);
    CHECK(install_all(pair.to, pair.from, NULL, &err) == BP_FAILED_PRECONDITION);
    CHECK(test_put(pair.to, "k", "v", NULL) == BP_OK);
    pair.to = install_reopen(pair.to_sim, &pair.options, pair.to);
    state_must_equal(before, state_of(pair.from));
    free_pair(&pair);
}

/* ---- repair ----------------------------------------------------------------------------------- */

/* Flips a bit in the place of the newest value of `key`; returns its file. */
static void damage_value(struct bp_sim *sim, struct bp_store *store, const char *key) {
    uint8_t stored[64] = {BP_KEYSPACE_USER};
    struct bp_version version;
    size_t n = strlen(key);
    memcpy(stored + 1, key, n);
    CHECK(bp_index_newest(store->index, bp_slice(stored, n + 1), &version));
    const struct bp_segment *segment = bp_segments_find(store->segments, version.value.at.segment);
    char path[BP_PATH_MAX];
    bp_segment_path(store->segments, segment->header.id, segment->header.kind, false, path,
                    sizeof path);
    CHECK(bp_sim_flip(sim, path, version.value.at.offset + version.value.size / 2, 2) == 0);
}

static int get_code(struct bp_store *store, const char *key, uint8_t *value, uint32_t *size) {
    struct bp_error err = {0};
    return bp_get(store, BP_KEYSPACE_USER, key, (uint32_t)strlen(key), value, 1u << 20, size, NULL,
                  &err);
}

static void test_a_damaged_value_is_repaired_from_another_member(void) {
    static uint8_t large[200000], value[1 << 20];
    static const char *const keys[] = {"large", "small"};
    struct pair pair = make_pair(33);
    struct bp_error err = {0};
    memset(large, 7, sizeof large);
    CHECK(test_put_bytes(pair.from, "large", large, sizeof large, 0, NULL, NULL) == BP_OK);
    CHECK(test_put(pair.from, "small", "a value that is worth a repair", NULL) == BP_OK);
    pair.options.value_cache_bytes = 1; /* none: reads go to the disk */
    copy_to_second(&pair);
    struct bp_reply wanted, values;
    CHECK_OK(bp_damaged_next(pair.to, &wanted, &err), &err);
    CHECK_EQ_U64(wanted.size, 0);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t size, repaired;
        damage_value(pair.to_sim, pair.to, keys[i]);
        CHECK_EQ_U64(get_code(pair.to, keys[i], value, &size), BP_DATA_LOSS);
        CHECK_EQ_U64(get_code(pair.to, keys[i], value, &size), BP_DATA_LOSS);
        CHECK_OK(bp_damaged_next(pair.to, &wanted, &err), &err);
        CHECK(wanted.size > 0);
        CHECK_OK(bp_fetch(pair.from, wanted.data, wanted.size, &values, &err), &err);
        CHECK(bp_repair(pair.to, wanted.data, wanted.size, &repaired, &err) == BP_INVALID_ARGUMENT);
        values.data[values.size - 1] ^= 1;
        CHECK(bp_repair(pair.to, values.data, values.size, &repaired, &err) == BP_INVALID_ARGUMENT);
        values.data[values.size - 1] ^= 1;
        CHECK_OK(bp_repair(pair.to, values.data, values.size, &repaired, &err), &err);
        CHECK_EQ_U64(repaired, 1);
        CHECK_EQ_U64(get_code(pair.to, keys[i], value, &size), BP_OK);
        bp_reply_free(&wanted);
        bp_reply_free(&values);
        CHECK_OK(bp_damaged_next(pair.to, &wanted, &err), &err);
        CHECK_EQ_U64(wanted.size, 0);
    }
    must_be_equal(&pair);
    must_checkpoint(pair.to);
    bp_store_abandon(pair.to);
    bp_sim_power_cut(pair.to_sim, 0);
    pair.to = test_must_open(pair.to_sim, &pair.options);
    must_be_equal(&pair);
    free_pair(&pair);
}

static void test_a_scrub_names_what_is_damaged(void) {
    struct pair pair = make_pair(34);
    struct bp_error err = {0};
    for (uint32_t i = 0; i < 10; i++) {
        char key[16];
        (void)snprintf(key, sizeof key, "k%u", 9 - i);
        CHECK(test_put(pair.from, key, "some value of some length", NULL) == BP_OK);
    }
    copy_to_second(&pair);
    damage_value(pair.to_sim, pair.to, "k7");
    damage_value(pair.to_sim, pair.to, "k2");
    struct bp_scrub *scrub = bp_scrub_new(pair.to);
    struct bp_finding finding;
    uint64_t bytes = 0;
    while (bp_scrub_next(scrub, &finding, &bytes, &err) < 2) {
    }
    bp_scrub_free(scrub);
    struct bp_reply wanted, values;
    uint32_t repaired;
    CHECK_OK(bp_damaged_next(pair.to, &wanted, &err), &err);
    CHECK_OK(bp_fetch(pair.from, wanted.data, wanted.size, &values, &err), &err);
    CHECK_OK(bp_repair(pair.to, values.data, values.size, &repaired, &err), &err);
    CHECK_EQ_U64(repaired, 2);
    bp_reply_free(&wanted);
    bp_reply_free(&values);
    must_be_equal(&pair);
    free_pair(&pair);
}

/* A value that is damaged at the receiver is not held; one damaged at the sender is not sent. */
static void test_damage_on_either_side_of_an_install(void) {
    struct pair pair = make_pair(35);
    struct bp_error err = {0};
    struct bp_install_state state;
    CHECK(test_put(pair.from, "a", "the first of two values", NULL) == BP_OK);
    CHECK(test_put(pair.from, "b", "the second of two values", NULL) == BP_OK);
    copy_to_second(&pair);
    CHECK(test_put(pair.from, "c", "c", NULL) == BP_OK);
    damage_value(pair.to_sim, pair.to, "a");
    struct bp_sim *third_sim = bp_sim_clone(pair.from_sim, 5);
    struct bp_store *third = test_must_open(third_sim, &pair.options);
    damage_value(third_sim, third, "a");
    struct bp_install *install;
    struct bp_buffer manifest = manifest_of(pair.from, NULL);
    CHECK_OK(bp_install_new(pair.to, &install, &err), &err);
    CHECK_OK(install_take(install, manifest, 100, &err), &err);
    CHECK(install_values(install, third, UINT32_MAX, &err) == BP_NOT_FOUND);
    CHECK_OK(install_values(install, pair.from, UINT32_MAX, &err), &err);
    bp_install_look(install, &state);
    CHECK(state.held == 1 && state.fetched == 2);
    CHECK_OK(bp_install_finish(install, 1000, 0, &err), &err);
    bp_install_free(install);
    bp_buffer_free(&manifest);
    pair.to = install_reopen(pair.to_sim, &pair.options, pair.to);
    must_be_equal(&pair);
    bp_store_abandon(third);
    bp_sim_free(third_sim);
    free_pair(&pair);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_an_empty_store_gets_everything);
    RUN(test_a_store_without_a_key_can_be_installed);
    RUN(test_only_what_differs_is_fetched);
    RUN(test_values_in_settled_segments_are_held_too);
    RUN(test_another_history_is_replaced);
    RUN(test_a_longer_history_is_replaced_and_cleaned_away);
    RUN(test_an_installed_store_goes_on_like_any_other);
    RUN(test_installs_follow_each_other);
    RUN(test_the_manifest_may_arrive_in_any_split);
    RUN(test_many_blocks_and_many_versions_of_one_key);
    RUN(test_the_sender_goes_on_writing);
    RUN(test_the_receiver_goes_on_cleaning);
    RUN(test_a_segment_is_let_go_with_the_install);
    RUN(test_damaged_bytes_are_refused_and_change_nothing);
    RUN(test_a_value_that_is_not_the_one_is_refused);
    RUN(test_an_install_goes_on_with_a_new_manifest);
    RUN(test_values_that_are_gone_are_left_out);
    RUN(test_a_full_disk_changes_nothing_and_may_be_tried_again);
    RUN(test_a_power_cut_at_every_byte_leaves_the_old_state_or_the_new);
    RUN(test_a_crash_at_every_step_leaves_the_old_state_or_the_new);
    RUN(test_a_power_cut_in_the_first_start_leaves_the_new_state);
    RUN(test_a_replaced_store_takes_no_write_and_makes_no_checkpoint);
    RUN(test_a_damaged_installed_checkpoint_never_leads_to_the_old_history);
    RUN(test_limits);
    RUN(test_a_member_never_goes_back);
    RUN(test_a_damaged_value_is_repaired_from_another_member);
    RUN(test_questions_ahead_ask_for_other_values);
    RUN(test_a_scrub_names_what_is_damaged);
    RUN(test_damage_on_either_side_of_an_install);
    TESTS_END;
}

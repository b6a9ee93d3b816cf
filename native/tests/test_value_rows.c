/*
 * Rows: what a get finds is the newest version as of the view it answers for, or nothing; whoever
 * writes over whom, whatever bits change, whatever is written meanwhile.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "../src/crc32c.h"
#include "../src/protobuf.h"
#include "../src/value_cache_internal.h"
#include "../src/value_rows.h"
#include "../src/wire.h"
#include "check.h"
#include "store_util.h"

struct row {
    uint8_t key[BP_ROW_KEY_MAX];
    uint8_t bytes[BP_VALUE_CACHE_VALUE_MAX];
    struct bp_row_want want;
    struct bp_version version;
};

/* A key and a version whose bytes follow from the number. Put and wanted at `revision`. */
static void make(struct row *row, uint32_t number, uint64_t revision) {
    uint32_t key_size = 4 + number * 13 % 60, size = number * 37 % (BP_VALUE_CACHE_VALUE_MAX + 1);
    memset(row->key, 'k', sizeof row->key);
    bp_put_u32(row->key + key_size - 4, number);
    for (uint32_t i = 0; i < size; i++) {
        row->bytes[i] = (uint8_t)((number + i + revision) * 2654435761u >> 24);
    }
    struct bp_slice key = bp_slice(row->key, key_size);
    row->want = (struct bp_row_want){
        .key = key, .hash = bp_index_key_hash(key), .changed = revision, .revision = revision};
    row->version = (struct bp_version){.revision = revision,
                                       .create_revision = 1 + number,
                                       .lease = number % 3,
                                       .version = 1 + number % 5,
                                       .value = {.at = {.segment = 1, .offset = number},
                                                 .size = size,
                                                 .crc = bp_crc32c(0, row->bytes, size)}};
}

static bool get(const struct bp_value_cache *cache, const struct row *row,
                const struct bp_row_want *want) {
    uint8_t out[BP_VALUE_CACHE_VALUE_MAX];
    struct bp_version version;
    if (!bp_rows_get(cache, want, out, sizeof out, &version)) {
        return false;
    }
    CHECK_EQ_U64(version.revision, row->version.revision);
    CHECK_EQ_U64(version.create_revision, row->version.create_revision);
    CHECK_EQ_U64(version.lease, row->version.lease);
    CHECK_EQ_U64(version.version, row->version.version);
    CHECK_EQ_U64(version.value.size, row->version.value.size);
    CHECK_EQ_U64(version.value.crc, row->version.value.crc);
    CHECK(memcmp(out, row->bytes, version.value.size) == 0);
    return true;
}

static void put(struct bp_value_cache *cache, const struct row *row) {
    bp_rows_put(cache, &row->want, &row->version, row->bytes);
}

static void a_row_is_found_as_it_was_put(void) {
    struct bp_value_cache *cache = bp_value_cache_new(16u << 20);
    struct row row;
    uint32_t found = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        make(&row, i, 10);
        CHECK(!get(cache, &row, &row.want));
        put(cache, &row);
        CHECK(get(cache, &row, &row.want));
    }
    for (uint32_t i = 0; i < 2000; i++) {
        make(&row, i, 10);
        found += get(cache, &row, &row.want);
    }
    CHECK(found > 1000); /* what another size's row wrote over is gone */
    bp_value_cache_free(cache);
}

static void a_row_is_not_found_once_its_key_may_have_changed(void) {
    struct bp_value_cache *cache = bp_value_cache_new(1u << 20);
    struct row row;
    make(&row, 7, 10);
    row.want.revision = 12; /* seen at 12, written at 10 */
    put(cache, &row);
    struct bp_row_want want = row.want;
    want.revision = 20;
    want.changed = 12;
    CHECK(get(cache, &row, &want));
    want.changed = 13;
    CHECK(!get(cache, &row, &want));
    uint8_t out[BP_VALUE_CACHE_VALUE_MAX];
    CHECK(bp_rows_value(cache, &want, &row.version, out)); /* of this very version all the same */
    struct bp_version other = row.version;
    other.revision = 13;
    CHECK(!bp_rows_value(cache, &want, &other, out));
    bp_value_cache_free(cache);
}

static void a_row_from_after_the_view_is_not_for_it(void) {
    struct bp_value_cache *cache = bp_value_cache_new(1u << 20);
    struct row row;
    make(&row, 7, 10);
    put(cache, &row);
    struct bp_row_want want = row.want;
    want.revision = 9;
    want.changed = 0;
    CHECK(!get(cache, &row, &want));
    bp_value_cache_free(cache);
}

static void what_was_overtaken_is_not_kept(void) {
    struct bp_value_cache *cache = bp_value_cache_new(1u << 20);
    struct row row;
    make(&row, 7, 10);
    struct bp_row_want want = row.want;
    row.want.changed = 11; /* stamped, and not published at the view's 10 */
    put(cache, &row);
    CHECK(!get(cache, &row, &want));
    row.want = want;
    row.want.revision = 9; /* the index was asked later, and knew a newer version */
    row.want.changed = 0;
    put(cache, &row);
    CHECK(!get(cache, &row, &want));
    bp_value_cache_free(cache);
}

static void a_newer_row_of_a_key_replaces_the_older(void) {
    struct bp_value_cache *cache = bp_value_cache_new(1u << 20);
    struct row row;
    for (uint64_t revision = 10; revision < 200; revision++) {
        make(&row, 7, revision);
        put(cache, &row);
        CHECK(get(cache, &row, &row.want));
    }
    bp_value_cache_free(cache);
}

/* Keys that differ by a multiple of CRC32C's polynomial have one checksum too. */
static void keys_of_one_hash_are_told_apart(void) {
    static const uint64_t polynomial = 1 | 0x82F63B78ull << 1;
    struct bp_value_cache *cache = bp_value_cache_new(1u << 20);
    struct row one, other;
    make(&one, 1, 10);
    make(&other, 1, 10);
    bp_put_u64(other.key, bp_get_u64(other.key) ^ polynomial);
    CHECK_EQ_U64(bp_crc32c(7, one.key, one.want.key.size),
                 bp_crc32c(7, other.key, other.want.key.size));
    put(cache, &one);
    CHECK(get(cache, &one, &one.want));
    CHECK(!get(cache, &other, &other.want)); /* the hash is that of the first */
    bp_value_cache_free(cache);
}

static void no_changed_bit_is_believed(void) {
    struct bp_value_cache *cache = bp_value_cache_new(BP_VALUE_CACHE_BYTES_MIN);
    struct row row;
    make(&row, 11, 10);
    put(cache, &row);
    uint64_t used = 0;
    for (uint64_t w = 0; w < cache->lines * BP_LINE_WORDS; w++) {
        uint64_t word = bp_word(&cache->words[w]);
        if (word == 0) {
            continue;
        }
        used++;
        for (uint32_t bit = 0; bit < 64; bit++) {
            bp_word_set(&cache->words[w], word ^ 1ull << bit);
            (void)get(cache, &row, &row.want); /* as it was, or nothing */
            struct bp_row_want later = row.want;
            later.changed = 11; /* a bit of `as of` must not make it younger */
            later.revision = UINT64_MAX;
            CHECK(!get(cache, &row, &later));
        }
        bp_word_set(&cache->words[w], word);
    }
    CHECK(used > 10 && get(cache, &row, &row.want));
    bp_value_cache_free(cache);
}

static void what_is_too_large_has_no_row(void) {
    struct bp_value_cache *cache = bp_value_cache_new(1u << 20);
    struct row row;
    uint8_t small[8], key[BP_ROW_KEY_MAX + 1];
    struct bp_version version;
    make(&row, 20, 10);
    put(cache, &row);
    CHECK(row.version.value.size > sizeof small);
    CHECK(!bp_rows_get(cache, &row.want, small, sizeof small, &version));
    memset(key, 'x', sizeof key);
    row.want.key = bp_slice(key, sizeof key);
    put(cache, &row);
    CHECK(!get(cache, &row, &row.want));
    CHECK(!bp_rows_get(NULL, &row.want, small, sizeof small, &version));
    bp_value_cache_free(cache);
}

/* ---- with an index and a store --------------------------------------------------------------- */

static void every_change_stamps_its_key(void) {
    struct bp_index *index = bp_index_new(NULL);
    struct bp_error err;
    struct bp_slice key = bp_slice("ukey", 4);
    uint64_t hash = bp_index_key_hash(key);
    CHECK_EQ_U64(bp_index_changed(index, hash), 0);
    CHECK_OK(bp_index_put(index, key, 5, 0, false, &(struct bp_value_ref){0}, NULL, &err), &err);
    CHECK_EQ_U64(bp_index_changed(index, hash), 5);
    CHECK_OK(bp_index_put(index, key, 6, 0, false, &(struct bp_value_ref){0}, NULL, &err), &err);
    CHECK_EQ_U64(bp_index_changed(index, hash), 6);
    CHECK(bp_index_delete(index, key, 9, NULL) == 1);
    CHECK_EQ_U64(bp_index_changed(index, hash), 9);
    bp_index_free(index);
}

/* Every kind of change to a key must reach the next get, though its row was there. */
static void a_get_sees_every_acknowledged_change(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    char got[64], value[64];
    uint64_t revision, deleted;
    for (uint32_t i = 0; i < 200; i++) {
        (void)snprintf(value, sizeof value, "value %u", i);
        CHECK(test_put(store, "k", value, &revision) == BP_OK);
        for (uint32_t again = 0; again < 2; again++) {
            CHECK(test_get(store, "k", got, sizeof got) && strcmp(got, value) == 0);
        }
        if (i % 3 == 0) {
            CHECK(test_delete(store, "k", &revision) == BP_OK);
            CHECK(!test_get(store, "k", got, sizeof got));
        } else if (i % 3 == 1) {
            CHECK(test_delete_range(store, "a", "z", &deleted) == BP_OK && deleted == 1);
            CHECK(!test_get(store, "k", got, sizeof got));
        }
    }
    struct bp_error err;
    CHECK_OK(bp_close(store, &err), &err);
    bp_sim_free(sim);
}

/* A GetRequest of "k" at a revision, through the wire; the size of the reply. */
static uint64_t get_at(struct bp_store *store, uint64_t revision) {
    struct bp_buffer request = {0};
    struct bp_reply reply = {0};
    struct bp_error err;
    bp_pb_text(&request, 1, "k");
    bp_pb_uint(&request, 2, revision);
    CHECK_OK(bp_call_wire(store, BP_METHOD_GET, 'u', request.data, request.size, &reply, &err),
             &err);
    uint64_t size = reply.size;
    bp_reply_free(&reply);
    bp_buffer_free(&request);
    return size;
}

/* What was loaded from a checkpoint changed before the start: a look at its past is no news of it. */
static void an_older_version_is_no_newest_one_after_a_restart(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_error err;
    uint64_t older;
    char got[64];
    CHECK(test_put(store, "k", "older", &older) == BP_OK);
    CHECK(test_put(store, "k", "newer", NULL) == BP_OK);
    CHECK_OK(bp_step_checkpoint(store, 1, &err), &err);
    store = test_reopen(sim, &options, store);
    CHECK(get_at(store, older) > sizeof "older");
    CHECK(test_get(store, "k", got, sizeof got) && strcmp(got, "newer") == 0);
    CHECK(test_delete(store, "k", NULL) == BP_OK);
    CHECK_OK(bp_step_checkpoint(store, 1, &err), &err);
    store = test_reopen(sim, &options, store);
    CHECK(get_at(store, older) > sizeof "older");
    CHECK(!test_get(store, "k", got, sizeof got));
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* ---- threads --------------------------------------------------------------------------------- */

enum { SHARED_KEYS = 64, THREADS = 3, ROUNDS = 20000 };

struct crowd {
    struct bp_value_cache *cache;
    _Atomic uint64_t published, stamps[SHARED_KEYS];
};

struct member {
    struct crowd *crowd;
    uint32_t number;
    pthread_t thread;
};

/* Gets, and puts what it did not get: the version that its view shows, which follows from it. */
static void *get_and_put(void *arg) {
    struct member *member = arg;
    struct crowd *crowd = member->crowd;
    struct row row;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t key = (i * 7 + member->number) % SHARED_KEYS;
        uint64_t view = atomic_load_explicit(&crowd->published, memory_order_acquire);
        uint64_t changed = atomic_load_explicit(&crowd->stamps[key], memory_order_relaxed);
        /* Revision r changes key r % SHARED_KEYS: the newest change of this one up to the view. */
        uint64_t newest = view - (view + SHARED_KEYS - key) % SHARED_KEYS;
        make(&row, key, newest);
        row.want.changed = changed;
        row.want.revision = view;
        if (!get(crowd->cache, &row, &row.want)) {
            put(crowd->cache, &row);
        }
    }
    return NULL;
}

static void no_get_is_behind_what_was_published_before_it(void) {
    struct crowd crowd = {.cache = bp_value_cache_new(BP_VALUE_CACHE_BYTES_MIN),
                          .published = 2 * SHARED_KEYS};
    for (uint32_t key = 0; key < SHARED_KEYS; key++) {
        crowd.stamps[key] = SHARED_KEYS + key;
    }
    crowd.stamps[0] = 2 * SHARED_KEYS;
    struct member members[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        members[i] = (struct member){.crowd = &crowd, .number = i};
        CHECK(pthread_create(&members[i].thread, NULL, get_and_put, &members[i]) == 0);
    }
    for (uint64_t revision = 2 * SHARED_KEYS + 1; revision < 4000; revision++) {
        atomic_store_explicit(&crowd.stamps[revision % SHARED_KEYS], revision,
                              memory_order_relaxed);
        atomic_store_explicit(&crowd.published, revision, memory_order_release);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(members[i].thread, NULL);
    }
    bp_value_cache_free(crowd.cache);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(a_row_is_found_as_it_was_put);
    RUN(a_row_is_not_found_once_its_key_may_have_changed);
    RUN(a_row_from_after_the_view_is_not_for_it);
    RUN(what_was_overtaken_is_not_kept);
    RUN(a_newer_row_of_a_key_replaces_the_older);
    RUN(keys_of_one_hash_are_told_apart);
    RUN(no_changed_bit_is_believed);
    RUN(what_is_too_large_has_no_row);
    RUN(every_change_stamps_its_key);
    RUN(a_get_sees_every_acknowledged_change);
    RUN(an_older_version_is_no_newest_one_after_a_restart);
    RUN(no_get_is_behind_what_was_published_before_it);
    TESTS_END;
}

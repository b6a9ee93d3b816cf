/* Reading values: exactly the bytes asked for, and never one that fails its checksum. */
#include "../src/value.h"

#include <errno.h>

#include "../src/crc32c.h"
#include "../src/value_cache.h"
#include "log_rig.h"

#define CHUNK BP_CRC_CHUNK

struct stored {
    struct rig rig;
    struct bp_segment *segment;
    uint8_t *bytes;
    uint32_t size;
    struct bp_value_ref ref;
    uint32_t
        begin; /* file offset of the first byte that belongs to the value: its table or itself */
};

/*
 * A value in a settled segment, with its CRC table before it where it has one, and rubbish around.
 */
static void store_value(struct stored *stored, uint32_t size) {
    rig_init(&stored->rig, size);
    uint32_t chunks = size <= CHUNK ? 0 : (size + CHUNK - 1) / CHUNK;
    uint32_t table = (uint32_t)bp_align8(chunks * 4);
    uint8_t *extra = malloc(64 + table + size + 64);
    stored->bytes = malloc(size + 1);
    CHECK(extra != NULL && stored->bytes != NULL);
    memset(extra, 0xee, 64 + table + size + 64);
    rig_fill(stored->bytes, size, size, 5);
    memcpy(extra + 64 + table, stored->bytes, size);
    for (uint32_t i = 0; i < chunks; i++) {
        uint32_t n = size - i * CHUNK < CHUNK ? size - i * CHUNK : CHUNK;
        bp_put_u32(extra + 64 + 4 * i, bp_crc32c(0, stored->bytes + i * CHUNK, n));
    }
    struct bp_segment_header header = {.kind = BP_SEGMENT_SETTLED, .id = 1, .salt = 9};
    memcpy(header.store_id, rig_store_id, 16);
    CHECK_OK(bp_segment_create(stored->rig.segments, &header, 2u << 20, extra,
                               64 + table + size + 64, &stored->segment, &stored->rig.err),
             &stored->rig.err);
    stored->size = size;
    stored->begin = BP_SEGMENT_HEADER + 64;
    stored->ref = (struct bp_value_ref){
        .at = {.segment = 1, .offset = BP_SEGMENT_HEADER + 64 + table},
        .size = size,
        .crc =
            chunks > 0 ? bp_crc32c(0, extra + 64, chunks * 4) : bp_crc32c(0, stored->bytes, size),
    };
    free(extra);
}

static void drop(struct stored *stored) {
    free(stored->bytes);
    rig_free(&stored->rig);
}

static int read_range(struct stored *stored, uint32_t offset, uint32_t size, uint8_t *out) {
    return bp_value_read(stored->rig.segments, &stored->ref, offset, size, out, &stored->rig.err);
}

static void flip(struct stored *stored, uint64_t offset) {
    CHECK(bp_sim_flip(stored->rig.sim, RIG_DIR "/00000001.set", offset, 3) == 0);
}

static const uint32_t sizes[] = {1,         7,         4096,          CHUNK - 1,   CHUNK,
                                 CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5, BP_VALUE_MAX};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static void any_range_of_any_size_reads_as_written(void) {
    static uint8_t out[BP_VALUE_MAX + 2];
    for (size_t s = 0; s < SIZES; s++) {
        struct stored stored;
        store_value(&stored, sizes[s]);
        for (uint64_t i = 0; i < 60; i++) {
            uint32_t a = i == 0 ? 0 : (uint32_t)(rig_mix(i) % (stored.size + 1));
            uint32_t b = i == 0 ? stored.size : (uint32_t)(rig_mix(i + 999) % (stored.size + 1));
            if (i > 40) { /* ends on chunk boundaries */
                a = a / CHUNK * CHUNK;
                b = b / CHUNK * CHUNK;
            }
            uint32_t from = a < b ? a : b, n = (a < b ? b : a) - from;
            memset(out, 0x5a, n + 2);
            CHECK_OK(read_range(&stored, from, n, out + 1), &stored.rig.err);
            CHECK(memcmp(out + 1, stored.bytes + from, n) == 0);
            CHECK(out[0] == 0x5a && out[n + 1] == 0x5a);
        }
        CHECK(!stored.segment->damaged);
        drop(&stored);
    }
}

static void an_empty_value_reads_as_nothing(void) {
    struct stored stored;
    store_value(&stored, 0);
    uint8_t out[1] = {7}, scratch[1];
    CHECK_OK(read_range(&stored, 0, 0, out), &stored.rig.err);
    CHECK_EQ_U64(out[0], 7);
    CHECK_OK(bp_value_verify(stored.rig.segments, &stored.ref, BP_SITE_SCRUB_READ, scratch,
                             &stored.rig.err),
             &stored.rig.err);
    drop(&stored);
}

static void a_range_beyond_the_value_is_refused(void) {
    struct stored stored;
    store_value(&stored, 100);
    uint8_t out[200];
    CHECK_EQ_U64(read_range(&stored, 0, 101, out), BP_OUT_OF_RANGE);
    CHECK_EQ_U64(read_range(&stored, 101, 0, out), BP_OUT_OF_RANGE);
    CHECK_EQ_U64(read_range(&stored, 100, UINT32_MAX, out), BP_OUT_OF_RANGE);
    CHECK_OK(read_range(&stored, 100, 0, out), &stored.rig.err);
    drop(&stored);
}

static void no_byte_of_a_damaged_small_value_is_returned(void) {
    struct stored stored;
    store_value(&stored, 300);
    uint8_t out[300];
    for (uint32_t i = 0; i < 300; i++) {
        flip(&stored, stored.ref.at.offset + i);
        stored.segment->damaged = false;
        CHECK_EQ_U64(read_range(&stored, (i + 7) % 300, 1, out),
                     BP_DATA_LOSS); /* any range of it */
        CHECK_EQ_U64(stored.rig.err.reason, BP_REASON_VALUE_DAMAGED);
        CHECK(strstr(stored.rig.err.message, "00000001.set") != NULL);
        CHECK(strstr(stored.rig.err.message, "offset 4160") != NULL);
        CHECK(stored.segment->damaged);
        flip(&stored, stored.ref.at.offset + i);
    }
    CHECK_OK(read_range(&stored, 0, 300, out), &stored.rig.err);
    drop(&stored);
}

static void damage_in_one_chunk_spoils_only_reads_that_touch_it(void) {
    static uint8_t out[4 * CHUNK], scratch[CHUNK];
    struct stored stored;
    store_value(&stored, 3 * CHUNK + 50);
    for (uint32_t bad = 0; bad < 4; bad++) {
        uint64_t at = stored.ref.at.offset + bad * CHUNK + 13;
        flip(&stored, at);
        for (uint32_t chunk = 0; chunk < 4; chunk++) {
            uint32_t n = chunk == 3 ? 50 : CHUNK;
            CHECK_EQ_U64(read_range(&stored, chunk * CHUNK, n, out),
                         chunk == bad ? BP_DATA_LOSS : BP_OK);
            CHECK_EQ_U64(read_range(&stored, chunk * CHUNK + 20, 20, out),
                         chunk == bad ? BP_DATA_LOSS : BP_OK);
        }
        CHECK_EQ_U64(read_range(&stored, 0, stored.size, out), BP_DATA_LOSS);
        CHECK_EQ_U64(bp_value_verify(stored.rig.segments, &stored.ref, BP_SITE_SCRUB_READ, scratch,
                                     &stored.rig.err),
                     BP_DATA_LOSS);
        flip(&stored, at);
    }
    CHECK_OK(bp_value_verify(stored.rig.segments, &stored.ref, BP_SITE_SCRUB_READ, scratch,
                             &stored.rig.err),
             &stored.rig.err);
    drop(&stored);
}

static void a_damaged_table_spoils_every_read(void) {
    static uint8_t out[CHUNK];
    struct stored stored;
    store_value(&stored, 2 * CHUNK + 1); /* three CRCs, four bytes of padding */
    for (uint32_t i = 0; i < 16; i++) {
        flip(&stored, stored.begin + i);
        for (uint32_t chunk = 0; chunk < 3; chunk++) {
            CHECK_EQ_U64(read_range(&stored, chunk * CHUNK, 1, out), i < 12 ? BP_DATA_LOSS : BP_OK);
        }
        flip(&stored, stored.begin + i);
    }
    drop(&stored);
}

static void a_flip_on_the_way_from_the_disk_is_noticed(void) {
    static uint8_t out[BP_VALUE_MAX], scratch[CHUNK];
    for (size_t s = 0; s < SIZES; s++) {
        struct stored stored;
        store_value(&stored, sizes[s]);
        for (uint64_t i = 0; i < 20; i++) {
            CHECK(bp_disk_arm(stored.rig.disk, BP_SITE_VALUE_READ, BP_FAULT_FLIP, 1, 1,
                              rig_mix(i)) == 0);
            CHECK_EQ_U64(read_range(&stored, 0, stored.size, out), BP_DATA_LOSS);
            CHECK(bp_disk_arm(stored.rig.disk, BP_SITE_SCRUB_READ, BP_FAULT_FLIP, 1, 1,
                              rig_mix(i)) == 0);
            CHECK_EQ_U64(bp_value_verify(stored.rig.segments, &stored.ref, BP_SITE_SCRUB_READ,
                                         scratch, &stored.rig.err),
                         BP_DATA_LOSS);
        }
        drop(&stored);
    }
}

static void a_read_error_is_unavailable_not_damage(void) {
    struct stored stored;
    store_value(&stored, 300);
    uint8_t out[300];
    CHECK(bp_disk_arm(stored.rig.disk, BP_SITE_VALUE_READ, BP_FAULT_EIO, 1, 1, 0) == 0);
    CHECK_EQ_U64(read_range(&stored, 0, 300, out), BP_UNAVAILABLE);
    CHECK_EQ_U64(stored.rig.err.reason, BP_REASON_IO_FAILED);
    CHECK_EQ_U64(stored.rig.err.sys_errno, EIO);
    CHECK(!stored.segment->damaged);
    CHECK_OK(read_range(&stored, 0, 300, out), &stored.rig.err);
    drop(&stored);
}

static void a_file_cut_short_and_a_missing_segment_are_damage(void) {
    struct stored stored;
    store_value(&stored, 300);
    uint8_t out[300];
    CHECK(bp_disk_truncate(stored.rig.disk, BP_SITE_NONE, stored.segment->fd,
                           stored.ref.at.offset + 299) == 0);
    CHECK_EQ_U64(read_range(&stored, 0, 300, out), BP_DATA_LOSS);
    CHECK(stored.segment->damaged);
    stored.ref.at.segment = 2;
    CHECK_EQ_U64(read_range(&stored, 0, 300, out), BP_DATA_LOSS);
    CHECK_EQ_U64(stored.rig.err.reason, BP_REASON_VALUE_DAMAGED);
    drop(&stored);
}

static void a_reference_that_cannot_be_is_damage(void) {
    struct stored stored;
    store_value(&stored, 2 * CHUNK);
    static uint8_t out[4];
    struct bp_value_ref good = stored.ref;
    stored.ref.size = BP_VALUE_MAX + 1;
    CHECK_EQ_U64(read_range(&stored, 0, 4, out), BP_DATA_LOSS);
    stored.ref = good;
    stored.ref.at.offset = BP_SEGMENT_HEADER; /* no room for its table */
    CHECK_EQ_U64(read_range(&stored, 0, 4, out), BP_DATA_LOSS);
    drop(&stored);
}

/* ---- several values -------------------------------------------------------------------------- */

enum { MANY = 300, EXTENT = 400 << 10 };

/* Many values in one segment, in the order of their places, `gap` bytes apart, behind a cache. */
struct many {
    struct rig rig;
    struct bp_value_cache *cache;
    uint8_t *bytes; /* the segment's, header block and all */
    struct bp_version versions[MANY];
};

static void store_many(struct many *many, uint32_t gap) {
    rig_init(&many->rig, 3);
    many->cache = bp_value_cache_new(8u << 20);
    bp_segments_set_cache(many->rig.segments, many->cache);
    many->bytes = calloc(1, BP_SEGMENT_HEADER + EXTENT);
    CHECK(many->cache != NULL && many->bytes != NULL);
    uint32_t at = BP_SEGMENT_HEADER;
    for (uint32_t i = 0; i < MANY; i++) {
        uint32_t size = i % 50 == 7 ? 0 : i % 50 == 9 ? 1200 : 1 + i * 31 % 400;
        CHECK(at + size <= BP_SEGMENT_HEADER + EXTENT);
        rig_fill(many->bytes + at, size, i, 3);
        many->versions[i] = (struct bp_version){
            .revision = i + 1,
            .version = 1,
            .value = {.at = {.segment = 1, .offset = at},
                      .size = size,
                      .crc = bp_crc32c(0, many->bytes + at, size)},
        };
        at += size + gap;
    }
    struct bp_segment_header header = {.kind = BP_SEGMENT_SETTLED, .id = 1, .salt = 9};
    memcpy(header.store_id, rig_store_id, 16);
    struct bp_segment *segment;
    CHECK_OK(bp_segment_create(many->rig.segments, &header, 2u << 20,
                               many->bytes + BP_SEGMENT_HEADER, EXTENT, &segment, &many->rig.err),
             &many->rig.err);
}

static void drop_many(struct many *many) {
    rig_free(&many->rig);
    bp_value_cache_free(many->cache);
    free(many->bytes);
}

static int read_one(struct many *many, uint32_t i) {
    uint8_t out[1200];
    const struct bp_value_ref *value = &many->versions[i].value;
    int code = bp_value_read(many->rig.segments, value, 0, value->size, out, &many->rig.err);
    CHECK(code != BP_OK || memcmp(out, many->bytes + value->at.offset, value->size) == 0);
    return code;
}

static void values_near_each_other_are_read_at_once(void) {
    struct many many;
    store_many(&many, 40);
    /* Four reads bring in all that a cache keeps; no more would succeed. */
    CHECK(bp_disk_arm(many.rig.disk, BP_SITE_VALUE_READ, BP_FAULT_EIO, 5, 0, 0) == 0);
    bp_value_ahead(many.rig.segments, many.versions, 200);
    CHECK(bp_disk_arm(many.rig.disk, BP_SITE_VALUE_READ, BP_FAULT_EIO, 1, 0, 0) == 0);
    uint32_t there = 0;
    for (uint32_t i = 0; i < 200; i++) {
        there += read_one(&many, i) == BP_OK;
    }
    CHECK(there >= 190); /* four are too large, and a few may have fallen on each other */
    drop_many(&many);
}

static void any_order_and_distance_reads_as_written(void) {
    static const uint32_t gaps[] = {0, 40, 700, 1100};
    for (uint32_t g = 0; g < sizeof gaps / sizeof gaps[0]; g++) {
        struct many many;
        store_many(&many, gaps[g]);
        struct bp_version shuffled[MANY];
        for (uint32_t i = 0; i < MANY; i++) {
            shuffled[i] = many.versions[g % 2 == 0 ? MANY - 1 - i : i * 77 % MANY];
        }
        bp_value_ahead(many.rig.segments, shuffled, MANY);
        bp_value_ahead(many.rig.segments, shuffled, MANY); /* and again when all is there */
        for (uint32_t i = 0; i < MANY; i++) {
            CHECK_OK(read_one(&many, i), &many.rig.err);
        }
        drop_many(&many);
    }
}

static void a_damaged_value_among_its_neighbours_is_reported_alone(void) {
    struct many many;
    store_many(&many, 40);
    CHECK(bp_sim_flip(many.rig.sim, RIG_DIR "/00000001.set", many.versions[20].value.at.offset + 3,
                      3) == 0);
    bp_value_ahead(many.rig.segments, many.versions, 100);
    for (uint32_t i = 0; i < 100; i++) {
        CHECK_EQ_U64(read_one(&many, i), i == 20 ? BP_DATA_LOSS : BP_OK);
    }
    drop_many(&many);
}

static void a_read_ahead_that_fails_harms_nobody(void) {
    struct many many;
    store_many(&many, 40);
    CHECK(bp_disk_arm(many.rig.disk, BP_SITE_VALUE_READ, BP_FAULT_EIO, 1, 2, 0) == 0);
    bp_value_ahead(many.rig.segments, many.versions, 60);
    struct bp_version gone = many.versions[0];
    gone.value.at.segment = 9; /* a segment that is not there */
    struct bp_version pair[2] = {gone, gone};
    bp_value_ahead(many.rig.segments, pair, 2);
    CHECK(bp_disk_arm(many.rig.disk, BP_SITE_VALUE_READ, BP_FAULT_NONE, 1, 0, 0) == 0);
    for (uint32_t i = 0; i < 60; i++) {
        CHECK_OK(read_one(&many, i), &many.rig.err);
    }
    bp_segments_set_cache(many.rig.segments, NULL);
    bp_value_ahead(many.rig.segments, many.versions, 60);
    CHECK_OK(read_one(&many, 0), &many.rig.err);
    drop_many(&many);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(any_range_of_any_size_reads_as_written);
    RUN(an_empty_value_reads_as_nothing);
    RUN(a_range_beyond_the_value_is_refused);
    RUN(no_byte_of_a_damaged_small_value_is_returned);
    RUN(damage_in_one_chunk_spoils_only_reads_that_touch_it);
    RUN(a_damaged_table_spoils_every_read);
    RUN(a_flip_on_the_way_from_the_disk_is_noticed);
    RUN(a_read_error_is_unavailable_not_damage);
    RUN(a_file_cut_short_and_a_missing_segment_are_damage);
    RUN(a_reference_that_cannot_be_is_damage);
    RUN(values_near_each_other_are_read_at_once);
    RUN(any_order_and_distance_reads_as_written);
    RUN(a_damaged_value_among_its_neighbours_is_reported_alone);
    RUN(a_read_ahead_that_fails_harms_nobody);
    TESTS_END;
}

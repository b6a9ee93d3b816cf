/*
 * Segment files: headers that say what they are, a table readers need no lock for, creation that is
 * all or nothing.
 */
#include <errno.h>
#include <pthread.h>

#include "../src/crc32c.h"
#include "log_rig.h"

static struct bp_segment_header sample(uint32_t id, int kind) {
    struct bp_segment_header header = {
        .kind = kind,
        .id = id,
        .salt = 0x1122334455667788u + id,
        .first_sequence = 77,
        .previous_end = {.segment = id - 1, .offset = 4104},
        .previous_index = 99,
        .hardstate = {.term = 3, .vote = 4, .commit = 5},
        .size = kind == BP_SEGMENT_LOG ? 65536 : 0,
    };
    memcpy(header.store_id, rig_store_id, 16);
    return header;
}

static void a_header_reads_as_it_was_written(void) {
    for (int kind = BP_SEGMENT_LOG; kind <= BP_SEGMENT_SETTLED; kind++) {
        struct bp_segment_header header = sample(7, kind), got;
        struct bp_error err;
        uint8_t block[BP_SEGMENT_HEADER];
        bp_segment_header_encode(&header, block);
        CHECK_OK(bp_segment_header_decode(block, "f", &got, &err), &err);
        CHECK_EQ_U64(got.kind, kind);
        CHECK_EQ_U64(got.format, BP_FORMAT_VERSION);
        CHECK_EQ_U64(got.id, 7);
        CHECK(memcmp(got.store_id, rig_store_id, 16) == 0);
        CHECK_EQ_U64(got.salt, header.salt);
        CHECK_EQ_U64(got.first_sequence, 77);
        CHECK_EQ_U64(got.previous_end.segment, 6);
        CHECK_EQ_U64(got.previous_end.offset, 4104);
        CHECK_EQ_U64(got.previous_index, 99);
        CHECK_EQ_U64(got.hardstate.term, 3);
        CHECK_EQ_U64(got.hardstate.vote, 4);
        CHECK_EQ_U64(got.hardstate.commit, 5);
        CHECK_EQ_U64(got.size, header.size);
    }
}

static void a_header_with_any_flipped_byte_is_corruption_that_names_the_file(void) {
    struct bp_segment_header header = sample(7, BP_SEGMENT_LOG), got;
    uint8_t block[BP_SEGMENT_HEADER];
    bp_segment_header_encode(&header, block);
    for (uint32_t i = 0; i < BP_SEGMENT_HEADER; i++) {
        struct bp_error err;
        block[i] ^= (uint8_t)(1u << (i % 8));
        CHECK_EQ_U64(bp_segment_header_decode(block, "dir/00000007.log", &got, &err), BP_DATA_LOSS);
        CHECK_EQ_U64(err.reason, BP_REASON_STORE_CORRUPT);
        CHECK(strstr(err.message, "dir/00000007.log") != NULL);
        block[i] ^= (uint8_t)(1u << (i % 8));
    }
}

static int decode_with(uint32_t at, uint64_t value, int bytes, struct bp_error *err) {
    struct bp_segment_header header = sample(7, BP_SEGMENT_LOG), got;
    uint8_t block[BP_SEGMENT_HEADER];
    bp_segment_header_encode(&header, block);
    if (bytes == 4) {
        bp_put_u32(block + at, (uint32_t)value);
    } else {
        bp_put_u64(block + at, value);
    }
    bp_put_u32(block + BP_SEGMENT_HEADER - 4, bp_crc32c(0, block, BP_SEGMENT_HEADER - 4));
    return bp_segment_header_decode(block, "f", &got, err);
}

static void a_sound_header_of_a_newer_format_is_told_from_damage(void) {
    struct bp_error err;
    CHECK_EQ_U64(decode_with(8, BP_FORMAT_VERSION + 1, 4, &err), BP_FAILED_PRECONDITION);
    CHECK_EQ_U64(err.reason, BP_REASON_FORMAT_UNSUPPORTED);
    CHECK_EQ_U64(decode_with(8, BP_FORMAT_VERSION, 4, &err), BP_OK);
}

static void impossible_values_are_corruption(void) {
    const struct {
        uint32_t at;
        uint64_t value;
        int bytes;
    } bad[] = {
        {8, 0, 4},  {12, 0, 4},  {32, 0, 8},    {48, 7, 4},
        {48, 8, 4}, {52, 12, 4}, {52, 4000, 4}, {88, 1, 8},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct bp_error err;
        CHECK_EQ_U64(decode_with(bad[i].at, bad[i].value, bad[i].bytes, &err), BP_DATA_LOSS);
    }
}

/* ---- the table ------------------------------------------------------------------------------- */

static struct bp_segment *add(struct rig *rig, uint32_t id) {
    struct bp_segment segment = {.header = sample(id, BP_SEGMENT_LOG), .fd = -1};
    struct bp_segment *out;
    CHECK_OK(bp_segments_add(rig->segments, &segment, &out, &rig->err), &rig->err);
    return out;
}

static void segments_are_found_by_id_and_listed_in_order(void) {
    struct rig rig;
    rig_init(&rig, 1);
    const uint32_t ids[] = {1, 2, 1023, 1024, 2097151, 2097152, 77777777, UINT32_MAX};
    enum { N = sizeof ids / sizeof ids[0] };
    CHECK(bp_segments_next(rig.segments, 0) == NULL);
    for (uint32_t i = N; i > 0; i--) {
        CHECK(add(&rig, ids[i - 1])->header.id == ids[i - 1]);
    }
    uint32_t from = 0;
    for (uint32_t i = 0; i < N; i++) {
        struct bp_segment *segment = bp_segments_next(rig.segments, from);
        CHECK(segment != NULL && segment->header.id == ids[i]);
        CHECK(bp_segments_find(rig.segments, ids[i]) == segment);
        CHECK(bp_segments_find(rig.segments, ids[i] - 1) == NULL || (i == 1 || i == 3 || i == 5));
        from = ids[i];
    }
    CHECK(bp_segments_next(rig.segments, from) == NULL);
    CHECK_EQ_U64(bp_segments_last_id(rig.segments), UINT32_MAX);
    bp_segments_remove(rig.segments, 1024);
    CHECK(bp_segments_find(rig.segments, 1024) == NULL);
    CHECK(bp_segments_next(rig.segments, 1023)->header.id == 2097151);
    bp_segments_remove(rig.segments, 1024); /* nothing there: nothing happens */
    rig_free(&rig);
}

static void ids_grow_beyond_every_one_reserved_or_added(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_EQ_U64(bp_segments_take_id(rig.segments), 1);
    add(&rig, 5);
    CHECK_EQ_U64(bp_segments_take_id(rig.segments), 6);
    bp_segments_reserve_id(rig.segments, 100);
    bp_segments_reserve_id(rig.segments, 50);
    CHECK_EQ_U64(bp_segments_take_id(rig.segments), 101);
    CHECK_EQ_U64(bp_segments_last_id(rig.segments), 101);
    rig_free(&rig);
}

struct race {
    struct rig *rig;
    atomic_uint added;
};

static void *look_up(void *arg) {
    struct race *race = arg;
    uint32_t added;
    do {
        added = atomic_load(&race->added);
        for (uint32_t id = 1; id <= added; id += 1 + added / 64) {
            struct bp_segment *segment = bp_segments_find(race->rig->segments, id);
            CHECK(segment != NULL && segment->header.id == id);
            CHECK_EQ_U64(segment->header.salt, sample(id, BP_SEGMENT_LOG).salt);
        }
        struct bp_segment *next = bp_segments_next(race->rig->segments, added / 2);
        CHECK(added == 0 || (next != NULL && next->header.id == added / 2 + 1));
    } while (added < 5000);
    return NULL;
}

static void readers_find_segments_while_others_are_added(void) {
    struct rig rig;
    rig_init(&rig, 1);
    struct race race = {.rig = &rig};
    pthread_t readers[2];
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&readers[i], NULL, look_up, &race) == 0);
    }
    for (uint32_t id = 1; id <= 5000; id++) {
        add(&rig, id);
        atomic_store(&race.added, id);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(readers[i], NULL);
    }
    rig_free(&rig);
}

static void a_path_is_the_id_in_hex_and_the_kind(void) {
    struct rig rig;
    rig_init(&rig, 1);
    char path[64];
    bp_segment_path(rig.segments, 0xab12, BP_SEGMENT_LOG, false, path, sizeof path);
    CHECK(strcmp(path, "/d/0000ab12.log") == 0);
    bp_segment_path(rig.segments, 1, BP_SEGMENT_SETTLED, true, path, sizeof path);
    CHECK(strcmp(path, "/d/00000001.set.tmp") == 0);
    rig_free(&rig);
}

/* ---- files ----------------------------------------------------------------------------------- */

static int create(struct rig *rig, uint32_t id, int kind, struct bp_segment **out) {
    static const uint8_t extra[3000] = {1, 2, 3, [2999] = 9};
    struct bp_segment_header header = sample(id, kind);
    return bp_segment_create(rig->segments, &header, 1u << 20, extra, sizeof extra, out, &rig->err);
}

static void check_whole(struct rig *rig, const struct bp_segment *segment) {
    uint8_t got[3000];
    CHECK_EQ_U64(segment->size, 1u << 20);
    CHECK(bp_disk_read(rig->disk, BP_SITE_LOG_READ, segment->fd, got, sizeof got,
                       BP_SEGMENT_HEADER) == 0);
    CHECK(got[0] == 1 && got[2] == 3 && got[2999] == 9);
}

static void a_created_segment_is_durable_under_its_name(void) {
    for (int kind = BP_SEGMENT_LOG; kind <= BP_SEGMENT_SETTLED; kind++) {
        struct rig rig;
        rig_init(&rig, 1);
        struct bp_segment *segment;
        CHECK_OK(create(&rig, 3, kind, &segment), &rig.err);
        CHECK_EQ_U64(segment->used, BP_SEGMENT_HEADER + 3000);
        CHECK(bp_segments_find(rig.segments, 3) == segment);
        rig_power_cut(&rig, 0);
        CHECK_OK(bp_segment_open(rig.segments, 3, kind, rig_store_id, &segment, &rig.err),
                 &rig.err);
        check_whole(&rig, segment);
        CHECK_OK(bp_segment_delete(rig.segments, 3, &rig.err), &rig.err);
        CHECK(bp_segments_find(rig.segments, 3) == NULL);
        CHECK(bp_segment_open(rig.segments, 3, kind, rig_store_id, &segment, &rig.err) != BP_OK);
        CHECK_EQ_U64(rig.err.sys_errno, ENOENT);
        rig_free(&rig);
    }
}

static int count_names(void *arg, const char *name) {
    *(int *)arg += strstr(name, ".tmp") == NULL ? 1 : 100;
    return 0;
}

static const int create_sites[2][7] = {
    {BP_SITE_LOG_CREATE, BP_SITE_LOG_ALLOCATE, BP_SITE_LOG_HEADER_WRITE, BP_SITE_LOG_HEADER_SYNC,
     BP_SITE_LOG_RENAME, BP_SITE_LOG_DIR_SYNC, BP_SITE_LOG_HEADER_WRITE},
    {BP_SITE_SETTLED_CREATE, BP_SITE_SETTLED_CREATE, BP_SITE_SETTLED_WRITE, BP_SITE_SETTLED_WRITE,
     BP_SITE_SETTLED_SYNC, BP_SITE_SETTLED_RENAME, BP_SITE_SETTLED_DIR_SYNC},
};

static void a_crash_at_each_step_leaves_a_whole_segment_or_none(void) {
    const int faults[] = {BP_FAULT_CRASH, BP_FAULT_CRASH_AFTER, BP_FAULT_SHORT};
    for (int kind = BP_SEGMENT_LOG; kind <= BP_SEGMENT_SETTLED; kind++) {
        for (int step = 0; step < 7; step++) {
            for (int fault = 0; fault < 3; fault++) {
                for (uint32_t keep = 0; keep <= 1024; keep += 512) {
                    struct rig rig;
                    rig_init(&rig, (uint64_t)step);
                    bp_disk_set_crash_is_error(rig.disk, 1);
                    CHECK(bp_disk_arm(rig.disk, create_sites[kind - 1][step], faults[fault],
                                      1u + (unsigned)step % 2u, 1, 0) == 0);
                    struct bp_segment *segment;
                    int made = create(&rig, 3, kind, &segment);
                    rig_power_cut(&rig, keep);
                    int rc =
                        bp_segment_open(rig.segments, 3, kind, rig_store_id, &segment, &rig.err);
                    CHECK(made != BP_OK || rc == BP_OK);
                    if (rc == BP_OK) {
                        check_whole(&rig, segment);
                    } else {
                        CHECK_EQ_U64(rig.err.sys_errno, ENOENT);
                    }
                    rig_free(&rig);
                }
            }
        }
    }
}

static void a_full_disk_leaves_nothing_behind(void) {
    for (int kind = BP_SEGMENT_LOG; kind <= BP_SEGMENT_SETTLED; kind++) {
        for (int step = 0; step < 6; step++) {
            int site = create_sites[kind - 1][step];
            if (site == BP_SITE_LOG_HEADER_SYNC || site == BP_SITE_LOG_DIR_SYNC) {
                continue; /* a sync that fails is another matter */
            }
            struct rig rig;
            rig_init(&rig, 1);
            CHECK(bp_disk_arm(rig.disk, site, BP_FAULT_ENOSPC, 1, 1, 0) == 0);
            struct bp_segment *segment;
            CHECK_EQ_U64(create(&rig, 3, kind, &segment), BP_RESOURCE_EXHAUSTED);
            CHECK_EQ_U64(rig.err.reason, BP_REASON_DISK_FULL);
            int names = 0;
            CHECK(bp_disk_list(rig.disk, RIG_DIR, count_names, &names) == 0 && names == 0);
            CHECK_OK(create(&rig, 4, kind, &segment), &rig.err);
            rig_free(&rig);
        }
    }
}

static void a_left_tmp_is_in_nobodys_way(void) {
    struct rig rig;
    rig_init(&rig, 1);
    int fd =
        bp_disk_open(rig.disk, BP_SITE_NONE, RIG_DIR "/00000003.log.tmp", BP_O_WRITE | BP_O_CREATE);
    CHECK(fd >= 0 && bp_disk_write(rig.disk, BP_SITE_NONE, fd, "rubbish", 7, 2u << 20) == 0);
    struct bp_segment *segment;
    CHECK_OK(create(&rig, 3, BP_SEGMENT_LOG, &segment), &rig.err);
    uint64_t size;
    CHECK(bp_disk_size(rig.disk, segment->fd, &size) == 0);
    CHECK_EQ_U64(size, 1u << 20);
    rig_free(&rig);
}

static void a_file_of_another_store_or_name_is_refused(void) {
    struct rig rig;
    rig_init(&rig, 1);
    struct bp_segment *segment;
    CHECK_OK(create(&rig, 3, BP_SEGMENT_LOG, &segment), &rig.err);
    rig_remount(&rig);
    uint8_t other[16] = {1};
    CHECK_EQ_U64(bp_segment_open(rig.segments, 3, BP_SEGMENT_LOG, other, &segment, &rig.err),
                 BP_DATA_LOSS);
    CHECK(bp_disk_rename(rig.disk, BP_SITE_NONE, RIG_DIR "/00000003.log",
                         RIG_DIR "/00000004.log") == 0);
    CHECK_EQ_U64(bp_segment_open(rig.segments, 4, BP_SEGMENT_LOG, rig_store_id, &segment, &rig.err),
                 BP_DATA_LOSS);
    CHECK(bp_disk_rename(rig.disk, BP_SITE_NONE, RIG_DIR "/00000004.log",
                         RIG_DIR "/00000003.set") == 0);
    CHECK_EQ_U64(
        bp_segment_open(rig.segments, 3, BP_SEGMENT_SETTLED, rig_store_id, &segment, &rig.err),
        BP_DATA_LOSS);
    CHECK(strstr(rig.err.message, "00000003.set") != NULL);
    rig_free(&rig);
}

static void two_segments_of_one_number_are_refused(void) {
    struct rig rig;
    rig_init(&rig, 1);
    struct bp_segment *segment;
    CHECK_OK(create(&rig, 3, BP_SEGMENT_LOG, &segment), &rig.err);
    CHECK_EQ_U64(
        bp_segment_open(rig.segments, 3, BP_SEGMENT_SETTLED, rig_store_id, &segment, &rig.err),
        BP_DATA_LOSS);
    rig_free(&rig);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(a_header_reads_as_it_was_written);
    RUN(a_header_with_any_flipped_byte_is_corruption_that_names_the_file);
    RUN(a_sound_header_of_a_newer_format_is_told_from_damage);
    RUN(impossible_values_are_corruption);
    RUN(segments_are_found_by_id_and_listed_in_order);
    RUN(ids_grow_beyond_every_one_reserved_or_added);
    RUN(readers_find_segments_while_others_are_added);
    RUN(a_path_is_the_id_in_hex_and_the_kind);
    RUN(a_created_segment_is_durable_under_its_name);
    RUN(a_crash_at_each_step_leaves_a_whole_segment_or_none);
    RUN(a_full_disk_leaves_nothing_behind);
    RUN(a_left_tmp_is_in_nobodys_way);
    RUN(a_file_of_another_store_or_name_is_refused);
    RUN(two_segments_of_one_number_are_refused);
    TESTS_END;
}

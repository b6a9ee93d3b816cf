/* Writing the log: frames, durability, rotation, marks, full disks and failing ones. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "log_rig.h"

static void synced_entries_are_there_after_reopening(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig.recovery.n, 0);
    rig_append_to(&rig, 100);
    rig_sync(&rig);
    rig_power_cut(&rig, 0);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), 100);
    CHECK_EQ_U64(bp_log_last_term(rig.log), 1);
    rig_free(&rig);
}

static void unsynced_entries_are_gone_when_the_disk_kept_nothing(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 5);
    rig_sync(&rig);
    rig_append_to(&rig, 9);
    CHECK(bp_pos_u64(bp_log_durable(rig.log)) < bp_pos_u64(bp_log_end(rig.log)));
    rig_power_cut(&rig, 0);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), 5);
    rig_free(&rig);
}

static void append_says_where_each_payload_lies(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    static uint8_t bytes[5][20000], got[20000];
    const uint32_t sizes[5] = {0, 13, 4096, 20000,
                               8}; /* copied and referenced ones mixed, padded and not */
    struct bp_entry entries[5];
    for (uint32_t i = 0; i < 5; i++) {
        entries[i] = rig_entry(bytes[i], i + 1, 1, sizes[i]);
    }
    struct bp_hardstate hardstate = {.term = 1, .vote = 7, .commit = 2};
    uint32_t before = bp_log_end(rig.log).offset;
    CHECK_OK(bp_log_append(rig.log, entries, 5, &hardstate, &rig.err), &rig.err);
    CHECK_EQ_U64(bp_log_end(rig.log).offset - before, bp_log_frame_size(entries, 5, true));
    for (uint32_t i = 0; i < 5; i++) {
        struct bp_segment *segment = bp_segments_find(rig.segments, entries[i].at.segment);
        CHECK(bp_disk_read(rig.disk, BP_SITE_LOG_READ, segment->fd, got, sizes[i],
                           entries[i].at.offset) == 0);
        CHECK(memcmp(got, bytes[i], sizes[i]) == 0);
    }
    rig_reopen(&rig);
    CHECK_EQ_U64(rig_verify(&rig), 5);
    rig_free(&rig);
}

static void one_frame_is_one_write(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    static uint8_t bytes[300][64];
    struct bp_entry entries[300];
    for (uint32_t i = 0; i < 300; i++) {
        entries[i] = rig_entry(bytes[i], i + 1, 1, 64);
    }
    uint64_t written = bp_sim_bytes_written(rig.sim);
    CHECK_OK(bp_log_append(rig.log, entries, 300, NULL, &rig.err), &rig.err);
    CHECK_EQ_U64(bp_disk_hits(rig.disk, BP_SITE_LOG_WRITE), 1);
    CHECK_EQ_U64(bp_sim_bytes_written(rig.sim) - written, bp_log_frame_size(entries, 300, false));
    rig_free(&rig);
}

static void the_largest_group_fits_and_a_larger_one_is_refused(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    static uint8_t bytes[2][BP_ENTRY_MAX];
    const uint32_t half = BP_GROUP_MAX / 2 - BP_ENTRY_HEADER;
    struct bp_entry entries[2] = {rig_entry(bytes[0], 1, 1, half), rig_entry(bytes[1], 2, 1, half)};
    CHECK_EQ_U64(bp_log_frame_size(entries, 2, false), BP_GROUP_MAX + BP_FRAME_HEADER);
    CHECK_OK(bp_log_append(rig.log, entries, 2, NULL, &rig.err), &rig.err);
    rig_sync(&rig);
    struct bp_entry more[2] = {rig_entry(bytes[0], 3, 1, half),
                               rig_entry(bytes[1], 4, 1, half + 8)};
    CHECK_EQ_U64(bp_log_append(rig.log, more, 2, NULL, &rig.err), BP_INVALID_ARGUMENT);
    CHECK_EQ_U64(rig.err.reason, BP_REASON_REQUEST_TOO_LARGE);
    CHECK_EQ_U64(bp_log_last_index(rig.log), 2);
    /* A thousand tiny ones of a full group, too: the staging buffer holds them all. */
    rig_reopen(&rig);
    CHECK_EQ_U64(rig_verify(&rig), 2);
    rig_free(&rig);
}

static void entries_out_of_order_are_refused(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 5);
    CHECK_EQ_U64(rig_try_append(&rig, 7, 1), BP_INTERNAL);
    struct bp_hardstate hardstate = {.term = 2, .commit = 4};
    CHECK_OK(bp_log_append(rig.log, NULL, 0, &hardstate, &rig.err), &rig.err);
    CHECK_EQ_U64(rig_try_append(&rig, 4, 2), BP_INTERNAL); /* committed */
    CHECK_OK(rig_try_append(&rig, 5, 2), &rig.err);
    CHECK_EQ_U64(bp_log_last_index(rig.log), 5);
    CHECK_EQ_U64(bp_log_last_term(rig.log), 2);
    rig_free(&rig);
}

static void a_superseded_suffix_is_void_after_reopening(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 10);
    for (uint64_t i = 6; i <= 8; i++) {
        rig_append(&rig, i, 2);
    }
    rig_append(&rig, 8, 3);
    rig_sync(&rig);
    rig_reopen(&rig);
    CHECK_EQ_U64(rig_verify(&rig), 8);
    CHECK_EQ_U64(rig.recovery.entries[4].term, 1);
    CHECK_EQ_U64(rig.recovery.entries[5].term, 2);
    CHECK_EQ_U64(rig.recovery.entries[7].term, 3);
    CHECK_EQ_U64(bp_log_last_term(rig.log), 3);
    rig_free(&rig);
}

static void a_conflict_may_be_superseded_and_committed_in_one_frame(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 10);
    uint8_t bytes[64];
    struct bp_entry entry = rig_entry(bytes, 9, 2, 64);
    struct bp_hardstate hardstate = {.term = 2, .vote = 1, .commit = 9};
    CHECK_OK(bp_log_append(rig.log, &entry, 1, &hardstate, &rig.err), &rig.err);
    rig_sync(&rig);
    rig_reopen(&rig);
    CHECK_EQ_U64(rig_verify(&rig), 9);
    CHECK_EQ_U64(bp_log_hardstate(rig.log).commit, 9);
    rig_free(&rig);
}

static void the_newest_hardstate_is_known_after_reopening(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 3);
    for (uint64_t term = 1; term <= 4; term++) {
        struct bp_hardstate hardstate = {.term = term, .vote = term * 10, .commit = term - 1};
        CHECK_OK(bp_log_append(rig.log, NULL, 0, &hardstate, &rig.err), &rig.err);
    }
    rig_sync(&rig);
    for (int life = 0; life < 3;
         life++) { /* then by the header alone: segments without entries are dropped */
        rig_power_cut(&rig, 0);
        CHECK_OK(rig_open(&rig), &rig.err);
        CHECK_EQ_U64(rig.recovery.hardstate.term, 4);
        CHECK_EQ_U64(rig.recovery.hardstate.vote, 40);
        CHECK_EQ_U64(rig.recovery.hardstate.commit, 3);
        CHECK_EQ_U64(bp_log_hardstate(rig.log).vote, 40);
    }
    rig_free(&rig);
}

/* ---- rotation -------------------------------------------------------------------------------- */

static void a_full_segment_is_followed_by_the_next(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    uint32_t first = rig_newest(&rig);
    uint64_t index = 0;
    while (rig_log_files(&rig) < 4) {
        CHECK_OK(rig_try_append_sized(&rig, ++index, 1, 1u << 20), &rig.err);
    }
    struct bp_segment *old = bp_segments_find(rig.segments, first);
    CHECK(old->sealed);
    CHECK_EQ_U64(old->size, old->used); /* the preallocated rest is given back */
    CHECK_EQ_U64(old->first_index, 1);
    CHECK_EQ_U64(old->last_index, 7);
    CHECK_EQ_U64(old->last_revision, 8);
    rig_sync(&rig);
    rig_power_cut(&rig, 0);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), index);
    old = bp_segments_find(rig.segments, first);
    CHECK_EQ_U64(old->first_index, 1);
    CHECK_EQ_U64(old->last_index, 7);
    rig_free(&rig);
}

static void rotation_makes_the_old_segment_durable_first(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    uint64_t index = 0;
    while (rig_log_files(&rig) < 2) { /* never synced by us */
        CHECK_OK(rig_try_append_sized(&rig, ++index, 1, 1u << 20), &rig.err);
    }
    rig_power_cut(&rig, 0);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), index - 1);
    rig_free(&rig);
}

static void a_prepared_segment_is_used_by_the_next_rotation(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    uint64_t made = bp_disk_hits(rig.disk, BP_SITE_LOG_ALLOCATE);
    bp_log_prepare_segment(rig.log);
    bp_log_prepare_segment(rig.log); /* one is enough */
    CHECK_EQ_U64(bp_disk_hits(rig.disk, BP_SITE_LOG_ALLOCATE), made + 1);
    uint64_t index = 0;
    while (rig_log_files(&rig) < 2) {
        CHECK_OK(rig_try_append_sized(&rig, ++index, 1, 1u << 20), &rig.err);
    }
    CHECK_EQ_U64(bp_disk_hits(rig.disk, BP_SITE_LOG_ALLOCATE), made + 1);
    bp_log_prepare_segment(rig.log);
    rig_sync(&rig);
    rig_reopen(&rig); /* the unused one is no segment */
    CHECK_EQ_U64(rig_verify(&rig), index);
    rig_free(&rig);
}

static void *prepare_all_the_time(void *arg) {
    struct rig *rig = arg;
    uint32_t last = 0;
    while (last < 12) { /* ids grow with every rotation */
        bp_log_prepare_segment(rig->log);
        last = bp_segments_last_id(rig->segments);
        const struct bp_segment *segment = bp_segments_next(rig->segments, 0);
        for (; segment != NULL; segment = bp_segments_next(rig->segments, segment->header.id)) {
            CHECK(!bp_segment_sealed(segment) || segment->last_index >= segment->first_index);
            CHECK(bp_segment_used(segment) >= BP_SEGMENT_HEADER);
        }
        sched_yield();
    }
    return NULL;
}

static void segments_may_be_prepared_while_entries_are_appended(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    pthread_t keeper;
    CHECK(pthread_create(&keeper, NULL, prepare_all_the_time, &rig) == 0);
    uint64_t index = 0;
    while (bp_segments_last_id(rig.segments) < 14) {
        CHECK_OK(rig_try_append_sized(&rig, ++index, 1, 2u << 20), &rig.err);
    }
    pthread_join(keeper, NULL);
    rig_sync(&rig);
    rig_reopen(&rig);
    CHECK_EQ_U64(rig_verify(&rig), index);
    rig_free(&rig);
}

static int count_tmp(void *arg, const char *name) {
    *(int *)arg += strstr(name, ".tmp") != NULL;
    return 0;
}

static void a_crash_at_each_step_of_a_rotation_loses_nothing_synced(void) {
    const int sites[] = {BP_SITE_LOG_CREATE,      BP_SITE_LOG_ALLOCATE, BP_SITE_LOG_HEADER_WRITE,
                         BP_SITE_LOG_HEADER_SYNC, BP_SITE_LOG_RENAME,   BP_SITE_LOG_DIR_SYNC,
                         BP_SITE_LOG_SYNC,        BP_SITE_LOG_TRIM,     BP_SITE_LOG_WRITE};
    const int faults[] = {BP_FAULT_CRASH, BP_FAULT_CRASH_AFTER, BP_FAULT_SHORT};
    uint32_t round = 0;
    for (size_t s = 0; s < sizeof sites / sizeof sites[0]; s++) {
        for (size_t f = 0; f < 3; f++) {
            for (uint32_t keep = 0; keep <= 1024; keep += 512) {
                if (round++ % RIG_STRIDE != 0) {
                    continue;
                }
                struct rig rig;
                rig_init(&rig, s * 31 + f);
                CHECK_OK(rig_open(&rig), &rig.err);
                uint64_t index = 0;
                for (; index < 7; index++) {
                    CHECK_OK(rig_try_append_sized(&rig, index + 1, 1, 1u << 20), &rig.err);
                }
                if (sites[s] != BP_SITE_LOG_SYNC) {
                    rig_sync(&rig);
                }
                bp_disk_set_crash_is_error(rig.disk, 1);
                CHECK(bp_disk_arm(rig.disk, sites[s], faults[f], 1, 1, 0) == 0);
                int rc = rig_try_append_sized(&rig, index + 1, 1, 1u << 20);
                bool crashed_late =
                    sites[s] == BP_SITE_LOG_TRIM; /* best effort, then the write fails */
                CHECK(rc == BP_UNAVAILABLE || crashed_late);
                CHECK(bp_log_poisoned(rig.log));
                rig_power_cut(&rig, keep);
                CHECK_OK(rig_open(&rig), &rig.err);
                uint64_t last = rig_verify(&rig);
                CHECK(last == 7 || last == 8 || (sites[s] == BP_SITE_LOG_SYNC && last < 7));
                int tmp = 0;
                CHECK(bp_disk_list(rig.disk, RIG_DIR, count_tmp, &tmp) == 0 && tmp == 0);
                CHECK_OK(rig_try_append_sized(&rig, last + 1, 1, 1u << 20), &rig.err);
                rig_sync(&rig);
                rig_power_cut(&rig, 0);
                CHECK_OK(rig_open(&rig), &rig.err);
                CHECK_EQ_U64(rig_verify(&rig), last + 1);
                rig_free(&rig);
            }
        }
    }
}

/* ---- marks ----------------------------------------------------------------------------------- */

static void a_mark_is_written_once_for_what_was_synced(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    uint32_t at = bp_log_end(rig.log).offset;
    CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
    CHECK_EQ_U64(bp_log_end(rig.log).offset, at); /* nothing to say */
    rig_append_to(&rig, 1);
    at = bp_log_end(rig.log).offset;
    CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
    CHECK_EQ_U64(bp_log_end(rig.log).offset, at); /* not synced */
    rig_sync(&rig);
    CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
    CHECK_EQ_U64(bp_log_end(rig.log).offset, at + BP_FRAME_HEADER);
    for (int i = 0; i < 3; i++) { /* an idle log that is synced again and again comes to rest */
        rig_sync(&rig);
        CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
        CHECK_EQ_U64(bp_log_end(rig.log).offset, at + BP_FRAME_HEADER);
    }
    rig_free(&rig);
}

static void a_mark_makes_damage_of_the_last_acknowledged_frame_detectable(void) {
    for (int marked = 0; marked <= 1; marked++) {
        struct rig rig;
        rig_init(&rig, 1);
        CHECK_OK(rig_open(&rig), &rig.err);
        rig_append_to(&rig, 3);
        rig_sync(&rig);
        uint32_t at = bp_log_end(rig.log).offset;
        rig_append_to(&rig, 4);
        rig_sync(&rig);
        uint32_t id = rig_newest(&rig);
        if (marked == 1) {
            CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
            rig_sync(&rig);
        }
        rig_flip(&rig, id, at + BP_FRAME_HEADER + 9, 0);
        rig_power_cut(&rig, 1024);
        int rc = rig_open(&rig);
        if (marked == 1) {
            CHECK_EQ_U64(rc, BP_DATA_LOSS);
            CHECK_EQ_U64(rig.err.reason, BP_REASON_STORE_CORRUPT);
        } else { /* cannot be told from a torn tail: the documented limit */
            CHECK_OK(rc, &rig.err);
            CHECK_EQ_U64(rig_verify(&rig), 3);
        }
        rig_free(&rig);
    }
}

/* ---- full disk ------------------------------------------------------------------------------- */

static void no_space_for_a_frame_leaves_the_log_usable(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 3);
    CHECK(bp_disk_arm(rig.disk, BP_SITE_LOG_WRITE, BP_FAULT_ENOSPC, 1, 3, 0) == 0);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ_U64(rig_try_append(&rig, 4, 1), BP_RESOURCE_EXHAUSTED);
        CHECK_EQ_U64(rig.err.reason, BP_REASON_DISK_FULL);
        CHECK_EQ_U64(bp_log_last_index(rig.log), 3);
    }
    CHECK(!bp_log_poisoned(rig.log));
    rig_append_to(&rig, 6);
    rig_sync(&rig);
    rig_power_cut(&rig, 0);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), 6);
    rig_free(&rig);
}

/*
 * A disk on which a write may stop half way with ENOSPC: `allow` bytes of the next write get
 * through, then it fails.
 */
struct half_disk {
    struct bp_io below;
    int64_t allow; /* -1: all */
};

static ssize_t half_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t offset) {
    struct half_disk *half = ctx;
    if (half->allow < 0) {
        return half->below.pwritev(half->below.ctx, fd, iov, n, offset);
    }
    if (half->allow == 0) {
        half->allow = -1;
        return -ENOSPC;
    }
    struct iovec one = iov[0];
    if (one.iov_len > (size_t)half->allow) {
        one.iov_len = (size_t)half->allow;
    }
    ssize_t got = half->below.pwritev(half->below.ctx, fd, &one, 1, offset);
    half->allow -= got > 0 ? got : 0;
    return got;
}

/* bp_io's other functions, on the simulated disk below. */
static struct half_disk *below(void *ctx) { return ctx; }
static int half_open(void *c, const char *p, int f) {
    return below(c)->below.open(below(c)->below.ctx, p, f);
}
static int half_close(void *c, int fd) { return below(c)->below.close(below(c)->below.ctx, fd); }
static ssize_t half_pread(void *c, int fd, void *b, size_t n, uint64_t o) {
    return below(c)->below.pread(below(c)->below.ctx, fd, b, n, o);
}
static int half_sync(void *c, int fd) { return below(c)->below.datasync(below(c)->below.ctx, fd); }
static int half_allocate(void *c, int fd, uint64_t n) {
    return below(c)->below.allocate(below(c)->below.ctx, fd, n);
}
static int half_truncate(void *c, int fd, uint64_t n) {
    return below(c)->below.truncate(below(c)->below.ctx, fd, n);
}
static int half_size(void *c, int fd, uint64_t *n) {
    return below(c)->below.size(below(c)->below.ctx, fd, n);
}
static int half_rename(void *c, const char *f, const char *t) {
    return below(c)->below.rename(below(c)->below.ctx, f, t);
}
static int half_unlink(void *c, const char *p) {
    return below(c)->below.unlink(below(c)->below.ctx, p);
}
static int half_sync_dir(void *c, const char *p) {
    return below(c)->below.sync_dir(below(c)->below.ctx, p);
}
static int half_list(void *c, const char *p, int (*each)(void *, const char *), void *arg) {
    return below(c)->below.list(below(c)->below.ctx, p, each, arg);
}
static int half_random(void *c, void *b, size_t n) {
    return below(c)->below.random(below(c)->below.ctx, b, n);
}

static void half_io(struct half_disk *half, struct bp_sim *sim, struct bp_io *io) {
    bp_sim_io(sim, &half->below);
    half->allow = -1;
    *io = half->below;
    io->ctx = half;
    io->open = half_open;
    io->close = half_close;
    io->pread = half_pread;
    io->pwritev = half_pwritev;
    io->datasync = half_sync;
    io->allocate = half_allocate;
    io->truncate = half_truncate;
    io->size = half_size;
    io->rename = half_rename;
    io->unlink = half_unlink;
    io->sync_dir = half_sync_dir;
    io->list = half_list;
    io->random = half_random;
}

/*
 * A frame whose write failed is answered with RESOURCE_EXHAUSTED, so it must not come back. Its
 * last bytes are zero, as the preallocated file is: cut the write there and what is in the file is
 * the whole frame. Then with every other length, too.
 */
static void a_failed_frame_never_comes_back(void) {
    enum { PAYLOAD = 40 };
    for (int64_t allow = 0; allow <= 32 + 40 + PAYLOAD - 1; allow += RIG_STRIDE) {
        for (int then = 0; then <= 1;
             then++) { /* crash at once, or after a shorter frame in its place */
            struct rig rig;
            rig_init(&rig, 5);
            CHECK_OK(rig_open(&rig), &rig.err);
            rig_append_to(&rig, 2);
            rig_sync(&rig);
            rig_remount(&rig);
            struct half_disk half;
            struct bp_io io;
            half_io(&half, rig.sim, &io);
            bp_segments_free(rig.segments);
            bp_disk_free(rig.disk);
            rig.disk = bp_disk_new(&io);
            rig.segments = bp_segments_new(rig.disk, RIG_DIR);
            CHECK_OK(rig_open(&rig), &rig.err);
            uint8_t payload[PAYLOAD];
            struct bp_entry entry = rig_entry(payload, 3, 1, PAYLOAD);
            memset(payload, 0, PAYLOAD);
            half.allow = allow;
            CHECK_EQ_U64(bp_log_append(rig.log, &entry, 1, NULL, &rig.err), BP_RESOURCE_EXHAUSTED);
            CHECK_EQ_U64(rig.err.reason, BP_REASON_DISK_FULL);
            CHECK(!bp_log_poisoned(rig.log));
            if (then == 1) {
                CHECK_OK(rig_try_append_sized(&rig, 3, 2, 3), &rig.err);
                rig_sync(&rig);
            }
            bp_sim_power_cut(rig.sim, 1024);
            rig_unmount(&rig);
            rig_mount(&rig);
            CHECK_OK(rig_open(&rig), &rig.err);
            CHECK_EQ_U64(rig_verify(&rig), then == 1 ? 3 : 2);
            CHECK(then == 0 || rig.recovery.entries[2].term == 2);
            rig_free(&rig);
        }
    }
}

static void no_space_for_the_next_segment_leaves_the_log_usable(void) {
    const int sites[] = {BP_SITE_LOG_CREATE, BP_SITE_LOG_ALLOCATE, BP_SITE_LOG_HEADER_WRITE,
                         BP_SITE_LOG_RENAME};
    for (size_t s = 0; s < 4; s++) {
        struct rig rig;
        rig_init(&rig, 1);
        CHECK_OK(rig_open(&rig), &rig.err);
        uint64_t index = 0;
        for (; index < 7; index++) {
            CHECK_OK(rig_try_append_sized(&rig, index + 1, 1, 1u << 20), &rig.err);
        }
        CHECK(bp_disk_arm(rig.disk, sites[s], BP_FAULT_ENOSPC, 1, 2, 0) == 0);
        for (int i = 0; i < 2; i++) {
            CHECK_EQ_U64(rig_try_append_sized(&rig, 8, 1, 1u << 20), BP_RESOURCE_EXHAUSTED);
            CHECK_EQ_U64(rig.err.reason, BP_REASON_DISK_FULL);
            CHECK_EQ_U64(rig_log_files(&rig), 1);
        }
        rig_append(&rig, 8, 1); /* a small one still fits into the old segment */
        CHECK_OK(rig_try_append_sized(&rig, 9, 1, 1u << 20), &rig.err);
        CHECK_EQ_U64(rig_log_files(&rig), 2);
        rig_sync(&rig);
        rig_power_cut(&rig, 0);
        CHECK_OK(rig_open(&rig), &rig.err);
        CHECK_EQ_U64(rig_verify(&rig), 9);
        rig_free(&rig);
    }
}

/* ---- failing disk ---------------------------------------------------------------------------- */

static void check_poisoned(struct rig *rig) {
    CHECK(bp_log_poisoned(rig->log));
    uint64_t writes = bp_disk_hits(rig->disk, BP_SITE_LOG_WRITE);
    uint64_t syncs = bp_disk_hits(rig->disk, BP_SITE_LOG_SYNC);
    uint64_t last = bp_log_last_index(rig->log);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ_U64(rig_try_append(rig, last + 1, 1), BP_UNAVAILABLE);
        CHECK_EQ_U64(rig->err.reason, BP_REASON_LOG_POISONED);
        CHECK_EQ_U64(bp_log_sync(rig->log, &rig->err), BP_UNAVAILABLE);
        CHECK_EQ_U64(bp_log_mark(rig->log, &rig->err), BP_UNAVAILABLE);
        CHECK_EQ_U64(rig->err.reason, BP_REASON_LOG_POISONED);
    }
    bp_log_prepare_segment(rig->log);
    CHECK_EQ_U64(bp_disk_hits(rig->disk, BP_SITE_LOG_WRITE), writes);
    CHECK_EQ_U64(bp_disk_hits(rig->disk, BP_SITE_LOG_SYNC), syncs);
}

static void a_failed_sync_poisons_the_log_for_ever(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 3);
    rig_sync(&rig);
    rig_append_to(&rig, 5);
    struct bp_pos durable = bp_log_durable(rig.log);
    CHECK(bp_disk_arm(rig.disk, BP_SITE_LOG_SYNC, BP_FAULT_EIO, 1, 1, 0) == 0);
    CHECK_EQ_U64(bp_log_sync(rig.log, &rig.err), BP_UNAVAILABLE);
    CHECK_EQ_U64(rig.err.reason, BP_REASON_LOG_POISONED);
    CHECK_EQ_U64(rig.err.sys_errno, EIO);
    CHECK_EQ_U64(bp_pos_u64(bp_log_durable(rig.log)), bp_pos_u64(durable));
    check_poisoned(&rig);
    rig_power_cut(&rig, 0);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), 3);
    rig_append_to(&rig, 4); /* a restart makes it whole */
    rig_free(&rig);
}

static void a_failed_write_poisons_the_log(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 3);
    CHECK(bp_disk_arm(rig.disk, BP_SITE_LOG_WRITE, BP_FAULT_EIO, 1, 1, 0) == 0);
    CHECK_EQ_U64(rig_try_append(&rig, 4, 1), BP_UNAVAILABLE);
    CHECK_EQ_U64(rig.err.reason, BP_REASON_LOG_POISONED);
    check_poisoned(&rig);
    rig_free(&rig);
}

static void a_rotation_whose_outcome_is_unknown_poisons_the_log(void) {
    const int sites[] = {BP_SITE_LOG_HEADER_SYNC, BP_SITE_LOG_RENAME, BP_SITE_LOG_DIR_SYNC,
                         BP_SITE_LOG_ALLOCATE};
    for (size_t s = 0; s < 4; s++) {
        struct rig rig;
        rig_init(&rig, 1);
        CHECK_OK(rig_open(&rig), &rig.err);
        uint64_t index = 0;
        for (; index < 7; index++) {
            CHECK_OK(rig_try_append_sized(&rig, index + 1, 1, 1u << 20), &rig.err);
        }
        CHECK(bp_disk_arm(rig.disk, sites[s], BP_FAULT_EIO, 1, 1, 0) == 0);
        CHECK_EQ_U64(rig_try_append_sized(&rig, 8, 1, 1u << 20), BP_UNAVAILABLE);
        CHECK_EQ_U64(rig.err.reason, BP_REASON_LOG_POISONED);
        check_poisoned(&rig); /* small frames too: the old segment may have a successor by now */
        rig_power_cut(&rig, 512);
        CHECK_OK(rig_open(&rig), &rig.err);
        CHECK_EQ_U64(rig_verify(&rig), 7);
        rig_free(&rig);
    }
}

/* ---- walking, decoding ----------------------------------------------------------------------- */

static void a_walk_sees_every_entry_and_refuses_damage(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 50);
    struct bp_segment *segment = bp_segments_find(rig.segments, rig_newest(&rig));
    uint64_t next = 1;
    CHECK_OK(bp_log_walk(rig.segments, segment, BP_SITE_SCRUB_READ, rig_each, &next, &rig.err),
             &rig.err);
    CHECK_EQ_U64(next, 51);
    CHECK(bp_disk_hits(rig.disk, BP_SITE_SCRUB_READ) > 0);
    rig_sync(&rig);
    for (uint32_t offset = BP_SEGMENT_HEADER; offset < segment->used; offset += 61) {
        rig_flip(&rig, segment->header.id, offset, 3);
        next = 1;
        CHECK_EQ_U64(
            bp_log_walk(rig.segments, segment, BP_SITE_SCRUB_READ, rig_each, &next, &rig.err),
            BP_DATA_LOSS);
        CHECK(strstr(rig.err.message, "00000001.log") != NULL);
        rig_flip(&rig, segment->header.id, offset, 3);
    }
    rig_free(&rig);
}

static int stop_at_three(void *arg, const struct bp_entry *entry) {
    ++*(int *)arg;
    return entry->index == 3 ? 77 : 0;
}

static void walks_and_replays_stop_when_told(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 9);
    int calls = 0;
    struct bp_segment *segment = bp_segments_find(rig.segments, rig_newest(&rig));
    CHECK_EQ_U64(
        bp_log_walk(rig.segments, segment, BP_SITE_SCRUB_READ, stop_at_three, &calls, &rig.err),
        77);
    CHECK_EQ_U64(calls, 3);
    rig_reopen(&rig);
    calls = 0;
    CHECK_EQ_U64(bp_log_replay(rig.log, &rig.recovery, 1, 8, stop_at_three, &calls, &rig.err), 77);
    CHECK_EQ_U64(calls, 2);
    uint64_t next = 4;
    CHECK_OK(bp_log_replay(rig.log, &rig.recovery, 3, 2, rig_each, &next, &rig.err), &rig.err);
    CHECK_EQ_U64(next, 6);
    rig_free(&rig);
}

static void replay_verifies_what_it_reads(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 9);
    rig_sync(&rig);
    rig_reopen(&rig);
    CHECK(bp_disk_arm(rig.disk, BP_SITE_RECOVER_READ, BP_FAULT_FLIP, 1, 1, 8 * 300) == 0);
    uint64_t next = 1;
    CHECK_EQ_U64(
        bp_log_replay(rig.log, &rig.recovery, 0, rig.recovery.n, rig_each, &next, &rig.err),
        BP_DATA_LOSS);
    rig_free(&rig);
}

static void a_frame_with_any_flipped_bit_is_none(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_OK(rig_try_append_sized(&rig, 1, 1, 100), &rig.err);
    struct bp_segment *segment = bp_segments_find(rig.segments, rig_newest(&rig));
    uint8_t buf[256] = {0};
    uint32_t n = segment->used - BP_SEGMENT_HEADER;
    CHECK_EQ_U64(n, 32 + 40 + 104);
    CHECK(bp_disk_read(rig.disk, BP_SITE_LOG_READ, segment->fd, buf, n, BP_SEGMENT_HEADER) == 0);
    uint64_t salt = segment->header.salt, size = 0;
    struct bp_frame frame;
    CHECK_EQ_U64(bp_frame_decode(buf, sizeof buf, salt, &frame, &size), BP_OK);
    CHECK_EQ_U64(size, n);
    for (uint32_t bit = 0; bit < n * 8; bit++) {
        buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        CHECK_EQ_U64(bp_frame_decode(buf, sizeof buf, salt, &frame, &size), BP_OUT_OF_RANGE);
        buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    for (uint32_t cut = 0; cut < n; cut++) {
        CHECK_EQ_U64(bp_frame_decode(buf, cut, salt, &frame, &size), BP_OUT_OF_RANGE);
    }
    rig_free(&rig);
}

static int body_verdict(uint8_t *body, uint32_t size) {
    struct bp_frame frame = {.body = body, .body_size = size};
    struct bp_entry entry;
    struct bp_hardstate hardstate;
    uint32_t offset = 0;
    int got, limit = 100;
    while ((got = bp_frame_next_record(&frame, &offset, &entry, &hardstate)) > 0) {
        CHECK(--limit > 0);
    }
    return got;
}

static void malformed_records_are_noticed(void) {
    uint8_t good[48] = {BP_ENTRY_REQUESTS, 1, 0, 0, 5};
    good[8] = 9;  /* index */
    good[40] = 1; /* payload of 5, three bytes of padding */
    CHECK_EQ_U64(body_verdict(good, 48), 0);
    const struct {
        uint32_t at;
        uint8_t value;
    } breaks[] = {{0, 0}, {0, 5},    {0, 0x81}, {1, 2},  {1, 0},  {2, 1},  {3, 1},   {4, 9},
                  {4, 0}, {6, 0x30}, {8, 0},    {36, 1}, {45, 1}, {47, 1}, {0, 0x80}};
    for (size_t i = 0; i < sizeof breaks / sizeof breaks[0]; i++) {
        uint8_t bad[48];
        memcpy(bad, good, sizeof bad);
        bad[breaks[i].at] = breaks[i].value;
        CHECK(body_verdict(bad, 48) == -1);
    }
    for (uint32_t n = 8; n < 48; n += 8) {
        CHECK(body_verdict(good, n) == -1);
    }
    uint8_t overflow[48];
    memcpy(overflow, good, sizeof overflow);
    memset(overflow + 24, 0xff, 8);
    overflow[32] = 1;
    CHECK(body_verdict(overflow, 48) == -1);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(synced_entries_are_there_after_reopening);
    RUN(unsynced_entries_are_gone_when_the_disk_kept_nothing);
    RUN(append_says_where_each_payload_lies);
    RUN(one_frame_is_one_write);
    RUN(the_largest_group_fits_and_a_larger_one_is_refused);
    RUN(entries_out_of_order_are_refused);
    RUN(a_superseded_suffix_is_void_after_reopening);
    RUN(a_conflict_may_be_superseded_and_committed_in_one_frame);
    RUN(the_newest_hardstate_is_known_after_reopening);
    RUN(a_full_segment_is_followed_by_the_next);
    RUN(rotation_makes_the_old_segment_durable_first);
    RUN(a_prepared_segment_is_used_by_the_next_rotation);
    RUN(segments_may_be_prepared_while_entries_are_appended);
    RUN(a_crash_at_each_step_of_a_rotation_loses_nothing_synced);
    RUN(a_mark_is_written_once_for_what_was_synced);
    RUN(a_mark_makes_damage_of_the_last_acknowledged_frame_detectable);
    RUN(no_space_for_a_frame_leaves_the_log_usable);
    RUN(a_failed_frame_never_comes_back);
    RUN(no_space_for_the_next_segment_leaves_the_log_usable);
    RUN(a_failed_sync_poisons_the_log_for_ever);
    RUN(a_failed_write_poisons_the_log);
    RUN(a_rotation_whose_outcome_is_unknown_poisons_the_log);
    RUN(a_walk_sees_every_entry_and_refuses_damage);
    RUN(walks_and_replays_stop_when_told);
    RUN(replay_verifies_what_it_reads);
    RUN(a_frame_with_any_flipped_bit_is_none);
    RUN(malformed_records_are_noticed);
    TESTS_END;
}

/*
 * Recovery: power cuts at every byte, damage at every byte, crashes inside recovery itself, chains,
 * and replay from a checkpoint.
 */
#include <errno.h>

#include "../src/crc32c.h"
#include "log_rig.h"

/* ---- power cuts ------------------------------------------------------------------------------ */

/*
 * Append, mark and sync at random, by seed; stops when the disk does. `durable` is the last index
 * known durable before, the result the one after; *appended the last one tried.
 */
static uint64_t random_workload(struct rig *rig, uint64_t seed, uint32_t steps, uint64_t durable,
                                uint64_t *appended) {
    *appended = bp_log_last_index(rig->log);
    for (uint32_t i = 0; i < steps; i++) {
        uint64_t dice = rig_mix(seed * 7919 + i);
        uint64_t last = bp_log_last_index(rig->log);
        if (dice % 8 < 5) {
            *appended = last + 1;
            if (rig_try_append(rig, last + 1, 1) != BP_OK) {
                break;
            }
        } else if (dice % 8 < 6) {
            if (bp_log_mark(rig->log, &rig->err) != BP_OK) {
                break;
            }
        } else {
            if (bp_log_sync(rig->log, &rig->err) != BP_OK) {
                break;
            }
            durable = last;
        }
    }
    return durable;
}

/*
 * What must hold after any power cut: a prefix of what was appended, with all that was synced; and
 * it goes on from there.
 */
static uint64_t check_recovered(struct rig *rig, uint64_t durable, uint64_t appended) {
    CHECK_OK(rig_open(rig), &rig->err);
    uint64_t last = rig_verify(rig);
    CHECK(last >= durable && last <= appended);
    return last;
}

static void a_cut_at_every_byte_leaves_a_prefix_with_all_that_was_synced(void) {
    struct rig plan; /* how many bytes the workload writes */
    rig_init(&plan, 3);
    CHECK_OK(rig_open(&plan), &plan.err);
    uint64_t before = bp_sim_bytes_written(plan.sim), appended;
    random_workload(&plan, 11, 24, 0, &appended);
    uint64_t total = bp_sim_bytes_written(plan.sim) - before;
    CHECK(total > 1000 && total < 4000);
    rig_free(&plan);
    for (uint64_t cut = 1; cut <= total; cut += RIG_STRIDE) {
        struct rig rig;
        rig_init(&rig, 3);
        CHECK_OK(rig_open(&rig), &rig.err);
        bp_sim_cut_after_bytes(rig.sim, cut);
        uint64_t durable = random_workload(&rig, 11, 24, 0, &appended);
        rig_power_cut(&rig,
                      (uint32_t)(cut % 3) * 512); /* nothing, some, all of what was not synced */
        uint64_t last = check_recovered(&rig, durable, appended);
        if (cut % 16 == 0) {
            rig_append(&rig, last + 1, 1);
            rig_sync(&rig);
            rig_power_cut(&rig, 0);
            check_recovered(&rig, last + 1, last + 1);
        }
        rig_free(&rig);
    }
}

static void random_subsets_of_unsynced_sectors_leave_a_prefix_for_many_lives(void) {
    for (uint64_t seed = 0; seed < 250; seed += RIG_STRIDE) {
        struct rig rig;
        rig_init(&rig, seed);
        CHECK_OK(rig_open(&rig), &rig.err);
        uint64_t durable = 0, appended = 0;
        for (uint32_t life = 0; life < 4;
             life++) { /* so writes after a recovery survive the next crash */
            durable = random_workload(&rig, seed * 10 + life, 30, durable, &appended);
            if (rig_mix(seed + life) % 3 == 0) {
                bp_sim_cut_after_bytes(rig.sim, 1 + rig_mix(seed ^ life) % 3000);
                durable = random_workload(&rig, seed * 10 + life + 5, 30, durable, &appended);
            }
            rig_power_cut(&rig, (uint32_t)(rig_mix(seed * 3 + life) % 1025));
            durable = check_recovered(&rig, durable, appended);
            /* What recovery served is durable, whatever happens next. */
            rig_power_cut(&rig, 0);
            check_recovered(&rig, durable, durable);
        }
        rig_free(&rig);
    }
}

static void without_real_syncs_the_power_cut_tests_turn_red(void) {
    uint64_t lost = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct rig rig;
        rig_init(&rig, seed);
        CHECK_OK(rig_open(&rig), &rig.err);
        bp_sim_set_sync_lies(rig.sim, 1);
        uint64_t appended, durable = random_workload(&rig, seed, 40, 0, &appended);
        rig_power_cut(&rig, 512);
        lost += rig_open(&rig) != BP_OK || rig_verify(&rig) < durable;
        rig_free(&rig);
    }
    CHECK(lost > 10);
}

static void good_frames_behind_a_torn_one_are_discarded(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 3);
    rig_sync(&rig);
    rig_append_to(&rig, 4);
    uint32_t at = bp_log_end(rig.log).offset, id = rig_newest(&rig);
    rig_append_to(&rig, 8); /* none of them synced */
    uint32_t end = bp_log_end(rig.log).offset;
    rig_flip(&rig, id, at + 40, 1);
    rig_power_cut(&rig, 1024);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), 4);
    CHECK_EQ_U64(rig.recovery.torn_at.segment, id);
    CHECK_EQ_U64(rig.recovery.torn_at.offset, at);
    CHECK(rig.recovery.discarded_bytes > end - at - 16 && rig.recovery.discarded_bytes <= end - at);
    CHECK(rig.recovery.copied_bytes > 0);
    rig_append(&rig, 5, 2); /* and what comes now is not mixed with them */
    rig_sync(&rig);
    rig_power_cut(&rig, 0);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), 5);
    CHECK_EQ_U64(rig.recovery.entries[4].term, 2);
    rig_free(&rig);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void a_flip_of_every_byte_is_refused_or_leaves_a_prefix(void) {
    struct rig rig;
    rig_init(&rig, 4);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 6);
    rig_sync(&rig);
    CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
    uint32_t synced = bp_log_end(rig.log).offset - BP_FRAME_HEADER; /* what the mark says */
    rig_sync(&rig);
    rig_append_to(&rig, 9); /* claims the mark as well: frames 7.. have synced_through behind it */
    struct bp_pos claim = bp_log_durable(rig.log);
    uint32_t id = rig_newest(&rig), end = bp_log_end(rig.log).offset;
    bp_sim_power_cut(rig.sim, 1024);
    rig_unmount(&rig);
    CHECK(claim.offset > synced);
    uint64_t refused = 0, prefixes = 0;
    for (uint32_t offset = 0; offset < end; offset += RIG_STRIDE) {
        if (offset >= 128 && offset < BP_SEGMENT_HEADER - 16 && offset % 97 > RIG_STRIDE) {
            continue; /* the header's zeros: a sample */
        }
        struct rig copy = rig;
        copy.sim = bp_sim_clone(rig.sim, offset);
        rig_mount(&copy);
        rig_flip(&copy, id, offset, offset % 8);
        int rc = rig_open(&copy);
        if (offset < claim.offset) {
            char place[64];
            (void)snprintf(place, sizeof place, "%08x.log", id);
            CHECK_EQ_U64(rc, BP_DATA_LOSS);
            CHECK_EQ_U64(copy.err.reason, BP_REASON_STORE_CORRUPT);
            CHECK(strstr(copy.err.message, place) != NULL);
            CHECK(strstr(copy.err.message, "offset ") != NULL);
            CHECK(strstr(copy.err.message, "fsck") != NULL);
            refused++;
        } else {
            CHECK_OK(rc, &copy.err);
            uint64_t last = rig_verify(&copy);
            CHECK(last >= 6 && last < 9);
            prefixes++;
        }
        rig_free(&copy);
    }
    CHECK(refused > 500 / RIG_STRIDE && prefixes > 200 / RIG_STRIDE);
    bp_sim_free(rig.sim);
}

static void a_refusal_changes_nothing_on_disk(void) {
    struct rig rig;
    rig_init(&rig, 4);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 6);
    rig_sync(&rig);
    CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
    rig_sync(&rig);
    uint32_t id = rig_newest(&rig);
    rig_flip(&rig, id, BP_SEGMENT_HEADER + 50, 0);
    for (int i = 0; i < 3; i++) {
        rig_remount(&rig);
        uint64_t written = bp_sim_bytes_written(rig.sim);
        CHECK_EQ_U64(rig_open(&rig), BP_DATA_LOSS);
        CHECK_EQ_U64(bp_sim_bytes_written(rig.sim), written);
        CHECK_EQ_U64(rig_log_files(&rig), 1);
    }
    rig_flip(&rig, id, BP_SEGMENT_HEADER + 50, 0); /* the operator repaired it */
    rig_remount(&rig);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), 6);
    rig_free(&rig);
}

/*
 * What recovery copied is durable and marked: its damage is damage, also when nothing was appended
 * since.
 */
static void damage_to_what_recovery_copied_is_refused(void) {
    struct rig rig;
    rig_init(&rig, 4);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 6); /* never synced */
    rig_power_cut(&rig, 1024);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), 6);
    uint32_t id = rig_newest(&rig), end = bp_log_end(rig.log).offset - BP_FRAME_HEADER;
    bp_sim_power_cut(rig.sim, 0);
    rig_unmount(&rig);
    for (uint32_t offset = BP_SEGMENT_HEADER; offset < end; offset += 3 * RIG_STRIDE) {
        struct rig copy = rig;
        copy.sim = bp_sim_clone(rig.sim, offset);
        rig_mount(&copy);
        rig_flip(&copy, id, offset, 0);
        CHECK_EQ_U64(rig_open(&copy), BP_DATA_LOSS);
        rig_free(&copy);
    }
    bp_sim_free(rig.sim);
}

/* ---- crashes inside recovery ----------------------------------------------------------------- */

static void a_crash_at_each_step_of_recovery_repeats_it(void) {
    const int sites[] = {BP_SITE_LOG_DIR_SYNC, BP_SITE_LOG_CREATE,      BP_SITE_LOG_ALLOCATE,
                         BP_SITE_RECOVER_COPY, BP_SITE_RECOVER_SYNC,    BP_SITE_LOG_HEADER_WRITE,
                         BP_SITE_LOG_RENAME,   BP_SITE_LOG_HEADER_SYNC, BP_SITE_LOG_TRIM,
                         BP_SITE_LOG_UNLINK,   BP_SITE_RECOVER_READ};
    const int faults[] = {BP_FAULT_CRASH, BP_FAULT_CRASH_AFTER, BP_FAULT_SHORT};
    struct rig made;
    rig_init(&made, 9);
    CHECK_OK(rig_open(&made), &made.err);
    uint64_t appended, durable;
    (void)random_workload(&made, 77, 60, 0, &appended);
    rig_append(&made, appended + 1, 1); /* at least one frame that is whole and was never synced */
    durable = appended + 1;
    bp_sim_power_cut(made.sim, 1024);
    rig_unmount(&made);
    uint32_t round = 0;
    for (size_t s = 0; s < sizeof sites / sizeof sites[0]; s++) {
        for (uint32_t hit = 1; hit <= 3; hit++) {
            for (size_t f = 0; f < 3; f++) {
                for (uint32_t keep = 0; keep <= 1024; keep += 512) {
                    if (round++ % RIG_STRIDE != 0) {
                        continue;
                    }
                    struct rig rig = made;
                    rig.sim = bp_sim_clone(made.sim, s * 100 + hit * 10 + f);
                    rig_mount(&rig);
                    bp_disk_set_crash_is_error(rig.disk, 1);
                    CHECK(bp_disk_arm(rig.disk, sites[s], faults[f], hit, 1, 0) == 0);
                    (void)rig_open(&rig); /* fails, or was done but for the clean-up */
                    rig_power_cut(&rig, keep);
                    check_recovered(&rig, durable, durable);
                    rig_append(&rig, durable + 1, 1);
                    rig_sync(&rig);
                    rig_power_cut(&rig, keep);
                    check_recovered(&rig, durable + 1, durable + 1);
                    rig_power_cut(&rig, 0);
                    check_recovered(&rig, durable + 1, durable + 1);
                    CHECK(rig_log_files(&rig) <= 4); /* three with entries, the new one; no voids */
                    rig_free(&rig);
                }
            }
        }
    }
    bp_sim_free(made.sim);
}

static void a_crash_at_each_step_of_the_first_open_starts_again(void) {
    const int sites[] = {BP_SITE_LOG_DIR_SYNC,     BP_SITE_LOG_CREATE,      BP_SITE_LOG_ALLOCATE,
                         BP_SITE_LOG_HEADER_WRITE, BP_SITE_LOG_HEADER_SYNC, BP_SITE_LOG_RENAME};
    for (size_t s = 0; s < sizeof sites / sizeof sites[0]; s++) {
        for (uint32_t hit = 1; hit <= 2; hit++) {
            for (uint32_t keep = 0; keep <= 1024; keep += 512) {
                struct rig rig;
                rig_init(&rig, s);
                bp_disk_set_crash_is_error(rig.disk, 1);
                CHECK(bp_disk_arm(rig.disk, sites[s], BP_FAULT_CRASH_AFTER, hit, 1, 0) == 0);
                (void)rig_open(&rig);
                rig_power_cut(&rig, keep);
                check_recovered(&rig, 0, 0);
                rig_append_to(&rig, 3);
                rig_sync(&rig);
                rig_power_cut(&rig, 0);
                check_recovered(&rig, 3, 3);
                rig_free(&rig);
            }
        }
    }
}

/* ---- segments that come and go --------------------------------------------------------------- */

static void a_hundred_opens_without_writes_leave_two_files(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 5);
    rig_sync(&rig);
    uint64_t sequence = bp_log_sequence(rig.log);
    for (int i = 0; i < 100; i++) {
        rig_power_cut(&rig, 0);
        CHECK_OK(rig_open(&rig), &rig.err);
        CHECK_EQ_U64(rig_verify(&rig), 5);
        CHECK(rig_log_files(&rig) <= 2);
        if (i % 3 == 0) { /* nor do HARDSTATE and marks keep a segment */
            struct bp_hardstate hardstate = {.term = 1, .vote = 1, .commit = 5};
            CHECK_OK(bp_log_append(rig.log, NULL, 0, &hardstate, &rig.err), &rig.err);
            rig_sync(&rig);
            CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
        }
    }
    CHECK(bp_log_sequence(rig.log) < sequence + 10);
    rig_append(&rig, 6, 1);
    rig_sync(&rig);
    rig_power_cut(&rig, 0);
    check_recovered(&rig, 6, 6);
    rig_free(&rig);
}

static void an_old_segment_is_trimmed_to_what_it_holds(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 50);
    rig_sync(&rig);
    CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
    uint32_t id = rig_newest(&rig);
    rig_reopen(&rig);
    struct bp_segment *old = bp_segments_find(rig.segments, id);
    uint64_t size;
    CHECK(old != NULL && bp_disk_size(rig.disk, old->fd, &size) == 0);
    CHECK_EQ_U64(size, old->used);
    CHECK(size < BP_SEGMENT_SIZE_MIN);
    rig_free(&rig);
}

/* Three segments: 1..3 | 4..6 | 7..9, by reopening. */
static void three_segments(struct rig *rig, uint32_t ids[3]) {
    rig_init(rig, 1);
    for (uint32_t i = 0; i < 3; i++) {
        rig_remount(rig);
        CHECK_OK(rig_open(rig), &rig->err);
        ids[i] = rig_newest(rig);
        rig_append_to(rig, 3 * (i + 1));
        rig_sync(rig);
        CHECK_OK(bp_log_mark(rig->log, &rig->err), &rig->err);
        rig_sync(rig);
    }
}

static void a_missing_segment_is_corruption_that_is_named(void) {
    for (uint32_t gone = 0; gone < 2; gone++) {
        struct rig rig;
        uint32_t ids[3];
        three_segments(&rig, ids);
        char path[256], name[32];
        rig_path(&rig, ids[gone], path, sizeof path);
        CHECK(bp_disk_unlink(rig.disk, BP_SITE_LOG_UNLINK, path) == 0);
        rig_remount(&rig);
        CHECK_EQ_U64(rig_open(&rig), BP_DATA_LOSS);
        CHECK_EQ_U64(rig.err.reason, BP_REASON_STORE_CORRUPT);
        (void)snprintf(name, sizeof name, "%08x.log is missing", ids[gone]);
        CHECK(strstr(rig.err.message, name) != NULL);
        rig_free(&rig);
    }
}

/* Write a header again with a change, as no bug or disk should. */
static void forge_header(struct rig *rig, uint32_t id, void (*change)(struct bp_segment_header *)) {
    struct bp_segment *segment = bp_segments_find(rig->segments, id);
    struct bp_segment_header header = segment->header;
    uint8_t block[BP_SEGMENT_HEADER];
    change(&header);
    bp_segment_header_encode(&header, block);
    CHECK(bp_disk_write(rig->disk, BP_SITE_NONE, segment->fd, block, sizeof block, 0) == 0);
}

static void end_early(struct bp_segment_header *header) { header->previous_end.offset -= 8; }
static void end_late(struct bp_segment_header *header) { header->previous_end.offset += 8; }
static void skip_sequence(struct bp_segment_header *header) { header->first_sequence++; }
static void other_store(struct bp_segment_header *header) { header->store_id[3] ^= 1; }
static void other_id(struct bp_segment_header *header) { header->id += 100; }

static void a_chain_that_does_not_fit_is_corruption(void) {
    void (*const changes[])(struct bp_segment_header *) = {end_early, end_late, skip_sequence,
                                                           other_store, other_id};
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct rig rig;
        uint32_t ids[3];
        three_segments(&rig, ids);
        forge_header(&rig, ids[1], changes[i]);
        rig_remount(&rig);
        CHECK_EQ_U64(rig_open(&rig), BP_DATA_LOSS);
        CHECK_EQ_U64(rig.err.reason, BP_REASON_STORE_CORRUPT);
        rig_free(&rig);
    }
}

static void bytes_behind_a_declared_end_are_ignored(void) {
    struct rig rig;
    uint32_t ids[3];
    three_segments(&rig, ids);
    struct bp_segment *old = bp_segments_find(rig.segments, ids[0]);
    uint8_t rubbish[64];
    memset(rubbish, 0xa5, sizeof rubbish);
    CHECK(bp_disk_write(rig.disk, BP_SITE_NONE, old->fd, rubbish, sizeof rubbish, old->used) == 0);
    rig_reopen(&rig);
    CHECK_EQ_U64(rig_verify(&rig), 9);
    rig_free(&rig);
}

static void a_newer_format_is_refused_and_left_alone(void) {
    struct rig rig;
    uint32_t ids[3];
    three_segments(&rig, ids);
    struct bp_segment *segment = bp_segments_find(rig.segments, ids[2]);
    uint8_t block[BP_SEGMENT_HEADER];
    bp_segment_header_encode(&segment->header, block);
    bp_put_u32(block + 8, BP_FORMAT_VERSION + 1);
    bp_put_u32(block + BP_SEGMENT_HEADER - 4, bp_crc32c(0, block, BP_SEGMENT_HEADER - 4));
    CHECK(bp_disk_write(rig.disk, BP_SITE_NONE, segment->fd, block, sizeof block, 0) == 0);
    CHECK(bp_disk_open(rig.disk, BP_SITE_NONE, RIG_DIR "/left.tmp", BP_O_WRITE | BP_O_CREATE) >= 0);
    rig_remount(&rig);
    CHECK_EQ_U64(rig_open(&rig), BP_FAILED_PRECONDITION);
    CHECK_EQ_U64(rig.err.reason, BP_REASON_FORMAT_UNSUPPORTED);
    CHECK_EQ_U64(rig_log_files(&rig), 3);
    uint64_t size;
    CHECK(bp_sim_file_size(rig.sim, RIG_DIR "/left.tmp", &size) == 0);
    rig_free(&rig);
}

static void ids_are_never_used_again(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK(bp_disk_open(rig.disk, BP_SITE_NONE, RIG_DIR "/00000009.set.tmp",
                       BP_O_WRITE | BP_O_CREATE) >= 0);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK(rig_newest(&rig) > 9);
    uint64_t size;
    CHECK(bp_sim_file_size(rig.sim, RIG_DIR "/00000009.set.tmp", &size) == -ENOENT);
    rig_free(&rig);
}

/* ---- contiguity ------------------------------------------------------------------------------ */

/* Append frames that bp_log_append would refuse: through a log that believes to be elsewhere. */
static void append_raw(struct rig *rig, uint64_t index, uint64_t term, uint64_t first_revision,
                       uint8_t type) {
    static uint8_t payload[BP_ENTRY_MAX];
    struct bp_entry entry = rig_entry(payload, index, term, 16);
    entry.first_revision = first_revision;
    entry.type = type;
    CHECK_OK(bp_log_append(rig->log, &entry, 1, NULL, &rig->err), &rig->err);
}

static void expect_refusal(struct rig *rig, const char *words) {
    rig_sync(rig);
    rig_remount(rig);
    CHECK_EQ_U64(rig_open(rig), BP_DATA_LOSS);
    CHECK_EQ_U64(rig->err.reason, BP_REASON_STORE_CORRUPT);
    CHECK(strstr(rig->err.message, words) != NULL);
    rig_free(rig);
}

static void replay_demands_the_next_revision(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 3);
    append_raw(&rig, 4, 1, 9, BP_ENTRY_REQUESTS);
    expect_refusal(&rig, "first revision");
}

static void a_jump_may_skip_revisions_but_not_go_back(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 3);
    append_raw(&rig, 4, 1, 900, BP_ENTRY_JUMP);
    append_raw(&rig, 5, 1, 901, BP_ENTRY_REQUESTS); /* rig entries count 1 revision each */
    rig_sync(&rig);
    rig_reopen(&rig);
    CHECK_EQ_U64(rig.recovery.n, 5);
    append_raw(&rig, 6, 1, 5, BP_ENTRY_JUMP);
    expect_refusal(&rig, "first revision");
}

static void terms_never_fall_along_the_log(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append(&rig, 1, 5);
    rig_append(&rig, 2, 4);
    expect_refusal(&rig, "older term");
}

static void a_log_that_begins_behind_the_checkpoint_is_refused(void) {
    struct rig rig;
    uint32_t ids[3];
    three_segments(&rig, ids);
    struct bp_log_start start = {.at = {.segment = ids[1], .offset = BP_SEGMENT_HEADER},
                                 .index = 2}; /* entries 4.. lie there: 3 is in neither */
    rig_remount(&rig);
    CHECK_EQ_U64(rig_open_at(&rig, &start), BP_DATA_LOSS);
    rig_free(&rig);
}

static void superseding_a_committed_entry_is_corruption(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 5);
    /*
     * A log opened from a checkpoint does not know the commit recorded before its start, and obeys.
     */
    struct bp_pos end = bp_log_end(rig.log);
    uint64_t sequence = bp_log_sequence(rig.log);
    struct bp_hardstate hardstate = {.term = 1, .vote = 1, .commit = 5};
    CHECK_OK(bp_log_append(rig.log, NULL, 0, &hardstate, &rig.err), &rig.err);
    rig_sync(&rig);
    end = bp_log_end(rig.log);
    sequence = bp_log_sequence(rig.log);
    struct bp_log_start start = {.at = end, .sequence = sequence, .index = 5, .term = 1};
    rig_remount(&rig);
    CHECK_OK(rig_open_at(&rig, &start), &rig.err);
    rig_append(&rig, 6, 1);
    rig_append(&rig, 5, 2);
    expect_refusal(&rig, "supersedes a committed");
}

/* ---- replay from a checkpoint ---------------------------------------------------------------- */

static void replay_starts_where_the_checkpoint_says(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    struct bp_log_start starts[41];
    for (uint64_t i = 1; i <= 40; i++) {
        rig_append(&rig, i, 1);
        if (i % 9 == 0) {
            rig_sync(&rig);
            CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
        }
        starts[i] = (struct bp_log_start){.at = bp_log_end(rig.log),
                                          .sequence = bp_log_sequence(rig.log),
                                          .index = i,
                                          .term = 1,
                                          .revision = i + 1,
                                          .hardstate = {.term = 1, .vote = 3, .commit = i}};
        if (i == 20) {
            rig_sync(&rig);
            rig_power_cut(&rig, 0);
            CHECK_OK(rig_open(&rig), &rig.err);
        }
    }
    rig_sync(&rig);
    for (uint64_t i = 1; i <= 40; i++) {
        for (uint64_t index = i; index <= i + 3 && index <= 40; index++) { /* may start early */
            rig_power_cut(&rig, 0);
            struct bp_log_start start = starts[i];
            start.index = index;
            CHECK_OK(rig_open_at(&rig, &start), &rig.err);
            CHECK_EQ_U64(rig.recovery.n, 40 - index);
            CHECK_EQ_U64(rig_verify_from(&rig, index + 1), 40);
            CHECK_EQ_U64(rig.recovery.hardstate.vote, 3);
        }
    }
    rig_free(&rig);
}

/*
 * The segment a checkpoint starts in was empty and dropped: replay begins behind it. Both kept
 * checkpoints work.
 */
static void a_start_in_a_dropped_segment_begins_behind_it(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 5);
    rig_sync(&rig);
    rig_reopen(&rig);
    struct bp_hardstate hardstate = {.term = 1, .vote = 1, .commit = 5};
    CHECK_OK(bp_log_append(rig.log, NULL, 0, &hardstate, &rig.err), &rig.err);
    rig_sync(&rig);
    struct bp_log_start start = {
        .at = bp_log_end(rig.log), .sequence = bp_log_sequence(rig.log), .index = 5, .term = 1};
    for (int i = 0; i < 3; i++) {
        rig_power_cut(&rig, 0);
        CHECK_OK(rig_open_at(&rig, &start), &rig.err);
        CHECK_EQ_U64(rig.recovery.n, 0);
        CHECK_EQ_U64(bp_log_last_index(rig.log), 5);
    }
    rig_append_to(&rig, 8);
    rig_sync(&rig);
    for (int i = 0; i < 3; i++) {
        rig_power_cut(&rig, 0);
        CHECK_OK(rig_open_at(&rig, &start), &rig.err);
        CHECK_EQ_U64(rig_verify_from(&rig, 6), 8);
        rig_power_cut(&rig, 0);
        CHECK_OK(rig_open(&rig), &rig.err); /* and from nothing */
        CHECK_EQ_U64(rig_verify(&rig), 8);
    }
    rig_free(&rig);
}

static void a_start_beyond_what_the_log_knows_synced_is_believed(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 5);
    rig_sync(&rig); /* nothing in the log says so */
    struct bp_log_start start = {
        .at = bp_log_end(rig.log), .sequence = bp_log_sequence(rig.log), .index = 5, .term = 1};
    uint32_t id = rig_newest(&rig);
    rig_power_cut(&rig, 0);
    CHECK_OK(rig_open_at(&rig, &start), &rig.err);
    CHECK_EQ_U64(rig.recovery.copied_bytes, 0);
    CHECK(bp_segments_find(rig.segments, id) != NULL); /* it holds 1..5, unread */
    rig_append_to(&rig, 6);
    rig_sync(&rig);
    rig_power_cut(&rig, 0);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), 6);
    rig_free(&rig);
}

static void a_missing_start_is_corruption(void) {
    struct rig rig;
    rig_init(&rig, 1);
    struct bp_log_start start = {.at = {.segment = 7, .offset = BP_SEGMENT_HEADER}, .index = 3};
    CHECK_EQ_U64(rig_open_at(&rig, &start), BP_DATA_LOSS);
    CHECK(strstr(rig.err.message, "00000007.log is missing") != NULL);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 5);
    rig_sync(&rig);
    rig_remount(&rig);
    CHECK_EQ_U64(rig_open_at(&rig, &start),
                 BP_DATA_LOSS); /* the newest one is gone, older ones are there */
    start.at = (struct bp_pos){.segment = 1, .offset = BP_SEGMENT_SIZE_MIN + 8};
    rig_remount(&rig);
    CHECK_EQ_U64(rig_open_at(&rig, &start), BP_DATA_LOSS);
    rig_free(&rig);
}

static void old_segments_are_opened_and_described(void) {
    struct rig rig;
    uint32_t ids[3];
    three_segments(&rig, ids);
    struct bp_log_start start = {.at = bp_log_end(rig.log),
                                 .sequence = bp_log_sequence(rig.log),
                                 .index = 9,
                                 .term = 1,
                                 .revision = 10};
    uint32_t used = bp_segments_find(rig.segments, ids[0])->used;
    rig_remount(&rig);
    CHECK_OK(rig_open_at(&rig, &start), &rig.err);
    for (uint32_t i = 0; i < 3; i++) {
        const struct bp_segment *segment = bp_segments_find(rig.segments, ids[i]);
        CHECK(segment != NULL && segment->sealed);
        CHECK_EQ_U64(segment->last_index, 9);
        CHECK_EQ_U64(segment->last_revision, 10);
    }
    CHECK_EQ_U64(bp_segments_find(rig.segments, ids[0])->used, used);
    /* One that is gone, cleaned, is not missed. */
    CHECK_OK(bp_segment_delete(rig.segments, ids[0], &rig.err), &rig.err);
    rig_remount(&rig);
    CHECK_OK(rig_open_at(&rig, &start), &rig.err);
    rig_free(&rig);
}

/* ---- a newest segment that lost its end ------------------------------------------------------- */

static void cut_short(struct rig *rig, uint32_t id, uint64_t size) {
    const struct bp_segment *segment = bp_segments_find(rig->segments, id);
    CHECK(bp_disk_truncate(rig->disk, BP_SITE_NONE, segment->fd, size) == 0);
}

/* Synced, acknowledged, and no power cut: whatever is missing was taken from outside. */
static void a_newest_segment_cut_short_is_corruption(void) {
    for (uint32_t size = BP_SEGMENT_HEADER; size < BP_SEGMENT_SIZE_MIN; size += size / 16 & ~7u) {
        struct rig rig;
        rig_init(&rig, 1);
        CHECK_OK(rig_open(&rig), &rig.err);
        rig_append_to(&rig, 200);
        rig_sync(&rig);
        cut_short(&rig, rig_newest(&rig), size);
        rig_remount(&rig);
        CHECK_EQ_U64(rig_open(&rig), BP_DATA_LOSS);
        CHECK_EQ_U64(rig.err.reason, BP_REASON_STORE_CORRUPT);
        CHECK(strstr(rig.err.message, "was made") != NULL);
        rig_free(&rig);
    }
}

static void a_newest_segment_that_is_gone_is_corruption(void) {
    struct rig rig;
    uint32_t ids[3];
    three_segments(&rig, ids);
    char path[256];
    rig_path(&rig, ids[2], path, sizeof path);
    CHECK(bp_disk_unlink(rig.disk, BP_SITE_NONE, path) == 0);
    rig_remount(&rig);
    CHECK_EQ_U64(rig_open(&rig), BP_DATA_LOSS);
    rig_free(&rig);
}

/* ---- full disk, failing disk ----------------------------------------------------------------- */

static void a_restart_on_a_full_disk_works(void) {
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    rig_append_to(&rig, 20); /* to be copied */
    bp_sim_set_capacity(rig.sim, BP_SEGMENT_SIZE_MIN + (256u << 10));
    for (int life = 0; life < 5; life++) {
        rig_power_cut(&rig, 1024);
        CHECK_OK(rig_open(&rig), &rig.err);
        CHECK_EQ_U64(rig_verify(&rig), 20);
        struct bp_hardstate hardstate = {.term = 2, .vote = 1, .commit = 3};
        CHECK_OK(bp_log_append(rig.log, NULL, 0, &hardstate, &rig.err), &rig.err);
    }
    bp_sim_set_capacity(rig.sim, 0);
    CHECK_OK(rig_try_append_sized(&rig, 21, 1, 2u << 20), &rig.err);
    CHECK_OK(rig_try_append_sized(&rig, 22, 1, 2u << 20), &rig.err);
    rig_sync(&rig);
    rig_power_cut(&rig, 0);
    CHECK_OK(rig_open(&rig), &rig.err);
    CHECK_EQ_U64(rig_verify(&rig), 22);
    rig_free(&rig);
}

/* Recovery gives up zeros of the newest segment there, which is no cut from outside. */
static void a_crash_at_any_byte_of_a_restart_on_a_full_disk_repeats_it(void) {
    for (uint64_t cut = 1; cut < 6000; cut += cut < 64 ? 1 : 41) {
        struct rig rig;
        rig_init(&rig, cut);
        CHECK_OK(rig_open(&rig), &rig.err);
        rig_append_to(&rig, 20);
        bp_sim_set_capacity(rig.sim, BP_SEGMENT_SIZE_MIN + (256u << 10));
        rig_power_cut(&rig, 1024);
        for (int life = 0; life < 3; life++) {
            bp_sim_cut_after_bytes(rig.sim, cut);
            (void)rig_open(&rig);
            rig_power_cut(&rig, (uint32_t)(rig_mix(cut + (uint64_t)life) % 1025));
        }
        CHECK_OK(rig_open(&rig), &rig.err);
        CHECK_EQ_U64(rig_verify(&rig), 20);
        rig_free(&rig);
    }
}

static void a_disk_that_fails_in_recovery_is_an_error_that_leaves_all_as_it_was(void) {
    const int sites[] = {BP_SITE_RECOVER_READ,    BP_SITE_LOG_DIR_SYNC,     BP_SITE_LOG_CREATE,
                         BP_SITE_RECOVER_COPY,    BP_SITE_LOG_HEADER_WRITE, BP_SITE_RECOVER_SYNC,
                         BP_SITE_LOG_HEADER_SYNC, BP_SITE_LOG_RENAME};
    for (size_t s = 0; s < sizeof sites / sizeof sites[0]; s++) {
        struct rig rig;
        rig_init(&rig, 1);
        CHECK_OK(rig_open(&rig), &rig.err);
        rig_append_to(&rig, 20);
        rig_power_cut(&rig, 1024);
        CHECK(bp_disk_arm(rig.disk, sites[s], BP_FAULT_EIO, 1, 0, 0) == 0);
        CHECK_EQ_U64(rig_open(&rig), BP_INTERNAL);
        CHECK_EQ_U64(rig.err.reason, BP_REASON_IO_FAILED);
        rig_power_cut(&rig, 0);
        CHECK_OK(rig_open(&rig), &rig.err);
        CHECK_EQ_U64(rig_verify(&rig), 20);
        rig_free(&rig);
    }
}

/*
 * A client may store a copy of the very segment its value goes to. Its frames are no frames of the
 * log.
 */
static void a_copy_of_the_log_inside_a_value_is_no_log(void) {
    for (uint32_t keep = 0; keep <= 1024; keep += 256) {
        struct rig rig;
        rig_init(&rig, keep);
        CHECK_OK(rig_open(&rig), &rig.err);
        rig_append_to(&rig, 6);
        rig_sync(&rig);
        CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
        rig_append_to(&rig, 7);
        struct bp_segment *segment = bp_segments_find(rig.segments, rig_newest(&rig));
        static uint8_t copy[8192];
        uint32_t n = segment->used - BP_SEGMENT_HEADER;
        CHECK(bp_disk_read(rig.disk, BP_SITE_LOG_READ, segment->fd, copy, n, BP_SEGMENT_HEADER) ==
              0);
        struct bp_entry entry = {.index = 8,
                                 .term = 1,
                                 .first_revision = 9,
                                 .count = 1,
                                 .type = BP_ENTRY_REQUESTS,
                                 .payload = copy,
                                 .size = n};
        CHECK_OK(bp_log_append(rig.log, &entry, 1, NULL, &rig.err), &rig.err);
        rig_power_cut(&rig, keep);
        CHECK_OK(rig_open(&rig), &rig.err);
        CHECK(rig.recovery.n >= 6 && rig.recovery.n <= 8);
        rig_free(&rig);
    }
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(a_cut_at_every_byte_leaves_a_prefix_with_all_that_was_synced);
    RUN(random_subsets_of_unsynced_sectors_leave_a_prefix_for_many_lives);
    RUN(without_real_syncs_the_power_cut_tests_turn_red);
    RUN(good_frames_behind_a_torn_one_are_discarded);
    RUN(a_flip_of_every_byte_is_refused_or_leaves_a_prefix);
    RUN(a_refusal_changes_nothing_on_disk);
    RUN(damage_to_what_recovery_copied_is_refused);
    RUN(a_crash_at_each_step_of_recovery_repeats_it);
    RUN(a_crash_at_each_step_of_the_first_open_starts_again);
    RUN(a_hundred_opens_without_writes_leave_two_files);
    RUN(an_old_segment_is_trimmed_to_what_it_holds);
    RUN(a_missing_segment_is_corruption_that_is_named);
    RUN(a_chain_that_does_not_fit_is_corruption);
    RUN(bytes_behind_a_declared_end_are_ignored);
    RUN(a_newer_format_is_refused_and_left_alone);
    RUN(ids_are_never_used_again);
    RUN(replay_demands_the_next_revision);
    RUN(a_jump_may_skip_revisions_but_not_go_back);
    RUN(terms_never_fall_along_the_log);
    RUN(a_log_that_begins_behind_the_checkpoint_is_refused);
    RUN(superseding_a_committed_entry_is_corruption);
    RUN(replay_starts_where_the_checkpoint_says);
    RUN(a_start_in_a_dropped_segment_begins_behind_it);
    RUN(a_start_beyond_what_the_log_knows_synced_is_believed);
    RUN(a_missing_start_is_corruption);
    RUN(old_segments_are_opened_and_described);
    RUN(a_newest_segment_cut_short_is_corruption);
    RUN(a_newest_segment_that_is_gone_is_corruption);
    RUN(a_restart_on_a_full_disk_works);
    RUN(a_crash_at_any_byte_of_a_restart_on_a_full_disk_repeats_it);
    RUN(a_disk_that_fails_in_recovery_is_an_error_that_leaves_all_as_it_was);
    RUN(a_copy_of_the_log_inside_a_value_is_no_log);
    TESTS_END;
}

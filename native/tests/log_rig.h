/*
 * What the log's tests stand on: a log on a simulated disk, and a model of what was appended.
 *
 *   rig    sim -> disk -> segments -> log        mount, open, (cut), unmount, mount, open, ...
 *   model  entry i has a payload that follows from (i, term), so that a reopened log can be checked
 *   without remembering it
 */
#ifndef BP_TESTS_LOG_RIG_H
#define BP_TESTS_LOG_RIG_H

#include "../src/bytes.h"
#include "../src/log.h"
#include "../src/segment.h"
#include "check.h"

#define RIG_DIR "/d"

/*
 * Sanitizers look for other faults than the plain run does, and cost ten times as much: there,
 * every 7th case does.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RIG_STRIDE 7u
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define RIG_STRIDE 7u
#endif
#endif
#ifndef RIG_STRIDE
#define RIG_STRIDE 1u
#endif

static const uint8_t rig_store_id[16] = "a store's id 16";

struct rig {
    struct bp_sim *sim;
    struct bp_disk *disk;
    struct bp_segments *segments;
    struct bp_log *log;
    struct bp_recovery recovery;
    struct bp_error err;
    uint32_t segment_size;
};

static inline uint64_t rig_mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline void rig_mount(struct rig *rig) {
    struct bp_io io;
    bp_sim_io(rig->sim, &io);
    rig->disk = bp_disk_new(&io);
    CHECK(rig->disk != NULL);
    rig->segments = bp_segments_new(rig->disk, RIG_DIR);
    CHECK(rig->segments != NULL);
    rig->log = NULL;
    rig->recovery = (struct bp_recovery){0};
}

static inline void rig_init(struct rig *rig, uint64_t seed) {
    *rig = (struct rig){.sim = bp_sim_new(seed), .segment_size = BP_SEGMENT_SIZE_MIN};
    CHECK(rig->sim != NULL);
    rig_mount(rig);
    CHECK(bp_disk_mkdir(rig->disk, RIG_DIR) == 0);
    CHECK(bp_disk_sync_dir(rig->disk, BP_SITE_STORE_CREATE, "/") == 0);
}

static inline int rig_open_at(struct rig *rig, const struct bp_log_start *start) {
    struct bp_log_options options = {.segment_size = rig->segment_size};
    memcpy(options.store_id, rig_store_id, 16);
    return bp_log_open(rig->segments, &options, start, &rig->log, &rig->recovery, &rig->err);
}

static inline int rig_open(struct rig *rig) {
    struct bp_log_start start = {0};
    return rig_open_at(rig, &start);
}

/* As a process that dies: nothing is synced or marked. The disk stays. */
static inline void rig_unmount(struct rig *rig) {
    bp_log_close(rig->log);
    bp_recovery_free(&rig->recovery);
    bp_segments_free(rig->segments);
    bp_disk_free(rig->disk);
    rig->log = NULL;
    rig->segments = NULL;
    rig->disk = NULL;
}

static inline void rig_remount(struct rig *rig) {
    rig_unmount(rig);
    rig_mount(rig);
}

static inline void rig_reopen(struct rig *rig) {
    rig_remount(rig);
    CHECK_OK(rig_open(rig), &rig->err);
}

/* The plug is pulled; the next life begins. */
static inline void rig_power_cut(struct rig *rig, uint32_t keep_per_1024) {
    bp_sim_power_cut(rig->sim, keep_per_1024);
    rig_remount(rig);
}

static inline void rig_free(struct rig *rig) {
    rig_unmount(rig);
    bp_sim_free(rig->sim);
}

/* ---- the model ------------------------------------------------------------------------------- */

static inline uint32_t rig_size(uint64_t index, uint64_t term) {
    return (uint32_t)(rig_mix(index * 31 + term) % 120);
}

static inline void rig_fill(uint8_t *out, uint32_t size, uint64_t index, uint64_t term) {
    uint64_t word = rig_mix(index * 1000003 + term * 17);
    for (uint32_t i = 0; i < size; i += 8) {
        uint8_t bytes[8];
        bp_put_u64(bytes, word + i);
        memcpy(out + i, bytes, size - i < 8 ? size - i : 8);
    }
}

static inline struct bp_entry rig_entry(uint8_t *payload, uint64_t index, uint64_t term,
                                        uint32_t size) {
    rig_fill(payload, size, index, term);
    return (struct bp_entry){
        .index = index,
        .term = term,
        .first_revision = index + 1,
        .count = 1,
        .type = BP_ENTRY_REQUESTS,
        .payload = payload,
        .size = size,
    };
}

static inline int rig_try_append_sized(struct rig *rig, uint64_t index, uint64_t term,
                                       uint32_t size) {
    static uint8_t payload[BP_ENTRY_MAX];
    struct bp_entry entry = rig_entry(payload, index, term, size);
    return bp_log_append(rig->log, &entry, 1, NULL, &rig->err);
}

static inline int rig_try_append(struct rig *rig, uint64_t index, uint64_t term) {
    return rig_try_append_sized(rig, index, term, rig_size(index, term));
}

static inline void rig_append(struct rig *rig, uint64_t index, uint64_t term) {
    CHECK_OK(rig_try_append(rig, index, term), &rig->err);
}

static inline void rig_append_to(struct rig *rig, uint64_t through) {
    for (uint64_t i = bp_log_last_index(rig->log) + 1; i <= through; i++) {
        rig_append(rig, i, 1);
    }
}

static inline void rig_sync(struct rig *rig) {
    CHECK_OK(bp_log_sync(rig->log, &rig->err), &rig->err);
}

static inline int rig_each(void *arg, const struct bp_entry *entry) {
    static uint8_t want[BP_ENTRY_MAX];
    uint64_t *next = arg;
    CHECK_EQ_U64(entry->index, *next);
    CHECK_EQ_U64(entry->first_revision, entry->index + 1);
    rig_fill(want, entry->size, entry->index, entry->term);
    CHECK(memcmp(entry->payload, want, entry->size) == 0);
    ++*next;
    return 0;
}

/*
 * What recovery found is 1..n (or start+1..), whole, where it says it is; returns the last index.
 */
static inline uint64_t rig_verify_from(struct rig *rig, uint64_t first) {
    uint64_t next = first;
    CHECK_OK(
        bp_log_replay(rig->log, &rig->recovery, 0, rig->recovery.n, rig_each, &next, &rig->err),
        &rig->err);
    CHECK_EQ_U64(next - first, rig->recovery.n);
    CHECK_EQ_U64(bp_log_last_index(rig->log), next - 1);
    for (uint64_t i = 0; i < rig->recovery.n; i++) {
        static uint8_t got[BP_ENTRY_MAX], want[BP_ENTRY_MAX];
        const struct bp_found *found = &rig->recovery.entries[i];
        struct bp_segment *segment = bp_segments_find(rig->segments, found->at.segment);
        CHECK(segment != NULL);
        CHECK(bp_disk_read(rig->disk, BP_SITE_LOG_READ, segment->fd, got, found->size,
                           found->at.offset) == 0);
        rig_fill(want, found->size, found->index, found->term);
        CHECK(memcmp(got, want, found->size) == 0);
    }
    return next - 1;
}

static inline uint64_t rig_verify(struct rig *rig) { return rig_verify_from(rig, 1); }

static inline int rig_count_name(void *arg, const char *name) {
    size_t n = strlen(name);
    *(uint32_t *)arg += n > 4 && strcmp(name + n - 4, ".log") == 0;
    return 0;
}

static inline uint32_t rig_log_files(struct rig *rig) {
    uint32_t n = 0;
    CHECK(bp_disk_list(rig->disk, RIG_DIR, rig_count_name, &n) == 0);
    return n;
}

static inline void rig_path(struct rig *rig, uint32_t id, char *path, size_t size) {
    bp_segment_path(rig->segments, id, BP_SEGMENT_LOG, false, path, size);
}

static inline void rig_flip(struct rig *rig, uint32_t id, uint64_t offset, unsigned bit) {
    char path[256];
    rig_path(rig, id, path, sizeof path);
    CHECK(bp_sim_flip(rig->sim, path, offset, bit) == 0);
}

static inline uint32_t rig_newest(struct rig *rig) { return bp_log_end(rig->log).segment; }

#endif

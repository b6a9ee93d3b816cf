/*
 * Cleaning: giving back the disk that dead values hold. One bounded step at a time, in this order:
 *
 *   trim      versions below the compaction revision leave the index: their values are dead
 *   advance   a victim was begun: copy more of its live values to a settled segment (clean_copy.c)
 *   reap      unlink one segment without live bytes that no kept checkpoint needs, once every
 *             reader of before has left
 *   pick      begin with the segment that has the least live share
 *
 *   live share   |#########################............|  at least clean_live_percent: left alone
 *                |#####................................|  below: live values are copied, then the
 *                file goes
 *
 * Why values are written at most twice as often as clients write them, at 50 %: cleaning a segment
 * of size S frees more than S/2 and copies less than S/2. In a steady state cleaning frees as many
 * bytes as clients write, so it copies fewer than they write. With evenly random overwrites the
 * emptiest segment is far below 50 %, and it is less.
 *
 * What is measured: a settled segment by the share of its own value bytes that live, so that a full
 * one is never copied again, however small its values. A log segment by what its live values would
 * take as records, estimated from the store's mean key and value: copying pays only if that is well
 * below the file. Log segments turn into settled ones once, so an estimate that is off costs one
 * copy.
 *
 * A log segment may be cleaned when it lies before both kept checkpoints' replay starts (so its
 * entries are applied, checkpointed and Raft-compacted) and none of its revisions is history. A
 * settled segment that takes copies is never a victim.
 */
#include "clean.h"

#include <stdlib.h>
#include <string.h>

#include "install.h"

#define TRIM_EFFECTS 256u
#define TRIMS_PER_WORK 16u
#define RETRY_NS 10000000000ull
#define SMALL_SEGMENTS_MAX 4u /* this many small settled segments are worth one larger one */
#define CHECKPOINT_VERSION_BYTES                                                                   \
    20u /* about what a version takes in a checkpoint, beside its key */

struct bp_cleaner *bp_cleaner_of(struct bp_store *store) {
    if (store->keeper.cleaner == NULL) {
        store->keeper.cleaner = calloc(1, sizeof *store->keeper.cleaner);
    }
    return store->keeper.cleaner;
}

void bp_cleaner_free(struct bp_store *store) {
    struct bp_cleaner *cleaner = store->keeper.cleaner;
    if (cleaner == NULL) {
        return;
    }
    if (cleaner->reader_made) {
        bp_frame_reader_free(&cleaner->reader);
    }
    free(cleaner->loaded);
    free(cleaner->batch);
    free(cleaner->copies);
    free(cleaner);
    store->keeper.cleaner = NULL;
}

static int64_t live_of(const struct bp_segment *segment) {
    return atomic_load_explicit(&segment->live_bytes, memory_order_relaxed);
}

/* ---- after opening --------------------------------------------------------------------------- */

int bp_clean_note_live(struct bp_store *store, uint32_t segment, uint64_t live) {
    struct bp_cleaner *cleaner = bp_cleaner_of(store);
    if (cleaner == NULL) {
        return -1;
    }
    if (cleaner->n_loaded == cleaner->loaded_capacity) {
        uint32_t capacity = cleaner->loaded_capacity == 0 ? 64 : cleaner->loaded_capacity * 2;
        void *loaded = realloc(cleaner->loaded, capacity * sizeof *cleaner->loaded);
        if (loaded == NULL) {
            return -1;
        }
        cleaner->loaded = loaded;
        cleaner->loaded_capacity = capacity;
    }
    cleaner->loaded[cleaner->n_loaded++] =
        (struct bp_clean_loaded){.segment = segment, .live = live};
    return 0;
}

struct strays {
    const struct bp_store *store;
    uint32_t ids[256]; /* the next start finds the rest */
    uint32_t n;
};

static int each_name(void *arg, const char *name) {
    struct strays *strays = arg;
    char *end;
    unsigned long id = strtoul(name, &end, 16);
    bool settled = end == name + 8 && strcmp(end, ".set") == 0 && id > 0 && id <= UINT32_MAX;
    if (settled && bp_segments_find(strays->store->segments, (uint32_t)id) == NULL &&
        strays->n < 256) {
        strays->ids[strays->n++] = (uint32_t)id;
    }
    return 0;
}

/*
 * Settled segments that no kept checkpoint names: made after the newest one, and the log still has
 * all they hold.
 */
static void unlink_strays(struct bp_store *store) {
    struct strays strays = {.store = store};
    (void)bp_disk_list(store->disk, store->dir, each_name, &strays);
    for (uint32_t i = 0; i < strays.n; i++) {
        char path[BP_PATH_MAX];
        bp_segment_path(store->segments, strays.ids[i], BP_SEGMENT_SETTLED, false, path,
                        sizeof path);
        (void)bp_disk_unlink(store->disk, BP_SITE_SETTLED_UNLINK, path);
    }
}

/* Settled files are sealed by a restart: records behind the last checkpoint's are strays too. */
static void truncate_settled(struct bp_store *store) {
    struct bp_segment *segment = bp_segments_next(store->segments, 0);
    for (; segment != NULL; segment = bp_segments_next(store->segments, segment->header.id)) {
        if (segment->header.kind == BP_SEGMENT_SETTLED && segment->size > segment->used &&
            bp_disk_truncate(store->disk, BP_SITE_SETTLED_WRITE, segment->fd, segment->used) >= 0) {
            segment->size = segment->used;
        }
    }
}

int bp_clean_attach(struct bp_store *store, struct bp_error *err) {
    struct bp_cleaner *cleaner = bp_cleaner_of(store);
    if (cleaner == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the cleaner");
    }
    for (uint32_t i = 0; i < cleaner->n_loaded; i++) {
        struct bp_segment *segment = bp_segments_find(store->segments, cleaner->loaded[i].segment);
        if (segment == NULL) {
            return bp_fail(
                err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                "segment %08x, which the checkpoint names, is missing; run `bedplate fsck`",
                cleaner->loaded[i].segment);
        }
        atomic_fetch_add_explicit(&segment->live_bytes, (int64_t)cleaner->loaded[i].live,
                                  memory_order_relaxed);
    }
    free(cleaner->loaded);
    cleaner->loaded = NULL;
    cleaner->n_loaded = cleaner->loaded_capacity = 0;
    unlink_strays(store);
    truncate_settled(store);
    return BP_OK;
}

/* ---- trim ------------------------------------------------------------------------------------ */

static bool trim(struct bp_store *store) {
    uint64_t floor = atomic_load(&store->floor); /* before the pins: see bp_pins_add */
    uint64_t pinned = bp_pins_min(store);
    uint64_t revision = floor < pinned ? floor : pinned;
    if (bp_index_trimmed(store->index) >= revision) {
        return false;
    }
    pthread_mutex_lock(&store->apply);
    bool more = bp_index_trim(store->index, revision, TRIM_EFFECTS);
    pthread_mutex_unlock(&store->apply);
    return more;
}

/* ---- what a segment is worth ----------------------------------------------------------------- */

/* What the choice of a victim is made by. */
struct look {
    struct bp_store *store;
    struct bp_cleaner *cleaner;
    uint32_t replay_segment;
    uint64_t floor;
    double record_factor; /* bytes of record per byte of value, on average */
    uint32_t small_settled;
};

static double mean_record_factor(const struct bp_store *store) {
    struct bp_index_stats stats;
    bp_index_get_stats(store->index, &stats);
    uint64_t values = stats.live_value_bytes + stats.history_value_bytes;
    if (values == 0 || stats.items == 0 || stats.versions == 0) {
        return 1.0;
    }
    double key = (double)stats.key_bytes / (double)stats.items + BP_SETTLED_RECORD;
    return 1.0 + key * (double)stats.versions / (double)values;
}

static int found_effect(void *arg, uint64_t revision, struct bp_slice key,
                        const struct bp_version *version, const struct bp_version *previous) {
    (void)arg;
    (void)revision;
    (void)key;
    (void)version;
    (void)previous;
    return 1;
}

bool bp_history_between(const struct bp_store *store, uint64_t after, uint64_t through) {
    uint64_t next;
    return after < through &&
           bp_history_scan(store->index, after + 1, through, 1, &next, found_effect, NULL) == 1;
}

/* A log segment before both replay starts, without history in it. */
static bool log_may_go(const struct look *look, const struct bp_segment *segment) {
    return segment->header.id < look->replay_segment &&
           (segment->last_revision <= look->floor ||
            !bp_history_between(look->store, look->floor, segment->last_revision));
}

static bool is_small(const struct look *look, const struct bp_segment *segment) {
    return segment->header.kind == BP_SEGMENT_SETTLED && segment->sealed &&
           segment->used < look->store->options.segment_size / 4;
}

/* How much of the segment copying would write again, 0 .. ; at or above 1 it is left alone. */
static double weight(const struct look *look, const struct bp_segment *segment) {
    double live = (double)live_of(segment),
           threshold = (double)look->store->options.clean_live_percent / 100.0;
    if (segment->header.kind == BP_SEGMENT_LOG) {
        return live * look->record_factor / ((double)look->store->options.segment_size * threshold);
    }
    double share = segment->value_bytes == 0 ? 0.0 : live / (double)segment->value_bytes;
    bool merge = is_small(look, segment) && look->small_settled >= SMALL_SEGMENTS_MAX;
    return merge ? share * 0.999 : share / threshold;
}

static bool is_candidate(const struct look *look, const struct bp_segment *segment) {
    if (segment == look->cleaner->filling || __atomic_load_n(&segment->damaged, __ATOMIC_RELAXED) ||
        live_of(segment) == 0) {
        return false;
    }
    return weight(look, segment) < 1.0 &&
           (segment->header.kind == BP_SEGMENT_LOG ? log_may_go(look, segment) : segment->sealed);
}

/*
 * Segments whose fields may be read here: the keeper's own, and log segments that the driver has
 * left for good.
 */
static bool is_settled_or_old(const struct bp_segment *segment, uint32_t before) {
    return segment->header.kind == BP_SEGMENT_SETTLED || segment->header.id < before;
}

static void look_around(struct look *look) {
    struct bp_cleaner *cleaner = look->cleaner;
    cleaner->sealed_bytes = cleaner->live_bytes = 0;
    const struct bp_segment *segment = bp_segments_next(look->store->segments, 0);
    for (; segment != NULL; segment = bp_segments_next(look->store->segments, segment->header.id)) {
        if (!is_settled_or_old(segment, look->replay_segment)) {
            continue;
        }
        int64_t live = live_of(segment);
        cleaner->sealed_bytes += segment->used;
        cleaner->live_bytes += live > 0 ? (uint64_t)((double)live * look->record_factor) : 0;
        look->small_settled += is_small(look, segment) && live > 0;
    }
}

static struct look begin_look(struct bp_store *store, struct bp_cleaner *cleaner) {
    struct look look = {.store = store,
                        .cleaner = cleaner,
                        .replay_segment = bp_checkpoint_replay_segment(store),
                        .floor = atomic_load(&store->floor),
                        .record_factor = mean_record_factor(store)};
    look_around(&look);
    return look;
}

/* ---- pick ------------------------------------------------------------------------------------ */

static bool pick(struct bp_store *store, struct bp_cleaner *cleaner) {
    struct look look = begin_look(store, cleaner);
    struct bp_segment *filling = cleaner->filling;
    if (filling != NULL && filling->value_bytes > 0 &&
        (double)live_of(filling) * 100.0 <
            (double)filling->value_bytes * store->options.clean_live_percent) {
        bp_clean_seal(store, cleaner); /* what it holds died while it was filled */
        return true;
    }
    const struct bp_segment *best = NULL;
    const struct bp_segment *segment = bp_segments_next(store->segments, 0);
    for (; segment != NULL; segment = bp_segments_next(store->segments, segment->header.id)) {
        if (is_settled_or_old(segment, look.replay_segment) && is_candidate(&look, segment) &&
            (best == NULL || weight(&look, segment) < weight(&look, best))) {
            best = segment;
        }
    }
    return best != NULL && bp_clean_begin(store, cleaner, best);
}

/* ---- reap ------------------------------------------------------------------------------------ */

/* Nothing refers to it, or will after a crash. */
static bool is_deletable(const struct bp_store *store, const struct bp_cleaner *cleaner,
                         const struct bp_segment *segment, uint32_t replay_segment) {
    if (!is_settled_or_old(segment, replay_segment) || live_of(segment) != 0 ||
        segment->header.id == cleaner->victim || bp_checkpoint_names(store, segment->header.id)) {
        return false; /* a victim that died meanwhile is gone when cleaning has let it go */
    }
    return segment->header.kind == BP_SEGMENT_LOG ||
           (segment->sealed && segment != cleaner->filling);
}

static struct bp_clean_emptied *emptied_entry(struct bp_cleaner *cleaner, uint32_t id) {
    for (uint32_t i = 0; i < cleaner->n_emptied; i++) {
        if (cleaner->emptied[i].segment == id) {
            return &cleaner->emptied[i];
        }
    }
    return NULL;
}

static bool delete_segment(struct bp_store *store, struct bp_cleaner *cleaner,
                           struct bp_clean_emptied *entry) {
    uint32_t id = entry->segment;
    struct bp_error err;
    *entry = cleaner->emptied[--cleaner->n_emptied];
    return bp_segment_delete(store->segments, id, &err) == BP_OK;
}

/*
 * Unlinks at most one segment. One that is found empty gets a ticket first: readers that took a
 * place in it from the index before that are waited for; later ones find no such place.
 */
static bool reap(struct bp_store *store, struct bp_cleaner *cleaner) {
    uint32_t replay_segment = bp_checkpoint_replay_segment(store);
    const struct bp_segment *segment = bp_segments_next(store->segments, 0);
    for (; segment != NULL; segment = bp_segments_next(store->segments, segment->header.id)) {
        if (!is_deletable(store, cleaner, segment, replay_segment)) {
            continue;
        }
        struct bp_clean_emptied *entry = emptied_entry(cleaner, segment->header.id);
        if (entry == NULL && cleaner->n_emptied < BP_CLEAN_EMPTIED_MAX) {
            entry = &cleaner->emptied[cleaner->n_emptied++];
            *entry = (struct bp_clean_emptied){.segment = segment->header.id,
                                               .ticket = bp_epoch_ticket(&store->epoch)};
        }
        if (entry != NULL && bp_epoch_passed(&store->epoch, entry->ticket)) {
            /* An install says what it holds before it leaves its read section: asked last. */
            if (!bp_install_holds(store, segment->header.id)) {
                return delete_segment(store, cleaner, entry);
            }
        }
    }
    return false;
}

static bool is_stopped(const struct bp_store *store) {
    return atomic_load(&store->poisoned) || atomic_load(&store->damaged) ||
           bp_log_retired(store->log);
}

bool bp_clean_reap(struct bp_store *store) {
    struct bp_cleaner *cleaner = bp_cleaner_of(store);
    return cleaner != NULL && !is_stopped(store) && reap(store, cleaner);
}

/* ---- waiting for a checkpoint ---------------------------------------------------------------- */

/* Log segments below this could go after the next two checkpoints. */
static uint32_t applied_segment(const struct bp_store *store) {
    pthread_mutex_t *apply =
        (pthread_mutex_t *)(uintptr_t)&store->apply; /* the store itself is never const */
    pthread_mutex_lock(apply);
    uint32_t segment = store->applied_end.segment;
    pthread_mutex_unlock(apply);
    return segment;
}

/*
 * Bytes that another checkpoint would let go: emptied segments that a kept one still names or
 * needs.
 */
static uint64_t blocked_bytes(const struct bp_store *store, bool full) {
    static const struct bp_cleaner nothing = {0};
    const struct bp_cleaner *cleaner =
        store->keeper.cleaner != NULL ? store->keeper.cleaner : &nothing;
    uint32_t replay_segment = bp_checkpoint_replay_segment(store), applied = applied_segment(store);
    uint64_t bytes = 0;
    const struct bp_segment *segment = bp_segments_next(store->segments, 0);
    for (; segment != NULL; segment = bp_segments_next(store->segments, segment->header.id)) {
        if (!is_settled_or_old(segment, applied) || segment == cleaner->filling) {
            continue;
        }
        bool empty =
            live_of(segment) == 0 && (segment->header.kind == BP_SEGMENT_LOG || segment->sealed);
        bool waits = empty && !is_deletable(store, cleaner, segment, replay_segment);
        /* On a full disk also those with garbage in them, which cannot be cleaned before. */
        bool garbage =
            full && segment->header.kind == BP_SEGMENT_LOG && segment->header.id >= replay_segment;
        bytes += waits || garbage ? segment->size : 0;
    }
    return bytes;
}

static uint64_t checkpoint_cost(const struct bp_store *store) {
    uint64_t newest = atomic_load_explicit(&store->keeper.checkpoint_bytes, memory_order_relaxed);
    if (newest > 0) {
        return newest;
    }
    struct bp_index_stats stats;
    bp_index_get_stats(store->index, &stats);
    return stats.key_bytes + stats.versions * CHECKPOINT_VERSION_BYTES;
}

/*
 * A checkpoint is worth writing for what it frees: at least half its own size. What waits below
 * that stays within the two checkpoints' worth of disk a store may use. On a full disk anything
 * counts.
 */
bool bp_clean_waits(const struct bp_store *store) {
    bool full = atomic_load_explicit(&store->disk_full, memory_order_relaxed);
    uint64_t blocked = blocked_bytes(store, full);
    return blocked > (full ? 0 : checkpoint_cost(store) / 2);
}

/* ---- the step -------------------------------------------------------------------------------- */

static bool advance(struct bp_store *store, struct bp_cleaner *cleaner) {
    bool failed = bp_clean_advance(store, cleaner) == BP_CLEAN_FAILED;
    if (failed) {
        cleaner->retry_ns = bp_disk_boot_ns(store->disk) + RETRY_NS;
    }
    return !failed;
}

/* Copy, unlink, or choose what to copy; false when there is nothing to do. */
static bool work(struct bp_store *store, struct bp_cleaner *cleaner) {
    cleaner->worked = true;
    if (cleaner->victim != 0) {
        return advance(store, cleaner);
    }
    if (reap(store, cleaner)) {
        return true;
    }
    bool resting = !store->options.manual && bp_disk_boot_ns(store->disk) < cleaner->retry_ns;
    return !resting && pick(store, cleaner);
}

int bp_clean_step(struct bp_store *store) {
    struct bp_cleaner *cleaner = bp_cleaner_of(store);
    if (cleaner == NULL || is_stopped(store)) {
        return 0;
    }
    cleaner->worked = false;
    if (trim(store)) {
        /* First, as it makes more to clean; but cleaning must have its turn some time. */
        if (++cleaner->trims % TRIMS_PER_WORK == 0) {
            (void)work(store, cleaner);
        }
        return 1;
    }
    if (work(store, cleaner)) {
        return 1;
    }
    bp_clean_shrink(store, cleaner);
    return 0;
}

bool bp_clean_worked(const struct bp_store *store) {
    return store->keeper.cleaner != NULL && store->keeper.cleaner->worked;
}

uint32_t bp_clean_rest_percent(const struct bp_store *store) {
    const struct bp_cleaner *cleaner = store->keeper.cleaner;
    if (cleaner == NULL || atomic_load_explicit(&store->disk_full, memory_order_relaxed)) {
        return 0;
    }
    uint64_t share =
        cleaner->sealed_bytes == 0 ? 100 : cleaner->live_bytes * 100 / cleaner->sealed_bytes;
    return share >= 50 ? 400 : share >= 33 ? 100 : 25;
}

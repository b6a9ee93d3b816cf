/*
 * The log thread: what was handed over goes to the log, everything that waits with one sync.
 *
 *   persist   work {number, hard state, entries} --> queue
 *   round     take all work -> merge -> frames: [hard state, entries][entries] ... -> one sync
 *                                 |                                                     |
 *        a later work's entries supersede an earlier's:              places into the slots that
 *        the result is contiguous, only its first entry              still hold these entries;
 *        can supersede what is in the log                            durable, persisted
 *
 *   full disk   release a segment of the reserve, try again; still full: the round stays open and is
 *               tried again every RETRY_MS, and counts as a stalled disk meanwhile
 *   failed      the log is poisoned: nothing is durable any more, ever
 *
 * Invariants
 *   - `persisted` and places change only after a sync that covered them.
 *   - Terms and votes go in front of the entries written with them: a torn tail never leaves entries
 *     of a term that the hard state does not know. The commit index with them is none of a later
 *     frame's: what a durable hard state calls committed is there.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "log_internal.h"
#include "raft.h"

#define RETRY_MS 100u

/* ---- handing over ---------------------------------------------------------------------------- */

static void free_work(struct bp_work *work) {
    for (uint32_t i = 0; i < work->n; i++) {
        bp_blob_drop(work->blobs[i]);
    }
    free(work->entries);
    free(work->blobs);
    free(work);
}

static struct bp_work *new_work(uint32_t n) {
    struct bp_work *work = calloc(1, sizeof *work);
    if (work != NULL) {
        work->entries = calloc((size_t)n + 1, sizeof *work->entries);
        work->blobs = calloc((size_t)n + 1, sizeof(struct bp_blob *));
        if (work->entries == NULL || work->blobs == NULL) {
            free_work(work);
            return NULL;
        }
    }
    return work;
}

/* All entries not handed over yet. mutex held. */
static struct bp_work *capture(struct bp_table *table) {
    struct bp_work *work = new_work((uint32_t)(table->last - table->handed));
    for (uint64_t i = table->handed + 1; work != NULL && i <= table->last; i++) {
        const struct bp_slot *slot = bp_table_slot(table, i);
        bp_slot_entry(slot, i, &work->entries[work->n]);
        work->blobs[work->n++] = bp_blob_hold(slot->blob);
    }
    if (work != NULL) {
        table->handed = table->last;
    }
    return work;
}

int bp_raft_persist(struct bp_store *store, uint64_t number, uint64_t term, uint64_t vote,
                    uint64_t commit, struct bp_error *err) {
    struct bp_raft *raft = bp_raft_of(store);
    pthread_mutex_lock(&raft->mutex);
    struct bp_work *work = capture(&raft->table);
    if (work != NULL) {
        work->number = number;
        work->hardstate = (struct bp_hardstate){.term = term, .vote = vote, .commit = commit};
        *raft->work_tail = work;
        raft->work_tail = &work->next;
        pthread_cond_signal(&raft->log_wake);
    }
    pthread_mutex_unlock(&raft->mutex);
    return work != NULL ? BP_OK
                        : bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                                  "no memory to write entries");
}

/* ---- merging --------------------------------------------------------------------------------- */

static bool grow(struct bp_batch *batch, uint64_t n) {
    if (n <= batch->capacity) {
        return true;
    }
    uint32_t capacity = batch->capacity == 0 ? 64 : batch->capacity;
    while (capacity < n) {
        capacity *= 2;
    }
    struct bp_entry *entries = realloc(batch->entries, capacity * sizeof *entries);
    batch->entries = entries != NULL ? entries : batch->entries;
    struct bp_blob **blobs = realloc(batch->blobs, capacity * sizeof(struct bp_blob *));
    batch->blobs = blobs != NULL ? blobs : batch->blobs;
    struct bp_place *places = realloc(batch->places, capacity * sizeof *places);
    batch->places = places != NULL ? places : batch->places;
    if (entries == NULL || blobs == NULL || places == NULL) {
        return false;
    }
    batch->capacity = capacity;
    return true;
}

/* Takes the work in, unless there is no memory. */
static bool merge(struct bp_batch *batch, struct bp_work *work) {
    if (!grow(batch, (uint64_t)batch->n + work->n)) {
        return false;
    }
    while (work->n > 0 && batch->n > 0 &&
           batch->entries[batch->n - 1].index >= work->entries[0].index) {
        bp_blob_drop(batch->blobs[--batch->n]);
    }
    for (uint32_t i = 0; i < work->n; i++) {
        batch->entries[batch->n] = work->entries[i];
        batch->blobs[batch->n++] = work->blobs[i];
    }
    work->n = 0; /* the blobs are the batch's now */
    batch->hardstate = work->hardstate;
    batch->number = work->number;
    batch->open = true;
    free_work(work);
    return true;
}

static void clear(struct bp_batch *batch) {
    for (uint32_t i = 0; i < batch->n; i++) {
        bp_blob_drop(batch->blobs[i]);
    }
    batch->n = batch->written = 0;
    batch->open = batch->hardstate_written = false;
}

/* A new batch from everything that waits. mutex held. */
static void take_work(struct bp_raft *raft) {
    struct bp_batch *batch = &raft->batch;
    while (raft->work != NULL) {
        struct bp_work *work = raft->work, *next = work->next;
        if (!merge(batch, work)) {
            break; /* the rest another time */
        }
        raft->work = next;
    }
    if (raft->work == NULL) {
        raft->work_tail = &raft->work;
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

static void count_frame(struct bp_store *store, const struct bp_entry *entries, uint32_t n,
                        uint64_t bytes) {
    struct bp_store_counters *counters = &store->counters;
    uint64_t requests = 0, payload = 0;
    for (uint32_t i = 0; i < n; i++) {
        requests += entries[i].count;
        payload += entries[i].size;
    }
    uint32_t bucket = 0;
    while (bucket < 15 && requests >= 2ull << bucket) {
        bucket++;
    }
    atomic_fetch_add_explicit(&counters->groups, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&counters->group_requests, requests, memory_order_relaxed);
    atomic_fetch_add_explicit(&counters->group_bytes, payload, memory_order_relaxed);
    atomic_fetch_add_explicit(&counters->group_buckets[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&counters->bytes_appended, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&store->bytes_since_checkpoint, bytes, memory_order_relaxed);
}

/* As many of the next entries as one frame holds. */
static uint32_t frame_entries(const struct bp_batch *batch) {
    uint64_t size = batch->hardstate_written ? 0 : BP_HARDSTATE_RECORD;
    uint32_t n = 0;
    while (batch->written + n < batch->n && n < BP_GROUP_ENTRIES_MAX) {
        uint64_t more = bp_entry_bytes(batch->entries[batch->written + n].size);
        if (size + more > BP_GROUP_MAX) {
            break;
        }
        size += more;
        n++;
    }
    return n;
}

static int append(struct bp_store *store, struct bp_entry *entries, uint32_t n,
                  const struct bp_hardstate *hardstate, struct bp_error *err) {
    int code = bp_log_append(store->log, entries, n, hardstate, err);
    if (code != BP_OK && err->reason == BP_REASON_DISK_FULL && !bp_log_poisoned(store->log)) {
        atomic_store_explicit(&store->disk_full, true, memory_order_relaxed);
        bp_keeper_wake(store);
        if (bp_reserve_release(store, store->options.segment_size, true) > 0) {
            code = bp_log_append(store->log, entries, n, hardstate, err);
        }
    }
    return code;
}

static int write_frame(struct bp_store *store, struct bp_batch *batch, struct bp_error *err) {
    uint32_t n = frame_entries(batch), first = batch->written;
    struct bp_entry *entries = batch->entries + first;
    const struct bp_hardstate *hardstate = batch->hardstate_written ? NULL : &batch->hardstate;
    if (hardstate != NULL && first + n < batch->n && entries[n - 1].index < hardstate->commit) {
        batch->hardstate.commit = entries[n - 1].index; /* it may lag, and never lead */
    }
    int code = append(store, entries, n, hardstate, err);
    if (code != BP_OK) {
        return code;
    }
    uint64_t size = bp_log_frame_size(entries, n, hardstate != NULL);
    struct bp_place place = {.frame = bp_log_end(store->log).offset - (uint32_t)size,
                             .sequence = bp_log_sequence(store->log) - 1};
    for (uint32_t i = 0; i < n; i++) {
        place.at = entries[i].at;
        batch->places[first + i] = place;
    }
    batch->written += n;
    batch->hardstate_written = true;
    count_frame(store, entries, n, size);
    return BP_OK;
}

static int write_batch(struct bp_store *store, struct bp_batch *batch, struct bp_error *err) {
    int code = BP_OK;
    while (code == BP_OK && (batch->written < batch->n || !batch->hardstate_written)) {
        code = write_frame(store, batch, err);
    }
    return code != BP_OK ? code : bp_driver_sync(store, err);
}

/* ---- a round --------------------------------------------------------------------------------- */

/* Everything of the batch is durable. mutex held. */
static void settle(struct bp_raft *raft, struct bp_batch *batch) {
    for (uint32_t i = 0; i < batch->n; i++) {
        const struct bp_entry *entry = &batch->entries[i];
        bp_table_written(&raft->table, entry->index, entry->term, &batch->places[i]);
    }
    bp_table_settle(&raft->table);
    raft->hardstate = batch->hardstate;
    raft->persisted = batch->number;
    raft->log_end = bp_log_end(raft->store->log);
    raft->log_sequence = bp_log_sequence(raft->store->log);
    atomic_store_explicit(&raft->store->term, batch->hardstate.term, memory_order_relaxed);
    atomic_store_explicit(&raft->store->durable, raft->table.durable, memory_order_relaxed);
    bp_table_evict(&raft->table, raft->applied, raft->store->options.raft_cache_bytes);
    pthread_cond_signal(&raft->apply_wake);
}

static void do_mark(struct bp_store *store) {
    struct bp_error err;
    if (bp_log_mark(store->log, &err) != BP_OK && bp_log_poisoned(store->log)) {
        atomic_store(&store->poisoned, true);
    }
}

/* False: it stays open, or will never be done. */
static bool finish(struct bp_store *store, struct bp_raft *raft, int code,
                   const struct bp_error *err) {
    /* A full disk may have room again, and a log that was replaced is closed soon. */
    bool passes = err->reason == BP_REASON_DISK_FULL || err->reason == BP_REASON_STORE_CLOSED;
    bool poisoned = bp_log_poisoned(store->log) || (code != BP_OK && !passes);
    if (poisoned) {
        atomic_store(&store->poisoned, true);
    }
    pthread_mutex_lock(&raft->mutex);
    if (code == BP_OK) {
        settle(raft, &raft->batch);
        clear(&raft->batch);
    } else if (poisoned) {
        clear(&raft->batch);
    }
    if (!raft->batch.open) {
        raft->busy_since_ns = 0;
    }
    pthread_mutex_unlock(&raft->mutex);
    bp_raft_signal(raft);
    return code == BP_OK;
}

uint64_t bp_raft_log_round(struct bp_store *store) {
    struct bp_raft *raft = bp_raft_of(store);
    if (atomic_load(&store->poisoned)) {
        return 0;
    }
    pthread_mutex_lock(&raft->mutex);
    if (!raft->batch.open) {
        take_work(raft);
    }
    bool work = raft->batch.open, mark = raft->want_mark;
    raft->want_mark = false;
    if (work && raft->busy_since_ns == 0) {
        raft->busy_since_ns = bp_disk_boot_ns(store->disk);
    }
    pthread_mutex_unlock(&raft->mutex);
    uint64_t done = 0;
    if (work) {
        struct bp_error err = {0};
        int code = write_batch(store, &raft->batch, &err);
        done = finish(store, raft, code, &err);
    }
    if (mark) {
        do_mark(store);
    }
    return done + (mark ? 1 : 0);
}

/* Is there something to do, and may it be tried? mutex held. */
static bool has_work(const struct bp_raft *raft) {
    return !atomic_load(&raft->store->poisoned) &&
           (raft->batch.open || raft->work != NULL || raft->want_mark);
}

static void pause_for_room(struct bp_raft *raft) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += RETRY_MS * 1000000l;
    until.tv_sec += until.tv_nsec / 1000000000l;
    until.tv_nsec %= 1000000000l;
    pthread_mutex_lock(&raft->mutex);
    if (!raft->stopping) {
        (void)pthread_cond_timedwait(&raft->log_wake, &raft->mutex, &until);
    }
    pthread_mutex_unlock(&raft->mutex);
}

void *bp_raft_log_thread(void *arg) {
    struct bp_store *store = arg;
    struct bp_raft *raft = bp_raft_of(store);
    pthread_mutex_lock(&raft->mutex);
    for (;;) {
        if (raft->stopping && (raft->abandoned || !has_work(raft))) {
            break;
        }
        if (!has_work(raft)) {
            pthread_cond_wait(&raft->log_wake, &raft->mutex);
            continue;
        }
        bool stopping = raft->stopping;
        pthread_mutex_unlock(&raft->mutex);
        bool done = bp_raft_log_round(store) > 0;
        if (!done) {
            pause_for_room(raft);
        }
        pthread_mutex_lock(&raft->mutex);
        if (stopping && !done) {
            break; /* a full disk does not keep a store from closing: nothing was promised */
        }
    }
    pthread_mutex_unlock(&raft->mutex);
    return NULL;
}

void bp_raft_log_free(struct bp_raft *raft) {
    clear(&raft->batch);
    free(raft->batch.entries);
    free(raft->batch.blobs);
    free(raft->batch.places);
    while (raft->work != NULL) {
        struct bp_work *next = raft->work->next;
        free_work(raft->work);
        raft->work = next;
    }
}

void bp_raft_mark(struct bp_raft *raft) {
    pthread_mutex_lock(&raft->mutex);
    raft->want_mark = true;
    pthread_cond_signal(&raft->log_wake);
    pthread_mutex_unlock(&raft->mutex);
}

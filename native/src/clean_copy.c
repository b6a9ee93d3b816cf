/*
 * Copying live values out of a victim.
 *
 *   victim    [frame: entry: request: put k1 | put k2 ...][frame ...]      (or settled records)
 *                  |  does the index point here?  no: skip
 *                  | yes: verify, copy
 *                  v
 *   batch     [record][record][record] .. about 1 MiB
 *                  |  write -> sync            only then
 *                  v
 *   index     version.at: victim -> settled    one by one; a version trimmed meanwhile leaves its
 *                                              record behind as garbage
 *
 * Invariants
 *   - A settled segment has its durable name before it gets a record (bp_segment_create), and a
 *     record is synced before the index names it.
 *   - A failed write or sync drops the batch: nothing points at it. The file is sealed at its last
 *     synced record, which stays good.
 *   - What is copied matched the CRC the index holds. A value that does not stays where it is, and
 *     its segment with it.
 */
#include "clean.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"

#define GROW                                                                                       \
    (4u                                                                                            \
     << 20) /* a settled segment is preallocated in such steps: a small store keeps small files */
#define BATCH_CAPACITY (BP_CLEAN_BATCH + BP_SETTLED_RECORD_MAX)

/* ---- the settled segment --------------------------------------------------------------------- */

static uint32_t grown_size(const struct bp_store *store, uint32_t need) {
    uint64_t size = ((uint64_t)need + GROW - 1) / GROW * GROW;
    uint64_t max = store->options.segment_size;
    size = size < max ? size : max;
    return size > need ? (uint32_t)size : need;
}

/* A full disk is met with pieces of the reserve. */
static int create_filling(struct bp_store *store, struct bp_cleaner *cleaner) {
    struct bp_segment_header header = {.kind = BP_SEGMENT_SETTLED};
    struct bp_error err = {0};
    memcpy(header.store_id, store->store_id, sizeof header.store_id);
    int code;
    do {
        code = bp_segment_new_salt(store->segments, &header.salt, &err);
        header.id = bp_segments_take_id(store->segments);
        code = code != BP_OK ? code
                             : bp_segment_create(store->segments, &header,
                                                 grown_size(store, BP_SEGMENT_HEADER + 1), NULL, 0,
                                                 &cleaner->filling, &err);
    } while (code != BP_OK && err.reason == BP_REASON_DISK_FULL &&
             bp_reserve_release(store, store->options.segment_size, false) > 0);
    if (code != BP_OK) {
        cleaner->filling = NULL;
        return code;
    }
    cleaner->filling->sealed = false;
    return BP_OK;
}

void bp_clean_shrink(struct bp_store *store, struct bp_cleaner *cleaner) {
    struct bp_segment *segment = cleaner->filling;
    if (segment != NULL && segment->size > segment->used &&
        bp_disk_truncate(store->disk, BP_SITE_SETTLED_WRITE, segment->fd, segment->used) >= 0) {
        segment->size = segment->used;
    }
}

void bp_clean_seal(struct bp_store *store, struct bp_cleaner *cleaner) {
    if (cleaner->filling != NULL) {
        assert(cleaner->batch_size == 0);
        bp_clean_shrink(store, cleaner);
        cleaner->filling->sealed = true;
        cleaner->filling = NULL;
    }
}

static int grow_filling(struct bp_store *store, struct bp_segment *segment, uint32_t need) {
    if (need <= segment->size) {
        return 0;
    }
    uint32_t size = grown_size(store, need);
    int rc;
    do {
        rc = bp_disk_allocate(store->disk, BP_SITE_SETTLED_WRITE, segment->fd, size);
    } while (rc == -ENOSPC && bp_reserve_release(store, store->options.segment_size, false) > 0);
    if (rc >= 0) {
        segment->size = size;
    }
    return rc;
}

/* ---- the batch ------------------------------------------------------------------------------- */

static void clear_batch(struct bp_cleaner *cleaner) {
    cleaner->batch_size = 0;
    cleaner->batch_value_bytes = 0;
    cleaner->n_copies = 0;
}

static int write_batch(struct bp_store *store, struct bp_cleaner *cleaner) {
    struct bp_segment *segment = cleaner->filling;
    int rc = grow_filling(store, segment, segment->used + cleaner->batch_size);
    if (rc >= 0) {
        rc = bp_reserve_write(store, BP_SITE_SETTLED_WRITE, segment->fd, cleaner->batch,
                              cleaner->batch_size, segment->used);
    }
    return rc >= 0 ? bp_disk_sync(store->disk, BP_SITE_SETTLED_SYNC, segment->fd) : rc;
}

static void point_at_copies(struct bp_store *store, struct bp_cleaner *cleaner) {
    struct bp_segment *to = cleaner->filling,
                      *from = bp_segments_find(store->segments, cleaner->victim);
    for (uint32_t i = 0; i < cleaner->n_copies; i++) {
        const struct bp_clean_copy *copy = &cleaner->copies[i];
        struct bp_slice key = bp_slice(cleaner->batch + copy->key_at, copy->key_size);
        if (bp_index_relocate(store->index, key, copy->revision, copy->from, copy->to)) {
            atomic_fetch_add_explicit(&to->live_bytes, (int64_t)copy->size, memory_order_relaxed);
            if (from != NULL) { /* one that is repaired may have lost its segment */
                atomic_fetch_sub_explicit(&from->live_bytes, (int64_t)copy->size,
                                          memory_order_relaxed);
            }
        }
    }
}

/* False: the batch is lost, and nothing else. */
static bool commit_batch(struct bp_store *store, struct bp_cleaner *cleaner) {
    if (cleaner->batch_size == 0) {
        return true;
    }
    struct bp_segment *segment = cleaner->filling;
    if (write_batch(store, cleaner) < 0) {
        clear_batch(cleaner);
        bp_clean_seal(store, cleaner);
        return false;
    }
    __atomic_store_n(&segment->used, segment->used + cleaner->batch_size, __ATOMIC_RELEASE);
    segment->value_bytes += cleaner->batch_value_bytes;
    point_at_copies(store, cleaner);
    atomic_fetch_add_explicit(&store->counters.cleaned_bytes, cleaner->batch_size,
                              memory_order_relaxed);
    clear_batch(cleaner);
    return true;
}

/* Room for a record of `size` bytes in a settled segment and in the batch. */
static bool make_room(struct bp_store *store, struct bp_cleaner *cleaner, uint32_t size) {
    bool full = cleaner->batch_size >= BP_CLEAN_BATCH || cleaner->n_copies == BP_CLEAN_COPIES;
    if (full && !commit_batch(store, cleaner)) {
        return false;
    }
    struct bp_segment *segment = cleaner->filling;
    if (segment != NULL &&
        (uint64_t)segment->used + cleaner->batch_size + size > store->options.segment_size) {
        if (!commit_batch(store, cleaner)) {
            return false;
        }
        bp_clean_seal(store, cleaner);
    }
    return cleaner->filling != NULL || create_filling(store, cleaner) == BP_OK;
}

static void add_record(struct bp_cleaner *cleaner, struct bp_slice key,
                       const struct bp_version *version, const uint8_t *table,
                       struct bp_slice value) {
    const struct bp_segment *segment = cleaner->filling;
    uint32_t at = cleaner->batch_size;
    uint32_t value_at =
        bp_settled_encode(cleaner->batch + at, segment->header.salt, key, version, table, value);
    struct bp_pos to = {.segment = segment->header.id, .offset = segment->used + at + value_at};
    cleaner->copies[cleaner->n_copies++] = (struct bp_clean_copy){.revision = version->revision,
                                                                  .from = version->value.at,
                                                                  .to = to,
                                                                  .size = version->value.size,
                                                                  .key_at = at + BP_SETTLED_RECORD,
                                                                  .key_size = (uint32_t)key.size};
    cleaner->batch_size += bp_settled_size((uint32_t)key.size, (uint32_t)value.size);
    cleaner->batch_value_bytes += value.size;
}

/* ---- values ---------------------------------------------------------------------------------- */

enum copied { COPIED, SKIPPED, DAMAGED, FAILED };

/*
 * Copy the value at `at` if the index still points there. A value of no bytes lies nowhere and
 * needs no copy.
 */
static enum copied copy_value(struct bp_store *store, struct bp_cleaner *cleaner,
                              struct bp_slice key, uint64_t revision, struct bp_pos at,
                              struct bp_slice value) {
    struct bp_version version;
    if (value.size == 0 || !bp_index_refers(store->index, key, revision, at, &version)) {
        return SKIPPED;
    }
    uint8_t table[BP_VALUE_MAX / BP_CRC_CHUNK * 4 + 8] = {0};
    if (version.value.size != value.size || bp_value_checksum(value, table) != version.value.crc) {
        return DAMAGED;
    }
    if (!make_room(store, cleaner, bp_settled_size((uint32_t)key.size, (uint32_t)value.size))) {
        return FAILED;
    }
    add_record(cleaner, key, &version, table, value);
    return COPIED;
}

/* How a step is going. */
struct step {
    struct bp_store *store;
    struct bp_cleaner *cleaner;
    uint32_t examined;
    bool damaged, failed;
};

static bool took(struct step *step, enum copied result) {
    step->examined++;
    step->damaged |= result == DAMAGED;
    step->failed |= result == FAILED;
    return result == COPIED || result == SKIPPED;
}

static bool copy_branch(struct step *step, const struct bp_request *request, uint64_t revision,
                        const struct bp_entry *entry, bool then) {
    uint32_t at = then ? request->then_at : request->else_at;
    uint32_t n = then ? request->n_then : request->n_else;
    for (uint32_t i = 0; i < n; i++) {
        struct bp_op op;
        bp_request_op(request, &at, &op);
        if (op.op != BP_OP_PUT || op.value.size == 0) {
            continue;
        }
        struct bp_pos place = {.segment = entry->at.segment,
                               .offset =
                                   entry->at.offset + (uint32_t)(op.value.data - entry->payload)};
        if (!took(step,
                  copy_value(step->store, step->cleaner, op.key, revision, place, op.value))) {
            return false;
        }
    }
    return true;
}

static void copy_entry(struct step *step, const struct bp_entry *entry) {
    uint32_t offset = 0;
    for (uint32_t i = 0; entry->type == BP_ENTRY_REQUESTS && i < entry->count; i++) {
        struct bp_request request;
        if (bp_request_decode(entry->payload + offset, entry->size - offset, &request, NULL) !=
            BP_OK) {
            step->damaged = true; /* it was applied, so it was whole once */
            return;
        }
        offset += request.size;
        uint64_t revision = entry->first_revision + i;
        if (request.kind == BP_REQUEST_KV &&
            (!copy_branch(step, &request, revision, entry, true) ||
             !copy_branch(step, &request, revision, entry, false))) {
            return;
        }
    }
}

/* ---- the victim's bytes ---------------------------------------------------------------------- */

/*
 * Nothing but zeros where a frame or record should begin: the preallocated rest of a file whose end
 * is not known.
 */
static bool is_rest(const uint8_t *data, uint64_t have) {
    for (uint64_t i = 0; i < have && i < BP_FRAME_HEADER; i++) {
        if (data[i] != 0) {
            return false;
        }
    }
    return true;
}

/* The next frame becomes current; false at the end of the file, or when the step went wrong. */
static bool next_frame(struct step *step, const struct bp_segment *victim) {
    struct bp_cleaner *cleaner = step->cleaner;
    uint64_t size;
    struct bp_error err;
    if (cleaner->offset >= cleaner->reader.limit) {
        return false;
    }
    if (bp_frame_reader_frame(&cleaner->reader, cleaner->offset, victim->header.salt,
                              &cleaner->frame, &size, &err) != BP_OK) {
        step->failed = true;
        return false;
    }
    if (size == 0) {
        uint8_t *data;
        uint64_t have;
        step->damaged = bp_frame_reader_bytes(&cleaner->reader, cleaner->offset, BP_FRAME_HEADER,
                                              &data, &have, &err) != BP_OK ||
                        !is_rest(data, have);
        return false;
    }
    cleaner->frame_at = cleaner->offset;
    cleaner->offset += size;
    cleaner->record = 0;
    cleaner->in_frame = true;
    return true;
}

/* True: there is more of this victim. */
static bool step_log(struct step *step, const struct bp_segment *victim) {
    struct bp_cleaner *cleaner = step->cleaner;
    uint64_t stop_at = cleaner->offset + BP_CLEAN_BATCH;
    while (step->examined < BP_CLEAN_EXAMINE) {
        if (!cleaner->in_frame) {
            if (cleaner->offset >= stop_at) {
                return true;
            }
            if (!next_frame(step, victim)) {
                return false;
            }
        }
        struct bp_entry entry;
        struct bp_hardstate hardstate;
        int got = bp_frame_next_record(&cleaner->frame, &cleaner->record, &entry, &hardstate);
        cleaner->in_frame = got > 0;
        if (got < 0) {
            step->damaged = true;
        } else if (got == 1) {
            entry.at.segment = victim->header.id;
            entry.at.offset += (uint32_t)cleaner->frame_at;
            copy_entry(step, &entry);
        }
        if (step->damaged || step->failed) {
            return false;
        }
    }
    return true;
}

static bool step_settled(struct step *step, const struct bp_segment *victim) {
    struct bp_cleaner *cleaner = step->cleaner;
    uint64_t stop_at = cleaner->offset + BP_CLEAN_BATCH;
    while (step->examined < BP_CLEAN_EXAMINE && cleaner->offset < stop_at) {
        uint8_t *data;
        uint64_t have;
        struct bp_error err;
        struct bp_settled_record record;
        if (cleaner->offset >= cleaner->reader.limit) {
            return false;
        }
        if (bp_frame_reader_bytes(&cleaner->reader, cleaner->offset, BP_SETTLED_RECORD_MAX, &data,
                                  &have, &err) != BP_OK) {
            step->failed = true;
            return false;
        }
        if (bp_settled_decode(data, have, victim->header.id, (uint32_t)cleaner->offset,
                              victim->header.salt, &record) != BP_OK) {
            step->damaged = true;
            return false;
        }
        struct bp_pos at = record.version.value.at;
        struct bp_slice value =
            bp_slice(data + (at.offset - cleaner->offset), record.version.value.size);
        cleaner->offset += record.size;
        if (!took(step, copy_value(step->store, cleaner, record.key, record.version.revision, at,
                                   value))) {
            return false;
        }
    }
    return true;
}

/* ---- a victim, from beginning to end --------------------------------------------------------- */

static bool make_buffers(struct bp_store *store, struct bp_cleaner *cleaner) {
    if (cleaner->batch == NULL) {
        cleaner->batch = malloc(BATCH_CAPACITY);
    }
    if (cleaner->copies == NULL) {
        cleaner->copies = malloc(BP_CLEAN_COPIES * sizeof *cleaner->copies);
    }
    if (!cleaner->reader_made) {
        cleaner->reader_made =
            bp_frame_reader_init(&cleaner->reader, store->disk, BP_SITE_LOG_READ, NULL) == BP_OK;
    }
    return cleaner->batch != NULL && cleaner->copies != NULL && cleaner->reader_made;
}

bool bp_clean_begin(struct bp_store *store, struct bp_cleaner *cleaner,
                    const struct bp_segment *victim) {
    assert(cleaner->victim == 0 && cleaner->batch_size == 0 && victim != cleaner->filling);
    if (!make_buffers(store, cleaner)) {
        return false;
    }
    cleaner->victim = victim->header.id;
    cleaner->offset = BP_SEGMENT_HEADER;
    cleaner->in_frame = false;
    bp_frame_reader_aim(&cleaner->reader, victim->fd, victim->used);
    return true;
}

/*
 * A victim that keeps live bytes after all of it was looked at holds something that cannot be
 * found: as bad as a damaged value.
 */
static void finish(struct bp_store *store, struct bp_segment *victim, bool damaged) {
    if (damaged || atomic_load_explicit(&victim->live_bytes, memory_order_relaxed) != 0) {
        __atomic_store_n(&victim->damaged, true, __ATOMIC_RELAXED); /* readers set it too */
        atomic_fetch_add_explicit(&store->counters.scrub_findings, 1, memory_order_relaxed);
    } else {
        atomic_fetch_add_explicit(&store->counters.cleaned_segments, 1, memory_order_relaxed);
    }
}

enum bp_clean_progress bp_clean_advance(struct bp_store *store, struct bp_cleaner *cleaner) {
    struct bp_segment *victim = bp_segments_find(store->segments, cleaner->victim);
    assert(victim != NULL);
    struct step step = {.store = store, .cleaner = cleaner};
    bool more = victim->header.kind == BP_SEGMENT_LOG ? step_log(&step, victim)
                                                      : step_settled(&step, victim);
    if (step.failed) {
        clear_batch(cleaner);
    } else if (!more || cleaner->batch_size >= BP_CLEAN_BATCH) {
        step.failed = !commit_batch(store, cleaner);
    }
    if (more && !step.failed) {
        return BP_CLEAN_MORE;
    }
    if (!step.failed) {
        finish(store, victim, step.damaged);
    }
    cleaner->victim = 0;
    return step.failed ? BP_CLEAN_FAILED : BP_CLEAN_DONE;
}

/* ---- a value from elsewhere ------------------------------------------------------------------- */

int bp_clean_settle(struct bp_store *store, struct bp_slice key, const struct bp_version *version,
                    struct bp_slice value, struct bp_error *err) {
    struct bp_cleaner *cleaner = bp_cleaner_of(store);
    uint8_t table[BP_VALUE_MAX / BP_CRC_CHUNK * 4 + 8] = {0};
    if (cleaner == NULL || !make_buffers(store, cleaner)) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory to repair a value");
    }
    uint32_t crc = bp_value_checksum(value, table), victim = cleaner->victim;
    assert(crc == version->value.crc);
    (void)crc;
    bool done = commit_batch(store, cleaner); /* the victim's, which is let go if that fails */
    cleaner->victim = done ? victim : 0;
    victim = cleaner->victim;
    if (done &&
        make_room(store, cleaner, bp_settled_size((uint32_t)key.size, version->value.size))) {
        add_record(cleaner, key, version, table, value);
        cleaner->victim = version->value.at.segment;
        done = commit_batch(store, cleaner);
        cleaner->victim = victim;
    } else {
        done = false;
    }
    if (!done) {
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_IO_FAILED,
                       "a repaired value could not be written");
    }
    struct bp_segment *from = bp_segments_find(store->segments, version->value.at.segment);
    if (from != NULL) { /* cleaning may try again; what else is damaged in it will be met again */
        __atomic_store_n(&from->damaged, false, __ATOMIC_RELAXED);
    }
    return BP_OK;
}

/*
 * Writing the log (log.h has the drawing of segments, frames and records).
 *
 *   append   staging  [frame header][record][record header]            [padding][record]...
 *            iov       ^------------ run 0 ---------------^  payload >= 4 KiB  ^--- run 2
 *                      one pwritev at `offset`; CRC32C over the pieces, header first
 *
 *   segment  |header|frame|frame|frame|                      |
 *                               ^ durable   ^ offset (end)
 *
 * Invariants
 *   - `offset` moves only over frames whose write succeeded. So frames lie without gaps and
 *     sequences grow by one.
 *   - A frame header that lies at or behind `offset` is never valid: a failed write is followed
 *     by zeroing its header and a sync, before its failure is reported. Without that the failed
 *     frame could come back: its missing end may be the very zeros the file was preallocated with,
 *     and then its CRC is right. With it there are no stale frames at all: every place where a
 *     frame was begun either holds that frame or a zeroed header, or has been written over. Bytes
 *     of a failed frame's body may stay behind a shorter later frame; they hold no frame header of
 *     this salt, unless a client stored a copy of this very file as a value: and such an embedded
 *     frame has an older sequence, so replay stops before it, and its synced_through was true once,
 *     so it is true now.
 *   - The next segment exists (under its name) only after this one is durable to its end, and
 *     once its name may exist, this one never gets another frame: either the rotation succeeds or
 *     the log is poisoned.
 *   - Poisoned is for ever: after a failed sync the kernel marks the lost pages clean, so a later
 *     sync would lie.
 *
 * Threads: the driver role owns everything but `poisoned` (atomic) and the prepared segment
 * (`prepare`).
 */
#include "log_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"

#define LARGE_PAYLOAD 4096u /* from here on written from where it lies, not copied */
/* Each large payload ends a run and is a vector of its own; one more run at the end. */
#define IOV_COUNT (2u * (BP_GROUP_MAX / LARGE_PAYLOAD) + 1u)

_Static_assert(BP_SEGMENT_SIZE_MIN >= BP_SEGMENT_HEADER + BP_FRAME_MAX,
               "the largest frame fits into a fresh segment");

int bp_log_new(struct bp_segments *segments, const struct bp_log_options *options,
               struct bp_segment *segment, struct bp_log **out, struct bp_error *err) {
    struct bp_log *log = calloc(1, sizeof *log);
    uint8_t *staging = malloc(BP_FRAME_MAX);
    struct iovec *iov = calloc(IOV_COUNT, sizeof *iov);
    if (log == NULL || staging == NULL || iov == NULL ||
        pthread_mutex_init(&log->prepare, NULL) != 0) {
        free(log);
        free(staging);
        free(iov);
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the log");
    }
    log->segments = segments;
    log->disk = bp_segments_disk(segments);
    log->options = *options;
    log->segment = segment;
    log->offset = segment->used;
    log->staging = staging;
    log->iov = iov;
    log->durable = bp_log_end(log);
    log->marked = log->data_end = log->durable;
    *out = log;
    return BP_OK;
}

void bp_log_close(struct bp_log *log) {
    if (log == NULL) {
        return;
    }
    if (log->prepared_id != 0) {
        bp_segment_drop_tmp(log->segments, log->prepared_id, BP_SEGMENT_LOG, log->prepared_fd);
    }
    pthread_mutex_destroy(&log->prepare);
    free(log->staging);
    free(log->iov);
    free(log);
}

/* ---- what is known --------------------------------------------------------------------------- */

bool bp_log_poisoned(const struct bp_log *log) { return atomic_load(&log->poisoned); }
bool bp_log_retired(const struct bp_log *log) { return atomic_load(&log->retired); }
uint64_t bp_log_last_index(const struct bp_log *log) { return log->last_index; }
uint64_t bp_log_last_term(const struct bp_log *log) { return log->last_term; }
struct bp_pos bp_log_durable(const struct bp_log *log) { return log->durable; }
struct bp_hardstate bp_log_hardstate(const struct bp_log *log) { return log->hardstate; }
uint64_t bp_log_sequence(const struct bp_log *log) { return log->sequence; }

struct bp_pos bp_log_end(const struct bp_log *log) {
    return (struct bp_pos){.segment = log->segment->header.id, .offset = log->offset};
}

uint64_t bp_log_frame_size(const struct bp_entry *entries, uint32_t n, bool hardstate) {
    uint64_t size = BP_FRAME_HEADER + (hardstate ? BP_HARDSTATE_RECORD : 0);
    for (uint32_t i = 0; i < n; i++) {
        size += BP_ENTRY_HEADER + bp_align8_u64(entries[i].size);
    }
    return size;
}

/* ---- failure --------------------------------------------------------------------------------- */

static int fail_poisoned(struct bp_error *err) {
    return bp_fail(err, BP_UNAVAILABLE, BP_REASON_LOG_POISONED,
                   "the log failed to reach its disk and takes no more writes until a restart");
}

static int fail_retired(struct bp_error *err) {
    return bp_fail(err, BP_UNAVAILABLE, BP_REASON_STORE_CLOSED,
                   "the store was replaced by an installed snapshot; reopen it");
}

/* Why the log takes nothing more, if it does not. */
static int refuse(const struct bp_log *log, struct bp_error *err) {
    if (bp_log_poisoned(log)) {
        return fail_poisoned(err);
    }
    return bp_log_retired(log) ? fail_retired(err) : BP_OK;
}

/* Poison because of `rc`, keeping the device's errno in the error. */
static int poison(struct bp_log *log, int rc, const char *what, struct bp_error *err) {
    char path[BP_LOG_PATH];
    bp_segment_path(log->segments, log->segment->header.id, BP_SEGMENT_LOG, false, path,
                    sizeof path);
    atomic_store(&log->poisoned, true);
    (void)bp_fail_io(err, rc, "cannot %s %s at offset %" PRIu32 "; no more writes until a restart",
                     what, bp_path_tail(path), log->offset);
    if (err != NULL) {
        err->code = BP_UNAVAILABLE;
        err->reason = BP_REASON_LOG_POISONED;
    }
    return BP_UNAVAILABLE;
}

/*
 * A frame's write failed. For want of space: make sure no part of it can ever be read as a frame
 * (see the invariants), durably, and stay usable. Anything else is a failing device.
 */
static int write_failed(struct bp_log *log, int rc, struct bp_error *err) {
    if (rc != -ENOSPC && rc != -EDQUOT) {
        return poison(log, rc, "write", err);
    }
    static const uint8_t zeros[BP_FRAME_HEADER];
    int fd = log->segment->fd;
    int undo = bp_disk_write(log->disk, BP_SITE_LOG_TRIM, fd, zeros, sizeof zeros, log->offset);
    if (undo < 0) {
        return poison(log, undo, "undo a failed write to", err);
    }
    undo = bp_disk_sync(log->disk, BP_SITE_LOG_SYNC, fd);
    if (undo < 0) {
        return poison(log, undo, "sync", err);
    }
    log->durable = bp_log_end(log);
    return bp_fail_io(err, rc, "cannot write segment %08" PRIx32 " at offset %" PRIu32,
                      log->segment->header.id, log->offset);
}

/* ---- durability ------------------------------------------------------------------------------ */

int bp_log_sync(struct bp_log *log, struct bp_error *err) {
    int refused = refuse(log, err);
    if (refused != BP_OK) {
        return refused;
    }
    if (bp_pos_u64(log->durable) == bp_pos_u64(bp_log_end(log))) {
        return BP_OK;
    }
    int rc = bp_disk_sync(log->disk, BP_SITE_LOG_SYNC, log->segment->fd);
    if (rc < 0) {
        return poison(log, rc, "sync", err);
    }
    log->durable = bp_log_end(log);
    return BP_OK;
}

/* ---- rotation -------------------------------------------------------------------------------- */

void bp_log_prepare_segment(struct bp_log *log) {
    pthread_mutex_lock(&log->prepare);
    if (log->prepared_id == 0 && !bp_log_poisoned(log) && !bp_log_retired(log)) {
        uint32_t id = bp_segments_take_id(log->segments);
        int fd;
        if (bp_segment_make_tmp(log->segments, id, BP_SEGMENT_LOG, log->options.segment_size, &fd,
                                NULL) == BP_OK) {
            log->prepared_id = id;
            log->prepared_fd = fd;
        }
    }
    pthread_mutex_unlock(&log->prepare);
}

void bp_log_retire(struct bp_log *log, bool off) {
    pthread_mutex_lock(&log->prepare);
    atomic_store(&log->retired, !off);
    if (!off && log->prepared_id != 0) {
        bp_segment_drop_tmp(log->segments, log->prepared_id, BP_SEGMENT_LOG, log->prepared_fd);
        log->prepared_id = 0;
    }
    pthread_mutex_unlock(&log->prepare);
}

/* The prepared file, or one made now. `prepare` held. */
static int take_prepared(struct bp_log *log, uint32_t *id, int *fd, struct bp_error *err) {
    if (log->prepared_id != 0) {
        *id = log->prepared_id;
        *fd = log->prepared_fd;
        log->prepared_id = 0;
        return BP_OK;
    }
    *id = bp_segments_take_id(log->segments);
    return bp_segment_make_tmp(log->segments, *id, BP_SEGMENT_LOG, log->options.segment_size, fd,
                               err);
}

/* Frames go to `segment` from now on; the one before it is complete. */
static void move_to(struct bp_log *log, struct bp_segment *segment) {
    struct bp_segment *old = log->segment;
    if (bp_disk_truncate(log->disk, BP_SITE_LOG_TRIM, old->fd, log->offset) == 0) {
        __atomic_store_n(&old->size, log->offset, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&old->sealed, true, __ATOMIC_RELEASE);
    log->segment = segment;
    log->offset = BP_SEGMENT_HEADER;
    log->durable = log->marked = log->data_end = bp_log_end(log);
}

static int rotate_locked(struct bp_log *log, struct bp_error *err) {
    struct bp_error local;
    err = err != NULL ? err : &local; /* its errno decides below */
    int rc = bp_log_sync(log, err);
    if (rc != BP_OK) {
        return rc;
    }
    struct bp_segment_header header = {
        .kind = BP_SEGMENT_LOG,
        .first_sequence = log->sequence,
        .previous_end = bp_log_end(log),
        .previous_index = log->last_index,
        .hardstate = log->hardstate,
    };
    memcpy(header.store_id, log->options.store_id, sizeof header.store_id);
    rc = bp_segment_new_salt(log->segments, &header.salt, err);
    int fd;
    if (rc == BP_OK) {
        rc = take_prepared(log, &header.id, &fd, err);
    }
    if (rc != BP_OK) {
        return err->sys_errno == EIO ? poison(log, -EIO, "follow", err) : rc;
    }
    struct bp_segment *segment;
    bool fatal;
    rc = bp_segment_publish(log->segments, &header, fd, log->options.segment_size,
                            BP_SEGMENT_HEADER, &segment, &fatal, err);
    if (rc != BP_OK) {
        return fatal ? poison(log, err->sys_errno != 0 ? -err->sys_errno : -EIO, "follow", err)
                     : rc;
    }
    move_to(log, segment);
    return BP_OK;
}

static int rotate(struct bp_log *log, struct bp_error *err) {
    pthread_mutex_lock(&log->prepare);
    int rc = rotate_locked(log, err); /* its sync refuses a log that was retired */
    pthread_mutex_unlock(&log->prepare);
    return rc;
}

/* ---- frames ---------------------------------------------------------------------------------- */

/*
 * The entries continue the log, or supersede an uncommitted suffix of it. A caller that fails this
 * would write corruption.
 */
static int check_order(const struct bp_log *log, const struct bp_entry *entries, uint32_t n,
                       struct bp_error *err) {
    uint64_t last = log->last_index;
    for (uint32_t i = 0; i < n; i++) {
        const struct bp_entry *entry = &entries[i];
        if (entry->index == 0 || entry->index > last + 1 ||
            (entry->index <= last && entry->index <= log->hardstate.commit) ||
            entry->type < BP_ENTRY_NOOP || entry->type > BP_ENTRY_JUMP ||
            entry->size > BP_ENTRY_MAX) {
            return bp_fail(err, BP_INTERNAL, BP_REASON_MALFORMED_REQUEST,
                           "entry %" PRIu64 " (type %u, %" PRIu32
                           " bytes) cannot follow entry %" PRIu64 " with commit %" PRIu64,
                           entry->index, entry->type, entry->size, last, log->hardstate.commit);
        }
        last = entry->index;
    }
    return BP_OK;
}

/*
 * Lay the frame out in staging and iov, and seal it; returns how many vectors. Sets each entry's
 * `at`.
 */
static int build(struct bp_log *log, struct bp_entry *entries, uint32_t n,
                 const struct bp_hardstate *hardstate, uint32_t size) {
    uint32_t id = log->segment->header.id;
    uint8_t *run = log->staging, *p = run + BP_FRAME_HEADER;
    uint32_t at = log->offset + BP_FRAME_HEADER;
    int vectors = 0;
    bp_frame_put_header(run, log->segment->header.salt, log->sequence, size - BP_FRAME_HEADER,
                        log->durable);
    if (hardstate != NULL) {
        p += bp_frame_put_hardstate(p, hardstate);
        at += BP_HARDSTATE_RECORD;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct bp_entry *entry = &entries[i];
        uint32_t padded = (uint32_t)bp_align8(entry->size);
        p += bp_frame_put_entry(p, entry);
        at += BP_ENTRY_HEADER;
        entry->at = (struct bp_pos){.segment = id, .offset = at};
        at += padded;
        if (entry->size >= LARGE_PAYLOAD) {
            log->iov[vectors++] = (struct iovec){.iov_base = run, .iov_len = (size_t)(p - run)};
            log->iov[vectors++] = (struct iovec){
                .iov_base = (void *)(uintptr_t)entry->payload, /* only read from */
                .iov_len = entry->size,
            };
            run = p;
            memset(p, 0, padded - entry->size);
            p += padded - entry->size;
        } else if (padded > 0) {
            memset(p + padded - 8, 0, 8); /* the padding, and bytes the next line writes */
            memcpy(p, entry->payload, entry->size);
            p += padded;
        }
    }
    if (p > run) {
        log->iov[vectors++] = (struct iovec){.iov_base = run, .iov_len = (size_t)(p - run)};
    }
    assert(at == log->offset + size && vectors <= (int)IOV_COUNT);
    uint32_t crc = 0;
    for (int i = 0; i < vectors; i++) {
        crc = bp_crc32c(crc, log->iov[i].iov_base, log->iov[i].iov_len);
    }
    bp_frame_put_crc(log->staging, crc);
    return vectors;
}

/* The frame is in the file: it is the log's end now. */
static void account(struct bp_log *log, const struct bp_entry *entries, uint32_t n, uint32_t size) {
    struct bp_segment *segment = log->segment;
    log->marked = log->durable;
    log->offset += size;
    log->sequence++;
    for (uint32_t i = 0; i < n; i++) {
        const struct bp_entry *entry = &entries[i];
        uint64_t revision = entry->first_revision + entry->count;
        revision -= revision > 0 ? 1 : 0;
        if (segment->first_index == 0 || entry->index < segment->first_index) {
            segment->first_index = entry->index;
        }
        if (entry->index > segment->last_index) {
            segment->last_index = entry->index;
        }
        if (revision > segment->last_revision) {
            segment->last_revision = revision;
        }
    }
    if (n > 0) {
        log->last_index = entries[n - 1].index;
        log->last_term = entries[n - 1].term;
    }
    __atomic_store_n(&segment->used, log->offset, __ATOMIC_RELEASE);
}

static int write_frame(struct bp_log *log, struct bp_entry *entries, uint32_t n,
                       const struct bp_hardstate *hardstate, uint32_t size, struct bp_error *err) {
    int vectors = build(log, entries, n, hardstate, size);
    int rc = bp_disk_writev(log->disk, BP_SITE_LOG_WRITE, log->segment->fd, log->iov, vectors,
                            log->offset);
    if (rc < 0) {
        return write_failed(log, rc, err);
    }
    account(log, entries, n, size);
    return BP_OK;
}

int bp_log_append(struct bp_log *log, struct bp_entry *entries, uint32_t n,
                  const struct bp_hardstate *hardstate, struct bp_error *err) {
    int rc = refuse(log, err);
    if (rc != BP_OK) {
        return rc;
    }
    if (n == 0 && hardstate == NULL) {
        return BP_OK;
    }
    rc = check_order(log, entries, n, err);
    if (rc != BP_OK) {
        return rc;
    }
    uint64_t size = bp_log_frame_size(entries, n, hardstate != NULL);
    if (size > BP_FRAME_MAX) {
        return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_REQUEST_TOO_LARGE,
                       "a group of %" PRIu64 " bytes is larger than %u", size, BP_FRAME_MAX);
    }
    if (log->offset + size > log->segment->size) {
        rc = rotate(log, err);
        if (rc != BP_OK) {
            return rc;
        }
    }
    rc = write_frame(log, entries, n, hardstate, (uint32_t)size, err);
    if (rc != BP_OK) {
        return rc;
    }
    log->data_end = bp_log_end(log);
    if (hardstate != NULL) {
        log->hardstate = *hardstate;
    }
    return BP_OK;
}

int bp_log_mark(struct bp_log *log, struct bp_error *err) {
    int refused = refuse(log, err);
    if (refused != BP_OK) {
        return refused;
    }
    /*
     * Only what is no mark itself is worth a mark, or an idle log that is synced would never come
     * to rest.
     */
    uint64_t durable = bp_pos_u64(log->durable), data_end = bp_pos_u64(log->data_end);
    if ((durable < data_end ? durable : data_end) <= bp_pos_u64(log->marked)) {
        return BP_OK;
    }
    if (log->offset + BP_FRAME_HEADER > log->segment->size) {
        return rotate(log, err); /* the new segment's header says it as well */
    }
    return write_frame(log, NULL, 0, NULL, BP_FRAME_HEADER, err);
}

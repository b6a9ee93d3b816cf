/*
 * The log: frames in log segments; the one place where a client's bytes are written.
 *
 *   segment   [header 4096][frame][frame]...[zeros]
 *   frame     one flush, 8-byte aligned, never spans segments
 *     0  u64 salt of its segment      8  u64 sequence (grows by one over the whole log)
 *     16 u32 body length (multiple of 8; 0: a mark)
 *         20 u32 CRC32C of the header with this field 0, then the body
 *     24 u32 segment, 28 u32 offset: synced_through, the end of the log known durable when this
 *     frame was written
 *     32 body: records
 *   record    0 u8 type   1 u8 encoding version (1)   2 u16 zero
 *       4 u32 payload length (without padding)
 *     entry       8 u64 index  16 u64 term  24 u64 first_revision  32 u32 count  36 u32 zero
 *         40 payload, zero-padded to 8
 *     HARDSTATE   8 u64 term   16 u64 vote  24 u64 commit
 *         (payload length 24)
 *
 * Invariants
 *   - A segment is durable to its end before the next one gets a frame; so only the last segment
 *     can have a torn tail.
 *   - An entry appended with index i <= last supersedes every earlier entry >= i; otherwise i =
 *     last + 1.
 *   - After a failed sync the log is poisoned: no write and no sync is ever tried again.
 * One thread at a time (the driver role) calls append/sync/mark.
 */
#ifndef BP_LOG_H
#define BP_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "segment.h"

enum bp_entry_type {
    BP_ENTRY_NOOP = 1, /* a new leader's first entry; takes no revision */
    /* client requests (ops.h); count of them; revisions first_revision .. +count-1 */
    BP_ENTRY_REQUESTS = 2,
    BP_ENTRY_CONFIG = 3, /* membership (system.h); takes no revision */
    /* revisions go on from first_revision (system.h); count 0; exempt from first_revision = next */
    BP_ENTRY_JUMP = 4,
};
enum { BP_RECORD_HARDSTATE = 0x80 };

#define BP_FRAME_HEADER 32u
#define BP_ENTRY_HEADER 40u

struct bp_entry {
    uint64_t index;
    uint64_t term;
    uint64_t first_revision; /* of the first request; for count 0 the next revision */
    uint32_t count;
    uint8_t type;
    const uint8_t *payload; /* borrowed */
    uint32_t size;          /* of the payload */
    struct bp_pos at;       /* out: where payload[0] lies */
};

struct bp_log_options {
    uint32_t segment_size;
    uint8_t store_id[16];
};

struct bp_log;

/* ---- writing --------------------------------------------------------------------------------- */

/*
 * Bytes a frame of these entries takes in the file, to size groups: callers keep it <= BP_GROUP_MAX
 * + BP_FRAME_HEADER.
 */
uint64_t bp_log_frame_size(const struct bp_entry *entries, uint32_t n, bool hardstate);
/*
 * Write one frame holding `hardstate` (may be NULL) and the entries, in order; sets each entry's
 * `at`. Not durable yet. Rotates to a new segment first when the frame does not fit, which syncs
 * the old one. Small payloads are copied into one buffer, large ones are written from where they
 * lie. On a failed write nothing counts: the next append overwrites it in place (ENOSPC:
 * RESOURCE_EXHAUSTED, the log stays usable; EIO poisons it).
 */
int bp_log_append(struct bp_log *log, struct bp_entry *entries, uint32_t n,
                  const struct bp_hardstate *hardstate, struct bp_error *err);
/*
 * Make everything appended durable. A failure poisons the log: UNAVAILABLE/LOG_POISONED from then
 * on.
 */
int bp_log_sync(struct bp_log *log, struct bp_error *err);
/*
 * If something was synced since the last frame, write a mark frame carrying synced_through (not
 * synced itself).
 */
int bp_log_mark(struct bp_log *log, struct bp_error *err);
bool bp_log_poisoned(const struct bp_log *log);
uint64_t bp_log_last_index(const struct bp_log *log);
uint64_t bp_log_last_term(const struct bp_log *log);
struct bp_pos bp_log_end(const struct bp_log *log);
/* the position through which the log is durable */
struct bp_pos bp_log_durable(const struct bp_log *log);
struct bp_hardstate bp_log_hardstate(const struct bp_log *log);
/* The next frame's sequence. */
uint64_t bp_log_sequence(const struct bp_log *log);
/*
 * The log was replaced (install_finish.c): from the return on no segment is made any more, and
 * append, sync and mark give UNAVAILABLE/STORE_CLOSED. A frame that was being written may still come
 * to lie behind the end. Any thread; `off` takes it back.
 */
void bp_log_retire(struct bp_log *log, bool off);
bool bp_log_retired(const struct bp_log *log);
/*
 * Prepare the next segment's file ahead of need (preallocated .tmp); any thread beside the driver.
 * Best effort.
 */
void bp_log_prepare_segment(struct bp_log *log);
void bp_log_close(struct bp_log *log); /* frees; neither syncs nor marks; before bp_segments_free */

/* ---- recovery (log_recover.c) ---------------------------------------------------------------- */

/*
 * Where replay starts: from a checkpoint, or all zero for a log that must reach back to index 1.
 * `durable` is behind every frame whose values the checkpoint refers to; what lies before it never
 * moves. A checkpoint that could not be used
 * must be gone before the log is opened from an older one: what lies behind the older start may
 * move.
 * With the sequence BP_LOG_ANEW, an installed snapshot's, `at` is the end of a log that counts no
 * more: nothing is replayed up to it, and the log begins anew in the first segment behind it, which
 * the first recovery makes (log_chain.c).
 */
#define BP_LOG_ANEW UINT64_MAX
struct bp_log_start {
    /*
     * A frame boundary (or a segment's first frame); entries with index <= `index` found behind it
     * are skipped. Its segment may be gone if it held no entry: replay then begins with the segment
     * behind it.
     */
    struct bp_pos at;
    uint64_t sequence; /* of the frame at `at`, or BP_LOG_ANEW */
    /* the log was durable through here: `at`, or behind it in a cluster; all zero: `at` */
    struct bp_pos durable;
    uint64_t index;    /* last index the checkpoint covers */
    uint64_t term;     /* its term */
    uint64_t revision; /* the last revision it covers: what segments before `at` hold at most */
    struct bp_hardstate hardstate; /* known from the checkpoint */
    /* entry 1 was durable: a log that should reach back to it and is empty is damaged */
    bool founded;
};

/* An entry found by recovery; the payload is read again when it is replayed. */
struct bp_found {
    uint64_t index, term, first_revision;
    uint32_t count, size;
    struct bp_pos at;
    uint32_t frame; /* offset of the frame it lies in */
    uint8_t type;
    uint64_t sequence; /* of that frame */
};

struct bp_recovery {
    struct bp_found *entries; /* contiguous by index from start.index + 1, superseded ones gone */
    uint64_t n;
    struct bp_hardstate hardstate;
    uint64_t bytes_read;
    uint64_t frames;
    uint64_t copied_bytes; /* valid frames beyond synced_through, written again */
    /* of a torn tail (from the first bad frame to the last non-zero byte) */
    uint64_t discarded_bytes;
    struct bp_pos torn_at; /* segment 0: no torn tail */
};

/*
 * Opens every log segment from `start` on, verifies every frame, copies the frames beyond
 * synced_through into a new segment with a fresh salt and makes it durable, trims the preallocated
 * rest of the old one, and returns a log ready for append in the new segment. With no segment at
 * all and start zero, makes the first one. Segments wholly before start.at are opened too (they may
 * hold live values), not verified; their last_index and last_revision are the checkpoint's. Deletes
 * *.tmp. An old newest segment that keeps no entry is deleted: the new one takes its place
 * (log_chain.c has the rule), so opening without writing piles up nothing. A damaged frame at or
 * below synced_through, a missing segment, entries that do not continue each other:
 * DATA_LOSS/STORE_CORRUPT with file and offset, and nothing on disk changed.
 * FAILED_PRECONDITION/FORMAT_UNSUPPORTED likewise. RESOURCE_EXHAUSTED/DISK_FULL only when not even
 * a small segment fits.
 */
int bp_log_open(struct bp_segments *segments, const struct bp_log_options *options,
                const struct bp_log_start *start, struct bp_log **log, struct bp_recovery *recovery,
                struct bp_error *err);
void bp_recovery_free(struct bp_recovery *recovery);
/*
 * Calls `each` with entries[first .. first+n) in order, payload in memory (read in large pieces,
 * borrowed until the call returns). Non-zero stops and is returned.
 */
int bp_log_replay(struct bp_log *log, const struct bp_recovery *recovery, uint64_t first,
                  uint64_t n, int (*each)(void *arg, const struct bp_entry *entry), void *arg,
                  struct bp_error *err);

/*
 * Walk one log segment's frames for cleaning, scrub and fsck: each entry with its payload; frames
 * up to segment->used must be valid (DATA_LOSS).
 */
int bp_log_walk(struct bp_segments *segments, const struct bp_segment *segment, int site,
                int (*each)(void *arg, const struct bp_entry *entry), void *arg,
                struct bp_error *err);

/*
 * Parses one frame at buf[0..n): BP_OK and *size its whole length, or OUT_OF_RANGE when it is none
 * (torn, other salt, bad CRC). Pure; fuzzed.
 */
struct bp_frame {
    uint64_t sequence;
    struct bp_pos synced_through;
    const uint8_t *body;
    uint32_t body_size;
};
int bp_frame_decode(const uint8_t *buf, uint64_t n, uint64_t salt, struct bp_frame *frame,
                    uint64_t *size);
/*
 * Iterates the records of a body: 1 an entry, 2 a hardstate, 0 the end, -1 malformed. `*offset`
 * starts at 0. Pure; fuzzed.
 */
int bp_frame_next_record(const struct bp_frame *frame, uint32_t *offset, struct bp_entry *entry,
                         struct bp_hardstate *hardstate);

#endif

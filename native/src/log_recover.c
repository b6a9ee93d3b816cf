/*
 * Recovery: from what a crash left to a log that takes appends, every frame verified.
 *
 *   1 chain (log_chain.c)   which segments; headers
 *   2 tail (log_tail.c)     the newest one: synced | whole | torn
 *   3 records
 *       all frames in log order: contiguous, superseding only what was not committed
 *   4 copy (log_copy.c)
 *       frames beyond `synced` into a new segment with a fresh salt; frames go there from now on
 *   5 clean-up
 *       trim or drop the old newest one, delete voids: best effort, repeated by the next recovery
 *
 * Invariants
 *   - Until the new segment has its name, durably, nothing that was written is changed; after it,
 *     only what its header declares void. So a crash anywhere in here leads to the same result.
 *   - Every position handed out (bp_found.at) is one in the segments as they are after 4.
 *   - The commit index that forbids superseding an entry is the one recorded in frames before it.
 *     The checkpoint's own HARDSTATE may be newer than the frames replay begins with, so it counts
 *     only at the end.
 */
#include "log_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct bp_found) == 56, "a million entries take 56 MB");

/* What lies in one segment, for the cleaner. */
struct content {
    uint64_t first_index, last_index, last_revision;
};

/* The state of the log at one frame boundary. */
struct boundary {
    bool reached;
    uint64_t sequence; /* of the frame there */
    uint64_t index;    /* the log before it ends with this entry */
    struct bp_hardstate hardstate;
};

struct recover {
    struct bp_segments *segments;
    const struct bp_log_options *options;
    const struct bp_log_start *start;
    struct bp_chain chain;
    struct bp_frame_reader reader;
    struct bp_tail tail;
    struct bp_recovery *out;
    uint64_t capacity;             /* of out->entries */
    bool seen;                     /* an entry, skipped or not */
    uint64_t last;                 /* index the log ends with so far */
    uint64_t sequence;             /* of the next frame */
    struct bp_hardstate hardstate; /* by headers and frames so far */
    struct content content;        /* of the segment being read; beyond the cut: of the new one */
    struct content kept;           /* of the newest segment below the cut */
    struct boundary cut;           /* at tail.synced of the newest segment */
    uint32_t
        /* of the newest segment: behind the last frame that is no mark, from the cut on */
        copy_end;
};

/* Later knowledge wins; term and commit never fall. */
static void learn(struct bp_hardstate *known, const struct bp_hardstate *now) {
    if (now->term > known->term || (now->term == known->term && now->vote != 0)) {
        known->term = now->term;
        known->vote = now->vote;
    }
    if (now->commit > known->commit) {
        known->commit = now->commit;
    }
}

/* ---- 3: records ------------------------------------------------------------------------------ */

static int push(struct recover *r, const struct bp_entry *entry, uint64_t frame,
                struct bp_error *err) {
    struct bp_recovery *out = r->out;
    if (out->n == r->capacity) {
        uint64_t capacity = r->capacity == 0 ? 1024 : r->capacity * 2;
        struct bp_found *entries = realloc(out->entries, capacity * sizeof *entries);
        if (entries == NULL) {
            return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                           "no memory for %" PRIu64 " log entries", capacity);
        }
        out->entries = entries;
        r->capacity = capacity;
    }
    out->entries[out->n++] = (struct bp_found){
        .index = entry->index,
        .term = entry->term,
        .first_revision = entry->first_revision,
        .count = entry->count,
        .size = entry->size,
        .type = entry->type,
        .at = entry->at,
        .frame = (uint32_t)frame,
        .sequence = r->sequence,
    };
    return BP_OK;
}

/* What is wrong with `entry` coming next, or NULL. Voids what it supersedes. */
static const char *place(struct recover *r, const struct bp_entry *entry) {
    struct bp_recovery *out = r->out;
    uint64_t floor = r->start->index;
    if (entry->index > r->last + 1) {
        return "an entry that does not continue the log (entries before it are missing)";
    }
    /*
     * Where replay starts early, its first entry may lie anywhere below what the checkpoint covers:
     * that supersedes nothing.
     */
    bool supersedes = entry->index <= r->last && (r->seen || entry->index > floor);
    if (supersedes && entry->index <= r->hardstate.commit) {
        return "an entry that supersedes a committed one";
    }
    if (entry->index <= floor) {
        out->n = 0;
        return NULL;
    }
    uint64_t keep = entry->index - floor - 1;
    if (keep > out->n) {
        return "an entry that does not continue the log (entries before it are missing)";
    }
    out->n = keep;
    if (keep == 0) {
        return NULL;
    }
    const struct bp_found *before = &out->entries[keep - 1];
    uint64_t revision = before->first_revision + before->count;
    bool jumps = entry->type == BP_ENTRY_JUMP && entry->first_revision >= revision;
    if (entry->first_revision != revision && !jumps) {
        return "an entry whose first revision does not continue the one before it";
    }
    return entry->term < before->term ? "an entry of an older term than the one before it" : NULL;
}

static void note_content(struct content *content, const struct bp_entry *entry) {
    uint64_t next = entry->first_revision + entry->count, revision = next > 0 ? next - 1 : 0;
    if (content->first_index == 0 || entry->index < content->first_index) {
        content->first_index = entry->index;
    }
    content->last_index = entry->index > content->last_index ? entry->index : content->last_index;
    content->last_revision = revision > content->last_revision ? revision : content->last_revision;
}

static int read_records(struct recover *r, const struct bp_segment *segment,
                        const struct bp_frame *frame, uint64_t offset, struct bp_error *err) {
    struct bp_hardstate newest = r->hardstate; /* counts from the next frame on */
    struct bp_hardstate hardstate;
    struct bp_entry entry;
    uint32_t at = 0;
    int record;
    while ((record = bp_frame_next_record(frame, &at, &entry, &hardstate)) != 0) {
        if (record < 0) {
            return bp_log_corrupt(r->segments, segment, offset, "a malformed record in the frame",
                                  err);
        }
        if (record == 2) {
            learn(&newest, &hardstate);
            continue;
        }
        entry.at.segment = segment->header.id;
        entry.at.offset += (uint32_t)offset;
        const char *wrong = place(r, &entry);
        if (wrong != NULL) {
            return bp_log_corrupt(r->segments, segment, entry.at.offset - BP_ENTRY_HEADER, wrong,
                                  err);
        }
        int rc = entry.index > r->start->index ? push(r, &entry, offset, err) : BP_OK;
        if (rc != BP_OK) {
            return rc;
        }
        note_content(&r->content, &entry);
        r->last = entry.index;
        r->seen = true;
    }
    r->hardstate = newest;
    return BP_OK;
}

/* At the offset in the newest segment from which frames are copied. */
static void reach_cut(struct recover *r) {
    r->cut = (struct boundary){
        .reached = true,
        .sequence = r->sequence,
        .index = r->last,
        .hardstate = r->hardstate,
    };
    r->kept = r->content;
    r->content = (struct content){0};
    r->copy_end = r->tail.synced;
}

static int read_segment(struct recover *r, uint32_t link, struct bp_error *err) {
    struct bp_segment *segment = r->chain.links[link];
    bool newest = link + 1 == r->chain.n;
    uint64_t offset = link == 0 ? r->chain.begin : BP_SEGMENT_HEADER;
    uint64_t end = newest ? r->tail.valid_end : bp_chain_end(&r->chain, link);
    if (segment->header.first_sequence != r->sequence && offset == BP_SEGMENT_HEADER) {
        return bp_log_corrupt(r->segments, segment, 40,
                              "a sequence that does not continue the segment before", err);
    }
    learn(&r->hardstate, &segment->header.hardstate);
    r->content = (struct content){0};
    if (offset > BP_SEGMENT_HEADER) { /* unread entries lie before: bounded by the checkpoint */
        r->content.last_index = r->start->index;
        r->content.last_revision = r->start->revision;
    }
    bp_frame_reader_aim(&r->reader, segment->fd, end);
    for (;;) {
        if (newest && offset == r->tail.synced) {
            reach_cut(r);
        }
        if (offset >= end) {
            break;
        }
        struct bp_frame frame;
        uint64_t size;
        int rc =
            bp_frame_reader_frame(&r->reader, offset, segment->header.salt, &frame, &size, err);
        if (rc == BP_OK && (size == 0 || frame.sequence != r->sequence)) {
            rc = bp_log_corrupt(r->segments, segment, offset, "a damaged frame", err);
        }
        rc = rc == BP_OK ? read_records(r, segment, &frame, offset, err) : rc;
        if (rc != BP_OK) {
            return rc;
        }
        offset += size;
        r->sequence++;
        r->out->frames++;
        if (newest && r->cut.reached && frame.body_size > 0) {
            r->copy_end =
                (uint32_t)offset; /* what a mark says is known: alone it is not worth a copy */
        }
    }
    const struct content *content = newest ? &r->kept : &r->content;
    segment->first_index = content->first_index;
    segment->last_index = content->last_index;
    segment->last_revision = content->last_revision;
    segment->used = newest ? r->tail.synced : (uint32_t)end;
    return BP_OK;
}

static int read_log(struct recover *r, struct bp_error *err) {
    const struct bp_segment *first = r->chain.links[0];
    const struct bp_segment *newest = r->chain.links[r->chain.n - 1];
    bool only = r->chain.n == 1;
    int rc = bp_tail_scan(
        r->segments, &r->reader, newest, only ? r->chain.begin : BP_SEGMENT_HEADER,
        only ? r->chain.sequence : newest->header.first_sequence, r->start->durable, &r->tail, err);
    r->last = r->start->index;
    if (r->chain.begin == BP_SEGMENT_HEADER && first->header.previous_index > r->last) {
        r->last = first->header.previous_index;
    }
    r->sequence = r->chain.sequence;
    for (uint32_t i = 0; rc == BP_OK && i < r->chain.n; i++) {
        rc = read_segment(r, i, err);
    }
    if (rc != BP_OK) {
        return rc;
    }
    if (!r->cut.reached) {
        return bp_log_corrupt(r->segments, newest, r->tail.synced,
                              "no frame begins where the log was durable to", err);
    }
    if (r->start->founded && r->start->index == 0 && r->last == 0) {
        return bp_log_corrupt(r->segments, first, BP_SEGMENT_HEADER,
                              "the store's first entry is missing", err);
    }
    if (r->seen && r->last < r->start->index) {
        return bp_log_corrupt(r->segments, newest, r->tail.valid_end,
                              "the log ends before entries that the checkpoint covers", err);
    }
    return BP_OK;
}

/* ---- 4 and 5: the new segment ---------------------------------------------------------------- */

/* No entry in what is kept of the newest segment: the new one takes its place in the chain. */
static bool drops_newest(const struct recover *r) {
    bool read_whole = r->chain.n > 1 || r->chain.begin == BP_SEGMENT_HEADER;
    return read_whole && r->kept.first_index == 0;
}

/* The header of the new segment, and what to copy into it. */
static void plan_copy(const struct recover *r, struct bp_copy *copy) {
    *copy = (struct bp_copy){
        .header = {.kind = BP_SEGMENT_LOG, .first_sequence = 1, .hardstate = r->cut.hardstate},
    };
    memcpy(copy->header.store_id, r->options->store_id, sizeof copy->header.store_id);
    /*
     * Term and vote may lie before where replay began. Its commit may lie behind the cut, and would
     * forbid what is copied.
     */
    struct bp_hardstate start = r->start->hardstate;
    start.commit = 0;
    learn(&copy->header.hardstate, &start);
    if (r->chain.anew) {
        copy->header.first_sequence = 0;
        copy->header.previous_end = r->start->at;
        copy->header.previous_index = r->start->index;
    }
    if (r->chain.n == 0) {
        return;
    }
    const struct bp_segment *newest = r->chain.links[r->chain.n - 1];
    copy->from = newest;
    copy->begin = r->tail.synced;
    copy->end = r->copy_end;
    copy->dirty_end = r->tail.dirty_end > r->tail.valid_end ? r->tail.dirty_end : r->tail.valid_end;
    copy->sequence = r->cut.sequence;
    if (drops_newest(r)) {
        copy->header.first_sequence = newest->header.first_sequence;
        copy->header.previous_end = newest->header.previous_end;
        copy->header.previous_index = newest->header.previous_index;
    } else {
        copy->header.first_sequence = r->cut.sequence;
        copy->header.previous_end =
            (struct bp_pos){.segment = newest->header.id, .offset = r->tail.synced};
        copy->header.previous_index = r->cut.index;
    }
}

/*
 * Entries whose frames were copied lie in the new segment now. They are the last ones: positions
 * grow with the index.
 */
static void move_found(struct recover *r, const struct bp_copy *copy, uint32_t id) {
    for (uint64_t i = r->out->n; i > 0; i--) {
        struct bp_found *found = &r->out->entries[i - 1];
        if (copy->from == NULL || found->at.segment != copy->from->header.id ||
            found->frame < copy->begin) {
            break;
        }
        found->at.segment = id;
        found->at.offset = found->at.offset - copy->begin + BP_SEGMENT_HEADER;
        found->frame = found->frame - copy->begin + BP_SEGMENT_HEADER;
        found->sequence = found->sequence - copy->sequence + copy->header.first_sequence;
    }
}

static void trim(struct recover *r, struct bp_segment *segment) {
    if (segment->used < segment->size &&
        bp_disk_truncate(bp_segments_disk(r->segments), BP_SITE_LOG_TRIM, segment->fd,
                         segment->used) == 0) {
        segment->size = segment->used;
    }
}

/* What the new segment made superfluous. What fails is done by the next recovery. */
static void clean_up(struct recover *r) {
    for (uint32_t i = 0; i < r->chain.n_voids; i++) {
        (void)bp_segment_delete(r->segments, r->chain.voids[i], NULL);
    }
    struct bp_segment *last =
        r->chain.anew ? bp_segments_find(r->segments, r->start->at.segment) : NULL;
    if (last != NULL) {
        trim(r, last); /* of the log that was replaced */
    }
    if (r->chain.n == 0) {
        return;
    }
    struct bp_segment *newest = r->chain.links[r->chain.n - 1];
    bool dropped =
        drops_newest(r) && bp_segment_delete(r->segments, newest->header.id, NULL) == BP_OK;
    for (uint32_t i = 0; i < r->chain.n - (dropped ? 1 : 0); i++) {
        trim(r, r->chain.links[i]);
    }
}

static int make_log(struct recover *r, struct bp_log **log, struct bp_error *err) {
    struct bp_copy copy;
    struct bp_segment *segment;
    uint64_t sequence;
    plan_copy(r, &copy);
    int rc = bp_copy_run(r->segments, r->options, &r->reader, &copy, &segment, &sequence, err);
    if (rc != BP_OK) {
        return rc;
    }
    segment->first_index = r->content.first_index;
    segment->last_index = r->content.last_index;
    segment->last_revision = r->content.last_revision;
    rc = bp_log_new(r->segments, r->options, segment, log, err);
    if (rc != BP_OK) {
        return rc;
    }
    struct bp_recovery *out = r->out;
    (*log)->sequence = sequence;
    (*log)->last_index = r->start->index + out->n;
    (*log)->last_term = out->n > 0 ? out->entries[out->n - 1].term : r->start->term;
    (*log)->hardstate = out->hardstate;
    out->copied_bytes = copy.end - copy.begin;
    if (copy.from != NULL && r->tail.dirty_end > r->tail.valid_end) {
        out->discarded_bytes = r->tail.dirty_end - r->tail.valid_end;
        out->torn_at =
            (struct bp_pos){.segment = copy.from->header.id, .offset = r->tail.valid_end};
    }
    move_found(r, &copy, segment->header.id);
    clean_up(r);
    return BP_OK;
}

static int recover(struct recover *r, struct bp_log **log, struct bp_error *err) {
    struct bp_disk *disk = bp_segments_disk(r->segments);
    int rc = bp_chain_open(r->segments, r->options, r->start, &r->chain, err);
    if (rc != BP_OK) {
        return rc;
    }
    int synced = bp_disk_sync_dir(disk, BP_SITE_LOG_DIR_SYNC, bp_segments_dir(r->segments));
    if (synced < 0) {
        return bp_fail_io(err, synced, "cannot sync the directory %s",
                          bp_path_tail(bp_segments_dir(r->segments)));
    }
    rc = bp_frame_reader_init(&r->reader, disk, BP_SITE_RECOVER_READ, err);
    if (rc == BP_OK && r->chain.n > 0) {
        rc = read_log(r, err);
    }
    if (rc == BP_OK) {
        r->out->hardstate = r->hardstate;
        learn(&r->out->hardstate, &r->start->hardstate);
        bp_chain_delete_tmp(r->segments);
        rc = make_log(r, log, err);
    }
    r->out->bytes_read = r->reader.bytes_read;
    bp_frame_reader_free(&r->reader);
    return rc;
}

int bp_log_open(struct bp_segments *segments, const struct bp_log_options *options,
                const struct bp_log_start *start, struct bp_log **log, struct bp_recovery *recovery,
                struct bp_error *err) {
    *log = NULL;
    *recovery = (struct bp_recovery){0};
    if (options->segment_size < BP_SEGMENT_SIZE_MIN || options->segment_size > INT32_MAX ||
        options->segment_size % 8 != 0) {
        return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID,
                       "a segment size of %" PRIu32 " bytes is not a multiple of 8 in [%u, %d]",
                       options->segment_size, BP_SEGMENT_SIZE_MIN, INT32_MAX);
    }
    struct recover r = {.segments = segments, .options = options, .start = start, .out = recovery};
    int rc = recover(&r, log, err);
    bp_chain_free(&r.chain);
    if (rc != BP_OK) {
        bp_recovery_free(recovery);
        *recovery = (struct bp_recovery){0};
    }
    return rc;
}

void bp_recovery_free(struct bp_recovery *recovery) {
    free(recovery->entries);
    recovery->entries = NULL;
    recovery->n = 0;
}

/*
 * Which segments the log is made of: the directory listed, every header checked, and the chain
 * followed back.
 *
 *   00000003.log   00000005.log   00000006.log   00000007.log
 *        ^              ^              |              | previous_end = (5, 9000)
 *        |              +--------------|--------------+
 *        +-----------------------------+ previous_end = (3, 70000)... of a segment that 7 declares
 *        void: it lies between 5 and 7
 *
 * The rule for segments without entries: the log is what the newest header says it is. A header
 * names the end of the log before it, and every position between that end and the new segment is
 * void. Recovery uses this to drop the segment it found newest when no entry lies in the part it
 * keeps of it: the new segment then continues that one's predecessor, and the empty one lies in the
 * gap. So a store that is opened a hundred times and never written has one log segment beside those
 * with entries. Voids that a crash left are deleted by the next recovery.
 *
 * A log begun anew: an installed snapshot (install.h) voids the log before it. Its checkpoint names
 * that log's end as the start, with the sequence BP_LOG_ANEW. The first segment behind has the
 * first_sequence 0, which no other has, and the end as its previous_end:
 *
 *   [00000005.log ..end]  |  [00000009.log: sequence 0]     no link: nobody goes on from 5 to 9
 *
 * Older segments may hold values. A start before the end, from a checkpoint that was kept by
 * accident, is refused, never replayed across the cut.
 *
 * Invariants
 *   - Ids of log segments grow in log order; previous_end always names a lower id.
 *   - A link of the chain that replay needs and that is not there is corruption, never skipped.
 *     Where the checkpoint's start lies in a void (its segment was empty and is gone), replay
 *     begins with the first frame of the segment behind it.
 *   - Nothing on disk is changed here: a directory of a newer format stays as it is.
 */
#include "log_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_KEPT 64u

/* ---- the directory --------------------------------------------------------------------------- */

struct ids {
    uint32_t *list;
    uint32_t n, capacity;
};

static int ids_push(struct ids *ids, uint32_t id) {
    if (ids->n == ids->capacity) {
        uint32_t capacity = ids->capacity == 0 ? 16 : ids->capacity * 2;
        uint32_t *list = realloc(ids->list, capacity * sizeof *list);
        if (list == NULL) {
            return -ENOMEM;
        }
        ids->list = list;
        ids->capacity = capacity;
    }
    ids->list[ids->n++] = id;
    return 0;
}

static int ids_order(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* "%08x" at the start of a name; 0 when it is none. */
static uint32_t parse_id(const char *name) {
    uint32_t id = 0;
    for (int i = 0; i < 8; i++) {
        char c = name[i];
        if (c >= '0' && c <= '9') {
            id = id << 4 | (uint32_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            id = id << 4 | (uint32_t)(c - 'a' + 10);
        } else {
            return 0;
        }
    }
    return id;
}

static bool is_tmp(const char *name) {
    size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".tmp") == 0;
}

struct listing {
    struct bp_segments *segments;
    struct ids logs;
};

static int each_name(void *arg, const char *name) {
    struct listing *listing = arg;
    uint32_t id = parse_id(name);
    if (id == 0 || name[8] != '.') {
        return 0;
    }
    bp_segments_reserve_id(listing->segments, id); /* whatever kind, finished or not */
    return strcmp(name + 8, ".log") == 0 ? ids_push(&listing->logs, id) : 0;
}

static int open_all(struct bp_segments *segments, const struct bp_log_options *options,
                    struct ids *logs, struct bp_error *err) {
    struct listing listing = {.segments = segments};
    int rc =
        bp_disk_list(bp_segments_disk(segments), bp_segments_dir(segments), each_name, &listing);
    *logs = listing.logs;
    if (rc < 0) {
        return bp_fail_io(err, rc, "cannot list %s", bp_path_tail(bp_segments_dir(segments)));
    }
    if (logs->n > 0) {
        qsort(logs->list, logs->n, sizeof *logs->list, ids_order);
    }
    rc = BP_OK;
    for (uint32_t i = 0; rc == BP_OK && i < logs->n; i++) {
        struct bp_segment *segment;
        rc = bp_segment_open(segments, logs->list[i], BP_SEGMENT_LOG, options->store_id, &segment,
                             err);
    }
    return rc;
}

struct tmp_names {
    char (*names)[NAME_MAX_KEPT];
    uint32_t n, capacity;
};

static int each_tmp(void *arg, const char *name) {
    struct tmp_names *tmp = arg;
    if (!is_tmp(name) || strlen(name) >= NAME_MAX_KEPT) {
        return 0;
    }
    if (tmp->n == tmp->capacity) {
        uint32_t capacity = tmp->capacity == 0 ? 8 : tmp->capacity * 2;
        void *names = realloc(tmp->names, capacity * sizeof *tmp->names);
        if (names == NULL) {
            return -ENOMEM;
        }
        tmp->names = names;
        tmp->capacity = capacity;
    }
    strcpy(tmp->names[tmp->n++], name); /* its length was checked above */
    return 0;
}

void bp_chain_delete_tmp(struct bp_segments *segments) {
    struct tmp_names tmp = {0};
    struct bp_disk *disk = bp_segments_disk(segments);
    /* Names first, then unlink: a directory that changes while it is listed may hide names. */
    (void)bp_disk_list(disk, bp_segments_dir(segments), each_tmp, &tmp);
    for (uint32_t i = 0; i < tmp.n; i++) {
        char path[BP_LOG_PATH];
        size_t n = strlen(bp_segments_dir(segments));
        if (n + 1 + NAME_MAX_KEPT <= sizeof path) {
            memcpy(path, bp_segments_dir(segments), n);
            path[n] = '/';
            strcpy(path + n + 1, tmp.names[i]);
            (void)bp_disk_unlink(disk, BP_SITE_LOG_UNLINK, path);
        }
    }
    free(tmp.names);
}

/* ---- the chain ------------------------------------------------------------------------------- */

static int missing(uint32_t id, const struct bp_segment *behind, struct bp_error *err) {
    if (behind == NULL) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "segment %08" PRIx32 ".log is missing, and replay starts there; restore it "
                       "from a backup or run `bedplate fsck`",
                       id);
    }
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                   "segment %08" PRIx32 ".log is missing: %08" PRIx32
                   ".log continues it from offset %" PRIu32
                   "; restore it from a backup or run `bedplate fsck`",
                   id, behind->header.id, behind->header.previous_end.offset);
}

static struct bp_segment *find_log(const struct bp_segments *segments, uint32_t id) {
    struct bp_segment *segment = id == 0 ? NULL : bp_segments_find(segments, id);
    return segment != NULL && segment->header.kind == BP_SEGMENT_LOG ? segment : NULL;
}

static bool begins_anew(const struct bp_segment *segment) {
    return segment->header.first_sequence == 0;
}

static int cut_off(const struct bp_segment *segment, struct bp_error *err) {
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                   "%08" PRIx32 ".log: an installed snapshot replaced the log before it, and its "
                   "checkpoint cannot be used; let the member be replaced, or run `bedplate fsck`",
                   segment->header.id);
}

/* Does replay, which begins with `first`, begin on the right side of an installed snapshot? */
static int check_begin(const struct bp_segment *first, const struct bp_log_start *start,
                       struct bp_error *err) {
    const struct bp_pos before = first->header.previous_end;
    bool agree = start->sequence == BP_LOG_ANEW
                     ? begins_anew(first) && bp_pos_u64(before) == bp_pos_u64(start->at)
                     : !begins_anew(first) || start->at.segment > before.segment;
    return agree ? BP_OK : cut_off(first, err);
}

/* A header's claim about the segment before it, checked as far as headers and sizes can tell. */
static int check_link(const struct bp_segment *before, const struct bp_segment *behind,
                      struct bp_error *err) {
    uint32_t end = behind->header.previous_end.offset;
    if (end > before->size) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%08" PRIx32 ".log: ends at offset %" PRIu32 ", but %08" PRIx32
                       ".log says it reached offset %" PRIu32 "; run `bedplate fsck`",
                       before->header.id, before->size, behind->header.id, end);
    }
    if (behind->header.first_sequence < before->header.first_sequence) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%08" PRIx32 ".log: its sequence at offset 40 lies before that of %08" PRIx32
                       ".log, which it continues; run `bedplate fsck`",
                       behind->header.id, before->header.id);
    }
    return BP_OK;
}

/* Does replay need what lies before `segment`? */
static bool needs_more(const struct bp_segment *segment, const struct bp_log_start *start) {
    const struct bp_pos before = segment->header.previous_end;
    return before.segment != 0 && bp_pos_u64(before) > bp_pos_u64(start->at);
}

/* Back from the newest; `links` ends up oldest first. */
static int follow(struct bp_segments *segments, const struct ids *logs,
                  const struct bp_log_start *start, struct bp_chain *chain, struct bp_error *err) {
    struct bp_segment *at = find_log(segments, logs->list[logs->n - 1]);
    chain->links = calloc(logs->n, sizeof(struct bp_segment *));
    if (chain->links == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the chain of log segments");
    }
    if (at->header.id < start->at.segment) {
        return missing(start->at.segment, NULL, err);
    }
    chain->anew = start->sequence == BP_LOG_ANEW && at->header.id == start->at.segment;
    if (chain->anew) {
        return BP_OK;
    }
    for (;;) { /* ids fall with every step */
        chain->links[chain->n++] = at;
        if (!needs_more(at, start)) {
            break;
        }
        if (begins_anew(at)) {
            return cut_off(at, err);
        }
        struct bp_segment *before = find_log(segments, at->header.previous_end.segment);
        if (before == NULL) {
            return missing(at->header.previous_end.segment, at, err);
        }
        int rc = check_link(before, at, err);
        if (rc != BP_OK) {
            return rc;
        }
        at = before;
    }
    for (uint32_t i = 0; i < chain->n / 2; i++) {
        struct bp_segment *swap = chain->links[i];
        chain->links[i] = chain->links[chain->n - 1 - i];
        chain->links[chain->n - 1 - i] = swap;
    }
    return check_begin(chain->links[0], start, err);
}

/* Where in the first link replay begins. */
static int find_begin(const struct bp_log_start *start, struct bp_chain *chain,
                      struct bp_error *err) {
    const struct bp_segment *first = chain->links[0];
    chain->begin = BP_SEGMENT_HEADER;
    chain->sequence = first->header.first_sequence;
    if (first->header.id != start->at.segment || start->at.offset <= BP_SEGMENT_HEADER) {
        return BP_OK;
    }
    if (start->at.offset > first->size || start->at.offset % 8 != 0) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%08" PRIx32 ".log: ends at offset %" PRIu32
                       ", but the checkpoint's replay starts at offset %" PRIu32
                       "; run `bedplate fsck`",
                       first->header.id, first->size, start->at.offset);
    }
    chain->begin = start->at.offset;
    chain->sequence = start->sequence;
    return BP_OK;
}

/* Log segments in a gap between a link and the one before it. */
static int find_voids(const struct ids *logs, struct bp_chain *chain, struct bp_error *err) {
    struct ids voids = {0};
    uint32_t link = 0;
    for (uint32_t i = 0; i < logs->n; i++) {
        uint32_t id = logs->list[i];
        while (link < chain->n && chain->links[link]->header.id < id) {
            link++;
        }
        if (link == chain->n) {
            break;
        }
        const struct bp_segment_header *header = &chain->links[link]->header;
        if (id < header->id && id > header->previous_end.segment && ids_push(&voids, id) < 0) {
            free(voids.list);
            return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                           "no memory for the chain of log segments");
        }
    }
    chain->voids = voids.list;
    chain->n_voids = voids.n;
    return BP_OK;
}

/*
 * Segments that replay does not read: all that is known of them comes from their successor and from
 * the checkpoint.
 */
static void describe_old(struct bp_segments *segments, const struct ids *logs,
                         const struct bp_log_start *start) {
    for (uint32_t i = 0; i < logs->n; i++) {
        struct bp_segment *segment = find_log(segments, logs->list[i]);
        segment->last_index = start->index;
        segment->last_revision = start->revision;
        const struct bp_segment *next =
            i + 1 < logs->n ? find_log(segments, logs->list[i + 1]) : NULL;
        if (next != NULL && next->header.previous_end.segment == segment->header.id &&
            next->header.previous_end.offset < segment->used) {
            segment->used = next->header.previous_end.offset;
        }
        if (start->sequence == BP_LOG_ANEW && segment->header.id == start->at.segment &&
            start->at.offset < segment->used) {
            segment->used = start->at.offset; /* no next one yet */
        }
    }
}

int bp_chain_open(struct bp_segments *segments, const struct bp_log_options *options,
                  const struct bp_log_start *start, struct bp_chain *chain, struct bp_error *err) {
    *chain = (struct bp_chain){0};
    struct ids logs = {0};
    int rc = open_all(segments, options, &logs, err);
    if (rc == BP_OK && logs.n > 0) {
        describe_old(segments, &logs, start);
        rc = follow(segments, &logs, start, chain, err);
        if (rc == BP_OK && !chain->anew) {
            rc = bp_trim_check(segments, chain->links[chain->n - 1], err);
            rc = rc == BP_OK ? find_begin(start, chain, err) : rc;
            rc = rc == BP_OK ? find_voids(&logs, chain, err) : rc;
        }
    } else if (rc == BP_OK && start->at.segment != 0) {
        rc = missing(start->at.segment, NULL, err);
    }
    free(logs.list);
    return rc;
}

void bp_chain_free(struct bp_chain *chain) {
    free(chain->links);
    free(chain->voids);
    *chain = (struct bp_chain){0};
}

uint32_t bp_chain_end(const struct bp_chain *chain, uint32_t i) {
    return i + 1 < chain->n ? chain->links[i + 1]->header.previous_end.offset : 0;
}

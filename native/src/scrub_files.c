/*
 * Scrubbing what the next start would read: frames of the log and blocks of the checkpoints.
 *
 *   log
 *       every segment that another one follows: its end is in that one's header, and nobody writes
 *       to it any more
 *   checkpoints  *.ckpt, newest first: CRC and number of each block, order of sections, the
 *   trailer's chain of CRCs
 *
 * Segments are found here by the table and not by the index, so a step holds keeper.mutex: the
 * keeper alone takes segments away. A file that goes away between steps needs no check. Damage to a
 * frame ends the walk of its segment (where the next one begins is not known); values behind it are
 * checked all the same, by the index.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scrub_internal.h"

static void describe(struct bp_finding *finding, const char *file, uint64_t offset,
                     const char *message) {
    (void)snprintf(finding->file, sizeof finding->file, "%s", file);
    finding->offset = offset;
    (void)snprintf(finding->message, sizeof finding->message, "%.250s", message);
}

/* ---- log segments --------------------------------------------------------------------------- */

/* Where the log ends in segment `id` by a later segment's header; 0 when none says so. */
static uint64_t end_of(const struct bp_segments *segments, uint32_t id) {
    const struct bp_segment *at = bp_segments_next(segments, id);
    for (; at != NULL; at = bp_segments_next(segments, at->header.id)) {
        if (at->header.kind == BP_SEGMENT_LOG && at->header.previous_end.segment == id) {
            return at->header.previous_end.offset;
        }
    }
    return 0;
}

static bool next_segment(struct bp_scrub *scrub) {
    const struct bp_segments *segments = scrub->store->segments;
    const struct bp_segment *at = bp_segments_next(segments, scrub->segment);
    for (; at != NULL; at = bp_segments_next(segments, at->header.id)) {
        scrub->segment = at->header.id;
        if (at->header.kind == BP_SEGMENT_LOG && end_of(segments, at->header.id) != 0) {
            scrub->offset = BP_SEGMENT_HEADER;
            scrub->sequence = at->header.first_sequence;
            return true;
        }
    }
    return false;
}

static int bad_frame(struct bp_scrub *scrub, const char *message, struct bp_finding *finding) {
    char file[32];
    (void)snprintf(file, sizeof file, "%08" PRIx32 ".log", scrub->segment);
    describe(finding, file, scrub->offset, message);
    scrub->offset = 0;
    return BP_SCRUB_FINDING;
}

/* Frames of one segment until a step is full. */
static int walk_frames(struct bp_scrub *scrub, const struct bp_segment *segment, uint64_t end,
                       struct bp_finding *finding, struct bp_error *err) {
    uint64_t began = scrub->offset;
    bp_frame_reader_aim(&scrub->reader, segment->fd, end);
    while (scrub->offset < end && scrub->offset - began < BP_SCRUB_STEP) {
        struct bp_frame frame;
        uint64_t size;
        struct bp_error why = {0};
        int code = bp_frame_reader_frame(&scrub->reader, scrub->offset, segment->header.salt,
                                         &frame, &size, &why);
        if (code != BP_OK && !bp_scrub_is_damage(&why)) {
            *err = why;
            return code;
        }
        if (code != BP_OK) {
            return bad_frame(scrub, why.message, finding);
        }
        if (size == 0 || frame.sequence != scrub->sequence) {
            return bad_frame(scrub, "a frame of the log is damaged: the next start may refuse",
                             finding);
        }
        scrub->offset += size;
        scrub->sequence++;
        scrub->bytes += size;
    }
    if (scrub->offset >= end) {
        scrub->offset = 0;
    }
    return BP_SCRUB_MORE;
}

static int log_step(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err) {
    const struct bp_segments *segments = scrub->store->segments;
    if (scrub->offset == 0 && !next_segment(scrub)) {
        return BP_SCRUB_DONE;
    }
    const struct bp_segment *segment = bp_segments_find(segments, scrub->segment);
    uint64_t end = end_of(segments, scrub->segment);
    if (segment == NULL || end == 0) {
        scrub->offset = 0; /* cleaned away */
        return BP_SCRUB_MORE;
    }
    return walk_frames(scrub, segment, end, finding, err);
}

int bp_scrub_log(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err) {
    struct bp_store *store = scrub->store;
    if (!scrub->reader_made) {
        int code = bp_frame_reader_init(&scrub->reader, store->disk, BP_SITE_SCRUB_READ, err);
        if (code != BP_OK) {
            return code;
        }
        scrub->reader_made = true;
    }
    if (scrub->by_keeper) {
        return log_step(scrub, finding, err);
    }
    pthread_mutex_lock(&store->keeper.mutex);
    int result = log_step(scrub, finding, err);
    pthread_mutex_unlock(&store->keeper.mutex);
    return result;
}

/* ---- checkpoints ---------------------------------------------------------------------------- */

static void end_file(struct bp_scrub *scrub) {
    if (scrub->open) {
        bp_ckpt_file_close(&scrub->file);
        scrub->open = false;
    }
    scrub->number_at++;
}

/* What opening or reading the file came to: damage is a finding, and the next file is next. */
static int judge(struct bp_scrub *scrub, const struct bp_error *why, struct bp_finding *finding,
                 struct bp_error *err) {
    if (!bp_scrub_is_damage(why)) {
        *err = *why;
        return why->code;
    }
    char file[32];
    (void)snprintf(file, sizeof file, "%016" PRIx64 ".ckpt", scrub->numbers[scrub->number_at]);
    describe(finding, file, scrub->open ? scrub->file.offset : 0, why->message);
    end_file(scrub);
    return BP_SCRUB_FINDING;
}

static int open_file(struct bp_scrub *scrub, struct bp_error *why) {
    bp_ckpt_path(scrub->store->dir, scrub->numbers[scrub->number_at], false, scrub->path);
    int code =
        bp_ckpt_file_open(&scrub->file, scrub->store->disk, scrub->path, BP_SITE_SCRUB_READ, why);
    scrub->open = code == BP_OK;
    return code;
}

static int check_end(struct bp_scrub *scrub, const struct bp_ckpt_block *block,
                     struct bp_error *why) {
    const struct bp_ckpt_file *file = &scrub->file;
    struct bp_ckpt_totals totals;
    bool good = bp_ckpt_trailer_decode(block->payload, &totals) &&
                totals.blocks + 1 == file->number && totals.chain == file->chain &&
                totals.file_size == file->offset && file->offset == file->size;
    return good ? BP_OK
                : bp_ckpt_file_corrupt(file, file->offset, "a trailer that does not fit", why);
}

/* Blocks until a step is full or the file ends. */
static int read_blocks(struct bp_scrub *scrub, bool *end, struct bp_error *why) {
    uint64_t began = scrub->file.offset;
    int code = BP_OK;
    *end = false;
    while (code == BP_OK && !*end && scrub->file.offset - began < BP_SCRUB_STEP) {
        struct bp_ckpt_block block;
        code = bp_ckpt_file_next(&scrub->file, &block, why);
        if (code == BP_OK && block.section == BP_CKPT_TRAILER) {
            *end = true;
            code = check_end(scrub, &block, why);
        }
    }
    scrub->bytes += scrub->file.offset - began;
    return code;
}

int bp_scrub_checkpoints(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err) {
    struct bp_store *store = scrub->store;
    struct bp_error why = {0};
    if (!scrub->listed) {
        int code = bp_ckpt_list(store->disk, store->dir, &scrub->numbers, &scrub->n_numbers, err);
        scrub->listed = code == BP_OK;
        return code;
    }
    if (scrub->number_at == scrub->n_numbers) {
        return BP_SCRUB_DONE;
    }
    if (!scrub->open && open_file(scrub, &why) != BP_OK) {
        if (why.sys_errno != ENOENT) {
            return judge(scrub, &why, finding, err);
        }
        end_file(scrub); /* a newer one took its place */
        return BP_SCRUB_MORE;
    }
    bool end;
    if (read_blocks(scrub, &end, &why) != BP_OK) {
        return judge(scrub, &why, finding, err);
    }
    if (end) {
        end_file(scrub);
    }
    return BP_SCRUB_MORE;
}

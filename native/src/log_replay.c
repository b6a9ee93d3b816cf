/*
 * Replay: the entries recovery found, handed out in order with their payloads.
 *
 *   found    [e7][e8][e9][e10]            frame offset of each
 *             |   |   |    |
 *   file   [ frame e7 e8' e8 ][ frame e9 ]...       e8' was superseded: skipped
 *
 * Frames are read again in large pieces and verified again, so that nothing is applied that was not
 * checked as it was read. Entries in one frame come from one decoding of it.
 */
#include "log_internal.h"

#include <assert.h>
#include <inttypes.h>

/*
 * Hand out the entries of `frame` from found[*i] on, up to `end`. At least one, or the disk changed
 * under us.
 */
static int replay_frame(const struct bp_recovery *recovery, const struct bp_frame *frame,
                        uint64_t *i, uint64_t end,
                        int (*each)(void *arg, const struct bp_entry *entry), void *arg) {
    const struct bp_found *found = &recovery->entries[*i];
    uint32_t segment = found->at.segment, offset = found->frame, at = 0;
    struct bp_entry entry;
    struct bp_hardstate hardstate;
    int record, rc = BP_OK;
    while (rc == BP_OK && *i < end &&
           (record = bp_frame_next_record(frame, &at, &entry, &hardstate)) > 0) {
        found = &recovery->entries[*i];
        if (found->frame != offset || found->at.segment != segment) {
            break;
        }
        if (record == 1 && entry.at.offset + offset == found->at.offset) {
            assert(entry.index == found->index && entry.size == found->size);
            entry.at = found->at;
            rc = each(arg, &entry);
            ++*i;
        }
    }
    return rc;
}

int bp_log_replay(struct bp_log *log, const struct bp_recovery *recovery, uint64_t first,
                  uint64_t n, int (*each)(void *arg, const struct bp_entry *entry), void *arg,
                  struct bp_error *err) {
    assert(first <= recovery->n && n <= recovery->n - first);
    struct bp_frame_reader reader;
    int rc = bp_frame_reader_init(&reader, log->disk, BP_SITE_RECOVER_READ, err);
    const struct bp_segment *segment = NULL;
    for (uint64_t i = first; rc == BP_OK && i < first + n;) {
        const struct bp_found *found = &recovery->entries[i];
        if (segment == NULL || segment->header.id != found->at.segment) {
            segment = bp_segments_find(log->segments, found->at.segment);
            assert(segment !=
                   NULL); /* recovery found it there, and nothing is unlinked before replay ends */
            bp_frame_reader_aim(&reader, segment->fd, segment->used);
        }
        struct bp_frame frame;
        uint64_t size, before = i;
        rc = bp_frame_reader_frame(&reader, found->frame, segment->header.salt, &frame, &size, err);
        if (rc == BP_OK && size > 0) {
            rc = replay_frame(recovery, &frame, &i, first + n, each, arg);
        }
        if (rc == BP_OK && i == before) {
            rc = bp_log_corrupt(log->segments, segment, found->frame,
                                "a frame that was whole a moment ago is damaged", err);
        }
    }
    bp_frame_reader_free(&reader);
    return rc;
}

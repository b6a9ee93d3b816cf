/* What the files of the log share: segment.c, segment_table.c, value.c and log*.c. */
#ifndef BP_LOG_INTERNAL_H
#define BP_LOG_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "log.h"

#define BP_LOG_PATH 4096u
#define BP_FRAME_MAX (BP_GROUP_MAX + BP_FRAME_HEADER)
#define BP_HARDSTATE_RECORD 32u

/* ---- segment.c: the steps of bp_segment_create ----------------------------------------------- */

/* Make <id>.<kind>.tmp of `size` allocated bytes. On failure nothing is left. */
int bp_segment_make_tmp(struct bp_segments *segments, uint32_t id, int kind, uint32_t size, int *fd,
                        struct bp_error *err);
void bp_segment_drop_tmp(struct bp_segments *segments, uint32_t id, int kind, int fd);
/*
 * Write the header into the tmp, sync, rename, sync the directory, add to the table. Takes over
 * `fd` in any case. On failure *fatal says whether the file may carry its final name, or a sync or
 * the device failed: the log must then be poisoned.
 */
int bp_segment_publish(struct bp_segments *segments, const struct bp_segment_header *header, int fd,
                       uint32_t size, uint32_t used, struct bp_segment **out, bool *fatal,
                       struct bp_error *err);
/* A random salt, never 0 and unlike that of any known segment. */
int bp_segment_new_salt(struct bp_segments *segments, uint64_t *salt, struct bp_error *err);
/* The end of a path, short enough for an error message. */
const char *bp_path_tail(const char *path);

/* ---- log_frame.c ----------------------------------------------------------------------------- */

void bp_frame_put_header(uint8_t *header, uint64_t salt, uint64_t sequence, uint32_t body_size,
                         struct bp_pos synced_through);
void bp_frame_put_crc(uint8_t *header, uint32_t crc);
/* Both return the bytes written; the payload follows an entry's header. */
uint32_t bp_frame_put_entry(uint8_t *out, const struct bp_entry *entry);
uint32_t bp_frame_put_hardstate(uint8_t *out, const struct bp_hardstate *hardstate);

/* ---- log_reader.c: a window over one file, which frames are decoded from --------------------- */

struct bp_frame_reader {
    struct bp_disk *disk;
    int site, fd;
    uint8_t *buf;
    uint64_t start, filled; /* the window: file bytes [start, start + filled) */
    uint64_t limit;         /* no byte from here on is looked at */
    uint64_t bytes_read;
};

int bp_frame_reader_init(struct bp_frame_reader *reader, struct bp_disk *disk, int site,
                         struct bp_error *err);
void bp_frame_reader_free(struct bp_frame_reader *reader);
void bp_frame_reader_aim(struct bp_frame_reader *reader, int fd, uint64_t limit);
/*
 * Bytes from `offset`: at least `want` (<= BP_FRAME_MAX) of them unless the limit comes first.
 * Valid until the next call.
 */
int bp_frame_reader_bytes(struct bp_frame_reader *reader, uint64_t offset, uint64_t want,
                          uint8_t **data, uint64_t *have, struct bp_error *err);
/* The frame at `offset`; *size 0 when there is no valid one. Fails only where reading does. */
int bp_frame_reader_frame(struct bp_frame_reader *reader, uint64_t offset, uint64_t salt,
                          struct bp_frame *frame, uint64_t *size, struct bp_error *err);

/* ---- log.c ----------------------------------------------------------------------------------- */

struct bp_log {
    struct bp_segments *segments;
    struct bp_disk *disk;
    struct bp_log_options options;
    /* owned by the driver role */
    struct bp_segment *segment; /* the newest; frames go here */
    uint32_t offset;            /* its end */
    uint64_t sequence;          /* of the next frame */
    struct bp_pos durable;
    /* synced_through in the last frame (or implied by a new segment's header). */
    struct bp_pos marked;
    struct bp_pos data_end; /* behind the last frame that is not a mark */
    uint64_t last_index, last_term;
    struct bp_hardstate hardstate;
    uint8_t *staging; /* BP_FRAME_MAX bytes */
    struct iovec *iov;
    atomic_bool poisoned, retired;
    /* no segment is being made but under this; and the next one's file, made ahead of need */
    pthread_mutex_t prepare;
    uint32_t prepared_id; /* 0 none */
    int prepared_fd;
};

/*
 * A log whose newest segment is `segment`, ending (durably) at segment->used. Recovery fills in the
 * rest.
 */
int bp_log_new(struct bp_segments *segments, const struct bp_log_options *options,
               struct bp_segment *segment, struct bp_log **log, struct bp_error *err);

/* ---- log_chain.c: which segments the log is made of ------------------------------------------ */

struct bp_chain {
    struct bp_segment **links; /* the segments replay reads, oldest first */
    uint32_t n;
    uint32_t begin;    /* offset in links[0] where replay begins */
    uint64_t sequence; /* of the frame there */
    bool anew; /* there is no link yet: the new segment is the first one of a log begun anew */
    uint32_t *voids; /* log segments that a later header declared void */
    uint32_t n_voids;
};

/*
 * Open every log segment of the directory and follow the chain back from the newest to `start`.
 * Changes nothing on disk.
 */
int bp_chain_open(struct bp_segments *segments, const struct bp_log_options *options,
                  const struct bp_log_start *start, struct bp_chain *chain, struct bp_error *err);
void bp_chain_free(struct bp_chain *chain);
/*
 * Where the log ends in links[i], by the next link's header; 0 for the last one, whose end is not
 * known yet.
 */
uint32_t bp_chain_end(const struct bp_chain *chain, uint32_t i);
/* Delete every *.tmp. Best effort: a left one only takes space. */
void bp_chain_delete_tmp(struct bp_segments *segments);

/* ---- log_tail.c: how far the newest segment is good ------------------------------------------ */

struct bp_tail {
    uint32_t valid_end; /* the first offset without a valid frame */
    uint32_t dirty_end; /* behind the last byte that is not zero */
    uint32_t synced; /* frames below this offset were durable once; a frame boundary <= valid_end */
};

/*
 * Find the tail of `segment` from the frame at `begin`; damage below what any valid frame calls
 * synced, or a checkpoint (`durable`), is DATA_LOSS.
 */
int bp_tail_scan(struct bp_segments *segments, struct bp_frame_reader *reader,
                 const struct bp_segment *segment, uint32_t begin, uint64_t sequence,
                 struct bp_pos durable, struct bp_tail *tail, struct bp_error *err);
/*
 * DATA_LOSS/STORE_CORRUPT for `segment` at `offset`: "<path>: <what> at offset <offset>; run
 * `bedplate fsck`".
 */
int bp_log_corrupt(const struct bp_segments *segments, const struct bp_segment *segment,
                   uint64_t offset, const char *what, struct bp_error *err);

/* ---- log_trim.c: the newest segment's size ---------------------------------------------------- */

/*
 * Give up the zeros behind `dirty_end`, leaving a mark that says so. 0 or a negative errno; then at
 * worst the mark is there.
 */
int bp_trim_newest(struct bp_segments *segments, const struct bp_segment *segment,
                   uint32_t dirty_end);
/*
 * DATA_LOSS/STORE_CORRUPT if the newest segment of the log, just opened, is shorter than it was made
 * and recovery did not do it. A mark found is taken off segment->size.
 */
int bp_trim_check(struct bp_segments *segments, struct bp_segment *segment, struct bp_error *err);

/* ---- log_copy.c: the segment recovery makes -------------------------------------------------- */

struct bp_copy {
    const struct bp_segment *from;   /* NULL: nothing to copy, the first segment of a store */
    uint32_t begin, end;             /* frames to copy */
    uint32_t dirty_end;              /* of `from`: beyond it there are only zeros */
    uint64_t sequence;               /* of the first of them, as it is there */
    struct bp_segment_header header; /* of the new segment; id and salt are filled in */
};

/*
 * Make the new segment durable: the frames re-salted and numbered from header.first_sequence, and,
 * when there are any, a mark behind them.
 * *sequence is that of the next frame. segment->used is its end.
 */
int bp_copy_run(struct bp_segments *segments, const struct bp_log_options *options,
                struct bp_frame_reader *reader, const struct bp_copy *copy,
                struct bp_segment **segment, uint64_t *sequence, struct bp_error *err);

#endif

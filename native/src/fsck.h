/*
 * fsck: what is in a directory, whether it would open, and what can be saved of it. bp_fsck
 * (bedplate.h) is this on the real disk.
 */
#ifndef BP_FSCK_H
#define BP_FSCK_H

#include "buffer.h"
#include "error.h"
#include "io.h"

/*
 * `disk` stays the caller's; `rebuild_dir` may be NULL. 0 sound, DATA_LOSS damaged (the report says
 * how), else why there is no report.
 */
int bp_fsck_on(struct bp_disk *disk, const char *dir, const char *rebuild_dir,
               struct bp_reply *report, struct bp_error *err);

/* ---- for salvage.c --------------------------------------------------------------------------- */

/* One line of the report. */
void bp_fsck_line(struct bp_buffer *report, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

struct bp_surveys;
/*
 * Everything intact that can be found in `dir`, the newest version of each key, into a new store in
 * `rebuild_dir`. The report gets what was lost. `checkpoint`: number of the newest good one, NULL
 * when there is none.
 */
int bp_salvage(struct bp_disk *disk, const char *dir, const uint8_t store_id[16],
               const uint64_t *checkpoint, const struct bp_surveys *surveys,
               const char *rebuild_dir, struct bp_buffer *report, struct bp_error *err);

#endif

/*
 * fsck: explains a directory, one line each, and changes nothing in it (see fsck.h).
 *
 *   store 3f..    format 1
 *   checkpoint 000000000000002a.ckpt: good, index 42, revision 90, 17 keys, replay from
 *   00000003.log:8192 segment 00000001.log: good, ...
 *   segment 00000003.log: DAMAGED at offset 8192 (to 8704), ...
 *   open: ...         what a start would do: it is tried, by the engine itself, on an overlay
 *   advice: ...
 *
 * Sound: everything that counts matches its checksums and the store would open. A torn tail is
 * sound: nobody was promised it.
 */
#include "fsck.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "overlay.h"
#include "store.h"
#include "store_files.h"
#include "survey.h"

struct fsck {
    struct bp_disk *disk;
    const char *dir;
    struct bp_buffer report;
    uint64_t damages; /* lines that say DAMAGED */
    uint8_t store_id[16];
    bool identified;
    uint64_t checkpoint; /* number of the newest good one */
    bool has_checkpoint;
    struct bp_ckpt_segment *named; /* by all good checkpoints */
    uint32_t n_named;
    bool opens;
};

void bp_fsck_line(struct bp_buffer *report, const char *fmt, ...) {
    char line[640];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line - 1, fmt, args);
    va_end(args);
    size_t size = n < 0 ? 0 : (size_t)n < sizeof line - 2 ? (size_t)n : sizeof line - 2;
    line[size] = '\n';
    bp_buffer_append(report, line, size + 1);
}

/* ---- identity ------------------------------------------------------------------------------- */

static void hex(const uint8_t id[16], char text[33]) {
    for (int i = 0; i < 16; i++) {
        (void)snprintf(text + 2 * i, 3, "%02x", id[i]);
    }
}

static int report_identity(struct fsck *fsck, const struct bp_store_files *files,
                           struct bp_error *err) {
    struct bp_error why = {0};
    char text[33];
    if (!files->store) {
        fsck->damages++;
        bp_fsck_line(&fsck->report, "store: DAMAGED: the file STORE is missing%s",
                     files->restoring ? "; a restore did not finish" : "");
        return BP_OK;
    }
    struct bp_store_identity identity;
    int code = bp_store_identity_read(fsck->disk, fsck->dir, &identity, &why);
    if (code == BP_OK) {
        memcpy(fsck->store_id, identity.store_id, sizeof fsck->store_id);
    }
    if (why.reason == BP_REASON_FORMAT_UNSUPPORTED) {
        *err = why;
        return code;
    }
    fsck->identified = code == BP_OK;
    if (code != BP_OK) {
        fsck->damages++;
        bp_fsck_line(&fsck->report, "store: DAMAGED: %s", why.message);
        return BP_OK;
    }
    hex(fsck->store_id, text);
    bp_fsck_line(&fsck->report, "store %s: format %u", text, BP_FORMAT_VERSION);
    return BP_OK;
}

/* ---- checkpoints ---------------------------------------------------------------------------- */

static int remember_named(struct fsck *fsck, const struct bp_ckpt_summary *summary,
                          struct bp_error *err) {
    size_t n = (size_t)fsck->n_named + summary->n_segments;
    struct bp_ckpt_segment *named = realloc(fsck->named, (n + 1) * sizeof *named);
    if (named == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a check");
    }
    if (summary->n_segments > 0) {
        memcpy(named + fsck->n_named, summary->segments, summary->n_segments * sizeof *named);
    }
    fsck->named = named;
    fsck->n_named = (uint32_t)n;
    return BP_OK;
}

static int report_checkpoint(struct fsck *fsck, uint64_t number, struct bp_error *err) {
    char path[BP_CKPT_PATH_MAX];
    struct bp_ckpt_summary summary;
    struct bp_error why = {0};
    bp_ckpt_path(fsck->dir, number, false, path);
    int code = bp_ckpt_verify(fsck->disk, path, BP_SITE_CHECKPOINT_READ, &summary, &why);
    if (why.reason == BP_REASON_OUT_OF_MEMORY || why.reason == BP_REASON_FORMAT_UNSUPPORTED) {
        *err = why;
        return code;
    }
    if (code != BP_OK) {
        fsck->damages++;
        bp_fsck_line(&fsck->report, "checkpoint %016" PRIx64 ".ckpt: DAMAGED: %s", number,
                     why.message);
        return BP_OK;
    }
    const struct bp_ckpt_meta *meta = &summary.meta;
    if (fsck->identified && memcmp(summary.header.store_id, fsck->store_id, 16) != 0) {
        fsck->damages++;
        bp_fsck_line(&fsck->report,
                     "checkpoint %016" PRIx64 ".ckpt: DAMAGED: it belongs to another store",
                     number);
    } else {
        bp_fsck_line(&fsck->report,
                     "checkpoint %016" PRIx64 ".ckpt: good, index %" PRIu64 ", revision %" PRIu64
                     ", compacted to %" PRIu64 ", %" PRIu64 " keys, %" PRIu32
                     " segments named, replay from %08" PRIx32 ".log:%" PRIu32,
                     number, meta->applied_index, meta->next_revision - 1,
                     meta->compaction_revision, summary.totals.keys, summary.n_segments,
                     meta->start.segment, meta->start.offset);
        if (!fsck->has_checkpoint) {
            fsck->has_checkpoint = true;
            fsck->checkpoint = number;
        }
        code = remember_named(fsck, &summary, err);
    }
    bp_ckpt_summary_free(&summary);
    return code;
}

static int report_checkpoints(struct fsck *fsck, struct bp_error *err) {
    uint64_t *numbers = NULL;
    uint32_t n = 0;
    int code = bp_ckpt_list(fsck->disk, fsck->dir, &numbers, &n, err);
    for (uint32_t i = 0; i < n && code == BP_OK; i++) {
        code = report_checkpoint(fsck, numbers[i], err);
    }
    free(numbers);
    if (code == BP_OK && n == 0) {
        bp_fsck_line(&fsck->report, "checkpoint: none");
    }
    return code;
}

/* ---- segments ------------------------------------------------------------------------------- */

static const char *verdict(const struct bp_survey *survey) {
    return survey->orphan              ? "not used any more, the next start removes it"
           : bp_survey_damaged(survey) ? "DAMAGED"
           : survey->torn_at != 0      ? "good, with a torn tail that nobody was promised"
                                       : "good";
}

static void describe_content(const struct bp_survey *survey, char text[320]) {
    bool log = survey->kind == BP_SEGMENT_LOG;
    int n = snprintf(text, 320, "%" PRIu64 " of %" PRIu64 " bytes used, %" PRIu64 " %s",
                     survey->end, survey->size, survey->units, log ? "frames" : "records");
    if (log && survey->entries > 0 && n > 0 && n < 320) {
        n += snprintf(text + n, (size_t)(320 - n),
                      ", %" PRIu64 " entries, index %" PRIu64 " to %" PRIu64, survey->entries,
                      survey->first_index, survey->last_index);
    }
    if (survey->last_revision > 0 && n > 0 && n < 320) {
        (void)snprintf(text + n, (size_t)(320 - n), ", revision %" PRIu64 " to %" PRIu64,
                       survey->first_revision, survey->last_revision);
    }
}

static void report_segment(struct fsck *fsck, const struct bp_survey *survey) {
    const char *suffix = survey->kind == BP_SEGMENT_LOG ? "log" : "set";
    struct bp_buffer *report = &fsck->report;
    fsck->damages += bp_survey_damaged(survey);
    if (!survey->read || !survey->headed) {
        bp_fsck_line(report, "segment %08" PRIx32 ".%s: %s: %s", survey->id, suffix,
                     verdict(survey), survey->error.message);
        return;
    }
    char content[320];
    describe_content(survey, content);
    bp_fsck_line(report, "segment %08" PRIx32 ".%s: %s, %s", survey->id, suffix, verdict(survey),
                 content);
    uint64_t shown = survey->n_damages < BP_SURVEY_DAMAGES ? survey->n_damages : BP_SURVEY_DAMAGES;
    for (uint64_t i = 0; i < shown; i++) {
        bp_fsck_line(report, "segment %08" PRIx32 ".%s: %s at offset %" PRIu64 " to %" PRIu64,
                     survey->id, suffix, survey->torn_at != 0 ? "torn" : "damage",
                     survey->damages[i].from, survey->damages[i].to);
    }
    if (survey->n_damages > shown) {
        bp_fsck_line(report, "segment %08" PRIx32 ".%s: and %" PRIu64 " more", survey->id, suffix,
                     survey->n_damages - shown);
    }
    if (survey->bad_values > 0) {
        bp_fsck_line(report,
                     "segment %08" PRIx32 ".%s: %" PRIu64
                     " values fail their checksums, the first in the record at offset %" PRIu64,
                     survey->id, suffix, survey->bad_values, survey->bad_value_at);
    }
}

static const struct bp_survey *find(const struct bp_surveys *surveys, uint32_t id) {
    for (uint32_t i = 0; i < surveys->n; i++) {
        if (surveys->list[i].id == id) {
            return &surveys->list[i];
        }
    }
    return NULL;
}

/* The log as its headers link it, newest first, to where replay begins or the links end. */
static void report_chain(struct fsck *fsck, const struct bp_surveys *surveys) {
    const struct bp_survey *at = NULL;
    for (uint32_t i = 0; i < surveys->n; i++) {
        const struct bp_survey *survey = &surveys->list[i];
        at = survey->kind == BP_SEGMENT_LOG && survey->headed ? survey : at;
    }
    char text[512] = "";
    size_t used = 0;
    while (at != NULL && used + 64 < sizeof text) {
        uint32_t before = at->header.previous_end.segment;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%08" PRIx32,
                                 used == 0 ? "" : " <- ", at->id);
        at = before == 0 ? NULL : find(surveys, before);
        if (before != 0 && at == NULL) {
            used += (size_t)snprintf(text + used, sizeof text - used, " <- %08" PRIx32 " (gone)",
                                     before);
        }
    }
    bp_fsck_line(&fsck->report, "log: %s%s", used == 0 ? "no segment" : text,
                 at != NULL ? " <- ..." : "");
}

static void report_missing(struct fsck *fsck, const struct bp_surveys *surveys) {
    for (uint32_t i = 0; i < fsck->n_named; i++) {
        const struct bp_ckpt_segment *named = &fsck->named[i];
        bool repeated = false;
        for (uint32_t j = 0; j < i; j++) {
            repeated |= fsck->named[j].id == named->id;
        }
        if (!repeated && find(surveys, named->id) == NULL) {
            fsck->damages++;
            bp_fsck_line(&fsck->report,
                         "segment %08" PRIx32
                         ".%s: DAMAGED: a checkpoint names it, and it is missing",
                         named->id, named->kind == BP_SEGMENT_LOG ? "log" : "set");
        }
    }
}

/* ---- would it open? ------------------------------------------------------------------------- */

static int try_open(struct fsck *fsck, struct bp_error *err) {
    struct bp_overlay *overlay;
    int code = bp_overlay_new(fsck->disk, fsck->dir, &overlay, err);
    if (code != BP_OK) {
        return code;
    }
    struct bp_options options = {.dir = fsck->dir, .manual = 1, .disk_reserve = 1};
    struct bp_store *store = NULL;
    struct bp_error why = {0};
    fsck->opens = bp_store_open(&options, bp_overlay_disk(overlay), &store, &why) == BP_OK;
    if (fsck->opens) {
        bp_fsck_line(&fsck->report,
                     "open: it would, with %" PRIu64 " log entries replayed (%" PRIu64
                     " bytes of log read), %" PRIu64 " bytes of unfinished tail copied, %" PRIu64
                     " discarded; revision %" PRIu64,
                     store->recovery_entries, store->recovery_log_bytes,
                     store->recovery_copied_bytes, store->recovery_discarded_bytes,
                     atomic_load(&store->revision));
        bp_store_abandon(store);
    } else {
        bp_fsck_line(&fsck->report, "open: it would NOT: %s", why.message);
    }
    bp_overlay_free(overlay);
    return BP_OK;
}

static void report_advice(struct fsck *fsck, const struct bp_store_files *files) {
    const char *advice = "nothing to do";
    if (files->restoring) {
        advice = "an unfinished restore: remove the directory and restore again";
    } else if (!fsck->opens) {
        advice = "restore a backup into a new directory, or salvage what is intact with `bedplate "
                 "fsck --rebuild NEW-DIRECTORY`; keep this "
                 "directory until the result is checked";
    } else if (fsck->damages > 0) {
        advice = "the store opens, but what is damaged will be refused when it is read: back up "
                 "what can be read, and restore the rest from an "
                 "older backup; check the disk";
    }
    bp_fsck_line(&fsck->report, "advice: %s", advice);
}

/* ---- all of it ------------------------------------------------------------------------------ */

static int report_all(struct fsck *fsck, const struct bp_store_files *files,
                      struct bp_surveys *surveys, struct bp_error *err) {
    int code = report_identity(fsck, files, err);
    code = code != BP_OK ? code : report_checkpoints(fsck, err);
    code = code != BP_OK
               ? code
               : bp_survey_all(fsck->disk, fsck->dir, fsck->has_checkpoint ? fsck->named : NULL,
                               fsck->n_named, surveys, err);
    if (code != BP_OK) {
        return code;
    }
    for (uint32_t i = 0; i < surveys->n; i++) {
        report_segment(fsck, &surveys->list[i]);
    }
    report_missing(fsck, surveys);
    report_chain(fsck, surveys);
    code = try_open(fsck, err);
    report_advice(fsck, files);
    return code;
}

static int salvage(struct fsck *fsck, const struct bp_surveys *surveys, const char *rebuild_dir,
                   struct bp_error *err) {
    uint8_t store_id[16];
    memcpy(store_id, fsck->store_id, sizeof store_id);
    for (uint32_t i = 0; i < surveys->n && !fsck->identified; i++) {
        if (surveys->list[i].headed) { /* STORE is lost; every header says the same */
            memcpy(store_id, surveys->list[i].header.store_id, sizeof store_id);
            break;
        }
    }
    return bp_salvage(fsck->disk, fsck->dir, store_id,
                      fsck->has_checkpoint ? &fsck->checkpoint : NULL, surveys, rebuild_dir,
                      &fsck->report, err);
}

static int check(struct fsck *fsck, const struct bp_store_files *files, const char *rebuild_dir,
                 struct bp_error *err) {
    struct bp_surveys surveys = {0};
    int code = report_all(fsck, files, &surveys, err);
    if (code == BP_OK && rebuild_dir != NULL) {
        code = salvage(fsck, &surveys, rebuild_dir, err);
    }
    bp_surveys_free(&surveys);
    free(fsck->named);
    return code;
}

int bp_fsck_on(struct bp_disk *disk, const char *dir, const char *rebuild_dir,
               struct bp_reply *reply, struct bp_error *err) {
    struct fsck fsck = {.disk = disk, .dir = dir};
    struct bp_store_files files;
    int lock_fd;
    *reply = (struct bp_reply){0};
    int code = bp_store_files_list(disk, dir, &files, err);
    if (code == BP_OK && !files.store && files.logs == 0 && files.checkpoints == 0 &&
        !files.restoring) {
        code =
            bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_FIELD_INVALID, "%s holds no store", dir);
    }
    code = code != BP_OK ? code : bp_store_lock(disk, dir, &lock_fd, err);
    if (code != BP_OK) {
        return code;
    }
    code = check(&fsck, &files, rebuild_dir, err);
    bp_disk_close(disk, lock_fd);
    if (code == BP_OK && fsck.report.failed) {
        code =
            bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory for a report");
    }
    if (fsck.report.failed) {
        bp_buffer_free(&fsck.report);
    }
    /* Also when something failed: what was found out by then. */
    *reply = (struct bp_reply){.data = fsck.report.data, .size = fsck.report.size};
    if (code == BP_OK && (fsck.damages > 0 || !fsck.opens)) {
        code = bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%s is damaged; the report says where", dir);
    }
    return code;
}

int bp_fsck(const char *dir, const char *rebuild_dir, struct bp_reply *report,
            struct bp_error *err) {
    struct bp_io io;
    bp_io_posix(&io);
    struct bp_disk *disk = bp_disk_new(&io);
    *report = (struct bp_reply){0};
    if (disk == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a check");
    }
    int code = bp_fsck_on(disk, dir, rebuild_dir, report, err);
    bp_disk_free(disk);
    return code;
}

/*
 * Surveys (see survey.h): one segment at a time, whole in memory.
 *
 *   log       [header][frame][frame]xxxxxx[frame][frame]yyyy000000
 *       x: damage, found by going on at the next frame (salt, CRC)
 *   settled   [header][record]xxxx[record][record]0000
 *       y: damage at the end: a torn tail, or damage below a synced mark
 *
 * The end of a log segment is in the header of the one that follows it (`limit`); in the newest one
 * a bad end is a torn tail unless some frame says that the log was durable beyond it. The end of a
 * settled segment is in the checkpoints that name it; what was being copied behind it when the
 * power went is nobody's.
 *
 * Invariant: counts and visits cover exactly the frames and records whose checksums hold.
 */
#include "survey.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "ops.h"

#define PATH_BYTES 4224u
#define FILE_MAX (UINT64_C(1) << 30)

struct file {
    uint8_t *bytes;
    uint64_t size;
};

/* ---- files ---------------------------------------------------------------------------------- */

/* At most `max` bytes of it. */
static int read_file(struct bp_disk *disk, const char *path, uint64_t max, struct file *file,
                     struct bp_error *err) {
    int fd = bp_disk_open(disk, BP_SITE_NONE, path, BP_O_READ);
    if (fd < 0) {
        return bp_fail_io(err, fd, "cannot open it");
    }
    int rc = bp_disk_size(disk, fd, &file->size);
    int code = rc < 0 ? bp_fail_io(err, rc, "cannot get its size") : BP_OK;
    if (code == BP_OK && file->size > FILE_MAX) {
        code = bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%" PRIu64 " bytes are more than a segment can have", file->size);
    }
    uint64_t n = file->size < max ? file->size : max;
    file->bytes = code == BP_OK ? malloc(n + 1) : NULL;
    if (code == BP_OK && file->bytes == NULL) {
        code = bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory to read it");
    }
    rc = code == BP_OK ? bp_disk_read(disk, BP_SITE_RECOVER_READ, fd, file->bytes, n, 0) : 0;
    bp_disk_close(disk, fd);
    if (rc < 0) {
        free(file->bytes);
        file->bytes = NULL;
        return bp_fail_io(err, rc, "cannot read it");
    }
    return code;
}

static void segment_path(const char *dir, const struct bp_survey *survey, char path[PATH_BYTES]) {
    (void)snprintf(path, PATH_BYTES, "%s/%08" PRIx32 ".%s", dir, survey->id,
                   survey->kind == BP_SEGMENT_LOG ? "log" : "set");
}

/* ---- one segment ---------------------------------------------------------------------------- */

struct scan {
    struct bp_survey *survey;
    const struct bp_survey_visitor *visitor; /* NULL: only count */
    const uint8_t *bytes;
    uint64_t end; /* no byte from here on counts */
    struct bp_error *err;
};

static void note_range(uint64_t *first, uint64_t *last, uint64_t low, uint64_t high) {
    *first = *first == 0 || low < *first ? low : *first;
    *last = high > *last ? high : *last;
}

static int take_frame(struct scan *scan, const struct bp_frame *frame, uint64_t at) {
    struct bp_survey *survey = scan->survey;
    uint32_t offset = 0;
    struct bp_entry entry;
    struct bp_hardstate hardstate;
    int record, code = BP_OK;
    if (bp_pos_u64(frame->synced_through) > bp_pos_u64(survey->synced)) {
        survey->synced = frame->synced_through;
    }
    while (code == BP_OK &&
           (record = bp_frame_next_record(frame, &offset, &entry, &hardstate)) > 0) {
        if (record != 1) {
            continue;
        }
        entry.at.segment = survey->id;
        entry.at.offset += (uint32_t)at;
        survey->entries++;
        note_range(&survey->first_index, &survey->last_index, entry.index, entry.index);
        if (entry.count > 0) {
            note_range(&survey->first_revision, &survey->last_revision, entry.first_revision,
                       entry.first_revision + entry.count - 1);
        }
        if (scan->visitor != NULL && scan->visitor->entry != NULL) {
            code = scan->visitor->entry(scan->visitor->arg, &entry, scan->err);
        }
    }
    return code;
}

static int take_record(struct scan *scan, const struct bp_settled_record *record, uint64_t at) {
    struct bp_survey *survey = scan->survey;
    const struct bp_value_ref *value = &record->version.value;
    bool sound = bp_value_checksum(bp_slice(scan->bytes + value->at.offset, value->size), NULL) ==
                 value->crc;
    if (!sound && survey->bad_values++ == 0) {
        survey->bad_value_at = at;
    }
    note_range(&survey->first_revision, &survey->last_revision, record->version.revision,
               record->version.revision);
    return scan->visitor != NULL && scan->visitor->record != NULL
               ? scan->visitor->record(scan->visitor->arg, record, sound, scan->err)
               : BP_OK;
}

/* The good unit at `at`: its size, or 0. */
static uint64_t take_unit(struct scan *scan, uint64_t at, int *code) {
    const struct bp_segment_header *header = &scan->survey->header;
    uint64_t left = scan->end - at, size = 0;
    if (header->kind == BP_SEGMENT_LOG) {
        struct bp_frame frame;
        if (bp_frame_decode(scan->bytes + at, left, header->salt, &frame, &size) != BP_OK) {
            return 0;
        }
        *code = take_frame(scan, &frame, at);
    } else {
        struct bp_settled_record record;
        if (bp_settled_decode(scan->bytes + at, left, header->id, (uint32_t)at, header->salt,
                              &record) != BP_OK) {
            return 0;
        }
        *code = take_record(scan, &record, at);
        size = record.size;
    }
    scan->survey->units++;
    return size;
}

static bool all_zero(const uint8_t *bytes, uint64_t n) {
    return n == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0);
}

static void note_damage(struct bp_survey *survey, uint64_t from, uint64_t to) {
    if (survey->n_damages < BP_SURVEY_DAMAGES) {
        survey->damages[survey->n_damages] = (struct bp_survey_damage){.from = from, .to = to};
    }
    survey->n_damages++;
}

/* The first place from `at` on where a unit can begin: its salt is there. */
static uint64_t next_salt(const struct scan *scan, uint64_t at) {
    const struct bp_segment_header *header = &scan->survey->header;
    uint64_t salt_at = header->kind == BP_SEGMENT_LOG ? 0 : 48; /* in a frame, in a record */
    for (; at + salt_at + 8 <= scan->end; at += 8) {
        if (bp_get_u64(scan->bytes + at + salt_at) == header->salt) {
            return at;
        }
    }
    return scan->end;
}

static int scan_units(struct scan *scan) {
    struct bp_survey *survey = scan->survey;
    uint64_t at = BP_SEGMENT_HEADER, good = at; /* `good`: everything before it is accounted for */
    int code = BP_OK;
    while (code == BP_OK && (at = next_salt(scan, at)) < scan->end) {
        uint64_t size = take_unit(scan, at, &code);
        if (size == 0) {
            at += 8;
            continue;
        }
        if (at > good) {
            note_damage(survey, good, at);
        }
        good = at += size;
    }
    survey->end = good;
    /*
     * Behind the last unit a new segment is zeros; in one that was followed by another nothing may
     * be missing.
     */
    if (code == BP_OK && good < scan->end &&
        (survey->limit != 0 || !all_zero(scan->bytes + good, scan->end - good))) {
        note_damage(survey, good, scan->end);
    }
    return code;
}

static int scan_segment(struct bp_survey *survey, const struct bp_survey_visitor *visitor,
                        const struct file *file, struct bp_error *err) {
    struct scan scan = {
        .survey = survey, .visitor = visitor, .bytes = file->bytes, .end = file->size, .err = err};
    if (survey->limit != 0 && survey->limit < scan.end) {
        scan.end = survey->limit;
    }
    int code = scan_units(&scan);
    if (survey->limit > file->size) {
        note_damage(survey, file->size, survey->limit);
    }
    return code;
}

static void read_header(struct bp_survey *survey, const struct file *file, const char *path) {
    if (file->size < BP_SEGMENT_HEADER) {
        bp_fail(&survey->error, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                "it is shorter than its header");
        return;
    }
    if (bp_segment_header_decode(file->bytes, path, &survey->header, &survey->error) != BP_OK) {
        return;
    }
    survey->headed = survey->header.id == survey->id && survey->header.kind == survey->kind;
    if (!survey->headed) {
        bp_fail(&survey->error, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                "its header is that of segment %08" PRIx32, survey->header.id);
    }
}

/* Reading fails only for want of memory: else the file is simply one that cannot be read. */
static int load(struct bp_disk *disk, const char *dir, struct bp_survey *survey, uint64_t max,
                struct file *file, struct bp_error *err) {
    char path[PATH_BYTES];
    segment_path(dir, survey, path);
    *file = (struct file){0};
    int code = read_file(disk, path, max, file, &survey->error);
    if (code != BP_OK && survey->error.reason == BP_REASON_OUT_OF_MEMORY) {
        *err = survey->error;
        return code;
    }
    survey->size = file->size;
    survey->read = code == BP_OK;
    if (survey->read && !survey->headed) {
        read_header(survey, file, path);
    }
    return BP_OK;
}

/* ---- all of them ---------------------------------------------------------------------------- */

static bool parse_name(const char *name, uint32_t *id, int *kind) {
    *id = 0;
    for (int i = 0; i < 8; i++) {
        char c = name[i];
        bool digit = c >= '0' && c <= '9', letter = c >= 'a' && c <= 'f';
        if (!digit && !letter) {
            return false;
        }
        *id = *id << 4 | (uint32_t)(digit ? c - '0' : c - 'a' + 10);
    }
    *kind = strcmp(name + 8, ".log") == 0 ? BP_SEGMENT_LOG : BP_SEGMENT_SETTLED;
    return *kind == BP_SEGMENT_LOG || strcmp(name + 8, ".set") == 0;
}

static int note_name(void *arg, const char *name) {
    struct bp_surveys *surveys = arg;
    uint32_t id;
    int kind;
    if (!parse_name(name, &id, &kind)) {
        return 0;
    }
    if (surveys->n == surveys->capacity) {
        uint32_t capacity = surveys->capacity == 0 ? 16 : surveys->capacity * 2;
        struct bp_survey *list = realloc(surveys->list, capacity * sizeof *list);
        if (list == NULL) {
            return -ENOMEM;
        }
        surveys->list = list;
        surveys->capacity = capacity;
    }
    surveys->list[surveys->n++] = (struct bp_survey){.id = id, .kind = kind};
    return 0;
}

static int by_id(const void *a, const void *b) {
    uint32_t x = ((const struct bp_survey *)a)->id, y = ((const struct bp_survey *)b)->id;
    return x < y ? -1 : x > y;
}

/*
 * Where each log segment ends, by the header of the one that goes on from it: the newest that says
 * so. What a header jumps over is void.
 */
static void limit_logs(struct bp_surveys *surveys) {
    for (uint32_t i = 0; i < surveys->n; i++) {
        const struct bp_survey *later = &surveys->list[i];
        struct bp_pos end = later->header.previous_end;
        for (uint32_t j = 0; j < i && later->headed && later->kind == BP_SEGMENT_LOG; j++) {
            struct bp_survey *survey = &surveys->list[j];
            if (survey->id == end.segment) {
                survey->limit = end.offset;
            }
            survey->orphan |=
                survey->kind == BP_SEGMENT_LOG && survey->headed && survey->id > end.segment;
        }
    }
}

static void limit_settled(struct bp_surveys *surveys, const struct bp_ckpt_segment *named,
                          uint32_t n_named) {
    for (uint32_t i = 0; i < surveys->n && named != NULL; i++) {
        struct bp_survey *survey = &surveys->list[i];
        for (uint32_t j = 0; j < n_named && survey->kind == BP_SEGMENT_SETTLED; j++) {
            if (named[j].id == survey->id && named[j].used > survey->limit) {
                survey->limit = named[j].used;
            }
        }
        survey->orphan |= survey->kind == BP_SEGMENT_SETTLED && survey->limit == 0;
    }
}

/*
 * The newest log segment's bad end is a torn tail unless it was durable beyond it; a settled one's
 * where nobody knows its end.
 */
static void judge_tails(struct bp_surveys *surveys) {
    struct bp_survey *newest = NULL;
    struct bp_pos synced = {0};
    for (uint32_t i = 0; i < surveys->n; i++) {
        struct bp_survey *survey = &surveys->list[i];
        if (survey->kind == BP_SEGMENT_SETTLED && survey->limit == 0 && survey->n_damages == 1 &&
            survey->damages[0].from == survey->end) {
            survey->torn_at = survey->end;
        }
        if (survey->kind == BP_SEGMENT_LOG && survey->headed) {
            newest = survey;
            if (bp_pos_u64(survey->synced) > bp_pos_u64(synced)) {
                synced = survey->synced;
            }
        }
    }
    if (newest == NULL || newest->n_damages == 0 || newest->limit != 0) {
        return;
    }
    uint64_t at = newest->damages[0].from;
    if (bp_pos_u64(synced) <=
        bp_pos_u64((struct bp_pos){.segment = newest->id, .offset = (uint32_t)at})) {
        newest->torn_at = at; /* everything from the first bad frame on goes, even good ones */
    }
}

int bp_survey_all(struct bp_disk *disk, const char *dir, const struct bp_ckpt_segment *named,
                  uint32_t n_named, struct bp_surveys *surveys, struct bp_error *err) {
    *surveys = (struct bp_surveys){0};
    int rc = bp_disk_list(disk, dir, note_name, surveys);
    int code = rc < 0 ? bp_fail_io(err, rc, "%s: cannot be listed", dir) : BP_OK;
    if (code == BP_OK && surveys->n > 1) {
        qsort(surveys->list, surveys->n, sizeof *surveys->list, by_id);
    }
    struct file file;
    for (uint32_t i = 0; i < surveys->n && code == BP_OK;
         i++) { /* headers first: they say where others end */
        code = load(disk, dir, &surveys->list[i], BP_SEGMENT_HEADER, &file, err);
        free(file.bytes);
    }
    limit_logs(surveys);
    limit_settled(surveys, named, n_named);
    for (uint32_t i = 0; i < surveys->n && code == BP_OK; i++) {
        struct bp_survey *survey = &surveys->list[i];
        if (survey->headed) {
            code = load(disk, dir, survey, FILE_MAX, &file, err);
            code = code == BP_OK && survey->read ? scan_segment(survey, NULL, &file, err) : code;
            free(file.bytes);
        }
    }
    if (code == BP_OK) {
        judge_tails(surveys);
    } else {
        bp_surveys_free(surveys);
    }
    return code;
}

void bp_surveys_free(struct bp_surveys *surveys) {
    free(surveys->list);
    *surveys = (struct bp_surveys){0};
}

int bp_survey_visit(struct bp_disk *disk, const char *dir, const struct bp_survey *survey,
                    const struct bp_survey_visitor *visitor, struct bp_error *err) {
    struct bp_survey again = *survey; /* counted a second time, and thrown away */
    struct file file;
    if (!survey->headed) {
        return BP_OK;
    }
    int code = load(disk, dir, &again, FILE_MAX, &file, err);
    if (code == BP_OK && again.read) {
        if (again.torn_at != 0 && (again.limit == 0 || again.torn_at < again.limit)) {
            again.limit = again.torn_at;
        }
        code = scan_segment(&again, visitor, &file, err);
    }
    free(file.bytes);
    return code;
}

bool bp_survey_damaged(const struct bp_survey *survey) {
    if (survey->orphan) {
        return false;
    }
    return !survey->read || !survey->headed || survey->bad_values > 0 ||
           (survey->n_damages > 0 && survey->torn_at == 0);
}

/*
 * A survey of a store's directory: what is in each file, damaged or not. Read only, trusting
 * nothing; what fsck reports and salvages from.
 */
#ifndef BP_SURVEY_H
#define BP_SURVEY_H

#include "checkpoint.h"
#include "log.h"
#include "settled.h"

enum { BP_SURVEY_DAMAGES = 8 };

/* What is known of one segment. */
struct bp_survey {
    uint32_t id;
    int kind;
    bool read;             /* the file could be read */
    bool headed;           /* the header is good; without it nothing below is known */
    struct bp_error error; /* why not */
    struct bp_segment_header header;
    uint64_t size; /* of the file */
    bool orphan;   /* nothing refers to it: the next start removes it, and damage in it is none */
    /*
     * What counts ends here: the next log segment's header, or a checkpoint, says so; 0: nobody
     * does.
     */
    uint64_t limit;
    uint64_t end;     /* behind the last good frame or record */
    uint64_t units;   /* good frames, or records */
    uint64_t entries; /* log entries */
    uint64_t first_index, last_index, first_revision, last_revision; /* 0 none */
    struct bp_pos synced; /* the furthest position that a frame of it calls durable */
    uint64_t n_damages;   /* stretches with bytes that are nothing good; the first few: */
    struct bp_survey_damage {
        uint64_t from, to;
    } damages[BP_SURVEY_DAMAGES];
    uint64_t bad_values; /* settled: records whose value fails its checksum; the first at */
    uint64_t bad_value_at;
    uint64_t torn_at; /* the last damage is a tail nobody was promised: from here; 0 none */
};

struct bp_surveys {
    struct bp_survey *list; /* ascending by id */
    uint32_t n, capacity;
};

/*
 * What is found; either may be NULL. A non-zero return stops and is returned. Payloads and keys are
 * borrowed.
 */
struct bp_survey_visitor {
    void *arg;
    int (*entry)(void *arg, const struct bp_entry *entry, struct bp_error *err);
    /* `sound`: the value matches its checksum */
    int (*record)(void *arg, const struct bp_settled_record *record, bool sound,
                  struct bp_error *err);
};

/*
 * All segments of `dir`. Damage is in the result, not an error. `named`: what the good checkpoints
 * name; NULL when there is none, which makes every settled segment worth reading to its end.
 */
int bp_survey_all(struct bp_disk *disk, const char *dir, const struct bp_ckpt_segment *named,
                  uint32_t n_named, struct bp_surveys *surveys, struct bp_error *err);
void bp_surveys_free(struct bp_surveys *surveys);
/* Once more over the good parts of one surveyed segment. */
int bp_survey_visit(struct bp_disk *disk, const char *dir, const struct bp_survey *survey,
                    const struct bp_survey_visitor *visitor, struct bp_error *err);
/* True when there is damage that was promised not to be: not a torn tail. */
bool bp_survey_damaged(const struct bp_survey *survey);

#endif

/*
 * What clean.c (what to clean) and clean_copy.c (how) share. Everything here belongs to whoever
 * holds keeper.mutex.
 */
#ifndef BP_CLEAN_H
#define BP_CLEAN_H

#include "keeper.h"
#include "log_internal.h"
#include "settled.h"

#define BP_CLEAN_BATCH (1u << 20) /* bytes of records written and synced at once */
#define BP_CLEAN_COPIES 16384u    /* records of one batch */
#define BP_CLEAN_EXAMINE 1000u    /* values looked at in one step */
#define BP_CLEAN_EMPTIED_MAX 64u

/* A value that was copied into the batch and still has to be pointed at. */
struct bp_clean_copy {
    uint64_t revision;
    struct bp_pos from, to;
    uint32_t size;
    uint32_t key_at; /* in the batch */
    uint32_t key_size;
};

struct bp_cleaner {
    /* checkpoint_load.c: live bytes of segments that were not in the table yet */
    struct bp_clean_loaded {
        uint32_t segment;
        uint64_t live;
    } *loaded;
    uint32_t n_loaded, loaded_capacity;

    struct bp_segment *filling; /* the settled segment that takes copies; NULL none */
    uint8_t *batch;             /* records that go to filling->used */
    uint32_t batch_size;
    uint64_t batch_value_bytes;
    struct bp_clean_copy *copies;
    uint32_t n_copies;

    uint32_t victim; /* id of the segment being emptied; 0 none */
    uint64_t offset; /* of the next frame or record in it */
    struct bp_frame_reader reader;
    bool reader_made;
    bool in_frame; /* log: `frame` is being read, its records from `record` on */
    struct bp_frame frame;
    uint64_t frame_at;
    uint32_t record;

    struct bp_clean_emptied {
        uint32_t segment;
        uint64_t ticket; /* when it has passed no reader holds a place in the segment */
    } emptied[BP_CLEAN_EMPTIED_MAX];
    uint32_t n_emptied;

    uint64_t sealed_bytes, live_bytes; /* as of the last look */
    uint32_t trims;    /* counts trim steps, so that every so often something else gets a turn */
    bool worked;       /* the last step did more than trim */
    uint64_t retry_ns; /* after a failure: not before this (threads only) */
};

enum bp_clean_progress {
    BP_CLEAN_MORE = 1,   /* the victim is not done */
    BP_CLEAN_DONE = 2,   /* everything that could be copied was, and is pointed at */
    BP_CLEAN_FAILED = 3, /* a write failed; nothing was lost, the victim is let go */
};

/* The store's, made at the first use; NULL: out of memory. */
struct bp_cleaner *bp_cleaner_of(struct bp_store *store);
/* Begin with `victim`; false when out of memory. */
bool bp_clean_begin(struct bp_store *store, struct bp_cleaner *cleaner,
                    const struct bp_segment *victim);
/* A bounded step of copying. */
enum bp_clean_progress bp_clean_advance(struct bp_store *store, struct bp_cleaner *cleaner);
/*
 * A value that came from elsewhere, in place of the version's damaged one: copied as one that is
 * cleaned. Its checksum is the version's (asserted). keeper.mutex held.
 */
int bp_clean_settle(struct bp_store *store, struct bp_slice key, const struct bp_version *version,
                    struct bp_slice value, struct bp_error *err);
/* No more records go to the filling segment; its preallocated rest is given back. */
void bp_clean_seal(struct bp_store *store, struct bp_cleaner *cleaner);
/* Give back what was allocated and not written, and go on filling later. */
void bp_clean_shrink(struct bp_store *store, struct bp_cleaner *cleaner);

#endif

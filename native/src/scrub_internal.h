/* One pass of scrubbing, as its stages share it (scrub.c, scrub_versions.c, scrub_files.c). */
#ifndef BP_SCRUB_INTERNAL_H
#define BP_SCRUB_INTERNAL_H

#include "checkpoint.h"
#include "log_internal.h"
#include "scrub.h"
#include "store.h"

#define BP_SCRUB_STEP (1u << 20) /* bytes a step reads, about */
#define BP_SCRUB_VERSION_COST                                                                      \
    64u /* what looking at one counts beside its bytes, so that small values bound a step too */
#define BP_SCRUB_VERSIONS (BP_SCRUB_STEP / BP_SCRUB_VERSION_COST)

enum bp_scrub_stage {
    BP_SCRUB_HASH,
    BP_SCRUB_VALUES,
    BP_SCRUB_LOG,
    BP_SCRUB_CHECKPOINTS,
    BP_SCRUB_END
};

enum {
    BP_SCRUB_MORE = 0,
    BP_SCRUB_FINDING = 1,
    BP_SCRUB_DONE = 2
}; /* what a stage's step returns; else an error code */

/* Versions gathered from the index; keys once each. */
struct bp_scrub_entry {
    struct bp_version version;
    uint32_t key_at, key_size;
};

struct bp_scrub_piece {
    uint32_t n, key_bytes;
    uint64_t cost;
    bool values;  /* they will be read: their bytes count */
    bool one_key; /* only the key `start` */
    bool full, other_key;
    struct bp_slice start;
    struct bp_scrub_entry entries[BP_SCRUB_VERSIONS];
    uint8_t keys[BP_SCRUB_STEP];
};

struct bp_scrub {
    struct bp_store *store;
    bool by_keeper; /* who holds keeper.mutex already */
    enum bp_scrub_stage stage;
    uint64_t bytes;

    /*
     * where the walk over the index goes on: at this key; `below`: with its versions below this
     * revision (0: all)
     */
    uint32_t key_size;
    uint64_t below;
    uint8_t key[BP_STORED_KEY_MAX + 1];
    struct bp_scrub_piece *piece;

    /* hash */
    bool pinned;
    uint32_t pin;
    uint64_t revision;
    uint64_t expected[2], sum[2];

    /* log */
    uint32_t segment; /* being read, or the last one read */
    uint64_t offset;  /* of the next frame; 0: take the next segment */
    uint64_t sequence;
    struct bp_frame_reader reader;
    bool reader_made;

    /* checkpoints */
    uint64_t *numbers;
    uint32_t n_numbers, number_at;
    bool listed, open;
    struct bp_ckpt_file file;
    char path[BP_CKPT_PATH_MAX];

    uint8_t scratch[BP_CRC_CHUNK];
};

int bp_scrub_hash(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err);
int bp_scrub_values(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err);
int bp_scrub_log(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err);
int bp_scrub_checkpoints(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err);
/* A failure that is damage, or a medium that will not read, which to its owner is the same. */
bool bp_scrub_is_damage(const struct bp_error *err);

#endif

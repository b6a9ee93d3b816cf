/* What reading a damaged directory (salvage.c) hands to writing a new one (salvage_export.c). */
#ifndef BP_SALVAGE_INTERNAL_H
#define BP_SALVAGE_INTERNAL_H

#include "bare_store.h"
#include "fsck.h"
#include "image.h"

#define BP_SALVAGE_LINES_MAX 1000u /* of one kind; then only counted */

struct bp_salvage_entry {
    uint64_t index, term, first_revision;
    struct bp_pos at; /* of the payload: also the order of appending */
    uint32_t count, size;
    uint8_t type;
};

struct bp_salvage_candidate {
    size_t key_at; /* in `keys` */
    uint32_t key_size;
    struct bp_version version;
};

struct bp_salvage {
    struct bp_disk *disk; /* the overlay's */
    const char *dir;
    struct bp_store *store;
    struct bp_image *image;
    struct bp_buffer *report;
    uint64_t from;     /* the index the checkpoint covers */
    uint64_t revision; /* the newest seen anywhere */
    bool has_checkpoint;

    struct bp_salvage_entry *entries;
    uint64_t n_entries, entries_capacity;
    struct bp_salvage_candidate *candidates; /* by key, newest first */
    uint64_t n_candidates, candidates_capacity;
    struct bp_buffer keys;

    /* the export */
    uint64_t next_candidate;
    uint8_t key[BP_STORED_KEY_MAX];
    uint32_t key_size; /* 0: before the first */
    bool done, first;  /* with this key; at its newest version */
    uint8_t *value;
    struct bp_error *err;
    uint64_t kept, older, lost, leases_dropped, gaps, failed_entries, settled_only;
};

static inline int bp_salvage_no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory to salvage");
}

/* Leases and request ids, before the keys. */
int bp_salvage_export_state(struct bp_salvage *salvage, struct bp_error *err);
/* Every key's newest intact version. */
int bp_salvage_export_keys(struct bp_salvage *salvage, struct bp_error *err);

#endif

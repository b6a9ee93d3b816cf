/*
 * What the writing of a checkpoint shares: the cut (checkpoint_cut.c), the bytes
 * (checkpoint_writer.c), the file and which are kept (checkpoint.c).
 */
#ifndef BP_CHECKPOINT_INTERNAL_H
#define BP_CHECKPOINT_INTERNAL_H

#include "checkpoint.h"
#include "store.h"

static inline int bp_ckpt_no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "no memory for a checkpoint");
}

/* All replicated state but the versions, as of one applied index; and a pin that keeps those. */
struct bp_ckpt_cut {
    struct bp_ckpt_meta meta;
    uint64_t log_bytes; /* appended since the last checkpoint */
    uint32_t pin;
    struct bp_lease_record *leases;
    uint64_t n_leases;
    struct bp_request_id_record *request_ids;
    uint64_t n_request_ids;
};

int bp_ckpt_cut_take(struct bp_store *store, enum bp_pin_kind kind, struct bp_ckpt_cut *cut,
                     struct bp_error *err);
void bp_ckpt_cut_drop(struct bp_store *store, struct bp_ckpt_cut *cut);

/* A checkpoint's file while it is written. */
struct bp_ckpt_writer {
    struct bp_store *store;
    int fd;
    uint64_t offset, synced; /* bytes written, bytes of them synced */
    uint64_t piece_began_ns;
    struct bp_buffer block; /* header's room, then the payload so far */
    uint32_t section;
    uint32_t number;
    struct bp_ckpt_totals totals;
    /* the walk */
    struct bp_ckpt_version_writer versions;
    struct bp_ckpt_segment *segments; /* ascending */
    uint32_t n_segments, segments_capacity, segment_hint;
};

/* The whole file, header to trailer, synced. The caller frees block and segments. */
int bp_ckpt_write_sections(struct bp_ckpt_writer *writer, const struct bp_ckpt_cut *cut,
                           uint64_t number, struct bp_error *err);

#endif

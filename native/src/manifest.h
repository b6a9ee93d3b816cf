/*
 * The manifest: what a snapshot for another member says, as a stream of blocks. All replicated state
 * at one applied index, without a place and without a value: the receiver asks for the values it
 * lacks (fetch.h).
 *
 *   stream   [HEADER][META][LEASES]*[REQUEST_IDS]*[VERSIONS]*[TRAILER]
 *            blocks of a checkpoint (checkpoint.h): CRC32C, size, section, number
 *
 *   HEADER   0 magic[8] "BPMANIF\0"  8 u32 format version  12 u32 zero  16 sender's store id[16]
 *   META     0 u64 applied index  8 u64 its term  16 u64 next revision  24 u64 compaction revision
 *           32 state hash[16]  48 state hash[16] at the last compaction entry, 64 u64 its index
 *           72 u32 size of what follows  76 u32 zero  80 CONFIG payload (system.h)
 *   LEASES, REQUEST_IDS   as in a checkpoint
 *   VERSIONS              as in a checkpoint, the records without segment and offset
 *   TRAILER  0 u64 leases, request ids, keys, versions, value bytes, blocks before it
 *           48 u32 CRC32C over all other blocks' CRCs in order  52 u32 zero
 *
 * Invariants
 *   - The cut is a checkpoint's: exact, writers go on. The sender pins it until bp_manifest_free.
 *   - What the reader has passed to the end is a state that loads: order, totals and the state hash
 *     come out, and no key keeps more below the compaction revision than one version.
 */
#ifndef BP_MANIFEST_H
#define BP_MANIFEST_H

#include "checkpoint.h"

#define BP_MANIFEST_FORMAT 1u
#define BP_MANIFEST_META_SIZE 80u
#define BP_MANIFEST_TRAILER_SIZE 56u
/* A key with all its versions is in one block; the history's limits keep it far below this. */
#define BP_MANIFEST_BLOCK_MAX (256u << 20)

struct bp_manifest_meta {
    uint64_t applied_index, applied_term;
    uint64_t next_revision, compaction_revision;
    uint64_t state_hash[2];
    uint64_t compaction_hash[2], compaction_hash_index;
    struct bp_system system;
};

struct bp_manifest_totals {
    uint64_t leases, request_ids, keys, versions, value_bytes, blocks;
    uint32_t chain;
};

/* ---- manifest_codec.c: bytes <-> records; pure, fuzzed --------------------------------------- */

void bp_manifest_header_encode(const uint8_t store_id[16], struct bp_buffer *out);
/* DATA_LOSS, or FAILED_PRECONDITION for a newer *format. */
int bp_manifest_header_decode(struct bp_slice payload, uint32_t *format, uint8_t store_id[16]);
void bp_manifest_meta_encode(const struct bp_manifest_meta *meta, struct bp_buffer *out);
bool bp_manifest_meta_decode(struct bp_slice payload, struct bp_manifest_meta *meta);
void bp_manifest_trailer_encode(const struct bp_manifest_totals *totals, struct bp_buffer *out);
bool bp_manifest_trailer_decode(struct bp_slice payload, struct bp_manifest_totals *totals);

/* ---- manifest_reader.c: a stream, in pieces of any size, as verified blocks; pure, fuzzed ---- */

struct bp_manifest_reader {
    struct bp_buffer block; /* as much of the next block as has come */
    bool given;             /* `block` was handed out and goes when more comes */
    bool complete;          /* the trailer has been seen, and all agrees */
    uint32_t section;       /* of the block before */
    uint32_t format;        /* of the sender; meaningful after FAILED_PRECONDITION */
    uint8_t store_id[16];   /* the sender's */
    struct bp_manifest_meta meta;
    struct bp_manifest_totals seen; /* so far */
    uint64_t last_lease;
    uint64_t hash[2];                       /* of the newest versions so far */
    struct bp_ckpt_version_reader versions; /* scratch, and the last key */
};

/* Its size is that of a key: not for small stacks. */
void bp_manifest_reader_init(struct bp_manifest_reader *reader);
void bp_manifest_reader_free(struct bp_manifest_reader *reader);
/*
 * Takes bytes off the front of *bytes. 1: *block is whole, and all in it is verified (borrowed until
 * the next call); 0: all bytes are taken. -1 damaged, or more after the end; -2 a newer format; -3
 * out of memory: the reader is of no more use.
 */
int bp_manifest_read(struct bp_manifest_reader *reader, struct bp_slice *bytes,
                     struct bp_ckpt_block *block);

#endif

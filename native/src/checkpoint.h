/*
 * The checkpoint file: an exact cut of all replicated state, and where in the log replay goes on.
 *
 *   <dir>/%016llx.ckpt    the number is the applied index, or one above the newest number: two
 *                         checkpoints at one index (the second without a segment that cleaning
 *                         emptied) have two names
 *
 *   file     [HEADER][META][LEASES]*[REQUEST_IDS]*[VERSIONS]*[SEGMENTS]*[TRAILER]
 *            one block each, or (*) as many as it takes
 *
 *   block    0 u32 CRC32C of bytes 4.. of the block   4 u32 payload size   8 u32 section
 *           12 u32 number of the block in the file
 *            16 payload (about 256 KiB at most; one key with very many versions may be longer)
 *
 *   HEADER   0 magic[8] "BPCKPT\0\0"  8 u32 format version  12 u32 zero  16 store id[16]
 *           32 u64 number
 *   META     0 u64 applied index  8 u64 its term  16 u64 next revision  24 u64 compaction revision
 *           32 u32 segment, 36 u32 offset, 40 u64 sequence: where replay starts; sequence
 *              BP_LOG_ANEW (log.h): an installed snapshot, and nothing before it counts
 *           48 u64 Raft-compacted index  56 u64 term, 64 u64 vote, 72 u64 commit: HARDSTATE
 *           80 u64 member id  88 state hash[16]
 *          104 state hash[16] at the last compaction entry, 120 u64 that entry's index
 *          128 u32 size of the CONFIG payload  132 u32 size of what follows it, 0 or 8
 *          136 CONFIG payload (system.h)
 *              u32 segment, u32 offset: the log was durable through here, where that is not where
 *              replay starts: every value of the versions lies before it
 *   LEASES   records: u64 id, u64 ttl_ms; ascending
 *   REQUEST_IDS  records: u64 fingerprint, revision, deleted, lease, ttl_ms; u8 succeeded,
 *            u8 id size, id; oldest first
 *   VERSIONS records: 0 u8 flags: NEW_KEY 1, TOMBSTONE 2, LEASE 4, FIRST 8, EMPTY 16
 *            NEW_KEY: varint bytes shared with the key before it in this block, varint size of
 *            the rest, the rest; keys ascending
 *            varint revision (NEW_KEY), or how much it is below the version before: newest first
 *            unless TOMBSTONE or FIRST (version 1, created at its revision):
 *            varint revision - create_revision, varint version
 *            LEASE: u64 lease
 *            unless TOMBSTONE: u32 crc, and unless EMPTY: varint size, varint segment, u32 offset
 *            A key's versions are all in one block. A value of no bytes lies nowhere.
 *   SEGMENTS records: u32 id, u32 kind, u32 used, u32 zero, u64 value bytes; ascending: every
 *            segment a version names.
 *            used: a log segment holds what versions name below it; a settled one held that much at
 *            the cut
 *            value bytes: settled: of all values in it, dead ones too
 *   TRAILER  0 u64 leases, request ids, keys, versions, segments, blocks before it
 *           48 u64 offset of the first SEGMENTS block  56 u64 size of the file
 *           64 u32 CRC32C over all other blocks' CRCs in order  68 u32 zero
 *
 * Written as .tmp, synced, renamed, directory synced: under its final name it is whole, or damaged.
 */
#ifndef BP_CHECKPOINT_H
#define BP_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "bytes.h"
#include "error.h"
#include "index.h"
#include "io.h"
#include "lease.h"
#include "request_ids.h"
#include "segment.h"
#include "system.h"

enum bp_ckpt_section {
    BP_CKPT_HEADER = 1,
    BP_CKPT_META,
    BP_CKPT_LEASES,
    BP_CKPT_REQUEST_IDS,
    BP_CKPT_VERSIONS,
    BP_CKPT_SEGMENTS,
    BP_CKPT_TRAILER,
};

#define BP_CKPT_BLOCK (256u << 10) /* a block is closed when its payload reaches this */
#define BP_CKPT_BLOCK_HEADER 16u
#define BP_CKPT_HEADER_SIZE 40u
#define BP_CKPT_META_SIZE 136u
#define BP_CKPT_LEASE_SIZE 16u
#define BP_CKPT_SEGMENT_SIZE 24u
#define BP_CKPT_TRAILER_SIZE 72u

struct bp_ckpt_block {
    uint32_t section, number, crc;
    struct bp_slice payload; /* borrowed */
};

struct bp_ckpt_header {
    uint8_t store_id[16];
    uint64_t number;
};

struct bp_ckpt_meta {
    uint64_t applied_index, applied_term;
    uint64_t next_revision, compaction_revision;
    struct bp_pos start; /* replay */
    uint64_t start_sequence;
    struct bp_pos durable; /* segment 0: as `start` */
    uint64_t raft_compacted_index;
    struct bp_hardstate hardstate;
    uint64_t member_id;
    uint64_t state_hash[2];
    uint64_t compaction_hash[2], compaction_hash_index;
    struct bp_system system;
};

struct bp_ckpt_segment {
    uint32_t id, kind, used;
    uint64_t value_bytes;
};

struct bp_ckpt_totals {
    uint64_t leases, request_ids, keys, versions, segments, blocks;
    uint64_t segments_at, file_size;
    uint32_t chain; /* CRC32C over the CRCs of all blocks before the trailer */
};

/* ---- checkpoint_codec.c: bytes <-> records; pure, fuzzed ------------------------------------- */

/*
 * The block at buf[0..n), CRC checked: BP_OK and *size its whole length, or OUT_OF_RANGE when there
 * is none.
 */
int bp_ckpt_block_decode(const uint8_t *buf, uint64_t n, struct bp_ckpt_block *block,
                         uint64_t *size);
/* The length of the block whose first BP_CKPT_BLOCK_HEADER bytes these are (not checked yet). */
uint64_t bp_ckpt_block_size(const uint8_t *header);
/* `block` is a whole block with room for the header in front; fills that in and returns the CRC. */
uint32_t bp_ckpt_block_finish(uint8_t *block, uint32_t payload_size, uint32_t section,
                              uint32_t number);
/*
 * The same for a payload that grows in a buffer, behind the header's room. `end` goes on with the
 * CRC over all blocks' CRCs in *chain; false: no memory, or more than a block can say.
 */
void bp_ckpt_block_begin(struct bp_buffer *block);
bool bp_ckpt_block_end(struct bp_buffer *block, uint32_t section, uint32_t number, uint32_t *chain);

/* How a checkpoint and a backup begin: 0 magic[8]  8 u32 format  12 u32 zero  16 store id[16] */
#define BP_CKPT_HEAD_SIZE 32u
struct bp_ckpt_head {
    uint8_t magic[8];
    uint32_t format; /* the newest that is known */
};
void bp_ckpt_head_put(const struct bp_ckpt_head *head, const uint8_t store_id[16], uint8_t *p);
/* DATA_LOSS, or FAILED_PRECONDITION for a newer *format. */
int bp_ckpt_head_check(const struct bp_ckpt_head *head, struct bp_slice payload, uint32_t *format,
                       uint8_t store_id[16]);

void bp_ckpt_header_encode(const struct bp_ckpt_header *header, struct bp_buffer *out);
/* FORMAT_UNSUPPORTED for a newer format, else DATA_LOSS; no message, the caller knows the file. */
int bp_ckpt_header_decode(struct bp_slice payload, struct bp_ckpt_header *header, uint32_t *format);
void bp_ckpt_meta_encode(const struct bp_ckpt_meta *meta, struct bp_buffer *out);
bool bp_ckpt_meta_decode(struct bp_slice payload, struct bp_ckpt_meta *meta);
void bp_ckpt_lease_encode(const struct bp_lease_record *lease, struct bp_buffer *out);
void bp_ckpt_request_id_encode(const struct bp_request_id_record *record, struct bp_buffer *out);
void bp_ckpt_segment_encode(const struct bp_ckpt_segment *segment, struct bp_buffer *out);
void bp_ckpt_trailer_encode(const struct bp_ckpt_totals *totals, struct bp_buffer *out);
bool bp_ckpt_trailer_decode(struct bp_slice payload, struct bp_ckpt_totals *totals);

/* Each takes one record off the front: 1, 0 at the end, -1 malformed. */
int bp_ckpt_lease_next(struct bp_slice *payload, struct bp_lease_record *lease);
int bp_ckpt_request_id_next(struct bp_slice *payload, struct bp_request_id_record *record);
int bp_ckpt_segment_next(struct bp_slice *payload, struct bp_ckpt_segment *segment);

/* Writes the VERSIONS of one block; zero it when a block begins. */
struct bp_ckpt_version_writer {
    bool any;
    bool placeless; /* a manifest's: no segment, no offset */
    uint32_t key_size;
    uint64_t revision; /* of the version before */
    uint8_t key[BP_STORED_KEY_MAX];
};
/* True when `version` is the first one of a new key. */
bool bp_ckpt_version_encode(struct bp_ckpt_version_writer *writer, struct bp_slice key,
                            const struct bp_version *version, struct bp_buffer *out);

/*
 * Reads the keys of one VERSIONS block. Checks everything but what needs the rest of the file:
 * order of keys and of revisions, sizes, flags.
 */
struct bp_ckpt_version_reader {
    struct bp_slice rest;
    struct bp_version *versions; /* of the key read last; grows */
    uint32_t n, capacity;
    bool placeless;    /* as the writer was */
    uint32_t key_size; /* 0: no key yet */
    uint8_t key[BP_STORED_KEY_MAX];
};
void bp_ckpt_version_reader_init(struct bp_ckpt_version_reader *reader);
void bp_ckpt_version_reader_free(struct bp_ckpt_version_reader *reader);
/* A new block; its first key must be above the last one of the block before. */
void bp_ckpt_version_reader_aim(struct bp_ckpt_version_reader *reader, struct bp_slice payload);
/* 1: key[0..key_size) and versions[0..n); 0 at the end; -1 malformed; -2 out of memory. */
int bp_ckpt_version_next(struct bp_ckpt_version_reader *reader);

/* ---- checkpoint_file.c: a file as a row of blocks -------------------------------------------- */

struct bp_ckpt_file {
    struct bp_disk *disk;
    int fd, site;
    const char *path;
    uint64_t size;   /* of the file */
    uint64_t offset; /* of the next block */
    uint32_t number; /* of the next block */
    bool jumped;     /* `offset` was set by hand: the next block may have any number */
    uint32_t chain;
    uint8_t *window;
    uint64_t window_at, window_filled, window_capacity;
};

int bp_ckpt_file_open(struct bp_ckpt_file *file, struct bp_disk *disk, const char *path, int site,
                      struct bp_error *err);
void bp_ckpt_file_close(struct bp_ckpt_file *file);
/* The next block, borrowed until the next call. DATA_LOSS/STORE_CORRUPT with file and offset. */
int bp_ckpt_file_next(struct bp_ckpt_file *file, struct bp_ckpt_block *block, struct bp_error *err);
/* DATA_LOSS/STORE_CORRUPT: "<path>: <what> at offset <offset>". */
int bp_ckpt_file_corrupt(const struct bp_ckpt_file *file, uint64_t offset, const char *what,
                         struct bp_error *err);

/* What is known of a checkpoint without its versions. */
struct bp_ckpt_summary {
    struct bp_ckpt_header header;
    struct bp_ckpt_meta meta;
    struct bp_ckpt_totals totals;
    struct bp_ckpt_segment *segments; /* owned, ascending */
    uint32_t n_segments;
};
void bp_ckpt_summary_free(struct bp_ckpt_summary *summary);
/* Read and check every byte of the file (also for scrub and fsck). */
int bp_ckpt_verify(struct bp_disk *disk, const char *path, int site,
                   struct bp_ckpt_summary *summary, struct bp_error *err);
/* Only header, META, SEGMENTS and trailer are read and checked. */
int bp_ckpt_peek(struct bp_disk *disk, const char *path, int site, struct bp_ckpt_summary *summary,
                 struct bp_error *err);

#define BP_CKPT_PATH_MAX 4224u
void bp_ckpt_path(const char *dir, uint64_t number, bool tmp, char path[BP_CKPT_PATH_MAX]);
/* Numbers of all NAME.ckpt files, descending, malloc'ed. */
int bp_ckpt_list(struct bp_disk *disk, const char *dir, uint64_t **numbers, uint32_t *n,
                 struct bp_error *err);

/* ---- checkpoint_aside.c: those that could not be used ---------------------------------------- */

struct bp_store;
struct bp_ckpt_aside {
    uint64_t *numbers; /* owned */
    uint32_t n;        /* of them were set aside */
};
/*
 * After bp_checkpoint_load and before the log is opened: those newer than the one loaded lose their
 * name, durably. On failure nothing has changed.
 */
int bp_checkpoint_set_aside(struct bp_store *store, struct bp_ckpt_aside *aside,
                            struct bp_error *err);
/* The log was refused: they have their names again. Best effort. */
void bp_checkpoint_put_back(struct bp_store *store, struct bp_ckpt_aside *aside);
void bp_ckpt_aside_free(struct bp_ckpt_aside *aside);
/* None could be used, and the log did without: all of them go, durably. */
int bp_checkpoint_discard_all(struct bp_store *store, struct bp_error *err);

#endif

/*
 * The backup file: all of a store at one revision, values included, independent of where they lay.
 *
 *   file     [HEADER][LEASES]*[REQUEST_IDS]*[KEYS]*[TRAILER]
 *       blocks of a checkpoint (checkpoint.h): CRC32C, size, section, number
 *
 *   HEADER   0 magic[8] "BPBACKUP"  8 u32 format version  12 u32 zero  16 store id[16]
 *       32 u64 revision  40 u64 compaction revision
 *           48 u64 made at, Unix milliseconds  56 CONFIG payload (system.h), which holds the
 *           cluster id
 *   LEASES, REQUEST_IDS      as in a checkpoint
 *   KEYS     records, keys ascending, each whole in one block:
 *            0 u64 revision  8 u64 create_revision  16 u64 lease  24 u32 version  28 u32 value size
 *            32 u32 value's checksum
 *           36 u16 stored key size  38 u16 zero  40 key, value
 *            The checksum is the one the store keeps (value.h): of the value, or above 64 KiB of
 *            its table of chunk CRCs.
 *   TRAILER  0 u64 leases, request ids, keys, value bytes, blocks before it, size of the file  48
 *   u32 CRC32C over all other blocks' CRCs
 *           52 u32 zero
 *
 * A key appears once, as of the backup's revision: history and deleted keys are not part of a
 * backup. Without its trailer a file is not one.
 */
#ifndef BP_BACKUP_H
#define BP_BACKUP_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "bytes.h"
#include "checkpoint.h"
#include "error.h"
#include "index.h"
#include "io.h"
#include "system.h"

#define BP_BACKUP_FORMAT 1u
#define BP_BACKUP_HEADER_SIZE 56u
#define BP_BACKUP_KEY_SIZE 40u
#define BP_BACKUP_TRAILER_SIZE 56u

/* The checkpoint's numbers, so that its block reader knows the trailer. */
enum bp_backup_section {
    BP_BACKUP_HEADER = BP_CKPT_HEADER,
    BP_BACKUP_LEASES = BP_CKPT_LEASES,
    BP_BACKUP_REQUEST_IDS = BP_CKPT_REQUEST_IDS,
    BP_BACKUP_KEYS = BP_CKPT_VERSIONS,
    BP_BACKUP_TRAILER = BP_CKPT_TRAILER,
};

struct bp_backup_header {
    uint8_t store_id[16];
    uint64_t revision, compaction_revision, made_ms;
    struct bp_system system;
};

struct bp_backup_key {
    struct bp_version version; /* value: size and crc; it lies nowhere */
    struct bp_slice key, value;
};

struct bp_backup_totals {
    uint64_t leases, request_ids, keys, value_bytes, blocks, file_size;
    uint32_t chain;
};

/* ---- backup_codec.c: bytes <-> records; pure, fuzzed ----------------------------------------- */

void bp_backup_header_encode(const struct bp_backup_header *header, struct bp_buffer *out);
/*
 * FORMAT_UNSUPPORTED's code for a newer format, else DATA_LOSS; no message, the caller knows the
 * file.
 */
int bp_backup_header_decode(struct bp_slice payload, struct bp_backup_header *header,
                            uint32_t *format);
/* Everything of a record but the value's bytes; returns room for these, or NULL (out->failed). */
uint8_t *bp_backup_key_encode(struct bp_slice key, const struct bp_version *version,
                              struct bp_buffer *out);
/*
 * Takes one record off the front: 1, 0 at the end, -1 malformed. The value's checksum is verified.
 */
int bp_backup_key_next(struct bp_slice *payload, struct bp_backup_key *key);
void bp_backup_trailer_encode(const struct bp_backup_totals *totals, struct bp_buffer *out);
bool bp_backup_trailer_decode(struct bp_slice payload, struct bp_backup_totals *totals);

/* ---- backup_file.c: reading one -------------------------------------------------------------- */

/*
 * What is found, in the order of the file; each may be NULL. A non-zero return stops and is
 * returned.
 */
struct bp_backup_visitor {
    void *arg;
    int (*header)(void *arg, const struct bp_backup_header *header, struct bp_error *err);
    int (*lease)(void *arg, const struct bp_lease_record *lease, struct bp_error *err);
    int (*request_id)(void *arg, const struct bp_request_id_record *record, struct bp_error *err);
    int (*key)(void *arg, const struct bp_backup_key *key, struct bp_error *err);
};
/*
 * Read a whole backup and verify every byte of it. What is visited counts only once this returned
 * BP_OK. DATA_LOSS/STORE_CORRUPT with the offset; FAILED_PRECONDITION/FORMAT_UNSUPPORTED.
 */
int bp_backup_read(struct bp_disk *disk, const char *path, const struct bp_backup_visitor *visitor,
                   struct bp_error *err);

#endif

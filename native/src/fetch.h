/*
 * Fetching values of another member: what is asked for, and what comes.
 *
 *   message  0 u32 CRC32C of bytes 4..  4 u16 kind: 1 wanted, 2 values  6 u16 format version
 *            8 u32 records  12 u32 zero
 *            16 records, ascending by key; of one key by falling revision
 *   record   0 u64 revision  8 u32 crc  12 u32 value size  16 u16 stored key size  18 u16 zero
 *            20 key; in values: the value
 *
 * (key, revision, crc) names a value for ever, whoever has it and wherever it lies. A value above
 * 64 KiB has the crc of its table of chunk CRCs (value.h): the table follows from the bytes and is
 * not sent; that its checksum is `crc` shows it to be the original one.
 *
 * Bounded: a batch ends behind the value that passes BP_FETCH_BYTES, or before the record or the key
 * that would pass the other limits. A batch of values with all that was asked for stays below 3 MiB.
 */
#ifndef BP_FETCH_H
#define BP_FETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "bytes.h"
#include "error.h"
#include "limits.h"

#define BP_FETCH_FORMAT 1u
#define BP_FETCH_HEAD 16u
#define BP_FETCH_RECORD 20u
#define BP_FETCH_BYTES (1u << 20)
#define BP_FETCH_RECORDS_MAX 4096u
#define BP_FETCH_KEY_BYTES_MAX (512u << 10)

enum bp_fetch_kind { BP_FETCH_WANTED = 1, BP_FETCH_VALUES = 2 };

struct bp_fetch_record {
    uint64_t revision;
    uint32_t crc, size;
    struct bp_slice key;   /* stored key */
    struct bp_slice value; /* of values; else empty */
};

/* ---- fetch_codec.c: pure, fuzzed -------------------------------------------------------------- */

/* A message grows in a buffer: begin, add as long as there is room, end. */
struct bp_fetch_batch {
    struct bp_buffer out; /* owned; failed: out of memory, told by end */
    enum bp_fetch_kind kind;
    uint32_t n;
    uint64_t key_bytes, value_bytes;
};
void bp_fetch_begin(struct bp_fetch_batch *batch, enum bp_fetch_kind kind);
/* False: the batch is full, and this record is for the next one. */
bool bp_fetch_room(const struct bp_fetch_batch *batch, uint32_t key_size);
/* record->value is ignored; of values, where the value's bytes go; NULL: none, or out of memory. */
uint8_t *bp_fetch_add(struct bp_fetch_batch *batch, const struct bp_fetch_record *record);
/* The record added last, of `key_size` and `size`, is taken back. */
void bp_fetch_take_back(struct bp_fetch_batch *batch, uint32_t key_size, uint32_t size);
/* False: out of memory. */
bool bp_fetch_end(struct bp_fetch_batch *batch);

/* Checks the whole message, but for the values' own CRCs: *records is what `next` goes over. */
bool bp_fetch_open(struct bp_slice message, enum bp_fetch_kind kind, struct bp_slice *records);
/* One record off the front of an opened message; false at the end. */
bool bp_fetch_next(struct bp_slice *records, enum bp_fetch_kind kind,
                   struct bp_fetch_record *record);

#endif

/*
 * Reading a backup (backup.h draws it), each byte verified:
 *
 *   block: CRC32C, number   record: lengths, value's checksum   order: sections, keys
 *       trailer: totals, chain of CRCs, size of the file
 *
 * Invariant: a visitor sees only records of blocks whose CRC held, keys strictly ascending. That
 * the file is whole is known at the end.
 */
#include "backup.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "limits.h"

struct reader {
    struct bp_ckpt_file file;
    const struct bp_backup_visitor *visitor;
    struct bp_backup_totals counted;
    uint64_t revision; /* of the backup */
    uint32_t section;
    uint32_t key_size; /* of the last key; 0 none */
    uint8_t key[BP_STORED_KEY_MAX];
};

static int damaged(const struct reader *reader, const char *what, struct bp_error *err) {
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                   "the backup is damaged: %s before offset %" PRIu64 "; nothing of it can be used",
                   what, reader->file.offset);
}

static int visit_header(struct reader *reader, struct bp_slice payload, struct bp_error *err) {
    struct bp_backup_header header;
    uint32_t format = 0;
    int code = bp_backup_header_decode(payload, &header, &format);
    if (code == BP_FAILED_PRECONDITION) {
        return bp_fail(err, code, BP_REASON_FORMAT_UNSUPPORTED,
                       "the backup's format %" PRIu32 " is newer than this program's format %u",
                       format, BP_BACKUP_FORMAT);
    }
    if (code != BP_OK) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT, "this is not a backup");
    }
    reader->revision = header.revision;
    const struct bp_backup_visitor *visitor = reader->visitor;
    return visitor->header == NULL ? BP_OK : visitor->header(visitor->arg, &header, err);
}

static int visit_leases(struct reader *reader, struct bp_slice payload, struct bp_error *err) {
    const struct bp_backup_visitor *visitor = reader->visitor;
    struct bp_lease_record lease;
    int got, code = BP_OK;
    while (code == BP_OK && (got = bp_ckpt_lease_next(&payload, &lease)) != 0) {
        if (got < 0) {
            return damaged(reader, "a malformed lease", err);
        }
        reader->counted.leases++;
        code = visitor->lease == NULL ? BP_OK : visitor->lease(visitor->arg, &lease, err);
    }
    return code;
}

static int visit_request_ids(struct reader *reader, struct bp_slice payload, struct bp_error *err) {
    const struct bp_backup_visitor *visitor = reader->visitor;
    struct bp_request_id_record record;
    int got, code = BP_OK;
    while (code == BP_OK && (got = bp_ckpt_request_id_next(&payload, &record)) != 0) {
        if (got < 0) {
            return damaged(reader, "a malformed request id", err);
        }
        reader->counted.request_ids++;
        code =
            visitor->request_id == NULL ? BP_OK : visitor->request_id(visitor->arg, &record, err);
    }
    return code;
}

static int visit_keys(struct reader *reader, struct bp_slice payload, struct bp_error *err) {
    const struct bp_backup_visitor *visitor = reader->visitor;
    struct bp_backup_key key;
    int got, code = BP_OK;
    while (code == BP_OK && (got = bp_backup_key_next(&payload, &key)) != 0) {
        if (got < 0) {
            return damaged(reader, "a malformed key or value", err);
        }
        if (bp_slice_compare(key.key, bp_slice(reader->key, reader->key_size)) <= 0 ||
            key.version.revision > reader->revision) {
            return damaged(reader, "a key out of order", err);
        }
        memcpy(reader->key, key.key.data, key.key.size);
        reader->key_size = (uint32_t)key.key.size;
        reader->counted.keys++;
        reader->counted.value_bytes += key.value.size;
        code = visitor->key == NULL ? BP_OK : visitor->key(visitor->arg, &key, err);
    }
    return code;
}

static int check_trailer(struct reader *reader, struct bp_slice payload, struct bp_error *err) {
    struct bp_backup_totals totals;
    const struct bp_backup_totals *counted = &reader->counted;
    bool good = bp_backup_trailer_decode(payload, &totals) && totals.leases == counted->leases &&
                totals.request_ids == counted->request_ids && totals.keys == counted->keys &&
                totals.value_bytes == counted->value_bytes &&
                totals.blocks + 1 == reader->file.number && totals.chain == reader->file.chain &&
                totals.file_size == reader->file.offset && reader->file.offset == reader->file.size;
    return good ? BP_OK : damaged(reader, "a trailer that does not fit", err);
}

static int visit_block(struct reader *reader, const struct bp_ckpt_block *block,
                       struct bp_error *err) {
    bool first = reader->section == 0;
    if (first != (block->section == BP_BACKUP_HEADER) || block->section < reader->section) {
        return damaged(reader, "a block out of order", err);
    }
    reader->section = block->section;
    switch (block->section) {
    case BP_BACKUP_HEADER:
        return visit_header(reader, block->payload, err);
    case BP_BACKUP_LEASES:
        return visit_leases(reader, block->payload, err);
    case BP_BACKUP_REQUEST_IDS:
        return visit_request_ids(reader, block->payload, err);
    case BP_BACKUP_KEYS:
        return visit_keys(reader, block->payload, err);
    case BP_BACKUP_TRAILER:
        return check_trailer(reader, block->payload, err);
    default:
        return damaged(reader, "a block of unknown kind", err);
    }
}

static int read_blocks(struct reader *reader, struct bp_error *err) {
    int code = BP_OK;
    while (code == BP_OK && reader->section != BP_BACKUP_TRAILER) {
        struct bp_ckpt_block block;
        code = bp_ckpt_file_next(&reader->file, &block, err);
        if (code == BP_DATA_LOSS) { /* its own words speak of a checkpoint */
            return reader->section == 0
                       ? bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                                 "this is not a backup, or its first block is damaged")
                       : damaged(reader, "a bad checksum or an early end", err);
        }
        code = code == BP_OK ? visit_block(reader, &block, err) : code;
    }
    return code;
}

int bp_backup_read(struct bp_disk *disk, const char *path, const struct bp_backup_visitor *visitor,
                   struct bp_error *err) {
    struct reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory to read a backup");
    }
    reader->visitor = visitor;
    int code = bp_ckpt_file_open(&reader->file, disk, path, BP_SITE_CHECKPOINT_READ, err);
    if (code == BP_OK) {
        code = read_blocks(reader, err);
        bp_ckpt_file_close(&reader->file);
    }
    free(reader);
    return code;
}

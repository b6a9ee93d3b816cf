/*
 * A manifest as it arrives: pieces of any size in, verified blocks out.
 *
 *   bytes ..|..|....|.  ->  block: [16-byte head][payload ....]  whole?
 *                             CRC, number, section, then every record  ->  handed out
 *
 *   HEADER -> META -> LEASES.. -> REQUEST_IDS.. -> VERSIONS.. -> TRAILER    sections never fall back
 *
 * Invariants
 *   - A block's memory grows with the bytes that came, not with the size its head claims.
 *   - Nothing of a block is handed out before all of it was verified; `complete` is set only when
 *     counts, chain and state hash agree.
 */
#include <string.h>

#include "crc32c.h"
#include "manifest.h"

enum { DAMAGED = -1, NEWER = -2, NO_MEMORY = -3 };

void bp_manifest_reader_init(struct bp_manifest_reader *reader) {
    memset(reader, 0, sizeof *reader);
    bp_ckpt_version_reader_init(&reader->versions);
    reader->versions.placeless = true;
}

void bp_manifest_reader_free(struct bp_manifest_reader *reader) {
    bp_buffer_free(&reader->block);
    bp_ckpt_version_reader_free(&reader->versions);
}

/* ---- one block -------------------------------------------------------------------------------- */

static int check_header(struct bp_manifest_reader *reader, struct bp_slice payload) {
    int code = bp_manifest_header_decode(payload, &reader->format, reader->store_id);
    return code == BP_OK ? 1 : code == BP_FAILED_PRECONDITION ? NEWER : DAMAGED;
}

static int check_leases(struct bp_manifest_reader *reader, struct bp_slice payload) {
    struct bp_lease_record lease;
    int got;
    while ((got = bp_ckpt_lease_next(&payload, &lease)) > 0) {
        if (lease.id <= reader->last_lease) {
            return DAMAGED;
        }
        reader->last_lease = lease.id;
        reader->seen.leases++;
    }
    return got == 0 ? 1 : DAMAGED;
}

static int check_request_ids(struct bp_manifest_reader *reader, struct bp_slice payload) {
    struct bp_request_id_record record;
    int got;
    while ((got = bp_ckpt_request_id_next(&payload, &record)) > 0) {
        reader->seen.request_ids++;
    }
    return got == 0 ? 1 : DAMAGED;
}

/* What an index would refuse to load, or could not have given. */
static bool key_may_be(const struct bp_manifest_reader *reader) {
    const struct bp_ckpt_version_reader *key = &reader->versions;
    const struct bp_version *oldest = &key->versions[key->n - 1];
    uint64_t floor = reader->meta.compaction_revision;
    bool one_below = key->n == 1 || key->versions[key->n - 2].revision > floor;
    bool no_grave = oldest->revision > floor || (oldest->flags & BP_VERSION_TOMBSTONE) == 0;
    return key->versions[0].revision < reader->meta.next_revision && one_below && no_grave;
}

static int check_versions(struct bp_manifest_reader *reader, struct bp_slice payload) {
    struct bp_ckpt_version_reader *key = &reader->versions;
    int got;
    bp_ckpt_version_reader_aim(key, payload);
    while ((got = bp_ckpt_version_next(key)) > 0) {
        if (!key_may_be(reader)) {
            return DAMAGED;
        }
        if ((key->versions[0].flags & BP_VERSION_TOMBSTONE) == 0) {
            uint64_t term[2];
            bp_index_hash_version(bp_slice(key->key, key->key_size), &key->versions[0], term);
            reader->hash[0] += term[0];
            reader->hash[1] += term[1];
        }
        for (uint32_t i = 0; i < key->n; i++) {
            reader->seen.value_bytes += key->versions[i].value.size;
        }
        reader->seen.keys++;
        reader->seen.versions += key->n;
    }
    return got == 0 ? 1 : got == -2 ? NO_MEMORY : DAMAGED;
}

static int check_trailer(struct bp_manifest_reader *reader, struct bp_slice payload) {
    const struct bp_manifest_totals *seen = &reader->seen;
    struct bp_manifest_totals said;
    reader->complete = bp_manifest_trailer_decode(payload, &said) && said.leases == seen->leases &&
                       said.request_ids == seen->request_ids && said.keys == seen->keys &&
                       said.versions == seen->versions && said.value_bytes == seen->value_bytes &&
                       said.blocks == seen->blocks && said.chain == seen->chain &&
                       reader->hash[0] == reader->meta.state_hash[0] &&
                       reader->hash[1] == reader->meta.state_hash[1];
    return reader->complete ? 1 : DAMAGED;
}

static int check_payload(struct bp_manifest_reader *reader, const struct bp_ckpt_block *block) {
    switch (block->section) {
    case BP_CKPT_HEADER:
        return check_header(reader, block->payload);
    case BP_CKPT_META:
        return bp_manifest_meta_decode(block->payload, &reader->meta) ? 1 : DAMAGED;
    case BP_CKPT_LEASES:
        return check_leases(reader, block->payload);
    case BP_CKPT_REQUEST_IDS:
        return check_request_ids(reader, block->payload);
    case BP_CKPT_VERSIONS:
        return check_versions(reader, block->payload);
    default: /* the section was looked at before */
        return check_trailer(reader, block->payload);
    }
}

/* The first two blocks are what they must be; behind them sections only grow. */
static bool may_follow(const struct bp_manifest_reader *reader, uint32_t section) {
    if (reader->seen.blocks < 2) {
        return section == (reader->seen.blocks == 0 ? BP_CKPT_HEADER : BP_CKPT_META);
    }
    bool known = section == BP_CKPT_LEASES || section == BP_CKPT_REQUEST_IDS ||
                 section == BP_CKPT_VERSIONS || section == BP_CKPT_TRAILER;
    return known && section >= reader->section;
}

static int check_block(struct bp_manifest_reader *reader, struct bp_ckpt_block *block) {
    uint64_t size;
    if (bp_ckpt_block_decode(reader->block.data, reader->block.size, block, &size) != BP_OK) {
        return DAMAGED;
    }
    int result = check_payload(reader, block);
    if (result > 0 && block->section != BP_CKPT_TRAILER) {
        uint8_t crc[4];
        bp_put_u32(crc, block->crc);
        reader->seen.chain = bp_crc32c(reader->seen.chain, crc, sizeof crc);
        reader->seen.blocks++;
        reader->section = block->section;
    }
    return result;
}

/* ---- the stream ------------------------------------------------------------------------------- */

/* Moves what is still missing up to `want` bytes of the block; false: out of memory. */
static bool gather(struct bp_manifest_reader *reader, struct bp_slice *bytes, uint64_t want) {
    uint64_t missing = want > reader->block.size ? want - reader->block.size : 0;
    size_t n = missing < bytes->size ? (size_t)missing : bytes->size;
    if (n > 0) {
        bp_buffer_append(&reader->block, bytes->data, n);
        *bytes = bp_slice(bytes->data + n, bytes->size - n);
    }
    return !reader->block.failed;
}

/* What can be told from a head alone: a damaged size must not swallow the rest of the stream. */
static bool head_may_be(const struct bp_manifest_reader *reader) {
    const uint8_t *head = reader->block.data;
    return bp_get_u32(head + 4) <= BP_MANIFEST_BLOCK_MAX &&
           bp_get_u32(head + 12) == reader->seen.blocks && may_follow(reader, bp_get_u32(head + 8));
}

int bp_manifest_read(struct bp_manifest_reader *reader, struct bp_slice *bytes,
                     struct bp_ckpt_block *block) {
    if (reader->given) {
        reader->block.size = 0;
        reader->given = false;
    }
    if (bytes->size == 0) {
        return 0;
    }
    if (reader->complete) {
        return DAMAGED;
    }
    if (!gather(reader, bytes, BP_CKPT_BLOCK_HEADER)) {
        return NO_MEMORY;
    }
    if (reader->block.size < BP_CKPT_BLOCK_HEADER) {
        return 0;
    }
    if (!head_may_be(reader)) {
        return DAMAGED;
    }
    uint64_t size = bp_ckpt_block_size(reader->block.data);
    if (!gather(reader, bytes, size)) {
        return NO_MEMORY;
    }
    if (reader->block.size < size) {
        return 0;
    }
    reader->given = true;
    return check_block(reader, block);
}

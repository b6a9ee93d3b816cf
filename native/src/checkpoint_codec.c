/*
 * The records of a checkpoint as bytes (checkpoint.h has every layout). Pure: no file, no store;
 * the fuzzer runs exactly this. Blocks and records of a fixed layout are here, the versions of keys
 * in checkpoint_versions.c.
 *
 * Decoders trust nothing: each length is checked against what is left before it is used.
 */
#include "checkpoint.h"

#include <assert.h>
#include <string.h>

#include "crc32c.h"
#include "limits.h"

#define REQUEST_ID_FIXED 42u

static const struct bp_ckpt_head checkpoint_head = {.magic = "BPCKPT\0",
                                                    .format = BP_FORMAT_VERSION};

/* ---- blocks ---------------------------------------------------------------------------------- */

uint64_t bp_ckpt_block_size(const uint8_t *header) {
    return (uint64_t)BP_CKPT_BLOCK_HEADER + bp_get_u32(header + 4);
}

int bp_ckpt_block_decode(const uint8_t *buf, uint64_t n, struct bp_ckpt_block *block,
                         uint64_t *size) {
    if (n < BP_CKPT_BLOCK_HEADER || bp_ckpt_block_size(buf) > n) {
        return BP_OUT_OF_RANGE;
    }
    uint64_t whole = bp_ckpt_block_size(buf);
    *block = (struct bp_ckpt_block){
        .section = bp_get_u32(buf + 8),
        .number = bp_get_u32(buf + 12),
        .crc = bp_get_u32(buf),
        .payload = bp_slice(buf + BP_CKPT_BLOCK_HEADER, whole - BP_CKPT_BLOCK_HEADER)};
    *size = whole;
    return bp_crc32c(0, buf + 4, whole - 4) == block->crc ? BP_OK : BP_OUT_OF_RANGE;
}

uint32_t bp_ckpt_block_finish(uint8_t *block, uint32_t payload_size, uint32_t section,
                              uint32_t number) {
    bp_put_u32(block + 4, payload_size);
    bp_put_u32(block + 8, section);
    bp_put_u32(block + 12, number);
    uint32_t crc = bp_crc32c(0, block + 4, BP_CKPT_BLOCK_HEADER - 4 + (size_t)payload_size);
    bp_put_u32(block, crc);
    return crc;
}

void bp_ckpt_block_begin(struct bp_buffer *block) {
    block->size = 0;
    (void)bp_buffer_grow(block, BP_CKPT_BLOCK_HEADER);
}

bool bp_ckpt_block_end(struct bp_buffer *block, uint32_t section, uint32_t number,
                       uint32_t *chain) {
    if (block->failed || block->size - BP_CKPT_BLOCK_HEADER > UINT32_MAX) {
        return false;
    }
    uint8_t crc[4];
    bp_put_u32(crc,
               bp_ckpt_block_finish(block->data, (uint32_t)(block->size - BP_CKPT_BLOCK_HEADER),
                                    section, number));
    *chain = bp_crc32c(*chain, crc, sizeof crc);
    return true;
}

/* ---- the head of a file ---------------------------------------------------------------------- */

void bp_ckpt_head_put(const struct bp_ckpt_head *head, const uint8_t store_id[16], uint8_t *p) {
    memcpy(p, head->magic, 8);
    bp_put_u32(p + 8, head->format);
    bp_put_u32(p + 12, 0);
    memcpy(p + 16, store_id, 16);
}

int bp_ckpt_head_check(const struct bp_ckpt_head *head, struct bp_slice payload, uint32_t *format,
                       uint8_t store_id[16]) {
    const uint8_t *p = payload.data;
    if (payload.size < 12 || memcmp(p, head->magic, 8) != 0) {
        return BP_DATA_LOSS;
    }
    *format = bp_get_u32(p + 8); /* before the size: a newer format may have another */
    if (*format > head->format) {
        return BP_FAILED_PRECONDITION;
    }
    if (payload.size < BP_CKPT_HEAD_SIZE || *format == 0 || bp_get_u32(p + 12) != 0) {
        return BP_DATA_LOSS;
    }
    memcpy(store_id, p + 16, 16);
    return BP_OK;
}

/* ---- fixed records --------------------------------------------------------------------------- */

void bp_ckpt_header_encode(const struct bp_ckpt_header *header, struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_HEADER_SIZE);
    if (p != NULL) {
        bp_ckpt_head_put(&checkpoint_head, header->store_id, p);
        bp_put_u64(p + BP_CKPT_HEAD_SIZE, header->number);
    }
}

int bp_ckpt_header_decode(struct bp_slice payload, struct bp_ckpt_header *header,
                          uint32_t *format) {
    int code = bp_ckpt_head_check(&checkpoint_head, payload, format, header->store_id);
    if (code == BP_OK && payload.size != BP_CKPT_HEADER_SIZE) {
        code = BP_DATA_LOSS;
    }
    if (code == BP_OK) {
        header->number = bp_get_u64(payload.data + BP_CKPT_HEAD_SIZE);
    }
    return code;
}

#define META_DURABLE_SIZE 8u

void bp_ckpt_meta_encode(const struct bp_ckpt_meta *meta, struct bp_buffer *out) {
    uint8_t config[BP_CONFIG_SIZE_MAX];
    uint32_t size = bp_system_encode(&meta->system, BP_CAUSE_CHANGE, config);
    bool further = bp_pos_u64(meta->durable) > bp_pos_u64(meta->start);
    uint32_t more = further ? META_DURABLE_SIZE : 0;
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_META_SIZE + size + more);
    if (p == NULL) {
        return;
    }
    bp_put_u64(p, meta->applied_index);
    bp_put_u64(p + 8, meta->applied_term);
    bp_put_u64(p + 16, meta->next_revision);
    bp_put_u64(p + 24, meta->compaction_revision);
    bp_put_u32(p + 32, meta->start.segment);
    bp_put_u32(p + 36, meta->start.offset);
    bp_put_u64(p + 40, meta->start_sequence);
    bp_put_u64(p + 48, meta->raft_compacted_index);
    bp_put_u64(p + 56, meta->hardstate.term);
    bp_put_u64(p + 64, meta->hardstate.vote);
    bp_put_u64(p + 72, meta->hardstate.commit);
    bp_put_u64(p + 80, meta->member_id);
    bp_put_u64(p + 88, meta->state_hash[0]);
    bp_put_u64(p + 96, meta->state_hash[1]);
    bp_put_u64(p + 104, meta->compaction_hash[0]);
    bp_put_u64(p + 112, meta->compaction_hash[1]);
    bp_put_u64(p + 120, meta->compaction_hash_index);
    bp_put_u32(p + 128, size);
    bp_put_u32(p + 132, more);
    memcpy(p + BP_CKPT_META_SIZE, config, size);
    if (more > 0) {
        bp_put_u32(p + BP_CKPT_META_SIZE + size, meta->durable.segment);
        bp_put_u32(p + BP_CKPT_META_SIZE + size + 4, meta->durable.offset);
    }
}

bool bp_ckpt_meta_decode(struct bp_slice payload, struct bp_ckpt_meta *meta) {
    const uint8_t *p = payload.data;
    if (payload.size < BP_CKPT_META_SIZE ||
        payload.size - BP_CKPT_META_SIZE != (uint64_t)bp_get_u32(p + 128) + bp_get_u32(p + 132) ||
        (bp_get_u32(p + 132) != 0 && bp_get_u32(p + 132) != META_DURABLE_SIZE)) {
        return false;
    }
    *meta = (struct bp_ckpt_meta){
        .applied_index = bp_get_u64(p),
        .applied_term = bp_get_u64(p + 8),
        .next_revision = bp_get_u64(p + 16),
        .compaction_revision = bp_get_u64(p + 24),
        .start = {.segment = bp_get_u32(p + 32), .offset = bp_get_u32(p + 36)},
        .start_sequence = bp_get_u64(p + 40),
        .raft_compacted_index = bp_get_u64(p + 48),
        .hardstate = {.term = bp_get_u64(p + 56),
                      .vote = bp_get_u64(p + 64),
                      .commit = bp_get_u64(p + 72)},
        .member_id = bp_get_u64(p + 80),
        .state_hash = {bp_get_u64(p + 88), bp_get_u64(p + 96)},
        .compaction_hash = {bp_get_u64(p + 104), bp_get_u64(p + 112)},
        .compaction_hash_index = bp_get_u64(p + 120),
    };
    int cause;
    meta->durable = meta->start;
    if (bp_get_u32(p + 132) != 0) {
        const uint8_t *durable = p + BP_CKPT_META_SIZE + bp_get_u32(p + 128);
        meta->durable.segment = bp_get_u32(durable);
        meta->durable.offset = bp_get_u32(durable + 4);
    }
    return bp_system_decode(p + BP_CKPT_META_SIZE, bp_get_u32(p + 128), &meta->system, &cause) &&
           meta->next_revision > 0 && bp_pos_u64(meta->durable) >= bp_pos_u64(meta->start) &&
           meta->compaction_revision < meta->next_revision && meta->start.segment != 0 &&
           meta->start.offset >= BP_SEGMENT_HEADER && meta->start.offset % 8 == 0;
}

void bp_ckpt_lease_encode(const struct bp_lease_record *lease, struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_LEASE_SIZE);
    if (p != NULL) {
        bp_put_u64(p, lease->id);
        bp_put_u64(p + 8, lease->ttl_ms);
    }
}

static void skip(struct bp_slice *payload, size_t n) {
    assert(n <= payload->size);
    payload->data += n;
    payload->size -= n;
}

int bp_ckpt_lease_next(struct bp_slice *payload, struct bp_lease_record *lease) {
    if (payload->size < BP_CKPT_LEASE_SIZE) {
        return payload->size == 0 ? 0 : -1;
    }
    *lease = (struct bp_lease_record){.id = bp_get_u64(payload->data),
                                      .ttl_ms = bp_get_u64(payload->data + 8)};
    skip(payload, BP_CKPT_LEASE_SIZE);
    return lease->id != 0 ? 1 : -1;
}

void bp_ckpt_request_id_encode(const struct bp_request_id_record *record, struct bp_buffer *out) {
    assert(record->id_size <= BP_REQUEST_ID_MAX);
    uint8_t *p = bp_buffer_grow(out, REQUEST_ID_FIXED + (size_t)record->id_size);
    if (p != NULL) {
        bp_put_u64(p, record->fingerprint);
        bp_put_u64(p + 8, record->revision);
        bp_put_u64(p + 16, record->deleted);
        bp_put_u64(p + 24, record->lease);
        bp_put_u64(p + 32, record->ttl_ms);
        p[40] = record->succeeded;
        p[41] = record->id_size;
        memcpy(p + REQUEST_ID_FIXED, record->id, record->id_size);
    }
}

int bp_ckpt_request_id_next(struct bp_slice *payload, struct bp_request_id_record *record) {
    const uint8_t *p = payload->data;
    if (payload->size < REQUEST_ID_FIXED) {
        return payload->size == 0 ? 0 : -1;
    }
    *record = (struct bp_request_id_record){.fingerprint = bp_get_u64(p),
                                            .revision = bp_get_u64(p + 8),
                                            .deleted = bp_get_u64(p + 16),
                                            .lease = bp_get_u64(p + 24),
                                            .ttl_ms = bp_get_u64(p + 32),
                                            .succeeded = p[40],
                                            .id_size = p[41]};
    if (record->succeeded > 1 || record->id_size == 0 || record->id_size > BP_REQUEST_ID_MAX ||
        record->id_size > payload->size - REQUEST_ID_FIXED) {
        return -1;
    }
    memcpy(record->id, p + REQUEST_ID_FIXED, record->id_size);
    skip(payload, REQUEST_ID_FIXED + (size_t)record->id_size);
    return 1;
}

void bp_ckpt_segment_encode(const struct bp_ckpt_segment *segment, struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_SEGMENT_SIZE);
    if (p != NULL) {
        bp_put_u32(p, segment->id);
        bp_put_u32(p + 4, segment->kind);
        bp_put_u32(p + 8, segment->used);
        bp_put_u32(p + 12, 0);
        bp_put_u64(p + 16, segment->value_bytes);
    }
}

int bp_ckpt_segment_next(struct bp_slice *payload, struct bp_ckpt_segment *segment) {
    const uint8_t *p = payload->data;
    if (payload->size < BP_CKPT_SEGMENT_SIZE) {
        return payload->size == 0 ? 0 : -1;
    }
    *segment = (struct bp_ckpt_segment){.id = bp_get_u32(p),
                                        .kind = bp_get_u32(p + 4),
                                        .used = bp_get_u32(p + 8),
                                        .value_bytes = bp_get_u64(p + 16)};
    bool good = segment->id != 0 &&
                (segment->kind == BP_SEGMENT_LOG || segment->kind == BP_SEGMENT_SETTLED) &&
                segment->used >= BP_SEGMENT_HEADER && segment->value_bytes <= segment->used &&
                bp_get_u32(p + 12) == 0;
    skip(payload, BP_CKPT_SEGMENT_SIZE);
    return good ? 1 : -1;
}

void bp_ckpt_trailer_encode(const struct bp_ckpt_totals *totals, struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_TRAILER_SIZE);
    if (p != NULL) {
        bp_put_u64(p, totals->leases);
        bp_put_u64(p + 8, totals->request_ids);
        bp_put_u64(p + 16, totals->keys);
        bp_put_u64(p + 24, totals->versions);
        bp_put_u64(p + 32, totals->segments);
        bp_put_u64(p + 40, totals->blocks);
        bp_put_u64(p + 48, totals->segments_at);
        bp_put_u64(p + 56, totals->file_size);
        bp_put_u32(p + 64, totals->chain);
        bp_put_u32(p + 68, 0);
    }
}

bool bp_ckpt_trailer_decode(struct bp_slice payload, struct bp_ckpt_totals *totals) {
    const uint8_t *p = payload.data;
    if (payload.size != BP_CKPT_TRAILER_SIZE) {
        return false;
    }
    *totals = (struct bp_ckpt_totals){.leases = bp_get_u64(p),
                                      .request_ids = bp_get_u64(p + 8),
                                      .keys = bp_get_u64(p + 16),
                                      .versions = bp_get_u64(p + 24),
                                      .segments = bp_get_u64(p + 32),
                                      .blocks = bp_get_u64(p + 40),
                                      .segments_at = bp_get_u64(p + 48),
                                      .file_size = bp_get_u64(p + 56),
                                      .chain = bp_get_u32(p + 64)};
    return bp_get_u32(p + 68) == 0;
}

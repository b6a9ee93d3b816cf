/*
 * The fixed blocks of a manifest as bytes (manifest.h has every layout). Pure: no file, no store.
 *
 * Decoders trust nothing: each length is checked against what is there before it is used.
 */
#include <string.h>

#include "manifest.h"

static const struct bp_ckpt_head manifest_head = {.magic = "BPMANIF", .format = BP_MANIFEST_FORMAT};

void bp_manifest_header_encode(const uint8_t store_id[16], struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_CKPT_HEAD_SIZE);
    if (p != NULL) {
        bp_ckpt_head_put(&manifest_head, store_id, p);
    }
}

int bp_manifest_header_decode(struct bp_slice payload, uint32_t *format, uint8_t store_id[16]) {
    int code = bp_ckpt_head_check(&manifest_head, payload, format, store_id);
    return code == BP_OK && payload.size != BP_CKPT_HEAD_SIZE ? BP_DATA_LOSS : code;
}

void bp_manifest_meta_encode(const struct bp_manifest_meta *meta, struct bp_buffer *out) {
    uint8_t config[BP_CONFIG_SIZE_MAX];
    uint32_t size = bp_system_encode(&meta->system, BP_CAUSE_CHANGE, config);
    uint8_t *p = bp_buffer_grow(out, BP_MANIFEST_META_SIZE + size);
    if (p == NULL) {
        return;
    }
    bp_put_u64(p, meta->applied_index);
    bp_put_u64(p + 8, meta->applied_term);
    bp_put_u64(p + 16, meta->next_revision);
    bp_put_u64(p + 24, meta->compaction_revision);
    bp_put_u64(p + 32, meta->state_hash[0]);
    bp_put_u64(p + 40, meta->state_hash[1]);
    bp_put_u64(p + 48, meta->compaction_hash[0]);
    bp_put_u64(p + 56, meta->compaction_hash[1]);
    bp_put_u64(p + 64, meta->compaction_hash_index);
    bp_put_u32(p + 72, size);
    bp_put_u32(p + 76, 0);
    memcpy(p + BP_MANIFEST_META_SIZE, config, size);
}

bool bp_manifest_meta_decode(struct bp_slice payload, struct bp_manifest_meta *meta) {
    const uint8_t *p = payload.data;
    if (payload.size < BP_MANIFEST_META_SIZE ||
        payload.size - BP_MANIFEST_META_SIZE != bp_get_u32(p + 72)) {
        return false;
    }
    *meta = (struct bp_manifest_meta){
        .applied_index = bp_get_u64(p),
        .applied_term = bp_get_u64(p + 8),
        .next_revision = bp_get_u64(p + 16),
        .compaction_revision = bp_get_u64(p + 24),
        .state_hash = {bp_get_u64(p + 32), bp_get_u64(p + 40)},
        .compaction_hash = {bp_get_u64(p + 48), bp_get_u64(p + 56)},
        .compaction_hash_index = bp_get_u64(p + 64),
    };
    int cause;
    return bp_system_decode(p + BP_MANIFEST_META_SIZE, bp_get_u32(p + 72), &meta->system, &cause) &&
           bp_get_u32(p + 76) == 0 && meta->applied_index > 0 && meta->next_revision > 0 &&
           meta->compaction_revision < meta->next_revision;
}

void bp_manifest_trailer_encode(const struct bp_manifest_totals *totals, struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_MANIFEST_TRAILER_SIZE);
    if (p != NULL) {
        bp_put_u64(p, totals->leases);
        bp_put_u64(p + 8, totals->request_ids);
        bp_put_u64(p + 16, totals->keys);
        bp_put_u64(p + 24, totals->versions);
        bp_put_u64(p + 32, totals->value_bytes);
        bp_put_u64(p + 40, totals->blocks);
        bp_put_u32(p + 48, totals->chain);
        bp_put_u32(p + 52, 0);
    }
}

bool bp_manifest_trailer_decode(struct bp_slice payload, struct bp_manifest_totals *totals) {
    const uint8_t *p = payload.data;
    if (payload.size != BP_MANIFEST_TRAILER_SIZE) {
        return false;
    }
    *totals = (struct bp_manifest_totals){.leases = bp_get_u64(p),
                                          .request_ids = bp_get_u64(p + 8),
                                          .keys = bp_get_u64(p + 16),
                                          .versions = bp_get_u64(p + 24),
                                          .value_bytes = bp_get_u64(p + 32),
                                          .blocks = bp_get_u64(p + 40),
                                          .chain = bp_get_u32(p + 48)};
    return bp_get_u32(p + 52) == 0;
}

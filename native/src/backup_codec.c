/*
 * The records of a backup as bytes (backup.h has every layout). Pure: the fuzzer runs exactly this.
 * Nothing of a length is believed before it was checked against what is left.
 */
#include "backup.h"

#include <string.h>

#include "limits.h"
#include "ops.h"

static const struct bp_ckpt_head head = {.magic = {'B', 'P', 'B', 'A', 'C', 'K', 'U', 'P'},
                                         .format = BP_BACKUP_FORMAT};

void bp_backup_header_encode(const struct bp_backup_header *header, struct bp_buffer *out) {
    uint8_t config[BP_CONFIG_SIZE_MAX];
    uint32_t size = bp_system_encode(&header->system, BP_CAUSE_CHANGE, config);
    uint8_t *p = bp_buffer_grow(out, BP_BACKUP_HEADER_SIZE + size);
    if (p == NULL) {
        return;
    }
    bp_ckpt_head_put(&head, header->store_id, p);
    bp_put_u64(p + 32, header->revision);
    bp_put_u64(p + 40, header->compaction_revision);
    bp_put_u64(p + 48, header->made_ms);
    memcpy(p + BP_BACKUP_HEADER_SIZE, config, size);
}

int bp_backup_header_decode(struct bp_slice payload, struct bp_backup_header *header,
                            uint32_t *format) {
    const uint8_t *p = payload.data;
    int code = bp_ckpt_head_check(&head, payload, format, header->store_id);
    if (code != BP_OK) {
        return code;
    }
    int cause;
    if (payload.size < BP_BACKUP_HEADER_SIZE ||
        payload.size - BP_BACKUP_HEADER_SIZE > BP_CONFIG_SIZE_MAX ||
        !bp_system_decode(p + BP_BACKUP_HEADER_SIZE,
                          (uint32_t)(payload.size - BP_BACKUP_HEADER_SIZE), &header->system,
                          &cause)) {
        return BP_DATA_LOSS;
    }
    header->revision = bp_get_u64(p + 32);
    header->compaction_revision = bp_get_u64(p + 40);
    header->made_ms = bp_get_u64(p + 48);
    /* A revision this large cannot be jumped from. */
    bool sensible = header->revision > 0 && header->revision < UINT64_C(1) << 62 &&
                    header->compaction_revision <= header->revision;
    return sensible ? BP_OK : BP_DATA_LOSS;
}

uint8_t *bp_backup_key_encode(struct bp_slice key, const struct bp_version *version,
                              struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_BACKUP_KEY_SIZE + key.size + version->value.size);
    if (p == NULL) {
        return NULL;
    }
    bp_put_u64(p, version->revision);
    bp_put_u64(p + 8, version->create_revision);
    bp_put_u64(p + 16, version->lease);
    bp_put_u32(p + 24, version->version);
    bp_put_u32(p + 28, version->value.size);
    bp_put_u32(p + 32, version->value.crc);
    bp_put_u16(p + 36, (uint16_t)key.size);
    bp_put_u16(p + 38, 0);
    memcpy(p + BP_BACKUP_KEY_SIZE, key.data, key.size);
    return p + BP_BACKUP_KEY_SIZE + key.size;
}

int bp_backup_key_next(struct bp_slice *payload, struct bp_backup_key *key) {
    const uint8_t *p = payload->data;
    if (payload->size == 0) {
        return 0;
    }
    if (payload->size < BP_BACKUP_KEY_SIZE) {
        return -1;
    }
    *key = (struct bp_backup_key){
        .version = {.revision = bp_get_u64(p),
                    .create_revision = bp_get_u64(p + 8),
                    .lease = bp_get_u64(p + 16),
                    .version = bp_get_u32(p + 24),
                    .value = {.size = bp_get_u32(p + 28), .crc = bp_get_u32(p + 32)}}};
    uint32_t key_size = bp_get_u16(p + 36), value_size = key->version.value.size;
    if (key_size < 2 || key_size > BP_STORED_KEY_MAX || value_size > BP_VALUE_MAX ||
        bp_get_u16(p + 38) != 0 ||
        payload->size - BP_BACKUP_KEY_SIZE < (uint64_t)key_size + value_size) {
        return -1;
    }
    const struct bp_version *version = &key->version;
    if (version->create_revision == 0 || version->create_revision > version->revision ||
        version->version == 0) {
        return -1;
    }
    key->key = bp_slice(p + BP_BACKUP_KEY_SIZE, key_size);
    key->value = bp_slice(p + BP_BACKUP_KEY_SIZE + key_size, value_size);
    if (bp_value_checksum(key->value, NULL) != version->value.crc) {
        return -1;
    }
    size_t size = (size_t)BP_BACKUP_KEY_SIZE + key_size + value_size;
    *payload = bp_slice(p + size, payload->size - size);
    return 1;
}

void bp_backup_trailer_encode(const struct bp_backup_totals *totals, struct bp_buffer *out) {
    uint8_t *p = bp_buffer_grow(out, BP_BACKUP_TRAILER_SIZE);
    if (p == NULL) {
        return;
    }
    bp_put_u64(p, totals->leases);
    bp_put_u64(p + 8, totals->request_ids);
    bp_put_u64(p + 16, totals->keys);
    bp_put_u64(p + 24, totals->value_bytes);
    bp_put_u64(p + 32, totals->blocks);
    bp_put_u64(p + 40, totals->file_size);
    bp_put_u32(p + 48, totals->chain);
    bp_put_u32(p + 52, 0);
}

bool bp_backup_trailer_decode(struct bp_slice payload, struct bp_backup_totals *totals) {
    const uint8_t *p = payload.data;
    if (payload.size != BP_BACKUP_TRAILER_SIZE || bp_get_u32(p + 52) != 0) {
        return false;
    }
    *totals = (struct bp_backup_totals){.leases = bp_get_u64(p),
                                        .request_ids = bp_get_u64(p + 8),
                                        .keys = bp_get_u64(p + 16),
                                        .value_bytes = bp_get_u64(p + 24),
                                        .blocks = bp_get_u64(p + 32),
                                        .file_size = bp_get_u64(p + 40),
                                        .chain = bp_get_u32(p + 48)};
    return true;
}

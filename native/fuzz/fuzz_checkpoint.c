/*
 * Fuzzes what decodes checkpoints and settled records. Every byte of a file is under a CRC, which a
 * fuzzer does not find: so the first byte picks a decoder and the rest is what lies under the CRC.
 * What decodes must encode to something that decodes to the same.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "crc32c.h"
#include "ops.h"
#include "settled.h"

#define SALT 0x5a17u
#define KEEP 64u /* versions and keys compared a run: the rest is only decoded */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_tables(struct bp_slice payload) {
    struct bp_lease_record lease;
    struct bp_request_id_record record;
    struct bp_ckpt_segment segment;
    struct bp_slice rest = payload;
    while (bp_ckpt_lease_next(&rest, &lease) > 0) {
        assert(lease.id != 0);
    }
    rest = payload;
    while (bp_ckpt_request_id_next(&rest, &record) > 0) {
        assert(record.id_size > 0 && record.id_size <= BP_REQUEST_ID_MAX);
    }
    rest = payload;
    while (bp_ckpt_segment_next(&rest, &segment) > 0) {
        assert(segment.id != 0 && segment.used >= BP_SEGMENT_HEADER);
    }
}

static void fuzz_fixed(struct bp_slice payload) {
    struct bp_ckpt_header header;
    struct bp_ckpt_meta meta, again;
    struct bp_ckpt_totals totals;
    struct bp_ckpt_block block;
    uint32_t format;
    uint64_t whole;
    (void)bp_ckpt_header_decode(payload, &header, &format);
    (void)bp_ckpt_trailer_decode(payload, &totals);
    if (bp_ckpt_block_decode(payload.data, payload.size, &block, &whole) == BP_OK) {
        assert(whole <= payload.size && block.payload.size == whole - BP_CKPT_BLOCK_HEADER);
    }
    if (bp_ckpt_meta_decode(payload, &meta)) {
        struct bp_buffer out = {0};
        bp_ckpt_meta_encode(&meta, &out);
        assert(!out.failed && bp_ckpt_meta_decode(bp_slice(out.data, out.size), &again));
        assert(memcmp(&meta.start, &again.start, sizeof meta.start) == 0 &&
               meta.next_revision == again.next_revision);
        assert(out.size == payload.size);
        bp_buffer_free(&out);
    }
}

/* What was decoded, encoded anew. */
static void encode_key(const struct bp_ckpt_version_reader *reader,
                       struct bp_ckpt_version_writer *writer, struct bp_buffer *out) {
    for (uint32_t i = 0; i < reader->n; i++) {
        bool first = bp_ckpt_version_encode(writer, bp_slice(reader->key, reader->key_size),
                                            &reader->versions[i], out);
        assert(first == (i == 0));
    }
}

static void fuzz_versions(struct bp_slice payload) {
    struct bp_ckpt_version_reader *reader = calloc(1, sizeof *reader),
                                  *again = calloc(1, sizeof *again);
    struct bp_ckpt_version_writer *writer = calloc(1, sizeof *writer);
    struct bp_buffer out = {0};
    assert(reader != NULL && again != NULL && writer != NULL);
    uint32_t keys = 0, seen = 0;
    bp_ckpt_version_reader_aim(reader, payload);
    while (bp_ckpt_version_next(reader) > 0) {
        assert(reader->n > 0 && reader->key_size > 0 && reader->key_size <= BP_STORED_KEY_MAX);
        if (keys < KEEP) {
            encode_key(reader, writer, &out);
            keys++;
        }
    }
    assert(!out.failed);
    bp_ckpt_version_reader_aim(again, bp_slice(out.data, out.size));
    bp_ckpt_version_reader_aim(reader, payload);
    reader->key_size = 0;
    while (seen < keys) {
        assert(bp_ckpt_version_next(again) == 1 && bp_ckpt_version_next(reader) == 1);
        assert(again->n == reader->n && again->key_size == reader->key_size &&
               memcmp(again->key, reader->key, reader->key_size) == 0);
        assert(memcmp(again->versions, reader->versions, reader->n * sizeof *reader->versions) ==
               0);
        seen++;
    }
    assert(bp_ckpt_version_next(again) == 0);
    bp_ckpt_version_reader_free(reader);
    bp_ckpt_version_reader_free(again);
    bp_buffer_free(&out);
    free(reader);
    free(again);
    free(writer);
}

/* Makes the salt and, where the sizes allow, the CRC right. */
static void mend_record(uint8_t *record, size_t size) {
    if (size < BP_SETTLED_RECORD) {
        return;
    }
    bp_put_u64(record + 48, SALT);
    size_t key = bp_align8(bp_get_u16(record + 44));
    uint32_t value = bp_get_u32(record + 36);
    if (value <= BP_VALUE_MAX && BP_SETTLED_RECORD + key + bp_crc_table_size(value) <= size) {
        bp_put_u32(record + 4, bp_crc32c(0, record + 8,
                                         BP_SETTLED_RECORD - 8 + key + bp_crc_table_size(value)));
    }
}

static void fuzz_settled(struct bp_slice payload) {
    uint8_t *copy = malloc(payload.size + 1);
    assert(copy != NULL);
    if (payload.size > 0) {
        memcpy(copy, payload.data, payload.size);
    }
    mend_record(copy, payload.size);
    struct bp_settled_record record;
    if (bp_settled_decode(copy, payload.size, 3, 8192, SALT, &record) == BP_OK) {
        uint32_t value_at = record.version.value.at.offset - 8192;
        assert(record.size <= payload.size && value_at + record.version.value.size <= record.size);
        assert(record.key.data == copy + BP_SETTLED_RECORD &&
               BP_SETTLED_RECORD + record.key.size <= value_at);
        uint8_t *out = malloc(record.size);
        assert(out != NULL);
        uint32_t table = BP_SETTLED_RECORD + (uint32_t)bp_align8(record.key.size);
        uint32_t at = bp_settled_encode(out, SALT, record.key, &record.version, copy + table,
                                        bp_slice(copy + value_at, record.version.value.size));
        assert(at == value_at);
        struct bp_settled_record again;
        assert(bp_settled_decode(out, record.size, 3, 8192, SALT, &again) == BP_OK);
        assert(memcmp(&again.version, &record.version, sizeof record.version) == 0 &&
               again.size == record.size);
        free(out);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    struct bp_slice payload = bp_slice(data + 1, size - 1);
    switch (data[0] % 4) {
    case 0:
        fuzz_fixed(payload);
        break;
    case 1:
        fuzz_tables(payload);
        break;
    case 2:
        fuzz_versions(payload);
        break;
    default:
        fuzz_settled(payload);
        break;
    }
    return 0;
}

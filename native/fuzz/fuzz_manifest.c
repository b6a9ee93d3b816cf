/*
 * Fuzzes what decodes bytes of another member: manifests, and messages that ask for and bring values.
 * Everything is under CRCs, which a fuzzer does not find: so the first byte picks a decoder, and CRCs
 * are made right where that takes one.
 *
 *   mode 0   fixed payloads: HEADER, META, TRAILER
 *   mode 1   a stream: [u8 section][u16 size][payload].. becomes blocks, given in pieces
 *   mode 2   a stream as it is
 *   mode 3   a message of wanted values, its head made right      mode 4   the same of values
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "fetch.h"
#include "manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_fixed(struct bp_slice payload) {
    struct bp_manifest_meta meta, again;
    struct bp_manifest_totals totals;
    uint32_t format;
    uint8_t id[16];
    struct bp_buffer out = {0};
    (void)bp_manifest_header_decode(payload, &format, id);
    if (bp_manifest_meta_decode(payload, &meta)) {
        bp_manifest_meta_encode(&meta, &out);
        assert(out.size == payload.size);
        assert(bp_manifest_meta_decode(bp_slice(out.data, out.size), &again));
        assert(again.applied_index == meta.applied_index && meta.applied_index > 0 &&
               again.compaction_revision < again.next_revision);
    }
    out.size = 0;
    if (bp_manifest_trailer_decode(payload, &totals)) {
        bp_manifest_trailer_encode(&totals, &out);
        assert(out.size == payload.size && memcmp(out.data, payload.data, out.size) == 0);
    }
    bp_buffer_free(&out);
}

/* To the end or the first damage, in pieces of `piece`. */
static void read_stream(struct bp_slice stream, size_t piece) {
    struct bp_manifest_reader *reader = malloc(sizeof *reader);
    assert(reader != NULL);
    bp_manifest_reader_init(reader);
    int got = 0;
    while (got >= 0 && stream.size > 0) {
        size_t n = piece < stream.size ? piece : stream.size;
        struct bp_slice bytes = bp_slice(stream.data, n);
        struct bp_ckpt_block block;
        while ((got = bp_manifest_read(reader, &bytes, &block)) > 0) {
            assert(block.payload.size <= BP_MANIFEST_BLOCK_MAX);
            assert(block.section != BP_CKPT_TRAILER || reader->complete);
        }
        assert(got < 0 || bytes.size == 0);
        stream = bp_slice(stream.data + n, stream.size - n);
    }
    bp_manifest_reader_free(reader);
    free(reader);
}

/* Blocks made of the input; the trailer's totals are those of what came before. */
static void fuzz_blocks(struct bp_slice input) {
    struct bp_buffer out = {0};
    uint32_t number = 0, chain = 0;
    size_t piece = input.size > 0 ? (size_t)input.data[0] + 1 : 1;
    while (input.size >= 3) {
        uint32_t section = input.data[0] % 9;
        size_t n = bp_get_u16(input.data + 1);
        n = n < input.size - 3 ? n : input.size - 3;
        struct bp_buffer block = {0};
        bp_ckpt_block_begin(&block);
        bp_buffer_append(&block, input.data + 3, n);
        assert(bp_ckpt_block_end(&block, section, number++, &chain));
        bp_buffer_append(&out, block.data, block.size);
        bp_buffer_free(&block);
        input = bp_slice(input.data + 3 + n, input.size - 3 - n);
    }
    if (out.size > 0) {
        read_stream(bp_slice(out.data, out.size), piece);
    }
    bp_buffer_free(&out);
}

static void fuzz_message(struct bp_slice payload, enum bp_fetch_kind kind) {
    uint8_t *copy = malloc(payload.size + 1);
    assert(copy != NULL);
    memcpy(copy, payload.data, payload.size);
    if (payload.size >= BP_FETCH_HEAD) {
        bp_put_u16(copy + 4, (uint16_t)kind);
        bp_put_u16(copy + 6, BP_FETCH_FORMAT);
        bp_put_u32(copy + 12, 0);
        bp_put_u32(copy, bp_crc32c(0, copy + 4, payload.size - 4));
    }
    struct bp_slice records;
    if (bp_fetch_open(bp_slice(copy, payload.size), kind, &records)) {
        struct bp_fetch_batch batch;
        struct bp_fetch_record record;
        bp_fetch_begin(&batch, kind);
        while (bp_fetch_next(&records, kind, &record)) {
            assert(bp_fetch_room(&batch, (uint32_t)record.key.size));
            uint8_t *value = bp_fetch_add(&batch, &record);
            if (kind == BP_FETCH_VALUES) {
                memcpy(value, record.value.data, record.value.size);
            }
        }
        assert(bp_fetch_end(&batch));
        assert(batch.out.size == payload.size && memcmp(batch.out.data, copy, payload.size) == 0);
        bp_buffer_free(&batch.out);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    struct bp_slice payload = bp_slice(data + 1, size - 1);
    switch (data[0] % 5) {
    case 0:
        fuzz_fixed(payload);
        break;
    case 1:
        fuzz_blocks(payload);
        break;
    case 2:
        read_stream(payload, (size_t)1 + (payload.size > 0 ? payload.data[0] : 0));
        break;
    case 3:
        fuzz_message(payload, BP_FETCH_WANTED);
        break;
    default:
        fuzz_message(payload, BP_FETCH_VALUES);
        break;
    }
    return 0;
}

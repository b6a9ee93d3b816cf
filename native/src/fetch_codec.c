/*
 * Messages of fetching as bytes (fetch.h has the layout). Pure: no file, no store.
 *
 * bp_fetch_open checks every length and the limits before a record is handed out, so that what goes
 * over the records needs no checks of its own.
 */
#include <assert.h>
#include <string.h>

#include "crc32c.h"
#include "fetch.h"

/* ---- written ---------------------------------------------------------------------------------- */

void bp_fetch_begin(struct bp_fetch_batch *batch, enum bp_fetch_kind kind) {
    *batch = (struct bp_fetch_batch){.kind = kind};
    (void)bp_buffer_grow(&batch->out, BP_FETCH_HEAD);
}

bool bp_fetch_room(const struct bp_fetch_batch *batch, uint32_t key_size) {
    return batch->n < BP_FETCH_RECORDS_MAX && batch->value_bytes < BP_FETCH_BYTES &&
           batch->key_bytes + key_size <= BP_FETCH_KEY_BYTES_MAX;
}

uint8_t *bp_fetch_add(struct bp_fetch_batch *batch, const struct bp_fetch_record *record) {
    bool values = batch->kind == BP_FETCH_VALUES;
    size_t head = BP_FETCH_RECORD + record->key.size;
    uint8_t *p = bp_buffer_grow(&batch->out, head + (values ? record->size : 0));
    batch->n++;
    batch->key_bytes += record->key.size;
    batch->value_bytes += record->size;
    if (p == NULL) {
        return NULL;
    }
    bp_put_u64(p, record->revision);
    bp_put_u32(p + 8, record->crc);
    bp_put_u32(p + 12, record->size);
    bp_put_u16(p + 16, (uint16_t)record->key.size);
    bp_put_u16(p + 18, 0);
    memcpy(p + BP_FETCH_RECORD, record->key.data, record->key.size);
    return values ? p + head : NULL;
}

void bp_fetch_take_back(struct bp_fetch_batch *batch, uint32_t key_size, uint32_t size) {
    assert(batch->n > 0 && !batch->out.failed);
    batch->n--;
    batch->key_bytes -= key_size;
    batch->value_bytes -= size;
    batch->out.size -= BP_FETCH_RECORD + key_size;
    batch->out.size -= batch->kind == BP_FETCH_VALUES ? size : 0;
}

bool bp_fetch_end(struct bp_fetch_batch *batch) {
    if (batch->out.failed) {
        return false;
    }
    uint8_t *p = batch->out.data;
    bp_put_u16(p + 4, (uint16_t)batch->kind);
    bp_put_u16(p + 6, BP_FETCH_FORMAT);
    bp_put_u32(p + 8, batch->n);
    bp_put_u32(p + 12, 0);
    bp_put_u32(p, bp_crc32c(0, p + 4, batch->out.size - 4));
    return true;
}

/* ---- read ------------------------------------------------------------------------------------- */

bool bp_fetch_next(struct bp_slice *records, enum bp_fetch_kind kind,
                   struct bp_fetch_record *record) {
    if (records->size < BP_FETCH_RECORD) {
        return false;
    }
    const uint8_t *p = records->data;
    *record = (struct bp_fetch_record){
        .revision = bp_get_u64(p), .crc = bp_get_u32(p + 8), .size = bp_get_u32(p + 12)};
    uint32_t key_size = bp_get_u16(p + 16), value_size = kind == BP_FETCH_VALUES ? record->size : 0;
    if (bp_get_u16(p + 18) != 0 || record->revision == 0 || key_size == 0 ||
        key_size > BP_STORED_KEY_MAX || record->size == 0 || record->size > BP_VALUE_MAX ||
        records->size - BP_FETCH_RECORD < (uint64_t)key_size + value_size) {
        return false;
    }
    record->key = bp_slice(p + BP_FETCH_RECORD, key_size);
    record->value = bp_slice(record->key.data + key_size, value_size);
    uint64_t whole = BP_FETCH_RECORD + (uint64_t)key_size + value_size;
    *records = bp_slice(p + whole, records->size - whole);
    return true;
}

/* The order the records promise: it makes each (key, revision) unique. */
static bool in_order(const struct bp_fetch_record *before, const struct bp_fetch_record *record) {
    int order = bp_slice_compare(before->key, record->key);
    return order < 0 || (order == 0 && before->revision > record->revision);
}

bool bp_fetch_open(struct bp_slice message, enum bp_fetch_kind kind, struct bp_slice *records) {
    const uint8_t *p = message.data;
    if (message.size < BP_FETCH_HEAD || bp_get_u32(p) != bp_crc32c(0, p + 4, message.size - 4) ||
        bp_get_u16(p + 4) != kind || bp_get_u16(p + 6) != BP_FETCH_FORMAT ||
        bp_get_u32(p + 12) != 0) {
        return false;
    }
    struct bp_fetch_batch sum = {.kind = kind}; /* counts only */
    struct bp_fetch_record before = {0}, record;
    struct bp_slice rest = bp_slice(p + BP_FETCH_HEAD, message.size - BP_FETCH_HEAD);
    *records = rest;
    while (bp_fetch_next(&rest, kind, &record)) {
        if (!bp_fetch_room(&sum, (uint32_t)record.key.size) ||
            (sum.n > 0 && !in_order(&before, &record))) {
            return false;
        }
        sum.n++;
        sum.key_bytes += record.key.size;
        sum.value_bytes += record.size;
        before = record;
    }
    return rest.size == 0 && sum.n == bp_get_u32(p + 8);
}

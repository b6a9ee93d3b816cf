/*
 * Answering for values (fetch.h draws the messages).
 *
 *   wanted  (key, revision, crc).. --> index: that version, with that crc? --> read, verified --> values
 *                                        no: left out                   damaged: left out
 *
 * All of one message is answered inside one read section, so no segment goes in between. No pin is
 * needed: what was trimmed is left out, and a snapshot's own pin keeps what its manifest names.
 */
#include "fetch.h"

#include "repair.h"
#include "store.h"
#include "value.h"

/* False: out of memory. */
static bool answer(struct bp_store *store, const struct bp_fetch_record *wanted,
                   struct bp_fetch_batch *batch) {
    struct bp_version version;
    if (!bp_index_get_exact(store->index, wanted->key, wanted->revision, &version, NULL) ||
        version.value.size != wanted->size || version.value.crc != wanted->crc) {
        return true;
    }
    uint8_t *out = bp_fetch_add(batch, wanted);
    if (out == NULL) {
        return false;
    }
    struct bp_error why = {0};
    if (bp_value_fetch(store->segments, &version.value, 0, wanted->size, out, &why) != BP_OK) {
        bp_damage_note(store->segments, wanted->key, &version, &why);
        bp_fetch_take_back(batch, (uint32_t)wanted->key.size, wanted->size);
    }
    return true;
}

int bp_fetch(struct bp_store *store, const void *wanted, uint64_t size, struct bp_reply *reply,
             struct bp_error *err) {
    struct bp_slice records;
    struct bp_fetch_record record;
    struct bp_fetch_batch batch;
    *reply = (struct bp_reply){0};
    if (!bp_fetch_open(bp_slice(wanted, size), BP_FETCH_WANTED, &records)) {
        return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_MALFORMED_REQUEST,
                       "not a list of wanted values");
    }
    bp_fetch_begin(&batch, BP_FETCH_VALUES);
    bool room = true;
    uint32_t token = bp_epoch_enter(&store->epoch);
    while (room && bp_fetch_next(&records, BP_FETCH_WANTED, &record)) {
        room = answer(store, &record, &batch);
    }
    bp_epoch_leave(&store->epoch, token);
    if (!room || !bp_fetch_end(&batch)) {
        bp_buffer_free(&batch.out);
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the values asked for");
    }
    *reply = (struct bp_reply){.data = batch.out.data, .size = batch.out.size};
    return BP_OK;
}

/*
 * What is damaged, and its repair (repair.h has the way of it).
 *
 *   table   at most TABLE_MAX entries {key, revision, crc, size}, in the order of a fetch message;
 *           taken out when they are asked for: what stays damaged is met again
 *
 * Invariants
 *   - A value goes in only if it is the one the index names: same key and revision, and the checksum
 *     the index holds, of bytes that were checked here.
 *   - The index moves to the new place only after that is durable (clean_copy.c): a crash leaves the
 *     damaged place, or the repaired one.
 */
#include "repair.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "clean.h"
#include "fetch.h"
#include "ops.h"
#include "store.h"

enum { TABLE_MAX = 256 };

struct damaged {
    uint64_t revision;
    uint32_t crc, size, key_size;
    uint8_t key[];
};

struct bp_damage {
    pthread_mutex_t mutex;
    uint32_t n;
    struct damaged *list[TABLE_MAX];
};

struct bp_damage *bp_damage_new(void) {
    struct bp_damage *damage = calloc(1, sizeof *damage);
    if (damage != NULL) {
        pthread_mutex_init(&damage->mutex, NULL);
    }
    return damage;
}

void bp_damage_free(struct bp_damage *damage) {
    if (damage == NULL) {
        return;
    }
    for (uint32_t i = 0; i < damage->n; i++) {
        free(damage->list[i]);
    }
    pthread_mutex_destroy(&damage->mutex);
    free(damage);
}

/* ---- the table -------------------------------------------------------------------------------- */

static int order(struct bp_slice key, uint64_t revision, const struct damaged *entry) {
    int by_key = bp_slice_compare(key, bp_slice(entry->key, entry->key_size));
    if (by_key != 0) {
        return by_key;
    }
    return revision > entry->revision ? -1 : revision < entry->revision;
}

static void insert(struct bp_damage *damage, struct bp_slice key,
                   const struct bp_version *version) {
    uint32_t at = 0;
    while (at < damage->n && order(key, version->revision, damage->list[at]) > 0) {
        at++;
    }
    bool known = at < damage->n && order(key, version->revision, damage->list[at]) == 0;
    struct damaged *entry =
        known || damage->n == TABLE_MAX ? NULL : malloc(sizeof *entry + key.size);
    if (entry == NULL) {
        return;
    }
    *entry = (struct damaged){.revision = version->revision,
                              .crc = version->value.crc,
                              .size = version->value.size,
                              .key_size = (uint32_t)key.size};
    memcpy(entry->key, key.data, key.size);
    memmove(&damage->list[at + 1], &damage->list[at], (damage->n - at) * sizeof entry);
    damage->list[at] = entry;
    damage->n++;
}

void bp_damage_note(struct bp_segments *segments, struct bp_slice key,
                    const struct bp_version *version, const struct bp_error *why) {
    struct bp_damage *damage = bp_segments_damage(segments);
    bool is_damage =
        why != NULL && (why->code == BP_DATA_LOSS || why->reason == BP_REASON_IO_FAILED);
    if (damage != NULL && is_damage && version->value.size > 0) {
        pthread_mutex_lock(&damage->mutex);
        insert(damage, key, version);
        pthread_mutex_unlock(&damage->mutex);
    }
}

/* The first entries into the message, and out of the table; how many. */
static uint32_t take(struct bp_damage *damage, struct bp_fetch_batch *batch) {
    uint32_t n = 0;
    while (n < damage->n && bp_fetch_room(batch, damage->list[n]->key_size)) {
        const struct damaged *entry = damage->list[n++];
        struct bp_fetch_record record = {.revision = entry->revision,
                                         .crc = entry->crc,
                                         .size = entry->size,
                                         .key = bp_slice(entry->key, entry->key_size)};
        (void)bp_fetch_add(batch, &record);
    }
    return n;
}

int bp_damaged_next(struct bp_store *store, struct bp_reply *wanted, struct bp_error *err) {
    struct bp_damage *damage = bp_segments_damage(store->segments);
    struct bp_fetch_batch batch;
    *wanted = (struct bp_reply){0};
    bp_fetch_begin(&batch, BP_FETCH_WANTED);
    pthread_mutex_lock(&damage->mutex);
    uint32_t n = take(damage, &batch);
    bool good = bp_fetch_end(&batch);
    for (uint32_t i = 0; good && i < n; i++) {
        free(damage->list[i]);
    }
    if (good) {
        memmove(damage->list, damage->list + n, (damage->n - n) * sizeof damage->list[0]);
        damage->n -= n;
    }
    pthread_mutex_unlock(&damage->mutex);
    if (!good || n == 0) {
        bp_buffer_free(&batch.out);
        return good ? BP_OK
                    : bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                              "no memory for the list of damaged values");
    }
    *wanted = (struct bp_reply){.data = batch.out.data, .size = batch.out.size};
    return BP_OK;
}

/* ---- putting right ---------------------------------------------------------------------------- */

/* keeper.mutex held. One that the index does not know (any more) is left alone. */
static int repair(struct bp_store *store, const struct bp_fetch_record *record, uint32_t *repaired,
                  struct bp_error *err) {
    struct bp_version version;
    if (!bp_index_get_exact(store->index, record->key, record->revision, &version, NULL) ||
        version.value.size != record->size || version.value.crc != record->crc) {
        return BP_OK;
    }
    if (bp_value_checksum(record->value, NULL) != version.value.crc) {
        return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_VALUE_DAMAGED,
                       "the value sent for repair fails its checksum");
    }
    int code = bp_clean_settle(store, record->key, &version, record->value, err);
    *repaired += code == BP_OK;
    return code;
}

int bp_repair(struct bp_store *store, const void *values, uint64_t size, uint32_t *repaired,
              struct bp_error *err) {
    struct bp_slice records;
    struct bp_fetch_record record;
    *repaired = 0;
    if (!bp_fetch_open(bp_slice(values, size), BP_FETCH_VALUES, &records)) {
        return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_MALFORMED_REQUEST,
                       "not a message of values");
    }
    int code = BP_OK;
    pthread_mutex_lock(&store->keeper.mutex);
    while (code == BP_OK && bp_fetch_next(&records, BP_FETCH_VALUES, &record)) {
        code = repair(store, &record, repaired, err);
    }
    pthread_mutex_unlock(&store->keeper.mutex);
    return code;
}

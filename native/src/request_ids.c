/*
 * The request-id table: a ring of records and a hash of where each id lies in it.
 *
 *   ring    [oldest ... newest]
 *       `max` records at most; adding to a full ring overwrites the oldest
 *   buckets hash(id) -> ring slot + 1
 *       open addressing, at most half full, backward-shift deletion
 *
 * All memory is taken up front, so adding cannot fail.
 */
#include "request_ids.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct bp_request_ids {
    uint64_t max;
    uint64_t first, count; /* ring */
    struct bp_request_id_record *ring;
    uint64_t mask;
    uint32_t *buckets;
};

static uint64_t hash_bytes(const uint8_t *data, size_t size) {
    /* FNV-1a, then mixed: ids are short and the table is bounded */
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < size; i++) {
        h = (h ^ data[i]) * 0x100000001b3ull;
    }
    h ^= h >> 32;
    return h * 0x9e3779b97f4a7c15ull >> 16;
}

static bool same(const struct bp_request_id_record *record, struct bp_slice id) {
    return record->id_size == id.size && memcmp(record->id, id.data, id.size) == 0;
}

struct bp_request_ids *bp_request_ids_new(uint64_t max) {
    assert(max > 0 && max < UINT32_MAX / 4);
    struct bp_request_ids *table = calloc(1, sizeof *table);
    if (table == NULL) {
        return NULL;
    }
    uint64_t buckets = 16;
    while (buckets < max * 2) {
        buckets *= 2;
    }
    table->max = max;
    table->mask = buckets - 1;
    table->ring = calloc(max, sizeof *table->ring);
    table->buckets = calloc(buckets, sizeof *table->buckets);
    if (table->ring == NULL || table->buckets == NULL) {
        bp_request_ids_free(table);
        return NULL;
    }
    return table;
}

void bp_request_ids_free(struct bp_request_ids *table) {
    if (table != NULL) {
        free(table->ring);
        free(table->buckets);
        free(table);
    }
}

const struct bp_request_id_record *bp_request_ids_find(const struct bp_request_ids *table,
                                                       struct bp_slice id) {
    uint64_t i = hash_bytes(id.data, id.size) & table->mask;
    for (; table->buckets[i] != 0; i = (i + 1) & table->mask) {
        const struct bp_request_id_record *record = &table->ring[table->buckets[i] - 1];
        if (same(record, id)) {
            return record;
        }
    }
    return NULL;
}

static uint64_t home_of(const struct bp_request_ids *table, uint32_t bucket) {
    const struct bp_request_id_record *record = &table->ring[bucket - 1];
    return hash_bytes(record->id, record->id_size) & table->mask;
}

static void drop_oldest(struct bp_request_ids *table) {
    uint32_t gone = (uint32_t)table->first + 1;
    uint64_t hole = home_of(table, gone);
    while (table->buckets[hole] != gone) {
        assert(table->buckets[hole] != 0);
        hole = (hole + 1) & table->mask;
    }
    for (uint64_t i = (hole + 1) & table->mask; table->buckets[i] != 0; i = (i + 1) & table->mask) {
        uint64_t home = home_of(table, table->buckets[i]);
        if (((i - home) & table->mask) >= ((i - hole) & table->mask)) {
            table->buckets[hole] = table->buckets[i];
            hole = i;
        }
    }
    table->buckets[hole] = 0;
    table->first = (table->first + 1) % table->max;
    table->count--;
}

void bp_request_ids_add(struct bp_request_ids *table, struct bp_slice id, uint64_t fingerprint,
                        const struct bp_outcome *outcome) {
    assert(id.size > 0 && id.size <= BP_REQUEST_ID_MAX);
    assert(bp_request_ids_find(table, id) == NULL);
    if (table->count == table->max) {
        drop_oldest(table);
    }
    uint64_t slot = (table->first + table->count) % table->max;
    struct bp_request_id_record *record = &table->ring[slot];
    memset(record, 0, sizeof *record);
    record->fingerprint = fingerprint;
    record->revision = outcome->revision;
    record->deleted = outcome->deleted;
    record->lease = outcome->lease;
    record->ttl_ms = outcome->ttl_ms;
    record->succeeded = outcome->succeeded;
    record->id_size = (uint8_t)id.size;
    memcpy(record->id, id.data, id.size);
    uint64_t i = hash_bytes(id.data, id.size) & table->mask;
    while (table->buckets[i] != 0) {
        i = (i + 1) & table->mask;
    }
    table->buckets[i] = (uint32_t)slot + 1;
    table->count++;
}

int bp_request_ids_resize(struct bp_request_ids *table, uint64_t max) {
    if (max == table->max) {
        return 0;
    }
    struct bp_request_ids *other = bp_request_ids_new(max);
    if (other == NULL) {
        return -1;
    }
    for (uint64_t i = table->count > max ? table->count - max : 0; i < table->count; i++) {
        const struct bp_request_id_record *record = bp_request_ids_at(table, i);
        struct bp_outcome outcome = {.revision = record->revision,
                                     .deleted = record->deleted,
                                     .lease = record->lease,
                                     .ttl_ms = record->ttl_ms,
                                     .succeeded = record->succeeded != 0};
        bp_request_ids_add(other, (struct bp_slice){.data = record->id, .size = record->id_size},
                           record->fingerprint, &outcome);
    }
    struct bp_request_ids old = *table;
    *table = *other;
    *other = old;
    bp_request_ids_free(other);
    return 0;
}

uint64_t bp_request_ids_count(const struct bp_request_ids *table) { return table->count; }

const struct bp_request_id_record *bp_request_ids_at(const struct bp_request_ids *table,
                                                     uint64_t i) {
    assert(i < table->count);
    return &table->ring[(table->first + i) % table->max];
}

/*
 * The table of entries: what this member has of the log, by index.
 *
 *        base       evicted          applied      durable    handed    last
 *   ......|............|................|............|..........|........|
 *          only in the log  bytes in memory (and in the log through `durable`)
 *
 *   ring   slot of index i at i & (capacity - 1); base + 1 .. last are in use
 *
 * Invariants
 *   - base <= evicted <= durable <= handed <= last (evicted may be base at least).
 *   - A slot's place is set only for the entry it holds: replacing an entry makes a new slot.
 *   - Revisions continue from entry to entry, so a follower gives out the leader's.
 *   - cached_bytes counts payloads in memory once a slot, also where slots share a blob.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "raft.h"

#define SLOTS_MIN 64u

static struct bp_slot *at(const struct bp_table *table, uint64_t index) {
    return &table->ring[index & (table->capacity - 1)];
}

bool bp_table_reserve(struct bp_table *table, uint64_t n) {
    uint64_t used = table->last - table->base, capacity = table->capacity;
    if (used + n <= capacity) {
        return true;
    }
    capacity = capacity == 0 ? SLOTS_MIN : capacity;
    while (capacity < used + n) {
        capacity *= 2;
    }
    struct bp_slot *ring = calloc(capacity, sizeof *ring);
    if (ring == NULL) {
        return false;
    }
    for (uint64_t i = table->base + 1; i <= table->last; i++) {
        ring[i & (capacity - 1)] = *at(table, i);
    }
    free(table->ring);
    table->ring = ring;
    table->capacity = capacity;
    return true;
}

struct bp_slot *bp_table_slot(const struct bp_table *table, uint64_t index) {
    return index > table->base && index <= table->last ? at(table, index) : NULL;
}

uint64_t bp_table_term(const struct bp_table *table, uint64_t index) {
    const struct bp_slot *slot = bp_table_slot(table, index);
    return slot != NULL ? slot->term : index == table->base ? table->base_term : 0;
}

uint64_t bp_table_next_revision(const struct bp_table *table) {
    const struct bp_slot *slot = bp_table_slot(table, table->last);
    return slot != NULL ? slot->first_revision + slot->count : table->base_revision;
}

void bp_slot_entry(const struct bp_slot *slot, uint64_t index, struct bp_entry *entry) {
    *entry = (struct bp_entry){.index = index,
                               .term = slot->term,
                               .first_revision = slot->first_revision,
                               .count = slot->count,
                               .type = slot->type,
                               .payload = slot->payload,
                               .size = slot->size,
                               .at = slot->place.at};
}

/* ---- the end --------------------------------------------------------------------------------- */

static int decode_system(const struct bp_entry *entry, struct bp_system **out,
                         struct bp_error *err) {
    int cause;
    *out = malloc(sizeof **out);
    if (*out == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a membership");
    }
    if (!bp_system_decode(entry->payload, entry->size, *out, &cause)) {
        free(*out);
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "entry %" PRIu64 ": malformed membership", entry->index);
    }
    return BP_OK;
}

int bp_table_append(struct bp_table *table, const struct bp_entry *entry, struct bp_blob *blob,
                    uint32_t crc, struct bp_error *err) {
    uint64_t revision = bp_table_next_revision(table);
    assert(table->last - table->base < table->capacity);
    if (entry->index != table->last + 1 ||
        (entry->type == BP_ENTRY_JUMP ? entry->first_revision < revision
                                      : entry->first_revision != revision)) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "entry %" PRIu64 " of revision %" PRIu64 " cannot follow entry %" PRIu64
                       ", whose next revision is %" PRIu64,
                       entry->index, entry->first_revision, table->last, revision);
    }
    struct bp_system *system = NULL;
    int code = entry->type == BP_ENTRY_CONFIG ? decode_system(entry, &system, err) : BP_OK;
    if (code != BP_OK) {
        return code;
    }
    table->last++;
    *at(table, entry->index) = (struct bp_slot){.term = entry->term,
                                                .first_revision = entry->first_revision,
                                                .size = entry->size,
                                                .count = entry->count,
                                                .crc = crc,
                                                .type = entry->type,
                                                .blob = bp_blob_hold(blob),
                                                .payload = blob != NULL ? entry->payload : NULL,
                                                .system = system};
    table->cached_bytes += blob != NULL ? entry->size : 0;
    table->log_bytes += bp_entry_bytes(entry->size);
    return BP_OK;
}

static void drop_bytes(struct bp_table *table, struct bp_slot *slot) {
    if (slot->blob != NULL) {
        table->cached_bytes -= slot->size;
        bp_blob_drop(slot->blob);
        slot->blob = NULL;
        slot->payload = NULL;
    }
}

static void drop_slot(struct bp_table *table, struct bp_slot *slot) {
    drop_bytes(table, slot);
    table->log_bytes -= bp_entry_bytes(slot->size);
    free(slot->system);
    *slot = (struct bp_slot){0};
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

void bp_table_truncate(struct bp_table *table, uint64_t last) {
    assert(last >= table->base);
    for (; table->last > last; table->last--) {
        drop_slot(table, at(table, table->last));
    }
    table->handed = least(table->handed, last);
    table->durable = least(table->durable, last);
    table->evicted = least(table->evicted, last);
}

/* ---- the beginning --------------------------------------------------------------------------- */

void bp_table_compact(struct bp_table *table, uint64_t base) {
    assert(base <= table->durable);
    while (table->base < base) {
        struct bp_slot *slot = at(table, table->base + 1);
        table->base++;
        table->base_term = slot->term;
        table->base_revision = slot->first_revision + slot->count;
        if (slot->system != NULL) {
            table->base_system = *slot->system;
        }
        drop_slot(table, slot);
    }
    table->evicted = table->evicted > base ? table->evicted : base;
}

void bp_table_evict(struct bp_table *table, uint64_t through, uint64_t max) {
    through = least(through, table->durable);
    while (table->cached_bytes > max && table->evicted < through) {
        drop_bytes(table, at(table, ++table->evicted));
    }
}

void bp_table_free(struct bp_table *table) {
    if (table->ring != NULL) {
        bp_table_truncate(table, table->base);
        free(table->ring);
        table->ring = NULL;
    }
}

/* ---- durability ------------------------------------------------------------------------------ */

void bp_table_written(struct bp_table *table, uint64_t index, uint64_t term,
                      const struct bp_place *place) {
    struct bp_slot *slot = bp_table_slot(table, index);
    if (slot != NULL && slot->term == term) {
        slot->place = *place;
    }
}

void bp_table_settle(struct bp_table *table) {
    while (table->durable < table->last && at(table, table->durable + 1)->place.at.segment != 0) {
        table->durable++;
    }
}

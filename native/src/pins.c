/*
 * Pins: revisions that somebody still reads.
 *
 *   floor (compacted below)      pins        revision (newest)
 *     |............................|..|.......|
 *     trimming goes to the smaller of floor and the lowest pin
 *
 *   slots   [readers: backups, scrubs asked for][keeper][writes whose reply takes history]
 *           [snapshots sent to other members]
 *
 * A pin stands before the floor is looked at, and trimming looks at the pins after the floor: one
 * of the two sees the other.
 *
 * Everybody has slots of their own, so that backups can keep neither a checkpoint nor the reply of
 * a write from its pin. A slot of writes may have many users: when none is free, a write joins the
 * slot with the newest revision that is not above its own, which holds all it needs. Writes are
 * applied in the order of their revisions, so there is such a slot, except for a repeat that is
 * answered from the request-id table: its history was never promised.
 */
#include <assert.h>

#include "store.h"

struct range {
    uint32_t first, end;
};

static struct range slots_of(enum bp_pin_kind kind) {
    static const struct range ranges[] = {
        [BP_PIN_READER] = {0, BP_PINS_READERS},
        [BP_PIN_KEEPER] = {BP_PINS_READERS, BP_PINS_READERS + BP_PINS_KEEPER},
        [BP_PIN_WRITE] = {BP_PINS_READERS + BP_PINS_KEEPER, BP_PINS_MAX - BP_PINS_SNAPSHOTS},
        [BP_PIN_SNAPSHOT] = {BP_PINS_MAX - BP_PINS_SNAPSHOTS, BP_PINS_MAX},
    };
    return ranges[kind];
}

/* The slot to take or to join; BP_PINS_MAX when there is none. pins.mutex held. */
static uint32_t find_slot(const struct bp_pins *pins, enum bp_pin_kind kind, uint64_t revision) {
    struct range range = slots_of(kind);
    uint32_t joined = BP_PINS_MAX;
    for (uint32_t i = range.first; i < range.end; i++) {
        const struct bp_pin *pin = &pins->slots[i];
        if (pin->users == 0) {
            return i;
        }
        if (kind == BP_PIN_WRITE && pin->revision <= revision &&
            (joined == BP_PINS_MAX || pin->revision > pins->slots[joined].revision)) {
            joined = i;
        }
    }
    return joined;
}

int bp_pins_add(struct bp_store *store, enum bp_pin_kind kind, uint64_t revision, uint32_t *pin,
                struct bp_error *err) {
    assert(revision != 0);
    struct bp_pins *pins = &store->pins;
    pthread_mutex_lock(&pins->mutex);
    *pin = find_slot(pins, kind, revision);
    if (*pin != BP_PINS_MAX) {
        struct bp_pin *slot = &pins->slots[*pin];
        slot->revision = slot->users == 0 ? revision : slot->revision;
        slot->users++;
    }
    pthread_mutex_unlock(&pins->mutex);
    if (*pin == BP_PINS_MAX) {
        bool snapshot = kind == BP_PIN_SNAPSHOT;
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_QUEUE_FULL,
                       "%u %s, the most there may be",
                       snapshot ? BP_PINS_SNAPSHOTS : BP_PINS_READERS,
                       snapshot ? "snapshots are being sent" : "backups and scrubs are reading");
    }
    if (atomic_load(&store->floor) > revision) {
        bp_pins_remove(store, *pin);
        return bp_fail_compacted(err, store);
    }
    return BP_OK;
}

void bp_pins_remove(struct bp_store *store, uint32_t pin) {
    struct bp_pins *pins = &store->pins;
    pthread_mutex_lock(&pins->mutex);
    assert(pins->slots[pin].users > 0);
    pins->slots[pin].users--;
    pthread_mutex_unlock(&pins->mutex);
}

uint64_t bp_pins_min(struct bp_store *store) {
    struct bp_pins *pins = &store->pins;
    uint64_t min = UINT64_MAX;
    pthread_mutex_lock(&pins->mutex);
    for (uint32_t i = 0; i < BP_PINS_MAX; i++) {
        const struct bp_pin *pin = &pins->slots[i];
        min = pin->users > 0 && pin->revision < min ? pin->revision : min;
    }
    pthread_mutex_unlock(&pins->mutex);
    return min;
}

/*
 * Scrubbing the index and the values it names.
 *
 *   hash
 *       under `apply`: the state hash and its revision R, which is pinned; then every live version
 *       at R is added up again
 *   values   [read section: gather versions until their bytes make a step -> read and check each]
 *
 *   key a: r9 r7 r3 | key b: r8 r2 | key c: r90000 ... r4 ...
 *       a key with very many versions is gathered in several pieces,
 *   `key`, `below`: where the next piece begins
 *       each from the revision below the last one on
 *
 * No pin is needed for values: what is trimmed meanwhile needs no check, and a segment named by a
 * gathered version outlives the section.
 */
#include <stdio.h>
#include <string.h>

#include "repair.h"
#include "scrub_internal.h"
#include "value.h"

static struct bp_slice entry_key(const struct bp_scrub_piece *piece, uint32_t i) {
    const struct bp_scrub_entry *entry = &piece->entries[i];
    return bp_slice(piece->keys + entry->key_at, entry->key_size);
}

/* Under a leaf's lock: copies and nothing else. */
static int gather(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct bp_scrub_piece *piece = arg;
    if (piece->one_key && !bp_slice_equal(key, piece->start)) {
        piece->other_key = true;
        return 1;
    }
    bool known = piece->n > 0 && bp_slice_equal(key, entry_key(piece, piece->n - 1));
    if (piece->n == BP_SCRUB_VERSIONS || piece->cost >= BP_SCRUB_STEP ||
        (!known && key.size > sizeof piece->keys - piece->key_bytes)) {
        piece->full = true;
        return 1;
    }
    struct bp_scrub_entry *entry = &piece->entries[piece->n];
    if (known) {
        *entry = piece->entries[piece->n - 1];
    } else {
        entry->key_at = piece->key_bytes;
        entry->key_size = (uint32_t)key.size;
        memcpy(piece->keys + piece->key_bytes, key.data, key.size);
        piece->key_bytes += (uint32_t)key.size;
    }
    entry->version = *version;
    piece->cost += BP_SCRUB_VERSION_COST + (piece->values ? version->value.size : 0);
    piece->n++;
    return 0;
}

static void begin_piece(struct bp_scrub *scrub, bool values) {
    struct bp_scrub_piece *piece = scrub->piece;
    piece->values = values;
    piece->n = piece->key_bytes = 0;
    piece->cost = 0;
    piece->one_key = scrub->below != 0;
    piece->full = piece->other_key = false;
    piece->start = bp_slice(scrub->key, scrub->key_size);
}

static void aim_at(struct bp_scrub *scrub, struct bp_slice key, uint64_t below) {
    if (key.data != scrub->key) {
        memcpy(scrub->key, key.data, key.size);
    }
    scrub->key_size = (uint32_t)key.size;
    scrub->below = below;
}

/* On to the first key behind `key`. */
static void aim_behind(struct bp_scrub *scrub, struct bp_slice key) {
    aim_at(scrub, key, 0);
    scrub->key[scrub->key_size++] = 0;
}

/* ---- the state hash ------------------------------------------------------------------------- */

static int begin_hash(struct bp_scrub *scrub, struct bp_error *err) {
    struct bp_store *store = scrub->store;
    pthread_mutex_lock(&store->apply);
    scrub->revision = store->next_revision - 1;
    bp_index_state_hash(store->index, scrub->expected);
    int code = bp_pins_add(store, scrub->by_keeper ? BP_PIN_KEEPER : BP_PIN_READER, scrub->revision,
                           &scrub->pin, err);
    pthread_mutex_unlock(&store->apply);
    scrub->pinned = code == BP_OK;
    return code;
}

static int end_hash(struct bp_scrub *scrub, struct bp_finding *finding) {
    bp_pins_remove(scrub->store, scrub->pin);
    scrub->pinned = false;
    scrub->key_size = 0;
    if (scrub->sum[0] == scrub->expected[0] && scrub->sum[1] == scrub->expected[1]) {
        return BP_SCRUB_DONE;
    }
    finding->revision = scrub->revision;
    (void)snprintf(finding->message, sizeof finding->message,
                   "the index does not add up to the state hash kept at revision %llu: memory was "
                   "damaged; restart the daemon",
                   (unsigned long long)scrub->revision);
    return BP_SCRUB_FINDING;
}

int bp_scrub_hash(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err) {
    struct bp_scrub_piece *piece = scrub->piece;
    if (!scrub->pinned) {
        if (scrub->revision != 0) {
            return BP_SCRUB_DONE; /* the step before ended it with a finding */
        }
        int code = begin_hash(scrub, err);
        if (code != BP_OK) {
            return code;
        }
    }
    begin_piece(scrub, false);
    (void)bp_index_scan(scrub->store->index, piece->start, (struct bp_slice){0}, scrub->revision,
                        false, gather, piece);
    for (uint32_t i = 0; i < piece->n; i++) {
        uint64_t term[2];
        bp_index_hash_version(entry_key(piece, i), &piece->entries[i].version, term);
        scrub->sum[0] += term[0]; /* two lanes, each modulo 2^64, as the index adds */
        scrub->sum[1] += term[1];
    }
    if (!piece->full) {
        return end_hash(scrub, finding);
    }
    aim_behind(scrub, entry_key(piece, piece->n - 1));
    return BP_SCRUB_MORE;
}

/* ---- values --------------------------------------------------------------------------------- */

static void describe(const struct bp_scrub *scrub, uint32_t i, const struct bp_error *why,
                     struct bp_finding *finding) {
    const struct bp_version *version = &scrub->piece->entries[i].version;
    struct bp_slice key = entry_key(scrub->piece, i);
    struct bp_segments *segments = scrub->store->segments;
    const struct bp_segment *segment = bp_segments_find(segments, version->value.at.segment);
    const char *suffix =
        segment != NULL && segment->header.kind == BP_SEGMENT_SETTLED ? "set" : "log";
    (void)snprintf(finding->file, sizeof finding->file, "%08x.%s", version->value.at.segment,
                   suffix);
    finding->offset = version->value.at.offset;
    finding->revision = version->revision;
    finding->key_size = (uint32_t)key.size;
    memcpy(finding->key, key.data, key.size);
    (void)snprintf(finding->message, sizeof finding->message, "%.250s", why->message);
}

/* The piece's values, up to the first bad one. */
static int check_piece(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err) {
    struct bp_scrub_piece *piece = scrub->piece;
    for (uint32_t i = 0; i < piece->n; i++) {
        const struct bp_version *version = &piece->entries[i].version;
        if ((version->flags & BP_VERSION_TOMBSTONE) != 0 || version->value.size == 0) {
            continue;
        }
        struct bp_error why = {0};
        int code = bp_value_verify(scrub->store->segments, &version->value, BP_SITE_SCRUB_READ,
                                   scrub->scratch, &why);
        scrub->bytes += version->value.size;
        if (code == BP_OK) {
            continue;
        }
        if (!bp_scrub_is_damage(&why)) {
            *err = why;
            return code;
        }
        describe(scrub, i, &why, finding);
        bp_damage_note(scrub->store->segments, entry_key(piece, i), version, &why);
        aim_at(scrub, entry_key(piece, i), version->revision); /* the rest is gathered again */
        return BP_SCRUB_FINDING;
    }
    return BP_SCRUB_MORE;
}

/* Where the next piece begins, all of this one being sound. */
static int move_on(struct bp_scrub *scrub) {
    const struct bp_scrub_piece *piece = scrub->piece;
    if (piece->full) {
        const struct bp_version *last = &piece->entries[piece->n - 1].version;
        aim_at(scrub, entry_key(piece, piece->n - 1), last->revision);
        return BP_SCRUB_MORE;
    }
    if (piece->one_key) {
        aim_behind(scrub, piece->start);
        return BP_SCRUB_MORE;
    }
    return BP_SCRUB_DONE;
}

int bp_scrub_values(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err) {
    struct bp_store *store = scrub->store;
    begin_piece(scrub, true);
    uint64_t floor = atomic_load_explicit(&store->floor, memory_order_acquire);
    uint64_t through = scrub->below != 0
                           ? scrub->below - 1
                           : atomic_load_explicit(&store->revision, memory_order_acquire);
    floor = floor < through ? floor : through;
    uint32_t token = bp_epoch_enter(&store->epoch);
    (void)bp_index_scan_versions(store->index, scrub->piece->start, floor, through, gather,
                                 scrub->piece);
    int result = check_piece(scrub, finding, err);
    bp_epoch_leave(&store->epoch, token);
    return result == BP_SCRUB_MORE ? move_on(scrub) : result;
}

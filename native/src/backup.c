/*
 * Making a backup while the store serves (backup.h draws the file).
 *
 *   new     under `apply`: pin the newest revision; copy who we are, leases, request ids
 *       writers wait for this copy only
 *   next    [header] -> [leases].. -> [request ids].. -> [keys].. -> [trailer]
 *       one block at a time, handed out in the caller's pieces
 *
 * Keys are walked at the pinned revision, a step at a time: gather keys, read their values, both
 * inside one read section, so that the cleaner takes no segment away in between. What is written
 * later has a higher revision and is not seen; what the pin holds is not trimmed.
 *
 * Invariants: at most one block is in memory; the pin ends with bp_backup_free (how long it may
 * stand is the caller's to limit); an error is final, so that a stream that was cut short never
 * gets a trailer.
 */
#include "backup.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"
#include "value.h"

enum {
    STEP_KEYS = 128,
    STEP_KEY_BYTES = 32 << 10,
    STEP_VALUE_BYTES = 256 << 10, /* a step ends behind the value that passes this */
};
_Static_assert(STEP_KEY_BYTES >= BP_STORED_KEY_MAX, "a step holds the largest key");

enum stage { STAGE_HEADER, STAGE_LEASES, STAGE_REQUEST_IDS, STAGE_KEYS, STAGE_TRAILER, STAGE_END };

/* Keys gathered from the index, not yet written. */
struct step {
    uint32_t n, key_bytes;
    uint64_t value_bytes;
    bool full;
    struct bp_version versions[STEP_KEYS];
    uint16_t key_at[STEP_KEYS], key_size[STEP_KEYS];
    uint8_t keys[STEP_KEY_BYTES];
};

struct bp_backup {
    struct bp_store *store;
    uint32_t pin;
    bool pinned;
    struct bp_backup_header header;
    struct bp_lease_record *leases;
    uint64_t n_leases, next_lease;
    struct bp_request_id_record *request_ids;
    uint64_t n_request_ids, next_request_id;

    enum stage stage;
    struct bp_buffer
        block; /* header's room, then the payload; once finished, handed out up to `given` */
    size_t given;
    uint64_t offset; /* bytes of the blocks finished */
    struct bp_backup_totals totals;
    uint32_t next_size; /* of next_key; the walk goes on there */
    uint8_t next_key[BP_STORED_KEY_MAX + 1];
    struct step step;
    struct bp_error error; /* code BP_OK: none yet */
};

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory for a backup");
}

/* ---- the cut -------------------------------------------------------------------------------- */

static int copy_request_ids(struct bp_backup *backup) {
    const struct bp_request_ids *table = backup->store->request_ids;
    backup->n_request_ids = bp_request_ids_count(table);
    backup->request_ids = malloc((backup->n_request_ids + 1) * sizeof *backup->request_ids);
    if (backup->request_ids == NULL) {
        return -1;
    }
    for (uint64_t i = 0; i < backup->n_request_ids; i++) {
        backup->request_ids[i] = *bp_request_ids_at(table, i);
    }
    return 0;
}

/* Under `apply`. */
static int take_cut(struct bp_backup *backup, struct bp_error *err) {
    struct bp_store *store = backup->store;
    struct bp_backup_header *header = &backup->header;
    memcpy(header->store_id, store->store_id, sizeof header->store_id);
    header->revision = store->next_revision - 1;
    header->compaction_revision = store->compaction_revision;
    header->made_ms = bp_disk_real_ns(store->disk) / 1000000;
    header->system = store->system;
    int code = bp_pins_add(store, BP_PIN_READER, header->revision, &backup->pin, err);
    if (code != BP_OK) {
        return code;
    }
    backup->pinned = true;
    backup->leases = bp_leases_snapshot(store->leases, &backup->n_leases);
    bool copied = backup->leases != NULL || backup->n_leases == 0;
    return copied && copy_request_ids(backup) == 0 ? BP_OK : no_memory(err);
}

int bp_backup_new(struct bp_store *store, struct bp_backup **out, uint64_t *revision,
                  struct bp_error *err) {
    if (atomic_load(&store->damaged)) { /* an entry may have been applied in part */
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_STORE_CORRUPT,
                       "no backup is made of a store that has stopped");
    }
    struct bp_backup *backup = calloc(1, sizeof *backup);
    if (backup == NULL) {
        return no_memory(err);
    }
    backup->store = store;
    pthread_mutex_lock(&store->apply);
    int code = take_cut(backup, err);
    pthread_mutex_unlock(&store->apply);
    if (code != BP_OK) {
        bp_backup_free(backup);
        return code;
    }
    *revision = backup->header.revision;
    *out = backup;
    return BP_OK;
}

void bp_backup_free(struct bp_backup *backup) {
    if (backup == NULL) {
        return;
    }
    if (backup->pinned) {
        bp_pins_remove(backup->store, backup->pin);
    }
    free(backup->leases);
    free(backup->request_ids);
    bp_buffer_free(&backup->block);
    free(backup);
}

/* ---- blocks --------------------------------------------------------------------------------- */

static void begin_block(struct bp_backup *backup) {
    backup->given = 0;
    bp_ckpt_block_begin(&backup->block);
}

static bool block_full(const struct bp_backup *backup) {
    return backup->block.failed || backup->block.size >= BP_CKPT_BLOCK;
}

static int end_block(struct bp_backup *backup, uint32_t section, struct bp_error *err) {
    struct bp_backup_totals *totals = &backup->totals;
    if (!bp_ckpt_block_end(&backup->block, section, (uint32_t)totals->blocks, &totals->chain)) {
        return no_memory(err);
    }
    totals->blocks++;
    backup->offset += backup->block.size;
    return BP_OK;
}

static void encode_leases(struct bp_backup *backup) {
    while (backup->next_lease < backup->n_leases && !block_full(backup)) {
        bp_ckpt_lease_encode(&backup->leases[backup->next_lease++], &backup->block);
    }
    backup->totals.leases = backup->next_lease;
}

static void encode_request_ids(struct bp_backup *backup) {
    while (backup->next_request_id < backup->n_request_ids && !block_full(backup)) {
        bp_ckpt_request_id_encode(&backup->request_ids[backup->next_request_id++], &backup->block);
    }
    backup->totals.request_ids = backup->next_request_id;
}

static void encode_trailer(struct bp_backup *backup) {
    backup->totals.file_size = backup->offset + BP_CKPT_BLOCK_HEADER + BP_BACKUP_TRAILER_SIZE;
    bp_backup_trailer_encode(&backup->totals, &backup->block);
}

/* ---- keys ----------------------------------------------------------------------------------- */

/* Under a leaf's lock: copies and nothing else. */
static int gather(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct step *step = arg;
    if (step->n == STEP_KEYS || key.size > STEP_KEY_BYTES - step->key_bytes ||
        step->value_bytes > STEP_VALUE_BYTES) {
        step->full = true;
        return 1;
    }
    memcpy(step->keys + step->key_bytes, key.data, key.size);
    step->versions[step->n] = *version;
    step->key_at[step->n] = (uint16_t)step->key_bytes;
    step->key_size[step->n] = (uint16_t)key.size;
    step->key_bytes += (uint32_t)key.size;
    step->value_bytes += version->value.size;
    step->n++;
    return 0;
}

static int write_step(struct bp_backup *backup, struct bp_error *err) {
    const struct step *step = &backup->step;
    for (uint32_t i = 0; i < step->n; i++) {
        const struct bp_version *version = &step->versions[i];
        struct bp_slice key = bp_slice(step->keys + step->key_at[i], step->key_size[i]);
        uint8_t *value = bp_backup_key_encode(key, version, &backup->block);
        if (value == NULL) {
            return no_memory(err);
        }
        int code = version->value.size == 0
                       ? BP_OK
                       : bp_value_read(backup->store->segments, &version->value, 0,
                                       version->value.size, value, err);
        if (code != BP_OK) {
            return code;
        }
        backup->totals.keys++;
        backup->totals.value_bytes += version->value.size;
    }
    return BP_OK;
}

/* Some keys into the block; *more is false behind the last one. */
static int add_keys(struct bp_backup *backup, bool *more, struct bp_error *err) {
    struct bp_store *store = backup->store;
    struct step *step = &backup->step;
    step->n = step->key_bytes = 0;
    step->value_bytes = 0;
    step->full = false;
    struct bp_slice start = bp_slice(backup->next_key, backup->next_size);
    uint32_t token = bp_epoch_enter(&store->epoch);
    (void)bp_index_scan(store->index, start, (struct bp_slice){0}, backup->header.revision, false,
                        gather, step);
    int code = write_step(backup, err);
    bp_epoch_leave(&store->epoch, token);
    if (step->n > 0) { /* go on behind the last one */
        uint32_t size = step->key_size[step->n - 1];
        memcpy(backup->next_key, step->keys + step->key_at[step->n - 1], size);
        backup->next_key[size] = 0;
        backup->next_size = size + 1;
    }
    *more = step->full;
    return code;
}

static int add_all_that_fits(struct bp_backup *backup, bool *more, struct bp_error *err) {
    int code = BP_OK;
    *more = true;
    while (code == BP_OK && *more && !block_full(backup)) {
        code = add_keys(backup, more, err);
    }
    return code;
}

/* ---- the stream ----------------------------------------------------------------------------- */

static const uint32_t sections[STAGE_END] = {
    BP_BACKUP_HEADER, BP_BACKUP_LEASES, BP_BACKUP_REQUEST_IDS, BP_BACKUP_KEYS, BP_BACKUP_TRAILER};

/* The next block, or none where a section is empty. */
static int produce(struct bp_backup *backup, struct bp_error *err) {
    enum stage stage = backup->stage;
    bool more = false;
    int code = BP_OK;
    begin_block(backup);
    switch (stage) {
    case STAGE_HEADER:
        bp_backup_header_encode(&backup->header, &backup->block);
        break;
    case STAGE_LEASES:
        encode_leases(backup);
        more = backup->next_lease < backup->n_leases;
        break;
    case STAGE_REQUEST_IDS:
        encode_request_ids(backup);
        more = backup->next_request_id < backup->n_request_ids;
        break;
    case STAGE_KEYS:
        code = add_all_that_fits(backup, &more, err);
        break;
    case STAGE_TRAILER:
        encode_trailer(backup);
        break;
    case STAGE_END:
        break;
    }
    if (!more && stage != STAGE_END) {
        backup->stage++;
    }
    if (code != BP_OK || (backup->block.size == BP_CKPT_BLOCK_HEADER && !backup->block.failed)) {
        backup->block.size = 0;
        return code;
    }
    return end_block(backup, sections[stage], err);
}

int bp_backup_next(struct bp_backup *backup, void *buffer, uint64_t size, uint64_t *n,
                   struct bp_error *err) {
    uint8_t *out = buffer;
    *n = 0;
    while (*n < size && backup->error.code == BP_OK) {
        size_t left = backup->block.size - backup->given;
        if (left == 0 && backup->stage == STAGE_END) {
            break;
        }
        if (left == 0) {
            (void)produce(backup, &backup->error);
            continue;
        }
        size_t take = left < size - *n ? left : (size_t)(size - *n);
        memcpy(out + *n, backup->block.data + backup->given, take);
        backup->given += take;
        *n += take;
    }
    if (backup->error.code != BP_OK) {
        *n = 0;
        if (err != NULL) {
            *err = backup->error;
        }
    }
    return backup->error.code;
}

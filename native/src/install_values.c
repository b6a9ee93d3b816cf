/*
 * Giving every version of the manifest a place (install.h has the whole way).
 *
 *   spool [block][block]...      one block at a time:
 *           '-> items   k1 r9 | k1 r7 | k2 r8 | k3 r4 | k3 r2
 *                       looked for here -----^                    (bounded a call: bytes are verified)
 *                       placed --^ first one that is wanted       (all looked for: ask)
 *           all placed -> target, next block
 *
 * A few questions may be out at a time, so that one answer comes while another is written. A value
 * that an answer left out is asked for again once all are answered, so that any member may give it;
 * when an answer brings nothing at all, a new manifest is due.
 *
 * Invariants
 *   - A value of the store counts as held only after its bytes matched the CRC, and its segment is
 *     kept from then on: noted inside the read section that found the place.
 *   - A value that came is taken only for an item that wants it, and after its bytes matched.
 *   - Records of ours are written before the target says that they are there, and synced before
 *     finish.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "install_internal.h"
#include "log_internal.h"
#include "ops.h"
#include "settled.h"
#include "value.h"

#define LOOK_BYTES (8u << 20) /* of values verified in one call */
#define LOOK_ITEMS 65536u
#define RECORDS_FLUSH (1u << 20)
#define SYNC_BYTES (8u << 20) /* a little at a time: the log's syncs wait for the same disk */

enum { FOUND_MORE = 0, FOUND_WANTED = 1, FOUND_ALL = 2 };

/* ---- the block being resolved ----------------------------------------------------------------- */

void bp_install_unload(struct bp_install *install) {
    install->loaded = false;
    install->n_items = install->looked = install->wanted = install->asked = install->written = 0;
    install->keys.size = 0;
}

uint32_t bp_install_key_end(const struct bp_install *install, uint32_t from) {
    uint32_t to = from;
    while (to < install->n_items && install->items[to].key_at == install->items[from].key_at) {
        to++;
    }
    return to;
}

static bool item_room(struct bp_install *install, uint32_t n) {
    if (n <= install->items_capacity - install->n_items) {
        return true;
    }
    uint32_t capacity = install->items_capacity == 0 ? 4096 : install->items_capacity;
    while (capacity - install->n_items < n) {
        capacity *= 2;
    }
    struct bp_install_item *items = realloc(install->items, capacity * sizeof *items);
    install->items = items != NULL ? items : install->items;
    struct bp_version *versions = realloc(install->item_versions, capacity * sizeof *versions);
    install->item_versions = versions != NULL ? versions : install->item_versions;
    if (items == NULL || versions == NULL) {
        return false;
    }
    install->items_capacity = capacity;
    return true;
}

/* The key the reader stands at, with its versions. */
static bool add_key(struct bp_install *install) {
    const struct bp_ckpt_version_reader *reader = &install->versions;
    size_t at = install->keys.size;
    bp_buffer_append(&install->keys, reader->key, reader->key_size);
    if (install->keys.failed || !item_room(install, reader->n)) {
        return false;
    }
    for (uint32_t i = 0; i < reader->n; i++) {
        install->items[install->n_items] =
            (struct bp_install_item){.key_at = at,
                                     .key_size = (uint16_t)reader->key_size,
                                     .placed = reader->versions[i].value.size == 0};
        install->item_versions[install->n_items++] = reader->versions[i];
    }
    return true;
}

static int read_block(struct bp_install *install, struct bp_ckpt_block *block,
                      struct bp_error *err) {
    struct bp_disk *disk = install->store->disk;
    uint8_t head[BP_CKPT_BLOCK_HEADER];
    uint64_t size = 0, at = install->spool_offset;
    int rc = bp_disk_read(disk, BP_SITE_CHECKPOINT_READ, install->spool.fd, head, sizeof head, at);
    if (rc >= 0) {
        size = bp_ckpt_block_size(head);
        install->block.size = 0;
        if (size > install->spool.size - at || bp_buffer_grow(&install->block, size) == NULL) {
            rc = size > install->spool.size - at ? -ENODATA : -ENOMEM;
        }
    }
    rc = rc < 0 ? rc
                : bp_disk_read(disk, BP_SITE_CHECKPOINT_READ, install->spool.fd,
                               install->block.data, size, at);
    if (rc < 0 ||
        bp_ckpt_block_decode(install->block.data, install->block.size, block, &size) != BP_OK) {
        install->stage = BP_INSTALL_BROKEN; /* it was whole when it was written */
        return bp_fail_io(err, rc < 0 ? rc : -EIO, "cannot read the manifest that was kept");
    }
    install->spool_offset += size;
    return BP_OK;
}

static int load_block(struct bp_install *install, struct bp_error *err) {
    struct bp_ckpt_block block;
    int code = read_block(install, &block, err);
    if (code != BP_OK) {
        return code;
    }
    int got;
    bool room = true;
    bp_install_unload(install);
    bp_ckpt_version_reader_aim(&install->versions, block.payload);
    while (room && (got = bp_ckpt_version_next(&install->versions)) > 0) {
        room = add_key(install);
    }
    if (!room || got != 0) {
        install->stage = BP_INSTALL_BROKEN; /* out of memory: the reader is in the middle */
        return bp_install_no_memory(err);
    }
    install->loaded = true;
    return BP_OK;
}

/* What is placed goes to the target. Once failed, it goes on where it stopped. */
static int write_block(struct bp_install *install, struct bp_error *err) {
    while (install->written < install->n_items) {
        uint32_t from = install->written, to = bp_install_key_end(install, from);
        int code = bp_install_target_key(install, bp_install_key(install, from),
                                         &install->item_versions[from], to - from, err);
        if (code != BP_OK) {
            return code;
        }
        install->written = to;
    }
    bp_install_unload(install);
    return BP_OK;
}

/* ---- what is held ----------------------------------------------------------------------------- */

/* Where `id` is among the segments that the target names, or belongs. mutex held. */
static uint32_t segment_slot(const struct bp_install *install, uint32_t id) {
    uint32_t low = 0, high = install->n_segments;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (install->segments[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static struct bp_ckpt_segment *add_segment(struct bp_install *install, uint32_t slot, uint32_t id) {
    if (install->n_segments == install->segments_capacity) {
        uint32_t capacity = install->segments_capacity == 0 ? 64 : install->segments_capacity * 2;
        struct bp_ckpt_segment *segments = realloc(install->segments, capacity * sizeof *segments);
        if (segments == NULL) {
            return NULL;
        }
        install->segments = segments;
        install->segments_capacity = capacity;
    }
    struct bp_ckpt_segment *at = install->segments + slot;
    memmove(at + 1, at, (install->n_segments - slot) * sizeof *at);
    *at = (struct bp_ckpt_segment){.id = id, .used = BP_SEGMENT_HEADER};
    install->n_segments++;
    return at;
}

/*
 * The segment is kept from now on; the target names it once a sound value in it ends above its
 * header. False: out of memory.
 */
static bool hold(struct bp_install *install, uint32_t id, uint32_t end) {
    pthread_mutex_lock(&install->mutex);
    uint32_t slot = segment_slot(install, id);
    bool known = slot < install->n_segments && install->segments[slot].id == id;
    struct bp_ckpt_segment *segment =
        known ? &install->segments[slot] : add_segment(install, slot, id);
    if (segment != NULL && segment->used < end) {
        segment->used = end;
    }
    pthread_mutex_unlock(&install->mutex);
    return segment != NULL;
}

/* Is this version here, sound? False: out of memory. */
static bool look_here(struct bp_install *install, uint32_t i) {
    struct bp_store *store = install->store;
    struct bp_version *version = &install->item_versions[i], here;
    bool room = true;
    uint32_t token = bp_epoch_enter(&store->epoch);
    if (bp_index_get_exact(store->index, bp_install_key(install, i), version->revision, &here,
                           NULL) &&
        here.value.size == version->value.size && here.value.crc == version->value.crc) {
        room = hold(install, here.value.at.segment, BP_SEGMENT_HEADER);
        if (room && bp_value_verify(store->segments, &here.value, BP_SITE_VALUE_READ,
                                    install->scratch, NULL) == BP_OK) {
            version->value.at = here.value.at;
            room = hold(install, here.value.at.segment, here.value.at.offset + here.value.size);
            install->items[i].placed = true;
            install->held++;
            install->held_bytes += version->value.size;
        }
    }
    bp_epoch_leave(&store->epoch, token);
    return room;
}

/* Looks for items as far as one call may. */
static int look(struct bp_install *install, uint64_t *bytes, struct bp_error *err) {
    uint64_t n = 0;
    while (install->looked < install->n_items && *bytes < LOOK_BYTES && n++ < LOOK_ITEMS) {
        uint32_t i = install->looked;
        struct bp_version *version = &install->item_versions[i];
        struct bp_pos at;
        if (!install->items[i].placed &&
            bp_install_find_earlier(install, bp_install_key(install, i), version, &at)) {
            version->value.at = at;
            install->items[i].placed = true;
        }
        if (!install->items[i].placed) {
            *bytes += version->value.size;
            if (!look_here(install, i)) {
                return bp_install_no_memory(err);
            }
        }
        install->looked++;
    }
    return BP_OK;
}

/* ---- asking ----------------------------------------------------------------------------------- */

/* Questions that are out: what they ask for is not asked again until all of them are answered. */
static int ask(struct bp_install *install, bool ahead, struct bp_reply *out, struct bp_error *err) {
    struct bp_fetch_batch batch;
    uint32_t i = ahead && install->asked > install->wanted ? install->asked : install->wanted;
    if (i == install->n_items) {
        return FOUND_WANTED; /* nothing more before the answers are here */
    }
    bp_fetch_begin(&batch, BP_FETCH_WANTED);
    for (; i < install->n_items; i++) {
        const struct bp_version *version = &install->item_versions[i];
        if (install->items[i].placed) {
            continue;
        }
        if (!bp_fetch_room(&batch, install->items[i].key_size)) {
            break;
        }
        struct bp_fetch_record record = {.revision = version->revision,
                                         .crc = version->value.crc,
                                         .size = version->value.size,
                                         .key = bp_install_key(install, i)};
        (void)bp_fetch_add(&batch, &record);
    }
    if (!bp_fetch_end(&batch)) {
        bp_buffer_free(&batch.out);
        return bp_install_no_memory(err);
    }
    install->asked = i;
    *out = (struct bp_reply){.data = batch.out.data, .size = batch.out.size};
    return FOUND_WANTED;
}

static int end_resolving(struct bp_install *install, struct bp_error *err) {
    int code = bp_install_target_flush(install, err);
    code = code == BP_OK ? bp_install_own_flush(install, err) : code;
    if (code != BP_OK) {
        return code;
    }
    bp_install_drop_earlier(install);
    install->stage = BP_INSTALL_READY;
    return FOUND_ALL;
}

/* One block, as far as this call may: FOUND_ALL when it is in the target. */
static int resolve(struct bp_install *install, bool ahead, uint64_t *bytes, struct bp_reply *out,
                   struct bp_error *err) {
    int code = install->loaded ? BP_OK : load_block(install, err);
    code = code == BP_OK ? look(install, bytes, err) : code;
    if (code != BP_OK) {
        return code;
    }
    if (install->looked < install->n_items) {
        return FOUND_MORE;
    }
    while (install->wanted < install->n_items && install->items[install->wanted].placed) {
        install->wanted++;
    }
    if (install->wanted < install->n_items) {
        return ask(install, ahead, out, err);
    }
    code = write_block(install, err);
    return code == BP_OK ? FOUND_ALL : code;
}

static int check_stage(const struct bp_install *install, struct bp_error *err) {
    bool may = install->stage == BP_INSTALL_RESOLVING || install->stage == BP_INSTALL_READY;
    return may ? BP_OK
               : bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_MALFORMED_REQUEST,
                         "there is no complete manifest to install from");
}

int bp_install_wanted(struct bp_install *install, uint32_t ahead, struct bp_reply *wanted,
                      struct bp_error *err) {
    *wanted = (struct bp_reply){0};
    int code = check_stage(install, err);
    if (code != BP_OK || install->stage == BP_INSTALL_READY) {
        return code != BP_OK ? code : FOUND_ALL;
    }
    uint64_t bytes = 0;
    uint32_t blocks = 0;
    while (install->loaded || install->spool_offset < install->spool.size) {
        if (blocks++ > 0 && bytes >= LOOK_BYTES) {
            return FOUND_MORE;
        }
        code = resolve(install, ahead != 0, &bytes, wanted, err);
        if (code != FOUND_ALL) {
            return code;
        }
    }
    return end_resolving(install, err);
}

/* ---- own segments ----------------------------------------------------------------------------- */

int bp_install_own_flush(struct bp_install *install, struct bp_error *err) {
    struct bp_segment *segment = install->filling;
    struct bp_buffer *records = &install->records;
    if (segment == NULL || records->size == 0) {
        return BP_OK;
    }
    int rc = bp_disk_write(install->store->disk, BP_SITE_SETTLED_WRITE, segment->fd, records->data,
                           records->size, segment->used);
    if (rc < 0) {
        return bp_install_write_failed(install, rc, "write values", err);
    }
    segment->used += (uint32_t)records->size;
    segment->size = segment->used;
    records->size = 0;
    return BP_OK;
}

int bp_install_own_sync(struct bp_install *install, struct bp_error *err) {
    int code = bp_install_own_flush(install, err);
    if (code != BP_OK || install->filling == NULL ||
        install->own_synced == install->filling->used) {
        return code;
    }
    int rc = bp_disk_sync(install->store->disk, BP_SITE_SETTLED_SYNC, install->filling->fd);
    if (rc < 0) {
        install->stage = BP_INSTALL_BROKEN;
        return bp_fail_io(err, rc, "cannot sync the values of an install");
    }
    install->own_synced = install->filling->used;
    return BP_OK;
}

static int begin_segment(struct bp_install *install, struct bp_error *err) {
    struct bp_store *store = install->store;
    struct bp_segment_header header = {.kind = BP_SEGMENT_SETTLED};
    memcpy(header.store_id, store->store_id, sizeof header.store_id);
    int code = bp_segment_new_salt(store->segments, &header.salt, err);
    if (code != BP_OK) {
        return code;
    }
    header.id = bp_segments_take_id(store->segments);
    code = bp_segment_create(install->own, &header, BP_SEGMENT_HEADER, NULL, 0, &install->filling,
                             err);
    if (code != BP_OK) {
        install->filling = NULL;
        return code;
    }
    install->own_synced = install->filling->used;
    return BP_OK;
}

/* Room for a record of `size` bytes in a segment and in memory. */
static int own_room(struct bp_install *install, uint32_t size, struct bp_error *err) {
    int code = install->records.size >= RECORDS_FLUSH ? bp_install_own_flush(install, err) : BP_OK;
    const struct bp_segment *segment = install->filling;
    if (code == BP_OK && segment != NULL &&
        segment->used + install->records.size + size > install->store->options.segment_size) {
        code = bp_install_own_sync(install, err);
        install->filling = code == BP_OK ? NULL : install->filling;
    }
    return code == BP_OK && install->filling == NULL ? begin_segment(install, err) : code;
}

static int settle(struct bp_install *install, uint32_t i, struct bp_slice value,
                  struct bp_error *err) {
    struct bp_version *version = &install->item_versions[i];
    struct bp_slice key = bp_install_key(install, i);
    uint8_t table[BP_VALUE_MAX / BP_CRC_CHUNK * 4 + 8] = {0};
    uint32_t size = bp_settled_size((uint32_t)key.size, (uint32_t)value.size);
    int code = own_room(install, size, err);
    if (code != BP_OK) {
        return code;
    }
    size_t before = install->records.size;
    uint8_t *out = bp_buffer_grow(&install->records, size);
    if (out == NULL) {
        install->stage = BP_INSTALL_BROKEN; /* a failed buffer keeps nothing */
        return bp_install_no_memory(err);
    }
    (void)bp_value_checksum(value, table);
    struct bp_segment *segment = install->filling;
    uint32_t value_at = bp_settled_encode(out, segment->header.salt, key, version, table, value);
    version->value.at = (struct bp_pos){.segment = segment->header.id,
                                        .offset = segment->used + (uint32_t)before + value_at};
    segment->value_bytes += value.size;
    install->items[i].placed = true;
    install->fetched++;
    install->fetched_bytes += value.size;
    return BP_OK;
}

/* ---- answers ---------------------------------------------------------------------------------- */

/* The item a record is for, or n_items. */
static uint32_t find_item(const struct bp_install *install, const struct bp_fetch_record *record) {
    uint32_t low = 0, high = install->n_items;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = bp_slice_compare(bp_install_key(install, middle), record->key);
        if (order < 0 ||
            (order == 0 && install->item_versions[middle].revision > record->revision)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool found = low < install->n_items &&
                 bp_slice_equal(bp_install_key(install, low), record->key) &&
                 install->item_versions[low].revision == record->revision;
    return found ? low : install->n_items;
}

static int check_values(struct bp_slice records, struct bp_error *err) {
    struct bp_fetch_record record;
    while (bp_fetch_next(&records, BP_FETCH_VALUES, &record)) {
        if (bp_value_checksum(record.value, NULL) != record.crc) {
            return bp_fail(err, BP_DATA_LOSS, BP_REASON_VALUE_DAMAGED,
                           "a value that was sent fails its checksum");
        }
    }
    return BP_OK;
}

int bp_install_values(struct bp_install *install, const void *values, uint64_t size,
                      uint32_t *taken, struct bp_error *err) {
    struct bp_slice records;
    struct bp_fetch_record record;
    *taken = 0;
    int code = check_stage(install, err);
    if (code != BP_OK) {
        return code;
    }
    if (!bp_fetch_open(bp_slice(values, size), BP_FETCH_VALUES, &records)) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_MALFORMED_REQUEST,
                       "a message of values is damaged");
    }
    code = check_values(records, err);
    while (code == BP_OK && bp_fetch_next(&records, BP_FETCH_VALUES, &record)) {
        uint32_t i = find_item(install, &record);
        const struct bp_version *version = &install->item_versions[i];
        if (i == install->n_items || install->items[i].placed ||
            version->value.size != record.size || version->value.crc != record.crc) {
            continue;
        }
        code = settle(install, i, record.value, err);
        *taken += code == BP_OK;
    }
    const struct bp_segment *filling = install->filling;
    if (code == BP_OK && filling != NULL && filling->used - install->own_synced >= SYNC_BYTES) {
        code = bp_install_own_sync(install, err);
    }
    return code;
}

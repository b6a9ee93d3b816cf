/*
 * The bytes of a checkpoint, section by section (checkpoint.h draws the file).
 *
 *   cut -> [HEADER][META][LEASES]..[REQUEST_IDS].. index -> [VERSIONS]..[SEGMENTS]..[TRAILER]
 *            blocks are filled in memory, written as they are full, synced every few MiB
 *
 * Why the walk over the index sees the cut though writers go on: versions are never changed, only
 * added above the cut's revision (and left out here) or trimmed below the pinned one (and not
 * wanted here). Places change only by cleaning, which holds the same keeper.mutex.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_internal.h"
#include "keeper.h"

#define SYNC_EVERY                                                                                 \
    (4u << 20)            /* dirty bytes: one large sync at the end would hold up the log's own */
#define REST_PERCENT 100u /* of the time the last piece took */

enum walk_result { WALK_FULL = 1, WALK_NO_MEMORY = 2, WALK_UNKNOWN_SEGMENT = 3 };

static int write_failed(const struct bp_ckpt_writer *writer, int rc, struct bp_error *err) {
    return bp_fail_io(err, rc, "cannot write the checkpoint at offset %" PRIu64, writer->offset);
}

static int sync_piece(struct bp_ckpt_writer *writer, struct bp_error *err) {
    struct bp_store *store = writer->store;
    int rc = bp_disk_sync(store->disk, BP_SITE_CHECKPOINT_SYNC, writer->fd);
    if (rc < 0) {
        return bp_fail_io(err, rc, "cannot sync the checkpoint");
    }
    writer->synced = writer->offset;
    bool hurry = atomic_load_explicit(&store->disk_full, memory_order_relaxed);
    bp_keeper_breathe(store, bp_disk_boot_ns(store->disk) - writer->piece_began_ns,
                      hurry ? 0 : REST_PERCENT);
    writer->piece_began_ns = bp_disk_boot_ns(store->disk);
    return bp_keeper_stopping(store)
               ? bp_fail(err, BP_UNAVAILABLE, BP_REASON_STORE_CLOSED, "the store is closing")
               : BP_OK;
}

static void begin_block(struct bp_ckpt_writer *writer, uint32_t section) {
    writer->section = section;
    bp_ckpt_block_begin(&writer->block);
    writer->versions.any = false;
}

static int end_block(struct bp_ckpt_writer *writer, struct bp_error *err) {
    struct bp_buffer *block = &writer->block;
    if (!bp_ckpt_block_end(block, writer->section, writer->number, &writer->totals.chain)) {
        return bp_ckpt_no_memory(err);
    }
    int rc = bp_reserve_write(writer->store, BP_SITE_CHECKPOINT_WRITE, writer->fd, block->data,
                              block->size, writer->offset);
    if (rc < 0) {
        return write_failed(writer, rc, err);
    }
    writer->number++;
    writer->offset += block->size;
    return writer->offset - writer->synced >= SYNC_EVERY ? sync_piece(writer, err) : BP_OK;
}

/* Between records: starts the next block of the section when this one is full. */
static int next_record(struct bp_ckpt_writer *writer, struct bp_error *err) {
    if (writer->block.size < BP_CKPT_BLOCK) {
        return BP_OK;
    }
    int code = end_block(writer, err);
    begin_block(writer, writer->section);
    return code;
}

/* Ends a section's last block, if it holds anything. */
static int end_section(struct bp_ckpt_writer *writer, struct bp_error *err) {
    bool holds = writer->block.size > BP_CKPT_BLOCK_HEADER || writer->block.failed;
    return holds ? end_block(writer, err) : BP_OK;
}

/* ---- sections -------------------------------------------------------------------------------- */

static int write_head(struct bp_ckpt_writer *writer, const struct bp_ckpt_cut *cut, uint64_t number,
                      struct bp_error *err) {
    struct bp_ckpt_header header = {.number = number};
    memcpy(header.store_id, writer->store->store_id, sizeof header.store_id);
    begin_block(writer, BP_CKPT_HEADER);
    bp_ckpt_header_encode(&header, &writer->block);
    int code = end_block(writer, err);
    begin_block(writer, BP_CKPT_META);
    bp_ckpt_meta_encode(&cut->meta, &writer->block);
    return code == BP_OK ? end_block(writer, err) : code;
}

static int write_leases(struct bp_ckpt_writer *writer, const struct bp_ckpt_cut *cut,
                        struct bp_error *err) {
    int code = BP_OK;
    begin_block(writer, BP_CKPT_LEASES);
    for (uint64_t i = 0; code == BP_OK && i < cut->n_leases; i++) {
        bp_ckpt_lease_encode(&cut->leases[i], &writer->block);
        code = next_record(writer, err);
    }
    writer->totals.leases = cut->n_leases;
    return code == BP_OK ? end_section(writer, err) : code;
}

static int write_request_ids(struct bp_ckpt_writer *writer, const struct bp_ckpt_cut *cut,
                             struct bp_error *err) {
    int code = BP_OK;
    begin_block(writer, BP_CKPT_REQUEST_IDS);
    for (uint64_t i = 0; code == BP_OK && i < cut->n_request_ids; i++) {
        bp_ckpt_request_id_encode(&cut->request_ids[i], &writer->block);
        code = next_record(writer, err);
    }
    writer->totals.request_ids = cut->n_request_ids;
    return code == BP_OK ? end_section(writer, err) : code;
}

/* The slot of `id` among writer->segments, or where it belongs. */
static uint32_t segment_slot(const struct bp_ckpt_writer *writer, uint32_t id) {
    uint32_t low = 0, high = writer->n_segments;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (writer->segments[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static int add_segment(struct bp_ckpt_writer *writer, uint32_t slot, uint32_t id) {
    const struct bp_segment *segment = bp_segments_find(writer->store->segments, id);
    if (segment == NULL) {
        return WALK_UNKNOWN_SEGMENT;
    }
    if (writer->n_segments == writer->segments_capacity) {
        uint32_t capacity = writer->segments_capacity == 0 ? 64 : writer->segments_capacity * 2;
        struct bp_ckpt_segment *segments = realloc(writer->segments, capacity * sizeof *segments);
        if (segments == NULL) {
            return WALK_NO_MEMORY;
        }
        writer->segments = segments;
        writer->segments_capacity = capacity;
    }
    struct bp_ckpt_segment *at = writer->segments + slot;
    memmove(at + 1, at, (writer->n_segments - slot) * sizeof *at);
    *at = (struct bp_ckpt_segment){
        .id = id, .kind = (uint32_t)segment->header.kind, .used = BP_SEGMENT_HEADER};
    if (segment->header.kind ==
        BP_SEGMENT_SETTLED) { /* the keeper's own: nobody else writes these fields */
        at->used = segment->used;
        at->value_bytes = segment->value_bytes;
    }
    writer->n_segments++;
    return 0;
}

static int note_place(struct bp_ckpt_writer *writer, const struct bp_value_ref *value) {
    uint32_t slot = writer->segment_hint;
    if (slot >= writer->n_segments || writer->segments[slot].id != value->at.segment) {
        slot = segment_slot(writer, value->at.segment);
        if (slot == writer->n_segments || writer->segments[slot].id != value->at.segment) {
            int result = add_segment(writer, slot, value->at.segment);
            if (result != 0) {
                return result;
            }
        }
        writer->segment_hint = slot;
    }
    struct bp_ckpt_segment *segment = &writer->segments[slot];
    uint32_t end = value->at.offset + value->size;
    if (segment->used < end) {
        assert(segment->kind ==
               BP_SEGMENT_LOG); /* nothing refers to a settled record that is not synced */
        segment->used = end;
    }
    return 0;
}

/* Under a leaf's lock: copies only. Stops before a new key when the block is full. */
static int visit_version(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct bp_ckpt_writer *writer = arg;
    const struct bp_ckpt_version_writer *last = &writer->versions;
    if (writer->block.size >= BP_CKPT_BLOCK &&
        !bp_slice_equal(key, bp_slice(last->key, last->key_size))) {
        return WALK_FULL;
    }
    bool new_key = bp_ckpt_version_encode(&writer->versions, key, version, &writer->block);
    writer->totals.keys += new_key;
    writer->totals.versions++;
    return version->value.size > 0 ? note_place(writer, &version->value) : 0;
}

static int walk_failed(int result, struct bp_error *err) {
    return result == WALK_NO_MEMORY ? bp_ckpt_no_memory(err)
                                    : bp_fail(err, BP_INTERNAL, BP_REASON_STORE_CORRUPT,
                                              "the index names a segment that is not known");
}

static int write_versions(struct bp_ckpt_writer *writer, const struct bp_ckpt_cut *cut,
                          struct bp_error *err) {
    uint8_t next[BP_STORED_KEY_MAX + 1];
    struct bp_slice start = bp_slice(next, 0);
    int result = WALK_FULL;
    begin_block(writer, BP_CKPT_VERSIONS);
    while (result == WALK_FULL) {
        result = bp_index_scan_versions(writer->store->index, start, cut->meta.compaction_revision,
                                        cut->meta.next_revision - 1, visit_version, writer);
        if (result == WALK_FULL) { /* go on with the first key above the last one */
            memcpy(next, writer->versions.key, writer->versions.key_size);
            next[writer->versions.key_size] = 0;
            start = bp_slice(next, writer->versions.key_size + 1);
            int code = next_record(writer, err);
            if (code != BP_OK) {
                return code;
            }
        }
    }
    return result == 0 ? end_section(writer, err) : walk_failed(result, err);
}

static int write_segments(struct bp_ckpt_writer *writer, struct bp_error *err) {
    int code = BP_OK;
    begin_block(writer, BP_CKPT_SEGMENTS);
    writer->totals.segments = writer->n_segments;
    writer->totals.segments_at = writer->n_segments > 0 ? writer->offset : 0;
    for (uint32_t i = 0; code == BP_OK && i < writer->n_segments; i++) {
        bp_ckpt_segment_encode(&writer->segments[i], &writer->block);
        code = next_record(writer, err);
    }
    return code == BP_OK ? end_section(writer, err) : code;
}

static int write_trailer(struct bp_ckpt_writer *writer, struct bp_error *err) {
    writer->totals.blocks = writer->number;
    writer->totals.file_size = writer->offset + BP_CKPT_BLOCK_HEADER + BP_CKPT_TRAILER_SIZE;
    begin_block(writer, BP_CKPT_TRAILER);
    bp_ckpt_trailer_encode(&writer->totals, &writer->block);
    return end_block(writer, err);
}

/* ---- all of it ------------------------------------------------------------------------------- */

int bp_ckpt_write_sections(struct bp_ckpt_writer *writer, const struct bp_ckpt_cut *cut,
                           uint64_t number, struct bp_error *err) {
    int code = write_head(writer, cut, number, err);
    code = code == BP_OK ? write_leases(writer, cut, err) : code;
    code = code == BP_OK ? write_request_ids(writer, cut, err) : code;
    code = code == BP_OK ? write_versions(writer, cut, err) : code;
    code = code == BP_OK ? write_segments(writer, err) : code;
    code = code == BP_OK ? write_trailer(writer, err) : code;
    return code == BP_OK && writer->synced < writer->offset ? sync_piece(writer, err) : code;
}

/*
 * Sending a manifest (manifest.h draws the stream).
 *
 *   new    under `apply`: the cut of a checkpoint, and a pin of a kind of its own
 *          writers wait for this copy only
 *   next   [header][meta] -> [leases].. -> [request ids].. -> [versions].. -> [trailer]
 *          one block at a time, handed out in the caller's pieces
 *
 * Why the walk over the index sees the cut though writers go on: as in checkpoint_writer.c. Cleaning
 * may go on too: places are not written.
 *
 * Invariants: at most one block is in memory beside the cut; the pin ends with bp_manifest_free (how
 * long it may stand is the caller's to limit); an error is final, so that a stream that was cut
 * short never gets a trailer.
 */
#include "manifest.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint_internal.h"

enum stage {
    STAGE_HEADER,
    STAGE_META,
    STAGE_LEASES,
    STAGE_REQUEST_IDS,
    STAGE_VERSIONS,
    STAGE_TRAILER,
    STAGE_END
};

struct bp_manifest {
    struct bp_store *store;
    struct bp_ckpt_cut cut;
    bool pinned;
    uint64_t next_lease, next_request_id;

    enum stage stage;
    struct bp_buffer block; /* finished, it is handed out up to `given` */
    size_t given;
    struct bp_manifest_totals totals;
    struct bp_ckpt_version_writer versions;
    uint32_t next_size; /* of next_key; the walk goes on there */
    uint8_t next_key[BP_STORED_KEY_MAX + 1];
    struct bp_error error; /* code BP_OK: none yet */
};

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory for a snapshot");
}

int bp_manifest_new(struct bp_store *store, struct bp_manifest **out, uint64_t *index,
                    uint64_t *term, struct bp_error *err) {
    if (atomic_load(&store->damaged)) { /* an entry may have been applied in part */
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_STORE_CORRUPT,
                       "no snapshot is sent of a store that has stopped");
    }
    struct bp_manifest *manifest = calloc(1, sizeof *manifest);
    if (manifest == NULL) {
        return no_memory(err);
    }
    manifest->store = store;
    int code = bp_ckpt_cut_take(store, BP_PIN_SNAPSHOT, &manifest->cut, err);
    if (code != BP_OK) {
        free(manifest);
        return code;
    }
    manifest->pinned = true;
    *index = manifest->cut.meta.applied_index;
    *term = manifest->cut.meta.applied_term;
    *out = manifest;
    return BP_OK;
}

void bp_manifest_free(struct bp_manifest *manifest) {
    if (manifest == NULL) {
        return;
    }
    if (manifest->pinned) {
        bp_ckpt_cut_drop(manifest->store, &manifest->cut);
    }
    bp_buffer_free(&manifest->block);
    free(manifest);
}

/* ---- blocks ----------------------------------------------------------------------------------- */

static bool block_full(const struct bp_manifest *manifest) {
    return manifest->block.failed || manifest->block.size >= BP_CKPT_BLOCK;
}

static int end_block(struct bp_manifest *manifest, uint32_t section, struct bp_error *err) {
    struct bp_manifest_totals *totals = &manifest->totals;
    if (manifest->block.size > BP_MANIFEST_BLOCK_MAX) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_REPLY_TOO_LARGE,
                       "one key's history is too long for a snapshot; compact it first");
    }
    if (!bp_ckpt_block_end(&manifest->block, section, (uint32_t)totals->blocks, &totals->chain)) {
        return no_memory(err);
    }
    totals->blocks++;
    return BP_OK;
}

static void encode_meta(struct bp_manifest *manifest) {
    const struct bp_ckpt_meta *cut = &manifest->cut.meta;
    const struct bp_manifest_meta meta = {
        .applied_index = cut->applied_index,
        .applied_term = cut->applied_term,
        .next_revision = cut->next_revision,
        .compaction_revision = cut->compaction_revision,
        .state_hash = {cut->state_hash[0], cut->state_hash[1]},
        .compaction_hash = {cut->compaction_hash[0], cut->compaction_hash[1]},
        .compaction_hash_index = cut->compaction_hash_index,
        .system = cut->system,
    };
    bp_manifest_meta_encode(&meta, &manifest->block);
}

/* The three below: true when there is more for another block. */

static bool encode_leases(struct bp_manifest *manifest) {
    const struct bp_ckpt_cut *cut = &manifest->cut;
    while (manifest->next_lease < cut->n_leases && !block_full(manifest)) {
        bp_ckpt_lease_encode(&cut->leases[manifest->next_lease++], &manifest->block);
    }
    manifest->totals.leases = manifest->next_lease;
    return manifest->next_lease < cut->n_leases;
}

static bool encode_request_ids(struct bp_manifest *manifest) {
    const struct bp_ckpt_cut *cut = &manifest->cut;
    while (manifest->next_request_id < cut->n_request_ids && !block_full(manifest)) {
        bp_ckpt_request_id_encode(&cut->request_ids[manifest->next_request_id++], &manifest->block);
    }
    manifest->totals.request_ids = manifest->next_request_id;
    return manifest->next_request_id < cut->n_request_ids;
}

/* Under a leaf's lock: copies only. Stops before a new key when the block is full. */
static int visit_version(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct bp_manifest *manifest = arg;
    struct bp_ckpt_version_writer *writer = &manifest->versions;
    if (block_full(manifest) && !bp_slice_equal(key, bp_slice(writer->key, writer->key_size))) {
        return 1;
    }
    manifest->totals.keys += bp_ckpt_version_encode(writer, key, version, &manifest->block);
    manifest->totals.versions++;
    manifest->totals.value_bytes += version->value.size;
    return manifest->block.failed;
}

static bool encode_versions(struct bp_manifest *manifest) {
    const struct bp_ckpt_meta *cut = &manifest->cut.meta;
    struct bp_ckpt_version_writer *writer = &manifest->versions;
    writer->any = false;
    writer->placeless = true;
    struct bp_slice start = bp_slice(manifest->next_key, manifest->next_size);
    bool more = bp_index_scan_versions(manifest->store->index, start, cut->compaction_revision,
                                       cut->next_revision - 1, visit_version, manifest) != 0;
    if (more && !manifest->block.failed) { /* go on with the first key above the last one */
        memcpy(manifest->next_key, writer->key, writer->key_size);
        manifest->next_key[writer->key_size] = 0;
        manifest->next_size = writer->key_size + 1;
    }
    return more;
}

/* ---- the stream ------------------------------------------------------------------------------- */

static const uint32_t sections[STAGE_END] = {BP_CKPT_HEADER,   BP_CKPT_META,
                                             BP_CKPT_LEASES,   BP_CKPT_REQUEST_IDS,
                                             BP_CKPT_VERSIONS, BP_CKPT_TRAILER};

/* The next block, or none where a section is empty. */
static int produce(struct bp_manifest *manifest, struct bp_error *err) {
    enum stage stage = manifest->stage;
    bool more = false;
    manifest->given = 0;
    bp_ckpt_block_begin(&manifest->block);
    switch (stage) {
    case STAGE_HEADER:
        bp_manifest_header_encode(manifest->store->store_id, &manifest->block);
        break;
    case STAGE_META:
        encode_meta(manifest);
        break;
    case STAGE_LEASES:
        more = encode_leases(manifest);
        break;
    case STAGE_REQUEST_IDS:
        more = encode_request_ids(manifest);
        break;
    case STAGE_VERSIONS:
        more = encode_versions(manifest);
        break;
    case STAGE_TRAILER:
        bp_manifest_trailer_encode(&manifest->totals, &manifest->block);
        break;
    case STAGE_END:
        break;
    }
    if (!more && stage != STAGE_END) {
        manifest->stage++;
    }
    if (manifest->block.size == BP_CKPT_BLOCK_HEADER && !manifest->block.failed) {
        manifest->block.size = 0;
        return BP_OK;
    }
    return end_block(manifest, sections[stage], err);
}

int bp_manifest_next(struct bp_manifest *manifest, void *buffer, uint64_t size, uint64_t *n,
                     struct bp_error *err) {
    uint8_t *out = buffer;
    *n = 0;
    while (*n < size && manifest->error.code == BP_OK) {
        size_t left = manifest->block.size - manifest->given;
        if (left == 0 && manifest->stage == STAGE_END) {
            break;
        }
        if (left == 0) {
            (void)produce(manifest, &manifest->error);
            continue;
        }
        size_t take = left < size - *n ? left : (size_t)(size - *n);
        memcpy(out + *n, manifest->block.data + manifest->given, take);
        manifest->given += take;
        *n += take;
    }
    if (manifest->error.code != BP_OK) {
        *n = 0;
        if (err != NULL) {
            *err = manifest->error;
        }
    }
    return manifest->error.code;
}

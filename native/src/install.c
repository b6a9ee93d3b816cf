/*
 * An install's life, and the taking of its manifest (install.h has the whole way).
 *
 *   manifest_reader --block, verified--> META: spool and target are made
 *                                        LEASES, REQUEST_IDS: as they are, to the target
 *                                        VERSIONS: as they are, to the spool
 *                                        TRAILER: all agreed, resolving begins
 *
 * A failure here drops the manifest, never a value: the next one begins with its first byte.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "install_internal.h"

/* ---- life ------------------------------------------------------------------------------------- */

static int check_store(const struct bp_store *store, struct bp_error *err) {
    if (store->options.interval_ms != 0) {
        /* What the index names may not be durable, and a checkpoint must not name that. */
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_FIELD_INVALID,
                       "a snapshot is installed only with durability = \"fsync\"");
    }
    return bp_log_retired(store->log)
               ? bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_STORE_CLOSED,
                         "the store was replaced by an installed snapshot; reopen it")
               : BP_OK;
}

static struct bp_install *make(struct bp_store *store) {
    struct bp_install *install = calloc(1, sizeof *install);
    if (install == NULL) {
        return NULL;
    }
    install->store = store;
    install->spool.fd = install->target.file.fd = install->earlier.file.fd = -1;
    bp_manifest_reader_init(&install->reader);
    bp_ckpt_version_reader_init(&install->versions);
    bp_ckpt_version_reader_init(&install->earlier.reader);
    pthread_mutex_init(&install->mutex, NULL);
    install->own = bp_segments_new(store->disk, store->dir);
    if (install->own == NULL) {
        bp_install_free(install);
        return NULL;
    }
    return install;
}

int bp_install_new(struct bp_store *store, struct bp_install **out, struct bp_error *err) {
    int code = check_store(store, err);
    if (code != BP_OK) {
        return code;
    }
    struct bp_install *install = make(store);
    if (install == NULL) {
        return bp_install_no_memory(err);
    }
    pthread_mutex_lock(&store->keeper.mutex);
    bool alone = store->keeper.install == NULL;
    store->keeper.install = alone ? install : store->keeper.install;
    pthread_mutex_unlock(&store->keeper.mutex);
    if (!alone) {
        bp_install_free(install);
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_QUEUE_FULL,
                       "another snapshot is being installed");
    }
    *out = install;
    return BP_OK;
}

/* Segments that nothing names: all of ours, unless the install is done. */
static void drop_own(struct bp_install *install) {
    if (install->own == NULL) {
        return;
    }
    const struct bp_segment *segment = bp_segments_next(install->own, 0);
    while (install->stage != BP_INSTALL_DONE && segment != NULL) {
        uint32_t id = segment->header.id;
        if (bp_segment_delete(install->own, id, NULL) != BP_OK) {
            bp_segments_remove(install->own, id); /* the next start deletes it */
        }
        segment = bp_segments_next(install->own, id);
    }
    bp_segments_free(install->own);
}

void bp_install_free(struct bp_install *install) {
    if (install == NULL) {
        return;
    }
    struct bp_keeper *keeper = &install->store->keeper;
    pthread_mutex_lock(&keeper->mutex);
    if (keeper->install == install) {
        keeper->install = NULL;
    }
    pthread_mutex_unlock(&keeper->mutex);
    drop_own(install);
    bp_install_drop_earlier(install);
    bp_install_file_drop(install, &install->spool);
    bp_install_file_drop(install, &install->target.file);
    bp_manifest_reader_free(&install->reader);
    bp_request_ids_free(install->request_ids);
    bp_ckpt_version_reader_free(&install->versions);
    bp_buffer_free(&install->block);
    bp_buffer_free(&install->keys);
    bp_buffer_free(&install->records);
    bp_buffer_free(&install->target.block);
    free(install->target.crcs);
    free(install->items);
    free(install->item_versions);
    free(install->segments);
    pthread_mutex_destroy(&install->mutex);
    free(install);
}

bool bp_install_holds(struct bp_store *store, uint32_t segment) {
    struct bp_install *install = store->keeper.install;
    if (install == NULL) {
        return false;
    }
    pthread_mutex_lock(&install->mutex);
    bool holds = false;
    for (uint32_t i = 0; !holds && i < install->n_segments; i++) {
        holds = install->segments[i].id == segment;
    }
    pthread_mutex_unlock(&install->mutex);
    return holds;
}

/* ---- from the start again --------------------------------------------------------------------- */

static void forget_manifest(struct bp_install *install) {
    bp_install_unload(install);
    bp_install_file_drop(install, &install->spool);
    bp_install_file_drop(install, &install->target.file);
    bp_request_ids_free(install->request_ids);
    install->request_ids = NULL;
    bp_manifest_reader_free(&install->reader);
    bp_manifest_reader_init(&install->reader);
    bp_ckpt_version_reader_free(&install->versions);
    install->spool_offset = 0;
    install->held = install->held_bytes = install->fetched = install->fetched_bytes = 0;
    pthread_mutex_lock(&install->mutex);
    install->n_segments = 0;
    pthread_mutex_unlock(&install->mutex);
}

int bp_install_restart(struct bp_install *install, struct bp_error *err) {
    if (install->stage == BP_INSTALL_RESOLVING || install->stage == BP_INSTALL_READY) {
        /* What cannot be kept, on a full disk, is fetched again. */
        (void)bp_install_keep_earlier(install, err);
    }
    if (install->stage == BP_INSTALL_DONE || install->stage == BP_INSTALL_BROKEN) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_STORE_CLOSED,
                       install->stage == BP_INSTALL_DONE
                           ? "the snapshot is installed; reopen the store"
                           : "the install failed for good; begin another one");
    }
    forget_manifest(install);
    install->stage = BP_INSTALL_TAKING;
    return BP_OK;
}

/* ---- taking ----------------------------------------------------------------------------------- */

static int damaged(struct bp_error *err, const char *what) {
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_MALFORMED_REQUEST, "the snapshot's manifest %s",
                   what);
}

static int take_meta(struct bp_install *install, struct bp_error *err) {
    const struct bp_system *system = &install->reader.meta.system;
    install->request_ids = bp_request_ids_new(system->request_ids_max);
    if (install->request_ids == NULL) {
        return bp_install_no_memory(err);
    }
    int code = bp_install_target_begin(install, system, err);
    return code == BP_OK ? bp_install_file_make(install, "install.tmp", &install->spool, err)
                         : code;
}

/* The table would refuse to load one that is there twice. */
static int check_request_ids(struct bp_install *install, struct bp_slice payload,
                             struct bp_error *err) {
    struct bp_request_id_record record;
    while (bp_ckpt_request_id_next(&payload, &record) > 0) {
        struct bp_slice id = bp_slice(record.id, record.id_size);
        struct bp_outcome nothing = {0};
        if (bp_request_ids_find(install->request_ids, id) != NULL) {
            return damaged(err, "has a request id twice");
        }
        bp_request_ids_add(install->request_ids, id, record.fingerprint, &nothing);
    }
    return BP_OK;
}

static int take_table(struct bp_install *install, const struct bp_ckpt_block *block,
                      struct bp_error *err) {
    int code = block->section == BP_CKPT_REQUEST_IDS
                   ? check_request_ids(install, block->payload, err)
                   : BP_OK;
    code = code == BP_OK ? bp_install_target_room(install, block->section, err) : code;
    if (code != BP_OK) {
        return code;
    }
    bp_buffer_append(&install->target.block, block->payload.data, block->payload.size);
    return bp_install_target_flush(install, err);
}

static int spool_block(struct bp_install *install, struct bp_error *err) {
    const struct bp_buffer *block = &install->reader.block;
    int rc = bp_disk_write(install->store->disk, BP_SITE_CHECKPOINT_WRITE, install->spool.fd,
                           block->data, block->size, install->spool.size);
    if (rc < 0) {
        return bp_install_write_failed(install, rc, "keep the manifest", err);
    }
    install->spool.size += block->size;
    return BP_OK;
}

static void begin_resolving(struct bp_install *install) {
    bp_request_ids_free(install->request_ids);
    install->request_ids = NULL;
    bp_ckpt_version_reader_free(&install->versions);
    install->versions.placeless = true;
    install->target.totals.leases = install->reader.seen.leases;
    install->target.totals.request_ids = install->reader.seen.request_ids;
    install->stage = BP_INSTALL_RESOLVING;
}

static int take_block(struct bp_install *install, const struct bp_ckpt_block *block,
                      struct bp_error *err) {
    switch (block->section) {
    case BP_CKPT_META:
        return take_meta(install, err);
    case BP_CKPT_LEASES:
    case BP_CKPT_REQUEST_IDS:
        return take_table(install, block, err);
    case BP_CKPT_VERSIONS:
        return spool_block(install, err);
    case BP_CKPT_TRAILER:
        begin_resolving(install);
        return BP_OK;
    default:
        return BP_OK;
    }
}

static int take_bytes(struct bp_install *install, struct bp_slice bytes, struct bp_error *err) {
    struct bp_ckpt_block block;
    int got, code = BP_OK;
    while (code == BP_OK && (got = bp_manifest_read(&install->reader, &bytes, &block)) != 0) {
        if (got == -2) {
            code = bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_FORMAT_UNSUPPORTED,
                           "the snapshot's format %u is newer than this program's format %u",
                           install->reader.format, BP_MANIFEST_FORMAT);
        } else if (got < 0) {
            code = got == -3 ? bp_install_no_memory(err) : damaged(err, "is damaged");
        } else {
            code = take_block(install, &block, err);
        }
    }
    return code;
}

int bp_install_manifest(struct bp_install *install, const void *bytes, uint64_t size,
                        struct bp_error *err) {
    if (size == 0) {
        return BP_OK;
    }
    if (install->stage != BP_INSTALL_TAKING) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_MALFORMED_REQUEST,
                       "no manifest is expected");
    }
    int code = take_bytes(install, bp_slice(bytes, size), err);
    if (code != BP_OK) {
        forget_manifest(install);
        install->stage =
            install->stage == BP_INSTALL_BROKEN ? BP_INSTALL_BROKEN : BP_INSTALL_TAKING;
    }
    return code;
}

void bp_install_look(struct bp_install *install, struct bp_install_state *state) {
    const struct bp_manifest_reader *reader = &install->reader;
    *state = (struct bp_install_state){
        .complete = install->stage != BP_INSTALL_TAKING && install->stage != BP_INSTALL_BROKEN,
        .ready = install->stage == BP_INSTALL_READY,
        .done = install->stage == BP_INSTALL_DONE,
        .index = reader->meta.applied_index,
        .term = reader->meta.applied_term,
        .revision = reader->meta.next_revision == 0 ? 0 : reader->meta.next_revision - 1,
        .state_hash = {reader->meta.state_hash[0], reader->meta.state_hash[1]},
        .versions = reader->seen.versions,
        .value_bytes = reader->seen.value_bytes,
        .held = install->held,
        .held_bytes = install->held_bytes,
        .fetched = install->fetched,
        .fetched_bytes = install->fetched_bytes,
    };
    memcpy(state->cluster_id, reader->meta.system.cluster_id, sizeof state->cluster_id);
}

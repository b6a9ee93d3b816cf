/*
 * The checkpoint that an install makes, while it is a .tmp (install.h draws it).
 *
 *   [ room for HEADER and META ][block][block]....[block being filled]
 *     written by finish          ^ target.first     ^ file.size
 *
 * Invariants
 *   - file.size and the list of CRCs move on only when a block is written; a full disk leaves the
 *     finished block in memory, and the next call writes it again in the same place.
 *   - The chain of CRCs is computed at the end, because META, the second block, is known last.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "install_internal.h"

#define SYNC_EVERY (4u << 20) /* as checkpoints: one large sync at the end holds up the log's own */

int bp_install_no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory for an install");
}

int bp_install_write_failed(struct bp_install *install, int rc, const char *what,
                            struct bp_error *err) {
    bool full = rc == -ENOSPC || rc == -EDQUOT || rc == -ENOMEM;
    install->stage = full ? install->stage : BP_INSTALL_BROKEN;
    return bp_fail_io(err, rc, "cannot %s while installing a snapshot", what);
}

/* ---- .tmp files ------------------------------------------------------------------------------- */

int bp_install_file_make(struct bp_install *install, const char *name, struct bp_install_file *file,
                         struct bp_error *err) {
    struct bp_disk *disk = install->store->disk;
    (void)snprintf(file->path, sizeof file->path, "%s/%s", install->store->dir, name);
    file->size = 0;
    (void)bp_disk_unlink(disk, BP_SITE_NONE, file->path); /* of an install that was freed */
    file->fd = bp_disk_open(disk, BP_SITE_CHECKPOINT_CREATE, file->path,
                            BP_O_WRITE | BP_O_CREATE | BP_O_EXCL);
    return file->fd < 0 ? bp_fail_io(err, file->fd, "cannot create %s", name) : BP_OK;
}

void bp_install_file_drop(struct bp_install *install, struct bp_install_file *file) {
    if (file->fd >= 0) {
        bp_disk_close(install->store->disk, file->fd);
        (void)bp_disk_unlink(install->store->disk, BP_SITE_CHECKPOINT_UNLINK, file->path);
    }
    file->fd = -1;
    file->size = 0;
}

/* ---- blocks ----------------------------------------------------------------------------------- */

int bp_install_target_begin(struct bp_install *install, const struct bp_system *system,
                            struct bp_error *err) {
    struct bp_install_target *target = &install->target;
    char name[32];
    (void)snprintf(name, sizeof name, "install-%u.ckpt.tmp", install->tries++);
    int code = bp_install_file_make(install, name, &target->file, err);
    if (code != BP_OK) {
        return code;
    }
    uint8_t config[BP_CONFIG_SIZE_MAX];
    uint32_t size = bp_system_encode(system, BP_CAUSE_CHANGE, config);
    target->first = 2u * BP_CKPT_BLOCK_HEADER + BP_CKPT_HEADER_SIZE + BP_CKPT_META_SIZE + size;
    target->file.size = target->versions_from = target->first;
    target->synced = target->n_crcs = target->section = 0;
    target->block.size = 0;
    target->ended = false;
    target->versions = (struct bp_ckpt_version_writer){0};
    target->totals = (struct bp_ckpt_totals){0};
    return BP_OK;
}

static bool crc_room(struct bp_install_target *target) {
    if (target->n_crcs < target->crcs_capacity) {
        return true;
    }
    uint32_t capacity = target->crcs_capacity == 0 ? 256 : target->crcs_capacity * 2;
    uint32_t *crcs = realloc(target->crcs, capacity * sizeof *crcs);
    if (crcs == NULL) {
        return false;
    }
    target->crcs = crcs;
    target->crcs_capacity = capacity;
    return true;
}

int bp_install_target_sync(struct bp_install *install, struct bp_error *err) {
    struct bp_install_target *target = &install->target;
    int rc = bp_disk_sync(install->store->disk, BP_SITE_CHECKPOINT_SYNC, target->file.fd);
    if (rc < 0) {
        install->stage = BP_INSTALL_BROKEN;
        return bp_fail_io(err, rc, "cannot sync the checkpoint of an install");
    }
    target->synced = target->file.size;
    return BP_OK;
}

int bp_install_target_flush(struct bp_install *install, struct bp_error *err) {
    struct bp_install_target *target = &install->target;
    struct bp_buffer *block = &target->block;
    if (block->size <= BP_CKPT_BLOCK_HEADER && !block->failed) {
        return BP_OK;
    }
    uint32_t chain = 0; /* see above */
    if (!target->ended && (!crc_room(target) || !bp_ckpt_block_end(block, target->section,
                                                                   target->n_crcs + 2, &chain))) {
        install->stage = BP_INSTALL_BROKEN; /* the block may lack a record */
        return bp_install_no_memory(err);
    }
    target->ended = true;
    int rc = bp_disk_write(install->store->disk, BP_SITE_CHECKPOINT_WRITE, target->file.fd,
                           block->data, block->size, target->file.size);
    if (rc < 0) {
        return bp_install_write_failed(install, rc, "write a checkpoint", err);
    }
    if (target->section < BP_CKPT_VERSIONS) {
        target->versions_from = target->file.size + block->size;
    }
    target->crcs[target->n_crcs++] = bp_get_u32(block->data);
    target->file.size += block->size;
    block->size = 0;
    target->ended = false;
    return target->file.size - target->synced >= SYNC_EVERY ? bp_install_target_sync(install, err)
                                                            : BP_OK;
}

int bp_install_target_room(struct bp_install *install, uint32_t section, struct bp_error *err) {
    struct bp_install_target *target = &install->target;
    bool full = target->ended || target->section != section || target->block.size >= BP_CKPT_BLOCK;
    if (full) {
        int code = bp_install_target_flush(install, err);
        if (code != BP_OK) {
            return code;
        }
    }
    if (target->block.size == 0) {
        bp_ckpt_block_begin(&target->block);
        target->versions.any = false;
        target->section = section;
    }
    return BP_OK;
}

int bp_install_target_key(struct bp_install *install, struct bp_slice key,
                          const struct bp_version *versions, uint32_t n, struct bp_error *err) {
    int code = bp_install_target_room(install, BP_CKPT_VERSIONS, err);
    if (code != BP_OK) {
        return code;
    }
    struct bp_install_target *target = &install->target;
    for (uint32_t i = 0; i < n; i++) {
        target->totals.keys +=
            bp_ckpt_version_encode(&target->versions, key, &versions[i], &target->block);
    }
    target->totals.versions += n;
    return BP_OK;
}

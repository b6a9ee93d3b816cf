/*
 * What an install that got a new manifest keeps of the one before: the values it has fetched.
 *
 *   earlier  k1 k2 k3 k5 ... k90     the target of the try before, by key, with places
 *   now      k1 k2 k4 ..             looked up in step: both ascend, so neither is searched
 *
 * Becoming the earlier one:  target + what is placed of the present block + the rest of the one before
 * that, so that no try loses what an earlier one had. Best effort: what is lost is fetched again.
 *
 * Only places in segments of ours count: others may have been cleaned away since.
 */
#include <string.h>

#include "install_internal.h"

void bp_install_drop_earlier(struct bp_install *install) {
    struct bp_install_earlier *earlier = &install->earlier;
    bp_install_file_drop(install, &earlier->file);
    bp_buffer_free(&earlier->block);
    bp_ckpt_version_reader_free(&earlier->reader);
    earlier->any = false;
    earlier->offset = 0;
}

/* ---- reading it ------------------------------------------------------------------------------- */

/* False: there is none, or it cannot be read. */
static bool next_block(struct bp_install *install) {
    struct bp_install_earlier *earlier = &install->earlier;
    struct bp_disk *disk = install->store->disk;
    struct bp_ckpt_block block;
    uint8_t head[BP_CKPT_BLOCK_HEADER];
    if (earlier->file.fd < 0 || earlier->offset >= earlier->file.size ||
        bp_disk_read(disk, BP_SITE_CHECKPOINT_READ, earlier->file.fd, head, sizeof head,
                     earlier->offset) < 0) {
        return false;
    }
    uint64_t size = bp_ckpt_block_size(head);
    earlier->block.size = 0;
    if (size > earlier->file.size - earlier->offset ||
        bp_buffer_grow(&earlier->block, size) == NULL ||
        bp_disk_read(disk, BP_SITE_CHECKPOINT_READ, earlier->file.fd, earlier->block.data, size,
                     earlier->offset) < 0 ||
        bp_ckpt_block_decode(earlier->block.data, size, &block, &size) != BP_OK ||
        block.section != BP_CKPT_VERSIONS) {
        return false;
    }
    earlier->offset += size;
    bp_ckpt_version_reader_aim(&earlier->reader, block.payload);
    return true;
}

/* Makes the next key present; false at the end. */
static bool have_key(struct bp_install *install) {
    struct bp_install_earlier *earlier = &install->earlier;
    while (!earlier->any) {
        int got = bp_ckpt_version_next(&earlier->reader);
        if (got < 0 || (got == 0 && !next_block(install))) {
            return false;
        }
        earlier->any = got > 0;
    }
    return true;
}

static struct bp_slice earlier_key(const struct bp_install *install) {
    return bp_slice(install->earlier.reader.key, install->earlier.reader.key_size);
}

bool bp_install_find_earlier(struct bp_install *install, struct bp_slice key,
                             const struct bp_version *version, struct bp_pos *at) {
    struct bp_install_earlier *earlier = &install->earlier;
    int order = 1;
    while (earlier->file.fd >= 0 && have_key(install) &&
           (order = bp_slice_compare(earlier_key(install), key)) < 0) {
        earlier->any = false;
        order = 1;
    }
    for (uint32_t i = 0; order == 0 && i < earlier->reader.n; i++) {
        const struct bp_version *there = &earlier->reader.versions[i];
        if (there->revision == version->revision && there->value.size == version->value.size &&
            there->value.crc == version->value.crc &&
            bp_segments_find(install->own, there->value.at.segment) != NULL) {
            *at = there->value.at;
            return true;
        }
    }
    return false;
}

/* ---- making it -------------------------------------------------------------------------------- */

/* Items of one key that are placed and not written, moved together; how many. */
static uint32_t gather_placed(struct bp_install *install, uint32_t from, uint32_t to) {
    uint32_t n = 0;
    for (uint32_t i = from; i < to; i++) {
        if (install->items[i].placed) {
            install->item_versions[from + n++] = install->item_versions[i];
        }
    }
    return n;
}

static int write_placed(struct bp_install *install, struct bp_error *err) {
    int code = BP_OK;
    uint32_t from = install->written;
    while (code == BP_OK && from < install->n_items) {
        uint32_t to = bp_install_key_end(install, from), n = gather_placed(install, from, to);
        if (n > 0) {
            code = bp_install_target_key(install, bp_install_key(install, from),
                                         &install->item_versions[from], n, err);
        }
        from = to;
    }
    return code;
}

static int write_rest(struct bp_install *install, struct bp_error *err) {
    struct bp_install_earlier *earlier = &install->earlier;
    const struct bp_ckpt_version_writer *last = &install->target.versions;
    int code = BP_OK;
    while (code == BP_OK && earlier->file.fd >= 0 && have_key(install)) {
        struct bp_slice written = bp_slice(last->key, last->key_size);
        if (bp_slice_compare(earlier_key(install), written) > 0) {
            code = bp_install_target_key(install, earlier_key(install), earlier->reader.versions,
                                         earlier->reader.n, err);
        }
        earlier->any = false;
    }
    return code;
}

int bp_install_keep_earlier(struct bp_install *install, struct bp_error *err) {
    struct bp_install_target *target = &install->target;
    struct bp_install_earlier *earlier = &install->earlier;
    int code = write_placed(install, err);
    code = code == BP_OK ? write_rest(install, err) : code;
    code = code == BP_OK ? bp_install_target_flush(install, err) : code;
    bp_install_drop_earlier(install);
    earlier->file = target->file;
    earlier->offset = target->versions_from;
    target->file.fd = -1;
    target->file.size = 0;
    target->block.size = 0;
    target->ended = false;
    return code;
}

/* What the files of an install share: install.c, install_target.c, install_values.c, _finish.c. */
#ifndef BP_INSTALL_INTERNAL_H
#define BP_INSTALL_INTERNAL_H

#include <pthread.h>

#include "install.h"

enum bp_install_stage {
    BP_INSTALL_TAKING,
    BP_INSTALL_RESOLVING,
    BP_INSTALL_READY,
    BP_INSTALL_DONE,
    BP_INSTALL_BROKEN /* a sync failed: what was written may be gone, and nobody can say what */
};

/* A version of the block being resolved. */
struct bp_install_item {
    size_t key_at; /* in install->keys; the same for all versions of a key */
    uint16_t key_size;
    bool placed;
};

/* A .tmp file of ours. */
struct bp_install_file {
    int fd; /* -1: none */
    uint64_t size;
    char path[BP_CKPT_PATH_MAX];
};

/* The checkpoint being made. */
struct bp_install_target {
    struct bp_install_file file;
    uint64_t first;         /* offset of the first block behind META */
    uint64_t versions_from; /* of the first VERSIONS block */
    uint64_t synced;
    struct bp_buffer block; /* the one being filled */
    uint32_t section;
    bool ended;     /* `block` is finished and still has to be written */
    uint32_t *crcs; /* of all blocks behind META */
    uint32_t n_crcs, crcs_capacity;
    struct bp_ckpt_version_writer versions;
    struct bp_ckpt_totals totals;
};

/* VERSIONS of an earlier target, read in step with the present one. */
struct bp_install_earlier {
    struct bp_install_file file;
    uint64_t offset; /* of the next block; its end is file.size */
    bool any;        /* reader holds a key that was not passed yet */
    struct bp_buffer block;
    struct bp_ckpt_version_reader reader;
};

struct bp_install {
    struct bp_store *store;
    enum bp_install_stage stage;
    uint32_t tries;

    struct bp_manifest_reader reader;
    struct bp_request_ids *request_ids; /* while taking: none may come twice */
    struct bp_install_file spool;
    struct bp_install_target target;
    struct bp_install_earlier earlier;

    /* the block being resolved */
    uint64_t spool_offset;
    bool loaded;
    struct bp_buffer block, keys;
    struct bp_ckpt_version_reader versions;
    struct bp_install_item *items;
    struct bp_version *item_versions; /* of the items, one for one */
    uint32_t n_items, items_capacity;
    uint32_t looked;  /* items before it were looked for here */
    uint32_t wanted;  /* items before it are placed */
    uint32_t asked;   /* items before it are placed or asked for, while questions are out */
    uint32_t written; /* items before it are in the target */
    uint8_t scratch[BP_CRC_CHUNK];
    uint64_t held, held_bytes, fetched, fetched_bytes; /* of this try: values */

    /* settled segments of ours: a table of their own, so that the cleaner never meets them */
    struct bp_segments *own;
    struct bp_segment *filling; /* NULL: none */
    uint32_t own_synced;        /* filling's bytes */
    struct bp_buffer records;   /* behind filling->used, not written yet */

    pthread_mutex_t mutex;            /* guards the next block: the keeper asks */
    struct bp_ckpt_segment *segments; /* of the store, that the target names; ascending */
    uint32_t n_segments, segments_capacity;
};

int bp_install_no_memory(struct bp_error *err);
/* From an errno; anything but a full disk breaks the install. */
int bp_install_write_failed(struct bp_install *install, int rc, const char *what,
                            struct bp_error *err);

/* ---- install_target.c ------------------------------------------------------------------------- */

int bp_install_file_make(struct bp_install *install, const char *name, struct bp_install_file *file,
                         struct bp_error *err);
void bp_install_file_drop(struct bp_install *install, struct bp_install_file *file);
int bp_install_target_begin(struct bp_install *install, const struct bp_system *system,
                            struct bp_error *err);
/* Between records: another section, or a full block, ends the block. BP_OK: there is room. */
int bp_install_target_room(struct bp_install *install, uint32_t section, struct bp_error *err);
/* Writes the block being filled. Once failed, to be called again before more is added. */
int bp_install_target_flush(struct bp_install *install, struct bp_error *err);
/* A key with its versions, all placed. */
int bp_install_target_key(struct bp_install *install, struct bp_slice key,
                          const struct bp_version *versions, uint32_t n, struct bp_error *err);
int bp_install_target_sync(struct bp_install *install, struct bp_error *err);

/* ---- install_values.c ------------------------------------------------------------------------- */

static inline struct bp_slice bp_install_key(const struct bp_install *install, uint32_t i) {
    const struct bp_install_item *item = &install->items[i];
    return bp_slice(install->keys.data + item->key_at, item->key_size);
}
/* Items [from, to) are one key with all its versions. */
uint32_t bp_install_key_end(const struct bp_install *install, uint32_t from);
/* Forget the block being resolved. */
void bp_install_unload(struct bp_install *install);
/* Own records to their segment; then nothing is held in memory. */
int bp_install_own_flush(struct bp_install *install, struct bp_error *err);
int bp_install_own_sync(struct bp_install *install, struct bp_error *err);

/* ---- install_earlier.c ------------------------------------------------------------------------ */

/* The present target, with what is placed of the present block, becomes the earlier one. */
int bp_install_keep_earlier(struct bp_install *install, struct bp_error *err);
/* The place an earlier try gave to this version, in a segment of ours. Keys never fall. */
bool bp_install_find_earlier(struct bp_install *install, struct bp_slice key,
                             const struct bp_version *version, struct bp_pos *at);
void bp_install_drop_earlier(struct bp_install *install);

#endif

/*
 * Checkpoints that could not be used, out of the way before the log is opened from an older one.
 *
 *   %016x.ckpt damaged ----rename, sync dir----> .ckpt.tmp ---> the log is verified ---> deleted
 *   %016x.ckpt used                                 |            with every other .tmp
 *   %016x.ckpt                                      +<-- renamed back: the log is refused
 *
 * Why: what lies behind the older start may move, and settled segments that only the damaged one
 * names go. If it could be read at the next start (a disk that failed once is no rare thing), it
 * would name places where nothing is any more. So its name goes first, and for good. Its bytes stay
 * until the log has proved to be sound from the older start: a start that is refused leaves them to
 * `bedplate fsck --rebuild`.
 *
 * When none can be used and the log itself reaches back to its first entry, they go only after that
 * has worked: until then they are all that says that there was a store.
 */
#include <stdlib.h>

#include "checkpoint.h"
#include "store.h"

static int rename_one(struct bp_store *store, uint64_t number, bool back) {
    char from[BP_CKPT_PATH_MAX], to[BP_CKPT_PATH_MAX];
    bp_ckpt_path(store->dir, number, back, from);
    bp_ckpt_path(store->dir, number, !back, to);
    return bp_disk_rename(store->disk, BP_SITE_CHECKPOINT_RENAME, from, to);
}

static int sync_names(struct bp_store *store) {
    return bp_disk_sync_dir(store->disk, BP_SITE_CHECKPOINT_DIR_SYNC, store->dir);
}

void bp_checkpoint_put_back(struct bp_store *store, struct bp_ckpt_aside *aside) {
    for (uint32_t i = 0; i < aside->n; i++) {
        (void)rename_one(store, aside->numbers[i], true);
    }
    if (aside->n > 0) {
        (void)sync_names(store);
    }
    aside->n = 0;
}

void bp_ckpt_aside_free(struct bp_ckpt_aside *aside) {
    free(aside->numbers);
    *aside = (struct bp_ckpt_aside){0};
}

int bp_checkpoint_set_aside(struct bp_store *store, struct bp_ckpt_aside *aside,
                            struct bp_error *err) {
    const struct bp_keeper *keeper = &store->keeper;
    uint32_t all = 0;
    *aside = (struct bp_ckpt_aside){0};
    if (keeper->n_checkpoints == 0) {
        return BP_OK;
    }
    int code = bp_ckpt_list(store->disk, store->dir, &aside->numbers, &all, err);
    int rc = 0;
    while (code == BP_OK && rc == 0 && aside->n < all &&
           aside->numbers[aside->n] > keeper->checkpoints[0].number) {
        rc = rename_one(store, aside->numbers[aside->n], false);
        aside->n += rc == 0;
    }
    rc = code == BP_OK && rc == 0 && aside->n > 0 ? sync_names(store) : rc;
    if (rc < 0) {
        bp_checkpoint_put_back(store, aside);
        code = bp_fail_io(err, rc, "%s: a damaged checkpoint cannot be set aside", store->dir);
    }
    return code;
}

int bp_checkpoint_discard_all(struct bp_store *store, struct bp_error *err) {
    uint64_t *numbers = NULL;
    uint32_t n = 0;
    int code = bp_ckpt_list(store->disk, store->dir, &numbers, &n, err);
    int rc = 0;
    for (uint32_t i = 0; code == BP_OK && rc == 0 && i < n; i++) {
        char path[BP_CKPT_PATH_MAX];
        bp_ckpt_path(store->dir, numbers[i], false, path);
        rc = bp_disk_unlink(store->disk, BP_SITE_CHECKPOINT_UNLINK, path);
    }
    rc = code == BP_OK && rc == 0 && n > 0 ? sync_names(store) : rc;
    free(numbers);
    return rc < 0 ? bp_fail_io(err, rc, "%s: a damaged checkpoint cannot be deleted", store->dir)
                  : code;
}

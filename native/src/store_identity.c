/*
 * Whose directory it is.
 *
 *   STORE there                  its id is read; without a log segment it is damaged
 *   nothing of ours              a new store: an id is minted, STORE is written last
 *   at most one log segment      a creation that did not finish: cleared away, begun again
 *   anything else                refused, and nothing is touched
 *
 * Nobody was ever answered from a store without STORE, so what an unfinished creation left may go.
 */
#include <stdio.h>
#include <string.h>

#include "store_files.h"
#include "store_open.h"

static int corrupt(struct bp_store *store, const char *what, struct bp_error *err) {
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT, "%s: %s; see `bedplate fsck`",
                   store->dir, what);
}

/* An unfinished creation has at most its first segment, which nobody was ever answered from. */
static int clear_unfinished(struct bp_store *store, const struct bp_store_files *files,
                            struct bp_error *err) {
    if (files->settled > 0 || files->checkpoints > 0 || files->logs > 1 ||
        (files->logs == 1 && !files->creating)) {
        return corrupt(store, "STORE is missing", err);
    }
    if (files->logs == 0) {
        return bp_store_creating_begin(store->disk, store->dir, err);
    }
    char path[BP_PATH_MAX];
    /* not always number 1: a crash may have left 1's .tmp */
    (void)snprintf(path, sizeof path, "%.4000s/%.60s", store->dir, files->log);
    int rc = bp_disk_unlink(store->disk, BP_SITE_STORE_CREATE, path);
    /*
     * For good, before another segment gets a name: two of them would look like a store that lost
     * its identity.
     */
    rc = rc < 0 ? rc : bp_disk_sync_dir(store->disk, BP_SITE_STORE_CREATE, store->dir);
    return rc < 0 ? bp_fail_io(err, rc, "%s: cannot be removed", path) : BP_OK;
}

static int read_identity(struct bp_store *store, struct bp_error *err) {
    struct bp_store_identity identity;
    int code = bp_store_identity_read(store->disk, store->dir, &identity, err);
    if (code == BP_OK) {
        memcpy(store->store_id, identity.store_id, sizeof store->store_id);
        memcpy(store->system.cluster_id, identity.cluster_id, sizeof store->system.cluster_id);
        store->member_id = identity.member_id;
        store->joined = identity.joined;
    }
    return code;
}

int bp_store_identify(struct bp_store *store, bool *fresh, bool *unsynced, struct bp_error *err) {
    struct bp_store_files files;
    int code = bp_store_files_list(store->disk, store->dir, &files, err);
    if (code != BP_OK) {
        return code;
    }
    *fresh = !files.store;
    *unsynced = files.unsynced;
    if (files.restoring) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_STORE_CORRUPT,
                       "%s: a restore into it did not finish; remove it and restore again",
                       store->dir);
    }
    if (files.store) {
        code = read_identity(store, err);
        return code != BP_OK || files.logs > 0 ? code
                                               : corrupt(store, "no log segment is left", err);
    }
    if (files.stranger[0] != 0) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_STORE_CORRUPT,
                       "%s holds \"%s\", which is not ours: give the store a directory of its own",
                       store->dir, files.stranger);
    }
    code = clear_unfinished(store, &files, err);
    int rc =
        code == BP_OK ? bp_disk_random(store->disk, store->store_id, sizeof store->store_id) : 0;
    return code == BP_OK && rc < 0 ? bp_fail_io(err, rc, "no random bytes") : code;
}

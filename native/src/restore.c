/*
 * Restore (see restore.h): the backup is read once, and what is found goes straight into an image.
 *
 *   backup --verify each block--> image (leases, request ids, keys) --trailer held--> finish
 *                                    | anything wrong
 *                                    v
 *                                 what was made is taken away again
 */
#include "restore.h"

#include "backup.h"
#include "image.h"

struct restore {
    struct bp_image *image;
    uint64_t revision;
    uint32_t cluster_version;
};

static int wrong(const char *what, struct bp_error *err) {
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                   "the backup contradicts itself: %s; nothing of it can be used", what);
}

static int take_header(void *arg, const struct bp_backup_header *header, struct bp_error *err) {
    struct restore *restore = arg;
    (void)err;
    restore->revision = header->revision;
    restore->cluster_version = header->system.cluster_version;
    return BP_OK;
}

static int take_lease(void *arg, const struct bp_lease_record *lease, struct bp_error *err) {
    const struct restore *restore = arg;
    int code = bp_image_lease(restore->image, lease, err);
    return code == BP_ALREADY_EXISTS ? wrong("it holds a lease twice", err) : code;
}

static int take_request_id(void *arg, const struct bp_request_id_record *record,
                           struct bp_error *err) {
    const struct restore *restore = arg;
    return bp_image_request_id(restore->image, record) ? BP_OK
                                                       : wrong("it holds a request id twice", err);
}

static int take_key(void *arg, const struct bp_backup_key *key, struct bp_error *err) {
    const struct restore *restore = arg;
    if (key->version.lease != 0 && !bp_image_has_lease(restore->image, key->version.lease)) {
        return wrong("a key has a lease that does not exist", err);
    }
    return bp_image_put(restore->image, key->key, &key->version, key->value, err);
}

int bp_restore_on(const struct bp_options *options, struct bp_disk *disk, const char *backup_path,
                  struct bp_error *err) {
    struct restore restore = {0};
    int code = bp_image_new(options, disk, &restore.image, err);
    if (code != BP_OK) {
        return code;
    }
    struct bp_backup_visitor visitor = {.arg = &restore,
                                        .header = take_header,
                                        .lease = take_lease,
                                        .request_id = take_request_id,
                                        .key = take_key};
    code = bp_backup_read(disk, backup_path, &visitor, err);
    if (code == BP_OK) {
        code = bp_image_finish(restore.image, restore.revision, restore.cluster_version, err);
    }
    bp_image_free(restore.image);
    return code;
}

int bp_restore(const struct bp_options *options, const char *backup_path, struct bp_error *err) {
    struct bp_io io;
    bp_io_posix(&io);
    struct bp_disk *disk = bp_disk_new(&io);
    if (disk == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory to restore a backup");
    }
    int code = BP_OK;
    if (options->failpoints != NULL) {
        code = bp_disk_arm_text(disk, options->failpoints, err);
    }
    code = code != BP_OK ? code : bp_restore_on(options, disk, backup_path, err);
    bp_disk_free(disk);
    return code;
}

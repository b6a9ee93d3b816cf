/* The small files of a store's directory; each is drawn in store_files.h. */
#include "store_files.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"
#include "limits.h"

#define PATH_MAX_BYTES 4224u
#define STORE_SIZE 64u

static const uint8_t store_magic[8] = "BPSTORE";

static void path_of(const char *dir, const char *name, char path[PATH_MAX_BYTES]) {
    (void)snprintf(path, PATH_MAX_BYTES, "%s/%s", dir, name);
}

static bool ends_with(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static int note_file(void *arg, const char *name) {
    struct bp_store_files *files = arg;
    if (ends_with(name, ".log")) {
        files->logs++;
        (void)snprintf(files->log, sizeof files->log, "%.60s", name);
    } else if (ends_with(name, ".set")) {
        files->settled++;
    } else if (ends_with(name, ".ckpt")) {
        files->checkpoints++;
    } else if (strcmp(name, "STORE") == 0) {
        files->store = true;
    } else if (strcmp(name, "creating") == 0) {
        files->creating = true;
    } else if (strcmp(name, "restoring") == 0) {
        files->restoring = true;
    } else if (strcmp(name, "unsynced") == 0) {
        files->unsynced = true;
    } else if (strcmp(name, "LOCK") != 0 && strcmp(name, "reserve") != 0 &&
               !ends_with(name, ".tmp")) {
        (void)snprintf(files->stranger, sizeof files->stranger, "%.60s", name);
    }
    return 0;
}

int bp_store_files_list(struct bp_disk *disk, const char *dir, struct bp_store_files *files,
                        struct bp_error *err) {
    memset(files, 0, sizeof *files);
    int rc = bp_disk_list(disk, dir, note_file, files);
    return rc < 0 ? bp_fail_io(err, rc, "%s: cannot be listed", dir) : BP_OK;
}

int bp_store_lock(struct bp_disk *disk, const char *dir, int *fd, struct bp_error *err) {
    char path[PATH_MAX_BYTES];
    int rc = bp_disk_mkdir(disk, dir);
    if (rc < 0 && rc != -EEXIST) {
        return bp_fail_io(err, rc, "%s: cannot be made", dir);
    }
    path_of(dir, "LOCK", path);
    int handle = bp_disk_open(disk, BP_SITE_NONE, path, BP_O_WRITE | BP_O_CREATE);
    if (handle < 0) {
        return bp_fail_io(err, handle, "%s: cannot be opened", path);
    }
    const struct bp_io *io = bp_disk_io(disk);
    rc = io->lock(io->ctx, handle);
    if (rc < 0) {
        bp_disk_close(disk, handle);
        if (rc == -EWOULDBLOCK) {
            return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_STORE_LOCKED,
                           "%s is in use by another process", dir);
        }
        return bp_fail_io(err, rc, "%s: cannot be locked", path);
    }
    *fd = handle;
    return BP_OK;
}

/* A small file under its final name, whole or not at all. */
static int write_file(struct bp_disk *disk, const char *dir, const char *name, const uint8_t *bytes,
                      size_t size, struct bp_error *err) {
    char tmp[PATH_MAX_BYTES], final[PATH_MAX_BYTES], tmp_name[32];
    (void)snprintf(tmp_name, sizeof tmp_name, "%s.tmp", name);
    path_of(dir, tmp_name, tmp);
    path_of(dir, name, final);
    int fd = bp_disk_open(disk, BP_SITE_STORE_CREATE, tmp, BP_O_WRITE | BP_O_CREATE);
    int rc = fd < 0 ? fd : bp_disk_truncate(disk, BP_SITE_STORE_CREATE, fd, 0);
    if (rc >= 0 && size > 0) {
        rc = bp_disk_write(disk, BP_SITE_STORE_CREATE, fd, bytes, size, 0);
    }
    if (rc >= 0) {
        rc = bp_disk_sync(disk, BP_SITE_STORE_CREATE, fd);
    }
    if (fd >= 0) {
        bp_disk_close(disk, fd);
    }
    if (rc >= 0) {
        rc = bp_disk_rename(disk, BP_SITE_STORE_CREATE, tmp, final);
    }
    if (rc >= 0) {
        rc = bp_disk_sync_dir(disk, BP_SITE_STORE_CREATE, dir);
    }
    return rc < 0 ? bp_fail_io(err, rc, "%s: cannot be written", final) : BP_OK;
}

static int read_file(struct bp_disk *disk, const char *path, uint8_t *bytes, size_t size) {
    int fd = bp_disk_open(disk, BP_SITE_NONE, path, BP_O_READ);
    if (fd < 0) {
        return fd;
    }
    int rc = bp_disk_read(disk, BP_SITE_NONE, fd, bytes, size, 0);
    bp_disk_close(disk, fd);
    return rc;
}

/* The directory's own name must be durable before anything in it is acknowledged. */
static int sync_parent(struct bp_disk *disk, const char *dir, struct bp_error *err) {
    char parent[PATH_MAX_BYTES];
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') {
        n--;
    }
    while (n > 0 && dir[n - 1] != '/') {
        n--;
    }
    (void)snprintf(parent, sizeof parent, "%.*s", n == 0 ? 1 : (int)n, n == 0 ? "." : dir);
    int rc = bp_disk_sync_dir(disk, BP_SITE_STORE_CREATE, parent);
    return rc < 0 ? bp_fail_io(err, rc, "%s: cannot be synced", parent) : BP_OK;
}

int bp_store_identity_write(struct bp_disk *disk, const char *dir,
                            const struct bp_store_identity *identity, struct bp_error *err) {
    uint8_t bytes[STORE_SIZE] = {0};
    memcpy(bytes, store_magic, 8);
    bp_put_u32(bytes + 8, BP_FORMAT_VERSION);
    memcpy(bytes + 16, identity->store_id, 16);
    bp_put_u64(bytes + 32, identity->member_id);
    memcpy(bytes + 40, identity->cluster_id, 16);
    bp_put_u32(bytes + 56, identity->joined);
    bp_put_u32(bytes + 60, bp_crc32c(0, bytes, 60));
    int code = sync_parent(disk, dir, err);
    return code != BP_OK ? code : write_file(disk, dir, "STORE", bytes, sizeof bytes, err);
}

int bp_store_creating_begin(struct bp_disk *disk, const char *dir, struct bp_error *err) {
    return write_file(disk, dir, "creating", NULL, 0, err);
}

void bp_store_creating_end(struct bp_disk *disk, const char *dir) {
    char path[PATH_MAX_BYTES];
    path_of(dir, "creating", path);
    (void)bp_disk_unlink(disk, BP_SITE_STORE_CREATE, path);
}

int bp_store_identity_read(struct bp_disk *disk, const char *dir,
                           struct bp_store_identity *identity, struct bp_error *err) {
    char path[PATH_MAX_BYTES];
    uint8_t bytes[STORE_SIZE];
    path_of(dir, "STORE", path);
    int rc = read_file(disk, path, bytes, sizeof bytes);
    if (rc < 0 && rc != -ENODATA) {
        return bp_fail_io(err, rc, "%s: cannot be read", path);
    }
    if (rc < 0 || memcmp(bytes, store_magic, 8) != 0 ||
        bp_get_u32(bytes + 60) != bp_crc32c(0, bytes, 60)) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%s: damaged at offset 0; see `bedplate fsck`", path);
    }
    if (bp_get_u32(bytes + 8) > BP_FORMAT_VERSION) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_FORMAT_UNSUPPORTED,
                       "%s: format %u was written by a newer version; this one knows up to %u",
                       path, bp_get_u32(bytes + 8), BP_FORMAT_VERSION);
    }
    memcpy(identity->store_id, bytes + 16, 16);
    identity->member_id = bp_get_u64(bytes + 32);
    memcpy(identity->cluster_id, bytes + 40, 16);
    identity->joined = bp_get_u32(bytes + 56) != 0;
    return BP_OK;
}

int bp_store_unsynced_begin(struct bp_disk *disk, const char *dir, struct bp_error *err) {
    return write_file(disk, dir, "unsynced", NULL, 0, err);
}

int bp_store_unsynced_end(struct bp_disk *disk, const char *dir, struct bp_error *err) {
    char path[PATH_MAX_BYTES];
    path_of(dir, "unsynced", path);
    int rc = bp_disk_unlink(disk, BP_SITE_STORE_CREATE, path);
    rc = rc == -ENOENT ? 0 : rc;
    rc = rc < 0 ? rc : bp_disk_sync_dir(disk, BP_SITE_STORE_CREATE, dir);
    return rc < 0 ? bp_fail_io(err, rc, "%s: cannot be removed", path) : BP_OK;
}

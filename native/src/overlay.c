/*
 * The overlay (see overlay.h):
 *
 *   upper   a simulated disk, empty at first: files that were made          handle: UPPER + its own
 *   gone    names of the base that were removed or covered
 *   base    read only                                                       handle: its own
 *
 *   open
 *       upper has it -> upper | base has it and it is not gone -> base, for reading | CREATE ->
 *       upper
 *
 * Invariants: nothing on the base changes. Shortening, allocating and syncing a base file succeed
 * and do nothing, which the engine takes for best effort everywhere; writing to one is -EROFS, and
 * nobody does: old files are never appended to. Handles of the upper disk are small numbers, far
 * below UPPER.
 */
#include "overlay.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UPPER = 1 << 24, NAME_SIZE = 256 };
#define UPPER_DIR "/upper"

struct gone {
    struct gone *next;
    char name[];
};

struct bp_overlay {
    const struct bp_io *base;
    struct bp_sim *sim;
    struct bp_io upper;
    struct gone *gone;
    char *dir;
};

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static void upper_path(const char *path, char out[NAME_SIZE + sizeof UPPER_DIR + 1]) {
    (void)snprintf(out, NAME_SIZE + sizeof UPPER_DIR + 1, UPPER_DIR "/%.255s", name_of(path));
}

static bool is_gone(const struct bp_overlay *overlay, const char *name) {
    for (const struct gone *at = overlay->gone; at != NULL; at = at->next) {
        if (strcmp(at->name, name) == 0) {
            return true;
        }
    }
    return false;
}

static int add_gone(struct bp_overlay *overlay, const char *name) {
    if (is_gone(overlay, name)) {
        return 0;
    }
    size_t size = strlen(name) + 1;
    struct gone *gone = malloc(sizeof *gone + size);
    if (gone == NULL) {
        return -ENOMEM;
    }
    memcpy(gone->name, name, size);
    gone->next = overlay->gone;
    overlay->gone = gone;
    return 0;
}

static bool in_upper(const struct bp_overlay *overlay, const char *path) {
    char upper[NAME_SIZE + sizeof UPPER_DIR + 1];
    upper_path(path, upper);
    int fd = overlay->upper.open(overlay->upper.ctx, upper, BP_O_READ);
    if (fd >= 0) {
        (void)overlay->upper.close(overlay->upper.ctx, fd);
    }
    return fd >= 0;
}

static bool in_base(const struct bp_overlay *overlay, const char *path) {
    if (is_gone(overlay, name_of(path))) {
        return false;
    }
    int fd = overlay->base->open(overlay->base->ctx, path, BP_O_READ);
    if (fd >= 0) {
        (void)overlay->base->close(overlay->base->ctx, fd);
    }
    return fd >= 0;
}

/* ---- names ---------------------------------------------------------------------------------- */

static int overlay_open(void *ctx, const char *path, int flags) {
    struct bp_overlay *overlay = ctx;
    if (!in_upper(overlay, path) && in_base(overlay, path)) {
        return (flags & BP_O_EXCL) != 0 ? -EEXIST
                                        : overlay->base->open(overlay->base->ctx, path, BP_O_READ);
    }
    char upper[NAME_SIZE + sizeof UPPER_DIR + 1];
    upper_path(path, upper);
    int fd = overlay->upper.open(overlay->upper.ctx, upper, flags);
    return fd < 0 ? fd : fd + UPPER;
}

static int overlay_rename(void *ctx, const char *from, const char *to) {
    struct bp_overlay *overlay = ctx;
    char upper_from[NAME_SIZE + sizeof UPPER_DIR + 1], upper_to[NAME_SIZE + sizeof UPPER_DIR + 1];
    if (!in_upper(overlay, from)) {
        return in_base(overlay, from) ? -EROFS : -ENOENT;
    }
    upper_path(from, upper_from);
    upper_path(to, upper_to);
    int rc = add_gone(overlay, name_of(to));
    return rc < 0 ? rc : overlay->upper.rename(overlay->upper.ctx, upper_from, upper_to);
}

static int overlay_unlink(void *ctx, const char *path) {
    struct bp_overlay *overlay = ctx;
    char upper[NAME_SIZE + sizeof UPPER_DIR + 1];
    upper_path(path, upper);
    if (in_upper(overlay, path)) {
        int rc = add_gone(overlay, name_of(path));
        return rc < 0 ? rc : overlay->upper.unlink(overlay->upper.ctx, upper);
    }
    return in_base(overlay, path) ? add_gone(overlay, name_of(path)) : -ENOENT;
}

static int overlay_mkdir(void *ctx, const char *path) {
    const struct bp_overlay *overlay = ctx;
    return strcmp(path, overlay->dir) == 0 ? -EEXIST : -EROFS;
}

static int overlay_sync_dir(void *ctx, const char *path) {
    (void)ctx;
    (void)path;
    return 0;
}

struct listing {
    const struct bp_overlay *overlay;
    int (*each)(void *arg, const char *name);
    void *arg;
};

static int list_base(void *arg, const char *name) {
    const struct listing *listing = arg;
    bool hidden = is_gone(listing->overlay, name) || in_upper(listing->overlay, name);
    return hidden ? 0 : listing->each(listing->arg, name);
}

static int overlay_list(void *ctx, const char *path, int (*each)(void *arg, const char *name),
                        void *arg) {
    const struct bp_overlay *overlay = ctx;
    struct listing listing = {.overlay = overlay, .each = each, .arg = arg};
    int rc = overlay->base->list(overlay->base->ctx, path, list_base, &listing);
    return rc != 0 ? rc : overlay->upper.list(overlay->upper.ctx, UPPER_DIR, each, arg);
}

static int overlay_space(void *ctx, const char *path, uint64_t *free_bytes, uint64_t *total_bytes) {
    const struct bp_overlay *overlay = ctx;
    return overlay->base->space(overlay->base->ctx, path, free_bytes, total_bytes);
}

/* ---- handles -------------------------------------------------------------------------------- */

static int overlay_close(void *ctx, int fd) {
    const struct bp_overlay *overlay = ctx;
    return fd >= UPPER ? overlay->upper.close(overlay->upper.ctx, fd - UPPER)
                       : overlay->base->close(overlay->base->ctx, fd);
}

static ssize_t overlay_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset) {
    const struct bp_overlay *overlay = ctx;
    return fd >= UPPER ? overlay->upper.pread(overlay->upper.ctx, fd - UPPER, buf, n, offset)
                       : overlay->base->pread(overlay->base->ctx, fd, buf, n, offset);
}

static ssize_t overlay_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t offset) {
    const struct bp_overlay *overlay = ctx;
    return fd >= UPPER ? overlay->upper.pwritev(overlay->upper.ctx, fd - UPPER, iov, n, offset)
                       : -EROFS;
}

static int overlay_datasync(void *ctx, int fd) {
    const struct bp_overlay *overlay = ctx;
    return fd >= UPPER ? overlay->upper.datasync(overlay->upper.ctx, fd - UPPER) : 0;
}

static int overlay_allocate(void *ctx, int fd, uint64_t size) {
    const struct bp_overlay *overlay = ctx;
    return fd >= UPPER ? overlay->upper.allocate(overlay->upper.ctx, fd - UPPER, size) : 0;
}

static int overlay_truncate(void *ctx, int fd, uint64_t size) {
    const struct bp_overlay *overlay = ctx;
    return fd >= UPPER ? overlay->upper.truncate(overlay->upper.ctx, fd - UPPER, size) : 0;
}

static int overlay_size(void *ctx, int fd, uint64_t *size) {
    const struct bp_overlay *overlay = ctx;
    return fd >= UPPER ? overlay->upper.size(overlay->upper.ctx, fd - UPPER, size)
                       : overlay->base->size(overlay->base->ctx, fd, size);
}

static int overlay_lock(void *ctx, int fd) {
    (void)ctx;
    (void)fd;
    return 0;
}

/* ---- time and chance ------------------------------------------------------------------------ */

static uint64_t overlay_boot_ns(void *ctx) {
    const struct bp_overlay *overlay = ctx;
    return overlay->base->clock_boot_ns(overlay->base->ctx);
}

static uint64_t overlay_real_ns(void *ctx) {
    const struct bp_overlay *overlay = ctx;
    return overlay->base->clock_real_ns(overlay->base->ctx);
}

static int overlay_random(void *ctx, void *buf, size_t n) {
    const struct bp_overlay *overlay = ctx;
    return overlay->base->random(overlay->base->ctx, buf, n);
}

/* ---- life ----------------------------------------------------------------------------------- */

int bp_overlay_new(struct bp_disk *base, const char *dir, struct bp_overlay **out,
                   struct bp_error *err) {
    struct bp_overlay *overlay = calloc(1, sizeof *overlay);
    if (overlay != NULL) {
        overlay->base = bp_disk_io(base);
        overlay->sim = bp_sim_new(1);
        overlay->dir = strdup(dir);
    }
    if (overlay == NULL || overlay->sim == NULL || overlay->dir == NULL) {
        bp_overlay_free(overlay);
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a check");
    }
    bp_sim_io(overlay->sim, &overlay->upper);
    int rc = overlay->upper.mkdir(overlay->upper.ctx, UPPER_DIR);
    if (rc < 0) {
        bp_overlay_free(overlay);
        return bp_fail_io(err, rc, "cannot prepare a check in memory");
    }
    *out = overlay;
    return BP_OK;
}

void bp_overlay_free(struct bp_overlay *overlay) {
    if (overlay == NULL) {
        return;
    }
    while (overlay->gone != NULL) {
        struct gone *next = overlay->gone->next;
        free(overlay->gone);
        overlay->gone = next;
    }
    bp_sim_free(overlay->sim);
    free(overlay->dir);
    free(overlay);
}

struct bp_disk *bp_overlay_disk(struct bp_overlay *overlay) {
    struct bp_io io = {.ctx = overlay,
                       .open = overlay_open,
                       .close = overlay_close,
                       .pread = overlay_pread,
                       .pwritev = overlay_pwritev,
                       .datasync = overlay_datasync,
                       .allocate = overlay_allocate,
                       .truncate = overlay_truncate,
                       .size = overlay_size,
                       .rename = overlay_rename,
                       .unlink = overlay_unlink,
                       .mkdir = overlay_mkdir,
                       .sync_dir = overlay_sync_dir,
                       .list = overlay_list,
                       .space = overlay_space,
                       .lock = overlay_lock,
                       .clock_boot_ns = overlay_boot_ns,
                       .clock_real_ns = overlay_real_ns,
                       .random = overlay_random};
    return bp_disk_new(&io);
}

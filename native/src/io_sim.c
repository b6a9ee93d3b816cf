/*
 * bp_io on the simulated machine (sim_machine.c): a disk in memory and a clock that only the test
 * moves.
 *
 *   bp_io ---> handles ---> sim_tree (names) ---> sim_file (sectors)
 *      |
 *      +--- powered? --no--> -EIO, everything, until bp_sim_power_cut() turns it on again
 *
 * Handles do not survive a cut: their numbers start where the last life's ended, so a stale one is
 * -EBADF, never another file.
 *
 * Invariants: `lock` guards every field; callbacks (list) run without it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sim_machine.h"

enum { SIM_IOV_MAX = 1024 };
static const uint64_t real_ns_at_boot = 1704067200u * (uint64_t)1000000000u; /* 2024-01-01 */
static const uint64_t space_without_limit = (uint64_t)1 << 40;

/* ---- handles -------------------------------------------------------------------------------- */

/* Every bp_io function: lock, and fail while the power is off. */
static int enter(struct bp_sim *sim) {
    bp_sim_lock(sim);
    return sim->powered ? 0 : -EIO;
}

/* Under `lock`. */
static struct bp_sim_handle *handle_of(struct bp_sim *sim, int fd) {
    if (fd < sim->first_handle || (uint32_t)(fd - sim->first_handle) >= sim->handle_count) {
        return NULL;
    }
    struct bp_sim_handle *handle = &sim->handles[fd - sim->first_handle];
    return handle->used ? handle : NULL;
}

/* The lowest free handle, as POSIX has it, for a node. -EMFILE is not simulated. */
static int handle_make(struct bp_sim *sim, uint32_t node, bool writable) {
    uint32_t i = 0;
    while (i < sim->handle_count && sim->handles[i].used) {
        i++;
    }
    if (i == sim->handle_room) {
        uint32_t room = sim->handle_room * 2 + 8;
        struct bp_sim_handle *handles = realloc(sim->handles, room * sizeof *handles);
        if (handles == NULL) {
            return -ENOMEM;
        }
        sim->handles = handles;
        sim->handle_room = room;
    }
    sim->handle_count += i == sim->handle_count;
    sim->handles[i] = (struct bp_sim_handle){.used = true, .writable = writable, .node = node};
    sim->tree.nodes[node].handles++;
    return sim->first_handle + (int)i;
}

/*
 * The file behind a handle, NULL with *result set when there is none or it may not be written.
 * Enters.
 */
static struct bp_sim_file *enter_file(struct bp_sim *sim, int fd, bool writing, int *result) {
    *result = enter(sim);
    if (*result != 0) {
        return NULL;
    }
    const struct bp_sim_handle *handle = handle_of(sim, fd);
    if (handle == NULL || (writing && !handle->writable)) {
        *result = -EBADF;
        return NULL;
    }
    return &sim->tree.nodes[handle->node].file;
}

/* Bytes of disk that are left. Under `lock`. */
static uint64_t budget(const struct bp_sim *sim) {
    if (sim->capacity == 0) {
        return UINT64_MAX;
    }
    uint64_t used = bp_sim_tree_cost(&sim->tree);
    return used < sim->capacity ? sim->capacity - used : 0;
}

/* ---- bp_io: files --------------------------------------------------------------------------- */

static int open_locked(struct bp_sim *sim, const char *path, int flags) {
    char inner[BP_SIM_PATH_MAX];
    int result = bp_sim_path(path, inner);
    if (result != 0) {
        return result;
    }
    if (bp_sim_tree_is_dir(&sim->tree, inner)) {
        return -EISDIR;
    }
    uint32_t node = bp_sim_tree_find(&sim->tree, inner);
    bool create = (flags & BP_O_CREATE) != 0;
    if (node != BP_SIM_NONE && create && (flags & BP_O_EXCL) != 0) {
        return -EEXIST;
    }
    if (node == BP_SIM_NONE) {
        result = create ? bp_sim_tree_create(&sim->tree, inner, false, &node) : -ENOENT;
    }
    return result != 0 ? result : handle_make(sim, node, (flags & BP_O_WRITE) != 0);
}

static int sim_open(void *ctx, const char *path, int flags) {
    struct bp_sim *sim = ctx;
    int result = enter(sim);
    if (result == 0) {
        result = open_locked(sim, path, flags);
    }
    bp_sim_unlock(sim);
    return result;
}

static int sim_close(void *ctx, int fd) {
    struct bp_sim *sim =
        bp_sim_lock(ctx); /* also without power: a dying process closes its files */
    struct bp_sim_handle *handle = handle_of(sim, fd);
    if (handle != NULL) {
        handle->used = false;
        sim->tree.nodes[handle->node].handles--;
        bp_sim_tree_collect(&sim->tree);
    }
    bp_sim_unlock(sim);
    return handle == NULL ? -EBADF : 0;
}

static ssize_t sim_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset) {
    struct bp_sim *sim = ctx;
    int result;
    const struct bp_sim_file *file = enter_file(sim, fd, false, &result);
    ssize_t got = file == NULL ? result : (ssize_t)bp_sim_file_read(file, buf, n, offset);
    bp_sim_unlock(sim);
    return got;
}

/*
 * One vector. The bytes written, or an error if there were none; when the cut comes, -EIO always.
 */
static ssize_t write_bytes(struct bp_sim *sim, struct bp_sim_file *file, const uint8_t *data,
                           size_t n, uint64_t offset) {
    size_t done = 0;
    while (done < n) {
        size_t part = n - done;
        if (sim->cut_armed) {
            part = part < sim->cut_left ? part : (size_t)sim->cut_left;
            if (part == 0) {
                sim->powered = false;
                return -EIO;
            }
        }
        long wrote = bp_sim_file_write(file, data + done, part, offset + done, budget(sim));
        if (wrote < 0) {
            return done > 0 ? (ssize_t)done : wrote;
        }
        done += (size_t)wrote;
        sim->bytes_written += (uint64_t)wrote;
        sim->cut_left -= sim->cut_armed ? (uint64_t)wrote : 0;
    }
    return (ssize_t)done;
}

static ssize_t pwritev_locked(struct bp_sim *sim, struct bp_sim_file *file, const struct iovec *iov,
                              int n, uint64_t offset) {
    if (n < 0 || n > SIM_IOV_MAX) {
        return -EINVAL;
    }
    size_t done = 0;
    for (int i = 0; i < n; i++) {
        if (offset + done > INT64_MAX - (uint64_t)iov[i].iov_len) {
            return done > 0 ? (ssize_t)done : -EFBIG;
        }
        ssize_t wrote = write_bytes(sim, file, iov[i].iov_base, iov[i].iov_len, offset + done);
        if (wrote < 0) {
            return done > 0 && sim->powered ? (ssize_t)done : wrote;
        }
        done += (size_t)wrote;
        if ((size_t)wrote < iov[i].iov_len) {
            break;
        }
    }
    return (ssize_t)done;
}

static ssize_t sim_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t offset) {
    struct bp_sim *sim = ctx;
    int result;
    struct bp_sim_file *file = enter_file(sim, fd, true, &result);
    ssize_t wrote = file == NULL ? result : pwritev_locked(sim, file, iov, n, offset);
    bp_sim_unlock(sim);
    return wrote;
}

static int sim_datasync(void *ctx, int fd) {
    struct bp_sim *sim = ctx;
    int result;
    struct bp_sim_file *file = enter_file(sim, fd, false, &result);
    if (file != NULL) {
        sim->sync_count++;
        if (!sim->sync_lies) {
            bp_sim_file_sync(file);
        }
    }
    bp_sim_unlock(sim);
    return result;
}

static int sim_allocate(void *ctx, int fd, uint64_t size) {
    struct bp_sim *sim = ctx;
    int result;
    struct bp_sim_file *file = enter_file(sim, fd, true, &result);
    if (file != NULL) {
        result = size > INT64_MAX ? -EFBIG : bp_sim_file_allocate(file, size, budget(sim));
    }
    bp_sim_unlock(sim);
    return result;
}

static int sim_truncate(void *ctx, int fd, uint64_t size) {
    struct bp_sim *sim = ctx;
    int result;
    struct bp_sim_file *file = enter_file(sim, fd, true, &result);
    if (file != NULL) {
        result = size > INT64_MAX ? -EFBIG : bp_sim_file_resize(file, size);
    }
    bp_sim_unlock(sim);
    return result;
}

static int sim_size(void *ctx, int fd, uint64_t *size) {
    struct bp_sim *sim = ctx;
    int result;
    const struct bp_sim_file *file = enter_file(sim, fd, false, &result);
    if (file != NULL) {
        *size = file->size;
    }
    bp_sim_unlock(sim);
    return result;
}

static int lock_locked(struct bp_sim *sim, int fd) {
    struct bp_sim_handle *handle = handle_of(sim, fd);
    if (handle == NULL) {
        return -EBADF;
    }
    for (uint32_t i = 0; i < sim->handle_count; i++) {
        const struct bp_sim_handle *other = &sim->handles[i];
        if (other != handle && other->used && other->locked && other->node == handle->node) {
            return -EWOULDBLOCK;
        }
    }
    handle->locked = true;
    return 0;
}

static int sim_lock(void *ctx, int fd) {
    struct bp_sim *sim = ctx;
    int result = enter(sim);
    if (result == 0) {
        result = lock_locked(sim, fd);
    }
    bp_sim_unlock(sim);
    return result;
}

/* ---- bp_io: names --------------------------------------------------------------------------- */

/* Enter with a path in its inner form. */
static int enter_path(struct bp_sim *sim, const char *path, char inner[BP_SIM_PATH_MAX]) {
    int result = enter(sim);
    return result != 0 ? result : bp_sim_path(path, inner);
}

/* The error of a path that had to be a directory, 0 if it is. */
static int check_dir(const struct bp_sim *sim, const char *inner) {
    if (bp_sim_tree_is_dir(&sim->tree, inner)) {
        return 0;
    }
    return bp_sim_tree_find(&sim->tree, inner) == BP_SIM_NONE ? -ENOENT : -ENOTDIR;
}

static int sim_rename(void *ctx, const char *from, const char *to) {
    struct bp_sim *sim = ctx;
    char source[BP_SIM_PATH_MAX], target[BP_SIM_PATH_MAX];
    int result = enter_path(sim, from, source);
    if (result == 0) {
        result = bp_sim_path(to, target);
    }
    if (result == 0) {
        result = bp_sim_tree_rename(&sim->tree, source, target);
    }
    bp_sim_unlock(sim);
    return result;
}

static int sim_unlink(void *ctx, const char *path) {
    struct bp_sim *sim = ctx;
    char inner[BP_SIM_PATH_MAX];
    int result = enter_path(sim, path, inner);
    if (result == 0) {
        result = bp_sim_tree_unlink(&sim->tree, inner);
    }
    bp_sim_unlock(sim);
    return result;
}

static int mkdir_locked(struct bp_sim *sim, const char *inner) {
    uint32_t node = bp_sim_tree_find(&sim->tree, inner);
    if (node != BP_SIM_NONE || inner[0] == '\0') {
        return -EEXIST;
    }
    return bp_sim_tree_create(&sim->tree, inner, true, &node);
}

static int sim_mkdir(void *ctx, const char *path) {
    struct bp_sim *sim = ctx;
    char inner[BP_SIM_PATH_MAX];
    int result = enter_path(sim, path, inner);
    if (result == 0) {
        result = mkdir_locked(sim, inner);
    }
    bp_sim_unlock(sim);
    return result;
}

static int sim_sync_dir(void *ctx, const char *path) {
    struct bp_sim *sim = ctx;
    char inner[BP_SIM_PATH_MAX];
    int result = enter_path(sim, path, inner);
    if (result == 0) {
        result = check_dir(sim, inner);
    }
    if (result == 0 && !sim->sync_lies) {
        bp_sim_tree_sync(&sim->tree, inner);
    }
    bp_sim_unlock(sim);
    return result;
}

static int sim_list(void *ctx, const char *path, int (*each)(void *arg, const char *name),
                    void *arg) {
    struct bp_sim *sim = ctx;
    char inner[BP_SIM_PATH_MAX], name[BP_SIM_PATH_MAX];
    uint32_t position = 0;
    int result = 0;
    for (bool more = true; more && result == 0;) {
        more = false;
        result = enter_path(sim, path, inner);
        if (result == 0) {
            result = check_dir(sim, inner);
        }
        if (result == 0) {
            const char *next = bp_sim_tree_next(&sim->tree, inner, &position);
            more = next != NULL;
            memcpy(name, more ? next : "", more ? strlen(next) + 1 : 1);
        }
        bp_sim_unlock(sim);
        if (more) {
            result = each(arg, name);
        }
    }
    return result;
}

static int sim_space(void *ctx, const char *path, uint64_t *free_bytes, uint64_t *total_bytes) {
    struct bp_sim *sim = ctx;
    char inner[BP_SIM_PATH_MAX];
    int result = enter_path(sim, path, inner);
    if (result == 0) {
        *total_bytes = sim->capacity == 0 ? space_without_limit : sim->capacity;
        uint64_t used = bp_sim_tree_cost(&sim->tree);
        *free_bytes = used < *total_bytes ? *total_bytes - used : 0;
    }
    bp_sim_unlock(sim);
    return result;
}

/* ---- bp_io: clock and chance ---------------------------------------------------------------- */

static uint64_t sim_clock_boot_ns(void *ctx) {
    struct bp_sim *sim = bp_sim_lock(ctx);
    uint64_t now = sim->boot_ns;
    bp_sim_unlock(sim);
    return now;
}

static uint64_t sim_clock_real_ns(void *ctx) { return real_ns_at_boot + sim_clock_boot_ns(ctx); }

static int sim_random(void *ctx, void *buf, size_t n) {
    struct bp_sim *sim = bp_sim_lock(ctx);
    uint8_t *out = buf;
    for (size_t done = 0; done < n;) {
        uint64_t word = bp_sim_random(&sim->random_state);
        for (int i = 0; i < 8 && done < n; i++, word >>= 8) {
            out[done++] = (uint8_t)word;
        }
    }
    bp_sim_unlock(sim);
    return 0;
}

void bp_sim_io(struct bp_sim *sim, struct bp_io *io) {
    *io = (struct bp_io){
        .ctx = sim,
        .open = sim_open,
        .close = sim_close,
        .pread = sim_pread,
        .pwritev = sim_pwritev,
        .datasync = sim_datasync,
        .allocate = sim_allocate,
        .truncate = sim_truncate,
        .size = sim_size,
        .rename = sim_rename,
        .unlink = sim_unlink,
        .mkdir = sim_mkdir,
        .sync_dir = sim_sync_dir,
        .list = sim_list,
        .space = sim_space,
        .lock = sim_lock,
        .clock_boot_ns = sim_clock_boot_ns,
        .clock_real_ns = sim_clock_real_ns,
        .random = sim_random,
    };
}

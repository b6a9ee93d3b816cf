/*
 * bp_io on a POSIX system: each function is one system call, its errno turned into a negative
 * result.
 *
 *   bp_io            system call
 *   open             open(O_RDWR or O_RDONLY, O_CLOEXEC, 0600): no child may hold the store's lock
 *   pread, pwritev   the same
 *   datasync         fdatasync: data, and the size needed to read it back
 *   allocate         fallocate; ftruncate where there is none (see posix_allocate_fallback)
 *   sync_dir         open(O_DIRECTORY), fsync, close
 *   lock             flock(LOCK_EX | LOCK_NB): by open file, so one process cannot own it twice
 *
 * Invariants: no state (ctx is unused), EINTR never leaves this file, a failed sync is reported
 * once and never retried here: the kernel marks the pages clean, so a second sync would succeed
 * without having written them.
 */
#include "io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8, "files are larger than 2 GiB");

/* Run `call` until a signal does not interrupt it; `result` is then >= 0 or a negative errno. */
#define RETRY(result, call)                                                                        \
    do {                                                                                           \
        (result) = (call);                                                                         \
        if ((result) < 0) {                                                                        \
            (result) = -errno;                                                                     \
        }                                                                                          \
    } while ((result) == -EINTR)

static int posix_open(void *ctx, const char *path, int flags) {
    (void)ctx;
    int native = O_CLOEXEC | ((flags & BP_O_WRITE) != 0 ? O_RDWR : O_RDONLY);
    native |= (flags & BP_O_CREATE) != 0 ? O_CREAT : 0;
    native |= (flags & BP_O_EXCL) != 0 ? O_EXCL : 0;
    int result;
    RETRY(result, open(path, native, 0600));
    return result;
}

static int posix_close(void *ctx, int fd) {
    (void)ctx;
    /* Not retried: Linux has let go of the descriptor even when close() says EINTR. */
    return close(fd) == 0 || errno == EINTR ? 0 : -errno;
}

static ssize_t posix_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset) {
    (void)ctx;
    if (offset > INT64_MAX) {
        return -EOVERFLOW;
    }
    ssize_t result;
    RETRY(result, pread(fd, buf, n, (off_t)offset));
    return result;
}

static ssize_t posix_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t offset) {
    (void)ctx;
    if (offset > INT64_MAX) {
        return -EOVERFLOW;
    }
    ssize_t result;
    RETRY(result, pwritev(fd, iov, n, (off_t)offset));
    return result;
}

static int posix_datasync(void *ctx, int fd) {
    (void)ctx;
    int result;
    RETRY(result, fdatasync(fd));
    return result;
}

static int posix_size(void *ctx, int fd, uint64_t *size) {
    (void)ctx;
    struct stat st;
    int result;
    RETRY(result, fstat(fd, &st));
    if (result == 0) {
        *size = (uint64_t)st.st_size;
    }
    return result;
}

static int posix_truncate(void *ctx, int fd, uint64_t size) {
    (void)ctx;
    if (size > INT64_MAX) {
        return -EFBIG;
    }
    int result;
    RETRY(result, ftruncate(fd, (off_t)size));
    return result;
}

/*
 * Some file systems (NFSv3, old FUSE) cannot preallocate. The size alone still keeps every later
 * fdatasync from having to write it; what is lost is the promise of space: a write into the file
 * may then say ENOSPC, which the log handles as any full disk.
 */
static int posix_allocate_fallback(int fd, uint64_t size) {
    uint64_t have = 0;
    int result = posix_size(NULL, fd, &have);
    if (result < 0 || have >= size) {
        return result;
    }
    return posix_truncate(NULL, fd, size);
}

static int posix_allocate(void *ctx, int fd, uint64_t size) {
    (void)ctx;
    if (size == 0) {
        return 0; /* fallocate() refuses an empty range */
    }
    if (size > INT64_MAX) {
        return -EFBIG;
    }
    int result;
    RETRY(result, fallocate(fd, 0, 0, (off_t)size));
    if (result == -EOPNOTSUPP || result == -ENOSYS) {
        return posix_allocate_fallback(fd, size);
    }
    return result;
}

static int posix_rename(void *ctx, const char *from, const char *to) {
    (void)ctx;
    int result;
    RETRY(result, rename(from, to));
    return result;
}

static int posix_unlink(void *ctx, const char *path) {
    (void)ctx;
    int result;
    RETRY(result, unlink(path));
    return result;
}

static int posix_mkdir(void *ctx, const char *path) {
    (void)ctx;
    int result;
    RETRY(result, mkdir(path, 0700));
    return result;
}

static int posix_sync_dir(void *ctx, const char *path) {
    int fd, result;
    RETRY(fd, open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0) {
        return fd;
    }
    RETRY(result, fsync(fd));
    posix_close(ctx, fd);
    return result;
}

static bool is_plain_file(DIR *dir, const struct dirent *entry) {
    if (entry->d_type != DT_UNKNOWN) {
        return entry->d_type == DT_REG;
    }
    struct stat st; /* the file system does not tell types: ask */
    return fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

static int posix_list(void *ctx, const char *path, int (*each)(void *arg, const char *name),
                      void *arg) {
    (void)ctx;
    DIR *dir = opendir(path); /* O_CLOEXEC in glibc and musl */
    if (dir == NULL) {
        return -errno;
    }
    int result = 0;
    while (result == 0) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            result = -errno; /* 0 at the end */
            break;
        }
        if (is_plain_file(dir, entry)) {
            result = each(arg, entry->d_name);
        }
    }
    closedir(dir);
    return result;
}

static int posix_space(void *ctx, const char *path, uint64_t *free_bytes, uint64_t *total_bytes) {
    (void)ctx;
    struct statvfs st;
    int result;
    RETRY(result, statvfs(path, &st));
    if (result == 0) {
        *free_bytes = (uint64_t)st.f_bavail * st.f_frsize; /* what root keeps back is not ours */
        *total_bytes = (uint64_t)st.f_blocks * st.f_frsize;
    }
    return result;
}

static int posix_lock(void *ctx, int fd) {
    (void)ctx;
    int result;
    RETRY(result, flock(fd, LOCK_EX | LOCK_NB));
    return result;
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now = {0};
    clock_gettime(clock, &now); /* cannot fail for a clock the kernel has */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t posix_clock_boot_ns(void *ctx) {
    (void)ctx;
    return clock_ns(CLOCK_BOOTTIME);
}

static uint64_t posix_clock_real_ns(void *ctx) {
    (void)ctx;
    return clock_ns(CLOCK_REALTIME);
}

static int posix_random(void *ctx, void *buf, size_t n) {
    (void)ctx;
    uint8_t *out = buf;
    while (n > 0) {
        ssize_t got;
        RETRY(got, getrandom(out, n, 0));
        if (got < 0) {
            return (int)got;
        }
        out += got;
        n -= (size_t)got;
    }
    return 0;
}

void bp_io_posix(struct bp_io *io) {
    *io = (struct bp_io){
        .ctx = NULL,
        .open = posix_open,
        .close = posix_close,
        .pread = posix_pread,
        .pwritev = posix_pwritev,
        .datasync = posix_datasync,
        .allocate = posix_allocate,
        .truncate = posix_truncate,
        .size = posix_size,
        .rename = posix_rename,
        .unlink = posix_unlink,
        .mkdir = posix_mkdir,
        .sync_dir = posix_sync_dir,
        .list = posix_list,
        .space = posix_space,
        .lock = posix_lock,
        .clock_boot_ns = posix_clock_boot_ns,
        .clock_real_ns = posix_clock_real_ns,
        .random = posix_random,
    };
}

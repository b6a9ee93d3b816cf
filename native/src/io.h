/*
 * bp_io: the only door to files and time. The engine never calls the operating system behind it, so
 * that failpoints, the power-cut tests and the cluster simulator run the production code on another
 * disk and another clock.
 *
 *   engine --> bp_disk (names the persistence step, failpoints, counts) --> bp_io (POSIX |
 *   simulated)
 *
 * Every function returns >= 0, or a negative errno. Transfers may be short; EINTR never leaves
 * bp_io. Offsets and sizes are bytes.
 */
#ifndef BP_IO_H
#define BP_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "../include/bedplate.h" /* struct bp_sim */

enum { BP_O_READ = 0, BP_O_WRITE = 1, BP_O_CREATE = 2, BP_O_EXCL = 4 };

struct bp_io {
    void *ctx;
    int (*open)(void *ctx, const char *path, int flags); /* a handle >= 0; O_CLOEXEC, mode 0600 */
    int (*close)(void *ctx, int fd);
    ssize_t (*pread)(void *ctx, int fd, void *buf, size_t n, uint64_t offset);
    ssize_t (*pwritev)(void *ctx, int fd, const struct iovec *iov, int n, uint64_t offset);
    int (*datasync)(void *ctx, int fd); /* data, and the size needed to read it back */
    int (*allocate)(void *ctx, int fd, uint64_t size); /* preallocate [0, size), size visible */
    int (*truncate)(void *ctx, int fd, uint64_t size);
    int (*size)(void *ctx, int fd, uint64_t *size);
    int (*rename)(void *ctx, const char *from, const char *to);
    int (*unlink)(void *ctx, const char *path);
    int (*mkdir)(void *ctx, const char *path); /* mode 0700; -EEXIST if there */
    int (*sync_dir)(void *ctx, const char *path);
    /*
     * Calls `each` for every plain file name in the directory, in no order; stops on a non-zero
     * return, which is returned.
     */
    int (*list)(void *ctx, const char *path, int (*each)(void *arg, const char *name), void *arg);
    int (*space)(void *ctx, const char *path, uint64_t *free_bytes, uint64_t *total_bytes);
    /* exclusive, non-blocking, released by close; -EWOULDBLOCK if held */
    int (*lock)(void *ctx, int fd);
    uint64_t (*clock_boot_ns)(void *ctx); /* CLOCK_BOOTTIME */
    uint64_t (*clock_real_ns)(void *ctx);
    int (*random)(void *ctx, void *buf, size_t n);
};

/* The real one. Needs no clean-up. */
void bp_io_posix(struct bp_io *io);

/* ---- bp_disk: bp_io with named persistence steps --------------------------------------------- */

/* X(NAME, "config name"): every step at which data or its directory entry becomes durable. */
#define BP_SITES(X)                                                                                \
    X(NONE, "none")                                                                                \
    X(STORE_CREATE, "store.create")                                                                \
    X(LOG_CREATE, "log.create")                                                                    \
    X(LOG_ALLOCATE, "log.allocate")                                                                \
    X(LOG_HEADER_WRITE, "log.header_write")                                                        \
    X(LOG_HEADER_SYNC, "log.header_sync")                                                          \
    X(LOG_RENAME, "log.rename")                                                                    \
    X(LOG_DIR_SYNC, "log.dir_sync")                                                                \
    X(LOG_WRITE, "log.write")                                                                      \
    X(LOG_SYNC, "log.sync")                                                                        \
    X(LOG_READ, "log.read")                                                                        \
    X(LOG_TRIM, "log.trim")                                                                        \
    X(LOG_UNLINK, "log.unlink")                                                                    \
    X(RECOVER_READ, "recover.read")                                                                \
    X(RECOVER_COPY, "recover.copy")                                                                \
    X(RECOVER_SYNC, "recover.sync")                                                                \
    X(CHECKPOINT_CREATE, "checkpoint.create")                                                      \
    X(CHECKPOINT_WRITE, "checkpoint.write")                                                        \
    X(CHECKPOINT_SYNC, "checkpoint.sync")                                                          \
    X(CHECKPOINT_RENAME, "checkpoint.rename")                                                      \
    X(CHECKPOINT_DIR_SYNC, "checkpoint.dir_sync")                                                  \
    X(CHECKPOINT_UNLINK, "checkpoint.unlink")                                                      \
    X(CHECKPOINT_READ, "checkpoint.read")                                                          \
    X(SETTLED_CREATE, "settled.create")                                                            \
    X(SETTLED_WRITE, "settled.write")                                                              \
    X(SETTLED_SYNC, "settled.sync")                                                                \
    X(SETTLED_RENAME, "settled.rename")                                                            \
    X(SETTLED_DIR_SYNC, "settled.dir_sync")                                                        \
    X(SETTLED_UNLINK, "settled.unlink")                                                            \
    X(VALUE_READ, "value.read")                                                                    \
    X(SCRUB_READ, "scrub.read")

enum bp_site {
#define BP_SITE_ENUM(name, text) BP_SITE_##name,
    BP_SITES(BP_SITE_ENUM)
#undef BP_SITE_ENUM
        BP_SITE_COUNT
};

enum bp_fault {
    BP_FAULT_NONE = 0,
    BP_FAULT_EIO,         /* the step fails with EIO */
    BP_FAULT_ENOSPC,      /* the step fails with ENOSPC */
    BP_FAULT_SHORT,       /* a write transfers half its bytes, then the process is killed */
    BP_FAULT_CRASH,       /* SIGKILL to ourselves before the step */
    BP_FAULT_CRASH_AFTER, /* SIGKILL to ourselves after the step */
    BP_FAULT_SLOW,        /* the step takes an extra `arg` milliseconds */
    BP_FAULT_FLIP,        /* a read returns one flipped bit */
};

struct bp_disk;

/* Copies `io`. NULL when out of memory. Thread safe. */
struct bp_disk *bp_disk_new(const struct bp_io *io);
void bp_disk_free(struct bp_disk *disk);
const struct bp_io *bp_disk_io(const struct bp_disk *disk);
/*
 * Arm `site`: from the `first`-th hit (1-based, counted from now) on, `times` hits (0: for ever)
 * suffer `fault`. BP_FAULT_NONE disarms. FLIP needs a site that reads (its name ends in "read") and
 * flips bit `arg` modulo the bits read; SHORT at a step that is not a write is a CRASH. 0, or
 * -EINVAL for an unknown site or fault, first = 0, or a FLIP that could not happen.
 */
int bp_disk_arm(struct bp_disk *disk, int site, int fault, uint64_t first, uint64_t times,
                uint64_t arg);
/*
 * With `on`, a crash fault (SHORT, CRASH, CRASH_AFTER) kills no process: its step and every later
 * step that would change the disk fail with -EIO, as if the power had gone; reads go on. For
 * simulated disks. Off gives the power back.
 */
void bp_disk_set_crash_is_error(struct bp_disk *disk, int on);
/* How often `site` was reached since the disk was made, faulty or not. 0 for an unknown site. */
uint64_t bp_disk_hits(const struct bp_disk *disk, int site);
/* How many hits suffered an armed fault, at all sites. */
uint64_t bp_disk_faults(const struct bp_disk *disk);
/*
 * Config names to numbers, -1 if unknown: "log.sync" -> BP_SITE_LOG_SYNC, "crash_after" ->
 * BP_FAULT_CRASH_AFTER.
 */
int bp_site_from_name(const char *name);
int bp_fault_from_name(const char *name);
const char *bp_site_name(int site);
/*
 * failpoint.c: arm from text "site=fault[@first][xtimes][:arg]" joined by ";", e.g.
 * "log.sync=eio@3;log.write=slow@1x10:200". first defaults to 1, times to 1 (0: for ever).
 * INVALID_ARGUMENT/FIELD_INVALID naming what is wrong.
 */
struct bp_error;
int bp_disk_arm_text(struct bp_disk *disk, const char *text, struct bp_error *err);

int bp_disk_open(struct bp_disk *disk, int site, const char *path, int flags);
void bp_disk_close(struct bp_disk *disk, int fd);
/*
 * Whole transfers: loops over short ones. A read past the end gives -ENODATA. 0 or a negative
 * errno.
 */
int bp_disk_read(struct bp_disk *disk, int site, int fd, void *buf, size_t n, uint64_t offset);
int bp_disk_write(struct bp_disk *disk, int site, int fd, const void *buf, size_t n,
                  uint64_t offset);
/* `iov` is clobbered. Any count: split at IOV_MAX. */
int bp_disk_writev(struct bp_disk *disk, int site, int fd, struct iovec *iov, int n,
                   uint64_t offset);
int bp_disk_sync(struct bp_disk *disk, int site, int fd);
int bp_disk_allocate(struct bp_disk *disk, int site, int fd, uint64_t size);
int bp_disk_truncate(struct bp_disk *disk, int site, int fd, uint64_t size);
int bp_disk_size(struct bp_disk *disk, int fd, uint64_t *size);
int bp_disk_rename(struct bp_disk *disk, int site, const char *from, const char *to);
int bp_disk_unlink(struct bp_disk *disk, int site, const char *path);
int bp_disk_mkdir(struct bp_disk *disk, const char *path);
int bp_disk_sync_dir(struct bp_disk *disk, int site, const char *path);
int bp_disk_list(struct bp_disk *disk, const char *path, int (*each)(void *arg, const char *name),
                 void *arg);
int bp_disk_space(struct bp_disk *disk, const char *path, uint64_t *free_bytes,
                  uint64_t *total_bytes);
uint64_t bp_disk_boot_ns(const struct bp_disk *disk);
uint64_t bp_disk_real_ns(const struct bp_disk *disk);
int bp_disk_random(struct bp_disk *disk, void *buf, size_t n);

/* ---- the simulated disk (io_sim.c); bedplate.h has what its owner does with it --------------- */

void bp_sim_io(struct bp_sim *sim, struct bp_io *io);
/*
 * Independent copy of disk contents (synced and unsynced), clock, capacity and lying, for replaying
 * one recorded workload with many cuts. No handles, no armed cut; counters start at 0. Pages are
 * shared until written: microseconds for a small store.
 */
struct bp_sim *bp_sim_clone(const struct bp_sim *sim, uint64_t seed);
/* Bytes that writes transferred, and successful datasync calls. */
uint64_t bp_sim_bytes_written(const struct bp_sim *sim);
uint64_t bp_sim_sync_count(const struct bp_sim *sim);
/* Of the file as a reader sees it now. 0, -ENOENT, or -ERANGE where this leaves the file. */
int bp_sim_read_file(const struct bp_sim *sim, const char *path, void *buf, size_t n,
                     uint64_t offset);

#endif

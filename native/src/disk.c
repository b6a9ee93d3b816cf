/*
 * bp_disk: bp_io with a name for every step at which data becomes durable, whole transfers, and
 * faults on demand.
 *
 *   bp_disk_write(LOG_WRITE) --> hits[LOG_WRITE]++ --> watchful? --no--> bp_io.pwritev to the end
 *                                                         |
 *                                                        yes    (armed, or the power is off)
 *                                                         v
 *                                             before(): EIO, ENOSPC, half, crash, wait    [lock]
 *                                             the step
 *                                             after():  crash, flip a bit
 *
 * Invariants
 *   - Unarmed, a step costs one relaxed load and one increment above bp_io; no lock is taken.
 *   - `watchful` is true exactly while a site is armed or the power is off.
 *   - No step is retried, no error swallowed: what a failed sync means is the log's to decide.
 *   - Once the power is off nothing changes the disk: it stays as a crash would leave it.
 */
#include "io.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { IOV_MAX_PER_CALL = 1024 }; /* Linux's UIO_MAXIOV; POSIX promises 16, where IOV_MAX says so */
#if defined(IOV_MAX) && IOV_MAX < 1024
#error "this system's IOV_MAX is smaller than IOV_MAX_PER_CALL"
#endif

struct arm {
    int fault;      /* enum bp_fault */
    uint64_t first; /* the hit, counted in `seen`, that suffers first */
    uint64_t times; /* how many do; 0 all */
    uint64_t seen;  /* hits since armed */
    uint64_t arg;
};

/* One cache line a site: readers at VALUE_READ and the flusher at LOG_SYNC do not share one. */
struct site {
    _Alignas(64) _Atomic uint64_t hits;
};

struct bp_disk {
    struct bp_io io;
    atomic_bool watchful;
    atomic_bool power_off;
    atomic_bool crash_is_error;
    _Atomic uint64_t faults;
    pthread_mutex_t lock; /* arms[] */
    struct arm arms[BP_SITE_COUNT];
    struct site sites[BP_SITE_COUNT];
};

static const char *const site_names[BP_SITE_COUNT] = {
#define BP_SITE_TEXT(name, text) [BP_SITE_##name] = text,
    BP_SITES(BP_SITE_TEXT)
#undef BP_SITE_TEXT
};

static const char *const fault_names[] = {
    [BP_FAULT_NONE] = "none",   [BP_FAULT_EIO] = "eio",     [BP_FAULT_ENOSPC] = "enospc",
    [BP_FAULT_SHORT] = "short", [BP_FAULT_CRASH] = "crash", [BP_FAULT_CRASH_AFTER] = "crash_after",
    [BP_FAULT_SLOW] = "slow",   [BP_FAULT_FLIP] = "flip",
};
enum { FAULT_COUNT = sizeof fault_names / sizeof fault_names[0] };

static int index_of(const char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

int bp_site_from_name(const char *name) { return index_of(site_names, BP_SITE_COUNT, name); }

int bp_fault_from_name(const char *name) { return index_of(fault_names, FAULT_COUNT, name); }

const char *bp_site_name(int site) {
    return site < 0 || site >= BP_SITE_COUNT ? "unknown" : site_names[site];
}

struct bp_disk *bp_disk_new(const struct bp_io *io) {
    struct bp_disk *disk = aligned_alloc(_Alignof(struct bp_disk), sizeof *disk);
    if (disk == NULL) {
        return NULL;
    }
    memset(disk, 0, sizeof *disk);
    disk->io = *io;
    if (pthread_mutex_init(&disk->lock, NULL) != 0) {
        free(disk);
        return NULL;
    }
    return disk;
}

void bp_disk_free(struct bp_disk *disk) {
    if (disk != NULL) {
        pthread_mutex_destroy(&disk->lock);
        free(disk);
    }
}

const struct bp_io *bp_disk_io(const struct bp_disk *disk) { return &disk->io; }

/* ---- faults */

/* Under `lock`. */
static void update_watchful(struct bp_disk *disk) {
    bool watchful = atomic_load(&disk->power_off);
    for (int i = 0; i < BP_SITE_COUNT; i++) {
        watchful |= disk->arms[i].fault != BP_FAULT_NONE;
    }
    atomic_store(&disk->watchful, watchful);
}

static bool reads(int site) {
    const char *name = site_names[site];
    size_t n = strlen(name);
    return n >= 4 && strcmp(name + n - 4, "read") == 0;
}

int bp_disk_arm(struct bp_disk *disk, int site, int fault, uint64_t first, uint64_t times,
                uint64_t arg) {
    if (site <= BP_SITE_NONE || site >= BP_SITE_COUNT || fault < 0 || fault >= FAULT_COUNT) {
        return -EINVAL;
    }
    if (fault != BP_FAULT_NONE && (first == 0 || (fault == BP_FAULT_FLIP && !reads(site)))) {
        return -EINVAL;
    }
    pthread_mutex_lock(&disk->lock);
    disk->arms[site] = (struct arm){.fault = fault, .first = first, .times = times, .arg = arg};
    update_watchful(disk);
    pthread_mutex_unlock(&disk->lock);
    return 0;
}

static void set_power(struct bp_disk *disk, bool off) {
    pthread_mutex_lock(&disk->lock);
    atomic_store(&disk->power_off, off);
    update_watchful(disk);
    pthread_mutex_unlock(&disk->lock);
}

void bp_disk_set_crash_is_error(struct bp_disk *disk, int on) {
    atomic_store(&disk->crash_is_error, on != 0);
    if (on == 0) {
        set_power(disk, false);
    }
}

uint64_t bp_disk_hits(const struct bp_disk *disk, int site) {
    if (site < 0 || site >= BP_SITE_COUNT) {
        return 0;
    }
    return atomic_load_explicit(&disk->sites[site].hits, memory_order_relaxed);
}

uint64_t bp_disk_faults(const struct bp_disk *disk) { return atomic_load(&disk->faults); }

/*
 * Die as a process does in a crash: no exit handler, no flush. Or lose the power of a simulated
 * disk.
 */
static int crash(struct bp_disk *disk) {
    if (atomic_load(&disk->crash_is_error)) {
        set_power(disk, true);
        return -EIO;
    }
    kill(getpid(), SIGKILL);
    for (;;) {
        pause(); /* the signal is on its way */
    }
}

static void wait_ms(uint64_t ms) {
    struct timespec left = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

/* What this hit of a site suffers. `fault` is BP_FAULT_NONE for nearly all. */
struct verdict {
    int fault;
    uint64_t arg;
};

static struct verdict judge(struct bp_disk *disk, int site) {
    struct verdict verdict = {0};
    pthread_mutex_lock(&disk->lock);
    struct arm *arm = &disk->arms[site];
    if (arm->fault != BP_FAULT_NONE) {
        arm->seen++;
        if (arm->seen >= arm->first && (arm->times == 0 || arm->seen - arm->first < arm->times)) {
            verdict = (struct verdict){.fault = arm->fault, .arg = arm->arg};
            atomic_fetch_add(&disk->faults, 1);
        }
    }
    pthread_mutex_unlock(&disk->lock);
    return verdict;
}

/*
 * Count the hit, and let come over it what comes before the step: 0 to take the step, else its
 * result.
 */
static int before(struct bp_disk *disk, int site, bool changes, struct verdict *verdict) {
    *verdict = (struct verdict){0};
    atomic_fetch_add_explicit(&disk->sites[site].hits, 1, memory_order_relaxed);
    if (!atomic_load_explicit(&disk->watchful, memory_order_relaxed)) {
        return 0;
    }
    if (changes && atomic_load(&disk->power_off)) {
        return -EIO;
    }
    *verdict = judge(disk, site);
    switch (verdict->fault) {
    case BP_FAULT_EIO:
        return -EIO;
    case BP_FAULT_ENOSPC:
        return -ENOSPC;
    case BP_FAULT_CRASH:
        return crash(disk);
    case BP_FAULT_SLOW:
        wait_ms(verdict->arg);
        return 0;
    default:
        return 0;
    }
}

/* As before(), for steps that cannot be half done. */
static int before_whole(struct bp_disk *disk, int site, bool changes, struct verdict *verdict) {
    int result = before(disk, site, changes, verdict);
    return result == 0 && verdict->fault == BP_FAULT_SHORT ? crash(disk) : result;
}

static int after(struct bp_disk *disk, const struct verdict *verdict, int result) {
    return verdict->fault == BP_FAULT_CRASH_AFTER ? crash(disk) : result;
}

/* Steps without a site have no hits and no faults, but stop with the power. */
static bool powerless(const struct bp_disk *disk) {
    return atomic_load_explicit(&disk->watchful, memory_order_relaxed) &&
           atomic_load(&disk->power_off);
}

/* ---- transfers */

int bp_disk_read(struct bp_disk *disk, int site, int fd, void *buf, size_t n, uint64_t offset) {
    struct verdict verdict;
    int result = before_whole(disk, site, false, &verdict);
    if (result != 0) {
        return result;
    }
    uint8_t *out = buf;
    for (size_t done = 0; done < n;) {
        ssize_t got = disk->io.pread(disk->io.ctx, fd, out + done, n - done, offset + done);
        if (got <= 0) {
            return got < 0 ? (int)got : -ENODATA;
        }
        done += (size_t)got;
    }
    if (verdict.fault == BP_FAULT_FLIP && n > 0) {
        uint64_t bit = verdict.arg % ((uint64_t)n * 8);
        out[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    return after(disk, &verdict, 0);
}

/* Step over `done` written bytes: the vectors left, the first one shortened. */
static void advance(struct iovec **iov, int *n, size_t done) {
    while (*n > 0 && done >= (*iov)->iov_len) {
        done -= (*iov)->iov_len;
        ++*iov;
        --*n;
    }
    if (*n > 0) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + done;
        (*iov)->iov_len -= done;
    }
}

static int write_all(struct bp_disk *disk, int fd, struct iovec *iov, int n, uint64_t offset) {
    advance(&iov, &n, 0); /* leading empty vectors would look like a write that does nothing */
    while (n > 0) {
        int batch = n < IOV_MAX_PER_CALL ? n : IOV_MAX_PER_CALL;
        ssize_t done = disk->io.pwritev(disk->io.ctx, fd, iov, batch, offset);
        if (done <= 0) {
            return done < 0 ? (int)done : -EIO; /* no progress is a broken device */
        }
        offset += (uint64_t)done;
        advance(&iov, &n, (size_t)done);
    }
    return 0;
}

/* Shorten the vectors to half their bytes. */
static int halve(struct iovec *iov, int n) {
    size_t total = 0;
    for (int i = 0; i < n; i++) {
        total += iov[i].iov_len;
    }
    size_t left = total / 2;
    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len >= left) {
            iov[i].iov_len = left;
            return i + 1;
        }
        left -= iov[i].iov_len;
    }
    return n;
}

int bp_disk_writev(struct bp_disk *disk, int site, int fd, struct iovec *iov, int n,
                   uint64_t offset) {
    struct verdict verdict;
    int result = before(disk, site, true, &verdict);
    if (result != 0) {
        return result;
    }
    if (verdict.fault == BP_FAULT_SHORT) {
        n = halve(iov, n);
        (void)write_all(disk, fd, iov, n, offset);
        return crash(disk);
    }
    result = write_all(disk, fd, iov, n, offset);
    return after(disk, &verdict, result);
}

int bp_disk_write(struct bp_disk *disk, int site, int fd, const void *buf, size_t n,
                  uint64_t offset) {
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = n}; /* only read from */
    return bp_disk_writev(disk, site, fd, &iov, 1, offset);
}

/* ---- single steps */

/* The body of a step that is one bp_io call: the faults before, the call, the faults after. */
#define STEP(disk, site, changes, call)                                                            \
    do {                                                                                           \
        struct verdict verdict;                                                                    \
        int result = before_whole((disk), (site), (changes), &verdict);                            \
        return result != 0 ? result : after((disk), &verdict, (call));                             \
    } while (0)

int bp_disk_open(struct bp_disk *disk, int site, const char *path, int flags) {
    bool changes = (flags & (BP_O_WRITE | BP_O_CREATE)) != 0;
    struct verdict verdict;
    int fd = before_whole(disk, site, changes, &verdict);
    if (fd != 0) {
        return fd;
    }
    fd = disk->io.open(disk->io.ctx, path, flags);
    int result = after(disk, &verdict, fd);
    if (result < 0 && fd >= 0) {
        disk->io.close(disk->io.ctx,
                       fd); /* the power went after the step: nobody gets the handle */
    }
    return result;
}

void bp_disk_close(struct bp_disk *disk, int fd) {
    /* Nothing rests on close(): what must be durable was synced. */
    (void)disk->io.close(disk->io.ctx, fd);
}

int bp_disk_sync(struct bp_disk *disk, int site, int fd) {
    STEP(disk, site, true, disk->io.datasync(disk->io.ctx, fd));
}

int bp_disk_allocate(struct bp_disk *disk, int site, int fd, uint64_t size) {
    STEP(disk, site, true, disk->io.allocate(disk->io.ctx, fd, size));
}

int bp_disk_truncate(struct bp_disk *disk, int site, int fd, uint64_t size) {
    STEP(disk, site, true, disk->io.truncate(disk->io.ctx, fd, size));
}

int bp_disk_rename(struct bp_disk *disk, int site, const char *from, const char *to) {
    STEP(disk, site, true, disk->io.rename(disk->io.ctx, from, to));
}

int bp_disk_unlink(struct bp_disk *disk, int site, const char *path) {
    STEP(disk, site, true, disk->io.unlink(disk->io.ctx, path));
}

int bp_disk_sync_dir(struct bp_disk *disk, int site, const char *path) {
    STEP(disk, site, true, disk->io.sync_dir(disk->io.ctx, path));
}

int bp_disk_mkdir(struct bp_disk *disk, const char *path) {
    return powerless(disk) ? -EIO : disk->io.mkdir(disk->io.ctx, path);
}

int bp_disk_size(struct bp_disk *disk, int fd, uint64_t *size) {
    return disk->io.size(disk->io.ctx, fd, size);
}

int bp_disk_list(struct bp_disk *disk, const char *path, int (*each)(void *arg, const char *name),
                 void *arg) {
    return disk->io.list(disk->io.ctx, path, each, arg);
}

int bp_disk_space(struct bp_disk *disk, const char *path, uint64_t *free_bytes,
                  uint64_t *total_bytes) {
    return disk->io.space(disk->io.ctx, path, free_bytes, total_bytes);
}

uint64_t bp_disk_boot_ns(const struct bp_disk *disk) {
    return disk->io.clock_boot_ns(disk->io.ctx);
}

uint64_t bp_disk_real_ns(const struct bp_disk *disk) {
    return disk->io.clock_real_ns(disk->io.ctx);
}

int bp_disk_random(struct bp_disk *disk, void *buf, size_t n) {
    return disk->io.random(disk->io.ctx, buf, n);
}

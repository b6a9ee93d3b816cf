/*
 * The disk reserve: a file of real, allocated bytes that nobody can use but us, given back in
 * pieces when only privileged work may write.
 *
 *   <dir>/reserve   [segment][segment][segment][segment][1.25 x checkpoint]        target
 *                    ^ the last one: HARDSTATE and recovery alone
 *
 *   full disk    clients get RESOURCE_EXHAUSTED
 *                -> deletes, compaction, checkpoints, cleaning take pieces -> segments are unlinked
 *                -> the tick grows the reserve back -> with it whole and a segment free beside it,
 *                clients may write again
 *
 * Its content means nothing; its size is synced when it has grown, so that a power cut on a full
 * disk leaves it there. A disk too small for it gives half: the rest is for data. All of this is
 * best effort; what must hold without it is that a write that finds no space fails and changes
 * nothing.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "keeper.h"
#include "store.h"

#define STEPS_PER_TICK 4u /* segments: allocating is work for the file system */

struct bp_reserve {
    pthread_mutex_t mutex; /* a leaf */
    int fd;
    bool backed; /* the size was checked against space */
    _Atomic uint64_t size;
};

static void reserve_path(const struct bp_store *store, char path[BP_PATH_MAX]) {
    (void)snprintf(path, BP_PATH_MAX, "%.4000s/reserve", store->dir);
}

/*
 * A size is believed only as far as it is backed by space: a crash, or a copied directory, may have
 * left holes. Returns that size.
 */
static uint64_t back_with_space(struct bp_store *store, int fd, uint64_t size) {
    const uint64_t segment = store->options.segment_size;
    while (size > 0 && bp_disk_allocate(store->disk, BP_SITE_NONE, fd, size) == -ENOSPC) {
        size = size > segment ? size - segment : 0;
        if (bp_disk_truncate(store->disk, BP_SITE_NONE, fd, size) < 0) {
            break;
        }
    }
    return size;
}

int bp_reserve_open(struct bp_store *store, struct bp_error *err) {
    char path[BP_PATH_MAX];
    uint64_t size = 0;
    reserve_path(store, path);
    int fd = bp_disk_open(store->disk, BP_SITE_NONE, path, BP_O_WRITE | BP_O_CREATE);
    int rc = fd < 0 ? fd : bp_disk_size(store->disk, fd, &size);
    if (rc >= 0 && size == 0) {
        (void)bp_disk_sync_dir(store->disk, BP_SITE_NONE, store->dir); /* new, perhaps */
    }
    struct bp_reserve *reserve = rc < 0 ? NULL : calloc(1, sizeof *reserve);
    if (reserve == NULL || pthread_mutex_init(&reserve->mutex, NULL) != 0) {
        if (fd >= 0) {
            bp_disk_close(store->disk, fd);
        }
        free(reserve);
        return rc < 0 ? bp_fail_io(err, rc, "cannot open the disk reserve")
                      : bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                                "no memory for the disk reserve");
    }
    reserve->fd = fd;
    atomic_store(&reserve->size, size);
    store->keeper.reserve = reserve;
    return BP_OK;
}

void bp_reserve_close(struct bp_store *store) {
    struct bp_reserve *reserve = store->keeper.reserve;
    if (reserve != NULL) {
        bp_disk_close(store->disk, reserve->fd);
        pthread_mutex_destroy(&reserve->mutex);
        free(reserve);
        store->keeper.reserve = NULL;
    }
}

uint64_t bp_reserve_size(const struct bp_store *store) {
    struct bp_reserve *reserve = store->keeper.reserve;
    return reserve == NULL ? 0 : atomic_load_explicit(&reserve->size, memory_order_relaxed);
}

/* Under the mutex. */
static bool cut_to(struct bp_store *store, struct bp_reserve *reserve, uint64_t size) {
    if (bp_disk_truncate(store->disk, BP_SITE_NONE, reserve->fd, size) < 0) {
        return false;
    }
    atomic_store(&reserve->size, size);
    return true;
}

/* Once, and before anything is given back: cutting off a hole frees nothing. Under the mutex. */
static void check_backing(struct bp_store *store, struct bp_reserve *reserve) {
    if (!reserve->backed) {
        uint64_t size = atomic_load(&reserve->size);
        atomic_store(&reserve->size, back_with_space(store, reserve->fd, size));
        reserve->backed = true;
    }
}

uint64_t bp_reserve_release(struct bp_store *store, uint64_t bytes, bool last) {
    struct bp_reserve *reserve = store->keeper.reserve;
    if (reserve == NULL) {
        return 0;
    }
    uint64_t keep = last ? 0 : store->options.segment_size;
    pthread_mutex_lock(&reserve->mutex);
    check_backing(store, reserve);
    uint64_t size = atomic_load(&reserve->size), free_to_give = size > keep ? size - keep : 0;
    uint64_t given = bytes < free_to_give ? bytes : free_to_give;
    if (given > 0 && !cut_to(store, reserve, size - given)) {
        given = 0;
    }
    pthread_mutex_unlock(&reserve->mutex);
    return given;
}

int bp_reserve_write(struct bp_store *store, int site, int fd, const void *buf, size_t n,
                     uint64_t offset) {
    int rc;
    do { /* the reserve is finite, so this is */
        rc = bp_disk_write(store->disk, site, fd, buf, n, offset);
    } while (rc == -ENOSPC && bp_reserve_release(store, store->options.segment_size, false) > 0);
    return rc;
}

/* ---- growing back ---------------------------------------------------------------------------- */

static uint64_t target_size(const struct bp_store *store, uint64_t total_bytes) {
    uint64_t checkpoint =
        atomic_load_explicit(&store->keeper.checkpoint_bytes, memory_order_relaxed);
    uint64_t target = store->options.disk_reserve;
    if (target == 0) {
        target = 4 * (uint64_t)store->options.segment_size + checkpoint + checkpoint / 4;
    }
    return target < total_bytes / 2 ? target : total_bytes / 2;
}

/*
 * As far as the disk allows now; a segment's worth always stays free for the log. Returns what is
 * free afterwards. Under the mutex.
 */
static uint64_t grow(struct bp_store *store, struct bp_reserve *reserve, uint64_t target,
                     uint64_t free_bytes) {
    const uint64_t segment = store->options.segment_size;
    for (uint32_t i = 0; i < STEPS_PER_TICK; i++) {
        uint64_t size = atomic_load(&reserve->size);
        uint64_t step = target > size ? target - size : 0;
        step = step < segment ? step : segment;
        if (step == 0 || free_bytes < step + segment) {
            break;
        }
        int rc = bp_disk_allocate(store->disk, BP_SITE_NONE, reserve->fd, size + step);
        if (rc < 0) {
            /* A part of it may have been allocated: given back, so that the size stays known. */
            (void)cut_to(store, reserve, size);
            return rc == -ENOSPC ? 0 : free_bytes;
        }
        atomic_store(&reserve->size, size + step);
        free_bytes -= step;
        (void)bp_disk_sync(store->disk, BP_SITE_NONE, reserve->fd);
    }
    return free_bytes;
}

void bp_reserve_back(struct bp_store *store) {
    struct bp_reserve *reserve = store->keeper.reserve;
    if (reserve != NULL) {
        pthread_mutex_lock(&reserve->mutex);
        check_backing(store, reserve);
        pthread_mutex_unlock(&reserve->mutex);
    }
}

void bp_reserve_tick(struct bp_store *store) {
    struct bp_reserve *reserve = store->keeper.reserve;
    uint64_t free_bytes, total_bytes;
    if (reserve == NULL || bp_disk_space(store->disk, store->dir, &free_bytes, &total_bytes) < 0) {
        return;
    }
    uint64_t target = target_size(store, total_bytes);
    pthread_mutex_lock(&reserve->mutex);
    uint64_t size = atomic_load(&reserve->size);
    if (size > target && cut_to(store, reserve, target)) {
        free_bytes += size - target;
    }
    free_bytes = grow(store, reserve, target, free_bytes);
    bool whole = atomic_load(&reserve->size) >= target;
    pthread_mutex_unlock(&reserve->mutex);
    bool room = free_bytes >= store->options.segment_size;
    if (!whole && !room) {
        atomic_store(&store->disk_full, true);
    } else if (whole && room) {
        atomic_store(&store->disk_full, false);
    }
}

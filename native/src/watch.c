/*
 * The hub: all watches of a store, and who of them has something to read (see watch.h).
 *
 *   note(k, r)     every watch whose range holds k:
 *       first_noted = min(first_noted, r), on the fresh list
 *   publish(r)     every fresh watch:
 *       last_noted = r, off the list; woken if it waits
 *   watch_read.c   reads [first_noted, published], then is clean unless a later note came
 *
 * Nothing is lost between opening and the applier, who looks at n_watches without the lock and may
 * miss a watch that is being opened: a new watch is born fresh with first_noted = published + 1, as
 * if noted. What the applier noted in between is published after the watch is in place (so publish
 * finds it on the list) or before the hub's mutex was taken (then the revision read under it covers
 * it). After its next publication the applier has held the mutex and sees the watch. A watch
 * decides to wait under the mutex after looking at the published revision, so a publication comes
 * before that look or wakes it.
 *
 * Invariants: a watch owes at most one completion; first_noted <= every unread effect in range that
 * was noted; a watch that is clean and not fresh has read everything up to the published revision.
 */
#include <stdlib.h>

#include "watch_internal.h"

static void lock(struct bp_hub *hub) { pthread_mutex_lock(&hub->mutex); }
static void unlock(struct bp_hub *hub) { pthread_mutex_unlock(&hub->mutex); }

struct bp_hub *bp_hub_new(struct bp_store *store) {
    struct bp_hub *hub = calloc(1, sizeof *hub);
    if (hub == NULL) {
        return NULL;
    }
    uint64_t seed = 0;
    (void)bp_disk_random(store->disk, &seed, sizeof seed); /* only guards against chosen keys */
    hub->store = store;
    pthread_mutex_init(&hub->mutex, NULL);
    bp_intervals_init(&hub->intervals, seed);
    return hub;
}

void bp_hub_free(struct bp_hub *hub) {
    if (hub == NULL) {
        return;
    }
    while (hub->watches != NULL) { /* a store that is abandoned leaves its watches open */
        bp_watch_close(hub->watches);
    }
    bp_intervals_destroy(&hub->intervals);
    pthread_mutex_destroy(&hub->mutex);
    free(hub);
}

/* ---- the two lists -------------------------------------------------------------------------- */

static void fresh_add(struct bp_hub *hub, struct bp_watch *watch) {
    watch->fresh_next = hub->fresh;
    watch->fresh_link = &hub->fresh;
    if (hub->fresh != NULL) {
        hub->fresh->fresh_link = &watch->fresh_next;
    }
    hub->fresh = watch;
}

static void fresh_remove(struct bp_watch *watch) {
    *watch->fresh_link = watch->fresh_next;
    if (watch->fresh_next != NULL) {
        watch->fresh_next->fresh_link = watch->fresh_link;
    }
    watch->fresh_link = NULL;
}

static void list_add(struct bp_hub *hub, struct bp_watch *watch) {
    watch->next = hub->watches;
    watch->link = &hub->watches;
    if (hub->watches != NULL) {
        hub->watches->link = &watch->next;
    }
    hub->watches = watch;
}

static void list_remove(struct bp_watch *watch) {
    *watch->link = watch->next;
    if (watch->next != NULL) {
        watch->next->link = watch->link;
    }
}

/* Under the mutex: pay the completion that is owed. */
static void wake(struct bp_watch *watch) {
    if (watch->waiting) {
        watch->waiting = false;
        bp_queue_push(watch->queue, watch->cookie, BP_OK, (struct bp_reply){0}, 0, NULL);
    }
}

/* ---- the applier's side --------------------------------------------------------------------- */

struct note {
    struct bp_hub *hub;
    uint64_t revision;
};

static void note_watch(void *arg, struct bp_interval *interval) {
    const struct note *note = arg;
    struct bp_watch *watch = (struct bp_watch *)interval; /* its first member */
    if (note->revision < watch->first_noted) {
        watch->first_noted = note->revision;
    }
    watch->noted++;
    if (watch->fresh_link == NULL) {
        fresh_add(note->hub, watch);
    }
}

void bp_hub_note(struct bp_hub *hub, struct bp_slice key, uint64_t revision) {
    if (atomic_load_explicit(&hub->n_watches, memory_order_relaxed) == 0) {
        return;
    }
    struct note note = {.hub = hub, .revision = revision};
    lock(hub);
    bp_intervals_visit(&hub->intervals, key, note_watch, &note);
    unlock(hub);
}

void bp_hub_publish(struct bp_hub *hub, uint64_t revision) {
    uint64_t lag_max = hub->store->options.watch_lag_max;
    lock(hub);
    while (hub->fresh != NULL) {
        struct bp_watch *watch = hub->fresh;
        fresh_remove(watch);
        watch->last_noted = revision;
        if (watch->first_noted > revision) {
            watch->first_noted = BP_WATCH_CLEAN; /* read already, or never noted */
        } else if (watch->waiting) {
            wake(
                /* whatever one publication brings, a watch that waited for it was not slow */
                watch);
        } else if (watch->noted - watch->seen > lag_max) {
            watch->too_slow = true;
        }
    }
    unlock(hub);
}

void bp_hub_tick(struct bp_hub *hub, uint64_t now_ns) {
    if (atomic_load_explicit(&hub->n_watches, memory_order_relaxed) == 0) {
        return;
    }
    lock(hub);
    for (struct bp_watch *watch = hub->watches; watch != NULL; watch = watch->next) {
        uint64_t interval_ns = watch->request.progress_ms * UINT64_C(1000000);
        if (interval_ns != 0 && now_ns - watch->sent_ns >= interval_ns) {
            wake(watch);
        }
    }
    unlock(hub);
}

void bp_hub_close(struct bp_hub *hub) {
    lock(hub);
    hub->closed = true;
    for (struct bp_watch *watch = hub->watches; watch != NULL; watch = watch->next) {
        wake(watch);
    }
    unlock(hub);
}

uint64_t bp_hub_watches(const struct bp_hub *hub) {
    return atomic_load_explicit(&hub->n_watches, memory_order_relaxed);
}

uint64_t bp_hub_lag_cancels(const struct bp_hub *hub) {
    return atomic_load_explicit(&hub->lag_cancels, memory_order_relaxed);
}

/* ---- opening and closing -------------------------------------------------------------------- */

static int check_start(const struct bp_store *store, uint64_t start, uint64_t present,
                       struct bp_error *err) {
    uint64_t floor = atomic_load_explicit(&store->floor, memory_order_acquire);
    if (start > present + 1) {
        return bp_fail_field(err, BP_OUT_OF_RANGE, BP_REASON_REVISION_IN_FUTURE, "start_revision",
                             "a watch can begin at revision %llu at most, the one after the "
                             "present",
                             (unsigned long long)present + 1);
    }
    if (start > floor) {
        return BP_OK;
    }
    int code = bp_fail_field(err, BP_OUT_OF_RANGE, BP_REASON_REVISION_COMPACTED, "start_revision",
                             "revision %llu is compacted; a watch can begin at %llu",
                             (unsigned long long)start, (unsigned long long)floor + 1);
    if (err != NULL) {
        err->revision = floor;
    }
    return code;
}

/* Under the mutex. */
static int put_in_place(struct bp_hub *hub, struct bp_watch *watch, struct bp_error *err) {
    const struct bp_store *store = hub->store;
    uint64_t n = atomic_load_explicit(&hub->n_watches, memory_order_relaxed);
    uint64_t present = atomic_load_explicit(&store->revision, memory_order_acquire);
    uint64_t start = watch->request.start_revision;
    if (hub->closed) {
        return bp_fail(err, BP_UNAVAILABLE, BP_REASON_STORE_CLOSED, "the store is shutting down");
    }
    if (n >= store->options.watches_max) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_TOO_MANY_WATCHES,
                       "%llu watches are open, the most there may be", (unsigned long long)n);
    }
    if (start != 0) {
        int code = check_start(store, start, present, err);
        if (code != BP_OK) {
            return code;
        }
    }
    watch->opened_at = present;
    watch->at.revision = start != 0 ? start : present + 1;
    watch->first_noted = watch->at.revision;
    watch->last_noted = present;
    watch->sent_ns = bp_disk_boot_ns(store->disk);
    list_add(hub, watch);
    fresh_add(hub, watch);
    bp_intervals_add(&hub->intervals, &watch->interval);
    atomic_store_explicit(&hub->n_watches, n + 1, memory_order_relaxed);
    return BP_OK;
}

int bp_watch_open(struct bp_store *store, struct bp_queue *queue, uint8_t keyspace,
                  const void *request, uint64_t size, uint64_t cookie, struct bp_watch **out,
                  struct bp_error *err) {
    struct bp_hub *hub = store->hub;
    struct bp_watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a watch");
    }
    int code = bp_wire_decode_watch(keyspace, request, size, &store->limits, &watch->request, err);
    if (code != BP_OK) {
        free(watch);
        return code;
    }
    watch->hub = hub;
    watch->queue = queue;
    watch->cookie = cookie;
    watch->interval.start = watch->request.start;
    watch->interval.end = watch->request.end;
    lock(hub);
    code = put_in_place(hub, watch, err);
    unlock(hub);
    if (code != BP_OK) {
        bp_wire_watch_free(&watch->request);
        free(watch);
        return code;
    }
    bp_queue_retain(queue);
    *out = watch;
    return BP_OK;
}

void bp_watch_close(struct bp_watch *watch) {
    if (watch == NULL) {
        return;
    }
    struct bp_hub *hub = watch->hub;
    lock(hub);
    if (watch->fresh_link != NULL) {
        fresh_remove(watch);
    }
    list_remove(watch);
    bp_intervals_remove(&hub->intervals, &watch->interval);
    uint64_t n = atomic_load_explicit(&hub->n_watches, memory_order_relaxed);
    atomic_store_explicit(&hub->n_watches, n - 1, memory_order_relaxed);
    unlock(hub);
    bp_queue_release(watch->queue);
    bp_wire_watch_free(&watch->request);
    free(watch);
}

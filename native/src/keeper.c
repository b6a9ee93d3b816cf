/*
 * The keeper: the one thread for everything that is not on a client's way.
 *
 *   every 100 ms, or woken:   tick -> next log segment's file -> checkpoint if due -> clean
 *                               ^       and what it freed is unlinked at once     |
 *                               |-------------------------------------------------|
 *                               long work breathes: ticks when due, rests
 *
 *   A round that ends with work left, because a checkpoint is due again, is followed by the next
 *   one after a moment instead of a tick: writers that make checkpoints due all the time must not
 *   leave the disk full of what the last one freed.
 *
 *   tick     compaction and lease expiry, watches' progress marks, the disk reserve, marks and
 *            (interval mode) syncs of the log
 *
 * keeper.mutex is held for the work and not while waiting for the next round. With options.manual
 * there is no thread: the bp_step_* functions do the same pieces of work, when and as often as the
 * caller says.
 */
#include <errno.h>
#include <time.h>

#include "keeper.h"
#include "scrub.h"
#include "store.h"

#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull
#define TICK_MS 100u
#define MOMENT_MS 1u /* between rounds with work left: for whoever waits for keeper.mutex */
#define RESERVE_EVERY_NS NS_PER_S
#define CHECKPOINT_RETRY_NS NS_PER_S /* after a failure; doubles with every further one */
#define RETRY_DOUBLINGS 6u
#define REST_MS_MAX 1000u
#define WORK_BEFORE_REST_NS (2 * NS_PER_MS) /* shorter rests cost more than they give */

static uint32_t tick_ms(const struct bp_store *store) {
    uint32_t interval = store->options.interval_ms;
    return interval != 0 && interval < TICK_MS ? interval : TICK_MS;
}

/* ---- the tick -------------------------------------------------------------------------------- */

/*
 * A log idle for a whole tick says how far it is synced, once; in interval mode it is synced when
 * that is due.
 */
static void log_chores(struct bp_store *store, struct bp_tick *tick, uint64_t now) {
    uint64_t groups = atomic_load_explicit(&store->counters.groups, memory_order_relaxed);
    bool mark = groups == tick->groups && groups != tick->groups_marked;
    bool sync = store->options.interval_ms != 0 &&
                now - tick->sync_ns >= store->options.interval_ms * NS_PER_MS &&
                atomic_load(&store->durable) < atomic_load(&store->committed);
    tick->groups = groups;
    if (mark) {
        tick->groups_marked = groups;
    }
    if (sync) {
        tick->sync_ns = now;
    }
    if (mark || sync) {
        bp_driver_chore(store, mark, sync);
    }
}

static void do_tick(struct bp_store *store) {
    struct bp_tick *tick = &store->keeper.tick;
    uint64_t now = bp_disk_boot_ns(store->disk);
    tick->last_ns = now;
    bp_compact_tick(store, now);
    bp_hub_tick(store->hub, now);
    if (store->options.manual || tick->reserve_ns == 0 ||
        now - tick->reserve_ns >= RESERVE_EVERY_NS) {
        tick->reserve_ns = now;
        bp_reserve_tick(store);
    }
    log_chores(store, tick, now);
}

static bool tick_if_due(struct bp_store *store) {
    if (bp_disk_boot_ns(store->disk) - store->keeper.tick.last_ns < tick_ms(store) * NS_PER_MS) {
        return false;
    }
    do_tick(store);
    if (!atomic_load_explicit(
            &store->disk_full,
            memory_order_relaxed)) { /* what is left then is not for files ahead of need */
        bp_log_prepare_segment(store->log);
    }
    return true;
}

void bp_step_tick(struct bp_store *store) {
    pthread_mutex_lock(&store->keeper.mutex);
    do_tick(store);
    pthread_mutex_unlock(&store->keeper.mutex);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static struct timespec after_ms(uint64_t ms) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    uint64_t ns = (uint64_t)at.tv_nsec + ms % 1000 * NS_PER_MS;
    at.tv_sec += (time_t)(ms / 1000 + ns / NS_PER_S);
    at.tv_nsec = (long)(ns % NS_PER_S);
    return at;
}

bool bp_keeper_stopping(struct bp_store *store) {
    struct bp_keeper *keeper = &store->keeper;
    pthread_mutex_lock(&keeper->wake_mutex);
    bool stopping = keeper->stopping;
    pthread_mutex_unlock(&keeper->wake_mutex);
    return stopping;
}

/* Until woken (if `wakeable`), stopped, or the time is up. */
static void wait_ms(struct bp_keeper *keeper, uint64_t ms, bool wakeable) {
    struct timespec until = after_ms(ms);
    pthread_mutex_lock(&keeper->wake_mutex);
    while (!keeper->stopping && !(wakeable && keeper->woken)) {
        if (pthread_cond_timedwait(&keeper->wake, &keeper->wake_mutex, &until) == ETIMEDOUT) {
            break;
        }
    }
    if (wakeable) {
        keeper->woken = false;
    }
    pthread_mutex_unlock(&keeper->wake_mutex);
}

void bp_keeper_wake(struct bp_store *store) {
    struct bp_keeper *keeper = &store->keeper;
    pthread_mutex_lock(&keeper->wake_mutex);
    keeper->woken = true;
    pthread_cond_signal(&keeper->wake);
    pthread_mutex_unlock(&keeper->wake_mutex);
}

void bp_keeper_breathe(struct bp_store *store, uint64_t busy_ns, uint32_t rest_percent) {
    if (store->options.manual) {
        return;
    }
    (void)tick_if_due(store);
    uint64_t rest_ms = busy_ns / 100 * rest_percent / NS_PER_MS;
    while (rest_ms > 0 &&
           !bp_keeper_stopping(store)) { /* in pieces: leases end and segments fill up meanwhile */
        uint64_t piece = rest_ms < tick_ms(store) ? rest_ms : tick_ms(store);
        rest_ms = rest_ms < REST_MS_MAX ? rest_ms - piece : REST_MS_MAX - piece;
        wait_ms(&store->keeper, piece, false);
        (void)tick_if_due(store);
    }
}

/* ---- a round --------------------------------------------------------------------------------- */

/*
 * Due, and the last one long enough ago: writers that append faster than a checkpoint is written
 * would otherwise make the keeper write them one after the other, and trimming and cleaning, which
 * shrink the next one, would never have their turn.
 */
static bool wants_checkpoint(const struct bp_store *store) {
    return !atomic_load(&store->poisoned) &&
           bp_disk_boot_ns(store->disk) >= store->keeper.tick.checkpoint_again_ns &&
           bp_checkpoint_due(store);
}

/* What a checkpoint let go: empty files, so nothing to rest for. */
static void unlink_freed(struct bp_store *store) {
    while (!bp_keeper_stopping(store) && bp_clean_reap(store)) {
        (void)tick_if_due(store);
    }
}

static void checkpoint_if_due(struct bp_store *store) {
    struct bp_tick *tick = &store->keeper.tick;
    struct bp_error err;
    if (!wants_checkpoint(store)) {
        return;
    }
    uint64_t began = bp_disk_boot_ns(store->disk);
    int code = bp_checkpoint_write(store, &err);
    uint64_t now = bp_disk_boot_ns(store->disk);
    if (code == BP_OK) {
        tick->checkpoint_failures = 0;
        tick->checkpoint_again_ns =
            now + (now - began); /* half of the time is for the rest of the work */
        unlink_freed(store);
        return;
    }
    uint32_t failures = tick->checkpoint_failures++;
    tick->checkpoint_again_ns =
        now + (CHECKPOINT_RETRY_NS << (failures < RETRY_DOUBLINGS ? failures : RETRY_DOUBLINGS));
}

/* True: there is more to clean, but a checkpoint is due before. */
static bool clean_until_done(struct bp_store *store) {
    uint64_t busy = 0;
    bool more = true;
    while (more && !bp_keeper_stopping(store)) {
        uint64_t began = bp_disk_boot_ns(store->disk);
        more = bp_clean_step(store) != 0;
        busy += bp_clean_worked(store) ? bp_disk_boot_ns(store->disk) - began : 0;
        bool ticked = tick_if_due(store);
        if (busy >= WORK_BEFORE_REST_NS) {
            bp_keeper_breathe(store, busy, bp_clean_rest_percent(store));
            busy = 0;
            ticked = true;
        }
        if (ticked && wants_checkpoint(store)) {
            break; /* what was emptied may wait for one */
        }
    }
    return more;
}

bool bp_keeper_round(struct bp_store *store) {
    (void)tick_if_due(store);
    checkpoint_if_due(store);
    bool more = clean_until_done(store);
    (void)bp_scrub_background(store);
    return more;
}

static void *keeper_thread(void *arg) {
    struct bp_store *store = arg;
    while (!bp_keeper_stopping(store)) {
        pthread_mutex_lock(&store->keeper.mutex);
        bool more = bp_keeper_round(store);
        pthread_mutex_unlock(&store->keeper.mutex);
        wait_ms(&store->keeper, more ? MOMENT_MS : tick_ms(store), true);
    }
    return NULL;
}

int bp_keeper_start(struct bp_store *store, struct bp_error *err) {
    struct bp_keeper *keeper = &store->keeper;
    int code = bp_clean_attach(store, err);
    /*
     * What was replayed would be replayed again: restarts must not put the next checkpoint off for
     * ever.
     */
    atomic_fetch_add(&store->bytes_since_checkpoint, store->recovery_log_bytes);
    if (code != BP_OK || store->options.manual) {
        return code;
    }
    if (pthread_create(&keeper->thread, NULL, keeper_thread, store) != 0) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no thread for the keeper");
    }
    keeper->thread_started = true;
    return BP_OK;
}

void bp_keeper_stop(struct bp_store *store) {
    struct bp_keeper *keeper = &store->keeper;
    pthread_mutex_lock(&keeper->wake_mutex);
    keeper->stopping = true;
    pthread_cond_broadcast(&keeper->wake);
    pthread_mutex_unlock(&keeper->wake_mutex);
    if (keeper->thread_started) {
        pthread_join(keeper->thread, NULL);
        keeper->thread_started = false;
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

int bp_step_checkpoint(struct bp_store *store, int force, struct bp_error *err) {
    pthread_mutex_lock(&store->keeper.mutex);
    int code = force != 0 || bp_checkpoint_due(store) ? bp_checkpoint_write(store, err) : BP_OK;
    pthread_mutex_unlock(&store->keeper.mutex);
    return code;
}

int bp_step_clean(struct bp_store *store) {
    pthread_mutex_lock(&store->keeper.mutex);
    int more = bp_clean_step(store);
    pthread_mutex_unlock(&store->keeper.mutex);
    return more;
}

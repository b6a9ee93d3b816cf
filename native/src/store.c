/*
 * Opening and closing a store.
 *
 *   open
 *       lock -> identity -> reserve -> newest checkpoint -> log (verify, copy the tail, new
 *       segment) -> replay
 *          -> become leader of the one-member cluster: a new term, a no-op -> threads
 *   close  refuse -> finish what is queued -> threads down -> mark, sync -> unlock
 *
 * Nothing is served or acknowledged before open returns, and open changes nothing it could not do
 * again: a crash anywhere in it leaves a directory that opens to the same state.
 */
#include "store.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scrub.h"
#include "store_files.h"
#include "ticket.h"
#include "value_cache.h"

#define REVISION_JUMP_MIN (1ull << 32)
#define REPLAY_TRIM_EVERY 64u /* entries */
#define NS_PER_MS 1000000ull

/* ---- options --------------------------------------------------------------------------------- */

static void default_u32(uint32_t *value, uint32_t otherwise) {
    if (*value == 0) {
        *value = otherwise;
    }
}

static void default_u64(uint64_t *value, uint64_t otherwise) {
    if (*value == 0) {
        *value = otherwise;
    }
}

static void fill_defaults(struct bp_options *options) {
    default_u32(&options->segment_size, BP_SEGMENT_SIZE);
    default_u32(&options->readers, 2);
    default_u64(&options->value_cache_bytes, 64ull << 20);
    default_u64(&options->history_ms_max, 300000);
    default_u64(&options->history_versions_max, 2000000);
    default_u64(&options->history_bytes_max, 1ull << 30);
    default_u64(&options->request_ids_max, BP_REQUEST_IDS_DEFAULT);
    default_u64(&options->leases_max, 1000000);
    default_u32(&options->watches_max, 10000);
    default_u64(&options->watch_lag_max, 1000000);
    default_u32(&options->queue_max, 65536);
    default_u64(&options->queue_bytes_max, 256ull << 20);
    default_u64(&options->checkpoint_bytes, 256ull << 20);
    default_u32(&options->clean_live_percent, 50);
    default_u32(&options->key_max, BP_KEY_MAX);
    default_u32(&options->value_max, BP_VALUE_MAX);
    default_u32(&options->request_max, 2u << 20);
    default_u32(&options->txn_ops_max, 1024);
    default_u32(&options->batch_ops_max, 10000);
    default_u32(&options->scan_page_max, 10000);
    default_u32(&options->reply_bytes_max, 4u << 20);
    default_u64(&options->lease_ttl_min_ms, 1000);
    default_u64(&options->lease_ttl_max_ms, 366ull * 86400 * 1000);
}

static int at_most(const char *name, uint64_t value, uint64_t max, struct bp_error *err) {
    return value <= max ? BP_OK
                        : bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, name,
                                        "%s is %llu, at most %llu is possible", name,
                                        (unsigned long long)value, (unsigned long long)max);
}

static int check_options(const struct bp_options *options, struct bp_error *err) {
    int code = BP_OK;
    if (options->dir == NULL || options->dir[0] == 0 || strlen(options->dir) > BP_PATH_MAX - 128) {
        code = bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "dir",
                             "dir must be a path of at most %u bytes", BP_PATH_MAX - 128);
    } else if (options->segment_size < BP_SEGMENT_SIZE_MIN ||
               options->segment_size % BP_SEGMENT_HEADER != 0) {
        code = bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "segment_size",
                             "segment_size must be a multiple of %u and at least %u",
                             BP_SEGMENT_HEADER, BP_SEGMENT_SIZE_MIN);
    }
    code = code != BP_OK ? code : at_most("segment_size", options->segment_size, 1u << 30, err);
    code = code != BP_OK ? code : at_most("key_max", options->key_max, BP_KEY_MAX, err);
    code = code != BP_OK ? code : at_most("value_max", options->value_max, BP_VALUE_MAX, err);
    code = code != BP_OK ? code : at_most("request_max", options->request_max, 2u << 20, err);
    code = code != BP_OK ? code : at_most("txn_ops_max", options->txn_ops_max, 10000, err);
    code = code != BP_OK ? code : at_most("batch_ops_max", options->batch_ops_max, 10000, err);
    code = code != BP_OK
               ? code
               : at_most("request_ids_max", options->request_ids_max, BP_REQUEST_IDS_LIMIT, err);
    code = code != BP_OK ? code : at_most("readers", options->readers, 64, err);
    return code != BP_OK ? code
                         : at_most("clean_live_percent", options->clean_live_percent, 90, err);
}

/* ---- parts ----------------------------------------------------------------------------------- */

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "no memory to open the store");
}

static void value_died(void *ctx, const struct bp_value_ref *value) {
    struct bp_store *store = ctx;
    struct bp_segment *segment = bp_segments_find(store->segments, value->at.segment);
    if (segment != NULL) {
        atomic_fetch_sub_explicit(&segment->live_bytes, (int64_t)value->size, memory_order_relaxed);
    }
}

static void init_locks(struct bp_store *store) {
    pthread_mutex_init(&store->apply, NULL);
    pthread_mutex_init(&store->driver.mutex, NULL);
    pthread_mutex_init(&store->driver.turn_mutex, NULL);
    pthread_cond_init(&store->driver.turned, NULL);
    pthread_mutex_init(&store->pins.mutex, NULL);
    pthread_mutex_init(&store->keeper.mutex, NULL);
    pthread_mutex_init(&store->keeper.wake_mutex, NULL);
    pthread_cond_init(&store->driver.wake, NULL);
    pthread_condattr_t monotonic; /* the keeper waits by interval, never by wall clock */
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&store->keeper.wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    store->driver.tail = &store->driver.head;
}

static struct bp_wire_limits limits_of(const struct bp_options *options) {
    return (struct bp_wire_limits){.key_max = options->key_max,
                                   .value_max = options->value_max,
                                   .request_max = options->request_max,
                                   .txn_ops_max = options->txn_ops_max,
                                   .batch_ops_max = options->batch_ops_max,
                                   .scan_page_max = options->scan_page_max,
                                   .reply_bytes_max = options->reply_bytes_max,
                                   .lease_ttl_min_ms = options->lease_ttl_min_ms,
                                   .lease_ttl_max_ms = options->lease_ttl_max_ms};
}

static void fill_limits(struct bp_store *store) {
    struct bp_options format = {0};
    fill_defaults(&format);
    format.request_max = BP_REQUEST_MAX;
    store->limits = limits_of(&store->options);
    store->format_limits = limits_of(&format);
}

const struct bp_wire_limits *bp_store_limits(const struct bp_store *store, uint8_t keyspace) {
    return keyspace == BP_KEYSPACE_USER ? &store->limits : &store->format_limits;
}

static int make_parts(struct bp_store *store, struct bp_error *err) {
    struct bp_index_hooks hooks = {.ctx = store, .dead = value_died};
    store->segments = bp_segments_new(store->disk, store->dir);
    store->value_cache = bp_value_cache_new(store->options.value_cache_bytes);
    if (store->segments != NULL) {
        bp_segments_set_cache(store->segments, store->value_cache);
    }
    store->index = bp_index_new(&hooks);
    store->leases = bp_leases_new();
    store->request_ids = bp_request_ids_new(store->options.request_ids_max);
    store->hub = bp_hub_new(store);
    store->apply_scratch = malloc(BP_VALUE_MAX);
    bool all = store->segments != NULL && store->index != NULL && store->leases != NULL &&
               store->request_ids != NULL && store->hub != NULL && store->apply_scratch != NULL;
    return all ? BP_OK : no_memory(err);
}

void bp_store_abandon(struct bp_store *store) {
    if (store == NULL) {
        return;
    }
    bp_keeper_stop(store);
    bp_driver_stop(store);
    bp_readers_stop(store);
    bp_scrubber_free(store->keeper.scrubber);
    bp_cleaner_free(store);
    bp_compactor_free(store);
    bp_reserve_close(store);
    for (uint32_t i = 0; i < store->keeper.n_checkpoints; i++) {
        free(store->keeper.checkpoints[i].segments);
    }
    bp_hub_free(store->hub);
    bp_request_ids_free(store->request_ids);
    bp_leases_free(store->leases);
    bp_index_free(store->index);
    if (store->log != NULL) {
        bp_log_close(store->log);
    }
    bp_segments_free(store->segments);
    bp_value_cache_free(store->value_cache);
    free(store->apply_scratch);
    if (store->lock_fd >= 0) {
        bp_disk_close(store->disk, store->lock_fd);
    }
    bp_disk_free(store->disk);
    pthread_mutex_destroy(&store->apply);
    pthread_mutex_destroy(&store->driver.mutex);
    pthread_mutex_destroy(&store->driver.turn_mutex);
    pthread_cond_destroy(&store->driver.turned);
    pthread_mutex_destroy(&store->pins.mutex);
    pthread_mutex_destroy(&store->keeper.mutex);
    pthread_mutex_destroy(&store->keeper.wake_mutex);
    pthread_cond_destroy(&store->driver.wake);
    pthread_cond_destroy(&store->keeper.wake);
    free(store);
}

/* ---- identity -------------------------------------------------------------------------------- */

static int corrupt(struct bp_store *store, const char *what, struct bp_error *err) {
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT, "%s: %s; see `bedplate fsck`",
                   store->dir, what);
}

/* An unfinished creation has at most its first segment, which nobody was ever answered from. */
static int clear_unfinished(struct bp_store *store, const struct bp_store_files *files,
                            struct bp_error *err) {
    if (files->settled > 0 || files->checkpoints > 0 || files->logs > 1 ||
        (files->logs == 1 && !files->creating)) {
        return corrupt(store, "STORE is missing", err);
    }
    if (files->logs == 0) {
        return bp_store_creating_begin(store->disk, store->dir, err);
    }
    char path[BP_PATH_MAX];
    /* not always number 1: a crash may have left 1's .tmp */
    (void)snprintf(path, sizeof path, "%.4000s/%.60s", store->dir, files->log);
    int rc = bp_disk_unlink(store->disk, BP_SITE_STORE_CREATE, path);
    /*
     * For good, before another segment gets a name: two of them would look like a store that lost
     * its identity.
     */
    rc = rc < 0 ? rc : bp_disk_sync_dir(store->disk, BP_SITE_STORE_CREATE, store->dir);
    return rc < 0 ? bp_fail_io(err, rc, "%s: cannot be removed", path) : BP_OK;
}

static int identify(struct bp_store *store, bool *fresh, bool *unsynced, struct bp_error *err) {
    struct bp_store_files files;
    int code = bp_store_files_list(store->disk, store->dir, &files, err);
    if (code != BP_OK) {
        return code;
    }
    *fresh = !files.store;
    *unsynced = files.unsynced;
    if (files.restoring) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_STORE_CORRUPT,
                       "%s: a restore into it did not finish; remove it and restore again",
                       store->dir);
    }
    if (files.store) {
        code = bp_store_identity_read(store->disk, store->dir, store->store_id, err);
        return code != BP_OK || files.logs > 0 ? code
                                               : corrupt(store, "no log segment is left", err);
    }
    if (files.stranger[0] != 0) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_STORE_CORRUPT,
                       "%s holds \"%s\", which is not ours: give the store a directory of its own",
                       store->dir, files.stranger);
    }
    code = clear_unfinished(store, &files, err);
    int rc =
        code == BP_OK ? bp_disk_random(store->disk, store->store_id, sizeof store->store_id) : 0;
    return code == BP_OK && rc < 0 ? bp_fail_io(err, rc, "no random bytes") : code;
}

/* ---- recovery -------------------------------------------------------------------------------- */

/* What a try that failed has opened, so that another may open it again. */
static void forget_log_segments(struct bp_store *store) {
    struct bp_segment *segment = bp_segments_next(store->segments, 0);
    while (segment != NULL) {
        uint32_t id = segment->header.id;
        if (segment->header.kind == BP_SEGMENT_LOG) {
            bp_segments_remove(store->segments, id);
        }
        segment = bp_segments_next(store->segments, id);
    }
}

static int open_log(struct bp_store *store, const struct bp_log_start *start,
                    struct bp_recovery *recovery, struct bp_error *err) {
    struct bp_log_options options = {.segment_size = store->options.segment_size};
    memcpy(options.store_id, store->store_id, sizeof options.store_id);
    int code = bp_log_open(store->segments, &options, start, &store->log, recovery, err);
    /*
     * A full disk must not keep a store from opening: that is what the last segment of the reserve
     * is for.
     */
    if (code != BP_OK && err->reason == BP_REASON_DISK_FULL &&
        bp_reserve_release(store, store->options.segment_size, true) > 0) {
        atomic_store_explicit(&store->disk_full, true, memory_order_relaxed);
        forget_log_segments(store);
        code = bp_log_open(store->segments, &options, start, &store->log, recovery, err);
    }
    return code;
}

struct replay {
    struct bp_store *store;
    struct bp_error *err;
    uint64_t entries, bytes;
};

static int replay_entry(void *arg, const struct bp_entry *entry) {
    struct replay *replay = arg;
    struct bp_store *store = replay->store;
    int code = bp_apply_entry(store, entry, NULL, replay->err);
    replay->bytes += BP_ENTRY_HEADER + entry->size;
    if (code == BP_OK && ++replay->entries % REPLAY_TRIM_EVERY == 0) {
        (void)bp_index_trim(store->index, store->compaction_revision, 4096);
    }
    return code;
}

static int replay_log(struct bp_store *store, const struct bp_recovery *recovery,
                      struct bp_error *err) {
    struct replay replay = {.store = store, .err = err};
    int code = bp_log_replay(store->log, recovery, 0, recovery->n, replay_entry, &replay, err);
    store->recovery_entries = replay.entries;
    store->recovery_log_bytes = replay.bytes;
    store->recovery_copied_bytes = recovery->copied_bytes;
    store->recovery_discarded_bytes = recovery->discarded_bytes;
    return code;
}

static int append_and_apply(struct bp_store *store, struct bp_entry *entries, uint32_t n,
                            const struct bp_hardstate *hardstate, struct bp_error *err) {
    int code = bp_log_append(store->log, entries, n, hardstate, err);
    if (code != BP_OK && err->reason == BP_REASON_DISK_FULL &&
        bp_reserve_release(store, store->options.segment_size, true) > 0) {
        code = bp_log_append(store->log, entries, n, hardstate, err);
    }
    code = code != BP_OK ? code : bp_log_sync(store->log, err);
    for (uint32_t i = 0; i < n && code == BP_OK; i++) {
        code = bp_apply_entry(store, &entries[i], NULL, err);
    }
    return code;
}

/* The first entry of all: a cluster of one, ourselves. */
static int bootstrap(struct bp_store *store, struct bp_error *err) {
    struct bp_system system = {.cluster_version = 1,
                               .voters = 1,
                               .request_ids_max = (uint32_t)store->options.request_ids_max};
    int rc = bp_disk_random(store->disk, system.cluster_id, sizeof system.cluster_id);
    rc = rc < 0 ? rc : bp_disk_random(store->disk, &system.members[0], sizeof system.members[0]);
    if (rc < 0) {
        return bp_fail_io(err, rc, "no random bytes");
    }
    system.members[0] |= 1; /* 0 means nobody */
    uint8_t payload[BP_CONFIG_SIZE_MAX];
    struct bp_entry entry = {.index = 1, .term = 1, .type = BP_ENTRY_CONFIG, .payload = payload};
    entry.size = bp_system_encode(&system, BP_CAUSE_BOOTSTRAP, payload);
    entry.first_revision = store->next_revision;
    struct bp_hardstate hardstate = {.term = 1, .vote = system.members[0], .commit = 0};
    store->member_id = system.members[0];
    atomic_store_explicit(&store->term, 1, memory_order_relaxed);
    int code = append_and_apply(store, &entry, 1, &hardstate, err);
    code = code != BP_OK ? code
                         : bp_store_identity_write(store->disk, store->dir, store->store_id, err);
    if (code == BP_OK) {
        bp_store_creating_end(store->disk, store->dir);
    }
    return code;
}

static uint64_t jumped_revision(const struct bp_store *store) {
    uint64_t by_step = store->next_revision - 1 + REVISION_JUMP_MIN;
    uint64_t by_clock = bp_disk_real_ns(store->disk) / 1000000000ull << 20;
    return by_step > by_clock ? by_step : by_clock;
}

/*
 * The election of a cluster of one: a new term, voted for by ourselves, and an empty entry that
 * commits all before it. After an unclean stop in interval mode revisions jump, because some that
 * clients saw may be gone. A changed size of the request-id table is proposed like any change of
 * the configuration: apply goes by what the log says.
 */
static int lead_alone(struct bp_store *store, const struct bp_recovery *recovery, bool jump,
                      struct bp_error *err) {
    struct bp_system system = store->system;
    if (system.voters != 1 || system.members[0] == 0) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_FORMAT_UNSUPPORTED,
                       "%s belongs to a cluster of %u voters", store->dir, system.voters);
    }
    store->member_id = system.members[0];
    struct bp_hardstate hardstate = {.term = recovery->hardstate.term + 1,
                                     .vote = store->member_id,
                                     .commit = store->applied_index};
    if (hardstate.term <= store->applied_term) {
        hardstate.term = store->applied_term + 1;
    }
    uint8_t config[BP_CONFIG_SIZE_MAX], leap[16] = {0};
    struct bp_entry entries[3];
    uint32_t n = 0;
    memset(entries, 0, sizeof entries);
    entries[n++] = (struct bp_entry){
        .type = BP_ENTRY_NOOP, .payload = leap, .first_revision = store->next_revision};
    if (system.request_ids_max != store->options.request_ids_max) {
        system.request_ids_max = (uint32_t)store->options.request_ids_max;
        uint32_t size = bp_system_encode(&system, BP_CAUSE_CHANGE, config);
        entries[n++] = (struct bp_entry){.type = BP_ENTRY_CONFIG,
                                         .payload = config,
                                         .size = size,
                                         .first_revision = store->next_revision};
    }
    if (jump) {
        uint64_t revision = jumped_revision(store);
        bp_put_u64(leap, revision);
        leap[8] = BP_CAUSE_UNCLEAN_START;
        entries[n++] = (struct bp_entry){.type = BP_ENTRY_JUMP,
                                         .payload = leap,
                                         .size = sizeof leap,
                                         .first_revision = revision};
    }
    for (uint32_t i = 0; i < n; i++) {
        entries[i].index = store->applied_index + 1 + i;
        entries[i].term = hardstate.term;
    }
    atomic_store_explicit(&store->term, hardstate.term, memory_order_relaxed);
    return append_and_apply(store, entries, n, &hardstate, err);
}

/*
 * Before interval mode answers anything, the next start must be able to know; once the jump is
 * durable, it need not any more.
 */
static int note_durability(struct bp_store *store, bool unsynced, struct bp_error *err) {
    if (store->options.interval_ms == 0) {
        return unsynced ? bp_store_unsynced_end(store->disk, store->dir, err) : BP_OK;
    }
    int code = unsynced ? BP_OK : bp_store_unsynced_begin(store->disk, store->dir, err);
    if (code != BP_OK && err->reason == BP_REASON_DISK_FULL &&
        bp_reserve_release(store, store->options.segment_size, true) > 0) {
        code = bp_store_unsynced_begin(store->disk, store->dir, err);
    }
    return code;
}

/*
 * Every checkpoint is damaged, for the reason in *err. The log alone will do where it still reaches
 * back to entry 1; else that reason stands, and nothing on disk has changed: a chain with a segment
 * missing is refused before anything is made.
 */
static int open_log_alone(struct bp_store *store, struct bp_recovery *recovery,
                          struct bp_error *err) {
    const struct bp_error damage = *err;
    const struct bp_log_start nothing = {.founded = true};
    int code = open_log(store, &nothing, recovery, err);
    /* A log that begins empty, as a restore makes it, is the end of one that is not here. */
    if (code == BP_OK && recovery->n > 0) {
        return BP_OK;
    }
    if (code == BP_OK || err->reason == BP_REASON_STORE_CORRUPT) {
        *err = damage;
        code = damage.code;
    }
    return code;
}

static int recover(struct bp_store *store, bool fresh, bool unsynced, struct bp_error *err) {
    struct bp_log_start start = {0};
    struct bp_recovery recovery = {0};
    bool found = false;
    store->next_revision = 2; /* revision 1 is the empty store */
    int code = fresh ? BP_OK : bp_checkpoint_load(store, &start, &found, err);
    start.founded = !fresh;
    if (code == BP_DATA_LOSS && !found && err->reason == BP_REASON_STORE_CORRUPT) {
        code = open_log_alone(store, &recovery, err);
    } else {
        code = code != BP_OK ? code : open_log(store, &start, &recovery, err);
    }
    code = code != BP_OK ? code : replay_log(store, &recovery, err);
    if (code == BP_OK) {
        code = fresh ? bootstrap(store, err) : lead_alone(store, &recovery, unsynced, err);
    }
    bp_recovery_free(&recovery);
    return code != BP_OK ? code : note_durability(store, unsynced, err);
}

/* ---- open and close -------------------------------------------------------------------------- */

static void go_live(struct bp_store *store) {
    uint64_t now = bp_disk_boot_ns(store->disk), last = bp_log_last_index(store->log);
    store->applied_end = bp_log_end(store->log);
    store->applied_sequence = bp_log_sequence(store->log);
    store->opened_ns = now;
    store->driver.last_append_ns = now;
    atomic_store(&store->committed, last);
    atomic_store(&store->durable, last);
    bp_leases_restart(store->leases, now);
    bp_apply_publish(store);
}

static int start_threads(struct bp_store *store, struct bp_error *err) {
    int code = bp_readers_start(store, err);
    code = code != BP_OK ? code : bp_driver_start(store, err);
    return code != BP_OK ? code : bp_keeper_start(store, err);
}

static int open_parts(struct bp_store *store, struct bp_error *err) {
    bool fresh = false, unsynced = false;
    int code = bp_store_lock(store->disk, store->dir, &store->lock_fd, err);
    code = code != BP_OK ? code : make_parts(store, err);
    code = code != BP_OK ? code : identify(store, &fresh, &unsynced, err);
    if (code != BP_OK) {
        return code;
    }
    uint64_t began = bp_disk_boot_ns(store->disk);
    if (!fresh) {
        (void)bp_reserve_open(store, err);
    }
    code = recover(store, fresh, unsynced, err);
    if (code == BP_OK && bp_disk_random(store->disk, &store->driver.next_lease_id,
                                        sizeof store->driver.next_lease_id) < 0) {
        code = bp_fail(err, BP_INTERNAL, BP_REASON_IO_FAILED, "no random bytes");
    }
    if (code != BP_OK) {
        return code;
    }
    if (fresh) {
        (void)bp_reserve_open(store, err);
    }
    bp_reserve_back(store);
    go_live(store);
    store->recovery_ms = (bp_disk_boot_ns(store->disk) - began) / NS_PER_MS;
    return start_threads(store, err);
}

int bp_store_open(const struct bp_options *options, struct bp_disk *disk, struct bp_store **out,
                  struct bp_error *err) {
    struct bp_options filled = *options;
    fill_defaults(&filled);
    int code = disk == NULL ? no_memory(err) : check_options(&filled, err);
    struct bp_store *store = code == BP_OK ? calloc(1, sizeof *store) : NULL;
    if (store == NULL) {
        bp_disk_free(disk);
        return code != BP_OK ? code : no_memory(err);
    }
    store->options = filled;
    (void)snprintf(store->dir, sizeof store->dir, "%s", options->dir);
    store->options.dir = store->dir;
    store->options.failpoints = NULL;
    store->disk = disk;
    store->lock_fd = -1;
    init_locks(store);
    fill_limits(store);
    code = open_parts(store, err);
    if (code != BP_OK) {
        bp_store_abandon(store);
        return code;
    }
    *out = store;
    return BP_OK;
}

int bp_open(const struct bp_options *options, struct bp_store **store, struct bp_error *err) {
    struct bp_io io;
    bp_io_posix(&io);
    struct bp_disk *disk = bp_disk_new(&io);
    if (disk != NULL && options->failpoints != NULL) {
        int code = bp_disk_arm_text(disk, options->failpoints, err);
        if (code != BP_OK) {
            bp_disk_free(disk);
            return code;
        }
    }
    return bp_store_open(options, disk, store, err);
}

int bp_close(struct bp_store *store, struct bp_error *err) {
    bp_keeper_stop(store);
    bp_hub_close(store->hub);
    if (store->options.manual) {
        bp_step_drive(store);
    }
    bp_driver_stop(store);
    bp_readers_stop(store);
    int code = BP_OK;
    if (!bp_log_poisoned(store->log)) {
        code = bp_log_sync(store->log, err);
        code = code != BP_OK ? code : bp_log_mark(store->log, err);
        code = code != BP_OK ? code : bp_log_sync(store->log, err);
        if (code == BP_OK && store->options.interval_ms != 0) {
            code = bp_store_unsynced_end(store->disk, store->dir, err);
        }
    }
    bp_store_abandon(store);
    return code;
}

void bp_store_view(struct bp_store *store, struct bp_view *view) {
    view->index = store->index;
    view->segments = store->segments;
    view->epoch = &store->epoch;
    /* The floor first: a revision published after it is above it. */
    view->floor = atomic_load_explicit(&store->floor, memory_order_acquire);
    view->revision = atomic_load_explicit(&store->revision, memory_order_acquire);
}

int bp_fail_compacted(struct bp_error *err, const struct bp_store *store) {
    uint64_t floor = atomic_load_explicit(&store->floor, memory_order_acquire);
    int code = bp_fail(err, BP_OUT_OF_RANGE, BP_REASON_REVISION_COMPACTED,
                       "the revision is compacted; the oldest readable one is %llu",
                       (unsigned long long)floor);
    if (err != NULL) {
        err->revision = floor;
    }
    return code;
}

/* ---- pins ------------------------------------------------------------------------------------ */

int bp_pins_add(struct bp_store *store, uint64_t revision, uint32_t *pin, struct bp_error *err) {
    assert(revision != 0);
    int code = bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_QUEUE_FULL,
                       "%u snapshots are being read", BP_PINS_MAX);
    pthread_mutex_lock(&store->pins.mutex);
    for (uint32_t i = 0; i < BP_PINS_MAX; i++) {
        if (store->pins.revision[i] == 0) {
            store->pins.revision[i] = revision;
            *pin = i;
            code = BP_OK;
            break;
        }
    }
    pthread_mutex_unlock(&store->pins.mutex);
    /*
     * The pin stands before the floor is looked at, and trimming looks at pins after the floor: one
     * of the two sees the other.
     */
    if (code == BP_OK && atomic_load(&store->floor) > revision) {
        bp_pins_remove(store, *pin);
        code = bp_fail_compacted(err, store);
    }
    return code;
}

void bp_pins_remove(struct bp_store *store, uint32_t pin) {
    pthread_mutex_lock(&store->pins.mutex);
    assert(store->pins.revision[pin] != 0);
    store->pins.revision[pin] = 0;
    pthread_mutex_unlock(&store->pins.mutex);
}

uint64_t bp_pins_min(struct bp_store *store) {
    uint64_t min = UINT64_MAX;
    pthread_mutex_lock(&store->pins.mutex);
    for (uint32_t i = 0; i < BP_PINS_MAX; i++) {
        uint64_t revision = store->pins.revision[i];
        min = revision != 0 && revision < min ? revision : min;
    }
    pthread_mutex_unlock(&store->pins.mutex);
    return min;
}

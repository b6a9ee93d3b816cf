/*
 * The store: what the parts of the engine share.
 *
 *   submit --> queue --> [driver role: gather -> append -> sync -> apply -> publish] -->
 *   completions
 *                                                             |
 *   keeper thread: tick, trim, checkpoint, clean, scrub ------+ (under `apply`)
 *   readers: index at a published revision, values inside a read section; never a lock of the store
 *
 * Locks, in the order they may be taken:
 *   driver.mutex   the submit queue and who has the driver role; held for a few instructions
 *   driver.turn_mutex  whose turn it is to apply; likewise
 *   apply
 *       the applied state: index (as its one writer), request ids, system, applied/compaction
 *       fields. Held by the
 *                  driver for one group's apply, by the keeper for one trim step or a checkpoint's
 *                  cut
 *   inside: the index's history and node locks, bp_leases', bp_hub's, bp_queue's own mutexes, a
 *   cluster's driver's (each a leaf)
 * The log belongs to whoever has the driver role; in a cluster to the log thread (raft.h).
 * Checkpoints, settled segments, unlinking belong to the keeper (keeper.mutex, outermost).
 */
#ifndef BP_STORE_H
#define BP_STORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "epoch.h"
#include "error.h"
#include "index.h"
#include "io.h"
#include "lease.h"
#include "log.h"
#include "request_ids.h"
#include "segment.h"
#include "system.h"
#include "watch.h"
#include "wire.h"

#define BP_PATH_MAX 4096u
#define BP_PINS_READERS 16u /* backups and scrubs at a time; a backup copies the request-id table */
#define BP_PINS_KEEPER 2u   /* a checkpoint, beside a pass of its own scrub */
#define BP_PINS_WRITES 16u  /* shared when there are more */
#define BP_PINS_SNAPSHOTS 4u /* manifests being sent; each copies the request-id table */
#define BP_PINS_MAX (BP_PINS_READERS + BP_PINS_KEEPER + BP_PINS_WRITES + BP_PINS_SNAPSHOTS)
#define BP_GROUPS_IN_FLIGHT 2u /* written and not yet applied */

struct bp_applied;
struct bp_backlog;
struct bp_ticket;
struct bp_reader_pool;
struct bp_raft;

/* Counters any thread may add to; read for status. */
struct bp_store_counters {
    _Atomic uint64_t groups, group_requests, group_bytes, bytes_appended, value_bytes_appended;
    _Atomic uint64_t syncs, sync_ns_total, sync_ns_max, slow_syncs;
    _Atomic uint64_t sync_buckets[24], group_buckets[16];
    _Atomic uint64_t checkpoints, checkpoint_failures, cleaned_segments, cleaned_bytes;
    _Atomic uint64_t scrubbed_bytes, scrub_findings;
};

struct bp_driver {
    pthread_mutex_t mutex;
    pthread_cond_t wake; /* the driver thread sleeps here */
    struct bp_ticket *head, **tail;
    bool driving; /* somebody has the role */
    bool stopping, closed;
    bool taken;                /* the role is Raft's for good (raft.h): nobody else leads */
    bool want_mark, want_sync; /* chores for the role */
    /* in the queue; counted once Raft drives */
    uint64_t queued, queued_arrivals, queued_bytes;
    /* tickets submitted and not completed; a blocked caller's until it has its answer */
    uint64_t open, open_bytes;
    pthread_t threads[BP_GROUPS_IN_FLIGHT];
    uint32_t n_threads;
    /* owned by the role */
    uint32_t turn;          /* of the next group */
    uint64_t next_revision; /* of the next request to be written */
    uint64_t last_append_ns, next_lease_id;
    _Atomic uint64_t granting; /* lease grants gathered and not applied */
    /* gathered small requests; a group's own until it is applied */
    uint8_t *staging[BP_GROUPS_IN_FLIGHT];
    /* groups are applied in turn */
    pthread_mutex_t turn_mutex;
    pthread_cond_t turned;
    uint32_t applied_turn;      /* the turn that may apply now */
    struct bp_applied *applied; /* what the requests of one entry came to; owned by that turn */
};

/* Revisions some reader still needs (pins.c); trimming stays below the smallest. */
enum bp_pin_kind { BP_PIN_READER, BP_PIN_KEEPER, BP_PIN_WRITE, BP_PIN_SNAPSHOT };
struct bp_pin {
    uint64_t revision;
    uint32_t users; /* 0: free */
};
struct bp_pins {
    pthread_mutex_t mutex;
    struct bp_pin slots[BP_PINS_MAX];
};

/* The newest checkpoints on disk, newest first; at most two. keeper.mutex. */
struct bp_checkpoint_info {
    /* names its file; the applied index, or above it (checkpoint.h) */
    uint64_t number;
    uint64_t index, revision, bytes, made_ns;
    /* replay starts here: log segments from start.segment on are needed */
    struct bp_pos start;
    /* ids of every segment whose values it names, ascending (malloc'ed) */
    uint32_t *segments;
    uint32_t n_segments;
};

/* When the keeper did what; keeper.mutex. Boot clock. */
struct bp_tick {
    uint64_t last_ns, reserve_ns, sync_ns, checkpoint_again_ns;
    /* counters.groups at the last tick, and when the last mark was asked for */
    uint64_t groups, groups_marked;
    uint32_t checkpoint_failures; /* in a row */
};

struct bp_keeper {
    pthread_mutex_t mutex;
    pthread_mutex_t wake_mutex;
    pthread_cond_t wake;
    bool stopping, woken; /* wake_mutex */
    bool thread_started;
    pthread_t thread;
    struct bp_checkpoint_info checkpoints[2];
    uint32_t n_checkpoints;
    _Atomic uint64_t checkpoint_index, checkpoint_bytes, checkpoint_ns; /* for status, no lock */
    struct bp_cleaner *cleaner;                                         /* clean.c's own state */
    struct bp_reserve *reserve;                                         /* reserve.c's own state */
    struct bp_compactor *compactor; /* compact.c: revision/time samples */
    struct bp_tick tick;
    struct bp_scrubber *scrubber; /* scrub.c: passes in the background */
    struct bp_install *install;   /* install.c: one that is going on; it holds segments */
};

struct bp_store {
    struct bp_options options; /* defaults filled in; strings owned */
    char dir[BP_PATH_MAX];
    struct bp_wire_limits limits;        /* of clients, as configured */
    struct bp_wire_limits format_limits; /* of our own layers: what the formats allow */
    struct bp_disk *disk;
    int lock_fd;
    uint8_t store_id[16];
    uint64_t member_id;
    bool joined; /* a cluster that existed: the first entry may have come as a snapshot */

    struct bp_value_cache *value_cache; /* NULL: none */
    struct bp_damage *damage;           /* repair.c: values found damaged */
    struct bp_backlog *backlog;         /* queue.c: completions nobody has taken yet */
    struct bp_segments *segments;
    struct bp_log *log;
    struct bp_index *index;
    struct bp_leases *leases;
    struct bp_request_ids *request_ids;
    struct bp_hub *hub;
    struct bp_epoch epoch;
    struct bp_pins pins;
    struct bp_driver driver;
    /* set once, under driver.mutex: a cluster's driver, and everything goes its way (raft.h) */
    _Atomic(struct bp_raft *) raft;
    struct bp_keeper keeper;
    struct bp_reader_pool *pool;
    struct bp_store_counters counters;

    pthread_mutex_t apply; /* guards the next block */
    struct bp_system system;
    uint64_t applied_index, applied_term;
    uint64_t next_revision;       /* of the next request */
    uint64_t compaction_revision; /* as applied */
    /* log position behind the frame of the last applied entry, and that frame's sequence + 1 */
    struct bp_pos applied_end;
    uint64_t applied_sequence;
    /* state hash recorded when the last compaction entry was applied, and its index */
    uint64_t compaction_hash[2];
    uint64_t compaction_hash_index;
    uint8_t *apply_scratch; /* BP_VALUE_MAX, for compares on values */

    /* Published with release order after apply; what readers go by. */
    _Atomic uint64_t revision; /* the newest revision all of whose effects are in the index */
    _Atomic uint64_t floor;    /* the oldest readable revision (= compaction revision) */
    _Atomic uint64_t committed, durable;
    _Atomic uint64_t term;
    _Atomic bool poisoned, disk_full, damaged;
    _Atomic uint64_t bytes_since_checkpoint; /* log bytes */

    uint64_t opened_ns;
    uint64_t recovery_ms, recovery_entries, recovery_log_bytes, recovery_checkpoint_keys;
    uint64_t recovery_copied_bytes, recovery_discarded_bytes;
};

/*
 * Open on a given disk (simulated or armed with faults); takes ownership of `disk` also on failure.
 * bp_open is this on POSIX.
 */
int bp_store_open(const struct bp_options *options, struct bp_disk *disk, struct bp_store **store,
                  struct bp_error *err);
/*
 * Frees without marking, syncing or finishing anything: what a crash leaves behind stays. For tests
 * and the simulator.
 */
void bp_store_abandon(struct bp_store *store);
void bp_store_view(struct bp_store *store, struct bp_view *view);
/*
 * An operator's limits bind clients; other keyspaces belong to layers of ours, which keep limits of
 * their own.
 */
const struct bp_wire_limits *bp_store_limits(const struct bp_store *store, uint8_t keyspace);
/* OUT_OF_RANGE/REVISION_COMPACTED with the oldest readable revision. */
int bp_fail_compacted(struct bp_error *err, const struct bp_store *store);

/*
 * Pin a revision (>= floor): 0 and *pin, or RESOURCE_EXHAUSTED/QUEUE_FULL when as many of the kind
 * as may be are reading. OUT_OF_RANGE/REVISION_COMPACTED when it is gone already.
 */
int bp_pins_add(struct bp_store *store, enum bp_pin_kind kind, uint64_t revision, uint32_t *pin,
                struct bp_error *err);
void bp_pins_remove(struct bp_store *store, uint32_t pin);
uint64_t bp_pins_min(struct bp_store *store); /* UINT64_MAX when none */

/* ---- apply.c --------------------------------------------------------------------------------- */

/*
 * Apply one committed entry; `applied` (NULL in replay) gets one record per request. Caller holds
 * `apply`. Non-zero: the member must stop (damage, out of memory, unknown op).
 */
struct bp_applied {
    int code; /* BP_OK, or why the request changed nothing */
    int reason;
    struct bp_outcome outcome;
};
int bp_apply_entry(struct bp_store *store, const struct bp_entry *entry, struct bp_applied *applied,
                   struct bp_error *err);
/* One sentence for a reason that apply gives. */
const char *bp_apply_explain(int reason);
/* Make what was applied visible: revision, floor; wakes watches. Caller holds `apply`. */
void bp_apply_publish(struct bp_store *store);

/* ---- driver.c, door.c ------------------------------------------------------------------------ */

int bp_driver_start(struct bp_store *store, struct bp_error *err);
/*
 * Takes no more, and returns when all that was taken is answered (with options.manual what is
 * queued is refused instead).
 */
void bp_driver_stop(struct bp_store *store);
/*
 * Internal asynchronous request with no answer wanted (expiry, compaction). `done` (may be NULL) is
 * told the code.
 */
int bp_driver_propose(struct bp_store *store, struct bp_builder *builder,
                      void (*done)(void *arg, int code), void *arg, struct bp_error *err);
/* Ask the role to write a mark or sync (interval mode); returns at once. */
void bp_driver_chore(struct bp_store *store, bool mark, bool sync);

/* ---- checkpoint.c, checkpoint_load.c --------------------------------------------------------- */

/*
 * Write one checkpoint: cut under `apply`, then walk the index at the pinned revision, then tmp,
 * sync, rename, sync_dir, then drop the oldest of three and what only it needed. keeper.mutex held.
 * A failure discards that file only.
 */
int bp_checkpoint_write(struct bp_store *store, struct bp_error *err);
bool bp_checkpoint_due(const struct bp_store *store);
/*
 * Load the newest valid checkpoint (else the one before it; else nothing, *found false) into index,
 * leases, request ids, system and the applied fields; fills *start for bp_log_open. Opens the
 * settled segments it names, deletes settled segments that no kept checkpoint names. All
 * checkpoints damaged: DATA_LOSS/STORE_CORRUPT with *found false, and nothing was loaded: a log
 * that reaches back to entry 1 will do. Ones that are newer and were passed over are still there:
 * see checkpoint_aside.c.
 */
int bp_checkpoint_load(struct bp_store *store, struct bp_log_start *start, bool *found,
                       struct bp_error *err);
/* Segments below this are not needed for replay by any kept checkpoint (0: all are). */
uint32_t bp_checkpoint_replay_segment(const struct bp_store *store);
bool bp_checkpoint_names(const struct bp_store *store, uint32_t segment);

/* ---- clean.c, reserve.c, compact.c, keeper.c ------------------------------------------------- */

/*
 * One bounded step: trim the index, copy live values out of the emptiest segment, unlink what
 * nothing needs. 1 more to do.
 */
int bp_clean_step(struct bp_store *store);
/* True while cleaning waits for a checkpoint. */
bool bp_clean_waits(const struct bp_store *store);
void bp_cleaner_free(struct bp_store *store);

/*
 * The disk reserve (STORAGE.md 9): a preallocated file given back in pieces when only privileged
 * work may write.
 */
/* best effort: never fails for want of space */
int bp_reserve_open(struct bp_store *store, struct bp_error *err);
/*
 * Once the store is sound: make sure that the file's size is backed by space. A start that is
 * refused has touched nothing.
 */
void bp_reserve_back(struct bp_store *store);
void bp_reserve_close(struct bp_store *store);
/*
 * Give back up to `bytes` for a privileged write (the last segment only if `last`); returns bytes
 * released. Any thread.
 */
uint64_t bp_reserve_release(struct bp_store *store, uint64_t bytes, bool last);
/* Grow it back where the disk allows, set and clear store->disk_full. From the keeper's tick. */
void bp_reserve_tick(struct bp_store *store);
uint64_t bp_reserve_size(const struct bp_store *store);

/* Propose compaction when history is too old or too large; expiry of leases. From the tick. */
void bp_compact_tick(struct bp_store *store, uint64_t now_ns);
void bp_compactor_free(struct bp_store *store);

int bp_keeper_start(struct bp_store *store, struct bp_error *err);
void bp_keeper_stop(struct bp_store *store);
void bp_keeper_wake(struct bp_store *store);

/* ---- read.c: the reader threads -------------------------------------------------------------- */

int bp_readers_start(struct bp_store *store, struct bp_error *err);
void bp_readers_stop(struct bp_store *store);
/* Hand a ticket to a reader (manual mode: run here). */
void bp_readers_push(struct bp_store *store, struct bp_ticket *ticket);

#endif

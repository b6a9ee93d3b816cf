/*
 * bedplate.h: the storage engine of Bedplate, as Python (cffi) and C programs use it.
 *
 * A store is a directory. Requests go in as encoded bytes, replies come out as encoded bytes; what
 * is between the two marker comments below is read by cffi as it stands. Every fallible call
 * returns 0 or a code whose number is gRPC's, and fills *error. All calls are safe from any thread
 * unless they say otherwise; none needs Python.
 */
#ifndef BEDPLATE_H
#define BEDPLATE_H

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)

/* cffi: begin */
struct bp_error {
    int code;          /* gRPC status code */
    int reason;        /* see bp_reason_name */
    int sys_errno;     /* the errno behind an I/O failure, or 0 */
    uint64_t revision; /* REVISION_COMPACTED: the oldest readable revision; else 0 */
    char field[48];    /* the offending request field as a proto path, or "" */
    char message[320]; /* one sentence; names file and offset where it is about one */
};

typedef struct bp_store bp_store;
typedef struct bp_queue bp_queue;
typedef struct bp_watch bp_watch;
typedef struct bp_scrub bp_scrub;
typedef struct bp_backup bp_backup;
typedef struct bp_sim bp_sim;

/* Zero means the default given in brackets. Sizes are bytes, times milliseconds. */
struct bp_options {
    const char *dir;               /* made (0700) if it is not there; its parent must exist */
    const char *failpoints;        /* "site=fault@first[xtimes];..." for tests, or NULL */
    uint32_t segment_size;         /* [64 MiB] */
    uint32_t interval_ms;          /* durability interval:<ms>; [0: fsync every group] */
    uint32_t manual;               /* no threads: the caller steps (bp_step_*) */
    uint32_t readers;              /* reader threads [2] */
    uint64_t index_memory_max;     /* [0: no limit] */
    uint64_t value_cache_bytes;    /* [64 MiB] of small values lately read; below 1 MiB: none */
    uint64_t history_ms_max;       /* [300,000] */
    uint64_t history_versions_max; /* [2,000,000] */
    uint64_t history_bytes_max;    /* [1 GiB] */
    uint64_t request_ids_max;      /* [65,536] entries of the request-id table */
    uint64_t leases_max;           /* [1,000,000] */
    uint32_t watches_max;          /* [10,000] */
    uint64_t watch_lag_max;        /* [1,000,000] effects a watch may be behind */
    uint32_t queue_max;            /* [65,536] open requests, and answers not yet taken */
    uint64_t queue_bytes_max;      /* [256 MiB] of open requests and replies not yet taken */
    uint64_t checkpoint_bytes;     /* [256 MiB] of log since the last one, at least */
    uint32_t clean_live_percent;   /* [50] */
    uint64_t disk_reserve;         /* [0: four segments + 1.25 x the newest checkpoint] */
    uint64_t scrub_bytes_per_s;    /* background scrub [0: off] */
    uint32_t key_max, value_max, request_max;    /* [4096, 1 MiB, 2 MiB] */
    uint32_t txn_ops_max, batch_ops_max;         /* [1024, 10,000] */
    uint32_t scan_page_max, reply_bytes_max;     /* [10,000 keys, 4 MiB] */
    uint64_t lease_ttl_min_ms, lease_ttl_max_ms; /* [1,000, 366 days] */
    /*
     * A cluster. Who founds or joins one says so once, when the directory is new; a directory that
     * belongs to a cluster knows it by itself.
     */
    uint32_t clustered;        /* driven by bp_raft_* from the start, whatever its membership */
    uint32_t joining;          /* found nothing: everything comes from the leader */
    uint8_t cluster_id[16];    /* founding or joining */
    uint64_t member_id;        /* founding or joining: who we are; never 0 */
    uint32_t n_members;        /* founding: entry 1 makes these the voters, in ascending order, */
    uint64_t members[16];      /* the same bytes on each of them */
    uint64_t raft_cache_bytes; /* [64 MiB] of applied entries kept in memory for slow members */
};

/* Bytes the engine allocated; release with bp_reply_free. */
struct bp_reply {
    uint8_t *data;
    uint64_t size;
};

struct bp_completion {
    uint64_t cookie;
    int code;     /* 0, or error->code */
    uint32_t aux; /* bp_submit_value: CRC32C of the value bytes returned */
    struct bp_reply reply;
    struct bp_error *error; /* NULL when code is 0 */
};

struct bp_status {
    uint8_t store_id[16], cluster_id[16];
    uint64_t member_id, term, vote;
    uint64_t revision, compaction_revision;
    uint64_t applied_index, committed_index, durable_index, last_index;
    uint32_t poisoned, disk_full, recovering, durability_interval_ms;
    uint64_t keys, items, versions, index_bytes, key_bytes, live_value_bytes;
    uint64_t history_effects, history_bytes, history_value_bytes;
    uint64_t leases, request_ids, watches, watch_lag_cancels;
    uint32_t log_segments, settled_segments;
    uint64_t log_bytes, settled_bytes, disk_free_bytes, disk_total_bytes, disk_reserve_bytes;
    uint64_t checkpoint_index, checkpoint_bytes, checkpoint_age_ms, checkpoints,
        checkpoint_failures;
    uint64_t cleaned_segments, cleaned_bytes, scrubbed_bytes, scrub_findings, damaged_segments;
    uint64_t recovery_ms, recovery_entries, recovery_log_bytes, recovery_checkpoint_keys;
    uint64_t recovery_copied_bytes, recovery_discarded_bytes;
    uint64_t groups, group_requests, group_bytes, bytes_appended, value_bytes_appended;
    uint64_t syncs, sync_ns_total, sync_ns_max, slow_syncs; /* slow: > 1 s */
    /* syncs that took < 2^k * 16 us, k = 0..22, then the rest; not cumulative */
    uint64_t sync_buckets[24];
    uint64_t group_buckets[16]; /* groups of < 2^(k+1) requests; not cumulative */
    uint64_t open_requests, open_request_bytes;
    uint64_t failpoint_hits; /* faults injected since the start; tests */
    uint64_t state_hash[2];
    uint32_t clustered, leading; /* driven by bp_raft_*; this member leads */
};

struct bp_finding {
    char file[64];
    uint64_t offset;
    uint64_t revision; /* of the damaged version, 0 unknown */
    uint32_t key_size;
    uint8_t key[4097]; /* stored key: one keyspace byte first; key_size 0: not about a key */
    char message[256];
};

const char *bp_version_string(void);
const char *bp_reason_name(int reason);
uint32_t bp_crc32c(uint32_t crc, const void *data, size_t size);

/* ---- life ------------------------------------------------------------------------------------ */

/*
 * Opens or makes a store: locks it, recovers, starts its threads. Blocks for as long as recovery
 * takes.
 */
int bp_open(const struct bp_options *options, bp_store **store, struct bp_error *error);
/*
 * Refuses new requests, finishes open ones, syncs, joins the threads, frees. Queues and watches
 * must be closed first.
 */
int bp_close(bp_store *store, struct bp_error *error);
void bp_get_status(bp_store *store, struct bp_status *status);

/* ---- requests -------------------------------------------------------------------------------- */

/* A completion queue with one eventfd; one consumer thread at a time takes from it. */
bp_queue *bp_queue_new(bp_store *store);
int bp_queue_fd(const bp_queue *queue);
uint32_t bp_queue_take(bp_queue *queue, struct bp_completion *out, uint32_t max);
void bp_completion_free(struct bp_completion *completion);
/* Drops what was not taken; open requests complete into nothing. */
void bp_queue_free(bp_queue *queue);

/*
 * Submit one request of a KV method (numbers in native/src/wire.h) as its protobuf bytes; the
 * completion carries the reply's protobuf bytes. Bad requests and full queues fail at once and
 * complete nothing. A read whose reply would wait behind queue_bytes_max of others is QUEUE_FULL, a
 * write then REPLY_TOO_LARGE: it was applied. `request` is copied. keyspace: 'u' for clients, 'o'
 * objects, 's' system.
 */
int bp_submit_wire(bp_store *store, bp_queue *queue, int method, uint8_t keyspace,
                   const void *request, uint64_t size, uint64_t cookie, struct bp_error *error);
/*
 * The same for one Pipeline frame: one completion carrying the PipelineResponse when every op of
 * the frame is done. Fails at once only for a frame that is malformed, or when the queue is full
 * now; whatever else goes wrong is a result of each op.
 */
int bp_submit_frame(bp_store *store, bp_queue *queue, uint8_t keyspace, const void *frame,
                    uint64_t size, uint64_t cookie, struct bp_error *error);
/*
 * Submit one request in the op encoding (native/src/ops.h); the reply is 8 bytes revision, 8 bytes
 * deleted, 8 bytes succeeded, little-endian.
 */
int bp_submit(bp_store *store, bp_queue *queue, const void *request, uint64_t size, uint64_t cookie,
              struct bp_error *error);
/*
 * Read length bytes at offset of one value (length past the end is cut). The reply is `prefix`,
 * then the bytes; aux their CRC32C. NOT_FOUND without the key. revision 0: the newest.
 */
int bp_submit_value(bp_store *store, bp_queue *queue, uint8_t keyspace, const void *key,
                    uint32_t key_size, uint64_t revision, uint32_t offset, uint32_t length,
                    const void *prefix, uint32_t prefix_size, uint64_t cookie,
                    struct bp_error *error);
/* Raise the compaction revision to `revision` (0: the newest). Reply as bp_submit. */
int bp_submit_compact(bp_store *store, bp_queue *queue, uint64_t revision, uint64_t cookie,
                      struct bp_error *error);

/*
 * Blocking forms, run by the calling thread where it can take the driver's role. Release replies
 * with bp_reply_free.
 */
int bp_call_wire(bp_store *store, int method, uint8_t keyspace, const void *request, uint64_t size,
                 struct bp_reply *reply, struct bp_error *error);
int bp_execute(bp_store *store, const void *request, uint64_t size, uint64_t *revision,
               uint64_t *deleted, int *succeeded, struct bp_error *error);
/*
 * The newest value into a caller's buffer: *size its full size (OUT_OF_RANGE when it does not fit),
 * NOT_FOUND.
 */
int bp_get(bp_store *store, uint8_t keyspace, const void *key, uint32_t key_size, void *value,
           uint32_t capacity, uint32_t *size, uint64_t *mod_revision, struct bp_error *error);
void bp_reply_free(struct bp_reply *reply);

/* ---- watches --------------------------------------------------------------------------------- */

/*
 * `request` is a WatchRequest. Whenever there is something to take after bp_watch_next said 0, one
 * completion with `cookie` and no reply comes.
 */
int bp_watch_open(bp_store *store, bp_queue *queue, uint8_t keyspace, const void *request,
                  uint64_t size, uint64_t cookie, bp_watch **watch, struct bp_error *error);
/*
 * 1: *reply is a WatchResponse, call again. 0: nothing now, a completion will come. 2: *reply is
 * the last one (canceled). Negative never.
 */
int bp_watch_next(bp_watch *watch, struct bp_reply *reply);
void bp_watch_close(bp_watch *watch);

/* ---- operations ------------------------------------------------------------------------------ */

/*
 * Scrub every retained value and checkpoint in bounded steps: 1 a finding, 0 go on, 2 the end, else
 * an error code (>= 3). *bytes grows.
 */
bp_scrub *bp_scrub_new(bp_store *store);
int bp_scrub_next(bp_scrub *scrub, struct bp_finding *finding, uint64_t *bytes,
                  struct bp_error *error);
void bp_scrub_free(bp_scrub *scrub);
/*
 * A consistent snapshot as a stream of bytes (native/src/backup.h): each call fills up to `size`,
 * *n == 0 at the end. 16 at a time: RESOURCE_EXHAUSTED/QUEUE_FULL beyond.
 */
int bp_backup_new(bp_store *store, bp_backup **backup, uint64_t *revision, struct bp_error *error);
int bp_backup_next(bp_backup *backup, void *buffer, uint64_t size, uint64_t *n,
                   struct bp_error *error);
void bp_backup_free(bp_backup *backup);
/*
 * Offline: make a store in the new directory `options->dir` from a backup file; new cluster id,
 * revision jumped (STORAGE.md 5).
 */
int bp_restore(const struct bp_options *options, const char *backup_path, struct bp_error *error);
/* What a directory became: see bp_recover. */
struct bp_recovered {
    uint8_t cluster_id[16];
    uint64_t member_id;
    uint64_t revision; /* the first that a write gets is above it */
};
/*
 * Offline: make the store in `options->dir` a cluster of its own, with itself as the only voter, a
 * new cluster id and the revision jumped (STORAGE.md 5). Every entry it holds counts as committed.
 * FAILED_PRECONDITION when it is open elsewhere, is no store, or has received nothing.
 */
int bp_recover(const struct bp_options *options, struct bp_recovered *recovered,
               struct bp_error *error);
/*
 * Offline: explain a directory, one line each; with rebuild, salvage into the new directory
 * `rebuild_dir`. 0 sound, 15 damaged.
 */
int bp_fsck(const char *dir, const char *rebuild_dir, struct bp_reply *report,
            struct bp_error *error);

/* ---- stepping (options.manual) --------------------------------------------------------------- */

/* Drive everything queued through append, sync, apply. Returns the number of requests completed. */
uint64_t bp_step_drive(bp_store *store);
/* Expiry, compaction proposals, marks, as the clock says. */
void bp_step_tick(bp_store *store);
/* One checkpoint now if due (or `force`); 0 or an error code. */
int bp_step_checkpoint(bp_store *store, int force, struct bp_error *error);
/* One bounded step of trimming and cleaning: 1 when there is more to do. */
int bp_step_clean(bp_store *store);

/*
 * One round of the log's or the applier's thread of a cluster's driver: how many pieces of work, or
 * entries and answers, it came to; 0: there was nothing to do, or nothing could be done.
 */
uint64_t bp_step_log(bp_store *store);
uint64_t bp_step_apply(bp_store *store);

/* ---- a cluster's driver (native/src/raft.h) --------------------------------------------------- */

/*
 * Raft itself is the caller's: it decides, these calls carry out. One thread at a time calls them;
 * none of them waits for the disk but bp_raft_message, which may read old entries. Requests go in
 * and answers come out by the same calls as ever, from any thread.
 *
 *   gather, propose, receive   entries at the log's end, in memory
 *   persist(number)            all of them, with the hard state, to the log: one sync for whatever
 *                              waits
 *   look                       what is durable, by (index, term), and applied
 *   commit                     the applier applies through min(committed, durable)
 *
 * LEADER_LOST: what became of a write is unknown. NO_LEADER: nothing was done.
 */
struct bp_raft_entry {
    uint64_t index, term;
    uint32_t size; /* its bytes in a message */
    uint32_t type; /* enum bp_entry_type */
};

struct bp_raft_members {
    uint32_t voters, learners, version; /* version: of the cluster, what all members understand */
    uint64_t members[16];               /* voters first */
};

struct bp_raft_state {
    uint64_t member_id;
    uint64_t term, vote, commit;              /* the hard state as it is durable */
    uint64_t compacted_index, compacted_term; /* entries up to here are not served as log */
    uint64_t last_index, last_term;           /* written or still to be written */
    uint64_t durable_index, durable_term;     /* the last entry that is durable */
    uint64_t applied_index, committed_index;
    uint64_t persisted;       /* the number of the last bp_raft_persist that is durable */
    uint64_t log_bytes;       /* of the entries that are served */
    uint64_t queued_writes;   /* for bp_raft_gather or bp_raft_forward */
    uint64_t queued_arrivals; /* of these: what entered together, as a frame's, is one */
    uint64_t queued_bytes;
    uint64_t queued_reads; /* for bp_raft_gate */
    uint64_t stalled_ms;   /* how long the log has been in one write or sync */
    uint32_t poisoned;     /* this member can be trusted with nothing any more */
    uint32_t disk_full;
    uint64_t hash_index, hash[2]; /* the state hash at the last compaction entry that was applied */
    struct bp_raft_members members; /* as applied */
};

/*
 * The caller drives from now on, for as long as the store is open. Waits until what is being
 * written is applied. A store of a cluster is taken when it is opened. FAILED_PRECONDITION with
 * interval durability.
 */
int bp_raft_take(bp_store *store, struct bp_error *error);
/* Readable when the state has changed; bp_raft_look makes it quiet again. -1: not taken. */
int bp_raft_fd(bp_store *store);
void bp_raft_look(bp_store *store, struct bp_raft_state *state);
/* Entries from `first` on as the log has them, at most `max`; how many. */
uint32_t bp_raft_entries(bp_store *store, uint64_t first, struct bp_raft_entry *out, uint32_t max);
/*
 * The membership that the CONFIG entry `index`, or the compacted index, holds; 0: the applied one,
 * of a store that is not taken too. NOT_FOUND.
 */
int bp_raft_membership(bp_store *store, uint64_t index, struct bp_raft_members *out,
                       struct bp_error *error);

/*
 * A leader of `term`: queued writes become entries, about `bytes_max` of them. Returns how many
 * entries, *last the log's end and *bytes their size in messages. Reads that were queued alone wait
 * for a gate.
 */
uint32_t bp_raft_gather(bp_store *store, uint64_t term, uint64_t bytes_max, uint64_t *last,
                        uint64_t *bytes);
/* One entry: a no-op, or with `members` a CONFIG entry (version 0: as it is). */
int bp_raft_propose(bp_store *store, uint64_t term, const struct bp_raft_members *members,
                    struct bp_raft_entry *out, struct bp_error *error);
/*
 * The entries of one message, those not here already; from the first that differs on they
 * supersede what was here, and its writes fail with LEADER_LOST. DATA_LOSS: its checksum is wrong,
 * or it contradicts what is applied. OUT_OF_RANGE: it does not continue the log.
 */
int bp_raft_receive(bp_store *store, const void *message, uint64_t size, struct bp_error *error);
/* Have everything so far, and this hard state, made durable. Numbers ascend. */
int bp_raft_persist(bp_store *store, uint64_t number, uint64_t term, uint64_t vote, uint64_t commit,
                    struct bp_error *error);
/* Of first .. last, as many entries as fit bytes_max, at least one: the last one and their size. */
void bp_raft_reach(bp_store *store, uint64_t first, uint64_t last, uint64_t bytes_max,
                   uint64_t *reached, uint64_t *bytes);
/*
 * Entries first .. last as a message. OUT_OF_RANGE: they are not served; DATA_LOSS: one of them is
 * damaged on this disk.
 */
int bp_raft_message(bp_store *store, uint64_t first, uint64_t last, struct bp_reply *out,
                    struct bp_error *error);
void bp_raft_commit(bp_store *store, uint64_t index);
/*
 * Leading or not. Whoever begins gives all leases their full time. Whoever ends fails the writes
 * that are not applied: LEADER_LOST.
 */
void bp_raft_lead(bp_store *store, int leading, uint64_t term);
/*
 * From now on the descriptor tells of queued writes only when there are write_bytes of them, or so
 * many arrivals, and of queued reads only if !reads: the caller would do nothing about them yet.
 * What waits and is not held any more is told at once.
 */
void bp_raft_hold(bp_store *store, uint64_t write_bytes, uint64_t arrivals, int reads);
/*
 * Entries through `index` that are applied need not be served, but the newest keep_bytes of them
 * are; the compacted index.
 */
uint64_t bp_raft_compact(bp_store *store, uint64_t index, uint64_t keep_bytes);

/* All reads queued so far, and lease calls at a leader, under one number; 0: none. */
uint64_t bp_raft_gate(bp_store *store);
/* Answer them once applied through `index`; with `refuse` they fail: NO_LEADER. */
void bp_raft_release(bp_store *store, uint64_t gate, uint64_t index, int refuse);

/*
 * Queued writes and lease calls, about bytes_max of them, as a batch for the leader: its number,
 * 0: none. Their callers wait for bp_raft_answer or bp_raft_forward_failed.
 */
uint64_t bp_raft_forward(bp_store *store, uint64_t bytes_max, struct bp_reply *out);
/* The leader's outcomes of a batch. DATA_LOSS for bytes that are none; an unknown batch is 0. */
int bp_raft_answer(bp_store *store, const void *outcomes, uint64_t size, struct bp_error *error);
/* `sent`: LEADER_LOST, else NO_LEADER. */
void bp_raft_forward_failed(bp_store *store, uint64_t batch, int sent);
/*
 * At the leader: submit a batch of another member; one completion carries the outcomes when all of
 * it is done. UNAVAILABLE/NO_LEADER where this member does not lead, QUEUE_FULL: nothing was done.
 */
int bp_raft_forwarded(bp_store *store, bp_queue *queue, const void *batch, uint64_t size,
                      uint64_t cookie, struct bp_error *error);
/* Everything queued fails: NO_LEADER. */
void bp_raft_refuse_queued(bp_store *store);
/*
 * For a follower whose log cannot store what was decided: everything that waits for being applied
 * here fails. What is queued, and reads: UNAVAILABLE, DISK_FULL or else NO_LEADER; nothing was done.
 * Batches that the leader has answered: LEADER_LOST.
 */
void bp_raft_give_up(bp_store *store);

/* ---- a simulated machine (native/src/io.h) ----------------------------------------------------- */

/*
 * A whole machine's disk and clock in memory, deterministic in `seed`. NULL when out of memory.
 * Thread safe.
 */
bp_sim *bp_sim_new(uint64_t seed);
void bp_sim_free(bp_sim *sim);
/*
 * As bp_open, on that machine; it outlives the store. A crash failpoint is no end of the process:
 * everything after it fails.
 */
int bp_open_sim(const struct bp_options *options, bp_sim *sim, bp_store **store,
                struct bp_error *error);
/*
 * Frees without marking, syncing or finishing anything: what a crash leaves behind stays. For tests
 * and the simulator.
 */
void bp_store_abandon(bp_store *store);
void bp_sim_advance_ns(bp_sim *sim, uint64_t ns);
/*
 * Power cut: every handle dies, locks fall. Of each file, synced 512-byte sectors stay; each
 * unsynced sector is kept with probability keep_per_1024/1024, chosen by the seed, else its last
 * synced content (zeros if never) is back. Directory entries (create, rename, unlink) not yet
 * covered by a sync of the directory are each kept or undone the same way, in order per name. File
 * sizes not yet synced likewise.
 */
void bp_sim_power_cut(bp_sim *sim, uint32_t keep_per_1024);
/*
 * Power cut in the middle of the n-th byte written from now on (it is lost, the n-1 before it reach
 * the page cache): that write and every later call fail until bp_sim_power_cut() turns the machine
 * on again. 0 disarms.
 */
void bp_sim_cut_after_bytes(bp_sim *sim, uint64_t bytes);
/* Size limit of the disk in bytes (allocated plus written), 0 none: beyond it it is full. */
void bp_sim_set_capacity(bp_sim *sim, uint64_t bytes);
/* Flip bit `bit` of the byte at `offset`, on the medium. 0, or a negative errno. */
int bp_sim_flip(bp_sim *sim, const char *path, uint64_t offset, unsigned bit);
int bp_sim_file_size(const bp_sim *sim, const char *path, uint64_t *size);
/* With lying set, sync itself does nothing (a test's control). */
void bp_sim_set_sync_lies(bp_sim *sim, int lies);
/* How many unsynced sectors power cuts have not kept so far. */
uint64_t bp_sim_lost_sectors(const bp_sim *sim);
/* Arm failpoints, as options.failpoints, of a store that is open on a simulated machine. */
int bp_sim_arm(bp_store *store, const char *failpoints, struct bp_error *error);

/* ---- checks used by the tests ---------------------------------------------------------------- */

/* Decode a request and encode it again as protobuf, for comparison with google.protobuf. */
int bp_wire_describe_request(int method, uint8_t keyspace, const void *request, uint64_t size,
                             struct bp_reply *text, struct bp_error *error);
/* ---- the guard: the one check every call passes (native/src/guard.c) ------------------------- */

struct bp_guard_token {
    uint8_t hash[32];
    uint32_t scopes;
    char name[64]; /* for logs; never the token */
};

struct bp_guard;

/* NULL: no memory. */
struct bp_guard *bp_guard_new(void);
void bp_guard_free(struct bp_guard *guard);
/*
 * Replace all tokens at once: a call sees the old table or the new one. n = 0 opens the guard to
 * everyone. INVALID_ARGUMENT for unknown scopes, a name that does not end, the same hash twice, or
 * too many; then the old table stays.
 */
int bp_guard_set_tokens(struct bp_guard *guard, const struct bp_guard_token *tokens, uint32_t n,
                        struct bp_error *err);
/*
 * Make a method known, or change it. `scope` is one bit or 0; `request_bytes_max` 0 is no limit
 * (streams, whose messages are checked one by one). INVALID_ARGUMENT for a number or name out of
 * range.
 */
int bp_guard_set_method(struct bp_guard *guard, uint32_t method, const char *name, uint32_t scope,
                        uint64_t request_bytes_max, struct bp_error *err);

/*
 * May this call run? `token_hash` is 32 bytes, NULL when the call carried none; times are of one
 * clock, deadline_ns 0 is none. BP_OK: it is in flight, and bp_guard_exit must follow. Else it is
 * counted as denied, and must not:
 *   UNAUTHENTICATED/TOKEN_MISSING, TOKEN_UNKNOWN
 *       PERMISSION_DENIED/SCOPE_MISSING (also for a method nobody made known)
 *   DEADLINE_EXCEEDED/DEADLINE_PASSED               INVALID_ARGUMENT/REQUEST_TOO_LARGE
 */
int bp_guard_enter(struct bp_guard *guard, uint32_t method, const uint8_t *token_hash,
                   uint64_t request_bytes, uint64_t now_ns, uint64_t deadline_ns,
                   struct bp_error *err);
/* The call ended with `code` (an unknown one counts as INTERNAL). */
void bp_guard_exit(struct bp_guard *guard, uint32_t method, int code, uint64_t latency_ns);
/* Who is this? false: nobody. For logs. */
int bp_guard_identify(struct bp_guard *guard, const uint8_t *token_hash, char name[64],
                      uint32_t *scopes);

/* Counters of one method since the start. Each is exact; together they are not one instant. */
struct bp_guard_stats {
    char name[64];
    uint32_t scope;
    uint64_t in_flight;
    uint64_t denied;    /* refused by enter; also in `codes` */
    uint64_t codes[17]; /* calls that ended, by status; codes[0] is OK */
    uint64_t latency_sum_ns;
    uint64_t latency[18]; /* calls of bucket i: above bound i - 1, at most bound i */
};
/* false when no such method is known. Methods run from 0 to 128 - 1. */
int bp_guard_snapshot(const struct bp_guard *guard, uint32_t method, struct bp_guard_stats *stats);
/* The upper bound of a latency bucket in nanoseconds; UINT64_MAX of the last. */
uint64_t bp_guard_bucket_bound(uint32_t bucket);

/* cffi: end */

/* ---- snapshots between members (native/src/manifest.h, fetch.h, install.h, repair.h) ---------- */
/* cffi: begin */

typedef struct bp_manifest bp_manifest;
typedef struct bp_install bp_install;

/*
 * All replicated state at the applied index *index, values left out, as a stream: each call fills up
 * to `size`, *n == 0 at the end. What it names is kept from trimming until bp_manifest_free, for
 * which the caller sets a time. 4 at a time: RESOURCE_EXHAUSTED/QUEUE_FULL beyond.
 */
int bp_manifest_new(bp_store *store, bp_manifest **manifest, uint64_t *index, uint64_t *term,
                    struct bp_error *error);
int bp_manifest_next(bp_manifest *manifest, void *buffer, uint64_t size, uint64_t *n,
                     struct bp_error *error);
void bp_manifest_free(bp_manifest *manifest);
/*
 * Any member: the values that a message of bp_install_wanted or bp_damaged_next asks for, as one
 * message below 3 MiB. What is gone, or damaged here, is left out.
 */
int bp_fetch(bp_store *store, const void *wanted, uint64_t size, struct bp_reply *values,
             struct bp_error *error);

/*
 * Take another member's state over. One at a time; one thread at a time; the store serves on. Errors
 * change nothing in the store; what was brought is lost at the next start.
 *
 *   bp_install_manifest until *_look says complete -> wanted, fetch, values .. until wanted says 2
 *   -> bp_install_finish -> bp_install_free -> bp_close, bp_open: the sender's state at the index
 */
int bp_install_new(bp_store *store, bp_install **install, struct bp_error *error);
/*
 * The manifest's bytes, in pieces of any size. After an error (DATA_LOSS: damaged) the manifest is
 * forgotten, and the next piece is the first one of a new manifest.
 */
int bp_install_manifest(bp_install *install, const void *bytes, uint64_t size,
                        struct bp_error *error);
/* The same at any other time: a new manifest comes. Values that were fetched are kept. */
int bp_install_restart(bp_install *install, struct bp_error *error);
/*
 * 1: *wanted asks for values that are not here; 0: nothing yet, call again (bytes were verified); 2:
 * all are here; else an error code (>= 3; RESOURCE_EXHAUSTED/DISK_FULL may be tried again).
 * `ahead`: while answers to earlier questions are still to come; then what those ask for is left out,
 * and *wanted is empty when there is nothing else. Without it, what has not come is asked for again.
 */
int bp_install_wanted(bp_install *install, uint32_t ahead, struct bp_reply *wanted,
                      struct bp_error *error);
/*
 * An answer of any member; *taken: values that were wanted. 0 taken of a whole batch: the sender no
 * longer has them, a new manifest is needed.
 */
int bp_install_values(bp_install *install, const void *values, uint64_t size, uint32_t *taken,
                      struct bp_error *error);
/*
 * Make it the state of the store: durable when this returns, there when the store is opened again.
 * HARDSTATE is (term, vote, the manifest's index). Every entry behind the index is forgotten: it is
 * the caller's to know that none of them was acknowledged and matches the sender's log. From here on
 * the store takes no write (UNAVAILABLE/STORE_CLOSED) and makes no checkpoint: close it.
 * FAILED_PRECONDITION for an index below what is applied. IO_FAILED may leave either state, for the
 * next start to find.
 */
int bp_install_finish(bp_install *install, uint64_t term, uint64_t vote, struct bp_error *error);
void bp_install_free(bp_install *install);

struct bp_install_state {
    uint32_t complete, ready, done; /* the manifest; all values; finish */
    uint64_t index, term, revision; /* of the manifest, once it has begun */
    uint8_t cluster_id[16];
    uint64_t state_hash[2];
    uint64_t versions, value_bytes;
    uint64_t held, held_bytes, fetched, fetched_bytes; /* values, since this manifest */
};
void bp_install_look(bp_install *install, struct bp_install_state *state);

/*
 * Values that reads or a scrub found damaged, as a message for another member's bp_fetch; empty when
 * there are none. Each is told once; what stays damaged is found again.
 */
int bp_damaged_next(bp_store *store, struct bp_reply *wanted, struct bp_error *error);
/*
 * Put what bp_fetch answered in the place of damaged values: *repaired of them are durable.
 * INVALID_ARGUMENT/VALUE_DAMAGED for bytes that are not the value.
 */
int bp_repair(bp_store *store, const void *values, uint64_t size, uint32_t *repaired,
              struct bp_error *error);

/* cffi: end */

#pragma GCC visibility pop

#endif

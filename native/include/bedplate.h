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

#pragma GCC visibility pop

#endif

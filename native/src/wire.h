/*
 * The wire of KVService: protobuf bytes of bedplate.kv.v1 in, op encoding or a read out; results
 * in, protobuf bytes out. Our own decoder and encoder for exactly these messages: unknown fields
 * are skipped as protobuf demands, nothing else is trusted. Compared with google.protobuf on random
 * messages in the tests.
 */
#ifndef BP_WIRE_H
#define BP_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "epoch.h"
#include "error.h"
#include "index.h"
#include "ops.h"
#include "segment.h"

/* The unary methods; numbers are ours, shared with Python through bedplate.h. */
enum bp_method {
    BP_METHOD_GET = 1,
    BP_METHOD_PUT = 2,
    BP_METHOD_DELETE = 3,
    BP_METHOD_SCAN = 4,
    BP_METHOD_TXN = 5,
    BP_METHOD_BATCH = 6,
    BP_METHOD_GRANT_LEASE = 7,
    BP_METHOD_REVOKE_LEASE = 8,
    BP_METHOD_GET_LEASE = 9,
    BP_METHOD_KEEP_ALIVE = 10, /* one message of the stream */
    BP_METHOD_PIPELINE = 11,   /* one frame; bp_wire_describe only, else bp_wire_decode_frame */
    BP_METHOD_WATCH = 12,      /* bp_wire_describe only, else bp_wire_decode_watch */
};

/* Operator limits, all <= the constants of limits.h. */
struct bp_wire_limits {
    uint32_t key_max, value_max, request_max; /* bytes */
    /* at most 65535; a Pipeline frame has at most batch_ops_max ops */
    uint32_t txn_ops_max, batch_ops_max;
    uint32_t scan_page_max; /* keys a page, also the default */
    /* of an encoded reply: a page ends early, with a token, rather than pass it */
    uint32_t reply_bytes_max;
    uint64_t lease_ttl_min_ms, lease_ttl_max_ms;
};

struct bp_wire_read { /* GET, SCAN, GET_LEASE, KEEP_ALIVE */
    int method;
    struct bp_slice start, end; /* stored keys (keyspace byte first), point into `keys` */
    uint64_t revision;          /* 0: the newest */
    uint64_t limit;             /* SCAN, GET_LEASE: keys a page, never 0 */
    bool reverse, keys_only, count_only, serializable;
    /* SCAN: what its page tokens are bound to (range and direction, before a token moved it) */
    uint32_t binding;
    uint64_t lease;
    bool want_keys; /* GET_LEASE */
    uint8_t *keys;  /* owned */
};

struct bp_wire_call {
    int method;
    uint8_t keyspace;
    bool is_write;
    /*
     * is_write: the encoded request, valid and key-checked. A lease grant's id may be 0: the driver
     * fills it in
     */
    struct bp_builder request;
    struct bp_wire_read read;
};

/*
 * Decode and check one request of `method`. INVALID_ARGUMENT with field path (e.g.
 * "then_ops[3].put.key") and reason. On success the call owns memory: bp_wire_call_free. COMPACT
 * and expiry never come this way.
 */
int bp_wire_decode(int method, uint8_t keyspace, const uint8_t *buf, uint64_t n,
                   const struct bp_wire_limits *limits, struct bp_wire_call *call,
                   struct bp_error *err);
void bp_wire_call_free(struct bp_wire_call *call);

/* What replies are made from: a consistent place to read. */
struct bp_view {
    const struct bp_index *index;
    struct bp_segments *segments;
    struct bp_epoch *epoch;
    uint64_t revision; /* the newest published one */
    uint64_t floor;    /* the oldest revision that may be read: the compaction revision */
};

/*
 * Answer GET or SCAN into `reply` (protobuf bytes). OUT_OF_RANGE for a revision outside [floor,
 * revision]; DATA_LOSS. The caller looks at the floor again afterwards, or holds a pin: a read that
 * trimming overtook may have holes.
 */
int bp_wire_read(const struct bp_wire_read *read, const struct bp_view *view,
                 const struct bp_wire_limits *limits, struct bp_buffer *reply,
                 struct bp_error *err);

/*
 * What apply decided about a request; with the request and history, this is all a reply needs (so
 * it is all the request-id table keeps).
 */
struct bp_outcome {
    uint64_t revision;
    uint64_t deleted; /* keys deleted */
    uint64_t lease, ttl_ms;
    bool succeeded; /* the compares held (true without any) */
};

/*
 * Build the reply of a write from its request and outcome. Reads inside a Txn, previous values and
 * delete counts come from history: a key written by an earlier op of the branch is read at
 * outcome.revision, any other at outcome.revision - 1. Where history no longer reaches back that
 * far (a replay), OUT_OF_RANGE/REVISION_COMPACTED; the write stands. DATA_LOSS/VALUE_DAMAGED. As
 * with bp_wire_read the caller holds a pin at outcome.revision - 1, or looks at the floor again,
 * when bp_wire_reads_history says so.
 */
int bp_wire_write_reply(int method, const struct bp_request *request,
                        const struct bp_outcome *outcome, const struct bp_view *view,
                        const struct bp_wire_limits *limits, struct bp_buffer *reply,
                        struct bp_error *err);

/* Does the reply of this write show anything that only history knows (in either branch)? */
bool bp_wire_reads_history(int method, const struct bp_request *request);

/*
 * GET_LEASE: keys without their keyspace byte, as many as fit in reply_bytes_max; key_count says
 * how many there are.
 */
struct bp_wire_lease {
    uint64_t revision, lease, ttl_ms, remaining_ms, key_count;
    const struct bp_slice *keys;
    uint64_t n_keys;
};
void bp_wire_get_lease_reply(const struct bp_wire_lease *lease, const struct bp_wire_limits *limits,
                             struct bp_buffer *reply);
/* KEEP_ALIVE; ttl 0: no such lease. */
void bp_wire_keep_alive_reply(uint64_t revision, uint64_t lease, uint64_t ttl_ms,
                              struct bp_buffer *reply);

/* ---- Pipeline frames ------------------------------------------------------------------------- */

struct bp_wire_frame_op {
    uint64_t id;
    int code; /* BP_OK, or why `call` is not there */
    struct bp_error error;
    struct bp_wire_call call;
};
/*
 * Decode one PipelineRequest into ops (owned array). A bad op fails alone; only a malformed frame
 * fails the call.
 */
int bp_wire_decode_frame(uint8_t keyspace, const uint8_t *buf, uint64_t n,
                         const struct bp_wire_limits *limits, struct bp_wire_frame_op **ops,
                         uint32_t *n_ops, struct bp_error *err);
void bp_wire_frame_free(struct bp_wire_frame_op *ops, uint32_t n_ops);
/* Begins a PipelineResponse: its revision. Then one or more results. */
void bp_wire_frame_begin(struct bp_buffer *reply, uint64_t revision);
/* Append one PipelineResult: a method's reply bytes, or an error when code != BP_OK. */
void bp_wire_frame_result(struct bp_buffer *reply, uint64_t id, int method,
                          const struct bp_buffer *result, const struct bp_error *error);

/* ---- Watch ----------------------------------------------------------------------------------- */

struct bp_wire_watch {
    struct bp_slice start, end; /* stored keys, into `keys` */
    uint64_t start_revision;    /* 0: from now */
    uint32_t progress_ms;
    bool with_values, with_previous, no_puts, no_deletes;
    uint8_t *keys; /* owned */
};
int bp_wire_decode_watch(uint8_t keyspace, const uint8_t *buf, uint64_t n,
                         const struct bp_wire_limits *limits, struct bp_wire_watch *watch,
                         struct bp_error *err);
void bp_wire_watch_free(struct bp_wire_watch *watch);
/*
 * Appends one Event field of a WatchResponse, or nothing where the watch leaves such events out.
 * Reads values through the view: the caller is in the read section (bp_epoch_enter) in which it got
 * the versions from history. `previous` always carries its value.
 */
int bp_wire_watch_event(struct bp_buffer *reply, const struct bp_wire_watch *watch,
                        struct bp_slice key, const struct bp_version *version,
                        const struct bp_version *previous, const struct bp_view *view,
                        struct bp_error *err);
enum bp_watch_note {
    BP_WATCH_EVENTS,
    BP_WATCH_FRAGMENT,
    BP_WATCH_CREATED,
    BP_WATCH_PROGRESS,
    BP_WATCH_CANCELED
};
/*
 * Appends the fields that are not events: revision and what kind of response it is; `error` and
 * resume_revision for CANCELED.
 */
void bp_wire_watch_note(struct bp_buffer *reply, int note, uint64_t revision,
                        uint64_t resume_revision, const struct bp_error *error);

/* ---- the test's window ----------------------------------------------------------------------- */

/*
 * Decode a request of any method and encode what was understood as protobuf of the same message, in
 * one normal form: prefix as start and end, defaults made explicit (limits, operators), no unknown
 * fields. Tests compare it with what google.protobuf understands.
 */
int bp_wire_describe(int method, uint8_t keyspace, const uint8_t *buf, uint64_t n,
                     const struct bp_wire_limits *limits, struct bp_buffer *text,
                     struct bp_error *err);

#endif

/*
 * The messages that requests share, parsed: fields as they stand in the client's bytes (borrowed),
 * last one wins, then checked as a whole.
 *
 *   bytes --parse--> struct of fields --check--> bp_op, or an error with the field's path
 *
 * Parsing a message again into the same struct merges, which is what protobuf does to a message
 * field that occurs twice.
 */
#ifndef BP_WIRE_FIELDS_H
#define BP_WIRE_FIELDS_H

#include "protobuf.h"
#include "wire.h"

/*
 * Where a message stands in its request; written out only when an error names it:
 * "then_ops[3].put".
 */
struct bp_wire_path {
    const char *list; /* NULL: a field of the request itself */
    uint32_t index;
    const char *member; /* NULL: an element of the list itself */
};

/* INVALID_ARGUMENT at path.field; `field` NULL names the element itself. */
int bp_wire_fail(struct bp_error *err, const struct bp_wire_path *path, const char *field,
                 int reason, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
int bp_wire_malformed(struct bp_error *err, const struct bp_wire_path *path);
int bp_wire_no_memory(struct bp_error *err);

struct bp_wire_put {
    struct bp_slice key, value, request_id;
    uint64_t lease;
    bool keep_lease, return_previous;
};
struct bp_wire_delete {
    struct bp_slice key, range_end, request_id;
    bool return_previous;
};
struct bp_wire_get {
    struct bp_slice key;
    uint64_t revision;
    uint32_t consistency;
};
struct bp_wire_range {
    struct bp_slice start, end, prefix;
};
struct bp_wire_scan {
    struct bp_wire_range range;
    uint32_t limit;
    bool reverse, keys_only, count_only;
    uint64_t revision;
    uint32_t consistency;
    struct bp_slice page_token;
};

/*
 * `whole`: the request of the method of this name; else the op of a Txn or Batch, which has fewer
 * fields.
 */
int bp_wire_parse_put(struct bp_slice message, bool whole, const struct bp_wire_path *path,
                      struct bp_wire_put *put, struct bp_error *err);
int bp_wire_parse_delete(struct bp_slice message, bool whole, const struct bp_wire_path *path,
                         struct bp_wire_delete *del, struct bp_error *err);
int bp_wire_parse_get(struct bp_slice message, bool whole, const struct bp_wire_path *path,
                      struct bp_wire_get *get, struct bp_error *err);
int bp_wire_parse_scan(struct bp_slice message, bool whole, const struct bp_wire_path *path,
                       struct bp_wire_scan *scan, struct bp_error *err);
/* A request_id field: protobuf text must be UTF-8, each time it occurs. */
int bp_wire_parse_request_id(const struct bp_pb_field *field, struct bp_slice *id,
                             struct bp_error *err);

/* `field` is the name of the field the key stands in. */
int bp_wire_check_key(struct bp_slice key, const char *field, const struct bp_wire_limits *limits,
                      const struct bp_wire_path *path, struct bp_error *err);
int bp_wire_check_value(struct bp_slice value, const struct bp_wire_limits *limits,
                        const struct bp_wire_path *path, struct bp_error *err);
int bp_wire_check_request_id(struct bp_slice id, struct bp_error *err);
int bp_wire_check_consistency(uint32_t consistency, bool *serializable, struct bp_error *err);

/*
 * A range as client keys: exclusive end, empty for the end of the keyspace. Slices into the request
 * or into `successor`.
 */
struct bp_wire_bounds {
    struct bp_slice start, end;
    uint8_t successor[BP_KEY_MAX]; /* not initialised */
};
int bp_wire_check_range(const struct bp_wire_range *range, const struct bp_wire_limits *limits,
                        const struct bp_wire_path *path, struct bp_wire_bounds *bounds,
                        struct bp_error *err);
/* The page size asked for, or the default. */
int bp_wire_check_limit(uint32_t asked, const char *field, const struct bp_wire_limits *limits,
                        const struct bp_wire_path *path, uint64_t *limit, struct bp_error *err);

int bp_wire_put_op(const struct bp_wire_put *put, const struct bp_wire_limits *limits,
                   const struct bp_wire_path *path, struct bp_op *op, struct bp_error *err);
int bp_wire_delete_op(const struct bp_wire_delete *del, const struct bp_wire_limits *limits,
                      const struct bp_wire_path *path, struct bp_op *op, struct bp_error *err);
int bp_wire_get_op(const struct bp_wire_get *get, const struct bp_wire_limits *limits,
                   const struct bp_wire_path *path, struct bp_op *op, struct bp_error *err);
int bp_wire_scan_op(const struct bp_wire_scan *scan, const struct bp_wire_limits *limits,
                    const struct bp_wire_path *path, struct bp_wire_bounds *bounds,
                    struct bp_op *op, struct bp_error *err);

/* Txn and Batch (wire_txn.c): the whole request into call->request. */
int bp_wire_decode_txn(struct bp_slice message, const struct bp_wire_limits *limits,
                       struct bp_wire_call *call, struct bp_error *err);
int bp_wire_decode_batch(struct bp_slice message, const struct bp_wire_limits *limits,
                         struct bp_wire_call *call, struct bp_error *err);
/* Lease calls (wire_lease.c). */
int bp_wire_decode_lease(int method, struct bp_slice message, const struct bp_wire_limits *limits,
                         struct bp_wire_call *call, struct bp_error *err);
/*
 * Allocates read->keys and sets start and end as stored keys; an empty end becomes the next
 * keyspace byte.
 */
int bp_wire_store_range(uint8_t keyspace, struct bp_slice start, struct bp_slice end,
                        uint8_t **keys, struct bp_slice *stored_start, struct bp_slice *stored_end,
                        struct bp_error *err);

#endif

/*
 * Lease calls: their requests, and the replies that come from the lease table rather than from
 * history.
 *
 *   GrantLease   LEASE_GRANT   u64 id (0: the driver chooses), u64 ttl_ms
 *   RevokeLease  LEASE_REVOKE  u64 1, u64 id
 *   GetLease     a read: lease, and whether its keys are wanted
 *   KeepAlive    a read: the lease of one message of the stream
 */
#include "wire_fields.h"

static const struct bp_wire_path no_path = {0};

/* Seconds as clients count them; a lease never has more time than it says. */
static uint64_t to_seconds(uint64_t ms) { return ms / 1000; }

static int decode_grant(struct bp_slice message, const struct bp_wire_limits *limits,
                        struct bp_wire_call *call, struct bp_error *err) {
    uint64_t ttl = 0, lease = 0;
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, 1, BP_PB_VARINT)) {
            ttl = f.value; /* an int64: a negative one is a huge number here, refused below */
        } else if (bp_pb_is(&f, 2, BP_PB_VARINT)) {
            lease = f.value;
        }
    }
    if (r.malformed) {
        return bp_wire_malformed(err, &no_path);
    }
    if (ttl == 0 || ttl > limits->lease_ttl_max_ms / 1000 ||
        ttl * 1000 < limits->lease_ttl_min_ms) {
        return bp_wire_fail(err, &no_path, "ttl_seconds", BP_REASON_FIELD_INVALID,
                            "ttl_seconds is %lld, it must be %llu to %llu", (long long)ttl,
                            (unsigned long long)(limits->lease_ttl_min_ms + 999) / 1000,
                            (unsigned long long)to_seconds(limits->lease_ttl_max_ms));
    }
    call->is_write = true;
    bp_builder_begin(&call->request, BP_REQUEST_LEASE_GRANT, bp_slice(NULL, 0), 0);
    bp_builder_u64(&call->request, lease);
    bp_builder_u64(&call->request, ttl * 1000);
    return bp_builder_finish(&call->request, err);
}

static int check_lease(uint64_t lease, struct bp_error *err) {
    return lease != 0 ? BP_OK
                      : bp_wire_fail(err, &no_path, "lease_id", BP_REASON_FIELD_INVALID,
                                     "lease_id is required");
}

static int decode_revoke(struct bp_slice message, struct bp_wire_call *call, struct bp_error *err) {
    uint64_t lease = 0;
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, 1, BP_PB_VARINT)) {
            lease = f.value;
        }
    }
    int code = r.malformed ? bp_wire_malformed(err, &no_path) : check_lease(lease, err);
    if (code != BP_OK) {
        return code;
    }
    call->is_write = true;
    bp_builder_begin(&call->request, BP_REQUEST_LEASE_REVOKE, bp_slice(NULL, 0), 0);
    bp_builder_u64(&call->request, 1);
    bp_builder_u64(&call->request, lease);
    return bp_builder_finish(&call->request, err);
}

static int decode_get_lease(struct bp_slice message, const struct bp_wire_limits *limits,
                            struct bp_wire_read *read, struct bp_error *err) {
    uint32_t limit = 0;
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, 1, BP_PB_VARINT)) {
            read->lease = f.value;
        } else if (bp_pb_is(&f, 2, BP_PB_VARINT)) {
            read->want_keys = f.value != 0;
        } else if (bp_pb_is(&f, 3, BP_PB_VARINT)) {
            limit = (uint32_t)f.value;
        }
    }
    int code = r.malformed ? bp_wire_malformed(err, &no_path) : check_lease(read->lease, err);
    return code != BP_OK ? code
                         : bp_wire_check_limit(limit, "limit", limits, &no_path, &read->limit, err);
}

static int decode_keep_alive(struct bp_slice message, struct bp_wire_read *read,
                             struct bp_error *err) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, 1, BP_PB_VARINT)) {
            read->lease = f.value;
        }
    }
    return r.malformed ? bp_wire_malformed(err, &no_path) : BP_OK;
}

int bp_wire_decode_lease(int method, struct bp_slice message, const struct bp_wire_limits *limits,
                         struct bp_wire_call *call, struct bp_error *err) {
    switch (method) {
    case BP_METHOD_GRANT_LEASE:
        return decode_grant(message, limits, call, err);
    case BP_METHOD_REVOKE_LEASE:
        return decode_revoke(message, call, err);
    case BP_METHOD_GET_LEASE:
        return decode_get_lease(message, limits, &call->read, err);
    default:
        return decode_keep_alive(message, &call->read, err);
    }
}

void bp_wire_get_lease_reply(const struct bp_wire_lease *lease, const struct bp_wire_limits *limits,
                             struct bp_buffer *reply) {
    size_t before = reply->size;
    bp_pb_uint(reply, 1, lease->revision);
    bp_pb_uint(reply, 2, lease->lease);
    bp_pb_uint(reply, 3, to_seconds(lease->ttl_ms));
    bp_pb_uint(reply, 4, lease->remaining_ms);
    bp_pb_uint(reply, 5, lease->key_count);
    for (uint64_t i = 0; i < lease->n_keys; i++) {
        struct bp_slice key = lease->keys[i];
        if (reply->size - before + bp_pb_bytes_size(key.size) > limits->reply_bytes_max) {
            break;
        }
        bp_pb_bytes(reply, 6, key);
    }
}

void bp_wire_keep_alive_reply(uint64_t revision, uint64_t lease, uint64_t ttl_ms,
                              struct bp_buffer *reply) {
    bp_pb_uint(reply, 1, revision);
    bp_pb_uint(reply, 2, lease);
    bp_pb_uint(reply, 3, to_seconds(ttl_ms));
}

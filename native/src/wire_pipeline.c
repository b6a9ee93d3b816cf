/*
 * Pipeline frames: many requests in one message, many results in another.
 *
 *   PipelineRequest  { ops: [ { id, put | delete | get | txn | batch } ... ] }  --> calls
 *   PipelineResponse { revision, results: [ { id, put | ... | error } ... ] }   <-- their replies
 *
 * An op is decoded by the same function as a call of its own. Bytes that are no protobuf anywhere
 * in the frame fail the frame.
 */
#include <assert.h>
#include <stdlib.h>

#include "wire_fields.h"

/* Field number of a PipelineOp and of a PipelineResult -> method. */
static const int members[] = {
    [2] = BP_METHOD_PUT, [3] = BP_METHOD_DELETE, [4] = BP_METHOD_GET,
    [5] = BP_METHOD_TXN, [6] = BP_METHOD_BATCH,
};
enum { MEMBER_FIRST = 2, MEMBER_LAST = 6, MEMBER_ERROR = 7 };

static const struct bp_wire_path no_path = {0};

/*
 * A PipelineOp as it stands: the member that came last. `merged` owns the bytes when it came in
 * several parts.
 */
struct outline {
    uint64_t id;
    uint32_t member;
    struct bp_slice request;
    struct bp_buffer merged;
};

/* The same member again: protobuf merges, which is to parse both parts one behind the other. */
static int merge_part(struct outline *op, struct bp_slice part, struct bp_error *err) {
    if (op->merged.data == NULL) {
        bp_buffer_append(&op->merged, op->request.data, op->request.size);
    }
    bp_buffer_append(&op->merged, part.data, part.size);
    if (op->merged.failed) {
        return bp_wire_no_memory(err);
    }
    op->request = bp_slice(op->merged.data, op->merged.size);
    return BP_OK;
}

static int outline_op(struct bp_slice message, struct outline *op, struct bp_error *err) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    int code = BP_OK;
    while (code == BP_OK && bp_pb_next(&r, &f)) {
        if (bp_pb_is(&f, 1, BP_PB_VARINT)) {
            op->id = f.value;
        } else if (f.number < MEMBER_FIRST || f.number > MEMBER_LAST || f.type != BP_PB_LEN) {
            continue;
        } else if (op->member == f.number) {
            code = merge_part(op, f.bytes, err);
        } else {
            bp_buffer_free(&op->merged);
            op->member = f.number;
            op->request = f.bytes;
        }
    }
    return code == BP_OK && r.malformed ? bp_wire_malformed(err, &no_path) : code;
}

/* Non-zero only for what fails the whole frame. */
static int decode_op(uint8_t keyspace, struct bp_slice message, const struct bp_wire_limits *limits,
                     struct bp_wire_frame_op *out, struct bp_error *err) {
    struct outline op = {0};
    int code = outline_op(message, &op, err);
    if (code == BP_OK) {
        out->id = op.id;
        if (op.member == 0) {
            out->code = bp_wire_fail(&out->error, &no_path, "op", BP_REASON_FIELD_INVALID,
                                     "the op says nothing");
        } else {
            out->code = bp_wire_decode(members[op.member], keyspace, op.request.data,
                                       op.request.size, limits, &out->call, &out->error);
        }
        if (out->code != BP_OK && out->error.reason == BP_REASON_MALFORMED_REQUEST) {
            code = bp_wire_malformed(err, &no_path);
        }
    }
    bp_buffer_free(&op.merged);
    return code;
}

static int count_ops(struct bp_slice frame, const struct bp_wire_limits *limits, uint32_t *n,
                     struct bp_error *err) {
    struct bp_pb_reader r = bp_pb_read(frame);
    struct bp_pb_field f;
    uint32_t count = 0;
    while (bp_pb_next(&r, &f)) {
        count += bp_pb_is(&f, 1, BP_PB_LEN);
    }
    if (r.malformed) {
        return bp_wire_malformed(err, &no_path);
    }
    if (count > limits->batch_ops_max) {
        return bp_wire_fail(err, &no_path, "ops", BP_REASON_TOO_MANY_OPS,
                            "the frame has %u ops, the most is %u", count, limits->batch_ops_max);
    }
    *n = count;
    return BP_OK;
}

int bp_wire_decode_frame(uint8_t keyspace, const uint8_t *buf, uint64_t n,
                         const struct bp_wire_limits *limits, struct bp_wire_frame_op **ops,
                         uint32_t *n_ops, struct bp_error *err) {
    *ops = NULL;
    *n_ops = 0;
    if (n > limits->request_max) {
        return bp_wire_fail(err, &no_path, NULL, BP_REASON_REQUEST_TOO_LARGE,
                            "the frame has %llu bytes, the most is %u", (unsigned long long)n,
                            limits->request_max);
    }
    struct bp_slice frame = bp_slice(buf, (size_t)n);
    uint32_t count = 0;
    int code = count_ops(frame, limits, &count, err);
    if (code != BP_OK || count == 0) {
        return code;
    }
    struct bp_wire_frame_op *all = calloc(count, sizeof *all);
    if (all == NULL) {
        return bp_wire_no_memory(err);
    }
    struct bp_pb_reader r = bp_pb_read(frame);
    struct bp_pb_field f;
    for (uint32_t i = 0; i < count && code == BP_OK && bp_pb_next(&r, &f);) {
        if (bp_pb_is(&f, 1, BP_PB_LEN)) {
            code = decode_op(keyspace, f.bytes, limits, &all[i++], err);
        }
    }
    if (code != BP_OK) {
        bp_wire_frame_free(all, count);
        return code;
    }
    *ops = all;
    *n_ops = count;
    return BP_OK;
}

void bp_wire_frame_free(struct bp_wire_frame_op *ops, uint32_t n_ops) {
    for (uint32_t i = 0; i < n_ops; i++) {
        bp_wire_call_free(&ops[i].call);
    }
    free(ops);
}

void bp_wire_frame_begin(struct bp_buffer *reply, uint64_t revision) {
    bp_pb_uint(reply, 1, revision);
}

static void append_error(struct bp_buffer *reply, const struct bp_error *error) {
    size_t opened = bp_pb_open(reply, MEMBER_ERROR);
    bp_pb_uint(reply, 1, (uint64_t)error->code);
    bp_pb_text(reply, 2, bp_reason_name(error->reason));
    bp_pb_text(reply, 3, error->message);
    bp_pb_text(reply, 4, error->field);
    bp_pb_uint(reply, 5, error->revision);
    bp_pb_close(reply, opened);
}

void bp_wire_frame_result(struct bp_buffer *reply, uint64_t id, int method,
                          const struct bp_buffer *result, const struct bp_error *error) {
    size_t opened = bp_pb_open(reply, 2);
    bp_pb_uint(reply, 1, id);
    if (error != NULL && error->code != BP_OK) {
        append_error(reply, error);
    } else {
        uint32_t member = MEMBER_FIRST;
        while (member < MEMBER_LAST && members[member] != method) {
            member++;
        }
        assert(members[member] == method);
        bp_pb_bytes_always(reply, member, bp_slice(result->data, result->size));
    }
    bp_pb_close(reply, opened);
}

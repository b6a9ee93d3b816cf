/* See wire_util.h. */
#include "wire_util.h"

void test_frame_op(struct bp_buffer *frame, uint64_t id, uint32_t member, const char *key,
                   const char *value, bool serializable) {
    size_t op = bp_pb_open(frame, 1);
    bp_pb_uint(frame, 1, id);
    size_t body = bp_pb_open(frame, member);
    bp_pb_text(frame, 1, key);
    if (value != NULL) {
        bp_pb_text(frame, 2, value);
    }
    bp_pb_uint(frame, 3, serializable ? 2 : 0);
    bp_pb_close(frame, body);
    bp_pb_close(frame, op);
}

int test_submit_put(struct bp_store *store, struct bp_queue *queue, const char *key,
                    const char *value, uint64_t cookie, struct bp_error *err) {
    struct bp_buffer put = {0};
    bp_pb_text(&put, 1, key);
    bp_pb_text(&put, 2, value);
    bp_pb_uint(&put, 5, 1); /* return_previous */
    int code = bp_submit_wire(store, queue, BP_METHOD_PUT, 'u', put.data, put.size, cookie, err);
    bp_buffer_free(&put);
    return code;
}

uint32_t test_count_in(const struct bp_reply *reply, const char *text) {
    uint32_t n = 0;
    const uint8_t *at = reply->data, *end = reply->data + reply->size;
    while (at != NULL && (at = memmem(at, (size_t)(end - at), text, strlen(text))) != NULL) {
        at += strlen(text);
        n++;
    }
    return n;
}

struct bp_completion test_take(struct bp_queue *queue) {
    struct bp_completion done;
    CHECK_EQ_U64(bp_queue_take(queue, &done, 1), 1);
    return done;
}

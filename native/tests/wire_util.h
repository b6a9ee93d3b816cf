/* Wire messages for tests that speak to a store as its clients do. */
#ifndef BP_TESTS_WIRE_UTIL_H
#define BP_TESTS_WIRE_UTIL_H

#include "../src/buffer.h"
#include "../src/protobuf.h"
#include "../src/wire.h"
#include "store_util.h"

/* Members of PipelineRequest's op. */
enum { TEST_FRAME_PUT = 2, TEST_FRAME_GET = 4 };

/* Appends one op to a PipelineRequest. */
void test_frame_op(struct bp_buffer *frame, uint64_t id, uint32_t member, const char *key,
                   const char *value, bool serializable);
/* A PutRequest that wants to know what was there before, submitted. */
int test_submit_put(struct bp_store *store, struct bp_queue *queue, const char *key,
                    const char *value, uint64_t cookie, struct bp_error *err);
/* How often the bytes of `text` are in a reply. */
uint32_t test_count_in(const struct bp_reply *reply, const char *text);
/* The one completion that waits; fails the test when there is none. */
struct bp_completion test_take(struct bp_queue *queue);

#endif

/*
 * Any bytes as an encoded request: refused, or read back in full without a step outside them, and
 * built again to the same size.
 */
#include <stdlib.h>

#include "../src/ops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static struct bp_slice without_keyspace(struct bp_slice stored) {
    return bp_slice(stored.data + 1, stored.size - 1);
}

static void rebuild_ops(struct bp_builder *builder, const struct bp_request *request) {
    uint32_t at = request->compares_at;
    for (uint32_t i = 0; i < request->n_compares; i++) {
        struct bp_compare compare;
        bp_request_compare(request, &at, &compare);
        uint8_t keyspace = compare.key.data[0];
        compare.key = without_keyspace(compare.key);
        bp_builder_compare(builder, keyspace, &compare);
    }
    for (uint32_t i = 0; i < (uint32_t)request->n_then + request->n_else; i++) {
        struct bp_op op;
        bp_request_op(request, &at, &op);
        uint8_t keyspace = op.key.data[0];
        op.key = without_keyspace(op.key);
        if (op.end.size > 0) {
            bool open = op.end.data[0] != keyspace;
            op.end = open ? bp_slice(NULL, 0) : without_keyspace(op.end);
        }
        bp_builder_op(builder, i >= request->n_then, keyspace, &op);
    }
    REQUIRE(at == request->size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct bp_request request;
    struct bp_error err;
    if (bp_request_decode(data, size, &request, &err) != BP_OK) {
        REQUIRE(err.reason == BP_REASON_MALFORMED_REQUEST);
        return 0;
    }
    REQUIRE(request.size <= size);
    if (request.kind == BP_REQUEST_KV) {
        struct bp_builder builder;
        bp_builder_init(&builder);
        bp_builder_begin(&builder, request.kind, request.id, request.fingerprint);
        rebuild_ops(&builder, &request);
        int code = bp_builder_finish(&builder, &err);
        REQUIRE(code == BP_OK && builder.size == request.size);
        bp_builder_free(&builder);
        (void)bp_request_check_keys(&request, &err);
    }
    return 0;
}

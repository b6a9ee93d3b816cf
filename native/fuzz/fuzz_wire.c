/*
 * Any bytes as a request of any method (the first byte picks it): refused with a reason, or turned
 * into a valid encoded request or a read, whose description is understood the same way again.
 */
#include <stdlib.h>
#include <string.h>

#include "../src/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static const struct bp_wire_limits limits = {.key_max = BP_KEY_MAX,
                                             .value_max = BP_VALUE_MAX,
                                             .request_max = 2u << 20,
                                             .txn_ops_max = 1024,
                                             .batch_ops_max = 10000,
                                             .scan_page_max = 10000,
                                             .reply_bytes_max = 4u << 20,
                                             .lease_ttl_min_ms = 1000,
                                             .lease_ttl_max_ms = 366ull * 86400 * 1000};

/* Whatever was accepted is a valid request, with no key written twice. */
static void check_write(const struct bp_wire_call *call) {
    struct bp_request request;
    struct bp_error err;
    int code = bp_request_decode(call->request.buf, call->request.size, &request, &err);
    REQUIRE(code == BP_OK);
    code = bp_request_check_keys(&request, &err);
    REQUIRE(code == BP_OK);
}

static void check_description(int method, const uint8_t *data, size_t size) {
    struct bp_buffer once = {0}, twice = {0};
    struct bp_error err = {0};
    if (bp_wire_describe(method, BP_KEYSPACE_USER, data, size, &limits, &once, &err) == BP_OK) {
        int code =
            bp_wire_describe(method, BP_KEYSPACE_USER, once.data, once.size, &limits, &twice, &err);
        /*
         * A page token's range is described without its token, and defaults may need more bytes
         * than the limit leaves.
         */
        REQUIRE(code == BP_OK || err.reason == BP_REASON_REQUEST_TOO_LARGE);
        REQUIRE(code != BP_OK ||
                (once.size == twice.size &&
                 (once.size == 0 || memcmp(once.data, twice.data, once.size) == 0)));
    } else {
        REQUIRE(err.code != BP_OK && err.message[0] != 0);
    }
    bp_buffer_free(&once);
    bp_buffer_free(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    int method = 1 + data[0] % BP_METHOD_WATCH;
    data++;
    size--;
    if (method <= BP_METHOD_KEEP_ALIVE) {
        struct bp_wire_call call;
        struct bp_error err;
        if (bp_wire_decode(method, BP_KEYSPACE_USER, data, size, &limits, &call, &err) == BP_OK) {
            if (call.is_write) {
                check_write(&call);
            }
            bp_wire_call_free(&call);
        }
    }
    check_description(method, data, size);
    return 0;
}

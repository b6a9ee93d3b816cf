/*
 * Requests of KVService: what is understood of them, what is refused and with which reason and
 * field, and what no bytes can do.
 */
#include "wire.h"

#include "check.h"
#include "protobuf.h"
#include "wire_token.h"

static const struct bp_wire_limits limits = {.key_max = 64,
                                             .value_max = 1000,
                                             .request_max = 20000,
                                             .txn_ops_max = 8,
                                             .batch_ops_max = 12,
                                             .scan_page_max = 500,
                                             .reply_bytes_max = 10000,
                                             .lease_ttl_min_ms = 1000,
                                             .lease_ttl_max_ms = 100000};

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

static struct bp_slice text(const char *s) { return bp_slice(s, strlen(s)); }

/* ---- building messages ---- */

static struct bp_buffer message; /* the request under test; `start` empties it */

static struct bp_buffer *start(void) {
    message.size = 0;
    return &message;
}

/* Opens element `number` of a list and `member` in it; `end_op` closes both. */
static size_t opened[2];

static struct bp_buffer *begin_op(uint32_t number, uint32_t member) {
    opened[0] = bp_pb_open(&message, number);
    opened[1] = bp_pb_open(&message, member);
    return &message;
}

static void end_op(void) {
    bp_pb_close(&message, opened[1]);
    bp_pb_close(&message, opened[0]);
}

static void add_put(uint32_t list, const char *key) {
    bp_pb_text(begin_op(list, 1), 1, key);
    end_op();
}

static void add_delete_range(uint32_t list, const char *key, struct bp_slice end) {
    begin_op(list, 2);
    bp_pb_text(&message, 1, key);
    bp_pb_bytes(&message, 2, end);
    end_op();
}

static void fill(uint32_t field, size_t n) {
    uint8_t *bytes = calloc(1, n + 1);
    CHECK(bytes != NULL);
    memset(bytes, 'x', n);
    bp_pb_bytes(&message, field, bp_slice(bytes, n));
    free(bytes);
}

/* ---- decoding ---- */

/* Decode a copy that ends where the message ends. */
static int decode_bytes(int method, const uint8_t *bytes, size_t n, struct bp_wire_call *call,
                        struct bp_error *err) {
    uint8_t *copy = malloc(n == 0 ? 1 : n);
    CHECK(copy != NULL);
    if (n > 0) {
        memcpy(copy, bytes, n);
    }
    memset(err, 0, sizeof *err);
    int code = bp_wire_decode(method, 'u', copy, n, &limits, call, err);
    free(copy);
    return code;
}

static struct bp_wire_call decode(int method) {
    struct bp_wire_call call;
    struct bp_error err;
    CHECK(!message.failed);
    CHECK_OK(decode_bytes(method, message.data, message.size, &call, &err), &err);
    return call;
}

static struct bp_request request_of(const struct bp_wire_call *call) {
    struct bp_request request;
    struct bp_error err;
    CHECK(call->is_write);
    CHECK_OK(bp_request_decode(call->request.buf, call->request.size, &request, &err), &err);
    return request;
}

static void expect_ok(int method) {
    struct bp_wire_call call = decode(method);
    bp_wire_call_free(&call);
}

static void expect(int method, int reason, const char *field) {
    struct bp_wire_call call;
    struct bp_error err;
    CHECK(decode_bytes(method, message.data, message.size, &call, &err) == BP_INVALID_ARGUMENT);
    if (err.reason != reason || strcmp(err.field, field) != 0) {
        fprintf(stderr, "got %s at \"%s\", expected %s at \"%s\"\n", bp_reason_name(err.reason),
                err.field, bp_reason_name(reason), field);
        exit(1);
    }
    CHECK(call.request.buf == NULL && call.read.keys == NULL);
}

/* ---- what is understood ---- */

static void test_put_becomes_one_op(void) {
    bp_pb_text(start(), 1, "key");
    bp_pb_text(&message, 2, "value");
    bp_pb_uint(&message, 3, 7);
    bp_pb_uint(&message, 5, 1);
    bp_pb_text(&message, 6, "r\xc3\xa9");
    struct bp_wire_call call = decode(BP_METHOD_PUT);
    struct bp_request r = request_of(&call);
    struct bp_op op;
    uint32_t at = r.then_at;
    CHECK(r.n_then == 1 && r.n_else == 0 && r.n_compares == 0 && r.fingerprint != 0);
    CHECK(bp_slice_equal(r.id, text("r\xc3\xa9")));
    bp_request_op(&r, &at, &op);
    CHECK(op.op == BP_OP_PUT && op.flags == BP_OPF_RETURN_PREVIOUS && op.lease == 7);
    CHECK(bp_slice_equal(op.key, text("ukey")) && bp_slice_equal(op.value, text("value")));
    bp_wire_call_free(&call);
}

static void test_the_last_of_a_repeated_field_wins(void) {
    bp_pb_text(start(), 1, "first");
    bp_pb_text(&message, 2, "value");
    bp_pb_bytes_always(&message, 2, text(""));
    fill(1, 65); /* too large, but replaced */
    bp_pb_text(&message, 1, "last");
    struct bp_wire_call call = decode(BP_METHOD_PUT);
    struct bp_request r = request_of(&call);
    struct bp_op op;
    uint32_t at = r.then_at;
    bp_request_op(&r, &at, &op);
    CHECK(bp_slice_equal(op.key, text("ulast")) && op.value.size == 0);
    bp_wire_call_free(&call);
}

static void test_unknown_fields_groups_and_other_wire_types_are_skipped(void) {
    static const uint8_t odd[] = {
        0x08, 0x05,                                        /* field 1 as a varint */
        0x19, 1,    2,    3,    4,    5,    6,    7,    8, /* field 3 as fixed64 */
        0x1d, 1,    2,    3,    4,                         /* field 3 as fixed32 */
        0x93, 0x01, 0x9b, 0x01, 0x08, 0x01, 0x9c, 0x01,    /* group 18 { group 19 { 1: 1 } */
        0x0a, 0x01, 'x',  0x94, 0x01,                      /*   1: "x" } */
        0xfa, 0xff, 0xff, 0xff, 0x0f, 0x00,                /* the largest field number, empty */
    };
    bp_pb_text(start(), 1, "key");
    bp_buffer_append(&message, odd, sizeof odd);
    struct bp_wire_call call = decode(BP_METHOD_PUT);
    struct bp_request r = request_of(&call);
    struct bp_op op;
    uint32_t at = r.then_at;
    bp_request_op(&r, &at, &op);
    CHECK(bp_slice_equal(op.key, text("ukey")) && op.lease == 0);
    bp_wire_call_free(&call);
}

static void expect_malformed(const void *bytes, size_t n) {
    bp_pb_text(start(), 1, "key");
    bp_buffer_append(&message, bytes, n);
    expect(BP_METHOD_PUT, BP_REASON_MALFORMED_REQUEST, "");
    expect(BP_METHOD_GET, BP_REASON_MALFORMED_REQUEST, "");
    expect(BP_METHOD_BATCH, BP_REASON_MALFORMED_REQUEST, "");
    expect(BP_METHOD_KEEP_ALIVE, BP_REASON_MALFORMED_REQUEST, "");
}

static void test_bytes_that_are_no_protobuf_are_malformed(void) {
    expect_malformed("\x00\x01", 2);                                          /* field 0 */
    expect_malformed("\x0a", 1);                                              /* no length */
    expect_malformed("\x0a\x05xxxx", 6);                                      /* too short */
    expect_malformed("\x0e", 1);                                              /* type 6 */
    expect_malformed("\x0f", 1);                                              /* type 7 */
    expect_malformed("\x21\x01", 2);                                          /* half a fixed64 */
    expect_malformed("\x25\x01", 2);                                          /* half a fixed32 */
    expect_malformed("\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12); /* 11 bytes */
    expect_malformed("\xff\xff\xff\xff\x1f\x01", 6);                          /* tag > 32 bits */
    expect_malformed("\x0a\xff\xff\xff\xff\xff\x01", 7);                      /* length, 6 bytes */
    expect_malformed("\x93\x01\x08\x01", 4);                                  /* group, no end */
    expect_malformed("\x94\x01", 2);                                          /* end, no group */
    expect_malformed("\x93\x01\x9c\x01", 4);                                  /* another's end */
    uint8_t deep[400];
    for (size_t i = 0; i < 200; i++) { /* as deep as they like, but with an end to our patience */
        deep[i] = 0x4b;
        deep[200 + i] = 0x4c;
    }
    expect_malformed(deep, sizeof deep);
}

static void test_a_ten_byte_varint_counts_and_flags_are_any_nonzero(void) {
    bp_pb_text(start(), 1, "key");
    bp_buffer_append(&message, "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
                     11); /* one bit of ten */
    struct bp_wire_call call = decode(BP_METHOD_PUT);
    struct bp_request r = request_of(&call);
    struct bp_op op;
    uint32_t at = r.then_at;
    bp_request_op(&r, &at, &op);
    CHECK(op.lease == UINT64_MAX);
    bp_wire_call_free(&call);
    bp_pb_text(start(), 1, "key");
    bp_pb_uint(&message, 4, (uint64_t)1 << 40);
    call = decode(BP_METHOD_PUT);
    r = request_of(&call);
    at = r.then_at;
    bp_request_op(&r, &at, &op);
    CHECK(op.flags == BP_OPF_KEEP_LEASE);
    bp_wire_call_free(&call);
}

static void test_text_must_be_utf8_each_time(void) {
    static const char *const bad[] = {
        "\xff",     "\xc0\x80", "\xed\xa0\x80",        "\xf4\x90\x80\x80",
        "\xe2\x82", "a\x80",    "\xf8\x88\x80\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bp_pb_text(start(), 1, "key");
        bp_pb_text(&message, 6, bad[i]);
        bp_pb_text(&message, 6, "fine");
        expect(BP_METHOD_PUT, BP_REASON_MALFORMED_REQUEST, "request_id");
    }
    bp_pb_text(start(), 1, "key");
    bp_pb_text(&message, 6, "\xf4\x8f\xbf\xbf \xed\x9f\xbf \xe0\xa0\x80 \xc2\x80");
    expect_ok(BP_METHOD_PUT);
}

static void test_a_txn_is_ordered_by_kind_whatever_its_order_on_the_wire(void) {
    start();
    add_put(3, "in-else");
    bp_pb_text(&message, 4, "id");
    add_delete_range(2, "a", text(""));
    size_t compare = bp_pb_open(&message, 1);
    bp_pb_text(&message, 1, "c");
    bp_pb_uint_always(&message, 6, 0);
    bp_pb_close(&message, compare);
    add_delete_range(2, "a", bp_slice("", 1));
    struct bp_wire_call call = decode(BP_METHOD_TXN);
    struct bp_request r = request_of(&call);
    CHECK(r.n_compares == 1 && r.n_then == 2 && r.n_else == 1);
    struct bp_compare c;
    uint32_t at = r.compares_at;
    bp_request_compare(&r, &at, &c);
    CHECK(c.target == BP_TARGET_VERSION && c.operator == BP_EQUAL && c.operand == 0);
    struct bp_op op;
    bp_request_op(&r, &at, &op);
    CHECK(op.op == BP_OP_DELETE);
    bp_request_op(&r, &at, &op);
    CHECK(op.op == BP_OP_DELETE_RANGE && bp_slice_equal(op.end, text("v")));
    bp_request_op(&r, &at, &op);
    CHECK(op.op == BP_OP_PUT && bp_slice_equal(op.key, text("uin-else")));
    bp_wire_call_free(&call);
}

static void test_oneofs_keep_the_last_member_and_merge_the_same_one(void) {
    start();
    size_t element = bp_pb_open(&message, 2), member = bp_pb_open(&message, 1);
    bp_pb_text(&message, 1, "lost");
    bp_pb_close(&message, member);
    member = bp_pb_open(&message, 3); /* a get replaces the put */
    bp_pb_text(&message, 1, "lost");
    bp_pb_close(&message, member);
    member = bp_pb_open(&message, 1); /* another put: nothing of the first one comes back */
    bp_pb_text(&message, 1, "key");
    bp_pb_close(&message, member);
    member = bp_pb_open(&message, 1); /* and this one merges */
    bp_pb_text(&message, 2, "value");
    bp_pb_close(&message, member);
    bp_pb_close(&message, element);
    struct bp_wire_call call = decode(BP_METHOD_TXN);
    struct bp_request r = request_of(&call);
    struct bp_op op;
    uint32_t at = r.then_at;
    bp_request_op(&r, &at, &op);
    CHECK(r.n_then == 1 && op.op == BP_OP_PUT);
    CHECK(bp_slice_equal(op.key, text("ukey")) && bp_slice_equal(op.value, text("value")));
    bp_wire_call_free(&call);
}

static void test_scan_ranges(void) {
    static const struct {
        const char *start, *end, *prefix, *first, *last;
    } cases[] = {
        {"", "", "", "u", "v"},
        {"a", "", "", "ua", "v"},
        {"", "b", "", "u", "ub"},
        {"", "", "ab", "uab", "uac"},
        {"", "", "a\xff", "ua\xff", "ub"},
        {"", "", "\xff\xff", "u\xff\xff", "v"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bp_pb_text(start(), 1, cases[i].start);
        bp_pb_text(&message, 2, cases[i].end);
        bp_pb_text(&message, 3, cases[i].prefix);
        struct bp_wire_call call = decode(BP_METHOD_SCAN);
        CHECK(bp_slice_equal(call.read.start, text(cases[i].first)));
        CHECK(bp_slice_equal(call.read.end, text(cases[i].last)));
        CHECK(call.read.limit == 500 && !call.is_write && !call.read.serializable);
        bp_wire_call_free(&call);
    }
}

static void test_lease_calls(void) {
    bp_pb_uint(start(), 1, 100);
    bp_pb_uint(&message, 2, 9);
    struct bp_wire_call call = decode(BP_METHOD_GRANT_LEASE);
    struct bp_request r = request_of(&call);
    CHECK(r.kind == BP_REQUEST_LEASE_GRANT && r.lease == 9 && r.ttl_ms == 100000);
    bp_wire_call_free(&call);
    bp_pb_uint(start(), 1, 9);
    call = decode(BP_METHOD_REVOKE_LEASE);
    r = request_of(&call);
    CHECK(r.leases.size == 8 && bp_get_u64(r.leases.data) == 9);
    bp_wire_call_free(&call);
    call = decode(BP_METHOD_GET_LEASE);
    CHECK(call.read.lease == 9 && !call.read.want_keys && call.read.limit == 500);
    bp_wire_call_free(&call);
    call = decode(BP_METHOD_KEEP_ALIVE);
    CHECK(call.read.lease == 9 && !call.is_write);
    bp_wire_call_free(&call);
}

/* ---- limits: at the limit passes, one more fails with its reason and field ---- */

static void key_of(uint32_t field, size_t n) {
    start();
    fill(field, n);
}

static void test_key_and_value_limits(void) {
    static const int keyed[] = {BP_METHOD_PUT, BP_METHOD_GET, BP_METHOD_DELETE};
    for (int i = 0; i < 3; i++) {
        key_of(1, 64);
        expect_ok(keyed[i]);
        key_of(1, 65);
        expect(keyed[i], BP_REASON_KEY_TOO_LARGE, "key");
        key_of(1, 0);
        expect(keyed[i], BP_REASON_KEY_EMPTY, "key");
    }
    key_of(1, 1);
    fill(2, 1000);
    expect_ok(BP_METHOD_PUT);
    fill(2, 1001);
    expect(BP_METHOD_PUT, BP_REASON_VALUE_TOO_LARGE, "value");
    key_of(1, 1);
    fill(6, 64);
    expect_ok(BP_METHOD_PUT);
    fill(6, 65);
    expect(BP_METHOD_PUT, BP_REASON_REQUEST_ID_TOO_LARGE, "request_id");
    key_of(1, 1);
    fill(4, 65);
    expect(BP_METHOD_DELETE, BP_REASON_REQUEST_ID_TOO_LARGE, "request_id");
}

static void test_request_size_limit(void) {
    key_of(1, 1);
    while (message.size < limits.request_max - 500) { /* unknown fields count too */
        fill(15, 400);
    }
    fill(15, limits.request_max - message.size - 3);
    CHECK(message.size == limits.request_max);
    expect_ok(BP_METHOD_PUT);
    fill(15, 0);
    bp_pb_uint_always(&message, 15, 0);
    expect(BP_METHOD_PUT, BP_REASON_REQUEST_TOO_LARGE, "");
}

static void test_range_limits(void) {
    key_of(1, 64);
    fill(2, 65); /* the key and one more byte: its end */
    expect_ok(BP_METHOD_SCAN);
    fill(2, 66);
    expect(BP_METHOD_SCAN, BP_REASON_KEY_TOO_LARGE, "end");
    key_of(1, 65);
    expect(BP_METHOD_SCAN, BP_REASON_KEY_TOO_LARGE, "start");
    key_of(3, 64);
    expect_ok(BP_METHOD_SCAN);
    key_of(3, 65);
    expect(BP_METHOD_SCAN, BP_REASON_KEY_TOO_LARGE, "prefix");
    key_of(3, 1);
    fill(1, 1);
    expect(BP_METHOD_SCAN, BP_REASON_RANGE_INVALID, "prefix");
    key_of(1, 2);
    fill(2, 2);
    expect(BP_METHOD_SCAN, BP_REASON_RANGE_INVALID, "end");
    fill(2, 1);
    expect(BP_METHOD_SCAN, BP_REASON_RANGE_INVALID, "end");
    key_of(1, 2);
    bp_pb_uint(&message, 4, 500);
    expect_ok(BP_METHOD_SCAN);
    bp_pb_uint(&message, 4, 501);
    expect(BP_METHOD_SCAN, BP_REASON_FIELD_INVALID, "limit");
    key_of(1, 2);
    bp_pb_uint(&message, 9, 2);
    expect_ok(BP_METHOD_SCAN);
    bp_pb_uint(&message, 9, 3);
    expect(BP_METHOD_SCAN, BP_REASON_FIELD_INVALID, "consistency");
    bp_pb_uint(&message, 3, 3);
    expect(BP_METHOD_GET, BP_REASON_FIELD_INVALID, "consistency");
    key_of(1, 2);
    fill(2, 3);
    expect_ok(BP_METHOD_DELETE);
    fill(2, 65);
    expect_ok(BP_METHOD_DELETE);
    fill(2, 66);
    expect(BP_METHOD_DELETE, BP_REASON_KEY_TOO_LARGE, "range_end");
    fill(2, 2);
    expect(BP_METHOD_DELETE, BP_REASON_RANGE_INVALID, "range_end");
    bp_pb_bytes(&message, 2, bp_slice("", 1)); /* the byte 0: to the end */
    expect_ok(BP_METHOD_DELETE);
}

static void test_op_counts(void) {
    static const char *const names[] = {"", "compares", "then_ops", "else_ops"};
    char key[16];
    for (uint32_t list = 1; list <= 3; list++) {
        start();
        for (int i = 0; i < 8; i++) {
            snprintf(key, sizeof key, "k%d", i);
            if (list == 1) {
                size_t compare = bp_pb_open(&message, 1);
                bp_pb_text(&message, 1, key);
                bp_pb_uint(&message, 4, 1);
                bp_pb_close(&message, compare);
            } else {
                add_put(list, key);
            }
        }
        expect_ok(BP_METHOD_TXN);
        add_put(list, "one more");
        expect(BP_METHOD_TXN, BP_REASON_TOO_MANY_OPS, names[list]);
    }
    start();
    expect_ok(BP_METHOD_TXN);
    expect(BP_METHOD_BATCH, BP_REASON_FIELD_INVALID, "ops");
    for (int i = 0; i < 12; i++) {
        snprintf(key, sizeof key, "k%d", i);
        add_put(1, key);
    }
    expect_ok(BP_METHOD_BATCH);
    add_put(1, "one more");
    expect(BP_METHOD_BATCH, BP_REASON_TOO_MANY_OPS, "ops");
}

static void test_lease_limits(void) {
    static const uint64_t bad[] = {0, 101, (uint64_t)-1, UINT64_MAX / 1000 + 2};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bp_pb_uint(start(), 1, bad[i]);
        expect(BP_METHOD_GRANT_LEASE, BP_REASON_FIELD_INVALID, "ttl_seconds");
    }
    bp_pb_uint(start(), 1, 1);
    expect_ok(BP_METHOD_GRANT_LEASE);
    start();
    expect(BP_METHOD_REVOKE_LEASE, BP_REASON_FIELD_INVALID, "lease_id");
    expect(BP_METHOD_GET_LEASE, BP_REASON_FIELD_INVALID, "lease_id");
    bp_pb_uint(start(), 1, 1);
    bp_pb_uint(&message, 3, 501);
    expect(BP_METHOD_GET_LEASE, BP_REASON_FIELD_INVALID, "limit");
}

static void test_errors_name_the_field_by_its_path(void) {
    start();
    add_put(2, "a");
    add_put(2, "");
    expect(BP_METHOD_TXN, BP_REASON_KEY_EMPTY, "then_ops[1].put.key");
    expect(BP_METHOD_BATCH, BP_REASON_FIELD_INVALID, "ops"); /* field 2 is another there */
    start();
    add_delete_range(3, "b", text("a"));
    expect(BP_METHOD_TXN, BP_REASON_RANGE_INVALID, "else_ops[0].delete.range_end");
    start();
    begin_op(2, 3);
    fill(1, 65);
    end_op();
    expect(BP_METHOD_TXN, BP_REASON_KEY_TOO_LARGE, "then_ops[0].get.key");
    start();
    begin_op(2, 4);
    bp_pb_uint(&message, 4, 501);
    end_op();
    expect(BP_METHOD_TXN, BP_REASON_FIELD_INVALID, "then_ops[0].scan.limit");
    start();
    bp_pb_bytes_always(&message, 2, text(""));
    expect(BP_METHOD_TXN, BP_REASON_FIELD_INVALID, "then_ops[0]");
    start();
    size_t compare = bp_pb_open(&message, 1);
    bp_pb_text(&message, 1, "k");
    bp_pb_close(&message, compare);
    expect(BP_METHOD_TXN, BP_REASON_FIELD_INVALID, "compares[0]");
    start();
    compare = bp_pb_open(&message, 1);
    bp_pb_text(&message, 1, "k");
    bp_pb_uint(&message, 2, 5);
    bp_pb_uint(&message, 4, 5);
    bp_pb_close(&message, compare);
    expect(BP_METHOD_TXN, BP_REASON_FIELD_INVALID, "compares[0].operator");
    start();
    compare = bp_pb_open(&message, 1);
    bp_pb_text(&message, 1, "k");
    fill(3, 1001);
    bp_pb_close(&message, compare);
    expect(BP_METHOD_TXN, BP_REASON_VALUE_TOO_LARGE, "compares[0].value");
    start();
    size_t op = bp_pb_open(&message, 1);
    bp_pb_bytes_always(&message, 2, text(""));
    bp_pb_close(&message, op);
    expect(BP_METHOD_BATCH, BP_REASON_KEY_EMPTY, "ops[0].delete_key");
    start();
    begin_op(1, 1);
    bp_pb_text(&message, 1, "k");
    bp_pb_uint(&message, 3, 1);
    bp_pb_uint(&message, 4, 1);
    end_op();
    expect(BP_METHOD_BATCH, BP_REASON_FIELD_INVALID, "ops[0].put.keep_lease");
}

static void test_a_key_is_written_once(void) {
    start();
    add_put(2, "a");
    add_put(3, "a"); /* the other branch */
    expect_ok(BP_METHOD_TXN);
    add_delete_range(3, "0", text("9")); /* beside it */
    expect_ok(BP_METHOD_TXN);
    add_delete_range(3, "0", bp_slice("", 1));
    expect(BP_METHOD_TXN, BP_REASON_DUPLICATE_KEY, "else_ops[2]");
    start();
    add_delete_range(2, "a", text(""));
    add_delete_range(2, "a", text("z")); /* deletes may overlap */
    expect_ok(BP_METHOD_TXN);
    start();
    add_put(1, "b");
    add_put(1, "a");
    expect_ok(BP_METHOD_BATCH);
    size_t op = bp_pb_open(&message, 1);
    bp_pb_text(&message, 2, "b");
    bp_pb_close(&message, op);
    expect(BP_METHOD_BATCH, BP_REASON_DUPLICATE_KEY, "ops[2]");
    start();
    for (int i = 0; i < 2; i++) { /* in a batch even deletes only once */
        op = bp_pb_open(&message, 1);
        bp_pb_text(&message, 2, "b");
        bp_pb_close(&message, op);
    }
    expect(BP_METHOD_BATCH, BP_REASON_DUPLICATE_KEY, "ops[1]");
}

/* ---- page tokens ---- */

static void scan_message(const char *first, const char *last, bool reverse) {
    bp_pb_text(start(), 1, first);
    bp_pb_text(&message, 2, last);
    bp_pb_uint(&message, 5, reverse);
}

/* A token for the present message's range, at revision 7, going on at `key`. */
static void add_token(const char *key) {
    struct bp_wire_call call = decode(BP_METHOD_SCAN);
    struct bp_token token = {.revision = 7, .binding = call.read.binding, .key = text(key)};
    bp_token_append(&message, 10, &token);
    bp_wire_call_free(&call);
}

static void test_a_page_token_moves_the_range_and_fixes_the_revision(void) {
    scan_message("a", "z", false);
    add_token("um");
    struct bp_wire_call call = decode(BP_METHOD_SCAN);
    CHECK(bp_slice_equal(call.read.start, text("um")) && bp_slice_equal(call.read.end, text("uz")));
    CHECK(call.read.revision == 7);
    bp_wire_call_free(&call);
    scan_message("a", "z", true);
    add_token("um");
    call = decode(BP_METHOD_SCAN);
    CHECK(bp_slice_equal(call.read.start, text("ua")));
    CHECK(bp_slice_equal(call.read.end, bp_slice("um", 3))); /* descending: m itself comes first */
    bp_wire_call_free(&call);
}

static void test_a_page_token_is_bound_to_its_scan(void) {
    scan_message("a", "z", false);
    add_token("um");
    struct bp_buffer token = {0};
    struct bp_wire_call call;
    struct bp_error err;
    scan_message("a", "z", false);
    size_t at = message.size;
    add_token("um");
    bp_buffer_append(&token, message.data + at, message.size - at);

    static const struct {
        const char *first, *last;
        bool reverse;
    } others[] = {{"a", "y", false}, {"b", "z", false}, {"a", "z", true}, {"", "", false}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        scan_message(others[i].first, others[i].last, others[i].reverse);
        bp_buffer_append(&message, token.data, token.size);
        expect(BP_METHOD_SCAN, BP_REASON_PAGE_TOKEN_INVALID, "page_token");
    }
    scan_message("a", "z", false);
    bp_buffer_append(&message, token.data, token.size);
    bp_pb_uint(&message, 8, 7); /* the same revision, said aloud */
    expect_ok(BP_METHOD_SCAN);
    bp_pb_uint(&message, 8, 8);
    expect(BP_METHOD_SCAN, BP_REASON_PAGE_TOKEN_INVALID, "page_token");
    scan_message("a", "z", false);
    bp_buffer_append(&message, token.data, token.size);
    bp_pb_uint(&message, 7, 1); /* count_only has no pages */
    expect(BP_METHOD_SCAN, BP_REASON_PAGE_TOKEN_INVALID, "page_token");
    scan_message("a", "z", false);
    add_token("uzz"); /* outside the range it claims */
    expect(BP_METHOD_SCAN, BP_REASON_PAGE_TOKEN_INVALID, "page_token");

    /* every bit of it counts, and every truncation */
    for (size_t i = 2; i < token.size; i++) {
        for (int bit = 0; bit < 8; bit++) {
            scan_message("a", "z", false);
            size_t token_at = message.size;
            bp_buffer_append(&message, token.data, token.size);
            message.data[token_at + i] ^= (uint8_t)(1 << bit);
            CHECK(decode_bytes(BP_METHOD_SCAN, message.data, message.size, &call, &err) != BP_OK);
            CHECK(err.reason == BP_REASON_PAGE_TOKEN_INVALID);
        }
        scan_message("a", "z", false);
        if (i > 2) {
            bp_pb_bytes(&message, 10, bp_slice(token.data + 2, i - 2));
            expect(BP_METHOD_SCAN, BP_REASON_PAGE_TOKEN_INVALID, "page_token");
        }
    }
    bp_buffer_free(&token);
}

/* ---- pipeline ---- */

static struct bp_wire_frame_op *decode_frame(uint32_t *n) {
    struct bp_wire_frame_op *ops;
    struct bp_error err;
    CHECK_OK(bp_wire_decode_frame('u', message.data, message.size, &limits, &ops, n, &err), &err);
    return ops;
}

static void add_frame_op(uint64_t id, uint32_t member, const char *key) {
    size_t op = bp_pb_open(&message, 1);
    bp_pb_uint(&message, 1, id);
    size_t request = bp_pb_open(&message, member);
    bp_pb_text(&message, 1, key);
    bp_pb_close(&message, request);
    bp_pb_close(&message, op);
}

static void test_a_bad_op_of_a_frame_fails_alone(void) {
    start();
    add_frame_op(10, 2, "k");
    add_frame_op(11, 4, "");
    add_frame_op(12, 4, "k");
    size_t op = bp_pb_open(&message, 1);
    bp_pb_uint(&message, 1, 13);
    bp_pb_close(&message, op);
    uint32_t n;
    struct bp_wire_frame_op *ops = decode_frame(&n);
    CHECK(n == 4 && ops[0].id == 10 && ops[3].id == 13);
    CHECK(ops[0].code == BP_OK && ops[0].call.method == BP_METHOD_PUT && ops[0].call.is_write);
    CHECK(ops[1].code == BP_INVALID_ARGUMENT && ops[1].error.reason == BP_REASON_KEY_EMPTY);
    CHECK(ops[2].code == BP_OK && ops[2].call.method == BP_METHOD_GET);
    CHECK(ops[3].code == BP_INVALID_ARGUMENT && ops[3].error.reason == BP_REASON_FIELD_INVALID);
    bp_wire_frame_free(ops, n);
    start();
    ops = decode_frame(&n);
    CHECK(n == 0);
    bp_wire_frame_free(ops, n);
}

static void test_frame_members_merge_like_protobuf(void) {
    start();
    size_t op = bp_pb_open(&message, 1), part = bp_pb_open(&message, 4);
    bp_pb_text(&message, 1, "get");
    bp_pb_close(&message, part);
    for (int i = 0; i < 3; i++) {
        part = bp_pb_open(&message, 2);
        bp_pb_text(&message, i == 0 ? 1 : 2, i == 0 ? "key" : i == 1 ? "x" : "value");
        bp_pb_close(&message, part);
    }
    bp_pb_close(&message, op);
    uint32_t n;
    struct bp_wire_frame_op *ops = decode_frame(&n);
    struct bp_request r = request_of(&ops[0].call);
    struct bp_op put;
    uint32_t at = r.then_at;
    bp_request_op(&r, &at, &put);
    CHECK(bp_slice_equal(put.key, text("ukey")) && bp_slice_equal(put.value, text("value")));
    bp_wire_frame_free(ops, n);
}

static void expect_frame(int reason) {
    struct bp_wire_frame_op *ops;
    struct bp_error err;
    uint32_t n;
    CHECK(bp_wire_decode_frame('u', message.data, message.size, &limits, &ops, &n, &err) ==
          BP_INVALID_ARGUMENT);
    CHECK(err.reason == reason && ops == NULL && n == 0);
}

static void test_a_frame_that_is_no_message_fails_whole(void) {
    start();
    add_frame_op(1, 2, "k");
    size_t op = bp_pb_open(&message, 1);
    bp_pb_bytes(&message, 2, text("\x0a\x7f"));
    bp_pb_close(&message, op);
    expect_frame(BP_REASON_MALFORMED_REQUEST);
    start();
    for (int i = 0; i < 13; i++) {
        add_frame_op(1, 4, "k");
    }
    expect_frame(BP_REASON_TOO_MANY_OPS);
    start();
    CHECK(bp_buffer_grow(&message, limits.request_max + 1) != NULL);
    expect_frame(BP_REASON_REQUEST_TOO_LARGE);
}

static void test_frame_results_have_their_golden_bytes(void) {
    struct bp_buffer reply = {0}, result = {0};
    struct bp_error error = {
        .code = BP_NOT_FOUND, .reason = BP_REASON_LEASE_NOT_FOUND, .field = "f", .message = "m"};
    bp_buffer_append(&result, "\x08\x07", 2);
    bp_wire_frame_begin(&reply, 5);
    bp_wire_frame_result(&reply, 3, BP_METHOD_TXN, &result, NULL);
    bp_wire_frame_result(&reply, 4, BP_METHOD_PUT, NULL, &error);
    static const char golden[] =
        "\x08\x05"
        "\x12\x06\x08\x03\x2a\x02\x08\x07"
        "\x12\x1d\x08\x04\x3a\x19\x08\x05\x12\x0fLEASE_NOT_FOUND\x1a\x01m\x22\x01"
        "f";
    CHECK_EQ_U64(reply.size, sizeof golden - 1);
    CHECK(memcmp(reply.data, golden, reply.size) == 0);
    bp_buffer_free(&reply);
    bp_buffer_free(&result);
}

/* ---- watch ---- */

static int decode_watch(struct bp_error *err) {
    struct bp_wire_watch watch;
    int code = bp_wire_decode_watch('u', message.data, message.size, &limits, &watch, err);
    if (code == BP_OK) {
        bp_wire_watch_free(&watch);
    }
    return code;
}

static void test_watch_requests(void) {
    struct bp_wire_watch watch;
    struct bp_error err;
    bp_pb_text(start(), 3, "p");
    bp_pb_uint(&message, 4, 9);
    bp_pb_uint(&message, 5, 100);
    bp_pb_uint(&message, 6, 1);
    bp_pb_uint(&message, 9, 1);
    CHECK_OK(bp_wire_decode_watch('u', message.data, message.size, &limits, &watch, &err), &err);
    CHECK(bp_slice_equal(watch.start, text("up")) && bp_slice_equal(watch.end, text("uq")));
    CHECK(watch.start_revision == 9 && watch.progress_ms == 100 && watch.with_values);
    CHECK(!watch.with_previous && !watch.no_puts && watch.no_deletes);
    bp_wire_watch_free(&watch);
    bp_pb_uint(&message, 8, 1);
    CHECK(decode_watch(&err) == BP_INVALID_ARGUMENT && strcmp(err.field, "skip_deletes") == 0);
    bp_pb_uint(start(), 5, 99);
    CHECK(decode_watch(&err) == BP_INVALID_ARGUMENT);
    bp_pb_uint(start(), 5, 3600001);
    CHECK(decode_watch(&err) == BP_INVALID_ARGUMENT && err.reason == BP_REASON_FIELD_INVALID);
    bp_pb_text(start(), 3, "p");
    bp_pb_text(&message, 2, "p");
    CHECK(decode_watch(&err) == BP_INVALID_ARGUMENT && err.reason == BP_REASON_RANGE_INVALID);
}

/* ---- no bytes can do harm ---- */

/* A request with everything in it, valid for Txn. */
static void rich_txn(void) {
    start();
    for (uint32_t i = 3; i <= 7; i++) {
        size_t compare = bp_pb_open(&message, 1);
        bp_pb_text(&message, 1, "compared");
        bp_pb_uint(&message, 2, i % 5);
        if (i == 3) {
            bp_pb_text(&message, 3, "value");
        } else {
            bp_pb_uint(&message, i, 1u << (i * 3));
        }
        bp_pb_close(&message, compare);
    }
    for (uint32_t list = 2; list <= 3; list++) {
        add_put(list, "put");
        add_delete_range(list, "a", text("b"));
        bp_pb_text(begin_op(list, 3), 1, "get");
        end_op();
        begin_op(list, 4);
        bp_pb_text(&message, 3, "prefix");
        bp_pb_uint(&message, 4, 5);
        end_op();
    }
    bp_pb_text(&message, 4, "an-id");
}

static void test_every_truncation_errs_or_is_a_shorter_message(void) {
    rich_txn();
    struct bp_wire_call call;
    struct bp_error err;
    uint32_t malformed = 0;
    for (size_t n = 0; n < message.size; n++) {
        int code = decode_bytes(BP_METHOD_TXN, message.data, n, &call, &err);
        malformed += code != BP_OK && err.reason == BP_REASON_MALFORMED_REQUEST;
        if (code == BP_OK) { /* cut between two fields: what is there must be a whole request */
            request_of(&call);
            bp_wire_call_free(&call);
        }
    }
    CHECK(malformed > message.size / 2);
}

static void test_mutated_requests_never_break_anything(void) {
    struct bp_wire_frame_op *ops;
    struct bp_error err;
    uint32_t n, ok = 0;
    for (int i = 0; i < 40000; i++) {
        rich_txn();
        for (uint32_t k = 1 + random_below(4); k > 0; k--) {
            message.data[random_below((uint32_t)message.size)] ^= (uint8_t)(1u << random_below(8));
        }
        for (int method = BP_METHOD_GET; method <= BP_METHOD_KEEP_ALIVE; method++) {
            struct bp_wire_call call;
            struct bp_buffer described = {0};
            int code = decode_bytes(method, message.data, message.size, &call, &err);
            CHECK(code == BP_OK || (code == BP_INVALID_ARGUMENT && err.message[0] != 0));
            if (code == BP_OK) {
                ok++;
                if (call.is_write) {
                    request_of(&call); /* whatever was accepted is a valid request */
                }
                CHECK_OK(bp_wire_describe(method, 'u', message.data, message.size, &limits,
                                          &described, &err),
                         &err);
                bp_wire_call_free(&call);
            }
            bp_buffer_free(&described);
        }
        if (bp_wire_decode_frame('u', message.data, message.size, &limits, &ops, &n, &err) ==
            BP_OK) {
            bp_wire_frame_free(ops, n);
        }
        (void)decode_watch(&err);
    }
    CHECK(ok > 10000);
}

static void test_a_request_describes_itself_the_same_twice(void) {
    struct bp_buffer once = {0}, twice = {0};
    struct bp_error err;
    rich_txn();
    CHECK_OK(bp_wire_describe(BP_METHOD_TXN, 'u', message.data, message.size, &limits, &once, &err),
             &err);
    CHECK_OK(bp_wire_describe(BP_METHOD_TXN, 'u', once.data, once.size, &limits, &twice, &err),
             &err);
    CHECK(once.size == twice.size && memcmp(once.data, twice.data, once.size) == 0);
    bp_buffer_free(&once);
    bp_buffer_free(&twice);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_put_becomes_one_op);
    RUN(test_the_last_of_a_repeated_field_wins);
    RUN(test_unknown_fields_groups_and_other_wire_types_are_skipped);
    RUN(test_bytes_that_are_no_protobuf_are_malformed);
    RUN(test_a_ten_byte_varint_counts_and_flags_are_any_nonzero);
    RUN(test_text_must_be_utf8_each_time);
    RUN(test_a_txn_is_ordered_by_kind_whatever_its_order_on_the_wire);
    RUN(test_oneofs_keep_the_last_member_and_merge_the_same_one);
    RUN(test_scan_ranges);
    RUN(test_lease_calls);
    RUN(test_key_and_value_limits);
    RUN(test_request_size_limit);
    RUN(test_range_limits);
    RUN(test_op_counts);
    RUN(test_lease_limits);
    RUN(test_errors_name_the_field_by_its_path);
    RUN(test_a_key_is_written_once);
    RUN(test_a_page_token_moves_the_range_and_fixes_the_revision);
    RUN(test_a_page_token_is_bound_to_its_scan);
    RUN(test_a_bad_op_of_a_frame_fails_alone);
    RUN(test_frame_members_merge_like_protobuf);
    RUN(test_a_frame_that_is_no_message_fails_whole);
    RUN(test_frame_results_have_their_golden_bytes);
    RUN(test_watch_requests);
    RUN(test_every_truncation_errs_or_is_a_shorter_message);
    RUN(test_mutated_requests_never_break_anything);
    RUN(test_a_request_describes_itself_the_same_twice);
    bp_buffer_free(&message);
    TESTS_END;
}

/*
 * The op encoding: golden bytes, round trips, refusal of everything else, and the duplicate-key
 * rule against a naive one.
 */
#include "ops.h"

#include "check.h"
#include "crc32c.h"

#define GOLDEN_FINGERPRINT 7070050709817595415u

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

static struct bp_slice text(const char *s) { return bp_slice(s, strlen(s)); }

/* ---- helpers ---- */

static void begin(struct bp_builder *b, const char *id) {
    bp_builder_init(b);
    bp_builder_begin(b, BP_REQUEST_KV, text(id), id[0] == 0 ? 0 : 77);
}

static struct bp_request finish(struct bp_builder *b) {
    struct bp_request request;
    struct bp_error err;
    CHECK_OK(bp_builder_finish(b, &err), &err);
    CHECK_OK(bp_request_decode(b->buf, b->size, &request, &err), &err);
    return request;
}

static void put(struct bp_builder *b, int branch, struct bp_slice key, struct bp_slice value) {
    bp_builder_op(b, branch, BP_KEYSPACE_USER,
                  &(struct bp_op){.op = BP_OP_PUT, .key = key, .value = value});
}

static void delete_range(struct bp_builder *b, int branch, struct bp_slice key,
                         struct bp_slice end) {
    bp_builder_op(b, branch, BP_KEYSPACE_USER,
                  &(struct bp_op){.op = BP_OP_DELETE_RANGE, .key = key, .end = end});
}

/* Decode a copy that ends where the bytes end, so that AddressSanitizer sees one byte too far. */
static int decode_exact(const uint8_t *buf, size_t n, struct bp_request *request) {
    struct bp_error err = {0};
    uint8_t *copy = malloc(n == 0 ? 1 : n);
    CHECK(copy != NULL);
    if (n > 0) {
        memcpy(copy, buf, n);
    }
    int code = bp_request_decode(copy, n, request, &err);
    CHECK(code == BP_OK || err.reason == BP_REASON_MALFORMED_REQUEST);
    free(copy);
    return code;
}

/* Every checksum in a request set to zero: decoding does not recompute them, building does. */
static void blank_checksums(uint8_t *buf, const struct bp_request *request) {
    uint32_t at = request->compares_at;
    for (uint32_t i = 0; i < request->n_compares; i++) {
        struct bp_compare compare;
        memset(buf + at + 16, 0, 4);
        bp_request_compare(request, &at, &compare);
    }
    for (uint32_t i = 0; i < (uint32_t)request->n_then + request->n_else; i++) {
        struct bp_op op;
        memset(buf + at + 16, 0, 4);
        bp_request_op(request, &at, &op);
        uint32_t table = op.op == BP_OP_PUT ? bp_crc_table_size((uint32_t)op.value.size) : 0;
        if (table > 0) {
            memset(buf + (op.value.data - request->base) - table, 0, table);
        }
    }
}

static struct bp_slice without_keyspace(struct bp_slice stored) {
    return bp_slice(stored.data + 1, stored.size - 1);
}

/* What a request decodes to, built again. */
static void rebuild(const struct bp_request *request, struct bp_builder *b) {
    uint32_t at = request->compares_at;
    bp_builder_init(b);
    bp_builder_begin(b, request->kind, request->id, request->fingerprint);
    for (uint32_t i = 0; i < request->n_compares; i++) {
        struct bp_compare compare;
        bp_request_compare(request, &at, &compare);
        uint8_t keyspace = compare.key.data[0];
        compare.key = without_keyspace(compare.key);
        bp_builder_compare(b, keyspace, &compare);
    }
    for (uint32_t i = 0; i < (uint32_t)request->n_then + request->n_else; i++) {
        struct bp_op op;
        bp_request_op(request, &at, &op);
        uint8_t keyspace = op.key.data[0];
        op.key = without_keyspace(op.key);
        if (op.end.size > 0) {
            bool open = op.end.size == 1 && op.end.data[0] != keyspace;
            op.end = open ? bp_slice(NULL, 0) : without_keyspace(op.end);
        }
        bp_builder_op(b, i >= request->n_then, keyspace, &op);
    }
    if (request->kind == BP_REQUEST_LEASE_GRANT) {
        bp_builder_u64(b, request->lease);
        bp_builder_u64(b, request->ttl_ms);
    } else if (request->kind == BP_REQUEST_LEASE_REVOKE) {
        bp_builder_u64(b, request->leases.size / 8);
        for (size_t i = 0; i < request->leases.size; i += 8) {
            bp_builder_u64(b, bp_get_u64(request->leases.data + i));
        }
    } else if (request->kind == BP_REQUEST_COMPACT) {
        bp_builder_u64(b, request->revision);
    }
}

/* A random request of any kind; keys from a small set so that they collide. */
static void random_request(struct bp_builder *b, uint8_t *scratch, uint32_t value_max) {
    char id[BP_REQUEST_ID_MAX + 1] =
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    id[random_below(BP_REQUEST_ID_MAX + 1)] = 0;
    int kind = random_below(8) == 0 ? 2 + (int)random_below(3) : BP_REQUEST_KV;
    bp_builder_init(b);
    bp_builder_begin(b, kind, text(id), random_state);
    uint32_t n = 1 + random_below(5);
    if (kind != BP_REQUEST_KV) {
        uint32_t words = kind == BP_REQUEST_LEASE_GRANT ? 2
                         : kind == BP_REQUEST_COMPACT   ? 1
                                                        : n + 1;
        for (uint32_t i = 0; i < words; i++) {
            bp_builder_u64(b, kind == BP_REQUEST_LEASE_REVOKE && i == 0 ? n : 1 + random_below(9));
        }
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct bp_compare compare = {.target = (uint8_t)(1 + random_below(5)),
                                     .operator = (uint8_t)(1 + random_below(4)),
                                     .operand = random_below(100),
                                     .key = bp_slice("compared", 1 + random_below(8)),
                                     .value = bp_slice(scratch, random_below(20))};
        bp_builder_compare(b, BP_KEYSPACE_USER, &compare);
    }
    uint32_t n_then = random_below(6);
    for (uint32_t i = 0; i < n_then + random_below(4); i++) {
        struct bp_op op = {.op = (uint8_t)(1 + random_below(5)),
                           .key = bp_slice("abcdefgh", 1 + random_below(8)),
                           .value = bp_slice(scratch, random_below(value_max)),
                           .limit = random_below(9)};
        op.end = random_below(2) == 0 ? bp_slice(NULL, 0) : text("b");
        op.lease = random_below(3);
        bp_builder_op(b, i >= n_then, BP_KEYSPACE_OBJECT, &op);
    }
}

/* ---- encoding ---- */

static void test_put_has_its_golden_bytes(void) {
    static const uint8_t golden[] = {
        /* size 80, KV, version 1, id of 2, no flags; fingerprint; 0 compares, 1 then, 0 else */
        80, 0, 0, 0, 1, 1, 2, 0, 77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 'i', 'd', 0, 0, 0,
        0, 0, 0,
        /* PUT, no flags, key of 4, value of 9; lease; crc32c("123456789") */
        1, 0, 4, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x83, 0x92, 0x06, 0xe3, 0, 0, 0, 0, 'u',
        'k', 'e', 'y', 0, 0, 0, 0, '1', '2', '3', '4', '5', '6', '7', '8', '9', 0, 0, 0, 0, 0, 0,
        0};
    struct bp_builder b;
    begin(&b, "id");
    put(&b, 0, text("key"), text("123456789"));
    struct bp_request request = finish(&b);
    CHECK_EQ_U64(b.size, sizeof golden);
    CHECK(memcmp(b.buf, golden, sizeof golden) == 0);
    CHECK(bp_slice_equal(request.id, text("id")));
    CHECK_EQ_U64(request.fingerprint, 77);
    bp_builder_free(&b);
}

static void test_every_op_decodes_to_what_was_built(void) {
    struct bp_builder b;
    begin(&b, "");
    bp_builder_compare(
        &b, 's',
        &(struct bp_compare){
            .target = BP_TARGET_LEASE, .operator = BP_LESS, .operand = 9, .key = text("c")});
    bp_builder_op(&b, 0, 's',
                  &(struct bp_op){.op = BP_OP_SCAN,
                                  .flags = BP_OPF_REVERSE,
                                  .limit = 5,
                                  .key = text(""),
                                  .end = text("")});
    bp_builder_op(&b, 1, 's',
                  &(struct bp_op){.op = BP_OP_PUT,
                                  .flags = BP_OPF_RETURN_PREVIOUS,
                                  .lease = 3,
                                  .key = text("k"),
                                  .value = text("")});
    struct bp_request r = finish(&b);
    uint32_t at = r.compares_at;
    struct bp_compare c;
    bp_request_compare(&r, &at, &c);
    CHECK(c.target == BP_TARGET_LEASE && c.operator == BP_LESS && c.operand == 9);
    CHECK(bp_slice_equal(c.key, text("sc")) && at == r.then_at);
    struct bp_op op;
    bp_request_op(&r, &at, &op);
    CHECK(op.op == BP_OP_SCAN && op.flags == BP_OPF_REVERSE && op.limit == 5);
    CHECK(bp_slice_equal(op.key, text("s")) && bp_slice_equal(op.end, text("t")));
    CHECK(at == r.else_at);
    bp_request_op(&r, &at, &op);
    CHECK(op.op == BP_OP_PUT && op.lease == 3 && op.value.size == 0 && op.value_crc == 0);
    CHECK(bp_slice_equal(op.key, text("sk")) && at == r.size);
    bp_builder_free(&b);
}

static void test_large_values_carry_a_crc_table(void) {
    uint32_t sizes[] = {BP_CRC_CHUNK, BP_CRC_CHUNK + 1, 3 * BP_CRC_CHUNK, BP_VALUE_MAX};
    uint32_t tables[] = {0, 8, 16, 64};
    uint8_t *value = malloc(BP_VALUE_MAX);
    CHECK(value != NULL);
    for (uint32_t i = 0; i < BP_VALUE_MAX; i++) {
        value[i] = (uint8_t)(i * 31 + (i >> 9));
    }
    for (uint32_t i = 0; i < 4; i++) {
        struct bp_builder b;
        begin(&b, "");
        put(&b, 0, text("key"), bp_slice(value, sizes[i]));
        struct bp_request r = finish(&b);
        struct bp_op op;
        uint32_t at = r.then_at;
        bp_request_op(&r, &at, &op);
        CHECK_EQ_U64(bp_crc_table_size(sizes[i]), tables[i]);
        CHECK(op.value.size == sizes[i] && memcmp(op.value.data, value, sizes[i]) == 0);
        uint32_t chunks = (sizes[i] + BP_CRC_CHUNK - 1) / BP_CRC_CHUNK;
        const uint8_t *table = op.value.data - tables[i];
        CHECK_EQ_U64(op.value_crc, tables[i] == 0 ? bp_crc32c_table(0, value, sizes[i])
                                                  : bp_crc32c_table(0, table, 4 * chunks));
        if (tables[i] != 0) {
            uint32_t last = (chunks - 1) * BP_CRC_CHUNK;
            CHECK_EQ_U64(bp_get_u32(table), bp_crc32c_table(0, value, BP_CRC_CHUNK));
            CHECK_EQ_U64(bp_get_u32(table + 4 * (chunks - 1)),
                         bp_crc32c_table(0, value + last, sizes[i] - last));
        }
        bp_builder_free(&b);
    }
    free(value);
}

static void test_random_requests_round_trip(void) {
    uint8_t *scratch = calloc(1, 200000);
    CHECK(scratch != NULL);
    for (int i = 0; i < 3000; i++) {
        struct bp_builder b, again;
        random_request(&b, scratch, i % 10 == 0 ? 200000 : 30);
        struct bp_request r = finish(&b);
        rebuild(&r, &again);
        finish(&again);
        CHECK(again.size == b.size && memcmp(again.buf, b.buf, b.size) == 0);
        bp_builder_free(&b);
        bp_builder_free(&again);
    }
    free(scratch);
}

/* ---- refusal ---- */

static void test_every_truncation_is_refused(void) {
    uint8_t scratch[64] = {1, 2, 3};
    for (int i = 0; i < 40; i++) {
        struct bp_builder b;
        struct bp_request request;
        random_request(&b, scratch, 60);
        finish(&b);
        for (uint32_t n = 0; n < b.size; n++) {
            CHECK(decode_exact(b.buf, n, &request) != BP_OK);
            if (n >= 8 && n % 8 == 0) { /* also when the header claims the shorter size */
                uint32_t size = bp_get_u32(b.buf);
                bp_put_u32(b.buf, n);
                CHECK(decode_exact(b.buf, n, &request) != BP_OK);
                bp_put_u32(b.buf, size);
            }
        }
        bp_builder_free(&b);
    }
}

static void test_what_is_accepted_is_what_would_be_built(void) {
    uint8_t scratch[64] = {7};
    uint32_t accepted = 0;
    for (int i = 0; i < 30000; i++) {
        struct bp_builder b, again;
        struct bp_request r;
        struct bp_error err;
        random_request(&b, scratch, 60);
        finish(&b);
        for (uint32_t k = 1 + random_below(3); k > 0; k--) {
            b.buf[random_below(b.size)] ^= (uint8_t)(1u << random_below(8));
        }
        CHECK(decode_exact(b.buf, b.size, &r) == bp_request_decode(b.buf, b.size, &r, &err));
        if (bp_request_decode(b.buf, b.size, &r, &err) == BP_OK) {
            accepted++;
            rebuild(&r, &again);
            struct bp_request twin = finish(&again);
            CHECK_EQ_U64(again.size, b.size);
            blank_checksums(b.buf, &r);
            blank_checksums(again.buf, &twin);
            CHECK(memcmp(again.buf, b.buf, b.size) == 0);
            bp_builder_free(&again);
        }
        bp_builder_free(&b);
    }
    CHECK(accepted > 1000); /* else this test looks at nothing */
}

/* One put, with one byte or field broken. */
static void expect_refused(uint32_t offset, uint8_t byte) {
    struct bp_builder b;
    struct bp_request request;
    begin(&b, "");
    put(&b, 0, text("key"), text("value"));
    finish(&b);
    CHECK(b.buf[offset] != byte);
    b.buf[offset] = byte;
    CHECK(decode_exact(b.buf, b.size, &request) == BP_INVALID_ARGUMENT);
    bp_builder_free(&b);
}

static void test_broken_fields_are_refused(void) {
    expect_refused(0, 80); /* size */
    expect_refused(4, 0);  /* kind */
    expect_refused(4, 5);
    expect_refused(5, 2);  /* version */
    expect_refused(6, 65); /* id size */
    expect_refused(7, 1);  /* flags */
    expect_refused(16, 1); /* counts */
    expect_refused(18, 0);
    expect_refused(18, 2);
    expect_refused(20, 1);
    expect_refused(22, 1); /* zero */
    expect_refused(24, 0); /* op */
    expect_refused(24, 6);
    expect_refused(25, 4); /* a flag of scans */
    expect_refused(26, 0); /* key size */
    expect_refused(27, 17);
    expect_refused(28, 14); /* value size, into the next 8 */
    expect_refused(31, 1);
    expect_refused(44, 1);   /* zero */
    expect_refused(48, 'x'); /* keyspace */
    expect_refused(52, 1);   /* padding of the key */
    expect_refused(61, 1);   /* padding of the value */
}

static void test_ranges_stay_in_their_keyspace(void) {
    struct bp_builder b;
    struct bp_request request;
    begin(&b, "");
    delete_range(&b, 0, text("a"), text("b"));
    finish(&b);
    uint8_t *end = b.buf + BP_REQUEST_HEADER + BP_OP_HEADER + 8;
    CHECK(end[0] == 'u' && end[1] == 'b');
    end[1] = 'a'; /* empty */
    CHECK(decode_exact(b.buf, b.size, &request) != BP_OK);
    end[0] = 'v'; /* into the next keyspace */
    CHECK(decode_exact(b.buf, b.size, &request) != BP_OK);
    end[1] =
        0; /* "v" followed by padding: the end of the keyspace, but the size still says two bytes */
    CHECK(decode_exact(b.buf, b.size, &request) != BP_OK);
    bp_put_u32(b.buf + BP_REQUEST_HEADER + 4, 1);
    CHECK(decode_exact(b.buf, b.size, &request) == BP_OK);
    bp_builder_free(&b);
}

static void test_requests_stand_one_behind_the_other(void) {
    struct bp_builder first, second;
    struct bp_request request;
    struct bp_error err;
    uint8_t both[256];
    begin(&first, "");
    put(&first, 0, text("a"), text("1"));
    finish(&first);
    begin(&second, "");
    put(&second, 0, text("b"), text("2"));
    finish(&second);
    memcpy(both, first.buf, first.size);
    memcpy(both + first.size, second.buf, second.size);
    uint32_t size = first.size + second.size;
    CHECK_OK(bp_request_decode(both, size, &request, &err), &err);
    CHECK_EQ_U64(request.size, first.size);
    CHECK_OK(bp_request_decode(both + request.size, size - request.size, &request, &err), &err);
    CHECK_EQ_U64(request.size, second.size);
    bp_builder_free(&first);
    bp_builder_free(&second);
}

/* ---- limits ---- */

static void test_the_largest_key_and_value_fit_and_the_largest_request_is_bounded(void) {
    uint8_t *big = calloc(1, BP_VALUE_MAX), key[BP_KEY_MAX] = {1};
    struct bp_builder b;
    struct bp_error err;
    CHECK(big != NULL);
    begin(&b, "");
    put(&b, 0, bp_slice(key, BP_KEY_MAX), bp_slice(big, BP_VALUE_MAX));
    finish(&b);
    put(&b, 0, text("b"), bp_slice(big, BP_VALUE_MAX));
    finish(&b);
    uint32_t room = BP_REQUEST_MAX - b.size - BP_OP_HEADER - 8 - 32; /* header, key, CRC table */
    put(&b, 1, text("c"), bp_slice(big, room));
    finish(&b);
    CHECK_EQ_U64(b.size, BP_REQUEST_MAX);
    put(&b, 1, text("d"), text(""));
    CHECK(bp_builder_finish(&b, &err) == BP_INVALID_ARGUMENT);
    CHECK(err.reason == BP_REASON_REQUEST_TOO_LARGE);
    bp_builder_free(&b);
    free(big);
}

static void test_a_builder_can_be_used_again_after_a_failure(void) {
    uint8_t *big = calloc(1, BP_VALUE_MAX);
    struct bp_builder b;
    struct bp_error err;
    CHECK(big != NULL);
    begin(&b, "");
    for (int i = 0; i < 4; i++) {
        put(&b, 0, text("k"), bp_slice(big, BP_VALUE_MAX));
    }
    CHECK(bp_builder_finish(&b, &err) != BP_OK);
    bp_builder_begin(&b, BP_REQUEST_KV, text(""), 0);
    put(&b, 0, text("k"), text("v"));
    CHECK(finish(&b).n_then == 1);
    bp_builder_free(&b);
    free(big);
}

/* ---- fingerprints ---- */

static uint64_t fingerprint(int method, const char *id, const char *key, const char *value) {
    struct bp_builder b;
    begin(&b, id);
    put(&b, 0, text(key), text(value));
    bp_builder_fingerprint(&b, method);
    uint64_t hash = finish(&b).fingerprint;
    bp_builder_free(&b);
    return hash;
}

static void test_fingerprints_tell_requests_apart_and_ignore_the_id(void) {
    uint64_t one = fingerprint(2, "id", "key", "value");
    CHECK(one != 0);
    CHECK(one == fingerprint(2, "another-id", "key", "value"));
    CHECK(one != fingerprint(6, "id", "key", "value"));
    CHECK(one != fingerprint(2, "id", "kez", "value"));
    CHECK(one != fingerprint(2, "id", "key", "valuf"));
    CHECK(one != fingerprint(2, "id", "key", "valu"));
    CHECK_EQ_U64(one, GOLDEN_FINGERPRINT); /* kept in checkpoints: it must never change */
}

/* ---- the duplicate-key rule ---- */

/* The rule as it is written, by looking at all pairs. */
static bool naive_conflict(const struct bp_request *r, uint32_t at, uint32_t n, bool once) {
    struct bp_op ops[16];
    for (uint32_t i = 0; i < n; i++) {
        bp_request_op(r, &at, &ops[i]);
        for (uint32_t k = 0; k < i; k++) {
            const struct bp_op *a = &ops[i], *b = &ops[k];
            bool a_put = a->op == BP_OP_PUT, b_put = b->op == BP_OP_PUT;
            bool a_writes = a->op <= BP_OP_DELETE_RANGE, b_writes = b->op <= BP_OP_DELETE_RANGE;
            bool a_covers_b = a->op == BP_OP_DELETE_RANGE &&
                              bp_slice_compare(a->key, b->key) <= 0 &&
                              bp_slice_compare(b->key, a->end) < 0;
            bool b_covers_a = b->op == BP_OP_DELETE_RANGE &&
                              bp_slice_compare(b->key, a->key) <= 0 &&
                              bp_slice_compare(a->key, b->end) < 0;
            bool same = bp_slice_equal(a->key, b->key);
            if (!a_writes || !b_writes) {
                continue;
            }
            if ((same && (a_put || b_put || once)) || (a_covers_b && b_put) ||
                (b_covers_a && a_put)) {
                return true;
            }
        }
    }
    return false;
}

static void check_rule(const struct bp_request *r, bool once, uint32_t seen[2]) {
    struct bp_error err;
    struct bp_key_conflict conflict;
    bool found, naive = naive_conflict(r, r->then_at, r->n_then, once) ||
                        naive_conflict(r, r->else_at, r->n_else, once);
    CHECK_OK(bp_request_find_conflict(r, once, &found, &conflict, &err), &err);
    CHECK(found == naive);
    if (found) {
        CHECK(conflict.other < conflict.index);
        CHECK(conflict.index < (conflict.branch == 0 ? r->n_then : r->n_else));
    }
    if (!once) {
        CHECK((bp_request_check_keys(r, &err) == BP_OK) == !found);
        CHECK(!found || err.reason == BP_REASON_DUPLICATE_KEY);
    }
    seen[found]++;
}

static void test_the_duplicate_rule_agrees_with_a_naive_one(void) {
    uint32_t seen[2] = {0};
    for (int i = 0; i < 20000; i++) {
        struct bp_builder b;
        begin(&b, "");
        uint32_t n = random_below(9), n_then = random_below(n + 1);
        bool once = i % 3 == 0;
        for (uint32_t k = 0; k < n; k++) {
            char key[3] = {(char)('a' + random_below(6)), (char)('a' + random_below(6)), 0};
            char end[3] = {(char)(key[0] + (int)random_below(3)), 'z', 0};
            uint8_t op = (uint8_t)(1 + random_below(once ? 2 : 5));
            bp_builder_op(&b, k >= n_then, 'u',
                          &(struct bp_op){.op = op,
                                          .key = bp_slice(key, 1 + random_below(2)),
                                          .end = random_below(9) == 0 ? text("") : text(end)});
        }
        struct bp_request r = finish(&b);
        check_rule(&r, once, seen);
        bp_builder_free(&b);
    }
    CHECK(seen[0] > 3000 && seen[1] > 3000);
}

static void test_a_duplicate_names_the_later_op(void) {
    struct bp_builder b;
    struct bp_error err;
    begin(&b, "");
    put(&b, 0, text("z"), text(""));
    put(&b, 1, text("m"), text(""));
    put(&b, 1, text("k"), text(""));
    put(&b, 1, text("m"), text(""));
    struct bp_request r = finish(&b);
    CHECK(bp_request_check_keys(&r, &err) == BP_INVALID_ARGUMENT);
    CHECK(strcmp(err.field, "else_ops[2]") == 0);
    bp_builder_free(&b);
}

static void test_thousands_of_keys_in_any_order_are_checked(void) {
    enum { N = 20000 };
    struct bp_builder b;
    struct bp_error err;
    char key[64];
    begin(&b, "");
    for (int i = 0; i < N;
         i++) { /* descending, one long prefix: the worst case of a sort by heads */
        snprintf(key, sizeof key, "a-long-common-prefix-of-all-the-keys/%06d", N - i);
        bp_builder_op(&b, 0, 'u', &(struct bp_op){.op = BP_OP_DELETE, .key = text(key)});
    }
    struct bp_request r = finish(&b);
    CHECK_OK(bp_request_check_keys(&r, &err), &err);
    put(&b, 0, text(key), text(""));
    r = finish(&b);
    CHECK(bp_request_check_keys(&r, &err) == BP_INVALID_ARGUMENT);
    CHECK(strcmp(err.field, "then_ops[20000]") == 0);
    bp_builder_free(&b);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_put_has_its_golden_bytes);
    RUN(test_every_op_decodes_to_what_was_built);
    RUN(test_large_values_carry_a_crc_table);
    RUN(test_random_requests_round_trip);
    RUN(test_every_truncation_is_refused);
    RUN(test_what_is_accepted_is_what_would_be_built);
    RUN(test_broken_fields_are_refused);
    RUN(test_ranges_stay_in_their_keyspace);
    RUN(test_requests_stand_one_behind_the_other);
    RUN(test_the_largest_key_and_value_fit_and_the_largest_request_is_bounded);
    RUN(test_a_builder_can_be_used_again_after_a_failure);
    RUN(test_fingerprints_tell_requests_apart_and_ignore_the_id);
    RUN(test_the_duplicate_rule_agrees_with_a_naive_one);
    RUN(test_a_duplicate_names_the_later_op);
    RUN(test_thousands_of_keys_in_any_order_are_checked);
    TESTS_END;
}

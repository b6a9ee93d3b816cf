/*
 * Replies: reads in pages, and the results of writes told from history, over the real index and
 * real segments on a simulated disk.
 *
 * Replies are compared as text. A KeyValue reads key=value@mod, with /create after it where that
 * differs, and #version from the second on.
 */
#include "check.h"

#include <stdarg.h>
#include <stdatomic.h>

#include "protobuf.h"
#include "value.h"
#include "wire.h"

enum { SEGMENT = 1, SEGMENT_SIZE = 32 << 20 };

/* ---- the fixture: a store of one segment and an index ---- */

struct fixture {
    struct bp_sim *sim;
    struct bp_disk *disk;
    struct bp_segments *segments;
    struct bp_segment *segment;
    struct bp_index *index;
    struct bp_epoch epoch;
    uint32_t end; /* of the values in the segment */
    uint64_t revision;
    uint64_t floor;
    struct bp_wire_limits limits;
    struct bp_buffer reply;
    struct bp_error err;
};

static void ignore_dead(void *ctx, const struct bp_value_ref *value) {
    (void)ctx;
    (void)value;
}

static struct fixture *open_fixture(void) {
    static const struct bp_index_hooks hooks = {.dead = ignore_dead};
    struct fixture *f = calloc(1, sizeof *f);
    struct bp_io io;
    CHECK(f != NULL);
    f->sim = bp_sim_new(1);
    CHECK(f->sim != NULL);
    bp_sim_io(f->sim, &io);
    f->disk = bp_disk_new(&io);
    CHECK(f->disk != NULL && bp_disk_mkdir(f->disk, "store") == 0);
    f->segments = bp_segments_new(f->disk, "store");
    f->index = bp_index_new(&hooks);
    CHECK(f->segments != NULL && f->index != NULL);
    struct bp_segment_header header = {
        .kind = BP_SEGMENT_SETTLED, .format = BP_FORMAT_VERSION, .id = SEGMENT, .salt = 1};
    CHECK_OK(bp_segment_create(f->segments, &header, SEGMENT_SIZE, NULL, 0, &f->segment, &f->err),
             &f->err);
    f->end = BP_SEGMENT_HEADER;
    f->limits = (struct bp_wire_limits){.key_max = BP_KEY_MAX,
                                        .value_max = BP_VALUE_MAX,
                                        .request_max = 2u << 20,
                                        .txn_ops_max = 1024,
                                        .batch_ops_max = 10000,
                                        .scan_page_max = 10000,
                                        .reply_bytes_max = 2u << 20,
                                        .lease_ttl_min_ms = 1000,
                                        .lease_ttl_max_ms = 1000000};
    return f;
}

static void close_fixture(struct fixture *f) {
    CHECK(atomic_load(&f->epoch.readers[0]) == 0 && atomic_load(&f->epoch.readers[1]) == 0);
    CHECK(bp_index_check(f->index) == NULL);
    bp_buffer_free(&f->reply);
    bp_index_free(f->index);
    bp_segments_free(f->segments);
    bp_disk_free(f->disk);
    bp_sim_free(f->sim);
    free(f);
}

static struct bp_view view_of(struct fixture *f) {
    return (struct bp_view){.index = f->index,
                            .segments = f->segments,
                            .epoch = &f->epoch,
                            .revision = f->revision,
                            .floor = f->floor};
}

static struct bp_slice text(const char *s) { return bp_slice(s, strlen(s)); }

/* Write a value, its CRC table before it, where the index will say it lies. */
static struct bp_value_ref store_value(struct fixture *f, struct bp_slice value) {
    uint8_t table[64];
    uint32_t table_size = bp_crc_table_size((uint32_t)value.size);
    struct bp_value_ref ref = {.size = (uint32_t)value.size,
                               .crc = bp_value_checksum(value, table)};
    CHECK(f->end + table_size + value.size <= SEGMENT_SIZE);
    int fd = f->segment->fd;
    CHECK(bp_disk_write(f->disk, BP_SITE_SETTLED_WRITE, fd, table, table_size, f->end) == 0);
    ref.at = (struct bp_pos){.segment = SEGMENT, .offset = f->end + table_size};
    if (value.size > 0) {
        CHECK(bp_disk_write(f->disk, BP_SITE_SETTLED_WRITE, fd, value.data, value.size,
                            ref.at.offset) == 0);
    }
    f->end = (uint32_t)bp_align8(ref.at.offset + value.size);
    return ref;
}

static uint64_t apply_range(struct fixture *f, const struct bp_op *op) {
    uint8_t buf[BP_STORED_KEY_MAX];
    struct bp_slice key;
    struct bp_version version;
    uint64_t n = 0;
    while (bp_index_next_live(f->index, op->key, op->end, buf, &key, &version)) {
        CHECK(bp_index_delete(f->index, key, f->revision, &version) == 1);
        n++;
    }
    return n;
}

/* What the store's apply does with the writes of a branch, at the next revision. */
static struct bp_outcome apply(struct fixture *f, const struct bp_request *request, bool then) {
    struct bp_outcome outcome = {.revision = ++f->revision, .succeeded = then};
    uint32_t at = then ? request->then_at : request->else_at;
    uint32_t n = then ? request->n_then : request->n_else;
    for (uint32_t i = 0; i < n; i++) {
        struct bp_op op;
        struct bp_version previous;
        bp_request_op(request, &at, &op);
        if (op.op == BP_OP_PUT) {
            struct bp_value_ref ref = store_value(f, op.value);
            CHECK_OK(bp_index_put(f->index, op.key, f->revision, op.lease,
                                  (op.flags & BP_OPF_KEEP_LEASE) != 0, &ref, &previous, &f->err),
                     &f->err);
        } else if (op.op == BP_OP_DELETE) {
            outcome.deleted += bp_index_delete(f->index, op.key, f->revision, &previous) == 1;
        } else if (op.op == BP_OP_DELETE_RANGE) {
            outcome.deleted += apply_range(f, &op);
        }
    }
    return outcome;
}

static void put(struct fixture *f, const char *key, struct bp_slice value) {
    struct bp_builder b;
    struct bp_request request;
    bp_builder_init(&b);
    bp_builder_begin(&b, BP_REQUEST_KV, text(""), 0);
    bp_builder_op(&b, 0, 'u', &(struct bp_op){.op = BP_OP_PUT, .key = text(key), .value = value});
    CHECK_OK(bp_builder_finish(&b, &f->err), &f->err);
    CHECK_OK(bp_request_decode(b.buf, b.size, &request, &f->err), &f->err);
    apply(f, &request, true);
    bp_builder_free(&b);
}

static void put_text(struct fixture *f, const char *key, const char *value) {
    put(f, key, text(value));
}

/* ---- replies as text ---- */

struct text_buffer {
    char data[1 << 16];
    size_t size;
};

static void say(struct text_buffer *t, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(t->data + t->size, sizeof t->data - t->size, fmt, args);
    va_end(args);
    CHECK(n >= 0 && (size_t)n < sizeof t->data - t->size);
    t->size += (size_t)n;
}

static bool next(struct bp_pb_reader *r, struct bp_pb_field *f) {
    bool more = bp_pb_next(r, f);
    CHECK(!r->malformed);
    return more;
}

static void say_kv(struct text_buffer *t, struct bp_slice message) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    struct bp_slice key = {0}, value = {0};
    uint64_t numbers[7] = {0};
    uint32_t last = 0;
    while (next(&r, &f)) {
        CHECK(f.number > last && f.number <= 6); /* canonical: ascending, each once */
        last = f.number;
        numbers[f.number] = f.value;
        key = f.number == 1 ? f.bytes : key;
        value = f.number == 2 ? f.bytes : value;
        CHECK(f.type == BP_PB_LEN ? f.bytes.size > 0 : f.value != 0);
    }
    say(t, " %.*s=", (int)key.size, (const char *)key.data);
    if (value.size <= 32) {
        say(t, "%.*s", (int)value.size, value.size == 0 ? "" : (const char *)value.data);
    } else {
        say(t, "<%zu>", value.size);
    }
    say(t, "@%llu", (unsigned long long)numbers[4]);
    if (numbers[3] != numbers[4]) {
        say(t, "/%llu", (unsigned long long)numbers[3]);
    }
    if (numbers[5] > 1) {
        say(t, "#%llu", (unsigned long long)numbers[5]);
    }
    if (numbers[6] != 0) {
        say(t, "!%llu", (unsigned long long)numbers[6]);
    }
}

/* A message whose numbers are named by `names` and whose messages are KeyValues. */
static void say_fields(struct text_buffer *t, struct bp_slice message, const char *const *names) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    while (next(&r, &f)) {
        if (f.type == BP_PB_LEN && strcmp(names[f.number], "token") == 0) {
            say(t, " token");
        } else if (f.type == BP_PB_LEN) {
            say_kv(t, f.bytes);
        } else {
            say(t, " %s %llu", names[f.number], (unsigned long long)f.value);
        }
    }
}

static void say_result(struct text_buffer *t, struct bp_slice message) {
    static const char *const kinds[] = {"", "put", "delete", "get", "scan"};
    static const char *const names[][4] = {
        {0}, {0}, {"", "deleted"}, {"", "kv", "omitted"}, {"", "kvs", "count", "more"}};
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    CHECK(next(&r, &f) && f.number >= 1 && f.number <= 4 && f.type == BP_PB_LEN);
    say(t, " [%s", kinds[f.number]);
    say_fields(t, f.bytes, names[f.number]);
    say(t, "]");
    CHECK(!next(&r, &f));
}

static const char *const get_names[] = {"", "rev", "kv"};
static const char *const scan_names[] = {"", "rev", "at", "kvs", "count", "token"};
static const char *const put_names[] = {"", "rev", "previous"};
static const char *const delete_names[] = {"", "rev", "deleted", "previous", "truncated"};
static const char *const batch_names[] = {"", "rev", "put", "deleted"};
static const char *const grant_names[] = {"", "rev", "lease", "ttl"};
static const char *const revoke_names[] = {"", "rev", "deleted"};

static void say_txn(struct text_buffer *t, struct bp_slice message) {
    struct bp_pb_reader r = bp_pb_read(message);
    struct bp_pb_field f;
    static const char *const names[] = {"", "rev", "ok", ""};
    while (next(&r, &f)) {
        if (f.number == 3) {
            say_result(t, f.bytes);
        } else {
            say(t, " %s %llu", names[f.number], (unsigned long long)f.value);
        }
    }
}

static void say_reply(struct text_buffer *t, int method, const struct bp_buffer *reply) {
    static const char *const *const names[] = {[BP_METHOD_GET] = get_names,
                                               [BP_METHOD_PUT] = put_names,
                                               [BP_METHOD_DELETE] = delete_names,
                                               [BP_METHOD_SCAN] = scan_names,
                                               [BP_METHOD_BATCH] = batch_names,
                                               [BP_METHOD_GRANT_LEASE] = grant_names,
                                               [BP_METHOD_REVOKE_LEASE] = revoke_names};
    t->size = 0;
    t->data[0] = 0;
    if (method == BP_METHOD_TXN) {
        say_txn(t, bp_slice(reply->data, reply->size));
    } else {
        say_fields(t, bp_slice(reply->data, reply->size), names[method]);
    }
}

static void expect_text(const char *got, const char *want) {
    if (strcmp(got, want) != 0) {
        fprintf(stderr, "got      %s\nexpected %s\n", got, want);
        exit(1);
    }
}

/* ---- calls ---- */

/* Decode a request and, for a read, answer it into f->reply. */
static int read_call(struct fixture *f, int method, const struct bp_buffer *message) {
    struct bp_wire_call call;
    struct bp_view view = view_of(f);
    int code =
        bp_wire_decode(method, 'u', message->data, message->size, &f->limits, &call, &f->err);
    if (code == BP_OK) {
        f->reply.size = 0;
        code = bp_wire_read(&call.read, &view, &f->limits, &f->reply, &f->err);
        CHECK(code == BP_OK || f->reply.size == 0);
        bp_wire_call_free(&call);
    }
    return code;
}

static void expect_read(struct fixture *f, int method, const struct bp_buffer *message,
                        const char *want) {
    struct text_buffer t;
    CHECK_OK(read_call(f, method, message), &f->err);
    say_reply(&t, method, &f->reply);
    expect_text(t.data, want);
}

/* Decode a write, apply it (`then`), and make its reply. */
static struct bp_outcome write_call(struct fixture *f, int method, const struct bp_buffer *message,
                                    bool then) {
    struct bp_wire_call call;
    struct bp_request request;
    CHECK_OK(bp_wire_decode(method, 'u', message->data, message->size, &f->limits, &call, &f->err),
             &f->err);
    CHECK_OK(bp_request_decode(call.request.buf, call.request.size, &request, &f->err), &f->err);
    struct bp_outcome outcome = apply(f, &request, then);
    struct bp_view view = view_of(f);
    f->reply.size = 0;
    CHECK_OK(bp_wire_write_reply(method, &request, &outcome, &view, &f->limits, &f->reply, &f->err),
             &f->err);
    bp_wire_call_free(&call);
    return outcome;
}

static void expect_write(struct fixture *f, int method, const struct bp_buffer *message, bool then,
                         const char *want) {
    struct text_buffer t;
    write_call(f, method, message, then);
    say_reply(&t, method, &f->reply);
    expect_text(t.data, want);
}

/* The reply of an outcome known already, as a replay makes it. */
static int reply_to(struct fixture *f, int method, const struct bp_buffer *message,
                    struct bp_outcome outcome) {
    struct bp_wire_call call;
    struct bp_request request;
    struct bp_view view = view_of(f);
    CHECK_OK(bp_wire_decode(method, 'u', message->data, message->size, &f->limits, &call, &f->err),
             &f->err);
    CHECK_OK(bp_request_decode(call.request.buf, call.request.size, &request, &f->err), &f->err);
    f->reply.size = 0;
    int code =
        bp_wire_write_reply(method, &request, &outcome, &view, &f->limits, &f->reply, &f->err);
    CHECK(code != BP_OUT_OF_RANGE || bp_wire_reads_history(method, &request));
    bp_wire_call_free(&call);
    return code;
}

static void expect_reply(struct fixture *f, int method, const struct bp_buffer *message,
                         struct bp_outcome outcome, const char *want) {
    static struct text_buffer t;
    CHECK_OK(reply_to(f, method, message, outcome), &f->err);
    say_reply(&t, method, &f->reply);
    expect_text(t.data, want);
}

static void expect_compacted(struct fixture *f, int method, const struct bp_buffer *message,
                             struct bp_outcome outcome) {
    CHECK(reply_to(f, method, message, outcome) == BP_OUT_OF_RANGE);
    CHECK(f->err.reason == BP_REASON_REVISION_COMPACTED && f->err.revision == f->floor);
    CHECK(f->reply.size == 0);
}

static struct bp_buffer scan_message(const char *start, const char *end, uint64_t limit) {
    struct bp_buffer m = {0};
    bp_pb_text(&m, 1, start);
    bp_pb_text(&m, 2, end);
    bp_pb_uint(&m, 4, limit);
    return m;
}

static struct bp_buffer key_message(const char *key) {
    struct bp_buffer m = {0};
    bp_pb_text(&m, 1, key);
    return m;
}

/* ---- Get and Scan ---- */

static void test_get_reads_now_and_then(void) {
    struct fixture *f = open_fixture();
    put_text(f, "k", "one");
    put_text(f, "k", "two");
    struct bp_buffer m = key_message("k"), missing = key_message("j");
    expect_read(f, BP_METHOD_GET, &m, " rev 2 k=two@2/1#2");
    expect_read(f, BP_METHOD_GET, &missing, " rev 2");
    bp_pb_uint(&m, 2, 1);
    expect_read(f, BP_METHOD_GET, &m, " rev 2 k=one@1");
    bp_buffer_free(&m);
    bp_buffer_free(&missing);
    close_fixture(f);
}

static void test_a_revision_outside_what_is_retained_is_refused(void) {
    struct fixture *f = open_fixture();
    put_text(f, "k", "one");
    put_text(f, "k", "two");
    put_text(f, "k", "three");
    struct bp_buffer m = key_message("k");
    bp_pb_uint(&m, 2, 4);
    CHECK(read_call(f, BP_METHOD_GET, &m) == BP_OUT_OF_RANGE);
    CHECK(f->err.reason == BP_REASON_REVISION_IN_FUTURE);
    f->floor = 2;
    bp_pb_uint(&m, 2, 1);
    CHECK(read_call(f, BP_METHOD_GET, &m) == BP_OUT_OF_RANGE);
    CHECK(f->err.reason == BP_REASON_REVISION_COMPACTED && f->err.revision == 2);
    bp_pb_uint(&m, 2, 2);
    expect_read(f, BP_METHOD_GET, &m, " rev 3 k=two@2/1#2");
    bp_pb_uint(&m, 8, 1);
    CHECK(read_call(f, BP_METHOD_SCAN, &m) == BP_OUT_OF_RANGE && f->err.revision == 2);
    bp_buffer_free(&m);
    close_fixture(f);
}

static void test_scan_shows_a_range_in_either_order(void) {
    struct fixture *f = open_fixture();
    put_text(f, "a", "1");
    put_text(f, "b", "2");
    put_text(f, "c", "");
    struct bp_buffer m = scan_message("", "", 0);
    expect_read(f, BP_METHOD_SCAN, &m, " rev 3 at 3 a=1@1 b=2@2 c=@3 count 3");
    bp_pb_uint(&m, 5, 1);
    expect_read(f, BP_METHOD_SCAN, &m, " rev 3 at 3 c=@3 b=2@2 a=1@1 count 3");
    bp_pb_uint(&m, 6, 1);
    expect_read(f, BP_METHOD_SCAN, &m, " rev 3 at 3 c=@3 b=@2 a=@1 count 3");
    bp_pb_uint(&m, 8, 2);
    expect_read(f, BP_METHOD_SCAN, &m, " rev 3 at 2 b=@2 a=@1 count 2");
    bp_pb_uint(&m, 7, 1);
    expect_read(f, BP_METHOD_SCAN, &m, " rev 3 at 2 count 2");
    bp_buffer_free(&m);
    m = scan_message("a", "c", 0);
    expect_read(f, BP_METHOD_SCAN, &m, " rev 3 at 3 a=1@1 b=2@2 count 2");
    bp_buffer_free(&m);
    m = scan_message("d", "", 0);
    expect_read(f, BP_METHOD_SCAN, &m, " rev 3 at 3");
    bp_buffer_free(&m);
    close_fixture(f);
}

/* The page token of f->reply; false when it has none. */
static bool page_token(struct fixture *f, struct bp_buffer *token) {
    struct bp_pb_reader r = bp_pb_read(bp_slice(f->reply.data, f->reply.size));
    struct bp_pb_field field;
    while (next(&r, &field)) {
        if (field.number == 5) {
            token->size = 0;
            bp_buffer_append(token, field.bytes.data, field.bytes.size);
            return true;
        }
    }
    return false;
}

/*
 * Scan everything in pages of `limit` keys; each key must come once, in order, of the same
 * revision.
 */
static uint32_t walk_pages(struct fixture *f, uint32_t n_keys, uint64_t limit, bool reverse) {
    struct bp_buffer token = {0};
    uint32_t pages = 0, seen = 0;
    uint64_t at = f->revision;
    bool more = true;
    while (more) {
        struct bp_buffer m = scan_message("", "", limit);
        bp_pb_uint(&m, 5, reverse);
        bp_pb_bytes(&m, 10, bp_slice(token.data, token.size));
        CHECK_OK(read_call(f, BP_METHOD_SCAN, &m), &f->err);
        bp_buffer_free(&m);
        put_text(f, "zzz-later", "x"); /* other pages do not see it */
        struct bp_pb_reader r = bp_pb_read(bp_slice(f->reply.data, f->reply.size));
        struct bp_pb_field field, kv;
        uint32_t on_page = 0;
        while (next(&r, &field)) {
            CHECK(field.number != 2 || field.value == at);
            if (field.number == 3) {
                char want[16];
                struct bp_pb_reader inner = bp_pb_read(field.bytes);
                snprintf(want, sizeof want, "%06u", reverse ? n_keys - 1 - seen : seen);
                CHECK(next(&inner, &kv) && bp_slice_equal(kv.bytes, text(want)));
                seen++;
                on_page++;
            }
            CHECK(field.number != 4 || field.value == on_page);
        }
        CHECK(on_page <= limit);
        pages++;
        more = page_token(f, &token);
        CHECK(!more || on_page > 0);
    }
    CHECK_EQ_U64(seen, n_keys);
    bp_buffer_free(&token);
    return pages;
}

static void test_pages_show_every_key_once_at_one_revision(void) {
    struct fixture *f = open_fixture();
    char key[16];
    for (uint32_t i = 0; i < 1000; i++) {
        snprintf(key, sizeof key, "%06u", i);
        put_text(f, key, "value");
    }
    CHECK_EQ_U64(walk_pages(f, 1000, 10000, false), 1);
    struct bp_buffer m = key_message("zzz-later");
    CHECK_EQ_U64(f->revision, 1001);
    bp_buffer_free(&m);
    close_fixture(f);
    static const uint32_t limits[] = {1, 7, 100, 127, 128, 129, 999, 1000, 1001};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        for (int reverse = 0; reverse < 2; reverse++) {
            f = open_fixture();
            for (uint32_t k = 0; k < 1000; k++) {
                snprintf(key, sizeof key, "%06u", k);
                put_text(f, key, "value");
            }
            CHECK_EQ_U64(walk_pages(f, 1000, limits[i], reverse == 1),
                         (1000 + limits[i] - 1) / limits[i]);
            close_fixture(f);
        }
    }
}

static void test_a_page_ends_at_its_budget_but_holds_one_key(void) {
    struct fixture *f = open_fixture();
    uint8_t big[1000] = {1};
    put(f, "000000", bp_slice(big, sizeof big));
    put(f, "000001", bp_slice(big, sizeof big));
    put(f, "000002", bp_slice(big, sizeof big));
    f->limits.reply_bytes_max = 4158 + 2 * 1020; /* room for a token, and two KeyValues */
    struct bp_buffer m = scan_message("", "", 0);
    expect_read(f, BP_METHOD_SCAN, &m, " rev 3 at 3 000000=<1000>@1 000001=<1000>@2 count 2 token");
    CHECK(f->reply.size <= f->limits.reply_bytes_max);
    f->limits.reply_bytes_max -= 1;
    expect_read(f, BP_METHOD_SCAN, &m, " rev 3 at 3 000000=<1000>@1 count 1 token");
    f->limits.reply_bytes_max = 10;
    CHECK_EQ_U64(walk_pages(f, 3, 100, false), 3);
    bp_buffer_free(&m);
    close_fixture(f);
}

static void test_long_keys_and_large_values_cross_steps(void) {
    struct fixture *f = open_fixture();
    uint8_t *big = calloc(1, 300000);
    char key[4001];
    CHECK(big != NULL);
    memset(key, 'k', sizeof key);
    key[4000] = 0;
    for (int i = 0; i < 20; i++) {
        key[3999] = (char)('a' + i);
        put(f, key, bp_slice(big, i % 2 == 0 ? 100000 : 10));
    }
    f->limits.reply_bytes_max = 10u << 20;
    for (uint64_t reverse = 0; reverse < 2; reverse++) {
        struct bp_buffer m = scan_message("", "", 0);
        bp_pb_uint(&m, 5, reverse);
        CHECK_OK(read_call(f, BP_METHOD_SCAN, &m), &f->err);
        struct bp_pb_reader r = bp_pb_read(bp_slice(f->reply.data, f->reply.size));
        struct bp_pb_field field, kv;
        int n = 0;
        while (next(&r, &field)) {
            if (field.number == 3) {
                struct bp_pb_reader inner = bp_pb_read(field.bytes);
                CHECK(next(&inner, &kv) && kv.bytes.size == 4000);
                CHECK(kv.bytes.data[3999] == 'a' + (reverse == 1 ? 19 - n : n));
                n++;
            }
        }
        CHECK(n == 20);
        bp_buffer_free(&m);
    }
    free(big);
    close_fixture(f);
}

static void test_a_damaged_value_is_never_returned(void) {
    struct fixture *f = open_fixture();
    put_text(f, "good", "value");
    uint32_t at = f->end;
    put_text(f, "bad", "value");
    CHECK(bp_sim_flip(f->sim, "store/00000001.set", at + 2, 3) == 0);
    struct bp_buffer m = key_message("bad"), good = key_message("good"),
                     all = scan_message("", "", 0);
    CHECK(read_call(f, BP_METHOD_GET, &m) == BP_DATA_LOSS);
    CHECK(f->err.reason == BP_REASON_VALUE_DAMAGED);
    CHECK(read_call(f, BP_METHOD_SCAN, &all) == BP_DATA_LOSS);
    expect_read(f, BP_METHOD_GET, &good, " rev 2 good=value@1");
    bp_pb_uint(&all, 6, 1);
    expect_read(f, BP_METHOD_SCAN, &all, " rev 2 at 2 bad=@2 good=@1 count 2");
    bp_buffer_free(&m);
    bp_buffer_free(&good);
    bp_buffer_free(&all);
    close_fixture(f);
}

/* ---- Put, Delete, Batch, leases ---- */

static void test_put_returns_what_it_replaced(void) {
    struct fixture *f = open_fixture();
    struct bp_buffer m = key_message("k");
    bp_pb_text(&m, 2, "new");
    expect_write(f, BP_METHOD_PUT, &m, true, " rev 1");
    bp_pb_uint(&m, 5, 1);
    expect_write(f, BP_METHOD_PUT, &m, true, " rev 2 k=new@1");
    struct bp_buffer fresh = key_message("fresh");
    bp_pb_uint(&fresh, 5, 1);
    expect_write(f, BP_METHOD_PUT, &fresh, true, " rev 3");
    bp_buffer_free(&m);
    bp_buffer_free(&fresh);
    close_fixture(f);
}

static void test_delete_returns_what_it_deleted_as_far_as_it_fits(void) {
    struct fixture *f = open_fixture();
    put_text(f, "a", "1");
    put_text(f, "b", "2");
    put_text(f, "c", "3");
    struct bp_buffer m = key_message("b");
    bp_pb_uint(&m, 3, 1);
    expect_write(f, BP_METHOD_DELETE, &m, true, " rev 4 deleted 1 b=2@2");
    expect_write(f, BP_METHOD_DELETE, &m, true, " rev 5");
    bp_pb_bytes(&m, 1, text("a"));
    bp_pb_bytes(&m, 2, bp_slice("", 1));
    f->limits.scan_page_max = 1;
    expect_write(f, BP_METHOD_DELETE, &m, true, " rev 6 deleted 2 a=1@1 truncated 1");
    bp_buffer_free(&m);
    close_fixture(f);
}

static void test_batch_counts_and_lease_replies(void) {
    struct fixture *f = open_fixture();
    put_text(f, "gone", "1");
    struct bp_buffer m = {0};
    for (int i = 0; i < 4; i++) {
        static const char *const keys[] = {"a", "b", "gone", "never-was"};
        size_t op = bp_pb_open(&m, 1);
        if (i < 2) {
            size_t inner = bp_pb_open(&m, 1);
            bp_pb_text(&m, 1, keys[i]);
            bp_pb_close(&m, inner);
        } else {
            bp_pb_text(&m, 2, keys[i]);
        }
        bp_pb_close(&m, op);
    }
    expect_write(f, BP_METHOD_BATCH, &m, true, " rev 2 put 2 deleted 1");
    m.size = 0;
    bp_pb_uint(&m, 1, 60);
    struct bp_outcome granted = {.revision = 3, .lease = 9, .ttl_ms = 60000};
    expect_reply(f, BP_METHOD_GRANT_LEASE, &m, granted, " rev 3 lease 9 ttl 60");
    struct bp_outcome revoked = {.revision = 4, .deleted = 2};
    expect_reply(f, BP_METHOD_REVOKE_LEASE, &m, revoked, " rev 4 deleted 2");
    bp_buffer_free(&m);
    close_fixture(f);
}

static void test_a_replay_repeats_the_first_reply_while_history_lasts(void) {
    struct fixture *f = open_fixture();
    put_text(f, "k", "old");
    struct bp_buffer m = key_message("k");
    bp_pb_text(&m, 2, "new");
    struct bp_outcome outcome = write_call(f, BP_METHOD_PUT, &m, true);
    f->floor = 2;
    expect_reply(f, BP_METHOD_PUT, &m, outcome, " rev 2"); /* shows nothing of history */
    f->floor = 1;
    bp_pb_uint(&m, 5, 1);
    put_text(f, "k", "newer");
    expect_reply(f, BP_METHOD_PUT, &m, outcome, " rev 2 k=old@1");
    f->floor = 2;
    expect_compacted(f, BP_METHOD_PUT, &m, outcome);
    bp_buffer_free(&m);
    m = key_message("a");
    bp_pb_text(&m, 2, "z");
    struct bp_outcome deleted = {.revision = 2, .deleted = 5};
    expect_reply(f, BP_METHOD_DELETE, &m, deleted, " rev 2 deleted 5");
    bp_pb_uint(&m, 3, 1);
    expect_compacted(f, BP_METHOD_DELETE, &m, deleted);
    bp_buffer_free(&m);
    close_fixture(f);
}

/* ---- Txn: evaluation order ---- */

static void add_txn_op(struct bp_buffer *m, int kind, const char *key, const char *other,
                       uint64_t flags) {
    size_t op = bp_pb_open(m, 2), member = bp_pb_open(m, (uint32_t)kind);
    bp_pb_text(m, 1, key);
    bp_pb_text(m, 2, other);
    if (kind == 4) {
        bp_pb_uint(m, 4, flags & 15);
        bp_pb_uint(m, 5, (flags & 16) != 0);
        bp_pb_uint(m, 6, (flags & 32) != 0);
        bp_pb_uint(m, 7, (flags & 64) != 0);
    }
    bp_pb_close(m, member);
    bp_pb_close(m, op);
}

enum { PUT = 1, DELETE = 2, GET = 3, SCAN = 4 };

static void test_reads_of_a_txn_see_earlier_ops_and_no_later_ones(void) {
    struct fixture *f = open_fixture();
    put_text(f, "a", "old");
    put_text(f, "b", "old");
    put_text(f, "c", "old");
    struct bp_buffer m = {0};
    add_txn_op(&m, GET, "a", "", 0);
    add_txn_op(&m, SCAN, "", "", 0);
    add_txn_op(&m, PUT, "a", "new", 0);
    add_txn_op(&m, DELETE, "b", "", 0);
    add_txn_op(&m, GET, "a", "", 0);
    add_txn_op(&m, GET, "b", "", 0);
    add_txn_op(&m, SCAN, "", "", 0);
    add_txn_op(&m, SCAN, "", "", 16 + 2);
    add_txn_op(&m, SCAN, "", "", 64);
    add_txn_op(&m, PUT, "bb", "new", 0);
    add_txn_op(&m, SCAN, "a", "c", 32);
    add_txn_op(&m, DELETE, "c", "d", 0);
    add_txn_op(&m, SCAN, "", "", 0);
    expect_write(f, BP_METHOD_TXN, &m, true,
                 " rev 4 ok 1 [get a=old@1] [scan a=old@1 b=old@2 c=old@3 count 3] [put]"
                 " [delete deleted 1] [get a=new@4/1#2] [get] [scan a=new@4/1#2 c=old@3 count 2]"
                 " [scan c=old@3 a=new@4/1#2 count 2] [scan count 2] [put]"
                 " [scan a=@4/1#2 bb=@4 count 2] [delete deleted 1]"
                 " [scan a=new@4/1#2 bb=new@4 count 2]");
    bp_buffer_free(&m);
    close_fixture(f);
}

static void test_overlapping_deletes_count_each_key_once(void) {
    struct fixture *f = open_fixture();
    for (char k = 'a'; k <= 'h'; k++) {
        put_text(f, (char[]){k, 0}, "v");
    }
    struct bp_buffer m = {0};
    add_txn_op(&m, DELETE, "c", "e", 0);
    add_txn_op(&m, DELETE, "d", "", 0);
    add_txn_op(&m, DELETE, "b", "f", 0);
    add_txn_op(&m, DELETE, "b", "g", 0);
    add_txn_op(&m, DELETE, "a", "", 0);
    add_txn_op(&m, DELETE, "nothing", "", 0);
    expect_write(f, BP_METHOD_TXN, &m, true,
                 " rev 9 ok 1 [delete deleted 2] [delete] [delete deleted 2] [delete deleted 1]"
                 " [delete deleted 1] [delete]");
    bp_buffer_free(&m);
    close_fixture(f);
}

static void test_a_txn_reply_stays_within_its_budget(void) {
    struct fixture *f = open_fixture();
    uint8_t big[600] = {1};
    put(f, "a", bp_slice(big, 600));
    put(f, "b", bp_slice(big, 600));
    struct bp_buffer m = {0};
    add_txn_op(&m, GET, "a", "", 0);
    add_txn_op(&m, GET, "b", "", 0);
    add_txn_op(&m, SCAN, "", "", 0);
    add_txn_op(&m, SCAN, "", "", 32);
    add_txn_op(&m, SCAN, "", "", 1);
    f->limits.reply_bytes_max = 247 + 700; /* room for one value of 600, and small change */
    expect_write(f, BP_METHOD_TXN, &m, true,
                 " rev 3 ok 1 [get a=<600>@1] [get b=@2 omitted 1] [scan more 1]"
                 " [scan a=@1 b=@2 count 2] [scan more 1]");
    for (uint32_t most = 250; most < 1600; most++) {
        f->limits.reply_bytes_max = most;
        write_call(f, BP_METHOD_TXN, &m, true);
        CHECK(f->reply.size <= most);
    }
    bp_buffer_free(&m);
    close_fixture(f);
}

static void test_a_txn_whose_history_is_gone_says_so(void) {
    struct fixture *f = open_fixture();
    put_text(f, "a", "1");
    struct bp_buffer m = {0};
    add_txn_op(&m, PUT, "b", "", 0);
    add_txn_op(&m, DELETE, "a", "", 0);
    struct bp_outcome outcome = write_call(f, BP_METHOD_TXN, &m, true);
    f->floor = 2;
    expect_reply(f, BP_METHOD_TXN, &m, outcome, " rev 2 ok 1 [put] [delete deleted 1]");
    size_t before = m.size;
    add_txn_op(&m, GET, "c", "", 0);
    expect_compacted(f, BP_METHOD_TXN, &m, outcome);
    m.size = before;
    add_txn_op(&m, DELETE, "a", "", 0); /* of several deletes, who deleted what? */
    expect_compacted(f, BP_METHOD_TXN, &m, outcome);
    outcome.succeeded = false; /* the empty branch needs no history */
    expect_reply(f, BP_METHOD_TXN, &m, outcome, " rev 2");
    bp_buffer_free(&m);
    close_fixture(f);
}

/* ---- Txn against a model ---- */

enum { MODEL_KEYS = 10 };

struct model_key {
    bool live;
    uint64_t value, create, mod, version;
};

struct model_op {
    int kind;
    uint32_t key, end; /* end 0: the key alone; else keys [key, end) */
    uint64_t flags;
};

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

static void say_model_key(struct text_buffer *t, const struct model_key *state, uint32_t key,
                          bool with_value) {
    say(t, " %c=", 'a' + (int)key);
    if (with_value) {
        say(t, "%llu", (unsigned long long)state[key].value);
    }
    say(t, "@%llu", (unsigned long long)state[key].mod);
    if (state[key].create != state[key].mod) {
        say(t, "/%llu", (unsigned long long)state[key].create);
    }
    if (state[key].version > 1) {
        say(t, "#%llu", (unsigned long long)state[key].version);
    }
}

static void model_scan(struct text_buffer *t, const struct model_key *state,
                       const struct model_op *op) {
    uint64_t limit = (op->flags & 15) == 0 ? 1000 : op->flags & 15, count = 0;
    bool more = false, count_only = (op->flags & 64) != 0;
    for (uint32_t i = op->key; i < op->end; i++) {
        uint32_t key = (op->flags & 16) != 0 ? op->end - 1 - (i - op->key) : i;
        if (!state[key].live) {
            continue;
        }
        if (!count_only && count == limit) {
            more = true;
            break;
        }
        if (!count_only) {
            say_model_key(t, state, key, (op->flags & 32) == 0);
        }
        count++;
    }
    if (count > 0) {
        say(t, " count %llu", (unsigned long long)count);
    }
    if (more) {
        say(t, " more 1");
    }
}

/* One op on the state in order, as the contract words it; its result as text. */
static void model_run(struct text_buffer *t, struct model_key *state, const struct model_op *op,
                      uint64_t revision) {
    static const char *const kinds[] = {"", "put", "delete", "get", "scan"};
    struct model_key *k = &state[op->key];
    say(t, " [%s", kinds[op->kind]);
    if (op->kind == PUT) {
        k->create = k->live ? k->create : revision;
        k->version = k->live ? k->version + 1 : 1;
        k->live = true;
        k->value = k->mod = revision;
    } else if (op->kind == DELETE) {
        uint64_t n = 0;
        for (uint32_t i = op->key; i < (op->end == 0 ? op->key + 1 : op->end); i++) {
            n += state[i].live;
            state[i].live = false;
        }
        if (n > 0) {
            say(t, " deleted %llu", (unsigned long long)n);
        }
    } else if (op->kind == GET && k->live) {
        say_model_key(t, state, op->key, true);
    } else if (op->kind == SCAN) {
        model_scan(t, state, op);
    }
    say(t, "]");
}

/* Random ops in which no key that is put is written twice. */
static uint32_t random_ops(struct model_op *ops, uint32_t most) {
    bool put_key[MODEL_KEYS] = {0}, deleted[MODEL_KEYS] = {0};
    uint32_t n = 0;
    for (uint32_t i = random_below(most + 1); i > 0; i--) {
        struct model_op op = {.kind = 1 + (int)random_below(4), .key = random_below(MODEL_KEYS)};
        bool ranged = op.kind == SCAN || (op.kind == DELETE && random_below(2) == 0);
        op.end = ranged ? op.key + 1 + random_below(MODEL_KEYS - op.key) : 0;
        op.flags = op.kind == SCAN ? random_below(128) : 0;
        bool refused = false;
        for (uint32_t k = op.key; k < (op.end == 0 ? op.key + 1 : op.end); k++) {
            refused = refused || (op.kind == PUT && (put_key[k] || deleted[k])) ||
                      (op.kind == DELETE && put_key[k]);
        }
        for (uint32_t k = op.key; !refused && k < (op.end == 0 ? op.key + 1 : op.end); k++) {
            put_key[k] = put_key[k] || op.kind == PUT;
            deleted[k] = deleted[k] || op.kind == DELETE;
        }
        if (!refused) {
            ops[n++] = op;
        }
    }
    return n;
}

static void test_random_txns_agree_with_running_their_ops_in_order(void) {
    struct model_key state[MODEL_KEYS] = {0};
    struct fixture *f = open_fixture();
    static struct text_buffer want, got;
    uint64_t results = 0;
    for (int round = 0; round < 4000; round++) {
        struct model_op ops[20];
        uint32_t n = random_ops(ops, 20);
        struct bp_buffer m = {0};
        uint64_t revision = f->revision + 1;
        want.size = 0;
        say(&want, " rev %llu ok 1", (unsigned long long)revision);
        for (uint32_t i = 0; i < n; i++) {
            char key[2] = {(char)('a' + ops[i].key), 0}, other[24] = "";
            if (ops[i].kind == PUT) {
                snprintf(other, sizeof other, "%llu", (unsigned long long)revision);
            } else if (ops[i].end != 0) {
                snprintf(other, sizeof other, "%c", 'a' + (int)ops[i].end);
            }
            add_txn_op(&m, ops[i].kind, key, other, ops[i].flags);
            model_run(&want, state, &ops[i], revision);
        }
        results += n;
        write_call(f, BP_METHOD_TXN, &m, true);
        say_reply(&got, BP_METHOD_TXN, &f->reply);
        expect_text(got.data, want.data);
        bp_buffer_free(&m);
    }
    CHECK(results > 20000);
    close_fixture(f);
}

/* ---- Watch ---- */

struct seen {
    struct fixture *f;
    const struct bp_wire_watch *watch;
};

static int see(void *arg, uint64_t revision, struct bp_slice key, const struct bp_version *version,
               const struct bp_version *previous) {
    struct seen *seen = arg;
    struct bp_view view = view_of(seen->f);
    CHECK(version->revision == revision);
    CHECK_OK(bp_wire_watch_event(&seen->f->reply, seen->watch, key, version, previous, &view,
                                 &seen->f->err),
             &seen->f->err);
    return 0;
}

static void expect_events(struct fixture *f, const struct bp_wire_watch *watch, const char *want) {
    static struct text_buffer t;
    struct seen seen = {.f = f, .watch = watch};
    uint64_t go_on;
    f->reply.size = t.size = 0;
    uint32_t token = bp_epoch_enter(&f->epoch);
    CHECK(bp_history_scan(f->index, 1, f->revision, 100, &go_on, see, &seen) == 0);
    bp_epoch_leave(&f->epoch, token);
    bp_wire_watch_note(&f->reply, BP_WATCH_FRAGMENT, f->revision, 0, NULL);
    struct bp_pb_reader r = bp_pb_read(bp_slice(f->reply.data, f->reply.size));
    struct bp_pb_field field;
    while (next(&r, &field)) {
        if (field.number == 2) {
            static const char *const names[] = {"", "type", "", ""};
            say(&t, " (");
            say_fields(&t, field.bytes, names);
            say(&t, " )");
        } else {
            say(&t, " %u:%llu", field.number, (unsigned long long)field.value);
        }
    }
    expect_text(t.data, want);
}

static void test_watch_events_carry_what_was_asked_for(void) {
    struct fixture *f = open_fixture();
    put_text(f, "k", "one");
    put_text(f, "k", "two");
    struct bp_buffer m = key_message("k");
    write_call(f, BP_METHOD_DELETE, &m, true);
    bp_buffer_free(&m);
    struct bp_wire_watch plain = {0}, full = {.with_values = true, .with_previous = true},
                         puts = {.no_deletes = true}, deletes = {.no_puts = true};
    expect_events(f, &plain, " ( type 1 k=@1 ) ( type 1 k=@2/1#2 ) ( type 2 k=@3/0 ) 1:3 3:1");
    expect_events(f, &full,
                  " ( type 1 k=one@1 ) ( type 1 k=two@2/1#2 k=one@1 )"
                  " ( type 2 k=@3/0 k=two@2/1#2 ) 1:3 3:1");
    expect_events(f, &puts, " ( type 1 k=@1 ) ( type 1 k=@2/1#2 ) 1:3 3:1");
    expect_events(f, &deletes, " ( type 2 k=@3/0 ) 1:3 3:1");
    close_fixture(f);
}

static void test_the_end_of_a_watch_says_where_to_resume(void) {
    struct bp_buffer reply = {0};
    struct bp_error error = {
        .code = BP_OUT_OF_RANGE, .reason = BP_REASON_REVISION_COMPACTED, .message = "m"};
    bp_wire_watch_note(&reply, BP_WATCH_CANCELED, 5, 9, &error);
    static const char golden[] = "\x08\x05\x32\x19\x0a\x12REVISION_COMPACTED\x12\x01m\x18\x09";
    CHECK_EQ_U64(reply.size, sizeof golden - 1);
    CHECK(memcmp(reply.data, golden, reply.size) == 0);
    reply.size = 0;
    bp_wire_watch_note(&reply, BP_WATCH_CREATED, 5, 0, NULL);
    CHECK(reply.size == 4 && memcmp(reply.data, "\x08\x05\x20\x01", 4) == 0);
    reply.size = 0;
    bp_wire_watch_note(&reply, BP_WATCH_PROGRESS, 5, 0, NULL);
    CHECK(reply.size == 4 && memcmp(reply.data, "\x08\x05\x28\x01", 4) == 0);
    bp_buffer_free(&reply);
}

/* ---- GetLease ---- */

static void test_lease_replies_hold_as_many_keys_as_fit(void) {
    static const char *const names[] = {"", "rev", "lease", "ttl", "left", "keys", "key"};
    struct fixture *f = open_fixture();
    struct text_buffer t = {.size = 0};
    struct bp_slice keys[3] = {text("a"), text("b"), text("c")};
    struct bp_wire_lease lease = {.revision = 3,
                                  .lease = 7,
                                  .ttl_ms = 60000,
                                  .remaining_ms = 9,
                                  .key_count = 5,
                                  .keys = keys,
                                  .n_keys = 3};
    f->limits.reply_bytes_max = 16; /* five numbers and two keys */
    bp_wire_get_lease_reply(&lease, &f->limits, &f->reply);
    CHECK_EQ_U64(f->reply.size, 16);
    struct bp_pb_reader r = bp_pb_read(bp_slice(f->reply.data, f->reply.size));
    struct bp_pb_field field;
    while (next(&r, &field)) {
        say(&t, " %s %.*s", names[field.number], field.type == BP_PB_LEN ? 1 : 0,
            field.type == BP_PB_LEN ? (const char *)field.bytes.data : "");
    }
    expect_text(t.data, " rev  lease  ttl  left  keys  key a key b");
    f->reply.size = 0;
    bp_wire_keep_alive_reply(3, 7, 60000, &f->reply);
    CHECK(f->reply.size == 6 && memcmp(f->reply.data, "\x08\x03\x10\x07\x18\x3c", 6) == 0);
    close_fixture(f);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_get_reads_now_and_then);
    RUN(test_a_revision_outside_what_is_retained_is_refused);
    RUN(test_scan_shows_a_range_in_either_order);
    RUN(test_pages_show_every_key_once_at_one_revision);
    RUN(test_a_page_ends_at_its_budget_but_holds_one_key);
    RUN(test_long_keys_and_large_values_cross_steps);
    RUN(test_a_damaged_value_is_never_returned);
    RUN(test_put_returns_what_it_replaced);
    RUN(test_delete_returns_what_it_deleted_as_far_as_it_fits);
    RUN(test_batch_counts_and_lease_replies);
    RUN(test_a_replay_repeats_the_first_reply_while_history_lasts);
    RUN(test_reads_of_a_txn_see_earlier_ops_and_no_later_ones);
    RUN(test_overlapping_deletes_count_each_key_once);
    RUN(test_a_txn_reply_stays_within_its_budget);
    RUN(test_a_txn_whose_history_is_gone_says_so);
    RUN(test_random_txns_agree_with_running_their_ops_in_order);
    RUN(test_watch_events_carry_what_was_asked_for);
    RUN(test_the_end_of_a_watch_says_where_to_resume);
    RUN(test_lease_replies_hold_as_many_keys_as_fit);
    TESTS_END;
}

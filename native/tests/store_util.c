/* See store_util.h. */
#include "store_util.h"

#include "../src/ops.h"

struct bp_options test_options(void) {
    return (struct bp_options){.dir = "store",
                               .segment_size = BP_SEGMENT_SIZE_MIN,
                               .manual = 1,
                               .request_ids_max = 64,
                               .disk_reserve = 1};
}

struct bp_disk *test_disk(struct bp_sim *sim) {
    struct bp_io io;
    bp_sim_io(sim, &io);
    struct bp_disk *disk = bp_disk_new(&io);
    CHECK(disk != NULL);
    bp_disk_set_crash_is_error(disk, 1);
    return disk;
}

int test_open(struct bp_sim *sim, const struct bp_options *options, struct bp_store **store,
              struct bp_error *err) {
    return bp_store_open(options, test_disk(sim), store, err);
}

struct bp_store *test_must_open(struct bp_sim *sim, const struct bp_options *options) {
    struct bp_store *store = NULL;
    struct bp_error err = {0};
    CHECK_OK(test_open(sim, options, &store, &err), &err);
    return store;
}

struct bp_store *test_reopen(struct bp_sim *sim, const struct bp_options *options,
                             struct bp_store *store) {
    bp_store_abandon(store);
    return test_must_open(sim, options);
}

static struct bp_slice text(const char *s) {
    return (struct bp_slice){.data = (const uint8_t *)s, .size = strlen(s)};
}

static int run(struct bp_store *store, struct bp_builder *builder, uint64_t *revision,
               uint64_t *deleted, int *succeeded) {
    struct bp_error err = {0};
    CHECK_OK(bp_builder_finish(builder, &err), &err);
    int code = bp_execute(store, builder->buf, builder->size, revision, deleted, succeeded, &err);
    if (code != BP_OK && getenv("BP_TEST_VERBOSE") != NULL) {
        fprintf(stderr, "    refused: %d %s: %s\n", code, bp_reason_name(err.reason), err.message);
    }
    bp_builder_free(builder);
    return code;
}

static void begin(struct bp_builder *builder, int kind, const char *id) {
    bp_builder_init(builder);
    bp_builder_begin(builder, kind, id == NULL ? (struct bp_slice){0} : text(id),
                     id == NULL ? 0 : 7);
}

int test_put_bytes(struct bp_store *store, const char *key, const void *value, uint32_t size,
                   uint64_t lease, const char *id, uint64_t *revision) {
    struct bp_builder builder;
    begin(&builder, BP_REQUEST_KV, id);
    struct bp_op op = {
        .op = BP_OP_PUT, .lease = lease, .key = text(key), .value = {.data = value, .size = size}};
    bp_builder_op(&builder, 0, BP_KEYSPACE_USER, &op);
    return run(store, &builder, revision, NULL, NULL);
}

int test_put(struct bp_store *store, const char *key, const char *value, uint64_t *revision) {
    return test_put_bytes(store, key, value, (uint32_t)strlen(value), 0, NULL, revision);
}

int test_delete(struct bp_store *store, const char *key, uint64_t *revision) {
    struct bp_builder builder;
    begin(&builder, BP_REQUEST_KV, NULL);
    struct bp_op op = {.op = BP_OP_DELETE, .key = text(key)};
    bp_builder_op(&builder, 0, BP_KEYSPACE_USER, &op);
    return run(store, &builder, revision, NULL, NULL);
}

int test_delete_range(struct bp_store *store, const char *from, const char *to, uint64_t *deleted) {
    struct bp_builder builder;
    begin(&builder, BP_REQUEST_KV, NULL);
    struct bp_op op = {.op = BP_OP_DELETE_RANGE, .key = text(from), .end = text(to)};
    bp_builder_op(&builder, 0, BP_KEYSPACE_USER, &op);
    return run(store, &builder, NULL, deleted, NULL);
}

int test_batch(struct bp_store *store, const char *prefix, uint32_t n, const char *value,
               uint64_t *revision) {
    struct bp_builder builder;
    begin(&builder, BP_REQUEST_KV, NULL);
    for (uint32_t i = 0; i < n; i++) {
        char key[64];
        (void)snprintf(key, sizeof key, "%s%06u", prefix, i);
        struct bp_op op = {.op = BP_OP_PUT, .key = text(key), .value = text(value)};
        bp_builder_op(&builder, 0, BP_KEYSPACE_USER, &op);
    }
    return run(store, &builder, revision, NULL, NULL);
}

static int put_if(struct bp_store *store, struct bp_compare *compare, const char *key,
                  const char *value, int *succeeded) {
    struct bp_builder builder;
    begin(&builder, BP_REQUEST_KV, NULL);
    compare->key = text(key);
    compare->operator = BP_EQUAL;
    bp_builder_compare(&builder, BP_KEYSPACE_USER, compare);
    struct bp_op op = {.op = BP_OP_PUT, .key = text(key), .value = text(value)};
    bp_builder_op(&builder, 0, BP_KEYSPACE_USER, &op);
    return run(store, &builder, NULL, NULL, succeeded);
}

int test_cas(struct bp_store *store, const char *key, uint64_t expected, const char *value,
             int *succeeded) {
    struct bp_compare compare = {.target = BP_TARGET_MOD, .operand = expected};
    return put_if(store, &compare, key, value, succeeded);
}

int test_compare_value(struct bp_store *store, const char *key, const char *expected,
                       const char *value, int *succeeded) {
    struct bp_compare compare = {.target = BP_TARGET_VALUE, .value = text(expected)};
    return put_if(store, &compare, key, value, succeeded);
}

int test_grant(struct bp_store *store, uint64_t lease, uint64_t ttl_ms) {
    struct bp_builder builder;
    begin(&builder, BP_REQUEST_LEASE_GRANT, NULL);
    bp_builder_u64(&builder, lease);
    bp_builder_u64(&builder, ttl_ms);
    return run(store, &builder, NULL, NULL, NULL);
}

int test_revoke(struct bp_store *store, uint64_t lease, uint64_t *deleted) {
    struct bp_builder builder;
    begin(&builder, BP_REQUEST_LEASE_REVOKE, NULL);
    bp_builder_u64(&builder, 1);
    bp_builder_u64(&builder, lease);
    return run(store, &builder, NULL, deleted, NULL);
}

int test_compact(struct bp_store *store, uint64_t revision) {
    struct bp_builder builder;
    begin(&builder, BP_REQUEST_COMPACT, NULL);
    bp_builder_u64(&builder, revision);
    return run(store, &builder, NULL, NULL, NULL);
}

int test_get(struct bp_store *store, const char *key, char *value, uint32_t capacity) {
    struct bp_error err = {0};
    uint32_t size = 0;
    int code = bp_get(store, BP_KEYSPACE_USER, key, (uint32_t)strlen(key), value, capacity - 1,
                      &size, NULL, &err);
    if (code == BP_NOT_FOUND) {
        return 0;
    }
    CHECK_OK(code, &err);
    value[size] = 0;
    return 1;
}

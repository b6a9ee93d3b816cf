/* What the store's tests share: a store on a simulated disk, and one-line requests. */
#ifndef BP_TESTS_STORE_UTIL_H
#define BP_TESTS_STORE_UTIL_H

#include "../src/store.h"
#include "check.h"

/* Small segments, no threads, small tables: a store that opens in a fraction of a millisecond. */
struct bp_options test_options(void);
int test_open(struct bp_sim *sim, const struct bp_options *options, struct bp_store **store,
              struct bp_error *err);
/* Opens or fails the test. */
struct bp_store *test_must_open(struct bp_sim *sim, const struct bp_options *options);
/* As a crash of the process alone: what was written is there, nothing is finished. */
struct bp_store *test_reopen(struct bp_sim *sim, const struct bp_options *options,
                             struct bp_store *store);
/* The simulated disk; a crash armed on it is an error and not the end of the test. */
struct bp_disk *test_disk(struct bp_sim *sim);

/* Requests on user keys given as text; return the code. */
int test_put(struct bp_store *store, const char *key, const char *value, uint64_t *revision);
int test_put_bytes(struct bp_store *store, const char *key, const void *value, uint32_t size,
                   uint64_t lease, const char *id, uint64_t *revision);
int test_delete(struct bp_store *store, const char *key, uint64_t *revision);
int test_delete_range(struct bp_store *store, const char *from, const char *to, uint64_t *deleted);
/* n puts "<prefix><i>" = value, atomically. */
int test_batch(struct bp_store *store, const char *prefix, uint32_t n, const char *value,
               uint64_t *revision);
/* then-branch puts key = value if mod_revision(key) == expected. */
int test_cas(struct bp_store *store, const char *key, uint64_t expected, const char *value,
             int *succeeded);
int test_compare_value(struct bp_store *store, const char *key, const char *expected,
                       const char *value, int *succeeded);
int test_grant(struct bp_store *store, uint64_t lease, uint64_t ttl_ms);
int test_revoke(struct bp_store *store, uint64_t lease, uint64_t *deleted);
int test_compact(struct bp_store *store, uint64_t revision);
/* The value as text; false when absent; fails the test on any other error. */
int test_get(struct bp_store *store, const char *key, char *value, uint32_t capacity);

#endif

/* A store to measure: opened in the scratch directory, filled through the asynchronous API. */
#ifndef BENCH_FEED_H
#define BENCH_FEED_H

#include "../include/bedplate.h"
#include "../src/ops.h"
#include "settings.h"
#include "workload.h"

/* Prints "bedplate-bench: what: why" and returns 1, an exit status. */
int bench_fail(const char *what, const struct bp_error *error);
/* Options of a store at dir/name. `path` holds the name for as long as the options live. */
struct bench_place {
    char path[4096];
    struct bp_options options;
};
void bench_place(struct bench_place *place, const struct settings *settings, const char *name);

/*
 * Puts in flight: `first`..`first + count` of an order of keys, in requests of `batch` puts, at
 * most `window` puts open. Returns 0 or an exit status.
 */
struct feed {
    enum bench_order order;
    uint64_t pass;   /* of the random order; each pass over all keys is another */
    uint64_t leases; /* spread keys over leases 1..leases; 0 none */
    uint32_t batch, window;
};
int bench_feed(bp_store *store, const struct settings *settings, const struct feed *feed,
               uint64_t first, uint64_t count);
/* All keys once, 100 a batch: a store for reading. */
int bench_fill(bp_store *store, const struct settings *settings, enum bench_order order);
/* One put as an encoded request in `builder`. */
void bench_encode_put(struct bp_builder *builder, const struct settings *settings,
                      const uint8_t *key, const uint8_t *value, uint64_t lease);

#endif

/*
 * The guard (see guard.h).
 *
 *   tokens   open-addressed table, a power of two, at most half full; slot = 8 bytes of the hash
 *            [ token ][ ][ token ][ token ][ ] ...
 *   methods  fixed array by number, each [ counters | scope | limit ] on cache lines of its own
 *
 *   set_tokens: build the new table --write lock--> swap --unlock--> free the old one
 *   enter:      read lock -> look up, compare in constant time -> unlock
 *
 * A slot is found by bytes of a SHA-256, which tell nothing about a token to somebody who cannot
 * invert it; the comparison that decides looks at all 32 bytes whatever they are.
 *
 * Threads: `lock` guards the token table. Method fields and counters are atomics: relaxed, because
 * they carry no other data, except `known`, whose release publishes the name.
 */
#include "guard.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"

static const uint64_t bucket_bounds[BP_GUARD_BUCKETS] = {
    50000u,     100000u,     250000u,     500000u,     1000000u,     2500000u,
    5000000u,   10000000u,   25000000u,   50000000u,   100000000u,   250000000u,
    500000000u, 1000000000u, 2500000000u, 5000000000u, 10000000000u, UINT64_MAX,
};

struct table {
    uint32_t n, mask;
    struct bp_guard_token *slots; /* mask + 1 */
    uint8_t *used;
};

struct method {
    _Alignas(64) _Atomic uint64_t in_flight;
    _Atomic uint64_t denied, latency_sum;
    _Atomic uint64_t codes[BP_GUARD_CODES];
    _Atomic uint64_t latency[BP_GUARD_BUCKETS];
    _Atomic uint64_t request_max;
    _Atomic uint32_t scope;
    atomic_bool known;
    char name[BP_GUARD_NAME_MAX]; /* written once, before `known` */
};

struct bp_guard {
    pthread_rwlock_t lock;  /* guards `tokens` */
    pthread_mutex_t naming; /* one set_method at a time */
    struct table tokens;
    struct method methods[BP_GUARD_METHODS_MAX];
};

static void add(_Atomic uint64_t *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static uint64_t get(const _Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

struct bp_guard *bp_guard_new(void) {
    struct bp_guard *guard = aligned_alloc(64, sizeof *guard);
    if (guard == NULL) {
        return NULL;
    }
    memset(guard, 0, sizeof *guard); /* zero is every atomic's first value */
    if (pthread_rwlock_init(&guard->lock, NULL) != 0) {
        free(guard);
        return NULL;
    }
    if (pthread_mutex_init(&guard->naming, NULL) != 0) {
        pthread_rwlock_destroy(&guard->lock);
        free(guard);
        return NULL;
    }
    return guard;
}

static void table_free(struct table *table) {
    free(table->slots);
    free(table->used);
}

void bp_guard_free(struct bp_guard *guard) {
    if (guard != NULL) {
        table_free(&guard->tokens);
        pthread_mutex_destroy(&guard->naming);
        pthread_rwlock_destroy(&guard->lock);
        free(guard);
    }
}

/* ---- tokens --------------------------------------------------------------------------------- */

/* Equal? In time that does not depend on where they differ. */
static bool hashes_equal(const uint8_t *a, const uint8_t *b) {
    volatile uint8_t different = 0; /* volatile: no early end by a clever compiler */
    for (uint32_t i = 0; i < BP_TOKEN_HASH_SIZE; i++) {
        different = (uint8_t)(different | (a[i] ^ b[i]));
    }
    return different == 0;
}

/*
 * The slot that holds the hash, or the free one where it belongs. The table is never full, so this
 * ends.
 */
static uint32_t table_slot(const struct table *table, const uint8_t *hash) {
    uint32_t slot = (uint32_t)bp_get_u64(hash) & table->mask;
    while (table->used[slot] != 0 && !hashes_equal(table->slots[slot].hash, hash)) {
        slot = (slot + 1) & table->mask;
    }
    return slot;
}

static const struct bp_guard_token *table_find(const struct table *table, const uint8_t *hash) {
    if (table->n == 0) {
        return NULL;
    }
    uint32_t slot = table_slot(table, hash);
    return table->used[slot] != 0 ? &table->slots[slot] : NULL;
}

static int invalid(struct bp_error *err, const char *what) {
    return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "%s", what);
}

static int table_fill(struct table *table, const struct bp_guard_token *tokens, uint32_t n,
                      struct bp_error *err) {
    for (uint32_t i = 0; i < n; i++) {
        const struct bp_guard_token *token = &tokens[i];
        if ((token->scopes & ~BP_SCOPES_ALL) != 0) {
            return invalid(err, "a token has a scope that does not exist");
        }
        if (memchr(token->name, 0, sizeof token->name) == NULL) {
            return invalid(err, "a token's name is too long");
        }
        uint32_t slot = table_slot(table, token->hash);
        if (table->used[slot] != 0) {
            return invalid(err, "the same token is listed twice");
        }
        table->used[slot] = 1;
        table->slots[slot] = *token;
        table->n++;
    }
    return BP_OK;
}

static int table_build(struct table *table, const struct bp_guard_token *tokens, uint32_t n,
                       struct bp_error *err) {
    uint32_t capacity = 2;
    while (capacity < 2 * n) {
        capacity *= 2;
    }
    *table = (struct table){.mask = capacity - 1,
                            .slots = calloc(capacity, sizeof *table->slots),
                            .used = calloc(capacity, 1)};
    int code = BP_OK;
    if (table->slots == NULL || table->used == NULL) {
        code = bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for %u tokens", n);
    } else {
        code = table_fill(table, tokens, n, err);
    }
    if (code != BP_OK) {
        table_free(table);
    }
    return code;
}

int bp_guard_set_tokens(struct bp_guard *guard, const struct bp_guard_token *tokens, uint32_t n,
                        struct bp_error *err) {
    struct table table = {0};
    if (n > BP_GUARD_TOKENS_MAX) {
        return invalid(err, "too many tokens");
    }
    int code = n == 0 ? BP_OK : table_build(&table, tokens, n, err);
    if (code != BP_OK) {
        return code;
    }
    pthread_rwlock_wrlock(&guard->lock);
    struct table old = guard->tokens;
    guard->tokens = table;
    pthread_rwlock_unlock(&guard->lock);
    table_free(&old);
    return BP_OK;
}

int bp_guard_identify(struct bp_guard *guard, const uint8_t *token_hash,
                      char name[BP_GUARD_NAME_MAX], uint32_t *scopes) {
    pthread_rwlock_rdlock(&guard->lock);
    const struct bp_guard_token *token =
        token_hash != NULL ? table_find(&guard->tokens, token_hash) : NULL;
    bool known = token != NULL;
    if (known) {
        memcpy(name, token->name, BP_GUARD_NAME_MAX);
        *scopes = token->scopes;
    }
    pthread_rwlock_unlock(&guard->lock);
    return known;
}

/* ---- methods -------------------------------------------------------------------------------- */

int bp_guard_set_method(struct bp_guard *guard, uint32_t method, const char *name, uint32_t scope,
                        uint64_t request_bytes_max, struct bp_error *err) {
    size_t size = strlen(name);
    if (method >= BP_GUARD_METHODS_MAX || size == 0 || size >= BP_GUARD_NAME_MAX) {
        return invalid(err, "a method's number or name is out of range");
    }
    if ((scope & ~BP_SCOPES_ALL) != 0 || (scope & (scope - 1)) != 0) {
        return invalid(err, "a method needs one scope or none");
    }
    struct method *m = &guard->methods[method];
    int code = BP_OK;
    pthread_mutex_lock(&guard->naming);
    bool known = atomic_load_explicit(&m->known, memory_order_relaxed);
    if (known && strcmp(m->name, name) != 0) {
        code = invalid(err, "a method's number is taken by another method");
    } else {
        atomic_store_explicit(&m->scope, scope, memory_order_relaxed);
        atomic_store_explicit(&m->request_max, request_bytes_max, memory_order_relaxed);
        if (!known) {
            memcpy(m->name, name, size + 1);
            atomic_store_explicit(&m->known, true, memory_order_release);
        }
    }
    pthread_mutex_unlock(&guard->naming);
    return code;
}

static struct method *find_method(struct bp_guard *guard, uint32_t method) {
    struct method *m = method < BP_GUARD_METHODS_MAX ? &guard->methods[method] : NULL;
    return m != NULL && atomic_load_explicit(&m->known, memory_order_acquire) ? m : NULL;
}

/* ---- the check ------------------------------------------------------------------------------ */

static int check_token(struct bp_guard *guard, const struct method *m, const uint8_t *token_hash,
                       struct bp_error *err) {
    uint32_t scope = atomic_load_explicit(&m->scope, memory_order_relaxed);
    if (scope == BP_SCOPE_NONE) {
        return BP_OK;
    }
    pthread_rwlock_rdlock(&guard->lock);
    bool open = guard->tokens.n == 0;
    const struct bp_guard_token *token =
        !open && token_hash != NULL ? table_find(&guard->tokens, token_hash) : NULL;
    bool known = token != NULL, allowed = known && (token->scopes & scope) != 0;
    pthread_rwlock_unlock(&guard->lock);
    if (open || allowed) {
        return BP_OK;
    }
    if (known) {
        return bp_fail(err, BP_PERMISSION_DENIED, BP_REASON_SCOPE_MISSING,
                       "the token lacks the scope for %s", m->name);
    }
    return token_hash == NULL
               ? bp_fail(err, BP_UNAUTHENTICATED, BP_REASON_TOKEN_MISSING,
                         "a bearer token is required")
               : bp_fail(err, BP_UNAUTHENTICATED, BP_REASON_TOKEN_UNKNOWN, "the token is unknown");
}

static int check_call(const struct method *m, uint64_t request_bytes, uint64_t now_ns,
                      uint64_t deadline_ns, struct bp_error *err) {
    if (deadline_ns != 0 && now_ns >= deadline_ns) {
        return bp_fail(err, BP_DEADLINE_EXCEEDED, BP_REASON_DEADLINE_PASSED,
                       "the deadline passed before the call began");
    }
    uint64_t most = get(&m->request_max);
    if (most != 0 && request_bytes > most) {
        return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_REQUEST_TOO_LARGE,
                       "the request has %llu bytes, the most is %llu",
                       (unsigned long long)request_bytes, (unsigned long long)most);
    }
    return BP_OK;
}

int bp_guard_enter(struct bp_guard *guard, uint32_t method, const uint8_t *token_hash,
                   uint64_t request_bytes, uint64_t now_ns, uint64_t deadline_ns,
                   struct bp_error *err) {
    struct method *m = find_method(guard, method);
    if (m == NULL) { /* closed, not open: nobody said what it needs */
        return bp_fail(err, BP_PERMISSION_DENIED, BP_REASON_SCOPE_MISSING,
                       "method %u is not one of this server", method);
    }
    int code = check_token(guard, m, token_hash, err);
    if (code == BP_OK) {
        code = check_call(m, request_bytes, now_ns, deadline_ns, err);
    }
    if (code != BP_OK) {
        add(&m->denied, 1);
        add(&m->codes[code], 1);
        return code;
    }
    add(&m->in_flight, 1);
    return BP_OK;
}

static uint32_t bucket_of(uint64_t latency_ns) {
    uint32_t bucket = 0;
    while (latency_ns > bucket_bounds[bucket]) { /* ends: the last bound is the largest number */
        bucket++;
    }
    return bucket;
}

void bp_guard_exit(struct bp_guard *guard, uint32_t method, int code, uint64_t latency_ns) {
    struct method *m = find_method(guard, method);
    assert(m != NULL);
    if (m == NULL) {
        return;
    }
    uint32_t status =
        code >= 0 && code < (int)BP_GUARD_CODES ? (uint32_t)code : (uint32_t)BP_INTERNAL;
    add(&m->codes[status], 1);
    add(&m->latency[bucket_of(latency_ns)], 1);
    add(&m->latency_sum, latency_ns);
    uint64_t before = atomic_fetch_sub_explicit(&m->in_flight, 1, memory_order_relaxed);
    assert(before > 0);
    (void)before;
}

/* ---- counters ------------------------------------------------------------------------------- */

int bp_guard_snapshot(const struct bp_guard *guard, uint32_t method, struct bp_guard_stats *stats) {
    const struct method *m = method < BP_GUARD_METHODS_MAX ? &guard->methods[method] : NULL;
    if (m == NULL || !atomic_load_explicit(&m->known, memory_order_acquire)) {
        return false;
    }
    memcpy(stats->name, m->name, sizeof stats->name);
    stats->scope = atomic_load_explicit(&m->scope, memory_order_relaxed);
    stats->in_flight = get(&m->in_flight);
    stats->denied = get(&m->denied);
    stats->latency_sum_ns = get(&m->latency_sum);
    for (uint32_t i = 0; i < BP_GUARD_CODES; i++) {
        stats->codes[i] = get(&m->codes[i]);
    }
    for (uint32_t i = 0; i < BP_GUARD_BUCKETS; i++) {
        stats->latency[i] = get(&m->latency[i]);
    }
    return true;
}

uint64_t bp_guard_bucket_bound(uint32_t bucket) {
    return bucket_bounds[bucket < BP_GUARD_BUCKETS ? bucket : BP_GUARD_BUCKETS - 1];
}

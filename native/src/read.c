/*
 * Reads: who answers them, and from what.
 *
 *   ticket -> [reader threads] -> view {published revision, floor} -> index -> values inside a read
 *   section -> completed
 *
 * A one-member cluster answers linearizable reads from the newest published revision: a write is
 * acknowledged only after its revision is published, so no acknowledged write can be missed.
 *
 * A read holds no pin. It takes a view, reads, and then looks at the floor again: trimming follows
 * the floor's publication, so a floor still at or below the revision read proves that nothing it
 * needed was gone. Else a read of the newest state starts again and a read of an old revision is
 * refused.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "repair.h"
#include "store.h"
#include "ticket.h"
#include "value.h"
#include "value_rows.h"

#define RETRIES_MAX 16u

struct bp_reader_pool {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct bp_ticket *head, **tail;
    bool stopping;
    uint32_t n_threads;
    pthread_t threads[];
};

/* ---- leases ---------------------------------------------------------------------------------- */

struct lease_keys {
    struct bp_buffer bytes;
    struct bp_slice *slices;
    uint64_t n, max, all;
    size_t *offsets;
};

static int collect_key(void *arg, struct bp_slice key) {
    struct lease_keys *keys = arg;
    if (keys->n == keys->max) {
        return 1;
    }
    keys->offsets[keys->n] = keys->bytes.size;
    keys->slices[keys->n].size = key.size - 1;
    bp_buffer_append(&keys->bytes, key.data + 1, key.size - 1); /* without the keyspace byte */
    keys->n++;
    return 0;
}

static int lease_keys(struct bp_store *store, const struct bp_wire_read *read,
                      struct lease_keys *keys, struct bp_error *err) {
    keys->max = read->want_keys ? read->limit : 0;
    keys->slices = calloc(keys->max + 1, sizeof *keys->slices);
    keys->offsets = calloc(keys->max + 1, sizeof *keys->offsets);
    if (keys->slices != NULL && keys->offsets != NULL) {
        pthread_mutex_lock(&store->apply);
        keys->all = bp_index_lease_count(store->index, read->lease);
        bp_index_lease_visit(store->index, read->lease, collect_key, keys);
        pthread_mutex_unlock(&store->apply);
    }
    if (keys->slices == NULL || keys->offsets == NULL || keys->bytes.failed) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the keys of a lease");
    }
    for (uint64_t i = 0; i < keys->n; i++) {
        keys->slices[i].data = keys->bytes.data + keys->offsets[i];
    }
    return BP_OK;
}

/* What the lease table says: this member's, or what the leader's said already. */
static void ask_leases(struct bp_store *store, struct bp_ticket *ticket) {
    const struct bp_wire_read *read = &ticket->call.read;
    uint64_t now = bp_disk_boot_ns(store->disk), ttl = 0;
    if (ticket->remote) {
        return;
    }
    bool known = read->method == BP_METHOD_KEEP_ALIVE
                     ? bp_leases_keep_alive(store->leases, read->lease, now, &ttl)
                     : bp_leases_get(store->leases, read->lease, now, &ttl, &ticket->remaining_ms);
    ticket->outcome = (struct bp_outcome){
        .revision = atomic_load_explicit(&store->revision, memory_order_acquire),
        .lease = read->lease,
        .ttl_ms = known ? ttl : 0,
        .succeeded = known};
}

static int read_lease(struct bp_store *store, struct bp_ticket *ticket, struct bp_buffer *reply,
                      struct bp_error *err) {
    const struct bp_wire_read *read = &ticket->call.read;
    ask_leases(store, ticket);
    uint64_t revision = ticket->outcome.revision, ttl = ticket->outcome.ttl_ms;
    if (ticket->forwarded != NULL) {
        return BP_OK; /* the member that asked says the rest */
    }
    if (read->method == BP_METHOD_KEEP_ALIVE) {
        bp_wire_keep_alive_reply(revision, read->lease, ttl, reply);
        return BP_OK;
    }
    if (!ticket->outcome.succeeded) {
        return bp_fail(err, BP_NOT_FOUND, BP_REASON_LEASE_NOT_FOUND, "no lease has this id");
    }
    struct lease_keys keys = {0};
    int code = lease_keys(store, read, &keys, err);
    if (code == BP_OK) {
        struct bp_wire_lease lease = {.revision = revision,
                                      .lease = read->lease,
                                      .ttl_ms = ttl,
                                      .remaining_ms = ticket->remaining_ms,
                                      .key_count = keys.all,
                                      .keys = keys.slices,
                                      .n_keys = keys.n};
        bp_wire_get_lease_reply(&lease, &store->limits, reply);
    }
    free(keys.slices);
    free(keys.offsets);
    bp_buffer_free(&keys.bytes);
    return code;
}

/* ---- GET and SCAN ---------------------------------------------------------------------------- */

/*
 * A read that the driver placed is one of the newest state: where its place is compacted already, a
 * later one serves as well (it still sees every write before it). Any other is refused.
 */
static int read_keys(struct bp_store *store, const struct bp_ticket *ticket,
                     struct bp_buffer *reply, struct bp_error *err) {
    struct bp_wire_read read = ticket->call.read;
    size_t before = reply->size;
    for (uint32_t i = 0; i < RETRIES_MAX; i++) {
        struct bp_view view;
        bp_store_view(store, &view);
        if (ticket->placed && read.revision < view.floor) {
            read.revision = 0;
        }
        uint64_t at = read.revision != 0 ? read.revision : view.revision;
        int code = bp_wire_read(&read, &view, &store->limits, reply, err);
        if (code != BP_OK || atomic_load_explicit(&store->floor, memory_order_acquire) <= at) {
            return code;
        }
        reply->size = before;
        if (read.revision != 0 && !ticket->placed) {
            return bp_fail_compacted(err, store);
        }
    }
    return bp_fail(err, BP_ABORTED, BP_REASON_REVISION_COMPACTED,
                   "compaction overtook the read again and again");
}

/* ---- one value ------------------------------------------------------------------------------- */

static int find_value(struct bp_store *store, struct bp_slice key, uint64_t revision,
                      struct bp_version *version, struct bp_error *err) {
    for (uint32_t i = 0; i < RETRIES_MAX; i++) {
        struct bp_view view;
        bp_store_view(store, &view);
        uint64_t at = revision != 0 ? revision : view.revision;
        if (at < view.floor) {
            return bp_fail_compacted(err, store);
        }
        if (at > view.revision) {
            return bp_fail(err, BP_OUT_OF_RANGE, BP_REASON_REVISION_IN_FUTURE,
                           "revision %llu has not been reached", (unsigned long long)at);
        }
        bool found = bp_index_get(store->index, key, at, version);
        if (atomic_load_explicit(&store->floor, memory_order_acquire) > at) {
            continue;
        }
        return found ? BP_OK
                     : bp_fail(err, BP_NOT_FOUND, BP_REASON_KEY_NOT_FOUND,
                               "no such key at revision %llu", (unsigned long long)at);
    }
    return bp_fail_compacted(err, store);
}

static int read_value(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err) {
    const struct bp_value_want *want = &ticket->value;
    struct bp_version version;
    uint32_t token = bp_epoch_enter(&store->epoch);
    int code = find_value(store, want->key, want->revision, &version, err);
    if (code == BP_OK) {
        uint32_t size = want->offset >= version.value.size ? 0 : version.value.size - want->offset;
        size = size < want->length ? size : want->length;
        bp_buffer_append(&ticket->reply, want->prefix, want->prefix_size);
        uint8_t *out = bp_buffer_grow(&ticket->reply, size);
        if (out == NULL && size > 0) {
            code = bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                           "no memory for a value");
        } else if (size > 0) {
            code = bp_value_read(store->segments, &version.value, want->offset, size, out, err);
            if (code != BP_OK) {
                bp_damage_note(store->segments, want->key, &version, err);
            }
            ticket->aux = code == BP_OK ? bp_crc32c(0, out, size) : 0;
        }
    }
    bp_epoch_leave(&store->epoch, token);
    return code;
}

/* The view comes first, and the stamp after it: see value_rows.h. */
static struct bp_row_want want_newest(struct bp_store *store, struct bp_slice key) {
    uint64_t revision = atomic_load_explicit(&store->revision, memory_order_acquire);
    uint64_t hash = bp_index_key_hash(key);
    return (struct bp_row_want){.key = key,
                                .hash = hash,
                                .changed = bp_index_changed(store->index, hash),
                                .revision = revision};
}

/* What has no row: the index says which version, and the next get finds a row of it. */
static int get_newest(struct bp_store *store, const struct bp_row_want *want, void *value,
                      uint32_t capacity, struct bp_version *version, struct bp_error *err) {
    int code = find_value(store, want->key, 0, version, err);
    if (code != BP_OK) {
        return code;
    }
    uint32_t size = version->value.size;
    if (size > capacity) {
        return bp_fail(err, BP_OUT_OF_RANGE, BP_REASON_VALUE_TOO_LARGE,
                       "the value has %u bytes, the buffer %u", size, capacity);
    }
    if (!bp_rows_value(store->value_cache, want, version, value)) {
        code = bp_value_fetch(store->segments, &version->value, 0, size, value, err);
    }
    if (code != BP_OK) {
        bp_damage_note(store->segments, want->key, version, err);
    } else {
        bp_rows_put(store->value_cache, want, version, value);
    }
    return code;
}

int bp_get(struct bp_store *store, uint8_t keyspace, const void *key, uint32_t key_size,
           void *value, uint32_t capacity, uint32_t *size, uint64_t *mod_revision,
           struct bp_error *err) {
    uint8_t stored[BP_STORED_KEY_MAX];
    if (key_size == 0 || key_size > BP_KEY_MAX) {
        return bp_fail(err, BP_INVALID_ARGUMENT,
                       key_size == 0 ? BP_REASON_KEY_EMPTY : BP_REASON_KEY_TOO_LARGE,
                       "a key has 1 to %u bytes", BP_KEY_MAX);
    }
    stored[0] = keyspace;
    memcpy(stored + 1, key, key_size);
    struct bp_version version = {0};
    struct bp_row_want want = want_newest(store, bp_slice(stored, key_size + 1u));
    int code = BP_OK;
    if (!bp_rows_get(store->value_cache, &want, value, capacity, &version)) {
        uint32_t token = bp_epoch_enter(&store->epoch);
        code = get_newest(store, &want, value, capacity, &version, err);
        bp_epoch_leave(&store->epoch, token);
    }
    if (version.version != 0) { /* found, and perhaps too large */
        *size = version.value.size;
        if (mod_revision != NULL) {
            *mod_revision = version.revision;
        }
    }
    return code;
}

/* ---- the pool -------------------------------------------------------------------------------- */

static bool needs_leader(const struct bp_ticket *ticket) {
    return ticket->kind == BP_TICKET_READ && !ticket->call.read.serializable;
}

void bp_read_answer(struct bp_store *store, struct bp_ticket *ticket) {
    struct bp_error err = {0};
    int code;
    if (needs_leader(ticket) && atomic_load_explicit(&store->poisoned, memory_order_relaxed)) {
        code = bp_fail(
            &err, BP_UNAVAILABLE, BP_REASON_LOG_POISONED,
            "the log failed: only SERIALIZABLE reads are answered until the daemon is restarted");
    } else if (ticket->kind == BP_TICKET_VALUE) {
        code = read_value(store, ticket, &err);
    } else if (ticket->call.read.method == BP_METHOD_GET ||
               ticket->call.read.method == BP_METHOD_SCAN) {
        code = read_keys(store, ticket, &ticket->reply, &err);
    } else {
        code = read_lease(store, ticket, &ticket->reply, &err);
    }
    if (code == BP_OK && ticket->reply.failed) {
        code = bp_fail(&err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the reply");
    }
    if (code != BP_OK) {
        bp_ticket_fail(ticket, &err);
    }
}

static void finish(struct bp_store *store, struct bp_ticket *ticket) {
    uint64_t bytes = bp_ticket_bytes(ticket);
    bool admitted = ticket->admitted;
    bp_ticket_answer(store, ticket);
    bp_ticket_complete(store, ticket);
    if (admitted) {
        bp_driver_leave(store, 1, bytes);
    }
}

static void *reader_thread(void *arg) {
    struct bp_store *store = arg;
    struct bp_reader_pool *pool = store->pool;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        struct bp_ticket *ticket = pool->head;
        if (ticket != NULL) {
            pool->head = ticket->next;
            if (pool->head == NULL) {
                pool->tail = &pool->head;
            }
            pthread_mutex_unlock(&pool->mutex);
            ticket->next = NULL;
            finish(store, ticket);
            pthread_mutex_lock(&pool->mutex);
        } else if (pool->stopping) {
            break;
        } else {
            pthread_cond_wait(&pool->wake, &pool->mutex);
        }
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

void bp_readers_push(struct bp_store *store, struct bp_ticket *ticket) {
    struct bp_reader_pool *pool = store->pool;
    if (pool == NULL) { /* manual mode */
        finish(store, ticket);
        return;
    }
    pthread_mutex_lock(&pool->mutex);
    ticket->next = NULL;
    *pool->tail = ticket;
    pool->tail = &ticket->next;
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

int bp_readers_start(struct bp_store *store, struct bp_error *err) {
    if (store->options.manual) {
        return BP_OK;
    }
    uint32_t n = store->options.readers;
    struct bp_reader_pool *pool = calloc(1, sizeof *pool + n * sizeof pool->threads[0]);
    if (pool == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for the reader threads");
    }
    pool->tail = &pool->head;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    store->pool = pool;
    for (; pool->n_threads < n; pool->n_threads++) {
        if (pthread_create(&pool->threads[pool->n_threads], NULL, reader_thread, store) != 0) {
            bp_readers_stop(store);
            return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                           "no thread for a reader");
        }
    }
    return BP_OK;
}

void bp_readers_stop(struct bp_store *store) {
    struct bp_reader_pool *pool = store->pool;
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i < pool->n_threads; i++) {
        pthread_join(pool->threads[i], NULL);
    }
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
    free(pool);
    store->pool = NULL;
}

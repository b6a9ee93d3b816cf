/* See state_util.h. */
#include "state_util.h"

#include "../src/checkpoint.h"
#include "../src/value.h"

static void add_u64(struct bp_buffer *out, uint64_t value) {
    uint8_t bytes[8];
    bp_put_u64(bytes, value);
    bp_buffer_append(out, bytes, sizeof bytes);
}

static void add_bytes(struct bp_buffer *out, const void *data, size_t size) {
    add_u64(out, size);
    bp_buffer_append(out, data, size);
}

struct dump {
    struct bp_store *store;
    struct bp_buffer *out;
};

static int add_version(void *arg, struct bp_slice key, const struct bp_version *version) {
    const struct dump *dump = arg;
    struct bp_buffer *out = dump->out;
    add_bytes(out, key.data, key.size);
    add_u64(out, version->revision);
    add_u64(out, version->create_revision);
    add_u64(out, version->lease);
    add_u64(out, version->version);
    add_u64(out, version->flags & BP_VERSION_TOMBSTONE);
    if ((version->flags & BP_VERSION_TOMBSTONE) == 0) {
        static _Thread_local uint8_t value[BP_VALUE_MAX];
        struct bp_error err = {0};
        uint32_t token = bp_epoch_enter(&dump->store->epoch);
        CHECK_OK(bp_value_read(dump->store->segments, &version->value, 0, version->value.size,
                               value, &err),
                 &err);
        bp_epoch_leave(&dump->store->epoch, token);
        add_u64(out, version->value.crc);
        add_bytes(out, value, version->value.size);
    }
    return 0;
}

static int add_effect(void *arg, uint64_t revision, struct bp_slice key,
                      const struct bp_version *version, const struct bp_version *previous) {
    struct bp_buffer *out = arg;
    (void)previous;
    add_u64(out, revision);
    add_bytes(out, key.data, key.size);
    add_u64(out, version->version);
    return 0;
}

static void add_history(struct bp_store *store, struct bp_buffer *out) {
    uint64_t floor = store->compaction_revision, last = store->next_revision - 1, next;
    if (floor < last) {
        CHECK(bp_history_scan(store->index, floor + 1, last, UINT32_MAX, &next, add_effect, out) ==
              0);
    }
}

static void add_tables(struct bp_store *store, struct bp_buffer *out) {
    uint64_t n;
    struct bp_lease_record *leases = bp_leases_snapshot(store->leases, &n);
    add_u64(out, n);
    for (uint64_t i = 0; i < n; i++) {
        add_u64(out, leases[i].id);
        add_u64(out, leases[i].ttl_ms);
        add_u64(out, bp_index_lease_count(store->index, leases[i].id));
    }
    free(leases);
    n = bp_request_ids_count(store->request_ids);
    add_u64(out, n);
    for (uint64_t i = 0; i < n; i++) {
        const struct bp_request_id_record *record = bp_request_ids_at(store->request_ids, i);
        add_bytes(out, record->id, record->id_size);
        add_u64(out, record->fingerprint);
        add_u64(out, record->revision);
        add_u64(out, record->deleted);
        add_u64(out, record->lease);
        add_u64(out, record->ttl_ms);
        add_u64(out, record->succeeded);
    }
}

struct bp_buffer state_of(struct bp_store *store) {
    struct bp_buffer out = {0};
    uint64_t hash[2];
    struct dump dump = {.store = store, .out = &out};
    CHECK(bp_index_check(store->index) == NULL);
    bp_index_state_hash(store->index, hash);
    add_u64(&out, store->next_revision);
    add_u64(&out, store->compaction_revision);
    add_u64(&out, hash[0]);
    add_u64(&out, hash[1]);
    bp_buffer_append(&out, store->system.cluster_id, 16);
    CHECK(bp_index_scan_versions(store->index, (struct bp_slice){0}, store->compaction_revision,
                                 store->next_revision - 1, add_version, &dump) == 0);
    add_history(store, &out);
    add_tables(store, &out);
    CHECK(!out.failed);
    return out;
}

void state_must_equal(struct bp_buffer before, struct bp_buffer after) {
    size_t n = before.size < after.size ? before.size : after.size, at = 0;
    while (at < n && before.data[at] == after.data[at]) {
        at++;
    }
    if (at < n || before.size != after.size) {
        fprintf(stderr, "states differ at byte %zu (sizes %zu, %zu; next revisions %llu, %llu)\n",
                at, before.size, after.size, (unsigned long long)bp_get_u64(before.data),
                (unsigned long long)bp_get_u64(after.data));
        exit(1);
    }
    bp_buffer_free(&before);
    bp_buffer_free(&after);
}

/* ---- the directory --------------------------------------------------------------------------- */

struct listing {
    struct bp_store *store;
    const char *suffix;
    struct dir_use use;
};

static int each_file(void *arg, const char *name) {
    struct listing *listing = arg;
    size_t n = strlen(name), m = strlen(listing->suffix);
    if (n >= m && strcmp(name + n - m, listing->suffix) == 0) {
        char path[4224];
        uint64_t size = 0;
        (void)snprintf(path, sizeof path, "%s/%s", listing->store->dir, name);
        int fd = bp_disk_open(listing->store->disk, BP_SITE_NONE, path, BP_O_READ);
        if (fd >= 0) {
            CHECK(bp_disk_size(listing->store->disk, fd, &size) == 0);
            bp_disk_close(listing->store->disk, fd);
            listing->use.files++;
            listing->use.bytes += size;
        }
    }
    return 0;
}

struct names {
    char list[4096][64];
    uint32_t n;
};

static int note_name(void *arg, const char *name) {
    struct names *names = arg;
    CHECK(names->n < 4096);
    (void)snprintf(names->list[names->n++], 64, "%.60s", name);
    return 0;
}

struct dir_use dir_use(struct bp_store *store, const char *suffix) {
    struct listing listing = {.store = store, .suffix = suffix};
    struct names *names = calloc(1, sizeof *names);
    CHECK(names != NULL);
    CHECK(bp_disk_list(store->disk, store->dir, note_name, names) == 0);
    for (uint32_t i = 0; i < names->n; i++) {
        each_file(&listing, names->list[i]);
    }
    free(names);
    return listing.use;
}

bool checkpoint_path(struct bp_store *store, uint32_t n, char path[4224]) {
    uint64_t *numbers;
    uint32_t count;
    struct bp_error err = {0};
    CHECK_OK(bp_ckpt_list(store->disk, store->dir, &numbers, &count, &err), &err);
    if (n < count) {
        bp_ckpt_path(store->dir, numbers[n], false, path);
    }
    free(numbers);
    return n < count;
}

/* ---- stepping -------------------------------------------------------------------------------- */

void clean_all(struct bp_store *store) {
    for (uint32_t i = 0; i < 100000; i++) {
        if (bp_step_clean(store) == 0) {
            return;
        }
    }
    CHECK(!"cleaning never ends");
}

void settle(struct bp_store *store) {
    for (uint32_t i = 0; i < 100; i++) {
        clean_all(store);
        if (!bp_checkpoint_due(store)) {
            return;
        }
        struct bp_error err = {0};
        CHECK_OK(bp_step_checkpoint(store, 0, &err), &err);
    }
    CHECK(!"checkpoints never end");
}

void must_checkpoint(struct bp_store *store) {
    struct bp_error err = {0};
    CHECK_OK(bp_step_checkpoint(store, 1, &err), &err);
}

uint64_t test_random(uint64_t *seed) {
    *seed += 0x9e3779b97f4a7c15ull;
    uint64_t z = *seed;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

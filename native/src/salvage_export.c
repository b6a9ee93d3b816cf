/*
 * Salvage, the second half: what was found, into a new store's image.
 *
 *   index       every key, its versions newest first   --+--> the first intact one
 *   candidates  settled records, by key, newest first  --+     else the newest intact candidate
 *               walked side by side, in the order of keys      else LOST, and said so
 *
 * Invariants
 *   - Every value that is exported was read and verified here.
 *   - Candidates are passed once, in order: next_candidate never goes back.
 *   - A key that the newest checkpoint knows as deleted stays deleted; keys that only settled
 *     records know are exported only when there was no checkpoint to ask.
 */
#include "salvage_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "value.h"

static int by_key(const void *a, const void *b, void *arg) {
    const struct bp_salvage_candidate *x = a, *y = b;
    const uint8_t *keys = arg;
    int order = bp_slice_compare(bp_slice(keys + x->key_at, x->key_size),
                                 bp_slice(keys + y->key_at, y->key_size));
    if (order != 0) {
        return order;
    }
    return x->version.revision > y->version.revision ? -1
                                                     : x->version.revision < y->version.revision;
}

static struct bp_slice candidate_key(const struct bp_salvage *salvage, uint64_t i) {
    return bp_slice(salvage->keys.data + salvage->candidates[i].key_at,
                    salvage->candidates[i].key_size);
}

static int keep(struct bp_salvage *salvage, struct bp_slice key, const struct bp_version *version) {
    struct bp_version kept = *version;
    if (kept.lease != 0 && !bp_image_has_lease(salvage->image, kept.lease)) {
        kept.lease = 0;
        salvage->leases_dropped++;
    }
    salvage->kept++;
    return bp_image_put(salvage->image, key, &kept, bp_slice(salvage->value, kept.value.size),
                        salvage->err);
}

/* The value into salvage->value, verified. */
static bool readable(const struct bp_salvage *salvage, const struct bp_version *version) {
    return version->value.size == 0 ||
           bp_value_read(salvage->store->segments, &version->value, 0, version->value.size,
                         salvage->value, NULL) == BP_OK;
}

static void say_lost(struct bp_salvage *salvage, struct bp_slice key, const char *what) {
    char text[200];
    size_t n = 0;
    for (size_t i = 1; i < key.size && n < sizeof text - 8;
         i++) { /* printable; the keyspace byte apart */
        uint8_t c = key.data[i];
        n += (size_t)snprintf(text + n, sizeof text - n,
                              c >= 0x20 && c < 0x7f && c != '\\' ? "%c" : "\\x%02x", c);
    }
    text[n] = 0;
    if (salvage->lost + salvage->older <= BP_SALVAGE_LINES_MAX) {
        bp_fsck_line(salvage->report, "rebuild: key %c:%s%s: %s", key.data[0], text,
                     n >= sizeof text - 8 ? "..." : "", what);
    }
}

/* Settled records of keys below `key` (all, when it is empty): keys that only they know. */
static int pass_candidates(struct bp_salvage *salvage, struct bp_slice key) {
    int code = BP_OK;
    while (code == BP_OK && salvage->next_candidate < salvage->n_candidates) {
        uint64_t i = salvage->next_candidate;
        struct bp_slice own = candidate_key(salvage, i);
        if (key.size > 0 && bp_slice_compare(own, key) >= 0) {
            break;
        }
        bool taken = false;
        for (; salvage->next_candidate < salvage->n_candidates &&
               bp_slice_equal(candidate_key(salvage, salvage->next_candidate), own);
             salvage->next_candidate++) {
            const struct bp_version *version =
                &salvage->candidates[salvage->next_candidate].version;
            if (!taken && code == BP_OK && !salvage->has_checkpoint && readable(salvage, version)) {
                taken = true;
                salvage->settled_only++;
                code = keep(salvage, own, version);
            }
        }
    }
    return code;
}

/* No version in the index was intact: an older copy in a settled segment? */
static int end_key(struct bp_salvage *salvage) {
    struct bp_slice key = bp_slice(salvage->key, salvage->key_size);
    bool own = true, taken = salvage->done;
    int code = BP_OK;
    for (; own && salvage->next_candidate < salvage->n_candidates; salvage->next_candidate += own) {
        const struct bp_version *version = &salvage->candidates[salvage->next_candidate].version;
        own = bp_slice_equal(candidate_key(salvage, salvage->next_candidate), key);
        if (own && !taken && code == BP_OK && readable(salvage, version)) {
            taken = true;
            salvage->older++;
            say_lost(salvage, key, "its newest value is damaged; an older one is kept");
            code = keep(salvage, key, version);
        }
    }
    if (!taken) {
        salvage->lost++;
        say_lost(salvage, key, "LOST: no intact value is left");
    }
    salvage->done = true;
    return code;
}

static int begin_key(struct bp_salvage *salvage, struct bp_slice key) {
    int code = salvage->key_size > 0 ? end_key(salvage) : BP_OK;
    code = code != BP_OK ? code : pass_candidates(salvage, key);
    memcpy(salvage->key, key.data, key.size);
    salvage->key_size = (uint32_t)key.size;
    salvage->done = false;
    salvage->first = true;
    return code;
}

/* Runs under a leaf's lock, as the only thread there is. */
static int export_version(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct bp_salvage *salvage = arg;
    int code = BP_OK;
    if (!bp_slice_equal(key, bp_slice(salvage->key, salvage->key_size))) {
        code = begin_key(salvage, key);
    }
    if (code != BP_OK || salvage->done) {
        return code;
    }
    if ((version->flags & BP_VERSION_TOMBSTONE) != 0) {
        salvage->done = salvage->first; /* deleted; below a damaged value it says nothing */
    } else if (readable(salvage, version)) {
        salvage->done = true;
        if (!salvage->first) {
            salvage->older++;
            say_lost(salvage, key, "its newest value is damaged; an older one is kept");
        }
        code = keep(salvage, key, version);
    }
    salvage->first = false;
    return code;
}

int bp_salvage_export_state(struct bp_salvage *salvage, struct bp_error *err) {
    const struct bp_store *store = salvage->store;
    uint64_t n;
    struct bp_lease_record *leases = bp_leases_snapshot(store->leases, &n);
    int code = leases == NULL && n > 0 ? bp_salvage_no_memory(err) : BP_OK;
    for (uint64_t i = 0; i < n && code == BP_OK; i++) {
        code = bp_image_lease(salvage->image, &leases[i], err);
    }
    free(leases);
    for (uint64_t i = 0; i < bp_request_ids_count(store->request_ids); i++) {
        (void)bp_image_request_id(salvage->image, bp_request_ids_at(store->request_ids, i));
    }
    return code;
}

int bp_salvage_export_keys(struct bp_salvage *salvage, struct bp_error *err) {
    salvage->err = err;
    if (salvage->n_candidates > 1) {
        qsort_r(salvage->candidates, salvage->n_candidates, sizeof *salvage->candidates, by_key,
                salvage->keys.data);
    }
    int code = bp_index_scan_versions(salvage->store->index, (struct bp_slice){0}, 0, UINT64_MAX,
                                      export_version, salvage);
    if (code == BP_OK && salvage->key_size > 0) {
        code = end_key(salvage);
    }
    return code != BP_OK ? code : pass_candidates(salvage, (struct bp_slice){0});
}

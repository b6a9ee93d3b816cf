/*
 * What the index must do, done simply: a sorted array of keys, each with all its retained versions
 * in order of revision. Shared by the index's tests and its fuzzer.
 *
 *   keys:  "a" -> [3 put] [9 delete]      "ab" -> [4 put] [7 put]     ...
 */
#ifndef BP_TESTS_INDEX_MODEL_H
#define BP_TESTS_INDEX_MODEL_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "index.h"
#include "limits.h"

struct random {
    uint64_t state;
};

static inline uint64_t random_next(struct random *random) {
    uint64_t z = (random->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t random_below(struct random *random, uint64_t n) {
    return random_next(random) % n;
}

/*
 * Key number i of a family that is hard on a tree: one byte, the longest, prefixes of each other,
 * long common prefixes, zeros and 0xff at every end. Different numbers may give the same key.
 */
static inline struct bp_slice hard_key(uint64_t i, uint8_t buf[BP_STORED_KEY_MAX]) {
    static const uint8_t bytes[] = {0x00, 0x01, 'a', 'b', 0x7f, 0x80, 0xfe, 0xff};
    struct random random = {i * 7919u + 1};
    size_t size = 0, prefix = 0;
    switch (random_below(&random, 8)) {
    case 0:
        buf[0] = (uint8_t)random_next(&random);
        return bp_slice(buf, 1);
    case 1: /* prefixes of each other */
        prefix = random_below(&random, 300);
        memset(buf, i % 2 == 0 ? 'p' : 0, prefix);
        size = 1 + random_below(&random, 2);
        break;
    case 2: /* long common prefix */
        prefix = 200;
        memset(buf, 'p', prefix);
        size = 1 + random_below(&random, 8);
        break;
    case 3: /* the longest */
        if (random_below(&random, 40) == 0) {
            prefix = BP_STORED_KEY_MAX - 2;
            memset(buf, 0xff, prefix);
            size = 2;
            break;
        }
        /* fall through */
    case 4:
    case 5:
        size = 1 + random_below(&random, 5);
        break;
    default: /* like a client's: keyspace, path, number */
        return bp_slice(buf, (size_t)sprintf((char *)buf, "uusers/%02u/%07u",
                                             (unsigned)random_below(&random, 20),
                                             (unsigned)random_below(&random, 1000000)));
    }
    for (size_t k = 0; k < size; k++) {
        buf[prefix + k] = bytes[random_below(&random, sizeof bytes)];
    }
    return bp_slice(buf, prefix + size);
}

struct model_key {
    uint8_t *data;
    size_t size;
    struct bp_version *versions; /* oldest first */
    uint32_t n, capacity;
};

struct model_effect {
    uint64_t revision;
    uint8_t *data;
    size_t size;
};

struct model {
    struct model_key *keys;
    size_t n, capacity;
    struct model_effect *effects;
    size_t effect_n, effect_capacity;
    uint64_t dead_count, dead_bytes; /* values that trimming must report */
};

static inline struct bp_slice model_slice(const struct model_key *key) {
    return bp_slice(key->data, key->size);
}

/* First key >= `key`. */
static inline size_t model_position(const struct model *model, struct bp_slice key) {
    size_t low = 0, high = model->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (bp_slice_compare(model_slice(&model->keys[middle]), key) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static inline struct model_key *model_find(const struct model *model, struct bp_slice key) {
    size_t at = model_position(model, key);
    return at < model->n && bp_slice_equal(model_slice(&model->keys[at]), key) ? &model->keys[at]
                                                                               : NULL;
}

static inline void *model_copy(const void *data, size_t size) {
    void *copy = malloc(size + 1);
    CHECK(copy != NULL);
    memcpy(copy, data, size);
    return copy;
}

static inline struct model_key *model_make(struct model *model, struct bp_slice key) {
    size_t at = model_position(model, key);
    if (at < model->n && bp_slice_equal(model_slice(&model->keys[at]), key)) {
        return &model->keys[at];
    }
    if (model->n == model->capacity) {
        model->capacity = model->capacity == 0 ? 64 : model->capacity * 2;
        model->keys = realloc(model->keys, model->capacity * sizeof *model->keys);
        CHECK(model->keys != NULL);
    }
    memmove(&model->keys[at + 1], &model->keys[at], (model->n - at) * sizeof *model->keys);
    model->n++;
    model->keys[at] = (struct model_key){.data = model_copy(key.data, key.size), .size = key.size};
    return &model->keys[at];
}

static inline void model_drop_key(struct model *model, size_t at) {
    free(model->keys[at].data);
    free(model->keys[at].versions);
    model->n--;
    memmove(&model->keys[at], &model->keys[at + 1], (model->n - at) * sizeof *model->keys);
}

static inline void model_add(struct model *model, struct bp_slice key,
                             const struct bp_version *version) {
    struct model_key *entry = model_make(model, key);
    if (entry->n == entry->capacity) {
        entry->capacity = entry->capacity == 0 ? 4 : entry->capacity * 2;
        entry->versions = realloc(entry->versions, entry->capacity * sizeof *entry->versions);
        CHECK(entry->versions != NULL);
    }
    entry->versions[entry->n++] = *version;
    if (model->effect_n == model->effect_capacity) {
        model->effect_capacity = model->effect_capacity == 0 ? 64 : model->effect_capacity * 2;
        model->effects = realloc(model->effects, model->effect_capacity * sizeof *model->effects);
        CHECK(model->effects != NULL);
    }
    model->effects[model->effect_n++] = (struct model_effect){
        .revision = version->revision, .data = model_copy(key.data, key.size), .size = key.size};
}

/* The version at `revision`, tombstones included, or NULL. */
static inline struct bp_version *model_at(const struct model_key *key, uint64_t revision) {
    struct bp_version *found = NULL;
    for (uint32_t low = 0, high = key == NULL ? 0 : key->n; low < high;) {
        uint32_t middle = (low + high) / 2;
        if (key->versions[middle].revision <= revision) {
            found = &key->versions[middle];
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return found;
}

static inline struct bp_version *model_live(const struct model_key *key, uint64_t revision) {
    struct bp_version *version = model_at(key, revision);
    return version != NULL && version->version != 0 ? version : NULL;
}

static inline struct bp_version *model_newest(const struct model *model, struct bp_slice key) {
    return model_live(model_find(model, key), UINT64_MAX);
}

static inline void model_put(struct model *model, struct bp_slice key, uint64_t revision,
                             uint64_t lease, bool keep_lease, const struct bp_value_ref *value) {
    const struct bp_version *old = model_newest(model, key);
    struct bp_version version = {.revision = revision,
                                 .create_revision = old != NULL ? old->create_revision : revision,
                                 .version = old != NULL ? old->version + 1 : 1,
                                 .lease = keep_lease ? (old != NULL ? old->lease : 0) : lease,
                                 .value = *value};
    model_add(model, key, &version);
}

static inline bool model_delete(struct model *model, struct bp_slice key, uint64_t revision) {
    if (model_newest(model, key) == NULL) {
        return false;
    }
    struct bp_version tombstone = {.revision = revision, .flags = BP_VERSION_TOMBSTONE};
    model_add(model, key, &tombstone);
    return true;
}

static inline void model_trim(struct model *model, uint64_t revision) {
    for (size_t k = model->n; k-- > 0;) {
        struct model_key *key = &model->keys[k];
        uint32_t keep = 0;
        while (keep + 1 < key->n && key->versions[keep + 1].revision <= revision) {
            keep++;
        }
        if (key->versions[keep].revision <= revision && key->versions[keep].version == 0) {
            keep++;
        }
        for (uint32_t i = 0; i < keep; i++) {
            model->dead_count += key->versions[i].version != 0;
            model->dead_bytes += key->versions[i].value.size;
        }
        key->n -= keep;
        memmove(key->versions, key->versions + keep, key->n * sizeof *key->versions);
        if (key->n == 0) {
            model_drop_key(model, k);
        }
    }
    size_t gone = 0;
    if (model->effect_n == 0) {
        return; /* no arithmetic on what was never allocated */
    }
    while (gone < model->effect_n && model->effects[gone].revision <= revision) {
        free(model->effects[gone++].data);
    }
    model->effect_n -= gone;
    memmove(model->effects, model->effects + gone, model->effect_n * sizeof *model->effects);
}

static inline void model_free(struct model *model) {
    while (model->n > 0) {
        model_drop_key(model, model->n - 1);
    }
    for (size_t i = 0; i < model->effect_n; i++) {
        free(model->effects[i].data);
    }
    free(model->keys);
    free(model->effects);
    memset(model, 0, sizeof *model);
}

/* ---- comparing ------------------------------------------------------------------------------- */

static inline void check_version(const struct bp_version *got, const struct bp_version *want) {
    CHECK_EQ_U64(got->revision, want->revision);
    CHECK_EQ_U64(got->create_revision, want->create_revision);
    CHECK_EQ_U64(got->lease, want->lease);
    CHECK_EQ_U64(got->version, want->version);
    CHECK_EQ_U64(got->flags, want->flags);
    CHECK_EQ_U64(bp_pos_u64(got->value.at), bp_pos_u64(want->value.at));
    CHECK_EQ_U64(got->value.size, want->value.size);
    CHECK_EQ_U64(got->value.crc, want->value.crc);
}

struct scan_check {
    const struct model *model;
    size_t at, first,
        beyond; /* the next key to come (ascending), or the one behind it (descending) */
    uint64_t revision;
    bool reverse;
    uint64_t visited, stop_after;
};

static inline int scan_check_visit(void *arg, struct bp_slice key,
                                   const struct bp_version *version) {
    struct scan_check *check = arg;
    const struct model_key *want = NULL;
    const struct bp_version *live = NULL;
    while (live == NULL) { /* skip what the model does not see at this revision */
        CHECK(check->reverse ? check->at > check->first : check->at < check->beyond);
        want = &check->model->keys[check->reverse ? --check->at : check->at++];
        live = model_live(want, check->revision);
    }
    CHECK(bp_slice_equal(key, model_slice(want)));
    check_version(version, live);
    return ++check->visited == check->stop_after ? 7 : 0;
}

/*
 * Scan [start, end) at `revision`, stopping after `stop_after` keys (0 never), and compare each
 * key.
 */
static inline void check_scan(const struct bp_index *index, const struct model *model,
                              struct bp_slice start, struct bp_slice end, uint64_t revision,
                              bool reverse, uint64_t stop_after) {
    struct scan_check check = {
        .model = model, .revision = revision, .reverse = reverse, .stop_after = stop_after};
    check.first = model_position(model, start);
    check.beyond = end.size == 0 ? model->n : model_position(model, end);
    check.beyond = check.beyond < check.first ? check.first : check.beyond;
    check.at = reverse ? check.beyond : check.first;
    int result = bp_index_scan(index, start, end, revision, reverse, scan_check_visit, &check);
    if (stop_after > 0 && check.visited == stop_after) {
        CHECK(result == 7);
        return;
    }
    CHECK(result == 0);
    size_t low = reverse ? check.first : check.at, high = reverse ? check.at : check.beyond;
    for (; low < high; low++) { /* nothing visible was left out */
        CHECK(model_live(&model->keys[low], revision) == NULL);
    }
}

#endif

/*
 * Get and Scan, and the steps all reads are made of (see wire_read.h).
 *
 *   scan [a, z):   [ step ][ step ][ st|  each: enter, gather <= STEP_KEYS keys, read values, leave
 *                                      ^ page full: `next`, the first key not written
 *
 * Invariants
 *   - The read section is entered before the index is looked at and left after the values are read:
 *     the cleaner unlinks no segment that a gathered version still names.
 *   - A page never passes its budget, counted in encoded bytes, but for its first key; and every
 *     step takes at least one key.
 */
#include "wire_read.h"

#include <assert.h>
#include <stdlib.h>

#include "repair.h"
#include "value.h"
#include "value_rows.h"
#include "wire_token.h"

enum {
    STEP_KEYS = 128,
    STEP_KEY_BYTES = 32 << 10,                  /* at least one key of any size fits */
    STEP_VALUE_BYTES = 256 << 10,               /* a step ends behind the value that passes this */
    SCAN_RESERVED = 3 * 11 + BP_TOKEN_FIELD_MAX /* what a ScanResponse holds besides keys */
};
_Static_assert(STEP_KEY_BYTES >= BP_STORED_KEY_MAX, "a step holds the largest key");

struct bp_wire_step {
    uint32_t n, keys_max, key_bytes;
    uint64_t value_bytes;
    bool full; /* there may be more behind it */
    struct bp_version versions[STEP_KEYS];
    uint16_t key_at[STEP_KEYS], key_size[STEP_KEYS];
    uint8_t cursor[BP_STORED_KEY_MAX + 1]; /* where the next step begins or ends */
    uint8_t keys[STEP_KEY_BYTES];
};

int bp_wire_check_retained(const struct bp_view *view, uint64_t revision, struct bp_error *err) {
    if (revision >= view->floor) {
        return BP_OK;
    }
    int code = bp_fail_field(err, BP_OUT_OF_RANGE, BP_REASON_REVISION_COMPACTED, "revision",
                             "revision %llu is compacted; the oldest readable one is %llu",
                             (unsigned long long)revision, (unsigned long long)view->floor);
    if (err != NULL) {
        err->revision = view->floor;
    }
    return code;
}

uint64_t bp_wire_budget(const struct bp_wire_limits *limits, uint64_t reserved) {
    return limits->reply_bytes_max > reserved ? limits->reply_bytes_max - reserved : 0;
}

int bp_wire_finish_reply(const struct bp_buffer *reply, struct bp_error *err) {
    return reply->failed ? bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                                   "no memory for the reply")
                         : BP_OK;
}

/* ---- one KeyValue --------------------------------------------------------------------------- */

/* Bytes of a KeyValue message. */
static uint64_t key_value_size(struct bp_slice key, const struct bp_version *version,
                               bool keys_only) {
    return bp_pb_bytes_size(key.size - 1) + bp_pb_bytes_size(keys_only ? 0 : version->value.size) +
           bp_pb_uint_size(version->create_revision) + bp_pb_uint_size(version->revision) +
           bp_pb_uint_size(version->version) + bp_pb_uint_size(version->lease);
}

/* The message up to its value, `value_size` bytes of which come next. */
static void put_head(struct bp_buffer *out, uint32_t field, struct bp_slice key,
                     const struct bp_version *version, bool keys_only) {
    assert(key.size > 0);
    bp_pb_head(out, field, key_value_size(key, version, keys_only));
    bp_pb_bytes(out, 1, bp_slice(key.data + 1, key.size - 1)); /* clients see no keyspace byte */
}

static void put_tail(struct bp_buffer *out, const struct bp_version *version) {
    bp_pb_uint(out, 3, version->create_revision);
    bp_pb_uint(out, 4, version->revision);
    bp_pb_uint(out, 5, version->version);
    bp_pb_uint(out, 6, version->lease);
}

int bp_wire_key_value(const struct bp_view *view, struct bp_slice key,
                      const struct bp_version *version, bool keys_only, uint32_t field,
                      struct bp_buffer *out, struct bp_error *err) {
    uint32_t value_size = keys_only ? 0 : version->value.size;
    put_head(out, field, key, version, keys_only);
    if (value_size > 0) {
        bp_pb_head(out, 2, value_size);
        uint8_t *at = bp_buffer_grow(out, value_size);
        if (at == NULL) {
            return bp_wire_finish_reply(out, err);
        }
        int code = bp_value_read(view->segments, &version->value, 0, value_size, at, err);
        if (code != BP_OK) {
            bp_damage_note(view->segments, key, version, err);
            return code;
        }
    }
    put_tail(out, version);
    return BP_OK;
}

/* The row of a key and, where it has none, what is to become one. */
struct key_row {
    struct bp_value_cache *cache;
    struct bp_row_want want;
    struct bp_version version;
    uint8_t value[BP_VALUE_CACHE_VALUE_MAX];
};

/* The index has given row->version: its value, read where no row holds it, and kept in one. */
static int make_row(const struct bp_view *view, struct key_row *row, struct bp_error *err) {
    int code = BP_OK;
    if (!bp_rows_value(row->cache, &row->want, &row->version, row->value)) {
        const struct bp_value_ref *value = &row->version.value;
        code = bp_value_fetch(view->segments, value, 0, value->size, row->value, err);
    }
    if (code != BP_OK) {
        bp_damage_note(view->segments, row->want.key, &row->version, err);
    } else {
        bp_rows_put(row->cache, &row->want, &row->version, row->value);
    }
    return code;
}

/* What a reply's budget does to one value. */
static bool leave_out(const struct bp_version *version, bool keys_only, uint64_t *left,
                      bool *omitted) {
    uint64_t size = keys_only ? 0 : bp_pb_bytes_size(version->value.size);
    if (left != NULL && size > *left) {
        *omitted = true;
        return true;
    }
    if (left != NULL) {
        *left -= size;
    }
    return keys_only;
}

/* From the index; the caller is in a read section. */
static int put_indexed(const struct bp_view *view, struct key_row *row, bool keys_only,
                       uint32_t field, struct bp_buffer *out, uint64_t *left, bool *omitted,
                       struct bp_error *err) {
    if (!bp_index_get(view->index, row->want.key, row->want.revision, &row->version)) {
        return BP_OK;
    }
    keys_only = leave_out(&row->version, keys_only, left, omitted);
    if (keys_only || row->version.value.size > sizeof row->value) {
        return bp_wire_key_value(view, row->want.key, &row->version, keys_only, field, out, err);
    }
    int code = make_row(view, row, err);
    if (code == BP_OK) {
        put_head(out, field, row->want.key, &row->version, false);
        bp_pb_bytes(out, 2, bp_slice(row->value, row->version.value.size));
        put_tail(out, &row->version);
    }
    return code;
}

int bp_wire_key(const struct bp_view *view, struct bp_slice key, uint64_t revision, bool keys_only,
                uint32_t field, struct bp_buffer *out, uint64_t *left, bool *omitted,
                struct bp_error *err) {
    struct key_row row;
    row.cache = bp_segments_cache(view->segments);
    row.want =
        (struct bp_row_want){.key = key, .hash = bp_index_key_hash(key), .revision = revision};
    row.want.changed = bp_index_changed(view->index, row.want.hash); /* the view came before it */
    if (bp_rows_get(row.cache, &row.want, row.value, sizeof row.value, &row.version)) {
        keys_only = leave_out(&row.version, keys_only, left, omitted);
        put_head(out, field, key, &row.version, keys_only);
        bp_pb_bytes(out, 2, bp_slice(row.value, keys_only ? 0 : row.version.value.size));
        put_tail(out, &row.version);
        return BP_OK;
    }
    uint32_t token = bp_epoch_enter(view->epoch);
    int code = put_indexed(view, &row, keys_only, field, out, left, omitted, err);
    bp_epoch_leave(view->epoch, token);
    return code;
}

/* ---- ranges --------------------------------------------------------------------------------- */

void bp_wire_page_free(struct bp_wire_page *page) {
    free(page->step);
    page->step = NULL;
}

/* Runs under a leaf's lock: copies and nothing else. */
static int gather(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct bp_wire_step *step = arg;
    if (step->n == step->keys_max || key.size > STEP_KEY_BYTES - step->key_bytes ||
        step->value_bytes > STEP_VALUE_BYTES) {
        step->full = true;
        return 1;
    }
    memcpy(step->keys + step->key_bytes, key.data, key.size);
    step->versions[step->n] = *version;
    step->key_at[step->n] = (uint16_t)step->key_bytes;
    step->key_size[step->n] = (uint16_t)key.size;
    step->key_bytes += (uint32_t)key.size;
    step->value_bytes += version->value.size;
    step->n++;
    return 0;
}

static struct bp_slice step_key(const struct bp_wire_step *step, uint32_t i) {
    return bp_slice(step->keys + step->key_at[i], step->key_size[i]);
}

/* Write the gathered keys until the page is full. */
static int write_step(struct bp_wire_page *page, struct bp_error *err) {
    const struct bp_wire_step *step = page->step;
    if (!page->keys_only) {
        bp_value_ahead(page->view->segments, step->versions, step->n);
    }
    for (uint32_t i = 0; i < step->n; i++) {
        struct bp_slice key = step_key(step, i);
        const struct bp_version *version = &step->versions[i];
        uint64_t size = key_value_size(key, version, page->keys_only);
        size += 1u + bp_pb_varint_size(size);
        bool fits = size <= page->bytes_left || (page->at_least_one && page->count == 0);
        if (page->keys_left == 0 || !fits) {
            page->more = true;
            page->next = key;
            return BP_OK;
        }
        int code = bp_wire_key_value(page->view, key, version, page->keys_only, page->field,
                                     page->out, err);
        if (code != BP_OK) {
            return code;
        }
        page->count++;
        page->keys_left--;
        page->bytes_left -= size < page->bytes_left ? size : page->bytes_left;
    }
    return bp_wire_finish_reply(page->out, err);
}

/* One bounded step over [start, end). */
static int run_step(struct bp_wire_page *page, struct bp_slice start, struct bp_slice end,
                    uint64_t revision, struct bp_error *err) {
    struct bp_wire_step *step = page->step;
    step->n = step->key_bytes = 0;
    step->value_bytes = 0;
    step->full = false;
    /* One key more than wanted tells whether there are more. */
    step->keys_max = page->keys_left < STEP_KEYS ? (uint32_t)page->keys_left + 1 : STEP_KEYS;
    uint32_t token = bp_epoch_enter(page->view->epoch);
    (void)bp_index_scan(page->view->index, start, end, revision, page->reverse, gather, step);
    int code = write_step(page, err);
    bp_epoch_leave(page->view->epoch, token);
    return code;
}

int bp_wire_page_range(struct bp_wire_page *page, struct bp_slice start, struct bp_slice end,
                       uint64_t revision, struct bp_error *err) {
    if (page->step == NULL) {
        page->step = malloc(sizeof *page->step);
        if (page->step == NULL) {
            return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                           "no memory for a scan");
        }
    }
    struct bp_wire_step *step = page->step;
    while (!page->more && bp_slice_compare(start, end) < 0) {
        int code = run_step(page, start, end, revision, err);
        if (code != BP_OK || !step->full || page->more) {
            return code;
        }
        /*
         * Every step takes at least one key, so this ends: go on behind the last one (before it,
         * when descending).
         */
        struct bp_slice last = step_key(step, step->n - 1);
        memcpy(step->cursor, last.data, last.size);
        step->cursor[last.size] = 0;
        if (page->reverse) {
            end = bp_slice(step->cursor, last.size);
        } else {
            start = bp_slice(step->cursor, last.size + 1);
        }
    }
    return BP_OK;
}

static int count_one(void *arg, struct bp_slice key, const struct bp_version *version) {
    (void)key;
    (void)version;
    ++*(uint64_t *)arg;
    return 0;
}

uint64_t bp_wire_count(const struct bp_view *view, struct bp_slice start, struct bp_slice end,
                       uint64_t revision) {
    uint64_t count = 0;
    if (bp_slice_compare(start, end) < 0) {
        (void)bp_index_scan(view->index, start, end, revision, false, count_one, &count);
    }
    return count;
}

/* ---- Get and Scan --------------------------------------------------------------------------- */

static int read_scan(const struct bp_wire_read *read, const struct bp_view *view, uint64_t revision,
                     const struct bp_wire_limits *limits, struct bp_buffer *reply,
                     struct bp_error *err) {
    bp_pb_uint(reply, 2, revision);
    if (read->count_only) {
        bp_pb_uint(reply, 4, bp_wire_count(view, read->start, read->end, revision));
        return BP_OK;
    }
    struct bp_wire_page page = {.view = view,
                                .out = reply,
                                .field = 3,
                                .keys_only = read->keys_only,
                                .reverse = read->reverse,
                                .at_least_one = true,
                                .keys_left = read->limit,
                                .bytes_left = bp_wire_budget(limits, SCAN_RESERVED)};
    int code = bp_wire_page_range(&page, read->start, read->end, revision, err);
    if (code == BP_OK) {
        bp_pb_uint(reply, 4, page.count);
        if (page.more) {
            struct bp_token token = {
                .revision = revision, .binding = read->binding, .key = page.next};
            bp_token_append(reply, 5, &token);
        }
    }
    bp_wire_page_free(&page);
    return code;
}

int bp_wire_read(const struct bp_wire_read *read, const struct bp_view *view,
                 const struct bp_wire_limits *limits, struct bp_buffer *reply,
                 struct bp_error *err) {
    assert(read->method == BP_METHOD_GET || read->method == BP_METHOD_SCAN);
    size_t before = reply->size;
    uint64_t revision = read->revision != 0 ? read->revision : view->revision;
    if (revision > view->revision) {
        return bp_fail_field(err, BP_OUT_OF_RANGE, BP_REASON_REVISION_IN_FUTURE, "revision",
                             "revision %llu is above the present one, %llu",
                             (unsigned long long)revision, (unsigned long long)view->revision);
    }
    int code = bp_wire_check_retained(view, revision, err);
    if (code != BP_OK) {
        return code;
    }
    bp_pb_uint(reply, 1, view->revision);
    if (read->method == BP_METHOD_GET) {
        code = bp_wire_key(view, read->start, revision, read->keys_only, 2, reply, NULL, NULL, err);
    } else {
        code = read_scan(read, view, revision, limits, reply, err);
    }
    if (code == BP_OK) {
        code = bp_wire_finish_reply(reply, err);
    }
    if (code != BP_OK) {
        reply->size = before; /* nothing half made stays behind */
    }
    return code;
}

/*
 * Watch: its request, and the pieces its responses are made of.
 *
 *   WatchResponse { [event]... revision, fragment | created | progress | canceled }
 *                    ^ bp_wire_watch_event, one a call   ^ bp_wire_watch_note, once
 */
#include <stdlib.h>

#include "wire_fields.h"
#include "wire_read.h"

enum { PROGRESS_MS_MIN = 100, PROGRESS_MS_MAX = 3600000 };

static const struct bp_wire_path no_path = {0};

static void parse_watch_field(const struct bp_pb_field *f, struct bp_wire_range *range,
                              struct bp_wire_watch *watch) {
    if (f->type == BP_PB_LEN) {
        switch (f->number) {
        case 1:
            range->start = f->bytes;
            break;
        case 2:
            range->end = f->bytes;
            break;
        case 3:
            range->prefix = f->bytes;
            break;
        default:
            break;
        }
    } else if (f->type == BP_PB_VARINT) {
        switch (f->number) {
        case 4:
            watch->start_revision = f->value;
            break;
        case 5:
            watch->progress_ms = (uint32_t)f->value;
            break;
        case 6:
            watch->with_values = f->value != 0;
            break;
        case 7:
            watch->with_previous = f->value != 0;
            break;
        case 8:
            watch->no_puts = f->value != 0;
            break;
        case 9:
            watch->no_deletes = f->value != 0;
            break;
        default:
            break;
        }
    }
}

static int check_watch(const struct bp_wire_watch *watch, struct bp_error *err) {
    uint32_t ms = watch->progress_ms;
    if (ms != 0 && (ms < PROGRESS_MS_MIN || ms > PROGRESS_MS_MAX)) {
        return bp_wire_fail(err, &no_path, "progress_interval_ms", BP_REASON_FIELD_INVALID,
                            "progress_interval_ms is %u, it must be 0 or %d to %d", ms,
                            PROGRESS_MS_MIN, PROGRESS_MS_MAX);
    }
    if (watch->no_puts && watch->no_deletes) {
        return bp_wire_fail(err, &no_path, "skip_deletes", BP_REASON_FIELD_INVALID,
                            "skip_puts and skip_deletes cannot both be set");
    }
    return BP_OK;
}

int bp_wire_decode_watch(uint8_t keyspace, const uint8_t *buf, uint64_t n,
                         const struct bp_wire_limits *limits, struct bp_wire_watch *watch,
                         struct bp_error *err) {
    *watch = (struct bp_wire_watch){0};
    if (n > limits->request_max) {
        return bp_wire_fail(err, &no_path, NULL, BP_REASON_REQUEST_TOO_LARGE,
                            "the request has %llu bytes, the most is %u", (unsigned long long)n,
                            limits->request_max);
    }
    struct bp_wire_range range = {0};
    struct bp_wire_bounds bounds;
    struct bp_pb_reader r = bp_pb_read(bp_slice(buf, (size_t)n));
    struct bp_pb_field f;
    while (bp_pb_next(&r, &f)) {
        parse_watch_field(&f, &range, watch);
    }
    int code = r.malformed ? bp_wire_malformed(err, &no_path)
                           : bp_wire_check_range(&range, limits, &no_path, &bounds, err);
    if (code == BP_OK) {
        code = check_watch(watch, err);
    }
    return code != BP_OK ? code
                         : bp_wire_store_range(keyspace, bounds.start, bounds.end, &watch->keys,
                                               &watch->start, &watch->end, err);
}

void bp_wire_watch_free(struct bp_wire_watch *watch) {
    free(watch->keys);
    *watch = (struct bp_wire_watch){0};
}

int bp_wire_watch_event(struct bp_buffer *reply, const struct bp_wire_watch *watch,
                        struct bp_slice key, const struct bp_version *version,
                        const struct bp_version *previous, const struct bp_view *view,
                        struct bp_error *err) {
    enum { PUT = 1, DELETE = 2 };
    bool is_delete = (version->flags & BP_VERSION_TOMBSTONE) != 0;
    if (is_delete ? watch->no_deletes : watch->no_puts) {
        return BP_OK;
    }
    size_t before = reply->size, event = bp_pb_open(reply, 2);
    bp_pb_uint(reply, 1, is_delete ? DELETE : PUT);
    struct bp_version shown = *version;
    if (is_delete) { /* the rest of a delete's KeyValue is zero */
        shown = (struct bp_version){.revision = version->revision};
    }
    int code =
        bp_wire_key_value(view, key, &shown, is_delete || !watch->with_values, 2, reply, err);
    if (code == BP_OK && watch->with_previous && previous != NULL && previous->version != 0) {
        code = bp_wire_key_value(view, key, previous, false, 3, reply, err);
    }
    bp_pb_close(reply, event);
    if (code == BP_OK) {
        code = bp_wire_finish_reply(reply, err);
    }
    if (code != BP_OK) {
        reply->size = before;
    }
    return code;
}

void bp_wire_watch_note(struct bp_buffer *reply, int note, uint64_t revision,
                        uint64_t resume_revision, const struct bp_error *error) {
    bp_pb_uint(reply, 1, revision);
    bp_pb_uint(reply, 3, note == BP_WATCH_FRAGMENT);
    bp_pb_uint(reply, 4, note == BP_WATCH_CREATED);
    bp_pb_uint(reply, 5, note == BP_WATCH_PROGRESS);
    if (note == BP_WATCH_CANCELED) {
        size_t canceled = bp_pb_open(reply, 6);
        bp_pb_text(reply, 1, bp_reason_name(error->reason));
        bp_pb_text(reply, 2, error->message);
        bp_pb_uint(reply, 3, resume_revision);
        bp_pb_close(reply, canceled);
    }
}

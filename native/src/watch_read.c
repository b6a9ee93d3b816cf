/*
 * What a watch is told next: history, filtered, from where it stands to the present.
 *
 *   history   r5: a b | r6: c | r7: a d e f ...          in range: a, d, e, f
 *   piece     [ a@5  a@7  d@7  e@7 ]
 *       copied under the index's history lock, at most `capacity` effects
 *   response  { a@5 } revision 6
 *       whole revisions; what no longer fits is read again for the next one
 *             { a@7 d@7 } revision 7 fragment, { e@7 f@7 } revision 7
 *                 only where one revision alone is too large
 *
 * A piece is gathered and its values read inside one read section, so the cleaner cannot take the
 * segments away in between. `at` moves only with a response, or over effects that are not of this
 * watch, so every event goes out exactly once.
 *
 * Invariants: a fragment is sent only when an event that follows it within the same revision has
 * been seen; a response other than created, progress and canceled has events.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "watch_internal.h"

enum {
    PIECE_EFFECTS =
        /* and more, the deeper into one revision we are: finding the place again costs its skip */
    256,
    PIECE_EFFECTS_MAX = 65536,
    EFFECTS_MAX =
        16384, /* scanned in one call without anything to send; then others get their turn */
    EVENT_OVERHEAD = 96, /* of one event's encoding beside its keys and values, at most */
};

struct effect {
    struct bp_version version, previous;
    uint64_t ordinal; /* within its revision */
    size_t key_at;
    uint32_t key_size;
};

struct piece {
    const struct bp_wire_watch *request;
    struct bp_watch_at at; /* behind the last effect visited */
    uint64_t skip;         /* effects of at.revision still to pass over */
    uint64_t visited;
    uint32_t n, capacity;
    size_t key_bytes, key_capacity;
    bool full;
    struct effect *effects;
    uint8_t *keys;
};

/* A response being made. */
struct draft {
    struct bp_watch *watch;
    struct bp_view view;
    struct bp_buffer reply;
    uint64_t revision;         /* of the events being added */
    size_t whole_size;         /* reply up to the last whole revision.. */
    uint64_t seen, whole_seen; /* ..and the live effects read for it */
    uint64_t scanned;
    struct bp_watch_at at; /* behind what is in the reply or needs no event */
    bool full, failed;
    struct bp_error error;
};

/* ---- gathering ------------------------------------------------------------------------------ */

static bool in_range(const struct bp_wire_watch *request, struct bp_slice key) {
    return bp_slice_compare(request->start, key) <= 0 && bp_slice_compare(key, request->end) < 0;
}

/* Under the history lock: copies and nothing else. */
static int gather(void *arg, uint64_t revision, struct bp_slice key,
                  const struct bp_version *version, const struct bp_version *previous) {
    struct piece *piece = arg;
    if (revision != piece->at.revision) {
        piece->at = (struct bp_watch_at){.revision = revision};
        piece->skip = 0;
    }
    if (piece->skip > 0) {
        piece->skip--;
        return 0;
    }
    if (in_range(piece->request, key)) {
        if (piece->n == piece->capacity || key.size > piece->key_capacity - piece->key_bytes) {
            piece->full = true;
            return 1;
        }
        struct effect *effect = &piece->effects[piece->n++];
        *effect = (struct effect){.version = *version,
                                  .ordinal = piece->at.skip,
                                  .key_at = piece->key_bytes,
                                  .key_size = (uint32_t)key.size};
        if (previous != NULL) {
            effect->previous = *previous;
        }
        memcpy(piece->keys + piece->key_bytes, key.data, key.size);
        piece->key_bytes += key.size;
    }
    piece->at.skip++;
    piece->visited++;
    return 0;
}

static bool piece_init(struct piece *piece, const struct bp_wire_watch *request, uint64_t skip) {
    uint64_t capacity = skip < PIECE_EFFECTS       ? PIECE_EFFECTS
                        : skip > PIECE_EFFECTS_MAX ? PIECE_EFFECTS_MAX
                                                   : skip;
    *piece = (struct piece){.request = request, .capacity = (uint32_t)capacity};
    piece->key_capacity = capacity * 256 + BP_STORED_KEY_MAX;
    piece->effects = malloc(capacity * sizeof *piece->effects);
    piece->keys = malloc(piece->key_capacity);
    return piece->effects != NULL && piece->keys != NULL;
}

static void piece_free(struct piece *piece) {
    free(piece->effects);
    free(piece->keys);
}

/* Fill the piece from `at`. False when history no longer reaches back that far. */
static bool piece_fill(struct piece *piece, const struct bp_view *view, struct bp_watch_at at) {
    piece->at = at;
    piece->skip = at.skip;
    piece->visited = 0;
    piece->n = 0;
    piece->key_bytes = 0;
    piece->full = false;
    uint64_t next = 0;
    /*
     * Skipped effects count too; one more than fits, so that the end of a revision is seen when it
     * is there.
     */
    uint32_t max =
        (uint32_t)(at.skip < UINT32_MAX / 2 ? at.skip : UINT32_MAX / 2) + piece->capacity + 1;
    int rc = bp_history_scan(view->index, at.revision, view->revision, max, &next, gather, piece);
    if (rc == BP_OUT_OF_RANGE) {
        return false;
    }
    if (!piece->full && next != piece->at.revision) {
        piece->at = (struct bp_watch_at){.revision = next};
    }
    return true;
}

/* ---- drafting ------------------------------------------------------------------------------- */

static uint64_t event_size_max(const struct bp_wire_watch *request, const struct effect *effect) {
    uint64_t size = EVENT_OVERHEAD + effect->key_size;
    if (request->with_values) {
        size += effect->version.value.size;
    }
    if (request->with_previous && effect->previous.version != 0) {
        size += (uint64_t)EVENT_OVERHEAD + effect->key_size + effect->previous.value.size;
    }
    return size;
}

/* A revision begins: all before it is whole. */
static void begin_revision(struct draft *draft, uint64_t revision) {
    if (revision != draft->revision) {
        draft->revision = revision;
        draft->whole_size = draft->reply.size;
        draft->whole_seen = draft->seen;
    }
}

/* Back to the last whole revision, if there is one with events. */
static bool back_to_whole(struct draft *draft) {
    if (draft->whole_size == 0) {
        return false;
    }
    draft->reply.size = draft->whole_size;
    draft->seen = draft->whole_seen;
    draft->at = (struct bp_watch_at){.revision = draft->revision};
    return true;
}

/* False: the draft is to be sent (full), or ended (failed), before this effect. */
static bool add_effect(struct draft *draft, const struct piece *piece,
                       const struct effect *effect) {
    const struct bp_wire_watch *request = piece->request;
    uint64_t revision = effect->version.revision;
    begin_revision(draft, revision);
    bool is_delete = (effect->version.flags & BP_VERSION_TOMBSTONE) != 0;
    if (!(is_delete ? request->no_deletes : request->no_puts)) {
        uint64_t limit = draft->watch->hub->store->limits.reply_bytes_max;
        draft->full =
            draft->reply.size > 0 && draft->reply.size + event_size_max(request, effect) > limit;
        size_t before = draft->reply.size;
        if (!draft->full &&
            bp_wire_watch_event(
                &draft->reply, request, bp_slice(piece->keys + effect->key_at, effect->key_size),
                &effect->version, &effect->previous, &draft->view, &draft->error) != BP_OK) {
            draft->reply.size = before;
            draft->failed = true;
        }
        if (draft->full || draft->failed) {
            draft->at = (struct bp_watch_at){.revision = revision, .skip = effect->ordinal};
            return false;
        }
    }
    draft->seen += revision > draft->watch->opened_at;
    return true;
}

/* One piece into the draft. False when history was compacted away. */
static bool draft_piece(struct draft *draft, struct piece *piece) {
    struct bp_epoch *epoch = draft->view.epoch;
    uint32_t token = bp_epoch_enter(epoch);
    bool reachable = piece_fill(piece, &draft->view, draft->at);
    bool taken = true;
    for (uint32_t i = 0; i < piece->n && taken; i++) {
        taken = add_effect(draft, piece, &piece->effects[i]);
    }
    if (reachable && taken) {
        draft->at = piece->at;
    }
    draft->scanned += piece->visited;
    bp_epoch_leave(epoch, token);
    return reachable;
}

/*
 * In the middle of a revision some of whose events are drafted: go on, whatever it costs, or a
 * fragment could be the end of it.
 */
static bool inside_revision(const struct draft *draft) {
    return draft->at.revision == draft->revision && draft->reply.size > draft->whole_size;
}

/*
 * Read until the response is full, the present is reached or enough was scanned. False: the history
 * from `at` on is gone.
 */
static bool draft_events(struct draft *draft) {
    bool reachable = true;
    while (reachable && !draft->full && !draft->failed &&
           draft->at.revision <= draft->view.revision &&
           (draft->scanned < EFFECTS_MAX || inside_revision(draft))) {
        struct piece piece;
        if (piece_init(&piece, &draft->watch->request, draft->at.skip)) {
            reachable = draft_piece(draft, &piece);
        } else {
            draft->reply.failed = draft->failed = true;
        }
        piece_free(&piece);
    }
    return reachable;
}

/* ---- responses ------------------------------------------------------------------------------ */

static int give(struct bp_watch *watch, struct bp_buffer *reply, int result, struct bp_reply *out) {
    if (reply->failed) { /* not even the reason can be told */
        bp_buffer_free(reply);
        watch->ended = true;
        return 2;
    }
    out->data = reply->data;
    out->size = reply->size;
    return result;
}

static int give_note(struct bp_watch *watch, int note, uint64_t revision, struct bp_reply *out) {
    struct bp_buffer reply = {0};
    bp_wire_watch_note(&reply, note, revision, 0, NULL);
    return give(watch, &reply, 1, out);
}

static int give_end(struct bp_watch *watch, const struct bp_error *error, uint64_t resume,
                    struct bp_reply *out) {
    struct bp_buffer reply = {0};
    watch->ended = true;
    bp_wire_watch_note(&reply, BP_WATCH_CANCELED, resume - 1, resume, error);
    return give(watch, &reply, 2, out);
}

static int give_compacted(struct bp_watch *watch, struct bp_reply *out) {
    const struct bp_store *store = watch->hub->store;
    uint64_t floor = atomic_load_explicit(&store->floor, memory_order_acquire);
    struct bp_error error = {0};
    bp_fail(&error, BP_OUT_OF_RANGE, BP_REASON_REVISION_COMPACTED,
            "history from revision %llu on is compacted; it begins at %llu",
            (unsigned long long)watch->at.revision, (unsigned long long)floor + 1);
    return give_end(watch, &error, floor + 1, out);
}

/* Events of whole revisions, or a fragment of one. */
static int give_events(struct bp_watch *watch, struct draft *draft, struct bp_reply *out) {
    bool fragment = draft->at.skip > 0 && inside_revision(draft);
    uint64_t revision = fragment ? draft->at.revision : draft->at.revision - 1;
    bp_wire_watch_note(&draft->reply, fragment ? BP_WATCH_FRAGMENT : BP_WATCH_EVENTS, revision, 0,
                       NULL);
    return give(watch, &draft->reply, 1, out);
}

/* ---- taking turns with the applier ---------------------------------------------------------- */

enum step {
    STEP_CREATED,
    STEP_CLOSED,
    STEP_TOO_SLOW,
    STEP_COMPACTED,
    STEP_PROGRESS,
    STEP_WAIT,
    STEP_READ
};

/* What is due, decided under the mutex; sets `at` to the first revision that may hold something. */
static enum step decide(struct bp_watch *watch, uint64_t present, uint64_t floor, uint64_t now_ns) {
    uint64_t first = watch->first_noted < present + 1 ? watch->first_noted : present + 1;
    if (first > watch->at.revision) {
        watch->at = (struct bp_watch_at){.revision = first};
    }
    if (!watch->created) {
        watch->created = true;
        return STEP_CREATED;
    }
    if (watch->hub->closed) {
        return STEP_CLOSED;
    }
    if (watch->too_slow) {
        return STEP_TOO_SLOW;
    }
    if (watch->at.revision <= floor) {
        return STEP_COMPACTED;
    }
    if (watch->at.revision <= present) {
        return STEP_READ;
    }
    uint64_t interval_ns = watch->request.progress_ms * UINT64_C(1000000);
    if (interval_ns != 0 && now_ns - watch->sent_ns >= interval_ns) {
        watch->sent_ns = now_ns;
        return STEP_PROGRESS;
    }
    watch->waiting = true;
    return STEP_WAIT;
}

/* All up to draft->at is read (and, with events, is being sent). */
static void commit(struct bp_watch *watch, const struct draft *draft, uint64_t now_ns) {
    struct bp_hub *hub = watch->hub;
    watch->at = draft->at;
    pthread_mutex_lock(&hub->mutex);
    uint64_t read_to = draft->at.revision - 1;
    if (watch->fresh_link == NULL && watch->last_noted <= read_to) {
        watch->first_noted = BP_WATCH_CLEAN;
        watch->seen = watch->noted;
    } else {
        if (watch->first_noted <= read_to) {
            watch->first_noted = read_to + 1;
        }
        /*
         * What was noted before the applier knew of this watch is seen without having been counted.
         */
        watch->seen =
            draft->seen < watch->noted - watch->seen ? watch->seen + draft->seen : watch->noted;
    }
    if (draft->reply.size > 0) {
        watch->sent_ns = now_ns;
    }
    pthread_mutex_unlock(&hub->mutex);
}

/*
 * Read and answer; -1 when there was nothing for this watch, 0 when others should have a turn
 * first.
 */
static int read_on(struct bp_watch *watch, uint64_t now_ns, struct bp_reply *out) {
    struct bp_store *store = watch->hub->store;
    struct draft draft = {.watch = watch, .at = watch->at, .revision = 0};
    bp_store_view(store, &draft.view);
    bool reachable = draft_events(&draft);
    bool stopped_short = draft.full || draft.failed || !reachable;
    if (stopped_short && inside_revision(&draft) && back_to_whole(&draft)) {
        draft.failed = false; /* what is whole goes out first; the rest is met again */
    } else if (!reachable && draft.reply.size == 0) {
        bp_buffer_free(&draft.reply);
        return give_compacted(watch, out);
    } else if (draft.failed && draft.reply.size == 0) {
        if (draft.reply.failed) {
            return give(watch, &draft.reply, 2, out);
        }
        bp_buffer_free(&draft.reply);
        return give_end(watch, &draft.error, draft.at.revision, out);
    }
    commit(watch, &draft, now_ns);
    if (draft.reply.size > 0 || draft.reply.failed) {
        return give_events(watch, &draft, out);
    }
    bp_buffer_free(&draft.reply);
    return draft.at.revision > draft.view.revision ? -1 : 0;
}

static int give_too_slow(struct bp_watch *watch, struct bp_reply *out) {
    struct bp_hub *hub = watch->hub;
    atomic_fetch_add_explicit(&hub->lag_cancels, 1, memory_order_relaxed);
    struct bp_error error = {0};
    bp_fail(&error, BP_RESOURCE_EXHAUSTED, BP_REASON_WATCH_TOO_SLOW,
            "the watch is more than %llu changes behind",
            (unsigned long long)hub->store->options.watch_lag_max);
    return give_end(watch, &error, watch->at.revision, out);
}

int bp_watch_next(struct bp_watch *watch, struct bp_reply *reply) {
    struct bp_hub *hub = watch->hub;
    const struct bp_store *store = hub->store;
    *reply = (struct bp_reply){0};
    if (watch->ended) {
        return 2;
    }
    struct bp_error closed = {.code = BP_UNAVAILABLE, .reason = BP_REASON_STORE_CLOSED};
    int result = -1;
    while (result < 0) { /* round again only after reading up to a present that has moved on */
        uint64_t now_ns = bp_disk_boot_ns(store->disk);
        pthread_mutex_lock(&hub->mutex);
        uint64_t floor = atomic_load_explicit(&store->floor, memory_order_acquire);
        uint64_t present = atomic_load_explicit(&store->revision, memory_order_acquire);
        enum step step = decide(watch, present, floor, now_ns);
        pthread_mutex_unlock(&hub->mutex);
        switch (step) {
        case STEP_CREATED:
            return give_note(watch, BP_WATCH_CREATED, watch->at.revision - 1, reply);
        case STEP_CLOSED:
            snprintf(closed.message, sizeof closed.message, "the store is shutting down");
            return give_end(watch, &closed, watch->at.revision, reply);
        case STEP_TOO_SLOW:
            return give_too_slow(watch, reply);
        case STEP_COMPACTED:
            return give_compacted(watch, reply);
        case STEP_PROGRESS:
            return give_note(watch, BP_WATCH_PROGRESS, present, reply);
        case STEP_WAIT:
            return 0;
        case STEP_READ:
            result = read_on(watch, now_ns, reply);
            break;
        }
    }
    if (result == 0) { /* more to scan: come back by way of the queue */
        bp_queue_push(watch->queue, watch->cookie, BP_OK, (struct bp_reply){0}, 0, NULL);
    }
    return result;
}

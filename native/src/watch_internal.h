/*
 * One watch, as the hub (watch.c) and its reader (watch_read.c) share it.
 *
 *   next_rev --------- first_noted ------------- published
 *     | nothing in range | may hold something      |  (noted, not yet visible)
 *
 * The hub's mutex guards what the applier and the reader both touch; the rest is the reader's
 * alone.
 */
#ifndef BP_WATCH_INTERNAL_H
#define BP_WATCH_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "interval.h"
#include "store.h"
#include "ticket.h"
#include "watch.h"
#include "wire.h"

#define BP_WATCH_CLEAN UINT64_MAX

/* Where reading goes on: `skip` effects of `revision` are behind us. */
struct bp_watch_at {
    uint64_t revision;
    uint64_t skip;
};

struct bp_watch {
    struct bp_interval interval; /* first: the hub finds the watch by it */
    struct bp_hub *hub;
    struct bp_queue *queue; /* retained */
    uint64_t cookie;
    struct bp_wire_watch request;

    /* hub.mutex */
    struct bp_watch *next, **link; /* of all watches */
    /* Of those noted since the last publication; link NULL: not among them. */
    struct bp_watch *fresh_next, **fresh_link;
    /* No effect in range before it is unread; CLEAN: none at all that was noted. */
    uint64_t first_noted;
    /* The publication that covers the newest note; not yet known while fresh. */
    uint64_t last_noted;
    uint64_t noted;   /* effects in range since the watch was opened.. */
    uint64_t seen;    /* ..and of these, read */
    uint64_t sent_ns; /* when the last response was made, for progress marks */
    bool waiting;     /* told 0: owes it one completion */
    bool too_slow;

    /* the reader's */
    struct bp_watch_at at;
    uint64_t opened_at; /* the revision published when it was opened */
    bool created, ended;
};

struct bp_hub {
    struct bp_store *store;
    pthread_mutex_t mutex;                   /* inside it only a queue's own */
    _Atomic uint64_t n_watches, lag_cancels; /* written under the mutex */
    struct bp_intervals intervals;
    struct bp_watch *watches, *fresh;
    bool closed;
};

#endif

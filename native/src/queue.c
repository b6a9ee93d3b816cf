/*
 * Completion queues: a ring of answers and an eventfd that says there are some.
 *
 *   promise --> [the engine] --pay--> ring --take--> the consumer
 *   |______________________________________________|
 *       counted in the store's backlog: at most options.queue_max completions, and beyond
 *       options.queue_bytes_max of replies no further request comes in and no reply is read
 *
 * A place in the ring is kept for every promise, so that an answer is never lost for want of
 * memory. What a watch pushes was not promised; it owes one completion at most.
 *
 * The eventfd is written when the ring goes from empty to not empty and read when a take empties
 * it, so a consumer that polls the descriptor and takes until it gets fewer than it asked for never
 * misses one and is woken once a burst.
 */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "store.h"
#include "ticket.h"

struct bp_queue {
    struct bp_backlog *backlog; /* held */
    pthread_mutex_t mutex;
    int fd;
    bool closed;
    uint32_t references;
    struct bp_completion *ring;
    uint32_t capacity, first, count;
    uint32_t promised; /* and not paid */
};

/* ---- the backlog ----------------------------------------------------------------------------- */

struct bp_backlog *bp_backlog_new(uint64_t completions_max, uint64_t bytes_max) {
    struct bp_backlog *backlog = calloc(1, sizeof *backlog);
    if (backlog != NULL) {
        atomic_store(&backlog->references, 1);
        backlog->completions_max = completions_max;
        backlog->bytes_max = bytes_max;
    }
    return backlog;
}

void bp_backlog_release(struct bp_backlog *backlog) {
    if (backlog != NULL && atomic_fetch_sub(&backlog->references, 1) == 1) {
        free(backlog);
    }
}

uint64_t bp_backlog_bytes(const struct bp_backlog *backlog) {
    return atomic_load_explicit(&backlog->bytes, memory_order_relaxed);
}

bool bp_backlog_has_room(const struct bp_backlog *backlog) {
    return bp_backlog_bytes(backlog) < backlog->bytes_max;
}

void bp_backlog_add_bytes(struct bp_backlog *backlog, uint64_t bytes) {
    if (bytes > 0) {
        atomic_fetch_add_explicit(&backlog->bytes, bytes, memory_order_relaxed);
    }
}

void bp_backlog_drop_bytes(struct bp_backlog *backlog, uint64_t bytes) {
    if (bytes > 0) {
        atomic_fetch_sub_explicit(&backlog->bytes, bytes, memory_order_relaxed);
    }
}

/* Taken, or never to come. */
static void drop(struct bp_backlog *backlog, uint64_t completions, uint64_t bytes) {
    atomic_fetch_sub_explicit(&backlog->completions, completions, memory_order_relaxed);
    bp_backlog_drop_bytes(backlog, bytes);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct bp_queue *bp_queue_new(struct bp_store *store) {
    struct bp_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL) {
        return NULL;
    }
    queue->capacity = 256;
    queue->ring = calloc(queue->capacity, sizeof *queue->ring);
    queue->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (queue->ring == NULL || queue->fd < 0) {
        if (queue->fd >= 0) {
            close(queue->fd);
        }
        free(queue->ring);
        free(queue);
        return NULL;
    }
    queue->backlog = store->backlog;
    atomic_fetch_add(&queue->backlog->references, 1);
    queue->references = 1;
    pthread_mutex_init(&queue->mutex, NULL);
    return queue;
}

int bp_queue_fd(const struct bp_queue *queue) { return queue->fd; }

void bp_completion_free(struct bp_completion *completion) {
    bp_reply_free(&completion->reply);
    free(completion->error);
    completion->error = NULL;
}

void bp_queue_retain(struct bp_queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    queue->references++;
    pthread_mutex_unlock(&queue->mutex);
}

/* The mutex is held, or nobody else knows the queue any more. */
static void drop_waiting(struct bp_queue *queue) {
    for (; queue->count > 0; queue->count--) {
        struct bp_completion *completion = &queue->ring[queue->first];
        drop(queue->backlog, 1, completion->reply.size);
        bp_completion_free(completion);
        queue->first = (queue->first + 1) % queue->capacity;
    }
}

static void destroy(struct bp_queue *queue) {
    drop_waiting(queue);
    bp_backlog_release(queue->backlog);
    close(queue->fd);
    pthread_mutex_destroy(&queue->mutex);
    free(queue->ring);
    free(queue);
}

void bp_queue_release(struct bp_queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    bool last = --queue->references == 0;
    pthread_mutex_unlock(&queue->mutex);
    if (last) {
        destroy(queue);
    }
}

void bp_queue_free(struct bp_queue *queue) {
    if (queue == NULL) {
        return;
    }
    pthread_mutex_lock(&queue->mutex);
    queue->closed = true;
    drop_waiting(queue);
    pthread_mutex_unlock(&queue->mutex);
    bp_queue_release(queue);
}

/* ---- promised and paid ----------------------------------------------------------------------- */

static bool grow(struct bp_queue *queue) {
    struct bp_completion *ring = calloc(queue->capacity * 2u, sizeof *ring);
    if (ring == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < queue->count; i++) {
        ring[i] = queue->ring[(queue->first + i) % queue->capacity];
    }
    free(queue->ring);
    queue->ring = ring;
    queue->first = 0;
    queue->capacity *= 2;
    return true;
}

static bool has_place(struct bp_queue *queue) {
    return queue->count + queue->promised < queue->capacity || grow(queue);
}

int bp_queue_promise(struct bp_queue *queue, struct bp_error *err) {
    struct bp_backlog *backlog = queue->backlog;
    uint64_t before = atomic_fetch_add(&backlog->completions, 1);
    if (before >= backlog->completions_max) {
        drop(backlog, 1, 0);
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_QUEUE_FULL,
                       "%llu requests are open or their answers wait to be taken",
                       (unsigned long long)before);
    }
    pthread_mutex_lock(&queue->mutex);
    bool placed = has_place(queue);
    queue->promised += placed;
    queue->references += placed;
    pthread_mutex_unlock(&queue->mutex);
    if (placed) {
        return BP_OK;
    }
    drop(backlog, 1, 0);
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "no memory for a completion");
}

void bp_queue_forgive(struct bp_queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    assert(queue->promised > 0);
    queue->promised--;
    pthread_mutex_unlock(&queue->mutex);
    drop(queue->backlog, 1, 0);
    bp_queue_release(queue);
}

/* There is a place. The mutex is held. */
static void put(struct bp_queue *queue, const struct bp_completion *completion) {
    assert(queue->count < queue->capacity);
    queue->ring[(queue->first + queue->count) % queue->capacity] = *completion;
    if (queue->count++ == 0) {
        uint64_t one = 1;
        ssize_t written = write(queue->fd, &one, sizeof one);
        (void)written; /* EAGAIN only when already readable */
    }
}

void bp_queue_pay(struct bp_queue *queue, uint64_t cookie, int code, struct bp_reply reply,
                  uint32_t aux, struct bp_error *error) {
    struct bp_completion completion = {
        .cookie = cookie, .code = code, .aux = aux, .reply = reply, .error = error};
    pthread_mutex_lock(&queue->mutex);
    bool kept = !queue->closed, last = --queue->references == 0;
    assert(queue->promised > 0);
    queue->promised--;
    if (kept) {
        bp_backlog_add_bytes(queue->backlog, reply.size);
        put(queue, &completion);
    } else {
        drop(queue->backlog, 1, 0);
    }
    pthread_mutex_unlock(
        &queue->mutex); /* the queue may be gone from here on, unless we are last */
    if (!kept) {
        bp_completion_free(&completion);
    }
    if (last) {
        destroy(queue);
    }
}

void bp_queue_push(struct bp_queue *queue, uint64_t cookie, int code, struct bp_reply reply,
                   uint32_t aux, struct bp_error *error) {
    struct bp_completion completion = {
        .cookie = cookie, .code = code, .aux = aux, .reply = reply, .error = error};
    pthread_mutex_lock(&queue->mutex);
    bool kept = !queue->closed && has_place(queue);
    if (kept) {
        atomic_fetch_add_explicit(&queue->backlog->completions, 1, memory_order_relaxed);
        bp_backlog_add_bytes(queue->backlog, reply.size);
        put(queue, &completion);
    }
    pthread_mutex_unlock(&queue->mutex);
    if (!kept) {
        bp_completion_free(&completion);
    }
}

uint32_t bp_queue_take(struct bp_queue *queue, struct bp_completion *out, uint32_t max) {
    pthread_mutex_lock(&queue->mutex);
    uint32_t n = queue->count < max ? queue->count : max;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        out[i] = queue->ring[(queue->first + i) % queue->capacity];
        bytes += out[i].reply.size;
    }
    drop(queue->backlog, n, bytes);
    queue->first = (queue->first + n) % queue->capacity;
    queue->count -= n;
    if (queue->count == 0) {
        uint64_t drained;
        ssize_t got = read(queue->fd, &drained, sizeof drained);
        (void)got; /* EAGAIN: nothing was signalled */
    }
    pthread_mutex_unlock(&queue->mutex);
    return n;
}

void bp_reply_free(struct bp_reply *reply) {
    free(reply->data);
    reply->data = NULL;
    reply->size = 0;
}

/*
 * Completion queues: a ring of answers and an eventfd that says there are some.
 *
 * The eventfd is written when the ring goes from empty to not empty and read when a take empties
 * it, so a consumer that polls the descriptor and takes until it gets fewer than it asked for never
 * misses one and is woken once a burst.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <pthread.h>

#include "ticket.h"

struct bp_queue {
    pthread_mutex_t mutex;
    int fd;
    bool closed;
    uint32_t references;
    struct bp_completion *ring;
    uint32_t capacity, first, count;
};

struct bp_queue *bp_queue_new(struct bp_store *store) {
    (void)store;
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

void bp_queue_release(struct bp_queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    bool last = --queue->references == 0;
    pthread_mutex_unlock(&queue->mutex);
    if (!last) {
        return;
    }
    for (uint32_t i = 0; i < queue->count; i++) {
        bp_completion_free(&queue->ring[(queue->first + i) % queue->capacity]);
    }
    close(queue->fd);
    pthread_mutex_destroy(&queue->mutex);
    free(queue->ring);
    free(queue);
}

void bp_queue_free(struct bp_queue *queue) {
    if (queue == NULL) {
        return;
    }
    pthread_mutex_lock(&queue->mutex);
    queue->closed = true;
    pthread_mutex_unlock(&queue->mutex);
    bp_queue_release(queue);
}

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

void bp_queue_push(struct bp_queue *queue, uint64_t cookie, int code, struct bp_reply reply,
                   uint32_t aux, struct bp_error *error) {
    struct bp_completion completion = {
        .cookie = cookie, .code = code, .aux = aux, .reply = reply, .error = error};
    pthread_mutex_lock(&queue->mutex);
    /*
     * A full ring that cannot grow loses the answer, as a dropped connection would: the caller's
     * deadline ends its wait.
     */
    bool kept = !queue->closed && (queue->count < queue->capacity || grow(queue));
    bool was_empty = queue->count == 0;
    if (kept) {
        queue->ring[(queue->first + queue->count) % queue->capacity] = completion;
        queue->count++;
    }
    if (kept && was_empty) {
        uint64_t one = 1;
        ssize_t written = write(queue->fd, &one, sizeof one);
        (void)written; /* EAGAIN only when already readable */
    }
    pthread_mutex_unlock(&queue->mutex);
    if (!kept) {
        bp_completion_free(&completion);
    }
}

uint32_t bp_queue_take(struct bp_queue *queue, struct bp_completion *out, uint32_t max) {
    pthread_mutex_lock(&queue->mutex);
    uint32_t n = queue->count < max ? queue->count : max;
    for (uint32_t i = 0; i < n; i++) {
        out[i] = queue->ring[(queue->first + i) % queue->capacity];
    }
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

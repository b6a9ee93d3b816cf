/*
 * The requests of bedplate.h: each becomes a ticket with a destination and goes to the driver or to
 * a reader.
 */
#include <stdlib.h>
#include <string.h>

#include "raft.h"
#include "store.h"
#include "ticket.h"

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory for a request");
}

/* Decodes the encoded request the ticket owns or borrows and prepares it for the driver. */
static int prepare_write(struct bp_ticket *ticket, const uint8_t *bytes, uint64_t size,
                         struct bp_error *err) {
    int code = bp_request_decode(bytes, size, &ticket->request, err);
    if (code == BP_OK && ticket->request.size != size) {
        code = bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_MALFORMED_REQUEST,
                       "bytes behind the request");
    }
    if (code == BP_OK && ticket->method == 0) {
        /* the wire's decoder has done it already */
        code = bp_request_check_keys(&ticket->request, err);
    }
    if (code == BP_OK) {
        bp_ticket_classify(ticket);
    }
    return code;
}

static int prepare_wire(struct bp_store *store, struct bp_ticket *ticket, int method,
                        uint8_t keyspace, const void *bytes, uint64_t size, struct bp_error *err) {
    ticket->method = method;
    int code = bp_wire_decode(method, keyspace, bytes, size, bp_store_limits(store, keyspace),
                              &ticket->call, err);
    if (code != BP_OK) {
        return code;
    }
    ticket->kind = ticket->call.is_write ? BP_TICKET_WRITE : BP_TICKET_READ;
    return ticket->call.is_write
               ? prepare_write(ticket, ticket->call.request.buf, ticket->call.request.size, err)
               : BP_OK;
}

/* Through the door: writes to the queue, reads to the readers, in a cluster to a gate first. */
static int enter(struct bp_store *store, struct bp_ticket *ticket, struct bp_error *err) {
    if (ticket->kind == BP_TICKET_WRITE) {
        return bp_driver_submit(store, ticket, err);
    }
    int code = bp_driver_admit(store, ticket, err);
    if (code == BP_OK && bp_raft_gated(store, ticket)) {
        bp_raft_read(store, ticket, false);
    } else if (code == BP_OK) {
        bp_readers_push(store, ticket);
    }
    return code;
}

/* Sends a prepared ticket off; takes it whatever happens. */
static int send(struct bp_store *store, struct bp_queue *queue, uint64_t cookie,
                struct bp_ticket *ticket, int code, struct bp_error *err) {
    code = code != BP_OK ? code : bp_queue_promise(queue, err);
    if (code == BP_OK) {
        ticket->queue = queue;
        ticket->cookie = cookie;
        code = enter(store, ticket, err);
        if (code == BP_OK) {
            return BP_OK;
        }
        bp_queue_forgive(queue);
    }
    bp_ticket_clear(ticket);
    free(ticket);
    return code;
}

int bp_submit_wire(struct bp_store *store, struct bp_queue *queue, int method, uint8_t keyspace,
                   const void *request, uint64_t size, uint64_t cookie, struct bp_error *err) {
    struct bp_ticket *ticket = bp_ticket_new(BP_TICKET_READ);
    if (ticket == NULL) {
        return no_memory(err);
    }
    int code = prepare_wire(store, ticket, method, keyspace, request, size, err);
    return send(store, queue, cookie, ticket, code, err);
}

int bp_submit(struct bp_store *store, struct bp_queue *queue, const void *request, uint64_t size,
              uint64_t cookie, struct bp_error *err) {
    if (size > BP_REQUEST_MAX) {
        return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_REQUEST_TOO_LARGE,
                       "a request has at most %u bytes", BP_REQUEST_MAX);
    }
    struct bp_ticket *ticket = bp_ticket_new(BP_TICKET_WRITE);
    uint8_t *copy = malloc(size + 1u);
    if (ticket == NULL || copy == NULL) {
        free(ticket);
        free(copy);
        return no_memory(err);
    }
    memcpy(copy, request, size);
    ticket->call.is_write = true;
    ticket->call.request.buf = copy;
    ticket->call.request.size = (uint32_t)size;
    int code = prepare_write(ticket, copy, size, err);
    return send(store, queue, cookie, ticket, code, err);
}

int bp_submit_compact(struct bp_store *store, struct bp_queue *queue, uint64_t revision,
                      uint64_t cookie, struct bp_error *err) {
    struct bp_builder builder;
    bp_builder_init(&builder);
    bp_builder_begin(&builder, BP_REQUEST_COMPACT, (struct bp_slice){0}, 0);
    bp_builder_u64(&builder, revision);
    int code = bp_builder_finish(&builder, err);
    if (code == BP_OK) {
        code = bp_submit(store, queue, builder.buf, builder.size, cookie, err);
    }
    bp_builder_free(&builder);
    return code;
}

int bp_submit_value(struct bp_store *store, struct bp_queue *queue, uint8_t keyspace,
                    const void *key, uint32_t key_size, uint64_t revision, uint32_t offset,
                    uint32_t length, const void *prefix, uint32_t prefix_size, uint64_t cookie,
                    struct bp_error *err) {
    if (key_size == 0 || key_size > BP_KEY_MAX) {
        return bp_fail_field(err, BP_INVALID_ARGUMENT,
                             key_size == 0 ? BP_REASON_KEY_EMPTY : BP_REASON_KEY_TOO_LARGE, "key",
                             "a key has 1 to %u bytes", BP_KEY_MAX);
    }
    struct bp_ticket *ticket = bp_ticket_new(BP_TICKET_VALUE);
    uint8_t *owned = malloc((size_t)prefix_size + key_size + 1u);
    if (ticket == NULL || owned == NULL) {
        free(ticket);
        free(owned);
        return no_memory(err);
    }
    if (prefix_size > 0) {
        memcpy(owned, prefix, prefix_size);
    }
    owned[prefix_size] = keyspace;
    memcpy(owned + prefix_size + 1, key, key_size);
    ticket->value =
        (struct bp_value_want){.key = {.data = owned + prefix_size, .size = key_size + 1u},
                               .revision = revision,
                               .offset = offset,
                               .length = length,
                               .prefix = owned,
                               .prefix_size = prefix_size};
    return send(store, queue, cookie, ticket, BP_OK, err);
}

/* ---- blocking forms -------------------------------------------------------------------------- */

int bp_call_wire(struct bp_store *store, int method, uint8_t keyspace, const void *request,
                 uint64_t size, struct bp_reply *reply, struct bp_error *err) {
    struct bp_ticket ticket = {.kind = BP_TICKET_READ};
    *reply = (struct bp_reply){0};
    int code = prepare_wire(store, &ticket, method, keyspace, request, size, err);
    if (code == BP_OK && ticket.kind == BP_TICKET_WRITE) {
        code = bp_driver_execute(store, &ticket, err);
    } else if (code == BP_OK && bp_raft_gated(store, &ticket)) {
        code = bp_driver_wait_read(store, &ticket, err);
    } else if (code == BP_OK) {
        bp_read_answer(store, &ticket);
        code = ticket.code;
        if (code != BP_OK && ticket.error != NULL && err != NULL) {
            *err = *ticket.error;
        }
    }
    if (code == BP_OK) {
        *reply = (struct bp_reply){.data = ticket.reply.data, .size = ticket.reply.size};
        memset(&ticket.reply, 0, sizeof ticket.reply);
    }
    bp_ticket_clear(&ticket);
    return code;
}

int bp_execute(struct bp_store *store, const void *request, uint64_t size, uint64_t *revision,
               uint64_t *deleted, int *succeeded, struct bp_error *err) {
    struct bp_ticket ticket = {.kind = BP_TICKET_WRITE};
    int code = prepare_write(&ticket, request, size, err);
    if (code == BP_OK && ticket.request.kind == BP_REQUEST_LEASE_GRANT &&
        ticket.request.lease == 0) {
        code = bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID,
                       "a borrowed lease grant names its id");
    }
    if (code == BP_OK) {
        code = bp_driver_execute(store, &ticket, err);
    }
    if (code == BP_OK) {
        if (revision != NULL) {
            *revision = ticket.outcome.revision;
        }
        if (deleted != NULL) {
            *deleted = ticket.outcome.deleted;
        }
        if (succeeded != NULL) {
            *succeeded = ticket.outcome.succeeded;
        }
    }
    bp_ticket_clear(&ticket);
    return code;
}

int bp_wire_describe_request(int method, uint8_t keyspace, const void *request, uint64_t size,
                             struct bp_reply *text, struct bp_error *err) {
    static const struct bp_wire_limits limits = {.key_max = BP_KEY_MAX,
                                                 .value_max = BP_VALUE_MAX,
                                                 .request_max = 2u << 20,
                                                 .txn_ops_max = 1024,
                                                 .batch_ops_max = 10000,
                                                 .scan_page_max = 10000,
                                                 .reply_bytes_max = 4u << 20,
                                                 .lease_ttl_min_ms = 1000,
                                                 .lease_ttl_max_ms = 366ull * 86400 * 1000};
    struct bp_buffer buffer = {0};
    int code = bp_wire_describe(method, keyspace, request, size, &limits, &buffer, err);
    if (code != BP_OK) {
        bp_buffer_free(&buffer);
        return code;
    }
    *text = (struct bp_reply){.data = buffer.data, .size = buffer.size};
    return BP_OK;
}

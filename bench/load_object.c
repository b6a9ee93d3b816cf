/*
 * One object over one stream.
 *
 *   object-put   CreateBucket; then PutObject: header | chunk | chunk | ...
 *       each a message of `chunk` bytes
 *   object-get   GetObject: header | chunk | chunk | ... however the server cuts them
 *
 * The content at position p is known, so what comes back is compared byte for byte:
 *
 *   p / chunk = n:   [ n, 8 bytes ][ random block, the same in every chunk ................ ]
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"
#include "load_connection.h"
#include "load_message.h"
#include "record.h"
#include "workload.h"

#define BUCKET "bench"
#define WAIT_MS_MAX 120000
#define MESSAGE_MAX (16u << 20)
#define ALREADY_EXISTS 6

struct transfer {
    const struct load *load;
    uint8_t *block;         /* chunk bytes: the content of chunk n but for its first 8 */
    struct message message; /* put: the one being sent */
    uint64_t done;          /* bytes sent or checked */
    bool header_sent;
    uint8_t *received; /* get: one message as it comes in, prefix included */
    size_t received_size;
    uint64_t messages;
    bool wrong, closed;
};

/* ---- content --------------------------------------------------------------------------------- */

static bool make_block(struct transfer *transfer) {
    uint32_t size = transfer->load->chunk;
    struct rng rng = {transfer->load->data.seed};
    transfer->block = malloc(size);
    for (uint32_t i = 0; transfer->block != NULL && i < size; i++) {
        transfer->block[i] = (uint8_t)rng_next(&rng);
    }
    return transfer->block != NULL;
}

static void stamp_block(struct transfer *transfer, uint64_t chunk) {
    memcpy(transfer->block, &chunk, 8);
}

static bool content_is(struct transfer *transfer, uint64_t position, const uint8_t *bytes,
                       size_t size) {
    while (size > 0) {
        uint64_t chunk = position / transfer->load->chunk,
                 offset = position % transfer->load->chunk;
        size_t n =
            transfer->load->chunk - offset < size ? (size_t)(transfer->load->chunk - offset) : size;
        stamp_block(transfer, chunk);
        if (memcmp(bytes, transfer->block + offset, n) != 0) {
            return false;
        }
        position += n;
        bytes += n;
        size -= n;
    }
    return true;
}

/* ---- put ------------------------------------------------------------------------------------- */

static void add_names(struct message *message, const struct load *load) {
    message_bytes(message, 1, BUCKET, strlen(BUCKET));
    message_bytes(message, 2, load->object, strlen(load->object));
}

static bool produce(struct call *call) {
    struct transfer *transfer = call->owner;
    const struct load *load = transfer->load;
    struct message *message = &transfer->message;
    message_begin(message);
    if (!transfer->header_sent) {
        size_t names =
            message_field_size(strlen(BUCKET)) + message_field_size(strlen(load->object));
        message_head(message, 1, names); /* PutObjectRequest.header */
        add_names(message, load);
        transfer->header_sent = true;
    } else if (transfer->done < load->bytes) {
        uint64_t left = load->bytes - transfer->done;
        size_t size = left < load->chunk ? (size_t)left : load->chunk;
        stamp_block(transfer, transfer->done / load->chunk);
        message_head(message, 2, message_field_size(size)); /* .chunk */
        message_bytes(message, 1, transfer->block, size);   /* DataChunk.data */
        transfer->done += size;
    } else {
        return false;
    }
    message_end(message);
    call->body = message->bytes;
    call->body_size = message->size;
    return true;
}

/* ---- get ------------------------------------------------------------------------------------- */

static bool take_message(struct transfer *transfer) {
    const uint8_t *bytes = transfer->received + GRPC_PREFIX, *chunk, *data;
    size_t size = transfer->received_size - GRPC_PREFIX, chunk_size, data_size;
    transfer->messages++;
    if (!message_find_bytes(bytes, size, 2, &chunk, &chunk_size)) {
        return transfer->messages == 1; /* the header */
    }
    if (!message_find_bytes(chunk, chunk_size, 1, &data, &data_size) ||
        !content_is(transfer, transfer->done, data, data_size)) {
        return false;
    }
    transfer->done += data_size;
    return true;
}

static size_t message_size(const struct transfer *transfer) {
    const uint8_t *p = transfer->received;
    if (transfer->received_size < GRPC_PREFIX) {
        return GRPC_PREFIX;
    }
    return GRPC_PREFIX + ((size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4]);
}

static void receive(struct call *call, const uint8_t *data, size_t size) {
    struct transfer *transfer = call->owner;
    while (size > 0 && !transfer->wrong) {
        size_t wanted = message_size(transfer);
        if (wanted > MESSAGE_MAX) {
            transfer->wrong = true;
            return;
        }
        size_t missing = wanted - transfer->received_size;
        size_t n = missing < size ? missing : size;
        memcpy(transfer->received + transfer->received_size, data, n);
        transfer->received_size += n;
        data += n;
        size -= n;
        if (transfer->received_size >= GRPC_PREFIX &&
            transfer->received_size == message_size(transfer)) {
            transfer->wrong = transfer->load->work == WORK_OBJECT_GET && !take_message(transfer);
            transfer->received_size = 0;
        }
    }
}

/* ---- running --------------------------------------------------------------------------------- */

static void done(struct call *call) { ((struct transfer *)call->owner)->closed = true; }

/*
 * Runs the call to its end. False when the connection failed; the call's status is the caller's to
 * judge.
 */
static bool run(struct connection *connection, struct call *call) {
    struct transfer *transfer = call->owner;
    transfer->closed = false;
    if (!connection_call(connection, call)) {
        return false;
    }
    for (;;) {
        if (!connection_io(connection)) {
            return false;
        }
        if (transfer->closed || transfer->wrong) {
            return true;
        }
        struct pollfd polled = {.fd = connection_fd(connection), .events = POLLIN};
        if (connection_wants_write(connection)) {
            polled.events = POLLIN | POLLOUT;
        }
        if (poll(&polled, 1, WAIT_MS_MAX) == 0) {
            fprintf(stderr, "load: %s: nothing moved in %d s\n", call->path, WAIT_MS_MAX / 1000);
            return false;
        }
    }
}

static bool create_bucket(struct transfer *transfer, struct connection *connection) {
    struct call call = {.path = "/bedplate.object.v1.ObjectService/CreateBucket",
                        .receive = receive,
                        .done = done,
                        .owner = transfer};
    message_begin(&transfer->message);
    message_bytes(&transfer->message, 1, BUCKET, strlen(BUCKET));
    message_end(&transfer->message);
    call.body = transfer->message.bytes;
    call.body_size = transfer->message.size;
    bool answered = run(connection, &call);
    if (answered && !call_ok(&call) && call.grpc_status != ALREADY_EXISTS) {
        fprintf(stderr, "load: %s: grpc-status %d %s\n", call.path, call.grpc_status, call.message);
        return false;
    }
    return answered;
}

static bool move(struct transfer *transfer, struct connection *connection) {
    bool put = transfer->load->work == WORK_OBJECT_PUT;
    struct call call = {
        .path = put ? "/bedplate.object.v1.ObjectService/PutObject"
                    : "/bedplate.object.v1.ObjectService/GetObject",
        .produce = put ? produce : NULL,
        .receive = receive,
        .done = done,
        .owner = transfer,
    };
    if (!put) {
        message_begin(&transfer->message);
        add_names(&transfer->message, transfer->load);
        message_end(&transfer->message);
        call.body = transfer->message.bytes;
        call.body_size = transfer->message.size;
    }
    if (!run(connection, &call)) {
        return false;
    }
    if (transfer->wrong || !call_ok(&call) || transfer->done != transfer->load->bytes) {
        fprintf(stderr, "load: %s: http %d, grpc-status %d %s, %llu bytes%s\n", call.path,
                call.http_status, call.grpc_status, call.message,
                (unsigned long long)transfer->done, transfer->wrong ? ", not what was stored" : "");
        return false;
    }
    return true;
}

static void report(const struct transfer *transfer, double seconds, double cpu) {
    struct record record;
    record_begin(&record, work_name(transfer->load->work));
    record_count(&record, "bytes", transfer->done);
    record_number(&record, "seconds", seconds, 4);
    record_number(&record, "mb_per_s", (double)transfer->done / seconds / 1e6, 1);
    record_number(&record, "client_cpu_seconds", cpu, 3);
    record_print(&record, true);
}

int run_object(const struct load *load) {
    struct transfer transfer = {.load = load};
    struct connection *connection = connection_open(load->address);
    transfer.received = malloc(MESSAGE_MAX);
    bool good = connection != NULL && transfer.received != NULL && make_block(&transfer) &&
                message_init(&transfer.message, (size_t)load->chunk + 1024) &&
                (load->work == WORK_OBJECT_GET || create_bucket(&transfer, connection));
    uint64_t began = bench_now_ns();
    double cpu = bench_cpu_seconds();
    good = good && move(&transfer, connection);
    if (good) {
        report(&transfer, (double)(bench_now_ns() - began) / 1e9, bench_cpu_seconds() - cpu);
    }
    if (connection != NULL) {
        connection_close(connection);
    }
    message_free(&transfer.message);
    free(transfer.received);
    free(transfer.block);
    return good ? 0 : 1;
}

/*
 * Unary calls: `inflight` slots, each with one call open at a time, spread over the connections.
 *
 *   slot
 *       build request (next keys) -> call -> check status and reply -> note keys as stored -> build
 *       ...
 *
 * Keys vary: a random order that visits each key once a pass, so a batch never names one twice. The
 * keys of answered puts are counted apart, and the server's own count must agree: whoever runs this
 * compares `distinct_keys` and `ok`.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "histogram.h"
#include "load.h"
#include "load_connection.h"
#include "load_message.h"
#include "record.h"
#include "workload.h"

#define WAIT_MS_MAX 30000
#define REPLY_KEPT_MAX (64u << 10) /* of a reply, for checking it */

struct run {
    const struct load *load;
    struct values values;
    struct connection **connections;
    struct slot *slots;
    struct histogram *latency;
    uint8_t *stored; /* one bit a key */
    uint64_t next;   /* position in the order of keys */
    uint64_t started, ok, open, counted;
    uint64_t from_ns, to_ns; /* the counted part */
    uint64_t found;          /* WORK_COUNT: what the server says */
    bool failed, stopping;
};

struct slot {
    struct run *run;
    struct connection *connection;
    struct call call;
    struct message request;
    uint8_t *reply;
    size_t reply_size, reply_kept;
    uint64_t first; /* of the keys, as a position */
    uint64_t began_ns;
};

static uint64_t key_at(const struct run *run, uint64_t position) {
    const struct load *load = run->load;
    if (load->data.order == BENCH_ASCENDING) {
        return position % load->data.keys;
    }
    struct shuffle shuffle;
    shuffle_init(&shuffle, load->data.keys, load->data.seed, position / load->data.keys);
    return shuffle_at(&shuffle, position % load->data.keys);
}

static uint32_t keys_a_call(const struct load *load) {
    return load->work == WORK_BATCH || load->work == WORK_TXN ? load->ops : 1;
}

static const char *path_of(const struct load *load) {
    static const char *const paths[2][5] = {
        {"/bedplate.kv.v1.KVService/Put", "/bedplate.kv.v1.KVService/Get",
         "/bedplate.kv.v1.KVService/Batch", "/bedplate.kv.v1.KVService/Txn",
         "/bedplate.kv.v1.KVService/Scan"},
        {"/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Txn",
         "/etcdserverpb.KV/Txn", "/etcdserverpb.KV/Range"},
    };
    return paths[load->api][load->work];
}

/* ---- requests -------------------------------------------------------------------------------- */

/*
 * put { key value }, inside the wrapper that a batch or txn op is; both APIs number key 1 and value
 * 2.
 */
static void add_put(const struct run *run, struct message *message, uint32_t wrapper, uint32_t op,
                    uint64_t number) {
    const struct settings *data = &run->load->data;
    uint8_t key[4096];
    size_t size = message_field_size(data->key_size) + message_field_size(data->value_size);
    workload_key(data, number, key);
    if (wrapper != 0) {
        message_head(message, wrapper, message_field_size(size));
        message_head(message, op, size);
    }
    message_bytes(message, 1, key, data->key_size);
    message_bytes(message, 2, values_of(&run->values, number), data->value_size);
}

static void build_request(struct slot *slot) {
    const struct load *load = slot->run->load;
    struct message *message = &slot->request;
    uint8_t key[4096];
    message_begin(message);
    switch (load->work) {
    case WORK_PUT:
        add_put(slot->run, message, 0, 0, key_at(slot->run, slot->first));
        break;
    case WORK_BATCH:
    case WORK_TXN:
        for (uint64_t i = slot->first; i < slot->first + load->ops; i++) {
            bool batch = load->api == API_BEDPLATE && load->work == WORK_BATCH;
            uint32_t wrapper =
                batch ? 1
                      : 2; /* BatchRequest.ops, TxnRequest.then_ops, etcd's TxnRequest.success */
            uint32_t op = load->api == API_BEDPLATE ? 1 : 2; /* .put; etcd's .request_put */
            add_put(slot->run, message, wrapper, op, key_at(slot->run, i));
        }
        break;
    case WORK_GET:
        workload_key(&load->data, key_at(slot->run, slot->first), key);
        message_bytes(message, 1, key, load->data.key_size);
        break;
    default:
        if (load->api == API_ETCD) { /* every key: from the byte 0 on */
            message_bytes(message, 1, "", 1);
            message_bytes(message, 2, "", 1);
        }
        message_uint(message, load->api == API_ETCD ? 9 : 7, 1); /* count_only */
        break;
    }
    message_end(message);
}

/* ---- answers --------------------------------------------------------------------------------- */

/* The revision of a reply: that of an acknowledged write is never 0. etcd has it in a header. */
static uint64_t revision_of(const struct load *load, const uint8_t *bytes, size_t size) {
    const uint8_t *header = bytes;
    if (load->api == API_ETCD) {
        return message_find_bytes(bytes, size, 1, &header, &size)
                   ? message_find_uint(header, size, 3)
                   : 0;
    }
    return message_find_uint(bytes, size, 1);
}

static bool is_value_of(const struct run *run, const uint8_t *bytes, size_t size, uint64_t number) {
    const struct load *load = run->load;
    const uint8_t *kv, *value;
    size_t kv_size, value_size;
    if (!message_find_bytes(bytes, size, 2, &kv,
                            &kv_size)) { /* GetResponse.kv; etcd's RangeResponse.kvs */
        return false;
    }
    /* KeyValue: value is field 2; etcd's is field 5. */
    if (!message_find_bytes(kv, kv_size, load->api == API_ETCD ? 5 : 2, &value, &value_size)) {
        return false;
    }
    return value_size == load->data.value_size &&
           memcmp(value, values_of(&run->values, number), value_size) == 0;
}

static bool good_reply(struct slot *slot) {
    struct run *run = slot->run;
    const struct load *load = run->load;
    if (slot->reply_kept < GRPC_PREFIX) {
        return false;
    }
    const uint8_t *bytes = slot->reply + GRPC_PREFIX;
    size_t size = slot->reply_kept - GRPC_PREFIX;
    switch (load->work) {
    case WORK_GET:
        return is_value_of(run, bytes, size, key_at(run, slot->first));
    case WORK_COUNT:
        run->found = message_find_uint(bytes, size, 4); /* both */
        return true;
    case WORK_TXN:
        return message_find_uint(bytes, size, 2) == 1 &&
               revision_of(load, bytes, size) > 0; /* succeeded */
    default:
        return revision_of(load, bytes, size) > 0;
    }
}

static void note_stored(struct slot *slot) {
    struct run *run = slot->run;
    if (run->load->work == WORK_GET || run->load->work == WORK_COUNT) {
        return;
    }
    for (uint64_t i = slot->first; i < slot->first + keys_a_call(run->load); i++) {
        uint64_t key = key_at(run, i);
        run->stored[key / 8] |= (uint8_t)(1u << (key % 8));
    }
}

static bool start(struct slot *slot);

static void on_data(struct call *call, const uint8_t *data, size_t size) {
    struct slot *slot = call->owner;
    size_t room = REPLY_KEPT_MAX - slot->reply_kept;
    size_t kept = size < room ? size : room;
    memcpy(slot->reply + slot->reply_kept, data, kept);
    slot->reply_kept += kept;
    slot->reply_size += size;
}

static void on_done(struct call *call) {
    struct slot *slot = call->owner;
    struct run *run = slot->run;
    uint64_t now = bench_now_ns();
    run->open--;
    if (!call_ok(call) || !good_reply(slot)) {
        if (!run->failed) {
            fprintf(stderr, "load: %s: http %d, grpc-status %d %s%s\n", call->path,
                    call->http_status, call->grpc_status, call->message,
                    call_ok(call) ? "(not the reply that was expected)" : "");
        }
        run->failed = run->stopping = true;
        return;
    }
    run->ok++;
    note_stored(slot);
    if (slot->began_ns >= run->from_ns && now <= run->to_ns) {
        histogram_add(run->latency, now - slot->began_ns);
        run->counted++;
    }
    if (!start(slot)) {
        run->failed = run->stopping = true;
    }
}

/* Opens the slot's next call; true also when there is none to open any more. */
static bool start(struct slot *slot) {
    struct run *run = slot->run;
    const struct load *load = run->load;
    uint64_t now = bench_now_ns();
    run->stopping =
        run->stopping || (load->count != 0 ? run->started == load->count : now >= run->to_ns);
    if (run->stopping) {
        return true;
    }
    uint32_t keys = keys_a_call(load);
    if (run->next % load->data.keys + keys > load->data.keys) {
        run->next +=
            load->data.keys - run->next % load->data.keys; /* a call's keys are of one pass */
    }
    slot->first = run->next;
    run->next += keys;
    slot->reply_size = slot->reply_kept = 0;
    build_request(slot);
    slot->call.body = slot->request.bytes;
    slot->call.body_size = slot->request.size;
    slot->began_ns = bench_now_ns();
    run->started++;
    run->open++;
    return connection_call(slot->connection, &slot->call);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static bool start_all(struct run *run) {
    const struct load *load = run->load;
    for (uint32_t i = 0; i < load->inflight; i++) {
        if (!start(&run->slots[i])) {
            return false;
        }
    }
    return true;
}

static bool step(struct run *run, struct pollfd *polled) {
    uint32_t n = run->load->connections;
    for (uint32_t i = 0; i < n; i++) {
        if (!connection_io(run->connections[i])) {
            return false;
        }
    }
    if (run->open == 0) {
        return true;
    }
    for (uint32_t i = 0; i < n; i++) {
        bool writes = connection_wants_write(run->connections[i]);
        polled[i] = (struct pollfd){.fd = connection_fd(run->connections[i]),
                                    .events = (short)(POLLIN | (writes ? POLLOUT : 0))};
    }
    bool listens = run->load->until_eof && run->to_ns == UINT64_MAX;
    polled[n] = (struct pollfd){.fd = listens ? STDIN_FILENO : -1, .events = POLLIN};
    if (poll(polled, n + 1, WAIT_MS_MAX) == 0) {
        fprintf(stderr, "load: no answer in %d s\n", WAIT_MS_MAX / 1000);
        return false;
    }
    char ignored[64];
    if (polled[n].revents != 0 && read(STDIN_FILENO, ignored, sizeof ignored) <= 0) {
        run->to_ns = bench_now_ns();
    }
    return true;
}

static bool loop(struct run *run, double *seconds, double *cpu) {
    struct pollfd polled[LOAD_CONNECTIONS_MAX + 1];
    const struct load *load = run->load;
    uint64_t began = bench_now_ns();
    /* With a number of calls there is no warm-up: all count. */
    run->from_ns = load->count != 0 ? 0 : began + (uint64_t)(load->data.warmup * 1e9);
    bool open_end = load->count != 0 || load->until_eof;
    run->to_ns = open_end ? UINT64_MAX : run->from_ns + (uint64_t)(load->data.seconds * 1e9);
    double cpu_began = bench_cpu_seconds();
    if (!start_all(run)) {
        return false;
    }
    while (run->open > 0) {
        if (!step(run, polled)) {
            return false;
        }
    }
    *seconds = load->count != 0  ? (double)(bench_now_ns() - began) / 1e9
               : load->until_eof ? (double)(run->to_ns - run->from_ns) / 1e9
                                 : load->data.seconds;
    *cpu = bench_cpu_seconds() - cpu_began;
    return !run->failed;
}

static void report(const struct run *run, double seconds, double cpu) {
    const struct load *load = run->load;
    struct record record;
    uint64_t distinct = 0;
    for (uint64_t i = 0; i < (load->data.keys + 7) / 8; i++) {
        distinct += (uint64_t)__builtin_popcount(run->stored[i]);
    }
    record_begin(&record, work_name(load->work));
    record_text(&record, "api", load->api == API_ETCD ? "etcd" : "bedplate");
    record_count(&record, "inflight", load->inflight);
    record_count(&record, "connections", load->connections);
    record_count(&record, "ok", run->ok);
    record_count(&record, "distinct_keys", distinct);
    record_number(&record, "calls_per_s", (double)run->counted / seconds, 1);
    record_number(&record, "ops_per_s", (double)run->counted * keys_a_call(load) / seconds, 1);
    record_latency(&record, run->latency);
    record_number(&record, "client_cpu_us_per_call", cpu * 1e6 / (double)run->ok, 2);
    if (load->work == WORK_COUNT) {
        record_count(&record, "keys", run->found);
    }
    record_print(&record, true);
}

static bool make_slots(struct run *run) {
    const struct load *load = run->load;
    size_t one =
        message_field_size(load->data.key_size) + message_field_size(load->data.value_size) + 32;
    for (uint32_t i = 0; i < load->connections; i++) {
        run->connections[i] = connection_open(load->address);
        if (run->connections[i] == NULL) {
            return false;
        }
    }
    for (uint32_t i = 0; i < load->inflight; i++) {
        struct slot *slot = &run->slots[i];
        slot->run = run;
        slot->connection = run->connections[i % load->connections];
        slot->call = (struct call){
            .path = path_of(load), .receive = on_data, .done = on_done, .owner = slot};
        slot->reply = malloc(REPLY_KEPT_MAX);
        if (slot->reply == NULL ||
            !message_init(&slot->request, GRPC_PREFIX + one * keys_a_call(load))) {
            return false;
        }
    }
    return true;
}

int run_calls(const struct load *given) {
    struct load load = *given;
    if (load.work == WORK_COUNT) {
        load.inflight = load.connections = 1;
        load.count = 1;
    }
    struct run run = {.load = &load};
    run.connections = calloc(load.connections, sizeof(struct connection *));
    run.slots = calloc(load.inflight, sizeof *run.slots);
    run.latency = calloc(1, sizeof *run.latency);
    run.stored = calloc((load.data.keys + 7) / 8, 1);
    bool good = run.connections != NULL && run.slots != NULL && run.latency != NULL &&
                run.stored != NULL && values_init(&run.values, &load.data) && make_slots(&run);
    double seconds = 0, cpu = 0;
    good = good && loop(&run, &seconds, &cpu);
    if (good) {
        report(&run, seconds, cpu);
    }
    for (uint32_t i = 0; run.connections != NULL && i < load.connections; i++) {
        if (run.connections[i] != NULL) {
            connection_close(run.connections[i]);
        }
    }
    for (uint32_t i = 0; run.slots != NULL && i < load.inflight; i++) {
        free(run.slots[i].reply);
        message_free(&run.slots[i].request);
    }
    values_free(&run.values);
    free(run.connections);
    free(run.slots);
    free(run.latency);
    free(run.stored);
    return good ? 0 : 1;
}

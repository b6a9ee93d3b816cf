/*
 * How long nobody acknowledges a write: one put every few milliseconds at each member of a cluster,
 * whether or not earlier ones were answered, so that a call which hangs holds up nothing.
 *
 *   lane (one a member)
 *       slots: [open][free][open]...   a put each; all open: the connection is given up
 *       connection: made again a moment after it broke
 *
 *   acks of all lanes     | | | | |                         | | | | |
 *                                 <--- the longest gap ---->   of those after the warm-up
 *
 * Calls that fail or never end are counted, and are no error: members die under this load.
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

#define SLOTS 512u
#define REPLY_KEPT 64u
#define RECONNECT_NS 20000000u
#define NS_PER_MS 1000000u

struct probe;

struct put {
    struct lane *lane;
    struct call call;
    struct message request;
    uint8_t reply[REPLY_KEPT];
    size_t reply_size;
    bool open;
};

struct lane {
    struct probe *probe;
    char address[128];
    struct connection *connection; /* NULL: broken, or not made yet */
    uint64_t connect_at_ns, next_at_ns;
    struct put *puts;
};

struct probe {
    const struct load *load;
    struct values values;
    struct lane lanes[LOAD_MEMBERS_MAX];
    uint32_t n_lanes;
    uint64_t next_key, began_ns;
    uint64_t last_ack_ns, gap_ns, gap_at_ns; /* the longest gap, and when it began */
    uint64_t acks, failed, given_up;
};

static const char *path_of(const struct load *load) {
    return load->api == API_ETCD ? "/etcdserverpb.KV/Put" : "/bedplate.kv.v1.KVService/Put";
}

/* A gap counts unless it is over before the warm-up is. */
static void note_gap(struct probe *probe, uint64_t now) {
    uint64_t warm_ns = probe->began_ns + (uint64_t)(probe->load->data.warmup * 1e9);
    if (now >= warm_ns && now - probe->last_ack_ns > probe->gap_ns) {
        probe->gap_ns = now - probe->last_ack_ns;
        probe->gap_at_ns = probe->last_ack_ns;
    }
}

/* A reply that is no PutResponse with a revision is no acknowledgement. */
static bool acknowledged(const struct put *put) {
    if (!call_ok(&put->call) || put->reply_size < GRPC_PREFIX) {
        return false;
    }
    const uint8_t *bytes = put->reply + GRPC_PREFIX;
    size_t size = put->reply_size - GRPC_PREFIX;
    if (put->lane->probe->load->api == API_ETCD) {
        return message_find_bytes(bytes, size, 1, &bytes, &size) &&
               message_find_uint(bytes, size, 3) > 0;
    }
    return message_find_uint(bytes, size, 1) > 0;
}

static void on_data(struct call *call, const uint8_t *data, size_t size) {
    struct put *put = call->owner;
    size_t room = REPLY_KEPT - put->reply_size;
    size_t kept = size < room ? size : room;
    memcpy(put->reply + put->reply_size, data, kept);
    put->reply_size += kept;
}

static void on_done(struct call *call) {
    struct put *put = call->owner;
    struct probe *probe = put->lane->probe;
    put->open = false;
    if (!acknowledged(put)) {
        probe->failed++;
        return;
    }
    uint64_t now = bench_now_ns();
    note_gap(probe, now);
    probe->last_ack_ns = now;
    probe->acks++;
}

/* ---- lanes ----------------------------------------------------------------------------------- */

static void give_up(struct lane *lane, uint64_t now) {
    connection_close(lane->connection);
    lane->connection = NULL;
    lane->connect_at_ns = now + RECONNECT_NS;
    for (uint32_t i = 0; i < SLOTS; i++) {
        lane->probe->given_up += lane->puts[i].open;
        lane->puts[i].open = false;
    }
}

static struct put *free_slot(struct lane *lane) {
    for (uint32_t i = 0; i < SLOTS; i++) {
        if (!lane->puts[i].open) {
            return &lane->puts[i];
        }
    }
    return NULL;
}

/* Opens the next put; false: the connection is of no more use. */
static bool send_put(struct lane *lane) {
    struct probe *probe = lane->probe;
    const struct settings *data = &probe->load->data;
    struct put *put = free_slot(lane);
    if (put == NULL) {
        return false;
    }
    uint8_t key[4096];
    uint64_t number = probe->next_key++ % data->keys;
    workload_key(data, number, key);
    message_begin(&put->request);
    message_bytes(&put->request, 1, key, data->key_size);
    message_bytes(&put->request, 2, values_of(&probe->values, number), data->value_size);
    message_end(&put->request);
    put->call.body = put->request.bytes;
    put->call.body_size = put->request.size;
    put->reply_size = 0;
    put->open = true;
    return connection_call(lane->connection, &put->call);
}

static void step_lane(struct lane *lane, uint64_t now) {
    if (lane->connection == NULL) {
        if (now < lane->connect_at_ns) {
            return;
        }
        lane->connection = connection_open(lane->address);
        lane->connect_at_ns = now + RECONNECT_NS;
        lane->next_at_ns = now;
        if (lane->connection == NULL) {
            return;
        }
    }
    bool good = true;
    if (now >= lane->next_at_ns) {
        lane->next_at_ns = now + (uint64_t)lane->probe->load->interval * NS_PER_MS;
        good = send_put(lane);
    }
    if (!good || !connection_io(lane->connection)) {
        give_up(lane, now);
    }
}

static void wait_a_moment(struct probe *probe) {
    struct pollfd polled[LOAD_MEMBERS_MAX];
    nfds_t n = 0;
    for (uint32_t i = 0; i < probe->n_lanes; i++) {
        if (probe->lanes[i].connection != NULL) {
            polled[n++] =
                (struct pollfd){.fd = connection_fd(probe->lanes[i].connection), .events = POLLIN};
        }
    }
    poll(polled, n, 1);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static bool make_lane(struct probe *probe, const char *address, size_t size) {
    const struct settings *data = &probe->load->data;
    if (probe->n_lanes == LOAD_MEMBERS_MAX || size == 0 || size >= sizeof probe->lanes[0].address) {
        fprintf(stderr, "load: expected 1 to %u addresses\n", LOAD_MEMBERS_MAX);
        return false;
    }
    struct lane *lane = &probe->lanes[probe->n_lanes];
    lane->probe = probe;
    snprintf(lane->address, sizeof lane->address, "%.*s", (int)size, address);
    lane->puts = calloc(SLOTS, sizeof *lane->puts);
    if (lane->puts == NULL) {
        return false;
    }
    probe->n_lanes++;
    size_t room = GRPC_PREFIX + message_field_size(data->key_size) +
                  message_field_size(data->value_size) + 32;
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct put *put = &lane->puts[i];
        put->lane = lane;
        put->call = (struct call){
            .path = path_of(probe->load), .receive = on_data, .done = on_done, .owner = put};
        if (!message_init(&put->request, room)) {
            return false;
        }
    }
    return true;
}

static bool make_lanes(struct probe *probe) {
    const char *at = probe->load->address;
    for (;;) {
        size_t size = strcspn(at, ",");
        if (!make_lane(probe, at, size)) {
            return false;
        }
        if (at[size] == '\0') {
            return true;
        }
        at += size + 1;
    }
}

static void report(const struct probe *probe, uint64_t ended_ns) {
    struct record record;
    uint64_t from = probe->gap_at_ns - probe->began_ns;
    record_begin(&record, work_name(WORK_PROBE));
    record_text(&record, "api", probe->load->api == API_ETCD ? "etcd" : "bedplate");
    record_count(&record, "ok", probe->acks);
    record_count(&record, "failed", probe->failed);
    record_count(&record, "given_up", probe->given_up);
    record_number(&record, "gap_ms", (double)probe->gap_ns / NS_PER_MS, 1);
    record_number(&record, "gap_at_ms", (double)from / NS_PER_MS, 1);
    record_number(&record, "silent_at_end_ms", (double)(ended_ns - probe->last_ack_ns) / NS_PER_MS,
                  1);
    record_print(&record, true);
}

static void probe_free(struct probe *probe) {
    for (uint32_t i = 0; i < probe->n_lanes; i++) {
        struct lane *lane = &probe->lanes[i];
        if (lane->connection != NULL) {
            connection_close(lane->connection);
        }
        for (uint32_t j = 0; j < SLOTS; j++) {
            message_free(&lane->puts[j].request);
        }
        free(lane->puts);
    }
    values_free(&probe->values);
    free(probe);
}

int run_probe(const struct load *load) {
    struct probe *probe = calloc(1, sizeof *probe);
    if (probe == NULL) {
        return 1;
    }
    probe->load = load;
    bool good = values_init(&probe->values, &load->data) && make_lanes(probe);
    uint64_t now = bench_now_ns();
    probe->began_ns = probe->last_ack_ns = now;
    uint64_t until = now + (uint64_t)(load->data.seconds * 1e9);
    while (good && now < until) {
        for (uint32_t i = 0; i < probe->n_lanes; i++) {
            step_lane(&probe->lanes[i], now);
        }
        wait_a_moment(probe);
        now = bench_now_ns();
    }
    if (good) {
        note_gap(probe, now);
        report(probe, now);
    }
    probe_free(probe);
    return good ? 0 : 1;
}

/*
 * A cluster's driver under threads: log, apply, reader and keeper threads of three members, clients
 * that wait at the leader and at a follower, and one thread that is Raft. Meant for TSan as much as
 * for its own checks.
 */
#include <poll.h>
#include <pthread.h>

#include "raft_rig.h"

#define CLIENTS 2u
#define PUTS 150u
#define WAIT_MS 20

struct cluster {
    struct rig rig;
    uint64_t sent[MEMBERS]; /* entries of the leader that each member was given */
    _Atomic uint32_t clients;
    _Atomic bool stop;
};

struct client {
    struct cluster *cluster;
    uint32_t member, number;
    pthread_t thread;
};

/* ---- a Raft whose leader never changes --------------------------------------------------------- */

static uint64_t last_of(struct member *member) { return look(member).last_index; }

static void replicate_new(struct cluster *cluster) {
    struct member *leader = &cluster->rig.members[0];
    uint64_t last = last_of(leader);
    for (uint32_t i = 1; i < MEMBERS; i++) {
        if (cluster->sent[i] < last) {
            struct member *to = &cluster->rig.members[i];
            CHECK_EQ_U64(send(leader, to, cluster->sent[i] + 1, last), BP_OK);
            persist(to, look(to).committed_index);
            cluster->sent[i] = last;
        }
    }
}

static uint64_t middle(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

static uint64_t decided(struct cluster *cluster) {
    struct member *members = cluster->rig.members;
    return middle(look(&members[0]).durable_index, look(&members[1]).durable_index,
                  look(&members[2]).durable_index);
}

/* Batches of the followers to the leader, and what became of them back. */
static void carry_batches(struct cluster *cluster) {
    struct member *members = cluster->rig.members;
    struct bp_error err = {0};
    for (uint32_t i = 1; i < MEMBERS; i++) {
        struct bp_reply batch;
        while (look(&members[i]).queued_writes > 0 &&
               bp_raft_forward(members[i].store, 1u << 20, &batch) != 0) {
            CHECK_OK(bp_raft_forwarded(members[0].store, members[0].queue, batch.data, batch.size,
                                       i, &err),
                     &err);
            bp_reply_free(&batch);
        }
    }
    struct bp_completion done;
    while (bp_queue_take(members[0].queue, &done, 1) == 1) {
        CHECK_OK(bp_raft_answer(members[done.cookie].store, done.reply.data, done.reply.size, &err),
                 &err);
        bp_completion_free(&done);
    }
}

static void turn(struct cluster *cluster) {
    struct member *members = cluster->rig.members;
    carry_batches(cluster);
    if (gather(&members[0]) > 0) {
        persist(&members[0], look(&members[0]).committed_index);
    }
    replicate_new(cluster);
    uint64_t index = decided(cluster);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        uint64_t gate = bp_raft_gate(members[i].store);
        bp_raft_commit(members[i].store, index);
        if (gate != 0) {
            bp_raft_release(members[i].store, gate, index, 0);
        }
    }
    (void)bp_raft_compact(members[0].store, index, 1u << 16);
}

static void *raft_thread(void *arg) {
    struct cluster *cluster = arg;
    while (!atomic_load(&cluster->stop)) {
        struct pollfd waits[MEMBERS + 1];
        for (uint32_t i = 0; i < MEMBERS; i++) {
            waits[i] =
                (struct pollfd){.fd = bp_raft_fd(cluster->rig.members[i].store), .events = POLLIN};
        }
        waits[MEMBERS] =
            (struct pollfd){.fd = bp_queue_fd(cluster->rig.members[0].queue), .events = POLLIN};
        (void)poll(waits, MEMBERS + 1, WAIT_MS);
        turn(cluster);
    }
    return NULL;
}

/* ---- clients ----------------------------------------------------------------------------------- */

static bool reads(struct bp_store *store, const char *key, const char *value) {
    struct bp_buffer request = {0};
    struct bp_reply reply;
    struct bp_error err = {0};
    bp_pb_text(&request, 1, key);
    CHECK_OK(bp_call_wire(store, BP_METHOD_GET, 'u', request.data, request.size, &reply, &err),
             &err);
    bool found = test_count_in(&reply, value) > 0;
    bp_reply_free(&reply);
    bp_buffer_free(&request);
    return found;
}

/* Puts its own keys, and after each acknowledgement reads what it wrote, also elsewhere. */
static void *client_thread(void *arg) {
    struct client *client = arg;
    struct cluster *cluster = client->cluster;
    struct bp_store *store = cluster->rig.members[client->member].store;
    struct bp_store *other = cluster->rig.members[(client->member + 1) % MEMBERS].store;
    for (uint32_t i = 0; i < PUTS; i++) {
        char key[32], value[32];
        (void)snprintf(key, sizeof key, "c%u-%u", client->number, i % 7);
        (void)snprintf(value, sizeof value, "value-%u-", i);
        CHECK_EQ_U64(test_put(store, key, value, NULL), BP_OK);
        if (i % 5 == 0) {
            CHECK(reads(store, key, value));
            CHECK(reads(other, key, value));
        }
    }
    return NULL;
}

static void open_members(struct cluster *cluster) {
    for (uint32_t i = 0; i < MEMBERS; i++) {
        struct bp_options options = rig_options(i);
        options.manual = 0;
        cluster->rig.members[i] = (struct member){.sim = bp_sim_new(100 + i)};
        member_open(&cluster->rig.members[i], &options);
        cluster->sent[i] = 1;
    }
    struct member *leader = &cluster->rig.members[0];
    struct bp_error err = {0};
    leader->term = 2;
    leader->vote = member_ids[0];
    bp_raft_lead(leader->store, 1, 2);
    CHECK_OK(bp_raft_propose(leader->store, 2, NULL, NULL, &err), &err);
    persist(leader, 1);
}

/* Until every member has applied everything. */
static void come_to_rest(struct cluster *cluster) {
    uint64_t last = last_of(&cluster->rig.members[0]);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        struct member *member = &cluster->rig.members[i];
        while (look(member).applied_index < last) {
            struct pollfd wait = {.fd = bp_raft_fd(member->store), .events = POLLIN};
            (void)poll(&wait, 1, WAIT_MS);
            turn(cluster);
        }
    }
}

static void members_agree_while_clients_write_everywhere(void) {
    static struct cluster cluster;
    struct client clients[CLIENTS];
    pthread_t raft;
    open_members(&cluster);
    CHECK(pthread_create(&raft, NULL, raft_thread, &cluster) == 0);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){.cluster = &cluster, .member = i, .number = i};
        CHECK(pthread_create(&clients[i].thread, NULL, client_thread, &clients[i]) == 0);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        pthread_join(clients[i].thread, NULL);
    }
    atomic_store(&cluster.stop, true);
    pthread_join(raft, NULL);
    come_to_rest(&cluster);
    check_same_state(&cluster.rig);
    rig_close(&cluster.rig);
}

/* ---- taking over from callers that drive ------------------------------------------------------- */

struct solo {
    struct member member;
    _Atomic bool stop;
};

static void *solo_writer(void *arg) {
    struct solo *solo = arg;
    for (uint32_t i = 0; i < 4 * PUTS; i++) {
        char value[32];
        (void)snprintf(value, sizeof value, "%u", i);
        CHECK_EQ_U64(test_put(solo->member.store, "k", value, NULL), BP_OK);
    }
    atomic_store(&solo->stop, true);
    return NULL;
}

static void a_member_is_taken_while_callers_drive_it(void) {
    static struct solo solo;
    struct bp_options options = test_options();
    struct bp_error err = {0};
    pthread_t writer;
    options.manual = 0;
    solo.member.sim = bp_sim_new(5);
    CHECK_OK(bp_open_sim(&options, solo.member.sim, &solo.member.store, &err), &err);
    solo.member.queue = bp_queue_new(solo.member.store);
    CHECK(pthread_create(&writer, NULL, solo_writer, &solo) == 0);
    struct bp_status status;
    do { /* in the middle of it */
        bp_get_status(solo.member.store, &status);
    } while (status.group_requests < 20);
    CHECK_OK(bp_raft_take(solo.member.store, &err), &err);
    struct bp_raft_state state = look(&solo.member);
    solo.member.term = state.term + 1;
    solo.member.vote = state.member_id;
    bp_raft_lead(solo.member.store, 1, solo.member.term);
    CHECK_OK(bp_raft_propose(solo.member.store, solo.member.term, NULL, NULL, &err), &err);
    while (!atomic_load(&solo.stop)) {
        (void)gather(&solo.member);
        state = look(&solo.member);
        if (state.last_index > state.durable_index) {
            persist(&solo.member, state.committed_index);
        }
        bp_raft_commit(solo.member.store, state.durable_index);
        struct pollfd wait = {.fd = bp_raft_fd(solo.member.store), .events = POLLIN};
        (void)poll(&wait, 1, WAIT_MS);
    }
    pthread_join(writer, NULL);
    bp_queue_free(solo.member.queue);
    CHECK_OK(bp_close(solo.member.store, &err), &err);
    bp_sim_free(solo.member.sim);
}

/* Callers that wait when the store is closed are told, and nothing of theirs is touched after. */
static void closing_wakes_everybody_who_waits(void) {
    static struct cluster cluster;
    struct bp_error err = {0};
    open_members(&cluster);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        struct member *member = &cluster.rig.members[i];
        for (uint64_t k = 0; k < 20; k++) {
            put(member, "k", "v", k);
            get(member, "k", 100 + k);
        }
        if (i == 0) {
            gather(member);
        }
    }
    for (uint32_t i = 0; i < MEMBERS; i++) {
        struct member *member = &cluster.rig.members[i];
        CHECK_OK(bp_close(member->store, &err), &err);
        struct bp_completion done;
        uint32_t n = 0;
        while (bp_queue_take(member->queue, &done, 1) == 1) {
            CHECK_EQ_U64(done.error->reason, BP_REASON_STORE_CLOSED);
            bp_completion_free(&done);
            n++;
        }
        CHECK_EQ_U64(n, 40);
        bp_queue_free(member->queue);
        bp_sim_free(member->sim);
    }
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(members_agree_while_clients_write_everywhere);
    RUN(a_member_is_taken_while_callers_drive_it);
    RUN(closing_wakes_everybody_who_waits);
    TESTS_END;
}

/*
 * Three members of a cluster in one program, each on a simulated machine, and a Raft by hand: the
 * test itself says who leads, what is sent and what is committed.
 *
 *   submit -> gather -> message -> receive -> persist, step -> commit, step -> take
 */
#ifndef BP_TESTS_RAFT_RIG_H
#define BP_TESTS_RAFT_RIG_H

#include "../src/ops.h"
#include "wire_util.h"

#define MEMBERS 3u

struct member {
    struct bp_sim *sim;
    struct bp_store *store;
    struct bp_queue *queue;
    uint64_t number; /* of the last persist */
    uint64_t term, vote;
};

struct rig {
    struct member members[MEMBERS];
};

static const uint64_t member_ids[MEMBERS] = {33, 11, 22}; /* no order that anything relies on */

static inline struct bp_options rig_options(uint32_t i) {
    struct bp_options options = test_options();
    options.n_members = MEMBERS;
    options.member_id = member_ids[i];
    memcpy(options.members, member_ids, sizeof member_ids);
    memset(options.cluster_id, 7, sizeof options.cluster_id);
    return options;
}

static inline void member_open(struct member *member, const struct bp_options *options) {
    struct bp_error err = {0};
    CHECK_OK(bp_open_sim(options, member->sim, &member->store, &err), &err);
    member->queue = bp_queue_new(member->store);
    CHECK(member->queue != NULL);
    struct bp_raft_state state;
    bp_raft_look(member->store, &state);
    member->number = 0;
    member->term = state.term;
    member->vote = state.vote;
}

static inline void member_drop(struct member *member) {
    bp_queue_free(member->queue);
    bp_store_abandon(member->store);
}

/* A power cut that keeps about that share of what was not synced. */
static inline void member_crash(struct rig *rig, uint32_t i, uint32_t keep_per_1024) {
    struct bp_options options = rig_options(i);
    member_drop(&rig->members[i]);
    bp_sim_power_cut(rig->members[i].sim, keep_per_1024);
    member_open(&rig->members[i], &options);
}

static inline void rig_open(struct rig *rig) {
    for (uint32_t i = 0; i < MEMBERS; i++) {
        struct bp_options options = rig_options(i);
        rig->members[i] = (struct member){.sim = bp_sim_new(100 + i)};
        member_open(&rig->members[i], &options);
    }
}

static inline void rig_close(struct rig *rig) {
    for (uint32_t i = 0; i < MEMBERS; i++) {
        struct bp_error err = {0};
        bp_queue_free(rig->members[i].queue);
        CHECK_OK(bp_close(rig->members[i].store, &err), &err);
        bp_sim_free(rig->members[i].sim);
    }
}

static inline struct bp_raft_state look(struct member *member) {
    struct bp_raft_state state;
    bp_raft_look(member->store, &state);
    return state;
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* Hands over what there is, without writing it. */
static inline void persist(struct member *member, uint64_t commit) {
    struct bp_error err = {0};
    CHECK_OK(
        bp_raft_persist(member->store, ++member->number, member->term, member->vote, commit, &err),
        &err);
}

static inline void write_log(struct member *member, uint64_t commit) {
    persist(member, commit);
    CHECK(bp_step_log(member->store) > 0);
    CHECK_EQ_U64(look(member).persisted, member->number);
}

static inline void apply(struct member *member) {
    while (bp_step_apply(member->store) > 0) {
    }
}

static inline void commit(struct member *member, uint64_t index) {
    bp_raft_commit(member->store, index);
    apply(member);
}

/* It leads `term` from now on: its first entry is in its log. */
static inline void lead(struct member *member, uint64_t term) {
    struct bp_raft_entry entry;
    struct bp_error err = {0};
    member->term = term;
    member->vote = look(member).member_id;
    bp_raft_lead(member->store, 1, term);
    CHECK_OK(bp_raft_propose(member->store, term, NULL, &entry, &err), &err);
    CHECK_EQ_U64(entry.term, term);
    write_log(member, look(member).committed_index);
}

static inline void follow(struct member *member, uint64_t term) {
    member->term = term;
    member->vote = 0;
    bp_raft_lead(member->store, 0, term);
}

/* What is queued becomes entries; how many. */
static inline uint32_t gather(struct member *member) {
    uint64_t last, bytes;
    return bp_raft_gather(member->store, member->term, 64u << 20, &last, &bytes);
}

/* Entries first .. last of one in the other's log, not written there yet. */
static inline int send(struct member *from, struct member *to, uint64_t first, uint64_t last) {
    struct bp_reply message;
    struct bp_error err = {0};
    CHECK_OK(bp_raft_message(from->store, first, last, &message, &err), &err);
    int code = bp_raft_receive(to->store, message.data, message.size, &err);
    to->term = from->term;
    bp_reply_free(&message);
    return code;
}

/* Everything the leader has, at that member durable and committed. */
static inline void replicate(struct member *leader, struct member *to, uint64_t first) {
    uint64_t last = look(leader).last_index;
    CHECK_EQ_U64(send(leader, to, first, last), BP_OK);
    write_log(to, look(to).committed_index);
}

/* From `first` on at all members durable, committed, applied. */
static inline void settle(struct rig *rig, uint32_t leader, uint64_t first) {
    struct member *members = rig->members;
    uint64_t last = look(&members[leader]).last_index;
    write_log(&members[leader], look(&members[leader]).committed_index);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        if (i != leader) {
            replicate(&members[leader], &members[i], first);
        }
    }
    for (uint32_t i = 0; i < MEMBERS; i++) {
        commit(&members[i], last);
        CHECK_EQ_U64(look(&members[i]).applied_index, last);
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

static inline int try_put(struct member *member, const char *key, const char *value,
                          uint64_t cookie) {
    struct bp_error err = {0};
    return test_submit_put(member->store, member->queue, key, value, cookie, &err);
}

static inline void put(struct member *member, const char *key, const char *value, uint64_t cookie) {
    CHECK_EQ_U64(try_put(member, key, value, cookie), BP_OK);
}

static inline void get(struct member *member, const char *key, uint64_t cookie) {
    struct bp_buffer request = {0};
    struct bp_error err = {0};
    bp_pb_text(&request, 1, key);
    CHECK_OK(bp_submit_wire(member->store, member->queue, BP_METHOD_GET, 'u', request.data,
                            request.size, cookie, &err),
             &err);
    bp_buffer_free(&request);
}

static inline void keep_alive(struct member *member, uint64_t lease, uint64_t cookie) {
    struct bp_buffer request = {0};
    struct bp_error err = {0};
    bp_pb_uint(&request, 1, lease);
    CHECK_OK(bp_submit_wire(member->store, member->queue, BP_METHOD_KEEP_ALIVE, 'u', request.data,
                            request.size, cookie, &err),
             &err);
    bp_buffer_free(&request);
}

static inline void grant(struct member *member, uint64_t lease, uint64_t seconds, uint64_t cookie) {
    struct bp_buffer request = {0};
    struct bp_error err = {0};
    bp_pb_uint(&request, 1, seconds);
    bp_pb_uint(&request, 2, lease);
    CHECK_OK(bp_submit_wire(member->store, member->queue, BP_METHOD_GRANT_LEASE, 'u', request.data,
                            request.size, cookie, &err),
             &err);
    bp_buffer_free(&request);
}

static inline bool nothing_waits(struct member *member) {
    struct bp_completion done;
    if (bp_queue_take(member->queue, &done, 1) == 0) {
        return true;
    }
    bp_completion_free(&done);
    return false;
}

/* The next answer is for `cookie` and has this reason; how often `text` is in its reply. */
static inline uint32_t expect(struct member *member, uint64_t cookie, int reason,
                              const char *text) {
    struct bp_completion done = test_take(member->queue);
    CHECK_EQ_U64(done.cookie, cookie);
    CHECK_EQ_U64(done.error != NULL ? done.error->reason : 0, reason);
    uint32_t n = text != NULL ? test_count_in(&done.reply, text) : 0;
    bp_completion_free(&done);
    return n;
}

static inline void check_value(struct member *member, const char *key, const char *value) {
    char found[256] = "";
    CHECK_EQ_U64(test_get(member->store, key, found, sizeof found), value != NULL);
    CHECK(value == NULL || strcmp(found, value) == 0);
}

static inline void check_same_state(struct rig *rig) {
    struct bp_status first, other;
    bp_get_status(rig->members[0].store, &first);
    for (uint32_t i = 1; i < MEMBERS; i++) {
        bp_get_status(rig->members[i].store, &other);
        CHECK_EQ_U64(other.revision, first.revision);
        CHECK_EQ_U64(other.state_hash[0], first.state_hash[0]);
        CHECK_EQ_U64(other.state_hash[1], first.state_hash[1]);
    }
}

#endif

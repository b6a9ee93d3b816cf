/* A cluster's driver: what it promises to the Raft that drives it, one step at a time. */
#include <poll.h>

#include "raft_rig.h"

/* ---- founding, writing, reading --------------------------------------------------------------- */

static void a_cluster_is_founded_alike_on_each_member(void) {
    struct rig rig;
    rig_open(&rig);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        struct bp_raft_state state = look(&rig.members[i]);
        CHECK_EQ_U64(state.member_id, member_ids[i]);
        CHECK_EQ_U64(state.last_index, 1);
        CHECK_EQ_U64(state.durable_index, 1);
        CHECK_EQ_U64(state.applied_index, 1);
        CHECK_EQ_U64(state.term, 1);
        CHECK_EQ_U64(state.vote, 0);
        CHECK_EQ_U64(state.members.voters, MEMBERS);
        CHECK_EQ_U64(state.members.members[0], 11);
        CHECK_EQ_U64(state.members.members[2], 33);
    }
    struct bp_reply a, b;
    struct bp_error err = {0};
    CHECK_OK(bp_raft_message(rig.members[0].store, 1, 1, &a, &err), &err);
    CHECK_OK(bp_raft_message(rig.members[1].store, 1, 1, &b, &err), &err);
    CHECK(a.size == b.size && memcmp(a.data, b.data, a.size) == 0);
    bp_reply_free(&a);
    bp_reply_free(&b);
    member_crash(&rig, 1, 0);
    CHECK_EQ_U64(look(&rig.members[1]).member_id, member_ids[1]);
    CHECK_EQ_U64(look(&rig.members[1]).applied_index, 1);
    rig_close(&rig);
}

static void a_write_is_answered_when_it_is_durable_committed_and_applied(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    lead(leader, 2);
    put(leader, "k", "v", 5);
    CHECK_EQ_U64(look(leader).queued_writes, 1);
    CHECK_EQ_U64(gather(leader), 1);
    CHECK_EQ_U64(look(leader).queued_writes, 0);
    CHECK_EQ_U64(look(leader).last_index, 3);
    CHECK_EQ_U64(send(leader, follower, 2, 3), BP_OK);
    write_log(follower, 1);
    commit(leader, 3); /* a majority has it: the follower and, say, the third */
    CHECK_EQ_U64(look(leader).applied_index, 2);
    CHECK(nothing_waits(leader));
    CHECK(bp_step_log(leader->store) == 0); /* it was not handed over */
    write_log(leader, 3);
    apply(leader);
    CHECK_EQ_U64(expect(leader, 5, 0, "v"), 0);
    check_value(leader, "k", "v");
    commit(follower, 1);
    check_value(follower, "k", NULL);
    commit(follower, 3);
    check_value(follower, "k", "v");
    replicate(leader, &rig.members[2], 2);
    commit(&rig.members[2], 3);
    check_same_state(&rig);
    rig_close(&rig);
}

static void a_member_applies_nothing_that_is_not_durable_on_it(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    lead(leader, 2);
    put(leader, "k", "v", 1);
    gather(leader);
    CHECK_EQ_U64(send(leader, follower, 2, 3), BP_OK);
    commit(follower, 3);
    CHECK_EQ_U64(look(follower).applied_index, 1);
    persist(follower, 3);
    apply(follower);
    CHECK_EQ_U64(look(follower).applied_index, 1);
    CHECK(bp_step_log(follower->store) > 0);
    apply(follower);
    CHECK_EQ_U64(look(follower).applied_index, 3);
    rig_close(&rig);
}

static void many_entries_go_to_the_log_with_one_sync(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0];
    lead(leader, 2);
    struct bp_status before, after;
    bp_get_status(leader->store, &before);
    for (uint64_t i = 0; i < 20; i++) {
        put(leader, "k", "v", i);
        gather(leader);
        persist(leader, 1);
    }
    CHECK(bp_step_log(leader->store) > 0);
    bp_get_status(leader->store, &after);
    CHECK_EQ_U64(after.syncs - before.syncs, 1);
    CHECK_EQ_U64(look(leader).durable_index, 22);
    CHECK_EQ_U64(look(leader).persisted, leader->number);
    rig_close(&rig);
}

/* ---- superseding ------------------------------------------------------------------------------ */

static void writes_of_a_superseded_suffix_fail_and_leave_nothing(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *old = &rig.members[0], *new = &rig.members[1];
    lead(old, 2);
    settle(&rig, 0, 2);
    put(old, "lost", "1", 7);
    gather(old);
    write_log(old, 2);
    lead(new, 3);
    put(new, "kept", "2", 8);
    gather(new);
    /* the old leader hears of entries 3 and 4 of term 3 before it knows that it lost */
    CHECK_EQ_U64(send(new, old, 3, 4), BP_OK);
    expect(old, 7, BP_REASON_LEADER_LOST, NULL);
    follow(old, 3);
    write_log(old, 2);
    write_log(new, 2);
    replicate(new, &rig.members[2], 3);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        commit(&rig.members[i], 4);
        check_value(&rig.members[i], "lost", NULL);
        check_value(&rig.members[i], "kept", "2");
    }
    expect(new, 8, 0, NULL);
    check_same_state(&rig);
    member_crash(&rig, 0, 0);
    CHECK_EQ_U64(look(&rig.members[0]).durable_term, 3);
    commit(&rig.members[0], 4);
    check_same_state(&rig);
    rig_close(&rig);
}

static void who_leads_no_more_fails_its_writes_but_applies_them_if_they_were_decided(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0];
    lead(leader, 2);
    put(leader, "k", "v", 7);
    gather(leader);
    put(leader, "later", "v", 8);
    write_log(leader, 1);
    follow(leader, 3);
    expect(leader, 7, BP_REASON_LEADER_LOST, NULL);
    CHECK(nothing_waits(leader)); /* what was not gathered waits for the next leader */
    CHECK_EQ_U64(look(leader).queued_writes, 1);
    commit(leader, 3);
    check_value(leader, "k", "v");
    bp_raft_refuse_queued(leader->store);
    expect(leader, 8, BP_REASON_NO_LEADER, NULL);
    rig_close(&rig);
}

static void what_is_durable_is_told_by_index_and_term(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *one = &rig.members[0], *two = &rig.members[1], *follower = &rig.members[2];
    lead(one, 2);
    put(one, "k", "1", 1);
    gather(one);
    write_log(one, 1);
    CHECK_EQ_U64(send(one, follower, 2, 3), BP_OK);
    persist(follower, 1); /* (2, term 2) and (3, term 2) are on their way to the log ... */
    lead(two, 3);
    CHECK_EQ_U64(send(two, follower, 2, 2), BP_OK); /* ... and nobody wants them any more */
    CHECK(bp_step_log(follower->store) > 0);
    struct bp_raft_state state = look(follower);
    CHECK_EQ_U64(state.persisted, 1);
    CHECK_EQ_U64(state.last_index, 2);
    CHECK_EQ_U64(state.last_term, 3);
    CHECK_EQ_U64(state.durable_index, 1);
    CHECK_EQ_U64(state.durable_term, 1);
    commit(follower, 2);
    CHECK_EQ_U64(look(follower).applied_index, 1);
    write_log(follower, 2);
    state = look(follower);
    CHECK_EQ_U64(state.durable_index, 2);
    CHECK_EQ_U64(state.durable_term, 3);
    apply(follower);
    CHECK_EQ_U64(look(follower).applied_index, 2);
    member_crash(&rig, 2, 0);
    state = look(&rig.members[2]);
    CHECK_EQ_U64(state.last_index, 2);
    CHECK_EQ_U64(state.last_term, 3);
    rig_close(&rig);
}

static void superseding_while_both_wait_for_the_log_writes_the_last_word(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *one = &rig.members[0], *two = &rig.members[1], *follower = &rig.members[2];
    lead(one, 2);
    put(one, "k", "1", 1);
    gather(one);
    write_log(one, 1);
    lead(two, 3);
    put(two, "k", "2", 1);
    gather(two);
    write_log(two, 1);
    CHECK_EQ_U64(send(one, follower, 2, 3), BP_OK);
    persist(follower, 1);
    CHECK_EQ_U64(send(two, follower, 2, 3), BP_OK);
    persist(follower, 3);
    commit(follower, 3);
    CHECK(bp_step_log(follower->store) > 0);
    apply(follower);
    check_value(follower, "k", "2");
    CHECK_EQ_U64(look(follower).persisted, 2);
    member_crash(&rig, 2, 0);
    check_value(&rig.members[2], "k", "2");
    rig_close(&rig);
}

static void committed_entries_are_never_superseded(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *one = &rig.members[0], *two = &rig.members[1];
    lead(one, 2);
    put(one, "k", "1", 1);
    gather(one);
    write_log(one, 1);
    commit(one, 3);
    lead(two, 3);
    struct bp_reply message;
    struct bp_error err = {0};
    CHECK_OK(bp_raft_message(two->store, 2, 2, &message, &err), &err);
    CHECK_EQ_U64(bp_raft_receive(one->store, message.data, message.size, &err), BP_DATA_LOSS);
    bp_reply_free(&message);
    CHECK_EQ_U64(look(one).last_term, 2);
    expect(one, 1, 0, NULL);
    rig_close(&rig);
}

static void a_damaged_or_strange_message_changes_nothing(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    lead(leader, 2);
    put(leader, "k", "v", 1);
    gather(leader);
    struct bp_reply message;
    struct bp_error err = {0};
    CHECK_OK(bp_raft_message(leader->store, 2, 3, &message, &err), &err);
    for (uint64_t i = 0; i < message.size; i++) {
        message.data[i] ^= 16;
        CHECK_EQ_U64(bp_raft_receive(follower->store, message.data, message.size, &err),
                     BP_DATA_LOSS);
        CHECK_EQ_U64(bp_raft_receive(follower->store, message.data, i, &err), BP_DATA_LOSS);
        message.data[i] ^= 16;
    }
    CHECK_EQ_U64(look(follower).last_index, 1);
    bp_reply_free(&message);
    CHECK_EQ_U64(send(leader, follower, 3, 3), BP_OUT_OF_RANGE);
    CHECK_EQ_U64(look(follower).last_index, 1);
    CHECK_EQ_U64(send(leader, follower, 2, 3), BP_OK);
    CHECK_EQ_U64(send(leader, follower, 2, 3), BP_OK); /* again: nothing new */
    CHECK_EQ_U64(look(follower).last_index, 3);
    rig_close(&rig);
}

/* ---- restarts --------------------------------------------------------------------------------- */

static void a_restart_applies_what_is_committed_and_keeps_the_rest_as_log(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    lead(leader, 2);
    for (uint64_t i = 0; i < 4; i++) {
        put(leader, "k", i < 2 ? "early" : "late", i);
        gather(leader);
    }
    write_log(leader, 1);
    CHECK_EQ_U64(send(leader, follower, 2, 6), BP_OK);
    write_log(follower, 4);
    member_crash(&rig, 1, 0);
    struct bp_raft_state state = look(follower);
    CHECK_EQ_U64(state.commit, 4);
    CHECK_EQ_U64(state.applied_index, 4);
    CHECK_EQ_U64(state.last_index, 6);
    CHECK_EQ_U64(state.durable_index, 6);
    check_value(follower, "k", "early");
    commit(follower, 6);
    check_value(follower, "k", "late");
    member_crash(&rig, 1, 0);
    struct member *other = &rig.members[2];
    CHECK_EQ_U64(send(leader, other, 2, 4), BP_OK);
    write_log(other, 4);
    commit(other, 4);
    lead(other, 3);
    CHECK_EQ_U64(send(other, follower, 5, 5), BP_OK); /* 5 and 6 were never decided */
    write_log(follower, 5);
    commit(follower, 5);
    check_value(follower, "k", "early");
    CHECK_EQ_U64(look(follower).last_index, 5);
    rig_close(&rig);
}

static void entries_survive_a_cut_if_their_persist_was_done_else_a_prefix_does(void) {
    for (uint64_t bytes = 1; bytes < 1600; bytes += 53) {
        struct rig rig;
        rig_open(&rig);
        struct member *leader = &rig.members[0], *follower = &rig.members[1];
        lead(leader, 2);
        for (uint64_t i = 0; i < 8; i++) {
            put(leader, "k", "value", i);
            gather(leader);
        }
        write_log(leader, 1);
        CHECK_EQ_U64(send(leader, follower, 2, 5), BP_OK);
        write_log(follower, 1);
        bp_sim_cut_after_bytes(follower->sim, bytes);
        CHECK_EQ_U64(send(leader, follower, 6, 10), BP_OK);
        persist(follower, 5);
        bool written = bp_step_log(follower->store) > 0;
        bp_sim_cut_after_bytes(follower->sim, 0);
        member_crash(&rig, 1, bytes % 2 == 0 ? 0 : 512);
        struct bp_raft_state state = look(follower);
        CHECK(state.last_index >= 5 && state.last_index <= 10);
        CHECK(!written || state.last_index == 10);
        CHECK_EQ_U64(state.applied_index, state.commit);
        CHECK_EQ_U64(
            send(leader, follower, state.last_index + 1 < 10 ? state.last_index + 1 : 10, 10),
            BP_OK);
        write_log(follower, 10);
        commit(follower, 10);
        check_value(follower, "k", "value");
        rig_close(&rig);
    }
}

/* Several frames, one sync: what the first frame says of commit holds for it alone. */
static void a_cut_between_the_frames_of_one_round_leaves_a_prefix(void) {
    static char large[900000];
    memset(large, 'x', sizeof large - 1);
    for (uint64_t bytes = 3u << 20; bytes < 13u << 20; bytes += 1900000) {
        struct rig rig;
        rig_open(&rig);
        struct member *leader = &rig.members[0], *follower = &rig.members[1];
        lead(leader, 2);
        for (uint64_t i = 0; i < 12; i++) {
            put(leader, "k", large, i);
            gather(leader);
        }
        write_log(leader, 1);
        for (uint64_t i = 2; i <= 14; i++) {
            CHECK_EQ_U64(send(leader, follower, i, i), BP_OK);
        }
        bp_sim_cut_after_bytes(follower->sim, bytes);
        persist(follower, 14);
        (void)bp_step_log(follower->store);
        bp_sim_cut_after_bytes(follower->sim, 0);
        member_crash(&rig, 1, 1024);
        struct bp_raft_state state = look(follower);
        CHECK(state.commit <= state.last_index && state.applied_index == state.commit);
        for (uint64_t i = state.last_index + 1; i <= 14; i++) {
            CHECK_EQ_U64(send(leader, follower, i, i), BP_OK);
        }
        write_log(follower, 14);
        commit(follower, 14);
        CHECK_EQ_U64(look(follower).applied_index, 14);
        member_crash(&rig, 1, 0);
        CHECK_EQ_U64(look(follower).last_index, 14);
        commit(follower, 14); /* HARDSTATE may say less: its commit was the first frame's */
        CHECK_EQ_U64(look(follower).applied_index, 14);
        rig_close(&rig);
    }
}

/* Control: with a disk that lies about syncs the promise of the test above is not kept. */
static void a_lying_disk_loses_what_was_called_durable(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    lead(leader, 2);
    bp_sim_set_sync_lies(follower->sim, 1);
    CHECK_EQ_U64(send(leader, follower, 2, 2), BP_OK);
    write_log(follower, 1);
    bp_sim_set_sync_lies(follower->sim, 0);
    member_crash(&rig, 1, 0);
    CHECK_EQ_U64(look(follower).last_index, 1);
    rig_close(&rig);
}

static void a_checkpoint_in_the_middle_of_a_frame_loses_nothing(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    struct bp_error err = {0};
    lead(leader, 2);
    char key[16];
    for (uint64_t i = 0; i < 9; i++) {
        (void)snprintf(key, sizeof key, "k%" PRIu64, i);
        put(leader, key, "value", i);
        gather(leader);
    }
    write_log(leader, 1);
    CHECK_EQ_U64(send(leader, follower, 2, 11), BP_OK);
    write_log(follower, 1);
    for (uint64_t index = 2; index <= 11; index += 3) {
        commit(follower, index);
        CHECK_OK(bp_step_checkpoint(follower->store, 1, &err), &err);
        member_crash(&rig, 1, 0);
        struct bp_raft_state state = look(follower);
        CHECK_EQ_U64(state.applied_index, index);
        CHECK_EQ_U64(state.compacted_index, index);
        CHECK_EQ_U64(state.last_index, 11);
        for (uint64_t i = 0; i < 9; i++) {
            (void)snprintf(key, sizeof key, "k%" PRIu64, i);
            check_value(follower, key, i + 3 <= index ? "value" : NULL);
        }
    }
    rig_close(&rig);
}

/* ---- failing disks ----------------------------------------------------------------------------- */

static void a_full_disk_keeps_what_waits_and_writes_it_when_there_is_room(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    static char large[900000];
    memset(large, 'x', sizeof large - 1);
    lead(leader, 2);
    for (uint64_t i = 0; i < 12; i++) {
        put(leader, "k", large, i);
        gather(leader);
    }
    bp_sim_set_capacity(follower->sim, 12u << 20); /* one segment, and no other */
    for (uint64_t i = 2; i <= 14; i++) {
        CHECK_EQ_U64(send(leader, follower, i, i), BP_OK);
    }
    persist(follower, 1);
    CHECK_EQ_U64(bp_step_log(follower->store), 0);
    struct bp_raft_state state = look(follower);
    CHECK(state.disk_full && !state.poisoned);
    CHECK_EQ_U64(state.persisted, 0);
    CHECK_EQ_U64(state.durable_index, 1);
    bp_sim_advance_ns(follower->sim, 3000000000ull);
    CHECK(look(follower).stalled_ms >= 3000);
    CHECK_EQ_U64(bp_step_log(follower->store), 0);
    bp_sim_set_capacity(follower->sim, 0);
    CHECK(bp_step_log(follower->store) > 0);
    state = look(follower);
    CHECK_EQ_U64(state.durable_index, 14);
    CHECK_EQ_U64(state.persisted, 1);
    CHECK_EQ_U64(state.stalled_ms, 0);
    member_crash(&rig, 1, 0);
    CHECK_EQ_U64(look(follower).last_index, 14);
    rig_close(&rig);
}

static void a_failed_sync_is_never_called_durable(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    struct bp_options options = rig_options(1);
    lead(leader, 2);
    options.failpoints = "log.sync=eio";
    member_drop(follower);
    member_open(follower, &options);
    CHECK_EQ_U64(send(leader, follower, 2, 2), BP_OK);
    persist(follower, 1);
    CHECK_EQ_U64(bp_step_log(follower->store), 0);
    struct bp_raft_state state = look(follower);
    CHECK(state.poisoned);
    CHECK_EQ_U64(state.persisted, 0);
    CHECK_EQ_U64(state.durable_index, 1);
    persist(follower, 1);
    CHECK_EQ_U64(bp_step_log(follower->store), 0);
    commit(follower, 2);
    CHECK_EQ_U64(look(follower).applied_index, 1);
    rig_close(&rig);
}

/* ---- old entries ------------------------------------------------------------------------------- */

static void old_entries_are_read_from_the_log_and_checked(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0];
    struct bp_options options = rig_options(0);
    struct bp_error err = {0};
    options.raft_cache_bytes = 1;
    member_drop(leader);
    member_open(leader, &options);
    lead(leader, 2);
    put(leader, "k", "a value to be found", 1);
    gather(leader);
    struct bp_reply before, after;
    CHECK_OK(bp_raft_message(leader->store, 1, 3, &before, &err), &err);
    write_log(leader, 1);
    commit(leader, 3);
    expect(leader, 1, 0, NULL);
    CHECK_OK(bp_raft_message(leader->store, 1, 3, &after, &err), &err);
    CHECK(before.size == after.size && memcmp(before.data, after.data, after.size) == 0);
    bp_reply_free(&after);
    uint64_t size = 0;
    uint64_t found = 0;
    static uint8_t file[1u << 16];
    const char *name = "store/00000001.log";
    if (bp_sim_file_size(leader->sim, name, &size) != 0) {
        name = "store/00000002.log";
        CHECK_EQ_U64(bp_sim_file_size(leader->sim, name, &size), 0);
    }
    CHECK_EQ_U64(bp_sim_read_file(leader->sim, name, file, sizeof file, 0), 0);
    const uint8_t *at = memmem(file, sizeof file, "a value to be found", 19);
    CHECK(at != NULL);
    found = (uint64_t)(at - file);
    CHECK_EQ_U64(bp_sim_flip(leader->sim, name, found, 3), 0);
    CHECK_EQ_U64(bp_raft_message(leader->store, 1, 3, &after, &err), BP_DATA_LOSS);
    CHECK_OK(bp_raft_message(leader->store, 1, 2, &after, &err), &err);
    bp_reply_free(&after);
    CHECK_EQ_U64(bp_sim_flip(leader->sim, name, found, 3), 0);
    uint64_t reached, bytes;
    bp_raft_reach(leader->store, 1, 3, 0, &reached, &bytes);
    CHECK_EQ_U64(reached, 1);
    bp_raft_reach(leader->store, 1, 3, UINT64_MAX, &reached, &bytes);
    CHECK_EQ_U64(reached, 3);
    CHECK_EQ_U64(bytes, before.size - 12);
    bp_reply_free(&before);
    CHECK_EQ_U64(bp_raft_compact(leader->store, 3, UINT64_MAX), 0);
    CHECK_EQ_U64(bp_raft_compact(leader->store, 2, 0), 2);
    struct bp_raft_members members;
    CHECK_OK(bp_raft_membership(leader->store, 2, &members, &err), &err);
    CHECK_EQ_U64(members.voters, MEMBERS);
    CHECK_EQ_U64(bp_raft_message(leader->store, 2, 3, &after, &err), BP_OUT_OF_RANGE);
    CHECK_OK(bp_raft_message(leader->store, 3, 3, &after, &err), &err);
    bp_reply_free(&after);
    CHECK_EQ_U64(bp_raft_compact(leader->store, 99, 0), 3);
    rig_close(&rig);
}

/* Log segments that hold entries still served stay, whatever checkpoints there are. */
static void cleaning_leaves_the_segments_of_served_entries(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0];
    struct bp_error err = {0};
    struct bp_reply message;
    static char large[900000];
    memset(large, 'x', sizeof large - 1);
    lead(leader, 2);
    for (uint64_t i = 0; i < 40; i++) {
        put(leader, "k", large, i);
        gather(leader);
        write_log(leader, i + 2);
        commit(leader, i + 3);
        expect(leader, i, 0, NULL);
    }
    struct bp_builder builder;
    bp_builder_init(&builder);
    CHECK_OK(bp_submit_compact(leader->store, leader->queue, 0, 99, &err), &err);
    bp_builder_free(&builder);
    gather(leader);
    write_log(leader, 42);
    commit(leader, 43);
    expect(leader, 99, 0, NULL);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_OK(bp_step_checkpoint(leader->store, 1, &err), &err);
        while (bp_step_clean(leader->store) != 0) {
        }
    }
    struct bp_status before, after;
    bp_get_status(leader->store, &before);
    CHECK(before.log_segments >= 4);
    for (uint64_t first = 1; first <= 43; first++) {
        CHECK_OK(bp_raft_message(leader->store, first, first, &message, &err), &err);
        bp_reply_free(&message);
    }
    CHECK_EQ_U64(bp_raft_compact(leader->store, 43, 0), 43);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_OK(bp_step_checkpoint(leader->store, 1, &err), &err);
        while (bp_step_clean(leader->store) != 0) {
        }
    }
    bp_get_status(leader->store, &after);
    CHECK(after.log_segments < before.log_segments);
    check_value(leader, "none", NULL);
    rig_close(&rig);
}

/* ---- reads ------------------------------------------------------------------------------------- */

static void a_read_waits_for_its_gate_and_its_index(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    lead(leader, 2);
    CHECK_EQ_U64(bp_raft_gate(follower->store), 0);
    get(follower, "k", 1);
    CHECK(nothing_waits(follower));
    CHECK_EQ_U64(look(follower).queued_reads, 1);
    uint64_t gate = bp_raft_gate(follower->store);
    CHECK(gate != 0);
    CHECK_EQ_U64(look(follower).queued_reads, 0);
    get(follower, "k", 2); /* too late for that gate */
    put(leader, "k", "seen", 9);
    gather(leader);
    settle(&rig, 0, 2);
    CHECK(nothing_waits(follower));
    bp_raft_release(follower->store, gate, 3, 0);
    CHECK_EQ_U64(expect(follower, 1, 0, "seen"), 1);
    gate = bp_raft_gate(follower->store);
    bp_raft_release(follower->store, gate, 4, 0); /* not applied here yet */
    CHECK(nothing_waits(follower));
    put(leader, "k", "newer", 10);
    gather(leader);
    settle(&rig, 0, 4);
    CHECK_EQ_U64(expect(follower, 2, 0, "newer"), 1);
    get(follower, "k", 3);
    bp_raft_release(follower->store, bp_raft_gate(follower->store), 0, 1);
    expect(follower, 3, BP_REASON_NO_LEADER, NULL);
    rig_close(&rig);
}

static bool is_told(const struct member *member) {
    struct pollfd poll_one = {.fd = bp_raft_fd(member->store), .events = POLLIN};
    return poll(&poll_one, 1, 0) == 1;
}

static void what_is_held_is_told_when_it_is_held_no_more(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0];
    lead(leader, 2);
    (void)look(leader);
    CHECK(!is_told(leader));
    bp_raft_hold(leader->store, 1000, 3, 1);
    put(leader, "k", "v", 1);
    get(leader, "k", 2);
    CHECK(!is_told(leader));
    char large[1000];
    memset(large, 'v', sizeof large - 1);
    large[sizeof large - 1] = 0;
    put(leader, "large", large, 3);
    CHECK(is_told(leader));
    CHECK_EQ_U64(look(leader).queued_writes, 2);
    bp_raft_hold(leader->store, 1 << 20, 3, 1);
    CHECK(!is_told(leader));
    bp_raft_hold(leader->store, 1 << 20, 3, 0);
    CHECK(is_told(leader));
    (void)look(leader);
    bp_raft_hold(leader->store, 1 << 20, 3, 1);
    bp_raft_hold(leader->store, 0, 3, 1);
    CHECK(is_told(leader));
    (void)look(leader);
    bp_raft_hold(leader->store, 1 << 20, 3, 1);
    CHECK(!is_told(leader));
    put(leader, "k", "v", 4);
    CHECK(is_told(leader));
    CHECK_EQ_U64(look(leader).queued_arrivals, 3);
    bp_raft_hold(leader->store, 1 << 20, 4, 1);
    CHECK(!is_told(leader));
    bp_raft_hold(leader->store, 1 << 20, 3, 1);
    CHECK(is_told(leader));
    gather(leader);
    CHECK_EQ_U64(look(leader).queued_arrivals, 0);
    rig_close(&rig);
}

static void reads_of_a_frame_see_the_writes_before_them(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0];
    struct bp_error err = {0};
    lead(leader, 2);
    struct bp_buffer frame = {0};
    test_frame_op(&frame, 1, TEST_FRAME_PUT, "k", "one", false);
    test_frame_op(&frame, 2, TEST_FRAME_GET, "k", NULL, false);
    test_frame_op(&frame, 3, TEST_FRAME_PUT, "k", "two", false);
    test_frame_op(&frame, 4, TEST_FRAME_GET, "k", NULL, false);
    CHECK_OK(bp_submit_frame(leader->store, leader->queue, 'u', frame.data, frame.size, 5, &err),
             &err);
    bp_buffer_free(&frame);
    gather(leader);
    CHECK(nothing_waits(leader));
    settle(&rig, 0, 2);
    struct bp_completion done = test_take(leader->queue);
    CHECK_EQ_U64(test_count_in(&done.reply, "one"), 1);
    CHECK_EQ_U64(test_count_in(&done.reply, "two"), 1);
    bp_completion_free(&done);
    test_frame_op(&frame, 1, TEST_FRAME_GET, "k", NULL, false); /* reads alone: a gate */
    CHECK_OK(bp_submit_frame(leader->store, leader->queue, 'u', frame.data, frame.size, 6, &err),
             &err);
    bp_buffer_free(&frame);
    CHECK_EQ_U64(gather(leader), 0);
    CHECK_EQ_U64(look(leader).queued_reads, 1);
    bp_raft_release(leader->store, bp_raft_gate(leader->store), 3, 0);
    CHECK_EQ_U64(expect(leader, 6, 0, "two"), 1);
    rig_close(&rig);
}

/* ---- forwarding -------------------------------------------------------------------------------- */

/* One batch of the follower at the leader, gathered there; its number. */
static uint64_t forward(struct member *follower, struct member *leader, uint64_t cookie) {
    struct bp_reply batch;
    struct bp_error err = {0};
    uint64_t number = bp_raft_forward(follower->store, 1u << 20, &batch);
    CHECK(number != 0);
    CHECK_OK(bp_raft_forwarded(leader->store, leader->queue, batch.data, batch.size, cookie, &err),
             &err);
    bp_reply_free(&batch);
    return number;
}

static void bring_back(struct member *leader, struct member *follower, uint64_t cookie) {
    struct bp_completion done = test_take(leader->queue);
    struct bp_error err = {0};
    CHECK_EQ_U64(done.cookie, cookie);
    CHECK_OK(bp_raft_answer(follower->store, done.reply.data, done.reply.size, &err), &err);
    bp_completion_free(&done);
}

static void a_forwarded_write_is_answered_from_where_it_came(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    lead(leader, 2);
    settle(&rig, 0, 2);
    put(follower, "k", "first", 1);
    CHECK_EQ_U64(look(follower).queued_writes, 1);
    forward(follower, leader, 100);
    CHECK_EQ_U64(look(follower).queued_writes, 0);
    put(follower, "k", "second", 2);
    forward(follower, leader, 101);
    CHECK_EQ_U64(gather(leader), 1);
    write_log(leader, 2);
    commit(leader, 3);
    bring_back(leader, follower, 100);
    bring_back(leader, follower, 101);
    CHECK(nothing_waits(follower)); /* not applied here yet: its client could not read it */
    replicate(leader, follower, 3);
    commit(follower, 3);
    CHECK_EQ_U64(expect(follower, 1, 0, "first"), 0);
    CHECK_EQ_U64(expect(follower, 2, 0, "first"), 1); /* what it replaced, from history here */
    rig_close(&rig);
}

static void a_forwarded_frame_keeps_its_order_and_its_reads(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    struct bp_error err = {0};
    lead(leader, 2);
    settle(&rig, 0, 2);
    struct bp_buffer frame = {0};
    test_frame_op(&frame, 1, TEST_FRAME_PUT, "k", "one", false);
    test_frame_op(&frame, 2, TEST_FRAME_GET, "k", NULL, false);
    test_frame_op(&frame, 3, TEST_FRAME_PUT, "k", "two", false);
    test_frame_op(&frame, 4, TEST_FRAME_GET, "k", NULL, false);
    CHECK_OK(
        bp_submit_frame(follower->store, follower->queue, 'u', frame.data, frame.size, 5, &err),
        &err);
    forward(follower, leader, 100);
    gather(leader);
    settle(&rig, 0, 3);
    bring_back(leader, follower, 100);
    struct bp_completion done = test_take(follower->queue);
    CHECK_EQ_U64(test_count_in(&done.reply, "one"), 1);
    CHECK_EQ_U64(test_count_in(&done.reply, "two"), 1);
    bp_completion_free(&done);
    bp_buffer_free(&frame);
    /* Reads alone: their place is a gate's at the leader. */
    test_frame_op(&frame, 1, TEST_FRAME_GET, "k", NULL, false);
    CHECK_OK(
        bp_submit_frame(follower->store, follower->queue, 'u', frame.data, frame.size, 6, &err),
        &err);
    bp_buffer_free(&frame);
    forward(follower, leader, 101);
    CHECK_EQ_U64(gather(leader), 0);
    bp_raft_release(leader->store, bp_raft_gate(leader->store), 3, 0);
    bring_back(leader, follower, 101);
    CHECK_EQ_U64(expect(follower, 6, 0, "two"), 1);
    rig_close(&rig);
}

static void lease_calls_are_answered_by_the_leaders_clock(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    lead(leader, 2);
    grant(follower, 77, 10, 1);
    forward(follower, leader, 100);
    gather(leader);
    settle(&rig, 0, 2);
    bring_back(leader, follower, 100);
    expect(follower, 1, 0, NULL);
    bp_sim_advance_ns(leader->sim, 8000000000ull);
    keep_alive(follower, 77, 2);
    keep_alive(follower, 78, 3);
    CHECK_EQ_U64(bp_raft_gate(follower->store), 0);
    forward(follower, leader, 101);
    CHECK_EQ_U64(gather(leader), 0);
    bp_raft_release(leader->store, bp_raft_gate(leader->store), 3, 0);
    bring_back(leader, follower, 101);
    CHECK_EQ_U64(expect(follower, 2, 0, "\x18\x0a"), 1); /* ttl_seconds: 10 */
    CHECK_EQ_U64(expect(follower, 3, 0, "\x18\x0a"), 0); /* no such lease */
    bp_sim_advance_ns(leader->sim, 8000000000ull);
    bp_step_tick(leader->store);
    CHECK_EQ_U64(look(leader).queued_writes, 0); /* kept alive */
    bp_sim_advance_ns(follower->sim, 60000000000ull);
    bp_step_tick(follower->store);
    CHECK_EQ_U64(look(follower).queued_writes, 0); /* a follower's clock ends no lease */
    bp_sim_advance_ns(leader->sim, 3000000000ull);
    bp_step_tick(leader->store);
    CHECK_EQ_U64(look(leader).queued_writes, 1);
    follow(leader, 3); /* and who leads no more ends none either */
    CHECK_EQ_U64(look(leader).queued_writes, 0);
    keep_alive(leader, 77, 4);
    CHECK_EQ_U64(look(leader).queued_reads, 0);
    CHECK_EQ_U64(look(leader).queued_writes, 1);
    lead(follower, 4); /* a new leader gives it its whole time */
    keep_alive(follower, 77, 5);
    bp_raft_release(follower->store, bp_raft_gate(follower->store), 1, 0);
    CHECK_EQ_U64(expect(follower, 5, 0, "\x18\x0a"), 1);
    rig_close(&rig);
}

static void a_follower_that_cannot_store_gives_up_what_waits_for_that(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    lead(leader, 2);
    settle(&rig, 0, 2);
    put(follower, "k", "done", 1);
    forward(follower, leader, 100);
    gather(leader);
    write_log(leader, 2);
    commit(leader, 3);
    bring_back(leader, follower, 100);
    get(follower, "k", 2);
    bp_raft_release(follower->store, bp_raft_gate(follower->store), 3, 0);
    put(follower, "k", "never", 3);
    CHECK(nothing_waits(follower));
    bp_raft_give_up(follower->store);
    struct bp_completion done;
    int reasons[4] = {0};
    for (int i = 0; i < 3; i++) {
        done = test_take(follower->queue);
        CHECK(done.error != NULL && done.error->code == BP_UNAVAILABLE && done.cookie < 4);
        reasons[done.cookie] = done.error->reason;
        bp_completion_free(&done);
    }
    CHECK_EQ_U64(reasons[1], BP_REASON_LEADER_LOST);
    CHECK_EQ_U64(reasons[2], BP_REASON_NO_LEADER);
    CHECK_EQ_U64(reasons[3], BP_REASON_NO_LEADER);
    CHECK_EQ_U64(look(follower).queued_writes, 0);
    replicate(leader, follower, 3);
    commit(follower, 3);
    check_value(follower, "k", "done");
    CHECK(nothing_waits(follower));
    rig_close(&rig);
}

static void a_batch_that_fails_says_what_is_known(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    struct bp_reply batch;
    struct bp_error err = {0};
    put(follower, "k", "v", 1);
    uint64_t number = bp_raft_forward(follower->store, 1u << 20, &batch);
    CHECK_EQ_U64(bp_raft_forwarded(leader->store, leader->queue, batch.data, batch.size, 9, &err),
                 BP_UNAVAILABLE);
    CHECK_EQ_U64(err.reason, BP_REASON_NO_LEADER);
    bp_raft_forward_failed(follower->store, number, 0);
    expect(follower, 1, BP_REASON_NO_LEADER, NULL);
    lead(leader, 2);
    for (uint64_t i = 0; i < batch.size; i++) {
        batch.data[i] ^= 1;
        CHECK_EQ_U64(
            bp_raft_forwarded(leader->store, leader->queue, batch.data, batch.size, 9, &err),
            BP_DATA_LOSS);
        batch.data[i] ^= 1;
    }
    bp_reply_free(&batch);
    put(follower, "k", "v", 2);
    number = forward(follower, leader, 100);
    gather(leader);
    bp_raft_forward_failed(follower->store, number, 1);
    expect(follower, 2, BP_REASON_LEADER_LOST, NULL);
    settle(&rig, 0, 2);
    bring_back(leader, follower, 100); /* too late, and no harm */
    check_value(follower, "k", "v");
    put(follower, "k", "w", 3);
    forward(follower, leader, 101);
    gather(leader);
    follow(leader, 3); /* the leader is none any more: its answer says so */
    bring_back(leader, follower, 101);
    expect(follower, 3, BP_REASON_LEADER_LOST, NULL);
    rig_close(&rig);
}

/* ---- joining, taking, closing ------------------------------------------------------------------ */

static void who_joins_gets_everything_from_the_leader(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], joined = {.sim = bp_sim_new(9)};
    struct bp_error err = {0};
    lead(leader, 2);
    put(leader, "k", "v", 1);
    gather(leader);
    struct bp_raft_members members = {.voters = 3, .learners = 1, .members = {11, 22, 33, 44}};
    struct bp_raft_entry entry;
    CHECK_OK(bp_raft_propose(leader->store, 2, &members, &entry, &err), &err);
    CHECK_EQ_U64(entry.index, 4);
    settle(&rig, 0, 2);
    CHECK_EQ_U64(look(leader).members.learners, 1);
    struct bp_options options = test_options();
    options.joining = 1;
    options.member_id = 44;
    memset(options.cluster_id, 7, sizeof options.cluster_id);
    member_open(&joined, &options);
    CHECK_EQ_U64(look(&joined).last_index, 0);
    CHECK_OK(bp_step_checkpoint(joined.store, 1, &err), &err); /* of nothing: none */
    member_drop(&joined);
    bp_sim_power_cut(joined.sim, 0);
    options = test_options();
    member_open(&joined, &options); /* it knows by itself whose it is */
    CHECK_EQ_U64(look(&joined).member_id, 44);
    CHECK_EQ_U64(look(&joined).last_index, 0);
    replicate(leader, &joined, 1);
    commit(&joined, 4);
    check_value(&joined, "k", "v");
    CHECK_EQ_U64(look(&joined).members.members[3], 44);
    member_drop(&joined);
    member_open(&joined, &options);
    CHECK_EQ_U64(look(&joined).member_id, 44);
    CHECK_EQ_U64(look(&joined).last_index, 4);
    member_drop(&joined);
    bp_sim_free(joined.sim);
    rig_close(&rig);
}

static void a_single_member_is_taken_while_it_runs(void) {
    struct member single = {.sim = bp_sim_new(4)};
    struct bp_options options = test_options();
    struct bp_error err = {0};
    single.store = test_must_open(single.sim, &options);
    single.queue = bp_queue_new(single.store);
    CHECK_EQ_U64(bp_raft_fd(single.store), (uint64_t)-1);
    CHECK_EQ_U64(test_put(single.store, "a", "1", NULL), BP_OK);
    put(&single, "b", "2", 1); /* queued */
    CHECK_OK(bp_raft_take(single.store, &err), &err);
    CHECK_OK(bp_raft_take(single.store, &err), &err);
    struct bp_raft_state state = look(&single);
    CHECK_EQ_U64(state.applied_index, state.last_index);
    CHECK_EQ_U64(state.compacted_index, state.last_index);
    CHECK_EQ_U64(state.queued_writes, 1);
    CHECK_EQ_U64(bp_step_drive(single.store), 0);
    single.term = state.term;
    lead(&single, state.term + 1);
    CHECK_EQ_U64(gather(&single), 1);
    write_log(&single, state.last_index + 1);
    commit(&single, state.last_index + 2);
    expect(&single, 1, 0, NULL);
    CHECK_EQ_U64(test_put(single.store, "c", "3", NULL), BP_FAILED_PRECONDITION); /* stepped */
    member_drop(&single);
    bp_sim_power_cut(single.sim, 0);
    single.store = test_must_open(single.sim, &options); /* alone again: all of it is committed */
    CHECK_EQ_U64(bp_raft_fd(single.store), (uint64_t)-1);
    check_value(&single, "a", "1");
    check_value(&single, "b", "2");
    single.queue = bp_queue_new(single.store);
    member_drop(&single);
    options.clustered = 1;
    member_open(&single, &options);
    state = look(&single);
    CHECK(state.applied_index < state.last_index); /* Raft says what is committed now */
    commit(&single, state.last_index);
    check_value(&single, "b", "2");
    member_drop(&single);
    options.interval_ms = 5;
    CHECK_EQ_U64(bp_open_sim(&options, single.sim, &single.store, &err), BP_FAILED_PRECONDITION);
    bp_sim_free(single.sim);
}

static void a_second_member_makes_the_store_one_that_rejoins(void) {
    struct member single = {.sim = bp_sim_new(4)};
    struct bp_options options = test_options();
    struct bp_error err = {0};
    options.clustered = 1;
    member_open(&single, &options);
    uint64_t own = look(&single).member_id;
    lead(&single, 2);
    struct bp_raft_members members = {.voters = 1, .learners = 1, .members = {own, 44}};
    struct bp_raft_entry entry;
    CHECK_OK(bp_raft_propose(single.store, 2, &members, &entry, &err), &err);
    put(&single, "k", "v", 1);
    gather(&single);
    write_log(&single, 1);
    member_drop(&single);
    bp_sim_power_cut(single.sim, 0);
    options = test_options();
    member_open(&single, &options); /* not asked to be clustered, and is */
    struct bp_raft_state state = look(&single);
    CHECK_EQ_U64(state.member_id, own);
    CHECK_EQ_U64(state.applied_index, 1);
    CHECK_EQ_U64(state.last_index, 4);
    CHECK_EQ_U64(state.members.learners, 0);
    struct bp_raft_members found;
    CHECK_OK(bp_raft_membership(single.store, 3, &found, &err), &err);
    CHECK_EQ_U64(found.learners, 1);
    CHECK_EQ_U64(bp_raft_membership(single.store, 2, &found, &err), BP_NOT_FOUND);
    struct bp_raft_entry entries[8];
    CHECK_EQ_U64(bp_raft_entries(single.store, 2, entries, 8), 3);
    CHECK_EQ_U64(entries[1].type, BP_ENTRY_CONFIG);
    commit(&single, 4);
    CHECK_EQ_U64(look(&single).members.learners, 1);
    member_drop(&single);
    bp_sim_free(single.sim);
}

static void durability_by_interval_is_for_one_member_alone(void) {
    struct rig rig;
    rig_open(&rig);
    struct bp_error err = {0};
    struct bp_options options = test_options();
    struct member single = {.sim = bp_sim_new(4)};
    member_drop(&rig.members[1]);
    options.interval_ms = 5; /* and no word of a cluster: the directory knows */
    CHECK_EQ_U64(bp_open_sim(&options, rig.members[1].sim, &rig.members[1].store, &err),
                 BP_FAILED_PRECONDITION);
    options = rig_options(1);
    member_open(&rig.members[1], &options);
    options = test_options();
    options.interval_ms = 5;
    single.store = test_must_open(single.sim, &options);
    CHECK_EQ_U64(bp_raft_take(single.store, &err), BP_FAILED_PRECONDITION);
    uint64_t revision = 0;
    CHECK_EQ_U64(test_put(single.store, "k", "v", &revision), BP_OK);
    bp_store_abandon(single.store); /* some of its revisions may be lost: they jump */
    bp_sim_power_cut(single.sim, 0);
    options = test_options();
    options.clustered = 1;
    member_open(&single, &options);
    struct bp_status status;
    bp_get_status(single.store, &status);
    CHECK(status.revision >= revision + (1ull << 32));
    member_drop(&single);
    bp_sim_free(single.sim);
    rig_close(&rig);
}

static void closing_answers_everything_that_waits(void) {
    struct rig rig;
    rig_open(&rig);
    struct member *leader = &rig.members[0], *follower = &rig.members[1];
    struct bp_error err = {0};
    struct bp_reply batch;
    lead(leader, 2);
    put(leader, "k", "v", 1);
    gather(leader);
    put(leader, "k", "v", 2);
    get(leader, "k", 3);
    CHECK(bp_raft_gate(leader->store) != 0);
    get(leader, "k", 4);
    keep_alive(leader, 5, 5);
    put(follower, "k", "v", 6);
    CHECK(bp_raft_forward(follower->store, 1u << 20, &batch) != 0);
    bp_reply_free(&batch);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_OK(bp_close(rig.members[i].store, &err), &err);
    }
    for (uint32_t i = 0; i < 5; i++) {
        struct bp_completion done = test_take(leader->queue);
        CHECK_EQ_U64(done.error->reason, BP_REASON_STORE_CLOSED);
        bp_completion_free(&done);
    }
    expect(follower, 6, BP_REASON_STORE_CLOSED, NULL);
    for (uint32_t i = 0; i < 2; i++) {
        bp_queue_free(rig.members[i].queue);
        bp_sim_free(rig.members[i].sim);
    }
    member_drop(&rig.members[2]);
    bp_sim_free(rig.members[2].sim);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(a_cluster_is_founded_alike_on_each_member);
    RUN(a_write_is_answered_when_it_is_durable_committed_and_applied);
    RUN(a_member_applies_nothing_that_is_not_durable_on_it);
    RUN(many_entries_go_to_the_log_with_one_sync);
    RUN(writes_of_a_superseded_suffix_fail_and_leave_nothing);
    RUN(who_leads_no_more_fails_its_writes_but_applies_them_if_they_were_decided);
    RUN(what_is_durable_is_told_by_index_and_term);
    RUN(superseding_while_both_wait_for_the_log_writes_the_last_word);
    RUN(committed_entries_are_never_superseded);
    RUN(a_damaged_or_strange_message_changes_nothing);
    RUN(a_restart_applies_what_is_committed_and_keeps_the_rest_as_log);
    RUN(entries_survive_a_cut_if_their_persist_was_done_else_a_prefix_does);
    RUN(a_cut_between_the_frames_of_one_round_leaves_a_prefix);
    RUN(a_lying_disk_loses_what_was_called_durable);
    RUN(a_checkpoint_in_the_middle_of_a_frame_loses_nothing);
    RUN(a_full_disk_keeps_what_waits_and_writes_it_when_there_is_room);
    RUN(a_failed_sync_is_never_called_durable);
    RUN(old_entries_are_read_from_the_log_and_checked);
    RUN(cleaning_leaves_the_segments_of_served_entries);
    RUN(a_read_waits_for_its_gate_and_its_index);
    RUN(what_is_held_is_told_when_it_is_held_no_more);
    RUN(reads_of_a_frame_see_the_writes_before_them);
    RUN(a_forwarded_write_is_answered_from_where_it_came);
    RUN(a_forwarded_frame_keeps_its_order_and_its_reads);
    RUN(lease_calls_are_answered_by_the_leaders_clock);
    RUN(a_batch_that_fails_says_what_is_known);
    RUN(a_follower_that_cannot_store_gives_up_what_waits_for_that);
    RUN(who_joins_gets_everything_from_the_leader);
    RUN(a_single_member_is_taken_while_it_runs);
    RUN(a_second_member_makes_the_store_one_that_rejoins);
    RUN(durability_by_interval_is_for_one_member_alone);
    RUN(closing_answers_everything_that_waits);
    TESTS_END;
}

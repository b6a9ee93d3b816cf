/* Disaster: one survivor of a cluster becomes a cluster of its own, and forgets nothing it held. */
#include "../src/store_files.h"
#include "../src/store_open.h"
#include "raft_rig.h"
#include "store_util.h"

static struct bp_options survivor_options(void) {
    struct bp_options options = test_options();
    options.dir = rig_options(0).dir;
    return options;
}

static struct bp_recovered recover(struct bp_sim *sim) {
    struct bp_recovered recovered;
    struct bp_error err = {0};
    struct bp_options options = survivor_options();
    CHECK_OK(bp_recover_on(test_disk(sim), &options, &recovered, &err), &err);
    return recovered;
}

static int refused(struct bp_sim *sim, struct bp_error *err) {
    struct bp_recovered recovered;
    struct bp_options options = survivor_options();
    return bp_recover_on(test_disk(sim), &options, &recovered, err);
}

/* k=v is committed everywhere, late=v is in the first member's log and nowhere else. */
static void open_with_a_late_write(struct rig *rig) {
    rig_open(rig);
    struct member *leader = &rig->members[0];
    lead(leader, 2);
    put(leader, "k", "v", 5);
    gather(leader);
    replicate(leader, &rig->members[1], 2);
    write_log(leader, 1);
    commit(leader, 3);
    CHECK_EQ_U64(expect(leader, 5, 0, "v"), 0);
    put(leader, "late", "v", 6);
    gather(leader);
    write_log(leader, 3);
    check_value(leader, "late", NULL);
}

static void close_others(struct rig *rig) {
    for (uint32_t i = 0; i < MEMBERS; i++) {
        member_drop(&rig->members[i]);
    }
}

static void free_sims(struct rig *rig) {
    for (uint32_t i = 0; i < MEMBERS; i++) {
        bp_sim_free(rig->members[i].sim);
    }
}

static void what_a_survivor_held_is_committed_in_a_cluster_of_its_own(void) {
    struct rig rig;
    open_with_a_late_write(&rig);
    struct bp_raft_state before = look(&rig.members[0]);
    uint8_t old_cluster[16];
    memcpy(old_cluster, rig_options(0).cluster_id, sizeof old_cluster);
    close_others(&rig);
    struct bp_sim *sim = rig.members[0].sim;
    struct bp_recovered recovered = recover(sim);
    CHECK(memcmp(recovered.cluster_id, old_cluster, sizeof old_cluster) != 0);
    CHECK_EQ_U64(recovered.member_id, member_ids[0]);
    CHECK(recovered.revision >= 1ull << 32);

    struct bp_options options = survivor_options();
    struct bp_store *store = test_must_open(sim, &options);
    char value[16];
    CHECK(test_get(store, "k", value, sizeof value) && strcmp(value, "v") == 0);
    CHECK(test_get(store, "late", value, sizeof value) && strcmp(value, "v") == 0);
    struct bp_status status;
    bp_get_status(store, &status);
    CHECK(memcmp(status.cluster_id, recovered.cluster_id, sizeof status.cluster_id) == 0);
    CHECK_EQ_U64(status.member_id, member_ids[0]);
    CHECK(status.term > before.term);
    CHECK_EQ_U64(status.recovery_entries, 0); /* nothing of the old cluster is replayed */
    uint64_t revision;
    CHECK_EQ_U64(test_put(store, "k", "new", &revision), BP_OK); /* alone: it is its own majority */
    CHECK(revision > recovered.revision);
    store = test_reopen(sim, &options, store);
    CHECK(test_get(store, "k", value, sizeof value) && strcmp(value, "new") == 0);
    bp_store_abandon(store);
    free_sims(&rig);
}

/* A checkpoint of the old cluster is one of the two that are kept. */
static void the_old_clusters_checkpoint_does_not_bring_it_back(void) {
    struct rig rig;
    open_with_a_late_write(&rig);
    struct bp_error err = {0};
    CHECK_OK(bp_step_checkpoint(rig.members[0].store, 1, &err), &err);
    close_others(&rig);
    struct bp_sim *sim = rig.members[0].sim;
    struct bp_recovered recovered = recover(sim);
    struct bp_options options = survivor_options();
    struct bp_store *store = test_must_open(sim, &options);
    char newest[BP_PATH_MAX + 32];
    (void)snprintf(newest, sizeof newest, "%s/%016llx.ckpt", store->dir,
                   (unsigned long long)store->keeper.checkpoints[0].number);
    bp_store_abandon(store);
    bp_sim_flip(sim, newest, 4200, 1);
    store = test_must_open(sim, &options);
    struct bp_status status;
    bp_get_status(store, &status);
    CHECK(memcmp(status.cluster_id, recovered.cluster_id, sizeof status.cluster_id) == 0);
    CHECK_EQ_U64(store->system.voters, 1);
    char value[16];
    CHECK(test_get(store, "late", value, sizeof value));
    bp_store_abandon(store);
    free_sims(&rig);
}

/* The power goes after so many bytes of a recovery; whether it was complete by then. */
static bool cut_after(uint64_t bytes, uint32_t *old, uint32_t *new) {
    struct rig rig;
    open_with_a_late_write(&rig);
    close_others(&rig);
    struct bp_sim *sim = rig.members[0].sim;
    struct bp_error err = {0};
    bp_sim_cut_after_bytes(sim, bytes);
    bool complete = refused(sim, &err) == BP_OK;
    bp_sim_power_cut(sim, 512);
    struct bp_options options = rig_options(0);
    struct bp_store *store = test_must_open(sim, &options);
    bool is_new = store->system.voters == 1;
    *old += !is_new;
    *new += is_new;
    CHECK(is_new || !complete);
    CHECK((memcmp(store->system.cluster_id, options.cluster_id, 16) == 0) == !is_new);
    CHECK_EQ_U64(store->member_id, member_ids[0]);
    bp_store_abandon(store);
    (void)recover(sim); /* another try ends what the first began */
    store = test_must_open(sim, &options);
    CHECK_EQ_U64(store->system.voters, 1);
    char value[16];
    CHECK(test_get(store, "k", value, sizeof value));
    bp_store_abandon(store);
    free_sims(&rig);
    return complete;
}

static void a_power_cut_anywhere_leaves_the_old_cluster_or_the_new_one(void) {
    uint32_t old = 0, new = 0;
    uint64_t bytes = 1;
    while (!cut_after(bytes, &old, &new)) {
        bytes += 31;
        CHECK(bytes < 1 << 20);
    }
    CHECK(old > 10 && new > 10);
}

static void what_is_no_members_directory_is_refused_and_left_alone(void) {
    struct bp_sim *sim = bp_sim_new(7);
    struct bp_error err = {0};
    CHECK(refused(sim, &err) != BP_OK);
    struct bp_store_files files;
    struct bp_options options = survivor_options();
    struct bp_disk *disk = test_disk(sim);
    CHECK(bp_store_files_list(disk, options.dir, &files, &err) != BP_OK || !files.creating);
    bp_disk_free(disk);

    options.joining = 1;
    options.member_id = 9;
    memset(options.cluster_id, 7, sizeof options.cluster_id);
    struct bp_store *store = test_must_open(sim, &options);
    CHECK_EQ_U64((uint64_t)refused(sim, &err), BP_FAILED_PRECONDITION); /* open elsewhere */
    CHECK_EQ_U64((uint64_t)err.reason, BP_REASON_STORE_LOCKED);
    bp_store_abandon(store);
    CHECK_EQ_U64((uint64_t)refused(sim, &err), BP_FAILED_PRECONDITION); /* it holds nothing */
    bp_sim_free(sim);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(what_a_survivor_held_is_committed_in_a_cluster_of_its_own);
    RUN(the_old_clusters_checkpoint_does_not_bring_it_back);
    RUN(a_power_cut_anywhere_leaves_the_old_cluster_or_the_new_one);
    RUN(what_is_no_members_directory_is_refused_and_left_alone);
    TESTS_END;
}

/*
 * The cut of a checkpoint: what is copied while writers wait.
 *
 *   under `apply`   pin the compaction revision; copy META, leases, request ids
 *   later           versions between the pin and the cut's revision are still in the index
 *
 * Writers wait for these copies only, in memory that was taken before; where the request-id table
 * outgrew it, the cut is tried again with more.
 */
#include <stdlib.h>

#include "checkpoint_internal.h"
#include "raft.h"

#define CUT_ATTEMPTS 16u

/* Of a cluster's member the log thread's, see below. */
static struct bp_hardstate hardstate_alone(struct bp_store *store) {
    return bp_raft_of(store) != NULL ? (struct bp_hardstate){0} : bp_log_hardstate(store->log);
}

/*
 * In a cluster the log goes on behind what is applied: replay starts at the frame of the next
 * entry, and what the versions lie in reaches further.
 */
static void copy_place(struct bp_raft *raft, struct bp_ckpt_meta *meta) {
    struct bp_raft_cut cut;
    bp_raft_cut(raft, &cut);
    meta->start = cut.start;
    meta->start_sequence = cut.sequence;
    meta->durable = cut.durable;
    meta->raft_compacted_index = cut.compacted_index;
    meta->hardstate = cut.hardstate;
}

static void copy_meta(struct bp_store *store, struct bp_ckpt_cut *cut) {
    struct bp_ckpt_meta *meta = &cut->meta;
    *meta = (struct bp_ckpt_meta){
        .applied_index = store->applied_index,
        .applied_term = store->applied_term,
        .next_revision = store->next_revision,
        .compaction_revision = store->compaction_revision,
        .start = store->applied_end,
        .start_sequence = store->applied_sequence,
        .raft_compacted_index = store->applied_index,
        .hardstate = hardstate_alone(store),
        .member_id = store->member_id,
        .compaction_hash = {store->compaction_hash[0], store->compaction_hash[1]},
        .compaction_hash_index = store->compaction_hash_index,
        .system = store->system,
    };
    struct bp_raft *raft = bp_raft_of(store);
    if (raft != NULL) {
        copy_place(raft, meta);
    }
    if (meta->hardstate.commit < meta->applied_index) {
        meta->hardstate.commit = meta->applied_index; /* what was applied was committed */
    }
    bp_index_state_hash(store->index, meta->state_hash);
    cut->log_bytes = atomic_load(&store->bytes_since_checkpoint);
}

static void copy_request_ids(const struct bp_store *store, struct bp_ckpt_cut *cut) {
    for (uint64_t i = 0; i < cut->n_request_ids; i++) {
        cut->request_ids[i] = *bp_request_ids_at(store->request_ids, i);
    }
}

/* The copy, in memory that was taken before. False: the request-id table has outgrown it. */
static bool cut_locked(struct bp_store *store, enum bp_pin_kind kind, struct bp_ckpt_cut *cut,
                       uint64_t capacity, int *code, struct bp_error *err) {
    cut->n_request_ids = bp_request_ids_count(store->request_ids);
    if (cut->n_request_ids > capacity) {
        return false;
    }
    uint64_t pinned = store->compaction_revision > 0 ? store->compaction_revision : 1;
    *code = bp_pins_add(store, kind, pinned, &cut->pin, err);
    if (*code != BP_OK) {
        return true;
    }
    copy_meta(store, cut);
    copy_request_ids(store, cut);
    cut->leases = bp_leases_snapshot(store->leases, &cut->n_leases);
    if (cut->leases == NULL && cut->n_leases > 0) {
        bp_pins_remove(store, cut->pin);
        *code = bp_ckpt_no_memory(err);
    }
    return true;
}

int bp_ckpt_cut_take(struct bp_store *store, enum bp_pin_kind kind, struct bp_ckpt_cut *cut,
                     struct bp_error *err) {
    *cut = (struct bp_ckpt_cut){0};
    uint64_t capacity = 0;
    for (uint32_t attempt = 0; attempt < CUT_ATTEMPTS; attempt++) {
        int code = BP_OK;
        pthread_mutex_lock(&store->apply);
        bool done = cut_locked(store, kind, cut, capacity, &code, err);
        pthread_mutex_unlock(&store->apply);
        if (done) {
            if (code != BP_OK) {
                free(cut->request_ids);
            }
            return code;
        }
        free(cut->request_ids); /* room for what may come until the next attempt */
        capacity = cut->n_request_ids + cut->n_request_ids / 4 + 1024;
        cut->request_ids = malloc(capacity * sizeof *cut->request_ids);
        if (cut->request_ids == NULL) {
            return bp_ckpt_no_memory(err);
        }
    }
    free(cut->request_ids);
    return bp_fail(err, BP_UNAVAILABLE, BP_REASON_OUT_OF_MEMORY,
                   "the request-id table grows too fast to be copied");
}

void bp_ckpt_cut_drop(struct bp_store *store, struct bp_ckpt_cut *cut) {
    bp_pins_remove(store, cut->pin);
    free(cut->leases);
    free(cut->request_ids);
}

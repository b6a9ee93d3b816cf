/*
 * The apply thread: committed and durable entries become state, in order.
 *
 *   pick     entries (applied, min(committed, durable)], a round's worth, with their bytes
 *   apply    under store->apply, as everywhere; outcomes to the tickets of a leader's group; the
 *            reads of a group are placed behind its last entry
 *   publish  then: groups answered, gates opened, forwarded batches answered
 *
 * Invariants
 *   - An entry is applied with the place that the log has it at, or its values would be nowhere.
 *   - An entry that is committed is never superseded, so what was picked stays what it is.
 *   - A group being applied is `busy`: it is answered here, whatever becomes of leadership
 *     meanwhile.
 *   - An entry that cannot be applied ends applying for good (damage): nothing behind it may be
 *     decided.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "raft.h"

#define ROUND_ENTRIES 64u
#define ROUND_BYTES (4u << 20)

struct round {
    struct bp_entry entries[ROUND_ENTRIES];
    struct bp_blob *blobs[ROUND_ENTRIES]; /* held */
    struct bp_raft_group *groups[ROUND_ENTRIES];
    uint32_t n;
};

static uint64_t applicable(const struct bp_raft *raft) {
    uint64_t durable = raft->table.durable;
    return raft->damaged ? raft->applied : raft->committed < durable ? raft->committed : durable;
}

static void pick(struct bp_raft *raft, struct round *round) {
    uint64_t bytes = 0;
    round->n = 0;
    pthread_mutex_lock(&raft->mutex);
    uint64_t last = applicable(raft);
    for (uint64_t i = raft->applied + 1; i <= last && round->n < ROUND_ENTRIES; i++) {
        struct bp_slot *slot = bp_table_slot(&raft->table, i);
        assert(slot != NULL && (slot->blob != NULL || slot->size == 0));
        if (round->n > 0 && bytes + slot->size > ROUND_BYTES) {
            break;
        }
        bytes += slot->size;
        bp_slot_entry(slot, i, &round->entries[round->n]);
        round->blobs[round->n] = bp_blob_hold(slot->blob);
        round->groups[round->n++] = slot->group;
        if (slot->group != NULL) {
            slot->group->busy = true;
        }
    }
    pthread_mutex_unlock(&raft->mutex);
}

/* ---- applying -------------------------------------------------------------------------------- */

static int apply_one(struct bp_store *store, const struct bp_entry *entry,
                     struct bp_raft_group *group, struct bp_error *err) {
    if (group != NULL && entry->index == group->first_index) {
        group->before = store->next_revision - 1;
    }
    struct bp_applied *applied = store->driver.applied;
    int code = bp_apply_entry(store, entry, applied, err);
    if (code == BP_OK && group != NULL) {
        group->cursor = bp_tickets_outcomes(store, group->cursor, applied, entry->count);
        if (entry->index == group->last_index) {
            bp_tickets_place(group->tickets.first, group->before);
        }
    }
    return code;
}

/* How many were applied. */
static uint32_t apply_round(struct bp_store *store, struct bp_raft *raft,
                            const struct round *round) {
    struct bp_error err = {0};
    uint32_t n = 0;
    pthread_mutex_lock(&store->apply);
    while (n < round->n && apply_one(store, &round->entries[n], round->groups[n], &err) == BP_OK) {
        n++;
    }
    bp_apply_publish(store);
    if (n > 0) {
        store->applied_end = round->entries[n - 1].at; /* the cleaner looks at its segment */
    }
    pthread_mutex_lock(&raft->mutex);
    raft->applied = store->applied_index;
    raft->system = store->system;
    raft->hash_index = store->compaction_hash_index;
    memcpy(raft->hash, store->compaction_hash, sizeof raft->hash);
    raft->damaged = raft->damaged || n < round->n;
    pthread_mutex_unlock(&raft->mutex);
    pthread_mutex_unlock(&store->apply);
    if (n < round->n) {
        atomic_store(&store->poisoned, true);
        atomic_store(&store->damaged, true);
    }
    return n;
}

/* ---- answering ------------------------------------------------------------------------------- */

/* What a round leaves to be answered. */
struct answers {
    struct bp_tickets done, reads, remote;
    struct bp_raft_group *lost;
    uint64_t n;
};

/* All its entries are applied: its slots and the list know it no more. */
static void finish_group(struct bp_raft *raft, struct bp_raft_group *group,
                         struct answers *answers) {
    bp_raft_detach_one(raft, group);
    bp_tickets_move(&answers->done, &group->tickets);
    free(group);
}

/* mutex held. */
static void collect(struct bp_raft *raft, struct answers *answers) {
    for (struct bp_raft_group *group = raft->groups, *next; group != NULL; group = next) {
        next = group->next;
        if (!group->busy) {
            break; /* none behind it was begun */
        }
        group->busy = false;
        if (group->last_index <= raft->applied) {
            finish_group(raft, group, answers);
        } else if (group->lost) {
            bp_raft_detach_one(raft, group);
            group->next = answers->lost;
            answers->lost = group;
        }
    }
    bp_raft_open_gates(raft, &answers->reads);
    bp_raft_open_answers(raft, &answers->remote);
    bp_table_evict(&raft->table, raft->applied, raft->store->options.raft_cache_bytes);
}

static uint64_t answer(struct bp_store *store, struct answers *answers) {
    uint64_t n = answers->reads.n + bp_tickets_answer(store, answers->done.first) +
                 bp_tickets_answer(store, answers->remote.first);
    bp_raft_run_reads(store, &answers->reads);
    struct bp_error why;
    bp_leader_lost(&why);
    bp_raft_fail_groups(store, answers->lost, &why);
    return n;
}

uint64_t bp_raft_apply_round(struct bp_store *store) {
    struct bp_raft *raft = bp_raft_of(store);
    struct round round;
    pick(raft, &round);
    if (round.n == 0) {
        return 0;
    }
    uint64_t n = apply_round(store, raft, &round);
    struct answers answers = {0};
    bp_tickets_init(&answers.done);
    bp_tickets_init(&answers.reads);
    bp_tickets_init(&answers.remote);
    pthread_mutex_lock(&raft->mutex);
    collect(raft, &answers);
    pthread_mutex_unlock(&raft->mutex);
    for (uint32_t i = 0; i < round.n; i++) {
        bp_blob_drop(round.blobs[i]);
    }
    n += answer(store, &answers);
    if (raft->damaged) { /* this thread's own to set; else nothing waits for entries to be applied */
        bp_raft_signal(raft);
    }
    return n;
}

void *bp_raft_apply_thread(void *arg) {
    struct bp_store *store = arg;
    struct bp_raft *raft = bp_raft_of(store);
    pthread_mutex_lock(&raft->mutex);
    while (!raft->stopping) {
        if (applicable(raft) <= raft->applied) {
            pthread_cond_wait(&raft->apply_wake, &raft->mutex);
            continue;
        }
        pthread_mutex_unlock(&raft->mutex);
        (void)bp_raft_apply_round(store);
        pthread_mutex_lock(&raft->mutex);
    }
    pthread_mutex_unlock(&raft->mutex);
    return NULL;
}

/*
 * The face of a cluster's driver that is not a part of its own: what the caller sees and decides,
 * and what the rest of the store asks (raft.h draws the whole).
 *
 *   look <-- signal      the descriptor is readable from the first change after a look to the next
 *                        look: drained, then `signalled` cleared, then the state read
 */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "crc32c.h"
#include "raft.h"

/* ---- looking --------------------------------------------------------------------------------- */

void bp_raft_signal(struct bp_raft *raft) {
    if (!atomic_exchange(&raft->signalled, true)) {
        uint64_t one = 1;
        ssize_t written = write(raft->fd, &one, sizeof one);
        (void)written; /* EAGAIN only when already readable */
    }
}

int bp_raft_fd(struct bp_store *store) {
    struct bp_raft *raft = bp_raft_of(store);
    return raft != NULL ? raft->fd : -1;
}

static void members_of(const struct bp_system *system, struct bp_raft_members *out) {
    *out = (struct bp_raft_members){
        .voters = system->voters, .learners = system->learners, .version = system->cluster_version};
    memcpy(out->members, system->members, sizeof out->members);
}

static void look_at_table(const struct bp_table *table, struct bp_raft_state *state) {
    state->compacted_index = table->base;
    state->compacted_term = table->base_term;
    state->last_index = table->last;
    state->last_term = bp_table_term(table, table->last);
    state->durable_index = table->durable;
    state->durable_term = bp_table_term(table, table->durable);
    state->log_bytes = table->log_bytes;
}

static void look_locked(struct bp_raft *raft, struct bp_raft_state *state) {
    look_at_table(&raft->table, state);
    state->term = raft->hardstate.term;
    state->vote = raft->hardstate.vote;
    state->commit = raft->hardstate.commit;
    state->persisted = raft->persisted;
    state->applied_index = raft->applied;
    state->committed_index = raft->committed;
    state->queued_reads = raft->reads.n;
    if (raft->leading) {
        state->queued_reads += raft->lease_calls.n;
    } else {
        state->queued_writes += raft->lease_calls.n;
        state->queued_arrivals += raft->lease_calls.n;
    }
    if (raft->busy_since_ns != 0) {
        uint64_t now = bp_disk_boot_ns(raft->store->disk);
        state->stalled_ms = (now - raft->busy_since_ns) / 1000000u;
    }
    state->hash_index = raft->hash_index;
    memcpy(state->hash, raft->hash, sizeof state->hash);
    members_of(&raft->system, &state->members);
}

void bp_raft_look(struct bp_store *store, struct bp_raft_state *state) {
    struct bp_raft *raft = bp_raft_of(store);
    uint64_t drained;
    ssize_t got = read(raft->fd, &drained, sizeof drained);
    (void)got; /* EAGAIN: nothing was signalled */
    atomic_store(&raft->signalled, false);
    *state = (struct bp_raft_state){.member_id = store->member_id,
                                    .poisoned = atomic_load(&store->poisoned),
                                    .disk_full = atomic_load(&store->disk_full)};
    pthread_mutex_lock(&store->driver.mutex);
    state->queued_writes = store->driver.queued;
    state->queued_arrivals = store->driver.queued_arrivals;
    state->queued_bytes = store->driver.queued_bytes;
    pthread_mutex_unlock(&store->driver.mutex);
    pthread_mutex_lock(&raft->mutex);
    look_locked(raft, state);
    pthread_mutex_unlock(&raft->mutex);
}

static void describe(const struct bp_slot *slot, uint64_t index, struct bp_raft_entry *out) {
    *out = (struct bp_raft_entry){.index = index,
                                  .term = slot->term,
                                  .size = (uint32_t)bp_entry_bytes(slot->size),
                                  .type = slot->type};
}

uint32_t bp_raft_entries(struct bp_store *store, uint64_t first, struct bp_raft_entry *out,
                         uint32_t max) {
    struct bp_raft *raft = bp_raft_of(store);
    uint32_t n = 0;
    pthread_mutex_lock(&raft->mutex);
    const struct bp_slot *slot;
    while (n < max && (slot = bp_table_slot(&raft->table, first + n)) != NULL) {
        describe(slot, first + n, &out[n]);
        n++;
    }
    pthread_mutex_unlock(&raft->mutex);
    return n;
}

int bp_raft_membership(struct bp_store *store, uint64_t index, struct bp_raft_members *out,
                       struct bp_error *err) {
    struct bp_raft *raft = bp_raft_of(store);
    bool found = index == 0;
    if (index == 0) {
        pthread_mutex_lock(&store->apply);
        members_of(&store->system, out);
        pthread_mutex_unlock(&store->apply);
    } else if (raft != NULL) {
        pthread_mutex_lock(&raft->mutex);
        const struct bp_slot *slot = bp_table_slot(&raft->table, index);
        const struct bp_system *system = slot != NULL ? slot->system : NULL;
        system = index == raft->table.base ? &raft->table.base_system : system;
        found = system != NULL;
        if (found) {
            members_of(system, out);
        }
        pthread_mutex_unlock(&raft->mutex);
    }
    return found ? BP_OK
                 : bp_fail(err, BP_NOT_FOUND, BP_REASON_NONE,
                           "entry %" PRIu64 " holds no membership", index);
}

/* ---- entries --------------------------------------------------------------------------------- */

static int encode_config(struct bp_store *store, const struct bp_raft_members *members,
                         uint8_t payload[BP_CONFIG_SIZE_MAX], uint32_t *size,
                         struct bp_error *err) {
    if (members->voters == 0 || members->voters > BP_MEMBERS_MAX ||
        members->learners > BP_MEMBERS_MAX - members->voters) {
        return bp_fail(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID,
                       "a cluster has 1 to %u members and at least one voter", BP_MEMBERS_MAX);
    }
    pthread_mutex_lock(&store->apply);
    struct bp_system system = store->system;
    pthread_mutex_unlock(&store->apply);
    system.voters = (uint16_t)members->voters;
    system.learners = (uint16_t)members->learners;
    system.cluster_version = members->version != 0 ? members->version : system.cluster_version;
    memcpy(system.members, members->members, sizeof system.members);
    *size = bp_system_encode(&system, BP_CAUSE_CHANGE, payload);
    return BP_OK;
}

/* One entry of ours at the end. mutex held. */
static int append_own(struct bp_table *table, uint64_t term, int type, struct bp_blob *blob,
                      uint32_t size, struct bp_error *err) {
    struct bp_entry entry = {.index = table->last + 1,
                             .term = term,
                             .first_revision = bp_table_next_revision(table),
                             .type = (uint8_t)type,
                             .payload = blob->data,
                             .size = size};
    return bp_table_reserve(table, 1)
               ? bp_table_append(table, &entry, blob, bp_crc32c(0, blob->data, size), err)
               : bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                         "no memory for an entry");
}

int bp_raft_propose(struct bp_store *store, uint64_t term, const struct bp_raft_members *members,
                    struct bp_raft_entry *out, struct bp_error *err) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_blob *blob = bp_blob_new(BP_CONFIG_SIZE_MAX);
    if (blob == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for an entry");
    }
    uint32_t size = 0;
    int type = members != NULL ? BP_ENTRY_CONFIG : BP_ENTRY_NOOP;
    int code = members != NULL ? encode_config(store, members, blob->data, &size, err) : BP_OK;
    if (code == BP_OK) {
        pthread_mutex_lock(&raft->mutex);
        code = append_own(&raft->table, term, type, blob, size, err);
        if (code == BP_OK && out != NULL) {
            describe(bp_table_slot(&raft->table, raft->table.last), raft->table.last, out);
        }
        pthread_mutex_unlock(&raft->mutex);
    }
    bp_blob_drop(blob);
    return code;
}

/* ---- following ------------------------------------------------------------------------------- */

struct receiving {
    struct bp_raft *raft;
    struct bp_blob *blob;
    struct bp_raft_group *lost;
    struct bp_error *err;
};

/* The entry differs from what is here: that, and all behind it, was never decided. */
static int supersede(struct receiving *receiving, uint64_t index) {
    struct bp_raft *raft = receiving->raft;
    if (index <= raft->applied || index <= raft->committed) {
        return bp_fail(receiving->err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "entry %" PRIu64 " of another term contradicts what is committed here",
                       index);
    }
    bp_raft_detach(raft, index, &receiving->lost);
    bp_table_truncate(&raft->table, index - 1);
    return BP_OK;
}

static int receive_entry(void *arg, const struct bp_entry *entry) {
    struct receiving *receiving = arg;
    struct bp_table *table = &receiving->raft->table;
    if (entry->index <= table->base || bp_table_term(table, entry->index) == entry->term) {
        return BP_OK; /* it is here */
    }
    if (entry->index > table->last + 1) {
        return bp_fail(receiving->err, BP_OUT_OF_RANGE, BP_REASON_NONE,
                       "entry %" PRIu64 " does not continue entry %" PRIu64, entry->index,
                       table->last);
    }
    int code = entry->index <= table->last ? supersede(receiving, entry->index) : BP_OK;
    if (code == BP_OK && !bp_table_reserve(table, 1)) {
        code = bp_fail(receiving->err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for an entry");
    }
    return code != BP_OK
               ? code
               : bp_table_append(table, entry, receiving->blob,
                                 bp_crc32c(0, entry->payload, entry->size), receiving->err);
}

int bp_raft_receive(struct bp_store *store, const void *message, uint64_t size,
                    struct bp_error *err) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_blob *blob = bp_blob_new(size);
    if (blob == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a message");
    }
    memcpy(blob->data, message, size);
    struct receiving receiving = {.raft = raft, .blob = blob, .err = err};
    pthread_mutex_lock(&raft->mutex);
    int code = bp_message_decode(blob->data, size, receive_entry, &receiving, err);
    pthread_mutex_unlock(&raft->mutex);
    bp_blob_drop(blob);
    struct bp_error why;
    bp_leader_lost(&why);
    bp_raft_fail_groups(store, receiving.lost, &why);
    return code;
}

/* ---- deciding -------------------------------------------------------------------------------- */

void bp_raft_commit(struct bp_store *store, uint64_t index) {
    struct bp_raft *raft = bp_raft_of(store);
    pthread_mutex_lock(&raft->mutex);
    bool news = index > raft->committed;
    if (news) {
        raft->committed = index;
        atomic_store_explicit(&store->committed, index, memory_order_relaxed);
    }
    pthread_mutex_unlock(&raft->mutex);
    if (news) {
        pthread_cond_signal(&raft->apply_wake); /* with nothing in its way */
    }
}

static bool is_internal(const struct bp_ticket *ticket) { return ticket->done != NULL; }

/* What this member's clock proposed in an earlier term of its own: no other clock says so. */
static void refuse_proposals(struct bp_store *store) {
    struct bp_tickets proposals;
    struct bp_error why;
    bp_tickets_init(&proposals);
    bp_raft_take_queue(store, is_internal, &proposals);
    bp_leader_lost(&why);
    bp_tickets_refuse(store, &proposals, &why);
}

/* What waited for us to lead; reads and clients' writes wait on for the next leader. */
static void stop_leading(struct bp_store *store) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_raft_group *lost = NULL;
    pthread_mutex_lock(&raft->mutex);
    bp_raft_detach(raft, 0, &lost);
    raft->reads_minimum = 0;
    for (struct bp_gate *gate = raft->gates; gate != NULL; gate = gate->next) {
        gate->minimum = 0;
    }
    pthread_mutex_unlock(&raft->mutex);
    struct bp_error why;
    bp_leader_lost(&why);
    bp_raft_fail_groups(store, lost, &why);
}

void bp_raft_lead(struct bp_store *store, int leading, uint64_t term) {
    struct bp_raft *raft = bp_raft_of(store);
    (void)term; /* entries carry it */
    refuse_proposals(store);
    if (leading) {
        bp_leases_restart(store->leases, bp_disk_boot_ns(store->disk));
    }
    pthread_mutex_lock(&raft->mutex);
    bool led = raft->leading;
    raft->leading = leading != 0;
    pthread_mutex_unlock(&raft->mutex);
    if (led && !leading) {
        refuse_proposals(store); /* made while `leading` was still said */
        stop_leading(store);
    }
    bp_raft_signal(raft); /* lease calls wait for somebody else now */
}

void bp_raft_hold(struct bp_store *store, uint64_t write_bytes, uint64_t arrivals, int reads) {
    struct bp_raft *raft = bp_raft_of(store);
    atomic_store_explicit(&raft->held_bytes, write_bytes, memory_order_release);
    atomic_store_explicit(&raft->held_arrivals, arrivals, memory_order_release);
    atomic_store_explicit(&raft->held_reads, reads != 0, memory_order_release);
    /* Behind the stores: what was queued before them, and told nobody, is told here. */
    pthread_mutex_lock(&store->driver.mutex);
    const struct bp_driver *driver = &store->driver;
    bool wake =
        driver->queued > 0 && bp_raft_enough(raft, driver->queued_bytes, driver->queued_arrivals);
    pthread_mutex_unlock(&store->driver.mutex);
    pthread_mutex_lock(&raft->mutex);
    wake = wake || (!reads && raft->reads.n + raft->lease_calls.n > 0);
    pthread_mutex_unlock(&raft->mutex);
    if (wake) {
        bp_raft_signal(raft);
    }
}

uint64_t bp_raft_compact(struct bp_store *store, uint64_t index, uint64_t keep_bytes) {
    struct bp_raft *raft = bp_raft_of(store);
    struct bp_table *table = &raft->table;
    pthread_mutex_lock(&raft->mutex);
    index = index < raft->applied ? index : raft->applied;
    uint64_t bytes = table->log_bytes, base = table->base;
    const struct bp_slot *slot;
    while (base < index && (slot = bp_table_slot(table, base + 1)) != NULL &&
           bytes - bp_entry_bytes(slot->size) >= keep_bytes) {
        bytes -= bp_entry_bytes(slot->size);
        base++;
    }
    bp_table_compact(table, base);
    pthread_mutex_unlock(&raft->mutex);
    return base;
}

/* ---- asked by the rest of the store ---------------------------------------------------------- */

bool bp_raft_leading(struct bp_raft *raft) {
    pthread_mutex_lock(&raft->mutex);
    bool leading = raft->leading;
    pthread_mutex_unlock(&raft->mutex);
    return leading;
}

void bp_raft_cut(struct bp_raft *raft, struct bp_raft_cut *cut) {
    pthread_mutex_lock(&raft->mutex);
    const struct bp_slot *next = bp_table_slot(&raft->table, raft->store->applied_index + 1);
    *cut = (struct bp_raft_cut){.start = raft->log_end,
                                .durable = raft->log_end,
                                .sequence = raft->log_sequence,
                                .compacted_index = raft->table.base,
                                .hardstate = raft->hardstate};
    if (next != NULL && next->place.at.segment != 0) {
        cut->start =
            (struct bp_pos){.segment = next->place.at.segment, .offset = next->place.frame};
        cut->sequence = next->place.sequence;
    }
    pthread_mutex_unlock(&raft->mutex);
}

uint32_t bp_raft_first_segment(struct bp_raft *raft) {
    pthread_mutex_lock(&raft->mutex);
    const struct bp_slot *first = bp_table_slot(&raft->table, raft->table.base + 1);
    uint32_t segment =
        first != NULL && first->place.at.segment != 0 ? first->place.at.segment : UINT32_MAX;
    pthread_mutex_unlock(&raft->mutex);
    return segment;
}

void bp_raft_status(struct bp_raft *raft, struct bp_status *status) {
    pthread_mutex_lock(&raft->mutex);
    status->term = raft->hardstate.term;
    status->vote = raft->hardstate.vote;
    status->last_index = raft->table.last;
    status->durable_index = raft->table.durable;
    status->committed_index = raft->committed;
    status->leading = raft->leading;
    status->clustered = 1;
    pthread_mutex_unlock(&raft->mutex);
}

/*
 * A cluster's driver: what carries out the decisions of a Raft that lives in the caller
 * (bedplate.h has the calls; CAPITALS below are files raft_*.c).
 *
 *   queue --gather--> GROUP --\                      /--> LOG thread: frames, one sync a round
 *   message --receive----------+--> TABLE --persist--+       |  durable (index, term)
 *   propose -------------------/   entries by index  \       v
 *                                                     +--> APPLY thread: through min(committed,
 *   reads --> READS --gate--> ... --release--------------->     durable); answers groups and gates
 *   writes of a follower --> FORWARD (batch) ... FORWARDED at the leader --> its queue
 *
 * The table knows every entry that is served as log, the one place where (index, term) is kept; its
 * bytes are in memory (a blob) until they are applied and written and others need the room, and
 * then only in the log.
 *
 * Invariants
 *   - applied <= min(committed, durable) <= last, and compacted <= applied.
 *   - A slot is durable when its own (index, term) was synced: an entry of another term that was at
 *     that index once says nothing.
 *   - Every ticket is in one place: the driver's queue, a group, the reads, a gate, a batch. So one
 *     that has to fail is found, and none is answered twice.
 *
 * Threads: bp_raft_* belong to one thread at a time. The log belongs to the log thread, as it
 * belongs to the driver role elsewhere. `mutex` is a leaf beside the locks that store.h lists: it
 * may be taken under `apply`, and nothing is taken under it.
 */
#ifndef BP_RAFT_H
#define BP_RAFT_H

#include "group.h"

struct bp_raft_group;

/* ---- raft_blob.c: bytes that several parts hold ---------------------------------------------- */

struct bp_blob {
    _Atomic uint32_t references;
    uint8_t data[];
};
struct bp_blob *bp_blob_new(uint64_t size);         /* one reference; NULL out of memory */
struct bp_blob *bp_blob_hold(struct bp_blob *blob); /* may be NULL */
void bp_blob_drop(struct bp_blob *blob);            /* may be NULL */

/* ---- raft_table.c: entries by index ---------------------------------------------------------- */

/* Where the log has an entry; segment 0: it is not durable there. */
struct bp_place {
    struct bp_pos at;  /* its payload */
    uint32_t frame;    /* the offset of its frame */
    uint64_t sequence; /* of its frame */
};

struct bp_slot {
    uint64_t term, first_revision;
    struct bp_place place;
    uint32_t size, count, crc; /* crc: CRC32C of the payload */
    uint8_t type;
    struct bp_blob *blob; /* held; NULL: only the log has the payload */
    const uint8_t *payload;
    struct bp_raft_group *group; /* whose writes it carries; NULL: nobody here waits */
    struct bp_system *system;    /* of a CONFIG entry, owned */
};

struct bp_table {
    struct bp_slot *ring; /* by index & (capacity - 1) */
    uint64_t capacity;
    /* compacted: the entry before the first slot, the revision behind it, the membership there */
    uint64_t base, base_term, base_revision;
    struct bp_system base_system;
    uint64_t last;
    uint64_t handed;       /* entries through here were handed to the log */
    uint64_t durable;      /* through here they are there */
    uint64_t evicted;      /* through here none has its bytes in memory */
    uint64_t cached_bytes; /* of payload in memory */
    uint64_t log_bytes;    /* of all slots, as messages count them */
};

static inline uint64_t bp_entry_bytes(uint32_t size) {
    return BP_ENTRY_HEADER + bp_align8_u64(size);
}
void bp_table_free(struct bp_table *table);
/* Room for n more. false: out of memory. */
bool bp_table_reserve(struct bp_table *table, uint64_t n);
/* NULL outside (base, last]. */
struct bp_slot *bp_table_slot(const struct bp_table *table, uint64_t index);
/* Of an entry, or the base; 0 for any other index. */
uint64_t bp_table_term(const struct bp_table *table, uint64_t index);
uint64_t bp_table_next_revision(const struct bp_table *table);
/*
 * The next entry, for which there is room; its payload lies in `blob` (NULL: only in the log), which
 * is held. DATA_LOSS: it does not continue the one before it, or is a malformed CONFIG.
 */
int bp_table_append(struct bp_table *table, const struct bp_entry *entry, struct bp_blob *blob,
                    uint32_t crc, struct bp_error *err);
/* Drops what comes after `last`. */
void bp_table_truncate(struct bp_table *table, uint64_t last);
/* Entries through `base` are no slots any more. */
void bp_table_compact(struct bp_table *table, uint64_t base);
/* The log has the entry: if it still is the one of that term. */
void bp_table_written(struct bp_table *table, uint64_t index, uint64_t term,
                      const struct bp_place *place);
/* Moves `durable` over what is written. */
void bp_table_settle(struct bp_table *table);
/* Of entries through `through` the oldest go from memory until at most `max` bytes are there. */
void bp_table_evict(struct bp_table *table, uint64_t through, uint64_t max);
void bp_slot_entry(const struct bp_slot *slot, uint64_t index, struct bp_entry *entry);

/* ---- raft_message.c: entries as bytes between members ---------------------------------------- */

/*
 * message   0 u32 entries  4 u32 zero  8 entries: [header, as in the log][payload, padded to 8] ...
 *           u32 CRC32C of everything before it
 */
#define BP_MESSAGE_HEAD 8u
/* Calls `each` with every entry, payload borrowed; DATA_LOSS when the bytes are none. Pure. */
int bp_message_decode(const uint8_t *bytes, uint64_t size,
                      int (*each)(void *arg, const struct bp_entry *entry), void *arg,
                      struct bp_error *err);

/* ---- lists of tickets ------------------------------------------------------------------------ */

struct bp_tickets {
    struct bp_ticket *first, **tail;
    uint64_t n;
};
void bp_tickets_init(struct bp_tickets *list);
void bp_tickets_add(struct bp_tickets *list, struct bp_ticket *ticket);
/* All of `from`, which is empty then. */
void bp_tickets_move(struct bp_tickets *list, struct bp_tickets *from);
/* Those that nothing has failed and that are not applied fail; all are answered. */
void bp_tickets_refuse(struct bp_store *store, struct bp_tickets *list, const struct bp_error *why);
void bp_no_leader(struct bp_error *err);
void bp_leader_lost(struct bp_error *err);

/* ---- raft_group.c: what waits for entries of ours -------------------------------------------- */

struct bp_raft_group {
    struct bp_raft_group *next;
    uint64_t first_index, last_index;
    struct bp_tickets tickets;
    /* the applier's */
    struct bp_ticket *cursor; /* the next write without an outcome */
    uint64_t before;          /* the newest revision before its first entry */
    bool busy;                /* being applied: nobody else touches its tickets */
    bool lost;                /* meanwhile: what is not applied fails */
};

struct bp_raft;
/* Groups that reach to `index` or beyond leave the list and their slots, for *lost. mutex held. */
void bp_raft_detach(struct bp_raft *raft, uint64_t index, struct bp_raft_group **lost);
/* This one: its slots and the list know it no more. mutex held. */
void bp_raft_detach_one(struct bp_raft *raft, struct bp_raft_group *group);
void bp_raft_fail_groups(struct bp_store *store, struct bp_raft_group *groups,
                         const struct bp_error *why);

/* ---- raft_log.c ------------------------------------------------------------------------------ */

/* What one bp_raft_persist handed over. */
struct bp_work {
    struct bp_work *next;
    uint64_t number;
    struct bp_hardstate hardstate;
    uint32_t n;
    struct bp_entry *entries;
    struct bp_blob **blobs; /* held */
};

/* What the log thread is writing; its own. */
struct bp_batch {
    struct bp_entry *entries;
    struct bp_blob **blobs; /* held */
    struct bp_place *places;
    uint32_t n, capacity, written;
    bool open; /* there is something to write or sync */
    bool hardstate_written;
    struct bp_hardstate hardstate;
    uint64_t number;
};

/* One round: 0 when there was nothing to do or nothing could be done. */
uint64_t bp_raft_log_round(struct bp_store *store);
void *bp_raft_log_thread(void *store);
void bp_raft_log_free(struct bp_raft *raft);

/* ---- raft_apply.c ---------------------------------------------------------------------------- */

uint64_t bp_raft_apply_round(struct bp_store *store);
void *bp_raft_apply_thread(void *store);

/* ---- raft_reads.c ---------------------------------------------------------------------------- */

struct bp_gate {
    struct bp_gate *next;
    uint64_t number, index;
    uint64_t minimum; /* some came behind writes whose entries end here */
    bool released;
    struct bp_tickets tickets;
};
/*
 * A read waits for a gate, a lease call for a gate or the leader. `placed`: it came through the
 * queue, behind what is in the table already. Takes the ticket.
 */
void bp_raft_read(struct bp_store *store, struct bp_ticket *ticket, bool placed);
/* Must this ticket wait for bp_raft_gate? */
bool bp_raft_gated(struct bp_store *store, const struct bp_ticket *ticket);
/* Gates that may be answered now leave the list, into *ready. mutex held. */
void bp_raft_open_gates(struct bp_raft *raft, struct bp_tickets *ready);
/* Those that were released and still wait to be applied leave the list. mutex held. */
void bp_raft_take_released(struct bp_raft *raft, struct bp_tickets *out);
/* Hands them to the readers. */
void bp_raft_run_reads(struct bp_store *store, struct bp_tickets *ready);

/* ---- raft_forward.c, raft_forwarded.c -------------------------------------------------------- */

struct bp_forward { /* one batch of ours at the leader */
    struct bp_forward *next;
    uint64_t number;
    uint64_t revision; /* answered: the newest one that its replies need; 0: not answered */
    struct bp_tickets tickets;
};
/* Batches that are answered and applied here leave the list, into *ready. mutex held. */
void bp_raft_open_answers(struct bp_raft *raft, struct bp_tickets *ready);

enum bp_forward_kind {
    BP_FORWARD_WRITE = 1,
    BP_FORWARD_PLACE = 2,      /* where among the writes is a read of this frame? */
    BP_FORWARD_KEEP_ALIVE = 3, /* u64 lease */
    BP_FORWARD_GET_LEASE = 4,  /* u64 lease */
};
/*
 * requests  0 u64 batch  8 u32 items  12 u32 zero
 *           items: u32 size, u8 kind, 3 zeros, bytes padded to 8;  u32 CRC32C of all before it
 * outcomes  0 u64 batch  8 u32 items  12 u32 zero
 *           items: i32 code, i32 reason, u64 revision, deleted, succeeded, lease, ttl_ms,
 *           remaining_ms;  u32 CRC32C of all before it
 */
#define BP_FORWARD_HEAD 16u
#define BP_OUTCOME_SIZE 56u

/* ---- all of it ------------------------------------------------------------------------------- */

struct bp_raft {
    struct bp_store *store;
    int fd;
    _Atomic bool signalled;         /* the descriptor is readable */
    _Atomic uint64_t held_bytes;    /* so few queued ones make it so no more, */
    _Atomic uint64_t held_arrivals; /* if so few came */
    _Atomic bool held_reads;        /* nor do reads */
    struct bp_group gathered;       /* of the caller, while it gathers */

    pthread_mutex_t mutex; /* guards the rest */
    pthread_cond_t log_wake, apply_wake;
    pthread_t log_thread, apply_thread;
    bool log_started, apply_started, stopping, abandoned;
    struct bp_table table;
    /* the log */
    struct bp_work *work, **work_tail;
    struct bp_batch batch; /* the log thread's own */
    bool want_mark;
    uint64_t busy_since_ns;        /* 0: the log rests */
    struct bp_hardstate hardstate; /* durable */
    uint64_t persisted;            /* likewise */
    struct bp_pos log_end;         /* the log is durable through here, */
    uint64_t log_sequence;         /* and this is the next frame's */
    /* applying */
    uint64_t committed, applied;
    bool damaged; /* an entry could not be applied: no further one is */
    struct bp_raft_group *groups, **groups_tail; /* by index */
    uint64_t hash_index, hash[2];
    struct bp_system system; /* as applied */
    /* requests */
    bool leading;
    struct bp_tickets reads, lease_calls;
    uint64_t reads_minimum; /* as a gate's */
    struct bp_gate *gates;
    struct bp_forward *forwards;
    uint64_t next_number; /* of gates and batches */
};

static inline struct bp_raft *bp_raft_of(struct bp_store *store) {
    return atomic_load_explicit(&store->raft, memory_order_acquire);
}
/* The caller should look. */
void bp_raft_signal(struct bp_raft *raft);
/* Whether that is so much that the caller should look. */
static inline bool bp_raft_enough(struct bp_raft *raft, uint64_t bytes, uint64_t arrivals) {
    return bytes >= atomic_load_explicit(&raft->held_bytes, memory_order_acquire) ||
           arrivals >= atomic_load_explicit(&raft->held_arrivals, memory_order_acquire);
}
/* So much is queued now, in a store that need not be driven by Raft. */
static inline void bp_raft_queued(struct bp_store *store, uint64_t bytes, uint64_t arrivals) {
    struct bp_raft *raft = bp_raft_of(store);
    if (raft != NULL && bp_raft_enough(raft, bytes, arrivals)) {
        bp_raft_signal(raft);
    }
}

/* ---- raft_open.c: from a recovered or running store to one that is driven -------------------- */

/* An empty driver with a table behind (index, term, revision); not yet the store's. */
int bp_raft_new(struct bp_store *store, uint64_t index, uint64_t term, uint64_t next_revision,
                struct bp_raft **out, struct bp_error *err);
/*
 * The next entry of a log that was recovered. Applied, its bytes stay in the log; else they are
 * kept.
 */
int bp_raft_recovered(struct bp_raft *raft, const struct bp_entry *entry,
                      const struct bp_place *place, bool applied, struct bp_error *err);
/* The store's from now on; the log ends where everything in the table is durable. */
void bp_raft_install(struct bp_store *store, struct bp_raft *raft,
                     const struct bp_hardstate *hardstate, uint64_t committed);
/* As bp_raft_take, of a store that nobody drives; starts no threads. */
int bp_raft_take_resting(struct bp_store *store, struct bp_error *err);
int bp_raft_start(struct bp_store *store, struct bp_error *err); /* its threads */
/*
 * Threads down and every ticket failed: STORE_CLOSED; what was handed over is written first unless
 * `abandoned`. The door is closed.
 */
void bp_raft_stop(struct bp_store *store, bool abandoned);
void bp_raft_free(struct bp_raft *raft);
/* Takes all tickets off the driver's queue that `wanted` (NULL: all). */
void bp_raft_take_queue(struct bp_store *store, bool (*wanted)(const struct bp_ticket *),
                        struct bp_tickets *out);

/* ---- asked by the rest of the store ---------------------------------------------------------- */

struct bp_raft_cut {
    struct bp_pos start, durable;
    uint64_t sequence, compacted_index;
    struct bp_hardstate hardstate;
};
/* Where replay begins for a checkpoint of what is applied. The caller holds `apply`. */
void bp_raft_cut(struct bp_raft *raft, struct bp_raft_cut *cut);
/* The oldest log segment that holds an entry still served; UINT32_MAX: none does. */
uint32_t bp_raft_first_segment(struct bp_raft *raft);
void bp_raft_mark(struct bp_raft *raft); /* ask the log thread for a mark */
bool bp_raft_leading(struct bp_raft *raft);
void bp_raft_status(struct bp_raft *raft, struct bp_status *status);

#endif

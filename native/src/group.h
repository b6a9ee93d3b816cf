/*
 * A group: what one frame of the log carries, and the tickets that wait for it (driver.c draws its
 * way; group.c gathers it, group_write.c makes it durable, group_apply.c applies and answers it).
 *
 * A group belongs to the thread that gathered it, from the first to the last step. Its staging
 * buffer is the driver's and free again when the group is applied.
 */
#ifndef BP_GROUP_H
#define BP_GROUP_H

#include "store.h"
#include "ticket.h"

#define BP_GROUP_ENTRIES_MAX 512u
#define BP_REQUEST_SIZE_MIN (BP_REQUEST_HEADER + 8u) /* the smallest request: a COMPACT */
/* requests of one entry */
#define BP_APPLIED_MAX (BP_ENTRY_MAX / BP_REQUEST_SIZE_MIN + 1u)

/* One group on its way: tickets in order, the entries that carry the writes among them. */
struct bp_group {
    uint32_t turn; /* groups are applied in the order of their turns */
    /* gathered small requests; one of driver.staging, until the group is applied */
    uint8_t *staging;
    /* of its entries; where its frame ends, and the next frame's sequence */
    uint64_t last_index;
    struct bp_pos end;
    uint64_t sequence;
    struct bp_ticket *first, **tail;
    uint32_t writes, grants;
    uint64_t payload_bytes;
    struct bp_entry entries[BP_GROUP_ENTRIES_MAX];
    uint32_t n_entries;
    uint32_t staged; /* bytes used in driver.staging */
    bool open;       /* the last entry is a gathered one that may grow */
    /* tickets it took off the queue, as the door counts them */
    uint64_t taken, taken_arrivals, taken_bytes;
    bool mark, sync; /* chores that came with it */
};

/*
 * Takes tickets off the queue into the group, as many as one frame holds and, behind the first
 * write, bytes_max allows, and the chores that were asked for. Refused ones stay in the group,
 * failed, and take no part in the log. The caller has the role.
 */
void bp_group_gather(struct bp_store *store, struct bp_group *group, uint64_t bytes_max);
/* Rebuilds the entries from the tickets that still stand. */
void bp_group_regather(struct bp_group *group);
/* Of its frame, as callers of bp_log_append size groups. */
uint64_t bp_group_frame_bytes(const struct bp_group *group);

/* On return every write of the group is in the log and durable, or failed. The role's. */
void bp_group_write(struct bp_store *store, struct bp_group *group);
/* A sync of the log, timed and counted. The role's. */
int bp_driver_sync(struct bp_store *store, struct bp_error *err);

/* Applies the group when its turn has come, and publishes. */
void bp_group_apply(struct bp_store *store, struct bp_group *group);
/*
 * Answers in order; returns how many. What takes reading goes to a reader; a blocked caller builds
 * its own reply.
 */
uint64_t bp_group_answer(struct bp_store *store, struct bp_group *group);

/* ---- what a list of tickets needs, whoever drives -------------------------------------------- */

/*
 * Hands out what one entry's requests came to, from the write at or behind `ticket` on; where the
 * next entry's begin. The caller holds `apply`.
 */
struct bp_ticket *bp_tickets_outcomes(struct bp_store *store, struct bp_ticket *ticket,
                                      const struct bp_applied *applied, uint32_t n);
/* Gives each read its revision; `revision` is the newest one before the list's first write. */
void bp_tickets_place(struct bp_ticket *first, uint64_t revision);
/* As bp_group_answer. */
uint64_t bp_tickets_answer(struct bp_store *store, struct bp_ticket *first);

#endif

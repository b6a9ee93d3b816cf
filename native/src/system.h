/*
 * Who we are: the replicated identity of a cluster, kept in CONFIG entries and checkpoints.
 *
 *   CONFIG payload   0 u8 encoding version (1)  1 u8 cause  2 u16 voters  4 u16 learners
 *       6 u16 zero
 *                    8 cluster id[16]  24 u32 cluster version  28 u32 request ids remembered
 *                    32 voters' member ids u64 each, then learners'
 *   JUMP payload     0 u64 new revision  8 u8 cause  9 zeros to 16
 */
#ifndef BP_SYSTEM_H
#define BP_SYSTEM_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "limits.h"

#define BP_MEMBERS_MAX 16u

enum bp_config_cause {
    BP_CAUSE_BOOTSTRAP = 1,
    BP_CAUSE_CHANGE = 2,
    BP_CAUSE_RESTORE = 3,
    BP_CAUSE_RECOVER = 4,
    BP_CAUSE_UNCLEAN_START = 5
};

struct bp_system {
    uint8_t cluster_id[16];
    uint32_t cluster_version; /* the op-encoding version every member understands */
    /* of the request-id table: what apply does depends on it, so it is no option of one member */
    uint32_t request_ids_max;
    uint16_t voters, learners;
    uint64_t members[BP_MEMBERS_MAX]; /* voters first */
};

#define BP_CONFIG_SIZE_MAX (32u + 8u * BP_MEMBERS_MAX)

uint32_t bp_system_encode(const struct bp_system *system, int cause,
                          uint8_t out[BP_CONFIG_SIZE_MAX]);
/* false when malformed. Pure. */
bool bp_system_decode(const uint8_t *payload, uint32_t size, struct bp_system *system, int *cause);

#endif

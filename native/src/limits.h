/*
 * The sizes that the formats fix. Limits an operator may lower are in bp_options. All are bytes
 * unless named otherwise.
 */
#ifndef BP_LIMITS_H
#define BP_LIMITS_H

#include <stdint.h>

/*
 * Of STORE, segments and checkpoints, whose headers carry it where it never moves.
 *   1  one member: STORE says nothing of a cluster, the log never steps back
 *   2  members of a cluster: who one is may be in STORE, entries may be superseded, a checkpoint may
 *      say where the log was durable
 * Files of every version up to this one are read, and written ones carry this one; a newer one is
 * refused before anything is touched. So a program that knows 1 only never commits what a member of
 * a cluster merely holds.
 */
#define BP_FORMAT_VERSION 2u

/* a client's key; stored keys carry one keyspace byte more */
#define BP_KEY_MAX 4096u
#define BP_STORED_KEY_MAX (BP_KEY_MAX + 1u)
#define BP_VALUE_MAX (1u << 20) /* one value */
#define BP_REQUEST_ID_MAX 64u
#define BP_REQUEST_IDS_DEFAULT 65536u /* records in the request-id table */
#define BP_REQUEST_IDS_LIMIT (1u << 24)
/* one encoded request: 2 MiB of keys and values, and our headers */
#define BP_REQUEST_MAX ((2u << 20) + (512u << 10))
/* payload of one entry: several small requests or one large */
#define BP_ENTRY_MAX BP_REQUEST_MAX
#define BP_GROUP_MAX (4u << 20) /* body of one frame */
/* values above this carry one CRC32C per chunk of this size */
#define BP_CRC_CHUNK (64u << 10)
#define BP_SEGMENT_SIZE (64u << 20) /* default; tests use smaller ones */
/* a segment must hold its header and one full group */
#define BP_SEGMENT_SIZE_MIN (8u << 20)
#define BP_SEGMENT_HEADER 4096u
#define BP_SECTOR 512u

/* Keyspaces: the first byte of every stored key. KVService sees only USER. */
enum { BP_KEYSPACE_USER = 'u', BP_KEYSPACE_OBJECT = 'o', BP_KEYSPACE_SYSTEM = 's' };

#endif

/*
 * The small files of a store's directory that are not log, settled segment or checkpoint.
 *
 *   LOCK       empty; flock'ed for as long as the store is open
 *   STORE      0 magic[8] "BPSTORE\0"  8 u32 format version  12 u32 zero  16 store id[16]  32 zeros
 *       60 u32 CRC32C of bytes 0..59
 *              of a cluster's member 32 u64 member id  40 cluster id[16]  56 u32 1 if it joined and
 *              so need not have the log's first entry; else zeros: the log says who we are
 *              written last when a store is made
 *   creating
 *       empty; made first and taken away last when a store is made: with it, and without STORE, the
 *       rest is an unfinished
 *              creation that nobody was answered from. Without both, files of a store are one that
 *              lost its identity: refused
 *   unsynced
 *       empty; there while interval mode may lose what it acknowledged: made before the first
 *       answer, gone after a clean
 *              stop. Found at a start, in whatever mode, it means that revisions clients saw may be
 *              gone
 *   restoring  an unfinished `restore`: the directory is refused
 */
#ifndef BP_STORE_FILES_H
#define BP_STORE_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "io.h"

/* What a directory holds, by name. */
struct bp_store_files {
    uint32_t logs, settled, checkpoints;
    bool store, creating, restoring, unsynced;
    char log[64];      /* name of a log segment, or "" */
    char stranger[64]; /* a name that is not ours, or "" */
};
int bp_store_files_list(struct bp_disk *disk, const char *dir, struct bp_store_files *files,
                        struct bp_error *err);

/*
 * Makes the directory if need be and takes its lock: the handle in *fd.
 * FAILED_PRECONDITION/STORE_LOCKED.
 */
int bp_store_lock(struct bp_disk *disk, const char *dir, int *fd, struct bp_error *err);
struct bp_store_identity {
    uint8_t store_id[16];
    uint64_t member_id; /* 0: the log says it */
    uint8_t cluster_id[16];
    bool joined;
};
/* tmp, write, sync, rename, sync of the directory. */
int bp_store_identity_write(struct bp_disk *disk, const char *dir,
                            const struct bp_store_identity *identity, struct bp_error *err);
/* DATA_LOSS/STORE_CORRUPT, FAILED_PRECONDITION/FORMAT_UNSUPPORTED for a newer format. */
int bp_store_identity_read(struct bp_disk *disk, const char *dir,
                           struct bp_store_identity *identity, struct bp_error *err);
/*
 * Makes `creating`, durably; takes it away when STORE is there (one that stays is harmless then).
 */
int bp_store_creating_begin(struct bp_disk *disk, const char *dir, struct bp_error *err);
void bp_store_creating_end(struct bp_disk *disk, const char *dir);
/* Makes `unsynced`, durably. */
int bp_store_unsynced_begin(struct bp_disk *disk, const char *dir, struct bp_error *err);
/*
 * Takes it away, durably. One that stays costs a jump of the revisions at the next start and
 * nothing else.
 */
int bp_store_unsynced_end(struct bp_disk *disk, const char *dir, struct bp_error *err);

#endif

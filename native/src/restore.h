/* Restore: a new store from a backup file. bp_restore (bedplate.h) is this on the real disk. */
#ifndef BP_RESTORE_H
#define BP_RESTORE_H

#include "error.h"
#include "io.h"

/* `disk` stays the caller's; it holds both the backup and the new directory. */
int bp_restore_on(const struct bp_options *options, struct bp_disk *disk, const char *backup_path,
                  struct bp_error *err);

#endif

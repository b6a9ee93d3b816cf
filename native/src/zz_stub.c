/* TEMPORARY until fsck.c lands. */
#include "error.h"
__attribute__((weak)) int bp_fsck(const char *dir, const char *rebuild_dir, struct bp_reply *report, struct bp_error *error)
{
    (void)dir;
    (void)rebuild_dir;
    (void)report;
    return bp_fail(error, BP_INTERNAL, BP_REASON_NONE, "not yet");
}

/*
 * A store on a simulated machine, for programs that know the engine by its public face alone.
 *
 *   bp_sim (io.h)  <--  bp_disk with failpoints  <--  the store, as on any other machine
 */
#include "store.h"

int bp_open_sim(const struct bp_options *options, struct bp_sim *sim, struct bp_store **store,
                struct bp_error *err) {
    struct bp_io io;
    bp_sim_io(sim, &io);
    struct bp_disk *disk = bp_disk_new(&io);
    if (disk == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory to open the store");
    }
    bp_disk_set_crash_is_error(disk, 1);
    if (options->failpoints != NULL) {
        int code = bp_disk_arm_text(disk, options->failpoints, err);
        if (code != BP_OK) {
            bp_disk_free(disk);
            return code;
        }
    }
    return bp_store_open(options, disk, store, err);
}

int bp_sim_arm(struct bp_store *store, const char *failpoints, struct bp_error *err) {
    return bp_disk_arm_text(store->disk, failpoints, err);
}

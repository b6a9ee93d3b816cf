/*
 * An image: a new store made offline, key by key, in a directory of its own. What restore and `fsck
 * --rebuild` end in.
 *
 *   new
 *       directory absent or empty -> `restoring` written and durable: from here on the store does
 *       not open
 *   put   keys ascending: value -> settled segment, the rest -> index
 *   finish
 *       log segment with HARDSTATE -> checkpoint -> STORE -> `restoring` removed: the store is
 *       there, and whole
 *
 * New store id, cluster id and member; one voter; one entry (index 1, term 1) counts as applied.
 * The revision is jumped (STORAGE.md 5) and everything below it compacted; the versions keep their
 * own revisions.
 */
#ifndef BP_IMAGE_H
#define BP_IMAGE_H

#include "store.h"

struct bp_image;

/*
 * `options->dir` names the directory, `options->segment_size` and `request_ids_max` count.
 * FAILED_PRECONDITION when the directory holds anything.
 */
int bp_image_new(const struct bp_options *options, struct bp_disk *disk, struct bp_image **image,
                 struct bp_error *err);
/* Takes away what was made, unless it is finished. A crash instead leaves `restoring` there. */
void bp_image_free(struct bp_image *image);
/*
 * The key must be above all others. `version->value` is size and checksum, which the value must
 * have (asserted); its place is chosen here.
 */
int bp_image_put(struct bp_image *image, struct bp_slice key, const struct bp_version *version,
                 struct bp_slice value, struct bp_error *err);
/* ALREADY_EXISTS for an id that is there. */
int bp_image_lease(struct bp_image *image, const struct bp_lease_record *lease,
                   struct bp_error *err);
bool bp_image_has_lease(const struct bp_image *image, uint64_t lease);
/*
 * Oldest first; the oldest leave where there are more than options->request_ids_max. False for one
 * that is there.
 */
bool bp_image_request_id(struct bp_image *image, const struct bp_request_id_record *record);
/* `revision`: the last one of what the image is made from; every version's is at most that. */
int bp_image_finish(struct bp_image *image, uint64_t revision, uint32_t cluster_version,
                    struct bp_error *err);

#endif

/*
 * Repair: values of this member that fail their checksum, and putting right ones in their place.
 *
 *   read, scrub, fetch --damage--> table --bp_damaged_next--> wanted message (fetch.h) --> a peer
 *   index --(key, revision, crc)-- bp_repair <-- values message <---------------------------'
 *             place: damaged segment -> settled segment, as when it is cleaned
 */
#ifndef BP_REPAIR_H
#define BP_REPAIR_H

#include <stdint.h>

#include "bytes.h"
#include "error.h"
#include "index.h"
#include "segment.h"

struct bp_damage;

/* NULL: out of memory. */
struct bp_damage *bp_damage_new(void);
void bp_damage_free(struct bp_damage *damage);
/*
 * A value could not be read, for the reason in *why: kept for bp_damaged_next if it is damage. Any
 * thread. Best effort: with the table full, or none, the next reader or scrub says it again.
 */
void bp_damage_note(struct bp_segments *segments, struct bp_slice key,
                    const struct bp_version *version, const struct bp_error *why);

#endif

/*
 * Scrubbing: reading everything that is kept and checking it, before a client, or the next start,
 * meets the damage.
 *
 *   [index: state hash] -> [values: every retained version] -> [log: frames of closed segments] ->
 *   [checkpoints: blocks, totals]
 *
 * bp_scrub_* (bedplate.h) is one pass, in steps of about 1 MiB. The keeper runs passes in the
 * background at options.scrub_bytes_per_s.
 */
#ifndef BP_SCRUB_H
#define BP_SCRUB_H

struct bp_scrubber;
struct bp_store;

/*
 * What is due by the clock of background scrubbing, at most a few MiB; nothing without
 * options.scrub_bytes_per_s. Findings are counted (counters.scrub_findings) and their segments
 * marked damaged. 1 when it did something. keeper.mutex held.
 */
int bp_scrub_background(struct bp_store *store);
/* store->keeper.scrubber; from bp_store_abandon, before the segments go. */
void bp_scrubber_free(struct bp_scrubber *scrubber);

#endif

/*
 * Installing another member's state: a manifest comes in, the values this member lacks are fetched,
 * and a checkpoint is made of both.
 *
 *   taking     manifest.h stream --> leases, request ids --> <a>.ckpt.tmp     (the target)
 *                                --> versions ------------> install.tmp       (the spool)
 *   resolving  a block of the spool at a time, each version:
 *                no value, or held here (index: same key, revision, crc; bytes verify)  -> its place
 *                placed by an earlier try of this install (<b>.ckpt.tmp)                -> its place
 *                else wanted (fetch.h) -> own settled segment                           -> its place
 *              all placed -> VERSIONS blocks of the target
 *   ready      all of it is placed
 *   finish     own segments synced -> log retired -> target: META, SEGMENTS, TRAILER, synced
 *              -> renamed to %016x.ckpt -> directory synced          this one rename is the install
 *   done       the store is closed and opened again: it has the sender's state
 *
 *   target     [HEADER][META][LEASES].. [VERSIONS].. [SEGMENTS][TRAILER]   as any checkpoint; room for
 *              the first two is left until finish, when what they say is known
 *   META       replay start: the end of the old log, sequence BP_LOG_ANEW (log_chain.c): nothing of
 *              it is replayed, its segments are kept for the values in them. HARDSTATE is in META; the
 *              first segment of the new log, which the next start makes, has it from there.
 *
 * Invariants
 *   - Until the rename nothing but .tmp files and settled segments that no checkpoint names has come
 *     to the directory: a crash leaves the old state, and the next start takes them away.
 *   - A segment of the store with a value that the target names is not unlinked while the install
 *     lives (bp_install_holds), nor after finish (the log is retired, so nothing is cleaned).
 *   - After finish nothing is acknowledged any more: append and sync are refused.
 *   - Memory: one block of the manifest, its versions, one batch of values, 4 bytes a block.
 *
 * One thread at a time calls the functions of one install; the store goes on serving.
 */
#ifndef BP_INSTALL_H
#define BP_INSTALL_H

#include "fetch.h"
#include "manifest.h"
#include "store.h"

/* True while the install that is going on names the segment. keeper.mutex held. */
bool bp_install_holds(struct bp_store *store, uint32_t segment);

#endif

/*
 * Reading keys into a reply: the part that Get, Scan, Txn results, previous values and watch events
 * share.
 *
 *   index --gather: copy keys and versions, under one leaf's lock--> step
 *   step  --read values: no lock, in the read section--> reply
 *
 * A step is bounded in keys and bytes, so no read section is long and no leaf is held while a disk
 * is read.
 */
#ifndef BP_WIRE_READ_H
#define BP_WIRE_READ_H

#include "protobuf.h"
#include "wire.h"

struct bp_wire_step;

/*
 * A page being filled, perhaps from several ranges in turn. Zero-initialise; set the first block;
 * free it.
 */
struct bp_wire_page {
    const struct bp_view *view;
    struct bp_buffer *out;
    uint32_t field; /* number of the repeated KeyValue */
    bool keys_only, reverse;
    bool at_least_one; /* the first key goes in even if it passes the budget: a scan must get on */
    uint64_t keys_left, bytes_left; /* bytes of encoded KeyValue fields */

    uint64_t count;       /* keys written */
    bool more;            /* stopped at `next`, which was not written */
    struct bp_slice next; /* into the step */
    struct bp_wire_step *step;
};
void bp_wire_page_free(struct bp_wire_page *page);
/*
 * Append what is visible at `revision` in [start, end) until the page is full.
 * DATA_LOSS/VALUE_DAMAGED.
 */
int bp_wire_page_range(struct bp_wire_page *page, struct bp_slice start, struct bp_slice end,
                       uint64_t revision, struct bp_error *err);

/* How many keys are visible at `revision` in [start, end). */
uint64_t bp_wire_count(const struct bp_view *view, struct bp_slice start, struct bp_slice end,
                       uint64_t revision);
/*
 * One key at `revision` as KeyValue field `field`; nothing when it is absent. *left is what its
 * value may take (and is lowered by it), *omitted says that it was left out for that; NULL, NULL
 * for no budget.
 */
int bp_wire_key(const struct bp_view *view, struct bp_slice key, uint64_t revision, bool keys_only,
                uint32_t field, struct bp_buffer *out, uint64_t *left, bool *omitted,
                struct bp_error *err);
/* One KeyValue field; the caller is in the read section the version was found in. */
int bp_wire_key_value(const struct bp_view *view, struct bp_slice key,
                      const struct bp_version *version, bool keys_only, uint32_t field,
                      struct bp_buffer *out, struct bp_error *err);
/* OUT_OF_RANGE/REVISION_COMPACTED when the view does not reach back to `revision`. */
int bp_wire_check_retained(const struct bp_view *view, uint64_t revision, struct bp_error *err);
int bp_wire_finish_reply(const struct bp_buffer *reply, struct bp_error *err);
/* What is left of the largest reply when `reserved` bytes of it are spoken for. */
uint64_t bp_wire_budget(const struct bp_wire_limits *limits, uint64_t reserved);

#endif

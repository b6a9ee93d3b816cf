/*
 * Read sections (epoch.h): two reader counters and a number that says which of them is current.
 *
 *   current     6        7        8              readers[0]  entered at 6, 8, ..
 *   enters in   [0]      [1]      [0]            readers[1]  entered at 7, 9, ..
 *
 *   6 -> 7 waits for readers[1] to drain (entered at 5), 7 -> 8 for readers[0] (entered at 6). So a
 *   ticket taken at
 *   6 has passed at 8: everybody who entered at 5 or 6, that is before the ticket, has left.
 *
 * Invariants: a reader counts in readers[e & 1] only after it saw `current` unchanged at e while it
 * was counted (else it steps back and tries again), so no reader of e is missed by the advance e+1
 * -> e+2. All operations are sequentially consistent: the reader's "count, then look" against the
 * keeper's "move on, then count" needs it.
 */
#include "epoch.h"

#include <assert.h>

uint32_t bp_epoch_enter(struct bp_epoch *epoch) {
    /*
     * Goes round again only when the keeper advanced in between, which it does a few times a
     * second.
     */
    for (;;) {
        uint64_t now = atomic_load(&epoch->current);
        uint32_t token = (uint32_t)(now & 1u);
        atomic_fetch_add(&epoch->readers[token], 1);
        if (atomic_load(&epoch->current) == now) {
            return token;
        }
        atomic_fetch_sub(&epoch->readers[token], 1);
    }
}

void bp_epoch_leave(struct bp_epoch *epoch, uint32_t token) {
    assert(token <= 1);
    int64_t before = atomic_fetch_sub(&epoch->readers[token], 1);
    assert(before > 0);
    (void)before;
}

uint64_t bp_epoch_ticket(struct bp_epoch *epoch) { return atomic_load(&epoch->current) + 2; }

bool bp_epoch_passed(struct bp_epoch *epoch, uint64_t ticket) {
    uint64_t now = atomic_load(&epoch->current);
    while (now < ticket && atomic_load(&epoch->readers[(now + 1) & 1u]) == 0) {
        now++;
        atomic_store(&epoch->current, now); /* one keeper: nobody else writes it */
    }
    return now >= ticket;
}

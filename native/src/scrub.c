/*
 * A pass of scrubbing and the background's pace (see scrub.h).
 *
 *   bp_scrub_next    one step of the present stage; the next stage when it is done
 *   background
 *       allowance = time since the last look * bytes_per_s, at most ALLOWANCE_MAX; steps until it
 *       is used up
 *                    a pass begins PASS_EVERY after the one before it began, or when that one ends;
 *                    PASS_AGAIN after one that found next to nothing to read, as in a new store,
 *                    which may have grown by then
 *
 * Invariants: a step's work is bounded; between steps nothing is locked, and nothing pinned but a
 * revision while the state hash is recomputed, which is memory work only.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scrub_internal.h"

#define NS_PER_S UINT64_C(1000000000)
#define ALLOWANCE_MAX (UINT64_C(4) << 20)
#define PASS_EVERY_NS (3600 * NS_PER_S)
#define PASS_AGAIN_NS (60 * NS_PER_S)
#define STEPS_MAX 4 /* in one call; the state hash reads nothing and takes its time all the same */

struct bp_scrub *bp_scrub_new(struct bp_store *store) {
    struct bp_scrub *scrub = calloc(1, sizeof *scrub);
    struct bp_scrub_piece *piece = malloc(sizeof *piece);
    if (scrub == NULL || piece == NULL) {
        free(scrub);
        free(piece);
        return NULL;
    }
    scrub->store = store;
    scrub->piece = piece;
    return scrub;
}

void bp_scrub_free(struct bp_scrub *scrub) {
    if (scrub == NULL) {
        return;
    }
    if (scrub->pinned) {
        bp_pins_remove(scrub->store, scrub->pin);
    }
    if (scrub->reader_made) {
        bp_frame_reader_free(&scrub->reader);
    }
    if (scrub->open) {
        bp_ckpt_file_close(&scrub->file);
    }
    free(scrub->numbers);
    free(scrub->piece);
    free(scrub);
}

bool bp_scrub_is_damage(const struct bp_error *err) {
    return err->code == BP_DATA_LOSS || err->reason == BP_REASON_IO_FAILED;
}

static int step(struct bp_scrub *scrub, struct bp_finding *finding, struct bp_error *err) {
    switch (scrub->stage) {
    case BP_SCRUB_HASH:
        return bp_scrub_hash(scrub, finding, err);
    case BP_SCRUB_VALUES:
        return bp_scrub_values(scrub, finding, err);
    case BP_SCRUB_LOG:
        return bp_scrub_log(scrub, finding, err);
    case BP_SCRUB_CHECKPOINTS:
        return bp_scrub_checkpoints(scrub, finding, err);
    default:
        return BP_SCRUB_DONE;
    }
}

int bp_scrub_next(struct bp_scrub *scrub, struct bp_finding *finding, uint64_t *bytes,
                  struct bp_error *err) {
    struct bp_store_counters *counters = &scrub->store->counters;
    uint64_t before = scrub->bytes;
    struct bp_error ignored = {0};
    memset(finding, 0, sizeof *finding);
    int result = step(scrub, finding, err != NULL ? err : &ignored);
    if (result == BP_SCRUB_DONE && scrub->stage != BP_SCRUB_END) {
        scrub->stage++;
        result = scrub->stage == BP_SCRUB_END ? BP_SCRUB_DONE : BP_SCRUB_MORE;
    }
    uint64_t read = scrub->bytes - before;
    atomic_fetch_add_explicit(&counters->scrubbed_bytes, read, memory_order_relaxed);
    if (result == BP_SCRUB_FINDING) {
        atomic_fetch_add_explicit(&counters->scrub_findings, 1, memory_order_relaxed);
    }
    if (bytes != NULL) {
        *bytes += read;
    }
    return result;
}

/* ---- in the background ---------------------------------------------------------------------- */

struct bp_scrubber {
    struct bp_scrub *pass; /* NULL between passes */
    uint64_t next_pass_ns, looked_ns;
    uint64_t allowance;
    struct bp_finding finding;
};

static struct bp_scrubber *scrubber_of(struct bp_store *store) {
    struct bp_keeper *keeper = &store->keeper;
    if (keeper->scrubber == NULL) {
        keeper->scrubber = calloc(1, sizeof *keeper->scrubber);
        if (keeper->scrubber != NULL) {
            keeper->scrubber->looked_ns = bp_disk_boot_ns(store->disk);
        }
    }
    return keeper->scrubber;
}

void bp_scrubber_free(struct bp_scrubber *scrubber) {
    if (scrubber != NULL) {
        bp_scrub_free(scrubber->pass);
        free(scrubber);
    }
}

static void earn(struct bp_scrubber *scrubber, uint64_t now_ns, uint64_t bytes_per_s) {
    uint64_t elapsed = now_ns - scrubber->looked_ns;
    elapsed = elapsed < 10 * NS_PER_S ? elapsed : 10 * NS_PER_S; /* no overflow, no burst */
    uint64_t rate = bytes_per_s < UINT64_C(1) << 32 ? bytes_per_s : UINT64_C(1) << 32;
    uint64_t earned = elapsed / 1000 * rate / 1000000;
    if (earned == 0) {
        return; /* let more time gather */
    }
    scrubber->looked_ns = now_ns;
    scrubber->allowance += earned;
    if (scrubber->allowance > ALLOWANCE_MAX) {
        scrubber->allowance = ALLOWANCE_MAX;
    }
}

static void end_pass(struct bp_scrubber *scrubber, uint64_t now_ns, bool whole) {
    if (whole && scrubber->pass->bytes < BP_SCRUB_STEP) {
        scrubber->next_pass_ns = now_ns + PASS_AGAIN_NS;
    }
    bp_scrub_free(scrubber->pass);
    scrubber->pass = NULL;
}

int bp_scrub_background(struct bp_store *store) {
    uint64_t bytes_per_s = store->options.scrub_bytes_per_s;
    struct bp_scrubber *scrubber = bytes_per_s == 0 ? NULL : scrubber_of(store);
    if (scrubber == NULL) {
        return 0;
    }
    uint64_t now = bp_disk_boot_ns(store->disk);
    earn(scrubber, now, bytes_per_s);
    int worked = 0;
    while (scrubber->allowance >= BP_SCRUB_STEP && worked < STEPS_MAX) {
        if (scrubber->pass == NULL) {
            if (now < scrubber->next_pass_ns || (scrubber->pass = bp_scrub_new(store)) == NULL) {
                break;
            }
            scrubber->pass->by_keeper = true;
            scrubber->next_pass_ns = now + PASS_EVERY_NS;
        }
        uint64_t cost = 0;
        int result = bp_scrub_next(scrubber->pass, &scrubber->finding, &cost, NULL);
        scrubber->allowance -= cost < scrubber->allowance ? cost : scrubber->allowance;
        worked++;
        if (result >= BP_SCRUB_DONE) { /* after an error too a new pass, when its time comes */
            end_pass(scrubber, now, result == BP_SCRUB_DONE);
        }
    }
    return worked > 0;
}

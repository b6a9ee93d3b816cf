/*
 * crc: CRC32C over blocks of one size that lie in the CPU's cache, the sum of all fed on so that
 * none can be left out.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "../include/bedplate.h"
#include "commands.h"
#include "record.h"
#include "workload.h"

#define BLOCK_DEFAULT 4096u
#define ROUND 1024u

int command_crc(const struct settings *settings) {
    uint32_t size = settings->size != 0 ? settings->size : BLOCK_DEFAULT;
    uint8_t *block = malloc(size);
    if (block == NULL) {
        return 1;
    }
    struct rng rng = {settings->seed};
    for (uint32_t i = 0; i < size; i++) {
        block[i] = (uint8_t)rng_next(&rng);
    }
    uint32_t crc = 0;
    uint64_t blocks = 0, began = bench_now_ns(), now = began;
    uint64_t end = began + (uint64_t)(settings->seconds * 1e9);
    for (; now < end; now = bench_now_ns()) {
        for (uint32_t i = 0; i < ROUND; i++) {
            crc = bp_crc32c(crc, block, size);
        }
        blocks += ROUND;
    }
    char sum[16];
    snprintf(sum, sizeof sum, "%08" PRIx32, crc);
    struct record record;
    record_begin(&record, "crc");
    record_count(&record, "block", size);
    record_number(&record, "gb_per_s", (double)blocks * size / (double)(now - began), 2);
    record_number(&record, "ns_per_block", (double)(now - began) / (double)blocks, 1);
    record_text(&record, "sum", sum);
    record_print(&record, settings->json);
    free(block);
    return 0;
}

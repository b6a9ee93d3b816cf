/*
 * One result: a work's name and what was measured, printed as a line for people or as one JSON
 * object.
 */
#ifndef BENCH_RECORD_H
#define BENCH_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "histogram.h"

#define RECORD_FIELDS_MAX 40u

struct record {
    const char *work;
    uint32_t n;
    struct {
        const char *name, *text; /* text: NULL for a number */
        double number;
        int decimals;
    } fields[RECORD_FIELDS_MAX];
};

void record_begin(struct record *record, const char *work);
void record_count(struct record *record, const char *name, uint64_t value);
void record_number(struct record *record, const char *name, double value, int decimals);
void record_text(struct record *record, const char *name, const char *text);
/* p50_us, p90_us, p99_us, p999_us, max_us, mean_us */
void record_latency(struct record *record, const struct histogram *histogram);
void record_print(const struct record *record, bool json);

#endif

/*
 * Latencies: a histogram of nanoseconds with a relative error of at most 1/256, fixed size, no
 * allocation.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BITS 8u /* 256 buckets a power of two */
#define HISTOGRAM_POWERS 33u
#define HISTOGRAM_BUCKETS (HISTOGRAM_POWERS << HISTOGRAM_BITS)

struct histogram {
    uint64_t count, sum_ns, max_ns;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *histogram, uint64_t ns);
void histogram_merge(struct histogram *into, const struct histogram *from);
/* Microseconds below which `percent` of the samples lie; 0 without samples. */
double histogram_percentile_us(const struct histogram *histogram, double percent);
double histogram_mean_us(const struct histogram *histogram);

#endif

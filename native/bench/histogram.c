/*
 * bucket of v:  v < 256            v
 *               2^k <= v < 2^k+1   (k - 7) * 256 + the 8 bits after the leading one      (k >= 8)
 *
 * Values too large for the last power count in the last bucket; `max_ns` is exact.
 */
#include "histogram.h"

static uint32_t bucket_of(uint64_t ns) {
    if (ns < 1u << HISTOGRAM_BITS) {
        return (uint32_t)ns;
    }
    uint32_t power = 63u - (uint32_t)__builtin_clzll(ns);
    uint32_t shift = power - HISTOGRAM_BITS;
    uint32_t bucket =
        ((shift + 1) << HISTOGRAM_BITS) + (uint32_t)((ns >> shift) & ((1u << HISTOGRAM_BITS) - 1));
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

/* The middle of a bucket. */
static double value_of(uint32_t bucket) {
    uint32_t group = bucket >> HISTOGRAM_BITS;
    uint64_t low = bucket & ((1u << HISTOGRAM_BITS) - 1);
    if (group == 0) {
        return (double)low;
    }
    uint64_t start = (low | 1u << HISTOGRAM_BITS) << (group - 1);
    return (double)start + (double)(1ull << (group - 1)) / 2;
}

void histogram_add(struct histogram *histogram, uint64_t ns) {
    histogram->count++;
    histogram->sum_ns += ns;
    histogram->max_ns = ns > histogram->max_ns ? ns : histogram->max_ns;
    histogram->buckets[bucket_of(ns)]++;
}

void histogram_merge(struct histogram *into, const struct histogram *from) {
    into->count += from->count;
    into->sum_ns += from->sum_ns;
    into->max_ns = from->max_ns > into->max_ns ? from->max_ns : into->max_ns;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        into->buckets[i] += from->buckets[i];
    }
}

double histogram_percentile_us(const struct histogram *histogram, double percent) {
    double wanted = percent / 100 * (double)histogram->count;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen > 0 && (double)seen >= wanted) {
            return value_of(i) / 1000;
        }
    }
    return 0;
}

double histogram_mean_us(const struct histogram *histogram) {
    return histogram->count == 0 ? 0 : (double)histogram->sum_ns / (double)histogram->count / 1000;
}

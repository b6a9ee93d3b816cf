/*
 *   put        threads 64  ops_per_s 183221  p50_us 310.5 ...
 *   {"work": "put", "threads": 64, "ops_per_s": 183221, "p50_us": 310.5, ...}
 *
 * Names and texts are ours and need no escapes.
 */
#include "record.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>

void record_begin(struct record *record, const char *work) {
    record->work = work;
    record->n = 0;
}

void record_number(struct record *record, const char *name, double value, int decimals) {
    assert(record->n < RECORD_FIELDS_MAX);
    record->fields[record->n].name = name;
    record->fields[record->n].text = NULL;
    record->fields[record->n].number = isfinite(value) ? value : 0;
    record->fields[record->n].decimals = decimals;
    record->n++;
}

void record_count(struct record *record, const char *name, uint64_t value) {
    record_number(record, name, (double)value, 0);
}

void record_text(struct record *record, const char *name, const char *text) {
    record_number(record, name, 0, 0);
    record->fields[record->n - 1].text = text;
}

void record_latency(struct record *record, const struct histogram *histogram) {
    record_number(record, "p50_us", histogram_percentile_us(histogram, 50), 2);
    record_number(record, "p90_us", histogram_percentile_us(histogram, 90), 2);
    record_number(record, "p99_us", histogram_percentile_us(histogram, 99), 2);
    record_number(record, "p999_us", histogram_percentile_us(histogram, 99.9), 2);
    record_number(record, "max_us", (double)histogram->max_ns / 1000, 2);
    record_number(record, "mean_us", histogram_mean_us(histogram), 2);
}

void record_print(const struct record *record, bool json) {
    printf(json ? "{\"work\": \"%s\"" : "%-10s", record->work);
    for (uint32_t i = 0; i < record->n; i++) {
        printf(json ? ", \"%s\": " : "  %s ", record->fields[i].name);
        if (record->fields[i].text != NULL) {
            printf(json ? "\"%s\"" : "%s", record->fields[i].text);
        } else {
            printf("%.*f", record->fields[i].decimals, record->fields[i].number);
        }
    }
    printf(json ? "}\n" : "\n");
    fflush(stdout);
}

/*
 * Failpoints from text; the grammar is in io.h. They exist for tests: the daemon arms them only
 * from its environment, and says so.
 */
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "io.h"

static int malformed(struct bp_error *err, const char *at, const char *what) {
    return bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "failpoints",
                         "\"%.60s\": %s", at, what);
}

/* The text up to one of `stops` into `out`; NULL when it does not fit. */
static const char *take(const char *text, const char *stops, char *out, size_t size) {
    size_t n = strcspn(text, stops);
    if (n == 0 || n >= size) {
        return NULL;
    }
    memcpy(out, text, n);
    out[n] = 0;
    return text + n;
}

static const char *take_number(const char *text, char mark, uint64_t *value) {
    if (*text != mark) {
        return text;
    }
    char *end;
    *value = strtoull(text + 1, &end, 10);
    return end;
}

static int arm_one(struct bp_disk *disk, const char **text, struct bp_error *err) {
    char site[48], fault[24];
    const char *begin = *text;
    const char *at = take(begin, "=;", site, sizeof site);
    if (at == NULL || *at != '=') {
        return malformed(err, begin, "expected site=fault");
    }
    at = take(at + 1, "@x:;", fault, sizeof fault);
    if (at == NULL) {
        return malformed(err, begin, "expected site=fault");
    }
    uint64_t first = 1, times = 1, arg = 0;
    at = take_number(at, '@', &first);
    at = take_number(at, 'x', &times);
    at = take_number(at, ':', &arg);
    if (*at != ';' && *at != 0) {
        return malformed(err, begin, "unexpected text behind the fault");
    }
    int site_number = bp_site_from_name(site), fault_number = bp_fault_from_name(fault);
    if (site_number < 0 || fault_number < 0) {
        return malformed(err, begin, site_number < 0 ? "no such site" : "no such fault");
    }
    if (bp_disk_arm(disk, site_number, fault_number, first, times, arg) < 0) {
        return malformed(err, begin, "cannot be armed");
    }
    *text = at;
    return BP_OK;
}

int bp_disk_arm_text(struct bp_disk *disk, const char *text, struct bp_error *err) {
    int code = BP_OK;
    while (code == BP_OK && *text != 0) {
        if (*text == ';') {
            text++;
        } else {
            code = arm_one(disk, &text, err);
        }
    }
    return code;
}

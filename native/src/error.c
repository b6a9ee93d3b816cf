/*
 * Errors (see error.h):
 *
 *   return bp_fail_io(err, -ENOSPC, "cannot write %s at offset %llu", ...)
 *
 *      code      RESOURCE_EXHAUSTED        what a caller can do about it
 *      reason    DISK_FULL                 what a program can match on
 *      errno     ENOSPC
 *      message   "cannot write log-... at offset 4096: No space left on device"
 *
 * Invariant: a filled error has code != BP_OK, and field and message are NUL-terminated valid
 * prefixes: a message that does not fit is cut between UTF-8 characters, because it travels in
 * protobuf strings.
 */
#include "error.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const reason_names[BP_REASON_COUNT] = {
#define BP_REASON_TEXT(name) [BP_REASON_##name] = #name,
    BP_REASONS(BP_REASON_TEXT)
#undef BP_REASON_TEXT
};

/*
 * Drop the last character of a cut text where the cut split it. `size` is the buffer's, text fills
 * it.
 */
static void trim_split_character(char *text, size_t size) {
    size_t end = size - 1, start = end;
    while (start > 0 && end - start < 3 && ((uint8_t)text[start - 1] & 0xC0u) == 0x80u) {
        start--;
    }
    if (start == 0) {
        return;
    }
    uint8_t lead = (uint8_t)text[start - 1];
    size_t want = lead >= 0xF0u ? 4 : lead >= 0xE0u ? 3 : lead >= 0xC0u ? 2 : 1;
    if (want > 1 && end - (start - 1) < want) {
        text[start - 1] = '\0';
    }
}

static void format_text(char *text, size_t size, const char *fmt, va_list args)
    __attribute__((format(printf, 3, 0)));
static void format_text(char *text, size_t size, const char *fmt, va_list args) {
    int n = vsnprintf(text, size, fmt, args);
    if (n < 0) {
        text[0] = '\0';
    } else if ((size_t)n >= size) {
        trim_split_character(text, size);
    }
}

static void fill(struct bp_error *err, int code, int reason, const char *field, const char *fmt,
                 va_list args) __attribute__((format(printf, 5, 0)));
static void fill(struct bp_error *err, int code, int reason, const char *field, const char *fmt,
                 va_list args) {
    assert(code != BP_OK);
    err->code = code;
    err->reason = reason;
    err->sys_errno = 0;
    err->revision = 0;
    snprintf(err->field, sizeof err->field, "%s", field);
    format_text(err->message, sizeof err->message, fmt, args);
}

int bp_fail(struct bp_error *err, int code, int reason, const char *fmt, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        fill(err, code, reason, "", fmt, args);
        va_end(args);
    }
    return code;
}

int bp_fail_field(struct bp_error *err, int code, int reason, const char *field, const char *fmt,
                  ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        fill(err, code, reason, field, fmt, args);
        va_end(args);
    }
    return code;
}

static void append_errno(struct bp_error *err, int number) {
    char text[96];
    const char *words = strerror_r(number, text, sizeof text); /* the GNU one: thread safe */
    size_t used = strlen(err->message), room = sizeof err->message - used;
    int n = snprintf(err->message + used, room, ": %s", words);
    if (n < 0 || (size_t)n >= room) {
        err->message[used] = '\0'; /* no room: sys_errno still says it */
    }
}

int bp_fail_io(struct bp_error *err, int negative_errno, const char *fmt, ...) {
    assert(negative_errno < 0);
    int number = -negative_errno, code = BP_INTERNAL, reason = BP_REASON_IO_FAILED;
    if (number == ENOSPC || number == EDQUOT) {
        code = BP_RESOURCE_EXHAUSTED;
        reason = BP_REASON_DISK_FULL;
    } else if (number == ENOMEM) {
        code = BP_RESOURCE_EXHAUSTED;
        reason = BP_REASON_OUT_OF_MEMORY;
    }
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        fill(err, code, reason, "", fmt, args);
        va_end(args);
        err->sys_errno = number;
        append_errno(err, number);
    }
    return code;
}

const char *bp_reason_name(int reason) {
    return reason < 0 || reason >= BP_REASON_COUNT ? "NONE" : reason_names[reason];
}

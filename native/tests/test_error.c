/* Errors: what callers match on, and messages that stay valid text. */
#include "error.h"

#include "check.h"

#include <errno.h>

static void a_failure_fills_every_field(void) {
    struct bp_error err;
    memset(&err, 0xAA, sizeof err);
    int code = bp_fail(&err, BP_NOT_FOUND, BP_REASON_LEASE_NOT_FOUND, "lease %d", 7);
    CHECK_EQ_U64(code, BP_NOT_FOUND);
    CHECK_EQ_U64(err.code, BP_NOT_FOUND);
    CHECK_EQ_U64(err.reason, BP_REASON_LEASE_NOT_FOUND);
    CHECK_EQ_U64(err.sys_errno, 0);
    CHECK_EQ_U64(err.revision, 0);
    CHECK(strcmp(err.field, "") == 0 && strcmp(err.message, "lease 7") == 0);
    bp_fail_field(&err, BP_INVALID_ARGUMENT, BP_REASON_KEY_EMPTY, "ops[3].key", "empty");
    CHECK(strcmp(err.field, "ops[3].key") == 0 && strcmp(err.message, "empty") == 0);
}

static void nobody_has_to_ask_for_the_details(void) {
    CHECK_EQ_U64(bp_fail(NULL, BP_ABORTED, BP_REASON_NONE, "x"), BP_ABORTED);
    CHECK_EQ_U64(bp_fail_field(NULL, BP_ABORTED, BP_REASON_NONE, "f", "x"), BP_ABORTED);
    CHECK_EQ_U64(bp_fail_io(NULL, -EIO, "x"), BP_INTERNAL);
}

static void io_failures_say_what_can_be_done(void) {
    struct bp_error err;
    CHECK_EQ_U64(bp_fail_io(&err, -ENOSPC, "cannot write %s", "log"), BP_RESOURCE_EXHAUSTED);
    CHECK_EQ_U64(err.reason, BP_REASON_DISK_FULL);
    CHECK_EQ_U64(err.sys_errno, ENOSPC);
    CHECK(strcmp(err.message, "cannot write log: No space left on device") == 0);
    CHECK_EQ_U64(bp_fail_io(&err, -EDQUOT, "x"), BP_RESOURCE_EXHAUSTED);
    CHECK_EQ_U64(err.reason, BP_REASON_DISK_FULL);
    CHECK_EQ_U64(bp_fail_io(&err, -ENOMEM, "x"), BP_RESOURCE_EXHAUSTED);
    CHECK_EQ_U64(err.reason, BP_REASON_OUT_OF_MEMORY);
    CHECK_EQ_U64(bp_fail_io(&err, -EIO, "x"), BP_INTERNAL);
    CHECK_EQ_U64(err.reason, BP_REASON_IO_FAILED);
}

static void long_texts_are_cut_between_characters(void) {
    enum { SIZE = sizeof((struct bp_error *)NULL)->message };
    static const char *const characters[] = {"\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
    struct bp_error err;
    char text[2 * SIZE];
    for (size_t width = 2; width <= 4; width++) {
        for (size_t shift = 0; shift < 4; shift++) {
            memset(text, 'a', shift);
            size_t n = shift;
            for (; n + 5 < sizeof text; n += width) {
                memcpy(text + n, characters[width - 2], width);
            }
            text[n] = '\0';
            bp_fail(&err, BP_INTERNAL, BP_REASON_NONE, "%s", text);
            size_t whole = (SIZE - 1 - shift) / width * width + shift;
            CHECK_EQ_U64(strlen(err.message), whole);
            CHECK(memcmp(err.message, text, whole) == 0);
        }
    }
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    bp_fail_io(&err, -EIO, "%s", text); /* no room for the errno's words: all or nothing */
    CHECK_EQ_U64(strlen(err.message), SIZE - 1);
}

static void reasons_have_their_public_names(void) {
    CHECK(strcmp(bp_reason_name(BP_REASON_DISK_FULL), "DISK_FULL") == 0);
    CHECK(strcmp(bp_reason_name(BP_REASON_NONE), "NONE") == 0);
    CHECK(strcmp(bp_reason_name(-1), "NONE") == 0);
    CHECK(strcmp(bp_reason_name(BP_REASON_COUNT), "NONE") == 0);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(a_failure_fills_every_field);
    RUN(nobody_has_to_ask_for_the_details);
    RUN(io_failures_say_what_can_be_done);
    RUN(long_texts_are_cut_between_characters);
    RUN(reasons_have_their_public_names);
    TESTS_END;
}

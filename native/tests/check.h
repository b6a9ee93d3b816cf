/*
 * The test harness of the C tests: one program a noun, plain functions, no framework.
 *
 *   CHECK(cond)                 fail the program, naming file, line and the expression
 *   CHECK_EQ_U64(got, want)     the same for integers, printing both
 *   CHECK_OK(status, err)       expect BP_OK, else print the engine's error
 *   RUN(test)                   run one test function; its name is printed when it starts
 *
 * A test program may be given the name of one test as its only argument and then runs that alone,
 * so that tests/mutations.toml can name exactly the test that must turn red.
 */
#ifndef BP_TESTS_CHECK_H
#define BP_TESTS_CHECK_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #cond);               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define CHECK_EQ_U64(got, want)                                                                    \
    do {                                                                                           \
        uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want);                                 \
        if (got_ != want_) {                                                                       \
            fprintf(stderr, "%s:%d: %s is %" PRIu64 ", expected %" PRIu64 "\n", __FILE__,          \
                    __LINE__, #got, got_, want_);                                                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define CHECK_OK(status, err)                                                                      \
    do {                                                                                           \
        int status_ = (status);                                                                    \
        if (status_ != 0) {                                                                        \
            fprintf(stderr, "%s:%d: %s gave %d: %s\n", __FILE__, __LINE__, #status, status_,       \
                    (err)->message);                                                               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define RUN(test)                                                                                  \
    do {                                                                                           \
        if (argc < 2 || strcmp(argv[1], #test) == 0) {                                             \
            fprintf(stderr, "  %s\n", #test);                                                      \
            test();                                                                                \
            tests_run++;                                                                           \
        }                                                                                          \
    } while (0)

/* Put first in main(): counts what RUN ran, so that a misspelt name cannot pass. */
#define TESTS_BEGIN int tests_run = 0
#define TESTS_END                                                                                  \
    if (tests_run == 0) {                                                                          \
        fprintf(stderr, "no such test\n");                                                         \
        return 2;                                                                                  \
    }                                                                                              \
    return 0

#endif

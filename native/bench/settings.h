/* What the command line says. One structure for every command; each reads what concerns it. */
#ifndef BENCH_SETTINGS_H
#define BENCH_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#define BENCH_KEY_SIZE_MIN 8u
#define BENCH_THREADS_MAX 1024u

enum bench_order { BENCH_RANDOM, BENCH_ASCENDING };
enum bench_prepare { BENCH_FALLOCATE, BENCH_ZEROS, BENCH_EXTEND };

struct settings {
    const char *dir; /* data goes below it; made before a command runs, removed after it */
    bool json;       /* one JSON object a line instead of a line for people */
    uint32_t threads;
    double seconds; /* how long to measure */
    double warmup;  /* before that, not counted */
    /* Operations, where a command counts them instead of seconds; 0: its own default. */
    uint64_t count;
    uint64_t keys; /* in the keyspace */
    uint32_t key_size, value_size;
    uint32_t batch;   /* puts in one request */
    uint32_t window;  /* puts in flight */
    uint32_t limit;   /* keys of one scan */
    uint32_t size;    /* raw: bytes of one write; crc: of one block */
    uint64_t cache;   /* get: bytes of the value cache, 0 the store's default */
    uint32_t repeats; /* recover: opens */
    uint64_t seed;
    enum bench_order order;
    enum bench_prepare prepare;
    bool checkpoint; /* recover: with a current one */
    bool wire;       /* put, get: as protobuf through bp_call_wire */
};

void settings_init(struct settings *settings);
/* Reads options from argv[0..argc). Says what is wrong on stderr and returns false. */
bool settings_parse(struct settings *settings, int argc, char **argv);
void settings_help(void);

#endif

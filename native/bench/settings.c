/*
 * Options, one table: name, kind, where the value goes, what it means. Every option takes a value
 * except switches.
 *
 *   --threads 64   --seconds 2.5   --order ascending   --json
 */
#include "settings.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { SWITCH, COUNT32, COUNT64, SECONDS, TEXT, ORDER, PREPARE };

struct option {
    const char *name;
    enum kind kind;
    size_t offset;
    uint64_t least, most;
    const char *help;
};

#define AT(field) offsetof(struct settings, field)

static const struct option options[] = {
    {"dir", TEXT, AT(dir), 0, 0,
     "DIR   where data goes; it is removed again (default: $TMPDIR or .)"},
    {"json", SWITCH, AT(json), 0, 0, "      print JSON lines"},
    {"threads", COUNT32, AT(threads), 1, BENCH_THREADS_MAX, "N     threads (1)"},
    {"seconds", SECONDS, AT(seconds), 0, 0, "S     how long to measure (3)"},
    {"warmup", SECONDS, AT(warmup), 0, 0, "S     before that, not counted (0.3)"},
    {"count", COUNT64, AT(count), 1, UINT64_MAX / 4,
     "N     operations (async: twice the keys; raw: until --seconds)"},
    {"keys", COUNT64, AT(keys), 1, UINT32_MAX, "N     keys in the store (1000000)"},
    {"key-size", COUNT32, AT(key_size), BENCH_KEY_SIZE_MIN, 4096, "B     bytes of a key (16)"},
    {"value-size", COUNT32, AT(value_size), 0, 1 << 20, "B     bytes of a value (256)"},
    {"batch", COUNT32, AT(batch), 1, 10000, "N     puts in one request (64)"},
    {"window", COUNT32, AT(window), 1, 1 << 20, "N     puts in flight (1024)"},
    {"cache", COUNT64, AT(cache), 0, UINT64_MAX / 4,
     "B     value cache of get and scan, read full first (the store's default)"},
    {"limit", COUNT32, AT(limit), 1, 10000, "N     keys of one scan (100)"},
    {"size", COUNT32, AT(size), 1, 1 << 24,
     "B     bytes of a raw write (384) or of a block (4096)"},
    {"repeats", COUNT32, AT(repeats), 1, 1000, "N     recoveries (5)"},
    {"seed", COUNT64, AT(seed), 0, UINT64_MAX, "N     of keys and values (1)"},
    {"order", ORDER, AT(order), 0, 0, "random|ascending          of keys (random)"},
    {"prepare", PREPARE, AT(prepare), 0, 0,
     "fallocate|zeros|extend    the file of raw (fallocate, as the log's)"},
    {"checkpoint", SWITCH, AT(checkpoint), 0, 0, "      recover from a current checkpoint"},
    {"wire", SWITCH, AT(wire), 0, 0, "      put and get as protobuf requests, as gRPC calls come"},
};

#define N_OPTIONS (sizeof options / sizeof options[0])

void settings_init(struct settings *settings) {
    *settings = (struct settings){
        .threads = 1,
        .seconds = 3,
        .warmup = 0.3,
        .keys = 1000000,
        .key_size = 16,
        .value_size = 256,
        .batch = 64,
        .window = 1024,
        .limit = 100,
        .repeats = 5,
        .seed = 1,
    };
}

static bool parse_count(const char *text, uint64_t least, uint64_t most, uint64_t *value) {
    char *end;
    errno = 0;
    unsigned long long parsed = strtoull(text, &end, 10);
    *value = parsed;
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && parsed >= least &&
           parsed <= most;
}

static bool parse_seconds(const char *text, double *value) {
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*value) && *value >= 0 && *value <= 86400;
}

static bool parse_name(const char *text, const char *const *names, int n, int *value) {
    for (int i = 0; i < n; i++) {
        if (strcmp(text, names[i]) == 0) {
            *value = i;
            return true;
        }
    }
    return false;
}

static bool parse_value(const struct option *option, const char *text, void *field) {
    static const char *const orders[] = {"random", "ascending"};
    static const char *const prepares[] = {"fallocate", "zeros", "extend"};
    uint64_t count;
    int choice;
    switch (option->kind) {
    case COUNT32:
        if (!parse_count(text, option->least, option->most, &count)) {
            return false;
        }
        *(uint32_t *)field = (uint32_t)count;
        return true;
    case COUNT64:
        return parse_count(text, option->least, option->most, field);
    case SECONDS:
        return parse_seconds(text, field);
    case TEXT:
        *(const char **)field = text;
        return *text != '\0';
    case ORDER:
        if (!parse_name(text, orders, 2, &choice)) {
            return false;
        }
        *(enum bench_order *)field = (enum bench_order)choice;
        return true;
    case PREPARE:
        if (!parse_name(text, prepares, 3, &choice)) {
            return false;
        }
        *(enum bench_prepare *)field = (enum bench_prepare)choice;
        return true;
    case SWITCH:
        break;
    }
    return false;
}

static const struct option *find(const char *argument) {
    if (strncmp(argument, "--", 2) != 0) {
        return NULL;
    }
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (strcmp(argument + 2, options[i].name) == 0) {
            return &options[i];
        }
    }
    return NULL;
}

bool settings_parse(struct settings *settings, int argc, char **argv) {
    for (int i = 0; i < argc; i++) {
        const struct option *option = find(argv[i]);
        if (option == NULL) {
            fprintf(stderr, "bedplate-bench: unknown option %s\n", argv[i]);
            return false;
        }
        void *field = (char *)settings + option->offset;
        if (option->kind == SWITCH) {
            *(bool *)field = true;
            continue;
        }
        if (++i == argc || !parse_value(option, argv[i], field)) {
            fprintf(stderr, "bedplate-bench: --%s: %s\n", option->name,
                    i == argc ? "a value is missing" : "not a value it takes");
            return false;
        }
    }
    return true;
}

void settings_help(void) {
    for (size_t i = 0; i < N_OPTIONS; i++) {
        printf("  --%-11s %s\n", options[i].name, options[i].help);
    }
}

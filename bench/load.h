/* What the command line says, and the works of load. */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "settings.h"

enum api { API_BEDPLATE, API_ETCD };
enum work {
    WORK_PUT,
    WORK_GET,
    WORK_BATCH,
    WORK_TXN,
    WORK_COUNT,
    WORK_OBJECT_PUT,
    WORK_OBJECT_GET,
    WORK_PROBE
};

#define LOAD_CONNECTIONS_MAX 256u
#define LOAD_INFLIGHT_MAX 65536u
#define LOAD_MEMBERS_MAX 16u

struct load {
    struct settings
        data; /* keys, sizes, order, seed, seconds, warmup, json: as bedplate-bench has them */
    const char *address; /* probe: several, with commas between them */
    enum api api;
    enum work work;
    uint32_t inflight, connections;
    uint32_t ops;       /* of one batch or txn */
    uint64_t count;     /* calls; 0: until seconds are over */
    uint64_t bytes;     /* of the object */
    uint32_t chunk;     /* bytes of one message of it */
    const char *object; /* its name */
    bool until_eof;     /* of standard input; instead of seconds */
    uint32_t interval;  /* probe: milliseconds between two puts at one member */
};

const char *work_name(enum work work);
/* 0 or an exit status. */
int run_calls(const struct load *load);
int run_object(const struct load *load);
int run_probe(const struct load *load);

#endif

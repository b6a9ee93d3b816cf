/*
 * load WORK --address HOST:PORT [options]: gRPC load from one thread of native code, the same loop
 * for Bedplate and for etcd.
 *
 *   unary works    put, get, batch, txn: load_calls.c
 *   count          the number of keys the server holds
 *   object works   object-put, object-get: load_object.c
 *   probe          how long a cluster acknowledges nothing: load_probe.c
 *
 * Every call's HTTP and gRPC status is checked, and what it returned; a failed one fails the run.
 * One JSON object on stdout.
 */
#include "load.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const works[] = {"put",   "get",        "batch",      "txn",
                                    "count", "object-put", "object-get", "probe"};

const char *work_name(enum work work) { return works[work]; }

static int usage(void) {
    fprintf(
        stderr,
        "usage: load put|get|batch|txn|count|object-put|object-get --address HOST:PORT\n"
        "       load probe --address HOST:PORT,HOST:PORT,...  --interval MS (5)\n"
        "  --api bedplate|etcd (bedplate)      --inflight N (64)       --connections N (1)\n"
        "  --seconds S (3)   --warmup S (0.5)  --count N calls instead of seconds\n"
        "  --until-eof       until standard input ends instead of seconds\n"
        "  --keys N (100000) --key-size B (16) --value-size B (256)    --ops N of a batch (100)\n"
        "  --order random|ascending (random)   --seed N (1)\n"
        "  --bytes N (1 GiB) --chunk B (1 MiB) --object NAME (object)\n");
    return 2;
}

static bool number(const char *text, uint64_t least, uint64_t most, uint64_t *value) {
    char *end;
    *value = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && *value >= least && *value <= most;
}

static bool number32(const char *text, uint64_t least, uint64_t most, uint32_t *value) {
    uint64_t wide;
    bool good = number(text, least, most, &wide);
    *value = (uint32_t)wide;
    return good;
}

static bool seconds(const char *text, double *value) {
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == '\0' && *value >= 0 && *value <= 3600;
}

static bool choose(const char *text, const char *first, const char *second, int *value) {
    *value = strcmp(text, second) == 0;
    return *value == 1 || strcmp(text, first) == 0;
}

static bool set(struct load *load, int option, const char *text) {
    int choice = 0;
    bool good;
    switch (option) {
    case 'a':
        load->address = text;
        return true;
    case 'A':
        good = choose(text, "bedplate", "etcd", &choice);
        load->api = (enum api)choice;
        return good;
    case 'i':
        return number32(text, 1, LOAD_INFLIGHT_MAX, &load->inflight);
    case 'c':
        return number32(text, 1, LOAD_CONNECTIONS_MAX, &load->connections);
    case 's':
        return seconds(text, &load->data.seconds);
    case 'w':
        return seconds(text, &load->data.warmup);
    case 'n':
        return number(text, 1, UINT64_MAX / 2, &load->count);
    case 'k':
        return number(text, 1, UINT32_MAX, &load->data.keys);
    case 'K':
        return number32(text, BENCH_KEY_SIZE_MIN, 4096, &load->data.key_size);
    case 'V':
        return number32(text, 0, 1 << 20, &load->data.value_size);
    case 'o':
        return number32(text, 1, 10000, &load->ops);
    case 'O':
        good = choose(text, "random", "ascending", &choice);
        load->data.order = (enum bench_order)choice;
        return good;
    case 'S':
        return number(text, 0, UINT64_MAX, &load->data.seed);
    case 'b':
        return number(text, 1, UINT64_MAX / 2, &load->bytes);
    case 'C':
        return number32(text, 8, 4000000, &load->chunk);
    case 'I':
        return number32(text, 1, 1000, &load->interval);
    case 'e':
        load->until_eof = true;
        return true;
    case 'N':
        load->object = text;
        return *text != '\0' && strlen(text) <= 200;
    default:
        return false;
    }
}

static bool parse(struct load *load, int argc, char **argv) {
    static const struct option options[] = {
        {"address", required_argument, NULL, 'a'},
        {"api", required_argument, NULL, 'A'},
        {"inflight", required_argument, NULL, 'i'},
        {"connections", required_argument, NULL, 'c'},
        {"seconds", required_argument, NULL, 's'},
        {"warmup", required_argument, NULL, 'w'},
        {"count", required_argument, NULL, 'n'},
        {"keys", required_argument, NULL, 'k'},
        {"key-size", required_argument, NULL, 'K'},
        {"value-size", required_argument, NULL, 'V'},
        {"ops", required_argument, NULL, 'o'},
        {"order", required_argument, NULL, 'O'},
        {"seed", required_argument, NULL, 'S'},
        {"bytes", required_argument, NULL, 'b'},
        {"chunk", required_argument, NULL, 'C'},
        {"object", required_argument, NULL, 'N'},
        {"interval", required_argument, NULL, 'I'},
        {"until-eof", no_argument, NULL, 'e'},
        {NULL, 0, NULL, 0},
    };
    for (;;) {
        int option = getopt_long(argc, argv, "", options, NULL);
        if (option < 0) {
            return optind == argc && load->address != NULL;
        }
        if (!set(load, option, optarg)) {
            return false;
        }
    }
}

static bool find_work(const char *name, enum work *work) {
    for (size_t i = 0; i < sizeof works / sizeof works[0]; i++) {
        if (strcmp(name, works[i]) == 0) {
            *work = (enum work)i;
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv) {
    struct load load = {
        .inflight = 64,
        .connections = 1,
        .ops = 100,
        .bytes = 1ull << 30,
        .chunk = 1u << 20,
        .object = "object",
        .interval = 5,
    };
    settings_init(&load.data);
    load.data.keys = 100000;
    load.data.warmup = 0.5;
    if (argc < 2 || !find_work(argv[1], &load.work) || !parse(&load, argc - 1, argv + 1)) {
        return usage();
    }
    bool object = load.work == WORK_OBJECT_PUT || load.work == WORK_OBJECT_GET;
    if (load.ops > load.data.keys || (object && load.api != API_BEDPLATE)) {
        return usage();
    }
    if (load.work == WORK_PROBE) {
        return run_probe(&load);
    }
    return object ? run_object(&load) : run_calls(&load);
}

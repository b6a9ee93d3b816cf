/*
 * recover: how long opening takes after a kill, the data in the page cache, as after any crash of a
 * process.
 *
 *   child 0
 *       fill with every key; with --checkpoint close, open without threads, write a checkpoint;
 *       SIGKILL itself
 *   child 1..  open (timed), read some keys, report through a pipe; SIGKILL itself
 *
 * Every open but the first therefore also follows an unclean end. Without --checkpoint no
 * checkpoint is ever written.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../src/error.h"
#include "commands.h"
#include "feed.h"
#include "record.h"

#define PROBES 1000u

struct opened {
    uint64_t open_ns, first_read_ns;
    struct bp_status status;
};

static void place_without_checkpoints(struct bench_place *place, const struct settings *settings) {
    bench_place(place, settings, "recover");
    place->options.checkpoint_bytes = 1ull << 50;
}

static int write_checkpoint(struct bench_place *place) {
    struct bp_error error;
    bp_store *store;
    place->options.manual = 1;
    if (bp_open(&place->options, &store, &error) != BP_OK) {
        return bench_fail("open", &error);
    }
    if (bp_step_checkpoint(store, 1, &error) != BP_OK) {
        return bench_fail("checkpoint", &error);
    }
    return 0;
}

static int fill(const struct settings *settings) {
    struct bench_place place;
    struct bp_error error;
    bp_store *store;
    place_without_checkpoints(&place, settings);
    if (bp_open(&place.options, &store, &error) != BP_OK) {
        return bench_fail("open", &error);
    }
    if (bench_fill(store, settings, settings->order) != 0) {
        return 1;
    }
    if (!settings->checkpoint) {
        return 0; /* killed as it stands */
    }
    if (bp_close(store, &error) != BP_OK) {
        return bench_fail("close", &error);
    }
    return write_checkpoint(&place);
}

static bool read_some(bp_store *store, const struct settings *settings, uint64_t *first_ns) {
    struct values values;
    struct rng rng = {settings->seed};
    uint8_t key[4096], *value = malloc((size_t)settings->value_size + 1);
    bool good = values_init(&values, settings) && value != NULL;
    for (uint32_t i = 0; good && i < PROBES; i++) {
        struct bp_error error;
        uint32_t size;
        uint64_t revision, number = rng_below(&rng, settings->keys), began = bench_now_ns();
        workload_key(settings, number, key);
        int code = bp_get(store, BP_KEYSPACE_USER, key, settings->key_size, value,
                          settings->value_size + 1, &size, &revision, &error);
        good = code == BP_OK && size == settings->value_size &&
               memcmp(value, values_of(&values, number), size) == 0;
        if (i == 0) {
            *first_ns = bench_now_ns() - began;
        }
    }
    values_free(&values);
    free(value);
    return good;
}

static int open_once(const struct settings *settings, struct opened *opened) {
    struct bench_place place;
    struct bp_error error;
    bp_store *store;
    place_without_checkpoints(&place, settings);
    uint64_t began = bench_now_ns();
    if (bp_open(&place.options, &store, &error) != BP_OK) {
        return bench_fail("open", &error);
    }
    opened->open_ns = bench_now_ns() - began;
    bp_get_status(store, &opened->status);
    if (opened->status.keys != settings->keys ||
        !read_some(store, settings, &opened->first_read_ns)) {
        fprintf(stderr, "bedplate-bench: recover: keys or values are missing\n");
        return 1;
    }
    return 0;
}

/*
 * Runs one child, which dies by SIGKILL where it stands; `opened` is NULL for the filling one. 0,
 * or an exit status.
 */
static int run_child(const struct settings *settings, struct opened *opened) {
    int ends[2], status;
    if (pipe(ends) != 0) {
        perror("bedplate-bench: pipe");
        return 1;
    }
    pid_t child = fork();
    if (child == 0) {
        struct opened found = {0};
        int failed = opened == NULL ? fill(settings) : open_once(settings, &found);
        if (failed == 0 && write(ends[1], &found, sizeof found) == (ssize_t)sizeof found) {
            raise(SIGKILL);
        }
        _exit(1);
    }
    close(ends[1]);
    struct opened found;
    char *at = (char *)&found;
    size_t have = 0;
    for (ssize_t n = 1; child > 0 && have < sizeof found && n > 0; have += n > 0 ? (size_t)n : 0) {
        n = read(ends[0], at + have, sizeof found - have);
    }
    close(ends[0]);
    if (child < 0 || waitpid(child, &status, 0) != child || have != sizeof found ||
        !WIFSIGNALED(status)) {
        fprintf(stderr, "bedplate-bench: recover: the child failed\n");
        return 1;
    }
    if (opened != NULL) {
        *opened = found;
    }
    return 0;
}

int command_recover(const struct settings *settings) {
    if (run_child(settings, NULL) != 0) {
        return 1;
    }
    for (uint32_t i = 0; i < settings->repeats; i++) {
        struct opened opened;
        struct record record;
        if (run_child(settings, &opened) != 0) {
            return 1;
        }
        record_begin(&record, "recover");
        record_text(&record, "from", settings->checkpoint ? "checkpoint" : "log");
        record_count(&record, "keys", opened.status.keys);
        record_number(&record, "open_ms", (double)opened.open_ns / 1e6, 2);
        record_number(&record, "first_read_ms", (double)opened.first_read_ns / 1e6, 3);
        record_number(&record, "log_mb", (double)opened.status.recovery_log_bytes / 1e6, 1);
        record_number(&record, "checkpoint_mb", (double)opened.status.checkpoint_bytes / 1e6, 1);
        record_count(&record, "checkpoint_keys", opened.status.recovery_checkpoint_keys);
        record_count(&record, "entries", opened.status.recovery_entries);
        record_number(&record, "copied_mb", (double)opened.status.recovery_copied_bytes / 1e6, 3);
        record_print(&record, settings->json);
    }
    return 0;
}

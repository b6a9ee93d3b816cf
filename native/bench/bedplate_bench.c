/*
 * bedplate-bench COMMAND [options]: measures the engine in this process, without a network.
 *
 *   parent   makes a scratch directory, waits for the child or a signal, removes the directory
 *   child    runs the command in it, and is killed when the parent dies
 *
 * So whatever happens to a measurement, nothing stays behind.
 */
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../include/bedplate.h"
#include "commands.h"

struct command {
    const char *name;
    int (*run)(const struct settings *settings);
    const char *help;
};

static const struct command commands[] = {
    {"put", command_put, "durable puts, each thread waiting for its own sync"},
    {"raw", command_raw, "the floor: pwrite and fdatasync of the same size, one thread"},
    {"async", command_async, "puts in batches, a window of them in flight"},
    {"get", command_get, "point reads of random keys"},
    {"scan", command_scan, "pages of keys and values from a random key on"},
    {"recover", command_recover, "opening after a kill; --checkpoint: from a current one"},
    {"memory", command_memory, "index memory per key, one version and a lease each"},
    {"crc", command_crc, "CRC32C of blocks"},
};

#define N_COMMANDS (sizeof commands / sizeof commands[0])

static int usage(int status) {
    FILE *out = status == 0 ? stdout : stderr;
    fprintf(out, "usage: bedplate-bench COMMAND [options]\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].help);
    }
    fprintf(out, "\nbedplate-bench --help lists the options. Defaults are in brackets.\n");
    return status;
}

static const struct command *find(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(name, commands[i].name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk) {
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static int run_child(const struct command *command, const struct settings *settings,
                     const sigset_t *before) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigprocmask(SIG_SETMASK, before, NULL);
    int status = command->run(settings);
    fflush(stdout);
    return status;
}

/* The child's exit status; 128 + signal when it, or this process, was told to end. */
static int wait_for(pid_t child, const sigset_t *signals) {
    int status, ended = 0;
    for (;;) {
        int signal = sigwaitinfo(signals, NULL);
        if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP) {
            ended = 128 + signal;
            kill(child, SIGKILL);
        }
        if (waitpid(child, &status, WNOHANG) == child) {
            break;
        }
    }
    if (ended != 0) {
        return ended;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run(const struct command *command, struct settings *settings) {
    char scratch[4096];
    const char *parent = settings->dir != NULL ? settings->dir : getenv("TMPDIR");
    int size = snprintf(scratch, sizeof scratch, "%s/bedplate-bench.XXXXXX",
                        parent != NULL ? parent : ".");
    if (size < 0 || (size_t)size >= sizeof scratch || mkdtemp(scratch) == NULL) {
        fprintf(stderr, "bedplate-bench: %s: %s\n", scratch, strerror(errno));
        return 2;
    }
    settings->dir = scratch;
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, &before);
    int status = 1;
    pid_t child = fork();
    if (child == 0) {
        _exit(run_child(command, settings, &before));
    }
    if (child > 0) {
        status = wait_for(child, &signals);
    } else {
        perror("bedplate-bench: fork");
    }
    if (nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0) {
        fprintf(stderr, "bedplate-bench: cannot remove %s: %s\n", scratch, strerror(errno));
    }
    return status;
}

int main(int argc, char **argv) {
    struct settings settings;
    settings_init(&settings);
    if (argc < 2) {
        return usage(2);
    }
    if (strcmp(argv[1], "--help") == 0) {
        usage(0);
        settings_help();
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("bedplate-bench %s\n", bp_version_string());
        return 0;
    }
    const struct command *command = find(argv[1]);
    if (command == NULL || !settings_parse(&settings, argc - 2, argv + 2)) {
        return usage(2);
    }
    return run(command, &settings);
}

/*
 * raw: the floor under a durable put: pwrite and fdatasync of the same size into a file prepared
 * the same way, nothing else.
 *
 *   offset 4096 + size, + size ...   up to 64 MiB, then the next file, as the log's segments
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "record.h"
#include "workload.h"

#define FILE_SIZE (64u << 20)
#define FILE_HEADER 4096u
#define SIZE_DEFAULT 384u

static bool write_zeros(int fd) {
    size_t size = 1u << 20;
    uint8_t *zeros = calloc(1, size);
    bool written = zeros != NULL;
    for (uint64_t at = 0; written && at < FILE_SIZE; at += size) {
        written = pwrite(fd, zeros, size, (off_t)at) == (ssize_t)size;
    }
    free(zeros);
    return written;
}

static int open_file(const struct settings *settings, uint32_t number) {
    char path[4096];
    snprintf(path, sizeof path, "%s/raw%u", settings->dir, number);
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        perror(path);
        return -1;
    }
    bool prepared =
        settings->prepare == BENCH_EXTEND ||
        (settings->prepare == BENCH_ZEROS ? write_zeros(fd) : fallocate(fd, 0, 0, FILE_SIZE) == 0);
    if (!prepared || fsync(fd) != 0) {
        perror("bedplate-bench: prepare");
        close(fd);
        return -1;
    }
    return fd;
}

struct raw {
    int fd;
    uint32_t files, size;
    uint64_t at;
    uint8_t *bytes;
};

static bool write_one(const struct settings *settings, struct raw *raw) {
    if (raw->fd < 0 || raw->at + raw->size > FILE_SIZE) {
        if (raw->fd >= 0) {
            close(raw->fd);
        }
        raw->fd = open_file(settings, raw->files++);
        raw->at = FILE_HEADER;
        if (raw->fd < 0) {
            return false;
        }
    }
    memcpy(raw->bytes, &raw->at, sizeof raw->at);
    if (pwrite(raw->fd, raw->bytes, raw->size, (off_t)raw->at) != (ssize_t)raw->size ||
        fdatasync(raw->fd) != 0) {
        perror("bedplate-bench: raw write");
        return false;
    }
    raw->at += raw->size;
    return true;
}

/* Latency of write and sync together; making the next file is not part of it. */
static bool measure(const struct settings *settings, struct raw *raw, struct histogram *latency) {
    if (!write_one(settings, raw)) {
        return false;
    }
    uint64_t start = bench_now_ns() + (uint64_t)(settings->warmup * 1e9);
    uint64_t end = start + (uint64_t)(settings->seconds * 1e9);
    for (uint64_t now = bench_now_ns(); now < end;) {
        uint32_t files = raw->files;
        uint64_t began = bench_now_ns();
        if (!write_one(settings, raw)) {
            return false;
        }
        now = bench_now_ns();
        if (began >= start && files == raw->files) {
            histogram_add(latency, now - began);
        }
    }
    return true;
}

int command_raw(const struct settings *settings) {
    static const char *const prepares[] = {"fallocate", "zeros", "extend"};
    struct raw raw = {.fd = -1, .size = settings->size != 0 ? settings->size : SIZE_DEFAULT};
    if (raw.size < sizeof raw.at) {
        raw.size = sizeof raw.at;
    }
    struct histogram *latency = calloc(1, sizeof *latency);
    raw.bytes = malloc(raw.size);
    bool measured = false;
    if (latency != NULL && raw.bytes != NULL) {
        memset(raw.bytes, 0xa5, raw.size);
        measured = measure(settings, &raw, latency);
    }
    if (measured) {
        struct record record;
        record_begin(&record, "raw");
        record_text(&record, "file", prepares[settings->prepare]);
        record_count(&record, "size", raw.size);
        record_number(&record, "ops_per_s", (double)latency->count / settings->seconds, 0);
        record_latency(&record, latency);
        record_print(&record, settings->json);
    }
    if (raw.fd >= 0) {
        close(raw.fd);
    }
    free(raw.bytes);
    free(latency);
    return measured ? 0 : 1;
}

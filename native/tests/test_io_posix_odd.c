/*
 * bp_io on a system that is less helpful than Linux on ext4: signals interrupt every call, there is
 * no fallocate, a sync fails. The production file is compiled here with the system calls below in
 * front of the real ones.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int interruptions;    /* how many of the next calls a signal interrupts */
static int fallocate_errno;  /* 0: the real one */
static int fdatasync_errno;  /* 0: the real one */
static unsigned interrupted; /* how many were */
static unsigned calls;       /* how many were made */

/* True when the next call is to fail, with errno set. */
static bool fails(int with) {
    calls++;
    if (interruptions > 0) {
        interruptions--;
        interrupted++;
        errno = EINTR;
        return true;
    }
    errno = with;
    return with != 0;
}

/* A macro is not expanded within itself: these call the system. */
#define open(...) (fails(0) ? -1 : open(__VA_ARGS__))
#define pread(...) (fails(0) ? -1 : pread(__VA_ARGS__))
#define pwritev(...) (fails(0) ? -1 : pwritev(__VA_ARGS__))
#define ftruncate(...) (fails(0) ? -1 : ftruncate(__VA_ARGS__))
#define fsync(...) (fails(0) ? -1 : fsync(__VA_ARGS__))
#define flock(...) (fails(0) ? -1 : flock(__VA_ARGS__))
#define getrandom(...) (fails(0) ? -1 : getrandom(__VA_ARGS__))
#define fallocate(...) (fails(fallocate_errno) ? -1 : fallocate(__VA_ARGS__))
#define fdatasync(...) (fails(fdatasync_errno) ? -1 : fdatasync(__VA_ARGS__))
#define bp_io_posix bp_io_odd
#include "../src/io_posix.c"
#undef open
#undef pread
#undef pwritev
#undef ftruncate
#undef fsync
#undef flock
#undef getrandom
#undef fallocate
#undef fdatasync

#include "check.h"

/* A fresh file without a name, and the io to use it with. */
static int scratch(struct bp_io *io) {
    const char *base = getenv("TMPDIR");
    char path[256];
    bp_io_odd(io);
    interruptions = 0;
    fallocate_errno = fdatasync_errno = 0;
    snprintf(path, sizeof path, "%s/bp-odd-XXXXXX", base != NULL ? base : "/tmp");
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    unlink(path);
    return fd;
}

static void check_size(const struct bp_io *io, int fd, uint64_t want) {
    uint64_t size = 0;
    CHECK(io->size(io->ctx, fd, &size) == 0);
    CHECK_EQ_U64(size, want);
}

static void interrupted_calls_are_made_again(void) {
    struct bp_io io;
    int fd = scratch(&io);
    char text[] = "text";
    struct iovec iov = {text, 4};
    unsigned before = interrupted;
    interruptions = 2;
    CHECK(io.pwritev(io.ctx, fd, &iov, 1, 0) == 4);
    interruptions = 2;
    CHECK(io.pread(io.ctx, fd, text, 4, 0) == 4);
    interruptions = 2;
    CHECK(io.datasync(io.ctx, fd) == 0);
    interruptions = 2;
    CHECK(io.allocate(io.ctx, fd, 4096) == 0);
    interruptions = 2;
    CHECK(io.truncate(io.ctx, fd, 1) == 0);
    interruptions = 2;
    CHECK(io.lock(io.ctx, fd) == 0);
    interruptions = 2;
    CHECK(io.random(io.ctx, text, 4) == 0);
    interruptions = 4; /* the open and, as they come, the fsync */
    CHECK(io.sync_dir(io.ctx, "/tmp") == 0);
    interruptions = 2;
    int other = io.open(io.ctx, "/dev/null", BP_O_READ);
    CHECK(other >= 0);
    CHECK_EQ_U64(interrupted - before, 20);
    io.close(io.ctx, other);
    io.close(io.ctx, fd);
}

static void without_fallocate_the_size_still_shows(void) {
    static const int missing[] = {EOPNOTSUPP, ENOSYS};
    for (size_t i = 0; i < 2; i++) {
        struct bp_io io;
        int fd = scratch(&io);
        fallocate_errno = missing[i];
        CHECK(io.allocate(io.ctx, fd, 1 << 20) == 0);
        check_size(&io, fd, 1 << 20);
        CHECK(io.allocate(io.ctx, fd, 1 << 10) == 0); /* never shrinks */
        check_size(&io, fd, 1 << 20);
        io.close(io.ctx, fd);
    }
}

static void a_full_disk_is_not_papered_over(void) {
    struct bp_io io;
    int fd = scratch(&io);
    fallocate_errno = ENOSPC;
    CHECK(io.allocate(io.ctx, fd, 1 << 20) == -ENOSPC);
    check_size(&io, fd, 0);
    io.close(io.ctx, fd);
}

static void a_failed_sync_is_reported_and_not_tried_again(void) {
    struct bp_io io;
    int fd = scratch(&io);
    fdatasync_errno = EIO;
    unsigned before = calls;
    CHECK(io.datasync(io.ctx, fd) == -EIO);
    CHECK_EQ_U64(calls - before, 1);
    io.close(io.ctx, fd);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(interrupted_calls_are_made_again);
    RUN(without_fallocate_the_size_still_shows);
    RUN(a_full_disk_is_not_papered_over);
    RUN(a_failed_sync_is_reported_and_not_tried_again);
    TESTS_END;
}

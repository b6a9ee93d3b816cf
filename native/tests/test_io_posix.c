/* bp_io on the real system: every function does what io.h says, in a temporary directory. */
#include "io.h"

#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct bp_io io;
static char directory[256];

static const char *in_dir(const char *name) {
    static _Thread_local char paths[4][512];
    static _Thread_local unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static int make(const char *name) {
    int fd = io.open(io.ctx, in_dir(name), BP_O_WRITE | BP_O_CREATE);
    CHECK(fd >= 0);
    return fd;
}

static void handles_are_private_and_do_not_reach_children(void) {
    struct stat st;
    umask(0);
    int fd = make("private");
    CHECK(fstat(fd, &st) == 0);
    CHECK_EQ_U64(st.st_mode & 0777, 0600);
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(io.close(io.ctx, fd) == 0);
    CHECK(io.close(io.ctx, fd) == -EBADF);
}

static void open_flags_mean_what_they_say(void) {
    CHECK(io.open(io.ctx, in_dir("missing"), BP_O_READ) == -ENOENT);
    CHECK(io.open(io.ctx, in_dir("missing"), BP_O_WRITE) == -ENOENT);
    int fd = io.open(io.ctx, in_dir("new"), BP_O_WRITE | BP_O_CREATE | BP_O_EXCL);
    CHECK(fd >= 0);
    CHECK(io.open(io.ctx, in_dir("new"), BP_O_WRITE | BP_O_CREATE | BP_O_EXCL) == -EEXIST);
    int reader = io.open(io.ctx, in_dir("new"), BP_O_READ);
    struct iovec iov = {.iov_base = "x", .iov_len = 1};
    CHECK(reader >= 0);
    CHECK(io.pwritev(io.ctx, reader, &iov, 1, 0) == -EBADF);
    io.close(io.ctx, reader);
    io.close(io.ctx, fd);
}

static void vectors_are_written_and_read_back(void) {
    char a[] = "bed", b[] = "", c[] = "plate", back[16] = {0};
    struct iovec iov[] = {{a, 3}, {b, 0}, {c, 5}};
    int fd = make("vectors");
    uint64_t size = 0;
    CHECK(io.pwritev(io.ctx, fd, iov, 3, 100) == 8);
    CHECK(io.datasync(io.ctx, fd) == 0);
    CHECK(io.pread(io.ctx, fd, back, sizeof back, 100) == 8); /* short at the end of the file */
    CHECK(memcmp(back, "bedplate", 8) == 0);
    CHECK(io.pread(io.ctx, fd, back, sizeof back, 108) == 0);
    CHECK(io.size(io.ctx, fd, &size) == 0);
    CHECK_EQ_U64(size, 108);
    CHECK(io.pread(io.ctx, fd, back, 1, UINT64_MAX) == -EOVERFLOW);
    CHECK(io.pwritev(io.ctx, fd, iov, 3, UINT64_MAX) == -EOVERFLOW);
    CHECK(io.datasync(io.ctx, -1) == -EBADF);
    io.close(io.ctx, fd);
}

static void allocation_takes_blocks_and_shows_the_size(void) {
    int fd = make("allocated");
    uint64_t size = 0;
    struct stat st;
    CHECK(io.allocate(io.ctx, fd, 1 << 20) == 0);
    CHECK(io.size(io.ctx, fd, &size) == 0);
    CHECK_EQ_U64(size, 1 << 20);
    CHECK(fstat(fd, &st) == 0);
    CHECK(st.st_blocks > 0); /* where the file system can; the ones tests run on can */
    CHECK(io.allocate(io.ctx, fd, 4096) == 0); /* never shrinks */
    CHECK(io.allocate(io.ctx, fd, 0) == 0);
    CHECK(io.allocate(io.ctx, fd, UINT64_MAX) == -EFBIG);
    CHECK(io.size(io.ctx, fd, &size) == 0);
    CHECK_EQ_U64(size, 1 << 20);
    CHECK(io.truncate(io.ctx, fd, 10) == 0);
    CHECK(io.truncate(io.ctx, fd, UINT64_MAX) == -EFBIG);
    CHECK(io.size(io.ctx, fd, &size) == 0);
    CHECK_EQ_U64(size, 10);
    io.close(io.ctx, fd);
}

static void names_change_as_asked(void) {
    struct stat st;
    io.close(io.ctx, make("from"));
    CHECK(io.rename(io.ctx, in_dir("from"), in_dir("to")) == 0);
    CHECK(io.rename(io.ctx, in_dir("from"), in_dir("to")) == -ENOENT);
    CHECK(io.unlink(io.ctx, in_dir("to")) == 0);
    CHECK(io.unlink(io.ctx, in_dir("to")) == -ENOENT);
    CHECK(io.mkdir(io.ctx, in_dir("sub")) == 0);
    CHECK(io.mkdir(io.ctx, in_dir("sub")) == -EEXIST);
    CHECK(stat(in_dir("sub"), &st) == 0);
    CHECK_EQ_U64(st.st_mode & 0777, 0700);
    CHECK(io.sync_dir(io.ctx, in_dir("sub")) == 0);
    CHECK(io.sync_dir(io.ctx, in_dir("missing")) == -ENOENT);
    io.close(io.ctx, make("plain"));
    CHECK(io.sync_dir(io.ctx, in_dir("plain")) == -ENOTDIR);
}

static int count_names(void *arg, const char *name) {
    unsigned *seen = arg;
    CHECK(strcmp(name, ".") != 0 && strcmp(name, "..") != 0);
    *seen |= strcmp(name, "one") == 0 ? 1u : strcmp(name, "two") == 0 ? 2u : 128u;
    return 0;
}

static int stop(void *arg, const char *name) {
    (void)name;
    ++*(int *)arg;
    return 42;
}

static void listing_gives_plain_files_only(void) {
    unsigned seen = 0;
    int calls = 0;
    CHECK(io.mkdir(io.ctx, in_dir("list")) == 0);
    CHECK(io.mkdir(io.ctx, in_dir("list/directory")) == 0);
    io.close(io.ctx, make("list/one"));
    io.close(io.ctx, make("list/two"));
    CHECK(symlink("one", in_dir("list/link")) == 0);
    CHECK(io.list(io.ctx, in_dir("list"), count_names, &seen) == 0);
    CHECK_EQ_U64(seen, 3);
    CHECK(io.list(io.ctx, in_dir("list"), stop, &calls) == 42);
    CHECK_EQ_U64(calls, 1);
    CHECK(io.list(io.ctx, in_dir("missing"), count_names, &seen) == -ENOENT);
}

static void space_is_what_the_user_may_take(void) {
    uint64_t available = 0, total = 0;
    CHECK(io.space(io.ctx, directory, &available, &total) == 0);
    CHECK(total > 0 && available <= total);
    CHECK(io.space(io.ctx, in_dir("missing"), &available, &total) == -ENOENT);
}

static void a_lock_has_one_owner_and_falls_with_close(void) {
    int first = make("lock"), second = make("lock");
    CHECK(io.lock(io.ctx, first) == 0);
    CHECK(io.lock(io.ctx, second) == -EWOULDBLOCK);
    io.close(io.ctx, first);
    CHECK(io.lock(io.ctx, second) == 0);
    io.close(io.ctx, second);
}

/* Runs a shell that waits: it must not have inherited the lock. */
static void a_child_does_not_hold_the_lock(void) {
    int fd = make("child-lock"), ready[2], done[2];
    char byte = 0;
    CHECK(pipe(ready) == 0 && pipe(done) == 0);
    CHECK(io.lock(io.ctx, fd) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(done[0], 0);
        dup2(ready[1], 1);
        close(done[1]); /* else the child would wait for its own end */
        close(ready[0]);
        execl("/bin/sh", "sh", "-c", "echo; read x", (char *)NULL);
        _exit(127);
    }
    CHECK(read(ready[0], &byte, 1) == 1); /* the child has exec'ed and waits */
    io.close(io.ctx, fd);
    fd = make("child-lock");
    CHECK(io.lock(io.ctx, fd) == 0);
    io.close(io.ctx, fd);
    close(done[1]);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    close(done[0]);
    close(ready[0]);
    close(ready[1]);
}

static void clocks_advance_and_chance_varies(void) {
    struct timespec boot;
    uint8_t a[32] = {0}, b[32] = {0};
    CHECK(clock_gettime(CLOCK_BOOTTIME, &boot) == 0);
    uint64_t before = (uint64_t)boot.tv_sec * 1000000000u + (uint64_t)boot.tv_nsec;
    uint64_t now = io.clock_boot_ns(io.ctx);
    CHECK(now >= before && now < before + 60000000000u);
    CHECK(io.clock_real_ns(io.ctx) / 1000000000u >= (uint64_t)time(NULL) - 60);
    CHECK(io.random(io.ctx, a, sizeof a) == 0);
    CHECK(io.random(io.ctx, b, sizeof b) == 0);
    CHECK(memcmp(a, b, sizeof a) != 0);
}

static void remove_directory(void) {
    pid_t child = fork();
    if (child == 0) {
        execlp("rm", "rm", "-rf", "--", directory, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    const char *base = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/bp-io-XXXXXX", base != NULL ? base : "/tmp");
    CHECK(mkdtemp(directory) != NULL);
    atexit(remove_directory);
    bp_io_posix(&io);
    RUN(handles_are_private_and_do_not_reach_children);
    RUN(open_flags_mean_what_they_say);
    RUN(vectors_are_written_and_read_back);
    RUN(allocation_takes_blocks_and_shows_the_size);
    RUN(names_change_as_asked);
    RUN(listing_gives_plain_files_only);
    RUN(space_is_what_the_user_may_take);
    RUN(a_lock_has_one_owner_and_falls_with_close);
    RUN(a_child_does_not_hold_the_lock);
    RUN(clocks_advance_and_chance_varies);
    TESTS_END;
}

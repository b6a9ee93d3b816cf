/*
 * bp_disk: whole transfers over an io that is as unhelpful as POSIX allows, and faults that come
 * exactly when asked.
 */
#include "io.h"

#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

struct fixture {
    struct bp_sim *sim;
    struct bp_disk *disk;
    int fd;
};

static struct fixture open_fixture(void) {
    struct fixture f = {.sim = bp_sim_new(1)};
    struct bp_io io;
    CHECK(f.sim != NULL);
    bp_sim_io(f.sim, &io);
    f.disk = bp_disk_new(&io);
    CHECK(f.disk != NULL);
    f.fd = bp_disk_open(f.disk, BP_SITE_LOG_CREATE, "log", BP_O_WRITE | BP_O_CREATE);
    CHECK(f.fd >= 0);
    return f;
}

static void close_fixture(struct fixture *f) {
    bp_disk_close(f->disk, f->fd);
    bp_disk_free(f->disk);
    bp_sim_free(f->sim);
}

/* ---- transfers */

/* An io of one growing file that moves at most three bytes a call. */
struct slow_file {
    uint8_t data[200000];
    size_t size;
    int vectors_max;
    unsigned calls;
};

static ssize_t slow_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset) {
    struct slow_file *file = ctx;
    (void)fd;
    file->calls++;
    size_t left = offset < file->size ? file->size - offset : 0;
    n = n < 3 ? n : 3;
    n = n < left ? n : left;
    memcpy(buf, file->data + offset, n);
    return (ssize_t)n;
}

static ssize_t slow_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t offset) {
    struct slow_file *file = ctx;
    size_t done = 0;
    (void)fd;
    file->calls++;
    file->vectors_max = n > file->vectors_max ? n : file->vectors_max;
    for (int i = 0; i < n && done < 3; i++) {
        size_t part = iov[i].iov_len < 3 - done ? iov[i].iov_len : 3 - done;
        memcpy(file->data + offset + done, iov[i].iov_base, part);
        done += part;
    }
    file->size = offset + done > file->size ? offset + done : file->size;
    return (ssize_t)done;
}

static void short_transfers_are_finished(void) {
    static struct slow_file file;
    struct bp_io io = {.ctx = &file, .pread = slow_pread, .pwritev = slow_pwritev};
    struct bp_disk *disk = bp_disk_new(&io);
    char text[] = "the quick brown fox", back[sizeof text] = {0};
    CHECK(disk != NULL);
    CHECK(bp_disk_write(disk, BP_SITE_LOG_WRITE, 0, text, sizeof text, 5) == 0);
    CHECK(bp_disk_read(disk, BP_SITE_LOG_READ, 0, back, sizeof back, 5) == 0);
    CHECK(memcmp(text, back, sizeof text) == 0);
    CHECK(file.calls >= 2 * sizeof text / 3);
    CHECK(bp_disk_write(disk, BP_SITE_LOG_WRITE, 0, text, 0, 5) == 0);
    CHECK(bp_disk_read(disk, BP_SITE_LOG_READ, 0, back, 0, 5) == 0);
    CHECK_EQ_U64(bp_disk_hits(disk, BP_SITE_LOG_WRITE), 2);
    bp_disk_free(disk);
}

static void a_premature_end_is_no_data(void) {
    struct fixture f = open_fixture();
    char back[8];
    CHECK(bp_disk_write(f.disk, BP_SITE_LOG_WRITE, f.fd, "12345", 5, 0) == 0);
    CHECK(bp_disk_read(f.disk, BP_SITE_LOG_READ, f.fd, back, 5, 0) == 0);
    CHECK(bp_disk_read(f.disk, BP_SITE_LOG_READ, f.fd, back, 6, 0) == -ENODATA);
    CHECK(bp_disk_read(f.disk, BP_SITE_LOG_READ, f.fd, back, 1, 5) == -ENODATA);
    CHECK(bp_disk_read(f.disk, BP_SITE_LOG_READ, -1, back, 1, 0) == -EBADF);
    close_fixture(&f);
}

static void any_number_of_vectors_is_written(void) {
    enum { VECTORS = 5000 };
    static struct slow_file file;
    static struct iovec iov[VECTORS];
    static uint8_t bytes[VECTORS];
    struct bp_io io = {.ctx = &file, .pread = slow_pread, .pwritev = slow_pwritev};
    struct bp_disk *disk = bp_disk_new(&io);
    size_t total = 0;
    CHECK(disk != NULL);
    for (int i = 0; i < VECTORS; i++) {
        bytes[i] = (uint8_t)(i * 7);
        iov[i] = (struct iovec){&bytes[i], i % 5 == 0 ? 0 : 1}; /* empty ones among them */
    }
    CHECK(bp_disk_writev(disk, BP_SITE_LOG_WRITE, 0, iov, VECTORS, 0) == 0);
    CHECK(file.vectors_max <= 1024);
    for (int i = 0; i < VECTORS; i++) {
        if (i % 5 != 0) {
            CHECK_EQ_U64(file.data[total++], bytes[i]);
        }
    }
    CHECK_EQ_U64(file.size, total);
    bp_disk_free(disk);
}

static ssize_t stuck_pwritev(void *ctx, int fd, const struct iovec *iov, int n, uint64_t offset) {
    (void)ctx, (void)fd, (void)iov, (void)n, (void)offset;
    return 0;
}

static void a_device_without_progress_is_an_error(void) {
    struct bp_io io = {.pwritev = stuck_pwritev};
    struct bp_disk *disk = bp_disk_new(&io);
    CHECK(disk != NULL);
    CHECK(bp_disk_write(disk, BP_SITE_LOG_WRITE, 0, "x", 1, 0) == -EIO);
    bp_disk_free(disk);
}

static int note_name(void *arg, const char *name) {
    CHECK(strcmp(name, "log") == 0);
    ++*(int *)arg;
    return 0;
}

static void plain_steps_reach_the_io(void) {
    struct fixture f = open_fixture();
    uint64_t size = 0, available = 0, total = 0;
    uint8_t random[16] = {0}, zeros[16] = {0};
    int names = 0;
    CHECK(bp_disk_allocate(f.disk, BP_SITE_LOG_ALLOCATE, f.fd, 8192) == 0);
    CHECK(bp_disk_size(f.disk, f.fd, &size) == 0);
    CHECK_EQ_U64(size, 8192);
    CHECK(bp_disk_truncate(f.disk, BP_SITE_LOG_TRIM, f.fd, 100) == 0);
    CHECK(bp_disk_size(f.disk, f.fd, &size) == 0);
    CHECK_EQ_U64(size, 100);
    CHECK(bp_disk_sync(f.disk, BP_SITE_LOG_SYNC, f.fd) == 0);
    CHECK_EQ_U64(bp_sim_sync_count(f.sim), 1);
    CHECK(bp_disk_mkdir(f.disk, "d") == 0);
    CHECK(bp_disk_mkdir(f.disk, "d") == -EEXIST);
    CHECK(bp_disk_sync_dir(f.disk, BP_SITE_LOG_DIR_SYNC, "d") == 0);
    CHECK(bp_disk_list(f.disk, "/", note_name, &names) == 0);
    CHECK_EQ_U64(names, 1);
    CHECK(bp_disk_rename(f.disk, BP_SITE_CHECKPOINT_RENAME, "log", "other") == 0);
    CHECK(bp_disk_unlink(f.disk, BP_SITE_LOG_UNLINK, "other") == 0);
    CHECK(bp_disk_unlink(f.disk, BP_SITE_LOG_UNLINK, "other") == -ENOENT);
    CHECK(bp_disk_space(f.disk, "/", &available, &total) == 0);
    CHECK(available <= total);
    CHECK(bp_disk_random(f.disk, random, sizeof random) == 0);
    CHECK(memcmp(random, zeros, sizeof zeros) != 0);
    uint64_t boot = bp_disk_boot_ns(f.disk), real = bp_disk_real_ns(f.disk);
    bp_sim_advance_ns(f.sim, 17);
    CHECK_EQ_U64(bp_disk_boot_ns(f.disk), boot + 17);
    CHECK_EQ_U64(bp_disk_real_ns(f.disk), real + 17);
    close_fixture(&f);
}

/* ---- faults */

static int write_once(struct fixture *f) {
    return bp_disk_write(f->disk, BP_SITE_LOG_WRITE, f->fd, "12345678", 8, 0);
}

static void sites_and_faults_have_names(void) {
    for (int site = 0; site < BP_SITE_COUNT; site++) {
        CHECK_EQ_U64(bp_site_from_name(bp_site_name(site)), site);
    }
    CHECK_EQ_U64(bp_site_from_name("log.sync"), BP_SITE_LOG_SYNC);
    CHECK(bp_site_from_name("log.nothing") == -1);
    CHECK(strcmp(bp_site_name(-1), "unknown") == 0);
    CHECK_EQ_U64(bp_fault_from_name("none"), BP_FAULT_NONE);
    CHECK_EQ_U64(bp_fault_from_name("eio"), BP_FAULT_EIO);
    CHECK_EQ_U64(bp_fault_from_name("enospc"), BP_FAULT_ENOSPC);
    CHECK_EQ_U64(bp_fault_from_name("short"), BP_FAULT_SHORT);
    CHECK_EQ_U64(bp_fault_from_name("crash"), BP_FAULT_CRASH);
    CHECK_EQ_U64(bp_fault_from_name("crash_after"), BP_FAULT_CRASH_AFTER);
    CHECK_EQ_U64(bp_fault_from_name("slow"), BP_FAULT_SLOW);
    CHECK_EQ_U64(bp_fault_from_name("flip"), BP_FAULT_FLIP);
    CHECK(bp_fault_from_name("") == -1);
}

static void nonsense_is_not_armed(void) {
    struct fixture f = open_fixture();
    CHECK(bp_disk_arm(f.disk, BP_SITE_NONE, BP_FAULT_EIO, 1, 0, 0) == -EINVAL);
    CHECK(bp_disk_arm(f.disk, BP_SITE_COUNT, BP_FAULT_EIO, 1, 0, 0) == -EINVAL);
    CHECK(bp_disk_arm(f.disk, -1, BP_FAULT_EIO, 1, 0, 0) == -EINVAL);
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, -1, 1, 0, 0) == -EINVAL);
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_FLIP + 1, 1, 0, 0) == -EINVAL);
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_EIO, 0, 0, 0) == -EINVAL);
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_FLIP, 1, 0, 0) == -EINVAL);
    CHECK(write_once(&f) == 0);
    close_fixture(&f);
}

static void a_fault_hits_from_first_for_as_often_as_asked(void) {
    struct fixture f = open_fixture();
    CHECK(write_once(&f) == 0); /* before arming: does not count towards `first` */
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_EIO, 2, 3, 0) == 0);
    CHECK(write_once(&f) == 0);
    for (int i = 0; i < 3; i++) {
        CHECK(write_once(&f) == -EIO);
        CHECK(bp_disk_sync(f.disk, BP_SITE_LOG_SYNC, f.fd) == 0); /* another site is untouched */
    }
    CHECK(write_once(&f) == 0);
    CHECK_EQ_U64(bp_disk_hits(f.disk, BP_SITE_LOG_WRITE), 6);
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_ENOSPC, 1, 0, 0) == 0);
    for (int i = 0; i < 20; i++) {
        CHECK(write_once(&f) == -ENOSPC);
    }
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_NONE, 0, 0, 0) == 0);
    CHECK(write_once(&f) == 0);
    CHECK_EQ_U64(bp_disk_hits(f.disk, BP_SITE_LOG_WRITE), 27);
    CHECK_EQ_U64(bp_disk_hits(f.disk, BP_SITE_COUNT), 0);
    CHECK_EQ_U64(bp_disk_hits(f.disk, -1), 0);
    close_fixture(&f);
}

static void every_kind_of_step_can_fail(void) {
    struct fixture f = open_fixture();
    char byte;
    for (int site = 1; site < BP_SITE_COUNT; site++) {
        CHECK(bp_disk_arm(f.disk, site, BP_FAULT_EIO, 1, 0, 0) == 0);
    }
    CHECK(bp_disk_open(f.disk, BP_SITE_LOG_CREATE, "x", BP_O_WRITE | BP_O_CREATE) == -EIO);
    CHECK(bp_disk_read(f.disk, BP_SITE_LOG_READ, f.fd, &byte, 1, 0) == -EIO);
    CHECK(write_once(&f) == -EIO);
    CHECK(bp_disk_sync(f.disk, BP_SITE_LOG_SYNC, f.fd) == -EIO);
    CHECK(bp_disk_allocate(f.disk, BP_SITE_LOG_ALLOCATE, f.fd, 9) == -EIO);
    CHECK(bp_disk_truncate(f.disk, BP_SITE_LOG_TRIM, f.fd, 9) == -EIO);
    CHECK(bp_disk_rename(f.disk, BP_SITE_CHECKPOINT_RENAME, "log", "x") == -EIO);
    CHECK(bp_disk_unlink(f.disk, BP_SITE_LOG_UNLINK, "log") == -EIO);
    CHECK(bp_disk_sync_dir(f.disk, BP_SITE_LOG_DIR_SYNC, "/") == -EIO);
    uint64_t size = 1;
    CHECK(bp_sim_file_size(f.sim, "log", &size) == 0); /* and not one of them took place */
    CHECK_EQ_U64(size, 0);
    CHECK(bp_sim_file_size(f.sim, "x", &size) == -ENOENT);
    CHECK_EQ_U64(bp_sim_sync_count(f.sim), 0);
    close_fixture(&f);
}

static void a_flip_is_one_bit_of_the_read_only(void) {
    struct fixture f = open_fixture();
    for (uint64_t bit = 0; bit < 200; bit++) {
        uint8_t back[8];
        CHECK(write_once(&f) == 0);
        CHECK(bp_disk_arm(f.disk, BP_SITE_VALUE_READ, BP_FAULT_FLIP, 1, 1, bit) == 0);
        CHECK(bp_disk_read(f.disk, BP_SITE_VALUE_READ, f.fd, back, 8, 0) == 0);
        back[bit % 64 / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(memcmp(back, "12345678", 8) == 0);
        CHECK(bp_disk_read(f.disk, BP_SITE_VALUE_READ, f.fd, back, 8, 0) == 0);
        CHECK(memcmp(back, "12345678", 8) == 0);
    }
    close_fixture(&f);
}

static void a_slow_step_takes_its_time(void) {
    struct fixture f = open_fixture();
    struct bp_io real;
    bp_io_posix(&real);
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_SYNC, BP_FAULT_SLOW, 1, 1, 20) == 0);
    uint64_t start = real.clock_boot_ns(NULL);
    CHECK(bp_disk_sync(f.disk, BP_SITE_LOG_SYNC, f.fd) == 0);
    CHECK(real.clock_boot_ns(NULL) - start >= 20000000);
    CHECK_EQ_U64(bp_sim_sync_count(f.sim), 1);
    close_fixture(&f);
}

/* ---- crashes that are errors */

static void check_no_power(struct fixture *f) {
    uint64_t size;
    char byte;
    CHECK(write_once(f) == -EIO);
    CHECK(bp_disk_sync(f->disk, BP_SITE_LOG_SYNC, f->fd) == -EIO);
    CHECK(bp_disk_allocate(f->disk, BP_SITE_LOG_ALLOCATE, f->fd, 99) == -EIO);
    CHECK(bp_disk_truncate(f->disk, BP_SITE_LOG_TRIM, f->fd, 1) == -EIO);
    CHECK(bp_disk_rename(f->disk, BP_SITE_CHECKPOINT_RENAME, "log", "x") == -EIO);
    CHECK(bp_disk_unlink(f->disk, BP_SITE_LOG_UNLINK, "log") == -EIO);
    CHECK(bp_disk_sync_dir(f->disk, BP_SITE_LOG_DIR_SYNC, "/") == -EIO);
    CHECK(bp_disk_mkdir(f->disk, "d") == -EIO);
    CHECK(bp_disk_open(f->disk, BP_SITE_LOG_CREATE, "y", BP_O_WRITE | BP_O_CREATE) == -EIO);
    CHECK(bp_sim_file_size(f->sim, "log", &size) == 0);
    CHECK(size == 0 || bp_disk_read(f->disk, BP_SITE_LOG_READ, f->fd, &byte, 1, 0) == 0);
}

static void a_simulated_crash_stops_every_change(void) {
    struct fixture f = open_fixture();
    uint64_t size = 1;
    bp_disk_set_crash_is_error(f.disk, 1);
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_CRASH, 1, 1, 0) == 0);
    CHECK(write_once(&f) == -EIO);
    CHECK(bp_sim_file_size(f.sim, "log", &size) == 0);
    CHECK_EQ_U64(size, 0);
    check_no_power(&f);
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_NONE, 0, 0, 0) == 0);
    check_no_power(&f); /* disarming does not bring the power back */
    bp_disk_set_crash_is_error(f.disk, 0);
    CHECK(write_once(&f) == 0);
    close_fixture(&f);
}

static void a_simulated_crash_after_has_done_the_step(void) {
    struct fixture f = open_fixture();
    uint64_t size = 0;
    bp_disk_set_crash_is_error(f.disk, 1);
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_CRASH_AFTER, 1, 1, 0) == 0);
    CHECK(write_once(&f) == -EIO);
    CHECK(bp_sim_file_size(f.sim, "log", &size) == 0);
    CHECK_EQ_U64(size, 8);
    check_no_power(&f);
    bp_disk_set_crash_is_error(f.disk, 0);
    bp_disk_set_crash_is_error(f.disk, 1);
    CHECK(bp_disk_arm(f.disk, BP_SITE_STORE_CREATE, BP_FAULT_CRASH_AFTER, 1, 1, 0) == 0);
    CHECK(bp_disk_open(f.disk, BP_SITE_STORE_CREATE, "new", BP_O_WRITE | BP_O_CREATE) == -EIO);
    CHECK(bp_sim_file_size(f.sim, "new", &size) == 0);
    close_fixture(&f);
}

static void a_simulated_short_write_leaves_half(void) {
    struct fixture f = open_fixture();
    char a[] = "abcdef", b[] = "ghijkl", c[] = "mn", back[7];
    struct iovec iov[] = {{a, 6}, {b, 6}, {c, 2}};
    uint64_t size = 0;
    bp_disk_set_crash_is_error(f.disk, 1);
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_SHORT, 1, 1, 0) == 0);
    CHECK(bp_disk_writev(f.disk, BP_SITE_LOG_WRITE, f.fd, iov, 3, 0) == -EIO);
    CHECK(bp_sim_file_size(f.sim, "log", &size) == 0);
    CHECK_EQ_U64(size, 7);
    CHECK(bp_sim_read_file(f.sim, "log", back, 7, 0) == 0);
    CHECK(memcmp(back, "abcdefg", 7) == 0);
    check_no_power(&f);
    close_fixture(&f);
}

/* ---- crashes that kill */

struct killed {
    int site, fault;
};

static void crash_in_child(const char *path, struct killed how) {
    struct bp_io io;
    bp_io_posix(&io);
    struct bp_disk *disk = bp_disk_new(&io);
    CHECK(disk != NULL);
    int fd = bp_disk_open(disk, BP_SITE_LOG_CREATE, path, BP_O_WRITE | BP_O_CREATE);
    CHECK(bp_disk_arm(disk, how.site, how.fault, 1, 1, 0) == 0);
    CHECK(bp_disk_write(disk, BP_SITE_LOG_WRITE, fd, "12345678", 8, 0) == 0);
    CHECK(bp_disk_sync(disk, BP_SITE_LOG_SYNC, fd) == 0);
    CHECK(bp_disk_write(disk, BP_SITE_LOG_WRITE, fd, "again", 5, 8) == 0);
    _exit(0); /* nothing killed us */
}

static void check_killed(struct killed how, long size) {
    const char *base = getenv("TMPDIR");
    char path[256];
    snprintf(path, sizeof path, "%s/bp-disk-XXXXXX", base != NULL ? base : "/tmp");
    int fd = mkstemp(path), status = 0;
    CHECK(fd >= 0);
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        crash_in_child(path, how);
    }
    CHECK(waitpid(child, &status, 0) == child);
    off_t left = lseek(fd, 0, SEEK_END);
    close(fd);
    unlink(path);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK_EQ_U64(left, size);
}

static void a_crash_is_a_kill_at_that_step(void) {
    check_killed((struct killed){.site = BP_SITE_LOG_WRITE, .fault = BP_FAULT_CRASH}, 0);
    check_killed((struct killed){.site = BP_SITE_LOG_WRITE, .fault = BP_FAULT_SHORT}, 4);
    check_killed((struct killed){.site = BP_SITE_LOG_WRITE, .fault = BP_FAULT_CRASH_AFTER}, 8);
    check_killed((struct killed){.site = BP_SITE_LOG_SYNC, .fault = BP_FAULT_CRASH}, 8);
    check_killed((struct killed){.site = BP_SITE_LOG_SYNC, .fault = BP_FAULT_SHORT}, 8);
    check_killed((struct killed){.site = BP_SITE_LOG_SYNC, .fault = BP_FAULT_CRASH_AFTER}, 8);
}

/* ---- threads */

struct worker {
    struct fixture *f;
    atomic_uint *failed;
};

static void *write_many(void *arg) {
    struct worker *w = arg;
    for (int i = 0; i < 2000; i++) {
        int result = write_once(w->f);
        CHECK(result == 0 || result == -EIO);
        atomic_fetch_add(w->failed, result == -EIO);
    }
    return NULL;
}

static void exactly_the_asked_hits_fail_under_threads(void) {
    struct fixture f = open_fixture();
    atomic_uint failed = 0;
    struct worker worker = {&f, &failed};
    pthread_t threads[4];
    CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_WRITE, BP_FAULT_EIO, 100, 123, 0) == 0);
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, write_many, &worker) == 0);
    }
    for (int i = 0; i < 100; i++) { /* arming beside them is safe */
        CHECK(bp_disk_arm(f.disk, BP_SITE_LOG_SYNC, i % 2, 1, 0, 0) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK_EQ_U64(failed, 123);
    CHECK_EQ_U64(bp_disk_hits(f.disk, BP_SITE_LOG_WRITE), 8000);
    close_fixture(&f);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(short_transfers_are_finished);
    RUN(a_premature_end_is_no_data);
    RUN(any_number_of_vectors_is_written);
    RUN(a_device_without_progress_is_an_error);
    RUN(plain_steps_reach_the_io);
    RUN(sites_and_faults_have_names);
    RUN(nonsense_is_not_armed);
    RUN(a_fault_hits_from_first_for_as_often_as_asked);
    RUN(every_kind_of_step_can_fail);
    RUN(a_flip_is_one_bit_of_the_read_only);
    RUN(a_slow_step_takes_its_time);
    RUN(a_simulated_crash_stops_every_change);
    RUN(a_simulated_crash_after_has_done_the_step);
    RUN(a_simulated_short_write_leaves_half);
    RUN(a_crash_is_a_kill_at_that_step);
    RUN(exactly_the_asked_hits_fail_under_threads);
    TESTS_END;
}

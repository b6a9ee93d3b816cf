/* The simulated disk: what a power cut may take, what it may not, and that the seed decides. */
#include "io.h"

#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

enum { SECTOR = 512, SEEDS = 200 };

struct machine {
    struct bp_sim *sim;
    struct bp_io io;
};

static struct machine machine_of(struct bp_sim *sim) {
    struct machine m = {.sim = sim};
    CHECK(sim != NULL);
    bp_sim_io(sim, &m.io);
    return m;
}

static struct machine boot(uint64_t seed) { return machine_of(bp_sim_new(seed)); }

static int open_file(const struct machine *m, const char *path, int flags) {
    int fd = m->io.open(m->io.ctx, path, flags);
    CHECK(fd >= 0);
    return fd;
}

static int create(const struct machine *m, const char *path) {
    return open_file(m, path, BP_O_WRITE | BP_O_CREATE);
}

static ssize_t put(const struct machine *m, int fd, const void *data, size_t n, uint64_t offset) {
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = n};
    return m->io.pwritev(m->io.ctx, fd, &iov, 1, offset);
}

static void fill(const struct machine *m, int fd, int byte, size_t n, uint64_t offset) {
    uint8_t *data = malloc(n);
    CHECK(data != NULL);
    memset(data, byte, n);
    CHECK(put(m, fd, data, n, offset) == (ssize_t)n);
    free(data);
}

static void sync_file(const struct machine *m, int fd) {
    CHECK(m->io.datasync(m->io.ctx, fd) == 0);
}

static void sync_dir(const struct machine *m, const char *path) {
    CHECK(m->io.sync_dir(m->io.ctx, path) == 0);
}

static bool exists(const struct machine *m, const char *path) {
    uint64_t size;
    return bp_sim_file_size(m->sim, path, &size) == 0;
}

static uint64_t size_of(const struct machine *m, const char *path) {
    uint64_t size = 0;
    CHECK(bp_sim_file_size(m->sim, path, &size) == 0);
    return size;
}

static uint8_t byte_at(const struct machine *m, const char *path, uint64_t offset) {
    uint8_t byte = 0;
    CHECK(bp_sim_read_file(m->sim, path, &byte, 1, offset) == 0);
    return byte;
}

/* The one byte value that fills a sector: a sector is never torn by a cut. */
static uint8_t sector_of(const struct machine *m, const char *path, uint64_t sector) {
    uint8_t data[SECTOR];
    CHECK(bp_sim_read_file(m->sim, path, data, SECTOR, sector * SECTOR) == 0);
    for (int i = 1; i < SECTOR; i++) {
        CHECK(data[i] == data[0]);
    }
    return data[0];
}

/*
 * A durable file "f" of `sectors` sectors of 'o', with 'n' written over all of them and not synced.
 */
static struct machine overwritten(uint64_t seed, uint64_t sectors) {
    struct machine m = boot(seed);
    int fd = create(&m, "f");
    fill(&m, fd, 'o', sectors * SECTOR, 0);
    sync_file(&m, fd);
    sync_dir(&m, "/");
    fill(&m, fd, 'n', sectors * SECTOR, 0);
    return m;
}

/* ---- sectors */

static void what_is_synced_survives_any_cut(void) {
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct machine m = overwritten(seed, 20);
        int fd = open_file(&m, "f", BP_O_WRITE);
        sync_file(&m, fd);
        bp_sim_power_cut(m.sim, (uint32_t)(seed * 5 % 1025));
        CHECK_EQ_U64(size_of(&m, "f"), 20 * SECTOR);
        for (uint64_t s = 0; s < 20; s++) {
            CHECK_EQ_U64(sector_of(&m, "f", s), 'n');
        }
        bp_sim_free(m.sim);
    }
}

static void unsynced_sectors_are_kept_or_lost_one_by_one(void) {
    unsigned kept = 0, mixed = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct machine m = overwritten(seed, 20);
        unsigned here = 0;
        bp_sim_power_cut(m.sim, 512);
        for (uint64_t s = 0; s < 20; s++) {
            uint8_t byte = sector_of(&m, "f", s);
            CHECK(byte == 'n' || byte == 'o');
            here += byte == 'n';
        }
        kept += here;
        mixed += here > 0 && here < 20;
        bp_sim_free(m.sim);
    }
    CHECK(mixed > SEEDS * 9 / 10);
    CHECK(kept > SEEDS * 20 * 45 / 100 && kept < SEEDS * 20 * 55 / 100);
}

static void a_cut_may_keep_all_or_nothing(void) {
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct machine m = overwritten(seed, 20), all = machine_of(bp_sim_clone(m.sim, seed));
        bp_sim_power_cut(m.sim, 0);
        bp_sim_power_cut(all.sim, 1024);
        for (uint64_t s = 0; s < 20; s++) {
            CHECK_EQ_U64(sector_of(&m, "f", s), 'o');
            CHECK_EQ_U64(sector_of(&all, "f", s), 'n');
        }
        bp_sim_free(m.sim);
        bp_sim_free(all.sim);
    }
}

static void the_seed_decides(void) {
    unsigned different = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        uint8_t a[20 * SECTOR], b[20 * SECTOR], c[20 * SECTOR];
        struct machine same[] = {overwritten(seed, 20), overwritten(seed, 20)};
        struct machine other = overwritten(seed + 1, 20);
        uint8_t draws[64];
        CHECK(same[1].io.random(same[1].io.ctx, draws, sizeof draws) == 0); /* does not matter */
        bp_sim_power_cut(same[0].sim, 512);
        bp_sim_power_cut(same[1].sim, 512);
        bp_sim_power_cut(other.sim, 512);
        CHECK(bp_sim_read_file(same[0].sim, "f", a, sizeof a, 0) == 0);
        CHECK(bp_sim_read_file(same[1].sim, "f", b, sizeof b, 0) == 0);
        CHECK(bp_sim_read_file(other.sim, "f", c, sizeof c, 0) == 0);
        CHECK(memcmp(a, b, sizeof a) == 0);
        different += memcmp(a, c, sizeof a) != 0;
        bp_sim_free(same[0].sim);
        bp_sim_free(same[1].sim);
        bp_sim_free(other.sim);
    }
    CHECK_EQ_U64(different, 20);
}

static void lost_sectors_of_a_preallocated_file_are_zeros(void) {
    unsigned zeros = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct machine m = boot(seed);
        int fd = create(&m, "f");
        CHECK(m.io.allocate(m.io.ctx, fd, 1 << 20) == 0);
        sync_file(&m, fd);
        sync_dir(&m, "/");
        fill(&m, fd, 'n', 8 * SECTOR, 100 * SECTOR);
        bp_sim_power_cut(m.sim, 512);
        CHECK_EQ_U64(size_of(&m, "f"), 1 << 20);
        for (uint64_t s = 100; s < 108; s++) {
            uint8_t byte = sector_of(&m, "f", s);
            CHECK(byte == 0 || byte == 'n');
            zeros += byte == 0;
        }
        bp_sim_free(m.sim);
    }
    CHECK(zeros > 0 && zeros < 160);
}

static void what_survived_a_cut_is_durable(void) {
    struct machine m = overwritten(3, 20);
    uint8_t first[20 * SECTOR], second[20 * SECTOR];
    bp_sim_power_cut(m.sim, 512);
    CHECK(bp_sim_read_file(m.sim, "f", first, sizeof first, 0) == 0);
    bp_sim_power_cut(m.sim, 0);
    CHECK(bp_sim_read_file(m.sim, "f", second, sizeof second, 0) == 0);
    CHECK(memcmp(first, second, sizeof first) == 0);
    bp_sim_free(m.sim);
}

static void a_lying_sync_keeps_nothing(void) {
    struct machine m = boot(1);
    int fd = create(&m, "f");
    fill(&m, fd, 'o', SECTOR, 0);
    sync_file(&m, fd);
    sync_dir(&m, "/");
    bp_sim_set_sync_lies(m.sim, 1);
    fill(&m, fd, 'n', SECTOR, 0);
    create(&m, "g");
    sync_file(&m, fd);
    sync_dir(&m, "/");
    CHECK_EQ_U64(bp_sim_sync_count(m.sim), 2);
    bp_sim_power_cut(m.sim, 0);
    CHECK_EQ_U64(sector_of(&m, "f", 0), 'o');
    CHECK(!exists(&m, "g"));
    bp_sim_set_sync_lies(m.sim, 0);
    fd = open_file(&m, "f", BP_O_WRITE);
    fill(&m, fd, 'n', SECTOR, 0);
    sync_file(&m, fd);
    bp_sim_power_cut(m.sim, 0);
    CHECK_EQ_U64(sector_of(&m, "f", 0), 'n');
    bp_sim_free(m.sim);
}

/* ---- sizes */

static void an_unsynced_size_is_kept_or_undone(void) {
    unsigned kept = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct machine m = boot(seed);
        int fd = create(&m, "f");
        fill(&m, fd, 'o', SECTOR, 0);
        sync_file(&m, fd);
        sync_dir(&m, "/");
        fill(&m, fd, 'n', 4 * SECTOR, SECTOR);
        bp_sim_power_cut(m.sim, 512);
        uint64_t size = size_of(&m, "f");
        CHECK(size == SECTOR || size == 5 * SECTOR);
        kept += size != SECTOR;
        fd = open_file(&m, "f", BP_O_WRITE); /* what lay behind an undone size does not come back */
        CHECK(m.io.truncate(m.io.ctx, fd, 5 * SECTOR) == 0);
        for (uint64_t s = 1; s < 5; s++) {
            uint8_t byte = sector_of(&m, "f", s);
            CHECK(byte == 0 || (size != SECTOR && byte == 'n'));
        }
        bp_sim_free(m.sim);
    }
    CHECK(kept > SEEDS / 4 && kept < SEEDS * 3 / 4);
}

static void a_sync_covers_the_size(void) {
    struct machine m = boot(1);
    int fd = create(&m, "f");
    sync_dir(&m, "/");
    fill(&m, fd, 'n', 1000, 0);
    sync_file(&m, fd);
    bp_sim_power_cut(m.sim, 0);
    CHECK_EQ_U64(size_of(&m, "f"), 1000);
    CHECK_EQ_U64(byte_at(&m, "f", 999), 'n');
    bp_sim_free(m.sim);
}

static void a_truncation_is_undone_whole_or_final(void) {
    unsigned undone = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct machine m = overwritten(seed, 40); /* 'n' over 'o', five pages */
        int fd = open_file(&m, "f", BP_O_WRITE);
        sync_file(&m, fd);
        CHECK(m.io.truncate(m.io.ctx, fd, 10 * SECTOR + 100) == 0);
        CHECK(m.io.truncate(m.io.ctx, fd, 30 * SECTOR) == 0);
        fill(&m, fd, 'x', 4 * SECTOR, 20 * SECTOR);
        bp_sim_power_cut(m.sim, 512);
        bool old = size_of(&m, "f") == 40 * SECTOR;
        CHECK(old || size_of(&m, "f") == 30 * SECTOR);
        undone += old;
        for (uint64_t s = 0; s < (old ? 40 : 30); s++) {
            bool behind = s >= 11, overwrite = s >= 20 && s < 24;
            if (s == 10 && !old) {
                CHECK_EQ_U64(byte_at(&m, "f", s * SECTOR + 99), 'n');
                CHECK_EQ_U64(byte_at(&m, "f", s * SECTOR + 100), 0);
                continue;
            }
            uint8_t byte = sector_of(&m, "f", s);
            CHECK(old || !behind ? byte == 'n' : byte == 0 || (overwrite && byte == 'x'));
        }
        bp_sim_free(m.sim);
    }
    CHECK(undone > SEEDS / 4 && undone < SEEDS * 3 / 4);
}

/* ---- names */

static void a_new_file_needs_its_directory_synced(void) {
    unsigned kept = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct machine m = boot(seed);
        sync_file(&m, create(&m, "durable"));
        sync_dir(&m, "/");
        int fd = create(&m, "f");
        fill(&m, fd, 'n', SECTOR, 0);
        sync_file(&m, fd); /* the file, not its name */
        bp_sim_power_cut(m.sim, 512);
        CHECK(exists(&m, "durable"));
        if (exists(&m, "f")) {
            CHECK_EQ_U64(sector_of(&m, "f", 0), 'n');
            kept++;
        }
        bp_sim_free(m.sim);
    }
    CHECK(kept > SEEDS / 4 && kept < SEEDS * 3 / 4);
}

static void write_and_rename(const struct machine *m, int byte) {
    int fd = create(m, "d/tmp");
    fill(m, fd, byte, SECTOR, 0);
    sync_file(m, fd);
    m->io.close(m->io.ctx, fd);
    CHECK(m->io.rename(m->io.ctx, "d/tmp", "d/file") == 0);
}

static void a_rename_without_a_directory_sync_is_undone_or_done(void) {
    unsigned seen[4] = {0};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct machine m = boot(seed);
        CHECK(m.io.mkdir(m.io.ctx, "d") == 0);
        sync_dir(&m, "/");
        write_and_rename(&m, '1');
        sync_dir(&m, "d");
        write_and_rename(&m, '2');
        write_and_rename(&m, '3');
        bp_sim_power_cut(m.sim, 700);
        CHECK(exists(&m, "d/file")); /* never neither */
        uint8_t byte = sector_of(&m, "d/file", 0);
        CHECK(byte >= '1' && byte <= '3');
        seen[byte - '0']++;
        if (exists(&m, "d/tmp")) { /* the next in order, its rename undone */
            CHECK_EQ_U64(sector_of(&m, "d/tmp", 0), (uint8_t)(byte + 1));
        }
        bp_sim_free(m.sim);
    }
    CHECK(seen[1] > 0 && seen[2] > 0 && seen[3] > 0);
}

static void a_directory_sync_makes_a_rename_final(void) {
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct machine m = boot(seed);
        CHECK(m.io.mkdir(m.io.ctx, "d") == 0);
        sync_dir(&m, "/");
        write_and_rename(&m, '1');
        write_and_rename(&m, '2');
        sync_dir(&m, "d");
        bp_sim_power_cut(m.sim, 0);
        CHECK_EQ_U64(sector_of(&m, "d/file", 0), '2');
        CHECK(!exists(&m, "d/tmp"));
        bp_sim_free(m.sim);
    }
}

static void an_undone_unlink_brings_the_synced_file_back(void) {
    unsigned back = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct machine m = overwritten(seed, 1);
        CHECK(m.io.unlink(m.io.ctx, "f") == 0);
        CHECK(!exists(&m, "f"));
        bp_sim_power_cut(m.sim, 512);
        if (exists(&m, "f")) {
            uint8_t byte = sector_of(&m, "f", 0);
            CHECK(byte == 'o' || byte == 'n');
            back++;
        }
        bp_sim_free(m.sim);
    }
    CHECK(back > SEEDS / 4 && back < SEEDS * 3 / 4);
}

static void entries_of_one_name_survive_in_order(void) {
    unsigned seen[4] = {0};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct machine m = boot(seed);
        for (int life = 1; life <= 3; life++) { /* each life's file has its own byte */
            int fd = create(&m, "f");
            fill(&m, fd, life, SECTOR, 0);
            sync_file(&m, fd);
            m.io.close(m.io.ctx, fd);
            if (life < 3) {
                CHECK(m.io.unlink(m.io.ctx, "f") == 0);
            }
        }
        struct machine all = machine_of(bp_sim_clone(m.sim, seed));
        bp_sim_power_cut(all.sim, 1024);
        CHECK_EQ_U64(sector_of(&all, "f", 0), 3);
        bp_sim_free(all.sim);
        bp_sim_power_cut(m.sim, 800);
        seen[exists(&m, "f") ? sector_of(&m, "f", 0) : 0]++;
        bp_sim_free(m.sim);
    }
    /*
     * Life 3 needs five kept changes in a row: (800/1024)^5 = 29 %, not the 78 % of its own coin
     * alone.
     */
    CHECK(seen[3] > SEEDS * 15 / 100 && seen[3] < SEEDS * 45 / 100);
    CHECK(seen[1] > 0 && seen[2] > 0 && seen[0] > 0);
}

static void a_lost_directory_takes_its_files_along(void) {
    unsigned lost = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct machine m = boot(seed);
        CHECK(m.io.mkdir(m.io.ctx, "/d") == 0);
        CHECK(m.io.mkdir(m.io.ctx, "/d/e") == 0);
        sync_file(&m, create(&m, "/d/e/f"));
        sync_dir(&m, "/d/e");
        sync_dir(&m, "/d"); /* but not the root */
        bp_sim_power_cut(m.sim, 512);
        bool there = exists(&m, "/d/e/f");
        lost += !there;
        CHECK((m.io.mkdir(m.io.ctx, "/d") == -EEXIST) == there);
        CHECK((m.io.mkdir(m.io.ctx, "/d/e") == -EEXIST) == there);
        bp_sim_free(m.sim);
    }
    CHECK(lost > 5 && lost < 35);
}

static int join_names(void *arg, const char *name) {
    strcat(strcat(arg, name), " ");
    return 0;
}

static int stop_at_once(void *arg, const char *name) {
    (void)arg, (void)name;
    return 7;
}

static void paths_and_errors_are_those_of_a_file_system(void) {
    struct machine m = boot(1);
    char names[100] = "", path[300];
    CHECK(m.io.open(m.io.ctx, "f", BP_O_READ) == -ENOENT);
    CHECK(m.io.open(m.io.ctx, "no/f", BP_O_WRITE | BP_O_CREATE) == -ENOENT);
    CHECK(m.io.mkdir(m.io.ctx, "no/d") == -ENOENT);
    CHECK(m.io.mkdir(m.io.ctx, "/d/") == 0);
    CHECK(m.io.mkdir(m.io.ctx, "d") == -EEXIST);
    CHECK(m.io.mkdir(m.io.ctx, "d/sub") == 0);
    CHECK(m.io.mkdir(m.io.ctx, "/") == -EEXIST);
    int fd = create(&m, "//d//f");
    CHECK(m.io.open(m.io.ctx, "d/f", BP_O_WRITE | BP_O_CREATE | BP_O_EXCL) == -EEXIST);
    CHECK(m.io.open(m.io.ctx, "d", BP_O_READ) == -EISDIR);
    CHECK(m.io.unlink(m.io.ctx, "d") == -EISDIR);
    CHECK(m.io.unlink(m.io.ctx, "d/g") == -ENOENT);
    CHECK(m.io.rename(m.io.ctx, "d/g", "d/h") == -ENOENT);
    CHECK(m.io.rename(m.io.ctx, "d/f", "f") == -EXDEV);
    CHECK(m.io.rename(m.io.ctx, "d/f", "/d/f") == 0);
    CHECK(m.io.sync_dir(m.io.ctx, "nowhere") == -ENOENT);
    CHECK(m.io.sync_dir(m.io.ctx, "d/f") == -ENOTDIR);
    create(&m, "top");
    create(&m, "d/sub/deep");
    CHECK(m.io.list(m.io.ctx, "/d", join_names, names) == 0);
    CHECK(strcmp(names, "f ") == 0);
    CHECK(m.io.list(m.io.ctx, "/", join_names, names) == 0);
    CHECK(strcmp(names, "f top ") == 0);
    CHECK(m.io.list(m.io.ctx, "/", stop_at_once, NULL) == 7);
    CHECK(m.io.list(m.io.ctx, "nowhere", join_names, names) == -ENOENT);
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    CHECK(m.io.open(m.io.ctx, path, BP_O_WRITE | BP_O_CREATE) == -ENAMETOOLONG);
    int reader = open_file(&m, "d/f", BP_O_READ);
    CHECK(put(&m, reader, "x", 1, 0) == -EBADF);
    CHECK(put(&m, fd, "x", 1, (uint64_t)INT64_MAX) == -EFBIG);
    CHECK(m.io.close(m.io.ctx, fd) == 0);
    CHECK(m.io.close(m.io.ctx, fd) == -EBADF);
    bp_sim_free(m.sim);
}

/* ---- the plug */

static void every_handle_and_lock_falls_with_the_power(void) {
    struct machine m = boot(1);
    int first = create(&m, "f"), second = create(&m, "f");
    uint8_t byte;
    uint64_t size;
    sync_dir(&m, "/");
    CHECK(m.io.lock(m.io.ctx, first) == 0);
    CHECK(m.io.lock(m.io.ctx, first) == 0); /* its own */
    CHECK(m.io.lock(m.io.ctx, second) == -EWOULDBLOCK);
    bp_sim_power_cut(m.sim, 1024);
    int third = create(&m, "f"), other = create(&m, "g");
    CHECK(third != first && third != second && other != first && other != second);
    CHECK(m.io.pread(m.io.ctx, first, &byte, 1, 0) == -EBADF);
    CHECK(put(&m, first, "x", 1, 0) == -EBADF);
    CHECK(m.io.datasync(m.io.ctx, first) == -EBADF);
    CHECK(m.io.size(m.io.ctx, first, &size) == -EBADF);
    CHECK(m.io.allocate(m.io.ctx, first, 1) == -EBADF);
    CHECK(m.io.truncate(m.io.ctx, first, 1) == -EBADF);
    CHECK(m.io.lock(m.io.ctx, first) == -EBADF);
    CHECK(m.io.close(m.io.ctx, first) == -EBADF);
    CHECK(m.io.lock(m.io.ctx, third) == 0);
    int fourth = create(&m, "f");
    CHECK(m.io.lock(m.io.ctx, fourth) == -EWOULDBLOCK);
    CHECK(m.io.close(m.io.ctx, third) == 0);
    CHECK(m.io.lock(m.io.ctx, fourth) == 0);
    bp_sim_free(m.sim);
}

static void check_power_is_off(const struct machine *m, int fd) {
    uint8_t byte;
    uint64_t size, total;
    CHECK(put(m, fd, "x", 1, 0) == -EIO);
    CHECK(m->io.pread(m->io.ctx, fd, &byte, 1, 0) == -EIO);
    CHECK(m->io.datasync(m->io.ctx, fd) == -EIO);
    CHECK(m->io.allocate(m->io.ctx, fd, 1) == -EIO);
    CHECK(m->io.truncate(m->io.ctx, fd, 1) == -EIO);
    CHECK(m->io.size(m->io.ctx, fd, &size) == -EIO);
    CHECK(m->io.lock(m->io.ctx, fd) == -EIO);
    CHECK(m->io.open(m->io.ctx, "f", BP_O_READ) == -EIO);
    CHECK(m->io.rename(m->io.ctx, "f", "g") == -EIO);
    CHECK(m->io.unlink(m->io.ctx, "f") == -EIO);
    CHECK(m->io.mkdir(m->io.ctx, "d") == -EIO);
    CHECK(m->io.sync_dir(m->io.ctx, "/") == -EIO);
    CHECK(m->io.list(m->io.ctx, "/", stop_at_once, NULL) == -EIO);
    CHECK(m->io.space(m->io.ctx, "/", &size, &total) == -EIO);
}

static void a_cut_tears_a_write_at_any_byte(void) {
    enum { FIRST = 700, SECOND = 5000, TOTAL = FIRST + SECOND };
    static uint8_t data[TOTAL];
    for (int i = 0; i < TOTAL; i++) {
        data[i] = (uint8_t)(i % 251 + 1);
    }
    for (uint64_t n = 1; n <= TOTAL + 1; n += n < 20 || n > TOTAL - 20 ? 1 : 61) {
        struct machine m = boot(n);
        int fd = create(&m, "f");
        CHECK(m.io.allocate(m.io.ctx, fd, 8192) == 0);
        sync_file(&m, fd);
        sync_dir(&m, "/");
        bp_sim_cut_after_bytes(m.sim, n);
        struct iovec iov[] = {{data + FIRST, 100}, {data + FIRST + 100, SECOND - 100}};
        CHECK(put(&m, fd, data, FIRST, 0) == (n > FIRST ? FIRST : -EIO));
        CHECK(m.io.pwritev(m.io.ctx, fd, iov, 2, FIRST) == (n > TOTAL ? SECOND : -EIO));
        CHECK_EQ_U64(bp_sim_bytes_written(m.sim), n - 1);
        if (n <= TOTAL) {
            check_power_is_off(&m, fd);
        } else {
            sync_file(&m, fd); /* the n-th byte was not begun: the power is still on */
        }
        struct machine none = machine_of(bp_sim_clone(m.sim, n));
        if (n <= TOTAL) {
            check_power_is_off(&none, fd);
        }
        bp_sim_power_cut(m.sim, 1024);
        bp_sim_power_cut(none.sim, 0);
        for (uint64_t i = 0; i < TOTAL; i++) {
            CHECK_EQ_U64(byte_at(&m, "f", i), i + 1 < n ? data[i] : 0);
            CHECK_EQ_U64(byte_at(&none, "f", i), n > TOTAL ? data[i] : 0);
        }
        fd = open_file(&m, "f", BP_O_WRITE); /* on again, and not armed any more */
        CHECK(put(&m, fd, data, TOTAL, 0) == TOTAL);
        bp_sim_free(m.sim);
        bp_sim_free(none.sim);
    }
}

static void a_disarmed_cut_does_not_come(void) {
    struct machine m = boot(1);
    int fd = create(&m, "f");
    bp_sim_cut_after_bytes(m.sim, 2);
    bp_sim_cut_after_bytes(m.sim, 0);
    fill(&m, fd, 'x', 100, 0);
    bp_sim_free(m.sim);
}

/* ---- space */

static uint64_t free_space(const struct machine *m) {
    uint64_t available = 0, total = 0;
    CHECK(m->io.space(m->io.ctx, "/", &available, &total) == 0);
    CHECK(available <= total);
    return available;
}

static void a_full_disk_says_so_and_recovers(void) {
    struct machine m = boot(1);
    static uint8_t data[8 * 4096];
    int a = create(&m, "a"), b = create(&m, "b");
    bp_sim_set_capacity(m.sim, 10 * 4096);
    CHECK_EQ_U64(free_space(&m), 10 * 4096);
    CHECK(m.io.allocate(m.io.ctx, a, 6 * 4096) == 0);
    CHECK_EQ_U64(free_space(&m), 4 * 4096);
    CHECK(put(&m, b, data, sizeof data, 0) == 4 * 4096); /* short: what fits */
    CHECK(put(&m, b, data, 1, 4 * 4096) == -ENOSPC);
    CHECK_EQ_U64(size_of(&m, "b"), 4 * 4096);
    CHECK(m.io.allocate(m.io.ctx, b, 5 * 4096) == -ENOSPC);
    CHECK_EQ_U64(size_of(&m, "b"), 4 * 4096);
    CHECK_EQ_U64(free_space(&m), 0);
    CHECK(put(&m, a, data, 6 * 4096, 0) == 6 * 4096); /* preallocated: paid for */
    CHECK(put(&m, b, data, 4096, 0) == 4096);         /* overwriting costs nothing */
    CHECK(m.io.unlink(m.io.ctx, "a") == 0);
    CHECK_EQ_U64(free_space(&m), 0); /* an open file keeps its space */
    CHECK(m.io.close(m.io.ctx, a) == 0);
    CHECK_EQ_U64(free_space(&m), 6 * 4096);
    CHECK(m.io.allocate(m.io.ctx, b, 5 * 4096) == 0);
    CHECK_EQ_U64(free_space(&m), 5 * 4096);
    CHECK(m.io.truncate(m.io.ctx, b, 1) == 0);
    CHECK_EQ_U64(free_space(&m), 9 * 4096);
    bp_sim_set_capacity(m.sim, 0);
    CHECK(free_space(&m) > (uint64_t)1 << 30);
    bp_sim_free(m.sim);
}

static void holes_cost_nothing(void) {
    struct machine m = boot(1);
    int fd = create(&m, "f");
    uint8_t data[64];
    CHECK(m.io.allocate(m.io.ctx, fd, (uint64_t)1 << 39) == 0); /* no such memory anywhere */
    CHECK(put(&m, fd, "end", 3, ((uint64_t)1 << 39) - 3) == 3);
    CHECK(m.io.pread(m.io.ctx, fd, data, sizeof data, (uint64_t)1 << 38) == sizeof data);
    for (size_t i = 0; i < sizeof data; i++) {
        CHECK_EQ_U64(data[i], 0);
    }
    CHECK(m.io.pread(m.io.ctx, fd, data, sizeof data, ((uint64_t)1 << 39) - 3) == 3);
    CHECK(memcmp(data, "end", 3) == 0);
    sync_file(&m, fd);
    struct bp_sim *copy = bp_sim_clone(m.sim, 1);
    CHECK(copy != NULL);
    bp_sim_free(copy);
    bp_sim_free(m.sim);
}

/* ---- flips, clones, clocks */

static void a_flip_is_on_the_medium(void) {
    struct machine m = overwritten(1, 20), copy = machine_of(bp_sim_clone(m.sim, 1));
    CHECK(bp_sim_flip(m.sim, "f", 5000, 3) == 0);
    CHECK_EQ_U64(byte_at(&m, "f", 5000), 'n' ^ 8);
    CHECK_EQ_U64(byte_at(&m, "f", 4999), 'n');
    CHECK_EQ_U64(byte_at(&copy, "f", 5000), 'n');
    bp_sim_power_cut(m.sim, 0);
    CHECK_EQ_U64(byte_at(&m, "f", 5000), 'o' ^ 8);
    CHECK(bp_sim_flip(m.sim, "f", 5000, 3) == 0);
    CHECK_EQ_U64(byte_at(&m, "f", 5000), 'o');
    bp_sim_power_cut(m.sim, 0);
    CHECK_EQ_U64(byte_at(&m, "f", 5000), 'o');
    CHECK(bp_sim_flip(m.sim, "f", 20 * SECTOR, 0) == -ERANGE);
    CHECK(bp_sim_flip(m.sim, "f", 0, 8) == -ERANGE);
    CHECK(bp_sim_flip(m.sim, "g", 0, 0) == -ENOENT);
    uint8_t two[2];
    CHECK(bp_sim_read_file(m.sim, "f", two, 2, 20 * SECTOR - 1) == -ERANGE);
    CHECK(bp_sim_read_file(m.sim, "g", two, 2, 0) == -ENOENT);
    bp_sim_free(m.sim);
    bp_sim_free(copy.sim);
}

static void a_clone_is_independent_and_whole(void) {
    struct machine m = overwritten(1, 20);
    create(&m, "pending");
    struct machine copy = machine_of(bp_sim_clone(m.sim, 2));
    int fd = open_file(&copy, "f", BP_O_WRITE), original = open_file(&m, "f", BP_O_WRITE);
    fill(&copy, fd, 'c', SECTOR, 0);
    fill(&m, original, 'm', SECTOR, SECTOR);
    CHECK_EQ_U64(sector_of(&m, "f", 0), 'n');
    CHECK_EQ_U64(sector_of(&m, "f", 1), 'm');
    CHECK_EQ_U64(sector_of(&copy, "f", 0), 'c');
    CHECK_EQ_U64(sector_of(&copy, "f", 1), 'n');
    CHECK(copy.io.unlink(copy.io.ctx, "pending") == 0);
    CHECK(exists(&m, "pending"));
    sync_file(&copy, fd); /* in the copy only */
    struct machine again = machine_of(bp_sim_clone(m.sim, 3));
    bp_sim_power_cut(copy.sim, 0);
    CHECK_EQ_U64(sector_of(&copy, "f", 0), 'c');
    CHECK_EQ_U64(sector_of(&copy, "f", 1), 'n');
    bp_sim_free(copy.sim);
    CHECK_EQ_U64(sector_of(&m, "f", 1), 'm'); /* a cut of a copy is not one of the original */
    bp_sim_power_cut(m.sim, 0);
    CHECK_EQ_U64(sector_of(&m, "f", 1), 'o');
    CHECK(!exists(&m, "pending"));
    bp_sim_free(m.sim);
    bp_sim_power_cut(again.sim, 1024); /* nor the other way round */
    CHECK_EQ_U64(sector_of(&again, "f", 0), 'n');
    CHECK_EQ_U64(sector_of(&again, "f", 1), 'm');
    CHECK(exists(&again, "pending"));
    bp_sim_free(again.sim);
}

static void time_moves_only_when_told(void) {
    struct machine m = boot(1);
    uint64_t boot_ns = m.io.clock_boot_ns(m.io.ctx), real_ns = m.io.clock_real_ns(m.io.ctx);
    CHECK(boot_ns > 0);
    CHECK_EQ_U64(m.io.clock_boot_ns(m.io.ctx), boot_ns);
    bp_sim_advance_ns(m.sim, 5000000000u);
    bp_sim_power_cut(m.sim, 0);
    CHECK_EQ_U64(m.io.clock_boot_ns(m.io.ctx), boot_ns + 5000000000u);
    CHECK_EQ_U64(m.io.clock_real_ns(m.io.ctx), real_ns + 5000000000u);
    struct machine copy = machine_of(bp_sim_clone(m.sim, 1));
    CHECK_EQ_U64(copy.io.clock_boot_ns(copy.io.ctx), boot_ns + 5000000000u);
    bp_sim_free(m.sim);
    bp_sim_free(copy.sim);
}

static void chance_repeats_with_the_seed(void) {
    struct machine a = boot(9), b = boot(9), c = boot(10);
    uint8_t x[37], y[37], z[37];
    CHECK(a.io.random(a.io.ctx, x, sizeof x) == 0);
    CHECK(b.io.random(b.io.ctx, y, sizeof y) == 0);
    CHECK(c.io.random(c.io.ctx, z, sizeof z) == 0);
    CHECK(memcmp(x, y, sizeof x) == 0 && memcmp(x, z, sizeof x) != 0);
    CHECK(a.io.random(a.io.ctx, y, sizeof y) == 0);
    CHECK(memcmp(x, y, sizeof x) != 0);
    bp_sim_free(a.sim);
    bp_sim_free(b.sim);
    bp_sim_free(c.sim);
}

/* ---- against a naive model: two flat arrays */

enum { MODEL_SIZE = 40000 };

struct model {
    uint8_t now[MODEL_SIZE], disk[MODEL_SIZE];
    size_t size, size_synced;
};

static uint64_t draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void model_resize(struct model *model, size_t size) {
    size_t low = size < model->size ? size : model->size;
    memset(model->now + low, 0, MODEL_SIZE - low);
    model->size = size;
}

/* One random step on both. */
static void model_step(struct model *model, const struct machine *m, int fd, uint64_t *chance) {
    size_t at = draw(chance) % MODEL_SIZE, n = draw(chance) % 6000 + 1;
    n = n < MODEL_SIZE - at ? n : MODEL_SIZE - at;
    int byte;
    switch (draw(chance) % 8) {
    case 0:
        CHECK(m->io.truncate(m->io.ctx, fd, at) == 0);
        model_resize(model, at);
        break;
    case 1:
        CHECK(m->io.allocate(m->io.ctx, fd, at) == 0);
        model->size = at > model->size ? at : model->size;
        break;
    case 2:
        sync_file(m, fd);
        memcpy(model->disk, model->now, MODEL_SIZE);
        model->size_synced = model->size;
        break;
    default:
        byte = (int)(draw(chance) % 255) + 1;
        fill(m, fd, byte, n, at);
        memset(model->now + at, byte, n);
        model->size = at + n > model->size ? at + n : model->size;
        break;
    }
}

static void check_model(const struct model *model, const struct machine *m) {
    static uint8_t back[MODEL_SIZE];
    CHECK_EQ_U64(size_of(m, "f"), model->size);
    CHECK(bp_sim_read_file(m->sim, "f", back, model->size, 0) == 0);
    CHECK(memcmp(back, model->now, model->size) == 0);
}

static void random_workloads_match_a_flat_model(void) {
    static struct model model;
    for (uint64_t seed = 0; seed < 60; seed++) {
        uint64_t chance = seed;
        struct machine m = boot(seed);
        int fd = create(&m, "f");
        sync_dir(&m, "/");
        memset(&model, 0, sizeof model);
        for (int step = 0; step < 150; step++) {
            if (draw(&chance) % 20 == 0) {
                bool all = draw(&chance) % 2 == 0;
                bp_sim_power_cut(m.sim, all ? 1024 : 0);
                fd = open_file(&m, "f", BP_O_WRITE);
                memcpy(all ? model.disk : model.now, all ? model.now : model.disk, MODEL_SIZE);
                model.size = all ? model.size : model.size_synced;
                model.size_synced = model.size;
            }
            model_step(&model, &m, fd, &chance);
            check_model(&model, &m);
            if (step % 10 == 0) { /* the clone is the same disk, with the same past */
                struct machine copy = machine_of(bp_sim_clone(m.sim, 0));
                check_model(&model, &copy);
                bp_sim_power_cut(copy.sim, 0);
                CHECK_EQ_U64(size_of(&copy, "f"), model.size_synced);
                static uint8_t back[MODEL_SIZE];
                CHECK(bp_sim_read_file(copy.sim, "f", back, model.size_synced, 0) == 0);
                CHECK(memcmp(back, model.disk, model.size_synced) == 0);
                bp_sim_free(copy.sim);
            }
        }
        bp_sim_free(m.sim);
    }
}

/* ---- threads */

static void *churn(void *arg) {
    const struct machine *m = arg;
    int fd = create(m, "f");
    for (int i = 0; i < 300; i++) {
        fill(m, fd, i, 3 * SECTOR, (uint64_t)(i % 30) * SECTOR);
        struct bp_sim *copy = bp_sim_clone(m->sim, (uint64_t)i);
        CHECK(copy != NULL);
        bp_sim_power_cut(copy, 512);
        bp_sim_free(copy);
        if (i % 7 == 0) {
            sync_file(m, fd);
        }
    }
    CHECK(m->io.close(m->io.ctx, fd) == 0);
    return NULL;
}

static void machines_and_their_clones_work_in_threads(void) {
    struct machine m = overwritten(1, 30), copy = machine_of(bp_sim_clone(m.sim, 1));
    struct machine *users[] = {&m, &m, &copy, &copy};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, churn, users[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    bp_sim_free(m.sim);
    bp_sim_free(copy.sim);
}

/* A store of 8 files with 100 KiB, a tenth unsynced: what one clone, cut and disposal costs. */
static int bench(void) {
    enum { ROUNDS = 20000 };
    struct machine m = boot(1);
    char name[32];
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "file-%d", i);
        int fd = create(&m, name);
        CHECK(m.io.allocate(m.io.ctx, fd, 64 << 20) == 0);
        fill(&m, fd, i, 13 << 10, 0);
        sync_file(&m, fd);
        fill(&m, fd, i, 1 << 10, 13 << 10);
    }
    sync_dir(&m, "/");
    uint64_t start = 0;
    for (int i = -100; i < ROUNDS; i++) {
        struct timespec now;
        if (i == 0) {
            clock_gettime(CLOCK_MONOTONIC, &now);
            start = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
        }
        struct bp_sim *copy = bp_sim_clone(m.sim, (uint64_t)i);
        CHECK(copy != NULL);
        bp_sim_power_cut(copy, 512);
        bp_sim_free(copy);
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t end = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    printf("clone + cut + free: %.2f us\n", (double)(end - start) / ROUNDS / 1000);
    bp_sim_free(m.sim);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        return bench();
    }
    TESTS_BEGIN;
    RUN(what_is_synced_survives_any_cut);
    RUN(unsynced_sectors_are_kept_or_lost_one_by_one);
    RUN(a_cut_may_keep_all_or_nothing);
    RUN(the_seed_decides);
    RUN(lost_sectors_of_a_preallocated_file_are_zeros);
    RUN(what_survived_a_cut_is_durable);
    RUN(a_lying_sync_keeps_nothing);
    RUN(an_unsynced_size_is_kept_or_undone);
    RUN(a_sync_covers_the_size);
    RUN(a_truncation_is_undone_whole_or_final);
    RUN(a_new_file_needs_its_directory_synced);
    RUN(a_rename_without_a_directory_sync_is_undone_or_done);
    RUN(a_directory_sync_makes_a_rename_final);
    RUN(an_undone_unlink_brings_the_synced_file_back);
    RUN(entries_of_one_name_survive_in_order);
    RUN(a_lost_directory_takes_its_files_along);
    RUN(paths_and_errors_are_those_of_a_file_system);
    RUN(every_handle_and_lock_falls_with_the_power);
    RUN(a_cut_tears_a_write_at_any_byte);
    RUN(a_disarmed_cut_does_not_come);
    RUN(a_full_disk_says_so_and_recovers);
    RUN(holes_cost_nothing);
    RUN(a_flip_is_on_the_medium);
    RUN(a_clone_is_independent_and_whole);
    RUN(time_moves_only_when_told);
    RUN(chance_repeats_with_the_seed);
    RUN(random_workloads_match_a_flat_model);
    RUN(machines_and_their_clones_work_in_threads);
    TESTS_END;
}

/*
 * Backup and restore: everything at one revision, while writes go on; a damaged or cut file
 * restores nothing; a restore that is interrupted leaves nothing that opens.
 */
#include "../src/backup.h"
#include "../src/image.h"
#include "../src/ops.h"
#include "../src/restore.h"
#include "store_util.h"

struct file {
    uint8_t *bytes;
    uint64_t size, capacity;
};

/* The rest of a backup, taken in pieces of `piece` bytes. */
static void read_rest(struct bp_backup *backup, struct file *file, uint64_t piece) {
    struct bp_error err = {0};
    for (;;) {
        if (file->capacity - file->size < piece) {
            file->capacity = file->capacity * 2 + piece;
            file->bytes = realloc(file->bytes, file->capacity);
            CHECK(file->bytes != NULL);
        }
        uint64_t n;
        CHECK_OK(bp_backup_next(backup, file->bytes + file->size, piece, &n, &err), &err);
        CHECK(n <= piece);
        if (n == 0) {
            return;
        }
        file->size += n;
    }
}

static struct file back_up(struct bp_store *store, uint64_t *revision) {
    struct bp_backup *backup;
    struct bp_error err = {0};
    CHECK_OK(bp_backup_new(store, &backup, revision, &err), &err);
    struct file file = {0};
    read_rest(backup, &file, 1000);
    bp_backup_free(backup);
    return file;
}

static void write_file(struct bp_sim *sim, const char *path, const uint8_t *bytes, uint64_t size) {
    struct bp_disk *disk = test_disk(sim);
    (void)bp_disk_unlink(disk, BP_SITE_NONE, path);
    int fd = bp_disk_open(disk, BP_SITE_NONE, path, BP_O_WRITE | BP_O_CREATE);
    CHECK(fd >= 0 && bp_disk_write(disk, BP_SITE_NONE, fd, bytes, size, 0) == 0);
    CHECK(bp_disk_sync(disk, BP_SITE_NONE, fd) == 0);
    CHECK(bp_disk_sync_dir(disk, BP_SITE_NONE, ".") == 0);
    bp_disk_close(disk, fd);
    bp_disk_free(disk);
}

static struct bp_options restored_options(void) {
    struct bp_options options = test_options();
    options.dir = "restored";
    return options;
}

static int restore(struct bp_sim *sim, const struct bp_options *options, struct bp_error *err) {
    struct bp_disk *disk = test_disk(sim);
    int code = bp_restore_on(options, disk, "backup", err);
    bp_disk_free(disk);
    return code;
}

static uint8_t large[300001];

/* One of everything. */
static void fill(struct bp_store *store) {
    for (size_t i = 0; i < sizeof large; i++) {
        large[i] = (uint8_t)(i * 7 + i / 1000);
    }
    CHECK(test_put(store, "a", "one", NULL) == BP_OK);
    CHECK(test_put(store, "a", "two", NULL) == BP_OK);
    CHECK(test_put(store, "gone", "x", NULL) == BP_OK);
    CHECK(test_delete(store, "gone", NULL) == BP_OK);
    CHECK(test_put(store, "empty", "", NULL) == BP_OK);
    CHECK(test_put_bytes(store, "large", large, sizeof large, 0, NULL, NULL) == BP_OK);
    CHECK(test_grant(store, 42, 60000) == BP_OK);
    CHECK(test_put_bytes(store, "leased", "v", 1, 42, NULL, NULL) == BP_OK);
    CHECK(test_put_bytes(store, "once", "v", 1, 0, "id-1", NULL) == BP_OK);
    CHECK(test_batch(store, "many", 2000, "a value of some bytes", NULL) == BP_OK);
}

static void check_filled(struct bp_store *store, uint64_t once_revision) {
    char value[64];
    CHECK(test_get(store, "a", value, sizeof value) && strcmp(value, "two") == 0);
    CHECK(!test_get(store, "gone", value, sizeof value));
    CHECK(test_get(store, "empty", value, sizeof value) && value[0] == 0);
    CHECK(test_get(store, "many001999", value, sizeof value));
    static uint8_t read[sizeof large];
    uint32_t size;
    struct bp_error err = {0};
    CHECK_OK(bp_get(store, BP_KEYSPACE_USER, "large", 5, read, sizeof read, &size, NULL, &err),
             &err);
    CHECK(size == sizeof large && memcmp(read, large, sizeof large) == 0);
    uint64_t revision;
    CHECK(test_put_bytes(store, "once", "v", 1, 0, "id-1", &revision) == BP_OK);
    CHECK_EQ_U64(revision, once_revision); /* answered from the table, not done again */
    uint64_t deleted;
    CHECK(test_revoke(store, 42, &deleted) == BP_OK);
    CHECK_EQ_U64(deleted, 1);
}

static uint64_t mod_revision(struct bp_store *store, const char *key) {
    struct bp_error err = {0};
    static uint8_t value[1 << 20];
    uint32_t size;
    uint64_t revision;
    CHECK_OK(bp_get(store, BP_KEYSPACE_USER, key, (uint32_t)strlen(key), value, sizeof value, &size,
                    &revision, &err),
             &err);
    return revision;
}

/* ---- behaviour ------------------------------------------------------------------------------ */

static void test_a_backup_restores_everything_at_its_revision(void) {
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = test_options(), target = restored_options();
    struct bp_store *store = test_must_open(sim, &options);
    fill(store);
    uint64_t revision, once = mod_revision(store, "once"), a = mod_revision(store, "a");
    struct bp_version before, after;
    CHECK(bp_index_get(store->index, bp_slice("ua", 2), UINT64_MAX, &before));
    struct file file = back_up(store, &revision);
    CHECK_EQ_U64(revision, atomic_load(&store->revision));
    struct bp_system system = store->system;
    uint8_t store_id[16];
    memcpy(store_id, store->store_id, sizeof store_id);
    bp_store_abandon(store);
    write_file(sim, "backup", file.bytes, file.size);
    struct bp_error err = {0};
    CHECK_OK(restore(sim, &target, &err), &err);

    for (int round = 0; round < 2; round++) {
        store = test_must_open(sim, &target);
        CHECK(bp_index_check(store->index) == NULL);
        CHECK_EQ_U64(mod_revision(store, "a"), a);
        CHECK(bp_index_get(store->index, bp_slice("ua", 2), UINT64_MAX, &after));
        CHECK(after.create_revision == before.create_revision && after.version == 2);
        CHECK(atomic_load(&store->revision) >= revision + (UINT64_C(1) << 32));
        CHECK_EQ_U64(store->system.voters, 1);
        CHECK(store->system.members[0] != system.members[0]);
        CHECK(memcmp(store->system.cluster_id, system.cluster_id, 16) != 0);
        CHECK(memcmp(store->store_id, store_id, 16) != 0);
        if (round == 0) { /* it takes writes, and keeps them */
            CHECK(test_put(store, "new", "write", NULL) == BP_OK);
            CHECK(mod_revision(store, "new") > revision + (UINT64_C(1) << 32));
        } else {
            char value[16];
            CHECK(test_get(store, "new", value, sizeof value));
            check_filled(store, once);
        }
        bp_store_abandon(store);
    }
    free(file.bytes);
    bp_sim_free(sim);
}

static void test_an_empty_store_restores(void) {
    struct bp_sim *sim = bp_sim_new(2);
    struct bp_options options = test_options(), target = restored_options();
    struct bp_store *store = test_must_open(sim, &options);
    uint64_t revision;
    struct file file = back_up(store, &revision);
    bp_store_abandon(store);
    write_file(sim, "backup", file.bytes, file.size);
    struct bp_error err = {0};
    CHECK_OK(restore(sim, &target, &err), &err);
    store = test_must_open(sim, &target);
    CHECK(test_put(store, "k", "v", NULL) == BP_OK);
    bp_store_abandon(store);
    free(file.bytes);
    bp_sim_free(sim);
}

static void test_writes_go_on_and_are_not_seen(void) {
    struct bp_sim *sim = bp_sim_new(3);
    struct bp_options options = test_options(), target = restored_options();
    struct bp_store *store = test_must_open(sim, &options);
    fill(store);
    uint64_t revision, once = mod_revision(store, "once");
    struct bp_backup *backup;
    struct bp_error err = {0};
    CHECK_OK(bp_backup_new(store, &backup, &revision, &err), &err);
    CHECK(test_put(store, "a", "three", NULL) == BP_OK);
    CHECK(test_put(store, "later", "x", NULL) == BP_OK);
    CHECK(test_delete_range(store, "many", "many9", NULL) == BP_OK);
    CHECK(test_compact(store, atomic_load(&store->revision)) == BP_OK);
    for (int i = 0; i < 1000 && bp_step_clean(store); i++) {
    }
    struct file file = {0};
    read_rest(backup, &file, 777);
    uint64_t n = 1;
    CHECK_OK(bp_backup_next(backup, file.bytes, 1, &n, &err), &err);
    CHECK_EQ_U64(n, 0); /* the end stays the end */
    bp_backup_free(backup);
    CHECK_EQ_U64(bp_pins_min(store), UINT64_MAX);
    bp_store_abandon(store);
    write_file(sim, "backup", file.bytes, file.size);
    CHECK_OK(restore(sim, &target, &err), &err);
    store = test_must_open(sim, &target);
    char value[64];
    CHECK(!test_get(store, "later", value, sizeof value));
    check_filled(store, once);
    bp_store_abandon(store);
    free(file.bytes);
    bp_sim_free(sim);
}

static void test_a_damaged_value_fails_the_backup(void) {
    struct bp_sim *sim = bp_sim_new(4);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    CHECK(test_put(store, "k", "a value", NULL) == BP_OK);
    struct bp_version version;
    CHECK(bp_index_get(store->index, bp_slice("uk", 2), UINT64_MAX, &version));
    char path[BP_PATH_MAX];
    bp_segment_path(store->segments, version.value.at.segment, BP_SEGMENT_LOG, false, path,
                    sizeof path);
    CHECK(bp_sim_flip(sim, path, version.value.at.offset, 0) == 0);
    struct bp_backup *backup;
    struct bp_error err = {0};
    uint64_t revision, n;
    CHECK_OK(bp_backup_new(store, &backup, &revision, &err), &err);
    static uint8_t buffer[1 << 20];
    for (int i = 0; i < 2; i++) { /* for good: no trailer ever follows */
        CHECK_EQ_U64(bp_backup_next(backup, buffer, sizeof buffer, &n, &err), BP_DATA_LOSS);
        CHECK_EQ_U64(err.reason, BP_REASON_VALUE_DAMAGED);
        CHECK_EQ_U64(n, 0);
    }
    bp_backup_free(backup);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* A small one, every byte of which is tried. */
static struct file small_backup(struct bp_sim *sim) {
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    CHECK(test_grant(store, 7, 60000) == BP_OK);
    CHECK(test_put_bytes(store, "k", "v", 1, 7, "id", NULL) == BP_OK);
    CHECK(test_put(store, "l", "some value", NULL) == BP_OK);
    uint64_t revision;
    struct file file = back_up(store, &revision);
    bp_store_abandon(store);
    return file;
}

static void expect_refused(struct bp_sim *sim, const struct bp_options *target, const char *what,
                           uint64_t at) {
    struct bp_error err = {0};
    int code = restore(sim, target, &err);
    if (code != BP_DATA_LOSS && code != BP_FAILED_PRECONDITION) {
        fprintf(stderr, "%s at %llu: %d %s\n", what, (unsigned long long)at, code, err.message);
        exit(1);
    }
    struct bp_disk *disk = test_disk(sim);
    int fd = bp_disk_open(disk, BP_SITE_NONE, "restored/STORE", BP_O_READ);
    CHECK(fd < 0); /* nothing that would open; and the next attempt finds the directory empty */
    bp_disk_free(disk);
}

static void test_a_flipped_or_missing_byte_restores_nothing(void) {
    struct bp_sim *sim = bp_sim_new(5);
    struct file file = small_backup(sim);
    struct bp_options target = restored_options();
    struct bp_error err = {0};
    for (uint64_t at = 0; at < file.size; at++) {
        file.bytes[at] ^= (uint8_t)(1u << at % 8);
        write_file(sim, "backup", file.bytes, file.size);
        expect_refused(sim, &target, "a flipped bit", at);
        file.bytes[at] ^= (uint8_t)(1u << at % 8);
        write_file(sim, "backup", file.bytes, at);
        expect_refused(sim, &target, "the end", at);
    }
    write_file(sim, "backup", file.bytes, file.size);
    CHECK_OK(restore(sim, &target, &err), &err);
    free(file.bytes);
    bp_sim_free(sim);
}

static void test_a_restore_needs_an_empty_directory(void) {
    struct bp_sim *sim = bp_sim_new(6);
    struct file file = small_backup(sim);
    write_file(sim, "backup", file.bytes, file.size);
    struct bp_options target = test_options(); /* the store itself */
    struct bp_error err = {0};
    CHECK_EQ_U64(restore(sim, &target, &err), BP_FAILED_PRECONDITION);
    struct bp_store *store = test_must_open(sim, &target); /* and it is as it was */
    char value[16];
    CHECK(test_get(store, "l", value, sizeof value));
    bp_store_abandon(store);
    target.dir = "strange";
    struct bp_disk *disk = test_disk(sim);
    CHECK(bp_disk_mkdir(disk, "strange") == 0);
    bp_disk_free(disk);
    write_file(sim, "strange/letter", (const uint8_t *)"x", 1);
    CHECK_EQ_U64(restore(sim, &target, &err), BP_FAILED_PRECONDITION);
    CHECK(strstr(err.message, "letter") != NULL);
    free(file.bytes);
    bp_sim_free(sim);
}

/* Power cuts anywhere in it: the directory opens as the whole store or not at all. */
static void test_an_interrupted_restore_does_not_open(void) {
    struct bp_sim *original = bp_sim_new(7);
    struct file file = small_backup(original);
    write_file(original, "backup", file.bytes, file.size);
    struct bp_options target = restored_options();
    uint32_t refused = 0, finished = 0;
    for (int site = 1; site < BP_SITE_COUNT; site++) {
        for (uint64_t hit = 1; hit < 40; hit++) {
            struct bp_sim *sim = bp_sim_clone(original, (uint64_t)site * 100 + hit);
            struct bp_disk *disk = test_disk(sim);
            CHECK(bp_disk_arm(disk, site, BP_FAULT_CRASH, hit, 1, 0) == 0);
            struct bp_error err = {0};
            int code = bp_restore_on(&target, disk, "backup", &err);
            bool reached = bp_disk_hits(disk, site) >= hit;
            bp_disk_free(disk);
            CHECK(reached ? code != BP_OK : code == BP_OK);
            bp_sim_power_cut(sim, hit % 3 == 0 ? 1024 : hit % 3 == 1 ? 0 : 512);
            struct bp_options options = target;
            struct bp_store *store = NULL;
            struct bp_disk *look = test_disk(sim);
            int fd = bp_disk_open(look, BP_SITE_NONE, "restored/STORE", BP_O_READ);
            int marker = bp_disk_open(look, BP_SITE_NONE, "restored/restoring", BP_O_READ);
            bp_disk_free(look);
            code = fd < 0 && marker < 0 ? -1 : test_open(sim, &options, &store, &err);
            if (code == BP_OK) {
                char value[16];
                CHECK(test_get(store, "l", value, sizeof value) &&
                      test_get(store, "k", value, sizeof value));
                bp_store_abandon(store);
                finished++;
            } else {
                CHECK(code == -1 || strstr(err.message, "restore") != NULL);
                if (code == -1) { /* it had not begun */
                    CHECK_OK(restore(sim, &target, &err), &err);
                }
                if (marker >= 0) { /* and a second attempt says why not */
                    CHECK_EQ_U64(restore(sim, &target, &err), BP_FAILED_PRECONDITION);
                    CHECK(strstr(err.message, "did not finish") != NULL);
                }
                refused++;
            }
            bp_sim_free(sim);
            if (!reached) {
                break;
            }
        }
    }
    CHECK(refused > 20 && finished > 0);
    free(file.bytes);
    bp_sim_free(original);
}

static void test_a_failed_restore_cleans_up(void) {
    struct bp_sim *sim = bp_sim_new(8);
    struct file file = small_backup(sim);
    write_file(sim, "backup", file.bytes, file.size);
    struct bp_options target = restored_options();
    struct bp_error err = {0};
    static const int sites[] = {BP_SITE_SETTLED_WRITE, BP_SITE_SETTLED_SYNC, BP_SITE_LOG_SYNC,
                                BP_SITE_CHECKPOINT_RENAME, BP_SITE_CHECKPOINT_SYNC};
    for (size_t i = 0; i < sizeof sites / sizeof sites[0]; i++) {
        struct bp_disk *disk = test_disk(sim);
        CHECK(bp_disk_arm(disk, sites[i], BP_FAULT_EIO, 1, 1, 0) == 0);
        CHECK(bp_restore_on(&target, disk, "backup", &err) != BP_OK);
        CHECK(bp_disk_hits(disk, sites[i]) > 0);
        bp_disk_free(disk);
    }
    CHECK_OK(restore(sim, &target, &err), &err); /* the same directory */
    struct bp_store *store = test_must_open(sim, &target);
    bp_store_abandon(store);
    free(file.bytes);
    bp_sim_free(sim);
}

static void test_a_restored_store_that_lost_its_checkpoint_is_not_empty_but_corrupt(void) {
    struct bp_sim *sim = bp_sim_new(9);
    struct file file = small_backup(sim);
    write_file(sim, "backup", file.bytes, file.size);
    struct bp_options target = restored_options();
    struct bp_error err = {0};
    CHECK_OK(restore(sim, &target, &err), &err);
    struct bp_disk *disk = test_disk(sim);
    CHECK(bp_disk_unlink(disk, BP_SITE_NONE, "restored/0000000000000001.ckpt") == 0);
    bp_disk_free(disk);
    struct bp_store *store;
    CHECK(test_open(sim, &target, &store, &err) != BP_OK);
    free(file.bytes);
    bp_sim_free(sim);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_a_backup_restores_everything_at_its_revision);
    RUN(test_an_empty_store_restores);
    RUN(test_writes_go_on_and_are_not_seen);
    RUN(test_a_damaged_value_fails_the_backup);
    RUN(test_a_flipped_or_missing_byte_restores_nothing);
    RUN(test_a_restore_needs_an_empty_directory);
    RUN(test_an_interrupted_restore_does_not_open);
    RUN(test_a_failed_restore_cleans_up);
    RUN(test_a_restored_store_that_lost_its_checkpoint_is_not_empty_but_corrupt);
    TESTS_END;
}

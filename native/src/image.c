/*
 * Making a store offline (see image.h):
 *
 *   <dir>/restoring
 *       first in, last out; both made durable by a sync of the directory before anything follows
 *         LOCK            held all the while
 *         %08x.set ...    values, one settled segment at a time through a buffer of its size
 *         %08x.log        an empty log that begins with a HARDSTATE frame; replay starts behind it
 *         %016x.ckpt      everything else
 *         STORE
 *
 * Invariants: a directory with `restoring` in it never opens as a store; without it, everything
 * above is durable. The log does not reach back to index 1, so a store that later loses its
 * checkpoints is corrupt, and not empty.
 */
#include "image.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bare_store.h"
#include "log_internal.h"
#include "ops.h"
#include "settled.h"
#include "store_files.h"

#define REVISION_JUMP_MIN (UINT64_C(1) << 32)
#define PATH_BYTES (BP_PATH_MAX + 80u)

struct bp_image {
    struct bp_store *store;
    struct bp_disk *disk;
    bool begun, finished;            /* `restoring` is there; is gone again */
    struct bp_segment_header header; /* of the settled segment being filled; id 0 none */
    struct bp_buffer records;        /* its bytes behind the header */
    uint64_t value_bytes;
    uint8_t table[BP_VALUE_MAX / BP_CRC_CHUNK * 4];
};

static int no_memory(struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                   "no memory for a new store");
}

/* ---- the directory -------------------------------------------------------------------------- */

static void path_of(const struct bp_image *image, const char *name, char path[PATH_BYTES]) {
    (void)snprintf(path, PATH_BYTES, "%s/%s", image->store->dir, name);
}

struct content {
    bool restoring;
    char name[64]; /* of something that may not be there, or "" */
};

static int note_name(void *arg, const char *name) {
    struct content *content = arg;
    if (strcmp(name, "restoring") == 0) {
        content->restoring = true;
    } else if (strcmp(name, "LOCK") != 0) {
        (void)snprintf(content->name, sizeof content->name, "%s", name);
    }
    return 0;
}

/* Looked at before the directory is touched. */
static int check_empty(const struct bp_image *image, struct bp_error *err) {
    const char *dir = image->store->dir;
    struct content content = {0};
    int rc = bp_disk_list(image->disk, dir, note_name, &content);
    if (rc < 0 && rc != -ENOENT) {
        return bp_fail_io(err, rc, "%s: cannot be listed", dir);
    }
    if (content.restoring) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_STORE_CORRUPT,
                       "%s: an earlier restore into it did not finish; remove it and restore again",
                       dir);
    }
    if (content.name[0] != 0) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_FIELD_INVALID,
                       "%s holds \"%s\": a store is restored into a new or empty directory only",
                       dir, content.name);
    }
    return BP_OK;
}

static int sync_directory(const struct bp_image *image, struct bp_error *err) {
    int rc = bp_disk_sync_dir(image->disk, BP_SITE_STORE_CREATE, image->store->dir);
    return rc < 0 ? bp_fail_io(err, rc, "%s: cannot be synced", image->store->dir) : BP_OK;
}

static int write_marker(struct bp_image *image, struct bp_error *err) {
    char path[PATH_BYTES];
    path_of(image, "restoring", path);
    int fd =
        bp_disk_open(image->disk, BP_SITE_STORE_CREATE, path, BP_O_WRITE | BP_O_CREATE | BP_O_EXCL);
    if (fd < 0) {
        return bp_fail_io(err, fd, "%s: cannot be made", path);
    }
    image->begun = true;
    int rc = bp_disk_sync(image->disk, BP_SITE_STORE_CREATE, fd);
    bp_disk_close(image->disk, fd);
    return rc < 0 ? bp_fail_io(err, rc, "%s: cannot be synced", path) : sync_directory(image, err);
}

static int remove_marker(struct bp_image *image, struct bp_error *err) {
    char path[PATH_BYTES];
    path_of(image, "restoring", path);
    int rc = bp_disk_unlink(image->disk, BP_SITE_STORE_CREATE, path);
    return rc < 0 ? bp_fail_io(err, rc, "%s: cannot be removed", path) : sync_directory(image, err);
}

enum { REMOVE_BATCH = 64 };

struct removal {
    uint32_t n;
    char names[REMOVE_BATCH][64];
};

static int note_removal(void *arg, const char *name) {
    struct removal *removal = arg;
    bool keep = strcmp(name, "restoring") == 0 || strcmp(name, "LOCK") == 0;
    if (!keep && strlen(name) < sizeof removal->names[0]) {
        (void)snprintf(removal->names[removal->n++], sizeof removal->names[0], "%s", name);
    }
    return removal->n == REMOVE_BATCH;
}

/*
 * Best effort: everything there is ours, the directory was empty. The marker goes only when the
 * rest is gone for good.
 */
static void remove_all(struct bp_image *image) {
    struct removal removal;
    bool gone = true;
    do {
        removal.n = 0;
        gone = gone && bp_disk_list(image->disk, image->store->dir, note_removal, &removal) >= 0;
        for (uint32_t i = 0; i < removal.n; i++) {
            char path[PATH_BYTES];
            path_of(image, removal.names[i], path);
            gone = bp_disk_unlink(image->disk, BP_SITE_NONE, path) == 0 && gone;
        }
    } while (gone && removal.n > 0);
    if (gone && sync_directory(image, NULL) == BP_OK) {
        (void)remove_marker(image, NULL);
    }
}

/* ---- beginning and end of life -------------------------------------------------------------- */

static int choose_identity(struct bp_image *image, struct bp_error *err) {
    struct bp_store *store = image->store;
    struct bp_system *system = &store->system;
    *system = (struct bp_system){.cluster_version = 1,
                                 .voters = 1,
                                 .request_ids_max = (uint32_t)store->options.request_ids_max};
    int rc = bp_disk_random(image->disk, store->store_id, sizeof store->store_id);
    rc = rc < 0 ? rc : bp_disk_random(image->disk, system->cluster_id, sizeof system->cluster_id);
    rc = rc < 0 ? rc : bp_disk_random(image->disk, &store->member_id, sizeof store->member_id);
    store->member_id |= 1; /* 0 means nobody */
    system->members[0] = store->member_id;
    return rc < 0 ? bp_fail_io(err, rc, "no random bytes") : BP_OK;
}

static int check_options(const struct bp_options *options, struct bp_error *err) {
    uint32_t size = options->segment_size;
    if (options->dir == NULL || options->dir[0] == 0 || strlen(options->dir) > BP_PATH_MAX - 128) {
        return bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "dir",
                             "dir must be a path of at most %u bytes", BP_PATH_MAX - 128);
    }
    if (size != 0 &&
        (size < BP_SEGMENT_SIZE_MIN || size % BP_SEGMENT_HEADER != 0 || size > 1u << 30)) {
        return bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "segment_size",
                             "segment_size must be a multiple of %u between %u and %u",
                             BP_SEGMENT_HEADER, BP_SEGMENT_SIZE_MIN, 1u << 30);
    }
    if (options->request_ids_max > BP_REQUEST_IDS_LIMIT) {
        return bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "request_ids_max",
                             "request_ids_max is at most %u", BP_REQUEST_IDS_LIMIT);
    }
    return BP_OK;
}

int bp_image_new(const struct bp_options *options, struct bp_disk *disk, struct bp_image **out,
                 struct bp_error *err) {
    int checked = check_options(options, err);
    if (checked != BP_OK) {
        return checked;
    }
    struct bp_image *image = calloc(1, sizeof *image);
    if (image == NULL) {
        return no_memory(err);
    }
    image->disk = disk;
    int code = bp_bare_store_new(options, disk, options->dir, &image->store, err);
    code = code != BP_OK ? code : check_empty(image, err);
    code =
        code != BP_OK ? code : bp_store_lock(disk, image->store->dir, &image->store->lock_fd, err);
    code = code != BP_OK ? code : write_marker(image, err);
    code = code != BP_OK ? code : choose_identity(image, err);
    if (code != BP_OK) {
        bp_image_free(image);
        return code;
    }
    *out = image;
    return BP_OK;
}

void bp_image_free(struct bp_image *image) {
    if (image == NULL) {
        return;
    }
    if (image->begun && !image->finished) {
        remove_all(image);
    }
    bp_buffer_free(&image->records);
    bp_bare_store_free(image->store);
    free(image);
}

/* ---- values --------------------------------------------------------------------------------- */

static int begin_segment(struct bp_image *image, struct bp_error *err) {
    struct bp_store *store = image->store;
    image->header = (struct bp_segment_header){.kind = BP_SEGMENT_SETTLED,
                                               .id = bp_segments_take_id(store->segments)};
    memcpy(image->header.store_id, store->store_id, sizeof image->header.store_id);
    image->records.size = 0;
    image->value_bytes = 0;
    return bp_segment_new_salt(store->segments, &image->header.salt, err);
}

static int end_segment(struct bp_image *image, struct bp_error *err) {
    if (image->header.id == 0) {
        return BP_OK;
    }
    struct bp_segment *segment;
    uint32_t size = (uint32_t)image->records.size;
    int code = bp_segment_create(image->store->segments, &image->header, BP_SEGMENT_HEADER + size,
                                 image->records.data, size, &segment, err);
    if (code == BP_OK) {
        segment->sealed = true;
        segment->value_bytes = image->value_bytes;
        image->header.id = 0;
    }
    return code;
}

/* Where the value will lie. */
static int settle(struct bp_image *image, struct bp_slice key, const struct bp_version *version,
                  struct bp_slice value, struct bp_pos *at, struct bp_error *err) {
    uint32_t size = bp_settled_size((uint32_t)key.size, (uint32_t)value.size);
    int code = BP_OK;
    if (image->header.id != 0 &&
        BP_SEGMENT_HEADER + image->records.size + size > image->store->options.segment_size) {
        code = end_segment(image, err);
    }
    if (code == BP_OK && image->header.id == 0) {
        code = begin_segment(image, err);
    }
    if (code != BP_OK) {
        return code;
    }
    size_t before = image->records.size;
    uint8_t *out = bp_buffer_grow(&image->records, size);
    if (out == NULL) {
        return no_memory(err);
    }
    uint32_t checksum = bp_value_checksum(value, image->table);
    assert(checksum == version->value.crc && value.size == version->value.size);
    (void)checksum;
    uint32_t value_at =
        bp_settled_encode(out, image->header.salt, key, version, image->table, value);
    image->value_bytes += value.size;
    *at = (struct bp_pos){.segment = image->header.id,
                          .offset = BP_SEGMENT_HEADER + (uint32_t)before + value_at};
    return BP_OK;
}

int bp_image_put(struct bp_image *image, struct bp_slice key, const struct bp_version *version,
                 struct bp_slice value, struct bp_error *err) {
    struct bp_version placed = *version;
    placed.value.at = (struct bp_pos){0};
    int code = value.size == 0 ? BP_OK : settle(image, key, version, value, &placed.value.at, err);
    return code != BP_OK ? code : bp_index_load(image->store->index, key, &placed, 1, err);
}

/* ---- the rest of the state ------------------------------------------------------------------ */

int bp_image_lease(struct bp_image *image, const struct bp_lease_record *lease,
                   struct bp_error *err) {
    if (lease->id == 0 || bp_leases_exists(image->store->leases, lease->id)) {
        return bp_fail(err, BP_ALREADY_EXISTS, BP_REASON_LEASE_EXISTS, "a lease occurs twice");
    }
    int rc = bp_leases_grant(image->store->leases, lease->id, lease->ttl_ms, 0);
    return rc == 0 ? BP_OK : no_memory(err);
}

bool bp_image_has_lease(const struct bp_image *image, uint64_t lease) {
    return bp_leases_exists(image->store->leases, lease);
}

bool bp_image_request_id(struct bp_image *image, const struct bp_request_id_record *record) {
    struct bp_request_ids *table = image->store->request_ids;
    struct bp_slice id = bp_slice(record->id, record->id_size);
    if (bp_request_ids_find(table, id) != NULL) {
        return false;
    }
    struct bp_outcome outcome = {.revision = record->revision,
                                 .deleted = record->deleted,
                                 .lease = record->lease,
                                 .ttl_ms = record->ttl_ms,
                                 .succeeded = record->succeeded != 0};
    bp_request_ids_add(table, id, record->fingerprint, &outcome);
    return true;
}

/* ---- finishing ------------------------------------------------------------------------------ */

static uint64_t jumped(const struct bp_image *image, uint64_t revision) {
    uint64_t by_step = revision + REVISION_JUMP_MIN;
    uint64_t by_clock = bp_disk_real_ns(image->disk) / 1000000000u << 20;
    return by_step > by_clock ? by_step : by_clock;
}

/* An empty log whose HARDSTATE says that entry 1 of term 1 was voted for and committed. */
static int make_log(struct bp_store *store, struct bp_error *err) {
    struct bp_log_options options = {.segment_size = store->options.segment_size};
    memcpy(options.store_id, store->store_id, sizeof options.store_id);
    struct bp_log_start nothing = {0};
    struct bp_recovery recovery = {0};
    struct bp_hardstate hardstate = {.term = 1, .vote = store->member_id, .commit = 1};
    int code = bp_log_open(store->segments, &options, &nothing, &store->log, &recovery, err);
    bp_recovery_free(&recovery);
    code = code != BP_OK ? code : bp_log_append(store->log, NULL, 0, &hardstate, err);
    return code != BP_OK ? code : bp_log_sync(store->log, err);
}

static int make_checkpoint(struct bp_store *store, uint64_t revision, struct bp_error *err) {
    int code = bp_index_load_finish(store->index, revision, err);
    if (code != BP_OK) {
        return code;
    }
    store->applied_index = store->applied_term = 1;
    store->next_revision = revision + 1;
    store->compaction_revision = revision;
    store->applied_end = bp_log_end(store->log);
    store->applied_sequence = bp_log_sequence(store->log);
    atomic_store(&store->floor, revision);
    atomic_store(&store->revision, revision);
    pthread_mutex_lock(&store->keeper.mutex);
    code = bp_checkpoint_write(store, err);
    pthread_mutex_unlock(&store->keeper.mutex);
    return code;
}

int bp_image_finish(struct bp_image *image, uint64_t revision, uint32_t cluster_version,
                    struct bp_error *err) {
    struct bp_store *store = image->store;
    struct bp_store_identity identity = {0};
    memcpy(identity.store_id, store->store_id, sizeof identity.store_id);
    store->system.cluster_version = cluster_version;
    int code = end_segment(image, err);
    code = code != BP_OK ? code : make_log(store, err);
    code = code != BP_OK ? code : make_checkpoint(store, jumped(image, revision), err);
    code = code != BP_OK ? code : bp_store_identity_write(image->disk, store->dir, &identity, err);
    code = code != BP_OK ? code : remove_marker(image, err);
    image->finished = code == BP_OK;
    return code;
}

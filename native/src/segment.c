/*
 * Segment files (segment.h has the header's drawing): their headers, and the one way a segment
 * comes into being.
 *
 *   create .tmp -> allocate -> [content] -> header -> sync -> rename -> sync directory -> in the
 *   table
 *                                              |         |         |
 *                          nothing exists -----+   name may exist -+   durable
 *
 * Invariants
 *   - A file has its final name only with a synced header and size, so a damaged header under a
 *     final name is corruption.
 *   - For every format, now and later: magic in bytes 0..7, format version in 8..11, CRC32C of
 *     0..4091 in 4092..4095. That is how an older program tells a newer format from damage.
 */
#include "log_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"

#define HEADER_USED 92u /* bytes of the header block that say something */
#define CRC_AT (BP_SEGMENT_HEADER - 4u)
#define ERROR_PATH_MAX 120u /* bytes of a path shown in an error */

_Static_assert(BP_SEGMENT_HEADER % BP_SECTOR == 0, "frames begin on a sector");

static const uint8_t log_magic[8] = "BPLOG\0\0";
static const uint8_t set_magic[8] = "BPSET\0\0";

/* The persistence steps of either kind, for failpoints. */
struct steps {
    int create, allocate, write, sync, rename, dir_sync, unlink;
};

static const struct steps log_steps = {
    .create = BP_SITE_LOG_CREATE,
    .allocate = BP_SITE_LOG_ALLOCATE,
    .write = BP_SITE_LOG_HEADER_WRITE,
    .sync = BP_SITE_LOG_HEADER_SYNC,
    .rename = BP_SITE_LOG_RENAME,
    .dir_sync = BP_SITE_LOG_DIR_SYNC,
    .unlink = BP_SITE_LOG_UNLINK,
};
static const struct steps settled_steps = {
    .create = BP_SITE_SETTLED_CREATE,
    .allocate = BP_SITE_SETTLED_CREATE,
    .write = BP_SITE_SETTLED_WRITE,
    .sync = BP_SITE_SETTLED_SYNC,
    .rename = BP_SITE_SETTLED_RENAME,
    .dir_sync = BP_SITE_SETTLED_DIR_SYNC,
    .unlink = BP_SITE_SETTLED_UNLINK,
};

static const struct steps *steps_of(int kind) {
    return kind == BP_SEGMENT_LOG ? &log_steps : &settled_steps;
}

const char *bp_path_tail(const char *path) {
    size_t n = strlen(path);
    return n <= ERROR_PATH_MAX ? path : path + (n - ERROR_PATH_MAX);
}

/* ---- the header block ------------------------------------------------------------------------ */

void bp_segment_header_encode(const struct bp_segment_header *header,
                              uint8_t block[BP_SEGMENT_HEADER]) {
    assert(header->kind == BP_SEGMENT_LOG || header->kind == BP_SEGMENT_SETTLED);
    assert(header->id != 0 && header->salt != 0);
    memset(block, 0, BP_SEGMENT_HEADER);
    memcpy(block, header->kind == BP_SEGMENT_LOG ? log_magic : set_magic, 8);
    bp_put_u32(block + 8, BP_FORMAT_VERSION);
    bp_put_u32(block + 12, header->id);
    memcpy(block + 16, header->store_id, 16);
    bp_put_u64(block + 32, header->salt);
    bp_put_u64(block + 40, header->first_sequence);
    bp_put_u32(block + 48, header->previous_end.segment);
    bp_put_u32(block + 52, header->previous_end.offset);
    bp_put_u64(block + 56, header->previous_index);
    bp_put_u64(block + 64, header->hardstate.term);
    bp_put_u64(block + 72, header->hardstate.vote);
    bp_put_u64(block + 80, header->hardstate.commit);
    bp_put_u32(block + 88, header->size);
    bp_put_u32(block + CRC_AT, bp_crc32c(0, block, CRC_AT));
}

static bool all_zero(const uint8_t *bytes, uint32_t n) {
    uint8_t any = 0;
    for (uint32_t i = 0; i < n; i++) {
        any |= bytes[i];
    }
    return any == 0;
}

/* What the CRC cannot know: that the fields make sense together. */
static bool header_makes_sense(const struct bp_segment_header *header, const uint8_t *block) {
    if (header->id == 0 || header->salt == 0 ||
        !all_zero(block + HEADER_USED, CRC_AT - HEADER_USED)) {
        return false;
    }
    const struct bp_pos *before = &header->previous_end;
    if (header->kind == BP_SEGMENT_LOG && header->size < BP_SEGMENT_HEADER) {
        return false;
    }
    if (header->kind == BP_SEGMENT_SETTLED || before->segment == 0) {
        return true;
    }
    return before->segment < header->id && before->offset >= BP_SEGMENT_HEADER &&
           before->offset % 8 == 0;
}

int bp_segment_header_decode(const uint8_t block[BP_SEGMENT_HEADER], const char *path,
                             struct bp_segment_header *header, struct bp_error *err) {
    bool is_log = memcmp(block, log_magic, 8) == 0;
    if ((!is_log && memcmp(block, set_magic, 8) != 0) ||
        bp_get_u32(block + CRC_AT) != bp_crc32c(0, block, CRC_AT)) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%s: the segment header at offset 0 is damaged; run `bedplate fsck`",
                       bp_path_tail(path));
    }
    uint32_t format = bp_get_u32(block + 8);
    if (format > BP_FORMAT_VERSION) {
        return bp_fail(err, BP_FAILED_PRECONDITION, BP_REASON_FORMAT_UNSUPPORTED,
                       "%s: format %" PRIu32 " is newer than this program's format %u",
                       bp_path_tail(path), format, BP_FORMAT_VERSION);
    }
    *header = (struct bp_segment_header){
        .kind = is_log ? BP_SEGMENT_LOG : BP_SEGMENT_SETTLED,
        .format = format,
        .id = bp_get_u32(block + 12),
        .salt = bp_get_u64(block + 32),
        .first_sequence = bp_get_u64(block + 40),
        .previous_end = {.segment = bp_get_u32(block + 48), .offset = bp_get_u32(block + 52)},
        .previous_index = bp_get_u64(block + 56),
        .hardstate = {.term = bp_get_u64(block + 64),
                      .vote = bp_get_u64(block + 72),
                      .commit = bp_get_u64(block + 80)},
        .size = bp_get_u32(block + 88),
    };
    memcpy(header->store_id, block + 16, 16);
    if (format == 0 || !header_makes_sense(header, block)) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%s: the segment header at offset 0 holds impossible values; run "
                       "`bedplate fsck`",
                       bp_path_tail(path));
    }
    return BP_OK;
}

/* ---- making a segment ------------------------------------------------------------------------ */

int bp_segment_new_salt(struct bp_segments *segments, uint64_t *salt, struct bp_error *err) {
    for (int attempt = 0; attempt < 8; attempt++) {
        uint8_t bytes[8];
        int rc = bp_disk_random(bp_segments_disk(segments), bytes, sizeof bytes);
        if (rc < 0) {
            return bp_fail_io(err, rc, "cannot get random bytes for a segment's salt");
        }
        *salt = bp_get_u64(bytes);
        bool taken = *salt == 0;
        const struct bp_segment *segment = bp_segments_next(segments, 0);
        for (; segment != NULL; segment = bp_segments_next(segments, segment->header.id)) {
            taken |= segment->header.salt == *salt;
        }
        if (!taken) {
            return BP_OK;
        }
    }
    return bp_fail(err, BP_INTERNAL, BP_REASON_IO_FAILED,
                   "the system's random numbers repeat themselves");
}

void bp_segment_drop_tmp(struct bp_segments *segments, uint32_t id, int kind, int fd) {
    char path[BP_LOG_PATH];
    bp_segment_path(segments, id, kind, true, path, sizeof path);
    bp_disk_close(bp_segments_disk(segments), fd);
    (void)bp_disk_unlink(bp_segments_disk(segments), steps_of(kind)->unlink, path);
}

int bp_segment_make_tmp(struct bp_segments *segments, uint32_t id, int kind, uint32_t size, int *fd,
                        struct bp_error *err) {
    struct bp_disk *disk = bp_segments_disk(segments);
    const struct steps *steps = steps_of(kind);
    char path[BP_LOG_PATH];
    bp_segment_path(segments, id, kind, true, path, sizeof path);
    const int flags = BP_O_WRITE | BP_O_CREATE | BP_O_EXCL;
    int made = bp_disk_open(disk, steps->create, path, flags);
    if (made == -EEXIST) { /* left by a crash, and recovery could not unlink it */
        (void)bp_disk_unlink(disk, steps->unlink, path);
        made = bp_disk_open(disk, steps->create, path, flags);
    }
    if (made < 0) {
        return bp_fail_io(err, made, "cannot create %s", bp_path_tail(path));
    }
    int rc = bp_disk_allocate(disk, steps->allocate, made, size);
    if (rc < 0) {
        bp_segment_drop_tmp(segments, id, kind, made);
        return bp_fail_io(err, rc, "cannot allocate %" PRIu32 " bytes for %s", size,
                          bp_path_tail(path));
    }
    *fd = made;
    return BP_OK;
}

/* Header and sync: the file is complete, its name still .tmp. */
static int finish_tmp(struct bp_disk *disk, const struct steps *steps,
                      const struct bp_segment_header *header, int fd, const char *path, bool *fatal,
                      struct bp_error *err) {
    uint8_t block[BP_SEGMENT_HEADER];
    bp_segment_header_encode(header, block);
    int rc = bp_disk_write(disk, steps->write, fd, block, sizeof block, 0);
    if (rc < 0) {
        *fatal = rc == -EIO;
        return bp_fail_io(err, rc, "cannot write the header of %s", bp_path_tail(path));
    }
    rc = bp_disk_sync(disk, steps->sync, fd);
    if (rc < 0) {
        *fatal = true;
        return bp_fail_io(err, rc, "cannot sync %s", bp_path_tail(path));
    }
    return BP_OK;
}

/* *named: the file may carry its final name, whatever else happened. */
static int give_name(struct bp_segments *segments, const struct steps *steps, const char *tmp,
                     const char *path, bool *named, struct bp_error *err) {
    struct bp_disk *disk = bp_segments_disk(segments);
    int rc = bp_disk_rename(disk, steps->rename, tmp, path);
    if (rc < 0) {
        *named =
            rc != -ENOSPC && rc != -EDQUOT; /* a full directory renames nothing; else who knows */
        return bp_fail_io(err, rc, "cannot rename %s", bp_path_tail(tmp));
    }
    *named = true;
    rc = bp_disk_sync_dir(disk, steps->dir_sync, bp_segments_dir(segments));
    if (rc < 0) {
        return bp_fail_io(err, rc, "cannot sync the directory %s",
                          bp_path_tail(bp_segments_dir(segments)));
    }
    return BP_OK;
}

int bp_segment_publish(struct bp_segments *segments, const struct bp_segment_header *header, int fd,
                       uint32_t size, uint32_t used, struct bp_segment **out, bool *fatal,
                       struct bp_error *err) {
    struct bp_disk *disk = bp_segments_disk(segments);
    const struct steps *steps = steps_of(header->kind);
    char tmp[BP_LOG_PATH], path[BP_LOG_PATH];
    bp_segment_path(segments, header->id, header->kind, true, tmp, sizeof tmp);
    bp_segment_path(segments, header->id, header->kind, false, path, sizeof path);
    struct bp_segment_header complete = *header;
    complete.size = header->kind == BP_SEGMENT_LOG ? size : 0;
    bool named = false;
    *fatal = false;
    int rc = finish_tmp(disk, steps, &complete, fd, tmp, fatal, err);
    if (rc == BP_OK) {
        rc = give_name(segments, steps, tmp, path, &named, err);
        *fatal = rc != BP_OK && named;
    }
    if (rc == BP_OK) {
        struct bp_segment segment = {.header = complete, .fd = fd, .used = used, .size = size};
        rc = bp_segments_add(segments, &segment, out, err);
        *fatal = rc != BP_OK;
    }
    if (rc == BP_OK) {
        return BP_OK;
    }
    bp_disk_close(disk, fd);
    if (!named) {
        (void)bp_disk_unlink(disk, steps->unlink, tmp);
    } else if (header->kind == BP_SEGMENT_SETTLED) {
        (void)bp_disk_unlink(disk, steps->unlink,
                             path); /* nothing names it yet: discard it alone */
    }
    return rc;
}

int bp_segment_create(struct bp_segments *segments, const struct bp_segment_header *header,
                      uint32_t size, const void *extra, uint32_t extra_size,
                      struct bp_segment **out, struct bp_error *err) {
    assert(size >= BP_SEGMENT_HEADER && extra_size <= size - BP_SEGMENT_HEADER);
    int fd;
    int rc = bp_segment_make_tmp(segments, header->id, header->kind, size, &fd, err);
    if (rc != BP_OK) {
        return rc;
    }
    if (extra_size > 0) {
        rc = bp_disk_write(bp_segments_disk(segments), steps_of(header->kind)->write, fd, extra,
                           extra_size, BP_SEGMENT_HEADER);
        if (rc < 0) {
            bp_segment_drop_tmp(segments, header->id, header->kind, fd);
            return bp_fail_io(err, rc, "cannot write segment %08" PRIx32, header->id);
        }
    }
    bool fatal;
    return bp_segment_publish(segments, header, fd, size, BP_SEGMENT_HEADER + extra_size, out,
                              &fatal, err);
}

/* ---- opening and deleting -------------------------------------------------------------------- */

/* Read and check the header of an open file against what its name and its store say. */
static int read_header(struct bp_disk *disk, int fd, const char *path, uint32_t id, int kind,
                       const uint8_t store_id[16], struct bp_segment_header *header,
                       struct bp_error *err) {
    uint8_t block[BP_SEGMENT_HEADER];
    int rc = bp_disk_read(disk, BP_SITE_RECOVER_READ, fd, block, sizeof block, 0);
    if (rc == -ENODATA) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%s: shorter than its header of %u bytes; run `bedplate fsck`",
                       bp_path_tail(path), BP_SEGMENT_HEADER);
    }
    if (rc < 0) {
        return bp_fail_io(err, rc, "cannot read the header of %s", bp_path_tail(path));
    }
    rc = bp_segment_header_decode(block, path, header, err);
    if (rc != BP_OK) {
        return rc;
    }
    if (header->id != id || header->kind != kind) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%s: the header at offset 0 is that of another segment (%08" PRIx32
                       "); the file was renamed or copied",
                       bp_path_tail(path), header->id);
    }
    if (memcmp(header->store_id, store_id, 16) != 0) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%s: the header at offset 0 names another store; the file does not belong "
                       "in this directory",
                       bp_path_tail(path));
    }
    return BP_OK;
}

int bp_segment_open(struct bp_segments *segments, uint32_t id, int kind, const uint8_t store_id[16],
                    struct bp_segment **out, struct bp_error *err) {
    struct bp_disk *disk = bp_segments_disk(segments);
    char path[BP_LOG_PATH];
    bp_segment_path(segments, id, kind, false, path, sizeof path);
    if (bp_segments_find(segments, id) != NULL) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "%s: another segment has this number; a file was renamed or copied",
                       bp_path_tail(path));
    }
    /* Writable because recovery trims it; log and values are only ever read through it. */
    int fd = bp_disk_open(disk, BP_SITE_NONE, path, BP_O_WRITE);
    if (fd < 0) {
        return bp_fail_io(err, fd, "cannot open %s", bp_path_tail(path));
    }
    struct bp_segment segment = {.fd = fd, .sealed = true};
    uint64_t size = 0;
    int rc = read_header(disk, fd, path, id, kind, store_id, &segment.header, err);
    if (rc == BP_OK) {
        int got = bp_disk_size(disk, fd, &size);
        if (got < 0) {
            rc = bp_fail_io(err, got, "cannot get the size of %s", bp_path_tail(path));
        } else if (size > UINT32_MAX) {
            rc = bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                         "%s: %" PRIu64 " bytes are more than a segment can have",
                         bp_path_tail(path), size);
        }
    }
    if (rc == BP_OK) {
        segment.size = segment.used = (uint32_t)size;
        rc = bp_segments_add(segments, &segment, out, err);
    }
    if (rc != BP_OK) {
        bp_disk_close(disk, fd);
    }
    return rc;
}

int bp_segment_delete(struct bp_segments *segments, uint32_t id, struct bp_error *err) {
    const struct bp_segment *segment = bp_segments_find(segments, id);
    if (segment == NULL) {
        return bp_fail(err, BP_NOT_FOUND, BP_REASON_IO_FAILED, "segment %08" PRIx32 " is not known",
                       id);
    }
    char path[BP_LOG_PATH];
    bp_segment_path(segments, id, segment->header.kind, false, path, sizeof path);
    int rc =
        bp_disk_unlink(bp_segments_disk(segments), steps_of(segment->header.kind)->unlink, path);
    if (rc < 0 && rc != -ENOENT) {
        return bp_fail_io(err, rc, "cannot unlink %s", bp_path_tail(path));
    }
    bp_segments_remove(segments, id);
    return BP_OK;
}

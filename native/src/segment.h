/*
 * Segments: the files that hold values, the table that knows them, and their headers.
 *
 *   <dir>/%08x.log   log segment: header block, then frames (log.h). Preallocated, never reused.
 *   <dir>/%08x.set   settled segment: header block, then records the cleaner copied (settled.h).
 *   <dir>/NAME.tmp   a file that was being made; deleted by recovery.
 *
 * A segment gets its final name by rename only after its header and size are synced; the directory
 * is synced before any byte in it counts. So a named segment with a damaged header is corruption,
 * never a torn creation.
 *
 *   header block (4096 bytes, little-endian)
 *   0  magic[8] "BPLOG\0\0\0" | "BPSET\0\0\0"
 *   8  u32 format version     12 u32 segment id
 *   16 store id[16]           32 u64 salt (random; 8 bytes that no earlier file of this store used)
 *   40 u64 sequence of the first frame               (log only, as all below)
 *   48 u32 segment, 52 u32 offset: end of the log before it; bytes past that end are ignored,
 *   damage before it is corruption
 *   56 u64 index the log before it ends with (0 none)
 *   64 u64 hardstate term     72 u64 vote    80 u64 commit   (the newest when the segment was made)
 *   88 u32 size the file was made with
 *   92 zeros ...              4092 u32 CRC32C of bytes 0..4091
 *
 * The newest log segment still has the size it was made with; a shorter one lost its end to something
 * else than a crash, and with it perhaps acknowledged frames: corruption. Only recovery on a full disk
 * may cut the newest one, at zeros, and leaves a mark as the file's last bytes (log_trim.c).
 *
 * Segment ids grow by one for either kind and are never reused, so (segment, offset) names a byte
 * for ever.
 */
#ifndef BP_SEGMENT_H
#define BP_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "io.h"
#include "limits.h"

struct bp_pos {
    uint32_t segment; /* 0: nowhere */
    uint32_t offset;
};

static inline uint64_t bp_pos_u64(struct bp_pos at) {
    return (uint64_t)at.segment << 32 | at.offset;
}

struct bp_hardstate {
    uint64_t term;
    uint64_t vote;
    uint64_t commit;
};

enum bp_segment_kind { BP_SEGMENT_LOG = 1, BP_SEGMENT_SETTLED = 2 };

struct bp_segment_header {
    int kind;
    uint32_t format; /* of the file read; written files carry BP_FORMAT_VERSION */
    uint32_t id;
    uint8_t store_id[16];
    uint64_t salt;
    uint64_t first_sequence;
    struct bp_pos previous_end;
    uint64_t previous_index;
    struct bp_hardstate hardstate;
    uint32_t size; /* of the file when it was made (log only) */
};

void bp_segment_header_encode(const struct bp_segment_header *header,
                              uint8_t block[BP_SEGMENT_HEADER]);
/*
 * DATA_LOSS/STORE_CORRUPT naming `path`, or FAILED_PRECONDITION/FORMAT_UNSUPPORTED for a newer
 * format.
 */
int bp_segment_header_decode(const uint8_t block[BP_SEGMENT_HEADER], const char *path,
                             struct bp_segment_header *header, struct bp_error *err);

/*
 * One known segment. Fields are written by the driver/keeper side; readers use fd only inside a
 * read section (epoch.h).
 */
struct bp_segment {
    struct bp_segment_header header;
    int fd;
    uint32_t used;                    /* bytes from 0 that hold data; a log segment's end */
    uint32_t size;                    /* bytes on disk */
    _Atomic int64_t live_bytes;       /* value bytes some retained version points at */
    uint64_t first_index, last_index; /* of the entries in it; 0 none (log only) */
    uint64_t last_revision;           /* highest revision in it; 0 none */
    uint64_t value_bytes;             /* of all values in it, dead ones too (settled only) */
    bool sealed;                      /* no frame or record will be added */
    /* holds a value that failed its CRC: kept, reported, never cleaned away */
    bool damaged;
};

/*
 * What other threads may ask of a segment that the driver is still appending to. Its index and
 * revision fields are theirs to read once it is sealed.
 */
static inline bool bp_segment_sealed(const struct bp_segment *segment) {
    return __atomic_load_n(&segment->sealed, __ATOMIC_ACQUIRE);
}
static inline uint32_t bp_segment_used(const struct bp_segment *segment) {
    return __atomic_load_n(&segment->used, __ATOMIC_ACQUIRE);
}
static inline bool bp_segment_damaged(const struct bp_segment *segment) {
    return __atomic_load_n(&segment->damaged, __ATOMIC_RELAXED);
}

/*
 * All segments of a store by id. Look-up is lock-free; add and remove belong to one thread at a
 * time (the table's mutex).
 */
struct bp_segments;

struct bp_segments *bp_segments_new(struct bp_disk *disk, const char *dir);
struct bp_disk *bp_segments_disk(const struct bp_segments *segments);
const char *bp_segments_dir(const struct bp_segments *segments);
/* The cache of values read from these segments, or NULL; borrowed, set before any read. */
struct bp_value_cache;
void bp_segments_set_cache(struct bp_segments *segments, struct bp_value_cache *cache);
struct bp_value_cache *bp_segments_cache(const struct bp_segments *segments);
/* Where damaged values of these segments are noted (repair.h), or NULL; likewise. */
struct bp_damage;
void bp_segments_set_damage(struct bp_segments *segments, struct bp_damage *damage);
struct bp_damage *bp_segments_damage(const struct bp_segments *segments);
/* Closes every handle. */
void bp_segments_free(struct bp_segments *segments);
/*
 * NULL if unknown. The pointer stays valid while the segment is in the table, and until the end of
 * the caller's read section.
 */
struct bp_segment *bp_segments_find(const struct bp_segments *segments, uint32_t id);
int bp_segments_add(struct bp_segments *segments, const struct bp_segment *segment,
                    struct bp_segment **out, struct bp_error *err);
/* Takes it out of the table, closes the handle, frees it. The caller has waited for the readers. */
void bp_segments_remove(struct bp_segments *segments, uint32_t id);
/* Ascending by id; `from` exclusive; NULL at the end. Holds nothing between calls. */
struct bp_segment *bp_segments_next(const struct bp_segments *segments, uint32_t from);
uint32_t bp_segments_last_id(const struct bp_segments *segments);
/* A fresh id, above every id this store has used. */
uint32_t bp_segments_take_id(struct bp_segments *segments);
/* Never hand out ids <= id again (a checkpoint may name segments that are gone). */
void bp_segments_reserve_id(struct bp_segments *segments, uint32_t id);
/*
 * The path of segment `id` of `kind`, with ".tmp" appended if tmp. Always fits 4096 bytes or is
 * truncated deterministically.
 */
void bp_segment_path(const struct bp_segments *segments, uint32_t id, int kind, bool tmp,
                     char *path, size_t size);

/*
 * Make a segment durable under its final name: create tmp, allocate `size`, write the header (and
 * `extra` bytes behind it, may be NULL), sync, rename, sync the directory, add to the table. On
 * failure nothing is left but perhaps a .tmp.
 */
int bp_segment_create(struct bp_segments *segments, const struct bp_segment_header *header,
                      uint32_t size, const void *extra, uint32_t extra_size,
                      struct bp_segment **out, struct bp_error *err);
/*
 * Open an existing file by name, check its header against store id and name, add it (sealed; used =
 * its size).
 */
int bp_segment_open(struct bp_segments *segments, uint32_t id, int kind, const uint8_t store_id[16],
                    struct bp_segment **out, struct bp_error *err);
/* Unlink the file and remove it from the table. */
int bp_segment_delete(struct bp_segments *segments, uint32_t id, struct bp_error *err);

#endif

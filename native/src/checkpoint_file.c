/*
 * A checkpoint file as a row of blocks, and the two ways of checking one without loading it.
 *
 *   file     [block][block][block][block].............................[trailer]
 *                   |<------- window, at least 1 MiB ------->|
 *
 *   verify   every block, every record that is not a version, the order of sections, the totals
 *   peek     [HEADER][META] ...... [SEGMENTS]*[TRAILER]: a few reads, for the older of the two kept
 *
 * No length is believed before it is known to lie within the file; memory is bounded by the file's
 * size.
 */
#include "checkpoint.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "limits.h"

#define WINDOW (1u << 20)
#define SHOWN_PATH_MAX 120u
#define TRAILER_BLOCK (BP_CKPT_BLOCK_HEADER + BP_CKPT_TRAILER_SIZE)
#define SEGMENTS_MAX (1u << 24) /* of 64 MiB: a pebibyte */

static const char *shown(const char *path) {
    size_t n = strlen(path);
    return n <= SHOWN_PATH_MAX ? path : path + (n - SHOWN_PATH_MAX);
}

/* ---- names ----------------------------------------------------------------------------------- */

void bp_ckpt_path(const char *dir, uint64_t number, bool tmp, char path[BP_CKPT_PATH_MAX]) {
    (void)snprintf(path, BP_CKPT_PATH_MAX, "%s/%016" PRIx64 ".ckpt%s", dir, number,
                   tmp ? ".tmp" : "");
}

struct numbers {
    uint64_t *list;
    uint32_t n, capacity;
};

static bool parse_name(const char *name, uint64_t *number) {
    *number = 0;
    for (int i = 0; i < 16; i++) {
        char c = name[i];
        bool digit = c >= '0' && c <= '9', letter = c >= 'a' && c <= 'f';
        if (!digit && !letter) {
            return false;
        }
        *number = *number << 4 | (uint64_t)(digit ? c - '0' : c - 'a' + 10);
    }
    return strcmp(name + 16, ".ckpt") == 0;
}

static int each_name(void *arg, const char *name) {
    struct numbers *numbers = arg;
    uint64_t number;
    if (!parse_name(name, &number)) {
        return 0;
    }
    if (numbers->n == numbers->capacity) {
        uint32_t capacity = numbers->capacity == 0 ? 8 : numbers->capacity * 2;
        uint64_t *list = realloc(numbers->list, capacity * sizeof *list);
        if (list == NULL) {
            return -ENOMEM;
        }
        numbers->list = list;
        numbers->capacity = capacity;
    }
    numbers->list[numbers->n++] = number;
    return 0;
}

static int descending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x > y ? -1 : x < y;
}

int bp_ckpt_list(struct bp_disk *disk, const char *dir, uint64_t **list, uint32_t *n,
                 struct bp_error *err) {
    struct numbers numbers = {0};
    int rc = bp_disk_list(disk, dir, each_name, &numbers);
    if (rc < 0) {
        free(numbers.list);
        return bp_fail_io(err, rc, "cannot list %s", shown(dir));
    }
    if (numbers.n > 1) {
        qsort(numbers.list, numbers.n, sizeof *numbers.list, descending);
    }
    *list = numbers.list;
    *n = numbers.n;
    return BP_OK;
}

/* ---- reading blocks -------------------------------------------------------------------------- */

int bp_ckpt_file_corrupt(const struct bp_ckpt_file *file, uint64_t offset, const char *what,
                         struct bp_error *err) {
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                   "%s: %s at offset %" PRIu64 "; run `bedplate fsck`", shown(file->path), what,
                   offset);
}

static int no_memory(const struct bp_ckpt_file *file, struct bp_error *err) {
    return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY, "no memory to read %s",
                   shown(file->path));
}

int bp_ckpt_file_open(struct bp_ckpt_file *file, struct bp_disk *disk, const char *path, int site,
                      struct bp_error *err) {
    *file =
        (struct bp_ckpt_file){.disk = disk, .site = site, .path = path, .window_capacity = WINDOW};
    file->fd = bp_disk_open(disk, BP_SITE_NONE, path, BP_O_READ);
    if (file->fd < 0) {
        return bp_fail_io(err, file->fd, "cannot open %s", shown(path));
    }
    int rc = bp_disk_size(disk, file->fd, &file->size);
    file->window = malloc(file->window_capacity);
    int code = rc < 0 ? bp_fail_io(err, rc, "cannot get the size of %s", shown(path)) : BP_OK;
    code = code == BP_OK && file->window == NULL ? no_memory(file, err) : code;
    if (code != BP_OK) {
        bp_ckpt_file_close(file);
    }
    return code;
}

void bp_ckpt_file_close(struct bp_ckpt_file *file) {
    bp_disk_close(file->disk, file->fd);
    free(file->window);
    file->window = NULL;
}

static int grow_window(struct bp_ckpt_file *file, uint64_t want, struct bp_error *err) {
    if (want <= file->window_capacity) {
        return BP_OK;
    }
    free(file->window);
    file->window_filled = 0;
    file->window = malloc(want);
    file->window_capacity = file->window == NULL ? 0 : want;
    return file->window == NULL ? no_memory(file, err) : BP_OK;
}

/* `want` bytes at file->offset, which the caller knows to lie within the file. */
static int bytes_at(struct bp_ckpt_file *file, uint64_t want, const uint8_t **data,
                    struct bp_error *err) {
    assert(want <= file->size - file->offset);
    bool inside = file->offset >= file->window_at &&
                  file->offset + want <= file->window_at + file->window_filled;
    if (!inside) {
        int code = grow_window(file, want, err);
        if (code != BP_OK) {
            return code;
        }
        uint64_t left = file->size - file->offset;
        uint64_t n = left < file->window_capacity ? left : file->window_capacity;
        file->window_filled = 0;
        int rc = bp_disk_read(file->disk, file->site, file->fd, file->window, n, file->offset);
        if (rc < 0) {
            return bp_fail_io(err, rc, "cannot read %s at offset %" PRIu64, shown(file->path),
                              file->offset);
        }
        file->window_at = file->offset;
        file->window_filled = n;
    }
    *data = file->window + (file->offset - file->window_at);
    return BP_OK;
}

int bp_ckpt_file_next(struct bp_ckpt_file *file, struct bp_ckpt_block *block,
                      struct bp_error *err) {
    if (file->offset > file->size || file->size - file->offset < BP_CKPT_BLOCK_HEADER) {
        return bp_ckpt_file_corrupt(file, file->size, "ends without a trailer", err);
    }
    const uint8_t *data;
    int code = bytes_at(file, BP_CKPT_BLOCK_HEADER, &data, err);
    if (code != BP_OK) {
        return code;
    }
    uint64_t size = bp_ckpt_block_size(data);
    if (size > file->size - file->offset) {
        return bp_ckpt_file_corrupt(file, file->offset,
                                    "a block reaches beyond the end of the file", err);
    }
    code = bytes_at(file, size, &data, err);
    if (code != BP_OK) {
        return code;
    }
    if (bp_ckpt_block_decode(data, size, block, &size) != BP_OK ||
        (!file->jumped && block->number != file->number)) {
        return bp_ckpt_file_corrupt(file, file->offset, "a damaged block", err);
    }
    file->offset += size;
    file->number = block->number + 1;
    file->jumped = false;
    if (block->section != BP_CKPT_TRAILER) {
        uint8_t crc[4];
        bp_put_u32(crc, block->crc);
        file->chain = bp_crc32c(file->chain, crc, sizeof crc);
    }
    return BP_OK;
}

/* ---- summaries ------------------------------------------------------------------------------- */

void bp_ckpt_summary_free(struct bp_ckpt_summary *summary) {
    free(summary->segments);
    summary->segments = NULL;
    summary->n_segments = 0;
}

/* The offset of a block that was just read, for messages. */
static uint64_t block_at(const struct bp_ckpt_file *file, const struct bp_ckpt_block *block) {
    return file->offset - block->payload.size - BP_CKPT_BLOCK_HEADER;
}

static int read_header(struct bp_ckpt_file *file, struct bp_ckpt_summary *summary,
                       struct bp_error *err) {
    struct bp_ckpt_block block;
    uint32_t format = 0;
    int code = bp_ckpt_file_next(file, &block, err);
    if (code != BP_OK) {
        return code;
    }
    code = block.section == BP_CKPT_HEADER
               ? bp_ckpt_header_decode(block.payload, &summary->header, &format)
               : BP_DATA_LOSS;
    if (code == BP_FAILED_PRECONDITION) {
        return bp_fail(err, code, BP_REASON_FORMAT_UNSUPPORTED,
                       "%s: format %" PRIu32 " is newer than this program's format %u",
                       shown(file->path), format, BP_FORMAT_VERSION);
    }
    if (code != BP_OK) {
        return bp_ckpt_file_corrupt(file, 0, "not a checkpoint's header", err);
    }
    code = bp_ckpt_file_next(file, &block, err);
    if (code == BP_OK &&
        (block.section != BP_CKPT_META || !bp_ckpt_meta_decode(block.payload, &summary->meta))) {
        code = bp_ckpt_file_corrupt(file, block_at(file, &block), "impossible values", err);
    }
    return code;
}

static int add_segments(struct bp_ckpt_file *file, const struct bp_ckpt_block *block,
                        struct bp_ckpt_summary *summary, struct bp_error *err) {
    uint64_t more = block->payload.size / BP_CKPT_SEGMENT_SIZE;
    if (summary->n_segments + more > SEGMENTS_MAX) {
        return bp_ckpt_file_corrupt(file, block_at(file, block), "too many segments", err);
    }
    struct bp_ckpt_segment *list =
        realloc(summary->segments, (summary->n_segments + more + 1) * sizeof *list);
    if (list == NULL) {
        return no_memory(file, err);
    }
    summary->segments = list;
    struct bp_slice payload = block->payload;
    uint32_t last = summary->n_segments == 0 ? 0 : list[summary->n_segments - 1].id;
    int got;
    while ((got = bp_ckpt_segment_next(&payload, &list[summary->n_segments])) > 0) {
        if (list[summary->n_segments].id <= last) {
            got = -1;
            break;
        }
        last = list[summary->n_segments++].id;
    }
    return got == 0 ? BP_OK
                    : bp_ckpt_file_corrupt(file, block_at(file, block),
                                           "a malformed list of segments", err);
}

static int count_leases(struct bp_slice payload, uint64_t *count) {
    struct bp_lease_record lease;
    int got;
    while ((got = bp_ckpt_lease_next(&payload, &lease)) > 0) {
        (*count)++;
    }
    return got;
}

static int count_request_ids(struct bp_slice payload, uint64_t *count) {
    struct bp_request_id_record record;
    int got;
    while ((got = bp_ckpt_request_id_next(&payload, &record)) > 0) {
        (*count)++;
    }
    return got;
}

/* One block between META and the trailer. */
static int check_block(struct bp_ckpt_file *file, const struct bp_ckpt_block *block,
                       struct bp_ckpt_summary *summary, struct bp_ckpt_totals *counted,
                       struct bp_error *err) {
    int got = 0;
    switch (block->section) {
    case BP_CKPT_LEASES:
        got = count_leases(block->payload, &counted->leases);
        break;
    case BP_CKPT_REQUEST_IDS:
        got = count_request_ids(block->payload, &counted->request_ids);
        break;
    case BP_CKPT_VERSIONS:
        break;
    case BP_CKPT_SEGMENTS:
        counted->segments_at =
            counted->segments_at == 0 ? block_at(file, block) : counted->segments_at;
        return add_segments(file, block, summary, err);
    default:
        got = -1;
        break;
    }
    return got == 0 ? BP_OK
                    : bp_ckpt_file_corrupt(file, block_at(file, block), "a malformed record", err);
}

static bool totals_agree(const struct bp_ckpt_file *file, const struct bp_ckpt_summary *summary,
                         const struct bp_ckpt_totals *counted) {
    const struct bp_ckpt_totals *totals = &summary->totals;
    return totals->leases == counted->leases && totals->request_ids == counted->request_ids &&
           totals->segments == summary->n_segments && totals->segments_at == counted->segments_at &&
           totals->blocks + 1 == file->number && totals->chain == file->chain &&
           totals->file_size == file->offset && file->offset == file->size;
}

static int verify_blocks(struct bp_ckpt_file *file, struct bp_ckpt_summary *summary,
                         struct bp_error *err) {
    struct bp_ckpt_totals counted = {0};
    uint32_t section = BP_CKPT_META;
    int code = read_header(file, summary, err);
    while (code == BP_OK) {
        struct bp_ckpt_block block;
        code = bp_ckpt_file_next(file, &block, err);
        if (code != BP_OK) {
            break;
        }
        if (block.section < section) {
            return bp_ckpt_file_corrupt(file, block_at(file, &block), "a block out of order", err);
        }
        section = block.section;
        if (section == BP_CKPT_TRAILER) {
            bool good = bp_ckpt_trailer_decode(block.payload, &summary->totals) &&
                        totals_agree(file, summary, &counted);
            return good ? BP_OK
                        : bp_ckpt_file_corrupt(file, block_at(file, &block),
                                               "a trailer that does not fit", err);
        }
        code = check_block(file, &block, summary, &counted, err);
    }
    return code;
}

int bp_ckpt_verify(struct bp_disk *disk, const char *path, int site,
                   struct bp_ckpt_summary *summary, struct bp_error *err) {
    struct bp_ckpt_file file;
    *summary = (struct bp_ckpt_summary){0};
    int code = bp_ckpt_file_open(&file, disk, path, site, err);
    if (code != BP_OK) {
        return code;
    }
    code = verify_blocks(&file, summary, err);
    bp_ckpt_file_close(&file);
    if (code != BP_OK) {
        bp_ckpt_summary_free(summary);
    }
    return code;
}

static void jump(struct bp_ckpt_file *file, uint64_t offset) {
    file->offset = offset;
    file->jumped = true;
}

static int peek_trailer(struct bp_ckpt_file *file, struct bp_ckpt_totals *totals,
                        struct bp_error *err) {
    if (file->size < file->offset + TRAILER_BLOCK) {
        return bp_ckpt_file_corrupt(file, file->size, "ends without a trailer", err);
    }
    struct bp_ckpt_block block;
    jump(file, file->size - TRAILER_BLOCK);
    int code = bp_ckpt_file_next(file, &block, err);
    if (code != BP_OK) {
        return code;
    }
    bool good = block.section == BP_CKPT_TRAILER && bp_ckpt_trailer_decode(block.payload, totals) &&
                totals->file_size == file->size && totals->blocks == block.number &&
                totals->segments_at <= file->size - TRAILER_BLOCK;
    return good ? BP_OK
                : bp_ckpt_file_corrupt(file, file->size - TRAILER_BLOCK,
                                       "a trailer that does not fit", err);
}

static int peek_blocks(struct bp_ckpt_file *file, struct bp_ckpt_summary *summary,
                       struct bp_error *err) {
    int code = read_header(file, summary, err);
    code = code == BP_OK ? peek_trailer(file, &summary->totals, err) : code;
    jump(file, summary->totals.segments_at);
    while (code == BP_OK && summary->n_segments < summary->totals.segments) {
        struct bp_ckpt_block block;
        code = bp_ckpt_file_next(file, &block, err);
        if (code == BP_OK && block.section != BP_CKPT_SEGMENTS) {
            code =
                bp_ckpt_file_corrupt(file, block_at(file, &block), "not a list of segments", err);
        }
        code = code == BP_OK ? add_segments(file, &block, summary, err) : code;
    }
    if (code == BP_OK && summary->n_segments != summary->totals.segments) {
        code = bp_ckpt_file_corrupt(file, file->offset,
                                    "a list of segments that does not fit the trailer", err);
    }
    return code;
}

int bp_ckpt_peek(struct bp_disk *disk, const char *path, int site, struct bp_ckpt_summary *summary,
                 struct bp_error *err) {
    struct bp_ckpt_file file;
    *summary = (struct bp_ckpt_summary){0};
    int code = bp_ckpt_file_open(&file, disk, path, site, err);
    if (code != BP_OK) {
        return code;
    }
    code = peek_blocks(&file, summary, err);
    bp_ckpt_file_close(&file);
    if (code != BP_OK) {
        bp_ckpt_summary_free(summary);
    }
    return code;
}

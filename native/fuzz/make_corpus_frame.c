/*
 * Writes the seed corpus of fuzz_frame: a real segment's header and frames, made by the log itself
 * on a simulated disk.
 *
 *   make_corpus_frame DIRECTORY        the files are the same at every run
 */
#include <stdio.h>
#include <string.h>

#include "../tests/log_rig.h"

static void write_seed(const char *dir, const char *name, uint8_t mode, const uint8_t *bytes,
                       size_t size) {
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fputc(mode, file) == mode && fwrite(bytes, 1, size, file) == size);
    CHECK(fclose(file) == 0);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: make_corpus_frame DIRECTORY\n");
        return 2;
    }
    struct rig rig;
    rig_init(&rig, 1);
    CHECK_OK(rig_open(&rig), &rig.err);
    struct bp_hardstate hardstate = {.term = 1, .vote = 1, .commit = 0};
    CHECK_OK(bp_log_append(rig.log, NULL, 0, &hardstate, &rig.err), &rig.err);
    rig_append_to(&rig, 3);
    rig_sync(&rig);
    CHECK_OK(bp_log_mark(rig.log, &rig.err), &rig.err);
    const struct bp_segment *segment = bp_segments_find(rig.segments, rig_newest(&rig));
    uint8_t bytes[BP_SEGMENT_HEADER + 1024];
    CHECK(segment->used <= sizeof bytes);
    CHECK(bp_disk_read(rig.disk, BP_SITE_LOG_READ, segment->fd, bytes, segment->used, 0) == 0);
    size_t n = segment->used - BP_SEGMENT_HEADER;
    const uint8_t *frames = bytes + BP_SEGMENT_HEADER;
    write_seed(argv[1], "header", 0, bytes, BP_SEGMENT_HEADER);
    write_seed(argv[1], "header_fixed", 1, bytes, 96);
    write_seed(argv[1], "frames", 2, frames, n);
    write_seed(argv[1], "frame_fixed", 3, frames + 64, n - 64);
    write_seed(argv[1], "hardstate_body", 4, frames + 32, 32);
    write_seed(argv[1], "entry_body", 4, frames + 64 + 32, bp_get_u32(frames + 64 + 16));
    rig_free(&rig);
    return 0;
}

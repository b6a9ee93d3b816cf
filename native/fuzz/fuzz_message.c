/*
 * Messages of entries: any bytes under a right checksum. What is decoded lies within the message and
 * encodes to the bytes it came from.
 */
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "log_internal.h"
#include "raft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct walk {
    const uint8_t *begin, *end;
    uint32_t n;
};

static int each(void *arg, const struct bp_entry *entry) {
    struct walk *walk = arg;
    uint8_t header[BP_ENTRY_HEADER];
    if (entry->payload < walk->begin + BP_MESSAGE_HEAD + BP_ENTRY_HEADER ||
        entry->payload > walk->end || (size_t)(walk->end - entry->payload) < entry->size) {
        abort();
    }
    (void)bp_frame_put_entry(header, entry);
    if (memcmp(header, entry->payload - BP_ENTRY_HEADER, sizeof header) != 0) {
        abort();
    }
    walk->n++;
    return BP_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t body = size & ~(size_t)7;
    uint8_t *bytes = malloc(body + 4);
    if (bytes == NULL) {
        return 0;
    }
    memcpy(bytes, data, body);
    bp_put_u32(bytes + body, bp_crc32c(0, bytes, body));
    struct walk walk = {.begin = bytes, .end = bytes + body};
    struct bp_error err;
    if (bp_message_decode(bytes, body + 4, each, &walk, &err) == BP_OK &&
        walk.n != bp_get_u32(bytes)) {
        abort();
    }
    free(bytes);
    return 0;
}

/*
 * Fuzz target: what restore reads from a file that may hold anything.
 *
 *   input   [u8 mode][bytes]
 *     mode 0   HEADER payload      mode 1   KEYS payload, records as they are
 *     mode 2   KEYS payload, the checksum of the first value made right     mode 3
 *         TRAILER payload
 *
 * Whatever is accepted lies inside what was given and says the same when it is encoded again.
 */
#include <stdlib.h>
#include <string.h>

#include "../src/backup.h"
#include "../src/ops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void header(struct bp_slice payload) {
    struct bp_backup_header header, again;
    uint32_t format;
    if (bp_backup_header_decode(payload, &header, &format) != BP_OK) {
        return;
    }
    struct bp_buffer out = {0};
    bp_backup_header_encode(&header, &out);
    REQUIRE(bp_backup_header_decode(bp_slice(out.data, out.size), &again, &format) == BP_OK);
    REQUIRE(again.revision == header.revision && out.size == payload.size);
    bp_buffer_free(&out);
}

static void keys(struct bp_slice payload) {
    struct bp_slice before = payload;
    struct bp_backup_key key;
    while (bp_backup_key_next(&payload, &key) > 0) {
        REQUIRE(payload.size < before.size &&
                key.value.data + key.value.size <= before.data + before.size);
        struct bp_buffer out = {0};
        uint8_t *value = bp_backup_key_encode(key.key, &key.version, &out);
        REQUIRE(value != NULL && out.size == before.size - payload.size);
        memcpy(value, key.value.data, key.value.size);
        REQUIRE(memcmp(out.data, before.data, out.size) == 0);
        bp_buffer_free(&out);
        before = payload;
    }
}

static void fixed_keys(struct bp_slice payload) {
    uint8_t *copy = malloc(payload.size + 1);
    REQUIRE(copy != NULL);
    memcpy(copy, payload.data, payload.size);
    if (payload.size >= BP_BACKUP_KEY_SIZE) {
        uint64_t key_size = bp_get_u16(copy + 36), value_size = bp_get_u32(copy + 28);
        if (value_size <= BP_VALUE_MAX &&
            BP_BACKUP_KEY_SIZE + key_size + value_size <= payload.size) {
            bp_put_u32(copy + 32,
                       bp_value_checksum(bp_slice(copy + BP_BACKUP_KEY_SIZE + key_size, value_size),
                                         NULL));
        }
    }
    keys(bp_slice(copy, payload.size));
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    struct bp_slice payload = bp_slice(data + 1, size - 1);
    struct bp_backup_totals totals;
    switch (data[0] % 4) {
    case 0:
        header(payload);
        break;
    case 1:
        keys(payload);
        break;
    case 2:
        fixed_keys(payload);
        break;
    default:
        (void)bp_backup_trailer_decode(payload, &totals);
        break;
    }
    return 0;
}

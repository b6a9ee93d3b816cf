/*
 * Entries as bytes between members (the layout is drawn in raft.h): records as the log has them,
 * under a checksum of their own.
 *
 *   table --bp_raft_message--> bytes in one buffer --the caller--> bytes --bp_raft_receive--> table
 *
 * Invariants
 *   - What is decoded was checked whole before its first entry is looked at.
 *   - A payload read back from the log passes the checksum that was taken when it was in memory;
 *     else there is no message.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "log_internal.h"
#include "raft.h"

/* ---- decoding -------------------------------------------------------------------------------- */

static int malformed(struct bp_error *err) {
    return bp_fail(err, BP_DATA_LOSS, BP_REASON_MALFORMED_REQUEST,
                   "a message of entries is damaged");
}

int bp_message_decode(const uint8_t *bytes, uint64_t size,
                      int (*each)(void *arg, const struct bp_entry *entry), void *arg,
                      struct bp_error *err) {
    if (size < BP_MESSAGE_HEAD + 4 || (size - 4) % 8 != 0 || size > UINT32_MAX ||
        bp_crc32c(0, bytes, size - 4) != bp_get_u32(bytes + size - 4) ||
        bp_get_u32(bytes + 4) != 0) {
        return malformed(err);
    }
    struct bp_frame frame = {.body = bytes + BP_MESSAGE_HEAD,
                             .body_size = (uint32_t)(size - 4 - BP_MESSAGE_HEAD)};
    uint32_t at = 0, n = 0;
    struct bp_entry entry;
    struct bp_hardstate hardstate;
    int record, code = BP_OK;
    while (code == BP_OK && (record = bp_frame_next_record(&frame, &at, &entry, &hardstate)) != 0) {
        if (record != 1) {
            return malformed(err);
        }
        entry.at = (struct bp_pos){0};
        n++;
        code = each(arg, &entry);
    }
    return code == BP_OK && n != bp_get_u32(bytes) ? malformed(err) : code;
}

/* ---- encoding -------------------------------------------------------------------------------- */

struct pick {
    struct bp_entry entry;
    struct bp_blob *blob; /* held; NULL: in the log alone */
    uint32_t crc;
};

/* The entries' descriptors and bytes, as they are now. False: not all of them are served. */
static bool pick_entries(struct bp_raft *raft, uint64_t first, uint64_t n, struct pick *picks) {
    pthread_mutex_lock(&raft->mutex);
    bool served = bp_table_slot(&raft->table, first) != NULL &&
                  bp_table_slot(&raft->table, first + n - 1) != NULL;
    for (uint64_t i = 0; served && i < n; i++) {
        const struct bp_slot *slot = bp_table_slot(&raft->table, first + i);
        bp_slot_entry(slot, first + i, &picks[i].entry);
        picks[i].blob = bp_blob_hold(slot->blob);
        picks[i].crc = slot->crc;
    }
    pthread_mutex_unlock(&raft->mutex);
    return served;
}

/* From the log, where a segment that holds a served entry stays. */
static int read_payload(struct bp_store *store, const struct pick *pick, uint8_t *out,
                        struct bp_error *err) {
    const struct bp_entry *entry = &pick->entry;
    uint32_t token = bp_epoch_enter(&store->epoch);
    const struct bp_segment *segment = bp_segments_find(store->segments, entry->at.segment);
    int rc = segment == NULL ? 0
                             : bp_disk_read(store->disk, BP_SITE_LOG_READ, segment->fd, out,
                                            entry->size, entry->at.offset);
    bp_epoch_leave(&store->epoch, token);
    if (rc < 0) {
        return bp_fail_io(err, rc, "cannot read entry %" PRIu64, entry->index);
    }
    if (segment == NULL || bp_crc32c(0, out, entry->size) != pick->crc) {
        return bp_fail(err, BP_DATA_LOSS, BP_REASON_STORE_CORRUPT,
                       "entry %" PRIu64 " is damaged in %08" PRIx32 ".log at offset %" PRIu32,
                       entry->index, entry->at.segment, entry->at.offset);
    }
    return BP_OK;
}

static int put_entries(struct bp_store *store, const struct pick *picks, uint64_t n, uint8_t *out,
                       struct bp_error *err) {
    uint8_t *p = out;
    bp_put_u32(p, (uint32_t)n);
    bp_put_u32(p + 4, 0);
    p += BP_MESSAGE_HEAD;
    int code = BP_OK;
    for (uint64_t i = 0; i < n && code == BP_OK; i++) {
        const struct bp_entry *entry = &picks[i].entry;
        p += bp_frame_put_entry(p, entry);
        size_t padded = bp_align8(entry->size);
        memset(p + entry->size, 0, padded - entry->size);
        if (picks[i].blob != NULL) {
            memcpy(p, entry->payload, entry->size);
        } else if (entry->size > 0) {
            code = read_payload(store, &picks[i], p, err);
        }
        p += padded;
    }
    bp_put_u32(p, bp_crc32c(0, out, (size_t)(p - out)));
    return code;
}

static int encode(struct bp_store *store, const struct pick *picks, uint64_t n,
                  struct bp_reply *out, struct bp_error *err) {
    uint64_t size = BP_MESSAGE_HEAD + 4;
    for (uint64_t i = 0; i < n; i++) {
        size += bp_entry_bytes(picks[i].entry.size);
    }
    uint8_t *bytes = malloc(size);
    if (bytes == NULL) {
        return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                       "no memory for a message");
    }
    int code = put_entries(store, picks, n, bytes, err);
    if (code != BP_OK) {
        free(bytes);
        return code;
    }
    *out = (struct bp_reply){.data = bytes, .size = size};
    return BP_OK;
}

int bp_raft_message(struct bp_store *store, uint64_t first, uint64_t last, struct bp_reply *out,
                    struct bp_error *err) {
    *out = (struct bp_reply){0};
    uint64_t n = last - first + 1;
    struct pick *picks = first <= last && n < UINT32_MAX ? calloc(n, sizeof *picks) : NULL;
    if (picks == NULL || !pick_entries(bp_raft_of(store), first, n, picks)) {
        free(picks);
        return bp_fail(err, BP_OUT_OF_RANGE, BP_REASON_NONE,
                       "entries %" PRIu64 " to %" PRIu64 " are not served", first, last);
    }
    int code = encode(store, picks, n, out, err);
    for (uint64_t i = 0; i < n; i++) {
        bp_blob_drop(picks[i].blob);
    }
    free(picks);
    return code;
}

void bp_raft_reach(struct bp_store *store, uint64_t first, uint64_t last, uint64_t bytes_max,
                   uint64_t *reached, uint64_t *bytes) {
    struct bp_raft *raft = bp_raft_of(store);
    *reached = first - 1;
    *bytes = 0;
    pthread_mutex_lock(&raft->mutex);
    for (uint64_t i = first; i <= last; i++) {
        const struct bp_slot *slot = bp_table_slot(&raft->table, i);
        uint64_t size = slot != NULL ? bp_entry_bytes(slot->size) : 0;
        if (slot == NULL || (i > first && *bytes + size > bytes_max)) {
            break;
        }
        *reached = i;
        *bytes += size;
    }
    pthread_mutex_unlock(&raft->mutex);
}

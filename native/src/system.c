/* CONFIG and JUMP payloads; the layout is drawn in system.h. */
#include "system.h"

#include <assert.h>
#include <string.h>

uint32_t bp_system_encode(const struct bp_system *system, int cause,
                          uint8_t out[BP_CONFIG_SIZE_MAX]) {
    uint32_t members = (uint32_t)system->voters + system->learners;
    assert(members <= BP_MEMBERS_MAX);
    memset(out, 0, BP_CONFIG_SIZE_MAX);
    out[0] = 1;
    out[1] = (uint8_t)cause;
    bp_put_u16(out + 2, system->voters);
    bp_put_u16(out + 4, system->learners);
    memcpy(out + 8, system->cluster_id, 16);
    bp_put_u32(out + 24, system->cluster_version);
    bp_put_u32(out + 28, system->request_ids_max);
    for (uint32_t i = 0; i < members; i++) {
        bp_put_u64(out + 32 + 8 * i, system->members[i]);
    }
    return 32 + 8 * members;
}

bool bp_system_decode(const uint8_t *payload, uint32_t size, struct bp_system *system, int *cause) {
    memset(system, 0, sizeof *system);
    if (size < 32 || payload[0] != 1 || payload[1] < BP_CAUSE_BOOTSTRAP ||
        payload[1] > BP_CAUSE_UNCLEAN_START) {
        return false;
    }
    system->voters = bp_get_u16(payload + 2);
    system->learners = bp_get_u16(payload + 4);
    uint32_t members = (uint32_t)system->voters + system->learners;
    if (members > BP_MEMBERS_MAX || size != 32 + 8 * members || system->voters == 0 ||
        bp_get_u16(payload + 6) != 0) {
        return false;
    }
    *cause = payload[1];
    memcpy(system->cluster_id, payload + 8, 16);
    system->cluster_version = bp_get_u32(payload + 24);
    system->request_ids_max = bp_get_u32(payload + 28);
    if (system->request_ids_max == 0 || system->request_ids_max > BP_REQUEST_IDS_LIMIT) {
        return false;
    }
    for (uint32_t i = 0; i < members; i++) {
        system->members[i] = bp_get_u64(payload + 32 + 8 * i);
    }
    return true;
}

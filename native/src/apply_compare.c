/*
 * Compares: whether a request takes its then or its else branch.
 *
 *   compare   target (value, mod, create, version, lease) of a key   = != > <   operand
 *   all of them hold -> then; the first that does not -> else
 *
 * A key that does not exist counts as all zeros; it has no value, so a compare on it is false. A
 * stored value is read only where its size and checksum do not decide. What they say is determined
 * by the log alone: a damaged value decides nothing, and the member stops. So that no client can
 * bring that about, the values are read once before the request may enter the log.
 */
#include "apply_compare.h"

#include <stdlib.h>
#include <string.h>

#include "repair.h"
#include "value.h"

static bool holds(uint8_t operator, int order) {
    switch (operator) {
    case BP_EQUAL:
        return order == 0;
    case BP_NOT_EQUAL:
        return order != 0;
    case BP_GREATER:
        return order > 0;
    default:
        return order < 0;
    }
}

static int order_u64(uint64_t a, uint64_t b) { return a < b ? -1 : a > b; }

/* Equality is settled by size and CRC when they differ; only equal ones, and orders, are read. */
static bool is_settled(const struct bp_compare *compare, const struct bp_version *version) {
    bool equality = compare->operator == BP_EQUAL || compare->operator == BP_NOT_EQUAL;
    return equality &&
           (version->value.size != compare->value.size || version->value.crc != compare->value_crc);
}

static int read_value(struct bp_store *store, const struct bp_version *version, uint8_t *out,
                      struct bp_error *err) {
    uint32_t token = bp_epoch_enter(&store->epoch);
    int code = bp_value_read(store->segments, &version->value, 0, version->value.size, out, err);
    bp_epoch_leave(&store->epoch, token);
    return code;
}

/* Stored value against the compare's. A missing key has none: every compare on it is false. */
static int compare_value(struct bp_store *store, const struct bp_compare *compare,
                         const struct bp_version *version, bool exists, bool *result,
                         struct bp_error *err) {
    *result = false;
    if (!exists) {
        return BP_OK;
    }
    if (is_settled(compare, version)) {
        *result = compare->operator == BP_NOT_EQUAL;
        return BP_OK;
    }
    int code = read_value(store, version, store->apply_scratch, err);
    if (code == BP_OK) {
        struct bp_slice stored = {.data = store->apply_scratch, .size = version->value.size};
        *result = holds(compare->operator, bp_slice_compare(stored, compare->value));
    } else {
        bp_damage_note(store->segments, compare->key, version, err);
    }
    return code;
}

static int evaluate(struct bp_store *store, const struct bp_compare *compare, bool *result,
                    struct bp_error *err) {
    struct bp_version version = {0};
    bool exists = bp_index_newest(store->index, compare->key, &version);
    if (!exists) {
        memset(&version, 0, sizeof version);
    }
    uint64_t actual = 0;
    switch (compare->target) {
    case BP_TARGET_VALUE:
        return compare_value(store, compare, &version, exists, result, err);
    case BP_TARGET_MOD:
        actual = version.revision;
        break;
    case BP_TARGET_CREATE:
        actual = version.create_revision;
        break;
    case BP_TARGET_VERSION:
        actual = version.version;
        break;
    default:
        actual = version.lease;
        break;
    }
    *result = holds(compare->operator, order_u64(actual, compare->operand));
    return BP_OK;
}

int bp_apply_compares(struct bp_store *store, const struct bp_request *request, bool *result,
                      struct bp_error *err) {
    uint32_t at = request->compares_at;
    *result = true;
    for (uint32_t i = 0; i < request->n_compares && *result; i++) {
        struct bp_compare compare;
        bp_request_compare(request, &at, &compare);
        int code = evaluate(store, &compare, result, err);
        if (code != BP_OK) {
            return code;
        }
    }
    return BP_OK;
}

int bp_check_compared(struct bp_store *store, const struct bp_request *request,
                      struct bp_error *err) {
    uint32_t at = request->compares_at;
    uint64_t revision = atomic_load_explicit(&store->revision, memory_order_acquire);
    int code = BP_OK;
    for (uint32_t i = 0; i < request->n_compares && code == BP_OK; i++) {
        struct bp_compare compare;
        struct bp_version version;
        bp_request_compare(request, &at, &compare);
        if (compare.target != BP_TARGET_VALUE ||
            !bp_index_get(store->index, compare.key, revision, &version) ||
            is_settled(&compare, &version)) {
            continue;
        }
        uint8_t *value = malloc(version.value.size + 1u);
        if (value == NULL) {
            return bp_fail(err, BP_RESOURCE_EXHAUSTED, BP_REASON_OUT_OF_MEMORY,
                           "no memory to look at a compared value");
        }
        code = read_value(store, &version, value, err);
        free(value);
    }
    return code;
}

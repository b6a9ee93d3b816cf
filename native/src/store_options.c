/*
 * Options: defaults, what is possible, and the limits of requests that follow from them.
 *
 *   options --fill--> defaults instead of zeros --check--> within what formats and memory allow
 *                        |
 *                        +--> limits          of clients, as configured
 *                             format_limits   of our own layers: what the formats allow
 */
#include <string.h>

#include "store_open.h"

static void default_u32(uint32_t *value, uint32_t otherwise) {
    if (*value == 0) {
        *value = otherwise;
    }
}

static void default_u64(uint64_t *value, uint64_t otherwise) {
    if (*value == 0) {
        *value = otherwise;
    }
}

void bp_options_fill(struct bp_options *options) {
    default_u32(&options->segment_size, BP_SEGMENT_SIZE);
    default_u32(&options->readers, 2);
    default_u64(&options->value_cache_bytes, 64ull << 20);
    default_u64(&options->history_ms_max, 300000);
    default_u64(&options->history_versions_max, 2000000);
    default_u64(&options->history_bytes_max, 1ull << 30);
    default_u64(&options->request_ids_max, BP_REQUEST_IDS_DEFAULT);
    default_u64(&options->leases_max, 1000000);
    default_u32(&options->watches_max, 10000);
    default_u64(&options->watch_lag_max, 1000000);
    default_u32(&options->queue_max, 65536);
    default_u64(&options->queue_bytes_max, 256ull << 20);
    default_u64(&options->checkpoint_bytes, 256ull << 20);
    default_u32(&options->clean_live_percent, 50);
    default_u32(&options->key_max, BP_KEY_MAX);
    default_u32(&options->value_max, BP_VALUE_MAX);
    default_u32(&options->request_max, 2u << 20);
    default_u32(&options->txn_ops_max, 1024);
    default_u32(&options->batch_ops_max, 10000);
    default_u32(&options->scan_page_max, 10000);
    default_u32(&options->reply_bytes_max, 4u << 20);
    default_u64(&options->lease_ttl_min_ms, 1000);
    default_u64(&options->lease_ttl_max_ms, 366ull * 86400 * 1000);
    default_u64(&options->raft_cache_bytes, 64ull << 20);
}

static int at_most(const char *name, uint64_t value, uint64_t max, struct bp_error *err) {
    return value <= max ? BP_OK
                        : bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, name,
                                        "%s is %llu, at most %llu is possible", name,
                                        (unsigned long long)value, (unsigned long long)max);
}

/* Who we are, and for a founder among whom. */
static int check_cluster(const struct bp_options *options, struct bp_error *err) {
    bool founds = options->n_members > 0, names_us = !founds;
    int code = at_most("n_members", options->n_members, BP_MEMBERS_MAX, err);
    for (uint32_t i = 0; code == BP_OK && i < options->n_members; i++) {
        names_us = names_us || options->members[i] == options->member_id;
    }
    if (code == BP_OK && (founds || options->joining != 0) &&
        (options->member_id == 0 || !names_us || (founds && options->joining != 0))) {
        code = bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "member_id",
                             "who founds a cluster is one of its members, who joins one founds "
                             "none, and either has an id");
    }
    if (code == BP_OK && options->interval_ms != 0 &&
        (options->clustered != 0 || options->joining != 0 || options->n_members > 1)) {
        code = bp_fail_field(err, BP_FAILED_PRECONDITION, BP_REASON_FIELD_INVALID, "interval_ms",
                             "durability by interval is for a single member alone");
    }
    return code;
}

int bp_options_check(const struct bp_options *options, struct bp_error *err) {
    int code = BP_OK;
    if (options->dir == NULL || options->dir[0] == 0 || strlen(options->dir) > BP_PATH_MAX - 128) {
        code = bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "dir",
                             "dir must be a path of at most %u bytes", BP_PATH_MAX - 128);
    } else if (options->segment_size < BP_SEGMENT_SIZE_MIN ||
               options->segment_size % BP_SEGMENT_HEADER != 0) {
        code = bp_fail_field(err, BP_INVALID_ARGUMENT, BP_REASON_FIELD_INVALID, "segment_size",
                             "segment_size must be a multiple of %u and at least %u",
                             BP_SEGMENT_HEADER, BP_SEGMENT_SIZE_MIN);
    }
    code = code != BP_OK ? code : at_most("segment_size", options->segment_size, 1u << 30, err);
    code = code != BP_OK ? code : at_most("key_max", options->key_max, BP_KEY_MAX, err);
    code = code != BP_OK ? code : at_most("value_max", options->value_max, BP_VALUE_MAX, err);
    code = code != BP_OK ? code : at_most("request_max", options->request_max, 2u << 20, err);
    code = code != BP_OK ? code : at_most("txn_ops_max", options->txn_ops_max, 10000, err);
    code = code != BP_OK ? code : at_most("batch_ops_max", options->batch_ops_max, 10000, err);
    code = code != BP_OK
               ? code
               : at_most("request_ids_max", options->request_ids_max, BP_REQUEST_IDS_LIMIT, err);
    code = code != BP_OK ? code : at_most("readers", options->readers, 64, err);
    code = code != BP_OK ? code : check_cluster(options, err);
    return code != BP_OK ? code
                         : at_most("clean_live_percent", options->clean_live_percent, 90, err);
}

static struct bp_wire_limits limits_of(const struct bp_options *options) {
    return (struct bp_wire_limits){.key_max = options->key_max,
                                   .value_max = options->value_max,
                                   .request_max = options->request_max,
                                   .txn_ops_max = options->txn_ops_max,
                                   .batch_ops_max = options->batch_ops_max,
                                   .scan_page_max = options->scan_page_max,
                                   .reply_bytes_max = options->reply_bytes_max,
                                   .lease_ttl_min_ms = options->lease_ttl_min_ms,
                                   .lease_ttl_max_ms = options->lease_ttl_max_ms};
}

void bp_store_fill_limits(struct bp_store *store) {
    struct bp_options format = {0};
    bp_options_fill(&format);
    format.request_max = BP_REQUEST_MAX;
    store->limits = limits_of(&store->options);
    store->format_limits = limits_of(&format);
}

const struct bp_wire_limits *bp_store_limits(const struct bp_store *store, uint8_t keyspace) {
    return keyspace == BP_KEYSPACE_USER ? &store->limits : &store->format_limits;
}

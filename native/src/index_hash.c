/*
 * The state hash: a 128-bit sum over all live newest versions, two lanes of 64 bits, each modulo
 * 2^64.
 *
 *   term = H(key) folded with (revision, create_revision) (lease, size:crc) (version)
 *   fold(a, b) = low 64 bits of a * b  xor  high 64 bits of a * b
 *
 * Replicas compare these sums and checkpoints record them: the function is part of the format and
 * never changes (a test holds golden values). The sum does not depend on order or layout, and
 * taking a term away is exact. It finds divergence and damage; it is not meant to withstand someone
 * who chooses keys to make two states collide.
 */
#include "index_internal.h"

__extension__ typedef unsigned __int128 u128;

static const uint64_t hash_constants[2][4] = {
    {0x9e3779b97f4a7c15u, 0xbf58476d1ce4e5b9u, 0x94d049bb133111ebu, 0xd6e8feb86659fd93u},
    {0xa0761d6478bd642fu, 0xe7037ed1a0b428dbu, 0x8ebc6af09c88c6e3u, 0x589965cc75374cc3u},
};

static inline uint64_t fold(uint64_t a, uint64_t b) {
    u128 product = (u128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t key_lane(struct bp_slice key, int lane) {
    const uint64_t *k = hash_constants[lane];
    uint64_t h = fold((uint64_t)key.size ^ k[0], k[1]);
    size_t at = 0;
    for (; at + 16 <= key.size; at += 16) {
        h = fold(bp_get_u64(key.data + at) ^ k[1], bp_get_u64(key.data + at + 8) ^ h ^ k[2]);
    }
    if (at < key.size) { /* the rest, padded with zeros; the size above tells padding from zeros */
        uint8_t rest[16] = {0};
        memcpy(rest, key.data + at, key.size - at);
        h = fold(bp_get_u64(rest) ^ k[1], bp_get_u64(rest + 8) ^ h ^ k[2]);
    }
    return h;
}

uint64_t bp_hash_key_lane(struct bp_slice key) { return key_lane(key, 0); }

struct bp_key_hash bp_hash_key(struct bp_slice key) {
    return (struct bp_key_hash){.lane = {key_lane(key, 0), key_lane(key, 1)}};
}

static inline uint64_t term(const struct bp_key_hash *key, const struct bp_version *v, int lane) {
    const uint64_t *k = hash_constants[lane];
    uint64_t h = key->lane[lane];
    h = fold(v->revision ^ k[2], v->create_revision ^ h ^ k[3]);
    h = fold(v->lease ^ k[3], ((uint64_t)v->value.size << 32 | v->value.crc) ^ h);
    return fold((uint64_t)v->version ^ k[0], h ^ k[1]);
}

void bp_hash_add(uint64_t sum[2], const struct bp_key_hash *key, const struct bp_version *version) {
    sum[0] += term(key, version, 0);
    sum[1] += term(key, version, 1);
}

void bp_hash_sub(uint64_t sum[2], const struct bp_key_hash *key, const struct bp_version *version) {
    sum[0] -= term(key, version, 0);
    sum[1] -= term(key, version, 1);
}

void bp_index_hash_version(struct bp_slice key, const struct bp_version *version,
                           uint64_t hash[2]) {
    struct bp_key_hash key_hash = bp_hash_key(key);
    hash[0] = hash[1] = 0;
    bp_hash_add(hash, &key_hash, version);
}

void bp_index_state_hash(const struct bp_index *index, uint64_t hash[2]) {
    hash[0] = index->hash[0];
    hash[1] = index->hash[1];
}

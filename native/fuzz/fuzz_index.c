/*
 * Sequences of index operations, read from the fuzzer's bytes, against the naive map of the tests;
 * bp_index_check now and then.
 *
 *   input: | op | operands ... | op | ...        an operand that is missing reads as 0
 *
 * Keys are short strings over few bytes, behind a prefix out of three, so that inputs of a few
 * hundred bytes split and join leaves: one op puts or deletes a whole run of keys.
 */
#include "index_internal.h"
#include "index_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz {
    const uint8_t *data;
    size_t size, at;
    struct bp_index *index;
    struct model model;
    uint64_t revision, trimmed, value;
};

static uint8_t next(struct fuzz *fuzz) {
    return fuzz->at < fuzz->size ? fuzz->data[fuzz->at++] : 0;
}

static struct bp_slice next_key(struct fuzz *fuzz, uint8_t *buf) {
    static const size_t prefixes[] = {0, 3, 40, 4090};
    uint8_t shape = next(fuzz);
    size_t prefix = prefixes[shape & 3], tail = 1u + (shape >> 2 & 3);
    memset(buf, shape >> 4 & 1 ? 0xff : 'p', prefix);
    for (size_t i = 0; i < tail; i++) {
        buf[prefix + i] = next(fuzz);
    }
    return bp_slice(buf, prefix + tail);
}

static void put(struct fuzz *fuzz, struct bp_slice key, uint8_t how) {
    const struct bp_version *newest = model_at(model_find(&fuzz->model, key), UINT64_MAX);
    struct bp_value_ref value = {
        .at = {1, (uint32_t)fuzz->value}, .size = how, .crc = (uint32_t)fuzz->value};
    struct bp_error err;
    fuzz->value++;
    fuzz->revision += (how & 1) != 0 || fuzz->revision == fuzz->trimmed ||
                      (newest != NULL && newest->revision == fuzz->revision);
    uint64_t lease = how >> 2 & 3;
    bool keep = (how & 2) != 0;
    CHECK_OK(bp_index_put(fuzz->index, key, fuzz->revision, lease, keep, &value, NULL, &err), &err);
    model_put(&fuzz->model, key, fuzz->revision, lease, keep, &value);
}

static void delete(struct fuzz *fuzz, struct bp_slice key) {
    fuzz->revision++;
    CHECK((bp_index_delete(fuzz->index, key, fuzz->revision, NULL) == 1) ==
          model_delete(&fuzz->model, key, fuzz->revision));
}

/* Put or delete `n` keys that differ in their last two bytes. */
static void run(struct fuzz *fuzz, bool is_put) {
    uint8_t buf[BP_STORED_KEY_MAX + 2], step = (uint8_t)(next(fuzz) | 1), n = next(fuzz);
    struct bp_slice key = next_key(fuzz, buf);
    key.size = key.size + 2 > BP_STORED_KEY_MAX ? BP_STORED_KEY_MAX : key.size + 2;
    for (uint32_t i = 0; i < n; i++) {
        buf[key.size - 2] = (uint8_t)(i * step >> 6);
        buf[key.size - 1] = (uint8_t)(i * step << 2);
        is_put ? put(fuzz, key, step) : delete(fuzz, key);
    }
}

static uint64_t some_revision(struct fuzz *fuzz) {
    return fuzz->trimmed + next(fuzz) * (fuzz->revision - fuzz->trimmed + 1) / 255;
}

static void trim(struct fuzz *fuzz) {
    uint64_t target = some_revision(fuzz);
    uint32_t step = 1u + next(fuzz);
    target = target > fuzz->revision ? fuzz->revision : target;
    while (bp_index_trim(fuzz->index, target, step)) {
    }
    fuzz->trimmed = target;
    model_trim(&fuzz->model, target);
}

static void look(struct fuzz *fuzz) {
    uint8_t bufs[2][BP_STORED_KEY_MAX], how = next(fuzz);
    struct bp_slice start = next_key(fuzz, bufs[0]), end = next_key(fuzz, bufs[1]);
    uint64_t revision = some_revision(fuzz);
    struct bp_version version;
    const struct bp_version *want = model_live(model_find(&fuzz->model, start), revision);
    CHECK(bp_index_get(fuzz->index, start, revision, &version) == (want != NULL));
    if (want != NULL) {
        check_version(&version, want);
    }
    start.size = (how & 1) != 0 ? start.size : 0;
    end.size = (how & 2) != 0 ? end.size : 0;
    check_scan(fuzz->index, &fuzz->model, start, end, revision, (how & 4) != 0, how >> 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz fuzz = {.data = data, .size = size, .index = bp_index_new(NULL)};
    uint8_t buf[BP_STORED_KEY_MAX];
    CHECK(fuzz.index != NULL);
    while (fuzz.at < fuzz.size && fuzz.value < 4000) {
        uint8_t op = next(&fuzz);
        switch (op % 8) {
        case 0:
        case 1:
            put(&fuzz, next_key(&fuzz, buf), op);
            break;
        case 2:
            delete(&fuzz, next_key(&fuzz, buf));
            break;
        case 3:
            run(&fuzz, true);
            break;
        case 4:
            run(&fuzz, false);
            break;
        case 5:
            trim(&fuzz);
            break;
        default:
            look(&fuzz);
            break;
        }
    }
    const char *wrong = bp_index_check(fuzz.index);
    if (wrong != NULL) {
        fprintf(stderr, "bp_index_check: %s\n", wrong);
        abort();
    }
    bp_index_free(fuzz.index);
    model_free(&fuzz.model);
    return 0;
}

/* See install_util.h. */
#include "install_util.h"

#define TERM 1000u /* above any that the stores come to by themselves */

void install_fill(struct bp_store *store, uint64_t seed, uint32_t writes) {
    static uint8_t big[200000];
    memset(big, (int)(seed & 0xff), sizeof big);
    (void)test_grant(store, 1000 + seed, 60000);
    for (uint32_t i = 0; i < writes; i++) {
        char key[32], value[64], id[32];
        uint64_t dice = test_random(&seed) % 16;
        (void)snprintf(key, sizeof key, "key/%llu", (unsigned long long)(test_random(&seed) % 100));
        (void)snprintf(value, sizeof value, "value %llu of %u",
                       (unsigned long long)test_random(&seed), i);
        (void)snprintf(id, sizeof id, "request %u", i);
        uint32_t size = (uint32_t)strlen(value);
        int code = BP_OK;
        if (dice == 0) {
            code = test_delete(store, key, NULL);
        } else if (dice == 1) {
            code = test_put_bytes(store, key, "", 0, 0, NULL, NULL);
        } else if (dice == 2 && i % 8 == 0) {
            code = test_put_bytes(store, key, big, (uint32_t)sizeof big, 0, NULL, NULL);
        } else if (dice == 3) {
            code = test_put_bytes(store, key, value, size, 0, id, NULL);
            code = code == BP_ALREADY_EXISTS || code == BP_INVALID_ARGUMENT ? BP_OK : code;
        } else if (dice == 4) {
            code = test_batch(store, "batch/", 20, value, NULL);
        } else if (dice == 5) {
            (void)test_put_bytes(store, key, value, size, 1001, NULL, NULL);
        } else {
            code = test_put(store, key, value, NULL);
        }
        CHECK(code == BP_OK);
    }
}

struct bp_buffer manifest_of(struct bp_store *store, uint64_t *index) {
    struct bp_manifest *manifest;
    struct bp_error err = {0};
    struct bp_buffer out = {0};
    uint64_t at, term, n;
    uint8_t piece[1000];
    CHECK_OK(bp_manifest_new(store, &manifest, &at, &term, &err), &err);
    do {
        CHECK_OK(bp_manifest_next(manifest, piece, sizeof piece, &n, &err), &err);
        bp_buffer_append(&out, piece, n);
    } while (n > 0);
    bp_manifest_free(manifest);
    if (index != NULL) {
        *index = at;
    }
    CHECK(!out.failed);
    return out;
}

int install_take(struct bp_install *install, struct bp_buffer manifest, size_t piece,
                 struct bp_error *err) {
    int code = BP_OK;
    for (size_t at = 0; code == BP_OK && at < manifest.size; at += piece) {
        size_t n = manifest.size - at < piece ? manifest.size - at : piece;
        code = bp_install_manifest(install, manifest.data + at, n, err);
    }
    return code;
}

static int answer(struct bp_install *install, struct bp_store *sender, struct bp_reply *wanted,
                  struct bp_error *err) {
    struct bp_reply values;
    uint32_t taken = 0;
    CHECK_OK(bp_fetch(sender, wanted->data, wanted->size, &values, err), err);
    CHECK(values.size < 3u << 20);
    bp_reply_free(wanted);
    int code = bp_install_values(install, values.data, values.size, &taken, err);
    bp_reply_free(&values);
    return code == BP_OK && taken == 0 ? BP_NOT_FOUND : code;
}

int install_values(struct bp_install *install, struct bp_store *sender, uint32_t batches,
                   struct bp_error *err) {
    for (;;) {
        struct bp_reply wanted;
        int got = bp_install_wanted(install, 0, &wanted, err);
        if (got == 2) {
            return BP_OK;
        }
        if (got == 1) {
            int code = batches-- == 0 ? BP_CANCELLED : answer(install, sender, &wanted, err);
            if (code != BP_OK) {
                bp_reply_free(&wanted);
                return code;
            }
        } else if (got != 0) {
            return got;
        }
    }
}

int install_all(struct bp_store *receiver, struct bp_store *sender, struct bp_install_state *state,
                struct bp_error *err) {
    struct bp_install *install;
    int code = bp_install_new(receiver, &install, err);
    if (code != BP_OK) {
        return code;
    }
    struct bp_buffer manifest = manifest_of(sender, NULL);
    code = install_take(install, manifest, 777, err);
    bp_buffer_free(&manifest);
    code = code == BP_OK ? install_values(install, sender, UINT32_MAX, err) : code;
    code = code == BP_OK ? bp_install_finish(install, TERM, 7, err) : code;
    if (state != NULL) {
        bp_install_look(install, state);
    }
    bp_install_free(install);
    return code;
}

struct bp_store *install_reopen(struct bp_sim *sim, const struct bp_options *options,
                                struct bp_store *store) {
    struct bp_error err = {0};
    CHECK_OK(bp_close(store, &err), &err);
    return test_must_open(sim, options);
}

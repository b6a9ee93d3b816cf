/*
 * The history: effects in order, whole revisions, and exactly what trimming forgets.
 */
#include "index_internal.h"
#include "index_model.h"

enum { WORD = 11 }; /* a visitor's own word, that must come back */

struct state {
    struct bp_index *index;
    struct model model;
    struct random random;
    uint64_t revision, trimmed, value;
};

static void start(struct state *state, uint64_t seed) {
    memset(state, 0, sizeof *state);
    state->random.state = seed;
    state->index = bp_index_new(NULL);
    CHECK(state->index != NULL);
}

static void end(struct state *state) {
    CHECK(bp_index_check(state->index) == NULL);
    bp_index_free(state->index);
    model_free(&state->model);
}

/* One revision with up to `most` effects on keys out of a few. */
static void one_revision(struct state *state, uint32_t most) {
    struct bp_error err;
    uint8_t buf[BP_STORED_KEY_MAX];
    state->revision += 1 + random_below(&state->random, 3);
    for (uint64_t n = random_below(&state->random, most + 1); n > 0; n--) {
        struct bp_slice key = hard_key(random_below(&state->random, 400), buf);
        const struct bp_version *newest = model_at(model_find(&state->model, key), UINT64_MAX);
        if (newest != NULL && newest->revision == state->revision) {
            continue;
        }
        if (random_below(&state->random, 3) == 0) {
            CHECK((bp_index_delete(state->index, key, state->revision, NULL) == 1) ==
                  model_delete(&state->model, key, state->revision));
            continue;
        }
        struct bp_value_ref value = {
            .at = {1, (uint32_t)state->value}, .size = 10, .crc = (uint32_t)state->value};
        state->value++;
        CHECK_OK(bp_index_put(state->index, key, state->revision, 0, false, &value, NULL, &err),
                 &err);
        model_put(&state->model, key, state->revision, 0, false, &value);
    }
}

static void trim(struct state *state, uint64_t revision, uint32_t step) {
    while (bp_index_trim(state->index, revision, step)) {
    }
    model_trim(&state->model, revision);
    state->trimmed = revision > state->trimmed ? revision : state->trimmed;
}

struct follow {
    struct state *state;
    size_t at;
    uint64_t stop_after, visited;
    uint64_t last_revision;
};

/* Every effect is the model's next one, with the versions as of then. */
static int follow_visit(void *arg, uint64_t revision, struct bp_slice key,
                        const struct bp_version *version, const struct bp_version *previous) {
    static const struct bp_version none;
    struct follow *follow = arg;
    const struct model *model = &follow->state->model;
    CHECK(follow->at < model->effect_n);
    const struct model_effect *want = &model->effects[follow->at++];
    CHECK_EQ_U64(revision, want->revision);
    CHECK(bp_slice_equal(key, bp_slice(want->data, want->size)));
    const struct model_key *entry = model_find(model, key);
    check_version(version, model_at(entry, revision));
    const struct bp_version *before = model_at(entry, revision - 1);
    check_version(previous, before != NULL ? before : &none);
    follow->last_revision = revision;
    return ++follow->visited == follow->stop_after ? WORD : 0;
}

static size_t effect_position(const struct state *state, uint64_t revision) {
    size_t at = 0;
    while (at < state->model.effect_n && state->model.effects[at].revision < revision) {
        at++;
    }
    return at;
}

static void history_gives_every_effect_in_order(void) {
    struct state state;
    start(&state, 5);
    for (uint32_t round = 0; round < 300; round++) {
        for (uint32_t i = 0; i < 20; i++) {
            one_revision(&state, round % 50 == 0 ? 700 : 12);
        }
        uint64_t from =
            state.trimmed + 1 + random_below(&state.random, state.revision - state.trimmed);
        uint64_t through = from + random_below(&state.random, state.revision - from + 1),
                 next = from;
        struct follow follow = {.state = &state, .at = effect_position(&state, from)};
        while (next <= through) { /* in pieces, as a watch reads */
            uint64_t before = next;
            CHECK(bp_history_scan(state.index, next, through,
                                  1 + (uint32_t)random_below(&state.random, 600), &next,
                                  follow_visit, &follow) == 0);
            CHECK(next > before && next <= through + 1);
            CHECK_EQ_U64(follow.at, effect_position(&state, next)); /* whole revisions */
        }
        CHECK_EQ_U64(follow.at, effect_position(&state, through + 1));
        if (random_below(&state.random, 3) == 0) {
            trim(&state,
                 state.trimmed + random_below(&state.random, state.revision - state.trimmed + 1),
                 100);
            CHECK(bp_index_check(state.index) == NULL);
        }
    }
    end(&state);
}

static int refuse_visit(void *arg, uint64_t revision, struct bp_slice key,
                        const struct bp_version *version, const struct bp_version *previous) {
    (void)arg, (void)revision, (void)key, (void)version, (void)previous;
    CHECK(!"nothing may be visited");
    return 1;
}

static void a_trimmed_revision_is_refused(void) {
    struct state state;
    uint64_t next;
    start(&state, 6);
    CHECK(bp_history_scan(state.index, 1, 10, 5, &next, refuse_visit, NULL) == 0);
    CHECK_EQ_U64(next, 11);
    for (uint32_t i = 0; i < 100; i++) {
        one_revision(&state, 5);
    }
    uint64_t cut = state.revision / 2;
    trim(&state, cut, 10);
    CHECK_EQ_U64(bp_index_trimmed(state.index), cut);
    CHECK(bp_history_scan(state.index, cut, state.revision, 5, &next, refuse_visit, NULL) ==
          BP_OUT_OF_RANGE);
    struct follow follow = {.state = &state};
    CHECK(bp_history_scan(state.index, cut + 1, state.revision, 100000, &next, follow_visit,
                          &follow) == 0);
    CHECK_EQ_U64(follow.at, state.model.effect_n);
    end(&state);
}

/* Half of a revision's effects are gone: nobody may see the other half as if it were all. */
static void a_revision_trimmed_in_part_is_refused(void) {
    struct bp_index *index = bp_index_new(NULL);
    struct bp_error err;
    struct bp_value_ref value = {.size = 1};
    uint64_t next;
    for (uint8_t i = 0; i < 100; i++) {
        CHECK_OK(bp_index_put(index, bp_slice(&i, 1), i < 10 ? 4 : 5, 0, false, &value, NULL, &err),
                 &err);
    }
    CHECK(bp_index_trim(index, 5, 30));
    CHECK_EQ_U64(bp_index_trimmed(index), 4);
    CHECK(bp_history_scan(index, 5, 5, 1000, &next, refuse_visit, NULL) == BP_OUT_OF_RANGE);
    CHECK(bp_index_check(index) == NULL);
    CHECK(!bp_index_trim(index, 5, 1000));
    CHECK_EQ_U64(bp_index_trimmed(index), 5);
    CHECK(bp_index_trim(index, 4, 1000) == false); /* never falls */
    CHECK_EQ_U64(bp_index_trimmed(index), 5);
    bp_index_free(index);
}

static void trimming_takes_bounded_steps(void) {
    struct state state;
    struct bp_index_stats before, after;
    start(&state, 8);
    for (uint32_t i = 0; i < 2000; i++) {
        one_revision(&state, 4);
    }
    bool more = true;
    while (more) {
        bp_index_get_stats(state.index, &before);
        more = bp_index_trim(state.index, state.revision, 70);
        bp_index_get_stats(state.index, &after);
        CHECK(before.history_effects - after.history_effects <= 70);
        CHECK(before.history_effects - after.history_effects == 70 || !more);
    }
    CHECK_EQ_U64(after.history_effects, 0);
    CHECK_EQ_U64(after.history_value_bytes, 0);
    CHECK_EQ_U64(after.versions, after.keys);
    CHECK_EQ_U64(after.items, after.keys);
    model_trim(&state.model, state.revision);
    end(&state);
}

static void a_visitor_stops_where_it_likes(void) {
    struct state state;
    uint64_t next;
    start(&state, 9);
    for (uint32_t i = 0; i < 300; i++) {
        one_revision(&state, 9);
    }
    for (uint64_t n = 1; n < state.model.effect_n; n += 97) {
        struct follow follow = {.state = &state, .stop_after = n};
        CHECK(bp_history_scan(state.index, 1, state.revision, UINT32_MAX, &next, follow_visit,
                              &follow) == WORD);
        CHECK_EQ_U64(follow.visited, n);
        CHECK_EQ_U64(next, follow.last_revision);
    }
    end(&state);
}

/* ---- after a load ---------------------------------------------------------------------------- */

struct one_key {
    struct bp_index *index;
    uint8_t key[BP_STORED_KEY_MAX];
    size_t size;
    struct bp_version versions[512];
    uint32_t n;
};

static void load_one(struct one_key *one) {
    struct bp_error err;
    if (one->n > 0) {
        CHECK_OK(
            bp_index_load(one->index, bp_slice(one->key, one->size), one->versions, one->n, &err),
            &err);
    }
    one->n = 0;
}

static int load_visit(void *arg, struct bp_slice key, const struct bp_version *version) {
    struct one_key *one = arg;
    if (!bp_slice_equal(key, bp_slice(one->key, one->size))) {
        load_one(one);
        memcpy(one->key, key.data, key.size);
        one->size = key.size;
    }
    CHECK(one->n < 512);
    one->versions[one->n++] = *version;
    return 0;
}

static int by_revision_then_key(const void *a, const void *b) {
    const struct model_effect *x = a, *y = b;
    if (x->revision != y->revision) {
        return x->revision < y->revision ? -1 : 1;
    }
    return bp_slice_compare(bp_slice(x->data, x->size), bp_slice(y->data, y->size));
}

static void history_is_rebuilt_from_versions(void) {
    struct state state;
    struct bp_error err;
    uint64_t next;
    start(&state, 10);
    state.revision =
        1ull << 40; /* as after a restore: a large base, and passes over several digits */
    for (uint32_t i = 0; i < 3000; i++) {
        one_revision(&state, 4);
        state.revision += i % 1000 == 0 ? 1ull << 25 : 0;
    }
    uint64_t floor = state.model.effects[1000].revision;
    struct one_key *one = calloc(1, sizeof *one);
    CHECK(one != NULL);
    one->index = bp_index_new(NULL);
    CHECK(bp_index_scan_versions(state.index, bp_slice(NULL, 0), floor, state.revision, load_visit,
                                 one) == 0);
    load_one(one);
    CHECK_OK(bp_index_load_finish(one->index, floor, &err), &err);
    bp_index_free(state.index);
    state.index = one->index;
    free(one);
    model_trim(&state.model, floor);
    qsort(state.model.effects, state.model.effect_n, sizeof *state.model.effects,
          by_revision_then_key);
    struct follow follow = {.state = &state};
    CHECK(bp_history_scan(state.index, floor, state.revision, 10, &next, refuse_visit, NULL) ==
          BP_OUT_OF_RANGE);
    CHECK(bp_history_scan(state.index, floor + 1, state.revision, UINT32_MAX, &next, follow_visit,
                          &follow) == 0);
    CHECK_EQ_U64(follow.at, state.model.effect_n);
    trim(&state, state.revision, 64);
    end(&state);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(history_gives_every_effect_in_order);
    RUN(a_trimmed_revision_is_refused);
    RUN(a_revision_trimmed_in_part_is_refused);
    RUN(trimming_takes_bounded_steps);
    RUN(a_visitor_stops_where_it_likes);
    RUN(history_is_rebuilt_from_versions);
    TESTS_END;
}

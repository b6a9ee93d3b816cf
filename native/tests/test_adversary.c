/*
 * The store against an adversary: random requests, checkpoints, cleaning, ticks, faults at random
 * persistence steps, full disks, crashes and power cuts that keep random sectors, then a reopening,
 * again and again. What must hold is kept by a model beside it:
 *
 *   model    revision -> every key's value, leases, request ids           one snapshot per revision
 *   check
 *       after each reopening, and now and then: revision >= acknowledged; every key now, some keys
 *       at old revisions, leases, ids
 *
 * A request whose answer was a failure of the log is pending: it may have happened or not, and the
 * revision recovered says which. BP_TORTURE_ROUNDS says how many rounds, BP_TORTURE_SEED where to
 * begin.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "state_util.h"
#include "wire_util.h"

#include "../src/ops.h"
#include "../src/ticket.h"
#include "../src/value.h"

#define KEYS 14u
#define LEASES 3u
#define IDS 6u
#define SNAPSHOTS_MAX 2048u
#define BATCH_MAX 6u
#define VALUE_SIZE_MAX (400u << 10)

/* ---- the model ------------------------------------------------------------------------------- */

struct model_key {
    bool exists;
    uint32_t size, seed;
    uint64_t mod, lease;
};

struct model_id {
    bool used;
    uint64_t revision, fingerprint;
};

struct snapshot {
    uint64_t revision;
    struct model_key keys[KEYS];
    bool leases[LEASES + 1];
    struct model_id ids[IDS];
};

struct request {
    enum {
        PUT,
        DELETE,
        DELETE_RANGE,
        BATCH,
        CAS,
        COMPARE_VALUE,
        GRANT,
        REVOKE,
        PUT_WITH_ID,
        COMPACT,
        KINDS
    } kind;
    uint32_t key, n, size, seed;
    uint64_t operand; /* lease, expected revision, id, or the revision to compact to */
    uint64_t fingerprint;
};

struct torture {
    uint64_t seed, random;
    struct bp_sim *sim;
    struct bp_options options;
    struct bp_store *store;
    struct snapshot *snapshots; /* ascending by revision */
    uint32_t n;
    uint64_t acked; /* newest revision whose request was answered */
    uint64_t floor_acked;
    bool unknown;      /* the newest snapshots may not have happened */
    bool tick_unknown; /* a tick's proposals were lost sight of */
    bool value_faults; /* reads may fail */
    bool lossy;        /* interval mode: the power went, so the newest answers may be lost */
};

static void fail(const struct torture *t, const char *what) {
    fprintf(stderr, "torture seed %" PRIu64 ": %s\n", t->seed, what);
    exit(1);
}

#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                        \
            fail(t, #cond);                                                                        \
        }                                                                                          \
    } while (0)

static uint64_t below(struct torture *t, uint64_t n) { return test_random(&t->random) % n; }

static struct snapshot *newest(const struct torture *t) { return &t->snapshots[t->n - 1]; }

static struct snapshot *push(struct torture *t, uint64_t revision) {
    MUST(t->n < SNAPSHOTS_MAX && (t->n == 0 || newest(t)->revision < revision));
    struct snapshot *next = &t->snapshots[t->n++];
    if (t->n > 1) {
        *next = t->snapshots[t->n - 2];
    }
    next->revision = revision;
    return next;
}

static const struct snapshot *at_revision(const struct torture *t, uint64_t revision) {
    uint32_t i = t->n;
    while (i > 0 && t->snapshots[i - 1].revision > revision) {
        i--;
    }
    return i > 0 ? &t->snapshots[i - 1] : NULL;
}

static void set_key(struct snapshot *s, uint32_t key, const struct request *r, uint64_t lease) {
    s->keys[key] = (struct model_key){
        .exists = true, .size = r->size, .seed = r->seed, .mod = s->revision, .lease = lease};
}

static void fill(uint8_t *out, uint32_t size, uint32_t seed) {
    uint32_t x = seed * 2654435761u + 1;
    for (uint32_t i = 0; i < size; i++) {
        x = x * 1664525u + 1013904223u;
        out[i] = (uint8_t)(x >> 24);
    }
}

/* Whether two values of one size hold the same bytes: short ones may, from different seeds. */
static bool same_bytes(uint32_t size, uint32_t seed, uint32_t other_seed) {
    static uint8_t a[VALUE_SIZE_MAX], b[VALUE_SIZE_MAX];
    fill(a, size, seed);
    fill(b, size, other_seed);
    return memcmp(a, b, size) == 0;
}

/* The state after `r` at `revision`, and the code it must be answered with. */
static int model_apply(struct torture *t, const struct request *r, uint64_t revision) {
    struct snapshot *s = push(t, revision);
    struct model_key *key = &s->keys[r->key % KEYS];
    switch (r->kind) {
    case PUT:
        if (r->operand != 0 && !s->leases[r->operand]) {
            return BP_NOT_FOUND;
        }
        set_key(s, r->key, r, r->operand);
        return BP_OK;
    case DELETE:
        memset(key, 0, sizeof *key);
        return BP_OK;
    case DELETE_RANGE:
        for (uint32_t i = r->key; i < r->key + r->n && i < KEYS; i++) {
            memset(&s->keys[i], 0, sizeof *key);
        }
        return BP_OK;
    case BATCH:
        for (uint32_t i = r->key; i < r->key + r->n && i < KEYS; i++) {
            set_key(s, i, r, 0);
        }
        return BP_OK;
    case CAS:
        if ((key->exists ? key->mod : 0) == r->operand) {
            set_key(s, r->key, r, 0);
        }
        return BP_OK;
    case COMPARE_VALUE: /* equal to what it already has: then a new value */
        if (key->exists && key->size == r->n &&
            same_bytes(key->size, key->seed, (uint32_t)r->operand)) {
            set_key(s, r->key, r, 0);
        }
        return BP_OK;
    case GRANT:
        if (s->leases[r->operand]) {
            return BP_ALREADY_EXISTS;
        }
        s->leases[r->operand] = true;
        return BP_OK;
    case REVOKE:
        if (!s->leases[r->operand]) {
            return BP_NOT_FOUND;
        }
        s->leases[r->operand] = false;
        for (uint32_t i = 0; i < KEYS; i++) {
            if (s->keys[i].exists && s->keys[i].lease == r->operand) {
                memset(&s->keys[i], 0, sizeof *key);
            }
        }
        return BP_OK;
    case PUT_WITH_ID:
        if (s->ids[r->operand].used) {
            return s->ids[r->operand].fingerprint == r->fingerprint ? BP_OK
                                                                    : BP_FAILED_PRECONDITION;
        }
        s->ids[r->operand] =
            (struct model_id){.used = true, .revision = revision, .fingerprint = r->fingerprint};
        set_key(s, r->key, r, 0);
        return BP_OK;
    default: /* COMPACT: to a revision that exists */
        return BP_OK;
    }
}

/* ---- requests as bytes ----------------------------------------------------------------------- */

static struct bp_slice key_slice(char *buf, size_t capacity, uint32_t key) {
    int n = snprintf(buf, capacity, "key-%02u", key);
    return bp_slice(buf, (size_t)n);
}

static void encode(const struct request *r, struct bp_builder *b) {
    static uint8_t value[VALUE_SIZE_MAX], other[VALUE_SIZE_MAX];
    char names[2][16], id[16];
    int n = snprintf(id, sizeof id, "id-%u", (unsigned)r->operand);
    struct bp_slice key = key_slice(names[0], sizeof names[0], r->key);
    fill(value, r->size, r->seed);
    struct bp_op op = {.op = BP_OP_PUT, .key = key, .value = bp_slice(value, r->size)};
    bp_builder_init(b);
    int kind = r->kind == GRANT     ? BP_REQUEST_LEASE_GRANT
               : r->kind == REVOKE  ? BP_REQUEST_LEASE_REVOKE
               : r->kind == COMPACT ? BP_REQUEST_COMPACT
                                    : BP_REQUEST_KV;
    bp_builder_begin(b, kind, r->kind == PUT_WITH_ID ? bp_slice(id, (size_t)n) : bp_slice(NULL, 0),
                     r->fingerprint);
    struct bp_compare compare = {
        .target = BP_TARGET_MOD, .operator = BP_EQUAL, .operand = r->operand, .key = key};
    switch (r->kind) {
    case DELETE:
        op = (struct bp_op){.op = BP_OP_DELETE, .key = key};
        break;
    case DELETE_RANGE:
        op = (struct bp_op){.op = BP_OP_DELETE_RANGE,
                            .key = key,
                            .end = key_slice(names[1], sizeof names[1], r->key + r->n)};
        break;
    case COMPARE_VALUE:
        fill(other, r->n, (uint32_t)r->operand);
        compare = (struct bp_compare){.target = BP_TARGET_VALUE,
                                      .operator = BP_EQUAL,
                                      .key = key,
                                      .value = bp_slice(other, r->n)};
        bp_builder_compare(b, 'u', &compare);
        break;
    case CAS:
        bp_builder_compare(b, 'u', &compare);
        break;
    case GRANT:
        bp_builder_u64(b, r->operand);
        bp_builder_u64(b, 10000);
        return;
    case REVOKE:
        bp_builder_u64(b, 1);
        bp_builder_u64(b, r->operand);
        return;
    case COMPACT:
        bp_builder_u64(b, r->operand);
        return;
    case PUT:
        op.lease = r->operand;
        break;
    default:
        break;
    }
    for (uint32_t i = 0; i < (r->kind == BATCH ? r->n : 1) && r->key + i < KEYS; i++) {
        op.key = key_slice(names[0], sizeof names[0], r->key + i);
        bp_builder_op(b, 0, 'u', &op);
    }
}

static struct request choose(struct torture *t) {
    const struct snapshot *s = newest(t);
    struct request r = {.kind = (int)below(t, KINDS),
                        .key = (uint32_t)below(t, KEYS),
                        .seed = (uint32_t)below(t, 1u << 30)};
    uint64_t large = below(t, 40);
    r.size = (uint32_t)(large == 0  ? below(t, VALUE_SIZE_MAX)
                        : large < 3 ? 65000 + below(t, 2000)
                                    : below(t, 400));
    const struct model_key *key = &s->keys[r.key];
    switch (r.kind) {
    case PUT:
        r.operand = below(t, 3) == 0 ? 1 + below(t, LEASES) : 0;
        break;
    case DELETE_RANGE:
    case BATCH:
        r.n = 1 + (uint32_t)below(t, 5);
        r.size %= 2000;
        break;
    case CAS:
        r.operand = below(t, 4) == 0 ? 1 : key->exists ? key->mod : 0;
        break;
    case COMPARE_VALUE:
        r.n = key->exists ? key->size : 3;
        r.operand = below(t, 4) == 0 ? 7 : key->seed;
        break;
    case GRANT:
    case REVOKE:
        r.operand = 1 + below(t, LEASES);
        break;
    case PUT_WITH_ID:
        r.operand = below(t, IDS);
        r.fingerprint = 1 + below(t, 2);
        r.size = 10 + (uint32_t)r.operand;
        break;
    case COMPACT:
        r.operand =
            below(t, 3) != 0 ? 1 : s->revision - below(t, s->revision < 20 ? s->revision : 20);
        break;
    default:
        break;
    }
    return r;
}

/* ---- checking -------------------------------------------------------------------------------- */

static bool may_fail(const struct torture *t, int code) {
    return t->value_faults && (code == BP_UNAVAILABLE || code == BP_DATA_LOSS);
}

/*
 * Whether the store has, at `revision`, what the model says; with `fatal`, a difference ends the
 * test.
 */
static bool check_key(struct torture *t, uint64_t revision, const struct model_key *want,
                      uint32_t number, bool fatal) {
    static uint8_t got[VALUE_SIZE_MAX], expected[VALUE_SIZE_MAX];
    char name[16];
    uint8_t stored[17];
    struct bp_slice key = key_slice(name, sizeof name, number);
    stored[0] = 'u';
    memcpy(stored + 1, key.data, key.size);
    struct bp_version version;
    bool found = bp_index_get(t->store->index, bp_slice(stored, key.size + 1), revision, &version);
    bool same = found == want->exists &&
                (!found || (version.revision == want->mod && version.value.size == want->size &&
                            version.lease == want->lease));
    if (same && found) {
        struct bp_error err = {0};
        uint32_t token = bp_epoch_enter(&t->store->epoch);
        int code =
            bp_value_read(t->store->segments, &version.value, 0, version.value.size, got, &err);
        bp_epoch_leave(&t->store->epoch, token);
        fill(expected, want->size, want->seed);
        same = may_fail(t, code) || (code == BP_OK && memcmp(got, expected, want->size) == 0);
        if (!same) {
            fprintf(stderr, "read: %d %s\n", code, err.message);
        }
    }
    if (!same && fatal) {
        fprintf(stderr,
                "key %u at revision %" PRIu64 ": found %d (mod %" PRIu64
                ", %u bytes), expected %d (mod %" PRIu64 ", %u bytes)\n",
                number, revision, found, version.revision, version.value.size, want->exists,
                want->mod, want->size);
        fail(t, "a key is not what it was");
    }
    return same;
}

static bool check_tables(struct torture *t, const struct snapshot *s) {
    bool same = true;
    for (uint32_t i = 1; i <= LEASES; i++) {
        same = same && bp_leases_exists(t->store->leases, i) == s->leases[i];
    }
    for (uint32_t i = 0; i < IDS; i++) {
        char id[16];
        int n = snprintf(id, sizeof id, "id-%u", i);
        const struct bp_request_id_record *record =
            bp_request_ids_find(t->store->request_ids, bp_slice(id, (size_t)n));
        same = same && (record != NULL) == s->ids[i].used &&
               (record == NULL || record->revision == s->ids[i].revision);
    }
    return same;
}

static bool is_state(struct torture *t, const struct snapshot *s, uint64_t revision, bool fatal) {
    for (uint32_t i = 0; i < KEYS; i++) {
        if (!check_key(t, revision, &s->keys[i], i, fatal)) {
            return false;
        }
    }
    bool tables = check_tables(t, s);
    MUST(tables || !fatal);
    return tables;
}

static void check_history(struct torture *t) {
    uint64_t floor = t->store->compaction_revision, last = t->store->next_revision - 1;
    for (uint32_t i = 0; i < 8; i++) {
        uint64_t revision = newest(t)->revision - below(t, t->n < 60 ? t->n : 60);
        const struct snapshot *s = at_revision(t, revision);
        if (s != NULL && revision >= floor && revision >= t->snapshots[0].revision &&
            revision <= last) {
            uint32_t key = (uint32_t)below(t, KEYS);
            check_key(t, revision, &s->keys[key], key, true);
        }
    }
}

static void check_now(struct torture *t) {
    MUST(bp_index_check(t->store->index) == NULL);
    is_state(t, newest(t), t->store->next_revision - 1, true);
    check_history(t);
}

/* ---- acting ---------------------------------------------------------------------------------- */

/*
 * What the answer says about the newest snapshot, which was made for this request. False: the store
 * takes no more.
 */
static bool settle_one(struct torture *t, const struct request *r, int expected, int code) {
    (void)r;
    if (code == BP_RESOURCE_EXHAUSTED) { /* refused before it was written */
        t->n--;
        return true;
    }
    if (code == expected) {
        t->acked = newest(t)->revision;
        return true;
    }
    if (code != BP_UNAVAILABLE && code != BP_DATA_LOSS) {
        fprintf(stderr, "kind %d answered %d, expected %d\n", r->kind, code, expected);
        fail(t, "a wrong answer");
    }
    t->unknown = true;
    return false;
}

static bool act_one(struct torture *t) {
    struct request r = choose(t);
    struct bp_builder b;
    struct bp_error err = {0};
    encode(&r, &b);
    MUST(bp_builder_finish(&b, &err) == BP_OK);
    int expected = model_apply(t, &r, newest(t)->revision + 1);
    int code = bp_execute(t->store, b.buf, b.size, NULL, NULL, NULL, &err);
    bp_builder_free(&b);
    return settle_one(t, &r, expected, code);
}

/*
 * Several in one group, by a queue. Those refused take no revision, so the answers are taken before
 * the model moves.
 */
static bool act_group(struct torture *t) {
    struct request requests[BATCH_MAX];
    int codes[BATCH_MAX];
    uint32_t n = 1 + (uint32_t)below(t, BATCH_MAX);
    struct bp_queue *queue = bp_queue_new(t->store);
    MUST(queue != NULL);
    for (uint32_t i = 0; i < n; i++) {
        struct bp_builder b;
        struct bp_error err = {0};
        requests[i] = choose(t);
        encode(&requests[i], &b);
        MUST(bp_builder_finish(&b, &err) == BP_OK);
        MUST(bp_submit(t->store, queue, b.buf, b.size, i, &err) == BP_OK);
        bp_builder_free(&b);
    }
    MUST(bp_step_drive(t->store) == n);
    struct bp_completion done[BATCH_MAX];
    MUST(bp_queue_take(queue, done, BATCH_MAX) == n);
    for (uint32_t i = 0; i < n; i++) {
        codes[done[i].cookie] = done[i].code;
        bp_completion_free(&done[i]);
    }
    bp_queue_free(queue);
    bool alive = true;
    for (uint32_t i = 0; i < n; i++) {
        if (codes[i] == BP_RESOURCE_EXHAUSTED) {
            continue;
        }
        int expected = model_apply(t, &requests[i], newest(t)->revision + 1);
        alive = settle_one(t, &requests[i], expected, codes[i]) && alive;
    }
    return alive;
}

/*
 * What the store did by itself: compactions, which change nothing a client sees, and the end of
 * leases, always in the last of them.
 */
static void follow_proposals(struct torture *t, uint64_t revision) {
    while (newest(t)->revision < revision) {
        push(t, newest(t)->revision + 1);
    }
    struct snapshot *s = newest(t);
    for (uint32_t i = 1; i <= LEASES; i++) {
        if (s->leases[i] && !bp_leases_exists(t->store->leases, i)) {
            s->leases[i] = false;
            for (uint32_t k = 0; k < KEYS; k++) {
                if (s->keys[k].exists && s->keys[k].lease == i) {
                    memset(&s->keys[k], 0, sizeof s->keys[k]);
                }
            }
        }
    }
}

static bool tick(struct torture *t) {
    bp_sim_advance_ns(t->sim, 1000000000ull * (1 + below(t, 6)));
    bp_step_tick(t->store);
    bp_step_drive(t->store);
    if (atomic_load(&t->store->poisoned)) {
        t->unknown = t->tick_unknown = true;
        return false;
    }
    follow_proposals(t, t->store->next_revision - 1);
    t->acked = newest(t)->revision;
    return true;
}

static void arm(struct torture *t, struct bp_disk *disk, bool opening) {
    static const int faults[] = {BP_FAULT_EIO, BP_FAULT_ENOSPC, BP_FAULT_CRASH,
                                 BP_FAULT_CRASH_AFTER, BP_FAULT_SHORT};
    int site = 1 + (int)below(t, BP_SITE_COUNT - 1);
    int fault = faults[below(t, 5)];
    if (site == BP_SITE_VALUE_READ) {
        fault = BP_FAULT_EIO;
        t->value_faults = true;
    }
    if (site == BP_SITE_CHECKPOINT_READ && below(t, 2) == 0) {
        fault = BP_FAULT_FLIP;
    }
    MUST(bp_disk_arm(disk, site, fault, 1 + below(t, opening ? 2 : 6), 1 + below(t, 2),
                     below(t, 100000)) == 0);
}

static bool step(struct torture *t) {
    struct bp_error err = {0};
    uint64_t what = below(t, 100);
    if (what < 50) {
        return act_one(t);
    }
    if (what < 70) {
        return act_group(t);
    }
    if (what < 78) {
        return tick(t);
    }
    if (what < 84) {
        (void)bp_step_checkpoint(t->store, below(t, 2) == 0, &err);
    } else if (what < 92) {
        for (uint64_t i = below(t, 20); i > 0 && bp_step_clean(t->store) != 0; i--) {
        }
    } else if (what < 95) {
        arm(t, t->store->disk, false);
    } else if (what < 97) {
        uint64_t used = below(t, 64) << 20;
        bp_sim_set_capacity(t->sim, below(t, 2) == 0 ? 0 : used);
    } else if (!t->value_faults) {
        check_now(t);
    }
    return !atomic_load(&t->store->poisoned);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int try_open(struct torture *t, bool faulty, struct bp_error *err) {
    struct bp_io io;
    bp_sim_io(t->sim, &io);
    struct bp_disk *disk = bp_disk_new(&io);
    MUST(disk != NULL);
    bp_disk_set_crash_is_error(disk, 1);
    if (faulty) {
        arm(t, disk, true);
    }
    t->value_faults =
        false; /* opening reads values for compares only: a failure there fails the opening */
    int code = bp_store_open(&t->options, disk, &t->store, err);
    for (int site = 1; code == BP_OK && site < BP_SITE_COUNT; site++) {
        (void)bp_disk_arm(t->store->disk, site, BP_FAULT_NONE, 1, 1, 0);
    }
    return code;
}

static void open_again(struct torture *t) {
    struct bp_error err = {0};
    for (uint32_t i = 0; i < 4; i++) {
        bool faulty = i < 3 && below(t, 2) == 0;
        int code = try_open(t, faulty, &err);
        if (code == BP_OK) {
            return;
        }
        if (!faulty) {
            fprintf(stderr, "open: %d %s\n", code, err.message);
            fail(t, "the store does not open");
        }
        if (below(t, 2) == 0) {
            bp_sim_power_cut(t->sim, (uint32_t)below(t, 1025));
            t->lossy = t->lossy || t->options.interval_ms != 0;
        }
        bp_sim_set_capacity(t->sim, 0);
    }
    fail(t, "unreachable");
}

/*
 * The store's revision says which of the pending requests happened; in interval mode, the state
 * says it.
 */
static void reconcile(struct torture *t, bool closed, bool clean) {
    struct bp_status status;
    bp_get_status(t->store, &status);
    bool interval = t->options.interval_ms != 0, lossy = t->lossy && !clean;
    bool jumped = status.revision > newest(t)->revision + (1ull << 31);
    MUST(jumped ? interval
                : closed || !interval); /* a close that failed may have got as far as it mattered */
    if (!lossy && !jumped) {
        MUST(status.revision >= t->acked);
        if (t->tick_unknown && status.revision > newest(t)->revision) {
            follow_proposals(t, status.revision);
        }
        MUST(status.revision <= newest(t)->revision);
        while (newest(t)->revision > status.revision) {
            t->n--;
        }
    } else {
        uint32_t n = t->n;
        while (n > 0 && !is_state(t, &t->snapshots[n - 1], status.revision, false)) {
            n--;
        }
        if (n == 0 && t->tick_unknown) { /* leases that ended in a tick whose fate is unknown */
            follow_proposals(t, newest(t)->revision + 2);
            n = t->n;
        }
        MUST(n > 0);
        MUST(lossy || t->snapshots[n - 1].revision >= t->acked ||
             is_state(t, newest(t), status.revision, false));
        t->n = n;
        if (newest(t)->revision < status.revision) {
            push(t, status.revision);
        }
    }
    t->acked = newest(t)->revision;
    t->unknown = t->tick_unknown = t->lossy = false;
    check_now(t);
}

static void torture_round(uint64_t seed, bool lying_sync) {
    struct torture storage = {.seed = seed, .random = seed * 0x9e3779b97f4a7c15ull + 1};
    struct torture *t = &storage;
    t->sim = bp_sim_new(seed);
    t->options = test_options();
    t->options.history_versions_max = 20 + below(t, 100);
    t->options.history_ms_max = 5000;
    t->options.checkpoint_bytes = 1 + below(t, 4u << 20);
    t->options.interval_ms = below(t, 4) == 0 ? 50 : 0;
    t->options.clean_live_percent = 90;
    t->snapshots = calloc(SNAPSHOTS_MAX, sizeof *t->snapshots);
    MUST(t->sim != NULL && t->snapshots != NULL);
    push(t, 1);
    t->acked = 1;
    open_again(t);
    bp_sim_set_sync_lies(t->sim, lying_sync);
    for (uint32_t life = 0; life < 6; life++) {
        uint64_t steps = below(t, 60);
        bool alive = true;
        for (uint64_t i = 0; i < steps && alive && t->n < SNAPSHOTS_MAX - 20; i++) {
            alive = step(t);
        }
        uint64_t end = below(t, 3);
        bool closed = false, clean = false, crash = bp_disk_faults(t->store->disk) > 0,
             power = true;
        if (end == 0 && !crash) {
            struct bp_error err = {0};
            closed = true;
            clean = bp_close(t->store, &err) == BP_OK;
            power = !clean || below(t, 2) == 0;
        } else {
            bp_store_abandon(t->store);
            power = crash || end == 1;
        }
        if (power) {
            bp_sim_power_cut(t->sim, (uint32_t)below(t, 1025));
        }
        bp_sim_set_capacity(t->sim, 0);
        t->lossy = t->options.interval_ms != 0 && power && !clean;
        open_again(t);
        reconcile(t, closed, clean);
    }
    bp_store_abandon(t->store);
    bp_sim_free(t->sim);
    free(t->snapshots);
}

static uint64_t number_from(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void test_a_store_under_random_faults_keeps_all_it_acknowledged_and_invents_nothing(void) {
    uint64_t seed = number_from("BP_TORTURE_SEED", 1),
             rounds = number_from("BP_TORTURE_ROUNDS", 60);
    for (uint64_t i = 0; i < rounds; i++) {
        torture_round(seed + i, false);
    }
}

/* The control: on a disk whose sync does nothing, the same rounds must find something lost. */
static void test_the_torture_sees_a_lying_sync(void) {
    for (uint64_t seed = 1; seed < 4; seed++) {
        pid_t child = fork(); /* a failing round ends its process */
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(freopen("/dev/null", "w", stderr) != NULL);
            for (uint64_t i = 0; i < 100; i++) {
                torture_round(seed * 1000 + i, true);
            }
            _exit(0);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    }
}

/* ---- single promises ------------------------------------------------------------------------- */

/*
 * What apply does may not depend on how the daemon is configured today: a larger table must not
 * find ids that had left.
 */
static void test_replay_does_not_depend_on_the_size_configured_for_the_request_id_table(void) {
    static const uint64_t sizes[] = {4, 64, 2, 4};
    struct bp_sim *sim = bp_sim_new(1);
    struct bp_options options = test_options();
    options.request_ids_max = sizes[0];
    struct bp_store *store = test_must_open(sim, &options);
    char id[16];
    for (uint32_t i = 0; i < 12; i++) { /* the first ids have left the table when they come again */
        (void)snprintf(id, sizeof id, "id-%u", i % 6);
        CHECK(test_put_bytes(store, "k", &i, sizeof i, 0, id, NULL) == BP_OK);
    }
    struct bp_buffer before = state_of(store);
    for (uint32_t round = 1; round < 4;
         round++) { /* the first reopening replays; later ones load a checkpoint as well */
        bp_store_abandon(store);
        options.request_ids_max = sizes[round];
        store = test_must_open(sim, &options);
        uint32_t value, size;
        struct bp_error err = {0};
        CHECK_OK(bp_get(store, 'u', "k", 1, &value, sizeof value, &size, NULL, &err), &err);
        CHECK_EQ_U64(value, 11);
        CHECK(bp_request_ids_count(store->request_ids) <= sizes[round]);
        if (round == 1) {
            struct bp_buffer after = state_of(store);
            state_must_equal(before, after);
            must_checkpoint(store);
        }
    }
    CHECK_EQ_U64(bp_request_ids_count(store->request_ids), 2);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static uint64_t revision_of(struct bp_store *store) { return atomic_load(&store->revision); }

/*
 * Revisions that clients saw in interval mode may be gone; the next start must not give them out
 * again, in whatever mode it is.
 */
static void
test_an_unclean_stop_in_interval_mode_jumps_also_when_the_next_start_syncs_every_group(void) {
    struct bp_sim *sim = bp_sim_new(2);
    struct bp_options options = test_options(), synced = test_options();
    struct bp_error err = {0};
    options.interval_ms = 1000;
    struct bp_store *store = test_must_open(sim, &options);
    CHECK(test_put(store, "a", "1", NULL) == BP_OK);
    uint64_t seen = revision_of(store);
    bp_store_abandon(store);
    bp_sim_power_cut(sim, 0);
    store = test_must_open(sim, &synced);
    CHECK(revision_of(store) > seen + (1ull << 31));
    uint64_t jumped = revision_of(store);
    bp_store_abandon(store); /* unclean, but nothing acknowledged can be lost: no jump */
    bp_sim_power_cut(sim, 0);
    store = test_must_open(sim, &synced);
    CHECK_EQ_U64(revision_of(store), jumped);
    CHECK_OK(bp_close(store, &err), &err);
    store = test_must_open(sim, &options);
    CHECK_EQ_U64(revision_of(store), jumped);
    CHECK(test_put(store, "a", "2", NULL) == BP_OK);
    CHECK_OK(bp_close(store, &err), &err);
    bp_sim_power_cut(sim, 0);
    store = test_must_open(sim, &options); /* a clean stop is none of this */
    CHECK_EQ_U64(revision_of(store), jumped + 1);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void flip_newest_checkpoint(struct bp_sim *sim, struct bp_store *store) {
    char path[4224];
    CHECK(checkpoint_path(store, 0, path));
    CHECK(bp_sim_flip(sim, path, 300, 1) == 0);
}

/*
 * The log is kept whole until there are two checkpoints: for the day when the only one turns out
 * damaged.
 */
static void test_a_damaged_only_checkpoint_is_made_up_for_by_the_whole_log(void) {
    struct bp_sim *sim = bp_sim_new(3);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    CHECK(test_put(store, "a", "1", NULL) == BP_OK);
    must_checkpoint(store);
    CHECK(test_put(store, "b", "2", NULL) == BP_OK);
    struct bp_buffer before = state_of(store);
    flip_newest_checkpoint(sim, store);
    bp_store_abandon(store);
    store = test_must_open(sim, &options);
    state_must_equal(before, state_of(store));
    must_checkpoint(store);
    must_checkpoint(store);
    bp_store_abandon(store);
    store = test_must_open(sim, &options);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void flip_value(struct bp_sim *sim, struct bp_store *store, const char *key) {
    uint8_t stored[64] = {'u'};
    size_t size = strlen(key);
    memcpy(stored + 1, key, size);
    struct bp_version version;
    CHECK(bp_index_newest(store->index, bp_slice(stored, size + 1), &version));
    char path[4224];
    bp_segment_path(store->segments, version.value.at.segment, BP_SEGMENT_LOG, false, path,
                    sizeof path);
    CHECK(bp_sim_flip(sim, path, version.value.at.offset, 1) == 0);
}

/* In the log, the compare could be decided neither now nor by any start after this. */
static void test_a_compare_on_a_damaged_value_never_enters_the_log(void) {
    struct bp_sim *sim = bp_sim_new(3);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    int succeeded;
    CHECK(test_put(store, "k", "value", NULL) == BP_OK);
    CHECK(test_compare_value(store, "k", "value", "value", &succeeded) == BP_OK && succeeded);
    flip_value(sim, store, "k");
    uint64_t last = bp_log_last_index(store->log);
    CHECK_EQ_U64(test_compare_value(store, "k", "value", "other", &succeeded), BP_DATA_LOSS);
    CHECK_EQ_U64(bp_log_last_index(store->log), last);
    /* One that size and checksum decide needs no reading. */
    CHECK(test_compare_value(store, "k", "longer value", "other", &succeeded) == BP_OK);
    CHECK(!succeeded);
    CHECK(test_put(store, "k", "again", NULL) == BP_OK); /* which repairs it */
    CHECK(test_compare_value(store, "k", "again", "value", &succeeded) == BP_OK && succeeded);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void test_grants_of_one_group_do_not_pass_the_limit_together(void) {
    struct bp_sim *sim = bp_sim_new(3);
    struct bp_options options = test_options();
    options.leases_max = 3;
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_queue *queue = bp_queue_new(store);
    struct bp_error err = {0};
    for (uint64_t lease = 1; lease <= 8; lease++) {
        struct bp_builder builder;
        bp_builder_init(&builder);
        bp_builder_begin(&builder, BP_REQUEST_LEASE_GRANT, bp_slice(NULL, 0), 0);
        bp_builder_u64(&builder, lease);
        bp_builder_u64(&builder, 60000);
        CHECK_OK(bp_builder_finish(&builder, &err), &err);
        CHECK_OK(bp_submit(store, queue, builder.buf, builder.size, lease, &err), &err);
        bp_builder_free(&builder);
    }
    bp_step_drive(store);
    CHECK_EQ_U64(bp_leases_count(store->leases), 3);
    CHECK(test_revoke(store, 1, NULL) == BP_OK);
    CHECK(test_grant(store, 9, 60000) == BP_OK); /* and nothing of it was left counted */
    CHECK_EQ_U64(test_grant(store, 10, 60000), BP_RESOURCE_EXHAUSTED);
    bp_queue_free(queue);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* Whether the one answer waiting in the queue contains these bytes. */
static bool answer_contains(struct bp_queue *queue, const char *text) {
    struct bp_completion done = test_take(queue);
    CHECK_EQ_U64(done.code, 0);
    bool found = test_count_in(&done.reply, text) > 0;
    bp_completion_free(&done);
    return found;
}

static void test_serializable_reads_in_frames_go_on_after_the_log_failed(void) {
    struct bp_sim *sim = bp_sim_new(4);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_queue *queue = bp_queue_new(store);
    struct bp_error err = {0};
    struct bp_buffer frame = {0};
    CHECK(test_put(store, "k", "kept-value", NULL) == BP_OK);
    CHECK(bp_disk_arm(store->disk, BP_SITE_LOG_SYNC, BP_FAULT_EIO, 1, 0, 0) == 0);
    test_frame_op(&frame, 1, TEST_FRAME_PUT, "k", "lost-value", false);
    test_frame_op(&frame, 2, TEST_FRAME_GET, "k", NULL, true);
    for (uint32_t i = 0; i < 2; i++) { /* in the group that fails, and in one after it */
        CHECK_OK(bp_submit_frame(store, queue, 'u', frame.data, frame.size, 0, &err), &err);
        bp_step_drive(store);
        CHECK(answer_contains(queue, "kept-value"));
    }
    bp_buffer_free(&frame);
    bp_queue_free(queue);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void
test_a_read_of_the_newest_state_is_answered_though_compaction_overtakes_its_place(void) {
    struct bp_sim *sim = bp_sim_new(5);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_queue *queue = bp_queue_new(store);
    struct bp_error err = {0};
    struct bp_buffer frame = {0};
    CHECK(test_put(store, "k", "first-value", NULL) == BP_OK);
    test_frame_op(&frame, 1, TEST_FRAME_GET, "k", NULL, false);
    test_frame_op(&frame, 2, TEST_FRAME_PUT, "k", "later-value", false);
    CHECK_OK(bp_submit_frame(store, queue, 'u', frame.data, frame.size, 1, &err), &err);
    CHECK_OK(bp_submit_compact(store, queue, 0, 2, &err), &err);
    bp_step_drive(store);
    CHECK(answer_contains(queue, "later-value"));
    bp_buffer_free(&frame);
    bp_queue_free(queue);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/*
 * The first try leaves number 1 as a .tmp, the second makes number 2 and dies before the store has
 * its identity.
 */
static void test_a_creation_interrupted_twice_is_begun_again(void) {
    for (uint32_t keep = 0; keep <= 1024; keep += 256) {
        for (uint64_t first = 1; first < 12000; first += 311) {
            struct bp_sim *sim = bp_sim_new(first * 7 + keep);
            struct bp_options options = test_options();
            struct bp_store *store;
            struct bp_error err;
            for (uint32_t i = 0; i < 3; i++) {
                bp_sim_cut_after_bytes(sim, i == 0 ? first : 1 + first * 3 % 9000);
                if (test_open(sim, &options, &store, &err) == BP_OK) {
                    bp_store_abandon(store);
                }
                bp_sim_power_cut(sim, keep);
            }
            store = test_must_open(sim, &options);
            CHECK(test_put(store, "a", "1", NULL) == BP_OK);
            bp_store_abandon(store);
            bp_sim_free(sim);
        }
    }
}

/* The longest time to live there is does not wrap around into the past. */
static void test_a_lease_for_ever_does_not_end_at_once(void) {
    struct bp_sim *sim = bp_sim_new(7);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    static const uint64_t forever[] = {UINT64_MAX, UINT64_MAX / 1000000, 18446744073709ull};
    for (uint32_t i = 0; i < 3; i++) {
        CHECK(test_grant(store, i + 1, forever[i]) == BP_OK);
    }
    bp_sim_advance_ns(sim, 3600000000000ull);
    bp_step_tick(store);
    bp_step_drive(store);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK(bp_leases_exists(store->leases, i + 1));
    }
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/*
 * Requests of every size around the limits of gathering, entries and frames, more than several
 * frames hold.
 */
static void test_requests_of_all_sizes_share_groups_and_keep_their_order(void) {
    static const uint32_t sizes[] = {0,     1,     7,     8,      4000,     4096, 32600,    32768,
                                     40000, 65536, 65537, 300000, 1u << 20, 20,   1u << 20, 100};
    enum { N = 96 };
    struct bp_sim *sim = bp_sim_new(8);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_queue *queue = bp_queue_new(store);
    struct bp_error err = {0};
    uint8_t *value = malloc(BP_VALUE_MAX), *got = malloc(BP_VALUE_MAX);
    CHECK(value != NULL && got != NULL);
    for (uint32_t i = 0; i < N; i++) {
        char name[16];
        struct bp_builder builder;
        uint32_t size = sizes[i * 7 % (sizeof sizes / sizeof sizes[0])];
        fill(value, size, i);
        bp_builder_init(&builder);
        bp_builder_begin(&builder, BP_REQUEST_KV, bp_slice(NULL, 0), 0);
        struct bp_op op = {.op = BP_OP_PUT,
                           .key = key_slice(name, sizeof name, i),
                           .value = bp_slice(value, size)};
        bp_builder_op(&builder, 0, 'u', &op);
        if (size == 1u << 20) { /* as large as a request gets */
            char other[32];
            int n = snprintf(other, sizeof other, "other-%u", i);
            op.key = bp_slice(other, (size_t)n);
            bp_builder_op(&builder, 0, 'u', &op);
        }
        CHECK_OK(bp_builder_finish(&builder, &err), &err);
        CHECK_OK(bp_submit(store, queue, builder.buf, builder.size, i, &err), &err);
        bp_builder_free(&builder);
    }
    CHECK_EQ_U64(bp_step_drive(store), N);
    for (uint32_t i = 0; i < N; i++) {
        struct bp_completion done;
        CHECK(bp_queue_take(queue, &done, 1) == 1 && done.cookie == i && done.code == BP_OK);
        CHECK_EQ_U64(bp_get_u64(done.reply.data), 2 + i);
        bp_completion_free(&done);
    }
    bp_queue_free(queue);
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < N; i++) {
            char name[16];
            uint32_t size = sizes[i * 7 % (sizeof sizes / sizeof sizes[0])], n = 0;
            struct bp_slice key = key_slice(name, sizeof name, i);
            fill(value, size, i);
            CHECK_OK(
                bp_get(store, 'u', key.data, (uint32_t)key.size, got, BP_VALUE_MAX, &n, NULL, &err),
                &err);
            CHECK(n == size && memcmp(value, got, n) == 0);
        }
        bp_store_abandon(store);
        bp_sim_power_cut(sim, 0);
        store = test_must_open(sim, &options);
    }
    bp_store_abandon(store);
    bp_sim_free(sim);
    free(value);
    free(got);
}

/*
 * In interval mode the sync that is due must not wait until nobody is blocked in a write any more.
 */
static void test_a_blocked_caller_that_drives_does_the_chores(void) {
    struct bp_sim *sim = bp_sim_new(9);
    struct bp_options options = test_options();
    options.interval_ms = 1000;
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_status status;
    CHECK(test_put(store, "a", "1", NULL) == BP_OK);
    bp_get_status(store, &status);
    CHECK(status.durable_index < status.applied_index);
    bp_driver_chore(store, false, true);
    CHECK(test_put(store, "a", "2", NULL) == BP_OK); /* takes the role */
    bp_get_status(store, &status);
    CHECK_EQ_U64(status.durable_index, status.applied_index);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

/* A client that only reads is held to the same limits as one that writes. */
static void test_reads_under_way_count_against_the_queue(void) {
    struct bp_sim *sim = bp_sim_new(10);
    struct bp_options options = test_options();
    options.queue_max = 3;
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_queue *queue = bp_queue_new(store);
    struct bp_ticket reads[3] = {
        {.kind = BP_TICKET_VALUE}, {.kind = BP_TICKET_READ}, {.kind = BP_TICKET_READ}};
    struct bp_error err = {0};
    struct bp_status status;
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_OK(bp_driver_admit(store, &reads[i], &err), &err);
    }
    CHECK(bp_submit_value(store, queue, 'u', "k", 1, 0, 0, 10, NULL, 0, 1, &err) ==
          BP_RESOURCE_EXHAUSTED);
    CHECK_EQ_U64(err.reason, BP_REASON_QUEUE_FULL);
    bp_driver_leave(store, 1, bp_ticket_bytes(&reads[0]));
    CHECK_OK(bp_submit_value(store, queue, 'u', "k", 1, 0, 0, 10, NULL, 0, 1, &err), &err);
    bp_driver_leave(store, 2, 2 * bp_ticket_bytes(&reads[0]));
    bp_get_status(store, &status);
    CHECK_EQ_U64(status.open_requests, 0);
    CHECK_EQ_U64(status.open_request_bytes, 0);
    bp_queue_free(queue);
    bp_store_abandon(store);
    bp_sim_free(sim);
}

static void count_call(void *arg, int code) { *(int *)arg = code; }

static void test_what_is_queued_when_a_stepped_store_is_dropped_is_answered(void) {
    struct bp_sim *sim = bp_sim_new(6);
    struct bp_options options = test_options();
    struct bp_store *store = test_must_open(sim, &options);
    struct bp_queue *queue = bp_queue_new(store);
    struct bp_error err = {0};
    struct bp_builder builder;
    int code = -1;
    bp_builder_init(&builder);
    bp_builder_begin(&builder, BP_REQUEST_COMPACT, bp_slice(NULL, 0), 0);
    bp_builder_u64(&builder, 0);
    CHECK_OK(bp_builder_finish(&builder, &err), &err);
    CHECK_OK(bp_submit(store, queue, builder.buf, builder.size, 7, &err), &err);
    CHECK_OK(bp_driver_propose(store, &builder, count_call, &code, &err),
             &err); /* takes the bytes */
    bp_store_abandon(store);
    CHECK_EQ_U64(code, BP_UNAVAILABLE);
    struct bp_completion done;
    CHECK(bp_queue_take(queue, &done, 1) == 1 && done.cookie == 7 && done.code == BP_UNAVAILABLE);
    bp_completion_free(&done);
    bp_queue_free(queue);
    store = test_must_open(sim, &options); /* closed, not dropped: it is carried out */
    queue = bp_queue_new(store);
    bp_builder_free(&builder);
    bp_builder_init(&builder);
    bp_builder_begin(&builder, BP_REQUEST_COMPACT, bp_slice(NULL, 0), 0);
    bp_builder_u64(&builder, 0);
    CHECK_OK(bp_builder_finish(&builder, &err), &err);
    CHECK_OK(bp_submit(store, queue, builder.buf, builder.size, 8, &err), &err);
    CHECK_OK(bp_close(store, &err), &err);
    CHECK(bp_queue_take(queue, &done, 1) == 1 && done.cookie == 8 && done.code == BP_OK);
    bp_completion_free(&done);
    bp_queue_free(queue);
    bp_builder_free(&builder);
    bp_sim_free(sim);
}

int main(int argc, char **argv) {
    TESTS_BEGIN;
    RUN(test_replay_does_not_depend_on_the_size_configured_for_the_request_id_table);
    RUN(test_an_unclean_stop_in_interval_mode_jumps_also_when_the_next_start_syncs_every_group);
    RUN(test_a_damaged_only_checkpoint_is_made_up_for_by_the_whole_log);
    RUN(test_a_compare_on_a_damaged_value_never_enters_the_log);
    RUN(test_grants_of_one_group_do_not_pass_the_limit_together);
    RUN(test_serializable_reads_in_frames_go_on_after_the_log_failed);
    RUN(test_a_read_of_the_newest_state_is_answered_though_compaction_overtakes_its_place);
    RUN(test_a_creation_interrupted_twice_is_begun_again);
    RUN(test_requests_of_all_sizes_share_groups_and_keep_their_order);
    RUN(test_a_blocked_caller_that_drives_does_the_chores);
    RUN(test_reads_under_way_count_against_the_queue);
    RUN(test_a_lease_for_ever_does_not_end_at_once);
    RUN(test_what_is_queued_when_a_stepped_store_is_dropped_is_answered);
    RUN(test_a_store_under_random_faults_keeps_all_it_acknowledged_and_invents_nothing);
    RUN(test_the_torture_sees_a_lying_sync);
    TESTS_END;
}

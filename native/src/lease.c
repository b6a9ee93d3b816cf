/*
 * Leases: a hash table of what exists, and a heap that says which ends next.
 *
 *   table  open addressing, linear probing, power of two, at most half full:  id -> {ttl, deadline,
 *   ending}
 *   heap
 *       {deadline, id}, smallest deadline first, lazy: a keep-alive changes only the table; an
 *       entry that surfaces too early is put
 *          back with the table's deadline, one whose lease is gone is dropped
 *
 * Invariants: every lease that is not ending has at least one heap entry with a deadline <= its
 * own; the heap holds at most twice as many entries as the table has leases (plus a constant),
 * because revoke rebuilds it beyond that.
 */
#include "lease.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS 1000000ull
#define HEAP_SLACK 1024u

struct slot {
    uint64_t id; /* 0: free */
    uint64_t ttl_ms;
    uint64_t deadline_ns;
    bool ending;
};

struct due {
    uint64_t deadline_ns;
    uint64_t id;
};

struct bp_leases {
    pthread_mutex_t mutex; /* guards everything below */
    struct slot *slots;
    uint64_t capacity, count;
    struct due *heap;
    uint64_t heap_size, heap_capacity;
};

static uint64_t hash_id(uint64_t id) {
    id ^= id >> 33;
    id *= 0xff51afd7ed558ccdull;
    id ^= id >> 33;
    id *= 0xc4ceb9fe1a85ec53ull;
    return id ^ id >> 33;
}

/* A TTL too long for the clock never ends. */
static uint64_t deadline_after(uint64_t now_ns, uint64_t ttl_ms) {
    return ttl_ms > (UINT64_MAX - now_ns) / NS_PER_MS ? UINT64_MAX : now_ns + ttl_ms * NS_PER_MS;
}

static struct slot *find(const struct bp_leases *leases, uint64_t id) {
    uint64_t mask = leases->capacity - 1;
    for (uint64_t i = hash_id(id) & mask; leases->slots[i].id != 0; i = (i + 1) & mask) {
        if (leases->slots[i].id == id) {
            return &leases->slots[i];
        }
    }
    return NULL;
}

static struct slot *insert(struct bp_leases *leases, uint64_t id) {
    uint64_t mask = leases->capacity - 1;
    uint64_t i = hash_id(id) & mask;
    while (leases->slots[i].id != 0) {
        assert(leases->slots[i].id != id);
        i = (i + 1) & mask;
    }
    leases->slots[i].id = id;
    leases->count++;
    return &leases->slots[i];
}

/* Close the gap by moving back what probed past it. */
static void erase(struct bp_leases *leases, struct slot *gone) {
    uint64_t mask = leases->capacity - 1;
    uint64_t hole = (uint64_t)(gone - leases->slots);
    for (uint64_t i = (hole + 1) & mask; leases->slots[i].id != 0; i = (i + 1) & mask) {
        uint64_t home = hash_id(leases->slots[i].id) & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            leases->slots[hole] = leases->slots[i];
            hole = i;
        }
    }
    memset(&leases->slots[hole], 0, sizeof leases->slots[hole]);
    leases->count--;
}

static bool grow_table(struct bp_leases *leases) {
    struct slot *old = leases->slots;
    uint64_t old_capacity = leases->capacity;
    struct slot *slots = calloc(old_capacity * 2, sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    leases->slots = slots;
    leases->capacity = old_capacity * 2;
    leases->count = 0;
    for (uint64_t i = 0; i < old_capacity; i++) {
        if (old[i].id != 0) {
            *insert(leases, old[i].id) = old[i];
        }
    }
    free(old);
    return true;
}

static void sift_down(struct due *heap, uint64_t n, uint64_t i) {
    for (;;) {
        uint64_t least = i;
        for (uint64_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++) {
            if (heap[child].deadline_ns < heap[least].deadline_ns) {
                least = child;
            }
        }
        if (least == i) {
            return;
        }
        struct due t = heap[i];
        heap[i] = heap[least];
        heap[least] = t;
        i = least;
    }
}

static bool reserve_heap(struct bp_leases *leases) {
    if (leases->heap_size < leases->heap_capacity) {
        return true;
    }
    uint64_t capacity = leases->heap_capacity == 0 ? 64 : leases->heap_capacity * 2;
    struct due *heap = realloc(leases->heap, capacity * sizeof *heap);
    if (heap == NULL) {
        return false;
    }
    leases->heap = heap;
    leases->heap_capacity = capacity;
    return true;
}

static void push(struct bp_leases *leases, uint64_t id, uint64_t deadline_ns) {
    assert(leases->heap_size < leases->heap_capacity);
    uint64_t i = leases->heap_size++;
    while (i > 0 && leases->heap[(i - 1) / 2].deadline_ns > deadline_ns) {
        leases->heap[i] = leases->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    leases->heap[i] = (struct due){.deadline_ns = deadline_ns, .id = id};
}

/* One entry for each lease that is not ending. The heap never grows here. */
static void rebuild_heap(struct bp_leases *leases) {
    leases->heap_size = 0;
    for (uint64_t i = 0; i < leases->capacity; i++) {
        if (leases->slots[i].id != 0 && !leases->slots[i].ending) {
            assert(leases->heap_size < leases->heap_capacity);
            leases->heap[leases->heap_size++] = (struct due){
                .deadline_ns = leases->slots[i].deadline_ns, .id = leases->slots[i].id};
        }
    }
    for (uint64_t i = leases->heap_size / 2; i-- > 0;) {
        sift_down(leases->heap, leases->heap_size, i);
    }
}

struct bp_leases *bp_leases_new(void) {
    struct bp_leases *leases = calloc(1, sizeof *leases);
    if (leases == NULL) {
        return NULL;
    }
    leases->capacity = 64;
    leases->slots = calloc(leases->capacity, sizeof *leases->slots);
    if (leases->slots == NULL) {
        free(leases);
        return NULL;
    }
    pthread_mutex_init(&leases->mutex, NULL);
    return leases;
}

void bp_leases_free(struct bp_leases *leases) {
    if (leases == NULL) {
        return;
    }
    pthread_mutex_destroy(&leases->mutex);
    free(leases->slots);
    free(leases->heap);
    free(leases);
}

static void lock(const struct bp_leases *leases) {
    pthread_mutex_lock(&((struct bp_leases *)(uintptr_t)leases)->mutex);
}

static void unlock(const struct bp_leases *leases) {
    pthread_mutex_unlock(&((struct bp_leases *)(uintptr_t)leases)->mutex);
}

int bp_leases_grant(struct bp_leases *leases, uint64_t id, uint64_t ttl_ms, uint64_t now_ns) {
    assert(id != 0);
    lock(leases);
    bool fits = (leases->count + 1) * 2 <= leases->capacity || grow_table(leases);
    fits = fits && reserve_heap(leases);
    if (fits) {
        struct slot *slot = insert(leases, id);
        slot->ttl_ms = ttl_ms;
        slot->deadline_ns = deadline_after(now_ns, ttl_ms);
        slot->ending = false;
        push(leases, id, slot->deadline_ns);
    }
    unlock(leases);
    return fits ? 0 : -1;
}

bool bp_leases_revoke(struct bp_leases *leases, uint64_t id) {
    lock(leases);
    struct slot *slot = find(leases, id);
    if (slot != NULL) {
        erase(leases, slot);
        if (leases->heap_size > 2 * leases->count + HEAP_SLACK) {
            rebuild_heap(leases);
        }
    }
    unlock(leases);
    return slot != NULL;
}

bool bp_leases_exists(const struct bp_leases *leases, uint64_t id) {
    lock(leases);
    bool exists = find(leases, id) != NULL;
    unlock(leases);
    return exists;
}

uint64_t bp_leases_count(const struct bp_leases *leases) {
    lock(leases);
    uint64_t count = leases->count;
    unlock(leases);
    return count;
}

bool bp_leases_keep_alive(struct bp_leases *leases, uint64_t id, uint64_t now_ns,
                          uint64_t *ttl_ms) {
    lock(leases);
    struct slot *slot = find(leases, id);
    /*
     * One past its deadline may be ending any moment: telling its owner that it lives would be a
     * lie.
     */
    bool alive = slot != NULL && !slot->ending && slot->deadline_ns > now_ns;
    if (alive) {
        slot->deadline_ns = deadline_after(now_ns, slot->ttl_ms);
        *ttl_ms = slot->ttl_ms;
    }
    unlock(leases);
    return alive;
}

bool bp_leases_get(const struct bp_leases *leases, uint64_t id, uint64_t now_ns, uint64_t *ttl_ms,
                   uint64_t *remaining_ms) {
    lock(leases);
    const struct slot *slot = find(leases, id);
    if (slot != NULL) {
        *ttl_ms = slot->ttl_ms;
        *remaining_ms = slot->deadline_ns > now_ns ? (slot->deadline_ns - now_ns) / NS_PER_MS : 0;
    }
    unlock(leases);
    return slot != NULL;
}

uint32_t bp_leases_expire(struct bp_leases *leases, uint64_t now_ns, uint64_t *ids, uint32_t max) {
    uint32_t n = 0;
    lock(leases);
    while (n < max && leases->heap_size > 0 && leases->heap[0].deadline_ns <= now_ns) {
        uint64_t id = leases->heap[0].id;
        leases->heap[0] = leases->heap[--leases->heap_size];
        sift_down(leases->heap, leases->heap_size, 0);
        struct slot *slot = find(leases, id);
        if (slot == NULL || slot->ending) {
            continue;
        }
        if (slot->deadline_ns > now_ns) { /* kept alive since */
            push(leases, id, slot->deadline_ns);
            continue;
        }
        slot->ending = true;
        ids[n++] = id;
    }
    unlock(leases);
    return n;
}

void bp_leases_unmark(struct bp_leases *leases, const uint64_t *ids, uint32_t n) {
    lock(leases);
    for (uint32_t i = 0; i < n; i++) {
        struct slot *slot = find(leases, ids[i]);
        if (slot != NULL && slot->ending) {
            slot->ending = false;
            /*
             * Its place in the heap was taken from the same array, so there is room unless grants
             * filled it.
             */
            if (leases->heap_size < leases->heap_capacity || reserve_heap(leases)) {
                push(leases, slot->id, slot->deadline_ns);
            } else {
                slot->ending = true; /* stays until the next start gives it a full TTL */
            }
        }
    }
    unlock(leases);
}

void bp_leases_restart(struct bp_leases *leases, uint64_t now_ns) {
    lock(leases);
    for (uint64_t i = 0; i < leases->capacity; i++) {
        if (leases->slots[i].id != 0) {
            leases->slots[i].deadline_ns = deadline_after(now_ns, leases->slots[i].ttl_ms);
            leases->slots[i].ending = false;
        }
    }
    rebuild_heap(leases);
    unlock(leases);
}

static int by_id(const void *a, const void *b) {
    uint64_t x = ((const struct bp_lease_record *)a)->id,
             y = ((const struct bp_lease_record *)b)->id;
    return x < y ? -1 : x > y;
}

struct bp_lease_record *bp_leases_snapshot(const struct bp_leases *leases, uint64_t *n) {
    lock(leases);
    *n = leases->count;
    struct bp_lease_record *records = NULL;
    if (leases->count > 0) {
        records = malloc(leases->count * sizeof *records);
    }
    uint64_t filled = 0;
    for (uint64_t i = 0; records != NULL && i < leases->capacity; i++) {
        if (leases->slots[i].id != 0) {
            records[filled++] = (struct bp_lease_record){.id = leases->slots[i].id,
                                                         .ttl_ms = leases->slots[i].ttl_ms};
        }
    }
    unlock(leases);
    if (records != NULL) {
        qsort(records, filled, sizeof *records, by_id);
    }
    return records;
}

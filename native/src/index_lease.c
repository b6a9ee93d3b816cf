/*
 * Which items are attached to which lease: attach and detach in O(1).
 *
 *   table: id -> slot           slot 7: | id | count, capacity | items -> [ a | b | c | d ]
 *   (open addressing)                                                        ^
 *                                item b: lease_slot 7, lease_place 1 --------'
 *
 * Detaching moves the last item of the list to the place that falls free. Lists grow by a quarter
 * (capacity 1 lies in the slot itself), so that slack stays small beside millions of keys, and
 * shrink when half empty. A slot lives while its list has items.
 *
 * Invariants: list[i]->lease_place == i, list[i]->lease_slot == the slot; an id is in the table
 * exactly if its slot is in use; the table is at most half full. All is the applier's, but for the
 * id of a slot that has items (see index_internal.h).
 */
#include <assert.h>
#include <string.h>

#include "index_internal.h"

enum { TABLE_FIRST = 64 };

void bp_attachments_init(struct bp_attachments *leases, struct bp_slab *slab) {
    memset(leases, 0, sizeof *leases);
    leases->slab = slab;
    leases->high = 1; /* slot 0 is "none" */
}

/* ---- slots ----------------------------------------------------------------------------------- */

static uint32_t chunk_of(uint32_t slot, uint32_t *offset) {
    uint64_t n = (uint64_t)slot + BP_ATTACHMENT_CHUNK_FIRST;
    uint32_t chunk = 63u - 6u - (uint32_t)__builtin_clzll(n);
    *offset = (uint32_t)(n - ((uint64_t)BP_ATTACHMENT_CHUNK_FIRST << chunk));
    return chunk;
}

_Static_assert(BP_ATTACHMENT_CHUNK_FIRST == 64, "chunk_of subtracts log2 of it");

static struct bp_attachment_list *list_of(const struct bp_attachments *leases, uint32_t slot) {
    uint32_t offset, chunk = chunk_of(slot, &offset);
    return &leases->chunks[chunk][offset];
}

uint64_t bp_attachment_id(const struct bp_attachments *leases, uint32_t slot) {
    return list_of(leases, slot)->id;
}

static size_t chunk_bytes(uint32_t chunk) {
    return ((size_t)BP_ATTACHMENT_CHUNK_FIRST << chunk) * sizeof(struct bp_attachment_list);
}

/* A free slot, without an id yet; 0 when memory is out. It is taken only by use_slot. */
static uint32_t next_slot(struct bp_attachments *leases) {
    if (leases->free != 0) {
        return leases->free;
    }
    uint32_t offset, chunk = chunk_of(leases->high, &offset);
    if (chunk >= BP_ATTACHMENT_CHUNKS) {
        return 0;
    }
    if (chunk >= leases->chunk_count) {
        struct bp_attachment_list *lists = bp_slab_alloc(leases->slab, chunk_bytes(chunk));
        if (lists == NULL) {
            return 0;
        }
        leases->chunks[chunk] = lists;
        leases->chunk_count = chunk + 1;
    }
    return leases->high;
}

static void use_slot(struct bp_attachments *leases, uint32_t slot, uint64_t id) {
    struct bp_attachment_list *list = list_of(leases, slot);
    if (slot == leases->free) {
        leases->free = list->count;
    } else {
        leases->high++;
    }
    *list = (struct bp_attachment_list){.id = id, .capacity = 1};
    leases->used++;
}

/* ---- the table: id -> slot ------------------------------------------------------------------- */

static uint32_t table_home(const struct bp_attachments *leases, uint64_t id) {
    return (uint32_t)((id * 0x9e3779b97f4a7c15u) >> 32) & (leases->table_size - 1);
}

uint32_t bp_attachment_find(const struct bp_attachments *leases, uint64_t id) {
    if (leases->table_size == 0 || id == 0) {
        return 0;
    }
    uint32_t at = table_home(leases, id);
    while (leases->table[at] != 0) { /* ends: at most half of the table is used */
        if (bp_attachment_id(leases, leases->table[at]) == id) {
            return leases->table[at];
        }
        at = (at + 1) & (leases->table_size - 1);
    }
    return 0;
}

static void table_put(struct bp_attachments *leases, uint64_t id, uint32_t slot) {
    uint32_t at = table_home(leases, id);
    while (leases->table[at] != 0) {
        at = (at + 1) & (leases->table_size - 1);
    }
    leases->table[at] = slot;
}

static bool table_reserve(struct bp_attachments *leases) {
    if ((leases->used + 1) * 2u <= leases->table_size) {
        return true;
    }
    if (leases->table_size >= 1u << 30) {
        return false;
    }
    uint32_t old_size = leases->table_size, *old = leases->table;
    uint32_t size = old_size == 0 ? TABLE_FIRST : old_size * 2;
    uint32_t *table = bp_slab_alloc(leases->slab, size * sizeof *table);
    if (table == NULL) {
        return false;
    }
    memset(table, 0, size * sizeof *table);
    leases->table = table;
    leases->table_size = size;
    for (uint32_t i = 0; i < old_size; i++) {
        if (old[i] != 0) {
            table_put(leases, bp_attachment_id(leases, old[i]), old[i]);
        }
    }
    bp_slab_free(leases->slab, old, old_size * sizeof *old);
    return true;
}

/* Close the gap, so that no search stops short of an entry that was pushed past it. */
static void table_remove(struct bp_attachments *leases, uint64_t id) {
    const uint32_t mask = leases->table_size - 1;
    uint32_t gap = table_home(leases, id);
    while (bp_attachment_id(leases, leases->table[gap]) != id) {
        gap = (gap + 1) & mask;
    }
    for (uint32_t at = (gap + 1) & mask; leases->table[at] != 0; at = (at + 1) & mask) {
        uint32_t home = table_home(leases, bp_attachment_id(leases, leases->table[at]));
        if (((at - home) & mask) >= ((at - gap) & mask)) {
            leases->table[gap] = leases->table[at];
            gap = at;
        }
    }
    leases->table[gap] = 0;
}

/* ---- lists ----------------------------------------------------------------------------------- */

static struct bp_item **items_of(struct bp_attachment_list *list) {
    return list->capacity == 1 ? &list->items.one : list->items.many;
}

static bool list_resize(struct bp_attachments *leases, struct bp_attachment_list *list,
                        uint32_t capacity) {
    assert(capacity >= list->count && capacity > 0);
    struct bp_item **old = items_of(list);
    uint32_t old_capacity = list->capacity;
    if (capacity == 1) {
        struct bp_item *one = old[0];
        bp_slab_free(leases->slab, old, old_capacity * sizeof *old);
        list->items.one = one;
    } else {
        struct bp_item **many = bp_slab_alloc(leases->slab, capacity * sizeof *many);
        if (many == NULL) {
            return false;
        }
        memcpy(many, old, list->count * sizeof *many);
        if (old_capacity > 1) {
            bp_slab_free(leases->slab, old, old_capacity * sizeof *old);
        }
        list->items.many = many;
    }
    list->capacity = capacity;
    return true;
}

uint32_t bp_attachment_reserve(struct bp_attachments *leases, uint64_t id) {
    uint32_t slot = bp_attachment_find(leases, id);
    if (slot == 0) {
        slot = table_reserve(leases) ? next_slot(leases) : 0;
        if (slot != 0) {
            use_slot(leases, slot, id);
            table_put(leases, id, slot);
        }
        return slot;
    }
    struct bp_attachment_list *list = list_of(leases, slot);
    if (list->count == UINT32_MAX / 2) {
        return 0;
    }
    if (list->count == list->capacity) {
        uint32_t more = list->capacity / 4;
        if (!list_resize(leases, list, list->capacity + (more > 0 ? more : 1))) {
            return 0;
        }
    }
    return slot;
}

/* With the last lease gone, what the tables grew to goes too. */
static void release_tables(struct bp_attachments *leases) {
    for (uint32_t chunk = 0; chunk < leases->chunk_count; chunk++) {
        bp_slab_free(leases->slab, leases->chunks[chunk], chunk_bytes(chunk));
    }
    bp_slab_free(leases->slab, leases->table, leases->table_size * sizeof *leases->table);
    bp_attachments_init(leases, leases->slab);
}

void bp_attachment_unreserve(struct bp_attachments *leases, uint32_t slot) {
    if (slot == 0) {
        return;
    }
    struct bp_attachment_list *list = list_of(leases, slot);
    if (list->count > 0) {
        return;
    }
    table_remove(leases, list->id);
    if (list->capacity > 1) {
        bp_slab_free(leases->slab, list->items.many, list->capacity * sizeof *list->items.many);
    }
    *list = (struct bp_attachment_list){.count = leases->free};
    leases->free = slot;
    leases->used--;
    if (leases->used == 0 && leases->chunk_count > 1) {
        release_tables(leases);
    }
}

void bp_attach(struct bp_attachments *leases, uint32_t slot, struct bp_item *item) {
    struct bp_attachment_list *list = list_of(leases, slot);
    assert(list->id != 0 && list->count < list->capacity);
    item->lease_place = list->count;
    items_of(list)[list->count++] = item;
}

void bp_detach(struct bp_attachments *leases, uint32_t slot, struct bp_item *item) {
    struct bp_attachment_list *list = list_of(leases, slot);
    struct bp_item **items = items_of(list);
    assert(item->lease_place < list->count && items[item->lease_place] == item);
    struct bp_item *last = items[--list->count];
    items[item->lease_place] = last;
    last->lease_place = item->lease_place;
    if (list->count == 0) {
        bp_attachment_unreserve(leases, slot);
    } else if (list->capacity > 1 && list->count <= list->capacity / 2) {
        list_resize(leases, list,
                    list->count + list->count / 4); /* if it fails the list stays as it is */
    }
}

struct bp_item *const *bp_attachment_items(const struct bp_attachments *leases, uint32_t slot,
                                           uint32_t *count) {
    struct bp_attachment_list *list = list_of(leases, slot);
    *count = list->count;
    return items_of(list);
}

const char *bp_attachments_check(const struct bp_attachments *leases, uint64_t *attached) {
    uint32_t used = 0, entries = 0;
    *attached = 0;
    for (uint32_t slot = 1; slot < leases->high; slot++) {
        struct bp_attachment_list *list = list_of(leases, slot);
        if (list->id == 0) {
            continue;
        }
        used++;
        if (bp_attachment_find(leases, list->id) != slot) {
            return "a lease in use is not in the table";
        }
        if (list->count == 0 || list->count > list->capacity) {
            return "a lease's list is empty or overfull";
        }
        for (uint32_t i = 0; i < list->count; i++) {
            const struct bp_item *item = items_of(list)[i];
            if (item->lease_slot != slot || item->lease_place != i) {
                return "an item does not know its place in its lease's list";
            }
        }
        *attached += list->count;
    }
    for (uint32_t i = 0; i < leases->table_size; i++) {
        entries += leases->table[i] != 0;
    }
    return used == leases->used && entries == used ? NULL : "the number of leases is wrong";
}

/* ---- the interface --------------------------------------------------------------------------- */

uint64_t bp_index_lease_count(const struct bp_index *index, uint64_t lease) {
    uint32_t slot = bp_attachment_find(&index->leases, lease);
    return slot == 0 ? 0 : list_of(&index->leases, slot)->count;
}

int bp_index_lease_visit(const struct bp_index *index, uint64_t lease,
                         int (*visit)(void *arg, struct bp_slice key), void *arg) {
    uint32_t slot = bp_attachment_find(&index->leases, lease), count = 0;
    if (slot == 0) {
        return 0;
    }
    struct bp_item *const *items = bp_attachment_items(&index->leases, slot, &count);
    for (uint32_t i = 0; i < count; i++) {
        int result = visit(arg, bp_item_key(items[i]));
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

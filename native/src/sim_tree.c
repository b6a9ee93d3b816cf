/*
 * The names of the simulated disk.
 *
 *   names     path          now     disk        what readers see, what a power cut goes back to
 *             data/tmp      -       -
 *             data/ckpt     node 3  node 1
 *
 *   changes   1  { data/tmp -> node 3 }                           open(CREATE)
 *             2  { data/tmp -> none, data/ckpt -> node 3 }        rename
 *
 *   sync_dir  applies the changes in that directory to `disk`, in order
 *   cut       walks the changes in order: each is kept by chance, unless an earlier one of any of
 *             its names was lost
 *
 * So the entries of one name survive as a prefix of its history, entries of different names
 * independently, and a rename never leaves both names or neither. Syncing a file does not sync its
 * name.
 *
 * Invariants: for each name, `now` is `disk` with its changes applied; a slot is free when nothing
 * refers to it (found by marking, the tables are small); a node lives while `now`, `disk`, a change
 * or a handle refers to it.
 */
#include "sim_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- paths ---------------------------------------------------------------------------------- */

int bp_sim_path(const char *path, char out[BP_SIM_PATH_MAX]) {
    size_t n = 0;
    for (const char *p = path; *p != '\0'; p++) {
        bool redundant = *p == '/' && (n == 0 || p[1] == '/' || p[1] == '\0');
        if (redundant) {
            continue;
        }
        if (n + 1 >= BP_SIM_PATH_MAX) {
            return -ENAMETOOLONG;
        }
        out[n++] = *p;
    }
    if (n == 1 && out[0] == '.') {
        n = 0; /* the working directory is the root */
    }
    out[n] = '\0';
    return 0;
}

/* Bytes of the directory part, 0 for the root. */
static size_t dir_size(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? 0 : (size_t)(slash - path);
}

static bool is_in(const char *path, const char *dir) {
    size_t n = dir_size(path);
    return strlen(dir) == n && memcmp(path, dir, n) == 0;
}

static bool has_dir(const struct bp_sim_tree *tree, const char *path) {
    char dir[BP_SIM_PATH_MAX];
    size_t n = dir_size(path);
    memcpy(dir, path, n);
    dir[n] = '\0';
    return bp_sim_tree_is_dir(tree, dir);
}

/* ---- tables --------------------------------------------------------------------------------- */

/* Room for `more` entries behind `count`. The array, moved or not, or NULL when out of memory. */
static void *reserve(void *array, uint32_t count, uint32_t more, uint32_t *room, size_t size) {
    if (array != NULL && count + more <= *room) {
        return array;
    }
    uint32_t wanted = (count + more) * 2 + 8;
    void *moved = realloc(array, wanted * size);
    if (moved != NULL) {
        *room = wanted;
    }
    return moved;
}

/*
 * Room for one operation: two names, a node and a change, so that nothing can fail halfway. 0 or
 * -ENOMEM.
 */
static int prepare(struct bp_sim_tree *tree) {
    void *names = reserve(tree->names, tree->name_count, 2, &tree->name_room, sizeof *tree->names);
    tree->names = names != NULL ? names : tree->names;
    void *nodes = reserve(tree->nodes, tree->node_count, 1, &tree->node_room, sizeof *tree->nodes);
    tree->nodes = nodes != NULL ? nodes : tree->nodes;
    void *changes =
        reserve(tree->changes, tree->change_count, 1, &tree->change_room, sizeof *tree->changes);
    tree->changes = changes != NULL ? changes : tree->changes;
    return names != NULL && nodes != NULL && changes != NULL ? 0 : -ENOMEM;
}

static uint32_t name_find(const struct bp_sim_tree *tree, const char *path) {
    for (uint32_t i = 0; i < tree->name_count; i++) {
        if (tree->names[i].used && strcmp(tree->names[i].path, path) == 0) {
            return i;
        }
    }
    return BP_SIM_NONE;
}

/* After prepare(). */
static uint32_t name_make(struct bp_sim_tree *tree, const char *path) {
    uint32_t i = name_find(tree, path);
    if (i != BP_SIM_NONE) {
        return i;
    }
    for (i = 0; i < tree->name_count && tree->names[i].used; i++) {
    }
    tree->name_count += i == tree->name_count;
    struct bp_sim_name *name = &tree->names[i];
    *name = (struct bp_sim_name){.used = true, .now = BP_SIM_NONE, .disk = BP_SIM_NONE};
    memcpy(name->path, path, strlen(path) + 1);
    return i;
}

/* After prepare(). */
static uint32_t node_make(struct bp_sim_tree *tree, bool is_dir) {
    uint32_t i = 0;
    for (; i < tree->node_count && tree->nodes[i].used; i++) {
    }
    tree->node_count += i == tree->node_count;
    tree->nodes[i] = (struct bp_sim_node){.used = true, .is_dir = is_dir};
    bp_sim_file_init(&tree->nodes[i].file);
    return i;
}

/* After prepare(): what readers see changes now, the disk some day. */
static void change(struct bp_sim_tree *tree, struct bp_sim_change change) {
    for (uint32_t i = 0; i < change.count; i++) {
        tree->names[change.names[i]].now = change.becomes[i];
    }
    tree->changes[tree->change_count++] = change;
    bp_sim_tree_collect(tree);
}

void bp_sim_tree_init(struct bp_sim_tree *tree) { *tree = (struct bp_sim_tree){0}; }

void bp_sim_tree_drop(struct bp_sim_tree *tree) {
    for (uint32_t i = 0; i < tree->node_count; i++) {
        bp_sim_file_drop(&tree->nodes[i].file);
    }
    free(tree->nodes);
    free(tree->names);
    free(tree->changes);
    bp_sim_tree_init(tree);
}

static int clone_nodes(const struct bp_sim_tree *tree, struct bp_sim_tree *copy) {
    for (uint32_t i = 0; i < tree->node_count; i++) {
        const struct bp_sim_node *from = &tree->nodes[i];
        struct bp_sim_node *to = &copy->nodes[i];
        *to = (struct bp_sim_node){
            .used = from->used, .is_dir = from->is_dir, .named = from->named, .handles = 0};
        copy->node_count = i + 1;
        if (bp_sim_file_clone(&from->file, &to->file) != 0) {
            return -ENOMEM;
        }
    }
    return 0;
}

int bp_sim_tree_clone(const struct bp_sim_tree *tree, struct bp_sim_tree *copy) {
    bp_sim_tree_init(copy);
    copy->nodes = reserve(NULL, tree->node_count, 0, &copy->node_room, sizeof *copy->nodes);
    copy->names = reserve(NULL, tree->name_count, 0, &copy->name_room, sizeof *copy->names);
    copy->changes = reserve(NULL, tree->change_count, 0, &copy->change_room, sizeof *copy->changes);
    bool full = copy->nodes != NULL && copy->names != NULL && copy->changes != NULL;
    if (!full || clone_nodes(tree, copy) != 0) {
        bp_sim_tree_drop(copy);
        return -ENOMEM;
    }
    if (tree->name_count > 0) {
        memcpy(copy->names, tree->names, tree->name_count * sizeof *copy->names);
    }
    if (tree->change_count > 0) {
        memcpy(copy->changes, tree->changes, tree->change_count * sizeof *copy->changes);
    }
    copy->name_count = tree->name_count;
    copy->change_count = tree->change_count;
    bp_sim_tree_collect(copy);
    return 0;
}

/* ---- looking -------------------------------------------------------------------------------- */

uint32_t bp_sim_tree_find(const struct bp_sim_tree *tree, const char *path) {
    uint32_t name = name_find(tree, path);
    return name == BP_SIM_NONE ? BP_SIM_NONE : tree->names[name].now;
}

bool bp_sim_tree_is_dir(const struct bp_sim_tree *tree, const char *path) {
    if (path[0] == '\0') {
        return true;
    }
    uint32_t node = bp_sim_tree_find(tree, path);
    return node != BP_SIM_NONE && tree->nodes[node].is_dir;
}

const char *bp_sim_tree_next(const struct bp_sim_tree *tree, const char *dir, uint32_t *position) {
    while (*position < tree->name_count) {
        const struct bp_sim_name *name = &tree->names[(*position)++];
        if (name->used && name->now != BP_SIM_NONE && !tree->nodes[name->now].is_dir &&
            is_in(name->path, dir)) {
            size_t prefix = dir_size(name->path);
            return name->path + (prefix == 0 ? 0 : prefix + 1);
        }
    }
    return NULL;
}

uint64_t bp_sim_tree_cost(const struct bp_sim_tree *tree) {
    uint64_t cost = 0;
    for (uint32_t i = 0; i < tree->node_count; i++) {
        const struct bp_sim_node *node = &tree->nodes[i];
        cost += node->used && (node->named || node->handles > 0) ? node->file.cost : 0;
    }
    return cost;
}

/* ---- changing ------------------------------------------------------------------------------- */

int bp_sim_tree_create(struct bp_sim_tree *tree, const char *path, bool is_dir, uint32_t *node) {
    if (!has_dir(tree, path)) {
        return -ENOENT;
    }
    if (prepare(tree) != 0) {
        return -ENOMEM;
    }
    uint32_t name = name_make(tree, path);
    *node = node_make(tree, is_dir);
    change(tree, (struct bp_sim_change){.count = 1, .names = {name, 0}, .becomes = {*node, 0}});
    return 0;
}

int bp_sim_tree_unlink(struct bp_sim_tree *tree, const char *path) {
    if (bp_sim_tree_is_dir(tree, path)) {
        return -EISDIR;
    }
    if (bp_sim_tree_find(tree, path) == BP_SIM_NONE) {
        return -ENOENT;
    }
    if (prepare(tree) != 0) {
        return -ENOMEM;
    }
    uint32_t name = name_find(tree, path);
    change(tree,
           (struct bp_sim_change){.count = 1, .names = {name, 0}, .becomes = {BP_SIM_NONE, 0}});
    return 0;
}

int bp_sim_tree_rename(struct bp_sim_tree *tree, const char *from, const char *to) {
    uint32_t node = bp_sim_tree_find(tree, from);
    if (bp_sim_tree_is_dir(tree, from) || bp_sim_tree_is_dir(tree, to)) {
        return -EISDIR;
    }
    if (node == BP_SIM_NONE) {
        return -ENOENT;
    }
    size_t prefix = dir_size(from);
    if (prefix != dir_size(to) || memcmp(from, to, prefix) != 0) {
        return -EXDEV;
    }
    if (strcmp(from, to) == 0) {
        return 0;
    }
    if (prepare(tree) != 0) {
        return -ENOMEM;
    }
    uint32_t source = name_find(tree, from), target = name_make(tree, to);
    change(tree, (struct bp_sim_change){
                     .count = 2, .names = {source, target}, .becomes = {BP_SIM_NONE, node}});
    return 0;
}

static void make_durable(struct bp_sim_tree *tree, const struct bp_sim_change *change) {
    for (uint32_t i = 0; i < change->count; i++) {
        tree->names[change->names[i]].disk = change->becomes[i];
    }
}

void bp_sim_tree_sync(struct bp_sim_tree *tree, const char *dir) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < tree->change_count; i++) {
        const struct bp_sim_change *change = &tree->changes[i];
        if (is_in(tree->names[change->names[0]].path, dir)) {
            make_durable(tree, change);
        } else {
            tree->changes[kept++] = *change;
        }
    }
    tree->change_count = kept;
    bp_sim_tree_collect(tree);
}

/* Which changes of names are on the medium. */
static void cut_changes(struct bp_sim_tree *tree, uint32_t keep_per_1024, uint64_t *random) {
    for (uint32_t i = 0; i < tree->name_count; i++) {
        tree->names[i].blocked = false;
    }
    for (uint32_t i = 0; i < tree->change_count; i++) {
        const struct bp_sim_change *change = &tree->changes[i];
        bool kept = bp_sim_chance(keep_per_1024, random);
        for (uint32_t k = 0; k < change->count; k++) {
            kept = kept && !tree->names[change->names[k]].blocked;
        }
        if (kept) {
            make_durable(tree, change);
            continue;
        }
        for (uint32_t k = 0; k < change->count; k++) {
            tree->names[change->names[k]].blocked = true;
        }
    }
    tree->change_count = 0;
    for (uint32_t i = 0; i < tree->name_count; i++) {
        tree->names[i].now = tree->names[i].disk;
    }
}

/* What was in a directory that is lost is lost with it; once more for each level. */
static void drop_orphans(struct bp_sim_tree *tree) {
    for (bool again = true; again;) {
        again = false;
        for (uint32_t i = 0; i < tree->name_count; i++) {
            struct bp_sim_name *name = &tree->names[i];
            if (name->used && name->now != BP_SIM_NONE && !has_dir(tree, name->path)) {
                name->now = name->disk = BP_SIM_NONE;
                again = true;
            }
        }
    }
}

uint64_t bp_sim_tree_cut(struct bp_sim_tree *tree, uint32_t keep_per_1024, uint64_t *random) {
    uint64_t lost = 0;
    for (uint32_t i = 0; i < tree->node_count; i++) {
        tree->nodes[i].handles = 0;
    }
    cut_changes(tree, keep_per_1024, random);
    drop_orphans(tree);
    bp_sim_tree_collect(tree);
    for (uint32_t i = 0; i < tree->node_count; i++) {
        if (tree->nodes[i].used) {
            lost += bp_sim_file_cut(&tree->nodes[i].file, keep_per_1024, random);
        }
    }
    return lost;
}

static void mark(struct bp_sim_tree *tree, uint32_t node) {
    if (node != BP_SIM_NONE) {
        tree->nodes[node].used = true;
    }
}

void bp_sim_tree_collect(struct bp_sim_tree *tree) {
    for (uint32_t i = 0; i < tree->node_count; i++) {
        tree->nodes[i].used = tree->nodes[i].handles > 0;
        tree->nodes[i].named = false;
    }
    for (uint32_t i = 0; i < tree->name_count; i++) {
        struct bp_sim_name *name = &tree->names[i];
        if (name->used) {
            mark(tree, name->disk);
            mark(tree, name->now);
            if (name->now != BP_SIM_NONE) {
                tree->nodes[name->now].named = true;
            }
            name->used = name->now != BP_SIM_NONE || name->disk != BP_SIM_NONE;
        }
    }
    for (uint32_t i = 0; i < tree->change_count; i++) {
        for (uint32_t k = 0; k < tree->changes[i].count; k++) {
            tree->names[tree->changes[i].names[k]].used = true;
            mark(tree, tree->changes[i].becomes[k]);
        }
    }
    for (uint32_t i = 0; i < tree->node_count; i++) {
        if (!tree->nodes[i].used) {
            bp_sim_file_drop(&tree->nodes[i].file);
        }
    }
}

/*
 * The names of the simulated disk: directories, files, and the changes of both that no sync_dir has
 * covered yet.
 */
#ifndef BP_SIM_TREE_H
#define BP_SIM_TREE_H

#include "sim_file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BP_SIM_PATH_MAX = 192 };
#define BP_SIM_NONE UINT32_MAX

/* A file or directory, whatever its names. */
struct bp_sim_node {
    bool used;
    bool is_dir;
    bool named;       /* readers find it under a name: see collect() */
    uint32_t handles; /* open ones: they keep a file without a name alive */
    struct bp_sim_file file;
};

/* A directory entry. Paths have no slash at either end and no double ones; the root is "". */
struct bp_sim_name {
    bool used;
    bool blocked;  /* during a cut: an earlier change of this name was lost */
    uint32_t now;  /* the node readers find, or NONE */
    uint32_t disk; /* the node after a power cut, or NONE */
    char path[BP_SIM_PATH_MAX];
};

/*
 * create and mkdir: {name -> node}; unlink: {name -> NONE}; rename: {from -> NONE, to -> node},
 * together or not at all.
 */
struct bp_sim_change {
    uint32_t count;
    uint32_t names[2];
    uint32_t becomes[2];
};

struct bp_sim_tree {
    struct bp_sim_node *nodes;
    struct bp_sim_name *names;
    struct bp_sim_change *changes; /* not yet durable, oldest first */
    uint32_t node_count, node_room;
    uint32_t name_count, name_room;
    uint32_t change_count, change_room;
};

void bp_sim_tree_init(struct bp_sim_tree *tree);
void bp_sim_tree_drop(struct bp_sim_tree *tree);
/* Without the handles. 0 or -ENOMEM, `copy` then empty. */
int bp_sim_tree_clone(const struct bp_sim_tree *tree, struct bp_sim_tree *copy);

/* The inner form of a path. 0 or -ENAMETOOLONG. */
int bp_sim_path(const char *path, char out[BP_SIM_PATH_MAX]);
/*
 * The node readers find under a path (inner form, here and below), or BP_SIM_NONE. The root has no
 * node: is_dir() knows it.
 */
uint32_t bp_sim_tree_find(const struct bp_sim_tree *tree, const char *path);
bool bp_sim_tree_is_dir(const struct bp_sim_tree *tree, const char *path);
/*
 * From *position (0 to start) on, the next plain file in the directory: its name, or NULL at the
 * end.
 */
const char *bp_sim_tree_next(const struct bp_sim_tree *tree, const char *dir, uint32_t *position);

/* The errors of open, mkdir, unlink and rename. `path` of create must be free. */
int bp_sim_tree_create(struct bp_sim_tree *tree, const char *path, bool is_dir, uint32_t *node);
int bp_sim_tree_unlink(struct bp_sim_tree *tree, const char *path);
/* -EXDEV between directories, -EISDIR for one: the store renames files in place. */
int bp_sim_tree_rename(struct bp_sim_tree *tree, const char *from, const char *to);
/* Make the changes in one directory durable. */
void bp_sim_tree_sync(struct bp_sim_tree *tree, const char *dir);
/*
 * The power goes: names first, then every file that still has one. Handles must be gone. How many
 * sectors were lost.
 */
uint64_t bp_sim_tree_cut(struct bp_sim_tree *tree, uint32_t keep_per_1024, uint64_t *random);
/* Free what nothing refers to any more: call it when a handle closes. */
void bp_sim_tree_collect(struct bp_sim_tree *tree);
/* Bytes taken by what has a name or a handle. */
uint64_t bp_sim_tree_cost(const struct bp_sim_tree *tree);

#endif

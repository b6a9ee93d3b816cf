"""The files that the demo stores: a real directory tree, in a fixed order, up to a size."""

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Other people's packages and caches are no part of what is wanted from the standard library.
_LEFT_OUT = {"__pycache__", "site-packages", "dist-packages", ".git"}


@dataclass(frozen=True, slots=True)
class Tree:
    """What will be stored."""

    root: Path
    names: tuple[str, ...]  # relative paths, sorted
    bytes: int
    truncated: bool  # there was more than the limit


def standard_library() -> Path:
    """Where the running Python keeps its own modules."""
    return Path(sysconfig.get_path("stdlib"))


def find_tree(root: Path, bytes_max: int) -> Tree:
    """Regular files with UTF-8 names under `root`, at most `bytes_max` bytes in all. Raises OSError
    when `root` is not a directory that can be read.
    """
    next(os.scandir(root), None)
    names: list[str] = []
    total = 0
    for name, size in _files(root):
        if total + size > bytes_max:
            return Tree(root, tuple(sorted(names)), total, truncated=True)
        names.append(name)
        total += size
    return Tree(root, tuple(sorted(names)), total, truncated=False)


def _files(root: Path) -> Iterator[tuple[str, int]]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        for file in sorted(files):
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            if path.is_symlink() or not path.is_file() or not _is_key(name):
                continue
            yield name, path.stat().st_size


def _is_key(name: str) -> bool:
    try:
        return len(name.encode()) <= 1024
    except UnicodeEncodeError:
        return False

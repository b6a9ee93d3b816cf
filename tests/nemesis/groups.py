"""Groups of keys, each checked by itself: many clients meet on few keys, and after some hundred
operations a group is replaced by a new one, which keeps the search for an order short.

    r<number>  one key, a register                 kinds of group
    s<number>  a few keys: batches, txns, scans
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

PREFIX = b"nemesis/"
OPERATIONS_MAX = 300


@dataclass(slots=True)
class Group:
    """Keys, and the newest revisions that anybody has seen of them."""

    name: str
    keys: tuple[str, ...]
    operations: int = 0
    seen: dict[str, int] = field(default_factory=dict)

    @property
    def prefix(self) -> bytes:
        return PREFIX + self.name.encode() + b"/"

    def key(self, name: str) -> bytes:
        return self.prefix + name.encode()


class Groups:
    """The groups in use."""

    def __init__(self, rng: random.Random, registers: int, sets: int, prefix: str = "") -> None:
        """Group names begin with `prefix`."""
        self._rng = rng
        self._prefix = prefix
        self._made = 0
        self.all: list[Group] = []
        self._active = [self._make("r") for _ in range(registers)]
        self._active += [self._make("s") for _ in range(sets)]

    def pick(self) -> Group:
        """One to use now; replaced when it was used enough."""
        at = self._rng.randrange(len(self._active))
        group = self._active[at]
        group.operations += 1
        if group.operations >= OPERATIONS_MAX:
            self._active[at] = self._make("r" if len(group.keys) == 1 else "s")
        return group

    def _make(self, kind: str) -> Group:
        self._made += 1
        keys = ("a",) if kind == "r" else ("a", "b", "c")
        self.all.append(Group(f"{self._prefix}{kind}{self._made}", keys))
        return self.all[-1]

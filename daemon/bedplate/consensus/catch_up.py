"""Whether a member has what its leader had: a linearizable read through it was answered.

    no leader --> leader known --> a read is placed --> applied as far as the leader had committed
        ^                                                   | until the term changes
        +---------------------------------------------------+

A member cannot know by itself how far it is behind: what it was sent is all it knows of. The read
index of a leader that a quorum confirmed says it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from bedplate.errors import BedplateError

_LOOK_S: Final = 0.05


class Follows(Protocol):
    """What is asked of a Raft."""

    @property
    def leader(self) -> int: ...

    @property
    def term(self) -> int: ...


class CatchUp:
    """`run` until cancelled; `done` and `ever` may be asked at any time."""

    def __init__(self, raft: Follows, read: Callable[[], Awaitable[object]]) -> None:
        """`read` reads anything of the cluster's present state. Raises BedplateError."""
        self._raft = raft
        self._read = read
        self._term = 0  # of the last read that was answered
        self.ever = False  # since the start

    @property
    def done(self) -> bool:
        """Whether a read was answered in this term."""
        return self._raft.leader != 0 and self._term == self._raft.term

    async def run(self) -> None:
        while True:
            if self._raft.leader == 0 or self.done:
                await asyncio.sleep(_LOOK_S)
                continue
            term = self._raft.term
            try:
                await self._read()
            except BedplateError:
                await asyncio.sleep(_LOOK_S)
            else:
                self._term, self.ever = term, True

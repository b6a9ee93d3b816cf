"""Clients: each does one operation at a time, at any member, and tries again when it fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tests.simulation.machine import Answer, Failure, Outcome, Read, Write
from tests.simulation.member import pick
from tests.simulation.timeline import MS

if TYPE_CHECKING:
    from tests.simulation.member import Member
    from tests.simulation.world import World

KEYS = ("a", "b", "c")
TIMEOUT = 1000 * MS
THINK = 50 * MS
ATTEMPTS_MAX = 5


class Client:
    """Does what `choose` says until told to stop. A retry of a write keeps its number."""

    def __init__(self, world: World, client: int, attempts_max: int = ATTEMPTS_MAX) -> None:
        self.world = world
        self.attempts_max = attempts_max
        self.client = client
        self.stopped = False
        self.busy = False
        self.retries = 0
        self._number = 0
        self._attempt = 0

    def start(self) -> None:
        self._next()

    def _next(self) -> None:
        if not self.stopped:
            think = int(self.world.random.random() * THINK)
            self.world.timeline.after(think, self._choose)

    def _choose(self) -> None:
        if self.stopped:
            return
        random = self.world.random
        key = KEYS[int(random.random() * len(KEYS))]
        member = pick(random, self.world.reachable)
        if random.random() < 0.5:
            self.read(key, member, self._next)
        else:
            self.write(key, member, self._next)

    def write(self, key: str, member: Member, then: Callable[[], None]) -> None:
        self._number += 1
        value = self.client * 1_000_000 + self._number
        deletes = self.world.parts.deletes
        if deletes and self.world.random.random() < deletes:
            value = 0
        self._do(Write(self.client, self._number, key, value), member, then)

    def read(self, key: str, member: Member, then: Callable[[], None]) -> None:
        self._do(Read(key), member, then)

    def _do(self, operation: Write | Read, member: Member, then: Callable[[], None]) -> None:
        self.busy = True
        newest = self.world.history.revision
        try_ = _Try(self, operation, self.world.timeline.now, newest, then)
        try_.at(member)


class _Try:
    """One operation, over all its attempts."""

    def __init__(
        self,
        client: Client,
        operation: Write | Read,
        called: int,
        newest: int,
        then: Callable[[], None],
    ) -> None:
        self.client, self.world = client, client.world
        self.operation, self.called, self.newest, self.then = operation, called, newest, then
        self.attempts = 0
        self.unknown = False

    def at(self, member: Member) -> None:
        self.attempts += 1
        over = partial(self._over, self.attempts)
        member.submit(self.operation, over)
        self.world.timeline.after(TIMEOUT, over, Failure(unknown=True))

    def _over(self, attempt: int, outcome: Outcome) -> None:
        if attempt != self.attempts:
            return  # it was given up before
        if isinstance(outcome, Answer) and self.world.random.random() < self.world.replies_lost:
            outcome = Failure(unknown=True)
        if isinstance(outcome, Answer):
            now = self.world.timeline.now
            self.world.history.returned(self.called, now, self.operation, outcome, self.newest)
            self._finish()
            return
        self.unknown |= outcome.unknown
        if self.attempts >= self.client.attempts_max:
            if self.unknown and isinstance(self.operation, Write):
                self.world.history.unanswered(self.called, self.operation)
            self._finish()
            return
        self.client.retries += 1
        self.attempts += 1  # a late answer to the last attempt is not waited for
        pause = int(self.world.random.random() * 200 * MS)
        self.world.timeline.after(pause, self._again)

    def _again(self) -> None:
        self.at(pick(self.world.random, self.world.reachable))

    def _finish(self) -> None:
        self.attempts += 1
        self.client.busy = False
        self.then()

"""A client that holds a lease: as long as it is kept alive, what is attached to it is there.

grant --> put, attached --> keep alive | read, again and again --> gone? only after its time
                                                                   +--> another lease
in the end nobody keeps it alive: it must end
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.history import Violation
from tests.simulation.machine import Answer, LeaseAct, LeaseCall, Outcome, Read
from tests.simulation.member import pick
from tests.simulation.timeline import MS, SECOND

if TYPE_CHECKING:
    from tests.simulation.world import World

TTL = 1 * SECOND
GRACE = 5 * MS  # clocks tell whole milliseconds
PAUSE = 150 * MS
TIMEOUT = 400 * MS


class LeaseHolder:
    """One lease at a time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stopped = False
        self.ended = False  # seen to be gone after it was stopped
        self._lease = 1
        self._attached = False
        self._safe_until = 0
        self._call = 0

    def start(self) -> None:
        self._act()

    @property
    def _key(self) -> str:
        return f"lease/{self._lease}"

    def _act(self) -> None:
        lease = self._lease
        if self.stopped:
            self._do(Read(self._key), self._seen)
        elif self._safe_until == 0:
            self._do(LeaseCall(LeaseAct.GRANT, lease, self._key), self._kept)
        elif not self._attached:
            self._do(LeaseCall(LeaseAct.ATTACH, lease, self._key), self._put)
        elif self.world.random.random() < 0.5:
            self._do(LeaseCall(LeaseAct.KEEP_ALIVE, lease, self._key), self._kept)
        else:
            self._do(Read(self._key), self._seen)

    def _do(self, operation: LeaseCall | Read, then: Callable[[int, Answer], None]) -> None:
        """`then(called, answer)`, unless it fails or takes too long: then another is next."""
        self._call += 1
        call, called = self._call, self.world.timeline.now

        def over(outcome: Outcome | None) -> None:
            if call != self._call:
                return
            self._call += 1
            if isinstance(outcome, Answer):
                then(called, outcome)
            self._later()

        pick(self.world.random, self.world.reachable).submit(operation, over)
        self.world.timeline.after(TIMEOUT, over, None)

    def _later(self) -> None:
        if not self.ended:
            self.world.timeline.after(int(self.world.random.random() * PAUSE), self._act)

    def _kept(self, called: int, answer: Answer) -> None:
        if answer.version > 0:
            self._safe_until = max(self._safe_until, called + TTL - GRACE)
            self.world.checks.counts["kept_alive"] += 1
        else:
            self._gone("its lease")

    def _put(self, _: int, answer: Answer) -> None:
        if answer.version > 0:
            self._attached = True
        else:
            self._gone("its lease")

    def _seen(self, _: int, answer: Answer) -> None:
        if answer.version == 0 and self._attached:
            self._gone("its key")
        elif answer.version == 0:
            self.ended = self.stopped

    def _gone(self, what: str) -> None:
        now = self.world.timeline.now
        if now < self._safe_until:
            early = (self._safe_until - now) // MS
            raise Violation(f"lease {self._lease} was kept alive; {what} is gone {early} ms early")
        self.world.checks.counts["expired"] += self._safe_until > 0
        self._next()

    def _next(self) -> None:
        """A retry of an old attempt may be under way; another id keeps it out."""
        if self.stopped:
            self.ended = True
            return
        self._lease += 1
        self._attached = False
        self._safe_until = 0

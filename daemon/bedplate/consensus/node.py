"""The one loop that drives a replica: everything that happened since the last turn, then one turn.

    other members --deliver--> inbox ---+
    clock --------------------> ticks --+--> replica.receive / tick --> replica.turn --> watchers
    store's eventfd -------------wake --+             one Ready, whatever its size

Nothing here waits for the disk or the network, and nothing is done once per operation. Time is
counted in ticks of the heartbeat's length; ticks that a stopped or overloaded process has missed
are not made up for, so that what arrived meanwhile is heard before anybody is given up.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from bedplate.consensus.membership import Change, Membership
from bedplate.consensus.messages import Append, Message
from bedplate.consensus.ready import NotLeading
from bedplate.consensus.replica import Replica, ReplicatedStore
from bedplate.errors import BedplateError, Code

_INBOX_BYTES_MAX = 64 << 20
_MESSAGE_BYTES = 128  # what a message without payload counts for
TURN_BOUNDS_S: Final = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 1.0)


class DrivenStore(ReplicatedStore, Protocol):
    """What the loop needs of a store beyond what a replica does."""

    @property
    def fd(self) -> int:
        """Readable when `look` would say something new."""

    def answer(self, outcomes: bytes) -> None:
        """The leader's outcomes of a batch that `forward` gave away. Raises StoreError."""

    def state_hash(self) -> tuple[int, bytes]:
        """The last compaction entry applied, and the state's hash there; (0, ..) before one."""


@dataclass(slots=True)
class Counters:
    """Since the start."""

    turns: list[int] = field(default_factory=lambda: [0] * (len(TURN_BOUNDS_S) + 1))
    turn_seconds: float = 0.0
    turn_seconds_max: float = 0.0
    received: int = 0
    leader_changes: int = 0
    gates: int = 0

    def add_turn(self, seconds: float) -> None:
        at = next((i for i, bound in enumerate(TURN_BOUNDS_S) if seconds <= bound), -1)
        self.turns[at] += 1
        self.turn_seconds += seconds
        self.turn_seconds_max = max(self.turn_seconds_max, seconds)


@dataclass(slots=True, eq=False)
class _Waiter:
    done: Callable[[], bool]  # may raise
    future: asyncio.Future[None]


class Node:
    """One member at work. Everything belongs to the loop that calls `run`."""

    def __init__(
        self,
        replica: Replica,
        store: DrivenStore,
        *,
        tick_s: float,
        linger_s: float = 0.0,
        on_turn: Callable[[], None] = lambda: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_turn` is called after every turn, `on_tick` after every tick."""
        self.replica = replica
        self.counters = Counters()
        self._store = store
        self._tick_s = tick_s
        self._linger_s = linger_s
        self._on_turn = on_turn
        self._on_tick = on_tick
        self._wake = asyncio.Event()
        self._going = asyncio.Event()
        self._going.set()
        self._room = asyncio.Event()
        self._room.set()
        self._inbox: list[Message] = []
        self._inbox_bytes = 0
        self._events: list[Callable[[], None]] = []
        self._tick_due = False
        self._lingering: asyncio.TimerHandle | None = None
        self._waiters: list[_Waiter] = []
        self._leader = 0
        self._log = structlog.get_logger("bedplate.cluster")

    async def run(self) -> None:
        """Until cancelled. Raises Contradiction when this member must stop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._store.fd, self._wake.set)
        ticking = loop.create_task(self._tick())
        try:
            while True:
                await self._wake.wait()
                await self._going.wait()
                self._wake.clear()
                if self._turn():
                    self._wake.set()
                await asyncio.sleep(0)  # let the streams send and receive
        finally:
            ticking.cancel()
            if self._lingering is not None:
                self._lingering.cancel()
            loop.remove_reader(self._store.fd)
            for waiter in self._waiters:
                waiter.future.cancel()

    # ---- what happens --------------------------------------------------------------------------

    def deliver(self, messages: Sequence[Message]) -> None:
        """Messages of other members, for the next turn."""
        self._inbox.extend(messages)
        self._inbox_bytes += sum(_size(message) for message in messages)
        if self._inbox_bytes > _INBOX_BYTES_MAX:
            self._room.clear()
        if any(map(self.replica.is_urgent, messages)):
            self._wake.set()

    async def room(self) -> None:
        """Wait until the inbox has room for more."""
        await self._room.wait()

    def connection_lost(self, member: int) -> None:
        """A connection to `member` broke."""
        self._later(lambda: self.replica.connection_lost(member))

    def dropped(self, member: int) -> None:
        """Something for `member` was not sent."""
        self._later(lambda: self.replica.raft.unreachable(member))

    def forward_answered(self, batch: int, outcomes: bytes) -> None:
        """The leader did a batch that clients had sent here."""
        self._store.answer(outcomes)
        self.replica.batch_done(batch)
        self._wake.set()

    def forward_refused(self, batch: int) -> None:
        """The leader did not take it."""
        self.replica.batch_refused(batch)
        self._wake.set()

    # ---- what can be asked for -----------------------------------------------------------------

    async def change(self, change: Change, timeout_s: float) -> Membership:
        """Change the membership, and wait until that is decided. Raises ChangeRefused, and
        BedplateError: NO_LEADER where this member does not lead, LEADER_LOST for an unknown
        outcome.
        """
        raft = self.replica.raft
        try:
            membership = self.replica.change(change)
        except NotLeading:
            raise no_leader() from None
        index, term = raft.log.change_index, raft.term

        def decided() -> bool:
            if raft.commit >= index and raft.log.term(index) in (term, None):
                return True
            if raft.term != term or not raft.is_leader:
                raise leader_lost()
            return False

        self._wake.set()
        await self.until(decided, timeout_s)
        return membership

    async def transfer(self, target: int, timeout_s: float) -> int:
        """Hand leadership to a voter; who leads then. Raises ChangeRefused, BedplateError."""
        raft = self.replica.raft
        try:
            raft.transfer(target)
        except NotLeading:
            raise no_leader() from None
        begun = bool(raft.transferee)

        def decided() -> bool:
            if raft.is_leader:
                return not raft.transferee  # given up, or there was nothing to do
            return raft.leader != 0

        self._wake.set()
        await self.until(decided, timeout_s)
        if begun and raft.is_leader:
            raise BedplateError(
                f"{target:016x} did not take over in time",
                code=Code.FAILED_PRECONDITION,
                reason="CHANGE_REFUSED",
            )
        return raft.leader

    async def until(self, done: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `done` is true after some turn; it may raise. Raises TimeoutError."""
        if done():
            return
        waiter = _Waiter(done, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.future
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def pause(self) -> None:
        """Have no turn: nothing is decided, written or sent until `resume`."""
        self._going.clear()

    async def paused_until(self, done: Callable[[], bool]) -> None:
        """While paused: wait for something that the store does."""
        while not done():
            self._wake.clear()
            await self._wake.wait()

    def resume(self) -> None:
        """Go on."""
        self._going.set()
        self._wake.set()

    def wake(self) -> None:
        """Have a turn soon."""
        self._wake.set()

    # ---- the loop ------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Whether more may be done at once."""
        begun = time.perf_counter()
        ticked, self._tick_due = self._tick_due, False
        inbox, self._inbox, self._inbox_bytes = self._inbox, [], 0
        self._room.set()
        for message in inbox:
            self.replica.receive(message)
        self.counters.received += len(inbox)
        events, self._events = self._events, []
        for event in events:
            event()
        if ticked:
            self.replica.tick()
        busy = self.replica.turn()
        self._linger()
        self._follow_leader()
        self._on_turn()
        if ticked:
            self._on_tick()
        self._settle()
        self.counters.add_turn(time.perf_counter() - begun)
        return busy

    def _linger(self) -> None:
        """Have the clock say when a round has waited long enough for company."""
        if self.replica.lingers:
            if self._lingering is None:
                loop = asyncio.get_running_loop()
                self._lingering = loop.call_later(self._linger_s, self._linger_no_more)
        elif self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _linger_no_more(self) -> None:
        self._lingering = None
        self.replica.linger_no_more()
        self._wake.set()

    def _follow_leader(self) -> None:
        leader = self.replica.leader
        if leader == self._leader:
            return
        self._leader = leader
        raft = self.replica.raft
        if leader:
            self.counters.leader_changes += 1
            name = f"{leader:016x}"
            self._log.info("leader", leader=name, term=raft.term, leading=raft.is_leader)
        else:
            self._log.info("no_leader", term=raft.term, role=raft.role.value)

    def _settle(self) -> None:
        for waiter in list(self._waiters):
            if waiter.future.done():
                continue
            try:
                if waiter.done():
                    waiter.future.set_result(None)
            except BedplateError as error:
                waiter.future.set_exception(error)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._tick_s
        while True:
            await asyncio.sleep(due - loop.time())
            self._tick_due = True
            self._wake.set()
            due = max(due + self._tick_s, loop.time() + self._tick_s / 2)

    def _later(self, event: Callable[[], None]) -> None:
        self._events.append(event)
        self._wake.set()


def _size(message: Message) -> int:
    if isinstance(message, Append) and isinstance(message.payload, bytes):
        return len(message.payload) + _MESSAGE_BYTES
    return _MESSAGE_BYTES


def no_leader() -> BedplateError:
    """What fails while nobody leads, or another member does; nothing was done."""
    return BedplateError(
        "no leader took this; try again", code=Code.UNAVAILABLE, reason="NO_LEADER"
    )


def leader_lost() -> BedplateError:
    """What fails when the leader stops leading meanwhile."""
    return BedplateError(
        "the leader was lost; what became of this is unknown",
        code=Code.UNAVAILABLE,
        reason="LEADER_LOST",
    )

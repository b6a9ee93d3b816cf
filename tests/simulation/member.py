"""One member: a machine, the replica that drives its store, and when each gets to run.

inbox, ticks, resets --> turn --> messages out, batches for the disk, entries to apply
                          ^                          |                   |
                          +------ completions, what is durable ----------+
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from bedplate.consensus.messages import Message
from bedplate.consensus.ready import Contradiction
from bedplate.consensus.replica import Replica, ReplicaSettings
from tests.simulation.history import Violation
from tests.simulation.machine import BatchCompletion, Failure, Machine, Operation, Outcome
from tests.simulation.timeline import MS

if TYPE_CHECKING:
    from tests.simulation.world import World

TURNS_MAX = 8
LINGER = ReplicaSettings().linger_ms * MS


class Forward(NamedTuple):
    """A batch on its way to the leader."""

    life: int
    batch: int
    requests: bytes


class Forwarded(NamedTuple):
    """Back again. None: nothing of it was done."""

    life: int
    batch: int
    outcomes: bytes | None


class Member:
    """Up or down; `life` counts the starts."""

    def __init__(self, world: World, member: int, machine: Machine) -> None:
        self.world = world
        self.member = member
        self.machine = machine
        self.replica: Replica | None = None
        self.life = 0
        self.removed = False
        self.suspect = False  # its disk was damaged
        self.dead = False  # it cannot start any more, and is to be replaced
        self.tick_period = 100 * MS
        self.disk_delay_max = 2 * MS
        self.stalled_until = 0
        self.frozen_until = 0
        self._inbox: list[Message] = []
        self._turn_due = self._log_due = self._apply_due = self._linger_due = False
        self._log_busy_since = 0
        self._was = (False, 0)
        self._commit = 0
        self._waiting: dict[int, Callable[[Outcome], None]] = {}
        self._batches: dict[int, tuple[int, Forward]] = {}  # cookie: whose batch
        self._cookie = 0

    @property
    def up(self) -> bool:
        return self.replica is not None

    @property
    def leads(self) -> bool:
        return self.replica is not None and self.replica.raft.is_leader

    # ---- lives ---------------------------------------------------------------------------------

    def start(self) -> None:
        assert self.replica is None
        self.life += 1
        self._inbox.clear()
        self._turn_due = self._log_due = self._apply_due = self._linger_due = False
        self.stalled_until = self.frozen_until = 0
        recovered = self.machine.start()
        self.replica = self.world.parts.replica(self, recovered)
        self._was, self._commit = (False, recovered.hard_state.term), recovered.hard_state.commit
        self._commit = max(self._commit, recovered.log.compacted)
        phase = int(self.world.random.random() * self.tick_period)
        self.world.timeline.after(phase, self._tick, self.life)
        self._react()

    def crash(self) -> int:
        """How many writes the disk lost."""
        assert self.replica is not None
        self.replica = None
        lost = self.machine.crash(self.world.random)
        self._lose_requests()
        return lost

    def _lose_requests(self) -> None:
        self._batches.clear()
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done(Failure(unknown=True))

    def reopen(self) -> None:
        """Its machine has a state that it shows after a start."""
        self.replica = None
        self._lose_requests()
        self.world.start(self)

    def stalled_ms(self) -> int:
        """How long the log has been in one write."""
        return (self.world.timeline.now - self._log_busy_since) // MS if self._log_due else 0

    # ---- what happens --------------------------------------------------------------------------

    def submit(self, operation: Operation, done: Callable[[Outcome], None]) -> None:
        if self.replica is None:
            done(Failure(unknown=False))
            return
        self._cookie += 1
        self._waiting[self._cookie] = done
        self.machine.submit(self._cookie, operation)
        self._react()

    def receive(self, source: int, parcel: object) -> None:
        """From the network."""
        if self.replica is None:
            return
        match parcel:
            case Message():
                self._inbox.append(parcel)
            case Forward():
                self._take_forward(source, parcel)
            case Forwarded(life, batch, outcomes) if life == self.life:
                if outcomes is None:
                    self.replica.batch_refused(batch)
                else:
                    self.machine.answer_batch(batch, outcomes)
                    self.replica.batch_done(batch)
        self._react()

    def connection_lost(self, peer: int) -> None:
        if self.replica is not None:
            self.replica.connection_lost(peer)
            self._react()

    def _take_forward(self, source: int, forward: Forward) -> None:
        if self.leads:
            self._cookie += 1
            self._batches[self._cookie] = (source, forward)
            self.machine.take_batch(self._cookie, forward.requests)
        else:
            refusal = Forwarded(forward.life, forward.batch, None)
            self.world.network.send(self.member, source, refusal)

    def _tick(self, life: int) -> None:
        if life != self.life or self.replica is None:
            return
        self.world.timeline.after(self.tick_period, self._tick, life)
        if not self._frozen():
            self.replica.tick()
            self._observe()
            self._react()

    # ---- its threads ---------------------------------------------------------------------------

    def _frozen(self) -> bool:
        return self.frozen_until > self.world.timeline.now

    def _react(self) -> None:
        """A turn, soon: whatever else comes until then is done by the same one."""
        if not self._turn_due:
            self._turn_due = True
            wait = max(0, self.frozen_until - self.world.timeline.now)
            soon = int(self.world.random.random() * self.world.turn_delay_max)
            self.world.timeline.after(wait + soon, self._turn, self.life)

    def _turn(self, life: int) -> None:
        if life != self.life or self.replica is None:
            return
        self._turn_due = False
        if self._frozen():
            self._react()
            return
        replica, machine = self.replica, self.machine
        inbox, self._inbox = self._inbox, []
        try:
            for message in inbox:
                replica.receive(message)
                self._observe()
            for _ in range(TURNS_MAX):
                busy = replica.turn()
                self._observe()
                self._commit = self.world.checks.turned(replica.raft, self._commit)
                if not busy:
                    break
        except Contradiction as contradiction:
            raise Violation(f"{self.member}: {contradiction}") from contradiction
        self._complete()
        if replica.lingers and not self._linger_due:
            self._linger_due = True
            self.world.timeline.after(LINGER, self._linger_no_more, life)
        if machine.has_log_work() and not self._log_due:
            self._begin_log_write()
        if machine.has_apply_work() and not self._apply_due:
            self._apply_due = True
            delay = int(self.world.random.random() * MS)
            self.world.timeline.after(delay, self._apply, life)

    def _begin_log_write(self) -> None:
        timeline = self.world.timeline
        self._log_due = True
        self._log_busy_since = timeline.now
        delay = int(self.world.random.random() * self.disk_delay_max)
        stall = max(0, self.stalled_until - timeline.now)
        timeline.after(delay + stall, self._log, self.life)

    def _log(self, life: int) -> None:
        if life != self.life or self.replica is None:
            return
        self._log_due = False
        if self.stalled_until > self.world.timeline.now:
            self._begin_log_write()
            return
        if self.machine.has_log_work():
            self.machine.step_log(self.world.random)
        if self.machine.has_log_work():
            self._begin_log_write()
        self._react()

    def _apply(self, life: int) -> None:
        if life != self.life or self.replica is None:
            return
        self._apply_due = False
        self.machine.step_apply()
        self.world.checks.applied(self.replica.raft)
        self._complete()
        self._react()

    def _linger_no_more(self, life: int) -> None:
        if life != self.life or self.replica is None:
            return
        self._linger_due = False
        self.replica.linger_no_more()
        self._react()

    def _complete(self) -> None:
        for completion in self.machine.completions():
            if isinstance(completion, BatchCompletion):
                source, forward = self._batches.pop(completion.cookie)
                answer = Forwarded(forward.life, forward.batch, completion.outcomes)
                self.world.network.send(self.member, source, answer)
            else:
                self._waiting.pop(completion.cookie)(completion.outcome)

    def _observe(self) -> None:
        """Who leads may change many times between two turns."""
        assert self.replica is not None
        raft = self.replica.raft
        is_ = (raft.is_leader, raft.term)
        if is_ != self._was:
            if raft.term != self._was[1]:
                self.world.checks.termed(raft)
            self._was = is_
            if raft.is_leader:
                self.world.checks.leads(raft)

    # ---- its outbox (fits Outbox) --------------------------------------------------------------

    def send(self, message: Message) -> None:
        assert self.replica is not None
        self.world.checks.sent(message, self.replica.raft)
        self.world.network.send(self.member, message.target, message)

    def forward(self, leader: int, batch: int, requests: bytes) -> bool:
        if (self.member, leader) in self.world.network.cut:
            return False
        self.world.network.send(self.member, leader, Forward(self.life, batch, requests))
        return True

    def send_snapshot(self, member: int) -> None:
        self.world.carry_snapshot(self, member)


def pick(random: Random, members: list[Member]) -> Member:
    return members[int(random.random() * len(members))]

"""One run: a cluster, its clients and its troubles on one clock, all decided by one seed.

|-- trouble (8 s) ----------------------------|-- peace: everything is mended -----------|
 clients read and write, the nemesis strikes    all members agree, answer, and the whole
 checks after every step                        history is linearizable; within 100 ticks
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import ClassVar

from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.membership import Change, ChangeKind, ChangeRefused, Membership
from bedplate.consensus.raft import Raft
from bedplate.consensus.ready import NotLeading, Settings
from bedplate.consensus.replica import Replica, ReplicaSettings
from tests.simulation.checks import Checks
from tests.simulation.clients import KEYS, Client
from tests.simulation.guard import limited
from tests.simulation.history import History, Violation
from tests.simulation.kinds import KINDS, Kind
from tests.simulation.leases import LeaseHolder
from tests.simulation.machine import Machine, Recovered, Refused, Snapshot
from tests.simulation.member import Member
from tests.simulation.model_machine import ModelMachine
from tests.simulation.model_store import WRITE_BYTES, ModelStore
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.timeline import MS, SECOND, Timeline

TROUBLE = 8 * SECOND
PEACE_TICKS_MAX = 100
CLIENTS = 4
# Small, so that limits are met, and elections held, all the time.
RAFT = Settings(
    election_ticks=5,
    resend_ticks=3,
    window_messages_max=4,
    window_bytes_max=10 * WRITE_BYTES,
    uncommitted_bytes_max=30 * WRITE_BYTES,
)
# As it ships, and with more on its way at a time.
REPLICAS = tuple(
    ReplicaSettings(
        leader_wait_ticks=20,
        stall_ticks=5,
        compact_ticks=3,
        forward_bytes_max=1 << 10,
        rounds_max=rounds,
    )
    for rounds in (ReplicaSettings().rounds_max, 8)
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of: the real rules on model machines, unless told otherwise."""

    raft_type: type[Raft] = Raft
    replica_type: type[Replica] = Replica
    log_type: type[EntryLog] = EntryLog
    store_type: type[ModelStore] = ModelStore

    kinds: ClassVar[tuple[Kind, ...]] = KINDS
    raft_settings: ClassVar[Settings] = RAFT
    write_bytes: ClassVar[int] = WRITE_BYTES
    repairs: ClassVar[bool] = False  # disks may be damaged, and mended from others
    deletes: ClassVar[float] = 0.0  # of all writes
    replay: ClassVar[str] = ""  # what the command that replays a seed needs besides

    def machine(self, world: World, number: int, founders: frozenset[int]) -> Machine:
        return ModelMachine(
            founders,
            world.stalled_ms_of(number),
            store_type=self.store_type,
            log_type=self.log_type,
        )

    def holders(self, world: World) -> Sequence[LeaseHolder]:
        """Who holds leases."""
        return ()

    def replica(self, member: Member, recovered: Recovered) -> Replica:
        store = member.machine.store
        raft = self.raft_type(
            member.member,
            settings=member.world.settings,
            log=recovered.log,
            hard_state=recovered.hard_state,
            reach=store.reach,
            random=member.world.random.randrange,
        )
        return self.replica_type(raft, store, member, REPLICAS[member.member % len(REPLICAS)])


@dataclass(slots=True)
class Result:
    """What a run saw."""

    seed: int
    kind: str
    counts: dict[str, int]
    events: int = 0
    trace: list[str] = field(default_factory=list)


class World:
    """`run` raises Violation, and AssertionError where the code noticed first."""

    def __init__(
        self,
        seed: int,
        *,
        parts: Parts | None = None,
        kind: Kind | None = None,
        trace: bool = False,
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.parts = parts or Parts()
        self.kind = kind or self.parts.kinds[seed % len(self.parts.kinds)]
        self.timeline = Timeline()
        self.network = Network(self.timeline, self.random, self._deliver, self._told)
        self.machines: dict[int, Machine] = {}
        self.members: dict[int, Member] = {}
        self.checks = Checks(self.machines)
        self.history = History()
        self.membership = Membership(frozenset())  # the newest that is committed
        message_bytes = self.random.choice((1, 3, 6)) * self.parts.write_bytes
        self.settings = replace(self.parts.raft_settings, message_bytes_max=message_bytes)
        self.replies_lost = 0.05
        self.turn_delay_max = self.kind.turn_delay_max
        self.trace: list[str] | None = [] if trace else None
        self._change_index = 0
        self._were_members: set[int] = set()
        self._replacing: set[int] = set()  # who is dead, and counted on
        self._sectors: dict[int, int] = {}  # that each machine had lost by its last crash
        self._clients = [Client(self, number) for number in range(1, CLIENTS + 1)]
        self._holders = self.parts.holders(self)
        self._nemesis = Nemesis(self, self.kind)

    def run(self) -> Result:
        self._found()
        for client in self._clients:
            client.start()
        for holder in self._holders:
            holder.start()
        self._nemesis.start()
        self.timeline.run_until(TROUBLE)
        self._make_peace()
        self._require_progress()
        self.history.check()
        counts = self.checks.counts
        counts["answered"] = self.history.answered
        counts["unknown"] = self.history.unknown
        counts["retries"] = sum(client.retries for client in self._clients)
        counts["messages_lost"] = self.network.lost
        return Result(
            self.seed, self.kind.name, dict(counts), self.timeline.events, self.trace or []
        )

    def close(self) -> None:
        for machine in self.machines.values():
            machine.close()

    def note(self, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.timeline.now / SECOND:9.6f}  {what}")

    # ---- who is there --------------------------------------------------------------------------

    @property
    def present(self) -> list[Member]:
        """Everybody who has not been removed."""
        return [member for member in self.members.values() if not member.removed]

    @property
    def reachable(self) -> list[Member]:
        """Whom a client may ask: who is known to be a member."""
        known = [self.members[member] for member in sorted(self.membership.members)]
        return known or self.present

    @property
    def next_member(self) -> int:
        return len(self.members) + 1

    def _found(self) -> None:
        size = self.random.choice((3, 3, 5, 2, 1) if "add" in self.kind.weights else (3, 3, 5))
        founders = frozenset(range(1, size + 1))
        self.membership = Membership(founders)
        self._were_members |= founders
        for _ in founders:
            self._make(founders)
        self._watch_membership()
        if self.parts.repairs:
            self._repair()

    def stalled_ms_of(self, number: int) -> Callable[[], int]:
        return lambda: self.members[number].stalled_ms() if number in self.members else 0

    def _make(self, founders: frozenset[int]) -> Member:
        number = self.next_member
        machine = self.parts.machine(self, number, founders)
        member = Member(self, number, machine)
        member.disk_delay_max = self.kind.disk_delay_max
        self.machines[number], self.members[number] = machine, member
        member.start()
        return member

    def join(self) -> Member:
        """A machine with an empty disk, which an entry in a leader's log names."""
        return self._make(frozenset())

    def crash(self, member: Member) -> None:
        self.checks.counts["crashes"] += 1
        lost = member.crash()
        self.checks.counts["lost_writes"] += lost > 0
        sectors, self._sectors[member.member] = (
            self._sectors.get(member.member, 0),
            member.machine.lost_sectors,
        )
        self.checks.counts["lost_sectors"] += member.machine.lost_sectors - sectors
        self.note(f"{member.member} crashed; {lost} batches lost")
        noticed = self.random.random() < 0.7  # else the machine is gone without a word
        for other in self.present:
            if other is not member:
                self.network.reset(member.member, other.member, noticed=noticed)

    def restart(self, member: Member) -> None:
        if not member.up and not member.removed and not member.dead:
            self.start(member)

    def start(self, member: Member) -> None:
        """Whoever cannot start is replaced under a new id, if that is no surprise."""
        try:
            member.start()
        except Refused as refusal:
            self.note(f"{member.member} does not start: {refusal}")
            if refusal.passing:
                self.checks.counts["full_starts"] += 1
                self.timeline.after(SECOND // 2, self.restart, member)
                return
            if not member.suspect:
                raise
            self.checks.counts["replaced"] += 1
            member.dead = True
            self._replacing.add(member.member)
            self.timeline.after(50 * MS, self._replace, member, None)

    def _replace(self, dead: Member, new: Member | None) -> None:
        """STORAGE.md 9: never again under its old id. Remove it, add another, have that vote."""
        for leader in self.present:
            if leader.replica is None or not leader.leads:
                continue
            membership = leader.replica.raft.membership
            if dead.member in membership.members:
                change = Change(ChangeKind.REMOVE, dead.member)
            elif new is None or new.member not in membership.members:
                new = new or self.join()
                change = Change(ChangeKind.ADD_LEARNER, new.member)
            elif new.member in membership.learners:
                change = Change(ChangeKind.PROMOTE, new.member)
            else:
                self._replacing.discard(dead.member)
                return
            with contextlib.suppress(ChangeRefused, NotLeading):
                leader.replica.change(change)
                self.note(f"{leader.member} begins to {change.kind.value} {change.member}")
                self.poke(leader)
            break
        self.timeline.after(50 * MS, self._replace, dead, new)

    def _repair(self) -> None:
        """What members found damaged, they fetch from others."""
        up = [member.machine for member in self.present if member.up]
        for machine in up:
            others = [other for other in up if other is not machine]
            self.checks.counts["repaired"] += machine.repair(others)
        self.timeline.after(100 * MS, self._repair)

    def replace_disk(self, member: Member) -> None:
        """Its log failed: it starts again with what is readable."""
        if member.up:
            self.crash(member)
        self.restart(member)

    def poke(self, member: Member) -> None:
        member.receive(member.member, None)

    def _deliver(self, source: int, target: int, parcel: object) -> None:
        member = self.members.get(target)
        if member is not None:
            member.receive(source, parcel)

    def _told(self, member: int, peer: int) -> None:
        if member in self.members:
            self.members[member].connection_lost(peer)

    # ---- members come and go -------------------------------------------------------------------

    def _watch_membership(self) -> None:
        """Follows what leaders have committed; who was removed is switched off, not at once."""
        for member in self.present:
            if member.replica is None or not member.leads:
                continue
            log = member.replica.raft.log
            if self._change_index < log.change_index <= member.replica.raft.commit:
                self._change_index = log.change_index
                self.membership = log.membership
                self._were_members |= log.membership.members
        for gone in self._were_members - self.membership.members:
            self._were_members.discard(gone)
            delay = int(self.random.random() * 2 * SECOND)
            self.timeline.after(delay, self._switch_off, self.members[gone])
        self.timeline.after(50 * MS, self._watch_membership)

    def _switch_off(self, member: Member) -> None:
        member.removed = True
        if member.up:
            member.crash()

    # ---- snapshots -----------------------------------------------------------------------------

    def carry_snapshot(self, sender: Member, target: int) -> None:
        snapshot = sender.machine.snapshot()
        if snapshot is None:
            self.timeline.after(MS, self._snapshot_sent, sender, sender.life, target, False)
            return
        delay = int(self.random.random() * 100 * MS)
        self.timeline.after(delay, self._install, sender, sender.life, target, snapshot, 20)

    def _install(
        self, sender: Member, life: int, target: int, snapshot: Snapshot, tries: int
    ) -> None:
        receiver = self.members.get(target)
        cut = bool({(sender.member, target), (target, sender.member)} & self.network.cut)
        if receiver is None or receiver.replica is None or cut or tries == 0:
            snapshot.close()
            self._snapshot_sent(sender, life, target, False)
            return
        raft = receiver.replica.raft
        if not raft.wants_snapshot(snapshot.index, snapshot.term):
            snapshot.close()
            self._snapshot_sent(sender, life, target, not raft.failed)
        elif receiver.machine.install(snapshot, raft.hard_state):
            snapshot.close()
            self.checks.counts["snapshots"] += 1
            self.note(f"{target} installed a snapshot of {snapshot.index}")
            if receiver.machine.installs_by_restart:
                receiver.reopen()
            else:
                raft.restored(snapshot.index, snapshot.term, snapshot.membership)
            self._snapshot_sent(sender, life, target, True)
            self.poke(receiver)
        else:
            again = (sender, life, target, snapshot, tries - 1)
            self.timeline.after(5 * MS, self._install, *again)

    def _snapshot_sent(self, sender: Member, life: int, target: int, installed: bool) -> None:
        if sender.replica is not None and sender.life == life:
            sender.replica.raft.snapshot_sent(target, installed=installed)
            self.poke(sender)

    # ---- peace ---------------------------------------------------------------------------------

    def _make_peace(self) -> None:
        self.note("peace")
        self._nemesis.stopped = True
        for client in self._clients:
            client.stopped = True
        for holder in self._holders:
            holder.stopped = True
        self.replies_lost = 0.0
        self.network.heal()
        self.turn_delay_max = MS
        for member in self.present:
            member.stalled_until = 0
            member.tick_period, member.disk_delay_max = 100 * MS, 2 * MS
            member.machine.empty_disk()
            if member.up and member.machine.store.look().failed:
                self.crash(member)
            self.restart(member)

    def _require_progress(self) -> None:
        """Bounded: an election may take two timeouts, clients wait for theirs."""
        end = self.timeline.now + PEACE_TICKS_MAX * 100 * MS
        self._await(end, self._settled, "no leader, or members do not agree")
        probe = Client(self, CLIENTS + 1, attempts_max=1000)  # until peace ends
        steps: list[Callable[[], None]] = []

        def then() -> None:
            if steps:
                steps.pop()()

        for member in [self.members[number] for number in sorted(self.membership.members)]:
            for key in KEYS:
                steps.append(lambda key=key, member=member: probe.read(key, member, then))  # type: ignore[misc]
            steps.append(lambda member=member: probe.write(KEYS[0], member, then))  # type: ignore[misc]
        expected = self.history.answered + len(steps)
        then()
        self._await(end, lambda: self.history.answered >= expected, "members do not answer")
        self._await(
            end, lambda: all(holder.ended for holder in self._holders), "a lease does not end"
        )
        self._await(end, self._settled, "members do not agree in the end")
        states = [self.machines[member].state() for member in sorted(self.membership.members)]
        if any(state != states[0] for state in states):
            raise Violation("members applied the same and differ")

    def _await(self, end: int, done: Callable[[], bool], otherwise: str) -> None:
        while not done():
            if self.timeline.now >= end:
                raise Violation(f"no progress: {otherwise}")
            self.timeline.run_until(min(end, self.timeline.now + 20 * MS))

    def _settled(self) -> bool:
        """One leader, everybody in its membership has applied all it has, no client waits."""
        if self._replacing or any(client.busy for client in self._clients):
            return False
        leaders = [member for member in self.present if member.leads]
        if len(leaders) != 1 or leaders[0].replica is None:
            return False
        raft = leaders[0].replica.raft
        if raft.membership != self.membership or raft.commit != raft.log.last:
            return False
        members = [self.members[number] for number in raft.membership.members]
        return all(
            member.replica is not None and member.replica.state.applied == raft.commit
            for member in members
        )


def run(seed: int, *, parts: Parts | None = None, trace: bool = False) -> Result:
    """Raises Violation, with the command that replays it."""
    world = World(seed, parts=parts, trace=trace)
    try:
        with limited():
            return world.run()
    except Exception as error:
        if world.trace is not None:
            print("\n".join(world.trace))
        replay = f"python -m tests.simulation.soak --seed {seed}{world.parts.replay} --trace"
        raise Violation(f"seed {seed} ({world.kind.name}): {error!r}\nreplay: {replay}") from error
    finally:
        world.close()

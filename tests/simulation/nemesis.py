"""What goes wrong: one method a trouble, each of which passes by itself or is mended in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bedplate.consensus.membership import Change, ChangeKind, ChangeRefused
from bedplate.consensus.messages import TimeoutNow
from bedplate.consensus.ready import NotLeading
from tests.simulation.kinds import Kind
from tests.simulation.member import Member, pick
from tests.simulation.network import Link, Weather
from tests.simulation.timeline import MS, SECOND

if TYPE_CHECKING:
    from tests.simulation.world import World

VOTERS_MAX = 5


class Nemesis:
    """Makes trouble until told to stop."""

    def __init__(self, world: World, kind: Kind) -> None:
        self.world = world
        self.random = world.random
        self.counts = world.checks.counts
        self.stopped = False
        self._gap = kind.gap
        self._troubles = [getattr(self, name) for name in kind.weights]
        self._weights = list(kind.weights.values())

    def start(self) -> None:
        self._wait()

    def _wait(self) -> None:
        delay = int(self.random.expovariate(1) * self._gap)
        self.world.timeline.after(delay, self._strike)

    def _strike(self) -> None:
        if self.stopped:
            return
        trouble = self.random.choices(self._troubles, self._weights)[0]
        self.world.note(f"nemesis: {trouble.__name__}")
        trouble()
        self._wait()

    def _for(self, longest: int) -> int:
        return int(self.random.random() * longest)

    def _any(self) -> Member | None:
        up = [member for member in self.world.present if member.up]
        return pick(self.random, up) if up else None

    def _leader(self) -> Member | None:
        leaders = [member for member in self.world.present if member.leads]
        return pick(self.random, leaders) if leaders else None

    # ---- machines ------------------------------------------------------------------------------

    def crash(self) -> None:
        """Most often one whose disk is behind."""
        busy = [m for m in self.world.present if m.up and m.machine.has_log_work()]
        member = pick(self.random, busy) if busy else self._any()
        if member is not None:
            self.world.crash(member)
            self._restart_later(member)

    def crash_leader(self) -> None:
        if member := self._leader():
            self.world.crash(member)
            self._restart_later(member)

    def crash_all(self) -> None:
        for member in self.world.present:
            if member.up:
                self.world.crash(member)
                self._restart_later(member)

    def uprising(self) -> None:
        """Late words of leaders that handed over reach two members at once; both stand. Whoever
        is asked by both may crash in between, and be back before they are done.
        """
        up = [member for member in self.world.present if member.up]
        for member in self.random.sample(up, min(2, len(up))):
            assert member.replica is not None
            raft = member.replica.raft
            member.receive(0, TimeoutNow(raft.leader, member.member, raft.term))
        for _ in range(3):
            self.world.timeline.after(self._for(30 * MS), self._blink)

    def _blink(self) -> None:
        busy = [m for m in self.world.present if m.up and m.machine.has_log_work()]
        if busy and not self.stopped:
            member = pick(self.random, busy)
            self.world.crash(member)
            self.world.timeline.after(self._for(5 * MS), self.world.restart, member)

    def _restart_later(self, member: Member) -> None:
        longest = 100 * MS if self.random.random() < 0.5 else 2 * SECOND
        self.world.timeline.after(self._for(longest), self.world.restart, member)

    def freeze(self) -> None:
        """The process is stopped, and goes on later as if nothing had been."""
        if member := self._any():
            member.frozen_until = self.world.timeline.now + self._for(3 * SECOND)

    def freeze_leader(self) -> None:
        if member := self._leader():
            member.frozen_until = self.world.timeline.now + self._for(3 * SECOND)

    def clock(self) -> None:
        """It runs at half or twice its speed."""
        if member := self._any():
            member.tick_period = int(100 * MS * (0.5 + 1.5 * self.random.random()))

    # ---- disks ---------------------------------------------------------------------------------

    def stall(self) -> None:
        if member := self._any():
            member.stalled_until = self.world.timeline.now + self._for(3 * SECOND)

    def slow(self) -> None:
        if member := self._any():
            member.disk_delay_max = self._for(100 * MS)

    def fail(self) -> None:
        """The log fails; somebody looks after it and starts the member again."""
        if member := self._any():
            self.counts["failed"] += 1
            member.machine.fail_log(self.random)
            self.world.timeline.after(self._for(2 * SECOND), self.world.replace_disk, member)

    def flip(self) -> None:
        """Bits of one disk turn over: of one member at a time, for two may be no minority."""
        suspects = [member for member in self.world.present if member.suspect]
        if any(member.dead for member in suspects):
            return
        member = suspects[0] if suspects else self._any()
        if member is None:
            return
        for _ in range(1 + self._for(6)):
            if member.machine.flip(self.random):
                member.suspect = True
                self.counts["flips"] += 1

    def misread(self) -> None:
        """For a while a disk reads nothing of what was written earlier."""
        if member := self._any():
            member.machine.misread(self.random)

    def fill(self) -> None:
        if member := self._any():
            self._fill(member)

    def fill_leader(self) -> None:
        if member := self._leader():
            self._fill(member)

    def _fill(self, member: Member) -> None:
        """Somebody else's files take the room, for a while."""
        self.counts["filled"] += 1
        member.machine.fill_disk(self.random)
        self.world.timeline.after(self._for(3 * SECOND), member.machine.empty_disk)

    # ---- network -------------------------------------------------------------------------------

    def _cut(self, links: set[Link]) -> None:
        self.counts["cuts"] += 1
        self.world.network.cut |= links
        self.world.timeline.after(self._for(3 * SECOND), self._mend, links)

    def _mend(self, links: set[Link]) -> None:
        self.world.network.cut -= links

    def isolate_leader(self) -> None:
        if member := self._leader():
            others = [other.member for other in self.world.present if other is not member]
            links = {(member.member, other) for other in others}
            self._cut(links | {(target, source) for source, target in links})

    def narrow(self) -> None:
        """The leader, and one that hears it, apart from all others."""
        if member := self._leader():
            others = [other.member for other in self.world.present if other is not member]
            side = {member.member, *self.random.sample(others, min(1, len(others)))}
            rest = set(others) - side
            self._cut({(a, b) for a in side for b in rest} | {(b, a) for a in side for b in rest})

    def figure_eight(self) -> None:
        """Figure 8 of the paper: entries that a minority holds, a newer one that nobody but its
        leader has heard of, and then the minority again, which may spread what it holds.
        """
        leader = self._leader()
        if leader is None:
            return
        others = [member for member in self.world.present if member is not leader]
        side = [leader, *self.random.sample(others, len(others) // 2 - (len(others) > 1))]
        rest = [member for member in others if member not in side]
        links = {(a.member, b.member) for a in side for b in rest}
        self.world.network.cut |= links | {(b, a) for a, b in links}
        self.world.timeline.after(150 * MS, self._wait_for_newer, side, rest, 1500)

    def _wait_for_newer(self, side: list[Member], rest: list[Member], tries: int) -> None:
        for member in side:
            if member.up:
                self.world.crash(member)
        newer = [member for member in rest if member.leads]
        if not newer and tries > 0 and not self.stopped:
            self.world.timeline.after(MS, self._wait_for_newer, side, rest, tries - 1)
            return
        for member in newer:
            others = [other.member for other in self.world.present if other is not member]
            self.world.network.cut |= {(member.member, other) for other in others}
        self.world.timeline.after(30 * MS, self._minority_returns, side, newer)

    def _minority_returns(self, side: list[Member], newer: list[Member]) -> None:
        for member in newer:
            if member.up:
                self.world.crash(member)
                self.world.timeline.after(2 * SECOND, self.world.restart, member)
        self.world.network.cut.clear()
        for member in side:
            self.world.restart(member)

    def cut(self) -> None:
        """Two sides that do not hear each other."""
        members = [member.member for member in self.world.present]
        side = {member for member in members if self.random.random() < 0.5}
        self._cut({(a, b) for a in members for b in members if (a in side) != (b in side)})

    def one_way(self) -> None:
        """Somebody hears, or is heard, but not both."""
        if member := self._any():
            others = [other.member for other in self.world.present if other is not member]
            deaf = self.random.random() < 0.5
            me = member.member
            self._cut({(other, me) if deaf else (me, other) for other in others})

    def weather(self) -> None:
        calm = self.random.random() < 0.2
        self.world.network.weather = (
            Weather()
            if calm
            else Weather(
                loss=self.random.random() * 0.3,
                duplication=self.random.random() * 0.2,
                reordering=self.random.random() * 0.2,
                delay_max=self._for(100 * MS),
            )
        )

    def reset(self) -> None:
        if (one := self._any()) and (other := self._any()) and one is not other:
            noticed = self.random.random() < 0.8
            self.world.network.reset(one.member, other.member, noticed=noticed)

    def stray_snapshot(self) -> None:
        """One that was asked for long ago reaches somebody who may need it no longer."""
        if leader := self._leader():
            self.world.carry_snapshot(leader, pick(self.random, self.world.present).member)

    # ---- operators -----------------------------------------------------------------------------

    def transfer(self) -> None:
        if member := self._leader():
            assert member.replica is not None
            target = pick(self.random, self.world.present).member
            try:
                member.replica.raft.transfer(target)
                self.counts["transfers"] += 1
            except ChangeRefused:
                pass

    def add(self) -> None:
        voters = len(self.world.membership.voters)
        if len(self.world.membership.members) < VOTERS_MAX + 1 and voters < VOTERS_MAX:
            self._change(ChangeKind.ADD_LEARNER, self.world.next_member)

    def promote(self) -> None:
        learners = sorted(self.world.membership.learners)
        if learners and len(self.world.membership.voters) < VOTERS_MAX:
            self._change(ChangeKind.PROMOTE, self.random.choice(learners))

    def remove(self) -> None:
        if len(self.world.membership.voters) > 1:
            self._change(
                ChangeKind.REMOVE, self.random.choice(sorted(self.world.membership.members))
            )

    def _change(self, kind: ChangeKind, member: int) -> None:
        leader = self._leader()
        if leader is None or leader.replica is None or leader.replica.raft.failed:
            return
        try:
            leader.replica.change(Change(kind, member))
        except (ChangeRefused, NotLeading):
            return
        self.counts[kind.value] += 1
        if kind is ChangeKind.ADD_LEARNER:
            self.world.join()
        self.world.poke(leader)

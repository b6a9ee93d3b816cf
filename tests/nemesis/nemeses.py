"""What is done to a running cluster: each nemesis begins a fault, lets it last, and ends it.

They come one after the other in an order that a seed makes; every kind that the network allows
comes up once before any comes up again. After each there is a time of peace, so that the next one
meets a cluster at work. Each sees to it that its fault is felt, and waits for that if it must: a
fault that nobody noticed proves nothing, and fails the run.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from tests.integration.daemon import PATIENCE_S
from tests.nemesis.clients import Load
from tests.nemesis.cluster import Cluster, Member, faketime_library
from tests.nemesis.membership import churn, snapshot_to_new_member
from tests.nemesis.proxy import Weather

CUT = Weather(cut=True)
FELT_S = 15.0
READS = 16  # that wait for a paused leader
LOG_BYTES = 3 << 20  # far more than members keep of what they have applied


@dataclass(slots=True)
class Situation:
    """What a nemesis is given."""

    cluster: Cluster
    load: Load
    rng: random.Random
    seconds: float  # how long faults last, about

    async def last(self, share: float = 1.0) -> None:
        """Let the fault last."""
        await asyncio.sleep(self.seconds * share * self.rng.uniform(0.6, 1.4))

    async def felt(self, what: str, so: Callable[[], Awaitable[bool]]) -> None:
        """Wait until the fault shows. Raises AssertionError."""
        deadline = time.monotonic() + FELT_S
        while not await so():
            assert time.monotonic() < deadline, f"the fault had no effect: {what}"
            await asyncio.sleep(0.05)

    async def hindered(self, before: int) -> None:
        """Something between members came late, or not at all, since that count."""

        async def so() -> bool:
            return self.cluster.network.hindered > before

        await self.felt("nothing was held back", so)

    @property
    def everybody(self) -> list[Member]:
        return list(self.cluster.members.values())


Nemesis = Callable[[Situation], Awaitable[None]]
Order = Iterator[Nemesis]


async def kill_any(given: Situation) -> None:
    """SIGKILL of one member."""
    member = given.rng.choice(given.everybody)
    await given.cluster.kill(member)
    await given.last()
    await given.cluster.start(member)


async def kill_leader(given: Situation) -> None:
    """SIGKILL of whoever leads."""
    member = await given.cluster.leader(PATIENCE_S)
    await given.cluster.kill(member)
    await _succession(given, member)
    await given.last(0.5)
    await given.cluster.start(member)


async def kill_all(given: Situation) -> None:
    """Every member dies at the same moment, as by a power cut; they come back in any order."""
    members = given.everybody
    await given.cluster.kill(*members)
    given.rng.shuffle(members)
    for member in members:
        await given.cluster.start(member)
        await given.last(0.1)


async def torn_write(given: Situation) -> None:
    """A member dies with half of a frame written, then starts again."""
    member = await given.cluster.some()
    await _with_failpoints(given, member, {"log.write": f"short@{given.rng.randint(5, 40)}"})


async def pause_any(given: Situation) -> None:
    """SIGSTOP and SIGCONT of one member."""
    member = given.rng.choice(given.everybody)
    given.cluster.pause(member)
    await given.last()
    given.cluster.resume(member)


async def pause_leader(given: Situation) -> None:
    """A leader stops for long enough that there is another, who takes writes; then it goes on with
    what it was asked meanwhile, and must answer that with what is true by then.
    """
    member = await given.cluster.leader(PATIENCE_S)
    await _depose_paused(given, member)
    answered = given.load.read.get(member.number, 0)
    given.cluster.resume(member)
    await _answers(given, member, answered + READS)


async def wake_alone(given: Situation) -> None:
    """As pause_leader, but the leader is cut off when it goes on: nobody tells it that it was
    deposed, and it must not answer before it has found out.
    """
    member = await given.cluster.leader(PATIENCE_S)
    given.cluster.pause(member)
    before = given.cluster.network.hindered
    await _cut_off(given, member)
    await _depose_paused(given, member)
    answered = given.load.read.get(member.number, 0)
    given.cluster.resume(member)
    await given.last(0.5)
    await given.hindered(before)
    await given.cluster.network.heal()
    await _answers(given, member, answered + READS)


async def cut_leader_off(given: Situation) -> None:
    """Whoever leads is cut off both ways, for as long as others need to make a new leader: what it
    is asked to write meanwhile is decided by nobody.
    """
    before = given.cluster.network.hindered
    member = await given.cluster.leader(PATIENCE_S)
    await _cut_off(given, member)
    await _succession(given, member)
    await given.last(0.5)
    await given.hindered(before)
    await given.cluster.network.heal()


async def cut_one_off(given: Situation) -> None:
    """Some member is cut off both ways."""
    before = given.cluster.network.hindered
    await _cut_off(given, await given.cluster.some())
    await given.last()
    await given.hindered(before)
    await given.cluster.network.heal()


async def cut_one_way(given: Situation) -> None:
    """One member, often the leader, is heard by nobody, or hears nobody."""
    before = given.cluster.network.hindered
    alone = await given.cluster.some()
    deaf = given.rng.random() < 0.5
    for other in given.everybody:
        if other is not alone:
            await _cut(given, *((other, alone) if deaf else (alone, other)))
    await given.last()
    await given.hindered(before)
    await given.cluster.network.heal()


async def cut_a_pair(given: Situation) -> None:
    """Two members do not see each other; a third one sees both."""
    before = given.cluster.network.hindered
    one, other = given.rng.sample(given.everybody, 2)
    await _cut(given, one, other)
    if given.rng.random() < 0.5:
        await _cut(given, other, one)
    await given.last()
    await given.hindered(before)
    await given.cluster.network.heal()


async def split(given: Situation) -> None:
    """Nobody sees anybody: no majority, so nothing may be decided."""
    before = given.cluster.network.hindered
    for one in given.everybody:
        for other in given.everybody:
            if one is not other:
                await _cut(given, one, other)
    await given.last()
    await given.hindered(before)
    await given.cluster.network.heal()


async def bad_lines(given: Situation) -> None:
    """Loss, delay, jitter and little room on every line, each direction with its own."""
    before = given.cluster.network.hindered
    for one in given.everybody:
        for other in given.everybody:
            weather = Weather(
                delay_s=given.rng.choice((0.0, 0.01, 0.1)),
                jitter_s=given.rng.choice((0.0, 0.05, 0.3)),
                loss=given.rng.choice((0.0, 0.05, 0.3)),
                bytes_per_s=given.rng.choice((0.0, 200_000.0)),
            )
            await given.cluster.network.set_weather(one.number, other.number, weather)
    await given.last(1.5)
    await given.hindered(before)
    await given.cluster.network.heal()


async def resets(given: Situation) -> None:
    """Connections break, again and again."""
    broken = 0
    for _ in range(5):
        one, other = given.rng.sample(given.everybody, 2)
        broken += await given.cluster.network.reset(one.number, other.number)
        await given.last(0.2)
    assert broken, "the fault had no effect: there was no connection to break"


async def slow_disk(given: Situation) -> None:
    """Every sync of one member's log takes long; sometimes longer than an election."""
    member = await given.cluster.some()
    ms = given.rng.choice((50, 300, 2500))
    await _with_failpoints(given, member, {"log.sync": f"slow@3x0:{ms}"})


async def full_disk(given: Situation) -> None:
    """One member's disk is full for a while."""
    member = await given.cluster.some()
    first = given.rng.randint(3, 10)
    fault = {"log.write": f"enospc@{first}x30", "log.allocate": "enospc@2x10"}
    await _with_failpoints(given, member, fault)


async def bad_disk(given: Situation) -> None:
    """A sync of one member's log fails: it must never count what it wrote."""
    member = await given.cluster.some()
    await _with_failpoints(given, member, {"log.sync": f"eio@{given.rng.randint(5, 30)}"})


async def clock_jumps(given: Situation) -> None:
    """One member's wall clock jumps hours, days and seconds, both ways."""
    for member in given.everybody:
        if member.clock is None:
            continue
        for _ in range(4):
            sign = given.rng.choice((-1, 1))
            await _turn(given, member, sign * given.rng.choice((2, 60, 3700, 90_000)))
        await _turn(given, member, 0)


async def change_members(given: Situation) -> None:
    """A member is added, promoted, and another one removed, the leader perhaps."""
    await churn(given.cluster, given.rng)


async def install_snapshot(given: Situation) -> None:
    """A new member gets its state while clients write."""
    before = given.cluster.snapshots_installed

    async def long() -> bool:
        return given.load.ballast_bytes > LOG_BYTES

    await given.felt("the log has its beginning yet", long)
    await snapshot_to_new_member(given.cluster, given.rng)
    assert given.cluster.snapshots_installed > before, "the fault had no effect: no snapshot"


async def fall_behind(given: Situation) -> None:
    """A member is away for long enough that the log alone may not bring it back."""
    member = await given.cluster.follower()
    await given.cluster.kill(member)
    acknowledged = given.load.acknowledged
    await given.last(2.0)
    assert given.load.acknowledged > acknowledged, "the fault had no effect: nothing was written"
    await given.cluster.start(member)


async def _succession(given: Situation, member: Member) -> None:
    """Somebody else leads."""

    async def so() -> bool:
        return await given.cluster.leader(PATIENCE_S) is not member

    await given.felt("nobody else leads", so)


async def _depose_paused(given: Situation, member: Member) -> None:
    """It stands still until others have written and it was asked."""
    load = given.load
    given.cluster.pause(member)
    await _succession(given, member)
    written = load.acknowledged

    async def asked() -> bool:
        return load.acknowledged >= written + 20 and load.reading.get(member.number, 0) >= READS

    await given.felt("nobody asked the paused leader", asked)


async def _answers(given: Situation, member: Member, reads: int) -> None:
    """It has answered so many."""

    async def so() -> bool:
        return given.load.read.get(member.number, 0) >= reads

    await given.felt("the paused leader answered no read", so)


async def _cut_off(given: Situation, alone: Member) -> None:
    for other in given.everybody:
        if other is not alone:
            await _cut(given, alone, other)
            await _cut(given, other, alone)


async def _turn(given: Situation, member: Member, seconds: float) -> None:
    """Its clock goes wrong by so much, and it sees that."""
    given.cluster.turn_clock(member, seconds)

    async def so() -> bool:
        return abs(await given.cluster.clock_of(member) - time.time() - seconds) < 1.7

    await given.felt(f"the clock did not jump by {seconds} s", so)


async def _cut(given: Situation, source: Member, target: Member) -> None:
    await given.cluster.network.set_weather(source.number, target.number, CUT)


async def _with_failpoints(given: Situation, member: Member, failpoints: dict[str, str]) -> None:
    """Faults are armed by configuration, so the member starts again, twice."""
    if member.running:
        await given.cluster.kill(member)
    member.failpoints = failpoints
    await given.cluster.start(member)

    async def so() -> bool:
        return await given.cluster.failpoint_hits(member) > 0

    await given.felt(f"{failpoints} was never met", so)
    await given.last()
    member.failpoints = {}
    if member.running:
        await given.cluster.kill(member)
    else:
        await asyncio.to_thread(member.daemon.reap)
    await given.cluster.start(member)


ALONE: tuple[Nemesis, ...] = (
    kill_any,
    torn_write,
    pause_any,
    slow_disk,
    full_disk,
    bad_disk,
)
TOGETHER: tuple[Nemesis, ...] = (
    kill_leader,
    pause_leader,
    wake_alone,
    kill_all,
    cut_leader_off,
    cut_one_off,
    cut_one_way,
    cut_a_pair,
    split,
    fall_behind,
)
LINES: tuple[Nemesis, ...] = (bad_lines, resets)
MEMBERSHIP: tuple[Nemesis, ...] = (change_members, install_snapshot)


def allowed(cluster: Cluster) -> list[Nemesis]:
    """What can be done to this cluster."""
    kinds = [*ALONE]
    if len(cluster.members) > 1:
        kinds += TOGETHER + MEMBERSHIP
        if cluster.network.can_delay:
            kinds += LINES
    if any(member.clock is not None for member in cluster.members.values()):
        kinds.append(clock_jumps)
    return kinds


def by_name(cluster: Cluster, names: list[str]) -> list[Nemesis]:
    """The named ones, or all that are allowed. Raises KeyError."""
    known = {kind.__name__: kind for kind in allowed(cluster)}
    return [known[name] for name in names] if names else list(known.values())


def order(rng: random.Random, kinds: list[Nemesis]) -> Iterator[Nemesis]:
    """For ever: all kinds, in an order of their own each time."""
    while True:
        yield from rng.sample(kinds, len(kinds))


def has_clock() -> bool:
    """Whether a process's clock can be turned here."""
    return faketime_library() is not None

"""kill -9 of the daemon under concurrent load, again and again: no acknowledged write lost, none
invented, none half applied.
"""

import asyncio
import os
import random
import signal
from typing import Any

import grpc.aio
import pytest

from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from tests.faults.conftest import MakeDaemon
from tests.faults.recorder import (
    CALL_TIMEOUT_S,
    UNKNOWN,
    State,
    Version,
    Writer,
    check_all,
    settle_all,
)
from tests.faults.warm_daemon import WarmDaemon

ROUNDS = int(os.environ.get("BEDPLATE_KILL_ROUNDS", "25"))
WRITERS = 12
COUNTER = b"counter"
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))


class Counter:
    """Compare-and-set of one key by many clients at once: every success is one step, and each step
    is somebody's.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []  # answered
        self.unknown = 0

    async def run(self, kv: Any) -> None:
        while True:
            try:
                if not await self._step(kv):
                    return
            except grpc.aio.AioRpcError as error:  # a read
                if error.code() not in UNKNOWN:
                    raise
                return

    async def _step(self, kv: Any) -> bool:
        read = await kv.Get(pb.GetRequest(key=COUNTER), timeout=CALL_TIMEOUT_S)
        step = int(read.kv.value or b"0") + 1
        request = pb.TxnRequest(
            compares=[pb.Compare(key=COUNTER, mod_revision=read.kv.mod_revision)],
            then_ops=[pb.TxnOp(put=pb.PutOp(key=COUNTER, value=b"%d" % step))],
        )
        try:
            reply = await kv.Txn(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() not in UNKNOWN:
                raise
            self.unknown += 1
            return False
        if reply.succeeded:
            self.steps.append(step)
        return True

    async def check(self, kv: Any) -> None:
        read = await kv.Get(pb.GetRequest(key=COUNTER))
        value = int(read.kv.value or b"0")
        assert len(set(self.steps)) == len(self.steps), "two clients took the same step"
        assert max(self.steps, default=0) <= value <= len(self.steps) + self.unknown
        assert read.kv.version == value


class Crash:
    """One kill, a seeded number of answers after the round's beginning."""

    def __init__(self, daemon: WarmDaemon, rng: random.Random) -> None:
        self._daemon = daemon
        self._left = int(rng.expovariate(1 / 250))
        self._delay_s = rng.uniform(0, 0.004)

    def answered(self) -> bool:
        """An answer came; there is no end but the kill."""
        self._left -= 1
        if self._left == 0:
            loop = asyncio.get_running_loop()
            loop.call_later(self._delay_s, self._daemon.signal, signal.SIGKILL)
        return True

    def arm(self) -> None:
        self._left = max(self._left, 1)


async def load(
    daemon: WarmDaemon, writers: list[Writer], counter: Counter, rng: random.Random
) -> None:
    """All clients at once, over a few connections, until the daemon is dead."""
    crash = Crash(daemon, rng)
    crash.arm()
    channels = [grpc.aio.insecure_channel(daemon.grpc, OPTIONS) for _ in range(3)]
    stubs: list[Any] = [KVServiceStub(channel) for channel in channels]
    async with asyncio.TaskGroup() as group:
        for i, writer in enumerate(writers):
            group.create_task(writer.run(stubs[i % 3], crash.answered))
        for stub in stubs[:2]:
            group.create_task(counter.run(stub))
    for channel in channels:
        await channel.close()
    await asyncio.to_thread(daemon.wait)


async def history(kv: Any, through: int, after: int) -> tuple[dict[int, set[bytes]], State]:
    """Every event after one revision through another, as the keys of each revision; and the state
    that the puts come to.
    """
    seen: dict[int, set[bytes]] = {}
    state: State = {}
    call = kv.Watch(pb.WatchRequest(prefix=b"w", start_revision=after + 1, with_values=True))
    async for response in call:
        for event in response.events:
            revision = event.kv.mod_revision
            assert event.kv.key not in seen.setdefault(revision, set()), (
                "a key twice in one revision"
            )
            seen[revision].add(event.kv.key)
            state.pop(event.kv.key, None)
            if event.type == pb.EVENT_TYPE_PUT:
                kv_ = event.kv
                state[kv_.key] = Version(kv_.value, kv_.create_revision, revision, kv_.version)
        if response.revision >= through:
            break
    call.cancel()
    return seen, state


KEPT: tuple[str, ...] = ()  # all history, so that it can be looked at afterwards
CLEANED = ("log.segment_size=8MiB", "checkpoint.log_bytes=1MiB", "history.versions_max=200")


@pytest.mark.parametrize("settings", [KEPT, CLEANED], ids=["history-kept", "cleaning-at-work"])
@pytest.mark.timeout(300)
async def test_a_killed_daemon_has_what_it_answered_and_nothing_else(
    make: MakeDaemon, settings: tuple[str, ...]
) -> None:
    rng = random.Random(len(settings))
    sizes = (0, 16, 200, 3000) if not settings else (16, 200, 20_000, 70_000)
    writers = [
        Writer(i, random.Random(f"{len(settings)} {i}"), sizes=sizes) for i in range(WRITERS)
    ]
    counter = Counter()
    daemon = make(*settings)
    for _ in range(ROUNDS):
        await asyncio.to_thread(daemon.start)
        await load(daemon, writers, counter, rng)
        await asyncio.to_thread(daemon.start)
        async with grpc.aio.insecure_channel(daemon.grpc, OPTIONS) as channel:
            kv: Any = KVServiceStub(channel)
            found = await check_all(kv, writers)
            await settle_all(kv, writers, found)
            await counter.check(kv)
        await asyncio.to_thread(daemon.kill)
    await asyncio.to_thread(daemon.start)
    async with grpc.aio.insecure_channel(daemon.grpc, OPTIONS) as channel:
        kv = KVServiceStub(channel)
        found = await check_all(kv, writers)
        if not settings:
            through = max(writer.last_revision for writer in writers)
            seen, replayed = await history(kv, through, 0)
            assert replayed == found
            for writer in writers:
                for key, version in writer.state.items():
                    assert key in seen[version.mod_revision]
    assert sum(writer.answered for writer in writers) > 20 * ROUNDS
    assert counter.steps
    assert await asyncio.to_thread(daemon.stop) == 0

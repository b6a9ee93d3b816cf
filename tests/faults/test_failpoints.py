"""A fault at every named persistence step of a running daemon: what was answered is there, then and
after a restart.

fault          the daemon                                          then
crash...       dies at that step                                   a plain start has all
short          dies with half of a write done                      the same
eio, enospc    refuses to start, poisons its log, or carries on    the same
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from tests.faults.busy_store import OPTIONS, SETTINGS, BusyStore, counted, hits
from tests.faults.conftest import MakeDaemon
from tests.faults.recorder import check_all, reason_of, until
from tests.faults.warm_daemon import WarmDaemon


class Outcome(Enum):
    REFUSES = "does not start: exit code 2 and one line"
    POISONED = "stops writes until it is restarted"
    CARRIES_ON = "takes writes as before, after refusals at most"


REFUSES, POISONED, CARRIES_ON = Outcome.REFUSES, Outcome.POISONED, Outcome.CARRIES_ON


@dataclass(frozen=True, slots=True)
class Case:
    """A site, which of its hits fails, and what errors there come to."""

    site: str
    hit: int
    eio: Outcome | None
    enospc: Outcome | None
    writes: bool = False  # may be done by half
    after: str = ""  # crash_after here, in a life before, makes the step necessary
    idle: bool = False  # nobody writes until it fails
    lasting: bool = False  # EIO stays: whoever tries next meets it too

    @property
    def errors(self) -> Iterator[tuple[str, Outcome]]:
        """Faults as they are configured, and what they come to."""
        if self.eio is not None:
            yield f"eio@{self.hit}" + "x0" * self.lasting, self.eio
        if self.enospc is not None:
            yield f"enospc@{self.hit}", self.enospc

    def __str__(self) -> str:
        return f"{self.site}@{self.hit}"


# A writer that was held up long enough leaves a log that is marked to its end, and an opening with
# nothing to copy: then another life comes before it.
LIVES_MAX = 5

# Opening the store on a log whose last frames may not be durable: the new segment, its first
# frames.
OPENING = [
    Case("recover.read", 1, REFUSES, None, lasting=True),
    Case("recover.copy", 1, REFUSES, CARRIES_ON, writes=True),
    Case("recover.sync", 1, REFUSES, CARRIES_ON),
    Case("log.create", 1, REFUSES, CARRIES_ON),
    Case("log.allocate", 1, REFUSES, CARRIES_ON),
    Case("log.header_write", 1, REFUSES, CARRIES_ON, writes=True),
    Case("log.header_sync", 1, REFUSES, CARRIES_ON),
    Case("log.rename", 1, REFUSES, CARRIES_ON),
    Case("log.dir_sync", 1, REFUSES, CARRIES_ON),
    Case("log.write", 1, REFUSES, CARRIES_ON, writes=True),
    Case("log.sync", 1, REFUSES, REFUSES),
    Case("log.trim", 1, CARRIES_ON, None),
    Case("settled.unlink", 1, CARRIES_ON, None, after="settled.dir_sync"),
]
# Under load: later segments, checkpoints, cleaning.
RUNNING = [
    Case("log.write", 40, POISONED, CARRIES_ON, writes=True),
    Case("log.sync", 40, POISONED, POISONED),
    # The keeper makes a segment ahead of need, which may fail; when it is needed, it may not.
    Case("log.create", 2, CARRIES_ON, CARRIES_ON, idle=True),
    Case("log.allocate", 2, CARRIES_ON, CARRIES_ON, idle=True),
    Case("log.create", 3, POISONED, CARRIES_ON, lasting=True),
    Case("log.allocate", 3, POISONED, CARRIES_ON, lasting=True),
    Case("log.header_write", 3, POISONED, CARRIES_ON, writes=True),
    Case("log.header_sync", 3, POISONED, POISONED),
    Case("log.rename", 3, POISONED, CARRIES_ON),
    Case("log.dir_sync", 3, POISONED, POISONED),
    Case("log.read", 1, CARRIES_ON, None),
    Case("log.unlink", 1, CARRIES_ON, None),
    Case("checkpoint.create", 1, CARRIES_ON, CARRIES_ON),
    Case("checkpoint.write", 1, CARRIES_ON, CARRIES_ON, writes=True),
    Case("checkpoint.sync", 1, CARRIES_ON, CARRIES_ON),
    Case("checkpoint.rename", 1, CARRIES_ON, CARRIES_ON),
    Case("checkpoint.dir_sync", 1, CARRIES_ON, CARRIES_ON),
    Case("checkpoint.unlink", 1, CARRIES_ON, None),
    Case("checkpoint.read", 1, CARRIES_ON, None),
    Case("settled.create", 1, CARRIES_ON, CARRIES_ON),
    Case("settled.write", 1, CARRIES_ON, CARRIES_ON, writes=True),
    Case("settled.sync", 1, CARRIES_ON, CARRIES_ON),
    Case("settled.rename", 1, CARRIES_ON, CARRIES_ON),
    Case("settled.dir_sync", 1, CARRIES_ON, CARRIES_ON),
]


def more(store: BusyStore, answers: int) -> Callable[[], Awaitable[bool]]:
    """Whether so many more writes were answered."""
    least = store.answered + answers

    async def enough() -> bool:
        return store.answered >= least

    return enough


async def live(make: MakeDaemon, store: BusyStore, case: Case) -> None:
    """A life without faults: everything answered is there, what was not acts once; more writes, and
    a kill amid them.
    """
    daemon = make(*SETTINGS)
    await asyncio.to_thread(daemon.start)
    await store.settle(daemon)
    answers, checkpointed = more(store, 25), counted(daemon, "bedplate_checkpoints_total")

    async def kill_when_enough() -> bool:
        if await answers() and (case.site != "checkpoint.read" or await checkpointed()):
            daemon.process.kill()
        return False

    await store.load(daemon, kill_when_enough)
    await asyncio.to_thread(daemon.kill)
    if case.after:
        await crash(make, store, {case.after: "crash_after@1"})


async def crash(
    make: MakeDaemon, store: BusyStore, failpoints: dict[str, str], *, opening: bool = False
) -> bool:
    """A life that ends at a failpoint; False: it opened without meeting it."""
    daemon = make(*SETTINGS, failpoints=failpoints)
    if await asyncio.to_thread(daemon.starts):
        if opening:
            await asyncio.to_thread(daemon.kill)
            return False
        await store.settle_if_it_lives(daemon)
        await store.load(daemon, hits(daemon))
    assert await asyncio.to_thread(daemon.wait) == -9
    return True


async def fail(
    make: MakeDaemon, store: BusyStore, case: Case, fault: str, expected: Outcome
) -> bool:
    """A life with a fault, which ends as expected; False: it opened without meeting it."""
    daemon = make(*SETTINGS, failpoints={case.site: fault})
    if not await asyncio.to_thread(daemon.starts):
        assert expected is REFUSES, daemon.output
        assert daemon.process.poll() == 2
        assert daemon.output.splitlines()[-1].startswith("bedplated: ")
        return True
    if case in OPENING and not await hits(daemon)():
        await asyncio.to_thread(daemon.kill)
        return False
    assert expected is not REFUSES, "it started"
    if case.idle:
        await until(hits(daemon))
    await store.settle(daemon)
    if expected is POISONED:
        await store.load(daemon, counted(daemon, "bedplate_log_poisoned"))
        await check_poisoned(daemon, store)
    else:
        await store.load(daemon, hits(daemon))
        assert await carries_on(daemon, store), "it stopped to answer"
    await asyncio.to_thread(daemon.kill)
    return True


async def carries_on(daemon: WarmDaemon, store: BusyStore) -> bool:
    await store.settle_if_it_lives(daemon)
    return await store.load(daemon, more(store, 10))


async def check_poisoned(daemon: WarmDaemon, store: BusyStore) -> None:
    """Writes and linearizable reads are refused, serializable reads show everything answered, and
    nobody sends clients here.
    """

    async def noticed() -> bool:
        return await asyncio.to_thread(daemon.get, "/readyz") == (503, "log poisoned\n")

    await until(noticed)
    async with grpc.aio.insecure_channel(daemon.grpc, OPTIONS) as channel:
        kv: Any = KVServiceStub(channel)
        for call in (kv.Put(pb.PutRequest(key=b"w")), kv.Get(pb.GetRequest(key=b"w"))):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(refused.value) == "LOG_POISONED"
        await check_all(kv, store.writers, consistency=pb.CONSISTENCY_SERIALIZABLE)


@pytest.mark.parametrize("case", OPENING + RUNNING, ids=str)
async def test_a_fault_at_any_step_loses_nothing(make: MakeDaemon, case: Case) -> None:
    store = BusyStore(str(case))
    await live(make, store, case)
    for death in ("crash", "crash_after", *(["short"] if case.writes else [])):
        spec = {case.site: f"{death}@{case.hit}"}
        for _ in range(LIVES_MAX):
            if await crash(make, store, spec, opening=case in OPENING):
                break
            await live(make, store, case)
        else:
            pytest.fail(f"{spec} was never met")
    for fault, expected in case.errors:
        for _ in range(LIVES_MAX):
            await live(make, store, case)
            if await fail(make, store, case, fault, expected):
                break
        else:
            pytest.fail(f"{fault} was never met")
    daemon = make(*SETTINGS)
    await asyncio.to_thread(daemon.start)
    await store.settle(daemon)
    assert await store.load(daemon, more(store, 10))
    await store.check(daemon)
    assert await asyncio.to_thread(daemon.stop) == 0


FIRST_OPEN = ["store.create", "log.create", "log.allocate", "log.header_write", "log.header_sync"]
FIRST_OPEN += ["log.rename", "log.dir_sync", "log.write", "log.sync"]


@pytest.mark.parametrize("site", FIRST_OPEN)
async def test_a_fault_while_a_store_is_made_leaves_a_directory_that_can_be_used(
    make: MakeDaemon, tmp_path: Path, site: str
) -> None:
    for fault in ("crash", "crash_after", "short", "eio", "enospc"):
        directory = tmp_path / fault
        directory.mkdir()
        failing = make(*SETTINGS, directory=directory, failpoints={site: f"{fault}@1"})
        if await asyncio.to_thread(failing.starts):
            assert await asyncio.to_thread(failing.stop) == 0
        elif fault in ("eio", "enospc"):
            assert failing.process.poll() == 2
            assert failing.output.splitlines()[-1].startswith("bedplated: ")
        else:
            assert failing.process.poll() == -9
        daemon = make(*SETTINGS, directory=directory)
        await asyncio.to_thread(daemon.start)
        assert daemon.kv().Put(pb.PutRequest(key=b"k", value=b"v")).revision > 0
        assert await asyncio.to_thread(daemon.stop) == 0

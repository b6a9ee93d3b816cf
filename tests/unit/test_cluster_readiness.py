"""What a member says of itself: who leads, whether it has caught up, what /readyz makes of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bedplate.consensus.catch_up import CatchUp
from bedplate.consensus.cluster import Cluster
from bedplate.consensus.config import ClusterConfig
from bedplate.errors import BedplateError, Code
from bedplate.native.errors import StoreError
from bedplate.native.status import Status
from bedplate.server.health import Health, Readiness
from bedplate.server.monitor import Monitor
from bedplate.storage.engine import Engine, State


@dataclass
class FakeRaft:
    leader: int = 0
    term: int = 1


class Reads:
    """Reads that are answered when the test says so."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> None:
        self.asked.release()
        await self.answer
        self.answer = asyncio.get_running_loop().create_future()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


async def test_a_member_has_caught_up_when_a_read_through_it_was_answered() -> None:
    raft, reads = FakeRaft(), Reads()
    caught = CatchUp(raft, reads)
    work = asyncio.create_task(caught.run())
    raft.leader = 7
    assert not caught.done
    await reads.asked.acquire()
    assert not caught.done
    reads.answer.set_result(None)
    await until(lambda: caught.done)
    raft.leader = 0
    assert not caught.done
    assert caught.ever
    raft.leader, raft.term = 8, 2  # of whom it has read nothing yet
    assert not caught.done
    await reads.asked.acquire()
    reads.answer.set_result(None)
    await until(lambda: caught.done)
    work.cancel()


async def test_an_answer_of_an_earlier_term_counts_for_nothing() -> None:
    raft, reads = FakeRaft(leader=7), Reads()
    caught = CatchUp(raft, reads)
    work = asyncio.create_task(caught.run())
    await reads.asked.acquire()
    raft.leader, raft.term = 8, 2
    reads.answer.set_result(None)
    await reads.asked.acquire()
    assert not caught.done
    work.cancel()


async def test_a_read_that_fails_is_tried_again() -> None:
    raft, reads = FakeRaft(leader=7), Reads()
    caught = CatchUp(raft, reads)
    work = asyncio.create_task(caught.run())
    await reads.asked.acquire()
    failed, reads.answer = reads.answer, asyncio.get_running_loop().create_future()
    failed.set_exception(BedplateError("no", code=Code.UNAVAILABLE, reason="NO_LEADER"))
    await reads.asked.acquire()
    assert not caught.ever
    reads.answer.set_result(None)
    await until(lambda: caught.done)
    work.cancel()


@pytest.mark.parametrize(
    ("started", "leader", "caught", "ever", "out", "readiness"),
    [
        (False, False, False, False, "", Readiness.RECOVERING),
        (True, True, True, True, "", Readiness.READY),
        (True, True, False, False, "", Readiness.CATCHING_UP),
        (True, True, False, True, "", Readiness.BEHIND),
        (True, False, False, True, "", Readiness.NO_LEADER),
        (True, False, False, False, "", Readiness.NO_LEADER),
        (True, True, True, True, "it differs", Readiness.QUARANTINED),
    ],
)
def test_readiness_says_what_a_member_is_good_for(
    started: bool, leader: bool, caught: bool, ever: bool, out: str, readiness: Readiness
) -> None:
    status = SimpleNamespace(
        slow_syncs=0,
        damaged_segments=0,
        checkpoint_failures=0,
        poisoned=False,
        disk_full=False,
        revision=1,
    )
    engine = SimpleNamespace(state=State.OPEN, status=lambda: cast(Status, status))
    cluster = SimpleNamespace(
        started=started,
        has_leader=leader,
        caught_up=caught,
        ever_caught_up=ever,
        out_of_service=out,
    )
    monitor = Monitor(cast(Engine, engine), Health(()), cluster)
    assert monitor.readiness() is readiness


def test_only_who_can_answer_serves() -> None:
    assert {r for r in Readiness if r.serving} == {
        Readiness.READY,
        Readiness.DISK_FULL,
        Readiness.NO_LEADER,
        Readiness.BEHIND,
    }


def cluster_of(leader: int) -> Cluster:
    """As a member that follows `leader` sees it."""
    made = Cluster(ClusterConfig(), cast(Any, None), cast(Any, None), cast(Any, None))
    made.member = cast(Any, SimpleNamespace(raft=SimpleNamespace(leader=leader), id=1))
    made.book.hint(7, "seven:7420")
    return made


def test_a_refusal_names_the_leader_and_says_when_to_come_back() -> None:
    for reason in ("NO_LEADER", "LEADER_LOST"):
        error = StoreError("no", code=Code.UNAVAILABLE, reason=reason)
        cluster_of(7)._explain(error)
        assert error.metadata == {"leader": "seven:7420", "leader_id": f"{7:016x}"}
        assert error.retry_after_ms == 100
        error = StoreError("no", code=Code.UNAVAILABLE, reason=reason)
        cluster_of(0)._explain(error)
        assert not error.metadata
        assert error.retry_after_ms == ClusterConfig().election_ms


def test_a_member_that_is_being_opened_leads_nothing() -> None:
    opened = Cluster(ClusterConfig(), cast(Any, None), cast(Any, None), cast(Any, None))
    assert opened.role == "follower"
    assert not opened.has_leader
    assert not opened.started
    assert not opened.caught_up

"""Snapshots to and from members, and repair: what is kept, what is given up, in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.consensus.address_book import AddressBook
from bedplate.consensus.peer_channel import Credentials
from bedplate.consensus.peer_service import SERVICE
from bedplate.consensus.ready import HardState
from bedplate.consensus.repair import Repairer
from bedplate.consensus.snapshot_counters import SnapshotCounters
from bedplate.consensus.snapshot_receiver import SnapshotReceiver
from bedplate.consensus.snapshot_sender import Offer, SnapshotSender
from bedplate.errors import BedplateError, Code
from bedplate.native.errors import StoreError

INDEX, TERM, COMMIT = 100, 7, 10
CLUSTER = b"c" * 16


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until it is so."""
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


class FakeInstall:
    """Wants what it is told to, and notes what happens to it."""

    def __init__(self, happened: list[str], wanted: list[bytes]) -> None:
        self._happened = happened
        self._wanted = wanted
        self._asked = 0
        self._done = False
        self.fails: StoreError | None = None

    def manifest(self, data: bytes) -> None:
        self._happened.append(f"manifest {data.decode()}")

    def restart(self) -> None:
        self._happened.append("restart")

    def wanted(self, *, ahead: bool = False) -> bytes | None:
        self._asked = self._asked if ahead else 0
        if not self._wanted:
            return None
        self._asked += 1
        return self._wanted[self._asked - 1] if self._asked <= len(self._wanted) else b""

    def values(self, data: bytes) -> int:
        if self.fails is not None:
            raise self.fails
        self._happened.append(f"values {data.decode()}")
        self._asked -= 1
        return int(self._wanted.pop(0) == data)

    def finish(self, term: int, vote: int) -> None:
        self._happened.append(f"finish {term} {vote}")
        self._done = True

    def state(self) -> Any:
        return SimpleNamespace(
            complete=True,
            done=self._done,
            index=INDEX,
            cluster_id=CLUSTER,
            fetched_bytes=0,
            held_bytes=0,
        )

    def close(self) -> None:
        self._happened.append("close")


class FakeNode:
    def __init__(self, happened: list[str]) -> None:
        self._happened = happened

    def pause(self) -> None:
        self._happened.append("pause")

    def resume(self) -> None:
        self._happened.append("resume")

    async def paused_until(self, done: Callable[[], bool]) -> None:
        await until(done)
        self._happened.append("stored")


class Receiving:
    """A receiver, the member it belongs to, and what both do."""

    def __init__(self, *wanted: bytes, stall_s: float = 5.0) -> None:
        self.happened: list[str] = []
        self.said: list[str | None] = []
        self.news = True
        self.stored_all = True
        self.made = FakeInstall(self.happened, list(wanted))
        self.raft = SimpleNamespace(
            term=TERM,
            commit=COMMIT,
            hard_state=HardState(TERM, 3, COMMIT),
            wants_snapshot=lambda index, term: self.news and index > COMMIT,
        )
        self.node = FakeNode(self.happened)
        self.frames: asyncio.Queue[pb.SnapshotRequest] = asyncio.Queue()
        member: Any = self
        self.counters = SnapshotCounters()
        self.receiver = SnapshotReceiver(
            self.counters, stall_s=stall_s, member=lambda: member, reopen=self._reopen
        )

    def install(self) -> FakeInstall:
        self.happened.append("install")
        return self.made

    async def _reopen(self) -> None:
        self.happened.append("reopen")

    async def _take(self) -> AsyncIterator[pb.SnapshotRequest]:
        while True:
            yield await self.frames.get()

    async def _say(self, response: pb.SnapshotResponse) -> None:
        self.said.append(response.WhichOneof("frame"))

    async def receive(self, *frames: pb.SnapshotRequest, term: int = TERM) -> None:
        for frame in frames:
            self.frames.put_nowait(frame)
        hello = pb.Hello(cluster_id=CLUSTER, source=1, target=2)
        offer = pb.SnapshotOffer(hello=hello, term=term, index=INDEX, index_term=TERM)
        await self.receiver.receive(offer, self._take(), self._say)


MANIFEST = (
    pb.SnapshotRequest(manifest=b"m"),
    pb.SnapshotRequest(manifest_end=pb.SnapshotManifestEnd()),
)


def values(data: bytes) -> pb.SnapshotRequest:
    return pb.SnapshotRequest(values=data)


def test_a_snapshot_replaces_the_state_only_when_the_log_has_written_all() -> None:
    async def scenario() -> None:
        side = Receiving(b"a", b"b")
        side.stored_all = False
        work = asyncio.ensure_future(side.receive(*MANIFEST, values(b"a"), values(b"b")))
        await until(lambda: "pause" in side.happened)
        for _ in range(100):
            await asyncio.sleep(0)
        assert side.happened[-1] == "pause"
        side.stored_all = True
        await work
        assert side.happened == [
            *("install", "manifest m", "values a", "values b", "pause", "stored"),
            *(f"finish {TERM} 3", "close", "reopen"),
        ]
        assert side.said == ["working", "wanted", "wanted", "installed"]
        assert side.counters.installed == 1

    asyncio.run(scenario())


def test_what_is_no_news_any_more_at_the_end_changes_nothing() -> None:
    async def scenario() -> None:
        side = Receiving(b"a")
        work = asyncio.ensure_future(side.receive(*MANIFEST))
        await until(lambda: side.said == ["working", "wanted"])
        side.news = False  # the log was faster
        side.frames.put_nowait(values(b"a"))
        await work
        assert side.happened[-4:] == ["pause", "stored", "close", "resume"]
        assert side.said[-1] == "installed"
        assert side.counters.installed == 0

    asyncio.run(scenario())


def test_what_is_no_news_from_the_start_is_not_taken() -> None:
    async def scenario() -> None:
        side = Receiving()
        side.news = False
        await side.receive()
        assert (side.said, side.happened) == (["installed"], [])

    asyncio.run(scenario())


def test_a_leader_of_an_earlier_term_is_refused() -> None:
    async def scenario() -> None:
        side = Receiving()
        with pytest.raises(BedplateError) as refused:
            await side.receive(term=TERM - 1)
        assert refused.value.reason == "NO_LEADER"
        assert side.happened == []

    asyncio.run(scenario())


def test_a_sender_that_falls_silent_is_given_up_and_its_values_are_kept() -> None:
    async def scenario() -> None:
        side = Receiving(b"a", b"b", stall_s=0.02)
        with pytest.raises(BedplateError) as refused:
            await side.receive(*MANIFEST, values(b"a"))
        assert refused.value.reason == "CONNECTION_LOST"
        assert side.happened == ["install", "manifest m", "values a"]
        await side.receive(*MANIFEST, values(b"b"))
        assert side.happened[3:6] == ["restart", "manifest m", "values b"]
        assert side.happened[-1] == "reopen"

    asyncio.run(scenario())


def test_a_store_that_refuses_keeps_nothing_and_is_left_alone_for_a_while() -> None:
    async def scenario() -> None:
        side = Receiving(b"a")
        full = StoreError("full", code=Code.RESOURCE_EXHAUSTED, reason="DISK_FULL")
        side.made.fails = full
        with pytest.raises(StoreError) as failed:
            await side.receive(*MANIFEST, values(b"a"))
        assert failed.value is full
        assert side.happened[-1] == "close"
        with pytest.raises(BedplateError) as refused:
            await side.receive(*MANIFEST, values(b"a"))
        assert refused.value.reason == "SNAPSHOT_REFUSED"
        assert side.happened.count("install") == 1

    asyncio.run(scenario())


def test_a_new_offer_ends_the_one_before_it() -> None:
    async def scenario() -> None:
        side = Receiving(b"a")
        first = asyncio.ensure_future(side.receive(*MANIFEST))
        await until(lambda: side.said == ["working", "wanted"])
        await side.receive(*MANIFEST, values(b"a"))
        with pytest.raises(BedplateError) as ended:
            await first
        assert ended.value.reason == "SNAPSHOT_REPLACED"
        assert side.happened[-1] == "reopen"

    asyncio.run(scenario())


def test_a_stream_cut_off_at_the_last_moment_does_not_stop_the_reopening() -> None:
    async def scenario() -> None:
        side = Receiving()
        side.stored_all = False
        work = asyncio.ensure_future(side.receive(*MANIFEST))
        await until(lambda: "pause" in side.happened)
        work.cancel()
        await asyncio.sleep(0)
        side.stored_all = True
        with pytest.raises(asyncio.CancelledError):
            await work
        assert side.happened[-1] == "reopen"

    asyncio.run(scenario())


# ---- the sender --------------------------------------------------------------------------------


class FakeManifest:
    index, term = INDEX, TERM

    def __init__(self) -> None:
        self.closed = False
        self._pieces = [b"m"]

    def read(self, size: int) -> bytes:
        return self._pieces.pop() if self._pieces else b""

    def close(self) -> None:
        self.closed = True


class Sending:
    """A sender, and a member that answers with what `answers` says, then nothing."""

    def __init__(self, *answers: pb.SnapshotResponse) -> None:
        self.answers = answers
        self.manifests: list[FakeManifest] = []
        self.done: list[tuple[int, bool]] = []
        self.standings = [(0, INDEX)]  # afterwards: what the member holds, what is committed
        self.looked_at = 2
        self.pinned: list[int | None] = []  # at each

    def manifest(self) -> FakeManifest:
        self.manifests.append(FakeManifest())
        return self.manifests[-1]

    def fetch(self, wanted: bytes) -> bytes:
        return b"values of " + wanted

    async def _snapshot(self, frames: Any, context: Any) -> None:
        for answer in self.answers:
            await context.write(answer.SerializeToString())
        async for _ in frames:
            pass

    async def send(self) -> SnapshotSender:
        """One snapshot to member 2, to its end; the sender, stopped."""
        server = grpc.aio.server()
        handlers: dict[str, Any] = {
            "Snapshot": grpc.stream_stream_rpc_method_handler(self._snapshot)
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        ended = asyncio.Event()

        def done(member: int, installed: bool) -> None:
            self.done.append((member, installed))
            ended.set()

        store: Any = self
        sender = SnapshotSender(
            store,
            AddressBook({2: f"127.0.0.1:{port}"}),
            Credentials(),
            SnapshotCounters(),
            at_a_time=1,
            stall_s=0.2,
            offer=lambda member: Offer(pb.Hello(source=1, target=member), TERM, COMMIT),
            done=done,
        )
        running = asyncio.ensure_future(sender.run())
        await asyncio.sleep(0)
        sender.send(2)
        async with asyncio.timeout(20):
            await ended.wait()
        for match, committed in self.standings:
            sender.look({self.looked_at: match}, committed)
            self.pinned.append(sender.pinned.get(2))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.stop(None)
        return sender


INSTALLED = pb.SnapshotResponse(installed=pb.SnapshotInstalled(index=INDEX))
WORKING = pb.SnapshotResponse(working=pb.SnapshotWorking())


@pytest.mark.parametrize("answers", [(), (WORKING,)], ids=["at once", "in the middle"])
def test_a_receiver_that_falls_silent_frees_the_pin(
    answers: Sequence[pb.SnapshotResponse],
) -> None:
    side = Sending(*answers)
    sender = asyncio.run(side.send())
    assert side.done == [(2, False)]
    assert side.pinned == [None]
    assert [manifest.closed for manifest in side.manifests] == [True]
    assert sender.counters.send_failures == 1


def test_the_log_is_kept_from_an_installed_snapshot_until_its_member_has_caught_up() -> None:
    side = Sending(WORKING, INSTALLED)
    side.standings = [(0, 103), (INDEX, 106), (105, 109), (109, 112), (109, 112)]
    asyncio.run(side.send())
    assert side.done == [(2, True)]
    assert side.pinned == [INDEX, INDEX, 105, None, None]


def test_an_installed_member_that_takes_nothing_of_the_log_frees_the_pin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bedplate.consensus.snapshot_sender._BACK_S", -1.0)
    side = Sending(WORKING, INSTALLED)
    sender = asyncio.run(side.send())
    assert side.pinned == [None]
    assert sender.counters.sent == 1


def test_a_member_that_is_removed_frees_the_pin() -> None:
    side = Sending(WORKING, INSTALLED)
    side.standings = [(0, 103), (INDEX, 106)]
    side.looked_at = 3
    asyncio.run(side.send())
    assert side.pinned == [None, None]


def test_of_an_installed_snapshot_the_manifest_is_closed() -> None:
    side = Sending(WORKING, INSTALLED)
    sender = asyncio.run(side.send())
    assert [manifest.closed for manifest in side.manifests] == [True]
    assert sender.counters.sent == 1


# ---- repair ------------------------------------------------------------------------------------


class DamagedStore:
    def __init__(self, *wanted: bytes) -> None:
        self._wanted = list(wanted)
        self.put_back: list[bytes] = []

    def damaged(self) -> bytes | None:
        return self._wanted.pop(0) if self._wanted else None

    def repair(self, values: bytes) -> int:
        self.put_back.append(values)
        return len(values)


def repairer(
    store: DamagedStore, counters: SnapshotCounters, answers: dict[int, Sequence[bytes]]
) -> Repairer:
    async def fetch(member: int, wanted: bytes) -> Sequence[bytes]:
        if not answers[member]:
            raise BedplateError("away", code=Code.UNAVAILABLE, reason="CONNECTION_LOST")
        return answers[member]

    return Repairer(store, counters, others=lambda: list(answers), fetch=fetch)


def test_a_damaged_value_is_asked_for_until_somebody_has_it() -> None:
    store, counters = DamagedStore(b"wanted"), SnapshotCounters()
    found = asyncio.run(repairer(store, counters, {1: [], 2: [b""], 3: [b"xy"]}).step())
    assert (found, store.put_back) == (True, [b"", b"xy"])
    assert (counters.repaired_values, counters.repair_failures) == (2, 0)


def test_a_value_that_nobody_has_is_counted() -> None:
    store, counters = DamagedStore(b"wanted"), SnapshotCounters()
    assert not asyncio.run(repairer(store, counters, {1: [], 2: [b""]}).step())
    assert (counters.repaired_values, counters.repair_failures) == (0, 1)


def test_while_there_is_nobody_to_ask_damage_is_not_told() -> None:
    store = DamagedStore(b"wanted")
    assert not asyncio.run(repairer(store, SnapshotCounters(), {}).step())
    assert store.damaged() == b"wanted"

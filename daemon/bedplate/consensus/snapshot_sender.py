"""Snapshots on their way to members that the log cannot help any more.

    Ready.snapshots --> send(member) --> a task each, so many at a time     done(member, installed)
    offer >                          on a connection of its own
          < working, or installed: it has all that
    manifest > > > end >             the state at a pinned index, values left out
          < wanted                   those it lacks
    values >                         .. again and again
          < installed

While one is sent, and until its member has caught up, the log is kept from where it stands on. Who
says nothing for `stall_s`, or only that it works for _PATIENCE_S, or takes nothing of the log for
_BACK_S, is given up, and the pin with it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import grpc.aio
import structlog

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.api.cluster.v1.peer_pb2_grpc import PeerServiceStub
from bedplate.consensus.address_book import AddressBook
from bedplate.consensus.lane import lost
from bedplate.consensus.peer_channel import Credentials, refusal
from bedplate.consensus.snapshot_counters import SnapshotCounters
from bedplate.errors import BedplateError, Code
from bedplate.native.snapshot import NativeManifest
from bedplate.storage.threads import in_thread

_PIECE_BYTES: Final = 1 << 20
_PATIENCE_S: Final = 600.0  # without a value asked for
_FAREWELL_S: Final = 1.0
_BACK_S: Final = 60.0  # how long an installed member may take nothing of the log


class SnapshotSource(Protocol):
    """The store whose state is sent. Both block."""

    def manifest(self) -> NativeManifest: ...

    def fetch(self, wanted: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Offer:
    """What every offer says, as of now."""

    hello: pb.Hello
    term: int
    applied: int  # what is opened from now on is no older


@dataclass(slots=True)
class _Pin:
    """From where on a member needs the log."""

    index: int
    until: float = float("inf")  # given up then
    goal: int | None = None  # it has caught up once it holds this: what was committed a look before

    def follow(self, match: int, committed: int, now: float) -> bool:
        """The member holds `match`; whether it needs this any longer."""
        if match >= self.index:
            if self.goal is not None and match >= self.goal:
                return False
            if match > self.index or self.goal is None:
                self.index, self.until = match, now + _BACK_S
            self.goal = committed
        return now <= self.until


class SnapshotSender:
    """`run` works until cancelled; the rest returns at once. One snapshot a member at a time."""

    def __init__(
        self,
        store: SnapshotSource,
        book: AddressBook,
        credentials: Credentials,
        counters: SnapshotCounters,
        *,
        at_a_time: int,
        stall_s: float,
        offer: Callable[[int], Offer],
        done: Callable[[int, bool], None],
    ) -> None:
        """`done` is told of every snapshot that was asked for, whether it was installed."""
        self.counters = counters
        self.store = store
        self._book = book
        self._credentials = credentials
        self._slots = asyncio.Semaphore(at_a_time)
        self.stall_s = stall_s
        self._offer = offer
        self._done = done
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._pins: dict[int, _Pin] = {}  # by member
        self._group: asyncio.TaskGroup | None = None
        self.log = structlog.get_logger("bedplate.cluster")

    async def run(self) -> None:
        """Until cancelled; then nothing of the store is held any more."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None
                self.stop()

    def send(self, member: int) -> None:
        """Have `member` brought up to date."""
        if self._group is None or member in self._tasks:
            self._done(member, False)
            return
        self._tasks[member] = self._group.create_task(self._send(member))

    def stop(self) -> None:
        """Give all of them up: this member leads no more."""
        for task in self._tasks.values():
            task.cancel()
        self._pins.clear()

    def look(self, matches: Mapping[int, int], committed: int) -> None:
        """What members hold now, and how much is committed; to be told again and again."""
        now = time.monotonic()
        for member, pin in list(self._pins.items()):
            if member not in matches or not pin.follow(matches[member], committed, now):
                del self._pins[member]

    @property
    def pinned(self) -> Mapping[int, int]:
        """Members that catch up, and from which index on each needs the log."""
        return {member: pin.index for member, pin in self._pins.items()}

    # ---- one snapshot --------------------------------------------------------------------------

    async def _send(self, member: int) -> None:
        installed = False
        try:
            async with self._slots:
                installed = await self._carry_over(member)
        except grpc.aio.AioRpcError as error:
            self._failed(member, refusal(error))
        except BedplateError as error:
            self._failed(member, error)
        except TimeoutError:
            self._failed(member, lost("the receiver says nothing"))
        except (asyncio.InvalidStateError, grpc.aio.UsageError):  # written to after its end
            self._failed(member, lost("the stream has ended"))
        finally:
            self._tasks.pop(member, None)
            if not installed:
                self._pins.pop(member, None)
            self._done(member, installed)

    def _failed(self, member: int, error: BedplateError) -> None:
        self.counters.send_failures += 1
        self.log.warning(
            "snapshot_failed", member=f"{member:016x}", reason=error.reason, error=str(error)
        )

    async def _carry_over(self, member: int) -> bool:
        address = self._book.address(member)
        if not address:
            raise lost("its address is not known")
        opened: list[NativeManifest] = []
        try:
            self._pins[member] = _Pin(self._offer(member).applied)
            await in_thread(lambda: opened.append(self.store.manifest()))
            manifest = opened[0]
            self._pins[member] = _Pin(manifest.index)
            async with self._credentials.channel(address) as channel:
                stub: Any = PeerServiceStub(channel)
                call = stub.Snapshot(metadata=self._credentials.metadata)
                try:
                    await _Conversation(self, call, manifest).hold(self._offer(member))
                    await call.done_writing()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_FAREWELL_S):
                            await call.code()  # cut off, the receiver would take it for a failure
                finally:
                    call.cancel()
            self._pins[member] = _Pin(manifest.index, time.monotonic() + _BACK_S)
            return True
        finally:
            for each in opened:  # also one that was opened while this was being cancelled
                await in_thread(each.close)


class _Conversation:
    """With one receiver, about one manifest."""

    def __init__(self, sender: SnapshotSender, call: Any, manifest: NativeManifest) -> None:
        self._sender = sender
        self._call = call
        self._manifest = manifest
        self._sent = 0

    async def hold(self, offer: Offer) -> None:
        """Until it is installed. Raises whatever ended it before."""
        begun = time.monotonic()
        manifest, sender = self._manifest, self._sender
        first = pb.SnapshotOffer(
            hello=offer.hello, term=offer.term, index=manifest.index, index_term=manifest.term
        )
        await self._write(pb.SnapshotRequest(offer=first))
        answer = await self._read()
        member = offer.hello.target
        if answer.WhichOneof("frame") == "installed":
            return
        sender.log.info("snapshot_begins", member=f"{member:016x}", index=manifest.index)
        await self._write_manifest()
        if await self._answer_questions() != manifest.index:
            return  # the log was faster
        sender.counters.sent += 1
        sender.log.info(
            "snapshot_sent",
            member=f"{member:016x}",
            index=manifest.index,
            bytes=self._sent,
            seconds=round(time.monotonic() - begun, 3),
        )

    async def _write_manifest(self) -> None:
        while piece := await in_thread(lambda: self._manifest.read(_PIECE_BYTES)):
            await self._write(pb.SnapshotRequest(manifest=piece), len(piece))
        await self._write(pb.SnapshotRequest(manifest_end=pb.SnapshotManifestEnd()))

    async def _answer_questions(self) -> int:
        """The index that the receiver is at in the end."""
        asked = time.monotonic()
        while True:
            answer = await self._read()
            match answer.WhichOneof("frame"):
                case "installed":
                    return answer.installed.index
                case "wanted":
                    asked = time.monotonic()
                    values = await self._values(answer.wanted)
                    await self._write(pb.SnapshotRequest(values=values), len(values))
                case _:
                    if time.monotonic() - asked > _PATIENCE_S:
                        raise TimeoutError

    async def _values(self, wanted: bytes) -> bytes:
        return await in_thread(lambda: self._sender.store.fetch(wanted))

    async def _write(self, frame: pb.SnapshotRequest, size: int = 0) -> None:
        async with asyncio.timeout(self._sender.stall_s):
            await self._call.write(frame)
        self._sent += size
        self._sender.counters.sent_bytes += size

    async def _read(self) -> pb.SnapshotResponse:
        async with asyncio.timeout(self._sender.stall_s):
            answer = await self._call.read()
        if answer is grpc.aio.EOF:
            with contextlib.suppress(asyncio.InvalidStateError):
                status = await self._call.code()
                if status is not grpc.StatusCode.OK:
                    raise BedplateError(
                        await self._call.details() or "the receiver gave up",
                        code=Code(status.value[0]),
                        reason="",
                    )
            raise lost("the stream was ended")
        assert isinstance(answer, pb.SnapshotResponse)
        return answer

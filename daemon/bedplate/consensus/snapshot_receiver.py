"""The snapshot that another member sends this one, from its offer to the store opened anew.

    offer --> is it news? --> manifest --> wanted > < values ... --> all are here
                                                                       |
        the node pauses; what it wrote is durable; it is still news: finish
                                                                       |
        the store is closed, opened again, and a new Member goes on from the index

Values that came are kept when a stream breaks, for as long as _KEEP_S, so that the next snapshot
brings only the others. A store that refuses (a full disk) keeps nothing: its space is free again.
One snapshot at a time; a new offer ends the one before it, whose sender has likely gone.
"""

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import structlog

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.consensus.node import Node
from bedplate.consensus.raft import Raft
from bedplate.consensus.snapshot_counters import SnapshotCounters
from bedplate.errors import BedplateError, Code
from bedplate.native.errors import StoreError
from bedplate.native.snapshot import NativeInstall
from bedplate.storage.threads import in_thread

_KEEP_S: Final = 120.0
_AFTER_REFUSAL_S, _AFTER_REFUSALS_S = 5.0, 80.0  # a store that refused is not tried at once
_SAY_S: Final = 2.0
_ASKED_MAX: Final = 3  # questions out at a time; an answer has 1 MiB, or one value more

Say = Callable[[pb.SnapshotResponse], Awaitable[None]]


class Restorable(Protocol):
    """A member whose state may be replaced."""

    @property
    def raft(self) -> Raft: ...

    @property
    def node(self) -> Node: ...

    @property
    def stored_all(self) -> bool:
        """Whether nothing waits to be written."""

    def install(self) -> NativeInstall:
        """Blocks. Raises StoreError."""


class SnapshotReceiver:
    """One for the daemon's life, whatever members it has meanwhile."""

    def __init__(
        self,
        counters: SnapshotCounters,
        *,
        stall_s: float,
        member: Callable[[], Restorable],
        reopen: Callable[[], Awaitable[None]],
    ) -> None:
        """`member` is the one at work, and may raise; `reopen` is awaited when its store holds
        another state.
        """
        self._counters = counters
        self._stall_s = stall_s
        self._member = member
        self._reopen = reopen
        self._install: NativeInstall | None = None
        self._work: asyncio.Task[None] | None = None
        self._finishing = False
        self._expiry: asyncio.TimerHandle | None = None
        self._refusal_s = _AFTER_REFUSAL_S
        self._refused_until = 0.0
        self._log = structlog.get_logger("bedplate.cluster")

    async def receive(
        self, offer: pb.SnapshotOffer, frames: AsyncIterator[pb.SnapshotRequest], say: Say
    ) -> None:
        """Take it, unless it is no news. Raises BedplateError."""
        await self._end_other()
        # Of no call: what is opened anew lives on.
        work = self._work = asyncio.create_task(
            self._receive(offer, frames, say), context=contextvars.Context()
        )
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():
                raise _refused("another snapshot came", "SNAPSHOT_REPLACED") from None
            if not self._finishing:
                work.cancel()
            with contextlib.suppress(BaseException):
                await work
            raise

    async def close(self) -> None:
        """Forget what was not finished, before the store is closed."""
        if self._work is not None and not self._finishing:
            self._work.cancel()
        if self._work is not None:
            await asyncio.wait([self._work])
        await self._drop()

    async def _end_other(self) -> None:
        work = self._work
        if work is None or work.done():
            return
        if self._finishing:
            raise _refused("a snapshot is being installed", "SNAPSHOT_RUNNING")
        work.cancel()
        await asyncio.wait([work])

    # ---- one snapshot --------------------------------------------------------------------------

    async def _receive(
        self, offer: pb.SnapshotOffer, frames: AsyncIterator[pb.SnapshotRequest], say: Say
    ) -> None:
        begun = time.monotonic()
        try:
            index = await self._take(offer, frames, say, begun)
        except BaseException as error:
            self._counters.install_failures += 1
            self._log.warning(
                "snapshot_not_installed",
                index=offer.index,
                reason=getattr(error, "reason", type(error).__name__),
                error=str(error),
            )
            if isinstance(error, StoreError):
                self._refused_until = time.monotonic() + self._refusal_s
                self._refusal_s = min(2 * self._refusal_s, _AFTER_REFUSALS_S)
                await self._drop()
            else:
                self._expire_later()
            raise
        await say(_installed(index))

    async def _take(
        self,
        offer: pb.SnapshotOffer,
        frames: AsyncIterator[pb.SnapshotRequest],
        say: Say,
        begun: float,
    ) -> int:
        """The index that this member is at now."""
        member = self._member()
        raft = member.raft
        if offer.term < raft.term:
            raise _refused(f"term {offer.term} is over", "NO_LEADER")
        if time.monotonic() < self._refused_until:
            raise _refused("the last snapshot could not be stored", "SNAPSHOT_REFUSED")
        if not raft.wants_snapshot(offer.index, offer.index_term):
            return raft.commit
        install = await self._begin(member)
        async with _still_working(say) as tell:
            await tell(_working())
            await self._take_manifest(install, frames, offer)
            await self._take_values(install, frames, tell)
            state = install.state()
            index = await self._finish(member, install, offer)
        if index != offer.index:
            return index  # the log was faster
        self._counters.installed += 1
        self._refusal_s = _AFTER_REFUSAL_S
        self._log.info(
            "snapshot_installed",
            index=index,
            bytes=state.fetched_bytes,
            held_bytes=state.held_bytes,
            seconds=round(time.monotonic() - begun, 3),
        )
        return index

    async def _begin(self, member: Restorable) -> NativeInstall:
        if self._expiry is not None:
            self._expiry.cancel()
        if self._install is not None:
            await in_thread(self._install.restart)
            return self._install

        def open_it() -> None:
            self._install = member.install()

        await in_thread(open_it)
        assert self._install is not None
        return self._install

    async def _take_manifest(
        self,
        install: NativeInstall,
        frames: AsyncIterator[pb.SnapshotRequest],
        offer: pb.SnapshotOffer,
    ) -> None:
        while (frame := await self._next(frames)).WhichOneof("frame") == "manifest":
            await in_thread(partial(install.manifest, frame.manifest))
        state = install.state()
        if frame.WhichOneof("frame") != "manifest_end" or not state.complete:
            raise _malformed("a manifest that has no end")
        if (state.index, state.cluster_id) != (offer.index, offer.hello.cluster_id):
            raise _malformed("a manifest of something else")

    async def _take_values(
        self, install: NativeInstall, frames: AsyncIterator[pb.SnapshotRequest], say: Say
    ) -> None:
        """Some questions are out at a time: answers come while one is stored."""
        asked = 0
        while True:
            wanted: bytes | None = b""
            if asked < _ASKED_MAX:
                wanted = await in_thread(partial(install.wanted, ahead=asked > 0))
            if wanted:
                await say(pb.SnapshotResponse(wanted=wanted))
                asked += 1
            elif asked:
                await self._take_answer(install, frames)
                asked -= 1
            else:
                return

    async def _take_answer(
        self, install: NativeInstall, frames: AsyncIterator[pb.SnapshotRequest]
    ) -> None:
        frame = await self._next(frames)
        if frame.WhichOneof("frame") != "values":
            raise _malformed("no values where values were asked for")
        taken = await in_thread(partial(install.values, frame.values))
        self._counters.received_bytes += len(frame.values)
        if taken == 0:
            raise _refused("the sender no longer has the values", "SNAPSHOT_STALE")

    async def _next(self, frames: AsyncIterator[pb.SnapshotRequest]) -> pb.SnapshotRequest:
        try:
            async with asyncio.timeout(self._stall_s):
                return await anext(frames)
        except (TimeoutError, StopAsyncIteration):
            raise _refused("the sender says nothing more", "CONNECTION_LOST") from None

    # ---- the moment ----------------------------------------------------------------------------

    async def _finish(
        self, member: Restorable, install: NativeInstall, offer: pb.SnapshotOffer
    ) -> int:
        """The index this member is at then: the snapshot's, or a later one that it had reached."""
        if member is not self._member():
            raise _refused("this member was opened anew", "SNAPSHOT_STALE")
        self._finishing = True
        try:
            member.node.pause()
            try:
                # What it has handed over is durable: nothing of it comes behind the snapshot.
                async with asyncio.timeout(self._stall_s):
                    await member.node.paused_until(lambda: member.stored_all)
                if not member.raft.wants_snapshot(offer.index, offer.index_term):
                    return member.raft.commit
                await self._replace(member, install)
            finally:
                done = install.state().done
                await self._drop()
                if done:
                    await self._reopen()
                else:
                    member.node.resume()
            return offer.index
        finally:
            self._finishing = False

    async def _replace(self, member: Restorable, install: NativeInstall) -> None:
        state = member.raft.hard_state
        await in_thread(lambda: install.finish(state.term, state.vote))

    # ---- what is kept --------------------------------------------------------------------------

    def _expire_later(self) -> None:
        if self._install is not None:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(_KEEP_S, lambda: loop.create_task(self._expire()))

    async def _expire(self) -> None:
        if self._work is None or self._work.done():
            await self._drop()

    async def _drop(self) -> None:
        install, self._install = self._install, None
        if install is not None:
            await in_thread(install.close)


@contextlib.asynccontextmanager
async def _still_working(say: Say) -> AsyncIterator[Say]:
    """While inside, the sender hears from us every other second; frames never mix."""
    mutex = asyncio.Lock()

    async def tell(response: pb.SnapshotResponse) -> None:
        async with mutex:
            await say(response)

    async def repeat() -> None:
        with contextlib.suppress(Exception):  # whoever says something else will notice
            while True:
                await asyncio.sleep(_SAY_S)
                await tell(_working())

    repeating = asyncio.create_task(repeat())
    try:
        yield tell
    finally:
        repeating.cancel()
        await asyncio.wait([repeating])


def _working() -> pb.SnapshotResponse:
    return pb.SnapshotResponse(working=pb.SnapshotWorking())


def _installed(index: int) -> pb.SnapshotResponse:
    return pb.SnapshotResponse(installed=pb.SnapshotInstalled(index=index))


def _refused(why: str, reason: str) -> BedplateError:
    return BedplateError(why, code=Code.UNAVAILABLE, reason=reason)


def _malformed(why: str) -> BedplateError:
    return BedplateError(why, code=Code.INVALID_ARGUMENT, reason="MALFORMED_REQUEST")

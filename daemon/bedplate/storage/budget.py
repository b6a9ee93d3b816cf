"""Bounds on the bytes of messages that streams hold, over all streams of the process.

    sending     download        take --> read --> send --> give
                watch, backup   owe --> send --> give          never wait: no download delays them
    receiving   upload          take --> receive, store ... --> give

Whoever needs bytes waits, and holds nothing meanwhile; so what is held always comes back. Peers
take turns, and of one peer who comes first. Only a client can hold it up: by not taking what is
sent to it, or by not sending the rest of what it began. While nobody waits it may do so for as long
as it likes. While others wait, an upload whose client is silent for SILENCE_S puts aside on disk
what has come of it and gives its bytes back; what is being sent can be put nowhere, so a stream
whose client has not read for `stall_s` is ended, the stillest first.

Messages shrink as the budget does, so that many who do not read leave room for one who does.
Everything belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

from bedplate.errors import BedplateError, Code

MESSAGE_MAX: Final = 1 << 20
_MESSAGE_MIN: Final = 16 << 10
_SHARE_OF_FREE: Final = 256
_PROVEN: Final = 256 << 10  # taken by a client, they are not just lost in buffers on the way
_TRUSTED: Final = 16 << 20  # more than buffers hold
SILENCE_S: Final = 0.25
BYTES_MAX_DEFAULT: Final = 32 << 20
STALL_S_DEFAULT: Final = 30.0


class ClientStalled(BedplateError):
    """A client did not read for too long while others waited for the memory."""

    def __init__(self) -> None:
        super().__init__(
            "the client did not read for `limits.stall_seconds_max`, and others waited for the "
            "memory of this stream",
            code=Code.RESOURCE_EXHAUSTED,
            reason="CLIENT_STALLED",
        )


def plenty(taken: int) -> float:
    """The part of a budget that may be gone before a client gets less, by what it has taken."""
    if taken < _PROVEN:
        return 1 / 16
    return 1 / 2 if taken < _TRUSTED else 7 / 8


class Context(Protocol):
    """What is used of a servicer context."""

    def write(self, message: bytes) -> Awaitable[None]: ...


PutAside = Callable[[], Coroutine[Any, Any, None]]


class Budget:
    """What streams hold together, and who waits for a part of it."""

    def __init__(
        self, bytes_max: int = BYTES_MAX_DEFAULT, stall_s: float = STALL_S_DEFAULT
    ) -> None:
        self._bytes_max = bytes_max
        self._stall_s = stall_s
        self._held = 0
        self._queues: dict[str, deque[_Waiting]] = {}  # by peer, who is next first
        self._shares: set[Share] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> int:
        """Bytes that streams hold now."""
        return self._held

    @property
    def is_short(self) -> bool:
        """Whether somebody waits."""
        return bool(self._queues)

    def message_size(self, taken: int) -> int:
        """Bytes that the next message may have, to a client that has taken so many: MESSAGE_MAX
        while there is plenty for it, less and less behind that.
        """
        if self._held < plenty(taken) * self._bytes_max:
            return MESSAGE_MAX
        fair = (self._bytes_max - self._held) // _SHARE_OF_FREE
        most = MESSAGE_MAX if taken >= _PROVEN else 4 * _MESSAGE_MIN
        return min(max(fair, _MESSAGE_MIN), most)

    def share(self, peer: str = "") -> Share:
        """The part of one stream; a context manager, whose end gives back what is left."""
        share = Share(self, peer)
        self._shares.add(share)
        return share

    def close(self, share: Share) -> None:
        """Its stream has ended."""
        self._shares.discard(share)

    def take_now(self, share: Share, size: int, part: float = 1.0) -> bool:
        """Take so many bytes if nobody waits and, with them, no more than that part is gone."""
        if self._queues or self._held + size > part * self._bytes_max:
            return False
        self.charge(share, size)
        return True

    async def wait(self, share: Share, size: int) -> None:
        """Take so many bytes when it is this one's turn."""
        waiting = _Waiting(share, size, asyncio.get_running_loop().create_future())
        self._queues.setdefault(share.peer, deque()).append(waiting)
        self._go_on()
        try:
            await waiting.granted
        except asyncio.CancelledError:
            if waiting.granted.cancelled():
                self._leave(waiting)
                self._go_on()
            else:  # granted and cancelled at once
                self.charge(share, -size)
            raise

    def charge(self, share: Share, size: int) -> None:
        """Take so many bytes, or give them back when it is less than 0."""
        share.held += size
        self._held += size
        self._go_on()

    def _go_on(self) -> None:
        # A cancelled one that is next leaves by itself, and comes here then.
        while (waiting := self._next()) and not waiting.granted.done():
            if self._held and self._held + waiting.size > self._bytes_max:
                break
            self._leave(waiting)
            waiting.share.held += waiting.size
            self._held += waiting.size
            waiting.granted.set_result(None)
        if self._timer is None and (self._queues or self._held > self._bytes_max):
            self._look_in(min(SILENCE_S, self._stall_s))

    def _next(self) -> _Waiting | None:
        return next(iter(self._queues.values()))[0] if self._queues else None

    def _leave(self, waiting: _Waiting) -> None:
        """Take it out of the queue of its peer, which has had its turn."""
        queue = self._queues.pop(waiting.share.peer)
        queue.remove(waiting)
        if queue:
            self._queues[waiting.share.peer] = queue

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Make clients that do not move give way, as many as it takes; come back for more."""
        self._timer = None
        wanted = sum(each.size for queue in self._queues.values() for each in queue)
        short_of = wanted + self._held - self._bytes_max
        if short_of <= 0:
            return
        now = asyncio.get_running_loop().time()
        still = [
            (share.client_since + (SILENCE_S if share.can_put_aside else self._stall_s), share)
            for share in self._shares
            if share.held and share.client_since
        ]
        for due, share in sorted(still, key=lambda pair: pair[0]):
            if due > now:
                self._look_in(due - now)
                return
            short_of -= share.held
            share.give_way()
            if short_of <= 0:
                break
        self._look_in(min(SILENCE_S, self._stall_s))


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    share: Share
    size: int
    granted: asyncio.Future[None]


class Share:
    """What one stream of a peer holds. One task at a time waits in it."""

    __slots__ = (
        "_aside",
        "_budget",
        "_failure",
        "_put_aside",
        "_task",
        "client_since",
        "held",
        "peer",
    )

    def __init__(self, budget: Budget, peer: str) -> None:
        self._budget = budget
        self._task: asyncio.Task[object] | None = None
        self._failure: Exception | None = None
        self._put_aside: PutAside | None = None
        self._aside: asyncio.Task[None] | None = None
        self.peer = peer
        self.held = 0
        self.client_since = 0.0  # since when its client is waited for; 0: it is not

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give(self.held)
        self._budget.close(self)

    async def take(self, size: int) -> None:
        """Take so many bytes, waiting for them; meanwhile the stream must hold none."""
        if not self._budget.take_now(self, size):
            assert self.held == 0
            await self._budget.wait(self, size)

    def take_spare(self, size: int, taken: int = _PROVEN) -> bool:
        """Take so many bytes if there is plenty, for what can also be done later."""
        return self._budget.take_now(self, size, plenty(taken))

    def give(self, size: int) -> None:
        """Give so many bytes back."""
        if size:
            self._budget.charge(self, -size)

    async def send(self, context: Context, message: bytes) -> None:
        """Write a message whose bytes are held. RESOURCE_EXHAUSTED / CLIENT_STALLED."""
        with self._client():
            await context.write(message)

    async def send_owing(self, context: Context, message: bytes) -> None:
        """Write a message, holding its bytes meanwhile, there or not. RESOURCE_EXHAUSTED /
        CLIENT_STALLED.
        """
        size = len(message)
        self._budget.charge(self, size)
        try:
            await self.send(context, message)
        finally:
            self.give(size)

    async def receive(self, messages: AsyncIterator[bytes], put_aside: PutAside) -> bytes | None:
        """The next message, None at the end. While a client is silent and others wait, `put_aside`
        gives back what is held. Raises what that raises.
        """
        self._put_aside = put_aside
        try:
            with self._client():
                return await anext(messages, None)
        finally:
            self._put_aside = None
            if self._aside is not None:
                aside, self._aside = self._aside, None
                await aside

    @property
    def can_put_aside(self) -> bool:
        return self._put_aside is not None

    def give_way(self) -> None:
        """Others need the bytes: put aside what is held or, where that cannot be, make what waits
        for the client raise CLIENT_STALLED.
        """
        if self._put_aside is None:
            self._end(ClientStalled())
        elif self._aside is None:
            self._aside = asyncio.ensure_future(self._put_aside())
            self._aside.add_done_callback(self._has_put_aside)

    def _has_put_aside(self, aside: asyncio.Task[None]) -> None:
        if not aside.cancelled() and (error := aside.exception()) is not None:
            assert isinstance(error, Exception)
            self._end(error)

    def _end(self, failure: Exception) -> None:
        if self._task is not None and self._failure is None:
            self._failure = failure
            self._task.cancel()

    @contextmanager
    def _client(self) -> Iterator[None]:
        """Around waiting for the client."""
        self._task = asyncio.current_task()
        self.client_since = asyncio.get_running_loop().time()
        try:
            yield
        except asyncio.CancelledError:
            if self._failure is None or self._task is None:
                raise
            self._task.uncancel()
            raise self._failure from None
        finally:
            self._task, self.client_since = None, 0.0


@dataclass(frozen=True, slots=True)
class Budgets:
    """One for each direction, so that neither holds up the other."""

    sending: Budget = field(default_factory=Budget)
    receiving: Budget = field(default_factory=Budget)


def budgets(bytes_max: int, stall_s: float) -> Budgets:
    """Half of the bytes for each direction."""
    return Budgets(Budget(bytes_max // 2, stall_s), Budget(bytes_max // 2, stall_s))

"""Bounds on the bytes of messages that streams hold, over all streams of the process.

    sending     download        take --> read --> send --> give
                watch, backup   owe --> send --> give          never wait: no download delays them
    receiving   upload          take --> receive, store ... --> give

Whoever needs bytes waits in one queue, first come, first served, and holds nothing meanwhile; so
what is held always comes back. Only a client can hold it up: by not taking what is sent to it, or
by not sending the rest of what it began. While nobody waits it may do so for as long as it likes;
while others wait, a stream whose client has not moved for `stall_s` is ended, the stillest first.

Messages shrink as the budget does, so that many who do not read leave room for one who does.
Everything belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from bedplate.errors import BedplateError, Code

MESSAGE_MAX: Final = 1 << 20
_MESSAGE_MIN: Final = 16 << 10
_SHARE_OF_FREE: Final = 256
_PROVEN: Final = 256 << 10  # taken by a client, they are not just lost in buffers on the way
_TRUSTED: Final = 16 << 20  # more than buffers hold
_LEND_AFTER_S: Final = 5.0
BYTES_MAX_DEFAULT: Final = 32 << 20
STALL_S_DEFAULT: Final = 30.0


class ClientStalled(BedplateError):
    """A client neither read nor sent for too long while others waited for the memory."""

    def __init__(self) -> None:
        super().__init__(
            "the client neither read nor sent for `limits.stall_seconds_max`, and others waited "
            "for the memory of this stream",
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


class Budget:
    """What streams hold together, and who waits for a part of it."""

    def __init__(
        self, bytes_max: int = BYTES_MAX_DEFAULT, stall_s: float = STALL_S_DEFAULT
    ) -> None:
        self._bytes_max = bytes_max
        self._stall_s = stall_s
        self._held = 0
        self._queue: deque[tuple[Share, int, asyncio.Future[None]]] = deque()
        self._shares: set[Share] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> int:
        """Bytes that streams hold now."""
        return self._held

    @property
    def is_short(self) -> bool:
        """Whether somebody waits."""
        return bool(self._queue)

    def message_size(self, taken: int) -> int:
        """Bytes that the next message may have, to a client that has taken so many: MESSAGE_MAX
        while there is plenty for it, less and less behind that.
        """
        if self._held < plenty(taken) * self._bytes_max:
            return MESSAGE_MAX
        fair = (self._bytes_max - self._held) // _SHARE_OF_FREE
        most = MESSAGE_MAX if taken >= _PROVEN else 4 * _MESSAGE_MIN
        return min(max(fair, _MESSAGE_MIN), most)

    def share(self) -> Share:
        """The part of one stream; a context manager, whose end gives back what is left."""
        share = Share(self)
        self._shares.add(share)
        return share

    def close(self, share: Share) -> None:
        """Its stream has ended."""
        self._shares.discard(share)

    def take_now(self, share: Share, size: int, part: float = 1.0) -> bool:
        """Take so many bytes if nobody waits and, with them, no more than that part is gone."""
        if self._queue or self._held + size > part * self._bytes_max:
            return False
        self.charge(share, size)
        return True

    async def wait(self, share: Share, size: int) -> None:
        """Take so many bytes when it is this one's turn."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (share, size, future)
        self._queue.append(waiting)
        self._go_on()
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._queue.remove(waiting)
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
        # A cancelled one at the head leaves by itself, and comes here then.
        while self._queue and not self._queue[0][2].done():
            share, size, future = self._queue[0]
            if self._held and self._held + size > self._bytes_max:
                break
            self._queue.popleft()
            share.held += size
            self._held += size
            future.set_result(None)
        if self._timer is None and (self._queue or self._held > self._bytes_max):
            self._look_in(self._stall_s)

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """End those whose clients do not move, as many as it takes; come back for the next."""
        self._timer = None
        short_of = sum(size for _, size, _ in self._queue) + self._held - self._bytes_max
        if short_of <= 0:
            return
        now = asyncio.get_running_loop().time()
        waiting = [(s.client_since, s) for s in self._shares if s.held and s.client_since]
        for since, share in sorted(waiting, key=lambda pair: pair[0]):
            if since + self._stall_s > now:
                self._look_in(since + self._stall_s - now)
                return
            short_of -= share.held
            share.end()
            if short_of <= 0:
                break
        self._look_in(self._stall_s)


class Share:
    """What one stream holds. One task at a time waits in it."""

    __slots__ = ("_budget", "_ended", "_task", "client_since", "held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._task: asyncio.Task[object] | None = None
        self._ended = False
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

    async def receive(self, messages: AsyncIterator[bytes], lend: int = 0) -> bytes | None:
        """The next message, None at the end. While a client sends nothing for long, others get the
        `lend` bytes. RESOURCE_EXHAUSTED / CLIENT_STALLED.
        """
        lender = asyncio.get_running_loop().call_later(_LEND_AFTER_S, self.give, lend)
        held = self.held
        try:
            with self._client():
                message = await anext(messages, None)
        finally:
            lender.cancel()
        if self.held < held:
            await self.take(lend)
        return message

    def end(self) -> None:
        """Make what waits for the client raise CLIENT_STALLED."""
        if self._task is not None and not self._ended:
            self._ended = True
            self._task.cancel()

    @contextmanager
    def _client(self) -> Iterator[None]:
        """Around waiting for the client."""
        self._task = asyncio.current_task()
        self.client_since = asyncio.get_running_loop().time()
        try:
            yield
        except asyncio.CancelledError:
            if not self._ended or self._task is None:
                raise
            self._task.uncancel()
            raise ClientStalled from None
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

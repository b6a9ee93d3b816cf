"""Every call that is open, and how the daemon ends one by itself.

admit --> handler runs --> leave --> its status is sent --> done
               | end(error): the task is cancelled, and the client is told the error
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from bedplate.errors import BedplateError, Code
from bedplate.native.errors import closed


@dataclass(slots=True, eq=False)
class OpenCall:
    """One call whose handler runs; `ending` is what it is being ended with."""

    task: asyncio.Task[object]
    method: int
    token: bytes
    streams: bool
    ending: BedplateError | None = None

    def end(self, error: BedplateError) -> None:
        """Cancel it; its client gets the error."""
        if self.ending is None:
            self.ending = error
            self.task.cancel()


class OpenCalls:
    """At most `most` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: set[OpenCall] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._draining = False
        self._refused_at = 0.0

    @property
    def draining(self) -> bool:
        return self._draining

    def admit(self, method: int, token: bytes, *, streams: bool, always: bool) -> OpenCall:
        """Count a call of the current task; `leave` must follow. RESOURCE_EXHAUSTED / QUEUE_FULL;
        UNAVAILABLE / STORE_CLOSED while draining, except for what is `always` answered.
        """
        if self._draining and not always:
            self._refused_at = asyncio.get_running_loop().time()
            raise closed()
        if len(self._calls) >= self._most:
            raise BedplateError(
                "too many calls are open; `limits.calls_max` of them are",
                code=Code.RESOURCE_EXHAUSTED,
                reason="QUEUE_FULL",
            )
        task = asyncio.current_task()
        assert task is not None
        call = OpenCall(task, method, token, streams)
        self._calls.add(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call

    def uncounted(self, method: int, token: bytes, *, streams: bool) -> OpenCall:
        """A call of the current task that is not one of them; `leave` may follow."""
        task = asyncio.current_task()
        assert task is not None
        return OpenCall(task, method, token, streams)

    def leave(self, call: OpenCall) -> None:
        """Its handler is done, only the last word to its client is not."""
        self._calls.discard(call)

    def drain(self) -> None:
        """Admit no more."""
        self._draining = True

    def end_all(self, error: BedplateError) -> None:
        """End every call with the error."""
        for call in self._calls:
            call.end(error)

    def end_streams(self, judge: Callable[[int, bytes], BedplateError | None]) -> int:
        """End the streams for whose method and token `judge` finds an error; how many."""
        judged = [(call, judge(call.method, call.token)) for call in self._calls if call.streams]
        refused = [(call, error) for call, error in judged if error is not None]
        for call, error in refused:
            call.end(error)
        return len(refused)

    async def ended(self, timeout_s: float) -> bool:
        """Wait until every call is answered; False when some are not by then. One whose answer its
        client does not take is.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._tasks:
            left = deadline - loop.time()
            if left <= 0:
                return not self._calls
            await asyncio.wait(tuple(self._tasks), timeout=left)
        return True

    async def quiet(self, quiet_s: float, timeout_s: float) -> None:
        """Wait until none has been refused by the drain for so long, or the timeout has passed."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            now = loop.time()
            until = min(max(self._refused_at, begun) + quiet_s, begun + timeout_s)
            if now >= until:
                return
            await asyncio.sleep(until - now)

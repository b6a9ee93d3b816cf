"""One watch on an event loop: responses are taken in a thread, one at a time, when asked for.

    engine pump --wake()--> ready --> __anext__ --> thread: bp_watch_next --> bytes

Nothing is read ahead of the consumer, so a slow client holds back its own watch and nothing else.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Self

from bedplate.native.errors import StoreError, closed
from bedplate.native.watch import NativeWatch, Step


class WatchStream:
    """An async iterator of WatchResponse bytes. It ends after the response that says the watch is
    cancelled; it raises what `interrupt` said, STORE_CLOSED when the engine closes. `aclose` must
    be called.
    """

    def __init__(
        self, native: NativeWatch, threads: Executor, forget: Callable[[], object]
    ) -> None:
        self._native = native
        self._threads = threads
        self._forget = forget
        self._ready = asyncio.Event()
        self._work: asyncio.Future[tuple[Step, bytes]] | None = None
        self._last = False
        self._ended: StoreError | None = None  # why, before it is exhausted

    @property
    def exhausted(self) -> bool:
        """Whether the last response has been taken."""
        return self._last

    def wake(self) -> None:
        """There may be something to take."""
        self._ready.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._last:
            if self._ended is not None:
                raise self._ended
            self._ready.clear()
            loop = asyncio.get_running_loop()
            self._work = loop.run_in_executor(self._threads, self._native.next)
            step, response = await asyncio.shield(self._work)
            if step is not Step.WAIT:
                self._last = step is Step.LAST
                return response
            await self._ready.wait()
        raise StopAsyncIteration

    @property
    def ended(self) -> StoreError | None:
        """Why it was interrupted."""
        return self._ended

    def interrupt(self, why: StoreError | None = None) -> None:
        """Make the next `__anext__`, or the one that waits, raise `why`, or STORE_CLOSED; the first
        reason stays. Does not wait.
        """
        if self._ended is None:
            self._ended = why or closed()
        self._ready.set()

    async def aclose(self) -> None:
        """End the watch, waiting for a read that is under way. May be called again."""
        self.interrupt()
        if self._work is not None:
            await asyncio.wait([self._work])
        self._native.close()
        self._forget()

"""Long work in small steps on threads: it ends between two steps, never inside one.

    handler task    await step() ......... await write() ....... await step() ...
    thread                 [C, bounded]                                [C, bounded]
    drain           cancels the task: the step under way ends first, then what it used is freed

So the engine is never closed under a step, and nothing in C is freed while a step uses it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bedplate.errors import BedplateError, Code
from bedplate.storage.service_streams import OpenStreams


class Operations:
    """The long operations of a daemon: one of a kind at a time, and all end in a drain."""

    def __init__(self) -> None:
        self._streams = OpenStreams()
        self._running: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def running(self, kind: str) -> AsyncIterator[None]:
        """Around one operation. Raises BedplateError: FAILED_PRECONDITION / <KIND>_RUNNING when
        there is one, UNAVAILABLE / STORE_CLOSED once draining.
        """
        if kind in self._running:
            raise BedplateError(
                f"another {kind.capitalize()} is at work; wait for its end",
                code=Code.FAILED_PRECONDITION,
                reason=f"{kind.upper()}_RUNNING",
            )
        self._running.add(kind)
        self._idle.clear()
        try:
            with self._streams.waiting():
                yield
        finally:
            self._running.discard(kind)
            if not self._running:
                self._idle.set()

    def drain(self) -> None:
        """End what runs, start nothing new. Returns at once."""
        self._streams.drain()

    async def interrupt(self) -> None:
        """End what runs, and wait until it uses the engine no more; others may follow."""
        self._streams.interrupt()
        await self._idle.wait()

    async def ended(self) -> None:
        """Wait until nothing runs."""
        await self._idle.wait()

"""Streams that last as long as their client likes, and how a drain ends them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from bedplate.native.errors import closed
from bedplate.storage.watch import WatchStream


class OpenStreams:
    """What waits for clients. After `drain`, each of them gets UNAVAILABLE / STORE_CLOSED."""

    def __init__(self) -> None:
        self._draining = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._interrupted: set[asyncio.Task[object]] = set()
        self._watches: set[WatchStream] = set()

    @property
    def draining(self) -> bool:
        return self._draining

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for a client: a drain interrupts it. Raises StoreError."""
        if self._draining:
            raise closed()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._interrupted and not self.draining:
                raise
            task.uncancel()
            raise closed() from None
        finally:
            self._tasks.discard(task)
            self._interrupted.discard(task)

    @contextmanager
    def watching(self, stream: WatchStream) -> Iterator[None]:
        """Around serving a watch: a drain makes the stream raise, after the write under way."""
        if self._draining:
            raise closed()
        self._watches.add(stream)
        try:
            yield
        finally:
            self._watches.discard(stream)

    def interrupt(self) -> None:
        """End what waits now; others may follow. Returns at once."""
        self._interrupted |= self._tasks
        for task in self._tasks:
            task.cancel()

    def drain(self) -> None:
        """End every stream, now and from now on. Returns at once."""
        self._draining = True
        for task in self._tasks:
            task.cancel()
        for stream in self._watches:
            stream.interrupt()

"""Locks by name, and the registries of what this process is in the middle of."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class KeyedLocks:
    """One lock a key, there only while somebody holds or awaits it. They keep writers of this
    process
    from spoiling each other's transactions; correctness is the transactions' own.
    """

    def __init__(self) -> None:
        self._locks: dict[bytes, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: bytes) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            users = self._locks[key][1] - 1
            if users:
                self._locks[key] = (lock, users)
            else:
                del self._locks[key]

    def __len__(self) -> int:
        return len(self._locks)


class Pins:
    """Blobs that downloads of this process are reading, each for a limited time. `released` is set
    when a blob is let go that somebody found held.
    """

    def __init__(self, released: asyncio.Event) -> None:
        self._released = released
        self._deadlines: dict[bytes, list[float]] = {}
        self._awaited: set[bytes] = set()

    @contextmanager
    def hold(self, blob: bytes, deadline: float) -> Iterator[None]:
        """Keep the blob until the block ends or the (monotonic) deadline passes."""
        self._deadlines.setdefault(blob, []).append(deadline)
        try:
            yield
        finally:
            deadlines = self._deadlines[blob]
            deadlines.remove(deadline)
            if not deadlines:
                del self._deadlines[blob]
                if blob in self._awaited:
                    self._awaited.remove(blob)
                    self._released.set()

    def held(self, blob: bytes, now: float) -> bool:
        held = any(now < deadline for deadline in self._deadlines.get(blob, ()))
        if held:
            self._awaited.add(blob)
        return held

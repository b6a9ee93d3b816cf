"""What waits to be sent on one stream: bounded by count and bytes, taken in order."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FrameQueue(Generic[T]):
    """One task takes; anybody puts, without waiting."""

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._frames: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: T, size: int = 0) -> bool:
        """False when there is no room; then nothing was put."""
        if len(self._frames) >= self._count_max or self._bytes + size > self._bytes_max:
            return False
        self._frames.append((frame, size))
        self._bytes += size
        self._filled.set()
        return True

    async def take(self) -> T:
        """The first, as soon as there is one."""
        while not self._frames:
            self._filled.clear()
            await self._filled.wait()
        frame, size = self._frames.popleft()
        self._bytes -= size
        return frame

    async def take_all(self) -> list[T]:
        """All there are, at least one."""
        taken = [await self.take()]
        taken.extend(frame for frame, _ in self._frames)
        self.clear()
        return taken

    def clear(self) -> None:
        self._frames.clear()
        self._bytes = 0

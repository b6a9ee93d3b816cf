"""Virtual time: events run one after the other, each at its moment, in an order fixed by the seed.

Times are microseconds since the run began.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

MS = 1_000
SECOND = 1_000_000
EVENTS_MAX = 500_000  # a hundred times what a run takes


class Timeline:
    """The queue of everything that is going to happen."""

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0

    def after(self, delay: int, action: Callable[..., None], *arguments: object) -> None:
        """Call `action(*arguments)` when `delay` has passed."""
        assert delay >= 0
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, action, arguments))

    def run_until(self, end: int, done: Callable[[], bool] = lambda: False) -> None:
        """Everything before `end`, or until `done`, which is asked after each event."""
        queue = self._queue
        while queue and queue[0][0] <= end:
            self.now, _, action, arguments = heapq.heappop(queue)
            self.events += 1
            assert self.events < EVENTS_MAX, "it never ends"
            action(*arguments)
            if done():
                return
        self.now = max(self.now, end)

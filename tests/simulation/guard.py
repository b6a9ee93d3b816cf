"""A limit on the processor time of one seed, so that a hang is a failure that can be replayed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_MAX = 60.0  # a hundred times what a seed takes


class Hung(Exception):
    """A seed does not end."""


@contextmanager
def limited(seconds: float = SECONDS_MAX) -> Iterator[None]:
    """Raises Hung inside when that much processor time was used; a busy machine does not count.
    Only in a process's main thread, where signals arrive.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _hung)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _hung(_: int, frame: FrameType | None) -> None:
    where = f"{frame.f_code.co_qualname}:{frame.f_lineno}" if frame is not None else "nowhere"
    raise Hung(f"no end after {SECONDS_MAX:.0f} s of processor time; it was in {where}")

"""bp_watch: the changes of a range, taken one response at a time."""

from enum import IntEnum
from typing import Any

from bedplate._native import ffi, lib


class Step(IntEnum):
    """What `NativeWatch.next` found."""

    WAIT = 0  # nothing now; a completion will come
    RESPONSE = 1  # a response; ask again
    LAST = 2  # the last response: the watch is cancelled


class NativeWatch:
    """One thread at a time."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self._reply = ffi.new("struct bp_reply *")

    def next(self) -> tuple[Step, bytes]:
        """The next WatchResponse's bytes. May read values from the disk: blocks."""
        reply = self._reply
        step = Step(lib.bp_watch_next(self._pointer, reply))
        if step is Step.WAIT:
            return step, b""
        data = ffi.buffer(reply.data, reply.size)[:] if reply.size else b""
        lib.bp_reply_free(reply)
        return step, data

    def close(self) -> None:
        """End the watch; not while `next` runs."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.bp_watch_close(pointer)

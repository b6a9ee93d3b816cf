"""bp_queue: completions by cookie, announced by one eventfd."""

from collections.abc import Callable
from typing import Any

from bedplate._native import ffi, lib
from bedplate.errors import Code
from bedplate.native.errors import StoreError, closed, store_error

# A completion's result: the reply and its aux number, or why there is none.
Handler = Callable[[int, bytes, int, StoreError | None], None]


class CompletionQueue:
    """One consumer at a time takes from it."""

    def __init__(self, store: Any, batch: int = 256) -> None:
        pointer = lib.bp_queue_new(store)
        if pointer == ffi.NULL:
            raise MemoryError("no memory for a completion queue")
        self._pointer = pointer
        self._batch = batch
        self._taken = ffi.new("struct bp_completion[]", batch)

    @property
    def fd(self) -> int:
        """The eventfd; readable while there is something to take."""
        return int(lib.bp_queue_fd(self.pointer))

    def take(self, handle: Handler) -> bool:
        """Call `handle(cookie, reply, aux, error)` for at most one batch; whether more may wait."""
        taken = self._taken
        n = lib.bp_queue_take(self.pointer, taken, self._batch)
        for i in range(n):
            completion = taken[i]
            reply = completion.reply
            data = ffi.buffer(reply.data, reply.size)[:] if reply.size else b""
            error = _failure(completion) if completion.code != 0 else None
            cookie, aux = completion.cookie, completion.aux
            lib.bp_completion_free(ffi.addressof(taken, i))
            handle(cookie, data, aux, error)
        return bool(n == self._batch)

    def close(self) -> None:
        """Free the queue; open requests complete into nothing."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.bp_queue_free(pointer)

    @property
    def pointer(self) -> Any:
        """The bp_queue. Raises StoreError once closed."""
        if self._pointer is None:
            raise closed()
        return self._pointer


def _failure(completion: Any) -> StoreError:
    if completion.error == ffi.NULL:  # no memory even for the words
        return StoreError("no memory", code=Code(completion.code), reason="OUT_OF_MEMORY")
    return store_error(completion.error)

"""A store and its requests: bp_store and bp_submit_*.

submit_*(queue, ..., cookie)  ->  C  ->  CompletionQueue (completions.py): (cookie, reply or error)
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from bedplate._native import ffi, lib
from bedplate.native.completions import CompletionQueue
from bedplate.native.errors import check, closed, store_error, text
from bedplate.native.options import Options, native_options
from bedplate.native.status import Status, read_status
from bedplate.native.watch import NativeWatch


class Method(IntEnum):
    """KV methods by the engine's number."""

    GET = 1
    PUT = 2
    DELETE = 3
    SCAN = 4
    TXN = 5
    BATCH = 6
    GRANT_LEASE = 7
    REVOKE_LEASE = 8
    GET_LEASE = 9
    KEEP_ALIVE = 10


class Keyspace(IntEnum):
    """The first byte of every stored key. KVService reaches USER alone."""

    USER = ord("u")
    OBJECT = ord("o")
    SYSTEM = ord("s")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a request in the op encoding."""

    revision: int
    deleted: int
    succeeded: bool


def read_outcome(reply: bytes) -> Outcome:
    """From the 24 bytes that bp_submit replies with."""
    revision, deleted, succeeded = (
        int.from_bytes(reply[at : at + 8], "little") for at in (0, 8, 16)
    )
    return Outcome(revision, deleted, bool(succeeded))


class NativeStore:
    """An open store. All methods are safe from any thread; none may be called during or after close
    but `close` itself.
    """

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer

    @classmethod
    def open(cls, options: Options) -> "NativeStore":
        """Open or make the store. Blocks for as long as recovery takes. Raises StoreError."""
        native = native_options(options)
        pointer, error = ffi.new("bp_store **"), ffi.new("struct bp_error *")
        check(lib.bp_open(native.pointer, pointer, error), error)
        return cls(pointer[0])

    def close(self) -> None:
        """Finish open requests, sync, free. Blocks. Queues and watches must be closed before."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            error = ffi.new("struct bp_error *")
            check(lib.bp_close(pointer, error), error)

    def status(self) -> Status:
        """Counters and sizes now. Does not wait for the disk."""
        status = ffi.new("struct bp_status *")
        lib.bp_get_status(self.pointer, status)
        return read_status(status)

    def queue(self) -> CompletionQueue:
        """A new completion queue. Raises MemoryError."""
        return CompletionQueue(self.pointer)

    def submit_wire(
        self, queue: CompletionQueue, method: int, keyspace: int, request: bytes, cookie: int
    ) -> None:
        """One KV request as protobuf bytes. Raises StoreError: a bad request, a full queue."""
        error = ffi.new("struct bp_error *")
        code = lib.bp_submit_wire(
            self.pointer, queue.pointer, method, keyspace, request, len(request), cookie, error
        )
        if code != 0:
            raise store_error(error)

    def submit_frame(
        self, queue: CompletionQueue, keyspace: int, frame: bytes, cookie: int
    ) -> None:
        """One PipelineRequest; one completion with its PipelineResponse."""
        error = ffi.new("struct bp_error *")
        code = lib.bp_submit_frame(
            self.pointer, queue.pointer, keyspace, frame, len(frame), cookie, error
        )
        check(code, error)

    def submit(self, queue: CompletionQueue, request: bytes, cookie: int) -> None:
        """One request in the op encoding; the completion's reply is for `read_outcome`."""
        error = ffi.new("struct bp_error *")
        check(
            lib.bp_submit(self.pointer, queue.pointer, request, len(request), cookie, error), error
        )

    def submit_value(
        self,
        queue: CompletionQueue,
        keyspace: int,
        key: bytes,
        cookie: int,
        *,
        revision: int = 0,
        offset: int = 0,
        length: int = 0xFFFF_FFFF,
        prefix: bytes = b"",
    ) -> None:
        """Read part of one value; the completion's reply is `prefix` and then the bytes."""
        error = ffi.new("struct bp_error *")
        code = lib.bp_submit_value(
            self.pointer,
            queue.pointer,
            keyspace,
            key,
            len(key),
            revision,
            offset,
            length,
            prefix,
            len(prefix),
            cookie,
            error,
        )
        check(code, error)

    def submit_compact(self, queue: CompletionQueue, revision: int, cookie: int) -> None:
        """Raise the compaction revision (0: to the newest); the reply is for `read_outcome`."""
        error = ffi.new("struct bp_error *")
        check(lib.bp_submit_compact(self.pointer, queue.pointer, revision, cookie, error), error)

    def submit_forwarded(self, queue: CompletionQueue, batch: bytes, cookie: int) -> None:
        """A batch of another member's requests; the reply is their outcomes, when all are done."""
        error = ffi.new("struct bp_error *")
        code = lib.bp_raft_forwarded(self.pointer, queue.pointer, batch, len(batch), cookie, error)
        check(code, error)

    def open_watch(
        self, queue: CompletionQueue, keyspace: int, request: bytes, cookie: int
    ) -> NativeWatch:
        """A watch from a WatchRequest; completions with `cookie` and no reply say: look again."""
        watch, error = ffi.new("bp_watch **"), ffi.new("struct bp_error *")
        code = lib.bp_watch_open(
            self.pointer, queue.pointer, keyspace, request, len(request), cookie, watch, error
        )
        check(code, error)
        return NativeWatch(watch[0])

    @property
    def clustered(self) -> bool:
        """Whether others may decide what happens to it."""
        return bool(lib.bp_raft_fd(self.pointer) >= 0)

    @property
    def pointer(self) -> Any:
        """The bp_store. Raises StoreError once closed."""
        if self._pointer is None:
            raise closed()
        return self._pointer


def version() -> str:
    """The engine's version."""
    return text(lib.bp_version_string())


def crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """CRC-32C (Castagnoli) of `data`, going on from `crc`."""
    return int(lib.bp_crc32c(crc, ffi.from_buffer(data), len(data)))

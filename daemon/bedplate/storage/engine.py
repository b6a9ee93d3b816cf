"""The store on an event loop: requests go in as bytes, awaitables come back.

    await engine.call(...)   --submit, cookie-->  C queue, driver, readers
            ^                                          |
            +-- future[cookie] <-- pump <-- eventfd <--+      one wake takes a batch of completions

A cancelled await forgets its future; the request itself goes on in C, so its outcome is unknown to
the caller. Everything here belongs to the loop that called `open`.
"""

import asyncio
import enum
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from bedplate.errors import Code
from bedplate.native.completions import CompletionQueue
from bedplate.native.errors import StoreError, closed
from bedplate.native.options import Options
from bedplate.native.status import Status
from bedplate.native.store import NativeStore, Outcome, read_outcome
from bedplate.storage.watch import WatchStream

_WATCH_THREADS = 4


class State(enum.Enum):
    """Where an Engine is in its life."""

    RECOVERING = "recovering"  # from construction until `open` is done
    OPEN = "open"
    CLOSED = "closed"


class Reply(NamedTuple):
    """The bytes of a reply; for `value` also the CRC32C of the value's bytes in it."""

    data: bytes
    crc32c: int


class Engine:
    """One bp_store. Calls before `open` has returned fail with UNAVAILABLE / STORE_RECOVERING,
    after `close` began with UNAVAILABLE / STORE_CLOSED.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._state = State.RECOVERING
        self._native: NativeStore | None = None
        self._queue: CompletionQueue | None = None
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._watches: dict[int, WatchStream] = {}
        self._cookie = 0
        self._threads = ThreadPoolExecutor(_WATCH_THREADS, thread_name_prefix="watch")

    @property
    def state(self) -> State:
        return self._state

    @property
    def native(self) -> NativeStore:
        """The open store, for work that runs in threads (scrub, backup). Raises StoreError."""
        if self._state is State.RECOVERING:
            raise StoreError(
                "the store is recovering; try again soon",
                code=Code.UNAVAILABLE,
                reason="STORE_RECOVERING",
            )
        if self._native is None:
            raise closed()
        return self._native

    async def open(self) -> None:
        """Open or make the store in a thread. Raises StoreError."""
        native = await asyncio.to_thread(NativeStore.open, self._options)
        self._native = native
        self._queue = native.queue()
        asyncio.get_running_loop().add_reader(self._queue.fd, self._pump)
        self._state = State.OPEN

    async def close(self) -> None:
        """Refuse new requests, fail what is still awaited, close the store in a thread.

        Raises StoreError when the last sync failed.
        """
        native, queue, self._native, self._queue = self._native, self._queue, None, None
        self._state = State.CLOSED
        if queue is not None:
            asyncio.get_running_loop().remove_reader(queue.fd)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(closed())
        self._pending.clear()
        for stream in list(self._watches.values()):
            await stream.aclose()
        self._threads.shutdown(wait=False)
        if queue is not None:
            queue.close()
        if native is not None:
            await asyncio.to_thread(native.close)

    async def call(self, method: int, keyspace: int, request: bytes) -> bytes:
        """One KV request as protobuf bytes; its reply's bytes. Raises StoreError."""
        native, queue, cookie, future = self._begin()
        try:
            native.submit_wire(queue, method, keyspace, request, cookie)
            return (await future).data
        finally:
            self._pending.pop(cookie, None)

    def frame(self, keyspace: int, frame: bytes) -> asyncio.Future[Reply]:
        """Submit one PipelineRequest now; a future of its PipelineResponse. Frames take effect in
        the order submitted. Raises StoreError, and then nothing of the frame ran.
        """
        native, queue, cookie, future = self._begin()
        try:
            native.submit_frame(queue, keyspace, frame, cookie)
        except BaseException:
            self._pending.pop(cookie, None)
            raise
        return future

    async def execute(self, request: bytes) -> Outcome:
        """One request in the op encoding. Raises StoreError."""
        native, queue, cookie, future = self._begin()
        try:
            native.submit(queue, request, cookie)
            return read_outcome((await future).data)
        finally:
            self._pending.pop(cookie, None)

    async def value(
        self,
        keyspace: int,
        key: bytes,
        *,
        revision: int = 0,
        offset: int = 0,
        length: int = 0xFFFF_FFFF,
        prefix: bytes = b"",
    ) -> Reply:
        """`prefix` and then up to `length` bytes of one value from `offset` on, at a revision (0:
        the newest). Raises StoreError: NOT_FOUND without the key, DATA_LOSS for damaged bytes.
        """
        native, queue, cookie, future = self._begin()
        try:
            native.submit_value(
                queue,
                keyspace,
                key,
                cookie,
                revision=revision,
                offset=offset,
                length=length,
                prefix=prefix,
            )
            return await future
        finally:
            self._pending.pop(cookie, None)

    async def compact(self, revision: int) -> Outcome:
        """Raise the compaction revision (0: to the newest). Raises StoreError."""
        native, queue, cookie, future = self._begin()
        try:
            native.submit_compact(queue, revision, cookie)
            return read_outcome((await future).data)
        finally:
            self._pending.pop(cookie, None)

    def watch(self, keyspace: int, request: bytes) -> WatchStream:
        """The responses of one WatchRequest; close the stream to end the watch. Raises StoreError
        when it cannot begin.
        """
        native, queue, cookie = self.native, self._open_queue(), self._next_cookie()
        watch = native.open_watch(queue, keyspace, request, cookie)
        stream = WatchStream(watch, self._threads, lambda: self._watches.pop(cookie, None))
        self._watches[cookie] = stream
        return stream

    def status(self) -> Status:
        """Counters and sizes now. Raises StoreError when not open."""
        return self.native.status()

    def room_bytes(self) -> int:
        """Bytes that ordinary writes may still take of the disk; the reserve is no free space, it
        is allocated. Raises StoreError when not open.
        """
        status = self.status()
        return 0 if status.disk_full else status.disk_free_bytes

    def _begin(self) -> tuple[NativeStore, CompletionQueue, int, asyncio.Future[Reply]]:
        native, queue, cookie = self.native, self._open_queue(), self._next_cookie()
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[cookie] = future
        return native, queue, cookie, future

    def _open_queue(self) -> CompletionQueue:
        if self._queue is None:
            raise closed()
        return self._queue

    def _next_cookie(self) -> int:
        self._cookie += 1
        return self._cookie

    def _pump(self) -> None:
        """One batch of completions; the eventfd stays readable while there are more."""
        if self._queue is not None:
            self._queue.take(self._complete)

    def _complete(self, cookie: int, reply: bytes, aux: int, error: StoreError | None) -> None:
        future = self._pending.pop(cookie, None)
        if future is None:
            stream = self._watches.get(cookie)
            if stream is not None:
                stream.wake()
        elif not future.done():
            if error is None:
                future.set_result(Reply(reply, aux))
            else:
                future.set_exception(error)

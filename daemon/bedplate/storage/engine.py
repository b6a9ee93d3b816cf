"""The store on an event loop: requests go in as bytes, awaitables come back.

    await engine.call(...)   --submit, cookie-->  C queue, driver, readers
            ^                                          |
            +-- future[cookie] <-- pump <-- eventfd <--+      one wake takes a batch of completions

A cancelled await forgets its future; the request itself goes on in C, so its outcome is unknown to
the caller. Everything here belongs to the loop that called `open`.
"""

import asyncio
import enum
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from bedplate.api.kv.v1 import kv_pb2
from bedplate.errors import Code
from bedplate.native.completions import CompletionQueue
from bedplate.native.errors import StoreError, closed
from bedplate.native.options import Options
from bedplate.native.status import Status
from bedplate.native.store import Keyspace, Method, NativeStore, Outcome, read_outcome
from bedplate.storage.threads import in_thread
from bedplate.storage.watch import WatchStream

_WATCH_THREADS = 4
_REOPEN_RETRY_MS = 500
_ANY_KEY = kv_pb2.GetRequest(key=b"\0").SerializeToString()
T = TypeVar("T")


class State(enum.Enum):
    """Where an Engine is in its life."""

    RECOVERING = "recovering"  # from construction until `open` is done, and during `reopen`
    OPEN = "open"
    CLOSED = "closed"


class Reply(NamedTuple):
    """The bytes of a reply; for `value` also the CRC32C of the value's bytes in it."""

    data: bytes
    crc32c: int


class Engine:
    """One bp_store. Calls before `open` has returned, or during `reopen`, fail with UNAVAILABLE /
    STORE_RECOVERING, after `close` began with UNAVAILABLE / STORE_CLOSED.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._state = State.RECOVERING
        self._native: NativeStore | None = None
        self._queue: CompletionQueue | None = None
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._watches: dict[int, WatchStream] = {}
        self._cookie = 0
        self._refused: StoreError | None = None
        self.explain: Callable[[StoreError], None] | None = None  # adds what a caller needs to know
        self.before_reopen: list[Callable[[], Awaitable[None]]] = []  # end what uses `native`
        self._steps = 0
        self._idle = asyncio.Event()
        self._idle.set()
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
                retry_after_ms=_REOPEN_RETRY_MS,
            )
        if self._native is None:
            raise closed()
        return self._native

    @property
    def options(self) -> Options:
        """Those it was made with."""
        return self._options

    async def open(self, options: Options | None = None) -> None:
        """Open or make the store in a thread, maybe with other options. Raises StoreError."""
        native = await asyncio.to_thread(NativeStore.open, options or self._options)
        self._native = native
        self._queue = native.queue()
        asyncio.get_running_loop().add_reader(self._queue.fd, self._pump)
        self._state = State.OPEN

    async def reopen(self) -> None:
        """Close the store and open what its directory holds now. Calls under way fail, UNAVAILABLE
        / LEADER_LOST: what became of them is unknown; watches end with STORE_RECOVERING. Raises
        StoreError, and then the engine stays closed.
        """
        self._state = State.RECOVERING
        try:
            for interrupt in self.before_reopen:
                await interrupt()
            await self._release(_interrupted, _replaced)
            await self.open()
        except BaseException:
            self._state = State.CLOSED
            raise

    async def close(self) -> None:
        """Refuse new requests, fail what is still awaited, close the store in a thread.

        Raises StoreError when the last sync failed.
        """
        self._state = State.CLOSED
        try:
            await self._release(closed, closed)
        finally:
            self._threads.shutdown(wait=False)

    async def _release(
        self, failure: Callable[[], StoreError], watches_end: Callable[[], StoreError]
    ) -> None:
        """Nothing uses the store any more, and it is closed."""
        native, queue, self._native, self._queue = self._native, self._queue, None, None
        if queue is not None:
            asyncio.get_running_loop().remove_reader(queue.fd)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(failure())
        self._pending.clear()
        for stream in list(self._watches.values()):
            stream.interrupt(watches_end())
            await stream.aclose()
        await self._idle.wait()
        if queue is not None:
            queue.close()
        if native is not None:
            await asyncio.to_thread(native.close)

    async def step(self, work: Callable[[NativeStore], T]) -> T:
        """Bounded work on the store in a thread, which stays open meanwhile. Raises StoreError."""
        native = self._serving()
        self._steps += 1
        self._idle.clear()
        try:
            return await in_thread(lambda: work(native))
        finally:
            self._steps -= 1
            if self._steps == 0:
                self._idle.set()

    async def call(self, method: int, keyspace: int, request: bytes) -> bytes:
        """One KV request as protobuf bytes; its reply's bytes. Raises StoreError."""
        native, queue, cookie, future = self._begin(system=keyspace == Keyspace.SYSTEM)
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

    async def forwarded(self, batch: bytes) -> bytes:
        """Do what another member's clients asked for; the outcomes. Only where this member leads.
        Raises StoreError, and then nothing was done.
        """
        native, queue, cookie, future = self._begin()
        try:
            native.submit_forwarded(queue, batch, cookie)
            return (await future).data
        finally:
            self._pending.pop(cookie, None)

    def refuse(self, error: StoreError | None) -> None:
        """Let every later request fail with `error`, and end the watches: this store is out of
        service until None is said. Only `call` for the system keyspace still works.
        """
        self._refused = error
        if error is None:
            return
        for stream in self._watches.values():
            stream.interrupt(error)

    def watch(self, keyspace: int, request: bytes) -> WatchStream:
        """The responses of one WatchRequest; close the stream to end the watch. Raises StoreError
        when it cannot begin.
        """
        native, queue, cookie = self._serving(), self._open_queue(), self._next_cookie()
        watch = native.open_watch(queue, keyspace, request, cookie)
        stream = WatchStream(watch, self._threads, lambda: self._watches.pop(cookie, None))
        self._watches[cookie] = stream
        return stream

    async def present(self) -> None:
        """Wait until everything that was answered before, by any member, is applied here. Costs
        nothing where there are no others. Raises StoreError: NO_LEADER.
        """
        if self.native.clustered:
            await self.call(Method.GET, Keyspace.USER, _ANY_KEY)

    def status(self) -> Status:
        """Counters and sizes now. Raises StoreError when not open."""
        return self.native.status()

    def room_bytes(self) -> int:
        """Bytes that ordinary writes may still take of the disk; the reserve is no free space, it
        is allocated. Raises StoreError when not open.
        """
        status = self.status()
        return 0 if status.disk_full else status.disk_free_bytes

    def _begin(
        self, *, system: bool = False
    ) -> tuple[NativeStore, CompletionQueue, int, asyncio.Future[Reply]]:
        native = self.native if system else self._serving()
        queue, cookie = self._open_queue(), self._next_cookie()
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[cookie] = future
        return native, queue, cookie, future

    def _serving(self) -> NativeStore:
        if self._refused is not None:
            raise self._refused
        return self.native

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
                if self.explain is not None:
                    self.explain(error)
                future.set_exception(error)


def _interrupted() -> StoreError:
    """What a call gets that was under way when the store was reopened."""
    return StoreError(
        "this member takes another one's state over; what became of the call is unknown",
        code=Code.UNAVAILABLE,
        reason="LEADER_LOST",
        retry_after_ms=_REOPEN_RETRY_MS,
    )


def _replaced() -> StoreError:
    """What ends a watch then."""
    return StoreError(
        "this member takes another one's state over; go on from resume_revision",
        code=Code.UNAVAILABLE,
        reason="STORE_RECOVERING",
        retry_after_ms=_REOPEN_RETRY_MS,
    )

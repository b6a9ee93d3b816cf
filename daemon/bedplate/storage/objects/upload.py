"""Data coming in: a stream of messages of any size becomes chunks of 1 MiB, several on their way at
a time.

    messages ── check ── cut ──> chunk ──> in flight (window) ──> stored
      | room for each is taken     |  the first only when a second is sure to follow: data of one
                                   |  chunk is committed together with its object, without a record
    begin (upload record) ── chunks, each requiring the record ── commit (consumes the record)

An upload holds its room for a turn while others wait for one, and not at all while its client is
silent: what has come of a chunk is then put aside, stored under the chunk's key, read back when the
upload goes on, and replaced by the whole chunk.

Whatever breaks before the commit leaves the record behind with nobody alive to claim it, and the
reaper makes garbage of it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bedplate.storage.budget import PutAside, Share
from bedplate.storage.objects import keys, wire
from bedplate.storage.objects.buckets import Buckets
from bedplate.storage.objects.checksums import crc32c
from bedplate.storage.objects.core import Core
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.keys import CHUNK_SIZE, Name, Stream
from bedplate.storage.objects.objects import CONFLICTS_MAX
from bedplate.storage.objects.records import UploadRecord
from bedplate.storage.objects.store import Txn
from bedplate.storage.objects.wire import Buffer

WINDOW = 8  # chunks of one upload in flight
ROOM = 2 * CHUNK_SIZE  # one chunk that is coming in, one in flight
TURN = 64 << 20  # bytes; what is received ahead of us stays in memory between two turns
TURN_S = 1.0
Pieces = list[Buffer]


@dataclass(frozen=True, slots=True)
class Announced:
    """What the client said about the data; None: nothing. `size_max` is what is allowed."""

    size: int | None
    crc32c: int | None
    size_max: int


def _removed() -> ObjectError:
    return ObjectError(
        Reason.CONFLICT, "the upload was removed while its data was coming in; send it again"
    )


class Cutter:
    """Cuts a stream of bytes into chunks without copying it."""

    def __init__(self) -> None:
        self._pieces: Pieces = []
        self._room = CHUNK_SIZE

    @property
    def is_empty(self) -> bool:
        return not self._pieces

    @property
    def is_full(self) -> bool:
        return self._room == 0

    def feed(self, data: Buffer) -> Iterator[Pieces]:
        """Take data; yields chunks that are full and not the last."""
        view = memoryview(data)
        while len(view):
            if self._room == 0:
                yield self.rest()
            taken = view[: self._room]
            self._pieces.append(taken)
            self._room -= len(taken)
            view = view[len(taken) :]

    def rest(self) -> Pieces:
        """What is left; the cutter starts anew."""
        pieces, self._pieces, self._room = self._pieces, [], CHUNK_SIZE
        return pieces


class Source(Protocol):
    async def next(self, share: Share, put_aside: PutAside) -> wire.Data | None:
        """The next message's data, None at a real end; `put_aside` as in `Share.receive`."""


class Upload:
    """One stream on its way in. Use as an async context manager: leaving it lets go of what was not
    committed.
    """

    def __init__(
        self,
        core: Core,
        buckets: Buckets,
        name: Name,
        stream: Stream,
        required: Sequence[bytes] = (),
        lost: Callable[[], ObjectError] = _removed,
        peer: str = "",
    ) -> None:
        """`required` keys must exist for every chunk, beside the upload's own record; `lost` makes
        the error for when one is gone.
        """
        self._core = core
        self._buckets = buckets
        self._name = name
        self.stream = stream
        self._required = required
        self._lost = lost
        self._key = keys.upload(stream)
        self._guard = wire.guard((self._key, *required))
        self._begun = False
        self._written = 0
        self._in_flight: deque[tuple[asyncio.Task[bool], bool]] = deque()
        self._share = core.budgets.receiving.share(peer)
        self._turn_ends = 0
        self._turn_ends_s = 0.0
        self._cutter = Cutter()
        self._is_aside = False
        self.size = 0
        self.crc32c = 0
        self._last: Pieces = []

    async def __aenter__(self) -> "Upload":
        self._core.counts.uploads += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._core.counts.uploads -= 1
        # A chunk already in the engine's hands is stored or not; without its record it is garbage.
        tasks = [task for task, _ in self._in_flight]
        for task in tasks:
            task.cancel()
        self._in_flight.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._share.__exit__()
        if self._core.uploads.pop(self._key, None) is not None:
            self._core.reclaim.set()

    @property
    def request_id(self) -> str:
        """Names the commit: what it consumes is there only once."""
        return self.stream.blob.hex() if self._begun else ""

    async def receive(self, incoming: Source, announced: Announced) -> None:
        """Take in all data; on return it is stored and is what was announced. CHECKSUM_MISMATCH,
        SIZE_MISMATCH, OBJECT_TOO_LARGE, MALFORMED_REQUEST, BUCKET_NOT_FOUND.
        """
        cutter = self._cutter
        while (message := await self._next(incoming)) is not None:
            for pieces in cutter.feed(self._take(message, announced)):
                await self._write(pieces)
            del message  # its bytes, while the next one is awaited
        if announced.size is not None and self.size != announced.size:
            raise _size_mismatch(announced.size, f"only {self.size} came")
        if announced.crc32c is not None and self.crc32c != announced.crc32c:
            raise ObjectError(
                Reason.CHECKSUM_MISMATCH,
                f"the data has CRC-32C {self.crc32c:#010x}, not {announced.crc32c:#010x}",
                "header.crc32c",
            )
        self._last = cutter.rest()
        if self._begun:
            if self._last:
                await self._write(self._last)
            await self._flush()

    async def _next(self, incoming: Source) -> wire.Data | None:
        """Receive while there is room. When others wait for it they get it after a turn."""
        if self._core.budgets.receiving.is_short and (
            self.size >= self._turn_ends or self._core.monotonic() >= self._turn_ends_s
        ):
            await self._put_aside()
        await self._begin_turn()
        message = await incoming.next(self._share, self._put_aside)
        await self._begin_turn()
        return message

    async def _put_aside(self) -> None:
        """Hold nothing."""
        if not self._cutter.is_empty:
            await self._write(self._cutter.rest())
            self._written -= 1
            self._is_aside = True
        await self._flush()
        self._share.give(self._share.held)

    async def _begin_turn(self) -> None:
        """Unless it is our turn: wait for it, and take up what was put aside."""
        if self._share.held:
            return
        await self._share.take(ROOM)
        self._turn_ends = self.size + TURN
        self._turn_ends_s = self._core.monotonic() + TURN_S
        if not self._is_aside:
            return
        self._is_aside = False
        stored = await self._core.store.value(
            keys.chunk(self.stream, self._written), 0, CHUNK_SIZE, b""
        )
        if stored is None:
            raise self._lost()
        for _ in self._cutter.feed(stored.data):
            raise AssertionError("more than a chunk was put aside")

    def _take(self, data: wire.Data, announced: Announced) -> Buffer:
        """Count and check the data of one message."""
        if data.crc32c is not None and crc32c(data.data) != data.crc32c:
            raise ObjectError(
                Reason.CHECKSUM_MISMATCH,
                f"the message behind byte {self.size} does not have its CRC-32C",
                "chunk.crc32c",
            )
        self.crc32c = crc32c(data.data, self.crc32c)
        self.size += len(data.data)
        self._core.counts.bytes_in += len(data.data)
        if announced.size is not None and self.size > announced.size:
            raise _size_mismatch(announced.size, "more came")
        if self.size > announced.size_max:
            raise too_large(announced.size_max, "chunk.data")
        if self._begun:
            self._core.uploads[self._key] = self._core.monotonic()
        return data.data

    async def finish(self, txn: Txn, attempt: int) -> None:
        """Add to a commit: the record is consumed, or the only chunk stored. Raises `lost` when an
        attempt after the first finds the record gone.
        """
        if self._begun:
            if attempt and await self._core.store.get(self._key) is None:
                raise self._lost()
            txn.require(self._key)
            txn.delete(self._key)
        elif self.size:
            txn.put(keys.chunk(self.stream, 0), b"".join(self._last))

    async def _begin(self) -> None:
        """Commit the upload record, while the bucket stands and what is required is there."""
        self._core.uploads[self._key] = self._core.monotonic()
        record = UploadRecord(self._core.owner, self._core.clock_ms())
        for _ in range(CONFLICTS_MAX):
            txn = Txn()
            self._buckets.guard(txn, self._name.bucket)
            for key in self._required:
                txn.require(key)
            txn.put(self._key, record.encode())
            if (await self._core.store.commit(txn)).succeeded:
                self._begun = True
                return
            await self._buckets.settle(self._name.bucket)
            for key in self._required:
                if await self._core.store.get(key) is None:
                    raise self._lost()
        raise self._lost()

    async def _write(self, pieces: Pieces) -> None:
        """Send one chunk on its way when the window has room."""
        if not self._begun:
            await self._begin()
        borrowed = False
        while self._in_flight:
            if len(self._in_flight) < WINDOW and self._share.take_spare(CHUNK_SIZE):
                borrowed = True
                break
            await self._oldest()
        key = keys.chunk(self.stream, self._written)
        self._written += 1
        task = asyncio.create_task(self._core.store.put_chunk(self._guard, key, pieces))
        self._in_flight.append((task, borrowed))

    async def _oldest(self) -> None:
        """Wait for the chunk that is longest on its way."""
        task, borrowed = self._in_flight[0]
        stored = await task
        self._in_flight.popleft()
        if borrowed:
            self._share.give(CHUNK_SIZE)
        if not stored:
            raise self._lost()

    async def _flush(self) -> None:
        while self._in_flight:
            await self._oldest()


def too_large(size_max: int, field: str) -> ObjectError:
    return ObjectError(Reason.OBJECT_TOO_LARGE, f"an object has at most {size_max} bytes", field)


def _size_mismatch(announced: int, came: str) -> ObjectError:
    return ObjectError(
        Reason.SIZE_MISMATCH, f"{announced} bytes were announced, {came}", "header.size"
    )

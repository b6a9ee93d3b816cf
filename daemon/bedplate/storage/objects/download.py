"""Data going out: chunks are read ahead and leave as encoded GetObjectResponses.

A blob never changes, so it is read as it stands now; what protects a reader from the object being
replaced or deleted is the pin, which keeps the reaper off. What was deleted in spite of it (few
chunks, another member, a pin that ran out) is still there at the revision of the object for as long
as history reaches back; after that the stream ends with ABORTED / OBJECT_CHANGED.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NamedTuple, TypeVar

from bedplate.errors import BedplateError
from bedplate.storage.budget import Share
from bedplate.storage.objects import keys, wire
from bedplate.storage.objects.core import Core
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.keys import Stream
from bedplate.storage.objects.ranges import Cuts, Piece, pieces
from bedplate.storage.objects.records import LayoutRecord, ObjectRecord, Segment, damaged
from bedplate.storage.objects.store import Entry, Reply, is_compacted

T = TypeVar("T")
WINDOW = 4  # chunks of one download on their way


async def messages(
    core: Core, share: Share, record: ObjectRecord, revision: int, offset: int, length: int
) -> AsyncGenerator[bytes, None]:
    """The responses that carry bytes [offset, offset + length) of an object that stood at
    `revision`. Their bytes are taken from `share`, and given back when the next one is asked for.
    OBJECT_CHANGED, VALUE_DAMAGED.
    """
    if length == 0:
        return
    deadline = core.monotonic() + core.config.read_pin_max
    with core.pins.hold(record.blob, deadline):
        wanted = pieces(await _segments(core, record, revision), offset, length)
        ahead = _ReadAhead(core, share, Cuts(wanted), revision)
        core.counts.downloads += 1
        try:
            while (message := await ahead.next()) is not None:
                yield message.data
                core.counts.bytes_out += len(message.data)
                share.give(message.held)
                ahead.taken += message.held
        finally:
            core.counts.downloads -= 1
            await ahead.stop()


class _Message(NamedTuple):
    data: bytes
    held: int


class _ReadAhead:
    """Reads on their way, at most WINDOW. One alone, which waits for its bytes, until the client
    has `taken` something; then more of them while there is plenty for it.
    """

    def __init__(self, core: Core, share: Share, wanted: Cuts, revision: int) -> None:
        self._core = core
        self._share = share
        self._wanted = wanted
        self._revision = revision
        self._reads: deque[tuple[asyncio.Task[bytes], int]] = deque()
        self.taken = 0

    async def next(self) -> _Message | None:
        """The next response, its bytes held; None at the end."""
        if not self._reads and not self._wanted.done:  # nothing is held: no harm in waiting
            size = self._size()
            await self._share.take(size)
            self._begin(size)
        if not self._reads:
            return None
        self._fill()
        read, held = self._reads[0]
        message = await read
        self._reads.popleft()
        self._fill()
        return _Message(message, held)

    async def stop(self) -> None:
        """Stop what is on its way."""
        reads = [read for read, _ in self._reads]
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    def _fill(self) -> None:
        while self.taken and len(self._reads) < WINDOW and not self._wanted.done:
            size = self._size()
            if not self._share.take_spare(size, self.taken):
                return
            self._begin(size)

    def _size(self) -> int:
        return self._wanted.size(self._core.budgets.sending.message_size(self.taken))

    def _begin(self, size: int) -> None:
        piece = self._wanted.cut(size)
        read = asyncio.create_task(_read(self._core, piece, self._revision))
        self._reads.append((read, size))


async def _read(core: Core, piece: Piece, revision: int) -> bytes:
    prefix = wire.response_prefix(piece.length)

    async def value(at: int) -> Reply | None:
        return await core.store.value(piece.key, piece.offset, piece.length, prefix, at)

    reply = await _now_or_at(revision, value)
    if len(reply.data) != len(prefix) + piece.length:
        raise damaged()
    return reply.data + wire.response_suffix(reply.crc32c)


async def _segments(core: Core, record: ObjectRecord, revision: int) -> tuple[Segment, ...]:
    if not record.part_count:
        return (Segment(Stream(record.blob), record.size),)

    async def read(at: int) -> Entry | None:
        return await core.store.get(keys.layout(record.blob), at)

    entry = await _now_or_at(revision, read)
    layout = LayoutRecord.decode(entry.value, record.blob)
    if sum(segment.size for segment in layout.segments) != record.size:
        raise damaged()
    return layout.segments


async def _now_or_at(revision: int, read: Callable[[int], Awaitable[T | None]]) -> T:
    """What is there now (revision 0), else what was there then. OBJECT_CHANGED."""
    found = await read(0)
    if found is None:
        try:
            found = await read(revision)
        except BedplateError as error:
            if not is_compacted(error):
                raise
    if found is None:
        raise _changed()
    return found


def _changed() -> ObjectError:
    return ObjectError(
        Reason.OBJECT_CHANGED,
        "the object was replaced or deleted and its data reclaimed before all of it was read",
    )

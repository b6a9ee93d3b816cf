"""Data going out: chunks are read ahead and leave as encoded GetObjectResponses.

A blob never changes, so it is read as it stands now; what protects a reader from the object being
replaced or deleted is the pin, which keeps the reaper off. What was deleted in spite of it (few
chunks, another member, a pin that ran out) is still there at the revision of the object for as long
as history reaches back; after that the stream ends with ABORTED / OBJECT_CHANGED.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TypeVar

from bedplate.errors import BedplateError
from bedplate.storage.objects import keys, wire
from bedplate.storage.objects.core import Core
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.keys import Stream
from bedplate.storage.objects.ranges import Piece, pieces
from bedplate.storage.objects.records import LayoutRecord, ObjectRecord, Segment, damaged
from bedplate.storage.objects.store import Entry, Reply, is_compacted

T = TypeVar("T")
WINDOW = 4  # chunks of one download on their way


async def messages(
    core: Core, record: ObjectRecord, revision: int, offset: int, length: int
) -> AsyncGenerator[bytes, None]:
    """The responses that carry bytes [offset, offset + length) of an object that stood at
    `revision`.
    OBJECT_CHANGED, VALUE_DAMAGED.
    """
    if length == 0:
        return
    deadline = core.monotonic() + core.config.read_pin_max
    in_flight: deque[tuple[asyncio.Task[bytes], bool]] = deque()
    with core.pins.hold(record.blob, deadline):
        wanted = pieces(await _segments(core, record, revision), offset, length)
        try:
            _send_for(core, wanted, in_flight, revision)
            while in_flight:
                message = await in_flight[0][0]
                if in_flight.popleft()[1]:
                    core.budget.give()
                _send_for(core, wanted, in_flight, revision)
                yield message
        finally:
            for task, borrowed in in_flight:
                task.cancel()
                if borrowed:
                    core.budget.give()
            await asyncio.gather(*(task for task, _ in in_flight), return_exceptions=True)


def _send_for(
    core: Core,
    wanted: Iterator[Piece],
    in_flight: deque[tuple[asyncio.Task[bytes], bool]],
    revision: int,
) -> None:
    """Fill the window: one read always, more while the budget lasts."""
    while len(in_flight) < WINDOW:
        borrowed = bool(in_flight)
        if borrowed and not core.budget.take():
            return
        piece = next(wanted, None)
        if piece is None:
            if borrowed:
                core.budget.give()
            return
        in_flight.append((asyncio.create_task(_read(core, piece, revision)), borrowed))


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

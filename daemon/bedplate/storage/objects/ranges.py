"""From a range of an object's bytes to the chunks that hold them: pure."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bedplate.api.object.v1 import object_pb2
from bedplate.storage.objects import keys
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.records import Segment


class Piece(NamedTuple):
    """Bytes of one chunk: its key, where they begin in it, and how many."""

    key: bytes
    offset: int
    length: int


def resolve(wanted: object_pb2.ByteRange, size: int) -> tuple[int, int]:
    """Offset and length of what is asked for. RANGE_NOT_SATISFIABLE, FIELD_INVALID."""
    if wanted.suffix_length:
        if wanted.offset or wanted.length:
            raise ObjectError(
                Reason.FIELD_INVALID,
                "suffix_length goes with neither offset nor length",
                "range.suffix_length",
            )
        length = min(wanted.suffix_length, size)
        return size - length, length
    if wanted.offset >= size and wanted.offset:
        raise ObjectError(
            Reason.RANGE_NOT_SATISFIABLE,
            f"the object has {size} bytes; there is none at offset {wanted.offset}",
            "range.offset",
        )
    left = size - wanted.offset
    return wanted.offset, min(wanted.length, left) if wanted.length else left


def pieces(segments: Iterable[Segment], offset: int, length: int) -> Iterator[Piece]:
    """The chunks that hold bytes [offset, offset + length), in order."""
    begin, end = offset, offset + length
    at = 0  # where the segment begins in the object
    for stream, size in segments:
        low, high = max(begin - at, 0), min(end - at, size)
        while low < high:
            number, inside = divmod(low, keys.CHUNK_SIZE)
            taken = min(keys.CHUNK_SIZE - inside, high - low)
            yield Piece(keys.chunk(stream, number), inside, taken)
            low += taken
        at += size
        if at >= end:
            return


class Cuts:
    """Pieces, cut smaller as they are taken."""

    def __init__(self, wanted: Iterator[Piece]) -> None:
        self._wanted = wanted
        self._next = next(wanted, None)

    @property
    def done(self) -> bool:
        """Whether all of them were taken."""
        return self._next is None

    def size(self, most: int) -> int:
        """Bytes of the next one if it has at most so many; 0 when done."""
        return min(self._next.length, most) if self._next else 0

    def cut(self, size: int) -> Piece:
        """Take so many bytes of the next one."""
        assert self._next is not None
        key, offset, length = self._next
        left = length - size
        self._next = Piece(key, offset + size, left) if left else next(self._wanted, None)
        return Piece(key, offset, size)

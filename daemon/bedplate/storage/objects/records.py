"""The values in keyspace "o": what each kind of key holds, and its bytes.

    every record   u8 format (1), fields; big-endian
    text           u16 size, UTF-8            bytes   u16 size, bytes

An unknown format or a record of the wrong size is DATA_LOSS / VALUE_DAMAGED, never a guess. Times
are Unix milliseconds by the writer's clock.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.keys import Name, Stream

FORMAT = 1

_BUCKET = struct.Struct(">BQ")
_OBJECT = struct.Struct(">B16s16sQIQH")
_BLOB = struct.Struct(">BQ")
_UPLOAD = struct.Struct(">B16sQ")
_MULTIPART = struct.Struct(">BQQ")
_PART = struct.Struct(">BQQIQ")
_RESULT = struct.Struct(">BQ32s")
_SEGMENT = struct.Struct(">HQQ")
_U16 = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class BucketRecord:
    created_ms: int

    def encode(self) -> bytes:
        return _BUCKET.pack(FORMAT, self.created_ms)

    @classmethod
    def decode(cls, value: bytes) -> "BucketRecord":
        reader = Reader(value)
        (created_ms,) = reader.fixed(_BUCKET)
        reader.finish()
        return cls(created_ms)


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One version of an object. `part_count` 0: the blob is one stream; else see its layout."""

    blob: bytes
    etag: bytes
    size: int
    crc32c: int
    modified_ms: int
    part_count: int
    content_type: str
    user_metadata: Mapping[str, str]

    def encode(self) -> bytes:
        fixed = _OBJECT.pack(
            FORMAT,
            self.blob,
            self.etag,
            self.size,
            self.crc32c,
            self.modified_ms,
            self.part_count,
        )
        return fixed + _encode_description(self.content_type, self.user_metadata)

    @classmethod
    def decode(cls, value: bytes) -> "ObjectRecord":
        reader = Reader(value)
        blob, etag, size, crc32c, modified_ms, part_count = reader.fixed(_OBJECT)
        content_type, user_metadata = _decode_description(reader)
        reader.finish()
        return cls(blob, etag, size, crc32c, modified_ms, part_count, content_type, user_metadata)


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """How many objects have this blob; the record goes with the last of them."""

    references: int

    def encode(self) -> bytes:
        return _BLOB.pack(FORMAT, self.references)

    @classmethod
    def decode(cls, value: bytes) -> "BlobRecord":
        reader = Reader(value)
        (references,) = reader.fixed(_BLOB)
        reader.finish()
        return cls(references)


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """An upload in progress. `owner` is the process whose call it is."""

    owner: bytes
    created_ms: int

    def encode(self) -> bytes:
        return _UPLOAD.pack(FORMAT, self.owner, self.created_ms)

    @classmethod
    def decode(cls, value: bytes) -> "UploadRecord":
        reader = Reader(value)
        owner, created_ms = reader.fixed(_UPLOAD)
        reader.finish()
        return cls(owner, created_ms)


@dataclass(frozen=True, slots=True)
class MultipartRecord:
    """A multipart upload. Every part rewrites it, so `active_ms` is its last sign of life and its
    mod_revision covers all parts.
    """

    created_ms: int
    active_ms: int
    content_type: str
    user_metadata: Mapping[str, str]

    def encode(self) -> bytes:
        fixed = _MULTIPART.pack(FORMAT, self.created_ms, self.active_ms)
        return fixed + _encode_description(self.content_type, self.user_metadata)

    @classmethod
    def decode(cls, value: bytes) -> "MultipartRecord":
        reader = Reader(value)
        created_ms, active_ms = reader.fixed(_MULTIPART)
        content_type, user_metadata = _decode_description(reader)
        reader.finish()
        return cls(created_ms, active_ms, content_type, user_metadata)


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A stored part; `attempt` names its stream and, as hex, is its etag."""

    attempt: int
    size: int
    crc32c: int
    modified_ms: int

    @property
    def etag(self) -> str:
        return f"{self.attempt:016x}"

    def encode(self) -> bytes:
        return _PART.pack(FORMAT, self.attempt, self.size, self.crc32c, self.modified_ms)

    @classmethod
    def decode(cls, value: bytes) -> "PartRecord":
        reader = Reader(value)
        attempt, size, crc32c, modified_ms = reader.fixed(_PART)
        reader.finish()
        return cls(attempt, size, crc32c, modified_ms)


class Segment(NamedTuple):
    """A run of an object's bytes: one stream."""

    stream: Stream
    size: int


@dataclass(frozen=True, slots=True)
class LayoutRecord:
    """The segments of a blob made of parts, in order."""

    segments: tuple[Segment, ...]

    def encode(self) -> bytes:
        return bytes([FORMAT]) + b"".join(
            _SEGMENT.pack(stream.part, stream.attempt, size) for stream, size in self.segments
        )

    @classmethod
    def decode(cls, value: bytes, blob: bytes) -> "LayoutRecord":
        reader = Reader(value)
        reader.fixed(_LEADING)
        body = reader.rest()
        if len(body) % _SEGMENT.size:
            raise damaged()
        return cls(
            tuple(
                Segment(Stream(blob, part, attempt), size)
                for part, attempt, size in _SEGMENT.iter_unpack(body)
            )
        )


@dataclass(frozen=True, slots=True)
class GarbageRecord:
    """Key prefixes below which everything is to be deleted."""

    prefixes: tuple[bytes, ...]

    def encode(self) -> bytes:
        return bytes([FORMAT]) + b"".join(_sized(prefix) for prefix in self.prefixes)

    @classmethod
    def decode(cls, value: bytes) -> "GarbageRecord":
        reader = Reader(value)
        reader.fixed(_LEADING)
        prefixes = []
        while reader.left:
            prefixes.append(reader.sized())
        return cls(tuple(prefixes))


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """What a completed multipart upload became, for a completion that is repeated. `parts_digest`
    is of the list of parts it was completed with; the revision is the record's own.
    """

    completed_ms: int
    parts_digest: bytes
    name: Name
    object: ObjectRecord

    def encode(self) -> bytes:
        fixed = _RESULT.pack(FORMAT, self.completed_ms, self.parts_digest)
        name = _sized(self.name.bucket) + _sized(self.name.key)
        return fixed + name + self.object.encode()

    @classmethod
    def decode(cls, value: bytes) -> "ResultRecord":
        reader = Reader(value)
        completed_ms, digest = reader.fixed(_RESULT)
        name = Name(reader.sized(), reader.sized())
        return cls(completed_ms, digest, name, ObjectRecord.decode(reader.rest()))


_LEADING = struct.Struct(">B")


class Reader:
    """Takes a record apart; every step checks that the bytes are there."""

    __slots__ = ("_at", "_value")

    def __init__(self, value: bytes) -> None:
        self._value = value
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._value) - self._at

    def fixed(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The leading fields without the format, which is checked."""
        fields = self._unpack(layout)
        if fields[0] != FORMAT:
            raise damaged()
        return fields[1:]

    def u16(self) -> int:
        number: int = self._unpack(_U16)[0]
        return number

    def sized(self) -> bytes:
        size = self.u16()
        if size > self.left:
            raise damaged()
        self._at += size
        return self._value[self._at - size : self._at]

    def text(self) -> str:
        try:
            return self.sized().decode()
        except UnicodeDecodeError:
            raise damaged() from None

    def rest(self) -> bytes:
        taken, self._at = self._value[self._at :], len(self._value)
        return taken

    def finish(self) -> None:
        if self.left:
            raise damaged()

    def _unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        if layout.size > self.left:
            raise damaged()
        self._at += layout.size
        return layout.unpack_from(self._value, self._at - layout.size)


def damaged() -> ObjectError:
    return ObjectError(
        Reason.VALUE_DAMAGED, "a record of the object store is not of a known format"
    )


def _sized(value: bytes) -> bytes:
    return _U16.pack(len(value)) + value


def _encode_description(content_type: str, user_metadata: Mapping[str, str]) -> bytes:
    texts = [content_type, *(text for pair in user_metadata.items() for text in pair)]
    sized = b"".join(_sized(text.encode()) for text in texts)
    return _U16.pack(len(user_metadata)) + sized


def _decode_description(reader: Reader) -> tuple[str, dict[str, str]]:
    count = reader.u16()
    content_type = reader.text()
    return content_type, {reader.text(): reader.text() for _ in range(count)}

"""Where everything lies in keyspace "o". One byte says what a key is about:

    b <bucket>                             bucket
    x <bucket>                             mark: somebody is deciding whether the bucket is empty
    m <bucket> 00 <key>                    object
    p <bucket> 00 <key> 00 <blob>          multipart upload; its id is the blob it will become
    q <blob> <part>                        part of a multipart upload
    u <stream>                             upload in progress; chunks are written while it is there
    r <blob>                               reference count of a blob
    l <blob>                               layout of a blob made of parts
    c <stream> <number>                    chunk: 1 MiB of data, the last of a stream less
    g <stream>                             garbage: key prefixes that nothing refers to any more
    d <blob>                               result of a completed multipart upload

    blob     16 random bytes
    stream   blob, part (u16), attempt (u64): one run of consecutive chunks. 0, 0 for an object put
             whole; a part's attempt is random, so that uploads of one part never share a key
    number   u32 from 0

Numbers are big-endian. Names hold no NUL, so the NUL behind them keeps keys apart and in the names'
own byte order, and a bucket's objects are one range. This layout is on disk: it is never changed.
"""

import struct
from typing import NamedTuple

CHUNK_SIZE = 1 << 20
BLOB_SIZE = 16

BUCKET = b"b"
CLOSING = b"x"
OBJECT = b"m"
MULTIPART = b"p"
PART = b"q"
UPLOAD = b"u"
BLOB = b"r"
LAYOUT = b"l"
CHUNK = b"c"
GARBAGE = b"g"
RESULT = b"d"

_STREAM = struct.Struct(">16sHQ")
_NUMBER = struct.Struct(">I")
_PART_NUMBER = struct.Struct(">H")


class Stream(NamedTuple):
    """One run of consecutive chunks."""

    blob: bytes
    part: int = 0
    attempt: int = 0

    def encode(self) -> bytes:
        return _STREAM.pack(*self)


class Name(NamedTuple):
    """An object: bucket and key as their UTF-8 bytes, already checked."""

    bucket: bytes
    key: bytes


def decode_stream(key: bytes) -> Stream:
    """The stream in an upload or garbage key."""
    return Stream(*_STREAM.unpack_from(key, 1))


def bucket(name: bytes) -> bytes:
    return BUCKET + name


def closing(name: bytes) -> bytes:
    return CLOSING + name


def objects_of(bucket_name: bytes) -> bytes:
    """Prefix of a bucket's objects; the object key follows."""
    return OBJECT + bucket_name + b"\0"


def object_(name: Name) -> bytes:
    return objects_of(name.bucket) + name.key


def multiparts_of(bucket_name: bytes) -> bytes:
    """Prefix of a bucket's multipart uploads."""
    return MULTIPART + bucket_name + b"\0"


def multipart(name: Name, blob: bytes) -> bytes:
    return multiparts_of(name.bucket) + name.key + b"\0" + blob


def split_multipart(key: bytes) -> tuple[Name, bytes]:
    """Object name and blob of a multipart upload's key."""
    bucket_name, _, object_key = key[1 : -BLOB_SIZE - 1].partition(b"\0")
    return Name(bucket_name, object_key), key[-BLOB_SIZE:]


def parts_of(blob: bytes) -> bytes:
    """Prefix of a multipart upload's parts."""
    return PART + blob


def part(blob: bytes, number: int) -> bytes:
    return PART + blob + _PART_NUMBER.pack(number)


def part_number(key: bytes) -> int:
    number: int = _PART_NUMBER.unpack_from(key, 1 + BLOB_SIZE)[0]
    return number


def upload(stream: Stream) -> bytes:
    return UPLOAD + stream.encode()


def blob(blob_id: bytes) -> bytes:
    return BLOB + blob_id


def layout(blob_id: bytes) -> bytes:
    return LAYOUT + blob_id


def chunks_of_blob(blob_id: bytes) -> bytes:
    """Prefix of every chunk of a blob, of all its streams."""
    return CHUNK + blob_id


def chunks_of(stream: Stream) -> bytes:
    """Prefix of a stream's chunks."""
    return CHUNK + stream.encode()


def chunk(stream: Stream, number: int) -> bytes:
    return CHUNK + stream.encode() + _NUMBER.pack(number)


def garbage(stream: Stream) -> bytes:
    return GARBAGE + stream.encode()


def result(blob_id: bytes) -> bytes:
    return RESULT + blob_id


def after(key: bytes) -> bytes:
    """The smallest key above this one."""
    return key + b"\0"


def prefix_end(prefix: bytes) -> bytes:
    """The smallest key above every key that begins with `prefix`; b"" when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b""

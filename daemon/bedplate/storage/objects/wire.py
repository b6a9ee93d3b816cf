"""The bytes of the streams, taken apart and put together by hand where a message carries data.

google.protobuf copies every byte of a message once in each direction; at 1 MiB a message that is
the largest cost of a transfer. Only the shape that encoders really write is read here; whatever
else is valid goes through google.protobuf.

    request     12 <size> 0a <size> data [15 crc32c]          chunk { data, crc32c }
    response    12 <size> 0a <size> data  15 crc32c
    chunk txn   compares, 12 <size> 0a <size> 0a <size> key 12 <size> data    then_ops { put }
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from bedplate.api.kv.v1 import kv_pb2
from bedplate.api.object.v1 import object_pb2
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.keys import CHUNK_SIZE

Buffer = bytes | memoryview
M = TypeVar("M", bound=Message)
StreamRequest = object_pb2.PutObjectRequest | object_pb2.UploadPartRequest

_CHUNK = 0x12  # field 2, a message: in both stream requests and in GetObjectResponse
_DATA = 0x0A  # field 1, bytes
_CRC = 0x15  # field 2, fixed32
_CRC_SIZE = 5


class Data(NamedTuple):
    """Data of one message, and its checksum if one was sent."""

    data: Buffer
    crc32c: int | None


def parse(kind: type[M], message: bytes) -> M:
    """MALFORMED_REQUEST when it is not a message of that kind."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise malformed(f"not a {kind.DESCRIPTOR.name}") from None


def malformed(text: str) -> ObjectError:
    return ObjectError(Reason.MALFORMED_REQUEST, text)


def parse_data(kind: type[StreamRequest], message: bytes) -> Data:
    """The data of a message that must carry some. MALFORMED_REQUEST."""
    found = _quick(message) or _slow(kind, message)
    if len(found.data) > CHUNK_SIZE:
        raise malformed(f"a message carries at most {CHUNK_SIZE} bytes of data")
    return found


def _quick(message: bytes) -> Data | None:
    """None when the message is of another shape, valid or not."""
    if len(message) < 4 or message[0] != _CHUNK:
        return None
    inner_size, at = _read_size(message, 1)
    if at + inner_size != len(message) or inner_size < 2 or message[at] != _DATA:
        return None
    size, at = _read_size(message, at + 1)
    left = len(message) - at - size
    if left == 0:
        return Data(memoryview(message)[at:], None)
    if left == _CRC_SIZE and message[at + size] == _CRC:
        crc = int.from_bytes(message[-4:], "little")
        return Data(memoryview(message)[at : at + size], crc)
    return None


def _read_size(message: bytes, at: int) -> tuple[int, int]:
    """A varint of at most four bytes and what follows it; an impossible size for anything else."""
    size = 0
    for shift, byte in zip((0, 7, 14, 21), message[at : at + 4], strict=False):
        size |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return size, at
    return 1 << 62, at


def _slow(kind: type[StreamRequest], message: bytes) -> Data:
    request = parse(kind, message)
    if request.WhichOneof("message") != "chunk":
        raise malformed("after the header every message carries data")
    chunk = request.chunk
    return Data(chunk.data, chunk.crc32c if chunk.HasField("crc32c") else None)


def size_bytes(size: int) -> bytes:
    """A size as a varint."""
    encoded = bytearray()
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


def guard(required: Iterable[bytes]) -> bytes:
    """The compares of a chunk transaction: all these keys exist."""
    request = kv_pb2.TxnRequest()
    for key in required:
        request.compares.add(key=key, operator=kv_pb2.COMPARE_OPERATOR_GREATER, version=0)
    return request.SerializeToString()


def chunk_txn(guard: bytes, key: bytes, pieces: Sequence[Buffer]) -> bytes:
    """A TxnRequest that puts the joined pieces under `key` if the guard holds: one copy of the
    data.
    """
    size = sum(map(len, pieces))
    value = b"\x0a" + size_bytes(len(key)) + key + b"\x12" + size_bytes(size)
    put = b"\x0a" + size_bytes(len(value) + size)
    op = b"\x12" + size_bytes(len(put) + len(value) + size)
    return b"".join((guard, op, put, value, *pieces))


def response_prefix(size: int) -> bytes:
    """What stands before `size` bytes of data in a GetObjectResponse."""
    data = b"\x0a" + size_bytes(size)
    return b"\x12" + size_bytes(len(data) + size + _CRC_SIZE) + data


def response_suffix(crc32c: int) -> bytes:
    """What stands behind the data."""
    return b"\x15" + crc32c.to_bytes(4, "little")

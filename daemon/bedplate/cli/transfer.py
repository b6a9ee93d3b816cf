"""Objects on their way: files and pipes to PutObject, GetObject to files and pipes, all checked.

up    data --1 MiB messages, each with its CRC32C--> daemon
down  daemon --messages--> CRC32C of each, then of the whole --> a temporary file --> FILE
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.cli.connection import Client
from bedplate.cli.errors import CommandError
from bedplate.native.store import crc32c

CHUNK_BYTES = 1 << 20
Advance = Callable[[int], None]


def upload(
    client: Client, header: pb.PutObjectHeader, source: BinaryIO, advance: Advance
) -> pb.ObjectInfo:
    """Store everything that `source` holds. Raises grpc.RpcError, OSError."""
    failure: list[OSError] = []

    def messages() -> Iterator[pb.PutObjectRequest]:
        yield pb.PutObjectRequest(header=header)
        try:
            while data := source.read(CHUNK_BYTES):
                chunk = pb.DataChunk(data=data, crc32c=crc32c(data))
                yield pb.PutObjectRequest(chunk=chunk)
                advance(len(data))
        except OSError as error:  # gRPC would only say that its iterator failed
            failure.append(error)
            raise

    try:
        return client.stream(client.objects.PutObject, messages()).info
    except Exception:
        if failure:
            raise failure[0] from None
        raise


class Download:
    """One GetObject under way: its header is there, its data not yet."""

    def __init__(self, client: Client, request: pb.GetObjectRequest) -> None:
        """Raises grpc.RpcError."""
        self._responses = client.stream(client.objects.GetObject, request)
        self.header: pb.GetObjectHeader = next(self._responses).header

    def write_to(self, target: BinaryIO, advance: Advance) -> None:
        """All of it, verified. Raises grpc.RpcError, OSError, CommandError."""
        crc, size = 0, 0
        for response in self._responses:
            data = response.chunk.data
            if crc32c(data) != response.chunk.crc32c:
                raise CommandError("CHECKSUM_MISMATCH: data was damaged on its way; try again")
            crc, size = crc32c(data, crc), size + len(data)
            target.write(data)
            advance(len(data))
        info = self.header.info
        if size != self.header.length or (size == info.size and crc != info.crc32c):
            raise CommandError("CHECKSUM_MISMATCH: what arrived is not the object; try again")


@contextmanager
def whole_file(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file that appears under its name complete, or not at all; `mode` is cut by the umask.
    Raises OSError.
    """
    partial = path.with_name(f".bedplate-{secrets.token_hex(8)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise

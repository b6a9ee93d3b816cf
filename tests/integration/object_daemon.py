"""A daemon in this process, its object service as a client sees it and as it is inside."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from bedplate.native.store import crc32c
from bedplate.server.config import Config, ServerConfig
from bedplate.server.daemon import Daemon
from bedplate.storage.engine import State
from bedplate.storage.objects.service import ObjectModule

MIB = 1 << 20


@dataclass
class Serving:
    """`stub` is the client's side, `module` the inside."""

    address: str
    daemon: Daemon
    module: ObjectModule
    stub: Any

    async def keys(self, prefix: bytes = b"") -> list[bytes]:
        """The keys there are now in the object keyspace."""
        found: list[bytes] = []
        more = True
        while more:
            after = found[-1] if found else b""
            page = await self.module.core.store.scan_prefix(
                prefix, 1000, after=after, keys_only=True
            )
            found += [entry.key for entry in page.entries]
            more = page.more
        return found

    async def until_reclaimed(self) -> None:
        """Wait for the reaper to have nothing left: no upload, no garbage."""
        async with asyncio.timeout(30):
            while await self.keys(b"u") or await self.keys(b"g"):
                await asyncio.sleep(0.01)

    async def put(self, key: str, data: bytes, bucket: str = "b", **header: Any) -> pb.ObjectInfo:
        response = await self.stub.PutObject(put_messages(key, data, bucket, **header))
        info: pb.ObjectInfo = response.info
        return info

    async def get(self, key: str, bucket: str = "b", **fields: Any) -> bytes:
        data = bytearray()
        async for message in self.stub.GetObject(
            pb.GetObjectRequest(bucket=bucket, key=key, **fields)
        ):
            if message.HasField("chunk"):
                assert message.chunk.crc32c == crc32c(message.chunk.data)
                data += message.chunk.data
        return bytes(data)


@asynccontextmanager
async def serving(directory: Path, bucket: str = "b", **objects: Any) -> AsyncIterator[Serving]:
    """A daemon on the directory, with a bucket; stopped cleanly at the end."""
    address_file = directory / "address"
    config = Config(
        server=ServerConfig.model_validate(
            {
                "data_dir": directory / "data",
                "grpc": "127.0.0.1:0",
                "http": "127.0.0.1:0",
                "address_file": address_file,
            }
        ),
        objects=objects,
    )
    daemon = Daemon(config)
    running = asyncio.create_task(daemon.run())
    try:
        async with asyncio.timeout(30):
            while daemon.engine.state is not State.OPEN:
                assert not running.done(), running.exception()
                await asyncio.sleep(0.01)
        address = json.loads(address_file.read_text())["grpc"]
        [module] = [each for each in daemon.services.modules if isinstance(each, ObjectModule)]
        async with grpc.aio.insecure_channel(address) as channel:
            stub = ObjectServiceStub(channel)  # type: ignore[no-untyped-call]
            try:
                await stub.CreateBucket(pb.CreateBucketRequest(bucket=bucket))
            except grpc.aio.AioRpcError as error:
                assert reason(error) == "BUCKET_EXISTS"
            yield Serving(address, daemon, module, stub)
    finally:
        daemon.stop()
        await running


async def put_messages(
    key: str, data: bytes | Iterable[bytes], bucket: str = "b", **header: Any
) -> AsyncIterator[pb.PutObjectRequest]:
    yield pb.PutObjectRequest(header=pb.PutObjectHeader(bucket=bucket, key=key, **header))
    if isinstance(data, bytes):
        data = [data[at : at + MIB] for at in range(0, len(data), MIB)]
    for piece in data:
        yield pb.PutObjectRequest(chunk=pb.DataChunk(data=piece, crc32c=crc32c(piece)))


def reason(error: grpc.aio.AioRpcError) -> str:
    """The stable reason of a failed call."""
    return _detail(error, error_details_pb2.ErrorInfo()).reason


def violations(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields that a failed call names."""
    found = _detail(error, error_details_pb2.BadRequest()).field_violations
    return [violation.field for violation in found]


def _detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                if packed.Unpack(kind):
                    return kind
    raise AssertionError(f"no {kind.DESCRIPTOR.name} in {error}")

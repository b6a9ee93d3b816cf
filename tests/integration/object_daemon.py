"""A daemon in this process, its object service as a client sees it and as it is inside."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from bedplate.native.store import crc32c
from bedplate.server.config import Config, ServerConfig
from bedplate.server.daemon import Daemon
from bedplate.storage.objects.config import ObjectsConfig
from bedplate.storage.objects.service import ObjectModule
from tests.integration.daemon import PATIENCE_S

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

        async def nothing_left() -> bool:
            return not (await self.keys(b"u") or await self.keys(b"g"))

        await eventually(nothing_left)

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


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what nobody announces, asking often."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


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
        objects=ObjectsConfig.model_validate(objects),
    )
    daemon = Daemon(config)
    running = asyncio.create_task(daemon.run())
    try:

        async def serves() -> bool:
            assert not running.done(), running.exception()
            return address_file.exists()

        await eventually(serves)
        address = json.loads(address_file.read_text())["grpc"]
        [module] = [each for each in daemon.services.modules if isinstance(each, ObjectModule)]
        async with grpc.aio.insecure_channel(address) as channel:
            stub = ObjectServiceStub(channel)
            listed = await stub.ListBuckets(pb.ListBucketsRequest(prefix=bucket))
            if not listed.buckets:
                await stub.CreateBucket(pb.CreateBucketRequest(bucket=bucket))
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

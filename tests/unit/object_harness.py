"""ObjectService over the fake engine, called as the gRPC server would call it, without one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.errors import BedplateError
from bedplate.native.store import crc32c
from bedplate.storage.objects.config import ObjectsConfig
from bedplate.storage.objects.service import ObjectModule
from tests.unit.fake_engine import FakeEngine

M = TypeVar("M", bound=Message)
MIB = 1 << 20
Pieces = Iterable[bytes] | AsyncIterator[bytes]


@dataclass
class Context:
    """What handlers use of a servicer context. `alive` False: the client is gone."""

    alive: bool = True
    written: list[bytes] = field(default_factory=list)
    on_write: Callable[[int], Awaitable[None]] | None = None

    async def send_initial_metadata(self, _: object) -> None:
        if not self.alive:
            raise RuntimeError("the call is dead")

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def write(self, message: bytes) -> None:
        self.written.append(message)
        if self.on_write is not None:
            await self.on_write(len(self.written))


class Objects:
    """Small client of one ObjectModule."""

    def __init__(self, engine: Any, config: ObjectsConfig) -> None:
        self.engine = engine
        self.module = ObjectModule(engine, config)
        self.core = self.module.core
        self.handlers: Mapping[str, Any] = self.module._handlers
        self.now_ms = 1_000_000
        self.core.clock_ms = lambda: self.now_ms

    async def call(self, method: str, request: Message) -> Any:
        handler = self.handlers[method].unary_unary
        reply = await handler(request.SerializeToString(), Context())
        name = pb.DESCRIPTOR.services_by_name["ObjectService"].methods_by_name[method]
        return getattr(pb, name.output_type.name).FromString(reply)

    async def put(
        self,
        key: str,
        data: bytes | Pieces = b"",
        *,
        bucket: str = "b",
        context: Context | None = None,
        checksums: bool = False,
        **header: Any,
    ) -> pb.PutObjectResponse:
        first = pb.PutObjectRequest(
            header=pb.PutObjectHeader(bucket=bucket, key=key, **header)
        ).SerializeToString()
        messages = _stream(first, pb.PutObjectRequest, data, checksums)
        handler = self.handlers["PutObject"].stream_unary
        return pb.PutObjectResponse.FromString(await handler(messages, context or Context()))

    async def part(
        self,
        upload_id: str,
        number: int,
        data: bytes | Pieces,
        *,
        key: str = "k",
        bucket: str = "b",
        **header: Any,
    ) -> pb.PartInfo:
        first = pb.UploadPartRequest(
            header=pb.UploadPartHeader(
                bucket=bucket, key=key, upload_id=upload_id, part_number=number, **header
            )
        ).SerializeToString()
        messages = _stream(first, pb.UploadPartRequest, data, checksums=False)
        handler = self.handlers["UploadPart"].stream_unary
        return pb.UploadPartResponse.FromString(await handler(messages, Context())).part

    async def get(
        self, key: str, *, bucket: str = "b", context: Context | None = None, **fields: Any
    ) -> tuple[pb.GetObjectHeader, bytes]:
        """Header and data, every checksum checked."""
        context = context or Context()
        request = pb.GetObjectRequest(bucket=bucket, key=key, **fields)
        handler = self.handlers["GetObject"].unary_stream
        await handler(request.SerializeToString(), context)
        first, *rest = map(pb.GetObjectResponse.FromString, context.written)
        for message in rest:
            assert message.chunk.data
            assert len(message.chunk.data) <= MIB
            assert message.chunk.crc32c == crc32c(message.chunk.data)
        data = b"".join(message.chunk.data for message in rest)
        assert len(data) == first.header.length
        return first.header, data

    async def head(self, key: str, bucket: str = "b") -> pb.ObjectInfo:
        request = pb.HeadObjectRequest(bucket=bucket, key=key)
        response: pb.HeadObjectResponse = await self.call("HeadObject", request)
        return response.info

    async def delete(self, key: str, **fields: Any) -> bool:
        request = pb.DeleteObjectRequest(bucket="b", key=key, **fields)
        response: pb.DeleteObjectResponse = await self.call("DeleteObject", request)
        return response.deleted

    async def copy(self, source: str, target: str, **fields: Any) -> pb.ObjectInfo:
        request = pb.CopyObjectRequest(
            source_bucket="b", source_key=source, bucket="b", key=target, **fields
        )
        response: pb.CopyObjectResponse = await self.call("CopyObject", request)
        return response.info

    async def listing(self, **fields: Any) -> pb.ListObjectsResponse:
        response: pb.ListObjectsResponse = await self.call(
            "ListObjects", pb.ListObjectsRequest(bucket="b", **fields)
        )
        return response

    async def begin(self, key: str = "k", **fields: Any) -> str:
        request = pb.CreateMultipartUploadRequest(bucket="b", key=key, **fields)
        response: pb.CreateMultipartUploadResponse = await self.call(
            "CreateMultipartUpload", request
        )
        return response.upload_id

    async def complete(
        self, upload_id: str, parts: Iterable[pb.PartInfo], *, key: str = "k", **fields: Any
    ) -> pb.ObjectInfo:
        listed = [pb.CompletedPart(part_number=p.part_number, etag=p.etag) for p in parts]
        request = pb.CompleteMultipartUploadRequest(
            bucket="b", key=key, upload_id=upload_id, parts=listed, **fields
        )
        response: pb.CompleteMultipartUploadResponse = await self.call(
            "CompleteMultipartUpload", request
        )
        return response.info

    async def reap(self) -> None:
        """Everything the reaper would do now."""
        await self.module.reaper.sweep_uploads()
        await self.module.reaper.sweep()
        await self.module.reaper.collect()

    def leftovers(self) -> list[bytes]:
        """Keys that are about neither a bucket nor an object nor its data."""
        return [key for key in self.engine.present() if key[:1] not in b"bmrcl"]

    def chunks(self) -> int:
        return len(self.engine.present(b"c"))


async def make(engine: FakeEngine | None = None, **config: Any) -> Objects:
    objects = Objects(engine or FakeEngine(), ObjectsConfig(**config))
    if engine is None:
        await objects.call("CreateBucket", pb.CreateBucketRequest(bucket="b"))
    return objects


def failing(reason: str) -> "pytest.RaisesExc[BedplateError]":
    """Around a call that must fail for this reason."""
    return pytest.raises(BedplateError, check=lambda error: error.reason == reason)


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that differ everywhere, so that a misplaced one is seen."""
    block = b"".join(
        (seed * 0x9E3779B97F4A7C15 + i * 0xBF58476D1CE4E5B9 & (1 << 64) - 1).to_bytes(8, "big")
        for i in range(8192)
    )
    whole, rest = divmod(size, len(block))
    stamped = (n.to_bytes(8, "little") + block[8:] for n in range(whole))
    return b"".join(stamped) + block[:rest]


async def _stream(
    first: bytes, kind: type[Message], data: bytes | Pieces, checksums: bool
) -> AsyncIterator[bytes]:
    yield first
    if isinstance(data, bytes):
        data = [data[at : at + MIB] for at in range(0, len(data), MIB)]
    if isinstance(data, AsyncIterator):
        async for piece in data:
            yield _data(kind, piece, checksums)
        return
    for piece in data:
        yield _data(kind, piece, checksums)
        await asyncio.sleep(0)


def _data(kind: type[Message], piece: bytes, checksums: bool) -> bytes:
    chunk = pb.DataChunk(data=piece, crc32c=crc32c(piece) if checksums else None)
    return kind(chunk=chunk).SerializeToString()

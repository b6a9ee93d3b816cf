"""ObjectService on the real engine, over the wire."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.native.store import crc32c
from tests.integration.object_daemon import MIB, eventually, put_messages, serving
from tests.integration.refusals import refusal

PUTTER = """
import sys
import grpc
from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub

def messages():
    yield pb.PutObjectRequest(header=pb.PutObjectHeader(bucket="b", key="k"))
    for _ in range(int(sys.argv[2])):
        yield pb.PutObjectRequest(chunk=pb.DataChunk(data=bytes(1 << 20)))
    print("sent", flush=True)
    sys.stdin.read()

with grpc.insecure_channel(sys.argv[1]) as channel:
    ObjectServiceStub(channel).PutObject(messages())
"""


async def test_an_object_goes_in_and_comes_out(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(9 * MIB + 123)
    async with serving(tmp_path) as objects:
        info = await objects.put("a/ä\x01", data, crc32c=crc32c(data), user_metadata={"m": "ü"})
        assert await objects.get("a/ä\x01") == data
        wanted = pb.ByteRange(offset=MIB - 10, length=MIB + 20)
        assert await objects.get("a/ä\x01", range=wanted) == data[MIB - 10 : 2 * MIB + 10]
    async with serving(tmp_path) as objects:
        response = await objects.stub.HeadObject(pb.HeadObjectRequest(bucket="b", key="a/ä\x01"))
        assert response.info == info
        assert await objects.get("a/ä\x01") == data


async def test_multipart_over_the_wire(tmp_path: Path) -> None:
    rng = random.Random(2)
    async with serving(tmp_path, part_size_min=MIB) as objects:
        stub = objects.stub
        where: dict[str, Any] = {"bucket": "b", "key": "k"}
        created = await stub.CreateMultipartUpload(pb.CreateMultipartUploadRequest(**where))
        upload = {**where, "upload_id": created.upload_id}
        data = {n: rng.randbytes(rng.randrange(MIB, 4 * MIB)) for n in range(1, 6)}

        async def send(number: int) -> pb.CompletedPart:
            async def messages() -> AsyncIterator[pb.UploadPartRequest]:
                header = pb.UploadPartHeader(**upload, part_number=number)
                yield pb.UploadPartRequest(header=header)
                for at in range(0, len(data[number]), 100_000):
                    piece = pb.DataChunk(data=data[number][at : at + 100_000])
                    yield pb.UploadPartRequest(chunk=piece)

            response = await stub.UploadPart(messages())
            return pb.CompletedPart(part_number=number, etag=response.part.etag)

        parts = await asyncio.gather(*map(send, data))
        request = pb.CompleteMultipartUploadRequest(**upload, parts=parts)
        response = await stub.CompleteMultipartUpload(request)
        whole = b"".join(data.values())
        assert response.info.crc32c == crc32c(whole)
        assert await objects.get("k") == whole
        assert await stub.CompleteMultipartUpload(request) == pb.CompleteMultipartUploadResponse(
            revision=response.revision, info=response.info
        )


async def test_failures_carry_reason_and_field(tmp_path: Path) -> None:
    async with serving(tmp_path) as objects:
        for call, code, reason, field in (
            (objects.put("a\0b", b""), "INVALID_ARGUMENT", "NAME_INVALID", "header.key"),
            (
                objects.put("k", b"abc", crc32c=1),
                "INVALID_ARGUMENT",
                "CHECKSUM_MISMATCH",
                "header.crc32c",
            ),
            (objects.get("k"), "NOT_FOUND", "OBJECT_NOT_FOUND", "key"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            found = refusal(caught.value)
            assert (found.code.name, found.reason, found.field) == (code, reason, field)


@pytest.mark.parametrize("how", ["kill", "cancel", "deadline"])
@pytest.mark.parametrize("chunks", [1, 12])
async def test_an_upload_that_ends_early_leaves_nothing(
    tmp_path: Path, how: str, chunks: int
) -> None:
    async with serving(tmp_path) as objects:
        if how == "kill":
            client = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", PUTTER, objects.address, str(chunks)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert client.stdout is not None
            await client.stdout.readline()
            client.send_signal(signal.SIGKILL)
            await client.wait()
        else:

            async def hanging() -> AsyncIterator[pb.PutObjectRequest]:
                async for message in put_messages("k", bytes(chunks * MIB)):
                    yield message
                await asyncio.Event().wait()

            call = objects.stub.PutObject(hanging(), timeout=0.5 if how == "deadline" else None)
            if how == "cancel":

                async def sent() -> bool:
                    return len(await objects.keys(b"c")) >= chunks - 1

                await eventually(sent)
                call.cancel()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await call
    # Stopped, the daemon has seen the end of every call.
    async with serving(tmp_path) as objects:
        await objects.until_reclaimed()
        assert not await objects.keys(b"m")
        assert not await objects.keys(b"c")


async def test_a_download_outlives_an_overwrite(tmp_path: Path) -> None:
    first = random.Random(1).randbytes(64 * MIB)
    async with serving(tmp_path) as objects:
        await objects.put("k", first)
        data = bytearray()
        call = objects.stub.GetObject(pb.GetObjectRequest(bucket="b", key="k"))
        async for message in call:
            data += message.chunk.data
            if len(data) == MIB:
                await objects.put("k", b"second")
                await asyncio.sleep(0)
        assert data == first
        await objects.until_reclaimed()
        assert len(await objects.keys(b"c")) == 1
        assert await objects.get("k") == b"second"


async def test_one_of_many_conditional_puts_wins(tmp_path: Path) -> None:
    async with serving(tmp_path) as objects:
        conditions = pb.Conditions(if_none_match="*")
        outcomes = await asyncio.gather(
            *(objects.put("k", b"%d" % i, conditions=conditions) for i in range(32)),
            return_exceptions=True,
        )
        won = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, pb.ObjectInfo)]
        assert len(won) == 1
        lost = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert {refusal(outcome).reason for outcome in lost} == {"CONDITION_FAILED"}
        assert await objects.get("k") == b"%d" % won[0]


async def test_a_bucket_is_listed_and_emptied_in_bulk(tmp_path: Path) -> None:
    async with serving(tmp_path) as objects:
        names = [f"{i % 7}/{i:04}" for i in range(1500)]
        for first in range(0, len(names), 100):
            batch = names[first : first + 100]
            await asyncio.gather(*(objects.put(name, name.encode()) for name in batch))
        folded = await objects.stub.ListObjects(pb.ListObjectsRequest(bucket="b", delimiter="/"))
        assert list(folded.common_prefixes) == [f"{i}/" for i in range(7)]
        found: list[str] = []
        token = b""
        while True:
            page = await objects.stub.ListObjects(
                pb.ListObjectsRequest(bucket="b", page_token=token)
            )
            found += [info.key for info in page.objects]
            token = page.next_page_token
            if not token:
                break
        assert found == sorted(names)
        for part in (found[:1000], found[1000:]):
            wanted = [pb.ObjectToDelete(key=key) for key in part]
            deleted = await objects.stub.DeleteObjects(
                pb.DeleteObjectsRequest(bucket="b", objects=wanted)
            )
            assert all(result.deleted for result in deleted.results)
        await objects.stub.DeleteBucket(pb.DeleteBucketRequest(bucket="b"))
        assert not await objects.keys()


async def test_transfers_and_garbage_are_counted(tmp_path: Path) -> None:
    async with serving(tmp_path) as objects:
        counts = objects.module.core.counts
        await objects.put("k", bytes(20 * MIB))
        assert await objects.get("k") == bytes(20 * MIB)
        assert (counts.bytes_in, counts.uploads, counts.downloads) == (20 * MIB, 0, 0)
        assert 20 * MIB < counts.bytes_out < 21 * MIB
        hanging = asyncio.Event()

        async def messages() -> AsyncIterator[pb.PutObjectRequest]:
            async for message in put_messages("other", b""):
                yield message
            await hanging.wait()

        call = objects.stub.PutObject(messages())

        async def open_now() -> bool:
            return counts.uploads == 1

        await eventually(open_now)
        hanging.set()
        await call
        await objects.stub.DeleteObject(pb.DeleteObjectRequest(bucket="b", key="k"))
        await objects.until_reclaimed()

        async def reclaimed() -> bool:
            return (counts.garbage, counts.chunks_reclaimed) == (0, 20)

        await eventually(reclaimed)
        names = {
            sample.name
            for collector in objects.module.collectors()
            for metric in collector.collect()
            for sample in metric.samples
        }
        assert {"bedplate_object_uploads", "bedplate_object_received_bytes_total"} <= names

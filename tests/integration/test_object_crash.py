"""kill -9 of a daemon that stores, copies and deletes objects; then a look at what it left."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import grpc.aio

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from bedplate.storage.objects.records import BlobRecord, ObjectRecord
from tests.integration.object_daemon import MIB, Serving, put_messages, serving

WRITERS = 4


async def started(directory: Path) -> tuple[asyncio.subprocess.Process, str]:
    address_file = directory / "address"
    address_file.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bedplate.server.main"),
        *("--data-dir", str(directory / "data")),
        *("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"),
        *("--set", f"server.address_file={address_file}"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    async with asyncio.timeout(30):
        while not address_file.exists() or not address_file.read_text():
            assert process.returncode is None
            await asyncio.sleep(0.01)
    return process, json.loads(address_file.read_text())["grpc"]


def content(key: str, generation: int) -> bytes:
    rng = random.Random(f"{key} {generation}")
    return rng.randbytes(rng.choice([0, 100, MIB, 3 * MIB + 5, 20 * MIB]))


class Writer:
    """Overwrites, copies and deletes its own keys one after the other; remembers what was answered
    and what may or may not have happened.
    """

    def __init__(self, number: int, stub: ObjectServiceStub) -> None:
        self.key, self.copy = f"w{number}", f"w{number}-copy"
        self._stub = stub
        self._rng = random.Random(number)
        self.possible: dict[str, set[bytes | None]] = {self.key: {None}, self.copy: {None}}
        self.answered = 0

    async def run(self) -> None:
        for generation in range(10_000):
            try:
                await self._step(generation)
                self.answered += 1
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    continue
                return

    async def _step(self, generation: int) -> None:
        match self._rng.randrange(4):
            case 0 | 1:
                data = content(self.key, generation)
                self.possible[self.key].add(data)
                await self._stub.PutObject(put_messages(self.key, data))
                self.possible[self.key] = {data}
            case 2:
                maybe = self.possible[self.copy] | self.possible[self.key]
                before, self.possible[self.copy] = self.possible[self.copy], maybe
                try:
                    await self._stub.CopyObject(
                        pb.CopyObjectRequest(
                            source_bucket="b", source_key=self.key, bucket="b", key=self.copy
                        )
                    )
                    self.possible[self.copy] = set(self.possible[self.key])
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.NOT_FOUND:
                        self.possible[self.copy] = before
                    raise
            case 3:
                self.possible[self.key].add(None)
                await self._stub.DeleteObject(pb.DeleteObjectRequest(bucket="b", key=self.key))
                self.possible[self.key] = {None}


async def stored(objects: Serving) -> dict[str, bytes]:
    page = await objects.stub.ListObjects(pb.ListObjectsRequest(bucket="b"))
    return {info.key: await objects.get(info.key) for info in page.objects}


async def check_counts(objects: Serving) -> None:
    """Every blob counts its objects and no chunk is without a blob."""
    counted: dict[bytes, int] = {}
    for key in await objects.keys(b"m"):
        entry = await objects.module.core.store.get(key)
        assert entry is not None
        blob = ObjectRecord.decode(entry.value).blob
        counted[blob] = counted.get(blob, 0) + 1
    for key in await objects.keys(b"r"):
        entry = await objects.module.core.store.get(key)
        assert entry is not None
        assert BlobRecord.decode(entry.value).references == counted.pop(key[1:])
    assert not counted
    blobs = {key[1:] for key in await objects.keys(b"r")}
    assert {key[1:17] for key in await objects.keys(b"c")} <= blobs


async def test_a_killed_daemon_keeps_what_it_answered_and_gives_back_the_rest(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path):
        pass
    answered = 0
    for _ in range(3):
        process, address = await started(tmp_path)
        async with grpc.aio.insecure_channel(address) as channel:
            stub = ObjectServiceStub(channel)  # type: ignore[no-untyped-call]
            await channel.channel_ready()
            before = {}
            page = await stub.ListObjects(pb.ListObjectsRequest(bucket="b"), wait_for_ready=True)
            for info in page.objects:
                before[info.key] = info
            writers = [Writer(i, stub) for i in range(WRITERS)]
            for writer in writers:  # what an earlier round left is known by its first write alone
                for key in (writer.key, writer.copy):
                    if key in before:
                        await stub.DeleteObject(pb.DeleteObjectRequest(bucket="b", key=key))
            tasks = [asyncio.create_task(writer.run()) for writer in writers]
            async with asyncio.timeout(60):
                while sum(writer.answered for writer in writers) < 40:
                    await asyncio.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            await asyncio.gather(*tasks)
        answered += sum(writer.answered for writer in writers)
        async with serving(tmp_path) as objects:
            await objects.until_reclaimed()
            found = await stored(objects)
            for writer in writers:
                for key, possible in writer.possible.items():
                    assert found.get(key) in possible
            await check_counts(objects)
    assert answered >= 120

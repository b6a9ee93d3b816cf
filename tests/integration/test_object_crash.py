"""kill -9 of a daemon that stores, copies and deletes objects; then a look at what it left."""

import asyncio
import random
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from bedplate.storage.objects.records import BlobRecord, ObjectRecord
from tests.integration.daemon import Daemon
from tests.integration.object_daemon import MIB, Serving, eventually, put_messages, serving

WRITERS = 4


def content(key: str, generation: int) -> bytes:
    rng = random.Random(f"{key} {generation}")
    return rng.randbytes(rng.choice([0, 100, MIB, 3 * MIB + 5, 20 * MIB]))


class Writer:
    """Overwrites, copies and deletes its own keys one after the other; remembers what was answered
    and what may or may not have happened.
    """

    def __init__(self, number: int, stub: Any) -> None:
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


async def _answered(writers: list[Writer], least: int) -> bool:
    return sum(writer.answered for writer in writers) >= least


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
        daemon = Daemon(tmp_path)
        await asyncio.to_thread(daemon.start)
        async with grpc.aio.insecure_channel(daemon.grpc) as channel:
            stub: Any = ObjectServiceStub(channel)
            writers = [Writer(i, stub) for i in range(WRITERS)]
            for writer in writers:
                for key in (writer.key, writer.copy):
                    await stub.DeleteObject(pb.DeleteObjectRequest(bucket="b", key=key))
            tasks = [asyncio.create_task(writer.run()) for writer in writers]
            await eventually(partial(_answered, writers, 40))
            await asyncio.to_thread(daemon.kill)
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

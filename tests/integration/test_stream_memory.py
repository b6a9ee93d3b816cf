"""What streams may hold of the daemon's memory, whatever their clients do."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import Daemon, eventually

MIB = 1 << 20


def resident_mib(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024


def stub(daemon: Daemon) -> Any:
    """A client with a connection of its own."""
    return ObjectServiceStub(daemon.channel())


def put(objects: Any, key: str, data: bytes) -> None:
    def messages() -> Iterator[pb.PutObjectRequest]:
        yield pb.PutObjectRequest(header=pb.PutObjectHeader(bucket="b", key=key))
        for at in range(0, len(data), MIB):
            yield pb.PutObjectRequest(chunk=pb.DataChunk(data=data[at : at + MIB]))

    objects.PutObject(messages())


def get(objects: Any, key: str) -> bytes:
    request = pb.GetObjectRequest(bucket="b", key=key)
    return b"".join(message.chunk.data for message in objects.GetObject(request))


def with_object(daemon: Daemon, size: int) -> bytes:
    """A bucket with one object "k"; its data."""
    data = random.Random(1).randbytes(size)
    objects = stub(daemon)
    objects.CreateBucket(pb.CreateBucketRequest(bucket="b"))
    put(objects, "k", data)
    return data


def test_many_downloads_that_are_not_read_take_little_memory(start: MakeDaemon) -> None:
    daemon = start()
    data = with_object(daemon, 8 * MIB)
    reader = stub(daemon)
    assert get(reader, "k") == data
    before = resident_mib(daemon)
    unread = []
    for _ in range(200):
        unread.append(stub(daemon).GetObject(pb.GetObjectRequest(bucket="b", key="k")))
        assert next(unread[-1]).HasField("header")
    assert get(reader, "k") == data
    assert resident_mib(daemon) - before < 150
    for call in unread:
        call.cancel()


def test_downloads_that_stopped_reading_starve_nobody(start: MakeDaemon) -> None:
    daemon = start("limits.stream_bytes_max=8MiB", "limits.stall_seconds_max=2")
    data = with_object(daemon, 8 * MIB)
    unread = []
    for _ in range(300):  # more than the budget has messages for
        unread.append(stub(daemon).GetObject(pb.GetObjectRequest(bucket="b", key="k")))
        assert next(unread[-1]).HasField("header")
    assert get(stub(daemon), "k") == data
    eventually(lambda: "RESOURCE_EXHAUSTED" in daemon.get("/metrics")[1])
    for call in unread:
        call.cancel()
    assert get(stub(daemon), "k") == data


def stalled(key: str, size: int, goes_on: threading.Event) -> Iterator[pb.PutObjectRequest]:
    """An upload whose client says nothing more until it may go on."""
    yield pb.PutObjectRequest(header=pb.PutObjectHeader(bucket="b", key=key))
    yield pb.PutObjectRequest(chunk=pb.DataChunk(data=key[:1].encode() * size))
    goes_on.wait()


def test_an_upload_that_pauses_keeps_nobody_waiting(start: MakeDaemon) -> None:
    daemon = start("limits.stream_bytes_max=8MiB")
    data = with_object(daemon, 3 * MIB)
    goes_on = threading.Event()
    paused = [stub(daemon).PutObject.future(stalled(key, 1000, goes_on)) for key in ("a", "b")]
    received = "bedplate_object_received_bytes_total"
    eventually(lambda: daemon.metric(received) == 3 * MIB + 2000)
    put(stub(daemon), "other", data)  # waits for the memory of the two
    assert get(stub(daemon), "other") == data
    assert not any(upload.done() for upload in paused)
    goes_on.set()
    assert [upload.result().info.size for upload in paused] == [1000, 1000]
    assert get(stub(daemon), "a") == b"a" * 1000


def test_uploads_that_stall_starve_nobody(start: MakeDaemon) -> None:
    daemon = start()
    data = with_object(daemon, MIB)
    goes_on = threading.Event()
    stubs = [stub(daemon) for _ in range(5)]
    uploads = [
        stubs[number % 5].PutObject.future(stalled(f"s{number}", 1_000_000, goes_on))
        for number in range(100)
    ]
    opened = {"service": "bedplate.object.v1.ObjectService", "method": "PutObject"}
    eventually(lambda: daemon.metric("bedplate_rpcs_in_flight", **opened) == 100)
    honest = stub(daemon)
    begun = time.monotonic()
    put(honest, "honest", data)
    assert get(honest, "honest") == data
    assert time.monotonic() - begun < 5
    goes_on.set()
    assert sum(upload.result().info.size for upload in uploads) == 100_000_000

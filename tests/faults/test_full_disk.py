"""A disk that is really full: writes are refused, everything else goes on, and with deletes the
space comes back by itself.
"""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from bedplate.api.kv.v1 import kv_pb2 as pb
from tests.faults.small_disk import DaemonOnDisk, SmallDisk
from tests.integration.daemon import eventually
from tests.integration.refusals import refusal

MIB = 1 << 20
DISK = 128 * MIB
SETTINGS = ("log.segment_size=8MiB", "checkpoint.log_bytes=16MiB", "history.seconds_max=1")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path / "disk", DISK)
    yield made
    made.close()


@pytest.fixture
def daemon(disk: SmallDisk, tmp_path: Path) -> Iterator[DaemonOnDisk]:
    made = DaemonOnDisk(disk, tmp_path, *SETTINGS)
    yield made
    made.end()


def key_of(number: int) -> bytes:
    return b"k%05d" % number


def value_of(number: int) -> bytes:
    return random.Random(number).randbytes(MIB - 1000)


def is_refused(kv: Any, number: int) -> bool:
    """Put a key's first value; whether that was refused for want of disk."""
    return is_refused_at(kv, number, number)


def is_refused_at(kv: Any, key: int, number: int) -> bool:
    """Put a value; whether that was refused for want of disk."""
    try:
        kv.Put(pb.PutRequest(key=key_of(key), value=value_of(number)))
    except grpc.RpcError as error:
        said = refusal(error)
        assert (said.code, said.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL")
        assert said.retry_ms is not None
        return True
    return False


def is_taken(kv: Any, key: int, number: int) -> bool:
    return not is_refused_at(kv, key, number)


def fill(kv: Any, first: int) -> int:
    """Put until it is refused; the number of the first put that was."""
    for number in range(first, first + DISK // MIB):
        if is_refused(kv, number):
            return number
    raise AssertionError("the disk never filled up")


def check(kv: Any, first: int, end: int) -> None:
    """Exactly these keys are there, and each has its value."""
    found = kv.Scan(pb.ScanRequest(prefix=b"k", keys_only=True)).kvs
    assert [item.key for item in found] == [key_of(number) for number in range(first, end)]
    for number in range(first, end):
        assert kv.Get(pb.GetRequest(key=key_of(number))).kv.value == value_of(number)


def test_a_full_disk_refuses_writes_alone_and_recovers_by_itself(daemon: DaemonOnDisk) -> None:
    daemon.start()
    end = fill(daemon.kv(), 0)
    assert end * MIB > DISK // 2, "most of the disk is for data"
    assert daemon.get("/readyz") == (503, "disk full\n")
    check(daemon.kv(), 0, end)

    for _ in range(2):  # it starts on the full disk as often as it must
        daemon.kill()
        daemon.start()
        check(daemon.kv(), 0, end)
    refill = end
    while refill < end + 50 and not is_refused(daemon.kv(), refill):
        refill += 1
    end = refill

    kv = daemon.kv()
    half = end // 2
    assert kv.Delete(pb.DeleteRequest(key=key_of(0), range_end=key_of(half))).deleted == half
    check(kv, half, end)
    eventually(lambda: not is_refused(kv, end))  # nobody did anything
    eventually(lambda: daemon.get("/readyz") == (200, "ready\n"))
    eventually(lambda: daemon.metric("bedplate_disk_free_bytes") > DISK // 4)
    assert daemon.metric("bedplate_disk_full") == 0
    assert not any(is_refused(kv, number) for number in range(end + 1, end + 10))
    check(kv, half, end + 10)
    daemon.kill()
    daemon.start()
    check(daemon.kv(), half, end + 10)
    assert daemon.stop() == 0


def test_writing_four_times_the_disk_needs_no_operator(daemon: DaemonOnDisk) -> None:
    """Versions of a few keys: history ends by time, cleaning gives the space back, and a put is
    refused for a while at most.
    """
    daemon.start()
    kv = daemon.kv()
    last: dict[int, int] = {}
    for number in range(4 * DISK // MIB):
        slot = number % 4
        eventually(partial(is_taken, kv, slot, number))
        last[slot] = number
    for slot, number in last.items():
        assert kv.Get(pb.GetRequest(key=key_of(slot))).kv.value == value_of(number)
    assert daemon.stop() == 0

"""What clients see of a daemon that stops."""

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_status import rpc_status

from bedplate.api.kv.v1.kv_pb2 import (
    DeleteRequest,
    GetRequest,
    KeyValue,
    PutRequest,
    ScanRequest,
    WatchRequest,
)
from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import PATIENCE_S, Daemon, eventually
from tests.integration.refusals import refused

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
CLIENTS = 8
ROUNDS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5)  # and empty SETTINGS
SLOW_SYNC = {"BEDPLATE_FAILPOINTS__LOG_SYNC": "slow@2x1:1500"}


def outcome(call: Callable[[], object]) -> str:
    """The status of a call, and the reason in it; "UNAVAILABLE" alone when there is no daemon."""
    try:
        call()
    except grpc.RpcError as error:
        failed: Any = error
        status, info = rpc_status.from_call(failed), ErrorInfo()
        for packed in status.details if status is not None else ():
            packed.Unpack(info)
        return f"{failed.code().name} {info.reason}".strip()
    return "OK"


class Load:
    """Clients that call without a pause until the daemon is gone; what they were told."""

    def __init__(self, daemon: Daemon) -> None:
        self.seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(daemon, number)) for number in range(CLIENTS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def count(self, told: str) -> int:
        with self._lock:
            return self.seen[told]

    def _run(self, daemon: Daemon, number: int) -> None:
        kv = daemon.kv()
        told = ""
        while told != "UNAVAILABLE":
            # Many at a time, so that some are always on their way.
            key = b"%d" % number
            puts = [kv.Put.future(PutRequest(key=key, value=bytes(1000))) for _ in range(16)]
            for put in puts:
                told = outcome(put.result)
                with self._lock:
                    self.seen[told] += 1


def test_a_drain_under_load_leaves_no_call_without_a_reason(start: MakeDaemon) -> None:
    daemon = start()
    load = Load(daemon)
    load.start()
    eventually(lambda: load.count("OK") > 500)
    assert daemon.stop() == 0
    load.join()
    assert set(load.seen) <= {"OK", "UNAVAILABLE STORE_CLOSED", "UNAVAILABLE"}, load.seen


@dataclass
class Written:
    begun: float
    told: str = ""


class Writers:
    """Threads that put keys of their own, some at a time, until one is not stored."""

    def __init__(self, daemon: Daemon) -> None:
        stubs = [daemon.kv() for _ in range(4)]
        self.puts: dict[bytes, Written] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(stubs[number % 4], number))
            for number in range(24)
        ]

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def has_begun(self) -> bool:
        return len(self.puts) > 400

    def _run(self, kv: Any, number: int) -> None:
        told, count = {"OK"}, 0
        while told == {"OK"}:
            keys = [b"%d/%d" % (number, count + i) for i in range(8)]
            count += len(keys)
            self.puts |= {key: Written(time.monotonic()) for key in keys}
            calls = [(key, kv.Put.future(PutRequest(key=key, value=bytes(1000)))) for key in keys]
            for key, call in calls:
                self.puts[key].told = outcome(call.result)
            told = {self.puts[key].told for key in keys}


def test_a_write_that_a_drain_let_happen_is_answered(start: MakeDaemon) -> None:
    daemon = start()
    for _ in range(ROUNDS):
        with Writers(daemon) as writers:
            eventually(writers.has_begun)
            stopped = time.monotonic()
            assert daemon.stop() == 0
        daemon.close_channels()
        daemon.start()
        there = {pair.key for pair in every_key(daemon)}
        assert there == {key for key, put in writers.puts.items() if put.told == "OK"}
        told = {put.told for put in writers.puts.values() if put.begun < stopped}
        assert told == {"OK", "UNAVAILABLE STORE_CLOSED"}
        daemon.kv().Delete(DeleteRequest(key=b"\0", range_end=b"\0"))


def every_key(daemon: Daemon) -> Iterator[KeyValue]:
    request, kv = ScanRequest(keys_only=True), daemon.kv()
    while True:
        page = kv.Scan(request)
        yield from page.kvs
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def test_a_client_that_does_not_hang_up_does_not_hold_up_the_end(start: MakeDaemon) -> None:
    daemon = start()
    with socket.create_connection(split_address(daemon.grpc)) as deaf:
        deaf.sendall(PREFACE)
        eventually(lambda: bool(deaf.recv(1, socket.MSG_PEEK)))
        assert daemon.stop() == 0


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def test_new_calls_are_refused_while_old_ones_finish(start: MakeDaemon) -> None:
    daemon = start(environment=SLOW_SYNC)
    kv, health = daemon.kv(), daemon.health()
    kv.Get(GetRequest(key=b"k"))
    slow = kv.Put.future(PutRequest(key=b"k", value=b"v"))
    eventually(lambda: daemon.metric("bedplate_rpcs_in_flight", method="Put") == 1)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("draining")
    for call in (lambda: kv.Get(GetRequest(key=b"k")), lambda: next(kv.Watch(WatchRequest()))):
        late = refused(call)
        assert (late.code, late.reason) == (UNAVAILABLE, "STORE_CLOSED")
    probe = health.Check(HealthCheckRequest())
    assert probe.status == HealthCheckResponse.NOT_SERVING
    assert slow.result(PATIENCE_S).revision > 0
    assert daemon.wait() == 0


def test_an_upload_under_way_finishes(start: MakeDaemon) -> None:
    daemon = start()
    objects = ObjectServiceStub(daemon.channel())
    objects.CreateBucket(pb.CreateBucketRequest(bucket="b"))
    data: Queue[bytes] = Queue()

    def messages() -> Iterator[pb.PutObjectRequest]:
        yield pb.PutObjectRequest(header=pb.PutObjectHeader(bucket="b", key="k"))
        while piece := data.get():
            yield pb.PutObjectRequest(chunk=pb.DataChunk(data=piece))

    upload = objects.PutObject.future(messages())
    data.put(b"before")
    eventually(lambda: daemon.metric("bedplate_rpcs_in_flight", method="PutObject") == 1)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("draining")
    data.put(b" and after")
    data.put(b"")
    assert upload.result(PATIENCE_S).info.size == len(b"before and after")
    assert daemon.wait() == 0


def test_what_outlasts_the_drain_is_told_why(start: MakeDaemon) -> None:
    daemon = start("server.drain_timeout=0.3")
    objects = ObjectServiceStub(daemon.channel())
    objects.CreateBucket(pb.CreateBucketRequest(bucket="b"))
    ends = threading.Event()

    def messages() -> Iterator[pb.PutObjectRequest]:
        yield pb.PutObjectRequest(header=pb.PutObjectHeader(bucket="b", key="k"))
        ends.wait()

    upload = objects.PutObject.future(messages())
    eventually(lambda: daemon.metric("bedplate_rpcs_in_flight", method="PutObject") == 1)
    assert daemon.stop() == 1
    cut = refused(upload.result)
    assert (cut.code, cut.reason) == (UNAVAILABLE, "STORE_CLOSED")
    ends.set()

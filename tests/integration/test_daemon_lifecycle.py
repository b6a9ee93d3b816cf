"""Starting, serving, draining and failing to start."""

import hashlib
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from bedplate.api.kv.v1.kv_pb2 import (
    BatchOp,
    BatchRequest,
    GetRequest,
    PipelineOp,
    PipelineRequest,
    PutOp,
    PutRequest,
    ScanRequest,
    WatchRequest,
)
from bedplate.native.store import crc32c
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import PATIENCE_S, Daemon, eventually, run_to_end
from tests.integration.refusals import refused

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def snapshot(directory: Path) -> dict[str, tuple[int, int, str]]:
    """Everything below: mode, time of change, content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, digest)
    return found


# ---- serving -------------------------------------------------------------------------------------


def test_what_was_acknowledged_survives_a_clean_stop_and_a_crash(start: MakeDaemon) -> None:
    daemon = start()
    daemon.kv().Put(PutRequest(key=b"1", value=b"before the stop"))
    assert daemon.stop() == 0
    daemon.close_channels()
    daemon.start()
    daemon.kv().Put(PutRequest(key=b"2", value=b"before the crash"))
    daemon.kill()
    daemon.start()
    values = [item.value for item in daemon.kv().Scan(ScanRequest()).kvs]
    assert values == [b"before the stop", b"before the crash"]


def test_files_are_for_the_owner_alone(start: MakeDaemon) -> None:
    daemon = start()
    daemon.kv().Put(PutRequest(key=b"k", value=b"v"))
    assert stat.S_IMODE(daemon.data.stat().st_mode) == 0o700
    paths = list(daemon.data.rglob("*"))
    assert any(path.is_file() for path in paths)
    for path in paths:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_health_answers_for_every_service(shared_daemon: Daemon) -> None:
    health = shared_daemon.health()
    for service in ("", "bedplate.kv.v1.KVService"):
        assert health.Check(HealthCheckRequest(service=service)).status == SERVING
    unknown = refused(health.Check, HealthCheckRequest(service="absent"))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "SERVICE_UNKNOWN")


def test_nothing_is_served_while_the_store_recovers(start: MakeDaemon, tmp_path: Path) -> None:
    daemon = start()
    daemon.kv().Put(PutRequest(key=b"k", value=b"v"))
    daemon.kill()
    slow = Daemon(tmp_path, environment={"BEDPLATE_FAILPOINTS__RECOVER_READ": "slow@1:3000"})
    with slow.launch().recovering():
        assert not (tmp_path / "address.json").exists()
        assert slow.health().Check(HealthCheckRequest()).status == NOT_SERVING
        assert slow.get("/readyz") == (503, "recovering\n")
        assert slow.get("/healthz") == (200, "ok\n")
        early = refused(slow.kv().Get, GetRequest(key=b"k"))
        assert (early.code, early.reason) == (UNAVAILABLE, "STORE_RECOVERING")
        assert early.retry_ms is not None
        assert slow.wait_for("serving")
        assert slow.kv().Get(GetRequest(key=b"k")).kv.value == b"v"
        assert slow.get("/readyz") == (200, "ready\n")


def test_failpoints_are_announced_loudly(start: MakeDaemon) -> None:
    daemon = start(environment={"BEDPLATE_FAILPOINTS__CHECKPOINT_WRITE": "eio@1000000"})
    armed = daemon.wait_for("failpoints_armed")
    assert armed["level"] == "warning"
    assert armed["failpoints"] == "checkpoint.write=eio@1000000"


def test_a_failed_sync_poisons_the_log(start: MakeDaemon) -> None:
    daemon = start(environment={"BEDPLATE_FAILPOINTS__LOG_SYNC": "eio@3"})
    kv = daemon.kv()
    kv.Put(PutRequest(key=b"acknowledged"))
    failed = refused(kv.Put, PutRequest(key=b"failed"))
    assert failed.code is UNAVAILABLE
    poisoned = refused(kv.Put, PutRequest(key=b"more"))
    assert (poisoned.code, poisoned.reason) == (UNAVAILABLE, "LOG_POISONED")
    assert daemon.wait_for("log_poisoned")["level"] == "error"
    assert daemon.get("/readyz") == (503, "log poisoned\n")
    assert daemon.metric("bedplate_log_poisoned") == 1
    health = daemon.health()
    assert health.Check(HealthCheckRequest()).status == NOT_SERVING
    assert daemon.stop() == 0
    again = Daemon(daemon.data.parent)
    with again.start():
        assert again.kv().Get(GetRequest(key=b"acknowledged")).HasField("kv")


def test_a_full_disk_refuses_writes_and_comes_back(start: MakeDaemon) -> None:
    daemon = start(
        "log.segment_size=8MiB", environment={"BEDPLATE_FAILPOINTS__LOG_ALLOCATE": "enospc@3x0"}
    )
    kv = daemon.kv()
    kv.Put(PutRequest(key=b"k", value=b"v"))

    def full() -> bool:
        try:
            kv.Put(PutRequest(key=b"large", value=b"v" * 2**20))
        except grpc.RpcError:
            return daemon.get("/readyz") == (503, "disk full\n")
        return False

    eventually(full)
    refusal = refused(kv.Put, PutRequest(key=b"large", value=b"v" * 2**20))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.reason == "DISK_FULL"
    assert refusal.retry_ms is not None
    assert daemon.wait_for("disk_full")["level"] == "warning"
    assert daemon.health().Check(HealthCheckRequest()).status == SERVING
    assert kv.Get(GetRequest(key=b"k")).kv.value == b"v"
    eventually(lambda: daemon.get("/readyz") == (200, "ready\n"))


# ---- draining ------------------------------------------------------------------------------------


def test_a_drain_finishes_calls_in_flight(start: MakeDaemon) -> None:
    daemon = start(environment={"BEDPLATE_FAILPOINTS__LOG_SYNC": "slow@2x1:1000"})
    call = daemon.kv().Put.future(PutRequest(key=b"k", value=b"v"))
    eventually(lambda: daemon.metric("bedplate_rpcs_in_flight", method="Put") == 1)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("draining")
    assert daemon.get("/readyz") == (503, "draining\n")
    assert call.result(PATIENCE_S).revision > 0
    assert daemon.wait() == 0


def test_a_drain_answers_the_frames_it_has_read(start: MakeDaemon) -> None:
    daemon = start()
    frames: Queue[PipelineRequest | None] = Queue()

    def requests() -> Iterator[PipelineRequest]:
        while (frame := frames.get()) is not None:
            yield frame

    replies = daemon.kv().Pipeline(requests())
    frames.put(PipelineRequest(ops=[PipelineOp(id=1, put=PutRequest(key=b"k"))]))
    assert next(replies).results[0].put.revision > 0
    assert daemon.stop() == 0
    closed = refused(next, replies)
    assert (closed.code, closed.reason) == (UNAVAILABLE, "STORE_CLOSED")
    frames.put(None)


def test_health_watchers_hear_of_a_drain(start: MakeDaemon) -> None:
    daemon = start()
    statuses = daemon.health().Watch(HealthCheckRequest())
    assert next(statuses).status == SERVING
    daemon.signal(signal.SIGTERM)
    assert next(statuses).status == NOT_SERVING
    assert daemon.wait() == 0


def test_a_drain_that_passes_its_deadline_exits_1(start: MakeDaemon) -> None:
    daemon = start("server.drain_timeout=0.3")
    kv = daemon.kv()
    stuck = kv.Watch(WatchRequest(prefix=b"k", with_values=True))
    assert next(stuck).created
    for _ in range(8):  # more than flow control lets through unread
        kv.Put(PutRequest(key=b"k", value=b"v" * 2**20))
    assert daemon.stop() == 1
    assert daemon.wait_for("drain_deadline")


def test_a_second_signal_exits_1_at_once(start: MakeDaemon) -> None:
    daemon = start(environment={"BEDPLATE_FAILPOINTS__LOG_SYNC": "slow@2x1:60000"})
    call = daemon.kv().Put.future(PutRequest(key=b"k", value=b"v"))
    eventually(lambda: daemon.metric("bedplate_rpcs_in_flight", method="Put") == 1)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("draining")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 1
    with pytest.raises(grpc.RpcError):
        call.result(PATIENCE_S)


def test_the_address_file_goes_with_the_daemon(start: MakeDaemon, tmp_path: Path) -> None:
    daemon = start()
    eventually((tmp_path / "address.json").exists)
    assert daemon.stop() == 0
    assert not (tmp_path / "address.json").exists()


# ---- failing to start ----------------------------------------------------------------------------


def fails(directory: Path, *arguments: str) -> str:
    """The one line that a failed start says."""
    code, output = run_to_end(directory, *arguments)
    assert code == 2, output
    (line,) = output.splitlines()
    assert line.startswith("bedplated: ")
    return line


ELSEWHERE = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")


def test_a_second_daemon_on_a_directory_is_refused(start: MakeDaemon, tmp_path: Path) -> None:
    daemon = start()
    daemon.kv().Put(PutRequest(key=b"k", value=b"v"))
    before = snapshot(daemon.data).keys()
    line = fails(tmp_path, "--data-dir", str(daemon.data), *ELSEWHERE)
    assert str(daemon.data) in line
    assert snapshot(daemon.data).keys() == before
    assert daemon.kv().Get(GetRequest(key=b"k")).kv.value == b"v"


@pytest.mark.parametrize("flag", ["--grpc", "--http"])
def test_an_occupied_port_is_refused_before_anything_is_made(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        data = tmp_path / "data"
        line = fails(tmp_path, "--data-dir", str(data), *ELSEWHERE, flag, address)
    assert line == f"bedplated: cannot listen on {address}: Address already in use"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    line = fails(tmp_path, "--data-dir", "/proc/bedplate", *ELSEWHERE)
    assert "/proc/bedplate" in line
    (tmp_path / "file").touch()
    before = snapshot(tmp_path)
    line = fails(tmp_path, "--data-dir", str(tmp_path / "file" / "data"), *ELSEWHERE)
    assert "is not a directory" in line
    assert snapshot(tmp_path) == before


def test_a_directory_of_a_newer_format_is_refused(start: MakeDaemon, tmp_path: Path) -> None:
    daemon = start()
    daemon.kv().Put(PutRequest(key=b"k", value=b"v"))
    assert daemon.stop() == 0
    identity = daemon.data / "store" / "STORE"
    content = bytearray(identity.read_bytes())
    newer(content)
    identity.write_bytes(content)
    before = snapshot(daemon.data)
    line = fails(tmp_path, "--data-dir", str(daemon.data), *ELSEWHERE)
    assert "format" in line
    assert "newer" in line
    assert snapshot(daemon.data) == before


def newer(content: bytearray) -> None:
    """Raise the format version of a store's identity file, its checksum following: u32 version at
    8, u32 CRC32C of what is before it at 60.
    """
    version = int.from_bytes(content[8:12], "little")
    content[8:12] = (version + 1).to_bytes(4, "little")
    content[60:64] = crc32c(bytes(content[:60])).to_bytes(4, "little")


def test_damage_below_what_was_synced_is_refused(start: MakeDaemon, tmp_path: Path) -> None:
    daemon = start()
    for i in range(50):
        ops = [BatchOp(put=PutOp(key=b"%d/%d" % (i, j), value=b"v" * 100)) for j in range(10)]
        daemon.kv().Batch(BatchRequest(ops=ops))
    daemon.kill()
    (segment,) = (daemon.data / "store").glob("*.log")
    content = bytearray(segment.read_bytes())
    content[8192] ^= 1
    segment.write_bytes(content)
    before = snapshot(daemon.data)
    line = fails(tmp_path, "--data-dir", str(daemon.data), *ELSEWHERE)
    assert segment.name in line
    assert "fsck" in line
    assert snapshot(daemon.data) == before

"""Backup while the daemon serves, restore into a new directory: all of it, or nothing."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from bedplate.api.admin.v1 import admin_pb2 as pb
from bedplate.api.admin.v1.admin_pb2_grpc import AdminServiceStub
from bedplate.api.kv.v1.kv_pb2 import (
    DeleteRequest,
    GetLeaseRequest,
    GetRequest,
    GrantLeaseRequest,
    PutRequest,
    ScanRequest,
    WatchRequest,
)
from bedplate.native.store import crc32c
from tests.integration.command import Run, failed, runner
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import Daemon, eventually
from tests.integration.refusals import refusal, refused

MIB = 1 << 20


def receive(daemon: Daemon) -> tuple[pb.BackupHeader, bytes, pb.BackupTrailer]:
    admin: Any = AdminServiceStub(daemon.channel())
    first, *middle, last = admin.Backup(pb.BackupRequest())
    return first.header, b"".join(response.data for response in middle), last.trailer


def restored(daemon: Daemon, run: Run, directory: Path) -> Daemon:
    """A daemon on a restored copy of `daemon`, not started yet."""
    backup = directory / "backup"
    other = Daemon(directory / "restored")
    (directory / "restored").mkdir()
    assert run("--server", daemon.grpc, "backup", backup).code == 0
    ended = run("restore", backup, "--data-dir", other.data)
    assert ended.code == 0, ended.err
    return other


@pytest.fixture
def daemon(start: MakeDaemon) -> Daemon:
    return start()


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    return runner(capfdbinary, monkeypatch, "127.0.0.1:1")


def test_the_stream_says_what_it_holds(daemon: Daemon) -> None:
    revision = daemon.kv().Put(PutRequest(key=b"k", value=b"v" * MIB)).revision
    header, data, trailer = receive(daemon)
    assert (header.format_version, header.revision) == (1, revision)
    assert (trailer.bytes, trailer.crc32c) == (len(data), crc32c(data))
    assert header.bytes_estimate == pytest.approx(len(data), rel=0.1)


def test_a_restored_store_holds_keys_leases_and_objects(
    daemon: Daemon, command: Run, tmp_path: Path
) -> None:
    kv = daemon.kv()
    lease = kv.GrantLease(GrantLeaseRequest(ttl_seconds=1000)).lease_id
    for i in range(50):
        kv.Put(PutRequest(key=f"k/{i:02}".encode(), value=bytes([i]) * 1000 * i, lease_id=lease))
    kv.Put(PutRequest(key=b"gone"))
    kv.Delete(DeleteRequest(key=b"gone"))
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    server = ("--server", daemon.grpc)
    assert command(*server, "object", "mb", "bucket").code == 0
    assert command(*server, "object", "put", tmp_path / "file", "object://bucket/").code == 0
    before = kv.Scan(ScanRequest())
    with restored(daemon, command, tmp_path) as other:
        after = other.kv().Scan(ScanRequest())
        assert [(kv.key, kv.value, kv.version, kv.lease_id) for kv in after.kvs] == [
            (kv.key, kv.value, kv.version, kv.lease_id) for kv in before.kvs
        ]
        found = other.kv().GetLease(GetLeaseRequest(lease_id=lease, with_keys=True))
        assert (found.ttl_seconds, len(found.keys)) == (1000, 50)
        fetched = command("--server", other.grpc, "object", "get", "object://bucket/file", "-")
        assert fetched.out == content


def test_nothing_a_client_remembers_matches_a_restored_store(
    daemon: Daemon, command: Run, tmp_path: Path
) -> None:
    revision = daemon.kv().Put(PutRequest(key=b"k", value=b"v")).revision
    admin: Any = AdminServiceStub(daemon.channel())
    old = admin.GetStatus(pb.GetStatusRequest())
    with restored(daemon, command, tmp_path) as other:
        admin = AdminServiceStub(other.channel())
        new = admin.GetStatus(pb.GetStatusRequest())
        assert new.cluster_id != old.cluster_id
        assert new.store_id != old.store_id
        assert new.revision >= revision + (1 << 32)
        watch = other.kv().Watch(WatchRequest(start_revision=revision + 1))
        assert refused(list, watch).reason == "REVISION_COMPACTED"
        put = other.kv().Put(PutRequest(key=b"k", value=b"w")).revision
        assert put > new.revision


def test_what_is_written_during_a_backup_is_not_in_it(
    daemon: Daemon, command: Run, tmp_path: Path
) -> None:
    kv = daemon.kv()
    for i in range(32):
        kv.Put(PutRequest(key=f"k/{i:02}".encode(), value=b"old" * 100_000))
    admin: Any = AdminServiceStub(daemon.channel())
    responses = admin.Backup(pb.BackupRequest())
    assert next(responses).HasField("header")
    for i in range(32):
        kv.Put(PutRequest(key=f"k/{i:02}".encode(), value=b"new"))
    kv.Put(PutRequest(key=b"z"))
    backup = tmp_path / "backup"
    backup.write_bytes(b"".join(response.data for response in responses))
    assert command("restore", backup, "--data-dir", tmp_path / "other" / "data").code == 0
    with Daemon(tmp_path / "other") as other:
        pairs = other.kv().Scan(ScanRequest(prefix=b"k/")).kvs
        assert {pair.value for pair in pairs} == {b"old" * 100_000}
        assert not other.kv().Get(GetRequest(key=b"z")).HasField("kv")


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "other"])
def test_a_damaged_backup_restores_nothing(
    daemon: Daemon, command: Run, tmp_path: Path, damage: str
) -> None:
    daemon.kv().Put(PutRequest(key=b"k", value=b"v" * 5000))
    _, data, _ = receive(daemon)
    middle = len(data) // 2
    contents = {
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[: len(data) - 100],
        "empty": b"",
        "other": b"something else entirely\n" * 100,
    }
    backup = tmp_path / "backup"
    backup.write_bytes(contents[damage])
    target = tmp_path / "restored"
    assert "STORE_CORRUPT" in failed(command("restore", backup, "--data-dir", target))
    assert not target.exists()
    assert not list(tmp_path.glob(".restored*"))


def test_a_directory_in_use_is_never_restored_over(
    daemon: Daemon, command: Run, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    assert command("--server", daemon.grpc, "backup", backup).code == 0
    assert "not empty" in failed(command("restore", backup, "--data-dir", daemon.data))
    for file, why in ((tmp_path / "none", "does not exist"), (tmp_path, "is no file")):
        assert f"{file} {why}" in failed(command("restore", file, "--data-dir", tmp_path / "x"))


def test_a_backup_replaces_a_file_only_when_told(
    daemon: Daemon, command: Run, tmp_path: Path
) -> None:
    backup, server = tmp_path / "backup", ("--server", daemon.grpc)
    backup.write_bytes(b"precious")
    assert "--force" in failed(command(*server, "backup", backup))
    assert backup.read_bytes() == b"precious"
    assert command(*server, "backup", backup, "--force").code == 0
    piped = command(*server, "backup", "-")
    assert len(piped.out) == backup.stat().st_size  # all but the time it was made


def test_a_client_that_stalls_does_not_hold_space_for_ever(start: MakeDaemon) -> None:
    """It reads nothing until the time is over, so that the daemon waits for it all the while."""
    daemon = start("admin.backup_seconds_max=1")
    kv = daemon.kv()
    for i in range(64):
        kv.Put(PutRequest(key=str(i).encode(), value=b"x" * MIB))
    admin: Any = AdminServiceStub(daemon.channel())
    responses = admin.Backup(pb.BackupRequest())
    next(responses)

    def another_begins() -> bool:
        other = admin.Backup(pb.BackupRequest())
        try:
            return bool(next(other).HasField("header"))
        except grpc.RpcError as error:
            if refusal(error).reason != "BACKUP_RUNNING":
                raise
            return False
        finally:
            other.cancel()

    assert not another_begins()
    eventually(another_begins)
    ended = refused(list, responses)
    assert (ended.code, ended.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED")

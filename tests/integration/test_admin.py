"""AdminService: what status shows, compaction, a scrub that finds damage, and how drains end it."""

import json
import signal
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from bedplate import __version__
from bedplate.api.admin.v1 import admin_pb2 as pb
from bedplate.api.admin.v1.admin_pb2_grpc import AdminServiceStub
from bedplate.api.kv.v1.kv_pb2 import GetRequest, PutRequest
from bedplate.server.extras import EXTRAS
from tests.integration.command import runner
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import Daemon, eventually
from tests.integration.refusals import refusal, refused

MIB = 1 << 20


def admin_of(daemon: Daemon) -> Any:
    return AdminServiceStub(daemon.channel())


def fill(daemon: Daemon, count: int, size: int = MIB) -> None:
    kv = daemon.kv()
    for i in range(count):
        kv.Put(PutRequest(key=f"fill/{i}".encode(), value=i.to_bytes(4) * (size // 4)))


def flip(path: Path, marker: bytes) -> int:
    """Flip one bit in the middle of the first place that holds `marker`; its offset."""
    data = path.read_bytes()
    at = data.index(marker) + len(marker) // 2
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))
    return at


class TestStatus:
    def test_shows_the_store_and_its_services(self, start: MakeDaemon) -> None:
        daemon = start("log.durability=interval:50", "index.memory_max=64MiB")
        daemon.kv().Put(PutRequest(key=b"k", value=b"v"))
        status = admin_of(daemon).GetStatus(pb.GetStatusRequest())
        assert status.version == __version__
        assert len(bytes.fromhex(status.store_id)) == len(bytes.fromhex(status.cluster_id)) == 16
        assert status.role == pb.MEMBER_ROLE_LEADER
        assert status.revision > 0
        assert status.log.applied_index <= status.log.committed_index <= status.log.last_index
        assert status.log.durability == "interval:50"
        assert status.index.memory_bytes_max == 64 * MIB
        assert not status.index.full
        assert (status.index.keys, status.read_only, status.poisoned) == (1, False, False)
        assert status.disk.total_bytes >= status.disk.free_bytes > 0
        names = [service.name for service in status.services]
        assert names == sorted(names)
        assert {f"bedplate.{x}.v1.{x.capitalize()}Service" for x in ("admin", "object")} <= {*names}
        assert all(service.served for service in status.services)
        assert set(status.missing_extras) <= EXTRAS.keys()

    def test_tells_what_a_crash_left_to_recover(self, start: MakeDaemon) -> None:
        daemon = start()
        fill(daemon, 20, 100)
        before = admin_of(daemon).GetStatus(pb.GetStatusRequest())
        daemon.kill()
        daemon.start()
        after = admin_of(daemon).GetStatus(pb.GetStatusRequest())
        assert after.recovery.entries_replayed >= 20
        assert after.index.state_hash == before.index.state_hash
        assert after.store_id == before.store_id
        assert after.started_time.ToNanoseconds() > before.started_time.ToNanoseconds()

    def test_says_that_a_full_index_takes_no_more(self, start: MakeDaemon) -> None:
        daemon = start("index.memory_max=1MiB")
        kv = daemon.kv()

        def fill_up() -> None:
            for i in range(100_000):
                kv.Put(PutRequest(key=f"{i:01000}".encode()))

        assert refused(fill_up).reason == "INDEX_FULL"
        status = admin_of(daemon).GetStatus(pb.GetStatusRequest())
        assert (status.index.full, status.read_only) == (True, True)

    def test_a_malformed_request_is_refused_by_name(self, shared_daemon: Daemon) -> None:
        call: Any = shared_daemon.channel().unary_unary("/bedplate.admin.v1.AdminService/Compact")
        assert refused(call, b"\xff").reason == "MALFORMED_REQUEST"


class TestCompact:
    def test_gives_up_what_is_older(self, start: MakeDaemon) -> None:
        daemon = start()
        kv, admin = daemon.kv(), admin_of(daemon)
        first = kv.Put(PutRequest(key=b"k", value=b"1")).revision
        second = kv.Put(PutRequest(key=b"k", value=b"2")).revision
        reply = admin.Compact(pb.CompactRequest(revision=second))
        assert reply.compaction_revision == second
        assert refused(kv.Get, GetRequest(key=b"k", revision=first)).reason == "REVISION_COMPACTED"
        assert kv.Get(GetRequest(key=b"k", revision=second)).kv.value == b"2"
        again = admin.Compact(pb.CompactRequest(revision=first))
        assert again.compaction_revision == second
        newest = admin.Compact(pb.CompactRequest()).compaction_revision
        assert newest >= second

    def test_the_future_is_refused(self, shared_daemon: Daemon) -> None:
        request = pb.CompactRequest(revision=1 << 60)
        refusal = refused(admin_of(shared_daemon).Compact, request)
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.OUT_OF_RANGE,
            "REVISION_IN_FUTURE",
        )


class TestVerify:
    def test_a_clean_store_has_no_findings(self, start: MakeDaemon) -> None:
        daemon = start()
        fill(daemon, 8)
        *_, last = admin_of(daemon).Verify(pb.VerifyRequest())
        assert last.summary.findings == 0
        assert last.summary.bytes_checked >= 8 * MIB

    def test_a_flipped_bit_is_found_before_a_client_reads_it(
        self,
        start: MakeDaemon,
        capfdbinary: pytest.CaptureFixture[bytes],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        daemon = start()
        kv, marker = daemon.kv(), b"here it lies" * 100
        kv.Put(PutRequest(key=b"sound", value=b"x"))
        revision = kv.Put(PutRequest(key=b"damaged", value=marker)).revision
        (log,) = (daemon.data / "store").glob("*.log")
        flip(log, marker)
        responses = list(admin_of(daemon).Verify(pb.VerifyRequest()))
        values = [
            response.finding
            for response in responses
            if response.finding.kind == pb.FINDING_KIND_VALUE_DAMAGED
        ]
        (finding,) = values
        assert (finding.key, finding.revision) == (b"damaged", revision)
        assert finding.file == f"store/{log.name}"
        assert responses[-1].summary.findings >= 1
        refusal = refused(kv.Get, GetRequest(key=b"damaged"))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "VALUE_DAMAGED")
        assert kv.Get(GetRequest(key=b"sound")).kv.value == b"x"
        ended = runner(capfdbinary, monkeypatch, daemon.grpc)("--json", "verify")
        assert ended.code == 1
        printed = [json.loads(line) for line in ended.lines]
        assert "damaged" in [entry.get("finding", {}).get("key") for entry in printed]
        daemon.kill()  # its clean stop might find the damage too, and say so

    def test_there_is_one_at_a_time_and_a_cancelled_one_makes_room(self, start: MakeDaemon) -> None:
        daemon = start()
        fill(daemon, 4)
        admin = admin_of(daemon)
        slow = admin.Verify(pb.VerifyRequest(bytes_per_second_max=1))
        assert next(slow).HasField("progress")
        second = admin.Verify(pb.VerifyRequest())
        with pytest.raises(grpc.RpcError) as failure:
            list(second)
        refusal_ = refusal(failure.value)
        assert refusal_.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refusal_.reason == "VERIFY_RUNNING"
        slow.cancel()

        def runs() -> bool:
            try:
                return bool(list(admin.Verify(pb.VerifyRequest())))
            except grpc.RpcError:
                return False

        eventually(runs)


class TestDrain:
    @pytest.fixture
    def daemon(self, start: MakeDaemon) -> Daemon:
        daemon = start()
        fill(daemon, 16)
        return daemon

    def test_ends_a_scrub_under_way_and_stops_clean(self, daemon: Daemon) -> None:
        responses = admin_of(daemon).Verify(pb.VerifyRequest(bytes_per_second_max=1))
        next(responses)
        assert daemon.stop() == 0
        with pytest.raises(grpc.RpcError) as failure:
            list(responses)
        assert refusal(failure.value).reason == "STORE_CLOSED"

    def test_says_so_behind_what_is_being_written(self, daemon: Daemon) -> None:
        responses = admin_of(daemon).Backup(pb.BackupRequest())
        next(responses)  # and no more: the writes behind it wait for the client
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("draining")
        with pytest.raises(grpc.RpcError) as failure:
            list(responses)
        assert refusal(failure.value).reason == "STORE_CLOSED"
        assert daemon.wait() == 0

    def test_ends_a_backup_whose_client_does_not_read(self, daemon: Daemon) -> None:
        responses = admin_of(daemon).Backup(pb.BackupRequest())
        assert next(responses).HasField("header")
        assert daemon.stop() == 0
        with pytest.raises(grpc.RpcError):
            list(responses)


def test_scrubs_and_backups_leave_writers_alone(start: MakeDaemon) -> None:
    daemon = start()
    fill(daemon, 16)
    failures: list[grpc.RpcError] = []

    def write() -> None:
        kv = daemon.kv()
        try:
            for i in range(200):
                kv.Put(PutRequest(key=f"more/{i}".encode(), value=b"v" * 1000))
        except grpc.RpcError as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    admin = admin_of(daemon)
    *_, summary = admin.Verify(pb.VerifyRequest())
    *_, trailer = admin.Backup(pb.BackupRequest())
    writer.join()
    assert failures == []
    assert summary.summary.findings == 0
    assert trailer.trailer.bytes > 16 * MIB

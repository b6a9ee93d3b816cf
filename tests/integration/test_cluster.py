"""A cluster of real daemons: clients at any member, dead leaders, changes of the membership."""

import contextlib
import json
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from bedplate.api.kv.v1 import kv_pb2 as kv
from tests.integration.cluster_calls import retried, succeeds
from tests.integration.daemon import eventually
from tests.integration.daemon_cluster import SMALL, DaemonCluster, bedplate, started
from tests.integration.refusals import refused

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonCluster]:
    """For tests that leave every member alive."""
    with DaemonCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaemonCluster]:
    with DaemonCluster(tmp_path) as made:
        yield made


def test_what_one_member_acknowledged_every_member_reads(shared: DaemonCluster) -> None:
    for i, writer in enumerate(shared.daemons):
        key, value = b"any/%d" % i, b"v%d" % i
        written = writer.kv().Put(kv.PutRequest(key=key, value=value))
        for reader in shared.daemons:
            read = reader.kv().Get(kv.GetRequest(key=key))
            assert read.kv.value == value
            assert read.kv.mod_revision == written.revision
            assert read.revision >= written.revision


def test_every_kind_of_request_works_through_a_follower(shared: DaemonCluster) -> None:
    follower = shared.followers()[0]
    stub = follower.kv()
    put = stub.Put(kv.PutRequest(key=b"kind/a", value=b"1"))
    again = stub.Put(kv.PutRequest(key=b"kind/a", value=b"2", return_previous=True))
    assert again.previous.value == b"1"
    assert again.revision > put.revision
    txn = stub.Txn(
        kv.TxnRequest(
            compares=[kv.Compare(key=b"kind/a", value=b"2")],
            then_ops=[
                kv.TxnOp(put=kv.PutOp(key=b"kind/b", value=b"3")),
                kv.TxnOp(get=kv.GetOp(key=b"kind/a")),
            ],
        )
    )
    assert txn.succeeded
    assert txn.results[1].get.kv.value == b"2"
    batch = stub.Batch(
        kv.BatchRequest(ops=[kv.BatchOp(put=kv.PutOp(key=b"kind/%d" % i)) for i in range(100)])
    )
    assert batch.put == 100
    scan = stub.Scan(kv.ScanRequest(prefix=b"kind/"))
    assert scan.count == 102
    lease = stub.GrantLease(kv.GrantLeaseRequest(ttl_seconds=60)).lease_id
    stub.Put(kv.PutRequest(key=b"kind/leased", lease_id=lease))
    (alive,) = stub.KeepAlive(iter([kv.KeepAliveRequest(lease_id=lease)]))
    assert alive.ttl_seconds == 60
    assert list(stub.GetLease(kv.GetLeaseRequest(lease_id=lease, with_keys=True)).keys) == [
        b"kind/leased"
    ]
    stub.RevokeLease(kv.RevokeLeaseRequest(lease_id=lease))
    deleted = stub.Delete(kv.DeleteRequest(key=b"kind/", range_end=b"kind0"))
    assert deleted.deleted == 102
    ops = [
        kv.PipelineOp(id=1, put=kv.PutRequest(key=b"kind/p", value=b"p")),
        kv.PipelineOp(id=2, get=kv.GetRequest(key=b"kind/p")),
    ]
    (frame,) = stub.Pipeline(iter([kv.PipelineRequest(ops=ops)]))
    assert frame.results[1].get.kv.value == b"p"


def test_a_watch_at_any_member_sees_every_change(shared: DaemonCluster) -> None:
    streams = [d.kv().Watch(kv.WatchRequest(prefix=b"watch/")) for d in shared.daemons]
    for stream in streams:
        assert next(stream).created
    shared.followers()[0].kv().Put(kv.PutRequest(key=b"watch/k", value=b"v"))
    for stream in streams:
        assert [event.kv.key for event in next(stream).events] == [b"watch/k"]
        stream.cancel()


def test_leadership_is_handed_over_and_writes_go_on(shared: DaemonCluster) -> None:
    follower = shared.followers()[0]
    code, said, _ = bedplate("--server", follower.grpc, "cluster", "transfer", follower.address)
    assert (code, "leads" in said) == (0, True)
    assert shared.leader() is follower
    for daemon in shared.daemons:
        daemon.kv().Put(kv.PutRequest(key=b"after"))


def test_status_shows_every_member(shared: DaemonCluster) -> None:
    code, said, _ = bedplate("--server", shared.leader().grpc, "cluster", "status")
    assert code == 0
    for daemon in shared.daemons:
        assert daemon.address in said
    assert said.count("voter") == 3
    assert said.count(" leader") == 2  # in the first line, and the row of the one that leads


def test_metrics_show_roles_terms_and_lags(shared: DaemonCluster) -> None:
    leader = shared.leader()
    roles = [d.metric("bedplate_raft_role", role="leader") for d in shared.daemons]
    assert sorted(roles) == [0, 0, 1]
    assert len({d.metric("bedplate_raft_term") for d in shared.daemons}) == 1
    assert leader.metric("bedplate_raft_peer_up") == 2
    eventually(lambda: leader.metric("bedplate_raft_peer_lag") == 0)
    assert leader.metric("bedplate_raft_turn_seconds_count") > 0


def test_a_killed_leader_costs_a_moment_and_no_acknowledged_write(cluster: DaemonCluster) -> None:
    leader = cluster.leader()
    stubs = [daemon.kv() for daemon in cluster.followers()]
    for i in range(200):
        stubs[i % 2].Put(kv.PutRequest(key=b"%d" % i, value=b"v"))
    leader.kill()
    begun = time.monotonic()
    retried(stubs[0], kv.PutRequest(key=b"after", value=b"v"))
    assert time.monotonic() - begun < 10.0
    assert stubs[1].Scan(kv.ScanRequest(keys_only=True)).count == 201
    started(leader.launch())
    cluster.leader()
    assert leader.kv().Scan(kv.ScanRequest(keys_only=True)).count == 201


def test_a_retry_with_its_request_id_gets_the_first_result(cluster: DaemonCluster) -> None:
    request = kv.PutRequest(key=b"k", value=b"v", request_id=uuid.uuid4().hex)
    first = cluster.leader().kv().Put(request)
    cluster.leader().kill()
    again = retried(cluster.running[0].kv(), request)
    assert again.revision == first.revision
    assert cluster.running[1].kv().Get(kv.GetRequest(key=b"k")).kv.version == 1


def test_without_a_majority_there_is_no_leader_and_old_reads_go_on(cluster: DaemonCluster) -> None:
    last, *others = [*cluster.followers(), cluster.leader()]
    last.kv().Put(kv.PutRequest(key=b"k", value=b"v"))
    for other in others:
        other.kill()
    read = refused(last.kv().Get, kv.GetRequest(key=b"k"), timeout=20)
    assert (read.code, read.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_LEADER")
    stale = kv.GetRequest(key=b"k", consistency=kv.CONSISTENCY_SERIALIZABLE)
    assert last.kv().Get(stale).kv.value == b"v"
    eventually(lambda: last.get("/readyz") == (503, "no leader\n"))
    started(others[0].launch())
    eventually(lambda: last.get("/readyz")[0] == 200)
    assert last.kv().Get(kv.GetRequest(key=b"k")).kv.value == b"v"


def test_a_stopped_leader_hands_over_before_it_goes(cluster: DaemonCluster) -> None:
    leader, stub = cluster.leader(), cluster.followers()[0].kv()
    stub.Put(kv.PutRequest(key=b"k"))
    assert leader.stop() == 0
    begun = time.monotonic()
    stub.Put(kv.PutRequest(key=b"k"), timeout=10)
    assert time.monotonic() - begun < 1.0  # no election timeout in between


def test_a_local_cluster_goes_up_and_down_and_up_again(tmp_path: Path) -> None:
    small = [part for setting in SMALL for part in ("--set", setting)]
    up = ("cluster", "up", str(tmp_path / "local"), "--detach", *small)
    for value in ("first", "second"):
        code, said, complained = bedplate("--json", *up)
        assert code == 0, complained
        servers = [node["grpc"] for node in json.loads(said).values()]
        pids = [int(file.read_text()) for file in (tmp_path / "local").glob("n?/pid")]
        try:
            assert succeeds("--server", servers[0], "kv", "put", value, value)
            code, read, _ = bedplate("--server", servers[2], "kv", "get", "first")
            assert (code, read) == (0, "first")
            code, _, complained = bedplate(*up)
            assert code == 1
            assert "the cluster runs already: n1 is process " in complained
        finally:
            stopped = bedplate("cluster", "down", str(tmp_path / "local"))
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # should `down` have missed one
        assert stopped == (0, "stopped 3 daemons\n", "")
    assert bedplate("cluster", "down", str(tmp_path / "local")) == (0, "stopped 0 daemons\n", "")
    assert (tmp_path / "local" / "cluster.token").stat().st_mode & 0o077 == 0
    stranger = socket.create_server(("127.0.0.1", int(servers[1].rpartition(":")[2])))
    with stranger:
        for command in (up, ("cluster", "down", str(tmp_path / "local"))):
            code, _, complained = bedplate(*command)
            assert code == 1
            assert "answers" in complained
            assert servers[1] in complained

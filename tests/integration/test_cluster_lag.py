"""Clients of a member that is behind the others: it catches up for them, or says that it cannot."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from bedplate.api.kv.v1 import kv_pb2 as kv
from tests.integration.cluster_calls import retried
from tests.integration.daemon import eventually
from tests.integration.daemon_cluster import ClusterDaemon, DaemonCluster, bedplate
from tests.integration.refusals import refused

pytestmark = pytest.mark.timeout(180)

SERIALIZABLE = kv.CONSISTENCY_SERIALIZABLE
SLOW = "failpoints.log.sync=slow@1x0:300"  # less than what counts as a stall
FULL = "failpoints.log.write=enospc@1x0"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaemonCluster]:
    with DaemonCluster(tmp_path) as made:
        yield made


def afflicted(cluster: DaemonCluster, fault: str) -> ClusterDaemon:
    """A follower that was started again with a fault, and knows its leader."""
    leader = cluster.leader()
    before = next(daemon for daemon in cluster.daemons if daemon is not leader)
    assert before.stop() == 0
    before.close_channels()
    again = ClusterDaemon(before.data.parent, before.address, fault)
    cluster.daemons.remove(before)
    cluster.join(again)
    eventually(lambda: again.view().leader_id == leader.member_id)
    return again


def test_a_watch_through_a_member_that_lags_begins_where_it_was_asked_to(
    cluster: DaemonCluster,
) -> None:
    behind, leader = afflicted(cluster, SLOW), cluster.leader()
    for i in range(3):
        written = leader.kv().Put(kv.PutRequest(key=b"k", value=b"%d" % i)).revision
        watch = behind.kv().Watch(kv.WatchRequest(start_revision=written + 1), timeout=30)
        begun = next(watch)
        assert (begun.created, begun.revision) == (True, written)
        watch.cancel()
        written = leader.kv().Put(kv.PutRequest(key=b"k", value=b"%d" % i)).revision
        watch = behind.kv().Watch(kv.WatchRequest(), timeout=30)
        assert next(watch).revision >= written
        watch.cancel()


def test_a_watch_without_a_leader_is_told_so(cluster: DaemonCluster) -> None:
    last, *others = cluster.daemons
    retried(last.kv(), kv.PutRequest(key=b"k"))
    applied = last.kv().Get(kv.GetRequest(key=b"k")).revision
    for other in others:
        other.kill()
    eventually(lambda: last.view().leader_id == 0)

    def begin(request: kv.WatchRequest, timeout: float) -> kv.WatchResponse:
        return next(last.kv().Watch(request, timeout=timeout))

    for start in (0, applied + 1):
        said = refused(begin, kv.WatchRequest(start_revision=start), timeout=20)
        assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_LEADER")
        assert said.retry_ms
    assert begin(kv.WatchRequest(start_revision=applied), 20).created


def test_a_backup_holds_what_was_answered_or_warns(cluster: DaemonCluster, tmp_path: Path) -> None:
    behind, leader = afflicted(cluster, SLOW), cluster.leader()
    for i in range(3):
        written = leader.kv().Put(kv.PutRequest(key=b"k%d" % i)).revision
        code, said, warned = bedplate(
            "--json", "--server", behind.grpc, "cluster", "backup", str(tmp_path / f"{i}.backup")
        )
        assert (code, warned) == (0, "")
        assert int(json.loads(said)["revision"]) >= written
    for daemon in cluster.daemons:
        if daemon is not behind:
            daemon.kill()
    eventually(lambda: behind.view().leader_id == 0)
    file = tmp_path / "alone.backup"
    code, said, warned = bedplate("--server", behind.grpc, "cluster", "backup", str(file))
    assert code == 0
    assert f"revision {written}" in said
    assert "answered writes may be missing" in warned
    assert file.exists()
    get = ("--server", behind.grpc, "kv", "get", "k0")
    code, _, complained = bedplate(*get)
    assert code == 1
    assert "NO_LEADER" in complained
    assert bedplate(*get, "--serializable")[0] == 0
    code, keys, _ = bedplate("--server", behind.grpc, "kv", "scan", "--serializable", "--keys-only")
    assert (code, keys.split()) == (0, ["k0", "k1", "k2"])


def test_who_asks_a_member_with_a_full_disk_is_told_and_does_not_wait(
    cluster: DaemonCluster,
) -> None:
    retried(cluster.leader().kv(), kv.PutRequest(key=b"k", value=b"before"))
    full, leader = afflicted(cluster, FULL), cluster.leader()
    leader.kv().Put(kv.PutRequest(key=b"k", value=b"after"))
    stub, begun = full.kv(), time.monotonic()
    read = refused(stub.Get, kv.GetRequest(key=b"k"), timeout=20)
    put = refused(stub.Put, kv.PutRequest(key=b"k", value=b"through it"), timeout=20)
    assert time.monotonic() - begun < 10
    for said in (read, put):
        assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, "DISK_FULL")
        assert said.metadata["leader"] == leader.address
        assert said.retry_ms
    assert leader.kv().Get(kv.GetRequest(key=b"k")).kv.value == b"after"
    here = stub.Get(kv.GetRequest(key=b"k", consistency=SERIALIZABLE), timeout=20)
    assert here.kv.value == b"before"
    assert full.stop() in (0, 1)
    full.close_channels()
    healthy = ClusterDaemon(full.data.parent, full.address)
    cluster.daemons.remove(full)
    cluster.join(healthy)
    eventually(lambda: healthy.kv().Get(kv.GetRequest(key=b"k")).kv.value == b"after")

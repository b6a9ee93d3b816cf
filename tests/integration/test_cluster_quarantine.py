"""A member whose state has come apart from the others': found out, out of service, replaced."""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from bedplate.api.admin.v1 import admin_pb2
from bedplate.api.admin.v1.admin_pb2_grpc import AdminServiceStub
from bedplate.api.kv.v1 import kv_pb2 as kv
from bedplate.native.options import Options
from bedplate.native.raft import NativeRaft
from bedplate.native.store import Keyspace, Method, NativeStore
from tests.integration.cluster_calls import succeeds
from tests.integration.daemon import PATIENCE_S, eventually
from tests.integration.daemon_cluster import ClusterDaemon, DaemonCluster, bedplate
from tests.integration.refusals import refused

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaemonCluster]:
    with DaemonCluster(tmp_path) as made:
        yield made


def diverge(daemon: ClusterDaemon) -> None:
    """Give a stopped member an entry of its own under the index and term of the next one: what no
    fault should ever do, and Raft cannot see.
    """
    store = NativeStore.open(Options(dir=str(daemon.data / "store"), segment_size=8 << 20))
    queue = store.queue()
    try:
        raft = NativeRaft(store)
        raft.take()
        state = raft.look()
        term = state.last_term
        assert state.term == term
        raft.lead(True, term)
        put = kv.PutRequest(key=b"apart", value=b"mine").SerializeToString()
        store.submit_wire(queue, Method.PUT, Keyspace.USER, put, 1)
        last, _ = raft.gather(term, 1 << 20)
        assert last == state.last_index + 1
        raft.persist(1, term, state.vote, last)
        raft.commit(last)
        deadline = time.monotonic() + PATIENCE_S
        while raft.look().applied_index < last:
            assert time.monotonic() < deadline
        raft.lead(False, term)
    finally:
        queue.close()
        store.close()


def compact(daemon: ClusterDaemon) -> None:
    """What makes members compare their states."""
    AdminServiceStub(daemon.channel()).Compact(admin_pb2.CompactRequest())


def test_who_differs_is_quarantined_says_so_and_is_replaced(cluster: DaemonCluster) -> None:
    leader, apart = cluster.leader(), cluster.followers()[0]
    revision = leader.kv().Put(kv.PutRequest(key=b"k", value=b"v")).revision
    stale = kv.GetRequest(key=b"k", consistency=kv.CONSISTENCY_SERIALIZABLE)
    eventually(lambda: apart.kv().Get(stale).revision == revision)
    assert apart.stop() == 0
    diverge(apart)
    leader.kv().Put(kv.PutRequest(key=b"apart", value=b"ours"))
    compact(leader)
    apart.launch()
    apart.wait_for("quarantined")
    record = apart.wait_for("serving")
    apart.grpc, apart.http = record["grpc"], record["http"]

    eventually(lambda: apart.get("/readyz") == (503, "quarantined\n"))
    check = health_pb2.HealthCheckRequest(service="bedplate.kv.v1.KVService")
    assert apart.health().Check(check).status == health_pb2.HealthCheckResponse.NOT_SERVING
    said = refused(apart.kv().Get, stale)
    assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, "QUARANTINED")
    eventually(lambda: "quarantined" in bedplate("--server", leader.grpc, "cluster", "status")[1])
    assert leader.kv().Put(kv.PutRequest(key=b"on")).revision
    apart.kill()
    apart.launch()
    assert apart.wait() == 2
    assert "is quarantined" in apart.output
    replace(cluster, leader, apart)


def replace(cluster: DaemonCluster, leader: ClusterDaemon, apart: ClusterDaemon) -> None:
    """Remove, add, a new directory."""
    assert succeeds("--server", leader.grpc, "cluster", "remove", apart.address)
    apart.data.rename(apart.data.with_name("apart"))
    assert succeeds("--server", leader.grpc, "cluster", "add", apart.address)
    cluster.daemons.remove(apart)
    cluster.join(apart)
    eventually(lambda: succeeds("--server", apart.grpc, "cluster", "promote", apart.address))
    compact(leader)
    assert apart.kv().Get(kv.GetRequest(key=b"apart")).kv.value == b"ours"
    assert "quarantined" not in bedplate("--server", apart.grpc, "cluster", "status")[1]
    assert apart.get("/readyz") == (200, "ready\n")


def test_members_that_agree_stay_in_service(cluster: DaemonCluster) -> None:
    stub = cluster.followers()[0].kv()
    for i in range(5):
        stub.Put(kv.PutRequest(key=b"%d" % i))
        compact(cluster.leader())
    for daemon in cluster.daemons:
        eventually(lambda daemon=daemon: daemon.get("/readyz") == (200, "ready\n"))  # type: ignore[misc]
        assert daemon.metric("bedplate_raft_quarantined") == 0

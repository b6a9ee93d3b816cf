"""Clients of a cluster that know one member only: whichever it is, it serves everything."""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from bedplate.api.kv.v1 import kv_pb2 as kv
from bedplate.api.object.v1 import object_pb2
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from tests.integration.cluster_calls import MIB, download, retried, upload
from tests.integration.daemon import eventually
from tests.integration.daemon_cluster import DaemonCluster, started
from tests.integration.refusals import refused

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonCluster]:
    """For tests that leave every member alive."""
    with DaemonCluster(tmp_path_factory.mktemp("clients")) as cluster:
        yield cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaemonCluster]:
    with DaemonCluster(tmp_path) as made:
        yield made


def test_a_lease_lives_by_any_member_and_ends_at_every_one(shared: DaemonCluster) -> None:
    first, second = (daemon.kv() for daemon in shared.followers())
    lease = first.GrantLease(kv.GrantLeaseRequest(ttl_seconds=2)).lease_id
    second.Put(kv.PutRequest(key=b"leased/k", lease_id=lease))
    begun = time.monotonic()
    while time.monotonic() - begun < 3:  # longer than it lives by itself
        (alive,) = second.KeepAlive(iter([kv.KeepAliveRequest(lease_id=lease)]))
        assert alive.ttl_seconds == 2
    assert first.GetLease(kv.GetLeaseRequest(lease_id=lease)).key_count == 1
    watch = first.Watch(kv.WatchRequest(prefix=b"leased/"))
    assert next(watch).created
    (event,) = next(watch).events
    assert (event.type, event.kv.key) == (kv.EVENT_TYPE_DELETE, b"leased/k")
    watch.cancel()
    for daemon in shared.daemons:
        gone = refused(daemon.kv().GetLease, kv.GetLeaseRequest(lease_id=lease))
        assert gone.reason in ("LEASE_NOT_FOUND", "LEASE_EXPIRED")
        assert not daemon.kv().Scan(kv.ScanRequest(prefix=b"leased/")).kvs


def test_a_scan_at_a_revision_is_the_same_at_every_member(shared: DaemonCluster) -> None:
    writer = shared.followers()[0].kv()
    for i in range(20):
        revision = writer.Put(kv.PutRequest(key=b"at/%02d" % i, value=b"old")).revision
    writer.Delete(kv.DeleteRequest(key=b"at/", range_end=b"at0"))
    writer.Put(kv.PutRequest(key=b"at/00", value=b"new"))
    for daemon in shared.daemons:
        stub = daemon.kv()
        past = stub.Scan(kv.ScanRequest(prefix=b"at/", revision=revision))
        assert [(kv.key, kv.value) for kv in past.kvs] == [
            (b"at/%02d" % i, b"old") for i in range(20)
        ]
        assert [kv.value for kv in stub.Scan(kv.ScanRequest(prefix=b"at/")).kvs] == [b"new"]


def test_a_watch_from_a_revision_goes_on_at_another_member(shared: DaemonCluster) -> None:
    writer, other = (daemon.kv() for daemon in shared.followers())
    first = writer.Put(kv.PutRequest(key=b"resumed/0")).revision
    for i in range(1, 10):
        writer.Put(kv.PutRequest(key=b"resumed/%d" % i))
    watch = other.Watch(kv.WatchRequest(prefix=b"resumed/", start_revision=first))
    keys: list[bytes] = []
    while len(keys) < 10:
        keys += [event.kv.key for event in next(watch).events]
    watch.cancel()
    assert keys == [b"resumed/%d" % i for i in range(10)]


def test_a_stream_of_frames_keeps_its_order_through_a_follower(shared: DaemonCluster) -> None:
    first, second = (daemon.kv() for daemon in shared.followers())

    def frames() -> Iterator[kv.PipelineRequest]:
        for i in range(50):
            put = kv.PutRequest(key=b"framed/%02d" % (i % 10), value=b"%d" % i)
            get = kv.GetRequest(key=b"framed/%02d" % (i % 10))
            yield kv.PipelineRequest(
                ops=[kv.PipelineOp(id=2 * i, put=put), kv.PipelineOp(id=2 * i + 1, get=get)]
            )

    results = [result for frame in first.Pipeline(frames()) for result in frame.results]
    results.sort(key=lambda result: result.id)  # answers come as they are done
    assert [result.id for result in results] == list(range(100))
    assert [r.get.kv.value for r in results if r.id % 2] == [b"%d" % i for i in range(50)]
    assert [kv.value for kv in second.Scan(kv.ScanRequest(prefix=b"framed/")).kvs] == [
        b"%d" % i for i in range(40, 50)
    ]


def test_a_lost_race_is_lost_at_every_member(shared: DaemonCluster) -> None:
    """Compare-and-set of one counter through all members in turn."""
    stubs = [daemon.kv() for daemon in shared.daemons]
    stubs[0].Put(kv.PutRequest(key=b"counter", value=b"0"))
    for i in range(9):
        compare = kv.Compare(key=b"counter", value=b"%d" % i)
        put = kv.TxnOp(put=kv.PutOp(key=b"counter", value=b"%d" % (i + 1)))
        request = kv.TxnRequest(compares=[compare], then_ops=[put])
        assert stubs[i % 3].Txn(request).succeeded
        assert not stubs[(i + 1) % 3].Txn(request).succeeded
    assert stubs[0].Get(kv.GetRequest(key=b"counter")).kv.value == b"9"


def test_objects_go_in_and_out_through_any_member(shared: DaemonCluster) -> None:
    first, second = (ObjectServiceStub(daemon.channel()) for daemon in shared.followers())
    content = bytes(range(256)) * (4 * MIB // 256)
    first.CreateBucket(object_pb2.CreateBucketRequest(bucket="through"))
    info = upload(first, "through", "a/k", content)
    assert download(second, "through", "a/k") == content
    second.CopyObject(
        object_pb2.CopyObjectRequest(
            source_bucket="through", source_key="a/k", bucket="through", key="b/k"
        )
    )
    listed = first.ListObjects(object_pb2.ListObjectsRequest(bucket="through"))
    assert [(found.key, found.size) for found in listed.objects] == [
        ("a/k", info.size),
        ("b/k", info.size),
    ]
    first.DeleteObject(object_pb2.DeleteObjectRequest(bucket="through", key="a/k"))
    missing = object_pb2.HeadObjectRequest(bucket="through", key="a/k")
    assert refused(second.HeadObject, missing).code is grpc.StatusCode.NOT_FOUND
    leader = ObjectServiceStub(shared.leader().channel())
    assert download(leader, "through", "b/k") == content


def test_who_asks_too_early_is_told_when_to_come_back(cluster: DaemonCluster) -> None:
    """Two of three are gone: nobody leads, and every refusal says so."""
    last, *others = [*cluster.followers(), cluster.leader()]
    stub = last.kv()
    for other in others:
        other.kill()
    eventually(lambda: last.get("/readyz") == (503, "no leader\n"))
    for call, request in (
        (stub.Put, kv.PutRequest(key=b"k")),
        (stub.Get, kv.GetRequest(key=b"k")),
        (stub.GrantLease, kv.GrantLeaseRequest(ttl_seconds=60)),
    ):
        said = refused(call, request, timeout=20)
        assert said.code is grpc.StatusCode.UNAVAILABLE
        assert said.reason in ("NO_LEADER", "LEADER_LOST")
        assert said.retry_ms is not None
        assert 100 <= said.retry_ms <= 2000
    started(others[0].launch())
    retried(stub, kv.PutRequest(key=b"k"))


def test_a_member_says_what_it_is_good_for(cluster: DaemonCluster) -> None:
    """Readiness and health of a follower that lost its leader, and found one again."""
    follower, other = cluster.followers()
    eventually(lambda: follower.get("/readyz") == (200, "ready\n"))
    check = health_pb2.HealthCheckRequest(service="bedplate.kv.v1.KVService")
    leader = cluster.leader()
    leader.kill()
    other.kill()
    eventually(lambda: follower.get("/readyz") == (503, "no leader\n"))
    assert follower.health().Check(check).status == health_pb2.HealthCheckResponse.SERVING
    roles = {r: follower.metric("bedplate_raft_role", role=r) for r in ("leader", "learner")}
    assert roles == {"leader": 0, "learner": 0}
    started(other.launch())
    eventually(lambda: follower.get("/readyz") == (200, "ready\n"))

"""What is left when a cluster is lost: a backup, or one survivor's directory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from bedplate.api.cluster.v1 import cluster_pb2 as pb
from bedplate.api.kv.v1 import kv_pb2 as kv
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from bedplate.api.object.v1 import object_pb2
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from tests.integration.cluster_calls import MIB, added, download, retried, upload
from tests.integration.daemon import Daemon, eventually
from tests.integration.daemon_cluster import ClusterDaemon, DaemonCluster, bedplate, end, started

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaemonCluster]:
    with DaemonCluster(tmp_path) as made:
        yield made


@contextmanager
def writing(stub: KVServiceStub) -> Iterator[list[int]]:
    """Keys under load/ with ascending numbers, one after the other; how many were acknowledged."""
    acknowledged, done = [0], threading.Event()

    def work() -> None:
        while not done.is_set():
            stub.Put(kv.PutRequest(key=b"load/%08d" % acknowledged[0], value=b"v" * 100))
            acknowledged[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield acknowledged
    finally:
        done.set()
        thread.join()


def recover(daemon: Daemon, *more: str) -> tuple[int, str, str]:
    return bedplate("cluster", "recover", "--data-dir", str(daemon.data), *more)


def test_a_backup_taken_anywhere_under_load_grows_into_a_new_cluster(
    cluster: DaemonCluster, tmp_path: Path
) -> None:
    follower, other = cluster.followers()
    objects = ObjectServiceStub(follower.channel())
    content = bytes(range(256)) * (2 * MIB // 256)
    objects.CreateBucket(object_pb2.CreateBucketRequest(bucket="kept"))
    upload(objects, "kept", "k", content)
    file = tmp_path / "cluster.backup"
    with writing(other.kv()) as acknowledged:
        eventually(lambda: acknowledged[0] > 200)
        before = acknowledged[0]
        code, _, complained = bedplate("--server", follower.grpc, "cluster", "backup", str(file))
        assert code == 0, complained
    old = cluster.leader().view().cluster_id
    (tmp_path / "new").mkdir()
    with DaemonCluster(tmp_path / "new", 1, started=False) as new:
        first = new.daemons[0]
        code, _, complained = bedplate(
            "cluster", "restore", str(file), "--data-dir", str(first.data)
        )
        assert code == 0, complained
        started(first.launch())
        assert first.view().cluster_id != old
        keys = [kv.key for kv in first.kv().Scan(kv.ScanRequest(prefix=b"load/", limit=9999)).kvs]
        assert keys == [b"load/%08d" % i for i in range(len(keys))]  # one moment, no gap
        assert len(keys) >= before
        assert download(ObjectServiceStub(first.channel()), "kept", "k") == content
        for name in ("second", "third"):
            added(new, first, name)
        first.kill()
        new.leader()
        for daemon in new.running:
            assert daemon.kv().Scan(kv.ScanRequest(prefix=b"load/")).count == len(keys)
            assert download(ObjectServiceStub(daemon.channel()), "kept", "k") == content
        retried(new.running[0].kv(), kv.PutRequest(key=b"on"))


def test_a_survivor_becomes_a_cluster_of_its_own(cluster: DaemonCluster) -> None:
    survivor, *others = [*cluster.followers(), cluster.leader()]
    stub = survivor.kv()
    for i in range(100):
        written = stub.Put(kv.PutRequest(key=b"%02d" % i, value=b"v")).revision
    stub.Get(kv.GetRequest(key=b"99"))  # so this member has applied them all
    old = survivor.view()
    code, _, complained = recover(survivor, "--yes")
    assert (code, "in use" in complained) == (1, True)  # it runs
    for daemon in cluster.daemons:
        daemon.kill()
    code, _, complained = recover(survivor)
    assert code == 1
    assert "writes that only other members had are lost" in complained
    code, said, complained = recover(survivor, "--yes")
    assert code == 0, complained
    assert "recovered" in said
    assert "Wipe the other members' directories" in complained
    started(survivor.without_peers().launch())
    view = survivor.view()
    assert view.cluster_id != old.cluster_id
    assert [m.member_id for m in view.members] == [view.leader_id] == [old.member_id]
    stub = survivor.kv()
    assert stub.Scan(kv.ScanRequest()).count == 100
    assert stub.Put(kv.PutRequest(key=b"on")).revision > written + (1 << 32)
    refuse_the_old_members(survivor, *others)


def test_a_recovered_cluster_grows_again(cluster: DaemonCluster) -> None:
    survivor = cluster.followers()[0]
    retried(survivor.kv(), kv.PutRequest(key=b"k", value=b"v"))
    for daemon in cluster.daemons:
        daemon.kill()
    code, _, complained = recover(survivor, "--yes")
    assert code == 0, complained
    started(survivor.without_peers().launch())
    cluster.daemons = [survivor]
    for name in ("new", "newer"):
        added(cluster, survivor, name)
    survivor.kill()
    cluster.leader()
    for daemon in cluster.running:
        assert daemon.kv().Get(kv.GetRequest(key=b"k")).kv.value == b"v"


def test_a_rebuilt_directory_never_serves_in_a_members_place(cluster: DaemonCluster) -> None:
    lost, *others = [*cluster.followers(), cluster.leader()]
    retried(lost.kv(), kv.PutRequest(key=b"k", value=b"v"))
    lost.kill()
    damaged = lost.data.with_name("damaged")
    lost.data.rename(damaged)
    rebuild = ("--rebuild", str(lost.data))
    code, _, complained = bedplate("fsck", "--data-dir", str(damaged), *rebuild)
    assert (code, "`bedplate cluster remove` it" in complained) == (0, True), complained
    lost.launch()
    assert lost.wait() == 2
    assert "belongs to a cluster" in lost.output
    assert f"bedplate cluster remove {lost.address}" in lost.output
    for other in others:
        other.kill()
    lost.launch()  # they may be there and not be heard
    assert lost.wait() == 2
    assert "did not answer" in lost.output
    started(lost.without_peers().launch())
    assert len(lost.view().members) == 1


def test_a_member_whose_log_is_damaged_is_told_to_be_replaced(cluster: DaemonCluster) -> None:
    for daemon in cluster.running:
        retried(daemon.kv(), kv.PutRequest(key=b"k", value=b"in the middle"))
        retried(daemon.kv(), kv.PutRequest(key=b"l", value=b"after it"))
    lost = cluster.followers()[0]
    assert lost.stop() == 0
    log = max((lost.data / "store").glob("**/*.log"))
    content = log.read_bytes()
    at = content.index(b"in the middle")
    log.write_bytes(content[:at] + b"IN" + content[at + 2 :])
    lost.launch()
    assert lost.wait() == 2
    assert "`bedplate fsck`" in lost.output
    assert f"`bedplate cluster add {lost.address}`" in lost.output
    code, _, complained = bedplate("fsck", "--data-dir", str(lost.data))
    assert (code, "`bedplate cluster remove` it" in complained) == (1, True)


def refuse_the_old_members(
    survivor: ClusterDaemon, other: ClusterDaemon, wiped: ClusterDaemon
) -> None:
    """One comes back as it was, one without its directory: neither belongs."""
    other.launch()
    other.wait_for("serving")
    wiped.data.rename(wiped.data.with_name("old"))
    wiped.launch()
    try:
        assert wiped.wait() == 2
        assert "directory is gone" in wiped.output
        members = [m.member_id for m in survivor.view().members]
        assert len(members) == 1
        started(other)
        eventually(lambda: other.get("/readyz") == (503, "no leader\n"))
    finally:
        end(other)


def test_only_a_stopped_members_directory_is_recovered(tmp_path: Path) -> None:
    code, _, complained = bedplate("cluster", "recover", "--data-dir", str(tmp_path), "--yes")
    assert (code, "holds no store" in complained) == (1, True)
    (tmp_path / "store").mkdir()
    code, _, complained = bedplate("cluster", "recover", "--data-dir", str(tmp_path), "--yes")
    assert (code, "holds no store" in complained) == (1, True)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_quarantined_directory_is_not_recovered(cluster: DaemonCluster) -> None:
    daemon = cluster.followers()[0]
    assert daemon.stop() == 0
    (daemon.data / "quarantined").write_text("its state differs\n")
    code, _, complained = recover(daemon, "--yes")
    assert (code, "quarantined" in complained) == (1, True)
    daemon.launch()
    assert daemon.wait() == 2
    assert "quarantined" in daemon.output


def test_a_daemon_alone_that_is_recovered_is_another_cluster(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.kv().Put(kv.PutRequest(key=b"k", value=b"v"))
    assert recover(daemon, "--yes")[0] == 0
    with daemon.start():
        assert daemon.kv().Get(kv.GetRequest(key=b"k")).kv.value == b"v"


def test_a_request_without_a_majority_is_never_acknowledged(cluster: DaemonCluster) -> None:
    leader = cluster.leader()
    for follower in cluster.followers():
        follower.kill()
    with pytest.raises(grpc.RpcError):
        leader.kv().Put(kv.PutRequest(key=b"k"), timeout=20)
    stale = kv.GetRequest(key=b"k", consistency=kv.CONSISTENCY_SERIALIZABLE)
    assert not leader.kv().Get(stale).HasField("kv")
    assert leader.view().leader_id in (0, leader.view().member_id)
    assert pb.MEMBER_KIND_VOTER in [m.kind for m in leader.view().members]

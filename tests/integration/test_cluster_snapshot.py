"""Members that the log cannot help any more: snapshots between real daemons, and repair."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from bedplate.api.kv.v1 import kv_pb2 as kv
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from tests.integration.cluster_calls import added, retried, succeeds
from tests.integration.daemon import eventually
from tests.integration.daemon_cluster import (
    ClusterDaemon,
    DaemonCluster,
    bedplate,
    free_addresses,
    started,
)
from tests.integration.refusals import refusal

pytestmark = pytest.mark.timeout(240)

SMALL_LOG = ("raft.retain_bytes=64KiB", "raft.retain_bytes_max=1MiB")
SERIALIZABLE = kv.CONSISTENCY_SERIALIZABLE


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaemonCluster]:
    with DaemonCluster(tmp_path, 3, *SMALL_LOG) as made:
        yield made


def fill(daemon: ClusterDaemon, seed: int, count: int = 64, size: int = 64 << 10) -> None:
    """Values that nobody can guess, 4 MiB of them unless told otherwise."""
    bits, stub = random.Random(seed), daemon.kv()
    for i in range(count):
        retried(stub, kv.PutRequest(key=b"%d/%d" % (seed, i), value=bits.randbytes(size)))


def content(daemon: ClusterDaemon) -> list[tuple[bytes, bytes, int, int]]:
    """All it has applied, by itself."""
    found, token, stub = [], b"", daemon.kv()
    while True:
        page = stub.Scan(
            kv.ScanRequest(prefix=b"", limit=16, consistency=SERIALIZABLE, page_token=token)
        )
        found += [(i.key, i.value, i.mod_revision, i.create_revision) for i in page.kvs]
        token = page.next_page_token
        if not token:
            return found


def equal(one: ClusterDaemon, other: ClusterDaemon) -> bool:
    """Whether both hold the same; not while one takes a snapshot over."""
    try:
        return content(one) == content(other)
    except grpc.RpcError as error:
        if refusal(error).reason not in ("STORE_RECOVERING", "LEADER_LOST"):
            raise
        return False


def indexes(daemon: ClusterDaemon) -> float:
    return daemon.metric("bedplate_raft_commit_index")


def test_a_follower_behind_the_log_gets_a_snapshot(cluster: DaemonCluster) -> None:
    leader, (away, _) = cluster.leader(), cluster.followers()
    fill(leader, 1)
    away.kill()
    fill(leader, 2)
    leader.kv().Delete(kv.DeleteRequest(key=b"1/", range_end=b"1/4"))
    started(away.launch())
    record = away.wait_for("snapshot_installed")
    assert record["bytes"] > 0
    fill(away, 3, count=4)
    eventually(lambda: indexes(away) == indexes(cluster.leader()))
    eventually(lambda: equal(away, cluster.leader()))
    assert away.metric("bedplate_raft_snapshots_installed_total") == 1
    assert leader.metric("bedplate_raft_snapshots_sent_total") == 1


def test_a_learner_begins_with_a_snapshot_and_is_promoted(cluster: DaemonCluster) -> None:
    leader = cluster.leader()
    fill(leader, 1)
    learner = added(cluster, leader, "n3")
    assert learner.wait_for("snapshot_installed")["bytes"] >= 64 * (64 << 10)
    retried(learner.kv(), kv.PutRequest(key=b"by the learner", value=b"v"))
    eventually(lambda: equal(learner, cluster.leader()))


def learner(cluster: DaemonCluster, *settings: str) -> ClusterDaemon:
    """A member that was added, and is not started."""
    by, (address,) = cluster.leader(), free_addresses(1)
    code, _, complained = bedplate("--server", by.grpc, "cluster", "add", f"n3={address}")
    assert code == 0, complained
    return cluster.make("n3", address, f"cluster.join={by.address}", *settings)


def without_faults(daemon: ClusterDaemon) -> ClusterDaemon:
    """Its directory, started as nobody had meddled with it."""
    return ClusterDaemon(daemon.data.parent, daemon.address, *SMALL_LOG)


def test_under_load_a_member_that_slept_catches_up_and_its_watches_end_aloud(
    cluster: DaemonCluster,
) -> None:
    leader, (away, _) = cluster.leader(), cluster.followers()
    fill(leader, 1)
    eventually(lambda: equal(away, leader))
    watch = away.kv().Watch(kv.WatchRequest(prefix=b"2/"))
    assert next(watch).created
    away.signal(signal.SIGSTOP)
    fill(leader, 2)
    stop = threading.Event()
    writers = [threading.Thread(target=write_until, args=(leader, n, stop)) for n in (3, 4)]
    for writer in writers:
        writer.start()
    try:
        eventually(lambda: leader.metric("bedplate_raft_peer_up") == 1)
        most = indexes(leader)  # of what may wait for it somewhere on its way
        fill(leader, 5)
        eventually(lambda: leader.metric("bedplate_raft_first_index") > most + 1)
        away.signal(signal.SIGCONT)
        away.wait_for("snapshot_installed")
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    responses: list[kv.WatchResponse] = []
    with pytest.raises(grpc.RpcError) as ended:
        responses.extend(watch)
    told = refusal(ended.value)
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_RECOVERING")
    assert told.retry_ms
    canceled = responses[-1].canceled
    assert (canceled.reason, canceled.message) == (told.reason, told.message)
    assert canceled.resume_revision > 0
    eventually(lambda: equal(away, cluster.leader()))
    key = kv.GetRequest(key=b"5/0")
    assert away.kv().Get(key).kv == leader.kv().Get(key).kv


def write_until(daemon: ClusterDaemon, seed: int, stop: threading.Event) -> None:
    stub, count = daemon.kv(), 0
    while not stop.is_set():
        retried(stub, kv.PutRequest(key=b"%d/%d" % (seed, count % 100), value=b"%d" % count))
        count += 1


@pytest.mark.parametrize(
    "fault",
    ["settled.write=crash@10", "checkpoint.rename=crash@1", "checkpoint.rename=crash_after@1"],
)
def test_a_receiver_that_dies_in_the_middle_begins_again(
    cluster: DaemonCluster, fault: str
) -> None:
    leader = cluster.leader()
    fill(leader, 1, count=256)
    dies = learner(cluster, f"failpoints.{fault}")
    dies.launch().wait()
    assert "snapshot_installed" not in dies.output
    again = cluster.join(without_faults(dies))
    eventually(lambda: equal(again, leader))
    retried(again.kv(), kv.PutRequest(key=b"after", value=b"v"))


def test_when_the_sender_dies_the_next_one_sends_only_the_rest(cluster: DaemonCluster) -> None:
    leader = cluster.leader()
    fill(leader, 1, count=1024)
    new = learner(cluster)
    cluster.join(new)
    eventually(lambda: new.metric("bedplate_raft_snapshot_bytes_received_total") > 6 << 20)
    leader.kill()
    assert "snapshot_installed" not in new.output
    record = new.wait_for("snapshot_installed")
    assert record["bytes"] < 1024 * (64 << 10) - (5 << 20)
    started(leader.launch())
    eventually(lambda: equal(new, cluster.leader()))


@pytest.mark.parametrize("who", ["receiver", "sender"])
def test_a_daemon_that_is_stopped_in_the_middle_stops_as_ever(
    cluster: DaemonCluster, who: str
) -> None:
    leader = cluster.leader()
    fill(leader, 1, count=1024)
    new = learner(cluster)
    cluster.join(new)
    eventually(lambda: new.metric("bedplate_raft_snapshot_bytes_received_total") > 6 << 20)
    stopped = new if who == "receiver" else leader
    assert stopped.stop() == 0
    assert "snapshot_installed" not in stopped.output
    stopped.close_channels()
    started(stopped.launch())
    new.wait_for("snapshot_installed")
    eventually(lambda: equal(new, cluster.leader()))


def test_a_receiver_without_room_keeps_nothing_and_completes_later(cluster: DaemonCluster) -> None:
    fill(cluster.leader(), 1, count=256)
    new = cluster.join(learner(cluster, "failpoints.settled.write=enospc@10x1"))
    assert new.wait_for("snapshot_not_installed")["reason"] == "DISK_FULL"
    record = new.wait_for("snapshot_installed")
    assert record["held_bytes"] == 0
    eventually(lambda: equal(new, cluster.leader()))


def test_a_damaged_value_is_fetched_from_another_member(cluster: DaemonCluster) -> None:
    fill(cluster.leader(), 1, count=4)
    for follower in cluster.followers():
        value = follower.kv().Get(kv.GetRequest(key=b"1/2")).kv.value
        damage(follower, value)
        request = kv.GetRequest(key=b"1/2", consistency=SERIALIZABLE)
        with pytest.raises(grpc.RpcError) as failed:
            follower.kv().Get(request)
        assert refusal(failed.value).reason == "VALUE_DAMAGED"
        assert follower.wait_for("values_repaired")["count"] == 1
        assert follower.kv().Get(request).kv.value == value
        assert follower.metric("bedplate_raft_values_repaired_total") == 1


def damage(daemon: ClusterDaemon, value: bytes) -> None:
    """Flip a bit of it on the disk of a member that runs."""
    for path in (daemon.data / "store").iterdir():
        at = path.read_bytes().find(value)
        if at >= 0:
            with path.open("r+b") as file:
                os.pwrite(file.fileno(), bytes([value[100] ^ 1]), at + 100)
            return
    raise AssertionError("the value is in no file")


class Writers:
    """Threads that write without a pause, over and over the same keys, and forgive nothing."""

    def __init__(self, daemons: Sequence[ClusterDaemon], size: int) -> None:
        self.answered = 0
        self.longest_s = 0.0
        self._size = size
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(len(daemons))
        self._writing = [
            self._pool.submit(self._write, daemon.kv(), name) for name, daemon in enumerate(daemons)
        ]

    def _write(self, stub: KVServiceStub, name: int) -> None:
        value = random.Random(name).randbytes(self._size)
        while not self._stop.is_set():
            begun = time.monotonic()
            stub.Put(kv.PutRequest(key=b"writer/%d" % name, value=value), timeout=30)
            self.longest_s = max(self.longest_s, time.monotonic() - begun)
            self.answered += 1

    def end(self) -> None:
        """Raises whatever one of them was told."""
        self._stop.set()
        self._pool.shutdown()
        for writing in self._writing:
            writing.result()


def test_writers_faster_than_a_snapshot_are_slowed_until_its_member_is_in(
    tmp_path: Path,
) -> None:
    limit = 2 << 20
    kept = ("raft.retain_bytes=64KiB", f"raft.retain_bytes_max={limit}")
    with DaemonCluster(tmp_path, 3, *kept) as cluster:
        leader = cluster.leader()
        fill(leader, 1, count=96)
        new = learner(cluster, "failpoints.settled.write=slow@1x0:500")
        writers = Writers([leader, *cluster.followers(), leader], size=16 << 10)
        try:
            cluster.join(new)
            most = 0.0  # in the log, while somebody catches up

            def promoted() -> bool:
                nonlocal most
                log_bytes = leader.metric("bedplate_raft_log_bytes")
                said = leader.output
                if "snapshot_begins" in said and "writes_not_slowed" not in said:
                    most = max(most, log_bytes)
                return succeeds("--server", leader.grpc, "cluster", "promote", "n3")

            eventually(promoted)
            leader.wait_for("writes_slowed")
            leader.wait_for("writes_not_slowed")
            answered = writers.answered
            eventually(lambda: writers.answered > answered + 1000)
        finally:
            writers.end()
        assert most < limit
        assert leader.metric("bedplate_raft_snapshots_sent_total") == 1
        assert leader.metric("bedplate_raft_slowed_seconds_total") > 1
        assert leader.metric("bedplate_raft_slowing") == 0
        assert writers.longest_s < 10
        eventually(lambda: equal(new, leader))

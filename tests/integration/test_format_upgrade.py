"""Directories that older versions wrote: opened as they are, and left to no older program again.

fixtures/format-1.tar.xz was written by the last version whose format was 1 (native/src/limits.h): a
checkpoint, a log behind it whose daemon was killed, old revisions, a lease and two objects.
"""

import tarfile
from pathlib import Path

import pytest

from bedplate.api.kv.v1 import kv_pb2 as kv
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from tests.integration.cluster_calls import added, download
from tests.integration.daemon import Daemon
from tests.integration.daemon_cluster import DaemonCluster, started

FIXTURES = Path(__file__).parent / "fixtures"
SMALL = ("log.segment_size=8MiB", "clean.disk_reserve=1MiB")


def unpack(data: Path) -> None:
    """The old directory under this name."""
    with tarfile.open(FIXTURES / "format-1.tar.xz") as archive:
        archive.extractall(data.parent, filter="data")
    (data.parent / "format-1").rename(data)


def format_of(path: Path) -> int:
    """Of STORE, a segment or a checkpoint."""
    at = 24 if path.suffix == ".ckpt" else 8  # behind the header of its first block
    with open(path, "rb") as file:
        return int.from_bytes(file.read(64)[at : at + 4], "little")


def check_content(daemon: Daemon) -> None:
    stub = daemon.kv()
    found = stub.Scan(kv.ScanRequest(prefix=b"k/")).kvs
    assert [(pair.key, pair.value) for pair in found] == [
        (b"k/%02d" % i, b"old %d" % i) for i in range(20)
    ]
    assert stub.Get(kv.GetRequest(key=b"later")).kv.value == b"v"
    assert stub.Get(kv.GetRequest(key=b"replaced")).kv.value == b"second"
    leased = stub.Get(kv.GetRequest(key=b"leased")).kv
    assert stub.GetLease(kv.GetLeaseRequest(lease_id=leased.lease_id)).key_count == 1
    objects = ObjectServiceStub(daemon.channel())
    assert download(objects, "bucket", "o") == bytes(range(256)) * 100
    assert download(objects, "bucket", "zeros") == bytes(3 << 20)


def test_a_directory_of_the_format_before_opens_with_all_it_holds(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, *SMALL)
    unpack(daemon.data)
    store = daemon.data / "store"
    old = {path.name: format_of(path) for path in store.iterdir() if path.name != "reserve"}
    assert set(old.values()) == {1}
    with daemon:
        check_content(daemon)
        stub = daemon.kv()
        before = stub.Get(kv.GetRequest(key=b"replaced")).kv
        first = kv.GetRequest(key=b"replaced", revision=before.mod_revision - 1)
        assert stub.Get(first).kv.value == b"first"
        assert stub.Put(kv.PutRequest(key=b"new")).revision > before.mod_revision
    with daemon.start():
        check_content(daemon)
    newest = max(store.glob("*.log"))
    assert format_of(newest) == 2  # which an older program refuses


@pytest.mark.timeout(180)
def test_a_directory_of_the_format_before_grows_into_a_cluster(tmp_path: Path) -> None:
    with DaemonCluster(tmp_path, 1, started=False) as cluster:
        first = cluster.daemons[0]
        unpack(first.data)
        started(first.launch())
        check_content(added(cluster, first, "second"))

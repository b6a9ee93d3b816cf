"""A member on a directory that is not the one it left: older, another's, elsewhere, or gone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from bedplate.api.kv.v1 import kv_pb2 as kv
from tests.integration.cluster_calls import retried
from tests.integration.daemon import Daemon, eventually
from tests.integration.daemon_cluster import ClusterDaemon, DaemonCluster, free_addresses, started
from tests.integration.refusals import refused

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaemonCluster]:
    """Every member has written its record, which is a revision each."""
    with DaemonCluster(tmp_path) as made:
        leader = made.leader().kv()
        eventually(lambda: leader.Get(kv.GetRequest(key=b"k")).revision >= len(made.daemons))
        yield made


def put(daemon: Daemon, count: int) -> int:
    """The revision of the last one."""
    stub = daemon.kv()
    return max(stub.Put(kv.PutRequest(key=b"%d" % i, value=b"v")).revision for i in range(count))


def moved(daemon: ClusterDaemon, address: str, *settings: str) -> ClusterDaemon:
    """It is started there from now on."""
    peers = "cluster.peers=" + ",".join((address, *free_addresses(1)))
    daemon._command += ["--grpc", address]
    daemon._command += [part for one in (peers, *settings) for part in ("--set", one)]
    return daemon


def ended(daemon: ClusterDaemon) -> str:
    """It refuses to go on; the line that says why."""
    assert daemon.wait() == 2, daemon.output
    assert "Traceback" not in daemon.output
    *_, line = daemon.output.splitlines()
    assert line.startswith("bedplated: ")
    return line


def test_an_older_copy_of_a_members_directory_is_refused_in_one_line(
    cluster: DaemonCluster,
) -> None:
    leader, stale = cluster.leader(), cluster.followers()[0]
    put(leader, 6)
    stale.kill()
    older = stale.data.with_name("older")
    shutil.copytree(stale.data, older)
    started(stale.launch())
    revision = put(leader, 6)
    has_it = kv.GetRequest(key=b"5", consistency=kv.CONSISTENCY_SERIALIZABLE)
    eventually(lambda: stale.kv().Get(has_it).kv.mod_revision == revision)
    stale.kill()
    shutil.rmtree(stale.data)
    older.rename(stale.data)
    stale.launch()
    stale.wait_for("member_stops", reason="DIRECTORY_STALE")
    line = ended(stale)
    assert "is older than what this member has acknowledged" in line
    assert f"cluster remove {stale.address}" in line
    stale.launch()  # it stays so, whoever leads
    assert "is quarantined: it is older than what it acknowledged" in ended(stale)


def test_the_directory_of_another_member_is_refused(cluster: DaemonCluster) -> None:
    original, place = cluster.followers()
    put(original, 2)  # the second brings the commit of all before it to its disk
    place.kill()
    original.kill()
    shutil.rmtree(place.data)
    shutil.copytree(original.data, place.data)
    started(original.launch())
    place.launch()
    line = ended(place)
    assert f"{place.address} is recorded for another one" in line
    assert original.address in line
    retried(original.kv(), kv.PutRequest(key=b"on"))


def test_a_member_that_nobody_can_call_says_where_it_is_recorded(cluster: DaemonCluster) -> None:
    lost = cluster.followers()[0]
    recorded = lost.address
    put(lost, 2)  # the second brings the commit of all before it to its disk
    lost.kill()
    (address,) = free_addresses(1)
    started(moved(lost, address).launch())
    record = lost.wait_for("address_differs", level="error")
    assert (record["own"], record["recorded"]) == (address, recorded)


def test_a_members_record_follows_while_the_old_address_leads_to_it(
    cluster: DaemonCluster,
) -> None:
    other, renamed = cluster.leader(), cluster.followers()[0]
    put(renamed, 2)
    renamed.kill()
    name = renamed.address.replace("127.0.0.1", "localhost")
    peers = f"cluster.peers={name},{other.address}"
    renamed._command += ["--set", f"cluster.advertise={name}", "--set", peers]
    started(renamed.launch())
    eventually(lambda: name in {member.address for member in other.view().members})
    assert "address_differs" not in renamed.output


def test_a_founder_without_its_directory_is_told_so_while_nobody_leads(tmp_path: Path) -> None:
    with DaemonCluster(tmp_path, 2) as cluster:
        left, wiped = cluster.daemons
        retried(left.kv(), kv.PutRequest(key=b"k", value=b"v"))
        wiped.kill()
        shutil.rmtree(wiped.data)
        wiped.launch()
        record = wiped.wait_for("waiting_to_join", level="warning")
        assert "founded the cluster is gone" in record["why"]
        assert "cluster recover" in record["advice"]


def test_who_waits_for_its_peers_says_for_whom(tmp_path: Path) -> None:
    with DaemonCluster(tmp_path, 2, started=False) as cluster:
        waiting, missing = cluster.daemons
        (waiting.http,) = free_addresses(1)
        waiting._command += ["--http", waiting.http]
        waiting.launch()
        waiting.wait_for("waiting_for_peers", missing=missing.address)
        waiting.grpc = waiting.address
        assert waiting.get("/readyz") == (503, f"waiting for {missing.address}\n")
        said = refused(waiting.kv().Get, kv.GetRequest(key=b"k"))
        assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_RECOVERING")
        assert said.message == f"waiting for {missing.address}; try again soon"
        missing.launch()
        started(waiting)
        started(missing)
        eventually(lambda: waiting.get("/readyz") == (200, "ready\n"))

"""Members that come and go: who is let in, who is promoted, what is refused, and how one leaves."""

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from bedplate.api.admin.v1 import admin_pb2
from bedplate.api.admin.v1.admin_pb2_grpc import AdminServiceStub
from bedplate.api.cluster.v1 import cluster_pb2 as pb
from bedplate.api.cluster.v1 import peer_pb2
from bedplate.api.cluster.v1.peer_pb2_grpc import PeerServiceStub
from bedplate.api.kv.v1 import kv_pb2 as kv
from tests.integration.cluster_calls import added, retried
from tests.integration.daemon import Daemon, eventually
from tests.integration.daemon_cluster import ClusterDaemon, DaemonCluster, bedplate, free_addresses
from tests.integration.refusals import refused

pytestmark = pytest.mark.timeout(180)
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaemonCluster]:
    with DaemonCluster(tmp_path) as made:
        yield made


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[DaemonCluster]:
    """One daemon that may grow."""
    (tmp_path / "alone").mkdir()
    with DaemonCluster(tmp_path / "alone", 1) as made:
        yield made


def test_a_member_is_added_promoted_and_removed(cluster: DaemonCluster) -> None:
    leader, follower = cluster.leader(), cluster.followers()[0]
    leader.kv().Put(kv.PutRequest(key=b"k", value=b"v"))
    fourth = added(cluster, follower, "fourth")
    assert fourth.kv().Get(kv.GetRequest(key=b"k")).kv.value == b"v"
    assert [m.kind for m in leader.view().members] == [pb.MEMBER_KIND_VOTER] * 4
    code, said, _ = bedplate("--server", follower.grpc, "cluster", "remove", "fourth")
    assert (code, "removed" in said) == (0, True)
    assert fourth.wait() == 2
    fourth.wait_for("member_stops", reason="REMOVED")
    assert "the cluster has removed this member" in fourth.output  # told so, once, not left out
    assert len(leader.view().members) == 3
    fourth.launch()  # its directory still says who it was
    assert fourth.wait() == 2


def test_a_leader_that_is_removed_stops_and_the_others_go_on(cluster: DaemonCluster) -> None:
    leader, follower = cluster.leader(), cluster.followers()[0]
    code, _, complained = bedplate("--server", follower.grpc, "cluster", "remove", leader.address)
    assert code == 0, complained
    assert leader.wait() == 2
    leader.wait_for("member_stops", reason="REMOVED")
    retried(follower.kv(), kv.PutRequest(key=b"k"))
    assert len(follower.view().members) == 2


def test_a_removal_that_leaves_too_few_that_work_is_refused(cluster: DaemonCluster) -> None:
    """The dead one can be removed, and then all goes on."""
    leader, (dead, live) = cluster.leader(), cluster.followers()
    names = {daemon: daemon.member_id for daemon in (leader, dead, live)}
    dead.kill()
    stub = leader.cluster()

    def remove(daemon: ClusterDaemon) -> str:
        try:
            stub.RemoveMember(pb.RemoveMemberRequest(member_id=names[daemon]), timeout=20)
        except grpc.RpcError as error:
            return str(error)
        return ""

    eventually(lambda: leader.metric("bedplate_raft_peer_up", peer=f"{names[dead]:016x}") == 0)
    for daemon in (live, leader):
        assert "nothing is heard of" in remove(daemon)
    assert remove(dead) == ""
    retried(live.kv(), kv.PutRequest(key=b"k"))
    assert len(leader.view().members) == 2


def test_a_daemon_alone_grows_into_a_cluster_with_all_it_has(alone: DaemonCluster) -> None:
    first = alone.daemons[0]
    admin = AdminServiceStub(first.channel())
    assert admin.GetStatus(admin_pb2.GetStatusRequest()).role == admin_pb2.MEMBER_ROLE_LEADER
    stub = first.kv()
    for i in range(500):
        revision = stub.Put(kv.PutRequest(key=b"k/%03d" % i, value=b"alone" * 100)).revision
    lease = stub.GrantLease(kv.GrantLeaseRequest(ttl_seconds=600)).lease_id
    before = stub.Scan(kv.ScanRequest(prefix=b"k/", revision=revision))
    for name in ("second", "third"):
        added(alone, first, name)
    first.kill()
    alone.leader()
    one, other = (daemon.kv() for daemon in alone.running)
    retried(other, kv.PutRequest(key=b"l", value=b"three", lease_id=lease))
    assert one.Scan(kv.ScanRequest(prefix=b"k/", revision=revision)).kvs == before.kvs
    assert one.GetLease(kv.GetLeaseRequest(lease_id=lease)).key_count == 1


def test_nobody_is_given_the_name_of_the_one_that_was_alone(tmp_path: Path) -> None:
    """It has no record before it is one of several."""
    with DaemonCluster(tmp_path, 1, "cluster.member_name=first") as alone:
        (first,), (address,) = alone.daemons, free_addresses(1)
        wish = pb.AddMemberRequest(address=address, name="first")
        said = refused(first.cluster().AddMember, wish, timeout=20)
        assert (said.code, said.reason) == (FAILED_PRECONDITION, "CHANGE_REFUSED")
        assert "the name first is taken" in said.message
        wish.name = "second"
        added_one = first.cluster().AddMember(wish, timeout=20).member
        assert added_one.name == "second"
        assert {member.name for member in first.view().members} == {"first", "second"}


def test_a_learner_that_is_not_there_is_not_promoted(alone: DaemonCluster) -> None:
    first = alone.daemons[0]
    first.kv().Put(kv.PutRequest(key=b"k"))
    (address,) = free_addresses(1)
    learner = first.cluster().AddMember(pb.AddMemberRequest(address=address)).member
    assert learner.kind == pb.MEMBER_KIND_LEARNER
    again = first.cluster().AddMember(pb.AddMemberRequest(address=address)).member
    assert again.member_id == learner.member_id
    request = pb.PromoteMemberRequest(member_id=learner.member_id)
    said = refused(first.cluster().PromoteMember, request)
    assert (said.code, said.reason) == (FAILED_PRECONDITION, "CHANGE_REFUSED")
    assert first.kv().Put(kv.PutRequest(key=b"k")).revision  # it counts for nothing
    stranger = pb.PromoteMemberRequest(member_id=learner.member_id + 1)
    assert refused(first.cluster().PromoteMember, stranger).reason == "MEMBER_NOT_FOUND"


def test_a_learner_that_has_nothing_yet_is_not_ready(cluster: DaemonCluster) -> None:
    """It says that it waits before it says that it is ready."""
    leader = cluster.leader()
    (address,) = free_addresses(1)
    leader.cluster().AddMember(pb.AddMemberRequest(address=address, name="late"))
    late = cluster.make("late", address, f"cluster.join={leader.address}")
    cluster.join(late)
    late.wait_for("ready")
    eventually(lambda: late.get("/readyz")[0] == 200)
    events = [record["event"] for record in late.records]
    first = next(e for e in events if e in ("ready", "catching_up", "no_leader"))
    assert first != "ready"
    check = health_pb2.HealthCheckRequest(service="bedplate.kv.v1.KVService")
    assert late.health().Check(check).status == health_pb2.HealthCheckResponse.SERVING
    assert late.metric("bedplate_raft_role", role="learner") == 1


def test_the_last_voter_cannot_be_removed(alone: DaemonCluster) -> None:
    first = alone.daemons[0]
    (address,) = free_addresses(1)
    learner = first.cluster().AddMember(pb.AddMemberRequest(address=address)).member
    own = pb.RemoveMemberRequest(member_id=first.member_id)
    said = refused(first.cluster().RemoveMember, own)
    assert (said.code, said.reason) == (FAILED_PRECONDITION, "CHANGE_REFUSED")
    first.cluster().RemoveMember(pb.RemoveMemberRequest(member_id=learner.member_id))
    assert [m.member_id for m in first.view().members] == [first.member_id]
    first.kv().Put(kv.PutRequest(key=b"k"))


def test_leadership_goes_to_voters_only(cluster: DaemonCluster) -> None:
    leader = cluster.leader()
    learner = added(cluster, leader, "learner", promoted=False)
    eventually(lambda: learner.get("/readyz")[0] == 200)
    request = pb.TransferLeadershipRequest(member_id=learner.member_id)
    said = refused(cluster.followers()[0].cluster().TransferLeadership, request)
    assert (said.code, said.reason) == (FAILED_PRECONDITION, "CHANGE_REFUSED")
    stranger = pb.TransferLeadershipRequest(member_id=7)
    assert refused(leader.cluster().TransferLeadership, stranger).reason == "MEMBER_NOT_FOUND"


def test_what_is_there_is_not_added_again(cluster: DaemonCluster) -> None:
    leader, follower = cluster.leader(), cluster.followers()[0]
    (address,) = free_addresses(1)
    add = ("--server", follower.grpc, "cluster", "add")
    code, said, _ = bedplate(*add, f"late={address}")
    assert (code, "cluster.token_file" in said) == (0, True)
    assert bedplate(*add, address)[0] == 0  # a learner: nothing changes
    (another,) = free_addresses(1)
    for member, why in (
        (leader.address, "member already"),
        (follower.address, "member already"),
        (f"other={address}", "member already"),
        (f"late={another}", "is taken"),
    ):
        code, _, complained = bedplate(*add, member)
        assert (code, why in complained) == (1, True), complained


def test_ids_as_json_shows_them_can_be_given_back(alone: DaemonCluster) -> None:
    first = alone.daemons[0]
    (address,) = free_addresses(1)
    tool = ("--server", first.grpc, "--json", "cluster")
    code, said, complained = bedplate(*tool, "add", address)
    assert code == 0, complained
    added_id = json.loads(said)["member_id"]
    status = json.loads(bedplate(*tool, "status")[1])
    assert status["leader_id"] == status["member_id"] == f"{first.member_id:016x}"
    assert added_id in [member["member_id"] for member in status["members"]]
    code, said, complained = bedplate(*tool, "remove", added_id)
    assert code == 0, complained
    assert json.loads(said)["member_id"] == added_id


def test_a_relayed_call_names_the_field_that_is_wrong(cluster: DaemonCluster) -> None:
    for daemon in (cluster.leader(), cluster.followers()[0]):
        said = refused(daemon.cluster().AddMember, pb.AddMemberRequest(address="nowhere"))
        assert (said.reason, said.field) == ("FIELD_INVALID", "address")


def test_an_address_that_makes_no_sense_is_refused(alone: DaemonCluster) -> None:
    stub = alone.daemons[0].cluster()
    for address in ("", "nowhere", "host:0", "h" * 256 + ":1"):
        said = refused(stub.AddMember, pb.AddMemberRequest(address=address))
        assert (said.reason, said.field) == ("FIELD_INVALID", "address")
    request = pb.AddMemberRequest(address="127.0.0.1:1", name="n" * 65)
    assert refused(stub.AddMember, request).field == "name"


def test_members_are_let_in_only_where_writes_are_synced(tmp_path: Path) -> None:
    with Daemon(tmp_path, "log.durability=interval:10") as daemon:
        code, _, complained = bedplate("--server", daemon.grpc, "cluster", "add", "127.0.0.1:1")
        assert code == 1
        assert "durability" in complained


def test_members_are_let_in_beyond_this_machine_only_with_certificates(tmp_path: Path) -> None:
    with Daemon(tmp_path, "auth.allow_anonymous=true", arguments=("--grpc", "0.0.0.0:0")) as daemon:
        port = daemon.grpc.rpartition(":")[2]
        code, _, complained = bedplate(
            "--server", f"127.0.0.1:{port}", "cluster", "add", "127.0.0.1:1"
        )
        assert code == 1
        assert "cluster.ca" in complained


def test_a_peer_of_another_cluster_is_refused(cluster: DaemonCluster) -> None:
    target = cluster.leader()
    view = target.view()

    def hello(cluster_id: bytes) -> peer_pb2.Hello:
        source = next(m.member_id for m in view.members if m.member_id != view.member_id)
        return peer_pb2.Hello(cluster_id=cluster_id, source=source, target=view.member_id)

    stub = PeerServiceStub(target.channel())
    message = peer_pb2.ControlRequest(hello=hello(bytes(16)))
    said = refused(lambda: list(stub.Control(iter([message]), timeout=20)))
    assert (said.code, said.reason) == (FAILED_PRECONDITION, "CLUSTER_MISMATCH")


def test_a_wiped_member_is_replaced_and_never_votes_again(cluster: DaemonCluster) -> None:
    """The way out of a damaged disk: its directory is gone, remove, add, a new directory."""
    leader, lost = cluster.leader(), cluster.followers()[0]
    leader.kv().Put(kv.PutRequest(key=b"k", value=b"v"))
    old_id = lost.member_id
    lost.kill()
    lost.data.rename(lost.data.with_name("damaged"))
    lost.launch()  # with the same peers in its configuration
    assert lost.wait() == 2
    assert "directory is gone" in lost.output
    code, _, complained = bedplate("--server", leader.grpc, "cluster", "remove", lost.address)
    assert code == 0, complained
    assert bedplate("--server", leader.grpc, "cluster", "add", lost.address)[0] == 0
    cluster.daemons.remove(lost)
    again: ClusterDaemon = cluster.join(lost)
    assert again.member_id != old_id
    eventually(
        lambda: bedplate("--server", again.grpc, "cluster", "promote", again.address)[0] == 0
    )
    assert again.kv().Get(kv.GetRequest(key=b"k")).kv.value == b"v"
    assert [m.kind for m in leader.view().members] == [pb.MEMBER_KIND_VOTER] * 3

"""Three members in one process over real gRPC: elections, replication, forwarding, refusals."""

import asyncio
import time
from pathlib import Path

import grpc.aio
import pytest

from bedplate.api.cluster.v1 import cluster_pb2, peer_pb2
from bedplate.api.cluster.v1.peer_pb2_grpc import PeerServiceStub
from bedplate.consensus.peer_channel import Credentials, refusal
from bedplate.errors import BedplateError, StartupError
from bedplate.server.config import TLSConfig
from bedplate.server.tls import member_credentials, server_credentials
from tests.free_ports import free_ports
from tests.integration.memory_cluster import MemoryCluster, MemoryNode, eventually
from tests.integration.test_auth_tls import certificate


@pytest.fixture
async def cluster(tmp_path: Path):  # type: ignore[no-untyped-def]
    async with MemoryCluster(tmp_path) as made:
        yield made


async def test_three_members_elect_a_leader_and_read_anywhere(cluster: MemoryCluster) -> None:
    nodes = await cluster.found(3)
    for i, node in enumerate(nodes):
        await node.put(b"k%d" % i, b"v%d" % i)
    for node in nodes:
        assert [await node.get(b"k%d" % i) for i in range(3)] == [b"v0", b"v1", b"v2"]


async def test_many_writes_through_a_follower_are_few_entries(cluster: MemoryCluster) -> None:
    nodes = await cluster.found(3)
    leader = await cluster.leader(nodes)
    follower = next(node for node in nodes if node is not leader)
    before = len(leader.store.entries)
    await asyncio.gather(*(follower.put(b"%d" % i, b"v") for i in range(1000)))
    assert len(leader.store.entries) - before < 200
    assert await leader.get(b"999") == b"v"


async def test_a_dead_leader_is_replaced_long_before_an_election_timeout(
    cluster: MemoryCluster,
) -> None:
    nodes = await cluster.found(3, heartbeat_ms=100, election_ms=3000)
    leader = await cluster.leader(nodes)
    rest = [node for node in nodes if node is not leader]
    await rest[0].put(b"k", b"1")
    begun = time.monotonic()
    await leader.stop()
    await eventually(lambda: leader.store.member not in {n.member.raft.leader for n in rest})
    await cluster.leader(rest)
    await rest[0].put(b"k", b"2")
    assert time.monotonic() - begun < 1.5
    assert await rest[1].get(b"k") == b"2"


async def test_a_member_without_a_majority_says_that_there_is_no_leader(
    cluster: MemoryCluster,
) -> None:
    nodes = await cluster.found(3, leader_wait_ms=100)
    await asyncio.gather(*(node.stop() for node in nodes[1:]))
    await eventually(lambda: not nodes[0].cluster.has_leader)
    with pytest.raises(BedplateError) as refused:
        await nodes[0].put(b"k", b"v")
    assert refused.value.reason == "NO_LEADER"
    with pytest.raises(BedplateError) as refused:
        await nodes[0].get(b"k")
    assert refused.value.reason == "NO_LEADER"
    assert refused.value.retry_after_ms == nodes[0].config.election_ms


async def test_a_member_that_comes_back_is_called_back_at_once(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = await cluster.found(3)
    leader = await cluster.leader(nodes)
    away = next(node for node in nodes if node is not leader)
    await eventually(lambda: len(records(away)) == 3)  # it knows whom to call
    for pause in ("_PAUSE_MIN_S", "_PAUSE_MAX_S"):
        monkeypatch.setattr(f"bedplate.consensus.lane.{pause}", 600.0)
    await away.stop()
    await eventually(lambda: not leader.member.transport.is_up(away.store.member))
    await leader.put(b"k", b"v")
    await away.restart()
    assert await away.get(b"k") == b"v"
    await away.put(b"k", b"w")
    assert await leader.get(b"k") == b"w"


async def test_a_member_alone_becomes_a_cluster(cluster: MemoryCluster) -> None:
    first = cluster.node("first")
    await first.start()
    await first.put(b"k", b"alone")
    second, third = (cluster.node(name, join=(first.address,)) for name in ("second", "third"))
    starting = asyncio.gather(second.start(), third.start())
    for node in (second, third):
        await add(first, node)
    await starting
    await cluster.leader([first, second, third])
    for node in (second, third):
        await promoted(first, node)
    await first.put(b"k", b"three")
    assert await third.get(b"k") == b"three"
    seen = await third.members()
    assert [m.kind for m in seen.members] == [cluster_pb2.MEMBER_KIND_VOTER] * 3
    assert {m.address for m in seen.members} == {n.address for n in (first, second, third)}
    await first.stop()
    await cluster.leader([second, third])
    await third.put(b"k", b"two")
    assert await second.get(b"k") == b"two"


async def test_any_member_takes_changes_and_passes_them_on(cluster: MemoryCluster) -> None:
    nodes = await cluster.found(3)
    leader = await cluster.leader(nodes)
    follower = next(node for node in nodes if node is not leader)
    answer = await follower.ask(
        "TransferLeadership",
        cluster_pb2.TransferLeadershipRequest(member_id=follower.store.member),
    )
    assert answer.leader_id == follower.store.member
    assert await cluster.leader(nodes) is follower
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await leader.ask("PromoteMember", cluster_pb2.PromoteMemberRequest(member_id=5))
    assert refusal(refused.value).reason == "MEMBER_NOT_FOUND"


async def test_a_removed_member_stops_and_says_why(cluster: MemoryCluster) -> None:
    nodes = await cluster.found(3)
    leader = await cluster.leader(nodes)
    gone = next(node for node in nodes if node is not leader)
    await remove(leader, gone)
    with pytest.raises(StartupError) as stopped:
        async with asyncio.timeout(10):
            await gone.cluster.failed()
    assert stopped.value.reason == "REMOVED"
    assert str(stopped.value) == "the cluster has removed this member"  # told so, not left out
    rest = [node for node in nodes if node is not gone]
    await rest[1].put(b"k", b"v")
    assert await rest[0].get(b"k") == b"v"


async def test_a_removed_leader_makes_way(cluster: MemoryCluster) -> None:
    nodes = await cluster.found(3)
    leader = await cluster.leader(nodes)
    await remove(leader, leader)
    with pytest.raises(StartupError):
        async with asyncio.timeout(10):
            await leader.cluster.failed()
    await leader.stop()
    rest = [node for node in nodes if node is not leader]
    await cluster.leader(rest)
    await rest[1].put(b"k", b"v")
    await eventually(lambda: leader.store.member not in {r.member_id for r in records(rest[0])})


async def test_a_member_that_lost_its_directory_never_founds_again(cluster: MemoryCluster) -> None:
    nodes = await cluster.found(3)
    lost = nodes[0]
    await lost.stop()
    wiped = cluster.node("wiped", address=lost.address, peers=lost.config.peers)
    with pytest.raises(StartupError) as refused:
        async with asyncio.timeout(10):
            await wiped.start()
    assert refused.value.reason == "MEMBER_REPLACED"
    await wiped.stop()
    await cluster.leader(nodes[1:])
    await remove(nodes[1], lost)
    await add(nodes[1], lost)
    again = cluster.node("again", address=lost.address, peers=lost.config.peers)
    await again.start()
    assert again.store.member != lost.store.member
    await eventually(lambda: again.store.applied == nodes[1].store.applied)


async def test_an_identity_is_given_away_once(cluster: MemoryCluster) -> None:
    first = cluster.node("first")
    await first.start()
    joining = cluster.node("joining", join=(first.address,))
    await add(first, joining)
    await joining.start()
    await joining.stop()
    wiped = cluster.node("wiped", address=joining.address, join=(first.address,))
    with pytest.raises(StartupError) as refused:
        async with asyncio.timeout(10):
            await wiped.start()
    assert refused.value.reason == "MEMBER_REPLACED"


async def test_founding_goes_on_where_a_crash_interrupted_it(cluster: MemoryCluster) -> None:
    peers = tuple(f"127.0.0.1:{port}" for port in free_ports(2))
    first, second = (cluster.node(address=address, peers=peers) for address in peers)
    starting = asyncio.create_task(first.start())
    await second.listen()
    await second.cluster.prepare(second.place, fresh=True)  # decided, and then it crashes
    await starting
    await second.stop()
    again = cluster.node(peers[1], address=peers[1], peers=peers)
    await again.start()
    assert again.store.cluster_id == first.store.cluster_id
    await cluster.leader([first, again])


async def test_another_cluster_is_refused(cluster: MemoryCluster) -> None:
    (node,) = [(await cluster.found(3))[0]]
    async with Credentials().channel(node.address) as channel:
        hello = peer_pb2.Hello(cluster_id=bytes(16), source=1, target=node.store.member)
        stream = PeerServiceStub(channel).Control()
        await stream.write(peer_pb2.ControlRequest(hello=hello))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()
    assert refusal(refused.value).reason == "CLUSTER_MISMATCH"


async def test_a_frame_that_no_member_sends_ends_its_stream(cluster: MemoryCluster) -> None:
    nodes = await cluster.found(3)
    async with Credentials().channel(nodes[0].address) as channel:
        me = nodes[1].store
        hello = peer_pb2.Hello(
            cluster_id=me.cluster_id, source=me.member, target=nodes[0].store.member
        )
        stream = PeerServiceStub(channel).Data()
        await stream.write(peer_pb2.DataRequest(hello=hello))
        await stream.read()
        await stream.write(peer_pb2.DataRequest(message=peer_pb2.RaftMessage(term=1)))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()
    assert refusal(refused.value).reason == "MALFORMED_REQUEST"
    await nodes[0].put(b"k", b"v")


async def test_members_show_each_other_the_token(cluster: MemoryCluster) -> None:
    mine = {"credentials": Credentials(token="a token of all members")}
    nodes = await cluster.found(3, security=mine)
    await nodes[0].put(b"k", b"v")
    for wrong in (Credentials(), Credentials(token="a token of nobody")):
        async with wrong.channel(nodes[0].address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await PeerServiceStub(channel).Identify(
                    peer_pb2.IdentifyRequest(), metadata=wrong.metadata
                )
        assert refusal(refused.value).reason == "PEER_UNKNOWN"


async def test_members_show_each_other_their_certificates(
    cluster: MemoryCluster, tmp_path: Path
) -> None:
    for name, authority in (("ca", None), ("other", None), ("member", "ca"), ("thief", "other")):
        certificate(tmp_path, name, authority)
    files = TLSConfig(cert=tmp_path / "member.pem", key=tmp_path / "member.key")
    security = {
        "credentials": member_credentials(files, tmp_path / "ca.pem", ""),
        "server_credentials": server_credentials(files, tmp_path / "ca.pem"),
    }
    nodes = await cluster.found(3, security=security)
    await nodes[0].put(b"k", b"v")
    assert await nodes[1].get(b"k") == b"v"
    stolen = TLSConfig(cert=tmp_path / "thief.pem", key=tmp_path / "thief.key")
    for wrong in (member_credentials(stolen, tmp_path / "ca.pem", ""), Credentials()):
        async with wrong.channel(nodes[0].address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await PeerServiceStub(channel).Identify(peer_pb2.IdentifyRequest(), timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def add(through: MemoryNode, node: MemoryNode) -> None:
    await through.ask("AddMember", cluster_pb2.AddMemberRequest(address=node.address))


async def remove(through: MemoryNode, node: MemoryNode) -> None:
    request = cluster_pb2.RemoveMemberRequest(member_id=node.store.member)
    await through.ask("RemoveMember", request)


async def promoted(through: MemoryNode, node: MemoryNode) -> None:
    """Promote it, as soon as it has caught up."""
    request = cluster_pb2.PromoteMemberRequest(member_id=node.store.member)
    async with asyncio.timeout(10):
        while True:
            try:
                await through.ask("PromoteMember", request)
                return
            except grpc.aio.AioRpcError as error:
                if refusal(error).reason != "CHANGE_REFUSED":
                    raise
                await asyncio.sleep(0.02)


def records(node: MemoryNode) -> list[peer_pb2.MemberRecord]:
    values = node.store.values
    return [peer_pb2.MemberRecord.FromString(values[k]) for k in values if k[:7] == b"member/"]

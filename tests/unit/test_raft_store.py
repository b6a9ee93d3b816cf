"""Raft and the engine together: elections, writes, crashes, all in memory and step by step."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from bedplate.api.kv.v1 import kv_pb2 as kv
from bedplate.consensus.membership import Change, ChangeKind, Membership
from bedplate.consensus.raft_store import RaftStore
from bedplate.consensus.replica import EntriesUnreadable
from bedplate.errors import Code
from bedplate.native.errors import StoreError
from bedplate.native.store import Method
from tests.unit.raft_harness import Cluster, Node

CONSISTENCY_SERIALIZABLE = 2


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


def put(node: Node, key: bytes, value: bytes, cookie: int = 1) -> None:
    request = kv.PutRequest(key=key, value=value, return_previous=True)
    node.submit(Method.PUT, request, cookie)


def previous(node: Node, cookie: int = 1) -> bytes:
    answer = node.answers.pop(cookie)
    assert isinstance(answer, bytes), answer
    return kv.PutResponse.FromString(answer).previous.value


def local_value(node: Node, key: bytes) -> bytes:
    """As this member has applied it, whatever others have."""
    request = kv.GetRequest(key=key, consistency=CONSISTENCY_SERIALIZABLE)  # type: ignore[arg-type]
    node.submit(Method.GET, request, 99)
    node.queue.take(lambda cookie, reply, aux, error: node.answers.update({cookie: reply}))
    answer = node.answers.pop(99)
    assert isinstance(answer, bytes)
    return kv.GetResponse.FromString(answer).kv.value


def assert_same_state(cluster: Cluster) -> None:
    states = {
        (status.revision, status.state_hash, status.applied_index)
        for status in (node.store.status() for node in cluster.live)
    }
    assert len(states) == 1


def test_one_is_elected_and_all_apply_the_same(cluster: Cluster) -> None:
    leader = cluster.lead()
    put(leader, b"k", b"v")
    cluster.settle()
    assert previous(leader) == b""
    cluster.tick(2)
    for node in cluster.live:
        assert local_value(node, b"k") == b"v"
        assert node.replica.raft.leader == leader.member
    assert_same_state(cluster)
    status = leader.store.status()
    assert (status.leading, status.clustered, status.member_id) == (1, 1, leader.member)


def test_any_member_takes_writes_and_reads_what_it_wrote(cluster: Cluster) -> None:
    cluster.lead()
    follower = cluster.followers()[0]
    put(follower, b"k", b"one", 1)
    put(follower, b"k", b"two", 2)
    cluster.settle()
    cluster.tick()
    assert (previous(follower, 1), previous(follower, 2)) == (b"", b"one")
    follower.submit(Method.GET, kv.GetRequest(key=b"k"), 3)
    cluster.settle()
    answer = follower.answers.pop(3)
    assert isinstance(answer, bytes)
    assert kv.GetResponse.FromString(answer).kv.value == b"two"


def test_a_new_leader_is_found_and_the_old_one_follows_after_its_crash(cluster: Cluster) -> None:
    old = cluster.lead()
    put(old, b"kept", b"1")
    cluster.settle()
    assert previous(old) == b""
    cluster.network.cut.add(old.member)
    put(old, b"lost", b"2")  # nobody else will ever hear of it
    old.replica.turn()
    old.store.step_log()
    new = cluster.lead()
    assert new.member != old.member
    put(new, b"next", b"3")
    cluster.settle()
    old.power_cut()
    cluster.network.cut.clear()
    cluster.tick(20)
    assert not old.replica.raft.is_leader
    for node in cluster.live:
        assert [local_value(node, key) for key in (b"kept", b"lost", b"next")] == [b"1", b"", b"3"]
    assert_same_state(cluster)


def test_without_a_majority_requests_are_refused_in_the_end(cluster: Cluster) -> None:
    leader = cluster.lead()
    cluster.network.cut.update(node.member for node in cluster.followers())
    cluster.tick(40)
    assert not leader.replica.raft.is_leader
    put(leader, b"k", b"v", 1)
    leader.submit(Method.GET, kv.GetRequest(key=b"k"), 2)
    cluster.tick(40)
    for cookie in (1, 2):
        answer = leader.answers.pop(cookie)
        assert isinstance(answer, StoreError)
        assert (answer.code, answer.reason) == (Code.UNAVAILABLE, "NO_LEADER")


def test_a_learner_joins_from_nothing_and_becomes_a_voter(cluster: Cluster) -> None:
    leader = cluster.lead()
    put(leader, b"k", b"v")
    cluster.settle()
    leader.replica.change(Change(ChangeKind.ADD_LEARNER, 4))
    cluster.settle()
    joined = cluster.add(4, joining=1)
    assert joined.raft_store.membership() == Membership(frozenset())
    cluster.tick(20)
    assert local_value(joined, b"k") == b"v"
    leader.replica.change(Change(ChangeKind.PROMOTE, 4))
    cluster.tick(5)
    joined.power_cut()
    cluster.tick(5)
    assert joined.raft_store.membership() == Membership(frozenset({1, 2, 3, 4}))
    assert joined.raft_store.cluster_id == leader.raft_store.cluster_id
    assert_same_state(cluster)


def test_entries_that_are_not_served_are_named(cluster: Cluster) -> None:
    leader = cluster.lead()
    with pytest.raises(EntriesUnreadable) as unreadable:
        leader.raft_store.message(1, 1000)
    assert unreadable.value.index == leader.replica.raft.log.last + 1


@pytest.mark.parametrize("seed", range(6))
def test_what_was_acknowledged_survives_crashes_and_cuts(seed: int) -> None:
    random, cluster = Random(seed), Cluster()
    acknowledged: set[int] = set()
    try:
        for round_ in range(40):
            cluster.lead()
            node = random.choice(list(cluster.live))
            put(node, b"k%d" % round_, b"v", round_)
            cluster.settle()
            answer = node.answers.pop(round_, None)
            if isinstance(answer, bytes):
                acknowledged.add(round_)
            victim = cluster.nodes[random.choice((1, 2, 3))]
            match random.randrange(4):
                case 0:
                    victim.power_cut(random.choice((0, 512, 1024)))
                case 1 if not cluster.network.cut:
                    cluster.tick(15)  # behind a checkpoint's restart there is no log for the others
                    victim.store.checkpoint(force=True)
                    victim.power_cut()
                case 2:
                    cluster.network.cut = {victim.member}
                case _:
                    cluster.network.cut = set()
        cluster.network.cut = set()
        cluster.network.snapshots.clear()
        leader = cluster.lead()
        cluster.tick(30)
        assert len(acknowledged) > 15
        assert cluster.network.snapshots == []
        assert leader.replica.raft.leader
        for node in cluster.live:
            held = {round_ for round_ in range(40) if local_value(node, b"k%d" % round_)}
            assert acknowledged <= held
        assert_same_state(cluster)
    finally:
        cluster.close()


def test_entries_that_a_member_needs_are_kept_up_to_a_limit(cluster: Cluster) -> None:
    leader = cluster.lead()
    for cookie in range(1, 33):
        put(leader, b"k", bytes(4096), cookie)
        cluster.settle()
    applied = leader.store.status().applied_index
    patient = RaftStore(leader.store, retain_bytes=0, retain_bytes_max=1 << 20)
    patient.needed = lambda: 9
    assert patient.compact(applied) == 9
    strict = RaftStore(leader.store, retain_bytes=0, retain_bytes_max=8 * 4096)
    strict.needed = lambda: 9
    assert applied - 9 < strict.compact(applied) < applied
    strict.needed = lambda: None
    assert strict.compact(applied) == applied

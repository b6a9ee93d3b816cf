"""Members come and go, through ClusterService at any member."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import grpc
import grpc.aio

from bedplate.api.cluster.v1 import cluster_pb2 as pb
from bedplate.api.cluster.v1.cluster_pb2_grpc import ClusterServiceStub
from tests.integration.daemon import PATIENCE_S
from tests.nemesis.cluster import Cluster, Member

PATIENCE_CHANGE_S = 60.0


async def churn(cluster: Cluster, rng: random.Random) -> None:
    """Add one, promote it, remove another one."""
    await add(cluster)
    leader = await cluster.leader(PATIENCE_S)
    if leader.clock is None and rng.random() < 0.4:
        await remove(cluster, leader)
    else:
        # The one whose clock can be turned stays for that.
        known = [*cluster.members.values()][:-1]
        await remove(cluster, rng.choice([member for member in known if member.clock is None]))


async def snapshot_to_new_member(cluster: Cluster, rng: random.Random) -> None:
    """Add one, which gets a snapshot; kill it in the middle of that, sometimes; remove it again."""
    joiner = await draft(cluster)
    assert await cluster.start(joiner), joiner.daemon.output
    if rng.random() < 0.5:
        await asyncio.sleep(rng.uniform(0.05, 1.0))
        await cluster.kill(joiner)
        assert await cluster.start(joiner), joiner.daemon.output
    await promote(cluster, joiner)
    await remove(cluster, joiner)


async def add(cluster: Cluster) -> Member:
    """A new member that votes."""
    joiner = await draft(cluster)
    assert await cluster.start(joiner), joiner.daemon.output
    await promote(cluster, joiner)
    return joiner


async def draft(cluster: Cluster) -> Member:
    """A new member that the others know of, and that does not run yet."""
    joiner = await cluster.draft_joiner()
    await _until_done(cluster, "AddMember", pb.AddMemberRequest(address=joiner.known_as), joiner)
    return joiner


async def promote(cluster: Cluster, member: Member) -> None:
    """Give it a vote, once it has caught up."""
    number = await member_id(cluster, member)
    await _until_done(cluster, "PromoteMember", pb.PromoteMemberRequest(member_id=number), None)


async def remove(cluster: Cluster, member: Member) -> None:
    """Take it out; its daemon must stop by itself."""
    number = await member_id(cluster, member)
    await _until_done(cluster, "RemoveMember", pb.RemoveMemberRequest(member_id=number), member)
    cluster.forget(member)


async def member_id(cluster: Cluster, member: Member) -> int:
    """The id under which the others know it."""
    deadline = time.monotonic() + PATIENCE_CHANGE_S
    while True:
        for known in await _members(cluster):
            if known.address == member.known_as:
                return known.member_id
        assert time.monotonic() < deadline, f"nobody knows member {member.number}"
        await asyncio.sleep(0.1)


async def _members(cluster: Cluster) -> list[pb.Member]:
    for other in list(cluster.members.values()):
        if not other.running or other.paused or not other.daemon.grpc:
            continue
        stub: Any = ClusterServiceStub(cluster.clients.channel(other.number))
        try:
            reply = await stub.GetCluster(pb.GetClusterRequest(), timeout=2.0)
        except grpc.aio.AioRpcError:
            continue
        return list(reply.members)
    return []


async def _until_done(cluster: Cluster, method: str, request: Any, without: Member | None) -> None:
    """Ask any member, again and again: not led, not caught up, or another change may be under way.
    A change without answer may have been made: then it is so (adding twice is adding once), or what
    was to be changed is not found any more.
    """
    deadline = time.monotonic() + PATIENCE_CHANGE_S
    while True:
        said = "nobody could be asked"
        for other in list(cluster.members.values()):
            if other is without or not other.running or other.paused or not other.daemon.grpc:
                continue
            stub: Any = ClusterServiceStub(cluster.clients.channel(other.number))
            try:
                await getattr(stub, method)(request, timeout=5.0)
                return
            except grpc.aio.AioRpcError as error:
                said = f"{error.code().name} {error.details()}"
                if method == "RemoveMember" and error.code() is grpc.StatusCode.NOT_FOUND:
                    return
                if method == "PromoteMember" and await _votes(cluster, request.member_id):
                    return
        assert time.monotonic() < deadline, f"{method}: {said}\n{cluster.last_words()}"
        await asyncio.sleep(0.2)


async def _votes(cluster: Cluster, number: int) -> bool:
    return any(
        known.member_id == number and known.kind == pb.MEMBER_KIND_VOTER
        for known in await _members(cluster)
    )

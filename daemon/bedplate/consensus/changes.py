"""What only a leader does to the membership, one at a time.

add       record --> [alone: become a cluster] --> ADD_LEARNER decided
promote   PROMOTE decided, once the learner has caught up
remove    REMOVE decided --> its record is swept away
transfer  the chosen voter leads
"""

import secrets
from typing import Final

from bedplate.address import parse_address
from bedplate.api.cluster.v1 import cluster_pb2 as pb
from bedplate.api.cluster.v1.peer_pb2 import MemberRecord
from bedplate.consensus.cluster import Cluster
from bedplate.consensus.member import Member
from bedplate.consensus.membership import Change, ChangeKind, ChangeRefused, Membership
from bedplate.consensus.node import no_leader
from bedplate.errors import BedplateError, Code
from bedplate.native.errors import StoreError

_DECIDED_S: Final = 10.0
_NAME_MAX, _ADDRESS_MAX = 64, 255


class Changes:
    """The calls of ClusterService where this member leads. All raise BedplateError."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def add(self, request: pb.AddMemberRequest) -> pb.AddMemberResponse:
        cluster = self._cluster
        address = check_address(request.address)
        if len(request.name.encode()) > _NAME_MAX:
            raise invalid("name", f"a name has at most {_NAME_MAX} bytes")
        if cluster.peers_refused:
            raise refused(cluster.peers_refused)
        async with cluster.changing:
            await self._activate()
            member = self._leading()
            record = await self._recorded(address, request.name)
            if record.member_id not in member.membership.members:
                await self._change(ChangeKind.ADD_LEARNER, record.member_id)
        return pb.AddMemberResponse(member=self._view(record.member_id))

    async def promote(self, request: pb.PromoteMemberRequest) -> pb.PromoteMemberResponse:
        async with self._cluster.changing:
            self._check_known(request.member_id)
            if request.member_id not in self._leading().membership.voters:
                await self._change(ChangeKind.PROMOTE, request.member_id)
        return pb.PromoteMemberResponse(member=self._view(request.member_id))

    async def remove(self, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:
        async with self._cluster.changing:
            self._check_known(request.member_id)
            await self._change(ChangeKind.REMOVE, request.member_id)
        self._leading().changed.set()
        return pb.RemoveMemberResponse()

    async def transfer(
        self, request: pb.TransferLeadershipRequest
    ) -> pb.TransferLeadershipResponse:
        target = request.member_id
        member = self._leading()
        if target:
            self._check_known(target)
        else:
            target = member.furthest()
        if not target:
            raise refused("there is no other voter that can be reached")
        try:
            leader = await member.node.transfer(target, _DECIDED_S)
        except ChangeRefused as error:
            raise refused(str(error)) from error
        return pb.TransferLeadershipResponse(leader_id=leader)

    async def _activate(self) -> None:
        try:
            await self._cluster.activate()
        except StoreError as error:
            if error.code is Code.FAILED_PRECONDITION:  # interval durability
                raise refused(error.message) from error
            raise

    async def _recorded(self, address: str, name: str) -> MemberRecord:
        """The record of the member at this address, made if there is none."""
        cluster = self._cluster
        own = cluster.own_record()
        records = {record.member_id: record for record in await cluster.records.newest()}
        if records.get(own.member_id) != own:
            await cluster.records.write(own)  # the new member must find us
            records[own.member_id] = own
        membership = self._membership()
        present = [r for r in records.values() if r.member_id in membership.members]
        for record in present:
            if record.address == address:
                _check_same(record, name, votes=record.member_id in membership.voters)
                return record
            if name and record.name == name:
                raise refused(f"the name {name} is taken, by the member at {record.address}")
        if address == own.address:
            raise refused(f"{address} is a member already")
        record = MemberRecord(member_id=_new_id(), address=address, name=name)
        await cluster.records.write(record)
        records[record.member_id] = record
        cluster.book.replace(records.values())  # our answer shows it
        return record

    async def _change(self, kind: ChangeKind, member: int) -> None:
        node, raft = self._leading().node, self._leading().raft

        def leads() -> bool:
            if raft.leader not in (0, raft.member):
                raise no_leader()
            return raft.is_leader and raft.log.term(raft.commit) == raft.term

        try:
            # A new leader first commits an entry of its own, and one alone must elect itself.
            await node.until(leads, _DECIDED_S)
            await node.change(Change(kind, member), _DECIDED_S)
        except ChangeRefused as error:
            raise refused(str(error)) from error

    def _leading(self) -> Member:
        member = self._cluster.member
        if member is None:
            raise refused("this member is alone: there is nobody else to change or to lead")
        return member

    def _membership(self) -> Membership:
        return self._leading().membership

    def _check_known(self, member: int) -> None:
        if member not in self._membership().members:
            raise BedplateError(
                f"{member:016x} is not a member",
                code=Code.NOT_FOUND,
                reason="MEMBER_NOT_FOUND",
                field="member_id",
            )

    def _view(self, member: int) -> pb.Member:
        return next(m for m in describe(self._cluster).members if m.member_id == member)


def describe(cluster: Cluster) -> pb.GetClusterResponse:
    """The cluster as this member sees it. Raises BedplateError: STORE_RECOVERING."""
    member, store = cluster.member, cluster.store
    status = cluster.engine.status()
    membership = store.membership() if member is None else member.membership
    response = pb.GetClusterResponse(
        cluster_id=store.cluster_id.hex(),
        member_id=store.member,
        leader_id=cluster.leader,
        term=status.term if member is None else member.raft.term,
        commit_index=status.committed_index if member is None else member.raft.commit,
        applied_index=status.applied_index,
    )
    for other in sorted(membership.members):
        response.members.append(_describe_member(cluster, other, other in membership.voters))
    return response


def _describe_member(cluster: Cluster, other: int, votes: bool) -> pb.Member:
    own = other == cluster.store.member
    record = cluster.book.record(other)
    view = pb.Member(
        member_id=other,
        name=record.name if record is not None else "",
        address=cluster.address if own else cluster.book.address(other),
        kind=pb.MEMBER_KIND_VOTER if votes else pb.MEMBER_KIND_LEARNER,
        leader=other == cluster.leader,
        reachable=own or (cluster.member is not None and cluster.member.transport.is_up(other)),
        quarantined=(record is not None and record.quarantined)
        or (own and bool(cluster.out_of_service)),
    )
    if cluster.member is not None and other in cluster.member.raft.progress:
        view.match_index = cluster.member.raft.progress[other].match
    elif own:
        view.match_index = cluster.engine.status().durable_index
    return view


def _check_same(record: MemberRecord, name: str, *, votes: bool) -> None:
    """Adding a learner again changes nothing; anything else would be another wish."""
    if votes or name not in ("", record.name):
        known = f', with the name "{record.name}"' if record.name else ", without a name"
        raise refused(f"{record.address} is a member already, {record.member_id:016x}{known}")


def check_address(text: str) -> str:
    """HOST:PORT as it is compared everywhere. Raises BedplateError."""
    if len(text.encode()) > _ADDRESS_MAX:
        raise invalid("address", f"an address has at most {_ADDRESS_MAX} bytes")
    try:
        address = parse_address(text)
    except ValueError as error:
        raise invalid("address", str(error)) from error
    if address.port == 0:
        raise invalid("address", "a member's port is not 0")
    return str(address)


def refused(why: str) -> BedplateError:
    """A change that cannot be made now."""
    return BedplateError(why, code=Code.FAILED_PRECONDITION, reason="CHANGE_REFUSED")


def invalid(field: str, why: str) -> BedplateError:
    """A field that makes no sense."""
    return BedplateError(why, code=Code.INVALID_ARGUMENT, reason="FIELD_INVALID", field=field)


def _new_id() -> int:
    """64 random bits: nobody ever had it."""
    return secrets.randbits(64) or 1

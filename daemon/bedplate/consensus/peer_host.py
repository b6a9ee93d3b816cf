"""What other members ask of this one, answered; fits peer_service.Host.

messages, batches, values     the member at work takes or has them
Snapshot                      the receiver installs it
Identify, Join                who we are, and who an address may become
Relay                         ClusterService does it
"""

from collections.abc import AsyncIterator, Sequence

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.consensus.cluster import Cluster
from bedplate.consensus.member import mismatch
from bedplate.consensus.messages import Message
from bedplate.consensus.node import no_leader
from bedplate.consensus.snapshot_receiver import Say
from bedplate.errors import BedplateError, Code


class PeerHost:
    """One daemon's. Everything raises BedplateError."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def member_id(self) -> int:
        return self._cluster.store.member

    def check_admitted(self) -> None:
        if self._cluster.peers_refused:
            raise BedplateError(
                self._cluster.peers_refused, code=Code.FAILED_PRECONDITION, reason="PEERS_REFUSED"
            )

    def admit(self, hello: pb.Hello) -> None:
        if self._cluster.is_alone:
            raise mismatch(self._cluster.store.cluster_id, self._cluster.store.member)
        self._cluster.at_work.admit(hello)

    def check_member(self, source: int) -> None:
        self._cluster.at_work.check_member(source)

    def deliver(self, messages: Sequence[Message]) -> None:
        self._cluster.at_work.deliver(messages)

    async def room(self) -> None:
        await self._cluster.at_work.node.room()

    def opened(self, source: int) -> None:
        self._cluster.at_work.opened(source)

    def ended(self, source: int, *, lost: bool) -> None:
        self._cluster.at_work.ended(source, lost=lost)

    async def forwarded(self, batch: bytes) -> bytes:
        if not self._cluster.at_work.raft.is_leader:
            raise no_leader()
        return await self._cluster.engine.forwarded(batch)

    async def install(
        self, offer: pb.SnapshotOffer, frames: AsyncIterator[pb.SnapshotRequest], say: Say
    ) -> None:
        await self._cluster.receiver.receive(offer, frames, say)

    async def fetch(self, wanted: bytes) -> bytes:
        member = self._cluster.at_work
        return await self._cluster.engine.step(lambda _: member.fetch(wanted))

    def identify(self, request: pb.IdentifyRequest) -> pb.IdentifyResponse:
        searching = self._cluster.origin.searching
        if searching is not None:
            return searching
        return pb.IdentifyResponse(
            established=True,
            cluster_id=self._cluster.store.cluster_id,
            member_id=self._cluster.store.member,
            founded_with=self._cluster.origin.founded_with(request.address),
            members=self._addresses(),
            leader=self._cluster.leader,
        )

    async def join(self, request: pb.JoinRequest) -> pb.JoinResponse:
        """Give an identity away; decided by a Txn, so that only one directory ever gets it."""
        if len(request.incarnation) != len(self._cluster.store.cluster_id):
            raise BedplateError(
                "an incarnation has 16 bytes", code=Code.INVALID_ARGUMENT, reason="FIELD_INVALID"
            )
        found = [r for r in await self._cluster.records.newest() if r.address == request.address]
        if not found:
            raise BedplateError(
                f"no member is recorded for {request.address}",
                code=Code.NOT_FOUND,
                reason="MEMBER_NOT_FOUND",
            )
        record = found[-1]
        if record.incarnation != request.incarnation:
            claimed = _claimed(record, request.incarnation)
            if record.incarnation or not await self._cluster.records.replace(record, claimed):
                raise BedplateError(
                    f"member {record.member_id:016x} has its directory already",
                    code=Code.FAILED_PRECONDITION,
                    reason="MEMBER_REPLACED",
                )
        return pb.JoinResponse(
            cluster_id=self._cluster.store.cluster_id,
            member_id=record.member_id,
            members=self._addresses(),
        )

    async def relay(self, request: pb.RelayRequest) -> pb.RelayResponse:
        if self._cluster.do_relayed is None:
            raise no_leader()
        return await self._cluster.do_relayed(request)

    def _addresses(self) -> list[pb.PeerAddress]:
        known = self._cluster.book.all() | {self._cluster.store.member: self._cluster.address}
        return [pb.PeerAddress(member_id=m, address=at) for m, at in sorted(known.items())]


def _claimed(record: pb.MemberRecord, incarnation: bytes) -> pb.MemberRecord:
    """The record, claimed."""
    claimed = pb.MemberRecord()
    claimed.CopyFrom(record)
    claimed.incarnation = incarnation
    return claimed

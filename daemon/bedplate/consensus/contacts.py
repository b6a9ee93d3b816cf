"""Asking other daemons who they are, before this one is anybody."""

import asyncio
from typing import Any

import grpc.aio
import structlog

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.api.cluster.v1.peer_pb2_grpc import PeerServiceStub
from bedplate.consensus.identity import Answer, Identity
from bedplate.consensus.lane import lost
from bedplate.consensus.peer_channel import Credentials, refusal
from bedplate.errors import BedplateError, Code

_ANSWER_S = 3.0


class PeerContacts:
    """Fits identity.Contacts: a connection for every question."""

    def __init__(self, credentials: Credentials, own_address: str) -> None:
        self._credentials = credentials
        self._own = own_address
        self._refusals: dict[str, str] = {}  # said already, by address
        self._log = structlog.get_logger("bedplate.cluster")

    async def identify(self, address: str) -> Answer | None:
        try:
            said = await self._call(address, "Identify", pb.IdentifyRequest(address=self._own))
        except grpc.aio.AioRpcError as error:
            self._note(address, refusal(error))
            return None
        except TimeoutError:
            return None
        return Answer(
            said.established,
            said.founding,
            said.incarnation,
            said.founded_with,
            said.name,
            tuple(said.peers),
            said.cluster_id,
        )

    def _note(self, address: str, error: BedplateError) -> None:
        """Who answers, and refuses us, will not do otherwise soon: that is said, once."""
        if error.code is not Code.UNAVAILABLE and self._refusals.get(address) != error.reason:
            self._refusals[address] = error.reason
            self._log.warning("contact_refuses", peer=address, reason=error.reason, why=str(error))

    async def join(self, address: str, incarnation: bytes) -> Identity:
        request = pb.JoinRequest(address=self._own, incarnation=incarnation)
        try:
            given = await self._call(address, "Join", request)
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from error
        except TimeoutError:
            raise lost("no answer") from None
        return Identity(
            cluster_id=given.cluster_id,
            member_id=given.member_id,
            addresses={member.member_id: member.address for member in given.members},
        )

    async def _call(self, address: str, method: str, request: Any) -> Any:
        async with self._credentials.channel(address) as channel:
            call = getattr(PeerServiceStub(channel), method)
            async with asyncio.timeout(2 * _ANSWER_S):
                return await call(request, timeout=_ANSWER_S, metadata=self._credentials.metadata)

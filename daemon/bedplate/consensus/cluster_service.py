"""ClusterService: who belongs to the cluster, and how that is changed, asked of any member.

GetCluster          answered here
everything else     leader: changes.py      else: PeerService.Relay to the leader, its answer
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from prometheus_client.registry import Collector

from bedplate.api.cluster.v1 import cluster_pb2 as pb
from bedplate.api.cluster.v1 import peer_pb2
from bedplate.api.cluster.v1.peer_pb2_grpc import PeerServiceStub
from bedplate.consensus.changes import Changes, describe
from bedplate.consensus.cluster import Cluster
from bedplate.consensus.metrics import ClusterCollector
from bedplate.consensus.node import leader_lost, no_leader
from bedplate.consensus.peer_channel import refusal
from bedplate.consensus.peer_service import malformed
from bedplate.consensus.transport import Self
from bedplate.errors import BedplateError, Code

SERVICE: Final = "bedplate.cluster.v1.ClusterService"
_RELAY_S = 15.0
_SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "GetCluster": "cluster:read",
        "AddMember": "cluster:admin",
        "PromoteMember": "cluster:admin",
        "RemoveMember": "cluster:admin",
        "TransferLeadership": "cluster:admin",
    }
)

Context = grpc.aio.ServicerContext[bytes, bytes]


class ClusterModule:
    """The service over one cluster; fits server.app.ServiceModule."""

    name = SERVICE

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        cluster.do_relayed = self.relayed
        changes = Changes(cluster)
        # By the field of RelayRequest: the request, and what the leader does.
        self._calls: Mapping[str, tuple[Any, Callable[[Any], Awaitable[Any]]]] = {
            "add_member": (pb.AddMemberRequest, changes.add),
            "promote_member": (pb.PromoteMemberRequest, changes.promote),
            "remove_member": (pb.RemoveMemberRequest, changes.remove),
            "transfer_leadership": (pb.TransferLeadershipRequest, changes.transfer),
        }

    @property
    def scopes(self) -> Mapping[str, str]:
        return _SCOPES

    def register(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "GetCluster": grpc.unary_unary_rpc_method_handler(self._get_cluster)
        }
        for call, (kind, _) in self._calls.items():
            name = "".join(part.title() for part in call.split("_"))
            handlers[name] = grpc.unary_unary_rpc_method_handler(self._handler(call, kind))
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(self.name, handlers),)
        )

    async def run(self) -> None:
        """Raises what must stop the daemon: this member was removed, or contradicts a leader."""
        await self._cluster.failed()

    def collectors(self) -> Sequence[Collector]:
        return (ClusterCollector(self._cluster),)

    def drain(self) -> None:
        self._cluster.drain()

    async def relayed(self, request: peer_pb2.RelayRequest) -> peer_pb2.RelayResponse:
        """A call that another member passed on. Raises BedplateError."""
        call = request.WhichOneof("call")
        if call is None:
            raise malformed("a relay of nothing")
        if not self._leads:
            raise no_leader()
        answer = await self._calls[call][1](getattr(request, call))
        return peer_pb2.RelayResponse(**{call: answer})

    @property
    def _leads(self) -> bool:
        return self._cluster.leader == self._cluster.store.member

    async def _get_cluster(self, data: bytes, _: Context) -> bytes:
        _parse(pb.GetClusterRequest, data)
        return describe(self._cluster).SerializeToString()

    def _handler(self, call: str, kind: Any) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(data: bytes, _: Context) -> bytes:
            request = _parse(kind, data)
            if self._leads:
                answer = await self._calls[call][1](request)
            else:
                answer = await self._relay(call, request)
            return bytes(answer.SerializeToString())

        return handle

    async def _relay(self, call: str, request: Any) -> Any:
        cluster = self._cluster
        member = cluster.member
        address = cluster.book.address(cluster.leader)
        if member is None or not cluster.leader or not address:
            raise no_leader()
        hello = Self(member.cluster_id, member.id, cluster.address).hello(cluster.leader)
        passed_on = peer_pb2.RelayRequest(hello=hello, **{call: request})
        try:
            async with cluster.credentials.channel(address) as channel:
                stub: Any = PeerServiceStub(channel)
                answer = await stub.Relay(
                    passed_on, timeout=_RELAY_S, metadata=cluster.credentials.metadata
                )
        except grpc.aio.AioRpcError as error:
            raised = refusal(error)
            if not raised.reason:  # the leader itself is gone
                raise leader_lost() from error
            raise raised from error
        return getattr(answer, call)


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise BedplateError(
            f"not a {kind.DESCRIPTOR.name}",
            code=Code.INVALID_ARGUMENT,
            reason="MALFORMED_REQUEST",
        ) from None

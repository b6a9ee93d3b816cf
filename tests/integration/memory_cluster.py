"""Clusters of daemons' consensus parts in one process: real gRPC on loopback, stores in memory.

async with MemoryCluster(tmp_path) as cluster:
    nodes = await cluster.found(3)
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bedplate.api.cluster.v1 import cluster_pb2
from bedplate.api.kv.v1 import kv_pb2
from bedplate.consensus.cluster import Cluster
from bedplate.consensus.cluster_service import ClusterModule
from bedplate.consensus.config import ClusterConfig
from bedplate.consensus.origin import Place
from bedplate.consensus.peer_channel import MESSAGE_BYTES_MAX, SERVER_OPTIONS, Credentials
from bedplate.consensus.peer_host import PeerHost
from bedplate.consensus.peer_service import METHODS, PeerModule
from bedplate.native.guard import Guard
from bedplate.native.store import Keyspace, Method
from bedplate.server.guarded_call import Gate
from bedplate.server.interceptors import GuardInterceptor
from bedplate.server.open_calls import OpenCalls
from tests.free_ports import free_ports
from tests.integration.memory_store import MemoryEngine, MemoryStore

PATIENCE_S = 20.0


class MemoryNode:
    """One member. `start` founds, joins or, when it had a store before, goes on."""

    def __init__(
        self,
        directory: Path,
        config: ClusterConfig,
        credentials: Credentials | None = None,
        server_credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.directory = directory
        self.config = config
        self.address = config.advertise
        self.engine = MemoryEngine()
        self._credentials = credentials or Credentials()
        self._server_credentials = server_credentials
        self.cluster = self._new_cluster()
        self._server: grpc.aio.Server | None = None
        directory.mkdir(exist_ok=True)

    def _new_cluster(self) -> Cluster:
        engine: Any = self.engine
        return Cluster(self.config, engine, self._credentials, lambda _: self.store)

    @property
    def store(self) -> MemoryStore:
        assert self.engine.store is not None
        return self.engine.store

    @property
    def place(self) -> Place:
        return Place(self.directory, self.address)

    @property
    def member(self) -> Any:
        return self.cluster.member

    async def listen(self) -> None:
        guard = Guard()
        host, token = PeerHost(self.cluster), self._credentials.token
        modules = (ClusterModule(self.cluster), PeerModule(host, token))
        for module in modules:
            for method, scope in module.scopes.items():
                guard.add_method(f"{module.name}/{method}", scope)
        gate = Gate(
            guard=guard,
            calls=OpenCalls(1000),
            request_bytes_max=1 << 20,
            deadline_s=10.0,
            log_calls=False,
            hang_up=lambda peer: None,
            between_members=METHODS,
            member_frame_bytes_max=MESSAGE_BYTES_MAX,
        )
        options = (("grpc.so_reuseport", 0), *SERVER_OPTIONS)
        server = grpc.aio.server(interceptors=(GuardInterceptor(gate),), options=options)
        for module in modules:
            module.register(server)
        if self._server_credentials is None:
            server.add_insecure_port(self.address)
        else:
            server.add_secure_port(self.address, self._server_credentials)
        await server.start()
        self._server = server

    async def start(self) -> None:
        await self.listen()
        fresh = self.engine.store is None
        identity = await self.cluster.prepare(self.place, fresh=fresh)
        if fresh:
            cluster_id, member, voters = b"alone" + bytes(11), 77, frozenset({77})
            if identity is not None:
                cluster_id, member = identity.cluster_id, identity.member_id
                voters = frozenset(identity.voters)
            self.engine.store = MemoryStore(cluster_id, member, voters)
        await self.cluster.start()

    async def stop(self) -> None:
        """As a crash would look to the others: all its connections break."""
        await self.cluster.stop()
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def restart(self) -> None:
        """After `stop`, with what its store holds."""
        self.cluster = self._new_cluster()
        await self.start()

    # ---- what clients do -----------------------------------------------------------------------

    async def put(self, key: bytes, value: bytes) -> None:
        request = kv_pb2.PutRequest(key=key, value=value).SerializeToString()
        await self.engine.call(Method.PUT, Keyspace.USER, request)

    async def get(self, key: bytes) -> bytes | None:
        request = kv_pb2.GetRequest(key=key).SerializeToString()
        reply = await self.engine.call(Method.GET, Keyspace.USER, request)
        found = kv_pb2.GetResponse.FromString(reply)
        return found.kv.value if found.HasField("kv") else None

    async def ask(self, method: str, request: Any) -> Any:
        """One call of ClusterService."""
        from bedplate.api.cluster.v1.cluster_pb2_grpc import ClusterServiceStub

        async with self._credentials.channel(self.address) as channel:
            return await getattr(ClusterServiceStub(channel), method)(request, timeout=PATIENCE_S)

    async def members(self) -> cluster_pb2.GetClusterResponse:
        answer: cluster_pb2.GetClusterResponse = await self.ask(
            "GetCluster", cluster_pb2.GetClusterRequest()
        )
        return answer


class MemoryCluster:
    """Nodes of one test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.nodes: list[MemoryNode] = []

    async def __aenter__(self) -> "MemoryCluster":
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(node.stop() for node in self.nodes))

    def node(self, name: str = "", **options: Any) -> MemoryNode:
        """A node that is not started. `security` are further arguments of MemoryNode."""
        security = options.pop("security", {})
        address = options.pop("address", f"127.0.0.1:{free_ports(1)[0]}")
        fast = {"heartbeat_ms": 20, "election_ms": 200, "leader_wait_ms": 5000}
        config = ClusterConfig(advertise=address, **(fast | options))
        made = MemoryNode(self._directory / (name or address), config, **security)
        self.nodes.append(made)
        return made

    async def found(self, count: int = 3, **options: Any) -> list[MemoryNode]:
        """Members that founded a cluster, and have a leader."""
        peers = tuple(f"127.0.0.1:{free_ports(1)[0]}" for _ in range(count))
        nodes = [self.node(address=address, peers=peers, **options) for address in peers]
        await asyncio.gather(*(node.start() for node in nodes))
        await self.leader(nodes)
        return nodes

    async def leader(self, nodes: list[MemoryNode]) -> MemoryNode:
        """The one that all of these follow."""

        def agreed() -> bool:
            leaders = {node.member.raft.leader for node in nodes}
            return len(leaders) == 1 and leaders != {0}

        await eventually(agreed)
        leader = nodes[0].member.raft.leader
        return next(
            node for node in self.nodes if node.engine.store and node.store.member == leader
        )


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

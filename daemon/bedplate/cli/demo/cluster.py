"""The cluster part: three daemons, and one of them dies while clients write.

up -> writers at all members -> SIGKILL the leader -> another leads, the writers go on
-> restart -> it catches up -> everything acknowledged is on all three, and they hold the same
"""

import asyncio
import hashlib
import math
import subprocess
import time
import uuid
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

from bedplate.api.cluster.v1 import cluster_pb2
from bedplate.api.cluster.v1.cluster_pb2_grpc import ClusterServiceStub
from bedplate.api.kv.v1 import kv_pb2
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from bedplate.cli.cluster_up import stop_all, wait_until_ready
from bedplate.cli.demo.stage import Report, Stage
from bedplate.cli.errors import CommandError
from bedplate.cli.local_cluster import LocalNode, prepare

_NODES: Final = 3
_WRITERS: Final = 8
_BEFORE_S, _AFTER_S, _PATIENCE_S = 1.0, 1.0, 60.0
_TRY_S, _PAUSE_S = 5.0, 0.01
_PREFIX: Final = b"cluster/"
_SETTINGS: Final = ("log.segment_size=8MiB", "clean.disk_reserve=1MiB")
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)
_AGAIN: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(slots=True)
class Ledger:
    """What was acknowledged, and when."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    moments: list[float] = field(default_factory=list)
    until: float = math.inf  # the first write acknowledged later sets `reached`
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False

    def acknowledged(self, key: bytes, value: bytes) -> None:
        self.values[key] = value
        self.moments.append(time.monotonic())
        if self.moments[-1] >= self.until:
            self.reached.set()


class Node:
    """One daemon and a connection to it."""

    def __init__(self, local: LocalNode) -> None:
        self.local = local
        self.process: subprocess.Popen[bytes] | None = None
        self.channel = grpc.aio.insecure_channel(local.grpc, _OPTIONS)
        self.kv: Any = KVServiceStub(self.channel)
        self.cluster: Any = ClusterServiceStub(self.channel)

    def start(self) -> None:
        """Does not wait."""
        self.process = self.local.start()

    async def ready(self) -> None:
        """Wait until it serves, and has what the leader has. Raises CommandError."""
        assert self.process is not None
        await asyncio.to_thread(wait_until_ready, {self.local: self.process})

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def held(self, revision: int) -> dict[bytes, bytes]:
        """What this member itself holds at a revision that it has applied."""
        found: dict[bytes, bytes] = {}
        request = kv_pb2.ScanRequest(
            prefix=_PREFIX, revision=revision, consistency=kv_pb2.CONSISTENCY_SERIALIZABLE
        )
        while True:
            page = await self.kv.Scan(request)
            found.update((pair.key, pair.value) for pair in page.kvs)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


async def run(stage: Stage) -> Report:
    """Losses are in the report. Raises grpc.RpcError, CommandError for what else goes wrong."""
    report = Report("Cluster")
    locals_ = await asyncio.to_thread(prepare, stage.scratch / "cluster", _NODES, _SETTINGS)
    async with AsyncExitStack() as stack:
        nodes = [Node(local) for local in locals_]
        for node in nodes:
            stack.push_async_callback(node.channel.close, None)
        stack.callback(_stop, nodes)
        begun = time.monotonic()
        for node in nodes:
            node.start()
        for node in nodes:
            await node.ready()
        leader = await _leader(nodes)
        text = f"{_NODES} daemons, {leader.local.name} leads, after {_since(begun)}"
        stage.say(f"cluster: {text}")
        report.add("members", text)
        ledger = Ledger()
        await _write_through_a_kill(stage, nodes, leader, ledger, report)
        await _come_back(stage, leader, ledger, report)
        await _compare(stage, nodes, ledger, report)
    return report


async def _write_through_a_kill(
    stage: Stage, nodes: list[Node], leader: Node, ledger: Ledger, report: Report
) -> None:
    async with asyncio.TaskGroup() as group:
        for i in range(_WRITERS):
            group.create_task(_write(nodes, i, ledger))
        await asyncio.sleep(_BEFORE_S)
        before, killed = len(ledger.moments), time.monotonic()
        leader.kill()
        try:
            others = [node for node in nodes if node is not leader]
            next_leader = await _leader(others)
            ledger.until = killed + _AFTER_S
            async with asyncio.timeout(_PATIENCE_S):
                await ledger.reached.wait()
        except TimeoutError:
            raise CommandError("no write was acknowledged after the leader was killed") from None
        finally:
            ledger.stopping = True
    stage.say(f"SIGKILL of {leader.local.name}, which led, after {before} acknowledged writes")
    gap = _gap(ledger.moments, killed)
    stage.say(f"{next_leader.local.name} leads; no write was acknowledged for {gap:.2f} s")
    report.add("before", f"{before} writes acknowledged in {_BEFORE_S:.1f} s, through all members")
    report.add("killed", f"{leader.local.name}, the leader; {next_leader.local.name} leads")
    report.add("without writes", f"{gap:.2f} s")


async def _write(nodes: list[Node], writer: int, ledger: Ledger) -> None:
    """One key after the other, each until it is acknowledged, whoever has to be asked."""
    number, member = 0, writer
    while not ledger.stopping:
        key = _PREFIX + b"%d/%06d" % (writer, number)
        request = kv_pb2.PutRequest(key=key, value=b"%d" % number, request_id=uuid.uuid4().hex)
        while True:
            try:
                await nodes[member % len(nodes)].kv.Put(request, timeout=_TRY_S)
                break
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
                    raise
                member += 1
                await asyncio.sleep(_PAUSE_S)
        ledger.acknowledged(key, request.value)
        number += 1


async def _come_back(stage: Stage, node: Node, ledger: Ledger, report: Report) -> None:
    begun = time.monotonic()
    node.start()
    await node.ready()
    text = f"{node.local.name} in {_since(begun)}, with the start of the process"
    stage.say(f"restarted {text}")
    report.add("caught up", text)


async def _compare(stage: Stage, nodes: list[Node], ledger: Ledger, report: Report) -> None:
    """Everything acknowledged is on each member, and they hold the same."""
    newest = max([(await node.kv.Get(kv_pb2.GetRequest(key=b"-"))).revision for node in nodes])
    digests = set()
    for node in nodes:
        await node.kv.Get(kv_pb2.GetRequest(key=b"-"))  # so it has applied what is newest
        held = await node.held(newest)
        for key, value in ledger.values.items():
            if held.get(key) != value:
                report.losses.append(f"{node.local.name}: {key.decode()}: missing or different")
        digest = hashlib.sha256()
        for key, value in sorted(held.items()):
            digest.update(key + b"\0" + value + b"\0")
        digests.add(digest.digest())
    if len(digests) != 1:
        report.losses.append("the members differ")
    text = f"{len(ledger.values)} writes on each of {len(nodes)} members"
    stage.say(f"checking: {text}, {len(report.losses)} lost, equal: {len(digests) == 1}")
    report.add("verified", text)
    report.add("lost", f"{len(report.losses)}")


async def _leader(nodes: list[Node]) -> Node:
    """The one of them that leads, as soon as one does. Raises CommandError."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                for node in nodes:
                    with suppress(grpc.aio.AioRpcError):
                        view = await node.cluster.GetCluster(cluster_pb2.GetClusterRequest())
                        if view.leader_id == view.member_id:
                            return node
                await asyncio.sleep(_PAUSE_S)
    raise CommandError("no leader was elected")


def _gap(moments: list[float], killed: float) -> float:
    """The longest time without an acknowledged write from the kill on."""
    after = [moment for moment in moments if moment > killed]
    return max(b - a for a, b in zip([killed, *after], after, strict=False))


def _since(begun: float) -> str:
    return f"{time.monotonic() - begun:.2f} s"


def _stop(nodes: list[Node]) -> None:
    running = [n.process for n in nodes if n.process is not None and n.process.poll() is None]
    stop_all(running)

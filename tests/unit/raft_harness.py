"""Members of a cluster in this process: real stores on simulated machines, real Raft, and a network
that is a list. Nothing happens that the test did not ask for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from google.protobuf.message import Message as Request

from bedplate.consensus.messages import Message
from bedplate.consensus.raft import Raft
from bedplate.consensus.raft_store import RaftStore
from bedplate.consensus.ready import Settings
from bedplate.consensus.replica import Replica, ReplicaSettings
from bedplate.native.completions import CompletionQueue
from bedplate.native.errors import StoreError
from bedplate.native.options import Options
from bedplate.native.simulation import SimulatedMachine, SteppedStore
from bedplate.native.store import Keyspace, Method

SEGMENT = 8 << 20
CLUSTER_ID = bytes(range(16))
TICK_MS = 100


@dataclass(slots=True)
class Network:
    """What is on its way. `cut` members neither send nor receive."""

    messages: list[Message] = field(default_factory=list)
    batches: list[tuple[int, int, int, bytes]] = field(default_factory=list)  # from, to, name, ..
    cut: set[int] = field(default_factory=set)
    snapshots: list[tuple[int, int]] = field(default_factory=list)


class Outbox:
    """One member's way to the others."""

    def __init__(self, member: int, network: Network) -> None:
        self._member = member
        self._network = network

    def send(self, message: Message) -> None:
        if not {message.source, message.target} & self._network.cut:
            self._network.messages.append(message)

    def forward(self, leader: int, batch: int, requests: bytes) -> bool:
        if {self._member, leader} & self._network.cut:
            return False
        self._network.batches.append((self._member, leader, batch, requests))
        return True

    def send_snapshot(self, member: int) -> None:
        self._network.snapshots.append((self._member, member))


class Node:
    """A machine and what runs on it."""

    def __init__(self, member: int, network: Network, options: Options) -> None:
        self.member = member
        self.machine = SimulatedMachine(member)
        self.answers: dict[int, bytes | StoreError] = {}
        self._network = network
        self._options = options
        self._random = Random(member)
        self.start()

    def start(self) -> None:
        self.store: SteppedStore = self.machine.open(self._options)
        self.queue: CompletionQueue = self.store.queue()
        self.raft_store = RaftStore(self.store)
        log, hard_state = self.raft_store.take()
        raft = Raft(
            self.member,
            settings=Settings(),
            log=log,
            hard_state=hard_state,
            reach=self.raft_store.reach,
            random=self._random.randrange,
        )
        self.replica = Replica(
            raft, self.raft_store, Outbox(self.member, self._network), ReplicaSettings()
        )
        self.forwarded: dict[int, tuple[int, int]] = {}

    def stop(self) -> None:
        """As a crash leaves it."""
        self.queue.close()
        self.store.abandon()

    def power_cut(self, keep_per_1024: int = 0) -> None:
        self.stop()
        self.machine.power_cut(keep_per_1024)
        self.start()

    def submit(self, method: Method, request: Request, cookie: int) -> None:
        self.store.submit_wire(
            self.queue, method, Keyspace.USER, request.SerializeToString(), cookie
        )

    def close(self) -> None:
        self.queue.close()
        self.store.close()
        self.machine.close()


class Cluster:
    """Members 1 .. n."""

    def __init__(self, n: int = 3) -> None:
        self.network = Network()
        self.nodes: dict[int, Node] = {}
        voters = tuple(range(1, n + 1))
        for member in voters:
            self.add(member, n_members=n, members=voters, clustered=1)
        self._cookies = 1 << 40

    def add(self, member: int, **how: object) -> Node:
        options = Options(
            dir="store",
            segment_size=SEGMENT,
            disk_reserve=1,
            cluster_id=CLUSTER_ID,
            member_id=member,
            **how,  # type: ignore[arg-type]
        )
        node = self.nodes[member] = Node(member, self.network, options)
        return node

    @property
    def live(self) -> Iterable[Node]:
        return [node for member, node in self.nodes.items() if member not in self.network.cut]

    def settle(self) -> None:
        """Until nothing is left to do but to wait for the clock."""
        for _ in range(10_000):
            busy = False
            for node in self.live:
                busy |= node.replica.turn()
                busy |= bool(node.store.step_log())
                busy |= bool(node.store.step_apply())
                busy |= self._take_answers(node)
            if not (self._deliver() or busy):
                return
        raise AssertionError("the cluster does not come to rest")

    def tick(self, n: int = 1) -> None:
        for _ in range(n):
            for node in self.live:
                node.machine.advance(TICK_MS)
                node.store.tick()
                node.replica.tick()
            self.settle()

    def lead(self) -> Node:
        """Ticks until one leads; that one."""
        for _ in range(200):
            self.tick()
            leaders = [node for node in self.live if node.replica.raft.is_leader]
            if leaders:
                return max(leaders, key=lambda node: node.replica.raft.term)
        raise AssertionError("no leader")

    def followers(self) -> list[Node]:
        return [node for node in self.live if not node.replica.raft.is_leader]

    def _deliver(self) -> bool:
        messages, self.network.messages = self.network.messages, []
        for message in messages:
            if message.target in self.nodes and message.target not in self.network.cut:
                self.nodes[message.target].replica.receive(message)
        batches, self.network.batches = self.network.batches, []
        for source, leader, batch, requests in batches:
            self._submit_batch(source, leader, batch, requests)
        return bool(messages or batches)

    def _submit_batch(self, source: int, leader: int, batch: int, requests: bytes) -> None:
        node = self.nodes[leader]
        self._cookies += 1
        try:
            node.store.submit_forwarded(node.queue, requests, self._cookies)
            node.forwarded[self._cookies] = (source, batch)
        except StoreError:
            self.nodes[source].replica.batch_refused(batch)

    def _take_answers(self, node: Node) -> bool:
        busy = False

        def take(cookie: int, reply: bytes, aux: int, error: StoreError | None) -> None:
            nonlocal busy
            busy = True
            if cookie not in node.forwarded:
                node.answers[cookie] = reply if error is None else error
                return
            source, batch = node.forwarded.pop(cookie)
            if source not in self.network.cut:
                self.nodes[source].raft_store.answer(reply)
                self.nodes[source].replica.batch_done(batch)

        while node.queue.take(take):
            pass
        return busy

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()

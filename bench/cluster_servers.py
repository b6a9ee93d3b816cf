"""Clusters of servers on loopback: ours and etcd's, each member a process that can be killed,
paused and started again on its directory.
"""

import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.process import BenchError, free_port
from bench.servers import ETCD_QUOTA_BYTES, Api, Endpoint, etcd_programs
from bench.setting import OUR_PROGRAMS, Setting

NODES = 3
PATIENCE_S = 120.0


@dataclass(slots=True)
class Node:
    """One member. `endpoint` is where it answers, while it runs."""

    name: str
    api: Api
    argv: list[str]
    directory: Path
    address: str
    metrics_url: str  # "": told by the address file
    process: subprocess.Popen[bytes] | None = None
    paused: bool = False

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def endpoint(self) -> Endpoint:
        assert self.process is not None
        return Endpoint(self.name, self.api, self.address, self.metrics_url, self.process.pid)

    @property
    def ready(self) -> bool:
        """Whether one of ours has caught up and can serve."""
        url = self.metrics_url.replace("/metrics", "/readyz")
        try:
            with urllib.request.urlopen(url, timeout=10):
                return True
        except OSError:
            return False

    def metric(self, name: str, **labels: str) -> float:
        """The sum over samples with these labels; 0 without one. Raises BenchError."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        total = 0.0
        for found in re.finditer(rf"^{name}(?:{{(.*)}})? (\S+)$", self.endpoint.metrics(), re.M):
            if wanted <= set((found[1] or "").split(",")):
                total += float(found[2])
        return total


@dataclass(slots=True)
class Cluster:
    """Some members of one kind."""

    setting: Setting
    name: str
    api: Api
    nodes: list[Node] = field(default_factory=list)

    def start(self, node: Node) -> None:
        """Start the process; `await_serving` waits until it answers."""
        self.setting.journal.note(node.argv)
        (node.directory / "address.json").unlink(missing_ok=True)
        with (node.directory / "log").open("ab") as output:
            node.process = subprocess.Popen(
                node.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def await_serving(self, node: Node) -> None:
        """Wait until it answers. Raises BenchError."""
        if self.api != "bedplate":
            return
        address_file = node.directory / "address.json"
        wait(lambda: address_file.exists() or not node.running, f"{node.name} to serve")
        if not node.running:
            said = (node.directory / "log").read_text(encoding="utf-8", errors="replace")
            raise BenchError(f"{node.name} ended: {said[-300:]}")
        content = json.loads(address_file.read_text(encoding="utf-8"))
        node.metrics_url = f"http://{content['http']}/metrics"

    def kill(self, node: Node) -> None:
        assert node.process is not None
        node.process.kill()
        node.process.wait()
        node.paused = False

    def pause(self, node: Node) -> None:
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)
        node.paused = True

    def resume(self, node: Node) -> None:
        assert node.process is not None
        node.process.send_signal(signal.SIGCONT)
        node.paused = False

    def leader(self) -> Node:
        """Who leads, once somebody does. Raises BenchError."""
        found: list[Node] = []

        def somebody() -> bool:
            found[:] = [node for node in self.nodes if self._leads(node)]
            return len(found) == 1

        wait(somebody, f"{self.name} to have a leader")
        return found[0]

    def followers(self) -> list[Node]:
        leader = self.leader()
        return [node for node in self.nodes if node is not leader]

    def addresses(self) -> str:
        """For the load generator."""
        return ",".join(node.address for node in self.nodes)

    def term(self) -> float:
        """The newest term, or the number of leaders etcd has seen."""
        name = "bedplate_raft_term"
        if self.api == "etcd":
            name = "etcd_server_leader_changes_seen_total"
        return max(node.metric(name) for node in self.nodes)

    def applied(self, node: Node) -> float:
        """How far the member is; -1 while it does not say."""
        name = "bedplate_raft_applied_index"
        if self.api == "etcd":
            name = "etcd_server_proposals_applied_total"
        try:
            return node.metric(name)
        except BenchError:
            return -1.0

    def level(self) -> None:
        """Wait until all have applied what the leader has by now. Raises BenchError."""
        target = self.applied(self.leader())
        wait(lambda: all(self.applied(n) >= target for n in self.nodes), f"{self.name} to be level")

    def stop(self) -> None:
        for node in self.nodes:
            if node.running:
                assert node.process is not None
                if node.paused:
                    self.resume(node)
                node.process.send_signal(signal.SIGTERM)
        for node in self.nodes:
            if node.process is not None:
                try:
                    node.process.wait(20)
                except subprocess.TimeoutExpired:
                    node.process.kill()
                    node.process.wait()

    def _leads(self, node: Node) -> bool:
        if not node.running or node.paused:
            return False
        try:
            if self.api == "etcd":
                return node.metric("etcd_server_is_leader") == 1
            return node.metric("bedplate_raft_role", role="leader") == 1
        except BenchError:
            return False


def wait(until: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> float:
    """Ask until it is true; the seconds that took. Raises BenchError."""
    begun = time.monotonic()
    while not until():
        if time.monotonic() - begun > seconds:
            raise BenchError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.02)
    return time.monotonic() - begun


@contextmanager
def bedplate_cluster(setting: Setting, nodes: int = NODES) -> Iterator[Cluster]:
    """Ours with its defaults, founded by all members together."""
    cluster = Cluster(setting, "Bedplate", "bedplate")
    peers = [f"127.0.0.1:{free_port()}" for _ in range(nodes)]
    for number, address in enumerate(peers, 1):
        our_node(cluster, number, address, f"peers = {json.dumps(peers)}")
    yield from _running(cluster)


def our_node(cluster: Cluster, number: int, address: str, membership: str) -> Node:
    """A member of ours that does not run yet."""
    directory = cluster.setting.directory(f"bedplate{number}")
    config = directory / "bedplated.toml"
    config.write_text(
        f'[server]\ndata_dir = "{directory / "data"}"\ngrpc = "{address}"\nhttp = "127.0.0.1:0"\n'
        f'address_file = "{directory / "address.json"}"\n\n[cluster]\n{membership}\n',
        encoding="utf-8",
    )
    argv = [str(OUR_PROGRAMS / "bedplated"), "--config", str(config)]
    node = Node(f"Bedplate {number}", "bedplate", argv, directory, address, "")
    cluster.nodes.append(node)
    return node


@contextmanager
def etcd_cluster(setting: Setting, nodes: int = NODES) -> Iterator[Cluster]:
    """The newest etcd, durable as it comes, with room enough for the data. Raises BenchError."""
    programs = etcd_programs()
    name = max(programs, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    cluster = Cluster(setting, name, "etcd")
    clients = [free_port() for _ in range(nodes)]
    peers = [free_port() for _ in range(nodes)]
    initial = ",".join(f"n{i}=http://127.0.0.1:{port}" for i, port in enumerate(peers))
    for i, (client, peer) in enumerate(zip(clients, peers, strict=True)):
        directory = setting.directory(f"etcd{i}")
        client_url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        argv = [programs[name], "--name", f"n{i}", "--data-dir", str(directory / "data")]
        argv += ["--log-level", "error", "--initial-cluster", initial]
        argv += ["--listen-client-urls", client_url, "--advertise-client-urls", client_url]
        argv += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
        argv += [f"--quota-backend-bytes={ETCD_QUOTA_BYTES}"]
        address = f"127.0.0.1:{client}"
        cluster.nodes.append(
            Node(f"{name} {i}", "etcd", argv, directory, address, f"{client_url}/metrics")
        )
    yield from _running(cluster)


def _running(cluster: Cluster) -> Iterator[Cluster]:
    try:
        for node in cluster.nodes:
            cluster.start(node)
        for node in cluster.nodes:
            cluster.await_serving(node)
        cluster.leader()
        cluster.level()
        yield cluster
    finally:
        cluster.stop()

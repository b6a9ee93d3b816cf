"""Members that come back, and members that are new, while others write."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from bedplate.api.cluster.v1 import cluster_pb2 as pb
from bedplate.api.cluster.v1.cluster_pb2_grpc import ClusterServiceStub
from bench.cluster_servers import Cluster, Node, bedplate_cluster, our_node, wait
from bench.process import BenchError, Record, cpu_seconds, free_port
from bench.report import Row
from bench.setting import Setting, load_program
from bench.stats import short

BEHIND = 0.1
CATCH_UP_S_MOST = 5.0
INSTALL_BYTES_PER_S_LEAST = 100e6
P99_RATIO_MOST = 3.0
VALUE_BYTES = 16 << 10
IDLE_LOAD = ("--inflight", "16", "--keys", "10000", "--seed", "7")


def restart(setting: Setting) -> list[Row]:
    """A follower is away while a tenth of the keys changes, and comes back under load."""
    keys, changed = setting.keys, int(setting.keys * BEHIND)
    fill = ("--ops", "100", "--inflight", "16", "--keys", str(keys))
    with bedplate_cluster(setting) as cluster:
        leader = cluster.leader()
        _load(setting, leader, "batch", *fill, "--count", str(keys // 100), "--order", "ascending")
        cluster.level()
        follower = cluster.followers()[0]
        cluster.kill(follower)
        _load(setting, leader, "batch", *fill, "--count", str(changed // 100))
        with _writing(setting, cluster.leader()) as during:
            begun = time.monotonic()
            cluster.start(follower)
            cluster.await_serving(follower)
            listening = time.monotonic() - begun
            wait(lambda: _level(cluster, follower), "the follower to catch up")
            took = time.monotonic() - begun
        during()
    return [
        Row(
            f"3 nodes: restart of a follower, {keys} keys, {changed} behind, under load",
            f"{short(took)} s from the start of its process ({short(listening)} s until it serves)",
            goal=f"<= {CATCH_UP_S_MOST:g} s",
            met=took <= CATCH_UP_S_MOST,
        )
    ]


def snapshot(setting: Setting) -> list[Row]:
    """A new member gets everything; put latency meanwhile."""
    size = setting.object_bytes
    keys = size // VALUE_BYTES
    with bedplate_cluster(setting) as cluster:
        leader = cluster.leader()
        fill = ("--keys", str(keys), "--value-size", str(VALUE_BYTES), "--order", "ascending")
        count = ("--ops", "64", "--inflight", "4", "--count", str(keys // 64))
        _load(setting, leader, "batch", *fill, *count)
        cluster.level()
        idle = _load(setting, leader, "put", *IDLE_LOAD, "--seconds", "8")
        address = f"127.0.0.1:{free_port()}"
        _add(leader, address)
        joiner = our_node(cluster, len(cluster.nodes) + 1, address, f'join = ["{leader.address}"]')
        with _writing(setting, leader) as during:
            begun = time.monotonic()
            cluster.start(joiner)
            before = _cpu_seconds(cluster)
            cluster.await_serving(joiner)
            wait(lambda: _level(cluster, joiner), "the new member to catch up")
            took = time.monotonic() - begun
            spent = {name: s - before[name] for name, s in _cpu_seconds(cluster).items()}
        busy = during()
    ratio = busy["p99_us"] / idle["p99_us"]
    speed = size / took
    return [
        Row(
            f"3 nodes: a new member gets {short(size / (1 << 20))} MiB, under load",
            f"{short(speed / 1e6)} MB/s, {short(took)} s from the start of its process",
            goal=f">= {INSTALL_BYTES_PER_S_LEAST / 1e6:g} MB/s",
            met=speed >= INSTALL_BYTES_PER_S_LEAST,
        ),
        Row(
            "3 nodes: put p99 meanwhile, 16 in flight",
            f"{short(busy['p99_us'] / 1e3)} ms, idle {short(idle['p99_us'] / 1e3)} ms",
            ratio=f"{short(ratio)} x",
            goal=f"<= {P99_RATIO_MOST:g} x",
            met=ratio <= P99_RATIO_MOST,
            profile=_who_had_the_cpu(spent, took, leader),
        ),
    ]


def _cpu_seconds(cluster: Cluster) -> dict[str, float]:
    return {node.name: cpu_seconds(node.endpoint.pid) for node in cluster.nodes}


def _who_had_the_cpu(spent: dict[str, float], took: float, leader: Node) -> str:
    """Where a put waited: all members and the load share one machine's cores."""
    shares = [
        f"{name}{' (leads)' if name == leader.name else ''} {short(seconds)} s"
        for name, seconds in spent.items()
    ]
    return (
        f"In the {short(took)} s the members spent of {os.cpu_count()} cores' time: "
        f"{', '.join(shares)}; the last one is the new member, and the load generator comes on top."
    )


def _load(setting: Setting, node: Node, work: str, *options: str) -> Record:
    return setting.load(work, *node.endpoint.arguments(), *options)


def _level(cluster: Cluster, node: Node) -> bool:
    """Whether it has applied what the leader had applied a moment ago. Metrics cost a member some
    ms of its only loop, so they are not asked before it says that it is ready.
    """
    if not node.running:
        raise BenchError(f"{node.name} ended: {(node.directory / 'log').read_text()[-300:]}")
    if not node.ready:
        return False
    target = cluster.applied(cluster.leader())
    return cluster.applied(node) >= target > 0


def _add(node: Node, address: str) -> None:
    with grpc.insecure_channel(node.address) as channel:
        stub: Any = ClusterServiceStub(channel)
        stub.AddMember(pb.AddMemberRequest(address=address), timeout=30)


@contextmanager
def _writing(setting: Setting, node: Node) -> Iterator[Callable[[], Record]]:
    """Puts at the leader until the block ends; then what they were like."""
    argv = [str(load_program()), "put", *node.endpoint.arguments(), *IDLE_LOAD, "--until-eof"]
    setting.journal.note(argv)
    writer = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said = ""

    def result() -> Record:
        lines = [line for line in said.splitlines() if line.startswith("{")]
        if writer.returncode != 0 or not lines:
            raise BenchError(f"the load meanwhile gave {writer.returncode}")
        record: Record = json.loads(lines[-1])
        return record

    try:
        yield result
        said, _ = writer.communicate(timeout=60)
    finally:
        writer.kill()
        writer.wait()

"""Writes through a leader, beside etcd's, and what Raft itself costs of them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from bench.cluster_servers import Cluster, Node, bedplate_cluster, etcd_cluster
from bench.comparison import Comparison
from bench.network import BATCH_INFLIGHT, BATCH_OPS, UNARY_INFLIGHT, UNARY_KEYS, System
from bench.process import cpu_seconds
from bench.report import Row
from bench.servers import Endpoint
from bench.setting import Setting
from bench.stats import Spread, short

BATCH_RATIO = 2.0
TURN_MS_MOST, PUT_US_MOST = 1.0, 15.0
TURN = "bedplate_raft_turn_seconds"


@contextmanager
def _both(setting: Setting) -> Iterator[tuple[Cluster, Cluster]]:
    with bedplate_cluster(setting) as ours, etcd_cluster(setting) as etcd:
        yield ours, etcd


def batches(setting: Setting) -> list[Row]:
    """Batches of 100 puts, 16 in flight."""
    options = ["--inflight", str(BATCH_INFLIGHT), "--ops", str(BATCH_OPS)]
    options += ["--keys", str(setting.keys), "--seconds", str(setting.seconds)]
    with _both(setting) as (ours, etcd):
        mine, other = (System(setting, cluster.leader().endpoint) for cluster in (ours, etcd))
        comparison = Comparison(
            f"3 nodes: Batch of {BATCH_OPS} puts, {BATCH_INFLIGHT} in flight",
            "k puts/s",
            1e3,
            ratio_least=BATCH_RATIO,
            goal=f">= {BATCH_RATIO:g}x etcd's {BATCH_OPS}-op Txn",
        )
        rival = {etcd.name: partial(other.speed, other.batch_work(), *options)}
        row = comparison.row(setting, partial(mine.speed, mine.batch_work(), *options), rival)
        return [row, *_cost(setting, ours, "batch", options, BATCH_OPS, None)]


def unary(setting: Setting) -> list[Row]:
    """One put a call, 64 in flight, at the leader and at a follower."""
    options = ["--inflight", str(UNARY_INFLIGHT), "--keys", str(UNARY_KEYS)]
    options += ["--seconds", str(setting.seconds)]
    rows = []
    with _both(setting) as (ours, etcd):
        for place in ("leader", "follower"):
            mine, other = (System(setting, _at(cluster, place)) for cluster in (ours, etcd))
            for system in (mine, other):
                fill = (
                    "--ops",
                    "100",
                    "--count",
                    str(UNARY_KEYS // 100),
                    "--keys",
                    str(UNARY_KEYS),
                )
                system.load(system.batch_work(), *fill, "--order", "ascending")
            comparison = Comparison(
                f"3 nodes: unary put at the {place}, {UNARY_INFLIGHT} in flight",
                "k/s",
                1e3,
                goal="printed beside etcd" if place == "leader" else "",
                rounds=setting.few_rounds,
            )
            rival = {etcd.name: partial(other.speed, "put", *options)}
            rows.append(comparison.row(setting, partial(mine.speed, "put", *options), rival))
        rows += _cost(setting, ours, "put", options, 1, PUT_US_MOST)
    return rows


def _at(cluster: Cluster, place: str) -> Endpoint:
    node = cluster.leader() if place == "leader" else cluster.followers()[0]
    return node.endpoint


def _cost(
    setting: Setting,
    cluster: Cluster,
    work: str,
    options: list[str],
    puts_a_call: int,
    put_us_most: float | None,
) -> list[Row]:
    """Python's time in the leader's loop, from its own histogram."""
    leader = cluster.leader()
    mean_ms, p99_ms, put_us, process_us = [], [], [], []
    for _ in setting.each_round(f"Raft's own cost, {work}", setting.few_rounds):
        before, cpu = _turns(leader), cpu_seconds(leader.endpoint.pid)
        record = setting.load(work, *leader.endpoint.arguments(), *options)
        after = _turns(leader)
        puts = record["ok"] * puts_a_call
        seconds, turns = after[0] - before[0], after[1] - before[1]
        mean_ms.append(seconds / turns * 1e3)
        p99_ms.append(_percentile_ms(before[2], after[2], 0.99))
        put_us.append(seconds / puts * 1e6)
        process_us.append((cpu_seconds(leader.endpoint.pid) - cpu) / puts * 1e6)
    met = Spread.of(mean_ms).median <= TURN_MS_MOST
    cost = Spread.of(put_us)
    return [
        Row(
            f"Raft's own cost per Ready, {work} load",
            f"{Spread.of(mean_ms).text('ms')} mean, p99 below {short(max(p99_ms))} ms",
            goal=f"<= {TURN_MS_MOST:g} ms",
            met=met,
            spreads={"mean_ms": Spread.of(mean_ms), "p99_ms": Spread.of(p99_ms)},
        ),
        Row(
            f"Raft's own cost per put, {work} load",
            f"{cost.text('us')}; the leader's process {Spread.of(process_us).text('us')}",
            goal=f"<= {put_us_most:g} us" if put_us_most else "",
            met=cost.median <= put_us_most if put_us_most else None,
            spreads={"put_us": cost, "process_us": Spread.of(process_us)},
        ),
    ]


Buckets = dict[float, float]


def _turns(node: Node) -> tuple[float, float, Buckets]:
    """Seconds, turns, and turns by upper bound in seconds."""
    text = node.endpoint.metrics()
    buckets = {
        float(bound): float(count)
        for bound, count in re.findall(rf'^{TURN}_bucket{{le="([^"]+)"}} (\S+)$', text, re.M)
    }
    return node.metric(f"{TURN}_sum"), node.metric(f"{TURN}_count"), buckets


def _percentile_ms(before: Buckets, after: Buckets, share: float) -> float:
    """The bound below which that share of the turns between two looks lies."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    total = max(counts.values(), default=0.0)
    return next((b * 1e3 for b, count in counts.items() if count >= share * total), float("nan"))

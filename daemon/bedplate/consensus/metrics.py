"""The cluster as Prometheus metrics, read at each scrape. Of a daemon that is alone: its role."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bedplate.consensus.cluster import Cluster
from bedplate.consensus.member import Member
from bedplate.consensus.node import TURN_BOUNDS_S, Counters
from bedplate.consensus.snapshot_counters import SnapshotCounters
from bedplate.errors import BedplateError
from bedplate.telemetry.store_metrics import cumulative

_ROLES: Final = ("leader", "follower", "candidate", "learner")


class ClusterCollector(Collector):
    """Yields little while the store is not open."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def collect(self) -> Iterator[Metric]:
        yield from _snapshots(self._cluster.snapshot_counters)
        try:
            own = self._cluster.store.member
        except BedplateError:
            return
        role = GaugeMetricFamily(
            "bedplate_raft_role", "1 for this member's role, 0 for the others.", labels=("role",)
        )
        for name in _ROLES:
            role.add_metric((name,), self._cluster.role == name)
        yield role
        yield _gauge("has_leader", "1 while this member knows who leads.", self._cluster.has_leader)
        if self._cluster.member is not None:
            yield from _member(self._cluster.member, own)


def _snapshots(counters: SnapshotCounters) -> Iterator[Metric]:
    for name, text, value in (
        ("snapshots_sent", "Snapshots sent and installed.", counters.sent),
        ("snapshot_send_failures", "Snapshots given up by the sender.", counters.send_failures),
        ("snapshot_bytes_sent", "Bytes of manifests and values.", counters.sent_bytes),
        ("snapshots_installed", "Snapshots installed here.", counters.installed),
        ("snapshot_install_failures", "Given up by the receiver.", counters.install_failures),
        ("snapshot_bytes_received", "Bytes of values that came.", counters.received_bytes),
        ("values_repaired", "Damaged values put back.", counters.repaired_values),
        ("repair_failures", "Damaged values that no member had.", counters.repair_failures),
    ):
        yield _counter(name, text, value)


def _member(member: Member, own: int) -> Iterator[Metric]:
    raft, counters, replica = member.raft, member.node.counters, member.node.replica
    yield _gauge("term", "The present term.", raft.term)
    yield _gauge("commit_index", "The last entry known committed.", raft.commit)
    yield _gauge("applied_index", "The last entry applied.", replica.state.applied)
    yield _gauge("first_index", "The oldest entry that others can get.", raft.log.first)
    yield _gauge("last_index", "The last entry of the log.", raft.log.last)
    yield _gauge("log_bytes", "Of the entries that others can get.", replica.state.log_bytes)
    yield _gauge("slowing", "0: writes are not slowed; 1: all they can be.", replica.brake.strength)
    slowed_s = replica.brake.slowed_ticks * replica.brake.tick_ms / 1000
    yield _counter("slowed_seconds", "Time in which writes were slowed.", slowed_s)
    yield _gauge("quarantined", "1 once out of service.", bool(member.out_of_service))
    yield _counter("leader_changes", "New leaders seen.", counters.leader_changes)
    yield _counter("messages_sent", "Messages to other members.", member.transport.sent)
    yield _counter("messages_received", "Messages of other members.", counters.received)
    yield from _peers(member, own)
    yield _turns(counters)


def _peers(member: Member, own: int) -> Iterator[Metric]:
    labels = ("peer",)
    lag = GaugeMetricFamily(
        "bedplate_raft_peer_lag", "Entries a member is behind; of the leader.", labels=labels
    )
    rtt = GaugeMetricFamily(
        "bedplate_raft_peer_rtt_seconds", "How long the last ping took.", labels=labels
    )
    up = GaugeMetricFamily(
        "bedplate_raft_peer_up", "1 while the member can be talked to.", labels=labels
    )
    rtts = member.transport.rtts()
    for other in sorted(member.membership.members - {own}):
        label = (f"{other:016x}",)
        progress = member.raft.progress.get(other)
        if progress is not None:
            lag.add_metric(label, member.raft.log.last - progress.match)
        if other in rtts:
            rtt.add_metric(label, rtts[other])
        up.add_metric(label, other in rtts)
    yield from (lag, rtt, up)


def _turns(counters: Counters) -> Metric:
    return HistogramMetricFamily(
        "bedplate_raft_turn_seconds",
        "How long a turn of the member's loop took, whatever it did.",
        buckets=cumulative(tuple(counters.turns), list(TURN_BOUNDS_S)),
        sum_value=counters.turn_seconds,
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"bedplate_raft_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"bedplate_raft_{name}", text, value=value)

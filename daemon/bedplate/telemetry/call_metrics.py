"""The guard's counters as Prometheus metrics: calls by method and code, latency, in flight."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bedplate.errors import Code
from bedplate.native.guard import Guard
from bedplate.telemetry.store_metrics import cumulative

_LABELS: Final = ("service", "method")


class CallCollector(Collector):
    """Every known method appears from the start, so that rates begin at 0."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._bounds = [bound / 1e9 for bound in guard.bounds_ns]

    def collect(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "bedplate_rpcs", "Calls that ended, by status.", labels=(*_LABELS, "code")
        )
        denied = CounterMetricFamily(
            "bedplate_rpcs_denied", "Calls refused before they ran.", labels=_LABELS
        )
        in_flight = GaugeMetricFamily(
            "bedplate_rpcs_in_flight", "Calls and streams open now.", labels=_LABELS
        )
        latency = HistogramMetricFamily(
            "bedplate_rpc_seconds", "How long calls took.", labels=_LABELS
        )
        for stats in self._guard.snapshot():
            where = tuple(stats.name.split("/", 1))
            for number, count in enumerate(stats.codes):
                if count or number == 0:
                    name = Code(number).name if number else "OK"
                    calls.add_metric((*where, name), count)
            denied.add_metric(where, stats.denied)
            in_flight.add_metric(where, stats.in_flight)
            buckets = cumulative(stats.latency, self._bounds)
            latency.add_metric(where, buckets, stats.latency_sum_ns / 1e9)
        yield from (calls, denied, in_flight, latency)

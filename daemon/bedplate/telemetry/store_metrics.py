"""The store's counters and sizes as Prometheus metrics, read from one Status at each scrape."""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bedplate.native.status import SYNC_BUCKET_FIRST_US, Status

Read = Callable[[Status], float]

_GAUGES: Final[tuple[tuple[str, str, Read], ...]] = (
    ("revision", "Revision of the last applied write.", lambda s: s.revision),
    ("compaction_revision", "Oldest readable revision.", lambda s: s.compaction_revision),
    ("log_bytes", "Bytes in log segments.", lambda s: s.log_bytes),
    ("settled_bytes", "Bytes in settled segments.", lambda s: s.settled_bytes),
    ("live_share", "Share of segment bytes that live values take, 0 to 1.", lambda s: s.live_share),
    ("log_segments", "Log segments.", lambda s: s.log_segments),
    ("settled_segments", "Settled segments.", lambda s: s.settled_segments),
    ("damaged_segments", "Segments that hold a damaged value.", lambda s: s.damaged_segments),
    ("index_keys", "Live keys.", lambda s: s.keys),
    ("index_versions", "Versions in the index, tombstones included.", lambda s: s.versions),
    ("index_bytes", "Memory of the index.", lambda s: s.index_bytes),
    ("index_key_bytes", "Bytes of keys in the index.", lambda s: s.key_bytes),
    ("live_value_bytes", "Bytes of live values.", lambda s: s.live_value_bytes),
    ("history_effects", "Changes held in history.", lambda s: s.history_effects),
    ("history_bytes", "Memory of the history.", lambda s: s.history_bytes),
    (
        "history_value_bytes",
        "Bytes of replaced values that history keeps on disk.",
        lambda s: s.history_value_bytes,
    ),
    ("leases", "Leases.", lambda s: s.leases),
    ("request_ids", "Request ids remembered.", lambda s: s.request_ids),
    ("watches", "Open watches.", lambda s: s.watches),
    ("open_requests", "Requests submitted and not completed.", lambda s: s.open_requests),
    ("open_request_bytes", "Bytes of those requests.", lambda s: s.open_request_bytes),
    ("disk_free_bytes", "Free disk.", lambda s: s.disk_free_bytes),
    ("disk_total_bytes", "Size of the disk.", lambda s: s.disk_total_bytes),
    (
        "disk_reserve_bytes",
        "Free disk that writes leave untouched.",
        lambda s: s.disk_reserve_bytes,
    ),
    ("disk_full", "1 while writes are refused for want of disk.", lambda s: s.disk_full),
    ("log_poisoned", "1 once a sync of the log failed.", lambda s: s.poisoned),
    (
        "checkpoint_age_seconds",
        "Age of the newest checkpoint.",
        lambda s: s.checkpoint_age_ms / 1e3,
    ),
    ("checkpoint_bytes", "Size of the newest checkpoint.", lambda s: s.checkpoint_bytes),
    ("recovery_seconds", "Time the last start took to recover.", lambda s: s.recovery_ms / 1e3),
    ("recovery_entries", "Log entries it replayed.", lambda s: s.recovery_entries),
    ("recovery_log_bytes", "Log bytes it read.", lambda s: s.recovery_log_bytes),
    (
        "recovery_discarded_bytes",
        "Bytes of unacknowledged writes it discarded.",
        lambda s: s.recovery_discarded_bytes,
    ),
    ("fsync_max_seconds", "The longest sync of the log so far.", lambda s: s.sync_ns_max / 1e9),
)

_COUNTERS: Final[tuple[tuple[str, str, Read], ...]] = (
    ("appended_bytes", "Bytes appended to the log.", lambda s: s.bytes_appended),
    ("appended_value_bytes", "Bytes of values among them.", lambda s: s.value_bytes_appended),
    ("slow_fsyncs", "Syncs of the log that took over 1 s.", lambda s: s.slow_syncs),
    ("checkpoints", "Checkpoints written.", lambda s: s.checkpoints),
    ("checkpoint_failures", "Checkpoints that failed.", lambda s: s.checkpoint_failures),
    ("cleaned_segments", "Segments cleaned and removed.", lambda s: s.cleaned_segments),
    ("cleaned_bytes", "Bytes that cleaning copied.", lambda s: s.cleaned_bytes),
    ("scrubbed_bytes", "Bytes checked by scrubs.", lambda s: s.scrubbed_bytes),
    ("scrub_findings", "Damage found by scrubs.", lambda s: s.scrub_findings),
    ("failpoint_hits", "Faults injected by failpoints; tests.", lambda s: s.failpoint_hits),
    ("watches_too_slow", "Watches cancelled as too slow.", lambda s: s.watch_lag_cancels),
)


class StoreCollector(Collector):
    """Yields nothing while `read` returns None: the store is not open."""

    def __init__(self, read: Callable[[], Status | None]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        status = self._read()
        if status is None:
            return
        for name, text, value in _GAUGES:
            yield GaugeMetricFamily(f"bedplate_{name}", text, value=value(status))
        for name, text, value in _COUNTERS:
            yield CounterMetricFamily(f"bedplate_{name}", text, value=value(status))
        yield _fsync_seconds(status)
        yield _group_requests(status)


def _fsync_seconds(status: Status) -> Metric:
    bounds = [(SYNC_BUCKET_FIRST_US << k) / 1e6 for k in range(len(status.sync_buckets) - 1)]
    return HistogramMetricFamily(
        "bedplate_fsync_seconds",
        "How long syncs of the log took.",
        buckets=cumulative(status.sync_buckets, bounds),
        sum_value=status.sync_ns_total / 1e9,
    )


def _group_requests(status: Status) -> Metric:
    bounds = [float((2 << k) - 1) for k in range(len(status.group_buckets) - 1)]
    return HistogramMetricFamily(
        "bedplate_group_requests",
        "Requests made durable by one sync.",
        buckets=cumulative(status.group_buckets, bounds),
        sum_value=status.group_requests,
    )


def cumulative(counts: tuple[int, ...], bounds: list[float]) -> list[tuple[str, float]]:
    """Prometheus buckets from separate counts: one upper bound each, the last one open."""
    total, buckets = 0, []
    for count, bound in zip(counts, [*map(str, bounds), "+Inf"], strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets

"""The object store as Prometheus metrics, all counted as it happens: a scrape looks nothing up."""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bedplate.storage.objects.core import Counts

_GAUGES: Final[tuple[tuple[str, str, Callable[[Counts], int]], ...]] = (
    ("object_uploads", "PutObject and UploadPart streams open now.", lambda c: c.uploads),
    ("object_downloads", "GetObject streams that send data now.", lambda c: c.downloads),
    (
        "object_garbage",
        "Deleted data still to be reclaimed, in objects and uploads, as of the last look.",
        lambda c: c.garbage,
    ),
)
_COUNTERS: Final[tuple[tuple[str, str, Callable[[Counts], int]], ...]] = (
    ("object_received_bytes", "Bytes of data received by uploads.", lambda c: c.bytes_in),
    ("object_sent_bytes", "Bytes of messages with data sent by downloads.", lambda c: c.bytes_out),
    ("object_reclaimed_chunks", "Chunks of garbage deleted.", lambda c: c.chunks_reclaimed),
)


class ObjectCollector(Collector):
    """Reads `counts` at each scrape."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        for name, text, value in _GAUGES:
            yield GaugeMetricFamily(f"bedplate_{name}", text, value=value(self._counts))
        for name, text, value in _COUNTERS:
            yield CounterMetricFamily(f"bedplate_{name}", text, value=value(self._counts))

"""From configuration to the engine's options: the one place where the two vocabularies meet."""

from pathlib import Path

from bedplate.native.options import Options
from bedplate.storage.config import StorageConfig


def engine_options(config: StorageConfig, directory: Path, failpoints: str = "") -> Options:
    """How to open the store in `directory`."""
    limits = config.limits
    return Options(
        dir=str(directory),
        failpoints=failpoints,
        segment_size=config.log.segment_size,
        interval_ms=config.log.interval_ms,
        index_memory_max=config.index.memory_max,
        value_cache_bytes=config.index.value_cache or 1,  # to the engine 0 is the default
        history_ms_max=config.history.seconds_max * 1000,
        history_versions_max=config.history.versions_max,
        history_bytes_max=config.history.bytes_max,
        request_ids_max=config.kv.request_ids_max,
        leases_max=limits.leases_max,
        watches_max=limits.watches_max,
        watch_lag_max=limits.watch_lag_max,
        queue_max=limits.queue_requests_max,
        queue_bytes_max=limits.queue_bytes_max,
        checkpoint_bytes=config.checkpoint.log_bytes,
        clean_live_percent=config.clean.live_percent,
        disk_reserve=config.clean.disk_reserve,
        scrub_bytes_per_s=config.scrub.bytes_per_second,
        key_max=limits.key_bytes_max,
        value_max=limits.value_bytes_max,
        request_max=limits.request_bytes_max,
        txn_ops_max=limits.txn_ops_max,
        batch_ops_max=limits.batch_ops_max,
        scan_page_max=limits.scan_page_max,
        reply_bytes_max=limits.reply_bytes_max,
        lease_ttl_max_ms=limits.lease_ttl_seconds_max * 1000,
    )

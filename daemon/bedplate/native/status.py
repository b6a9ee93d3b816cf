"""struct bp_status as a dataclass: counters and sizes of a store at one moment."""

from dataclasses import dataclass, fields
from typing import Any

from bedplate._native import ffi

SYNC_BUCKET_FIRST_US = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The fields are those of `struct bp_status`. Counters start at 0 when the store is opened."""

    store_id: bytes
    cluster_id: bytes
    member_id: int
    term: int
    vote: int
    revision: int
    compaction_revision: int
    applied_index: int
    committed_index: int
    durable_index: int
    last_index: int
    poisoned: int
    disk_full: int
    recovering: int
    durability_interval_ms: int
    keys: int
    items: int
    versions: int
    index_bytes: int
    key_bytes: int
    live_value_bytes: int
    history_effects: int
    history_bytes: int
    history_value_bytes: int
    leases: int
    request_ids: int
    watches: int
    watch_lag_cancels: int
    log_segments: int
    settled_segments: int
    log_bytes: int
    settled_bytes: int
    disk_free_bytes: int
    disk_total_bytes: int
    disk_reserve_bytes: int
    checkpoint_index: int
    checkpoint_bytes: int
    checkpoint_age_ms: int
    checkpoints: int
    checkpoint_failures: int
    cleaned_segments: int
    cleaned_bytes: int
    scrubbed_bytes: int
    scrub_findings: int
    damaged_segments: int
    recovery_ms: int
    recovery_entries: int
    recovery_log_bytes: int
    recovery_checkpoint_keys: int
    recovery_copied_bytes: int
    recovery_discarded_bytes: int
    groups: int
    group_requests: int
    group_bytes: int
    bytes_appended: int
    value_bytes_appended: int
    syncs: int
    sync_ns_total: int
    sync_ns_max: int
    slow_syncs: int
    sync_buckets: tuple[int, ...]
    group_buckets: tuple[int, ...]
    open_requests: int
    open_request_bytes: int
    failpoint_hits: int
    state_hash: tuple[int, ...]
    clustered: int
    leading: int

    @property
    def live_share(self) -> float:
        """The share of segment bytes that live values take, 0.0 to 1.0; 1.0 for an empty store."""
        stored = self.log_bytes + self.settled_bytes
        return min(1.0, self.live_value_bytes / stored) if stored else 1.0


def read_status(pointer: Any) -> Status:
    """Copy a filled `struct bp_status`."""
    return Status(**{field.name: _plain(getattr(pointer, field.name)) for field in fields(Status)})


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return value
    if ffi.typeof(value).item is ffi.typeof("uint8_t"):
        return bytes(ffi.buffer(value))
    return tuple(value)

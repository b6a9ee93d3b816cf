"""struct bp_options as a dataclass. Zero, or an empty text, means the engine's default."""

from dataclasses import dataclass, fields
from typing import Any

from bedplate._native import ffi


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to open a store; the fields are those of `struct bp_options`, where each is described."""

    dir: str
    failpoints: str = ""
    segment_size: int = 0
    interval_ms: int = 0
    manual: int = 0
    readers: int = 0
    index_memory_max: int = 0
    value_cache_bytes: int = 0
    history_ms_max: int = 0
    history_versions_max: int = 0
    history_bytes_max: int = 0
    request_ids_max: int = 0
    leases_max: int = 0
    watches_max: int = 0
    watch_lag_max: int = 0
    queue_max: int = 0
    queue_bytes_max: int = 0
    checkpoint_bytes: int = 0
    clean_live_percent: int = 0
    disk_reserve: int = 0
    scrub_bytes_per_s: int = 0
    key_max: int = 0
    value_max: int = 0
    request_max: int = 0
    txn_ops_max: int = 0
    batch_ops_max: int = 0
    scan_page_max: int = 0
    reply_bytes_max: int = 0
    lease_ttl_min_ms: int = 0
    lease_ttl_max_ms: int = 0
    clustered: int = 0
    joining: int = 0
    cluster_id: bytes = b""
    member_id: int = 0
    n_members: int = 0
    members: tuple[int, ...] = ()
    raft_cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NativeOptions:
    """A filled `struct bp_options`; `kept` holds what it points to."""

    pointer: Any
    kept: tuple[Any, ...]


def native_options(options: Options) -> NativeOptions:
    """Raises OverflowError for a number that its C field cannot hold."""
    pointer = ffi.new("struct bp_options *")
    kept = []
    for field in fields(options):
        value = getattr(options, field.name)
        if not value:
            continue
        if isinstance(value, str):
            value = ffi.new("char[]", value.encode("utf-8", "surrogateescape"))
            kept.append(value)
        setattr(pointer, field.name, value)
    return NativeOptions(pointer, tuple(kept))

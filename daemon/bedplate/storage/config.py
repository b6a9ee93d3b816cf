"""Configuration of the store, by section. The descriptions are the manual: README prints them.

Sizes are bytes and also read as text with a unit ("64MiB"). Zero has no special meaning unless the
description gives it one.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field

MIB = 1 << 20
GIB = 1 << 30
_INTERVAL = re.compile(r"interval:([1-9][0-9]{0,5})")


class Section(BaseModel):
    """A configuration section: read once, never changed, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _durability(text: str) -> str:
    if text != "fsync" and _INTERVAL.fullmatch(text) is None:
        raise ValueError('expected "fsync" or "interval:<ms>", such as "interval:100"')
    return text


def sized(default: int, description: str, least: int = 0, most: int | None = None) -> ByteSize:
    field: ByteSize = Field(default=ByteSize(default), description=description, ge=least, le=most)
    return field


class LogConfig(Section):
    """The log: what makes a write durable."""

    durability: Annotated[str, AfterValidator(_durability)] = Field(
        default="fsync",
        description='"fsync": an answered write is on disk. "interval:<ms>": the disk is synced '
        "every so many milliseconds, and a power cut loses what was answered since.",
    )
    segment_size: ByteSize = sized(
        64 * MIB, "Bytes in one log segment, preallocated.", 8 * MIB, GIB
    )

    @property
    def interval_ms(self) -> int:
        """Milliseconds between syncs; 0 with "fsync"."""
        found = _INTERVAL.fullmatch(self.durability)
        return int(found[1]) if found else 0


class IndexConfig(Section):
    """The index: every key in memory, values on disk."""

    memory_max: ByteSize = sized(
        0,
        "Bytes of memory for the index; writes that would grow it further get RESOURCE_EXHAUSTED. "
        "0: no limit.",
    )
    value_cache: ByteSize = sized(
        64 << 20,
        "Bytes of memory for small values (up to 1008 bytes) read lately, beside the system's page "
        "cache. 0: none.",
    )


class HistoryConfig(Section):
    """How far back old revisions stay readable: whichever limit is met first."""

    seconds_max: int = Field(default=300, ge=1, le=86_400 * 366, description="Age in seconds.")
    versions_max: int = Field(
        default=2_000_000, ge=1, description="Replaced versions kept, over all keys."
    )
    bytes_max: ByteSize = sized(GIB, "Bytes of replaced values kept.", 1)


class KVConfig(Section):
    """The key-value service."""

    request_ids_max: int = Field(
        default=65_536,
        ge=1,
        le=16_777_216,
        description="The newest request ids remembered, so that a retry returns the first result.",
    )


class LimitsConfig(Section):
    """What one client may ask for."""

    key_bytes_max: int = Field(default=4096, ge=1, le=4096, description="Bytes in a key.")
    value_bytes_max: ByteSize = sized(MIB, "Bytes in a value.", 1, MIB)
    request_bytes_max: ByteSize = sized(2 * MIB, "Bytes in one encoded request.", 1024, 2 * MIB)
    reply_bytes_max: ByteSize = sized(
        4 * MIB, "Bytes in one encoded reply; what is left out is asked for again.", 65_536, 4 * MIB
    )
    txn_ops_max: int = Field(
        default=1024, ge=1, le=10_000, description="Compares, and ops in each branch, of a Txn."
    )
    batch_ops_max: int = Field(
        default=10_000, ge=1, le=10_000, description="Ops of a Batch or of a Pipeline frame."
    )
    scan_page_max: int = Field(
        default=10_000, ge=1, le=100_000, description="Keys in one reply of Scan or GetLease."
    )
    pipeline_frames_max: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Frames of one Pipeline at work at a time; more are not read until one is "
        "answered.",
    )
    queue_requests_max: int = Field(
        default=65_536, ge=1, description="Open requests of all clients; more get QUEUE_FULL."
    )
    queue_bytes_max: ByteSize = sized(256 * MIB, "Bytes of open requests of all clients.", 2 * MIB)
    leases_max: int = Field(default=1_000_000, ge=1, description="Leases.")
    lease_ttl_seconds_max: int = Field(
        default=31_622_400, ge=1, le=31_622_400, description="Seconds a lease may be granted for."
    )
    watches_max: int = Field(default=10_000, ge=1, le=1_000_000, description="Open watches.")
    watch_lag_max: int = Field(
        default=1_000_000,
        ge=1,
        description="Changes a watch may be behind before it is cancelled as too slow.",
    )
    calls_max: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Calls and streams open at a time, of all clients.",
    )
    connection_streams_max: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="Calls and streams open at a time on one connection; more wait in the client.",
    )
    stream_bytes_max: ByteSize = sized(
        64 * MIB,
        "Bytes of messages that all streams together hold: half for what is sent, half for what is "
        "received. Streams wait for each other's.",
        8 * MIB,
    )
    stall_seconds_max: float = Field(
        default=30.0,
        gt=0,
        le=86_400,
        description="Seconds for which a client may leave a message unread while other streams "
        "wait for the memory.",
    )
    deadline_seconds_default: float = Field(
        default=30.0,
        gt=0,
        le=86_400,
        description="Deadline of a unary call that brings none. Streams have none by default.",
    )


class CheckpointConfig(Section):
    """Checkpoints: what bounds recovery."""

    log_bytes: ByteSize = sized(
        256 * MIB, "Bytes of log after which a checkpoint is due (or its own size, if larger).", MIB
    )


class CleanConfig(Section):
    """Cleaning: how space comes back."""

    live_percent: int = Field(
        default=50, ge=1, le=90, description="Segments with less live data than this are cleaned."
    )
    disk_reserve: ByteSize = sized(
        0,
        "Bytes of free disk that ordinary writes leave untouched. 0: four segments and 1.25 x the "
        "newest checkpoint.",
    )


class ScrubConfig(Section):
    """The background scrub."""

    bytes_per_second: ByteSize = sized(
        0, "Bytes a second read to check stored data against its checksums. 0: off."
    )


class StorageConfig(Section):
    """Every section the engine is opened with."""

    log: LogConfig = LogConfig()
    index: IndexConfig = IndexConfig()
    history: HistoryConfig = HistoryConfig()
    kv: KVConfig = KVConfig()
    limits: LimitsConfig = LimitsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    clean: CleanConfig = CleanConfig()
    scrub: ScrubConfig = ScrubConfig()

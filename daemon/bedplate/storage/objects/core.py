"""What the parts of the object store share: one per process."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bedplate.storage.budget import Budgets
from bedplate.storage.objects.config import ObjectsConfig
from bedplate.storage.objects.keys import BLOB_SIZE
from bedplate.storage.objects.locks import KeyedLocks, Pins
from bedplate.storage.objects.store import Store


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Counts:
    """Since the start, or now; `garbage` as of the reaper's last look."""

    bytes_in: int = 0
    bytes_out: int = 0
    uploads: int = 0
    downloads: int = 0
    garbage: int = 0
    chunks_reclaimed: int = 0


@dataclass(slots=True)
class Core:
    """`uploads` holds the upload key of every upload whose call is alive here, with the monotonic
    second of its last data; `closing` the buckets being deleted here; `reclaim` is set when the
    reaper has something to do.
    """

    store: Store
    config: ObjectsConfig
    clock_ms: Callable[[], int] = unix_ms
    monotonic: Callable[[], float] = time.monotonic
    owner: bytes = field(default_factory=lambda: secrets.token_bytes(BLOB_SIZE))
    locks: KeyedLocks = field(default_factory=KeyedLocks)
    uploads: dict[bytes, float] = field(default_factory=dict)
    closing: dict[bytes, asyncio.Event] = field(default_factory=dict)
    reclaim: asyncio.Event = field(default_factory=asyncio.Event)
    budgets: Budgets = field(default_factory=Budgets)
    counts: Counts = field(default_factory=Counts)
    pins: Pins = field(init=False)

    def __post_init__(self) -> None:
        self.pins = Pins(self.reclaim)


def new_id() -> bytes:
    """The id of a blob: never the same twice."""
    return secrets.token_bytes(BLOB_SIZE)

"""Keyspace "o" as the object store uses it: typed reads, scans and transactions over the engine."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bedplate.api.kv.v1 import kv_pb2
from bedplate.errors import BedplateError, Code
from bedplate.native.store import Keyspace, Method
from bedplate.storage.objects import keys, wire

SPACE = Keyspace.OBJECT
_QUEUE_FULL_ATTEMPTS = 300  # about half a minute


class Reply(Protocol):
    """Bytes of a value behind the prefix they were asked for with, and the value bytes' CRC32C."""

    @property
    def data(self) -> bytes: ...

    @property
    def crc32c(self) -> int: ...


class Engine(Protocol):
    """What the object store needs of `bedplate.storage.engine.Engine`. All raise BedplateError."""

    async def call(self, method: Method, keyspace: Keyspace, request: bytes) -> bytes: ...

    async def value(
        self,
        keyspace: Keyspace,
        key: bytes,
        *,
        revision: int = 0,
        offset: int = 0,
        length: int = 0xFFFF_FFFF,
        prefix: bytes = b"",
    ) -> Reply: ...

    def room_bytes(self) -> int: ...


class Entry(NamedTuple):
    """A key as it stands; keys_only scans leave the value empty."""

    key: bytes
    value: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Scanned:
    """Part of a range at one revision; `more` when the range goes on."""

    entries: Sequence[Entry]
    more: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of a transaction. `found` answers its `probe`s, in order."""

    succeeded: bool
    revision: int
    found: tuple[bool, ...]


class Txn:
    """A transaction in the making: everything it was decided on, and what it does if all still
    holds. `afterwards` is done once it has ended, whichever way.
    """

    __slots__ = ("afterwards", "request")

    def __init__(self, request_id: str = "") -> None:
        self.request = kv_pb2.TxnRequest(request_id=request_id)
        self.afterwards: list[Callable[[], None]] = []

    def require(self, key: bytes) -> None:
        """The key must exist."""
        self.request.compares.add(key=key, operator=kv_pb2.COMPARE_OPERATOR_GREATER, version=0)

    def forbid(self, key: bytes) -> None:
        """The key must not exist."""
        self.request.compares.add(key=key, operator=kv_pb2.COMPARE_OPERATOR_EQUAL, version=0)

    def unchanged(self, key: bytes, mod_revision: int) -> None:
        """The key must be as it was read; 0: still not there."""
        self.request.compares.add(
            key=key, operator=kv_pb2.COMPARE_OPERATOR_EQUAL, mod_revision=mod_revision
        )

    def put(self, key: bytes, value: bytes) -> None:
        self.request.then_ops.add(put=kv_pb2.PutOp(key=key, value=value))

    def delete(self, key: bytes) -> None:
        self.request.then_ops.add(delete=kv_pb2.DeleteOp(key=key))

    def delete_prefix(self, prefix: bytes) -> None:
        end = keys.prefix_end(prefix)
        self.request.then_ops.add(delete=kv_pb2.DeleteOp(key=prefix, range_end=end))

    def probe(self, prefix: bytes) -> None:
        """Tell whether anything lies below the prefix."""
        self.request.then_ops.add(scan=kv_pb2.ScanOp(prefix=prefix, limit=1, keys_only=True))


class Store:
    """Reads and writes of keyspace "o". Everything raises BedplateError as the engine does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def get(self, key: bytes, revision: int = 0) -> Entry | None:
        """The key now, or at a revision (OUT_OF_RANGE / REVISION_COMPACTED)."""
        return (await self.read(key, revision))[0]

    async def read(self, key: bytes, revision: int = 0) -> tuple[Entry | None, int]:
        """The key, and the store's revision as of the reply."""
        request = kv_pb2.GetRequest(key=key, revision=revision).SerializeToString()
        reply = kv_pb2.GetResponse.FromString(await self._engine.call(Method.GET, SPACE, request))
        entry = _entry(reply.kv) if reply.HasField("kv") else None
        return entry, reply.revision

    async def scan(
        self, start: bytes, end: bytes, limit: int, *, keys_only: bool = False, revision: int = 0
    ) -> Scanned:
        """Keys in [start, end), at most so many and about as many bytes as fit one reply. With a
        revision: as of then (OUT_OF_RANGE / REVISION_COMPACTED).
        """
        request = kv_pb2.ScanRequest(
            start=start, end=end, limit=limit, keys_only=keys_only, revision=revision
        )
        reply = kv_pb2.ScanResponse.FromString(
            await self._engine.call(Method.SCAN, SPACE, request.SerializeToString())
        )
        entries = [_entry(kv) for kv in reply.kvs]
        return Scanned(entries, bool(reply.next_page_token), reply.read_revision)

    async def scan_prefix(
        self, prefix: bytes, limit: int, *, after: bytes = b"", keys_only: bool = False
    ) -> Scanned:
        """Keys that begin with `prefix`, above `after`."""
        start = max(keys.after(after), prefix) if after else prefix
        return await self.scan(start, keys.prefix_end(prefix), limit, keys_only=keys_only)

    async def commit(self, txn: Txn) -> Committed:
        request = txn.request.SerializeToString()
        try:
            answer = await self._engine.call(Method.TXN, SPACE, request)
        finally:
            for act in txn.afterwards:
                act()
        reply = kv_pb2.TxnResponse.FromString(answer)
        found = tuple(result.scan.count > 0 for result in reply.results if result.HasField("scan"))
        return Committed(reply.succeeded, reply.revision, found)

    async def put_chunk(self, guard: bytes, key: bytes, pieces: Sequence[wire.Buffer]) -> bool:
        """Store one chunk if what `wire.guard` was made of is there; whether it was. While the
        engine's queue is full it waits, and so does whoever sends the data.
        """
        request = wire.chunk_txn(guard, key, pieces)
        for attempt in range(_QUEUE_FULL_ATTEMPTS):
            try:
                reply = await self._engine.call(Method.TXN, SPACE, request)
            except BedplateError as error:
                if error.reason != "QUEUE_FULL" or attempt + 1 == _QUEUE_FULL_ATTEMPTS:
                    raise
                await asyncio.sleep(min(0.001 * 2**attempt, 0.1))
            else:
                return kv_pb2.TxnResponse.FromString(reply).succeeded
        raise AssertionError("unreachable")

    def require_room(self, size: int | None) -> None:
        """RESOURCE_EXHAUSTED / DISK_FULL for an announced size that the disk cannot take now."""
        if size is not None and size > (room := self._engine.room_bytes()):
            raise BedplateError(
                f"{size} bytes were announced, and the disk has room for {room}",
                code=Code.RESOURCE_EXHAUSTED,
                reason="DISK_FULL",
            )

    async def delete_range(self, first: bytes, end: bytes) -> int:
        """Delete [first, end); the number of keys that were there."""
        request = kv_pb2.DeleteRequest(key=first, range_end=end).SerializeToString()
        reply = await self._engine.call(Method.DELETE, SPACE, request)
        return kv_pb2.DeleteResponse.FromString(reply).deleted

    async def value(
        self, key: bytes, offset: int, length: int, prefix: bytes, revision: int = 0
    ) -> Reply | None:
        """Part of a value behind `prefix`; None when the key is not there."""
        try:
            return await self._engine.value(
                SPACE, key, revision=revision, offset=offset, length=length, prefix=prefix
            )
        except BedplateError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise


def is_compacted(error: BedplateError) -> bool:
    """Whether a revision is no longer there to be read."""
    return error.reason == "REVISION_COMPACTED"


def is_full(error: BedplateError) -> bool:
    """Whether there is no room for what grows; deletes still go on."""
    return error.reason in ("DISK_FULL", "INDEX_FULL")


def _entry(kv: kv_pb2.KeyValue) -> Entry:
    return Entry(kv.key, kv.value, kv.mod_revision)

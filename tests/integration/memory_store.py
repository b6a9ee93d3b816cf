"""A replicated store in memory, for tests of everything around it: the same seams as the engine's.

    MemoryEngine.call --> queue --> gather --> entries --> commit --> apply --> the answer
                                \\-> forward --> another member's MemoryEngine.forwarded

"Durable" is one turn of the loop later. Requests are those of KVService, applied to a dictionary.
"""

import asyncio
import contextlib
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from bedplate.api.kv.v1 import kv_pb2
from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import Entries
from bedplate.consensus.ready import HardState
from bedplate.consensus.replica import StoreState
from bedplate.errors import Code
from bedplate.native.errors import StoreError
from bedplate.native.snapshot import NativeInstall, NativeManifest
from bedplate.native.store import Method

Future = asyncio.Future[bytes]
Request = tuple[int, bytes]


@dataclass(slots=True)
class Entry:
    index: int
    term: int
    requests: list[Request] = field(default_factory=list)
    membership: Membership | None = None


@dataclass(slots=True)
class Waiting:
    request: Request
    future: Future


def unavailable(reason: str) -> StoreError:
    return StoreError(reason, code=Code.UNAVAILABLE, reason=reason)


class MemoryStore:
    """Fits consensus.member.ClusterStore."""

    def __init__(self, cluster_id: bytes, member: int, voters: frozenset[int]) -> None:
        self.cluster_id = cluster_id
        self.member = member
        self.taken = False
        self._hard_state = HardState(1 if voters else 0, 0, 1 if voters else 0)
        self.values: dict[bytes, bytes] = {}
        self.entries = [Entry(1, 1, membership=Membership(voters))] if voters else []
        self.applied = len(self.entries)
        self.applied_membership = Membership(voters)
        self.writes: list[Waiting] = []
        self.reads: list[Waiting] = []
        self.needed: Callable[[], int | None] = lambda: None
        self.on_apply: list[Callable[[], None]] = []
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop = asyncio.get_running_loop()
        self._committed = len(self.entries)
        self._persisted = 0
        self._placed: dict[int, tuple[int, list[Waiting]]] = {}  # index -> term and who waits
        self._gates: dict[int, list[Waiting]] = {}
        self._released: list[tuple[int, list[Waiting]]] = []
        self._batches: dict[int, list[Waiting]] = {}
        self._names = 0

    def close(self) -> None:
        os.close(self._fd)
        self._fd = -1

    @property
    def fd(self) -> int:
        return self._fd

    def membership(self) -> Membership:
        return self.applied_membership

    def take(self) -> tuple[EntryLog, HardState]:
        self.taken = True
        log = EntryLog(0, 0, Membership(frozenset()))
        for entry in self.entries:
            change = ((entry.index, entry.membership),) if entry.membership else ()
            log.append(Entries(entry.index, entry.index, ((entry.index, entry.term),), change))
        self._persisted = 0  # numbers begin anew
        return log, replace(self._hard_state, commit=self._committed)

    def wake(self) -> None:
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    # ---- snapshots: there are none -------------------------------------------------------------

    idle = True

    def manifest(self) -> NativeManifest:
        raise unavailable("NO_SNAPSHOTS")

    def install(self) -> NativeInstall:
        raise unavailable("NO_SNAPSHOTS")

    def fetch(self, wanted: bytes) -> bytes:
        raise unavailable("NO_SNAPSHOTS")

    def damaged(self) -> bytes | None:
        return None

    def repair(self, values: bytes) -> int:
        raise unavailable("NO_SNAPSHOTS")

    # ---- ReplicatedStore -----------------------------------------------------------------------

    def look(self) -> StoreState:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        return StoreState(
            persisted=self._persisted,
            applied=self.applied,
            queued_writes=len(self.writes),
            queued_reads=len(self.reads),
            failed=False,
            stalled_ms=0,
        )

    def hold(self, write_bytes: int, arrivals: int, reads: bool) -> None:
        """Looked at at every wake."""

    def gather(self, term: int, bytes_max: int) -> tuple[int, int]:
        if not self.writes:
            return len(self.entries), 0
        taken, self.writes = self.writes, []
        entry = self._append(Entry(len(self.entries) + 1, term, [w.request for w in taken]))
        self._placed[entry.index] = (term, taken)
        return entry.index, sum(len(w.request[1]) for w in taken) + 1

    def propose_noop(self, term: int) -> None:
        self._append(Entry(len(self.entries) + 1, term))

    def propose_change(self, term: int, membership: Membership) -> int:
        self._append(Entry(len(self.entries) + 1, term, membership=membership))
        return 64

    def receive(self, payload: bytes) -> None:
        for entry in pickle.loads(payload):
            if entry.index <= len(self.entries):
                if self.entries[entry.index - 1].term == entry.term:
                    continue
                assert entry.index > self.applied
                del self.entries[entry.index - 1 :]
                for index in [i for i in self._placed if i >= entry.index]:
                    fail(self._placed.pop(index)[1], "LEADER_LOST")
            self._append(entry)

    def persist(self, number: int, hard_state: HardState) -> None:
        def done() -> None:
            self._persisted = max(self._persisted, number)
            self._hard_state = hard_state
            self.wake()

        self._loop.call_soon(done)

    def message(self, first: int, last: int) -> bytes:
        return pickle.dumps(self.entries[first - 1 : last])

    def reach(self, first: int, last: int, bytes_max: int) -> tuple[int, int]:
        reached = min(last, first + 63)
        size = sum(len(r[1]) for e in self.entries[first - 1 : reached] for r in e.requests)
        return reached, size

    def commit(self, index: int) -> None:
        self._committed = max(self._committed, index)
        while self.applied < min(self._committed, len(self.entries)):
            self._apply(self.entries[self.applied])
        for index, reads in self._released:
            if index <= self.applied:
                for read in reads:
                    finish(read, self.execute(read.request))
        self._released = [(i, reads) for i, reads in self._released if i > self.applied]

    def lead(self, leading: bool, term: int) -> None:
        if not leading:
            for index in list(self._placed):
                fail(self._placed.pop(index)[1], "LEADER_LOST")

    def gate(self) -> int:
        taken, self.reads = self.reads, []
        self._names += 1
        self._gates[self._names] = taken
        return self._names

    def release(self, gate: int, index: int) -> None:
        self._released.append((index, self._gates.pop(gate)))
        self.commit(self._committed)

    def refuse(self, gate: int) -> None:
        fail(self._gates.pop(gate), "NO_LEADER")

    def forward(self, bytes_max: int) -> tuple[int, bytes] | None:
        if not self.writes:
            return None
        taken, self.writes = self.writes, []
        self._names += 1
        self._batches[self._names] = taken
        return self._names, pickle.dumps((self._names, [w.request for w in taken]))

    def forward_failed(self, batch: int, *, sent: bool) -> None:
        fail(self._batches.pop(batch, []), "LEADER_LOST" if sent else "NO_LEADER")

    def answer(self, outcomes: bytes) -> None:
        batch, replies = pickle.loads(outcomes)
        for waiting, reply in zip(self._batches.pop(batch, []), replies, strict=False):
            if isinstance(reply, bytes):
                finish(waiting, reply)
            else:
                fail([waiting], str(reply))

    def refuse_queued(self) -> None:
        queued = [*self.writes, *self.reads]
        self.writes, self.reads = [], []
        fail(queued, "NO_LEADER")

    def give_up(self) -> None:
        """Its disk never stalls."""

    def compact(self, applied: int) -> int:
        return 0

    def state_hash(self) -> tuple[int, bytes]:
        return 0, b""

    # ---- the state machine ---------------------------------------------------------------------

    def execute(self, request: Request) -> bytes:
        method, data = request
        match Method(method):
            case Method.PUT:
                put = kv_pb2.PutRequest.FromString(data)
                self.values[put.key] = put.value
                return kv_pb2.PutResponse(revision=self.applied).SerializeToString()
            case Method.GET:
                get = kv_pb2.GetRequest.FromString(data)
                reply = kv_pb2.GetResponse(revision=self.applied)
                if get.key in self.values:
                    reply.kv.CopyFrom(kv_pb2.KeyValue(key=get.key, value=self.values[get.key]))
                return reply.SerializeToString()
            case Method.SCAN:
                prefix = kv_pb2.ScanRequest.FromString(data).prefix
                found = [
                    kv_pb2.KeyValue(key=key, value=value)
                    for key, value in sorted(self.values.items())
                    if key.startswith(prefix)
                ]
                return kv_pb2.ScanResponse(kvs=found).SerializeToString()
            case Method.DELETE:
                self.values.pop(kv_pb2.DeleteRequest.FromString(data).key, None)
                return b""
            case Method.TXN:
                txn = kv_pb2.TxnRequest.FromString(data)
                holds = all(self.values.get(c.key) == c.value for c in txn.compares)
                for op in txn.then_ops if holds else ():
                    self.values[op.put.key] = op.put.value
                return kv_pb2.TxnResponse(succeeded=holds).SerializeToString()
            case other:
                raise AssertionError(other)

    def _append(self, entry: Entry) -> Entry:
        assert entry.index == len(self.entries) + 1
        self.entries.append(entry)
        return entry

    def _apply(self, entry: Entry) -> None:
        self.applied = entry.index
        if entry.membership is not None:
            self.applied_membership = entry.membership
        term, waiting = self._placed.pop(entry.index, (entry.term, []))
        replies = [self.execute(request) for request in entry.requests]
        if term == entry.term:
            for one, reply in zip(waiting, replies, strict=False):
                finish(one, reply)
        else:
            fail(waiting, "LEADER_LOST")
        for listener in self.on_apply:
            listener()


class MemoryEngine:
    """What Cluster needs of storage.engine.Engine."""

    def __init__(self) -> None:
        self.store: MemoryStore | None = None
        self.explain: Callable[[StoreError], None] | None = None
        self.refused: StoreError | None = None

    async def call(self, method: int, keyspace: int, request: bytes) -> bytes:
        store = self.store
        if self.refused is not None:
            raise self.refused
        assert store is not None
        reads = method in (Method.GET, Method.SCAN)
        if reads and self._serializable(method, request):
            return store.execute((method, request))
        waiting = Waiting((method, request), asyncio.get_running_loop().create_future())
        if not store.taken and not reads:  # alone: the store's own driver
            entry = store._append(Entry(len(store.entries) + 1, 1, [waiting.request]))
            store._placed[entry.index] = (1, [waiting])
            store.commit(entry.index)
        elif not store.taken:
            return store.execute((method, request))
        else:
            (store.reads if reads else store.writes).append(waiting)
            store.wake()
        try:
            return await waiting.future
        except StoreError as error:
            if self.explain is not None:
                self.explain(error)
            raise

    async def forwarded(self, batch: bytes) -> bytes:
        name, requests = pickle.loads(batch)

        async def one(request: Request) -> bytes | str:
            try:
                return await self.call(request[0], 0, request[1])
            except StoreError as error:
                return error.reason

        return pickle.dumps((name, await asyncio.gather(*(one(r) for r in requests))))

    def refuse(self, error: StoreError | None) -> None:
        self.refused = error

    def status(self) -> Any:
        store = self.store
        assert store is not None
        return SimpleNamespace(
            store_id=b"%16d" % store.member,
            term=1,
            clustered=0,
            committed_index=store.applied,
            applied_index=store.applied,
            durable_index=len(store.entries),
        )

    def watch(self, keyspace: int, request: bytes) -> "MemoryWatch":
        assert self.store is not None
        return MemoryWatch(self.store)

    def _serializable(self, method: int, request: bytes) -> bool:
        kind = kv_pb2.GetRequest if method == Method.GET else kv_pb2.ScanRequest
        return kind.FromString(request).consistency == kv_pb2.CONSISTENCY_SERIALIZABLE


class MemoryWatch:
    """Says that something was applied."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._changed = asyncio.Event()
        store.on_apply.append(self._changed.set)

    def __aiter__(self) -> "MemoryWatch":
        return self

    async def __anext__(self) -> bytes:
        await self._changed.wait()
        self._changed.clear()
        return b""

    async def aclose(self) -> None:
        if self._changed.set in self._store.on_apply:
            self._store.on_apply.remove(self._changed.set)


def finish(waiting: Waiting, reply: bytes) -> None:
    if not waiting.future.done():
        waiting.future.set_result(reply)


def fail(waiting: list[Waiting], reason: str) -> None:
    for one in waiting:
        if not one.future.done():
            one.future.set_exception(unavailable(reason))

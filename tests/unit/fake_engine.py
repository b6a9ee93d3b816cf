"""The engine's KV semantics in a dictionary: what the object store needs of them, for fast tests.

Every version of every key is kept, so reads at old revisions work down to `compact`. Tests may step
in before a request (`before`), look at what was asked (`requests`) and declare the disk full.
"""

import bisect
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

from bedplate.api.kv.v1 import kv_pb2
from bedplate.errors import BedplateError, Code
from bedplate.native.store import Keyspace, Method, crc32c

VALUE_MAX = 1 << 20
REQUEST_MAX = 2 << 20
TXN_OPS_MAX = 1024
SCAN_BYTES_MAX = 2 << 20


class Version(NamedTuple):
    revision: int
    value: bytes | None  # None: deleted
    create_revision: int
    version: int


class Reply(NamedTuple):
    data: bytes
    crc32c: int


Before = Callable[[Method, bytes], Awaitable[None]]


class FakeEngine:
    def __init__(self) -> None:
        self.revision = 0
        self.floor = 0
        self.disk_full = False
        self.room = 1 << 40
        self.before: Before | None = None
        self.requests: Counter[Method] = Counter()
        self._versions: dict[bytes, list[Version]] = {}
        self._keys: list[bytes] = []  # that ever were, sorted
        self._results: dict[str, tuple[bytes, bytes]] = {}

    # -- what tests look at ------------------------------------------------------------------------

    def present(self, prefix: bytes = b"") -> list[bytes]:
        """The keys there are now."""
        return [
            key for key in self._keys if key.startswith(prefix) and self._at(key, self.revision)
        ]

    def compact(self) -> None:
        """No revision before this one can be read any more."""
        self.floor = self.revision

    # -- the engine --------------------------------------------------------------------------------

    def room_bytes(self) -> int:
        return self.room

    async def call(self, method: Method, keyspace: Keyspace, request: bytes) -> bytes:
        assert keyspace is Keyspace.OBJECT
        if self.before is not None:
            await self.before(method, request)
        self.requests[method] += 1
        if len(request) > REQUEST_MAX:
            raise _error(Code.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
        handlers: dict[Method, Callable[[bytes], bytes]] = {
            Method.GET: self._get,
            Method.SCAN: self._scan,
            Method.DELETE: self._delete,
            Method.TXN: self._txn,
        }
        return handlers[method](request)

    async def value(
        self,
        keyspace: Keyspace,
        key: bytes,
        *,
        revision: int = 0,
        offset: int = 0,
        length: int = 0xFFFF_FFFF,
        prefix: bytes = b"",
    ) -> Reply:
        assert keyspace is Keyspace.OBJECT
        if self.before is not None:
            await self.before(Method.GET, key)
        version = self._at(key, self._readable(revision))
        if version is None or version.value is None:
            raise _error(Code.NOT_FOUND, "NONE")
        data = version.value[offset : offset + length]
        return Reply(prefix + data, crc32c(data))

    def _get(self, encoded: bytes) -> bytes:
        request = kv_pb2.GetRequest.FromString(encoded)
        version = self._at(request.key, self._readable(request.revision))
        reply = kv_pb2.GetResponse(revision=self.revision)
        if version is not None:
            reply.kv.CopyFrom(_key_value(request.key, version))
        return reply.SerializeToString()

    def _scan(self, encoded: bytes) -> bytes:
        request = kv_pb2.ScanRequest.FromString(encoded)
        assert not request.page_token
        assert not request.reverse
        assert request.limit <= 10_000
        revision = self._readable(request.revision)
        reply = kv_pb2.ScanResponse(revision=self.revision, read_revision=revision)
        limit, size = request.limit or 1000, 0
        for key in self._range(request.start, request.end, revision):
            if len(reply.kvs) == limit or size > SCAN_BYTES_MAX:
                reply.next_page_token = b"more"
                break
            version = self._at(key, revision)
            assert version is not None
            kv = _key_value(key, version)
            if request.keys_only:
                kv.value = b""
            size += len(kv.key) + len(kv.value)
            reply.kvs.append(kv)
        reply.count = len(reply.kvs)
        return reply.SerializeToString()

    def _delete(self, encoded: bytes) -> bytes:
        request = kv_pb2.DeleteRequest.FromString(encoded)
        _check_range(request.key, request.range_end)
        self.revision += 1
        deleted = self._delete_range(request.key, request.range_end)
        return kv_pb2.DeleteResponse(revision=self.revision, deleted=deleted).SerializeToString()

    def _txn(self, encoded: bytes) -> bytes:
        request = kv_pb2.TxnRequest.FromString(encoded)
        branches = (request.then_ops, request.else_ops)
        if max(len(request.compares), *map(len, branches)) > TXN_OPS_MAX:
            raise _error(Code.INVALID_ARGUMENT, "TOO_MANY_OPS")
        for ops in branches:
            _check_branch(ops)
        if request.request_id in self._results:
            self.revision += 1  # every request takes one, a repeat too
            first, reply = self._results[request.request_id]
            if first != encoded:
                raise _error(Code.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
            return reply
        if self.disk_full and any(op.HasField("put") for ops in branches for op in ops):
            raise _error(Code.RESOURCE_EXHAUSTED, "DISK_FULL")
        succeeded = all(map(self._holds, request.compares))
        self.revision += 1
        response = kv_pb2.TxnResponse(revision=self.revision, succeeded=succeeded)
        for op in request.then_ops if succeeded else request.else_ops:
            response.results.append(self._run(op))
        reply = response.SerializeToString()
        if request.request_id:
            self._results[request.request_id] = (encoded, reply)
        return reply

    def _run(self, op: kv_pb2.TxnOp) -> kv_pb2.TxnOpResult:
        match op.WhichOneof("op"):
            case "put":
                self._put(op.put.key, op.put.value)
                return kv_pb2.TxnOpResult(put=kv_pb2.PutOpResult())
            case "delete":
                deleted = self._delete_range(op.delete.key, op.delete.range_end)
                return kv_pb2.TxnOpResult(delete=kv_pb2.DeleteOpResult(deleted=deleted))
            case "scan":
                prefix = op.scan.prefix
                found = [k for k in self._range(prefix, b"", self.revision) if k.startswith(prefix)]
                scan = kv_pb2.ScanOpResult(count=min(len(found), op.scan.limit))
                return kv_pb2.TxnOpResult(scan=scan)
            case other:
                raise AssertionError(other)

    def _holds(self, compare: kv_pb2.Compare) -> bool:
        version = self._at(compare.key, self.revision)
        target = compare.WhichOneof("target")
        if target == "version":
            left, right = version.version if version else 0, compare.version
        else:
            assert target == "mod_revision"
            left, right = version.revision if version else 0, compare.mod_revision
        match compare.operator:
            case kv_pb2.COMPARE_OPERATOR_EQUAL | kv_pb2.COMPARE_OPERATOR_UNSPECIFIED:
                return left == right
            case kv_pb2.COMPARE_OPERATOR_GREATER:
                return left > right
            case other:
                raise AssertionError(other)

    def _put(self, key: bytes, value: bytes) -> None:
        old = self._at(key, self.revision)
        if key not in self._versions:
            bisect.insort(self._keys, key)
        self._versions.setdefault(key, []).append(
            Version(
                self.revision,
                value,
                old.create_revision if old else self.revision,
                old.version + 1 if old else 1,
            )
        )

    def _delete_range(self, first: bytes, end: bytes) -> int:
        last = end or first + b"\0"
        doomed = self._range(first, b"" if last == b"\0" else last, self.revision)
        for key in doomed:
            self._versions[key].append(Version(self.revision, None, 0, 0))
        return len(doomed)

    def _range(self, start: bytes, end: bytes, revision: int) -> list[bytes]:
        _check_range(start, end)
        low = bisect.bisect_left(self._keys, start)
        high = bisect.bisect_left(self._keys, end) if end else len(self._keys)
        return [key for key in self._keys[low:high] if self._at(key, revision)]

    def _at(self, key: bytes, revision: int) -> Version | None:
        for version in reversed(self._versions.get(key, ())):
            if version.revision <= revision:
                return version if version.value is not None else None
        return None

    def _readable(self, revision: int) -> int:
        if revision and revision < self.floor:
            raise _error(Code.OUT_OF_RANGE, "REVISION_COMPACTED")
        assert revision <= self.revision
        return revision or self.revision


def _check_range(start: bytes, end: bytes) -> None:
    if end and end <= start:
        raise _error(Code.INVALID_ARGUMENT, "RANGE_INVALID")


def _check_branch(ops: Collection[kv_pb2.TxnOp]) -> None:
    """A branch writes a key at most once."""
    for op in ops:
        if op.HasField("delete"):
            _check_range(op.delete.key, op.delete.range_end)
    puts = [op.put.key for op in ops if op.HasField("put")]
    deletes = [op.delete for op in ops if op.HasField("delete")]
    covered = (
        delete.key <= key < (delete.range_end or delete.key + b"\0")
        for key in puts
        for delete in deletes
    )
    if len(set(puts)) < len(puts) or any(covered):
        raise _error(Code.INVALID_ARGUMENT, "DUPLICATE_KEY")
    if any(len(op.put.value) > VALUE_MAX for op in ops if op.HasField("put")):
        raise _error(Code.INVALID_ARGUMENT, "VALUE_TOO_LARGE")


def _key_value(key: bytes, version: Version) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(
        key=key,
        value=version.value,
        create_revision=version.create_revision,
        mod_revision=version.revision,
        version=version.version,
    )


def _error(code: Code, reason: str) -> BedplateError:
    return BedplateError(reason.lower(), code=code, reason=reason)

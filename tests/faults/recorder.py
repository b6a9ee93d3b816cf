"""Clients that remember: what was answered, what may have happened, and so what must be found after
a crash.

Each writer owns its keys and sends one write at a time, so that at most one write of each has an
unknown outcome:

    answered OK    the state is exactly what the answers say, revisions and versions included
    refused        the state before
    no answer      the state before or the state after, whole either way; sent again under its
                   request id, it acts once
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from grpc_status import rpc_status

from bedplate.api.kv.v1 import kv_pb2 as pb

CALL_TIMEOUT_S = 20.0
UNKNOWN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)


@dataclass(frozen=True, slots=True)
class Version:
    """A key as it must be found."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int


State = dict[bytes, Version]
Effects = dict[bytes, bytes | None]  # what a write puts, or None: deletes


@dataclass(frozen=True, slots=True)
class Write:
    """One request and what it does, if it does."""

    method: str
    request: Any
    effects: Effects


def after(state: Mapping[bytes, Version], effects: Effects, revision: int) -> State:
    """The state once a write took effect at `revision`."""
    result = dict(state)
    for key, value in effects.items():
        before = result.pop(key, None)
        if value is not None:
            result[key] = Version(
                value,
                before.create_revision if before else revision,
                revision,
                before.version + 1 if before else 1,
            )
    return result


@dataclass(slots=True)
class Writer:
    """One client; `keys` and `sizes` say what it writes."""

    number: int
    rng: random.Random
    keys: int = 6
    sizes: tuple[int, ...] = (0, 16, 200, 3000)
    puts_only: bool = False
    state: State = field(default_factory=dict)
    unknown: Write | None = None
    answered: int = 0
    refused: int = 0
    last_revision: int = 0
    sent: int = 0

    @property
    def prefix(self) -> bytes:
        return b"w%03d/" % self.number

    async def run(self, kv: Any, go_on: Callable[[], bool]) -> None:
        """Write until the daemon no longer answers, or `go_on`, asked after every answer, says no.
        Does nothing while a write has no answer: that one must be settled first.
        """
        while self.unknown is None and go_on():
            await self.send(kv, self._invent())

    async def send(self, kv: Any, write: Write) -> None:
        """Send one write and note what came of it."""
        self.unknown = write
        try:
            reply = await getattr(kv, write.method)(write.request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() not in UNKNOWN:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                self.unknown = None
                self.refused += 1
            return
        assert reply.revision > self.last_revision, "revisions go back"
        self._took_effect(write, reply.revision)

    def _took_effect(self, write: Write, revision: int) -> None:
        self.state = after(self.state, write.effects, revision)
        self.last_revision = revision
        self.answered += 1
        self.unknown = None

    def check(self, found: State) -> None:
        """What a restarted daemon has of this writer's keys is what was answered, or that and the
        whole of the write without answer.
        """
        if found == self.state:
            return
        assert self.unknown is not None, difference(self.state, found)
        new = {version.mod_revision for version in found.values()}
        new -= {version.mod_revision for version in self.state.values()}
        revision = new.pop() if new else 0
        assert not new, f"one write has several revisions: {revision}, {new}"
        assert not revision or revision > self.last_revision, "a revision was given twice"
        expected = after(self.state, self.unknown.effects, revision)
        assert found == expected, difference(expected, found)

    async def settle(self, kv: Any, found: State) -> None:
        """Send the write without answer again under its request id: it must have acted once, then
        or now.
        """
        if self.unknown is None:
            return
        had_acted = found != self.state
        write = self.unknown
        reply = await getattr(kv, write.method)(write.request, timeout=CALL_TIMEOUT_S)
        if had_acted:
            assert after(self.state, write.effects, reply.revision) == found, "a retry acted twice"
        self._took_effect(write, reply.revision)

    # ---- what to write ---------------------------------------------------------------------------

    def _invent(self) -> Write:
        self.sent += 1
        rng, name = self.rng, f"{self.number}/{self.sent}/{self.rng.getrandbits(64):x}"
        match 9 if self.puts_only else rng.randrange(10):
            case 0:
                key = self._key()
                return Write("Delete", pb.DeleteRequest(key=key, request_id=name), {key: None})
            case 1:
                start, end = sorted([self._key(), self._key() + b"\0"])
                covered: Effects = {key: None for key in self._all() if start <= key < end}
                request = pb.DeleteRequest(key=start, range_end=end, request_id=name)
                return Write("Delete", request, covered)
            case 2 | 3 | 4:
                return self._batch(name)
            case 5 | 6:
                return self._txn(name)
            case _:
                key, value = self._key(), self._value()
                return Write(
                    "Put", pb.PutRequest(key=key, value=value, request_id=name), {key: value}
                )

    def _batch(self, name: str) -> Write:
        effects: Effects = {
            key: self._value() if self.rng.random() < 0.8 else None
            for key in self.rng.sample(self._all(), self.rng.randint(2, self.keys))
        }
        ops = [
            pb.BatchOp(delete_key=key)
            if value is None
            else pb.BatchOp(put=pb.PutOp(key=key, value=value))
            for key, value in effects.items()
        ]
        return Write("Batch", pb.BatchRequest(ops=ops, request_id=name), effects)

    def _txn(self, name: str) -> Write:
        """Compares that hold, by what was answered; if one does not, the `wrong` key shows it."""
        one, two = self.rng.sample(self._all(), 2)
        effects: Effects = {one: self._value(), two: None}
        held = self.state.get(one)
        request = pb.TxnRequest(
            compares=[pb.Compare(key=one, mod_revision=held.mod_revision if held else 0)],
            then_ops=[
                pb.TxnOp(put=pb.PutOp(key=one, value=effects[one] or b"")),
                pb.TxnOp(delete=pb.DeleteOp(key=two)),
            ],
            else_ops=[pb.TxnOp(put=pb.PutOp(key=self.prefix + b"wrong"))],
            request_id=name,
        )
        return Write("Txn", request, effects)

    def _all(self) -> list[bytes]:
        return [self.prefix + b"%02d" % i for i in range(self.keys)]

    def _key(self) -> bytes:
        return self.rng.choice(self._all())

    def _value(self) -> bytes:
        return self.rng.randbytes(self.rng.choice(self.sizes))


def difference(expected: State, found: State) -> str:
    """The first keys that differ, for an assertion's message."""
    lines = []
    for key in sorted(expected.keys() | found.keys()):
        one, other = expected.get(key), found.get(key)
        if one != other:
            lines.append(f"{key!r}: expected {brief(one)}, found {brief(other)}")
    return "\n".join(lines[:10])


def brief(version: Version | None) -> str:
    if version is None:
        return "nothing"
    return (
        f"{len(version.value)} bytes {version.value[:8].hex()}, created {version.create_revision}, "
        f"modified {version.mod_revision}, version {version.version}"
    )


async def read_all(kv: Any, prefix: bytes = b"w", **fields: Any) -> State:
    """Every key with the prefix, page by page at one revision."""
    found: State = {}
    request = pb.ScanRequest(prefix=prefix, limit=1000, **fields)
    while True:
        page = await kv.Scan(request, timeout=CALL_TIMEOUT_S)
        for kv_ in page.kvs:
            found[kv_.key] = Version(kv_.value, kv_.create_revision, kv_.mod_revision, kv_.version)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def of(writer: Writer, found: State) -> State:
    """The part of a scan that is this writer's."""
    return {key: version for key, version in found.items() if key.startswith(writer.prefix)}


async def check_all(kv: Any, writers: list[Writer], **fields: Any) -> State:
    """Check every writer against the daemon, and that there is no key that nobody wrote."""
    found = await read_all(kv, **fields)
    for writer in writers:
        writer.check(of(writer, found))
    known = {key for writer in writers for key in of(writer, found)}
    assert found.keys() == known, f"invented: {sorted(found.keys() - known)[:10]}"
    return found


async def settle_all(kv: Any, writers: list[Writer], found: State) -> None:
    """Retry what has no answer; afterwards the daemon has exactly what was answered."""
    await asyncio.gather(*(writer.settle(kv, of(writer, found)) for writer in writers))
    await check_all(kv, writers)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The stable reason of a refusal; empty for one that gRPC itself made up."""
    from google.rpc.error_details_pb2 import ErrorInfo

    call: Any = error
    status = rpc_status.from_call(call)
    for detail in status.details if status else ():
        info = ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Wait for what nobody announces, asking often."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

"""The storage part: objects and an index of them, through a SIGKILL.

write until k files are acknowledged -> SIGKILL with writes in flight -> restart
-> everything acknowledged is there, byte for byte; what was in flight is whole or absent
-> write the rest -> everything again, and the daemon's own scrub
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from bedplate.api.admin.v1 import admin_pb2
from bedplate.api.admin.v1.admin_pb2_grpc import AdminServiceStub
from bedplate.api.kv.v1 import kv_pb2
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from bedplate.api.object.v1 import object_pb2
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from bedplate.cli.demo.stage import Report, Stage
from bedplate.cli.demo.tree import Tree
from bedplate.cli.errors import describe
from bedplate.cli.output import human_bytes

_BUCKET = "demo"
_PREFIX = b"index/"
_CHUNK = 1 << 20
_WRITERS = 16


@dataclass(slots=True)
class Ledger:
    """What the daemon has answered, as this client remembers it: SHA-256 and size by file."""

    sent: dict[str, tuple[str, int]] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)  # PutObject was answered
    indexed: set[str] = field(default_factory=set)  # and so was Put


class Stubs:
    """The services over one connection."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.objects: Any = ObjectServiceStub(channel)
        self.kv: Any = KVServiceStub(channel)
        self.admin: Any = AdminServiceStub(channel)


async def run(stage: Stage) -> Report:
    """Losses are in the report. Raises grpc.RpcError, in a group, for what else goes wrong."""
    tree = stage.wishes.tree
    report, ledger = Report("Storage"), Ledger()
    limit = ", as many as fit" if tree.truncated else ""
    stage.say(f"storing {len(tree.names)} files, {human_bytes(tree.bytes)}{limit}: {tree.root}")
    async with stage.channel() as channel:
        stubs = Stubs(channel)
        await stubs.objects.CreateBucket(object_pb2.CreateBucketRequest(bucket=_BUCKET))
        await _write_until_killed(stage, stubs, tree, ledger, report)
    await stage.daemon.ended()
    seconds = await stage.daemon.start()
    async with stage.channel() as channel:
        stubs = Stubs(channel)
        await _show_recovery(stage, stubs, seconds, report)
        report.losses += await verify(stage, stubs, ledger, "checking after the crash")
        left = [name for name in tree.names if name not in ledger.indexed]
        begun = time.monotonic()
        await _write(stage, stubs, tree, ledger, left, "writing the rest")
        report.add("then", f"{len(left)} files more in {time.monotonic() - begun:.1f} s")
        report.losses += await verify(stage, stubs, ledger, "checking everything")
        await _scrub(stubs, report)
    done = f"{len(ledger.stored)} objects, {human_bytes(_size(ledger))}, compared byte for byte"
    report.add("verified", f"{done}; {len(ledger.indexed)} index keys")
    report.add("lost", f"{len(report.losses)}")
    return report


async def _write_until_killed(
    stage: Stage, stubs: Stubs, tree: Tree, ledger: Ledger, report: Report
) -> None:
    """Write until a file number that the seed chooses is acknowledged, then kill at once, while
    the other writers are in the middle of theirs.
    """
    count = len(tree.names)
    kill_at = stage.random.randint(max(1, count // 3), max(1, count * 2 // 3))
    begun = time.monotonic()
    await _write(stage, stubs, tree, ledger, tree.names, "writing", kill_at=kill_at)
    seconds = time.monotonic() - begun
    unknown = len(ledger.sent) - len(ledger.indexed)
    size = human_bytes(_size(ledger))
    stage.say(f"SIGKILL after {len(ledger.indexed)} files were acknowledged, {unknown} in flight")
    report.add("before", f"{len(ledger.indexed)} files, {size} acknowledged in {seconds:.1f} s")
    report.add("killed", f"with {unknown} files in flight (seed {stage.wishes.seed})")


async def _write(
    stage: Stage,
    stubs: Stubs,
    tree: Tree,
    ledger: Ledger,
    names: Iterable[str],
    label: str,
    kill_at: int = 0,
) -> None:
    """Store files, several at a time. With `kill_at`, SIGKILL the daemon when so many are
    acknowledged; the failures that follow are expected then.
    """
    todo = iter(list(names))
    killed = False
    with stage.progress() as progress:
        task = progress.add_task(label, total=len(tree.names), completed=len(ledger.indexed))

        async def writer() -> None:
            nonlocal killed
            for name in todo:
                try:
                    data = await asyncio.to_thread((tree.root / name).read_bytes)
                    await store(stubs, ledger, name, data)
                except grpc.aio.AioRpcError:
                    if killed:
                        return
                    raise
                progress.advance(task)
                if kill_at and not killed and len(ledger.indexed) >= kill_at:
                    killed = True
                    stage.daemon.kill()

        async with asyncio.TaskGroup() as group:
            for _ in range(_WRITERS):
                group.create_task(writer())


async def store(stubs: Stubs, ledger: Ledger, name: str, data: bytes) -> None:
    """One file as an object, then its entry in the index."""
    digest = hashlib.sha256(data).hexdigest()
    ledger.sent[name] = digest, len(data)
    info = (await stubs.objects.PutObject(_messages(name, data))).info
    ledger.stored.add(name)
    entry = {"size": info.size, "crc32c": f"{info.crc32c:08x}", "sha256": digest}
    value = json.dumps(entry).encode()
    await stubs.kv.Put(kv_pb2.PutRequest(key=_PREFIX + name.encode(), value=value))
    ledger.indexed.add(name)


async def _messages(name: str, data: bytes) -> AsyncIterator[object_pb2.PutObjectRequest]:
    header = object_pb2.PutObjectHeader(bucket=_BUCKET, key=name, size=len(data))
    yield object_pb2.PutObjectRequest(header=header)
    for at in range(0, len(data), _CHUNK):
        chunk = object_pb2.DataChunk(data=data[at : at + _CHUNK])
        yield object_pb2.PutObjectRequest(chunk=chunk)


async def _show_recovery(stage: Stage, stubs: Stubs, seconds: float, report: Report) -> None:
    status = await stubs.admin.GetStatus(admin_pb2.GetStatusRequest())
    found = status.recovery
    text = (
        f"in {found.duration_ms} ms, {seconds:.2f} s with the start of the process: "
        f"{found.entries_replayed} entries of {human_bytes(found.bytes_replayed)} log replayed, "
        f"{human_bytes(found.discarded_tail_bytes)} of unfinished writes discarded"
    )
    stage.say(f"recovered {text}")
    report.add("recovered", text)


async def verify(stage: Stage, stubs: Stubs, ledger: Ledger, label: str) -> list[str]:
    """Read all objects and the index back; what is missing or differs, one line each. What was
    never acknowledged may be absent, but not different.
    """
    losses = []
    index = {name: value async for name, value in _index(stubs)}
    for name in sorted(index.keys() | ledger.indexed):
        entry = json.loads(index[name]) if name in index else None
        if name not in ledger.sent or (entry is None and name in ledger.indexed):
            losses.append(f"index key of {name}: {'missing' if entry is None else 'invented'}")
        elif entry is not None and (entry["sha256"], entry["size"]) != ledger.sent[name]:
            losses.append(f"index key of {name}: differs")
    names = {name async for name in _keys(stubs)}
    losses += [f"object {name}: missing" for name in sorted(ledger.stored - names)]
    todo = iter(sorted(names))
    with stage.progress() as progress:
        task = progress.add_task(label, total=len(names))

        async def reader() -> None:
            for name in todo:
                try:
                    found = await _read(stubs, name)
                except grpc.aio.AioRpcError as error:
                    losses.append(f"object {name}: {describe(error)}")
                    continue
                if found != ledger.sent.get(name):
                    losses.append(f"object {name}: differs from what was sent")
                progress.advance(task)

        async with asyncio.TaskGroup() as group:
            for _ in range(_WRITERS):
                group.create_task(reader())
    stage.say(f"{label}: {len(names)} objects, {len(index)} index keys, {len(losses)} lost")
    return losses


async def _read(stubs: Stubs, name: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    request = object_pb2.GetObjectRequest(bucket=_BUCKET, key=name)
    async for response in stubs.objects.GetObject(request):
        digest.update(response.chunk.data)
        size += len(response.chunk.data)
    return digest.hexdigest(), size


async def _index(stubs: Stubs) -> AsyncIterator[tuple[str, bytes]]:
    request = kv_pb2.ScanRequest(prefix=_PREFIX)
    while True:
        page = await stubs.kv.Scan(request)
        for pair in page.kvs:
            yield pair.key.removeprefix(_PREFIX).decode(), pair.value
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


async def _keys(stubs: Stubs) -> AsyncIterator[str]:
    request = object_pb2.ListObjectsRequest(bucket=_BUCKET)
    while True:
        page = await stubs.objects.ListObjects(request)
        for info in page.objects:
            yield info.key
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


async def _scrub(stubs: Stubs, report: Report) -> None:
    async for response in stubs.admin.Verify(admin_pb2.VerifyRequest()):
        if response.HasField("finding"):
            report.losses.append(f"scrub: {response.finding.message}")
        elif response.HasField("summary"):
            checked = human_bytes(response.summary.bytes_checked)
            report.add("scrubbed", f"{checked}, {response.summary.findings} damaged")


def _size(ledger: Ledger) -> int:
    return sum(ledger.sent[name][1] for name in ledger.stored)

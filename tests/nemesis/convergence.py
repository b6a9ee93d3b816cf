"""After the storm: every member takes writes, and all members hold the same."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import Any

import grpc.aio

from bedplate.api.kv.v1 import kv_pb2 as pb
from tests.nemesis.clients import Load
from tests.nemesis.cluster import Cluster

PATIENCE_S = 60.0
MAY_PASS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
Row = tuple[bytes, int, int, int, int, int]


async def progress(cluster: Cluster, load: Load, patience_s: float, writes: int = 20) -> float:
    """Wait until clients have so many more writes answered; the seconds that took."""
    begun, least = time.monotonic(), load.acknowledged + writes
    while load.acknowledged < least:
        waited = time.monotonic() - begun
        assert waited < patience_s, f"no progress in {waited:.0f} s:\n{cluster.last_words()}"
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


async def same_everywhere(cluster: Cluster) -> tuple[int, int]:
    """Every member takes a write and shows the same at one revision; that revision, and the number
    of keys. Nobody else may be writing.
    """
    revision = 0
    for number in cluster.clients.numbers:
        reply = await _ask(cluster, number, "Put", pb.PutRequest(key=b"after", value=b"storm"))
        revision = max(revision, reply.revision)
    first: list[Row] | None = None
    for number in cluster.clients.numbers:
        rows = await _scan(cluster, number, revision)
        if first is None:
            first = rows
        assert rows == first, _difference(cluster.clients.numbers[0], first, number, rows)
    await _same_hash(cluster)
    return revision, len(first or ())


async def _same_hash(cluster: Cluster) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        replies = [await cluster.status(member) for member in cluster.members.values()]
        known = [reply for reply in replies if reply is not None]
        if len(known) == len(replies) and len({reply.log.applied_index for reply in known}) == 1:
            hashes = {reply.member_id: reply.index.state_hash for reply in known}
            assert len(set(hashes.values())) == 1, f"state hashes differ: {hashes}"
            return
        assert time.monotonic() < deadline, f"members do not come level:\n{cluster.last_words()}"
        await asyncio.sleep(0.1)


async def _scan(cluster: Cluster, number: int, revision: int) -> list[Row]:
    rows: list[Row] = []
    token = b""
    while True:
        request = pb.ScanRequest(revision=revision, page_token=token)
        reply = await _ask(cluster, number, "Scan", request)
        rows += [
            (kv.key, kv.mod_revision, kv.create_revision, kv.version, kv.lease_id, _crc(kv.value))
            for kv in reply.kvs
        ]
        token = reply.next_page_token
        if not token:
            return rows


async def _ask(cluster: Cluster, number: int, method: str, request: Any) -> Any:
    """This member, until it answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await getattr(cluster.clients.stub(number), method)(request, timeout=10.0)
        except grpc.aio.AioRpcError as error:
            said = f"member {number}: {method}: {error.code().name} {error.details()}"
            if error.code() not in MAY_PASS or time.monotonic() > deadline:
                raise AssertionError(f"{said}\n{cluster.last_words()}") from error
        await asyncio.sleep(0.1)


def _crc(value: bytes) -> int:
    return zlib.crc32(value)


def _difference(one: int, ones: list[Row], other: int, others: list[Row]) -> str:
    only = sorted(set(ones) ^ set(others))
    lines = [f"members {one} and {other} differ in {len(only)} rows:"]
    lines += [f"  {one if row in ones else other}: {row}" for row in only[:10]]
    return "\n".join(lines)

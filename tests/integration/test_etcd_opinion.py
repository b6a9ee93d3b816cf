"""The same random operations against a real etcd: the same results in the same order.

Revisions are compared through a mapping, for ours differ on purpose: a request takes one whether it
changed anything or not (in etcd only one that changed something does), and lease expiry and
compaction take some too. Where both changed something, the two revisions mean each other; the
mapping must grow on both sides. Everything else must be equal: branch taken, counts, versions,
values, order, what history shows, events, and what is refused after a compaction.
"""

from __future__ import annotations

import os
import queue
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from bedplate.api.admin.v1 import admin_pb2 as admin
from bedplate.api.admin.v1.admin_pb2_grpc import AdminServiceStub
from bedplate.api.kv.v1 import kv_pb2 as pb
from tests.integration.daemon import PATIENCE_S, Daemon
from tests.integration.etcd_server import Etcd

OPERATIONS = int(os.environ.get("BEDPLATE_ETCD_OPERATIONS", "400"))
KEYS = [b"\x01", b"a", b"a\0", b"a/1", b"a/2", b"ab", b"b", b"b/\xfe", b"c", b"\xff", b"\xff\xff"]
OPERATORS = {
    pb.COMPARE_OPERATOR_EQUAL: 0,
    pb.COMPARE_OPERATOR_GREATER: 1,
    pb.COMPARE_OPERATOR_LESS: 2,
    pb.COMPARE_OPERATOR_NOT_EQUAL: 3,
}
TARGETS = {"version": 0, "create_revision": 1, "mod_revision": 2, "value": 3}
Row = tuple[bytes, bytes, int, int, int]  # key, value, create, mod (as steps), version


class Opinions:
    """Both stores, and which revisions mean each other."""

    def __init__(self, daemon: Daemon, etcd: Etcd, rng: random.Random) -> None:
        self.ours: Any = daemon.kv()
        self.admin: Any = AdminServiceStub(daemon.channel())
        self.etcd = etcd
        self.pb = etcd.messages
        self.rng = rng
        # The n-th write that changed something: its revision here and there.
        self.steps: list[tuple[int, int]] = []
        self.our_step: dict[int, int] = {0: 0}
        self.their_step: dict[int, int] = {0: 0}

    def changed(self, ours: int, theirs: int) -> None:
        """Both took a write that changed something."""
        assert not self.steps or (ours > self.steps[-1][0] and theirs > self.steps[-1][1])
        self.steps.append((ours, theirs))
        self.our_step[ours] = self.their_step[theirs] = len(self.steps)

    def our_rows(self, kvs: Any) -> list[Row]:
        steps = self.our_step
        return [
            (kv.key, kv.value, steps[kv.create_revision], steps[kv.mod_revision], kv.version)
            for kv in kvs
        ]

    def their_rows(self, kvs: Any) -> list[Row]:
        steps = self.their_step
        return [
            (kv.key, kv.value, steps[kv.create_revision], steps[kv.mod_revision], kv.version)
            for kv in kvs
        ]

    # ---- one operation on both -------------------------------------------------------------------

    def put(self) -> None:
        key, value = self.rng.choice(KEYS), self.value()
        ours = self.ours.Put(pb.PutRequest(key=key, value=value, return_previous=True))
        theirs = self.etcd.kv.Put(self.pb.PutRequest(key=key, value=value, prev_kv=True))
        assert ours.HasField("previous") == theirs.HasField("prev_kv")
        if ours.HasField("previous"):
            assert self.our_rows([ours.previous]) == self.their_rows([theirs.prev_kv])
        self.changed(ours.revision, theirs.header.revision)

    def delete(self) -> None:
        key, end = self.range()
        ours = self.ours.Delete(pb.DeleteRequest(key=key, range_end=end, return_previous=True))
        theirs = self.etcd.kv.DeleteRange(
            self.pb.DeleteRangeRequest(key=key, range_end=end, prev_kv=True)
        )
        assert ours.deleted == theirs.deleted
        assert self.our_rows(ours.previous) == self.their_rows(theirs.prev_kvs)
        if ours.deleted:
            self.changed(ours.revision, theirs.header.revision)

    def scan(self) -> None:
        key, end = self.range()
        start, stop = key, (key + b"\0" if not end else b"" if end == b"\0" else end)
        limit, reverse = self.rng.choice([0, 0, 1, 3]), self.rng.random() < 0.3
        step = (
            self.rng.randrange(len(self.steps)) if self.steps and self.rng.random() < 0.5 else None
        )
        at = self.steps[step] if step is not None else (0, 0)
        order = self.pb.RangeRequest.DESCEND if reverse else self.pb.RangeRequest.ASCEND
        ours, our_code = answer(
            self.ours.Scan,
            pb.ScanRequest(start=start, end=stop, limit=limit, reverse=reverse, revision=at[0]),
        )
        theirs, their_code = answer(
            self.etcd.kv.Range,
            self.pb.RangeRequest(
                key=key, range_end=end, limit=limit, revision=at[1], sort_order=order
            ),
        )
        assert our_code == their_code  # compacted on both, or on neither
        if our_code is None:
            assert self.our_rows(ours.kvs) == self.their_rows(theirs.kvs)
            count = self.ours.Scan(
                pb.ScanRequest(start=start, end=stop, count_only=True, revision=at[0])
            )
            assert count.count == theirs.count
            assert bool(ours.next_page_token) == theirs.more

    def txn(self) -> None:
        ours, theirs = pb.TxnRequest(), self.pb.TxnRequest()
        for _ in range(self.rng.randint(0, 2)):
            self.compare(ours.compares.add(), theirs.compare.add())
        for our_ops, their_ops in (
            (ours.then_ops, theirs.success),
            (ours.else_ops, theirs.failure),
        ):
            for _ in range(self.rng.randint(0, 4)):
                self.op(our_ops.add(), their_ops.add())
        our_reply, our_code = answer(self.ours.Txn, ours)
        their_reply, their_code = answer(self.etcd.kv.Txn, theirs)
        assert our_code == their_code  # a key written twice is refused by both
        if our_code is not None:
            return
        assert our_reply.succeeded == their_reply.succeeded
        before = self.steps[-1][1] if self.steps else 1
        if their_reply.header.revision > before:
            self.changed(our_reply.revision, their_reply.header.revision)
        for mine, other in zip(our_reply.results, their_reply.responses, strict=True):
            self.same_result(mine, other)

    def compact(self) -> None:
        if len(self.steps) < 20:
            return
        ours, theirs = self.steps[self.rng.randrange(len(self.steps) // 2, len(self.steps))]
        _, our_code = answer(self.admin.Compact, admin.CompactRequest(revision=ours))
        _, their_code = answer(self.etcd.kv.Compact, self.pb.CompactionRequest(revision=theirs))
        # Compacting again what is compacted is an error in etcd and nothing here: the promise is
        # the same.
        assert our_code in (None, their_code)

    # ---- what they are made of -------------------------------------------------------------------

    def value(self) -> bytes:
        return self.rng.choice([b"", b"x", b"y", self.rng.randbytes(8), self.rng.randbytes(3000)])

    def range(self) -> tuple[bytes, bytes]:
        """Key and range_end: one key, a range, or everything from a key on."""
        low, high = sorted(self.rng.sample(KEYS, 2))
        return low, self.rng.choice([b"", high, high, b"\0"])

    def compare(self, mine: Any, other: Any) -> None:
        mine.key = other.key = self.rng.choice(KEYS)
        mine.operator, other.result = self.rng.choice(list(OPERATORS.items()))
        target, other.target = self.rng.choice(list(TARGETS.items()))
        if target == "value":
            mine.value = other.value = self.value()
        elif target == "version":
            mine.version = other.version = self.rng.randint(0, 3)
        else:
            recent = [(0, 0), *self.steps[-8:]]
            given = self.rng.choice(recent)
            setattr(mine, target, given[0])
            setattr(other, target, given[1])

    def op(self, mine: Any, other: Any) -> None:
        key, end = self.range()
        if end == b"\0":
            end = b""  # etcd does not notice a put below "everything from a key on"; we refuse it
        match self.rng.randrange(4):
            case 0 | 1:
                mine.put.key = other.request_put.key = key
                mine.put.value = other.request_put.value = self.value()
            case 2:
                mine.delete.key = other.request_delete_range.key = key
                mine.delete.range_end = other.request_delete_range.range_end = end
            case _:
                mine.scan.start = other.request_range.key = key
                mine.scan.end = key + b"\0" if not end else b"" if end == b"\0" else end
                other.request_range.range_end = end
                mine.scan.limit = other.request_range.limit = self.rng.choice([0, 2])

    def same_result(self, mine: Any, other: Any) -> None:
        match mine.WhichOneof("result"):
            case "put":
                assert other.HasField("response_put")
            case "delete":
                assert mine.delete.deleted == other.response_delete_range.deleted
            case "scan":
                rows = self.their_rows(other.response_range.kvs)
                assert self.our_rows(mine.scan.kvs) == rows
                assert mine.scan.more == other.response_range.more
            case result:
                raise AssertionError(result)

    # ---- events ----------------------------------------------------------------------------------

    def events(self, first: int) -> tuple[list[Any], list[Any]]:
        """Every change from the n-th step on, as both tell it: (step, key, value or nothing,
        version), sorted within a step.
        """
        ours, theirs = self.steps[first]
        last = len(self.steps)
        mine: list[Any] = []
        call = self.ours.Watch(
            pb.WatchRequest(start_revision=ours, with_values=True), timeout=PATIENCE_S
        )
        for response in call:
            for event in response.events:
                put = event.type == pb.EVENT_TYPE_PUT
                kv = event.kv
                row = (
                    self.our_step[kv.mod_revision],
                    kv.key,
                    kv.value if put else None,
                    kv.version,
                )
                mine.append(row)
            if mine and mine[-1][0] == last and not response.fragment:
                break
        call.cancel()
        other: list[Any] = []
        requests: queue.Queue[Any] = queue.Queue()
        create = self.pb.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=theirs)
        requests.put(self.pb.WatchRequest(create_request=create))
        call = self.etcd.watch.Watch(iter(requests.get, None), timeout=PATIENCE_S)
        for response in call:
            for event in response.events:
                put = event.type == self.pb.Event.PUT
                kv = event.kv
                step = self.their_step[kv.mod_revision]
                other.append((step, kv.key, kv.value if put else None, kv.version))
            if other and other[-1][0] == last:
                break
        requests.put(None)
        call.cancel()
        return sorted(mine, key=lambda row: row[:2]), sorted(other, key=lambda row: row[:2])


def answer(call: Any, request: Any) -> tuple[Any, grpc.StatusCode | None]:
    """The reply, or the status it was refused with."""
    try:
        return call(request), None
    except grpc.RpcError as error:
        failed: Any = error
        return None, failed.code()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


def test_etcd_is_of_the_same_opinion(etcd: Etcd, tmp_path: Path) -> None:
    rng = random.Random(7)
    with Daemon(tmp_path) as daemon:
        both = Opinions(daemon, etcd, rng)
        for number in range(OPERATIONS):
            kind = rng.choice(["put"] * 4 + ["delete"] + ["scan"] * 4 + ["txn"] * 5)
            if number % 100 == 99:
                mine, other = both.events(max(0, len(both.steps) - 30))
                assert mine == other
                kind = "compact"
            getattr(both, kind)()
        everything = both.our_rows(both.ours.Scan(pb.ScanRequest()).kvs)
        theirs = etcd.kv.Range(both.pb.RangeRequest(key=b"\0", range_end=b"\0")).kvs
        assert everything == both.their_rows(theirs)
        assert len(both.steps) > OPERATIONS // 4

"""Random histories of the engine against a model: writes, transactions, reads of old revisions,
watches, leases, compaction, restarts.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.native.errors import StoreError
from bedplate.native.store import Method
from tests.model.bounds import bounded
from tests.model.kv_model import Effects, KVModel, Put, Range, Refused, delete_range, message
from tests.model.kv_requests import (
    OPERATORS,
    TARGETS,
    ago,
    compares,
    ends,
    keys,
    ranges,
    renumber,
    run_ops,
    txn_op,
    txn_ops,
    values,
    without_duplicates,
)
from tests.model.stepped_store import SteppedStore, SteppedWatch, scratch


class KVMachine(RuleBasedStateMachine):
    """The engine beside the model."""

    leases = Bundle("leases")
    watches = Bundle("watches")

    def __init__(self) -> None:
        super().__init__()
        self._directory = scratch()
        self.store = SteppedStore(Path(self._directory.name))
        self.model = KVModel()
        self.open: dict[int, tuple[SteppedWatch, Range, int]] = {}
        self.opened = 0
        self.catch_up()

    def teardown(self) -> None:
        self.close_watches()
        self.store.close()
        self._directory.cleanup()

    # ---- writes ----------------------------------------------------------------------------------

    @rule(
        key=keys,
        value=values,
        lease=st.one_of(st.just(0), leases),
        keep=st.booleans(),
        previous=st.booleans(),
    )
    def put(self, key: bytes, value: bytes, lease: int, keep: bool, previous: bool) -> None:
        keep = keep and not lease
        effects = {key: Put(value, lease, keep)}
        request = pb.PutRequest(
            key=key, value=value, lease_id=lease, keep_lease=keep, return_previous=previous
        )
        held = self.model.state.get(key)
        reply = self.write(Method.PUT, request, pb.PutResponse(), effects)
        if reply is not None:
            expected = message(key, held) if held and previous else pb.KeyValue()
            assert reply.previous == expected
            assert reply.HasField("previous") == (previous and held is not None)

    @rule(key=keys, end=ends, previous=st.booleans())
    def delete(self, key: bytes, end: bytes, previous: bool) -> None:
        covered = delete_range(key, end)
        if not covered.valid:
            return
        request = pb.DeleteRequest(key=key, range_end=end, return_previous=previous)
        effects = self.model.covered(covered)
        held = [message(each, self.model.state[each]) for each in effects]
        reply = self.write(Method.DELETE, request, pb.DeleteResponse(), effects)
        assert reply.deleted == len(effects)
        assert list(reply.previous) == (held if previous else [])

    @rule(
        writes=st.dictionaries(keys, st.one_of(st.none(), values), min_size=1, max_size=6),
        lease=st.one_of(st.just(0), leases),
    )
    def batch(self, writes: dict[bytes, bytes | None], lease: int) -> None:
        effects = {
            key: None if value is None else Put(value, lease) for key, value in writes.items()
        }
        ops = [
            pb.BatchOp(delete_key=key)
            if put is None
            else pb.BatchOp(put=pb.PutOp(key=key, value=put.value, lease_id=put.lease_id))
            for key, put in effects.items()
        ]
        deleted = sum(put is None and key in self.model.state for key, put in effects.items())
        reply = self.write(Method.BATCH, pb.BatchRequest(ops=ops), pb.BatchResponse(), effects)
        if reply is not None:
            assert reply.deleted == deleted
            assert reply.put == sum(put is not None for put in effects.values())

    @rule(conditions=st.lists(compares(), max_size=2), then_ops=txn_ops, else_ops=txn_ops)
    def txn(self, conditions: list[Any], then_ops: list[Any], else_ops: list[Any]) -> None:
        request = pb.TxnRequest(
            compares=[self.compare(*each) for each in conditions],
            then_ops=[txn_op(*op) for op in without_duplicates(then_ops)],
            else_ops=[txn_op(*op) for op in without_duplicates(else_ops)],
        )
        succeeded = all(self.model.holds(compare) for compare in request.compares)
        ops = request.then_ops if succeeded else request.else_ops
        scratch = KVModel(self.model.revision, 0, dict(self.model.state))
        # What ops of the same Txn wrote has the Txn's revision, which is not known before.
        revision = self.model.revision + 1
        results, effects = run_ops(scratch, ops, revision)
        reply = self.write(Method.TXN, request, pb.TxnResponse(), effects)
        assert reply.succeeded == succeeded
        for result in results:
            renumber(result, revision, reply.revision)
        assert list(reply.results) == results

    @rule(key=keys, value=values)
    def every_compare(self, key: bytes, value: bytes) -> None:
        """All properties, operators and sides of one key, each in a transaction of its own."""
        for target, operator, distance in product(TARGETS, OPERATORS, (0, 1, -1)):
            compare = self.compare(key, operator, target, distance, value)
            request = pb.TxnRequest(compares=[compare])
            expected = self.model.holds(compare)
            reply = self.write(Method.TXN, request, pb.TxnResponse(), {})
            assert reply.succeeded == expected, compare

    def compare(
        self, key: bytes, operator: int, target: str, distance: int, value: bytes
    ) -> pb.Compare:
        held = self.model.state.get(key)
        if target == "value":
            given: Any = held.value if held is not None and distance == 0 else value
        else:
            given = max(0, (getattr(held, target) if held is not None else 0) + distance)
        return pb.Compare(key=key, operator=operator, **{target: given})  # type: ignore[arg-type]

    def write(self, method: Method, request: Any, reply: Any, effects: Effects) -> Any:
        """Send a write; None when it was refused, as the model says it must be."""
        try:
            self.model.check_leases(effects)
        except Refused as refused:
            self.refused(method, request, refused)
            self.catch_up()
            return None
        self.store.call(method, request, reply)
        assert reply.revision == self.model.revision + 1
        self.model.apply(reply.revision, effects)
        return reply

    def catch_up(self) -> None:
        """Something may have taken a revision without changing a key."""
        assert self.store.revision >= self.model.revision
        self.model.revision = self.store.revision

    # ---- reads -----------------------------------------------------------------------------------

    @rule(key=keys, back=ago)
    def get(self, key: bytes, back: int) -> None:
        revision = self.revision(back)
        request = pb.GetRequest(key=key, revision=revision)
        try:
            held = self.model.at(revision).get(key)
        except Refused as refused:
            self.refused(Method.GET, request, refused)
            return
        reply = self.store.call(Method.GET, request, pb.GetResponse())
        assert reply.HasField("kv") == (held is not None)
        if held is not None:
            assert reply.kv == message(key, held)

    @rule(
        where=ranges,
        back=ago,
        limit=st.integers(0, 4),
        reverse=st.booleans(),
        keys_only=st.booleans(),
    )
    def scan(self, where: Range, back: int, limit: int, reverse: bool, keys_only: bool) -> None:
        if not where.valid:
            return
        revision = self.revision(back)
        request = pb.ScanRequest(
            limit=limit, reverse=reverse, keys_only=keys_only, revision=revision, **where.fields
        )
        try:
            expected = self.model.scan(where, revision, reverse)
        except Refused as refused:
            self.refused(Method.SCAN, request, refused)
            return
        found: list[pb.KeyValue] = []
        for _ in range(len(expected) + 2):
            reply = self.store.call(Method.SCAN, request, pb.ScanResponse())
            assert reply.count == len(reply.kvs)
            assert limit == 0 or reply.count <= limit
            found += reply.kvs
            if not reply.next_page_token:
                break
            request.page_token = reply.next_page_token
        assert found == [message(key, held, not keys_only) for key, held in expected]
        count = pb.ScanRequest(count_only=True, revision=revision, **where.fields)
        counted = self.store.call(Method.SCAN, count, pb.ScanResponse())
        assert (counted.count, len(counted.kvs)) == (len(expected), 0)

    def revision(self, back: int) -> int:
        """So far back from the present; -1 is the future, 0 the present by its name."""
        return max(0, self.model.revision - back) if back else 0

    def refused(self, method: Method, request: Any, refused: Refused) -> None:
        with pytest.raises(StoreError) as failure:
            self.store.call(method, request, pb.GetResponse())
        assert failure.value.reason == refused.reason

    # ---- leases ----------------------------------------------------------------------------------

    @rule(target=leases, number=st.integers(1, 5))
    def grant(self, number: int) -> Any:
        request = pb.GrantLeaseRequest(ttl_seconds=10_000, lease_id=number)
        if number in self.model.leases:
            self.refused(Method.GRANT_LEASE, request, Refused("LEASE_EXISTS"))
            self.catch_up()
            return multiple()
        reply = self.store.call(Method.GRANT_LEASE, request, pb.GrantLeaseResponse())
        assert (reply.lease_id, reply.ttl_seconds) == (number, 10_000)
        self.model.leases.add(number)
        self.catch_up()
        return number

    @rule(lease=leases)
    def revoke(self, lease: int) -> None:
        request = pb.RevokeLeaseRequest(lease_id=lease)
        if lease not in self.model.leases:
            self.refused(Method.REVOKE_LEASE, request, Refused("LEASE_NOT_FOUND"))
            self.catch_up()
            return
        attached = self.model.attached(lease)
        reply = self.store.call(Method.REVOKE_LEASE, request, pb.RevokeLeaseResponse())
        assert reply.deleted == len(attached)
        self.model.leases.remove(lease)
        self.model.apply(reply.revision, dict.fromkeys(attached))

    @rule(lease=leases)
    def keep_alive(self, lease: int) -> None:
        request = pb.KeepAliveRequest(lease_id=lease)
        reply = self.store.call(Method.KEEP_ALIVE, request, pb.KeepAliveResponse())
        assert reply.lease_id == lease
        assert reply.ttl_seconds == (10_000 if lease in self.model.leases else 0)

    @rule(lease=leases)
    def look_at_a_lease(self, lease: int) -> None:
        request = pb.GetLeaseRequest(lease_id=lease, with_keys=True)
        if lease not in self.model.leases:
            self.refused(Method.GET_LEASE, request, Refused("LEASE_NOT_FOUND"))
            return
        reply = self.store.call(Method.GET_LEASE, request, pb.GetLeaseResponse())
        assert reply.ttl_seconds == 10_000
        assert 0 < reply.remaining_ms <= 10_000_000
        assert reply.key_count == len(reply.keys)
        assert set(reply.keys) == self.model.attached(lease)

    # ---- watches ---------------------------------------------------------------------------------

    @rule(target=watches, where=ranges, back=st.integers(-2, 12))
    def watch(self, where: Range, back: int) -> Any:
        start = max(0, self.model.revision + 1 - back) if back else 0
        request = pb.WatchRequest(
            start_revision=start, with_values=True, with_previous=True, **where.fields
        )
        if not where.valid:
            return multiple()
        if start > self.model.revision + 1 or 0 < start <= self.model.compacted:
            with pytest.raises(StoreError) as failure:
                self.store.watch(request)
            future = start > self.model.revision
            assert failure.value.reason == (
                "REVISION_IN_FUTURE" if future else "REVISION_COMPACTED"
            )
            return multiple()
        watch = self.store.watch(request)
        (created, *rest) = watch.take()
        assert created.created
        self.opened += 1
        seen = start - 1 if start else self.model.revision
        self.open[self.opened] = (watch, where, seen)
        self.check_events(self.opened, rest)
        return self.opened

    @rule(number=watches)
    def listen(self, number: int) -> None:
        if number in self.open:
            self.check_events(number, self.open[number][0].take())

    @rule(number=consumes(watches))
    def stop_listening(self, number: int) -> None:
        if number in self.open:
            self.open.pop(number)[0].close()

    def check_events(self, number: int, responses: list[pb.WatchResponse]) -> None:
        watch, where, seen = self.open[number]
        got = [event for response in responses for event in response.events]
        expected = []
        for revision, key, version, previous in self.model.events(where, seen):
            event = pb.Event(type=pb.EVENT_TYPE_PUT if version else pb.EVENT_TYPE_DELETE)
            event.kv.CopyFrom(
                message(key, version) if version else pb.KeyValue(key=key, mod_revision=revision)
            )
            if previous is not None and revision - 1 >= self.model.compacted:
                event.previous.CopyFrom(message(key, previous))
            expected.append(event)
        if watch.last is not None:
            assert watch.last.reason == "REVISION_COMPACTED"
            assert seen < self.model.compacted
            self.open.pop(number)[0].close()
            return
        got.sort(key=lambda event: (event.kv.mod_revision, event.kv.key))
        for event, wanted in zip(got, expected, strict=True):
            if not wanted.HasField("previous"):
                event.ClearField("previous")  # compacted: may be absent or not
            assert event == wanted
        self.open[number] = (watch, where, max(seen, self.model.revision))

    # ---- what changes nothing that clients see ---------------------------------------------------

    @precondition(lambda self: self.model.revision > self.model.compacted + 1)
    @rule(share=st.floats(0.1, 1.0))
    def compact(self, share: float) -> None:
        for number in list(
            self.open
        ):  # a watch that is behind may be cancelled; one that is not, never
            self.check_events(number, self.open[number][0].take())
        span = self.model.revision - self.model.compacted
        target = self.model.compacted + max(1, int(span * share))
        self.store.compact(target)
        self.model.compacted = target
        self.catch_up()

    @rule()
    def checkpoint(self) -> None:
        self.store.checkpoint()

    @rule()
    def clean(self) -> None:
        self.store.clean()

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        self.close_watches()
        before = self.store.state_hash
        if crash:
            self.store.crash()
        else:
            self.store.reopen()
        assert self.store.state_hash == before
        self.catch_up()

    def close_watches(self) -> None:
        for watch, _, _ in self.open.values():
            watch.close()
        self.open.clear()

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        reply = self.store.call(Method.SCAN, pb.ScanRequest(), pb.ScanResponse())
        assert list(reply.kvs) == [
            message(key, held) for key, held in sorted(self.model.state.items())
        ]
        assert reply.revision == self.model.revision


TestKV = KVMachine.TestCase
TestKV.settings = bounded(examples=150, steps=40)

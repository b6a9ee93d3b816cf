"""Random requests for the model tests, and what a branch of a transaction comes to."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from bedplate.api.kv.v1 import kv_pb2 as pb
from tests.model.kv_model import Effects, KVModel, Put, Range, delete_range, message

KEYS = [
    b"\0",
    b"a",
    b"a\0",
    b"a/1",
    b"a/2",
    b"aa",
    b"b",
    b"b/\xff",
    b"b/\xff\xff",
    b"\xff",
    b"\xff" * 3,
]
PREFIXES = [b"a", b"a/", b"b/\xff", b"\xff", b"\0", b"zz"]

keys = st.sampled_from(KEYS)
values = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([0, 3000, 100_000]).map(lambda size: b"x" * size),  # the last in several chunks
)
ranges = st.one_of(
    st.builds(Range, prefix=st.sampled_from(PREFIXES)),
    st.builds(Range, st.one_of(st.just(b""), keys), st.one_of(st.just(b""), keys)),
)
ends = st.one_of(st.just(b""), st.just(b"\0"), keys)
ago = st.integers(min_value=-1, max_value=12)
OPERATORS = list(pb.CompareOperator.values())
TARGETS = ["value", "mod_revision", "create_revision", "version", "lease_id"]
operators = st.sampled_from(OPERATORS)


@st.composite
def compares(draw: st.DrawFn) -> tuple[bytes, int, str, int, bytes]:
    """Key, operator, property, and what to compare with: as a distance from what is stored, or as a
    value.
    """
    target = draw(st.sampled_from(TARGETS))
    return draw(keys), draw(operators), target, draw(st.sampled_from([0, 0, 1, -1])), draw(values)


txn_ops = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, values),
        st.tuples(st.just("delete"), keys, ends),
        st.tuples(st.just("get"), keys, st.just(b"")),
        st.tuples(st.just("scan"), ranges, st.integers(0, 3)),
    ),
    max_size=4,
)


def without_duplicates(ops: list[Any]) -> list[Any]:
    """A branch may write a key once: leave out what would be refused."""
    kept: list[Any] = []
    put: set[bytes] = set()
    deleted: list[Range] = []
    for op in ops:
        kind, what, more = op
        if kind == "put":
            if what in put or any(what in covered for covered in deleted):
                continue
            put.add(what)
        elif kind == "delete":
            covered = delete_range(what, more)
            if not covered.valid or any(key in covered for key in put):
                continue
            deleted.append(covered)
        elif kind == "scan" and not what.valid:
            continue
        kept.append(op)
    return kept


def txn_op(kind: str, what: Any, more: Any) -> pb.TxnOp:
    match kind:
        case "put":
            return pb.TxnOp(put=pb.PutOp(key=what, value=more))
        case "delete":
            return pb.TxnOp(delete=pb.DeleteOp(key=what, range_end=more))
        case "get":
            return pb.TxnOp(get=pb.GetOp(key=what))
        case _:
            return pb.TxnOp(scan=pb.ScanOp(limit=more, **what.fields))


def run_ops(scratch: KVModel, ops: Any, revision: int) -> tuple[list[pb.TxnOpResult], Effects]:
    """Results of a branch, each op seeing the ones before; and what all of it does."""
    results: list[pb.TxnOpResult] = []
    effects: dict[bytes, Put | None] = {}
    begin = dict(scratch.state)
    for op in ops:
        step: Effects = {}
        result = pb.TxnOpResult()
        match op.WhichOneof("op"):
            case "put":
                step = {op.put.key: Put(op.put.value)}
                result.put.SetInParent()
            case "delete":
                step = scratch.covered(delete_range(op.delete.key, op.delete.range_end))
                result.delete.deleted = len(step)
            case "get":
                result.get.SetInParent()
                held = scratch.state.get(op.get.key)
                if held is not None:
                    result.get.kv.CopyFrom(message(op.get.key, held))
            case _:
                where = Range(op.scan.start, op.scan.end, op.scan.prefix)
                found = scratch.scan(where, 0, False)
                shown = found[: op.scan.limit] if op.scan.limit else found
                result.scan.kvs.extend(message(key, held) for key, held in shown)
                result.scan.count = len(shown)
                result.scan.more = len(shown) < len(found)
        results.append(result)
        effects |= step
        scratch.state, scratch.revision, scratch.changes = dict(begin), revision - 1, []
        scratch.apply(revision, effects)
    return results, effects


def renumber(result: pb.TxnOpResult, assumed: int, actual: int) -> None:
    """The Txn's revision turned out to be another than assumed."""
    shown = list(result.scan.kvs) + ([result.get.kv] if result.get.HasField("kv") else [])
    for kv in shown:
        for name in ("mod_revision", "create_revision"):
            if getattr(kv, name) == assumed:
                setattr(kv, name, actual)

"""Random requests of KVService, and the normal form in which they are compared."""

import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from google.protobuf.message import Message

from bedplate.api.kv.v1 import kv_pb2 as kv
from bedplate.native.store import Method

SCAN_PAGE_MAX = 10_000
# The engine's numbers of what is no unary method.
PIPELINE, WATCH = 11, 12

Make = Callable[[random.Random], Message]
Ranged = kv.ScanRequest | kv.ScanOp | kv.WatchRequest
Leased = kv.PutRequest | kv.PutOp


def key(rng: random.Random) -> bytes:
    return rng.choice((b"a", b"\x00", b"\xff\xff", rng.randbytes(rng.randint(1, 40))))


def value(rng: random.Random) -> bytes:
    return rng.choice((b"", b"v", rng.randbytes(rng.choice((1, 127, 128, 300, 70_000)))))


def number(rng: random.Random) -> int:
    return rng.choice((0, 1, 127, 128, 2**32, 2**63, 2**64 - 1, rng.getrandbits(40)))


def request_id(rng: random.Random) -> str:
    return rng.choice(("", "id", "é" * 32, "\U0010ffff\ud7ff\ue000"))


def flag(rng: random.Random) -> bool:
    return rng.random() < 0.5


def put_op(rng: random.Random, name: bytes) -> kv.PutOp:
    message = kv.PutOp(key=name, value=value(rng))
    fill_lease(rng, message)
    return message


def fill_lease(rng: random.Random, message: Leased) -> None:
    match rng.randrange(3):
        case 0:
            message.lease_id = number(rng)
        case 1:
            message.keep_lease = True


def fill_range(rng: random.Random, message: Ranged) -> None:
    first, last = sorted((key(rng), key(rng)))
    match rng.randrange(5):
        case 0:
            message.prefix = first
        case 1:
            message.start = first
        case 2:
            message.end = last
        case 3 if first < last:
            message.start, message.end = first, last


def put(rng: random.Random) -> Message:
    message = kv.PutRequest(
        key=key(rng),
        value=value(rng),
        return_previous=flag(rng),
        request_id=request_id(rng),
    )
    fill_lease(rng, message)
    return message


def range_end(rng: random.Random, first: bytes) -> bytes:
    return rng.choice((b"", b"\x00", first + b"\x00", first + rng.randbytes(5)))


def delete(rng: random.Random) -> Message:
    first = key(rng)
    return kv.DeleteRequest(
        key=first,
        range_end=range_end(rng, first),
        return_previous=flag(rng),
        request_id=request_id(rng),
    )


def get(rng: random.Random) -> Message:
    return kv.GetRequest(
        key=key(rng), revision=number(rng), consistency=rng.choice(kv.Consistency.keys())
    )


def scan(rng: random.Random) -> Message:
    message = kv.ScanRequest(
        limit=rng.choice((0, 1, SCAN_PAGE_MAX)),
        reverse=flag(rng),
        keys_only=flag(rng),
        count_only=flag(rng),
        revision=number(rng),
        consistency=rng.choice(kv.Consistency.keys()),
    )
    fill_range(rng, message)
    return message


def compare(rng: random.Random) -> kv.Compare:
    message = kv.Compare(key=key(rng), operator=rng.choice(kv.CompareOperator.keys()))
    field = rng.choice(("value", "mod_revision", "create_revision", "version", "lease_id"))
    setattr(message, field, value(rng) if field == "value" else number(rng))
    return message


def txn_op(rng: random.Random, name: bytes) -> kv.TxnOp:
    match rng.randrange(4):
        case 0:
            return kv.TxnOp(put=put_op(rng, name))
        case 1:
            return kv.TxnOp(delete=kv.DeleteOp(key=name, range_end=rng.choice((b"", name + b"\0"))))
        case 2:
            return kv.TxnOp(get=kv.GetOp(key=name))
    op = kv.ScanOp(limit=rng.choice((0, 9)), reverse=flag(rng), keys_only=flag(rng))
    op.count_only = flag(rng)
    fill_range(rng, op)
    return kv.TxnOp(scan=op)


def names(rng: random.Random) -> Iterator[bytes]:
    """Keys none of which is another one, or another one followed by a byte 0."""
    yield from rng.sample([b"key-%d" % i for i in range(100)], rng.randrange(20))


def txn(rng: random.Random) -> Message:
    return kv.TxnRequest(
        compares=[compare(rng) for _ in range(rng.randrange(5))],
        then_ops=[txn_op(rng, name) for name in names(rng)],
        else_ops=[txn_op(rng, name) for name in names(rng)],
        request_id=request_id(rng),
    )


def batch_op(rng: random.Random, name: bytes) -> kv.BatchOp:
    if flag(rng):
        return kv.BatchOp(delete_key=name)
    return kv.BatchOp(put=put_op(rng, name))


def batch(rng: random.Random) -> Message:
    ops = [batch_op(rng, name) for name in (rng.randbytes(8), *names(rng))]
    return kv.BatchRequest(ops=ops, request_id=request_id(rng))


def pipeline(rng: random.Random) -> Message:
    makers = {"put": put, "delete": delete, "get": get, "txn": txn, "batch": batch}
    frame = kv.PipelineRequest()
    for _ in range(rng.randrange(6)):
        member = rng.choice(list(makers))
        op = frame.ops.add(id=number(rng))
        getattr(op, member).CopyFrom(makers[member](rng))
        getattr(op, member).SetInParent()
    return frame


def watch(rng: random.Random) -> Message:
    message = kv.WatchRequest(
        start_revision=number(rng),
        progress_interval_ms=rng.choice((0, 100, 3_600_000)),
        with_values=flag(rng),
        with_previous=flag(rng),
    )
    if flag(rng):
        message.skip_puts = True
    else:
        message.skip_deletes = flag(rng)
    fill_range(rng, message)
    return message


MAKERS: Final[Mapping[int, Make]] = MappingProxyType(
    {
        Method.GET: get,
        Method.PUT: put,
        Method.DELETE: delete,
        Method.SCAN: scan,
        Method.TXN: txn,
        Method.BATCH: batch,
        Method.GRANT_LEASE: lambda rng: kv.GrantLeaseRequest(
            ttl_seconds=rng.randint(1, 31_622_400), lease_id=number(rng)
        ),
        Method.REVOKE_LEASE: lambda rng: kv.RevokeLeaseRequest(lease_id=1 + number(rng) // 2),
        Method.GET_LEASE: lambda rng: kv.GetLeaseRequest(
            lease_id=1 + number(rng) // 2,
            with_keys=flag(rng),
            limit=rng.choice((0, 5, SCAN_PAGE_MAX)),
        ),
        Method.KEEP_ALIVE: lambda rng: kv.KeepAliveRequest(lease_id=number(rng)),
        PIPELINE: pipeline,
        WATCH: watch,
    }
)


def normal_range(message: Ranged) -> None:
    """A prefix as the range it means: up to the next key that does not begin with it."""
    if message.prefix:
        stem = message.prefix.rstrip(b"\xff")
        message.start = message.prefix
        message.end = stem[:-1] + bytes([stem[-1] + 1]) if stem else b""
        message.prefix = b""


def normal(message: Message) -> Message:
    """Ranges without prefix, and every default that means something written out."""
    match message:
        case kv.ScanRequest() | kv.ScanOp():
            normal_range(message)
            message.limit = message.limit or SCAN_PAGE_MAX
        case kv.WatchRequest():
            normal_range(message)
        case kv.GetLeaseRequest():
            message.limit = message.limit or SCAN_PAGE_MAX
        case kv.TxnRequest():
            for condition in message.compares:
                condition.operator = condition.operator or kv.COMPARE_OPERATOR_EQUAL
            for op in (*message.then_ops, *message.else_ops):
                if op.HasField("scan"):
                    normal(op.scan)
        case kv.PipelineRequest():
            for frame_op in message.ops:
                normal(getattr(frame_op, frame_op.WhichOneof("op")))
    if isinstance(message, kv.GetRequest | kv.ScanRequest):
        message.consistency = message.consistency or kv.CONSISTENCY_LINEARIZABLE
    return message

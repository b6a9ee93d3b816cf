"""The simulation's operations as requests of the engine, and the engine's replies as answers.

A write takes one of several shapes, chosen by its number so that a retry is the same request:

    value 0     Delete, returning what was there
    number % 3  Put, returning what was there | Txn: put, then get | Txn: the same as its else
"""

from __future__ import annotations

from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.native.errors import StoreError
from bedplate.native.store import Method
from tests.simulation.machine import (
    Answer,
    Failure,
    LeaseAct,
    LeaseCall,
    Operation,
    Outcome,
    Read,
)

SHAPES = 3
NEVER = 1 << 60
# Nothing was done, and nothing will be.
LEASES = frozenset({"LEASE_NOT_FOUND", "LEASE_EXISTS"})
SURE = frozenset({"NO_LEADER", "QUEUE_FULL", "DISK_FULL"})


def encode(operation: Operation) -> tuple[Method, bytes]:
    """The engine's method, and its request."""
    key = operation.key.encode()
    if isinstance(operation, LeaseCall):
        return _encode_lease(operation, key)
    if isinstance(operation, Read):
        return Method.GET, pb.GetRequest(key=key).SerializeToString()
    request_id = f"{operation.client}-{operation.number}"
    if operation.value == 0:
        delete = pb.DeleteRequest(key=key, request_id=request_id)
        return Method.DELETE, delete.SerializeToString()
    value, shape = bytes_of(operation.value), operation.number % SHAPES
    if shape == 0:
        put = pb.PutRequest(key=key, value=value, return_previous=True, request_id=request_id)
        return Method.PUT, put.SerializeToString()
    ops = [
        pb.TxnOp(put=pb.PutOp(key=key, value=value)),
        pb.TxnOp(get=pb.GetOp(key=key)),
    ]
    if shape == 1:
        return Method.TXN, pb.TxnRequest(then_ops=ops, request_id=request_id).SerializeToString()
    never = pb.Compare(key=key, operator=pb.COMPARE_OPERATOR_GREATER, version=NEVER)
    txn = pb.TxnRequest(compares=[never], else_ops=ops, request_id=request_id)
    return Method.TXN, txn.SerializeToString()


def _encode_lease(call: LeaseCall, key: bytes) -> tuple[Method, bytes]:
    match call.act:
        case LeaseAct.GRANT:
            grant = pb.GrantLeaseRequest(lease_id=call.lease, ttl_seconds=1)
            return Method.GRANT_LEASE, grant.SerializeToString()
        case LeaseAct.ATTACH:
            put = pb.PutRequest(key=key, value=b"1:", lease_id=call.lease)
            return Method.PUT, put.SerializeToString()
        case LeaseAct.KEEP_ALIVE:
            keep = pb.KeepAliveRequest(lease_id=call.lease)
            return Method.KEEP_ALIVE, keep.SerializeToString()


def decode(operation: Operation, reply: bytes) -> Answer:
    """What the reply says of the key."""
    if isinstance(operation, LeaseCall):
        kept = operation.act is not LeaseAct.KEEP_ALIVE or (
            pb.KeepAliveResponse.FromString(reply).ttl_seconds > 0
        )
        return Answer(operation.lease, int(kept), 0)
    if isinstance(operation, Read):
        got = pb.GetResponse.FromString(reply)
        return Answer(value_of(got.kv.value), got.kv.version, got.revision)
    if operation.value == 0:
        gone = pb.DeleteResponse.FromString(reply)
        return Answer(0, gone.deleted, gone.revision)
    if operation.number % SHAPES == 0:
        put = pb.PutResponse.FromString(reply)
        return Answer(operation.value, put.previous.version + 1, put.revision)
    txn = pb.TxnResponse.FromString(reply)
    kv = txn.results[1].get.kv
    return Answer(value_of(kv.value), kv.version, txn.revision)


def failure(operation: Operation, error: StoreError) -> Outcome:
    """What a client may make of it."""
    if isinstance(operation, LeaseCall) and error.reason in LEASES:
        return Answer(operation.lease, 0, 0)  # granted before, who knows when: as good as none
    return Failure(unknown=error.reason not in SURE)


def bytes_of(value: int) -> bytes:
    """A few bytes, or a few sectors of them."""
    padding = 3000 if value % 16 == 0 else value % 200
    return b"%d:" % value + b"." * padding


def value_of(data: bytes) -> int:
    return int(data.partition(b":")[0]) if data else 0

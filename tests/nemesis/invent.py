"""Operations, made up and turned into requests; and what their replies say."""

from __future__ import annotations

import random
from typing import Any

from bedplate.api.kv.v1 import kv_pb2 as pb
from tests.nemesis.groups import Group
from tests.nemesis.history import Compare, Found, Operation, Result, Write, pack, unpack

SIZES = (16, 16, 100, 1000, 5000)


def invent(rng: random.Random, client: int, name: str, group: Group) -> Operation:
    """The client's next operation on the group."""

    def value(part: int = 0) -> str:
        return f"{name}.{part}"

    key = rng.choice(group.keys)
    if len(group.keys) == 1:
        weights = {"put": 4, "get": 5, "txn": 4, "delete": 1}
    else:
        weights = {"batch": 4, "scan": 5, "txn": 4, "put": 1, "get": 1, "delete": 1}
    kind = rng.choices([*weights], [*weights.values()])[0]
    operation = Operation(client, kind, group.name)
    match kind:
        case "get":
            operation.key = key
            operation.serializable = rng.random() < 0.15
        case "scan":
            operation.serializable = rng.random() < 0.15
        case "put":
            operation.writes = (Write(key, value()),)
        case "delete":
            operation.writes = (Write(key, None),)
        case _:
            chosen = rng.sample(group.keys, rng.randint(1, len(group.keys)))
            operation.writes = tuple(
                Write(each, value(part) if part == 0 or rng.random() < 0.8 else None)
                for part, each in enumerate(chosen)
            )
            if kind == "txn":
                asked = rng.sample(group.keys, rng.randint(1, min(2, len(group.keys))))
                operation.compares = tuple(Compare(k, group.seen.get(k, 0)) for k in asked)
    return operation


def request(
    rng: random.Random, operation: Operation, group: Group, request_id: str
) -> tuple[str, Any]:
    """The method's name and its request."""
    consistency = pb.CONSISTENCY_SERIALIZABLE if operation.serializable else None

    def packed(write: Write) -> bytes:
        return pack(write.value or "", rng.choice(SIZES))

    match operation.op:
        case "get":
            key = group.key(operation.key)
            return "Get", pb.GetRequest(key=key, consistency=consistency)
        case "scan":
            return "Scan", pb.ScanRequest(prefix=group.prefix, consistency=consistency)
        case "put":
            write = operation.writes[0]
            key = group.key(write.key)
            return "Put", pb.PutRequest(key=key, value=packed(write), request_id=request_id)
        case "delete":
            key = group.key(operation.writes[0].key)
            return "Delete", pb.DeleteRequest(key=key, request_id=request_id)
        case "batch":
            ops = [
                pb.BatchOp(delete_key=group.key(write.key))
                if write.value is None
                else pb.BatchOp(put=pb.PutOp(key=group.key(write.key), value=packed(write)))
                for write in operation.writes
            ]
            return "Batch", pb.BatchRequest(ops=ops, request_id=request_id)
    look = pb.TxnOp(scan=pb.ScanOp(prefix=group.prefix))
    return "Txn", pb.TxnRequest(
        compares=[
            pb.Compare(key=group.key(compare.key), mod_revision=compare.expected)
            for compare in operation.compares
        ],
        then_ops=[
            look,
            *(
                pb.TxnOp(delete=pb.DeleteOp(key=group.key(write.key)))
                if write.value is None
                else pb.TxnOp(put=pb.PutOp(key=group.key(write.key), value=packed(write)))
                for write in operation.writes
            ),
        ],
        else_ops=[look],
        request_id=request_id,
    )


def result(operation: Operation, group: Group, reply: Any) -> Result:
    """What the reply says; the group learns the revisions. Raises Damaged."""
    match operation.op:
        case "get":
            kvs = [reply.kv] if reply.HasField("kv") else []
            found = _found(group, kvs, (operation.key,))
            revision = reply.revision
        case "scan":
            found = _found(group, reply.kvs, group.keys)
            revision = reply.read_revision
        case "txn":
            written = operation.writes if reply.succeeded else ()
            found = _found(group, reply.results[0].scan.kvs, group.keys)
            _learn(group, written, reply.revision)
            return Result(reply.revision, succeeded=reply.succeeded, found=found)
        case _:
            _learn(group, operation.writes, reply.revision)
            deleted = 0 if operation.op == "put" else reply.deleted
            return Result(reply.revision, deleted=deleted)
    return Result(revision, found=found)


def _found(group: Group, kvs: Any, asked: tuple[str, ...]) -> tuple[Found, ...]:
    found = tuple(
        Found(kv.key.removeprefix(group.prefix).decode(), unpack(kv.value), kv.mod_revision)
        for kv in kvs
    )
    revisions = {each.key: each.mod_revision for each in found}
    group.seen.update({key: revisions.get(key, 0) for key in asked})
    return found


def _learn(group: Group, writes: tuple[Write, ...], revision: int) -> None:
    for write in writes:
        group.seen[write.key] = revision if write.value is not None else 0

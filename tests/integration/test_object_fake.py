"""The fake engine that unit tests stand on answers as the real one does."""

import random
from pathlib import Path
from typing import Any

import pytest

from bedplate.api.kv.v1 import kv_pb2
from bedplate.errors import BedplateError
from bedplate.native.store import Keyspace, Method
from bedplate.storage.config import StorageConfig
from bedplate.storage.engine import Engine
from bedplate.storage.options import engine_options
from tests.unit.fake_engine import FakeEngine

KEYS = [b"a", b"a\0", b"a\0b", b"ab", b"b", b"b\xff", b"c"]
REPLIES: dict[Method, Any] = {
    Method.GET: kv_pb2.GetResponse,
    Method.SCAN: kv_pb2.ScanResponse,
    Method.DELETE: kv_pb2.DeleteResponse,
    Method.TXN: kv_pb2.TxnResponse,
}


def draw(rng: random.Random, revision: int) -> tuple[Method, bytes]:
    """A request of a kind that the object store makes, right or wrong."""
    key, other = rng.choices(KEYS, k=2)
    match rng.randrange(6):
        case 0:
            at = rng.choice([0, rng.randint(max(1, revision - 20), revision)])
            return Method.GET, kv_pb2.GetRequest(key=key, revision=at).SerializeToString()
        case 1:
            scan = kv_pb2.ScanRequest(
                start=rng.choice([b"", key]),
                end=rng.choice([b"", other]),
                limit=rng.choice([0, 1, 3]),
                keys_only=rng.random() < 0.5,
            )
            return Method.SCAN, scan.SerializeToString()
        case 2:
            end = rng.choice([b"", other])
            return Method.DELETE, kv_pb2.DeleteRequest(key=key, range_end=end).SerializeToString()
    txn = kv_pb2.TxnRequest(request_id=rng.choice(["", "", "one", "two"]))
    for _ in range(rng.randrange(3)):
        key = rng.choice(KEYS)
        match rng.randrange(3):
            case 0:
                greater = kv_pb2.COMPARE_OPERATOR_GREATER
                txn.compares.add(key=key, operator=greater, version=rng.randrange(2))
            case 1:
                txn.compares.add(key=key, operator=kv_pb2.COMPARE_OPERATOR_EQUAL, version=0)
            case 2:
                near = rng.randint(max(0, revision - 5), revision)
                txn.compares.add(key=key, mod_revision=rng.choice([0, near]))
    for _ in range(rng.randrange(5)):
        key = rng.choice(KEYS)
        match rng.randrange(4):
            case 0 | 1:
                txn.then_ops.add(put=kv_pb2.PutOp(key=key, value=rng.randbytes(3)))
            case 2:
                txn.then_ops.add(delete=kv_pb2.DeleteOp(key=key, range_end=rng.choice([b"", b"d"])))
            case 3:
                scan_op = kv_pb2.ScanOp(prefix=key[:1], limit=1, keys_only=True)
                txn.then_ops.add(scan=scan_op)
    return Method.TXN, txn.SerializeToString()


async def answer(engine: Engine | FakeEngine, method: Method, request: bytes) -> object:
    try:
        reply = REPLIES[method].FromString(await engine.call(method, Keyspace.OBJECT, request))
    except BedplateError as error:
        return error.code, error.reason
    if isinstance(reply, kv_pb2.ScanResponse):
        reply.next_page_token = b"more" if reply.next_page_token else b""
    if isinstance(reply, kv_pb2.TxnResponse):
        for result in reply.results:
            if result.HasField("scan"):  # only whether there was something is asked
                result.scan.CopyFrom(kv_pb2.ScanOpResult(count=result.scan.count))
    return reply


async def part(engine: Engine | FakeEngine, key: bytes) -> tuple[object, ...]:
    try:
        reply = await engine.value(Keyspace.OBJECT, key, offset=1, length=1, prefix=b"p")
    except BedplateError as error:
        return (error.code,)
    return reply.data, reply.crc32c


@pytest.mark.parametrize("seed", range(8))
async def test_the_fake_answers_as_the_engine(tmp_path: Path, seed: int) -> None:
    real, fake = Engine(engine_options(StorageConfig(), tmp_path / "store")), FakeEngine()
    await real.open()
    try:
        fake.revision = fake.floor = real.status().revision
        rng = random.Random(seed)
        for _ in range(300):
            method, request = draw(rng, fake.revision)
            assert await answer(real, method, request) == await answer(fake, method, request)
            key = rng.choice(KEYS)
            assert await part(real, key) == await part(fake, key)
    finally:
        await real.close()

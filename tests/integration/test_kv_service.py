"""KVService over gRPC: what each call does, what each refusal says."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import grpc
import pytest

from bedplate.api.kv.v1.kv_pb2 import (
    COMPARE_OPERATOR_GREATER,
    BatchOp,
    BatchRequest,
    Compare,
    DeleteOp,
    DeleteRequest,
    GetOp,
    GetRequest,
    PipelineOp,
    PipelineRequest,
    PutOp,
    PutRequest,
    ScanRequest,
    TxnOp,
    TxnRequest,
)
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from tests.integration.daemon import Daemon, eventually
from tests.integration.refusals import refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_put_is_read_until_it_is_deleted(kv: KVServiceStub, key: bytes) -> None:
    put = kv.Put(PutRequest(key=key, value=b"one"))
    got = kv.Get(GetRequest(key=key)).kv
    assert (got.key, got.value, got.version) == (key, b"one", 1)
    assert got.create_revision == got.mod_revision == put.revision
    gone = kv.Delete(DeleteRequest(key=key, return_previous=True))
    assert (gone.deleted, gone.previous[0].value) == (1, b"one")
    assert not kv.Get(GetRequest(key=key)).HasField("kv")
    assert kv.Delete(DeleteRequest(key=key)).deleted == 0


def test_every_reply_carries_a_revision_that_grows(kv: KVServiceStub, key: bytes) -> None:
    first = kv.Put(PutRequest(key=key, value=b"1")).revision
    second = kv.Put(PutRequest(key=key, value=b"2")).revision
    assert 0 < first < second <= kv.Get(GetRequest(key=key)).revision
    assert kv.Scan(ScanRequest(prefix=key)).revision >= second


def test_older_revisions_stay_readable(kv: KVServiceStub, key: bytes) -> None:
    first = kv.Put(PutRequest(key=key, value=b"old")).revision
    kv.Put(PutRequest(key=key, value=b"new"))
    assert kv.Get(GetRequest(key=key, revision=first)).kv.value == b"old"
    (then,) = kv.Scan(ScanRequest(prefix=key, revision=first)).kvs
    assert then.value == b"old"


def test_a_scan_is_paged_and_all_pages_show_one_revision(kv: KVServiceStub, key: bytes) -> None:
    names = [key + b"%03d" % i for i in range(25)]
    batch = BatchRequest(ops=[BatchOp(put=PutOp(key=name, value=name)) for name in names])
    revision = kv.Batch(batch).revision
    seen: list[bytes] = []
    token = b""
    for page in count():
        reply = kv.Scan(ScanRequest(prefix=key, limit=10, page_token=token))
        assert reply.read_revision >= revision
        seen += [item.key for item in reply.kvs]
        token = reply.next_page_token
        if page == 0:
            kv.Put(PutRequest(key=key + b"999", value=b"too late"))
        if not token:
            break
    assert seen == names
    backwards = kv.Scan(ScanRequest(prefix=key, reverse=True, keys_only=True, limit=2)).kvs
    assert [item.key for item in backwards] == [key + b"999", names[-1]]
    assert kv.Scan(ScanRequest(prefix=key, count_only=True)).count == 26


def test_a_txn_runs_one_branch_atomically(kv: KVServiceStub, key: bytes) -> None:
    def acquire(owner: bytes) -> tuple[bool, bytes]:
        reply = kv.Txn(
            TxnRequest(
                compares=[Compare(key=key, version=0)],
                then_ops=[TxnOp(put=PutOp(key=key, value=owner))],
                else_ops=[TxnOp(get=GetOp(key=key))],
            )
        )
        return reply.succeeded, reply.results[0].get.kv.value

    assert acquire(b"first") == (True, b"")
    assert acquire(b"second") == (False, b"first")


def test_a_txn_reads_its_own_writes_in_order(kv: KVServiceStub, key: bytes) -> None:
    kv.Put(PutRequest(key=key + b"a", value=b"before"))
    reply = kv.Txn(
        TxnRequest(
            compares=[Compare(key=key + b"a", value=b"a", operator=COMPARE_OPERATOR_GREATER)],
            then_ops=[
                TxnOp(get=GetOp(key=key + b"a")),
                TxnOp(delete=DeleteOp(key=key + b"a")),
                TxnOp(get=GetOp(key=key + b"a")),
                TxnOp(put=PutOp(key=key + b"b", value=b"after")),
                TxnOp(get=GetOp(key=key + b"b")),
            ],
        )
    )
    assert reply.succeeded
    assert reply.results[0].get.kv.value == b"before"
    assert reply.results[1].delete.deleted == 1
    assert not reply.results[2].get.HasField("kv")
    assert reply.results[4].get.kv.value == b"after"
    assert reply.results[4].get.kv.mod_revision == reply.revision


def test_a_batch_shares_one_revision(kv: KVServiceStub, key: bytes) -> None:
    kv.Put(PutRequest(key=key + b"c", value=b""))
    reply = kv.Batch(
        BatchRequest(
            ops=[
                BatchOp(put=PutOp(key=key + b"a", value=b"1")),
                BatchOp(put=PutOp(key=key + b"b", value=b"2")),
                BatchOp(delete_key=key + b"c"),
                BatchOp(delete_key=key + b"absent"),
            ]
        )
    )
    assert (reply.put, reply.deleted) == (2, 1)
    found = kv.Scan(ScanRequest(prefix=key)).kvs
    assert [item.key[-1:] for item in found] == [b"a", b"b"]
    assert {item.mod_revision for item in found} == {reply.revision}


def test_a_retry_under_its_request_id_returns_the_first_result(
    kv: KVServiceStub, key: bytes
) -> None:
    request = PutRequest(key=key, value=b"once", request_id=key.decode())
    first = kv.Put(request)
    kv.Put(PutRequest(key=key, value=b"meanwhile"))
    again = kv.Put(request)
    assert again == first
    assert kv.Get(GetRequest(key=key)).kv.value == b"meanwhile"
    other = PutRequest(key=key, value=b"else", request_id=key.decode())
    reused = refused(kv.Put, other)
    assert reused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert reused.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("method", "request_", "reason", "field"),
    [
        ("Get", GetRequest(), "KEY_EMPTY", "key"),
        ("Get", GetRequest(key=b"k" * 4097), "KEY_TOO_LARGE", "key"),
        ("Put", PutRequest(value=b"v"), "KEY_EMPTY", "key"),
        ("Put", PutRequest(key=b"k", value=b"v" * (2**20 + 1)), "VALUE_TOO_LARGE", "value"),
        ("Put", PutRequest(key=b"k", request_id="i" * 65), "REQUEST_ID_TOO_LARGE", "request_id"),
        ("Scan", ScanRequest(prefix=b"p", start=b"s"), "RANGE_INVALID", "prefix"),
        ("Scan", ScanRequest(page_token=b"nonsense"), "PAGE_TOKEN_INVALID", "page_token"),
        ("Batch", BatchRequest(), "FIELD_INVALID", "ops"),
        (
            "Batch",
            BatchRequest(ops=[BatchOp(delete_key=b"k"), BatchOp(put=PutOp())]),
            "KEY_EMPTY",
            "ops[1].put.key",
        ),
        (
            "Txn",
            TxnRequest(then_ops=[TxnOp(put=PutOp(key=b"d")), TxnOp(put=PutOp(key=b"d"))]),
            "DUPLICATE_KEY",
            None,
        ),
    ],
)
def test_a_bad_request_names_its_field(
    kv: KVServiceStub, method: str, request_: object, reason: str, field: str | None
) -> None:
    found = refused(getattr(kv, method), request_)
    assert (found.code, found.reason) == (INVALID, reason)
    if field is not None:
        assert found.field == field


def test_bytes_that_are_no_message_are_refused(shared_daemon: Daemon) -> None:
    call: Any = shared_daemon.channel().unary_unary("/bedplate.kv.v1.KVService/Put")
    found = refused(call, b"\xff\xff\xff")
    assert (found.code, found.reason) == (INVALID, "MALFORMED_REQUEST")


def test_reads_outside_of_history_say_what_is_readable(kv: KVServiceStub, key: bytes) -> None:
    future = refused(kv.Get, GetRequest(key=key, revision=2**60))
    assert future.code is grpc.StatusCode.OUT_OF_RANGE
    assert future.reason == "REVISION_IN_FUTURE"


def puts(prefix: bytes, numbers: Iterator[int] | range) -> PipelineRequest:
    return PipelineRequest(
        ops=[
            PipelineOp(id=n, put=PutRequest(key=prefix + b"%06d" % n, value=b"%d" % n))
            for n in numbers
        ]
    )


def test_a_pipeline_answers_every_op_once_and_keeps_their_order(
    kv: KVServiceStub, key: bytes
) -> None:
    frames = [puts(key, range(i, i + 50)) for i in range(0, 2000, 50)]
    results = [result for frame in kv.Pipeline(iter(frames)) for result in frame.results]
    assert sorted(result.id for result in results) == list(range(2000))
    revisions = {result.id: result.put.revision for result in results}
    assert all(revisions[n] < revisions[n + 1] for n in range(1999))
    assert kv.Scan(ScanRequest(prefix=key, count_only=True)).count == 2000


def test_a_pipelined_get_sees_earlier_puts(kv: KVServiceStub, key: bytes) -> None:
    frame = PipelineRequest(
        ops=[
            PipelineOp(id=1, put=PutRequest(key=key, value=b"x")),
            PipelineOp(id=2, get=GetRequest(key=key)),
        ]
    )
    later = PipelineRequest(ops=[PipelineOp(id=3, get=GetRequest(key=key))])
    replies = kv.Pipeline(iter([frame, later]))
    values = {result.id: result.get.kv.value for reply in replies for result in reply.results}
    assert (values[2], values[3]) == (b"x", b"x")


def test_a_bad_op_of_a_frame_fails_alone(kv: KVServiceStub, key: bytes) -> None:
    frame = PipelineRequest(
        ops=[
            PipelineOp(id=1, put=PutRequest(key=key, value=b"fine")),
            PipelineOp(id=2, put=PutRequest(value=b"no key")),
            PipelineOp(id=3),
        ]
    )
    (reply,) = kv.Pipeline(iter([PipelineRequest(), frame]))
    by_id = {result.id: result for result in reply.results}
    assert by_id[1].put.revision > 0
    assert (by_id[2].error.code, by_id[2].error.reason) == (3, "KEY_EMPTY")
    assert by_id[3].error.reason == "FIELD_INVALID"


def test_a_malformed_frame_ends_the_stream_after_the_answers_before_it(
    shared_daemon: Daemon, key: bytes
) -> None:
    call: Any = shared_daemon.channel().stream_stream("/bedplate.kv.v1.KVService/Pipeline")
    frames = [puts(key, range(10)).SerializeToString(), b"\xff\xff\xff"]
    replies = call(iter(frames))
    assert next(replies)
    found = refused(next, replies)
    assert (found.code, found.reason) == (INVALID, "MALFORMED_REQUEST")
    assert shared_daemon.kv().Scan(ScanRequest(prefix=key, count_only=True)).count == 10


def test_a_client_that_does_not_read_answers_is_not_read_from(
    shared_daemon: Daemon, key: bytes
) -> None:
    kv = shared_daemon.kv()
    kv.Put(PutRequest(key=key, value=b"v" * 2**18))
    padding = b"p" * 2**17  # far more in all than flow control takes in advance
    sent = 0

    def frames() -> Iterator[PipelineRequest]:
        nonlocal sent
        for sent in range(1, 401):  # noqa: B007
            yield PipelineRequest(
                ops=[
                    PipelineOp(id=1, get=GetRequest(key=key)),
                    PipelineOp(id=2, put=PutRequest(key=key + b"padding", value=padding)),
                ]
            )

    def held_up() -> bool:
        """The sender makes no way while a hundred other calls are served."""
        before = sent
        for _ in range(100):
            kv.Get(GetRequest(key=b"other"))
        return sent == before

    replies = kv.Pipeline(frames())
    next(replies)
    eventually(held_up)
    assert sent < 200
    assert sum(1 for _ in replies) == 399


def test_reflection_lists_and_describes_every_service(shared_daemon: Daemon) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    database = ProtoReflectionDescriptorDatabase(shared_daemon.channel())
    names = set(database.get_services())
    assert {
        "bedplate.kv.v1.KVService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    } <= names
    for name in names:
        assert database.FindFileContainingSymbol(name).service


def test_an_unknown_method_is_unimplemented(shared_daemon: Daemon) -> None:
    call: Any = shared_daemon.channel().unary_unary("/bedplate.kv.v1.KVService/Absent")
    with pytest.raises(grpc.RpcError) as failure:
        call(b"")
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_request_id_comes_back_and_one_is_made_when_there_is_none(kv: KVServiceStub) -> None:
    def returned(*metadata: tuple[str, str]) -> str:
        _, call = kv.Get.with_call(GetRequest(key=b"k"), metadata=metadata)
        return str(dict(call.trailing_metadata())["x-request-id"])

    assert returned(("x-request-id", "mine-7")) == "mine-7"
    made = {returned(), returned(("x-request-id", "x" * 129)), returned()}
    assert len(made) == 3
    assert all(len(name) == 16 for name in made)

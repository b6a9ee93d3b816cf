"""Every limit has a key, and what is over it says so."""

from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest

from bedplate.api.admin.v1.admin_pb2 import GetStatusRequest
from bedplate.api.admin.v1.admin_pb2_grpc import AdminServiceStub
from bedplate.api.kv.v1.kv_pb2 import (
    BatchOp,
    BatchRequest,
    GetLeaseRequest,
    GetRequest,
    GrantLeaseRequest,
    PipelineOp,
    PipelineRequest,
    PutOp,
    PutRequest,
    ScanRequest,
    TxnOp,
    TxnRequest,
    WatchRequest,
)
from bedplate.api.object.v1.object_pb2 import (
    CreateBucketRequest,
    DataChunk,
    PutObjectHeader,
    PutObjectRequest,
)
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import Daemon, eventually
from tests.integration.refusals import refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A daemon with small limits."""
    settings = (
        "limits.key_bytes_max=16",
        "limits.value_bytes_max=1024",
        "limits.request_bytes_max=4096",
        "limits.txn_ops_max=3",
        "limits.batch_ops_max=4",
        "limits.scan_page_max=5",
        "limits.leases_max=2",
        "limits.lease_ttl_seconds_max=60",
    )
    with Daemon(tmp_path_factory.mktemp("small"), *settings) as daemon:
        yield daemon


put_ops = [TxnOp(put=PutOp(key=b"%d" % i)) for i in range(4)]
batch_ops = [BatchOp(put=PutOp(key=b"%d" % i)) for i in range(5)]


@pytest.mark.parametrize(
    ("method", "request_", "reason", "field"),
    [
        ("Put", PutRequest(key=b"k" * 17), "KEY_TOO_LARGE", "key"),
        ("Put", PutRequest(key=b"k", value=b"v" * 1025), "VALUE_TOO_LARGE", "value"),
        ("Txn", TxnRequest(then_ops=put_ops), "TOO_MANY_OPS", "then_ops"),
        ("Txn", TxnRequest(else_ops=put_ops), "TOO_MANY_OPS", "else_ops"),
        ("Batch", BatchRequest(ops=batch_ops), "TOO_MANY_OPS", "ops"),
        ("Scan", ScanRequest(limit=6), "FIELD_INVALID", "limit"),
        ("GrantLease", GrantLeaseRequest(ttl_seconds=61), "FIELD_INVALID", "ttl_seconds"),
        ("GetLease", GetLeaseRequest(lease_id=1, limit=6), "FIELD_INVALID", "limit"),
        ("Put", PutRequest(key=b"k", value=b"v" * 5000), "REQUEST_TOO_LARGE", ""),
    ],
)
def test_what_is_over_a_limit_is_refused(
    small: Daemon, method: str, request_: object, reason: str, field: str
) -> None:
    found = refused(getattr(small.kv(), method), request_)
    assert (found.code, found.reason, found.field) == (INVALID, reason, field)


def test_what_is_at_a_limit_is_served(small: Daemon) -> None:
    kv = small.kv()
    kv.Put(PutRequest(key=b"k" * 16, value=b"v" * 1024))
    kv.Txn(TxnRequest(then_ops=put_ops[:3], else_ops=put_ops[:3]))
    kv.Batch(BatchRequest(ops=batch_ops[:4]))
    assert len(kv.Scan(ScanRequest(limit=5)).kvs) == 5
    assert len(kv.Scan(ScanRequest()).kvs) == 5


def test_a_frame_that_is_too_large_ends_its_stream(small: Daemon) -> None:
    ops = [PipelineOp(id=i, put=PutRequest(key=b"%d" % i)) for i in range(5)]
    many = refused(next, small.kv().Pipeline(iter([PipelineRequest(ops=ops)])))
    assert (many.code, many.reason) == (INVALID, "TOO_MANY_OPS")
    ops = [PipelineOp(id=i, put=PutRequest(key=b"k", value=b"v" * 1024)) for i in range(4)]
    large = refused(next, small.kv().Pipeline(iter([PipelineRequest(ops=ops)])))
    assert (large.code, large.reason) == (INVALID, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize("size", [2 << 20, 6 << 20, 15 << 20])
def test_a_message_beyond_the_limit_says_so_well_beyond_it(
    shared_daemon: Daemon, size: int
) -> None:
    put = PutRequest(key=b"k", value=bytes(size))
    unary = refused(shared_daemon.kv().Put, put)
    assert (unary.code, unary.reason) == (INVALID, "REQUEST_TOO_LARGE")
    frame = PipelineRequest(ops=[PipelineOp(id=1, put=put)])
    stream = refused(next, shared_daemon.kv().Pipeline(iter([frame])))
    assert (stream.code, stream.reason) == (INVALID, "REQUEST_TOO_LARGE")
    objects = ObjectServiceStub(shared_daemon.channel())
    chunk = PutObjectRequest(chunk=DataChunk(data=bytes(size)))
    upload = refused(objects.PutObject, iter([chunk]))
    assert (upload.code, upload.reason) == (INVALID, "REQUEST_TOO_LARGE")
    probe = HealthCheckRequest(service="s" * size)
    assert refused(shared_daemon.health().Check, probe).reason == "REQUEST_TOO_LARGE"


def test_what_only_the_transport_can_refuse_is_refused(shared_daemon: Daemon) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        shared_daemon.kv().Put(PutRequest(key=b"k", value=bytes(17 << 20)))
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_every_invalid_argument_names_a_field_or_the_whole_message(small: Daemon) -> None:
    channel: Any = small.channel()
    put = channel.unary_unary("/bedplate.kv.v1.KVService/Put")
    status = channel.unary_unary("/bedplate.admin.v1.AdminService/GetStatus")
    head = channel.unary_unary("/bedplate.object.v1.ObjectService/HeadObject")
    for call in (put, status, head):
        malformed = refused(call, b"\xff")
        assert (malformed.code, malformed.reason) == (INVALID, "MALFORMED_REQUEST")
        assert malformed.fields == [""]
    large = refused(put, bytes(5000))
    assert (large.reason, large.fields) == ("REQUEST_TOO_LARGE", [""])


def test_an_object_announced_too_large_is_refused_before_its_data(start: MakeDaemon) -> None:
    objects = ObjectServiceStub(start("objects.size_max=1MiB").channel())
    objects.CreateBucket(CreateBucketRequest(bucket="b"))
    header = PutObjectHeader(bucket="b", key="k", size=(1 << 20) + 1)
    found = refused(objects.PutObject, iter([PutObjectRequest(header=header)]))
    assert (found.code, found.reason) == (INVALID, "OBJECT_TOO_LARGE")
    assert found.fields == ["header.size"]


def test_a_method_that_there_is_not_says_so(shared_daemon: Daemon) -> None:
    channel: Any = shared_daemon.channel()
    for kind in (channel.unary_unary, channel.unary_stream):
        call = kind("/bedplate.kv.v1.KVService/Absent")
        found = refused(lambda call=call: list(call(b"x")))
        assert (found.code, found.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")


def test_an_object_announced_larger_than_the_disk_is_refused_before_its_data(
    shared_daemon: Daemon,
) -> None:
    objects = ObjectServiceStub(shared_daemon.channel())
    objects.CreateBucket(CreateBucketRequest(bucket="disk"))
    disk = AdminServiceStub(shared_daemon.channel()).GetStatus(GetStatusRequest()).disk
    header = PutObjectHeader(bucket="disk", key="k", size=disk.total_bytes)
    found = refused(objects.PutObject, iter([PutObjectRequest(header=header)]))
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL")


def test_leases_are_counted(small: Daemon) -> None:
    kv = small.kv()
    for _ in range(2):
        kv.GrantLease(GrantLeaseRequest(ttl_seconds=60))
    found = refused(kv.GrantLease, GrantLeaseRequest(ttl_seconds=60))
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert found.reason == "TOO_MANY_LEASES"


def test_open_calls_are_counted_and_made_room_for(start: MakeDaemon) -> None:
    kv = start("limits.calls_max=2").kv()
    held = [kv.Watch(WatchRequest(prefix=b"p")) for _ in range(2)]
    for stream in held:
        next(stream)
    found = refused(kv.Get, GetRequest(key=b"k"))
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert found.retry_ms is not None
    held[0].cancel()

    def served() -> bool:
        try:
            kv.Get(GetRequest(key=b"k"))
        except grpc.RpcError:
            return False
        return True

    eventually(served)


def test_an_index_that_is_full_takes_deletes_and_reads(start: MakeDaemon) -> None:
    kv = start("index.memory_max=1MiB").kv()
    found = None
    for n in range(1000):
        ops = [BatchOp(put=PutOp(key=b"%06d/%04d" % (n, i))) for i in range(100)]
        try:
            kv.Batch(BatchRequest(ops=ops))
        except grpc.RpcError:
            found = refused(kv.Batch, BatchRequest(ops=ops))
            break
    assert found is not None
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "INDEX_FULL")
    assert kv.Get(GetRequest(key=b"000000/0000")).HasField("kv")
    kv.Batch(BatchRequest(ops=[BatchOp(delete_key=b"000000/0000")]))


def test_a_deadline_that_passes_is_deadline_exceeded(start: MakeDaemon) -> None:
    daemon = start(
        "limits.deadline_seconds_default=0.2",
        environment={"BEDPLATE_FAILPOINTS__LOG_SYNC": "slow@2x1:2000"},
    )
    kv = daemon.kv()
    passed = refused(kv.Put, PutRequest(key=b"k", value=b"v"))  # brings no deadline: gets ours
    assert passed.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert passed.reason == "DEADLINE_PASSED"
    eventually(lambda: kv.Get(GetRequest(key=b"k")).HasField("kv"))  # unknown, and it happened


def test_a_clients_own_deadline_is_kept(start: MakeDaemon) -> None:
    daemon = start(environment={"BEDPLATE_FAILPOINTS__LOG_SYNC": "slow@2x1:2000"})
    with pytest.raises(grpc.RpcError) as failure:
        daemon.kv().Put(PutRequest(key=b"k", value=b"v"), timeout=0.2)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    cancelled = {"method": "Put", "code": "CANCELLED"}
    eventually(lambda: "CANCELLED" in daemon.get("/metrics")[1])
    assert daemon.metric("bedplate_rpcs_total", **cancelled) == 1

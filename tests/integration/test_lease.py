"""Leases over gRPC."""

from collections.abc import Iterator
from queue import Queue

import grpc

from bedplate.api.kv.v1.kv_pb2 import (
    EventType,
    GetLeaseRequest,
    GetRequest,
    GrantLeaseRequest,
    KeepAliveRequest,
    PutRequest,
    RevokeLeaseRequest,
    WatchRequest,
)
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import PATIENCE_S
from tests.integration.refusals import refused


def grant(kv: KVServiceStub, seconds: int) -> int:
    return kv.GrantLease(GrantLeaseRequest(ttl_seconds=seconds)).lease_id


def test_a_lease_takes_its_keys_with_it(kv: KVServiceStub, key: bytes) -> None:
    lease = grant(kv, 60)
    kv.Put(PutRequest(key=key + b"a", lease_id=lease))
    kv.Put(PutRequest(key=key + b"b", lease_id=lease))
    kv.Put(PutRequest(key=key + b"kept"))
    found = kv.GetLease(GetLeaseRequest(lease_id=lease, with_keys=True))
    assert (found.ttl_seconds, found.key_count) == (60, 2)
    assert sorted(found.keys) == [key + b"a", key + b"b"]
    assert 0 < found.remaining_ms <= 60_000
    revoked = kv.RevokeLease(RevokeLeaseRequest(lease_id=lease))
    assert revoked.deleted == 2
    assert not kv.Get(GetRequest(key=key + b"a")).HasField("kv")
    assert kv.Get(GetRequest(key=key + b"kept")).HasField("kv")


def test_an_expired_lease_deletes_its_keys_and_watchers_hear_of_it(
    kv: KVServiceStub, key: bytes
) -> None:
    lease = grant(kv, 1)
    put = kv.Put(PutRequest(key=key, lease_id=lease)).revision
    watch = WatchRequest(prefix=key, start_revision=put + 1)
    events = (
        event for response in kv.Watch(watch, timeout=PATIENCE_S) for event in response.events
    )
    assert next(events).type == EventType.EVENT_TYPE_DELETE
    assert not kv.Get(GetRequest(key=key)).HasField("kv")
    gone = refused(kv.GetLease, GetLeaseRequest(lease_id=lease))
    assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "LEASE_NOT_FOUND")


def test_keep_alive_answers_in_order_and_an_unknown_lease_does_not_end_it(
    kv: KVServiceStub,
) -> None:
    lease = grant(kv, 5)
    asked: Queue[int] = Queue()

    def requests() -> Iterator[KeepAliveRequest]:
        while (number := asked.get()) != 0:
            yield KeepAliveRequest(lease_id=number)

    replies = kv.KeepAlive(requests())
    for number, expected in ((lease, 5), (lease + 1_000_000, 0), (lease, 5)):
        asked.put(number)
        reply = next(replies)
        assert (reply.lease_id, reply.ttl_seconds) == (number, expected)
    asked.put(0)
    assert list(replies) == []


def test_a_kept_lease_outlives_its_ttl(kv: KVServiceStub, key: bytes) -> None:
    kept, witness = grant(kv, 2), grant(kv, 2)
    kv.Put(PutRequest(key=key + b"kept", lease_id=kept))
    put = kv.Put(PutRequest(key=key + b"witness", lease_id=witness)).revision
    expired = kv.Watch(
        WatchRequest(prefix=key + b"witness", start_revision=put + 1), timeout=PATIENCE_S
    )
    next(expired)

    def renewals() -> Iterator[KeepAliveRequest]:
        # The witness had the same TTL: once it is gone, so would the kept one be.
        yield KeepAliveRequest(lease_id=kept)
        while not witness_gone(kv, witness):
            yield KeepAliveRequest(lease_id=kept)

    assert all(reply.ttl_seconds == 2 for reply in kv.KeepAlive(renewals()))
    assert kv.Get(GetRequest(key=key + b"kept")).HasField("kv")


def witness_gone(kv: KVServiceStub, lease: int) -> bool:
    try:
        kv.GetLease(GetLeaseRequest(lease_id=lease))
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


def test_bad_leases_are_refused(kv: KVServiceStub, key: bytes) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    for seconds in (0, -1, 366 * 86_400 + 1):
        bad = refused(kv.GrantLease, GrantLeaseRequest(ttl_seconds=seconds))
        assert (bad.code, bad.reason, bad.field) == (invalid, "FIELD_INVALID", "ttl_seconds")
    lease = grant(kv, 60)
    taken = refused(kv.GrantLease, GrantLeaseRequest(ttl_seconds=60, lease_id=lease))
    assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "LEASE_EXISTS")
    absent = refused(kv.Put, PutRequest(key=key, lease_id=2**60))
    assert (absent.code, absent.reason) == (grpc.StatusCode.NOT_FOUND, "LEASE_NOT_FOUND")
    assert not kv.Get(GetRequest(key=key)).HasField("kv")


def test_a_restart_keeps_leases(start: MakeDaemon) -> None:
    daemon = start()
    lease = grant(daemon.kv(), 3600)
    daemon.kv().Put(PutRequest(key=b"k", lease_id=lease))
    daemon.kill()
    daemon.start()
    found = daemon.kv().GetLease(GetLeaseRequest(lease_id=lease, with_keys=True))
    assert list(found.keys) == [b"k"]
    assert found.remaining_ms > 3_590_000


def test_a_draining_daemon_ends_keep_alive(start: MakeDaemon) -> None:
    daemon = start()
    kv = daemon.kv()
    lease = grant(kv, 60)
    asked: Queue[int] = Queue()
    asked.put(lease)
    replies = kv.KeepAlive(KeepAliveRequest(lease_id=asked.get()) for _ in range(2))
    assert next(replies).ttl_seconds == 60
    assert daemon.stop() == 0
    closed = refused(next, replies)
    assert (closed.code, closed.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_CLOSED")
    asked.put(lease)  # lets the sending thread end

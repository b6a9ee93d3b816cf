"""Watch over gRPC: order, resumption, flow control and explicit ends."""

from collections.abc import Iterator
from typing import Any

import grpc

from bedplate.api.kv.v1.kv_pb2 import (
    BatchOp,
    BatchRequest,
    DeleteRequest,
    Event,
    EventType,
    PutOp,
    PutRequest,
    WatchRequest,
    WatchResponse,
)
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import PATIENCE_S, Daemon, eventually
from tests.integration.refusals import refused

PUT, DELETE = EventType.EVENT_TYPE_PUT, EventType.EVENT_TYPE_DELETE


def watch(kv: KVServiceStub, **fields: Any) -> Iterator[WatchResponse]:
    """A watch in place: its first response has been taken."""
    responses = kv.Watch(WatchRequest(**fields), timeout=PATIENCE_S)
    first = next(responses)
    assert first.created
    assert not first.events
    return responses


def take(responses: Iterator[WatchResponse], n: int) -> list[Event]:
    """The next n events."""
    events: list[Event] = []
    while len(events) < n:
        events += next(responses).events
    assert len(events) == n
    return events


def test_changes_arrive_in_order_without_gaps(kv: KVServiceStub, key: bytes) -> None:
    responses = watch(kv, prefix=key, with_values=True)
    revisions = [
        kv.Put(PutRequest(key=key + b"a", value=b"1")).revision,
        kv.Put(PutRequest(key=key + b"b", value=b"2")).revision,
        kv.Delete(DeleteRequest(key=key + b"a")).revision,
    ]
    events = take(responses, 3)
    assert [event.type for event in events] == [PUT, PUT, DELETE]
    assert [event.kv.key[-1:] for event in events] == [b"a", b"b", b"a"]
    assert [event.kv.value for event in events] == [b"1", b"2", b""]
    assert [event.kv.mod_revision for event in events] == revisions


def test_only_the_watched_range_is_seen(kv: KVServiceStub, key: bytes) -> None:
    responses = watch(kv, start=key + b"b", end=key + b"c")
    for name in (b"a", b"b", b"bb", b"c"):
        kv.Put(PutRequest(key=key + name, value=b""))
    assert [event.kv.key for event in take(responses, 2)] == [key + b"b", key + b"bb"]


def test_a_watch_begins_in_the_past_when_asked(kv: KVServiceStub, key: bytes) -> None:
    first = kv.Put(PutRequest(key=key, value=b"1")).revision
    kv.Put(PutRequest(key=key, value=b"2"))
    responses = watch(kv, prefix=key, start_revision=first, with_values=True, with_previous=True)
    old, new = take(responses, 2)
    assert (old.kv.value, new.kv.value, new.previous.value) == (b"1", b"2", b"1")
    assert not old.HasField("previous")


def test_a_watch_resumes_where_another_ended(kv: KVServiceStub, key: bytes) -> None:
    responses = watch(kv, prefix=key)
    kv.Put(PutRequest(key=key + b"1", value=b""))
    seen = next(responses)
    responses.cancel()  # type: ignore[attr-defined]
    kv.Put(PutRequest(key=key + b"2", value=b""))
    resumed = watch(kv, prefix=key, start_revision=seen.revision + 1)
    assert [event.kv.key for event in take(resumed, 1)] == [key + b"2"]


def test_all_changes_of_a_revision_come_together(kv: KVServiceStub, key: bytes) -> None:
    responses = watch(kv, prefix=key)
    ops = [BatchOp(put=PutOp(key=key + b"%d" % i)) for i in range(100)]
    kv.Batch(BatchRequest(ops=ops))
    response = next(responses)
    assert len(response.events) == 100
    assert not response.fragment


def test_puts_or_deletes_are_left_out_when_asked(kv: KVServiceStub, key: bytes) -> None:
    deletes, puts = watch(kv, prefix=key, skip_puts=True), watch(kv, prefix=key, skip_deletes=True)
    kv.Put(PutRequest(key=key, value=b""))
    kv.Delete(DeleteRequest(key=key))
    kv.Put(PutRequest(key=key, value=b""))
    assert [event.type for event in take(deletes, 1)] == [DELETE]
    assert [event.type for event in take(puts, 2)] == [PUT, PUT]


def test_an_idle_watch_reports_progress(kv: KVServiceStub, key: bytes) -> None:
    responses = watch(kv, prefix=key, progress_interval_ms=100)
    elsewhere = kv.Put(PutRequest(key=b"elsewhere/" + key, value=b"")).revision
    marks = [next(responses), next(responses)]
    assert all(mark.progress and not mark.events for mark in marks)
    assert marks[-1].revision >= elsewhere


def test_a_bad_watch_is_refused(kv: KVServiceStub) -> None:
    bad = refused(next, kv.Watch(WatchRequest(prefix=b"p", start=b"s")))
    assert (bad.code, bad.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RANGE_INVALID")
    late = refused(next, kv.Watch(WatchRequest(start_revision=2**50)))
    assert (late.code, late.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_IN_FUTURE")


def test_a_cancelled_watch_is_closed_in_the_engine(shared_daemon: Daemon, key: bytes) -> None:
    before = shared_daemon.metric("bedplate_watches")
    responses = watch(shared_daemon.kv(), prefix=key)
    assert shared_daemon.metric("bedplate_watches") == before + 1
    responses.cancel()  # type: ignore[attr-defined]
    eventually(lambda: shared_daemon.metric("bedplate_watches") == before)


def test_a_slow_watcher_costs_others_nothing_and_misses_nothing(
    kv: KVServiceStub, key: bytes
) -> None:
    slow = watch(kv, prefix=key, with_values=True)
    brisk = watch(kv, prefix=key)
    value = b"v" * 2**18
    for i in range(64):  # far more than flow control lets through
        kv.Put(PutRequest(key=key + b"%02d" % i, value=value))
    assert len(take(brisk, 64)) == 64
    events = take(slow, 64)
    assert [event.kv.key for event in events] == [key + b"%02d" % i for i in range(64)]
    assert all(event.kv.value == value for event in events)


def test_a_watcher_too_far_behind_is_cancelled_with_where_to_resume(start: MakeDaemon) -> None:
    daemon = start("limits.watch_lag_max=100")
    kv = daemon.kv()
    responses = watch(kv, prefix=b"k", with_values=True)
    value = b"v" * 2**20
    first = [kv.Put(PutRequest(key=b"k", value=value)).revision for _ in range(40)]
    for n in range(3):
        kv.Batch(BatchRequest(ops=[BatchOp(put=PutOp(key=b"k%d/%d" % (n, i))) for i in range(100)]))
    got: list[int] = []
    last = None
    with_status = None
    try:
        for response in responses:
            got += [event.kv.mod_revision for event in response.events]
            last = response
    except grpc.RpcError as error:
        with_status = error
    assert with_status is not None
    assert last is not None
    assert last.canceled.reason == "WATCH_TOO_SLOW"
    assert with_status.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert got == first[: len(got)]
    resumed = watch(kv, prefix=b"k", start_revision=last.canceled.resume_revision)
    assert next(resumed).events[0].kv.mod_revision == first[len(got)]


def test_more_watches_than_allowed_are_refused(start: MakeDaemon) -> None:
    kv = start("limits.watches_max=2").kv()
    held = [watch(kv, prefix=b"a"), watch(kv, prefix=b"b")]
    third = refused(next, kv.Watch(WatchRequest(prefix=b"c")))
    assert third.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert third.reason == "TOO_MANY_WATCHES"
    assert third.retry_ms is not None
    assert len(held) == 2


def test_a_draining_daemon_says_where_to_resume(start: MakeDaemon) -> None:
    daemon = start()
    kv = daemon.kv()
    responses = watch(kv, prefix=b"k")
    idle = watch(kv, prefix=b"other")
    seen = kv.Put(PutRequest(key=b"k", value=b"")).revision
    assert take(responses, 1)[0].kv.mod_revision == seen
    assert daemon.stop() == 0
    for stream, at_least in ((responses, seen + 1), (idle, 1)):
        end = next(stream)
        assert end.canceled.reason == "STORE_CLOSED"
        assert end.canceled.resume_revision >= at_least
        closed = refused(next, stream)
        assert (closed.code, closed.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_CLOSED")

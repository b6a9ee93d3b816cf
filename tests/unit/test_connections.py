"""Hanging up on clients below gRPC."""

import asyncio
import fcntl
import select
import socket
import termios
import time
from array import array
from typing import Any

import grpc.aio
import pytest
from structlog.testing import capture_logs

from bedplate.errors import Code
from bedplate.native.errors import closed
from bedplate.native.guard import Guard
from bedplate.server.connections import Parting, hang_up
from bedplate.server.guarded_call import Gate, GuardedMethod
from bedplate.server.open_calls import OpenCalls
from bedplate.storage.service_streams import OpenStreams

PATIENCE_S = 10.0


def connect(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of a new connection, ours first."""
    client = socket.create_connection(server.getsockname()[:2], timeout=PATIENCE_S)
    return server.accept()[0], client


@pytest.mark.parametrize(
    ("host", "name"), [("127.0.0.1", "ipv4:127.0.0.1"), ("::1", "ipv6:%5B::1%5D")]
)
def test_one_peer_or_all_of_them_are_hung_up_on(host: str, name: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        ours, one = connect(server)
        other_ours, other = connect(server)
        with ours, one, other_ours, other:
            assert hang_up(port, f"{name}:{one.getsockname()[1]}") == 1
            assert one.recv(1) == b""
            other_ours.sendall(b"x")
            assert other.recv(1) == b"x"
            hang_up(port)
            assert other.recv(1) == b""


async def test_who_is_parted_from_takes_its_answers_first() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours, client = connect(server)
        with ours, client, Parting(server.getsockname()[1]) as parting:
            ours.sendall(b"answer")
            parted = asyncio.create_task(parting.complete(PATIENCE_S))
            ended = select.poll()
            ended.register(client, select.POLLRDHUP)
            assert await asyncio.to_thread(ended.poll, PATIENCE_S * 1000)
            for _ in range(2):  # after a reset, the second would be a broken pipe
                client.sendall(b"late")
            assert not parted.done()
            assert client.recv(100) == b"answer"
            assert client.recv(100) == b""
            client.close()
            async with asyncio.timeout(PATIENCE_S / 2):
                await parted


async def test_what_comes_in_while_parting_is_not_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours, client = connect(server)
        with ours, client:
            readable = select.poll()
            readable.register(ours, select.POLLIN)
            with Parting(server.getsockname()[1]):
                client.sendall(b"late")
                while not waiting_bytes(ours):
                    pass
                assert not readable.poll(0)


def waiting_bytes(connection: socket.socket) -> int:
    count = array("i", [0])
    fcntl.ioctl(connection, termios.FIONREAD, count)
    return count[0]


async def test_who_does_not_hang_up_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours, client = connect(server)
        with ours, client, Parting(server.getsockname()[1]) as parting:
            begun = time.monotonic()
            await parting.complete(0.05)
            assert time.monotonic() - begun >= 0.05


class DeafContext:
    """A client that takes no status."""

    def __init__(self) -> None:
        self.code: Any = None

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def set_trailing_metadata(self, _: object) -> None: ...

    def time_remaining(self) -> None: ...

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, code: object, *_: object) -> None:
        self.code = code
        await asyncio.Event().wait()


class GoneContext(DeafContext):
    """A client that is not there any more: gRPC fails what is sent to it."""

    async def write(self, _: object) -> None:
        raise grpc.aio.InternalError("Failed grpc_call_start_batch")

    async def abort(self, *_: object) -> None:
        raise grpc.aio.InternalError("Failed grpc_call_start_batch")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_client_that_is_gone_is_no_failure(fails: bool) -> None:
    guard, calls = Guard(), OpenCalls(1)
    guard.add_method("S/M", None)
    gate = Gate(guard, calls, 1 << 20, 30.0, False, print)

    async def work(_: object, context: Any) -> None:
        if fails:
            raise closed()
        await context.write(b"")

    method = GuardedMethod(gate, "/S/M", work, always=False, requests=False, responses=True)
    context: Any = GoneContext()
    with capture_logs() as records, pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(method.call(b"", context))
    (stats,) = guard.snapshot()
    assert stats.codes[Code.UNAVAILABLE if fails else Code.CANCELLED] == 1
    assert sum(stats.codes) == 1
    assert records == []


@pytest.mark.parametrize("draining", [True, False])
async def test_a_stream_that_meets_a_server_that_has_stopped_is_no_failure(draining: bool) -> None:
    guard, calls = Guard(), OpenCalls(1)
    guard.add_method("S/M", None)
    gate = Gate(guard, calls, 1 << 20, 30.0, False, print, frozenset({"S/M"}), 1 << 20)
    if draining:
        calls.drain()

    async def work(*_: object) -> None:
        raise grpc.aio.UsageError("Server already stopped.")

    method = GuardedMethod(gate, "/S/M", work, always=False, requests=False, responses=True)
    context: Any = GoneContext()
    with capture_logs() as records, pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(method.call(b"", context))
    assert [r["event"] for r in records] == ([] if draining else ["call_failed"])


async def test_a_client_that_takes_no_status_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bedplate.server.guarded_call._LAST_WORD_S", 0.01)
    guard, calls, hung_up = Guard(), OpenCalls(1), list[str]()
    guard.add_method("S/M", None)
    gate = Gate(guard, calls, 1 << 20, 30.0, False, hung_up.append)
    running = asyncio.Event()

    async def work(*_: object) -> None:
        running.set()
        await asyncio.Event().wait()

    method = GuardedMethod(gate, "/S/M", work, always=False, requests=False, responses=True)
    context: Any = DeafContext()
    call = asyncio.create_task(method.call(b"", context))
    await running.wait()
    calls.end_all(closed())
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(PATIENCE_S):
            await call
    assert context.code.value[0] == Code.UNAVAILABLE
    assert hung_up == ["ipv4:127.0.0.1:1"]
    assert await calls.ended(0)


class SlowContext(DeafContext):
    """A client that takes what it is sent when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.writing, self.takes = asyncio.Event(), asyncio.Event()
        self.taken: list[str] = []

    async def write(self, _: object) -> None:
        self.writing.set()
        await self.takes.wait()
        self.taken.append("message")

    async def abort(self, *_: object) -> None:
        self.taken.append("status")
        raise grpc.aio.AbortError


async def test_the_last_word_of_a_drain_waits_for_the_message_before_it() -> None:
    guard, calls, streams = Guard(), OpenCalls(1), OpenStreams()
    guard.add_method("S/M", None)
    gate = Gate(guard, calls, 1 << 20, 30.0, False, print)

    async def work(_: object, context: Any) -> None:
        with streams.waiting():
            await context.write(b"")

    method = GuardedMethod(gate, "/S/M", work, always=False, requests=False, responses=True)
    context: Any = SlowContext()
    call = asyncio.create_task(method.call(b"", context))
    await context.writing.wait()
    streams.drain()  # the call goes on before the write does
    context.takes.set()
    with pytest.raises(grpc.aio.AbortError):
        await call
    assert context.taken == ["message", "status"]


async def test_a_drain_leaves_the_connection_of_a_client_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bedplate.server.guarded_call._LAST_WORD_S", 0.01)
    guard, calls, streams, hung_up = Guard(), OpenCalls(1), OpenStreams(), list[str]()
    guard.add_method("S/M", None)
    gate = Gate(guard, calls, 1 << 20, 30.0, False, hung_up.append)

    async def work(_: object, context: Any) -> None:
        with streams.waiting():
            await context.write(b"")

    method = GuardedMethod(gate, "/S/M", work, always=False, requests=False, responses=True)
    context: Any = SlowContext()
    call = asyncio.create_task(method.call(b"", context))
    await context.writing.wait()
    calls.drain()
    streams.drain()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(PATIENCE_S):
            await call
    assert hung_up == []  # other answers are on their way there
    assert await calls.ended(0)

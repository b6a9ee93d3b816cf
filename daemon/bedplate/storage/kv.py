"""KVService: request bytes in, reply bytes out; C parses and encodes, Python never sees a key.

unary       bytes --> engine.call --> bytes
Pipeline    frames in order, `limits.pipeline_frames_max` at work --> answers as they come
KeepAlive   one request, one answer, in order
Watch       see service_watch.py
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import grpc
import grpc.aio
from prometheus_client.registry import Collector

from bedplate.native.errors import StoreError
from bedplate.native.store import Keyspace, Method
from bedplate.storage.budget import Budget
from bedplate.storage.config import LimitsConfig
from bedplate.storage.engine import Engine, Reply
from bedplate.storage.service_streams import OpenStreams
from bedplate.storage.service_watch import serve_watch

READ, WRITE = "kv:read", "kv:write"
_UNARY: Mapping[str, tuple[Method, str]] = MappingProxyType(
    {
        "Get": (Method.GET, READ),
        "Put": (Method.PUT, WRITE),
        "Delete": (Method.DELETE, WRITE),
        "Scan": (Method.SCAN, READ),
        "Txn": (Method.TXN, WRITE),
        "Batch": (Method.BATCH, WRITE),
        "GrantLease": (Method.GRANT_LEASE, WRITE),
        "RevokeLease": (Method.REVOKE_LEASE, WRITE),
        "GetLease": (Method.GET_LEASE, READ),
    }
)
_STREAMS: Mapping[str, str] = MappingProxyType(
    {"Pipeline": WRITE, "KeepAlive": WRITE, "Watch": READ}
)
_QUEUE_FULL_ATTEMPTS = 300  # about half a minute

Context = grpc.aio.ServicerContext[bytes, bytes]
Unary = Callable[[bytes, Context], Awaitable[bytes]]


class KVModule:
    """The service over one engine; fits server.app.ServiceModule."""

    name = "bedplate.kv.v1.KVService"

    def __init__(self, engine: Engine, limits: LimitsConfig, budget: Budget) -> None:
        self._engine = engine
        self._budget = budget
        self._frames_max = limits.pipeline_frames_max
        self._streams = OpenStreams()

    @property
    def scopes(self) -> Mapping[str, str]:
        return {**{name: scope for name, (_, scope) in _UNARY.items()}, **_STREAMS}

    def register(self, server: grpc.aio.Server) -> None:
        # No deserializers and serializers: messages stay the bytes they are.
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(method))
            for name, (method, _) in _UNARY.items()
        }
        handlers["Pipeline"] = grpc.stream_stream_rpc_method_handler(self._pipeline)
        handlers["KeepAlive"] = grpc.stream_stream_rpc_method_handler(self._keep_alive)
        handlers["Watch"] = grpc.unary_stream_rpc_method_handler(self._watch)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(self.name, handlers),)
        )

    async def run(self) -> None:
        """Nothing to do in the background: the engine expires leases and compacts by itself."""

    def collectors(self) -> Sequence[Collector]:
        return ()

    def drain(self) -> None:
        self._streams.drain()

    def _unary(self, method: Method) -> Unary:
        engine = self._engine

        async def handle(request: bytes, _: Context) -> bytes:
            return await engine.call(method, Keyspace.USER, request)

        return handle

    async def _keep_alive(self, requests: AsyncIterator[bytes], context: Context) -> None:
        with self._streams.waiting():
            async for request in requests:
                reply = await self._engine.call(Method.KEEP_ALIVE, Keyspace.USER, request)
                await context.write(reply)

    async def _watch(self, request: bytes, context: Context) -> None:
        with self._budget.share() as share:
            await serve_watch(self._engine, self._streams, share, request, context)

    async def _pipeline(self, requests: AsyncIterator[bytes], context: Context) -> None:
        window = asyncio.Semaphore(self._frames_max)
        answered: asyncio.Queue[asyncio.Future[Reply] | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read_frames(requests, window, answered))
        try:
            with self._budget.share() as share:
                while (future := await answered.get()) is not None:
                    await share.send_owing(context, future.result().data)
                    window.release()
            await reader
        finally:
            reader.cancel()

    async def _read_frames(
        self,
        requests: AsyncIterator[bytes],
        window: asyncio.Semaphore,
        answered: asyncio.Queue[asyncio.Future[Reply] | None],
    ) -> None:
        """Submit every frame. When the client ends, a frame is refused or the daemon drains, wait
        until what was submitted is answered; then the queue's last item is None.
        """
        failure: Exception | None = None
        try:
            with self._streams.waiting():
                async for frame in requests:
                    if not frame:  # no op, so no result either
                        continue
                    await window.acquire()
                    try:
                        future = await self._submit(frame)
                    except BaseException:
                        window.release()
                        raise
                    future.add_done_callback(answered.put_nowait)
        except Exception as error:
            failure = error
        for _ in range(self._frames_max):
            await window.acquire()
        answered.put_nowait(None)
        if failure is not None:
            raise failure

    async def _submit(self, frame: bytes) -> asyncio.Future[Reply]:
        """Submit a frame; while the engine's queue is full, leave the client unread instead."""
        for attempt in range(_QUEUE_FULL_ATTEMPTS):
            try:
                return self._engine.frame(Keyspace.USER, frame)
            except StoreError as error:
                if error.reason != "QUEUE_FULL":
                    raise
            await asyncio.sleep(min(0.001 * 2**attempt, 0.1))
        return self._engine.frame(Keyspace.USER, frame)

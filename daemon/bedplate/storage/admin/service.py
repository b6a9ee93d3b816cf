"""AdminService: requests in, engine calls, responses out; which call needs which scope."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from prometheus_client.registry import Collector

from bedplate.api.admin.v1 import admin_pb2 as pb
from bedplate.errors import BedplateError, Code
from bedplate.storage.admin.backup import backup, too_long
from bedplate.storage.admin.config import AdminConfig
from bedplate.storage.admin.status import Facts, status_response
from bedplate.storage.admin.steps import Operations
from bedplate.storage.admin.verify import verify
from bedplate.storage.budget import Budget
from bedplate.storage.engine import Engine

_SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "GetStatus": "admin:read",
        "Compact": "admin:write",
        "Verify": "admin:write",
        "Backup": "admin:admin",
    }
)

Context = grpc.aio.ServicerContext[bytes, bytes]
Q = TypeVar("Q", bound=Message)


class AdminModule:
    """The service over one engine; fits server.app.ServiceModule.

    `facts` is asked at every GetStatus, since services are still being built when this is.
    """

    name = "bedplate.admin.v1.AdminService"

    def __init__(
        self, engine: Engine, config: AdminConfig, budget: Budget, facts: Callable[[], Facts]
    ) -> None:
        self._engine = engine
        self._budget = budget
        self._config = config
        self._facts = facts
        self._operations = Operations()
        engine.before_reopen.append(self._operations.interrupt)
        self._started_ns = 0

    @property
    def scopes(self) -> Mapping[str, str]:
        return _SCOPES

    def register(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "GetStatus": _unary(pb.GetStatusRequest, self._get_status),
            "Compact": _unary(pb.CompactRequest, self._compact),
            "Verify": grpc.unary_stream_rpc_method_handler(self._verify),
            "Backup": grpc.unary_stream_rpc_method_handler(self._backup),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(self.name, handlers),)
        )

    async def run(self) -> None:
        """Notes when serving began; when it ends, waits until no operation uses the engine."""
        self._started_ns = time.time_ns()
        try:
            await asyncio.Event().wait()
        finally:
            self._operations.drain()
            await self._operations.ended()

    def collectors(self) -> Sequence[Collector]:
        return ()

    def drain(self) -> None:
        self._operations.drain()

    async def _get_status(self, _: pb.GetStatusRequest) -> pb.GetStatusResponse:
        return status_response(self._engine.status(), self._facts(), self._started_ns)

    async def _compact(self, request: pb.CompactRequest) -> pb.CompactResponse:
        outcome = await self._engine.compact(request.revision)
        return pb.CompactResponse(
            revision=outcome.revision,
            compaction_revision=self._engine.status().compaction_revision,
        )

    async def _verify(self, request: bytes, context: Context) -> None:
        limit = _parse(pb.VerifyRequest, request).bytes_per_second_max
        async with self._operations.running("verify"):
            await self._send(verify(self._engine, limit), context)

    async def _backup(self, request: bytes, context: Context) -> None:
        _parse(pb.BackupRequest, request)
        seconds_max = self._config.backup_seconds_max
        async with self._operations.running("backup"):
            try:
                async with asyncio.timeout(seconds_max):
                    await self._send(backup(self._engine), context)
            except TimeoutError:
                raise too_long(seconds_max) from None

    async def _send(self, responses: AsyncGenerator[Message, None], context: Context) -> None:
        """All of them; whatever happens, the generator is closed before this returns."""
        with self._budget.share() as share:
            async with aclosing(responses) as stream:
                async for response in stream:
                    await share.send_owing(context, response.SerializeToString())


def _parse(kind: type[Q], message: bytes) -> Q:
    try:
        return kind.FromString(message)
    except DecodeError:
        raise BedplateError(
            f"not a {kind.DESCRIPTOR.name}",
            code=Code.INVALID_ARGUMENT,
            reason="MALFORMED_REQUEST",
        ) from None


def _unary(
    kind: type[Q], answer: Callable[[Q], Awaitable[Message]]
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Parsed here, so that what cannot be parsed is MALFORMED_REQUEST like everywhere."""

    async def handle(message: bytes, _: Context) -> bytes:
        return (await answer(_parse(kind, message))).SerializeToString()

    return grpc.unary_unary_rpc_method_handler(handle)

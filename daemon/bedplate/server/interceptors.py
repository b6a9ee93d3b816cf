"""Every call of every service passes here: guard, request id, deadline, status, counters.

    call --> metadata: x-request-id, authorization: Bearer <token>
         --> guard.enter(method, token ...)  refused: UNAUTHENTICATED, PERMISSION_DENIED, ...
         --> handler, its log records bound to the request id
         --> BedplateError --> status with details; anything else: INTERNAL, and a record of it
         --> guard.exit(code, duration)

Handlers are wrapped once per method, not per call. Health and reflection (reflection.OPEN_METHODS)
need no token, so that probes and grpcurl work; they are counted and limited like all others.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from bedplate.errors import BedplateError, Code
from bedplate.native.guard import Guard
from bedplate.server import status
from bedplate.telemetry.logging import request_id_bound

REQUEST_ID: Final = "x-request-id"
_REQUEST_ID_MAX = 128
_BEARER = "bearer "

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stub alone
Context = grpc.aio.ServicerContext[Any, Any]
Work = Callable[[Any, Context], Awaitable[Any]]
Trailing = tuple[tuple[str, str | bytes], ...]


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """The one way in. `deadline_s` is that of unary calls which bring none."""

    def __init__(self, guard: Guard, *, calls_max: int, deadline_s: float, log_calls: bool) -> None:
        self._guard = guard
        self._calls_max = calls_max
        self._open = 0
        self._deadline_s = deadline_s
        self._log_calls = log_calls
        self._log = structlog.get_logger("bedplate.calls")
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:  # no such method: UNIMPLEMENTED, and nothing to remember
                return None
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Handler:
        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            work = self._guarded(method, self._timed(handler.unary_unary))
            return grpc.unary_unary_rpc_method_handler(work, *codecs)
        if handler.stream_unary:
            work = self._guarded(method, handler.stream_unary)
            return grpc.stream_unary_rpc_method_handler(work, *codecs)
        if handler.unary_stream:
            work = self._guarded(method, _written(handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(work, *codecs)
        work = self._guarded(method, _written(handler.stream_stream))
        return grpc.stream_stream_rpc_method_handler(work, *codecs)

    def _guarded(self, method: str, work: Work) -> Work:
        guard, number = self._guard, self._guard.number(method.removeprefix("/"))

        async def call(request: Any, context: Context) -> Any:
            request_id, token = _identify(context)
            trailing = ((REQUEST_ID, request_id),)
            context.set_trailing_metadata(trailing)
            begun, code = time.monotonic_ns(), 0
            size = len(request) if isinstance(request, bytes) else 0
            try:
                self._admit()
                guard.enter(number, token, size, begun, _deadline_ns(context, begun))
            except BedplateError as error:
                await _abort(context, error, trailing)
            self._open += 1
            try:
                with request_id_bound(request_id):
                    try:
                        return await work(request, context)
                    except grpc.aio.AbortError:  # a library's own handler
                        code = _number(context.code())
                        raise
                    except Exception as error:
                        failure = self._failure(method, error)
                        code = failure.code
                        await _abort(context, failure, trailing)
            except asyncio.CancelledError:
                code = Code.CANCELLED
                raise
            finally:
                self._open -= 1
                elapsed_ns = time.monotonic_ns() - begun
                guard.exit(number, code, elapsed_ns)
                if self._log_calls:
                    self._record(method, code, elapsed_ns, request_id, token)

        return call

    def _admit(self) -> None:
        if self._open >= self._calls_max:
            raise BedplateError(
                "too many calls are open; `limits.calls_max` of them are",
                code=Code.RESOURCE_EXHAUSTED,
                reason="QUEUE_FULL",
            )

    def _timed(self, work: Work) -> Work:
        """Give a call that brings no deadline ours; gRPC itself cancels the others."""

        async def call(request: Any, context: Context) -> Any:
            if _deadline_ns(context, 0):
                return await work(request, context)
            async with asyncio.timeout(self._deadline_s):
                return await work(request, context)

        return call

    def _failure(self, method: str, error: Exception) -> BedplateError:
        """What the client is told. Only what nobody foresaw is recorded."""
        if isinstance(error, BedplateError):
            return error
        if isinstance(error, DecodeError):  # a stream of a library's own handler
            return BedplateError(
                "the request is not a protobuf message of this method",
                code=Code.INVALID_ARGUMENT,
                reason="MALFORMED_REQUEST",
            )
        if isinstance(error, TimeoutError):
            return BedplateError(
                "the deadline passed; a write may or may not have happened",
                code=Code.DEADLINE_EXCEEDED,
                reason="DEADLINE_PASSED",
            )
        if isinstance(error, MemoryError):
            return BedplateError(
                "out of memory", code=Code.RESOURCE_EXHAUSTED, reason="OUT_OF_MEMORY"
            )
        self._log.error("call_failed", method=method, exc_info=error)
        return BedplateError("internal error", code=Code.INTERNAL, reason="INTERNAL")

    def _record(
        self, method: str, code: int, elapsed_ns: int, request_id: str, token: bytes
    ) -> None:
        self._log.info(
            "call",
            method=method,
            code=Code(code).name if code else "OK",
            ms=round(elapsed_ns / 1e6, 3),
            request_id=request_id,
            client=self._guard.identify(token),
        )


def _identify(context: Context) -> tuple[str, bytes]:
    """The request id, taken from the client if it is short and printable, and the token or b""."""
    request_id, token = "", b""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and isinstance(value, str):
            request_id = value if len(value) <= _REQUEST_ID_MAX and value.isprintable() else ""
        elif key == "authorization" and str(value)[: len(_BEARER)].lower() == _BEARER:
            token = str(value)[len(_BEARER) :].strip().encode()
    return request_id or secrets.token_hex(8), token


def _deadline_ns(context: Any, now_ns: int) -> int:
    remaining = context.time_remaining()  # None without a deadline, whatever its stub says
    return 0 if remaining is None else now_ns + int(remaining * 1e9)


def _number(code: grpc.StatusCode | int) -> int:
    return code if isinstance(code, int) else int(code.value[0])


async def _abort(context: Context, error: BedplateError, trailing: Trailing) -> NoReturn:
    detailed = (*trailing, (status.DETAILS_KEY, status.details(error)))
    await context.abort(status.grpc_code(error.code), status.message(error), detailed)


def _written(work: Callable[[Any, Context], Any]) -> Work:
    """A handler that yields its responses, as one that writes them."""
    if not inspect.isasyncgenfunction(work):
        return work

    async def call(request: Any, context: Context) -> None:
        async for response in work(request, context):
            await context.write(response)

    return call

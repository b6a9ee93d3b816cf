"""Every call of every service passes here: its handler is wrapped, once per method, not per call.

Health and reflection (reflection.OPEN_METHODS) need no token and are answered while the daemon
drains, so that probes and grpcurl work; they are counted and limited like all others.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from bedplate.errors import BedplateError, Code
from bedplate.server import reflection, status
from bedplate.server.guarded_call import Context, Gate, GuardedMethod, Work

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stub alone


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """The one way in."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
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
            if handler is None:  # nothing to remember: clients make up as many as they like
                return _UNKNOWN
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Handler:
        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            work = self._guarded(method, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(work, *codecs)
        if handler.stream_unary:
            work = self._guarded(method, handler.stream_unary, requests=True)
            return grpc.stream_unary_rpc_method_handler(work, *codecs)
        if handler.unary_stream:
            work = self._guarded(method, _written(handler.unary_stream), responses=True)
            return grpc.unary_stream_rpc_method_handler(work, *codecs)
        work = self._guarded(method, _written(handler.stream_stream), requests=True, responses=True)
        return grpc.stream_stream_rpc_method_handler(work, *codecs)

    def _guarded(
        self, method: str, work: Work, *, requests: bool = False, responses: bool = False
    ) -> Work:
        always = method.removeprefix("/") in reflection.OPEN_METHODS
        guarded = GuardedMethod(
            self._gate, method, work, always=always, requests=requests, responses=responses
        )
        return guarded.call


async def _refuse(_: object, context: Context) -> None:
    error = BedplateError(
        "there is no such method", code=Code.UNIMPLEMENTED, reason="METHOD_UNKNOWN"
    )
    trailing = ((status.DETAILS_KEY, status.details(error)),)
    await context.abort(status.grpc_code(error.code), error.message, trailing)


_UNKNOWN: Handler = grpc.stream_stream_rpc_method_handler(_refuse)


def _written(work: Callable[[Any, Context], Any]) -> Work:
    """A handler that yields its responses, as one that writes them."""
    if not inspect.isasyncgenfunction(work):
        return work

    async def call(request: Any, context: Context) -> None:
        async for response in work(request, context):
            await context.write(response)

    return call

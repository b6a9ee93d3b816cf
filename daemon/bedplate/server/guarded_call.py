"""One method behind the guard: what happens around every call of it.

call --> metadata: x-request-id, authorization: Bearer <token>
     --> draining? too many? guard.enter(method, token ...)   refused: UNAVAILABLE, ...
     --> handler, its log records bound to the request id
     --> BedplateError --> status with details; anything else: INTERNAL, and a record of it
     --> guard.exit(code, duration)
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message

from bedplate.errors import BedplateError, Code
from bedplate.native.guard import Guard
from bedplate.server import status
from bedplate.server.open_calls import OpenCall, OpenCalls
from bedplate.storage.budget import ClientStalled
from bedplate.telemetry.logging import request_id_bound

REQUEST_ID: Final = "x-request-id"
_REQUEST_ID_MAX = 128
_BEARER = "bearer "
_LAST_WORD_S = 1.0

Context = grpc.aio.ServicerContext[Any, Any]
Work = Callable[[Any, Context], Awaitable[Any]]
Trailing = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """What all methods share. `deadline_s` is that of unary calls which bring none, `hang_up` ends
    the connection of a peer, `between_members` are methods that no client calls.
    """

    guard: Guard
    calls: OpenCalls
    request_bytes_max: int
    deadline_s: float
    log_calls: bool
    hang_up: Callable[[str], object]
    between_members: frozenset[str] = frozenset()
    member_frame_bytes_max: int = 0


class GuardedMethod:
    """`always`: also while the daemon drains. `requests`, `responses`: it streams them.

    What members say to each other is no client's call: it goes on while calls are drained, is not
    counted among them, and its frames are larger.
    """

    def __init__(
        self,
        gate: Gate,
        method: str,
        work: Work,
        *,
        always: bool,
        requests: bool,
        responses: bool,
    ) -> None:
        self._gate = gate
        self._method = method
        self._name = method.removeprefix("/")
        self._number = gate.guard.number(self._name)
        self._work = work
        self._always = always
        self._requests = requests
        self._unary = not (requests or responses)
        self._of_members = self._name in gate.between_members
        self._log = structlog.get_logger("bedplate.calls")

    async def call(self, request: Any, bare: Context) -> Any:
        """What gRPC calls."""
        context = Replies(bare)
        request_id, token = _identify(context)
        trailing: Trailing = ((REQUEST_ID, request_id),)
        context.set_trailing_metadata(trailing)
        begun, code = time.monotonic_ns(), 0
        try:
            opened = self._enter(request, token, begun, context)
        except BedplateError as error:
            await _abort(context, error, trailing)
        try:
            with request_id_bound(request_id):
                return await self._run(request, context)
        except grpc.aio.AbortError:  # a library's own handler
            code = _number(context.code())
            raise
        except asyncio.CancelledError:
            if opened.ending is None:
                code = Code.CANCELLED
                raise
            code = opened.ending.code
            opened.task.uncancel()
            await self._end(context, opened.ending, trailing)
        except grpc.aio.InternalError:  # a write that failed: the client is gone
            code = Code.CANCELLED
            raise asyncio.CancelledError from None
        except Exception as error:
            if isinstance(error, grpc.aio.UsageError) and self._gate.calls.draining:
                code = Code.CANCELLED  # the server has stopped meanwhile: nobody is told anything
                raise asyncio.CancelledError from None
            failure = self._failure(error)
            code = failure.code
            self._gate.calls.leave(opened)
            stalled = opened.ending is not None or isinstance(failure, ClientStalled)
            if stalled or context.writing:
                await self._end(context, failure, trailing)
            await _abort(context, failure, trailing)
        finally:
            self._leave(opened, code, time.monotonic_ns() - begun, request_id)

    def _enter(self, request: Any, token: bytes, begun: int, context: Replies) -> OpenCall:
        calls = self._gate.calls
        streams = not self._unary
        if self._of_members:
            opened = calls.uncounted(self._number, token, streams=streams)
        else:
            opened = calls.admit(self._number, token, streams=streams, always=self._always)
        try:
            deadline = _deadline_ns(context, begun)
            self._gate.guard.enter(self._number, token, _size(request), begun, deadline)
        except BaseException:
            calls.leave(opened)
            raise
        return opened

    def _leave(self, opened: OpenCall, code: int, elapsed_ns: int, request_id: str) -> None:
        self._gate.calls.leave(opened)
        self._gate.guard.exit(self._number, code, elapsed_ns)
        if self._gate.log_calls:
            self._log.info(
                "call",
                method=self._method,
                code=Code(code).name if code else "OK",
                ms=round(elapsed_ns / 1e6, 3),
                request_id=request_id,
                client=self._gate.guard.identify(opened.token),
            )

    async def _run(self, request: Any, replies: Replies) -> Any:
        context: Any = replies
        if self._requests:
            gate = self._gate
            most = gate.member_frame_bytes_max if self._of_members else gate.request_bytes_max
            return await self._work(Frames(context, most), context)
        if not self._unary or _deadline_ns(
            context, 0
        ):  # gRPC itself cancels what brings a deadline
            return await self._work(request, context)
        async with asyncio.timeout(self._gate.deadline_s):
            return await self._work(request, context)

    def _failure(self, error: Exception) -> BedplateError:
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
        self._log.error("call_failed", method=self._method, exc_info=error)
        return BedplateError("internal error", code=Code.INTERNAL, reason="INTERNAL")

    async def _end(self, context: Replies, error: BedplateError, trailing: Trailing) -> NoReturn:
        """Abort a call whose client may not be reading. The status then waits behind the data, and
        in gRPC's Python server only the end of the connection takes both out of memory. A drain
        ends all connections anyway, once the other answers of this one are out.
        """
        try:
            async with asyncio.timeout(_LAST_WORD_S):
                await context.written()
                await _abort(context, error, trailing)
        except TimeoutError:
            if not self._gate.calls.draining:
                self._gate.hang_up(context.peer())
            raise asyncio.CancelledError from None


class Replies:
    """A servicer context that knows of the write under way: a call that is ended must wait for it,
    since gRPC can send no status beside a message, and then sends none ever.
    """

    __slots__ = ("_context", "_writing")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._writing: asyncio.Future[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """Cancelled, it leaves the write to itself."""
        self._writing = asyncio.ensure_future(self._context.write(message))
        self._writing.add_done_callback(_retrieved)
        await asyncio.shield(self._writing)

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: Trailing
    ) -> NoReturn:
        """End the call. To a client that is gone, without a word."""
        try:
            await self._context.abort(code, details, trailing_metadata)
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None

    @property
    def writing(self) -> bool:
        """Whether a write is under way."""
        return self._writing is not None and not self._writing.done()

    async def written(self) -> None:
        """Wait until nothing is being written any more."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))


def _retrieved(write: asyncio.Future[None]) -> None:
    """What became of it was for whoever awaited it."""
    if not write.cancelled():
        write.exception()


class Frames:
    """The requests of a stream, none of them too large. gRPC's own iterator would keep each alive
    until the next one is there.
    """

    __slots__ = ("_context", "_most")

    def __init__(self, context: Context, most: int) -> None:
        self._context = context
        self._most = most

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """The next one. INVALID_ARGUMENT / REQUEST_TOO_LARGE."""
        request = await self._context.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        size = _size(request)
        if size > self._most:
            raise BedplateError(
                f"the message has {size} bytes, the most is {self._most}",
                code=Code.INVALID_ARGUMENT,
                reason="REQUEST_TOO_LARGE",
            )
        return request


def _size(request: Any) -> int:
    """Bytes of a message; 0 for a stream of them."""
    if isinstance(request, bytes):
        return len(request)
    return request.ByteSize() if isinstance(request, Message) else 0


def _identify(context: Replies) -> tuple[str, bytes]:
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


async def _abort(context: Replies, error: BedplateError, trailing: Trailing) -> NoReturn:
    detailed = (*trailing, (status.DETAILS_KEY, status.details(error)))
    await context.abort(status.grpc_code(error.code), status.message(error), detailed)

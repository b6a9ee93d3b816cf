"""PeerService: what other members say to this one.

    Control, Data   hello --> admitted --> messages, decoded --> host.deliver
    Snapshot        offer --> admitted --> host.install, which asks and answers
    Forward         hello --> admitted --> batches, each a task --> outcomes, as they come
    Identify, Join, Relay, FetchValues   one question, one answer

Every call shows the cluster's token where there is one; certificates were looked at by TLS. A frame
that no member sends ends its stream.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from prometheus_client.registry import Collector

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.consensus.codec import MalformedMessage, decode
from bedplate.consensus.lane import HELLO_S, until_one_ends
from bedplate.consensus.messages import Message
from bedplate.errors import BedplateError, Code

SERVICE: Final = "bedplate.cluster.v1.PeerService"
SCOPE: Final = "cluster:peer"
_BATCHES_MAX = 256  # of one member, at work at a time
_SCOPES: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("Identify", "Join", "Control", "Data", "Forward", "Relay", "Snapshot", "FetchValues"),
        SCOPE,
    )
)
METHODS: Final = frozenset(f"{SERVICE}/{method}" for method in _SCOPES)

Context = grpc.aio.ServicerContext[Any, Any]


class Host(Protocol):
    """Whoever the messages are for. All raise BedplateError."""

    @property
    def member_id(self) -> int: ...

    def check_admitted(self) -> None:
        """Whether members are let in at all, as this daemon is configured."""

    def admit(self, hello: pb.Hello) -> None:
        """Whether this caller is let in."""

    def check_member(self, source: int) -> None:
        """Whether a caller that was let in still belongs here."""

    def deliver(self, messages: Sequence[Message]) -> None: ...

    async def room(self) -> None:
        """Wait until more messages may be delivered."""

    def opened(self, source: int) -> None:
        """A stream from there has begun."""

    def ended(self, source: int, *, lost: bool) -> None:
        """It has ended, and, if `lost`, has no successor."""

    async def forwarded(self, batch: bytes) -> bytes:
        """Do what a batch says; its outcomes."""

    async def install(
        self,
        offer: pb.SnapshotOffer,
        frames: AsyncIterator[pb.SnapshotRequest],
        say: Callable[[pb.SnapshotResponse], Awaitable[None]],
    ) -> None:
        """Take another member's state over."""

    async def fetch(self, wanted: bytes) -> bytes:
        """Values that another member lacks."""

    def identify(self, request: pb.IdentifyRequest) -> pb.IdentifyResponse: ...

    async def join(self, request: pb.JoinRequest) -> pb.JoinResponse: ...

    async def relay(self, request: pb.RelayRequest) -> pb.RelayResponse:
        """Do, as the leader, what a client asked another member for."""


class PeerModule:
    """The service; fits server.app.ServiceModule."""

    name = SERVICE

    def __init__(self, host: Host, token: str) -> None:
        self._host = host
        self._token = f"Bearer {token}".encode() if token else b""
        self._newest: dict[tuple[str, int], object] = {}  # the streams that count, by source

    @property
    def scopes(self) -> Mapping[str, str]:
        return _SCOPES

    def register(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Identify": _unary(pb.IdentifyRequest, self._identify),
            "Join": _unary(pb.JoinRequest, self._join),
            "Relay": _unary(pb.RelayRequest, self._relay),
            "Control": grpc.stream_stream_rpc_method_handler(self._control),
            "Data": grpc.stream_stream_rpc_method_handler(self._data),
            "Forward": grpc.stream_stream_rpc_method_handler(self._forward),
            "Snapshot": grpc.stream_stream_rpc_method_handler(self._snapshot),
            "FetchValues": grpc.unary_stream_rpc_method_handler(self._fetch_values),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(self.name, handlers),)
        )

    async def run(self) -> None:
        """Nothing to do but answer."""

    def collectors(self) -> Sequence[Collector]:
        return ()

    def drain(self) -> None:
        """Members are needed until the last call is answered."""

    # ---- streams -------------------------------------------------------------------------------

    async def _control(self, frames: Any, context: Context) -> None:
        source = await self._greet(pb.ControlRequest, frames, context)
        await context.write(pb.ControlResponse().SerializeToString())
        async with _Stream(self._newest, "control", source, self._host):
            async for data in frames:
                frame = _parse(pb.ControlRequest, data)
                self._host.check_member(source)
                if frame.messages:
                    self._deliver(frame.messages, source)
                if frame.ping:
                    await context.write(pb.ControlResponse(pong=frame.ping).SerializeToString())

    async def _data(self, frames: Any, context: Context) -> None:
        source = await self._greet(pb.DataRequest, frames, context)
        await context.write(pb.DataResponse().SerializeToString())
        async with _Stream(self._newest, "data", source, self._host):
            async for data in frames:
                frame = _parse(pb.DataRequest, data)
                self._host.check_member(source)
                self._deliver((frame.message,), source)
                await self._host.room()

    async def _forward(self, frames: Any, context: Context) -> None:
        await self._greet(pb.ForwardRequest, frames, context)
        await context.write(pb.ForwardResponse().SerializeToString())
        room = asyncio.Semaphore(_BATCHES_MAX)
        answers: asyncio.Queue[pb.ForwardResponse] = asyncio.Queue(_BATCHES_MAX)

        async def carry_out(frame: pb.ForwardRequest) -> None:
            answer = pb.ForwardResponse(batch=frame.batch)
            try:
                answer.outcomes = await self._host.forwarded(frame.requests)
            except BedplateError as error:
                answer.refused = error.reason or "UNAVAILABLE"
            answers.put_nowait(answer)

        async def receive() -> None:
            async with asyncio.TaskGroup() as group:
                async for data in frames:
                    await room.acquire()
                    group.create_task(carry_out(_parse(pb.ForwardRequest, data)))

        async def send() -> None:
            while True:
                answer = await answers.get()
                await context.write(answer.SerializeToString())
                room.release()

        await until_one_ends(_ungrouped(receive), send())

    async def _snapshot(self, frames: Any, context: Context) -> None:
        self._check_token(context)
        requests = _parsed(pb.SnapshotRequest, frames)
        try:
            async with asyncio.timeout(HELLO_S):
                first = await anext(requests)
        except (StopAsyncIteration, TimeoutError):
            raise malformed("a snapshot begins with an offer") from None
        if first.WhichOneof("frame") != "offer":
            raise malformed("a snapshot begins with an offer")
        self._host.admit(first.offer.hello)

        async def say(response: pb.SnapshotResponse) -> None:
            await context.write(response.SerializeToString())

        await self._host.install(first.offer, requests, say)

    async def _fetch_values(self, data: bytes, context: Context) -> None:
        self._check_token(context)
        request = _parse(pb.FetchValuesRequest, data)
        self._host.admit(request.hello)
        values = await self._host.fetch(request.wanted)
        await context.write(pb.FetchValuesResponse(values=values).SerializeToString())

    async def _greet(self, kind: Any, frames: Any, context: Context) -> int:
        """Take the hello; the member that calls."""
        self._check_token(context)
        try:
            async with asyncio.timeout(HELLO_S):
                first = _parse(kind, await anext(aiter(frames)))
        except (StopAsyncIteration, TimeoutError):
            raise malformed("a stream begins with a hello") from None
        if not first.HasField("hello"):
            raise malformed("a stream begins with a hello")
        self._host.admit(first.hello)
        return int(first.hello.source)

    def _deliver(self, messages: Sequence[pb.RaftMessage], source: int) -> None:
        try:
            decoded = [decode(message, source, self._host.member_id) for message in messages]
        except MalformedMessage as error:
            raise malformed(str(error)) from error
        self._host.deliver(decoded)

    # ---- questions -----------------------------------------------------------------------------

    async def _identify(self, request: pb.IdentifyRequest, context: Context) -> Protobuf:
        self._check_token(context)
        return self._host.identify(request)

    async def _join(self, request: pb.JoinRequest, context: Context) -> Protobuf:
        self._check_token(context)
        return await self._host.join(request)

    async def _relay(self, request: pb.RelayRequest, context: Context) -> Protobuf:
        self._check_token(context)
        self._host.admit(request.hello)
        return await self._host.relay(request)

    def _check_token(self, context: Context) -> None:
        self._host.check_admitted()
        if not self._token:
            return
        for key, value in context.invocation_metadata() or ():
            shown = value if isinstance(value, bytes) else str(value).encode()
            if key == "authorization" and hmac.compare_digest(shown, self._token):
                return
        raise BedplateError(
            "this is no member: it does not show the cluster's token",
            code=Code.UNAUTHENTICATED,
            reason="PEER_UNKNOWN",
        )


class _Stream:
    """Tells the host when a stream ends, unless its member has opened a newer one meanwhile."""

    def __init__(
        self, newest: dict[tuple[str, int], object], kind: str, source: int, host: Host
    ) -> None:
        self._newest = newest
        self._key = (kind, source)
        self._host = host

    async def __aenter__(self) -> None:
        self._newest[self._key] = self
        self._host.opened(self._key[1])

    async def __aexit__(self, *_: object) -> None:
        lost = self._newest.get(self._key) is self
        if lost:
            del self._newest[self._key]
        self._host.ended(self._key[1], lost=lost)


def malformed(why: str) -> BedplateError:
    """What a caller is told whose frames make no sense."""
    return BedplateError(why, code=Code.INVALID_ARGUMENT, reason="MALFORMED_REQUEST")


async def _ungrouped(work: Callable[[], Awaitable[None]]) -> None:
    """Run it; of several errors at once raise the first."""
    try:
        await work()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise malformed(f"not a {kind.DESCRIPTOR.name}") from None


async def _parsed(kind: Any, frames: Any) -> AsyncIterator[Any]:
    async for data in frames:
        yield _parse(kind, data)


def _unary(
    kind: Any, answer: Callable[[Any, Context], Awaitable[Protobuf]]
) -> "grpc.RpcMethodHandler[Any, Any]":
    async def handle(data: bytes, context: Context) -> bytes:
        return (await answer(_parse(kind, data), context)).SerializeToString()

    return grpc.unary_unary_rpc_method_handler(handle)

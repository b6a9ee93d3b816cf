"""All of one member's outgoing streams.

control   votes, heartbeats, reads, pings        a connection of its own
data      entries and their answers              a second connection
forward   clients' writes, to the leader         on the second one
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.api.cluster.v1.peer_pb2_grpc import PeerServiceStub
from bedplate.consensus.codec import encode
from bedplate.consensus.frame_queue import FrameQueue
from bedplate.consensus.lane import Lane, lost, until_one_ends
from bedplate.consensus.messages import Append, Message
from bedplate.consensus.peer_channel import Credentials
from bedplate.errors import BedplateError

PING_S: Final = 0.5
_SILENCE_S = 3.0
_CONTROL_MAX = 4096
_DATA_MAX, _DATA_BYTES_MAX = 1024, 96 << 20
_FORWARD_MAX, _FORWARD_BYTES_MAX = 256, 32 << 20


@dataclass(frozen=True, slots=True)
class LinkEvents:
    """What a link reports of its member. None of these waits."""

    lost: Callable[[int], None]  # a stream that was up broke
    dropped: Callable[[int], None]  # entries, or an answer to some, were not sent
    answered: Callable[[int, pb.ForwardResponse], None]
    refused: Callable[[int, BedplateError], None]


class _Connection:
    """Lanes on a connection of their own, which pauses ever longer between failed attempts."""

    def __init__(
        self,
        channel: Callable[[], grpc.aio.Channel],
        lanes: Callable[[Any], Sequence[Lane[Any, Any]]],
    ) -> None:
        """`lanes` makes them, of a stub."""
        self._channel = channel
        self._make = lanes
        self._lanes: Sequence[Lane[Any, Any]] = ()
        self._anew = asyncio.Event()

    def retry(self) -> None:
        """Do not pause. A channel's own pause cannot be cut short: there is a new one then."""
        if any(lane.up for lane in self._lanes):
            for lane in self._lanes:
                lane.hurry()
        else:
            self._anew.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._anew.clear()
            async with self._channel() as channel:
                # What is generated is typed for a synchronous channel.
                stub: Any = PeerServiceStub(channel)
                self._lanes = self._make(stub)
                await until_one_ends(*(lane.run() for lane in self._lanes), self._renewal())

    async def _renewal(self) -> None:
        await self._anew.wait()


class Link:
    """`run` keeps it up. Sending never waits: what finds no room is dropped."""

    def __init__(
        self, member: int, address: str, hello: pb.Hello, credentials: Credentials, on: LinkEvents
    ) -> None:
        self.member = member
        self.address = address
        self.rtt_s = 0.0  # of the last ping
        self._credentials = credentials
        self._on = on
        self._hello = hello
        self._messages: FrameQueue[Message] = FrameQueue(_CONTROL_MAX, _CONTROL_MAX)
        self._entries: FrameQueue[Message] = FrameQueue(_DATA_MAX, _DATA_BYTES_MAX)
        self._batches: FrameQueue[pb.ForwardRequest] = FrameQueue(_FORWARD_MAX, _FORWARD_BYTES_MAX)
        self._heard = self._pinged = 0.0
        self._control: Lane[pb.ControlRequest, pb.ControlResponse] | None = None
        self._forward: Lane[pb.ForwardRequest, pb.ForwardResponse] | None = None
        self._data: Lane[pb.DataRequest, pb.DataResponse] | None = None

        def channel() -> grpc.aio.Channel:
            return credentials.channel(address)

        self._connections = (
            _Connection(channel, self._control_lanes),
            _Connection(channel, self._bulk_lanes),
        )

    @property
    def up(self) -> bool:
        """Whether it can be talked to."""
        return self._control is not None and self._control.up

    def retry(self) -> None:
        """The member is there: bring up now what is not."""
        for connection in self._connections:
            connection.retry()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for connection in self._connections:
                group.create_task(connection.run())

    def _control_lanes(self, stub: Any) -> Sequence[Lane[Any, Any]]:
        self._control = Lane(
            open_stream=lambda: stub.Control(metadata=self._credentials.metadata),
            hello=pb.ControlRequest(hello=self._hello),
            next_frame=self._next_control,
            on_answer=self._pong,
            on_up=self._control_up,
            on_down=self._control_down,
        )
        return (self._control,)

    def _bulk_lanes(self, stub: Any) -> Sequence[Lane[Any, Any]]:
        metadata = self._credentials.metadata
        self._data = Lane(
            open_stream=lambda: stub.Data(metadata=metadata),
            hello=pb.DataRequest(hello=self._hello),
            next_frame=self._next_data,
            on_answer=lambda _: None,
            on_up=lambda: None,
            on_down=self._data_down,
        )
        self._forward = Lane(
            open_stream=lambda: stub.Forward(metadata=metadata),
            hello=pb.ForwardRequest(hello=self._hello),
            next_frame=self._batches.take,
            on_answer=lambda answer: self._on.answered(self.member, answer),
            on_up=lambda: None,
            on_down=self._forward_down,
        )
        return (self._data, self._forward)

    # ---- sending -------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """On the control stream. Raft says again what matters, so what finds no room is lost."""
        self._messages.put(message)

    def send_bulk(self, message: Message) -> None:
        """On the data stream, in order."""
        size = 0
        if isinstance(message, Append) and isinstance(message.payload, bytes):
            size = len(message.payload)
        if self._data is None or not self._data.up or not self._entries.put(message, size):
            self._entries.clear()  # with a gap in them they would all be refused
            self._on.dropped(self.member)

    def forward(self, batch: int, requests: bytes) -> bool:
        """Whether the batch was taken."""
        if self._forward is None or not self._forward.up:
            return False
        return self._batches.put(pb.ForwardRequest(batch=batch, requests=requests), len(requests))

    # ---- the lanes -----------------------------------------------------------------------------

    async def _next_control(self) -> pb.ControlRequest:
        now = time.monotonic()
        if now - self._heard > _SILENCE_S:
            raise lost("no answer to pings")
        messages: list[Message] = []
        wait = self._pinged + PING_S - now
        if wait > 0:
            try:
                async with asyncio.timeout(wait):
                    messages = await self._messages.take_all()
            except TimeoutError:
                pass
        frame = pb.ControlRequest(messages=[encode(message) for message in messages])
        now = time.monotonic()
        if now - self._pinged >= PING_S:
            self._pinged = now
            frame.ping = time.monotonic_ns()
        return frame

    async def _next_data(self) -> pb.DataRequest:
        return pb.DataRequest(message=encode(await self._entries.take()))

    def _pong(self, answer: pb.ControlResponse) -> None:
        self._heard = time.monotonic()
        if answer.pong:
            self.rtt_s = (time.monotonic_ns() - answer.pong) / 1e9

    def _control_up(self) -> None:
        self._heard = time.monotonic()
        self._pinged = 0.0

    def _control_down(self, was_up: bool, error: BedplateError) -> None:
        self._messages.clear()
        self._tell(was_up, error)

    def _data_down(self, was_up: bool, error: BedplateError) -> None:
        self._entries.clear()
        self._tell(was_up, error)

    def _forward_down(self, was_up: bool, error: BedplateError) -> None:
        self._batches.clear()
        self._tell(was_up, error)

    def _tell(self, was_up: bool, error: BedplateError) -> None:
        if was_up:
            self._on.lost(self.member)
        if error.reason not in ("", "CONNECTION_LOST"):
            self._on.refused(self.member, error)

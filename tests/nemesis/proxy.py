"""A network whose faults are ours: members reach each other through TCP proxies, one in front of
each member, and every direction between two members has a weather of its own.

    member 1 --connects--> [proxy of 2] --> member 2
             == link (1, 2): bytes from 1 to 2, whoever opened the connection ==>
            <== link (2, 1) ==

What real networks do to TCP: a lost packet is a delay (it is sent again), a cut line is silence in
which bytes wait, also those that end a connection; a reset is one only where something resets. So a
link that is cut one way lets the other direction through until buffers are full.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from tests.nemesis.sockets import Address

CLIENT = 0  # what no member opened
_PIECE = 64 << 10
_PIECES_MAX = 64
_RETRANSMIT_S = 0.2
_LATE_S = 0.005
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset

FindSource = Callable[[Address, Address], int]


@dataclass(frozen=True, slots=True)
class Weather:
    """Of one direction between two members."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0  # 0: no limit
    loss: float = 0.0  # the share of pieces that must be sent again
    cut: bool = False


FAIR = Weather()


class Link:
    """One direction between two members: when what is sent arrives. Nothing is overtaken."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._open = asyncio.Event()
        self._free_at = 0.0
        self.weather = FAIR
        self.bytes = 0
        self.hindered = 0  # pieces that came late, or waited for the cut's end
        self._open.set()

    def set(self, weather: Weather) -> None:
        self.weather = weather
        if weather.cut:
            self._open.clear()
        else:
            self._open.set()

    def arrival(self, size: int) -> float:
        """When a piece that is sent now arrives, by the loop's clock."""
        now, weather = asyncio.get_running_loop().time(), self.weather
        if weather.bytes_per_s:
            self._free_at = max(self._free_at, now) + size / weather.bytes_per_s
            now = self._free_at
        due = now + weather.delay_s + self._rng.uniform(0, weather.jitter_s)
        wait = _RETRANSMIT_S
        while weather.loss and self._rng.random() < weather.loss and wait < 4:
            due, wait = due + wait, wait * 2
        if due - asyncio.get_running_loop().time() > _LATE_S:
            self.hindered += 1
        return due

    async def pass_at(self, due: float) -> None:
        """Wait until then, and until the link is not cut."""
        left = due - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.sleep(left)
        if not self._open.is_set():
            self.hindered += 1
        await self._open.wait()


@dataclass(slots=True, eq=False)
class _Connection:
    source: int
    target: int
    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None

    def abort(self) -> None:
        for writer in (self.near, self.far):
            if writer is None:
                continue
            raw: socket.socket | None = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            writer.transport.abort()


class Proxies:
    """The proxies of all members, in the running loop."""

    def __init__(self, rng: random.Random, find_source: FindSource) -> None:
        self._rng = rng
        self._find_source = find_source
        self._links: dict[tuple[int, int], Link] = {}
        self._targets: dict[int, str] = {}
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, member: int) -> str:
        """Open the member's proxy; the address at which the others reach it."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await self._serve(member, reader, writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self._servers.append(server)
        host, port = server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    def set_target(self, member: int, address: str) -> None:
        """Where the member itself listens, when it runs."""
        self._targets[member] = address

    def link(self, source: int, target: int) -> Link:
        key = (source, target)
        if key not in self._links:
            self._links[key] = Link(random.Random(self._rng.getrandbits(64)))
        return self._links[key]

    @property
    def hindered(self) -> int:
        """Pieces between members that came late, or had to wait for the end of a cut."""
        return sum(link.hindered for key, link in self._links.items() if CLIENT not in key)

    def reset(self, one: int, other: int) -> int:
        """Break every connection between two members; how many there were."""
        found = [c for c in self._connections if {c.source, c.target} == {one, other}]
        for connection in found:
            connection.abort()
        return len(found)

    def heal(self) -> None:
        """Fair weather everywhere."""
        for link in self._links.values():
            link.set(FAIR)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(
        self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        connection = _Connection(self._find_source(peer[:2], own[:2]), target, writer)
        self._connections.add(connection)
        there, back = self.link(connection.source, target), self.link(target, connection.source)
        try:
            await there.pass_at(there.arrival(0))
            host, _, port = self._targets.get(target, "").rpartition(":")
            far_reader, far = await asyncio.open_connection(host, int(port or 0))
            connection.far = far
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, far, there))
                group.create_task(_pump(far_reader, writer, back))
        except* (OSError, ValueError):
            pass  # refused, reset, or the member does not run
        finally:
            self._connections.discard(connection)
            connection.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link) -> None:
    """Carry bytes, the end and a reset from one side to the other. Raises ConnectionError."""
    waiting: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_PIECES_MAX)

    async def read() -> None:
        data: bytes | None = b"?"
        while data:
            try:
                data = await reader.read(_PIECE)
            except OSError:
                data = None
            await waiting.put((link.arrival(len(data or b"")), data))

    reading = asyncio.create_task(read())
    try:
        while True:
            due, data = await waiting.get()
            await link.pass_at(due)
            if data is None:
                raise ConnectionResetError
            if not data:
                writer.write_eof()
                return
            link.bytes += len(data)
            writer.write(data)
            await writer.drain()
    finally:
        reading.cancel()

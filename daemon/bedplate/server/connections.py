"""Ending connections that gRPC's Python server cannot end.

A stream to a client that does not read cannot be answered: its status waits behind the data. And a
server that stops answers what arrives meanwhile with a CANCELLED without a reason. In both cases
the connection itself is ended here, below gRPC: clients then see UNAVAILABLE, "Socket closed".

Ended at once, it may take answers along that are on their way: what a client sends to it is met
with a reset, and then the client does not read on. So a drain parts in three steps:

    no request is read any more --> answers, and our end of the data --> the client hangs up
"""

import asyncio
import contextlib
import os
import select
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self
from urllib.parse import unquote

_SOCKETS = "/proc/self/fd"
_NEVER_BYTES = (1 << 31) - 1  # the system makes it half of its receive buffer
_IP = (socket.AF_INET, socket.AF_INET6)
Peer = tuple[IPv4Address | IPv6Address, int]


def hang_up(port: int, peer: str = "") -> int:
    """Shut down the connections that came in on our port, or only that of `peer` as gRPC names it
    ("ipv4:127.0.0.1:1234"); how many there were.
    """
    wanted = _parse(peer) if peer else None
    count = 0
    for connection in _connections(port):
        with connection, contextlib.suppress(OSError):
            if wanted in (None, _peer(connection)):
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


class Parting:
    """From its beginning on, the connections of our port are not read: to gRPC, nothing comes in.
    A context manager.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._connections.extend(_connections(self._port))
        for connection in self._connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _NEVER_BYTES)
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    async def complete(self, timeout_s: float) -> None:
        """End our side, behind what was answered, and wait for the clients to take it and hang up;
        for those that do not, no longer than this.
        """
        for connection in self._connections:
            with contextlib.suppress(OSError):  # it has hung up before
                connection.shutdown(socket.SHUT_WR)
        await asyncio.to_thread(_until_hung_up, self._connections, timeout_s)


def _until_hung_up(connections: Sequence[socket.socket], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLRDHUP)
    left = len(connections)
    while left and (remaining_s := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(remaining_s * 1000):
            poll.unregister(descriptor)
            left -= 1


def _connections(port: int) -> Iterator[socket.socket]:
    """A duplicate of every connected socket of this process whose own port that is."""
    for name in os.listdir(_SOCKETS):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            connection = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # closed meanwhile
            continue
        try:
            ours = connection.family in _IP and connection.getsockname()[1] == port
            _peer(connection) if ours else None
        except OSError:  # it listens
            ours = False
        if ours:
            yield connection
        else:
            connection.close()


def _peer(connection: socket.socket) -> Peer:
    host, port = connection.getpeername()[:2]
    return _plain(host), port


def _parse(peer: str) -> Peer:
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return _plain(host.strip("[]")), int(port)


def _plain(host: str) -> IPv4Address | IPv6Address:
    address = ip_address(host)
    return getattr(address, "ipv4_mapped", None) or address

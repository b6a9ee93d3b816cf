"""Ending connections that gRPC's Python server cannot end.

A stream to a client that does not read cannot be answered: its status waits behind the data. And a
server that stops answers what arrives meanwhile with a CANCELLED without a reason. In both cases
the connection itself is shut down here, below gRPC: clients then see UNAVAILABLE, "Socket closed".
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote

_SOCKETS = "/proc/self/fd"
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

"""Ports: both are taken before anything else happens, so that an occupied one leaves no trace."""

import errno
import os
import socket
from collections.abc import Iterable

import grpc
import grpc.aio

from bedplate.address import Address
from bedplate.errors import StartupError

_BACKLOG = 256


def listen_http(address: Address) -> socket.socket:
    """A bound, listening socket. Raises StartupError."""
    listening = _bind(address)
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening


def listen_grpc(
    server: grpc.aio.Server, address: Address, credentials: grpc.ServerCredentials | None
) -> Address:
    """Bind the server's port and return it with its number. Raises StartupError."""
    _bind(address).close()  # grpc's own failure has no reason in it
    try:
        if credentials is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address}", reason="LISTEN") from error
    return Address(address.host, port)


def bound_address(listening: socket.socket, address: Address) -> Address:
    """The address with the port that the system chose."""
    return Address(address.host, int(listening.getsockname()[1]))


def _bind(address: Address) -> socket.socket:
    last: OSError | None = None
    for family, kind, protocol, where in _resolve(address):
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(where)
        except OSError as error:
            listening.close()
            last = error
        else:
            return listening
    assert last is not None
    number = last.errno or errno.EINVAL
    raise StartupError(f"cannot listen on {address}: {os.strerror(number)}", reason="LISTEN")


def _resolve(
    address: Address,
) -> Iterable[tuple[socket.AddressFamily, socket.SocketKind, int, tuple[object, ...]]]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise StartupError(
            f"cannot listen on {address}: {error.strerror}", reason="LISTEN"
        ) from error
    return [(family, kind, protocol, where) for family, kind, protocol, _, where in found]

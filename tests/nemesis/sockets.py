"""Whose a connection is: members share one machine, so a proxy cannot tell them by address.

(peer address, own address) -- /proc/net/tcp --> inode -- /proc/PID/fd --> one of some processes
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

Address = tuple[str, int]


def owner(near: Address, far: Address, pids: Iterable[int]) -> int | None:
    """The process among `pids` that holds the IPv4 connection from `near` to `far`."""
    inode = _inode(_hex(near), _hex(far))
    if inode is None:
        return None
    wanted = f"socket:[{inode}]"
    for pid in pids:
        try:
            for fd in os.scandir(f"/proc/{pid}/fd"):
                if os.readlink(fd.path) == wanted:
                    return pid
        except OSError:
            continue  # it, or the descriptor, is gone
    return None


def _inode(near: str, far: str) -> str | None:
    for table, prefix in (("tcp", ""), ("tcp6", "0000000000000000FFFF0000")):
        with open(f"/proc/net/{table}", encoding="ascii") as lines:
            for line in lines:
                words = line.split()
                if words[1] == prefix + near and words[2] == prefix + far:
                    return words[9]
    return None


def _hex(address: Address) -> str:
    host = int.from_bytes(socket.inet_aton(address[0]), "little")
    return f"{host:08X}:{address[1]:04X}"

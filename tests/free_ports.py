"""Ports for servers that are told theirs, and need it again after a restart.

The kernel gives ports above its own lower limit to whoever asks for any, clients' connections among
them: one of those may be taken between the choice and the start, or while its server is down.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

_FIRST: Final = 12_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Different ports that nobody has now, and that the kernel gives to nobody."""
    end = int(_RANGE.read_text(encoding="ascii").split()[0])
    candidates = random.SystemRandom().sample(range(_FIRST, end), 50 * count)
    found = [port for port in candidates if _is_free(port)][:count]
    assert len(found) == count, "no free ports"
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

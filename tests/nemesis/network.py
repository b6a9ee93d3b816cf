"""What connects the members: addresses for them, a way to start them, and what can be done to the
lines between them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import grpc

from tests.nemesis.proxy import CLIENT, Proxies, Weather
from tests.nemesis.sockets import Address, owner


class Network(Protocol):
    """Members are numbered from 1."""

    @property
    def can_delay(self) -> bool:
        """Besides cutting."""

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """What clients need."""

    async def add(self, member: int) -> tuple[str, str, tuple[str, ...]]:
        """The address the member listens on, the one it is known by, and settings it needs."""

    def command(self, member: int, words: list[str]) -> list[str]:
        """Words that run a member where it belongs."""

    async def set_weather(self, source: int, target: int, weather: Weather) -> None: ...

    async def reset(self, one: int, other: int) -> int:
        """Break the connections between two members; how many there were."""

    @property
    def hindered(self) -> int:
        """What members sent each other and the network held back, or dropped, so far."""

    async def heal(self) -> None: ...

    async def close(self) -> None: ...


class ProxyNetwork:
    """Loopback, with a proxy in front of every member. Needs no privilege.

    Members listen on loopback addresses of this run's own: a member that is started again finds its
    port free, as no other process here would take one there.
    """

    can_delay = True
    credentials = None

    def __init__(self, rng: random.Random, pids: Callable[[], dict[int, int]]) -> None:
        """`pids`: the members' process ids, and whose they are."""
        self._pids = pids
        run = os.getpid()
        self._hosts = f"127.{100 + run // 254 % 100}.{1 + run % 254}"
        self.proxies = Proxies(rng, self._find_source)

    async def add(self, member: int) -> tuple[str, str, tuple[str, ...]]:
        listen = f"{self._hosts}.{member}:7420"
        self.proxies.set_target(member, listen)
        return listen, await self.proxies.add(member), ()

    def command(self, member: int, words: list[str]) -> list[str]:
        return words

    async def set_weather(self, source: int, target: int, weather: Weather) -> None:
        self.proxies.link(source, target).set(weather)

    async def reset(self, one: int, other: int) -> int:
        return self.proxies.reset(one, other)

    @property
    def hindered(self) -> int:
        return self.proxies.hindered

    async def heal(self) -> None:
        self.proxies.heal()

    async def close(self) -> None:
        await self.proxies.close()

    def _find_source(self, near: Address, far: Address) -> int:
        pids = self._pids()
        found = owner(near, far, pids)
        return pids[found] if found is not None else CLIENT


class NamespaceNetwork:
    """A network namespace for each member, joined by a router that is ours; members talk mTLS,
    since they do not listen on loopback. Runs as root of a user namespace of its own: `enter`.

        member 1, 10.77.1.1 --veth-- m1 [router: here] m2 --veth-- 10.77.2.1, member 2
        a cut: a rule of the router drops, without a word, what comes from one and goes to another
    """

    can_delay = False

    def __init__(self, directory: Path) -> None:
        from tests.nemesis.certificates import Certificates

        self._certificates = Certificates(directory / "certificates")
        self.credentials = self._certificates.client()
        self._cuts: set[tuple[int, int]] = set()
        self._numbers: set[int] = set()

    async def add(self, member: int) -> tuple[str, str, tuple[str, ...]]:
        self._numbers.add(member)
        space, near, far = f"bp{member}", _router(member), _host(member)
        for words in (
            f"netns add {space}",
            f"link add m{member} type veth peer name eth0 netns {space}",
            f"addr add {near}/24 dev m{member}",
            f"link set m{member} up",
            f"-n {space} link set lo up",
            f"-n {space} addr add {far}/24 dev eth0",
            f"-n {space} link set eth0 up",
            f"-n {space} route add default via {near}",
        ):
            await ip(words)
        address = f"{far}:7420"
        return address, address, self._certificates.member(member, far)

    def command(self, member: int, words: list[str]) -> list[str]:
        return ["nsenter", f"--net=/run/netns/bp{member}", *words]

    async def set_weather(self, source: int, target: int, weather: Weather) -> None:
        key = (source, target)
        if weather.cut != (key in self._cuts):
            await self._rule("add" if weather.cut else "del", source, target)
            self._cuts ^= {key}

    async def reset(self, one: int, other: int) -> int:
        """Nothing resets here."""
        return 0

    @property
    def hindered(self) -> int:
        """Packets that came to the router, and were neither for it nor sent on."""
        with open("/proc/net/snmp", encoding="ascii") as lines:
            names, values = (line.split()[1:] for line in lines if line.startswith("Ip:"))
        counts = dict(zip(names, map(int, values), strict=True))
        return counts["InReceives"] - counts["InDelivers"] - counts["ForwDatagrams"]

    async def heal(self) -> None:
        for source, target in list(self._cuts):
            await self.set_weather(source, target, Weather())

    async def close(self) -> None:
        for member in self._numbers:
            await ip(f"netns delete bp{member}")

    async def _rule(self, verb: str, source: int, target: int) -> None:
        await ip(f"rule {verb} iif m{source} to {_host(target)} blackhole")


def _host(member: int) -> str:
    return f"10.77.{member}.1"


def _router(member: int) -> str:
    return f"10.77.{member}.254"


async def ip(words: str) -> None:
    """Run ip(8)."""
    import asyncio

    process = await asyncio.create_subprocess_exec(
        "ip", *words.split(), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 0, f"ip {words}: {said.decode()}"


ENTER = (
    "ip link set lo up && mount -t tmpfs none /run && mkdir /run/netns && "
    'echo 1 >/proc/sys/net/ipv4/ip_forward && exec "$@"'
)


def enter(words: list[str]) -> list[str]:
    """Words that run inside a user, network and mount namespace fit for a NamespaceNetwork."""
    spaces = ["--user", "--map-root-user", "--net", "--mount"]
    return ["unshare", *spaces, "--kill-child", "--fork", "sh", "-ec", ENTER, "sh", *words]

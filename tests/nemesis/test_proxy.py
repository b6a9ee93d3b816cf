"""The faulty network carries bytes as told, each direction for itself, and knows whose they are."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.nemesis.proxy import CLIENT, Proxies, Weather
from tests.nemesis.sockets import owner

CUT = Weather(cut=True)
SILENCE_S = 0.3


@dataclass
class Line:
    """Member 1 connected to member 2, which answers every line in capitals."""

    proxies: Proxies
    address: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, text: str) -> str:
        self.writer.write(text.encode() + b"\n")
        return (await self.reader.readline()).decode().strip()


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while text := await reader.readline():
            writer.write(text.upper())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    proxies = Proxies(random.Random(1), lambda *_: 1)
    address = await proxies.add(2)
    proxies.set_target(2, f"{host}:{port}")
    proxy_host, _, proxy_port = address.partition(":")
    reader, writer = await asyncio.open_connection(proxy_host, int(proxy_port))
    yield Line(proxies, address, reader, writer)
    writer.close()
    await proxies.close()
    server.close()


async def test_bytes_pass_both_ways(line: Line) -> None:
    assert await line.ask("hello") == "HELLO"
    assert (line.proxies.link(1, 2).bytes, line.proxies.link(2, 1).bytes) == (6, 6)


@pytest.mark.parametrize("cut", [(1, 2), (2, 1)])
async def test_a_cut_line_is_silent_and_keeps_what_was_sent(
    line: Line, cut: tuple[int, int]
) -> None:
    assert await line.ask("before") == "BEFORE"
    line.proxies.link(*cut).set(CUT)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(line.ask("during"), SILENCE_S)
    # One way only: what went from 1 to 2 arrived unless that way is the one that is cut.
    assert line.proxies.link(1, 2).bytes == (7 if cut == (1, 2) else 14)
    line.proxies.heal()
    assert (await line.reader.readline()).decode().strip() == "DURING"


async def test_the_end_of_a_connection_does_not_pass_a_cut_line(line: Line) -> None:
    assert await line.ask("before") == "BEFORE"
    line.proxies.link(2, 1).set(CUT)
    line.writer.write_eof()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(line.reader.read()), SILENCE_S)
    line.proxies.heal()


async def test_a_delay_delays(line: Line) -> None:
    line.proxies.link(1, 2).set(Weather(delay_s=0.1))
    line.proxies.link(2, 1).set(Weather(delay_s=0.15))
    begun = asyncio.get_running_loop().time()
    assert await line.ask("slow") == "SLOW"
    assert asyncio.get_running_loop().time() - begun >= 0.25


async def test_little_room_takes_long_and_keeps_order(line: Line) -> None:
    line.proxies.link(1, 2).set(Weather(bytes_per_s=1_000_000, jitter_s=0.01, loss=0.2))
    begun = asyncio.get_running_loop().time()
    text = "".join(chr(97 + i % 26) for i in range(60_000))
    for _ in range(5):
        assert await line.ask(text) == text.upper()
    assert asyncio.get_running_loop().time() - begun >= 0.3


async def test_a_reset_breaks_the_connection(line: Line) -> None:
    assert await line.ask("before") == "BEFORE"
    line.proxies.reset(2, 1)
    with pytest.raises(ConnectionResetError):
        await line.reader.readline()


async def test_nobody_listening_is_a_broken_connection(line: Line) -> None:
    line.proxies.set_target(2, "127.0.0.1:1")
    host, _, port = line.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def test_the_proxy_finds_out_which_process_connects() -> None:
    found: asyncio.Queue[int] = asyncio.Queue()
    pids: dict[int, int] = {}

    def find(near: tuple[str, int], far: tuple[str, int]) -> int:
        pid = owner(near, far, [*pids])
        found.put_nowait(pids[pid] if pid else CLIENT)
        return CLIENT

    proxies = Proxies(random.Random(1), find)
    host, _, port = (await proxies.add(1)).partition(":")
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))).recv(1)"
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", f"input(); {code}", host, port, stdin=asyncio.subprocess.PIPE
        )
        pids.update({child.pid: 7, os.getpid(): 8})
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        assert await asyncio.wait_for(found.get(), 30) == 7
        _, writer = await asyncio.open_connection(host, int(port))
        assert await asyncio.wait_for(found.get(), 30) == 8
        writer.close()
        del pids[os.getpid()]
        _, writer = await asyncio.open_connection(host, int(port))
        assert await asyncio.wait_for(found.get(), 30) == CLIENT
        writer.close()
    finally:
        await proxies.close()
    await child.wait()

"""The network of namespaces drops packets in the direction it was told, without a word."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nemesis.network import NamespaceNetwork, enter
from tests.nemesis.proxy import FAIR, Weather

ROOT = Path(__file__).parents[2]
LISTEN = """
import socket
listener = socket.socket(type=socket.SOCK_DGRAM)
listener.bind(("", 9))
print("listening", flush=True)
while True:
    print(listener.recv(9).decode(), flush=True)
"""
SEND = """
import socket, sys
socket.socket(type=socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), (sys.argv[1], 9))
"""


@pytest.mark.usefixtures("namespaces")
def test_a_cut_drops_one_direction_only(tmp_path: Path) -> None:
    words = enter([sys.executable, "-m", "tests.nemesis.test_namespaces", str(tmp_path)])
    finished = subprocess.run(
        words, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    # What was sent while a direction was cut is lost; the rest came, in order.
    assert finished.stdout.split() == ["1:", "a", "c", "d", "2:", "A", "B", "D"]


async def inside(directory: Path) -> None:
    network = NamespaceNetwork(directory)
    for member in (1, 2):
        await network.add(member)
    listeners = [await _start(network, member, LISTEN) for member in (1, 2)]
    for listener in listeners:
        assert listener.stdout is not None
        await listener.stdout.readline()
    cuts: list[list[tuple[int, int]]] = [[], [(2, 1)], [(1, 2)], []]
    for name, cut in zip("abcd", cuts, strict=True):
        for source, target in cut:
            await network.set_weather(source, target, Weather(cut=True))
        for source, target, text in ((1, 2, name.upper()), (2, 1, name)):
            sender = await _start(network, source, SEND, f"10.77.{target}.1", text)
            await sender.wait()
        for source, target in cut:
            await network.set_weather(source, target, FAIR)
    for number, listener in enumerate(listeners, 1):
        print(f"{number}:")
        assert listener.stdout is not None
        while (text := (await listener.stdout.readline()).decode().strip()).lower() != "d":
            print(text)
        print(text)
        listener.kill()
        await listener.wait()
    await network.close()


async def _start(
    network: NamespaceNetwork, member: int, code: str, *words: str
) -> asyncio.subprocess.Process:
    command = network.command(member, [sys.executable, "-c", code, *words])
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)


if __name__ == "__main__":
    asyncio.run(inside(Path(sys.argv[1])))

"""`bedplate demo`: it tells what happened, notices every loss and leaves nothing behind."""

import asyncio
import json
import os
import pty
import random
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console

from bedplate.api.kv.v1 import kv_pb2
from bedplate.api.object.v1 import object_pb2
from bedplate.cli.demo.daemon import DemoDaemon
from bedplate.cli.demo.stage import Stage, Wishes
from bedplate.cli.demo.storage import Ledger, Stubs, store, verify
from bedplate.cli.demo.tree import Tree, find_tree
from tests.e2e.conftest import Environment
from tests.integration.daemon import Daemon

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of many sizes, an empty one and one that needs several messages among them."""
    root = tmp_path / "tree"
    for i in range(60):
        file = root / f"folder {i % 7}" / f"naïve {i}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([i]) * (i * i * 13))
    (root / "large").write_bytes(os.urandom(3 << 20))
    return root


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def daemons_in(scratch: Path) -> list[int]:
    """Processes whose command line names the scratch directory."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(scratch).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_every_acknowledged_byte_survives_the_kill(
    tree: Path, scratch: Path, environment: Environment, seed: int
) -> None:
    finished = subprocess.run(
        ["bedplate", "--json", "demo", "--tree", str(tree), "--seed", str(seed)],
        env=environment(TMPDIR=str(scratch), DEMO_PARTS="storage"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    report = json.loads(line)
    assert report["losses"] == []
    assert report["verified"].startswith("61 objects")
    assert "SIGKILL after" in finished.stderr
    assert list(scratch.iterdir()) == []
    assert daemons_in(scratch) == []


def test_make_demo_takes_a_tree(tree: Path, scratch: Path, environment: Environment) -> None:
    finished = subprocess.run(
        ["make", "demo", f"DEMO_TREE={tree}"],
        cwd=ROOT,
        env=environment(TMPDIR=str(scratch)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "61 objects" in finished.stdout
    assert "3 daemons" in finished.stdout
    assert list(scratch.iterdir()) == []


def test_a_cluster_goes_on_when_its_leader_is_killed(
    tree: Path, scratch: Path, environment: Environment
) -> None:
    finished = subprocess.run(
        ["bedplate", "--json", "demo", "--tree", str(tree)],
        env=environment(TMPDIR=str(scratch), DEMO_PARTS="cluster"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads(finished.stdout)
    assert report["losses"] == []
    assert report["lost"] == "0"
    assert re.fullmatch(r"3 daemons, n[123] leads, after \d+\.\d\d s", report["members"])
    killed = re.fullmatch(r"(n[123]), the leader; (n[123]) leads", report["killed"])
    assert killed
    assert killed[1] != killed[2]
    assert 0 < float(report["without writes"].removesuffix(" s")) < 10
    assert report["caught up"].startswith(f"{killed[1]} in ")
    writes = re.fullmatch(r"(\d+) writes on each of 3 members", report["verified"])
    assert writes
    assert int(writes[1]) > int(report["before"].split()[0]) > 0
    told = finished.stderr.splitlines()
    assert [line.split()[0] for line in told] == [
        "cluster:",
        "SIGKILL",
        killed[2],
        "restarted",
        "checking:",
    ]
    assert told[-1].endswith("0 lost, equal: True")
    assert list(scratch.iterdir()) == []
    assert daemons_in(scratch) == []


def test_a_terminal_gets_progress_bars(tree: Path, scratch: Path, environment: Environment) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["bedplate", "demo", "--tree", str(tree)],
        env=environment(TMPDIR=str(scratch), TERM="xterm", COLUMNS="100"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = bytearray()
    while data := read_terminal(ours):
        said += data
    os.close(ours)
    assert process.wait(PATIENCE_S) == 0, said.decode()
    assert "━".encode() in said


def read_terminal(descriptor: int) -> bytes:
    """What comes next, b"" when the other side is closed."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_demo_leaves_nothing(
    tree: Path, scratch: Path, environment: Environment, number: signal.Signals
) -> None:
    with subprocess.Popen(
        ["bedplate", "demo", "--tree", str(tree)],
        env=environment(TMPDIR=str(scratch), PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("storing 61 files")
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert errors == ""
    assert list(scratch.iterdir()) == []
    assert daemons_in(scratch) == []


def test_a_tree_that_cannot_be_used_is_one_line(
    tmp_path: Path, scratch: Path, environment: Environment
) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "empty"):
        finished = subprocess.run(
            ["bedplate", "demo", "--tree", str(path)],
            env=environment(TMPDIR=str(scratch)),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert finished.returncode == 1
        assert len(finished.stderr.splitlines()) == 1
        assert list(scratch.iterdir()) == []


def test_a_tree_is_cut_at_the_limit_and_links_are_left_out(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "large")
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "x").touch()
    whole = find_tree(tree, 1 << 30)
    assert len(whole.names) == 61
    assert not whole.truncated
    part = find_tree(tree, 10_000)
    assert part.truncated
    assert part.bytes <= 10_000


class TestVerification:
    """Against a daemon whose data is tampered with: each kind of loss is seen."""

    @pytest.fixture
    async def stage(self, tmp_path: Path) -> AsyncIterator[Stage]:
        with Daemon(tmp_path) as daemon:
            demo_daemon = DemoDaemon(tmp_path)
            demo_daemon.address = daemon.grpc
            console = Console(quiet=True)
            yield Stage(
                Wishes(Tree(tmp_path, (), 0, False), 1), demo_daemon, console, random.Random(1)
            )

    async def stored(self, stubs: Stubs) -> Ledger:
        """Two files, stored as the demo does."""
        ledger = Ledger()
        await stubs.objects.CreateBucket(object_pb2.CreateBucketRequest(bucket="demo"))
        for name in ("a", "b"):
            await store(stubs, ledger, name, name.encode() * 1000)
        return ledger

    @pytest.mark.parametrize(
        ("tamper", "loss"),
        [
            ("nothing", None),
            ("delete_object", "object a: missing"),
            ("replace_object", "object a: differs"),
            ("invent_object", "object c: differs"),
            ("delete_key", "index key of a: missing"),
            ("replace_key", "index key of a: differs"),
            ("invent_key", "index key of c: invented"),
        ],
    )
    async def test_every_kind_of_loss_is_noticed(
        self, stage: Stage, tamper: str, loss: str | None
    ) -> None:
        async with stage.channel() as channel:
            stubs = Stubs(channel)
            ledger = await self.stored(stubs)
            await getattr(self, tamper)(stubs)
            losses = await verify(stage, stubs, ledger, "checking")
        assert bool(losses) == bool(loss)
        assert all(line.startswith(str(loss)) for line in losses)

    async def nothing(self, stubs: Stubs) -> None:
        await asyncio.sleep(0)

    async def delete_object(self, stubs: Stubs) -> None:
        await stubs.objects.DeleteObject(object_pb2.DeleteObjectRequest(bucket="demo", key="a"))

    async def replace_object(self, stubs: Stubs, key: str = "a") -> None:
        header = object_pb2.PutObjectHeader(bucket="demo", key=key)
        await stubs.objects.PutObject(iter([object_pb2.PutObjectRequest(header=header)]))

    async def invent_object(self, stubs: Stubs) -> None:
        await self.replace_object(stubs, "c")

    async def delete_key(self, stubs: Stubs) -> None:
        await stubs.kv.Delete(kv_pb2.DeleteRequest(key=b"index/a"))

    async def replace_key(self, stubs: Stubs, key: bytes = b"index/a") -> None:
        value = json.dumps({"size": 1, "sha256": "", "crc32c": ""}).encode()
        await stubs.kv.Put(kv_pb2.PutRequest(key=key, value=value))

    async def invent_key(self, stubs: Stubs) -> None:
        await self.replace_key(stubs, b"index/c")

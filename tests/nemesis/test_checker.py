"""The checker of histories, and the clients that record them: what a correct store does passes, and
each broken promise is found.
"""

import asyncio
import random
import subprocess
from pathlib import Path

import pytest

from tests.faults.recorder import until
from tests.nemesis.broken_store import FLAWS, BrokenStore, serve
from tests.nemesis.checker import (
    LINEARIZABLE,
    SOURCE,
    UNREADABLE,
    VIOLATION,
    Verdict,
    check,
    go_environment,
)
from tests.nemesis.clients import Load, Members, start
from tests.nemesis.groups import Groups
from tests.nemesis.history import Damaged, Recorder, pack, unpack

ANSWERS = 1500
FLAWS_SHOWN = 8  # one alone may be overwritten before anybody reads it


async def record(store: BrokenStore, path: Path) -> Recorder:
    """Let clients loose on the store until they have enough answers, and flaws enough showed."""
    server, address = await serve(store)
    members = Members()
    members.set(1, address)
    recorder = Recorder(path)
    load = Load(members, Groups(random.Random(1), 3, 3), recorder, operations_per_s=200.0)

    async def enough() -> bool:
        shown = store.flaws_shown >= FLAWS_SHOWN or not store.flaw
        return recorder.counts["ok"] >= ANSWERS and shown

    async with asyncio.TaskGroup() as tasks:
        start(load, tasks, seed=1, clients=6, ballast_bytes_per_s=0)
        await until(enough)
        load.stopped.set()
    recorder.close()
    await members.close()
    await server.stop(None)
    return recorder


async def verdict(flaw: str, checker: Path, directory: Path) -> tuple[BrokenStore, Verdict]:
    store = BrokenStore(flaw, random.Random(flaw))
    history = directory / "history.jsonl"
    await record(store, history)
    return store, await asyncio.to_thread(check, checker, history)


async def test_a_correct_store_passes(checker: Path, tmp_path: Path) -> None:
    _, said = await verdict("", checker, tmp_path)
    assert said.code == LINEARIZABLE, said.text
    assert said.summary["ok"] >= ANSWERS
    assert said.summary["ordered"] > ANSWERS / 2


@pytest.mark.parametrize("flaw", FLAWS)
async def test_a_broken_promise_is_found(checker: Path, tmp_path: Path, flaw: str) -> None:
    store, said = await verdict(flaw, checker, tmp_path)
    assert store.flaws_shown >= FLAWS_SHOWN
    assert said.code == VIOLATION, said.text


def test_the_checker_passes_its_own_tests(checker: Path) -> None:
    finished = subprocess.run(
        ["go", "test", "./..."],
        cwd=SOURCE,
        env=go_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_history_that_is_cut_off_is_refused(checker: Path, tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text('{"client": 1, "op": "pu')
    assert check(checker, history).code == UNREADABLE


@pytest.mark.parametrize("size", [1, 16, 5000])
def test_a_value_tells_its_name_and_its_damage(size: int) -> None:
    value = pack("3.17.0", size)
    assert unpack(value) == "3.17.0"
    for broken in (value[:-1], value + b"x", value[:3] + b"x" + value[4:] + value):
        with pytest.raises(Damaged):
            unpack(broken)

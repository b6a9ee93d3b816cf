"""Every promise has a test that turns red without it: mutations.toml lists them, this tries each.

A mutation replaces one piece of text in a copy of the tree, builds what changed there and runs the
named test, which must fail by its own check. The text must occur exactly once, so a mutation that
no longer fits the code is an error, not a pass.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "native" / "plain"
SECONDS_MAX = 120


@dataclass(frozen=True, slots=True)
class Mutation:
    """One entry of mutations.toml: what is promised, how it is broken, who must notice."""

    name: str
    promise: str
    file: str
    find: str
    replace: str
    test: str  # "native:PROGRAM TEST" or "pytest:NODE"


def _load() -> list[Mutation]:
    entries = tomllib.loads((ROOT / "tests" / "mutations.toml").read_text())["mutation"]
    return [Mutation(**entry) for entry in entries]


def _break(tree: Path, mutation: Mutation) -> None:
    path = tree / mutation.file
    text = path.read_text()
    count = text.count(mutation.find)
    assert count == 1, f"{mutation.file} holds the text to replace {count} times, expected once"
    path.write_text(text.replace(mutation.find, mutation.replace))


def _run(command: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


def _native(tree: Path, mutation: Mutation, test: str) -> subprocess.CompletedProcess[str]:
    """Objects that were built already come along with their times, so make compiles one file."""
    shutil.copytree(ROOT / "native", tree / "native", copy_function=shutil.copy2)
    build = tree / "build" / "native"
    shutil.copytree(BUILT, build / "plain", copy_function=shutil.copy2)
    _break(tree, mutation)
    program, _, name = test.partition(" ")
    env = os.environ | {"BP_CUT_STRIDE": os.environ.get("BP_CUT_STRIDE", "97")}
    target = build / "plain" / program
    made = _run(
        ["make", "-C", "native", "WERROR=", f"BUILD={build}", str(target)], cwd=tree, env=env
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return _run([str(target), *([name] if name else [])], cwd=tree, env=env)


def _pytest(tree: Path, mutation: Mutation, test: str) -> subprocess.CompletedProcess[str]:
    shutil.copytree(ROOT / "daemon", tree / "daemon", copy_function=shutil.copy2)
    _break(tree, mutation)
    env = os.environ | {"PYTHONPATH": str(tree / "daemon"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", test]
    return _run(command, cwd=ROOT, env=env)


@pytest.mark.parametrize("mutation", _load(), ids=lambda mutation: mutation.name)
@pytest.mark.timeout(2 * SECONDS_MAX)
def test_the_test_of_a_broken_promise_turns_red(mutation: Mutation, tmp_path: Path) -> None:
    kind, _, test = mutation.test.partition(":")
    run = {"native": _native, "pytest": _pytest}[kind]
    result = run(tmp_path, mutation, test)
    said = result.stdout + result.stderr
    assert result.returncode != 0, f"{mutation.promise}: nothing noticed\n{said}"
    # A program without such a test (2), or a node that pytest lacks (4, 5), noticed nothing.
    expected = result.returncode in (1, -6) if kind == "native" else result.returncode == 1
    assert expected, f"failed with {result.returncode}, not by its own check\n{said}"

"""A copy of the tree in which one promise is broken, and the tests that run against it.

native:PROGRAM [TEST]   make in the copy: compiled objects come along with their times, so it
                        compiles the one file and links the one program
pytest:NODE             the tests of the real tree on the copy's package; a mutation of the
                        engine is linked into the copy's extension first
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = Path("build/native/plain")
SECONDS_MAX = 120


@dataclass(frozen=True, slots=True)
class Mutation:
    """One entry of mutations.toml: what is promised, how it is broken, who must notice and who
    cannot.
    """

    name: str
    promise: str
    file: str
    find: str
    replace: str
    test: str
    blind: str = ""

    @property
    def is_native(self) -> bool:
        return self.file.startswith("native/")


@dataclass(frozen=True, slots=True)
class Ended:
    """A test run: what it said, and whether its tests passed or failed by their own checks."""

    said: str
    passed: bool
    failed: bool


def run(mutation: Mutation, test: str, tree: Path) -> Ended:
    """Run a test with the promise broken, in an empty directory. Raises AssertionError when the
    mutation does not fit the code or the code does not compile any more.
    """
    kind, _, name = test.partition(":")
    return {"native": _native, "pytest": _pytest}[kind](mutation, name, tree)


def _native(mutation: Mutation, test: str, tree: Path) -> Ended:
    _copy_engine(tree)
    _break(tree, mutation)
    program, _, name = test.partition(" ")
    target = tree / BUILT / program
    # By the name that the lists of included headers have: else a broken header changes nothing.
    _make(["make", "-C", "native", "WERROR=", str(Path("..") / BUILT / program)], tree)
    stride = {"BP_CUT_STRIDE": os.environ.get("BP_CUT_STRIDE", "97")}
    ended = _run([str(target), *([name] if name else [])], tree, stride)
    # 2: there is no such test.
    return Ended(ended.stdout + ended.stderr, ended.returncode == 0, ended.returncode in (1, -6))


def _pytest(mutation: Mutation, test: str, tree: Path) -> Ended:
    shutil.copytree(ROOT / "daemon", tree / "daemon", ignore=shutil.ignore_patterns("__pycache__"))
    if mutation.is_native:
        _copy_engine(tree)
        _copy_extension(tree)
    _break(tree, mutation)
    if mutation.is_native:
        _make([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], tree)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "pytest_asyncio.plugin"]
    command += ["-p", "pytest_timeout", "-o", f"cache_dir={tree / 'cache'}"]
    command += [f"--basetemp={tree / 'tmp'}", test]
    env = {
        "PYTHONPATH": str(tree / "daemon"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "BEDPLATE_KILL_ROUNDS": "5",
    }
    ended = _run(command, ROOT, env)
    # 4 and 5: pytest has no such test.
    return Ended(ended.stdout + ended.stderr, ended.returncode == 0, ended.returncode == 1)


def _copy_engine(tree: Path) -> None:
    """Sources, and what was built of them with its times; not the programs, which are large."""
    shutil.copytree(ROOT / "native", tree / "native", ignore=shutil.ignore_patterns("corpus"))
    for name in ("src", "tests"):
        shutil.copytree(ROOT / BUILT / name, tree / BUILT / name)
    for name in ("libbedplate.a", "sources"):
        shutil.copy2(ROOT / BUILT / name, tree / BUILT / name)


def _copy_extension(tree: Path) -> None:
    """What setup.py needs to link the extension again without compiling its glue."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tree / name)
    for built in (ROOT / "build").glob("temp.*"):
        shutil.copytree(built, tree / "build" / built.name)


def _break(tree: Path, mutation: Mutation) -> None:
    path = tree / mutation.file
    text = path.read_text()
    count = text.count(mutation.find)
    assert count == 1, f"{mutation.file} holds the text to replace {count} times, expected once"
    path.write_text(text.replace(mutation.find, mutation.replace))


def _make(command: list[str], tree: Path) -> None:
    made = _run(command, tree, {"WERROR": "", "JOBS": "1"})
    assert made.returncode == 0, made.stdout + made.stderr


def _run(
    command: list[str], cwd: Path, more: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**env, **more},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )

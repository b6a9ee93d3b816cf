"""The history checker: built by Go from checker/, run on a history."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "checker"
CACHE = Path.home() / ".cache" / "bedplate"
LINEARIZABLE, VIOLATION, UNREADABLE, UNDECIDED = 0, 1, 2, 3


class NoGo(Exception):
    """Go is not installed, so there is no checker."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker said. `summary` counts operations by outcome, groups, violations."""

    code: int
    text: str
    summary: dict[str, float]


def build() -> Path:
    """The checker's program, made again if its source changed. Raises NoGo."""
    if shutil.which("go") is None:
        raise NoGo("the history checker needs go")
    program = CACHE / "bin" / "history-checker"
    program.parent.mkdir(parents=True, exist_ok=True)
    words = ["go", "build", "-o", str(program), "."]
    subprocess.run(words, cwd=SOURCE, env=go_environment(), check=True)
    return program


def go_environment() -> dict[str, str]:
    """Ours, with the modules where the Makefile has them."""
    return {"GOMODCACHE": str(CACHE / "go" / "mod"), **os.environ}


def check(program: Path, history: Path, timeout_s: float = 60.0) -> Verdict:
    """Decide about a history. A picture of what fails is drawn beside it."""
    picture = history.with_suffix(".html")
    words = [str(program), "-timeout", f"{timeout_s:g}s", "-visualize", str(picture), str(history)]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = finished.stdout.strip().splitlines()
    summary = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return Verdict(finished.returncode, finished.stdout + finished.stderr, summary)

"""Programs: one run to its end, or a server for as long as a block lasts. Always stopped by pid."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]
RUN_SECONDS_MAX = 180.0
START_SECONDS_MAX = 30.0


class BenchError(Exception):
    """A measurement that could not be made, or whose check failed; one sentence."""


@dataclass(slots=True)
class Journal:
    """The command lines that were run, each once; names and ports made up for a run left out."""

    scratch: Path
    commands: dict[str, None] = field(default_factory=dict)

    def note(self, argv: Sequence[str]) -> None:
        """Remember a command line for the results."""
        home = str(Path.home())
        line = shlex.join([Path(argv[0]).name, *argv[1:]])
        line = line.replace(str(self.scratch), "$SCRATCH").replace(home, "~")
        line = re.sub(r"object-\d+", "object-N", line)
        line = re.sub(r"(127\.0\.0\.1:|-p |--port )[1-9]\d*", r"\1PORT", line)
        self.commands[line] = None


def run_text(argv: Sequence[str], journal: Journal, *, cwd: Path | None = None) -> str:
    """Run to the end; stdout and stderr. Raises BenchError unless it exits with 0."""
    journal.note(argv)
    try:
        finished = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=RUN_SECONDS_MAX,
            cwd=cwd,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{argv[0]}: {error}") from error
    if finished.returncode != 0:
        lines = finished.stdout.strip().splitlines()
        name = Path(argv[0]).name
        raise BenchError(f"{name} gave {finished.returncode}: {lines[-1] if lines else ''}")
    return finished.stdout


def run_records(argv: Sequence[str], journal: Journal) -> list[Record]:
    """Run one of our own programs; its JSON lines. Raises BenchError."""
    lines = [line for line in run_text(argv, journal).splitlines() if line.startswith("{")]
    if not lines:
        raise BenchError(f"{Path(argv[0]).name} printed no result")
    return [json.loads(line) for line in lines]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def server(
    argv: Sequence[str], journal: Journal, log: Path, ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start, wait until `ready` says so, and stop at the end. Raises BenchError."""
    journal.note(argv)
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_ready(process, argv, ready, log)
        yield process
    finally:
        _stop(process)


def _wait_ready(
    process: subprocess.Popen[bytes], argv: Sequence[str], ready: Callable[[], bool], log: Path
) -> None:
    until = time.monotonic() + START_SECONDS_MAX
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            name = Path(str(argv[0])).name
            raise BenchError(f"{name} did not start: {lines[-1] if lines else 'it said nothing'}")
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def accepts(port: int) -> bool:
    """Whether someone listens on the port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def peak_resident_bytes(pid: int) -> int:
    """VmHWM since the process began, or since `reset_peak_resident`."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"process {pid} has no VmHWM")


def reset_peak_resident(pid: int) -> None:
    """Let VmHWM count from now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

"""Why a goal was missed: where the CPU time of a command or a server went, for the result file."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.setting import Setting

SYMBOLS = 18
SECONDS_MAX = 60.0


def profile_command(setting: Setting, argv: Sequence[str]) -> str:
    """The command once more under perf: its own result line, and its costliest functions."""
    perf = shutil.which("perf")
    if perf is None:
        return _times_of(argv)
    data = setting.scratch / "perf.data"
    setting.say("profile: " + " ".join(argv[1:3]))
    output = _run([*_record(perf, data), *argv], setting.scratch)
    return _text(output, _symbols(perf, data, setting.scratch))


def profile_server(setting: Setting, pid: int, work: Callable[[], object]) -> str:
    """The server's CPU while `work` runs: by thread, and by function where there is perf."""
    setting.say(f"profile: process {pid}")
    perf = shutil.which("perf")
    data = setting.scratch / "perf.data"
    before, began = _threads(pid), time.monotonic()
    if perf is None:
        work()
        symbols = ""
    else:
        command = [
            perf,
            "record",
            "-q",
            "-F",
            "997",
            "-e",
            "cpu-clock",
            "-p",
            str(pid),
            "-o",
            str(data),
        ]
        recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stopper = threading.Timer(SECONDS_MAX, recorder.terminate)
        stopper.start()
        try:
            work()
        finally:
            stopper.cancel()
            recorder.terminate()
            recorder.wait()
        symbols = _symbols(perf, data, setting.scratch)
    elapsed = time.monotonic() - began
    after = _threads(pid)
    busy = {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}
    lines = [
        f"{name} ({thread}): {100 * busy[(thread, name)] / elapsed:.0f} % of a core"
        for thread, name in sorted(busy, key=lambda key: -busy[key])
        if busy[(thread, name)] / elapsed > 0.01
    ]
    return _text("\n".join(lines), symbols)


def _record(perf: str, data: Path) -> list[str]:
    """The clock as event: it is there also where the counters of the CPU are not."""
    return [perf, "record", "-q", "-F", "997", "-e", "cpu-clock", "-o", str(data)]


def _threads(pid: int) -> dict[tuple[int, str], float]:
    """CPU seconds of every thread."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name, _, rest = (
            (task / "stat").read_text(encoding="utf-8").partition("(")[2].rpartition(")")
        )
        fields = rest.split()
        ticks = int(fields[11]) + int(fields[12])
        found[(int(task.name), name)] = ticks / os.sysconf("SC_CLK_TCK")
    return found


def _symbols(perf: str, data: Path, cwd: Path) -> str:
    command = [
        perf,
        "report",
        "-i",
        str(data),
        "--stdio",
        "--no-children",
        "-g",
        "none",
        "--sort",
        "dso,symbol",
    ]
    lines = [line.rstrip() for line in _run(command, cwd).splitlines()]
    kept = [
        line for line in lines if line.strip() and not line.lstrip().startswith("#") and "%" in line
    ]
    return "\n".join(kept[:SYMBOLS])


def _times_of(argv: Sequence[str]) -> str:
    before = os.times()
    output = _run(list(argv), Path.cwd())
    after = os.times()
    user = after.children_user - before.children_user
    system = after.children_system - before.children_system
    elapsed = after.elapsed - before.elapsed
    times = f"{user:.2f} s user, {system:.2f} s system, {elapsed:.2f} s in all"
    return _text(output, f"no perf here; {times}")


def _run(command: list[str], cwd: Path) -> str:
    try:
        finished = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS_MAX,
            cwd=cwd,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return finished.stdout.strip()


def _text(*parts: str) -> str:
    body = "\n\n".join(part for part in parts if part)
    return f"```\n{body}\n```"

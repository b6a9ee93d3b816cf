"""The machine line: what the figures were measured on."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path


def describe(scratch: Path) -> dict[str, str]:
    """CPU, memory, kernel, file system of the scratch directory, load and date."""
    load = " ".join(f"{average:.2f}" for average in os.getloadavg())
    return {
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{_memory_gib():.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(scratch),
        "python": platform.python_version(),
        "load before": load,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def _file_system(scratch: Path) -> str:
    finished = subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", "--target", str(scratch)],
        capture_output=True,
        text=True,
        check=False,
    )
    return " ".join(finished.stdout.split()) or "unknown"

"""The history of a run, as checker/history.go reads it: one JSON object an operation.

Every value is unique: its beginning names the operation that wrote it, and the rest can be computed
from the beginning, so that a damaged or mixed-up value is noticed where it is read.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"


@dataclass(frozen=True, slots=True)
class Write:
    """A put, or with None a delete."""

    key: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds when the key has this mod_revision; 0: it is not there."""

    key: str
    expected: int


@dataclass(frozen=True, slots=True)
class Found:
    """A key as a read saw it."""

    key: str
    value: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Result:
    """What an operation returned."""

    revision: int = 0
    deleted: int = 0
    succeeded: bool = False
    found: tuple[Found, ...] = ()


@dataclass(slots=True)
class Operation:
    """One request with all its retries. Times are nanoseconds of one monotonic clock."""

    client: int
    op: str
    group: str
    key: str = ""
    compares: tuple[Compare, ...] = ()
    writes: tuple[Write, ...] = ()
    serializable: bool = False
    member: int = 0
    outcome: str = UNKNOWN
    call: int = 0
    end: int = 0
    result: Result = field(default_factory=Result)

    @property
    def is_write(self) -> bool:
        return self.op not in ("get", "scan")


class Recorder:
    """Writes operations to a file as they end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, int] = {OK: 0, FAILED: 0, UNKNOWN: 0}
        self._file = path.open("w", encoding="utf-8")

    def add(self, operation: Operation) -> None:
        self.counts[operation.outcome] += 1
        record: dict[str, Any] = asdict(operation)
        record["return"] = record.pop("end")
        self._file.write(json.dumps(record, separators=(",", ":")) + "\n")

    def close(self) -> None:
        self._file.close()


def now() -> int:
    """Nanoseconds of the clock of all histories."""
    return time.monotonic_ns()


class Damaged(Exception):
    """A value that is not as it was written."""


def pack(name: str, size: int) -> bytes:
    """A value of about `size` bytes that begins with its name."""
    unit = name.encode() + b"|"
    return unit * max(1, size // len(unit))


def unpack(value: bytes) -> str:
    """The name in a value. Raises Damaged."""
    unit, bar, _ = value.partition(b"|")
    unit += bar
    count, rest = divmod(len(value), len(unit)) if unit else (0, 1)
    if not bar or rest or unit * count != value:
        raise Damaged(f"{len(value)} bytes beginning with {value[:40]!r}")
    return unit[:-1].decode()

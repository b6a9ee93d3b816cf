"""RocksDB through db_bench: durable puts, cached point reads and scans, opening after a kill."""

import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.process import BenchError, Journal, run_text
from bench.setting import Setting, find, remove

CACHE_BYTES = 2 << 30  # more than the data ever is
MEMTABLE_BYTES = 4 << 30  # never flushed: everything stays in the WAL
_SPEED = re.compile(r"^(\w+)\s+:\s+[\d.]+ micros/op (\d+) ops/sec", re.MULTILINE)
_OPEN = re.compile(r"OpenDb:\s+([\d.]+) milliseconds")


@dataclass(frozen=True, slots=True)
class RocksDB:
    """db_bench on directories below the scratch directory."""

    setting: Setting
    program: str

    @classmethod
    def find(cls, setting: Setting) -> "RocksDB":
        return cls(setting, find("db_bench"))

    def version(self) -> str:
        text = run_text([self.program, "--version"], Journal(self.setting.scratch))
        return text.strip().splitlines()[0]

    def durable_put(self, threads: int, seconds: float, *options: str) -> float:
        """Puts a second; every one waits for its sync."""
        database = self.setting.scratch / "rocksdb-put"
        remove(database)
        output = self._run(
            database,
            "fillrandom",
            f"--num={self.setting.keys}",
            "--sync=1",
            f"--threads={threads}",
            f"--duration={max(1, round(seconds))}",
            *options,
        )
        remove(database)
        return _speed(output, "fillrandom")

    def fill_sorted(self, database: Path) -> None:
        """Every key once, compacted: nothing for reads to step over."""
        remove(database)
        self._run(database, "fillseq,compact", f"--num={self.setting.keys}")

    def read_random(
        self, database: Path, threads: int, seconds: float, *options: str, cache: bool = True
    ) -> float:
        """Point reads a second; from a block cache that holds all data and was filled before, or
        with the cache it has by default.
        """
        return self._read(database, "readrandom", threads, seconds, *options, cache=cache)

    def scan(self, database: Path, threads: int, seconds: float, keys: int) -> float:
        """Scans of so many keys a second, from the full cache."""
        return self._read(database, "seekrandom", threads, seconds, f"--seek_nexts={keys}")

    def _read(
        self,
        database: Path,
        work: str,
        threads: int,
        seconds: float,
        *options: str,
        cache: bool = True,
    ) -> float:
        output = self._run(
            database,
            f"readtocache,{work}" if cache else work,
            f"--num={self.setting.keys}",
            f"--threads={threads}",
            f"--duration={max(1, round(seconds))}",
            "--use_existing_db=1",
            *([f"--cache_size={CACHE_BYTES}"] if cache else []),
            *options,
        )
        return _speed(output, work)

    def fill_and_kill(self, database: Path) -> None:
        """Every key once in random order, all in the WAL, then SIGKILL while it goes on reading."""
        remove(database)
        argv = self._argv(
            database,
            "filluniquerandom,readrandom",
            f"--num={self.setting.keys}",
            "--reads=1000000000",
            f"--write_buffer_size={MEMTABLE_BYTES}",
        )
        self.setting.journal.note([*argv, "(killed with SIGKILL while it reads)"])
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert process.stdout is not None
            if not any(line.startswith("filluniquerandom") for line in process.stdout):
                raise BenchError("db_bench ended before it was killed")
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()

    def open_ms(self, database: Path, copy_from: Path | None = None) -> float:
        """Time to open; on a fresh copy when `copy_from` is given, because opening replays the WAL
        into tables and leaves another database behind.
        """
        if copy_from is not None:
            remove(database)
            shutil.copytree(copy_from, database)
        output = self._run(
            database,
            "readrandom",
            f"--num={self.setting.keys}",
            "--reads=1",
            "--use_existing_db=1",
            "--report_open_timing=true",
            f"--write_buffer_size={MEMTABLE_BYTES}",
        )
        return float(_found(_OPEN, output))

    def _argv(self, database: Path, benchmarks: str, *options: str) -> list[str]:
        return [
            self.program,
            f"--benchmarks={benchmarks}",
            f"--db={database}",
            "--key_size=16",
            "--value_size=256",
            "--compression_type=none",
            "--seed=1",
            *options,
        ]

    def _run(self, database: Path, benchmarks: str, *options: str) -> str:
        return run_text(self._argv(database, benchmarks, *options), self.setting.journal)


def _speed(output: str, work: str) -> float:
    speeds = {match[1]: float(match[2]) for match in _SPEED.finditer(output)}
    if work not in speeds:
        raise BenchError(f"db_bench printed no speed for {work}: {output[-300:]}")
    return speeds[work]


def _found(pattern: re.Pattern[str], output: str) -> str:
    match = pattern.search(output)
    if match is None:
        raise BenchError(f"db_bench printed nothing like {pattern.pattern}: {output[-300:]}")
    return match[1]

"""`make bench BENCH_ARGS="..."`: every measurement of the table, and the result file.

    engine    put  latency  async  reads  recovery  memory  checksum     bedplate-bench, db_bench
    network   batches  unary  objects                                    bedplated, etcd, Redis, dd

All data lies in one scratch directory, which is removed at the end, also after Ctrl-C and
SIGTERM. Exit code 0: everything was measured, whether or not it met its goal; 1: something was
not; 2: usage, or the load generator cannot be built.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from bench import machine, network, objects, reads, servers, writes
from bench.process import BenchError, Journal, run_text
from bench.report import Report, Row, failed, table
from bench.rocksdb import RocksDB
from bench.setting import OUR_PROGRAMS, ROOT, Setting

Work = Callable[[Setting], list[Row]]

WORKS: dict[str, Work] = {
    "put": writes.durable_put,
    "latency": writes.put_latency,
    "async": writes.async_batches,
    "reads": reads.reads,
    "recovery": reads.recovery,
    "memory": reads.memory,
    "checksum": reads.checksum,
    "batches": network.batches,
    "unary": network.unary,
    "objects": objects.objects,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run_text(["make", "--no-print-directory", "-C", str(ROOT / "bench")], Journal(ROOT))
    except BenchError as error:
        print(f"cannot build bench/load ({error}); see tests/install-debian", file=sys.stderr)
        return 2
    options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bedplate-bench-", dir=options.scratch) as scratch:
        return _run(options, Path(scratch))


def _run(options: argparse.Namespace, scratch: Path) -> int:
    started = time.monotonic()
    journal = Journal(scratch)
    setting = Setting(
        scratch=scratch,
        journal=journal,
        rounds=2 if options.quick else options.rounds,
        pairs=3 if options.quick else options.pairs,
        seconds=1.0 if options.quick else options.seconds,
        keys=50_000 if options.quick else options.keys,
        object_bytes=(64 << 20) if options.quick else options.object_mib << 20,
        deadline=started + options.budget,
        started=started,
    )
    report = Report(machine.describe(scratch), _versions(setting), journal, options.output)
    broken = 0
    for name in options.only or WORKS:
        try:
            rows = WORKS[name](setting)
        except BenchError as error:
            broken += 1
            setting.say(f"{name}: {error}")
            rows = [failed(name, str(error))]
        report.add(rows, time.monotonic() - started)
        _empty(scratch)
    print("\n".join(table(report.rows)))
    for row in report.missed():
        print(f"missed: {row.work}: {row.ours} {row.ratio} {row.goal}", file=sys.stderr)
    print(f"written to {options.output.with_suffix('.md')}", file=sys.stderr)
    return 1 if broken else 0


def _versions(setting: Setting) -> dict[str, str]:
    """Of everything measured; what is missing is said here and fails its rows."""
    readers: dict[str, Callable[[], str]] = {
        "bedplate-bench": lambda: run_text(
            [str(OUR_PROGRAMS / "bedplate-bench"), "--version"], Journal(setting.scratch)
        ).strip(),
        "RocksDB": lambda: RocksDB.find(setting).version(),
        "etcd": lambda: ", ".join(servers.etcd_programs()),
        "Redis": servers.redis_version,
        "source": _revision,
    }
    found = {}
    for name, read in readers.items():
        try:
            found[name] = read()
        except BenchError as error:
            found[name] = str(error)
    return found


def _revision() -> str:
    """The commit, and whether the tree differs from it."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    finished = subprocess.run(git, capture_output=True, text=True, check=False)
    return finished.stdout.strip() or "not a git checkout"


def _empty(scratch: Path) -> None:
    """Nothing of one work slows the next: no files, nothing left to write."""
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    os.sync()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that every block stops its server and removes its files


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench", description="Measure Bedplate beside other systems."
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=WORKS, help="these works alone")
    add("--quick", action="store_true", help="small and short: does it all run?")
    add("--rounds", type=int, default=5, help="of each comparison with a goal (5)")
    add("--pairs", type=int, default=11, help="of a put and a raw write (11)")
    add("--seconds", type=float, default=2.0, help="of one measured part (2)")
    add("--keys", type=int, default=1_000_000, help="keys in the stores (1000000)")
    add("--object-mib", type=int, default=1024, help="size of the object (1024)")
    add("--budget", type=float, default=780.0, help="seconds; then comparisons stop early (780)")
    data, results = ROOT / "build" / "bench-data", ROOT / "bench" / "results" / "storage"
    add("--scratch", type=Path, default=data, help="where data goes (build/bench-data)")
    add("--output", type=Path, default=results, help="result files (bench/results/storage)")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

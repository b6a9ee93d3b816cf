"""`make bench-cluster BENCH_ARGS="..."`: three nodes of ours beside three of etcd.

    speed      batches  unary      and Raft's own cost under each
    failover   kill  stop          how long writes stop
    recovery   restart  snapshot   members that come back or are new, under load
    calm       elections           whether a leader is given up without need

Exit codes as of bench.run. All works take about 25 minutes; ten minutes of it look for elections
that nothing called for.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from bench import cluster_failover, cluster_recovery, cluster_speed, machine, servers
from bench.process import BenchError, Journal, run_text
from bench.report import Report, Row, failed, table
from bench.setting import ROOT, Setting

Work = Callable[[Setting], list[Row]]

WORKS: dict[str, Work] = {
    "batches": cluster_speed.batches,
    "unary": cluster_speed.unary,
    "kill": cluster_failover.kill,
    "stop": cluster_failover.stop,
    "restart": cluster_recovery.restart,
    "snapshot": cluster_recovery.snapshot,
    "elections": cluster_failover.elections,
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
    with tempfile.TemporaryDirectory(prefix="bedplate-cluster-", dir=options.scratch) as scratch:
        return _run(options, Path(scratch))


def _run(options: argparse.Namespace, scratch: Path) -> int:
    started, quick = time.monotonic(), options.quick
    setting = Setting(
        scratch=scratch,
        journal=Journal(scratch),
        rounds=2 if quick else options.rounds,
        pairs=1,
        seconds=1.0 if quick else options.seconds,
        keys=50_000 if quick else options.keys,
        object_bytes=(64 << 20) if quick else options.snapshot_mib << 20,
        deadline=started + options.budget,
        started=started,
    )
    report = Report(
        machine.describe(scratch),
        _versions(),
        setting.journal,
        options.output,
        title="Cluster benchmarks",
        command="make bench-cluster",
    )
    broken = 0
    for name in options.only or WORKS:
        try:
            rows = WORKS[name](setting)
        except BenchError as error:
            broken += 1
            setting.say(f"{name}: {error}")
            rows = [failed(name, str(error))]
        report.add(rows, time.monotonic() - started)
        for directory in scratch.iterdir():
            shutil.rmtree(directory, ignore_errors=True)
        os.sync()
    print("\n".join(table(report.rows)))
    for row in report.missed():
        print(f"missed: {row.work}: {row.ours} {row.ratio} {row.goal}", file=sys.stderr)
    print(f"written to {options.output.with_suffix('.md')}", file=sys.stderr)
    return 1 if broken else 0


def _versions() -> dict[str, str]:
    try:
        return {"etcd": ", ".join(servers.etcd_programs())}
    except BenchError as error:
        return {"etcd": str(error)}


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that every block stops its servers and removes their files


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench-cluster", description="Measure a cluster of Bedplate beside etcd's."
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=WORKS, help="these works alone")
    add("--quick", action="store_true", help="small and short: does it all run?")
    add("--rounds", type=int, default=5, help="of each comparison with a goal (5)")
    add("--seconds", type=float, default=4.0, help="of one measured part (4)")
    add("--keys", type=int, default=1_000_000, help="keys in the stores (1000000)")
    add("--snapshot-mib", type=int, default=1024, help="size of the snapshot (1024)")
    add("--budget", type=float, default=3600.0, help="seconds; then comparisons stop early (3600)")
    data, results = ROOT / "build" / "bench-data", ROOT / "bench" / "results" / "cluster"
    add("--scratch", type=Path, default=data, help="where data goes (build/bench-data)")
    add("--output", type=Path, default=results, help="result files (bench/results/cluster)")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

"""What cleaning costs a client: the p99 of puts on a quiet store, under an overwrite storm, and
while that storm is cleaned up.

    python -m bench.storm [--seconds 10] [--scratch DIR]

    quiet      a few threads put small values, each waiting for its own sync; nothing else happens
    control    the same puts beside a writer that overwrites large values; nothing is cleaned
    cleaning   the same again, with history and checkpoints so short that segments are cleaned all
               the time

Each row is the median over rounds of quiet, control, cleaning in turn, on one directory each. The
goal: cleaning's p99 <= 5x quiet's. The engine runs in this process (bp_call_wire lets go of
Python's lock while it works); Python's share is in all three rows.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bedplate._native import ffi, lib
from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.native.errors import check
from bedplate.native.options import Options
from bedplate.native.store import Keyspace, Method, NativeStore
from bench.machine import describe
from bench.stats import Spread, short

MIB = 1 << 20
PUTTERS, VALUE = 4, 256
STORM_KEYS, STORM_VALUE, STORM_BATCH = 2000, 16_000, 20
GOAL = 5.0


@dataclass(slots=True)
class Part:
    """One measured part of one round."""

    latencies_ns: list[int] = field(default_factory=list)
    cleaned_bytes: int = 0
    cleaned_segments: int = 0

    @property
    def p99_ms(self) -> float:
        ordered = sorted(self.latencies_ns)
        return ordered[len(ordered) * 99 // 100] / 1e6


def call(store: NativeStore, method: Method, request: bytes) -> None:
    reply, error = ffi.new("struct bp_reply *"), ffi.new("struct bp_error *")
    code = lib.bp_call_wire(
        store.pointer, method, Keyspace.USER, request, len(request), reply, error
    )
    lib.bp_reply_free(reply)
    check(code, error)


def put_until(store: NativeStore, number: int, stop: threading.Event, into: list[int]) -> None:
    rng = random.Random(number)
    value = rng.randbytes(VALUE)
    while not stop.is_set():
        key = b"put/%d/%06d" % (number, rng.randrange(10_000))
        request = pb.PutRequest(key=key, value=value).SerializeToString()
        began = time.perf_counter_ns()
        call(store, Method.PUT, request)
        into.append(time.perf_counter_ns() - began)


def storm_until(store: NativeStore, stop: threading.Event) -> None:
    rng = random.Random(1)
    value = rng.randbytes(STORM_VALUE)
    while not stop.is_set():
        keys = rng.sample(range(STORM_KEYS), STORM_BATCH)
        ops = [pb.BatchOp(put=pb.PutOp(key=b"storm/%06d" % key, value=value)) for key in keys]
        call(store, Method.BATCH, pb.BatchRequest(ops=ops).SerializeToString())


@contextmanager
def opened(directory: Path, *, cleaning: bool) -> Iterator[NativeStore]:
    options = Options(
        dir=str(directory),
        segment_size=16 * MIB,
        checkpoint_bytes=32 * MIB if cleaning else 1 << 40,
        history_ms_max=500 if cleaning else 0,
        disk_reserve=16 * MIB,
    )
    store = NativeStore.open(options)
    try:
        yield store
    finally:
        store.close()


def measure(directory: Path, seconds: float, *, storm: bool, cleaning: bool) -> Part:
    """Puts for so many seconds; the storm has been raging for a while when the clock starts."""
    with opened(directory, cleaning=cleaning) as store:
        warm, stop = threading.Event(), threading.Event()
        latencies: list[list[int]] = [[] for _ in range(PUTTERS)]
        works: list[Callable[[], None]] = [
            lambda i=i: put_until(store, i, stop, latencies[i])  # type: ignore[misc]
            for i in range(PUTTERS)
        ]
        if storm:
            works.append(lambda: storm_until(store, stop))
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        warm.wait(seconds / 2)
        skipped, before = [len(each) for each in latencies], store.status()
        warm.wait(seconds)
        after, taken = store.status(), [list(each) for each in latencies]
        stop.set()
        for thread in threads:
            thread.join()
    measured = [ns for each, skip in zip(taken, skipped, strict=True) for ns in each[skip:]]
    return Part(
        measured,
        after.cleaned_bytes - before.cleaned_bytes,
        after.cleaned_segments - before.cleaned_segments,
    )


PARTS = {
    "quiet": {"storm": False, "cleaning": False},
    "control": {"storm": True, "cleaning": False},
    "cleaning": {"storm": True, "cleaning": True},
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.storm", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measured part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=None, help="where data goes, for a while")
    parser.add_argument("--output", type=Path, default=None, help="a file to keep the table in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        machine = describe(scratch)
        results: dict[str, list[Part]] = {part: [] for part in PARTS}
        for number in range(options.rounds):
            for part, how in PARTS.items():
                print(f"round {number + 1}: {part}", file=sys.stderr, flush=True)
                directory = scratch / f"{part}{number}"
                results[part].append(measure(directory, options.seconds, **how))
    ratio = ratio_of(results["cleaning"], results["quiet"]).median
    text = report(machine, results, options.seconds)
    text += f"\ngoal: cleaning <= {GOAL:g} x quiet: {'met' if ratio <= GOAL else 'MISSED'}\n"
    print(text, end="")
    if options.output:
        options.output.write_text(f"# Puts beside an overwrite storm\n\n{text}", encoding="utf-8")
    return 0 if ratio <= GOAL else 1


def report(machine: Mapping[str, str], results: Mapping[str, list[Part]], seconds: float) -> str:
    lines = [f"* {name}: {value}" for name, value in machine.items()]
    lines += [
        f"* {PUTTERS} putters of {VALUE} B; storm: {STORM_BATCH} x {STORM_VALUE} B a batch",
        f"* `python -m bench.storm`, {seconds:g} s a part",
        "",
        "| part | put p99 | of quiet | puts/s | cleaned segments | copied MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [row(part, parts, results["quiet"], seconds) for part, parts in results.items()]
    return "\n".join(lines) + "\n"


def ratio_of(parts: list[Part], quiet: list[Part]) -> Spread:
    return Spread.of_ratios([part.p99_ms for part in parts], [part.p99_ms for part in quiet])


def row(name: str, parts: list[Part], quiet: list[Part], seconds: float) -> str:
    p99 = Spread.of([part.p99_ms for part in parts])
    rate = Spread.of([len(part.latencies_ns) / seconds for part in parts])
    segments = sum(part.cleaned_segments for part in parts)
    copied = sum(part.cleaned_bytes for part in parts) / MIB
    cells = (name, p99.text("ms"), ratio_of(parts, quiet).text("x"), rate.text(), segments)
    return "| " + " | ".join(map(str, cells)) + f" | {short(copied)} |"


if __name__ == "__main__":
    sys.exit(main())

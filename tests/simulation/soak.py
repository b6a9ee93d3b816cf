"""Runs seeds: one, to look at it, or many, on all cores.

    python -m tests.simulation.soak --seed 1234 [--trace]
    python -m tests.simulation.soak --seeds 10000 [--from 5000] [--jobs 2]

With --engine on the engine that ships, else on the model store. Ends with 1 after a seed that
failed, or a kind of seed that never met what it is for.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from os import cpu_count

from tests.simulation.engine_world import EngineParts
from tests.simulation.history import Violation
from tests.simulation.kinds import ENGINE_KINDS
from tests.simulation.world import Parts, Result, run

# Without these a run has shown nothing.
REQUIRED = ("crashes", "lost_writes", "lost_sectors", "elections", "answered", "unknown")
SHOWS = {kind.name: kind.shows for kind in ENGINE_KINDS}
FAILURES_MAX = 20


class Tally:
    """What the seeds of each kind met."""

    def __init__(self) -> None:
        self.seeds: Counter[str] = Counter()
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, result: Result) -> None:
        self.seeds[result.kind] += 1
        self.counts[result.kind].update(result.counts)

    def missing(self) -> list[str]:
        """What kinds that were run never met. A first leader is no re-election."""
        found = []
        for kind, seeds in self.seeds.items():
            counts = self.counts[kind]
            required = (*REQUIRED, *SHOWS[kind])
            found += [f"{kind}: no {what}" for what in required if counts[what] == 0]
            if counts["elections"] <= seeds:
                found.append(f"{kind}: no re-election")
        return found

    def table(self) -> Iterable[str]:
        columns = [*REQUIRED, "snapshots", "promote", "flips", "replaced", "filled"]
        yield f"{'kind':12}{'seeds':>8}" + "".join(f"{name:>14}" for name in columns)
        for kind, seeds in self.seeds.items():
            numbers = "".join(f"{self.counts[kind][name]:>14}" for name in columns)
            yield f"{kind:12}{seeds:>8}{numbers}"


def parts_of(engine: bool) -> Parts:
    return EngineParts() if engine else Parts()


def attempt(engine: bool, seed: int) -> Result | str:
    """What a seed saw, or what went wrong."""
    try:
        return run(seed, parts=parts_of(engine))
    except Violation as violation:
        return str(violation)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="this one alone, in this process")
    parser.add_argument("--engine", action="store_true", help="on the engine, not the model")
    parser.add_argument("--trace", action="store_true", help="with --seed: what happened")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--jobs", type=int, default=cpu_count() or 1)
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return one(options.seed, engine=options.engine, trace=options.trace)
    seeds = range(options.first, options.first + options.seeds)
    return many(seeds, options.jobs, engine=options.engine)


def one(seed: int, *, engine: bool, trace: bool) -> int:
    try:
        result = run(seed, parts=parts_of(engine), trace=trace)
    except Violation as violation:
        print(violation)
        return 1
    print("\n".join(result.trace))
    print(f"seed {seed} ({result.kind}): {result.events} events, {result.counts}")
    return 0


def many(seeds: range, jobs: int, *, engine: bool) -> int:
    tally, failures = Tally(), 0
    began = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        for result in pool.map(partial(attempt, engine), seeds, chunksize=20):
            if isinstance(result, Result):
                tally.add(result)
                continue
            failures += 1
            print(result, flush=True)
            if failures == FAILURES_MAX:
                pool.shutdown(cancel_futures=True)
                break
    print("\n".join(tally.table()))
    missing = tally.missing()
    print(*missing, sep="\n", end="\n" * bool(missing))
    machine = "engine" if engine else "model"
    print(
        f"{len(seeds)} seeds on the {machine}, {failures} failed, {time.monotonic() - began:.0f} s"
    )
    return int(failures > 0 or bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

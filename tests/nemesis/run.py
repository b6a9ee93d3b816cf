"""A cluster of real processes under load and faults, its history checked: `make nemesis`.

    python -m tests.nemesis.run [--seed 7] [--seconds 600] [--network proxy|namespaces]
                                [--members 3] [--only pause_leader kill_all] [--times 1]

Exit code 0: every history was linearizable, the cluster made progress after every fault, and at the
end all members held the same. Anything else is 1, says why, and keeps the directory: daemons' data,
histories, pictures. The seed fixes which faults come in which order and what clients ask; when
processes do what is theirs to say, so a seed repeats the kind of run, not every instant of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.integration.daemon import PATIENCE_S
from tests.nemesis import nemeses
from tests.nemesis.checker import LINEARIZABLE, NoGo, Verdict, build, check
from tests.nemesis.clients import Load, start
from tests.nemesis.cluster import Cluster
from tests.nemesis.convergence import progress, same_everywhere
from tests.nemesis.groups import Groups
from tests.nemesis.history import FAILED, OK, UNKNOWN, Recorder
from tests.nemesis.network import NamespaceNetwork, Network, ProxyNetwork, enter

SEGMENT_S = 180.0  # of a long run: each has a history of its own
BALLAST_BYTES_PER_S = 400_000


@dataclass(frozen=True, slots=True)
class Options:
    """What to run."""

    seed: int
    seconds: float
    network: str
    members: int
    only: list[str]
    clients: int
    rate: float
    fault_s: float
    times: int


class Run:
    """One cluster's life, in one directory."""

    def __init__(self, options: Options, directory: Path, program: Path) -> None:
        self._options = options
        self._directory = directory
        self._program = program
        self._rng = random.Random(f"{options.seed} run")
        self._begun = time.monotonic()
        self._cluster = Cluster(directory, self._network(), self._rng)
        self.done: Counter[str] = Counter()
        self.verdicts: list[Verdict] = []
        self.recoveries: list[float] = []

    async def run(self) -> None:
        """Raises AssertionError."""
        options, cluster = self._options, self._cluster
        try:
            await cluster.found(options.members, clock=nemeses.has_clock())
            self.say(f"{options.members} members on {options.network}")
            kinds = nemeses.by_name(cluster, options.only)
            order = nemeses.order(self._rng, kinds)
            number = 0
            while not self._over(kinds):
                await self._segment(number, order, lambda: self._over(kinds))
                number += 1
        except BaseException:
            with contextlib.suppress(Exception):
                await cluster.close()
            raise
        self.say(f"terms led: {cluster.leaders}; snapshots: {cluster.snapshots_installed}")
        complaints = await cluster.close()
        assert not complaints, complaints
        assert not cluster.contradictions, cluster.contradictions

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begun:6.1f} s] {text}", flush=True)

    def _over(self, kinds: list[nemeses.Nemesis]) -> bool:
        if self._options.times:
            return self.done.total() == self._options.times * len(kinds)
        return time.monotonic() - self._begun > self._options.seconds

    async def _segment(self, number: int, order: nemeses.Order, over: Callable[[], bool]) -> None:
        """Load and faults for a while, peace, and the verdict."""
        history = self._directory / f"history{number}.jsonl"
        until = time.monotonic() + SEGMENT_S
        async with self._load(number, history) as load:
            await progress(self._cluster, load, PATIENCE_S)
            given = nemeses.Situation(self._cluster, load, self._rng, self._options.fault_s)
            while time.monotonic() < until and not over():
                await self._nemesis(next(order), given, load)
            await self._cluster.repair()
            await progress(self._cluster, load, PATIENCE_S, writes=100)
        revision, keys = await same_everywhere(self._cluster)
        self.say(f"all members hold the same {keys} keys at revision {revision}")
        verdict = await asyncio.to_thread(check, self._program, history)
        self.verdicts.append(verdict)
        self.say(f"history {number}: {verdict.summary or verdict.text}")
        assert verdict.code == LINEARIZABLE, verdict.text

    async def _nemesis(self, kind: nemeses.Nemesis, given: nemeses.Situation, load: Load) -> None:
        before = dict(load.recorder.counts)
        self.say(kind.__name__)
        await kind(given)
        await self._cluster.repair()
        took = await progress(self._cluster, load, PATIENCE_S)
        self.recoveries.append(took)
        counts = {name: load.recorder.counts[name] - before[name] for name in (OK, FAILED, UNKNOWN)}
        self.say(f"  {counts}, writes again after {took:.2f} s")
        self.done[kind.__name__] += 1
        await given.last(0.3)

    @contextlib.asynccontextmanager
    async def _load(self, number: int, history: Path) -> AsyncIterator[Load]:
        """The clients at work. What they cannot explain fails the run."""
        options = self._options
        seed = options.seed * 1000 + number
        recorder = Recorder(history)
        groups = Groups(random.Random(f"{seed} groups"), 4, 3, f"{number}")
        load = Load(self._cluster.clients, groups, recorder, options.rate, prefix=f"{number}.")
        async with asyncio.TaskGroup() as tasks:
            start(load, tasks, seed, options.clients, BALLAST_BYTES_PER_S)
            try:
                yield load
            finally:
                load.stopped.set()
        recorder.close()
        assert not load.surprises, "\n".join(load.surprises[:20])
        assert recorder.counts[OK] > 100, f"hardly anything was answered: {recorder.counts}"

    def _network(self) -> Network:
        if self._options.network == "namespaces":
            return NamespaceNetwork(self._directory)
        rng = random.Random(f"{self._options.seed} network")
        return ProxyNetwork(rng, lambda: self._cluster.pids)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    inside = os.environ.get("BEDPLATE_NEMESIS_INSIDE") == "1"
    if given.network == "namespaces" and not inside:
        words = [sys.executable, "-m", "tests.nemesis.run", *(arguments or sys.argv[1:])]
        os.environ["BEDPLATE_NEMESIS_INSIDE"] = "1"
        os.execvp("unshare", enter(words))
    options = Options(
        given.seed,
        given.seconds,
        given.network,
        given.members,
        given.only or [],
        given.clients,
        given.rate,
        given.fault_seconds,
        given.times,
    )
    try:
        program = build()
    except NoGo as missing:
        print(missing, file=sys.stderr)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="nemesis-", dir=given.directory))
    code = _run(options, directory, program)
    if code == 0 and not given.keep:
        shutil.rmtree(directory)
    else:
        print(f"kept: {directory}", file=sys.stderr)
    return code


def _run(options: Options, directory: Path, program: Path) -> int:
    run = Run(options, directory, program)
    try:
        asyncio.run(run.run())
    except (AssertionError, BaseExceptionGroup) as failure:
        failures = failure.exceptions if isinstance(failure, BaseExceptionGroup) else (failure,)
        for each in failures:
            print(f"FAILED: {type(each).__name__}: {each}", file=sys.stderr)
            if not isinstance(each, AssertionError):
                sys.excepthook(type(each), each, each.__traceback__)
        again = f"--seed {options.seed} --network {options.network} --members {options.members}"
        again += f" --fault-seconds {options.fault_s:g}"
        often = f" --times {options.times}" if options.times else f" --seconds {options.seconds:g}"
        again += often
        again += f" --only {' '.join(options.only)}" if options.only else ""
        print(f"again: python -m tests.nemesis.run {again}", file=sys.stderr)
        return 1
    worst = max(run.recoveries, default=0.0)
    print(f"passed: {dict(run.done)}; slowest return of writes {worst:.2f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make nemesis", description="Faults on a real cluster.")
    add = parser.add_argument
    add("--seed", type=int, default=random.SystemRandom().randrange(1 << 20))
    add("--seconds", type=float, default=600.0, help="of faults; checking comes on top (600)")
    add("--network", choices=("proxy", "namespaces"), default="proxy")
    add("--members", type=int, default=3)
    add("--only", nargs="+", help="these nemeses alone")
    add("--clients", type=int, default=8)
    add("--rate", type=float, default=12.0, help="operations a second of each client (12)")
    add("--fault-seconds", type=float, default=3.0, help="how long a fault lasts, about (3)")
    add("--directory", type=Path, help="where data goes; default: the system's temporary directory")
    add("--times", type=int, default=0, help="every nemesis so often, however long that takes")
    add("--keep", action="store_true", help="keep the directory also when all is well")
    return parser


if __name__ == "__main__":
    sys.exit(main())

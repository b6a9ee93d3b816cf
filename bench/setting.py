"""What every measurement is given: where data goes, how long, how often, which programs."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.process import BenchError, Journal, Record, run_records

ROOT = Path(__file__).resolve().parent.parent
OUR_PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Setting:
    """One run of the benchmarks."""

    scratch: Path
    journal: Journal
    rounds: int  # of each comparison
    pairs: int  # of the one-thread comparison with raw writes, which is the noisiest
    seconds: float  # of one measured part
    keys: int
    object_bytes: int
    deadline: float  # time.monotonic; after it every comparison stops at its next round
    started: float

    def say(self, text: str) -> None:
        """Progress, on stderr."""
        print(f"[{time.monotonic() - self.started:4.0f} s] {text}", file=sys.stderr, flush=True)

    def each_round(self, work: str, rounds: int = 0) -> Iterator[int]:
        """Round numbers; always one, no more once the time is up."""
        rounds = rounds or self.rounds
        for number in range(rounds):
            if number > 0 and time.monotonic() > self.deadline:
                self.say(f"{work}: time is up after {number} rounds")
                return
            self.say(f"{work}: round {number + 1} of {rounds}")
            yield number

    @property
    def few_rounds(self) -> int:
        """Of comparisons without a goal."""
        return min(3, self.rounds)

    def directory(self, name: str) -> Path:
        """A new empty directory below the scratch directory."""
        path = self.scratch / name
        remove(path)
        path.mkdir(parents=True)
        return path

    def engine(self, command: str, *options: str) -> list[Record]:
        """Records of one `bedplate-bench` run."""
        return run_records(self.engine_argv(command, *options), self.journal)

    def engine_argv(self, command: str, *options: str) -> list[str]:
        """The command line of it."""
        program = str(OUR_PROGRAMS / "bedplate-bench")
        return [program, command, *options, "--dir", str(self.scratch), "--json"]

    def load(self, work: str, *options: str) -> Record:
        """The record of one run of the load generator."""
        return run_records([str(load_program()), work, *options], self.journal)[0]


def load_program() -> Path:
    """bench/load as built by bench/Makefile."""
    return ROOT / "build" / "bench" / "load"


def find(program: str) -> str:
    """Path of a rival's program. Raises BenchError when it is not installed."""
    path = shutil.which(program)
    if path is None:
        raise BenchError(f"{program} is not installed; tests/install-debian does")
    return path


def remove(path: Path) -> None:
    """A directory and all below it, if it is there."""
    shutil.rmtree(path, ignore_errors=True)


Measure = Callable[[], float]


def interleave(
    setting: Setting, work: str, measures: Mapping[str, Measure], rounds: int = 0
) -> dict[str, list[float]]:
    """Run every measure once a round, in turn; their values by name."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in setting.each_round(work, rounds):
        for name, measure in measures.items():
            values[name].append(measure())
    return values

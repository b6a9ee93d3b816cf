"""One work, ours and its rivals in turn, as one row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.report import Row
from bench.setting import Measure, Setting, interleave
from bench.stats import Spread

OURS = "ours"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is measured in which unit, and what counts as good enough.

    The goal is about the ratio of ours to the best rival; to the best of `counted` if that is set.
    """

    work: str
    unit: str
    scale: float = 1.0
    ratio_least: float | None = None
    ratio_most: float | None = None
    goal: str = ""
    rounds: int = 0
    counted: frozenset[str] = frozenset()
    profile: Callable[[], str] | None = None

    def row(self, setting: Setting, ours: Measure, rivals: Mapping[str, Measure]) -> Row:
        """Measure in turn. More is better unless `ratio_most` is set. Raises BenchError."""
        values = interleave(setting, self.work, {OURS: ours, **rivals}, self.rounds)
        spreads = {name: Spread.of(value) for name, value in values.items()}
        names = [name for name in rivals if not self.counted or name in self.counted]
        pick = max if self.ratio_most is None else min
        best = pick(names, key=lambda name: spreads[name].median)
        ratio = Spread.of_ratios(values[OURS], values[best])
        met = self._met(ratio.median)
        others = "; ".join(f"{name} {self._text(spreads[name])}" for name in rivals)
        return Row(
            self.work,
            self._text(spreads[OURS]),
            others,
            ratio.text("x"),
            self.goal,
            met,
            spreads | {"ratio": ratio},
            self.profile() if met is False and self.profile is not None else "",
        )

    def _text(self, spread: Spread) -> str:
        return spread.text(self.unit, self.scale)

    def _met(self, ratio: float) -> bool | None:
        if self.ratio_least is not None:
            return ratio >= self.ratio_least
        return ratio <= self.ratio_most if self.ratio_most is not None else None


def threads_text(threads: int) -> str:
    """ "1 thread", "64 threads"."""
    return f"{threads} thread" + "s" * (threads > 1)

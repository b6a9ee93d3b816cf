"""Medians and their spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, the least and the most."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises ValueError without values."""
        if not values:
            raise ValueError("no rounds were measured")
        return cls(median(values), min(values), max(values), len(values))

    @classmethod
    def of_ratios(cls, ours: Sequence[float], rival: Sequence[float]) -> Self:
        """Of ours / rival, round by round: what both met in the same seconds cancels out."""
        return cls.of([a / b for a, b in zip(ours, rival, strict=True)])

    def text(self, unit: str = "", scale: float = 1.0) -> str:
        """ "1234 [1100-1300] unit", each divided by `scale`."""
        low, middle, high = (short(v / scale) for v in (self.least, self.median, self.most))
        spread = f" [{low}-{high}]" if self.rounds > 1 else ""
        return f"{middle}{spread} {unit}".rstrip()


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"

"""The network between members: directed links, each with its own luck.

    send --> lost? --> delayed --> twice? --> cut meanwhile? --> delivered
                                              reset meanwhile? dropped, or late all the same

Raft must bear all of it. Streams of the real transport lose less; they break instead: a reset drops
what is under way, and both ends are told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.simulation.timeline import MS, Timeline

Link = tuple[int, int]


@dataclass(slots=True)
class Weather:
    """How the links are at the moment. Chances in [0, 1]."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0  # of a message that takes far longer than the others
    delay_max: int = 2 * MS


@dataclass(slots=True)
class Network:
    """`deliver(source, target, parcel)` and `told(member, peer)`, of a reset, are called."""

    timeline: Timeline
    random: Random
    deliver: Callable[[int, int, object], None]
    told: Callable[[int, int], None]
    weather: Weather = field(default_factory=Weather)
    cut: set[Link] = field(default_factory=set)
    lost: int = 0
    _resets: dict[Link, int] = field(default_factory=dict)

    def send(self, source: int, target: int, parcel: object) -> None:
        weather, random = self.weather, self.random
        if (source, target) in self.cut or (weather.loss and random.random() < weather.loss):
            self.lost += 1
            return
        self._carry(source, target, parcel)
        if weather.duplication and random.random() < weather.duplication:
            self._carry(source, target, parcel)

    def _carry(self, source: int, target: int, parcel: object) -> None:
        random = self.random
        delay = 200 + int(random.random() * self.weather.delay_max)
        if self.weather.reordering and random.random() < self.weather.reordering:
            delay += int(random.random() * 500 * MS)
        resets = self._resets.get((source, target), 0)
        self.timeline.after(delay, self._arrive, source, target, parcel, resets)

    def _arrive(self, source: int, target: int, parcel: object, resets: int) -> None:
        was_reset = self._resets.get((source, target), 0) != resets
        if (source, target) in self.cut or (was_reset and self.random.random() < 0.8):
            self.lost += 1
            return
        self.deliver(source, target, parcel)

    def reset(self, one: int, other: int, *, noticed: bool = True) -> None:
        """The connection between two members breaks; unless they notice, it is just silent."""
        for source, target in ((one, other), (other, one)):
            self._resets[source, target] = self._resets.get((source, target), 0) + 1
            if noticed:
                delay = int(self.random.random() * 5 * MS)
                self.timeline.after(delay, self.told, source, target)

    def heal(self) -> None:
        self.cut.clear()
        self.weather = Weather()

"""1,000 seeds of the replica on the model store, each in its kind of trouble."""

from __future__ import annotations

import pytest

from tests.simulation.guard import Hung, limited
from tests.simulation.soak import Tally
from tests.simulation.world import Result, run

SEEDS = 1000
CHUNK = 100


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_seed_is_safe_and_gets_on_once_healed(first: int) -> None:
    tally = Tally()
    for seed in range(first, first + CHUNK):
        tally.add(run(seed))
    assert tally.missing() == [], "a kind of seed shows nothing"


def test_a_seed_is_a_run() -> None:
    once, again = run(17, trace=True), run(17, trace=True)
    assert (once.trace, once.counts, once.events) == (again.trace, again.counts, again.events)
    assert once.trace != run(24, trace=True).trace


def test_a_kind_of_seed_that_met_nothing_is_told() -> None:
    tally = Tally()
    tally.add(Result(0, "damage", {"crashes": 3, "elections": 1, "answered": 9, "unknown": 1}))
    assert tally.missing() == [
        "damage: no lost_writes",
        "damage: no lost_sectors",
        "damage: no flips",
        "damage: no replaced",
        "damage: no re-election",
    ]


def test_a_seed_that_never_ends_is_a_failure() -> None:
    with pytest.raises(Hung, match="no end"), limited(0.05):
        _never_end()


def _never_end() -> None:
    while True:
        pass

"""Seeds of the replica on the engine that ships, on disks that lose, damage and run full."""

from __future__ import annotations

import pytest

from bedplate import _native
from bedplate.native import simulation, store
from tests.simulation.engine_world import EngineParts
from tests.simulation.soak import Tally
from tests.simulation.world import run

SEEDS = 180
CHUNK = 90


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_seed_is_safe_and_gets_on_once_healed(first: int) -> None:
    tally = Tally()
    for seed in range(first, first + CHUNK):
        tally.add(run(seed, parts=EngineParts()))
    assert tally.missing() == [], "a kind of seed shows nothing"


def test_a_seed_is_a_run() -> None:
    once, again = (run(7, parts=EngineParts(), trace=True) for _ in range(2))
    assert (once.trace, once.counts, once.events) == (again.trace, again.counts, again.events)
    assert once.trace != run(16, parts=EngineParts(), trace=True).trace


def test_it_is_the_library_that_ships() -> None:
    """A simulated machine is opened by the extension that the daemon imports, and no other."""
    assert vars(simulation)["lib"] is vars(store)["lib"] is _native.lib

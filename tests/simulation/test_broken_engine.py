"""On the engine: each rule that is broken on purpose is noticed, and nothing where none is."""

from __future__ import annotations

import pytest

from tests.simulation.engine_broken import BROKEN
from tests.simulation.engine_machine import EngineMachine
from tests.simulation.engine_world import EngineParts
from tests.simulation.history import Violation
from tests.simulation.world import run


@pytest.mark.parametrize(
    ("machine_type", "seed", "says"), BROKEN, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_broken_rule_is_noticed(machine_type: type[EngineMachine], seed: int, says: str) -> None:
    with pytest.raises(Violation, match=says):
        run(seed, parts=EngineParts(machine_type=machine_type))


@pytest.mark.parametrize("seed", sorted({seed for _, seed, _ in BROKEN}))
def test_the_same_seed_is_fine_with_all_rules(seed: int) -> None:
    run(seed, parts=EngineParts())

"""The simulation notices each rule that is broken on purpose, and nothing where none is."""

from __future__ import annotations

import pytest

from tests.simulation.broken import BROKEN, Broken, catch
from tests.simulation.world import run


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.rule.__name__)
def test_a_broken_rule_is_noticed(broken: Broken) -> None:
    said = catch(broken, broken.seed)
    assert said is not None, "nothing was noticed"
    assert broken.says in said


@pytest.mark.parametrize("seed", sorted({broken.seed for broken in BROKEN}))
def test_the_same_seed_is_fine_with_all_rules(seed: int) -> None:
    run(seed)

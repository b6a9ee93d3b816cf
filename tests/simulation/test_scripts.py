"""Each scenario gives the trace that is written under its commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.script import play

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_scenario_gives_its_trace(path: Path) -> None:
    text = path.read_text()
    assert play(text) == text


def test_a_trace_that_differs_is_noticed() -> None:
    text = "> members 1\n> campaign 1\n  1 leader in term 2\n"
    assert play(text) != text


def test_a_line_that_is_neither_is_refused() -> None:
    with pytest.raises(ValueError, match="neither"):
        play("campaign 1\n")
    with pytest.raises(ValueError, match="no such command"):
        play("> rule 1\n")

"""Every promise has a test that turns red without it: mutations.toml lists them, this tries each.

A mutation replaces one piece of text in a copy of the tree, builds what changed there and runs the
named test, which must fail by its own check. The text must occur exactly once, so a mutation that
no longer fits the code is an error, not a pass. A test named as blind must stay green: it is kept
to show that it proves nothing about this promise.
"""

import tomllib
from pathlib import Path

import pytest

from tests.mutations.tree import ROOT, SECONDS_MAX, Mutation, run


def load() -> list[Mutation]:
    entries = tomllib.loads((ROOT / "tests" / "mutations.toml").read_text())["mutation"]
    return [Mutation(**entry) for entry in entries]


def named(mutation: Mutation) -> str:
    return mutation.name


@pytest.mark.parametrize("mutation", load(), ids=named)
@pytest.mark.timeout(2 * SECONDS_MAX)
def test_the_test_of_a_broken_promise_turns_red(mutation: Mutation, tmp_path: Path) -> None:
    ended = run(mutation, mutation.test, tmp_path)
    assert not ended.passed, f"{mutation.promise}: nothing noticed\n{ended.said}"
    assert ended.failed, f"it failed, but not by its own check\n{ended.said}"


@pytest.mark.parametrize("mutation", [each for each in load() if each.blind], ids=named)
@pytest.mark.timeout(2 * SECONDS_MAX)
def test_a_blind_test_stays_green(mutation: Mutation, tmp_path: Path) -> None:
    ended = run(mutation, mutation.blind, tmp_path)
    assert ended.passed, f"{mutation.promise}: this test does see it\n{ended.said}"


def test_every_name_is_given_once() -> None:
    names = [mutation.name for mutation in load()]
    assert sorted(set(names)) == sorted(names)

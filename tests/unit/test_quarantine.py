"""Members whose states differ: who is right, and whether that can be said."""

import pytest

from bedplate.consensus.membership import Membership
from bedplate.consensus.quarantine import StateHashes, Telling, Verdict, judge

THREE = Membership(frozenset({1, 2, 3}), frozenset({9}))
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


@pytest.mark.parametrize(
    ("hashes", "verdict"),
    [
        ({}, Verdict.UNKNOWN),
        ({2: A, 3: A}, Verdict.UNKNOWN),  # we have not said ours
        ({1: A}, Verdict.UNKNOWN),
        ({1: A, 2: A}, Verdict.SOUND),
        ({1: A, 2: B}, Verdict.UNKNOWN),
        ({1: A, 2: B, 3: B}, Verdict.DIVERGED),
        ({1: A, 2: A, 3: B}, Verdict.SOUND),
        ({1: A, 2: B, 3: C}, Verdict.NO_MAJORITY),
        ({1: A, 2: B, 9: B}, Verdict.UNKNOWN),  # a learner has no say
    ],
)
def test_a_majority_of_voters_decides(hashes: dict[int, bytes], verdict: Verdict) -> None:
    assert judge(1, hashes, THREE) is verdict


def test_a_learner_is_judged_by_the_voters() -> None:
    assert judge(9, {9: A, 1: B, 2: B}, THREE) is Verdict.DIVERGED


def test_hashes_of_different_entries_are_not_compared() -> None:
    hashes = StateHashes(1)
    assert hashes.add(2, 10, B, THREE) is Verdict.UNKNOWN
    assert hashes.add(3, 20, B, THREE) is Verdict.UNKNOWN
    assert hashes.add(1, 10, A, THREE) is Verdict.UNKNOWN
    assert hashes.add(3, 10, B, THREE) is Verdict.DIVERGED


def test_only_the_newest_few_entries_are_remembered() -> None:
    hashes = StateHashes(1)
    for index in range(1, 1001):
        hashes.add(2, index, B, THREE)
    assert hashes.add(3, 1, B, THREE) is Verdict.UNKNOWN
    assert hashes.add(1, 1, A, THREE) is Verdict.UNKNOWN
    hashes.add(3, 1000, B, THREE)
    assert hashes.add(1, 1000, A, THREE) is Verdict.DIVERGED


def test_a_stranger_has_no_say() -> None:
    hashes = StateHashes(1)
    for stranger in (4, 5, 6):
        hashes.add(stranger, 1, B, THREE)
    assert hashes.add(1, 1, A, THREE) is Verdict.UNKNOWN


def test_the_newest_hash_is_told_again_and_again() -> None:
    """Who was away when it was new hears it when it comes back."""
    telling = Telling()
    assert not any(telling.due(0) for _ in range(50))  # nothing to tell
    assert telling.due(7)
    assert not telling.due(7)
    assert 2 <= sum(telling.due(7) for _ in range(20)) <= 10
    assert telling.due(8)

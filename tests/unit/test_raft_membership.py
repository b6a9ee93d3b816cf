"""Membership: majorities, and one change at a time."""

from __future__ import annotations

from itertools import combinations

import pytest

from bedplate.consensus.membership import Change, ChangeKind, ChangeRefused, Membership


def group(*voters: int, learners: tuple[int, ...] = ()) -> Membership:
    return Membership(frozenset(voters), frozenset(learners))


@pytest.mark.parametrize(("voters", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_more_than_half_decide(voters: int, majority: int) -> None:
    assert group(*range(voters)).majority == majority


def test_learners_and_strangers_are_not_counted() -> None:
    assert not group(1, 2, 3, learners=(4,)).is_majority([1, 4, 9])
    assert group(1, 2, 3, learners=(4,)).is_majority([1, 3])


def test_agreed_is_what_a_majority_reached() -> None:
    assert group(1, 2, 3).agreed({1: 9, 2: 7, 3: 5}) == 7
    assert group(1, 2, 3, 4).agreed({1: 9, 2: 7, 3: 5, 4: 3}) == 5
    assert group(1, 2, 3, learners=(4,)).agreed({1: 9, 4: 9}) == 0
    assert group().agreed({1: 9}) == 0


def test_majorities_of_neighbours_share_a_voter() -> None:
    for size in range(1, 6):
        before = group(*range(size), learners=(size,))
        for change in (Change(ChangeKind.PROMOTE, size), Change(ChangeKind.REMOVE, 0)):
            if size == 1 and change.kind is ChangeKind.REMOVE:
                continue
            after = before.after(change)
            for old in combinations(before.voters, before.majority):
                for new in combinations(after.voters, after.majority):
                    assert set(old) & set(new)


@pytest.mark.parametrize(
    ("kind", "member"),
    [
        (ChangeKind.ADD_LEARNER, 1),
        (ChangeKind.ADD_LEARNER, 2),
        (ChangeKind.PROMOTE, 1),
        (ChangeKind.PROMOTE, 9),
        (ChangeKind.REMOVE, 9),
        (ChangeKind.REMOVE, 1),
    ],
)
def test_what_makes_no_sense_is_refused(kind: ChangeKind, member: int) -> None:
    with pytest.raises(ChangeRefused):
        group(1, learners=(2,)).after(Change(kind, member))

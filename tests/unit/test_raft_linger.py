"""For whom a round of writes waits."""

from __future__ import annotations

from bedplate.consensus.linger import Linger


def rounds_between(linger: Linger, queued: int) -> int:
    """How many rounds begin at once before one lingers again, and that in vain."""
    at_once = 0
    while True:
        linger.begin(1, 1)
        if linger.expected:
            linger.time_is_up()
            linger.end(queued)
            return at_once
        linger.end(queued)
        at_once += 1


def test_lingering_in_vain_gets_rare_and_stays_so() -> None:
    linger = Linger(enabled=True, least=8)
    assert [rounds_between(linger, 2) for _ in range(8)] == [0, 2, 4, 8, 16, 32, 64, 64]


def test_many_in_time_are_not_in_vain() -> None:
    linger = Linger(enabled=True, least=8)
    assert [rounds_between(linger, 8) for _ in range(3)] == [0, 0, 0]


def test_whoever_was_expected_and_came_makes_up_for_those_who_did_not() -> None:
    linger = Linger(enabled=True, least=8)
    assert [rounds_between(linger, 2) for _ in range(3)] == [0, 2, 4]
    for _ in range(8):
        linger.begin(1, 1)
        linger.end(2)
    linger.begin(1, 1)
    assert linger.expected == 2
    linger.end(2)
    assert [rounds_between(linger, 2) for _ in range(2)] == [0, 2]


def test_it_can_be_switched_off() -> None:
    linger = Linger(enabled=False, least=8)
    linger.begin(6, 4)
    assert linger.expected == 0

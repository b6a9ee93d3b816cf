"""The checker says yes and no where it must."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from tests.simulation.history import History, Seen, Violation, step
from tests.simulation.linearizable import NEVER, Span, Undecided, linearizable
from tests.simulation.machine import Answer, Read, Write


def write(called: int, returned: int, value: int, version: int | None) -> Span[Seen]:
    answer = None if version is None else Answer(value, version, 0)
    return Span(called, returned, Seen(Write(1, value, "k", value), answer))


def read(called: int, returned: int, value: int, version: int) -> Span[Seen]:
    return Span(called, returned, Seen(Read("k"), Answer(value, version, 0)))


def fits(*spans: Span[Seen]) -> bool:
    return linearizable(spans, (0, 0), step)


def test_one_after_the_other() -> None:
    assert fits(write(0, 1, 7, 1), read(2, 3, 7, 1))


def test_a_read_that_missed_a_finished_write_is_stale() -> None:
    assert not fits(write(0, 1, 7, 1), read(2, 3, 0, 0))


def test_a_read_beside_a_write_may_see_it_or_not() -> None:
    assert fits(write(0, 9, 7, 1), read(2, 3, 0, 0))
    assert fits(write(0, 9, 7, 1), read(2, 3, 7, 1))


def test_reads_never_go_back() -> None:
    assert not fits(write(0, 9, 7, 1), read(1, 2, 7, 1), read(3, 4, 0, 0))


def test_an_unknown_write_may_happen_late_or_never() -> None:
    unknown = write(0, NEVER, 7, None)
    assert fits(unknown, read(5, 6, 0, 0))
    assert fits(unknown, read(5, 6, 0, 0), read(7, 8, 7, 1))
    assert not fits(unknown, read(5, 6, 7, 1), read(7, 8, 0, 0))


def test_a_write_done_twice_shows_in_the_version() -> None:
    assert not fits(write(0, 1, 7, 1), read(2, 3, 7, 2))


def test_a_lost_write_shows_in_the_next_version() -> None:
    assert not fits(write(0, 1, 7, 1), write(2, 3, 8, 1))


def test_it_agrees_with_trying_all_orders() -> None:
    random = Random(1)
    verdicts = set()
    for _ in range(600):
        spans = []
        for value in range(1, 6):
            called = random.randrange(10)
            returned = called + random.randrange(1, 8)
            version = random.randrange(1, 4)
            if random.random() < 0.5:
                spans.append(read(called, returned, random.randrange(3), random.randrange(3)))
            elif random.random() < 0.3:
                spans.append(write(called, NEVER, value, None))
            else:
                spans.append(write(called, returned, value, version))
        verdict = fits(*spans)
        verdicts.add(verdict)
        assert verdict == any(map(in_order, itertools.permutations(spans)))
    assert verdicts == {True, False}


def in_order(spans: tuple[Span[Seen], ...]) -> bool:
    register: tuple[int, int] | None = (0, 0)
    for at, span in enumerate(spans):
        if any(later.returned < span.called for later in spans[at + 1 :]):
            return False
        assert register is not None
        register = step(register, span.operation)
        if register is None:
            return False
    return True


def test_a_search_that_takes_too_long_says_so() -> None:
    with pytest.raises(Undecided):
        linearizable([write(0, 1, 7, 1)], (0, 0), step, steps_max=1)


def test_an_answer_older_than_what_was_seen_before_is_a_violation() -> None:
    history = History()
    history.returned(0, 1, Write(1, 1, "k", 7), Answer(7, 1, 5), newest=0)
    with pytest.raises(Violation):
        history.returned(2, 3, Read("other"), Answer(0, 0, 4), newest=history.revision)

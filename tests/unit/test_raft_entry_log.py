"""EntryLog against a list of terms."""

from __future__ import annotations

from random import Random

from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import Entries


def entries(first: int, terms: list[int], changes: dict[int, Membership] | None = None) -> Entries:
    runs = [(first + at, term) for at, term in enumerate(terms) if at == 0 or terms[at - 1] != term]
    return Entries(first, first + len(terms) - 1, tuple(runs), tuple((changes or {}).items()))


def log_of(*terms: int) -> EntryLog:
    log = EntryLog()
    log.append(entries(1, list(terms)))
    return log


def voters(*members: int) -> Membership:
    return Membership(frozenset(members))


def test_it_agrees_with_a_list_whatever_is_done_to_it() -> None:
    random = Random(3)
    for _ in range(200):
        log, terms, base = EntryLog(), [0], 0
        for _ in range(30):
            what = random.random()
            if what < 0.6:
                some = sorted(terms[-1] + random.randrange(3) for _ in range(random.randint(1, 4)))
                log.append(entries(len(terms), some))
                terms += some
            elif what < 0.8:
                last = random.randint(base, len(terms) - 1)
                log.truncate(last)
                del terms[last + 1 :]
            else:
                base = random.randint(base, len(terms) - 1)
                log.compact(base)
            assert (log.last, log.last_term) == (len(terms) - 1, terms[-1])
            assert log.compacted == base
            for index in range(len(terms) + 2):
                known = base <= index < len(terms)
                assert log.term(index) == (terms[index] if known else None)
            first = random.randint(base + 1, len(terms))
            last = random.randint(first - 1, len(terms) - 1)
            wanted = terms[first : last + 1]
            got = log.between(first, last)
            assert [log.term(index) for index in range(got.first, got.last + 1)] == wanted
            assert (got == entries(first, wanted)) if wanted else len(got) == 0
            term = random.randrange(terms[-1] + 2)
            index = random.randint(base, len(terms) - 1)
            fitting = [at for at in range(base, index + 1) if terms[at] <= term]
            assert log.fitting(index, term) == max(fitting, default=base)


def test_a_conflict_is_the_first_entry_that_is_another() -> None:
    log = log_of(1, 1, 2, 2, 3)
    assert log.conflict(entries(2, [1, 2, 2, 3])) == 6
    assert log.conflict(entries(2, [1, 2, 3])) == 4
    assert log.conflict(entries(5, [3, 3])) == 6
    assert log.conflict(Entries(6, 5)) == 6
    log.compact(3)
    assert log.conflict(entries(2, [9, 9, 2])) == 5, "what is compacted is committed"


def test_a_log_yields_to_a_later_term_and_to_a_longer_log_of_the_same() -> None:
    log = log_of(1, 2)
    assert log.yields_to(2, 2)
    assert log.yields_to(1, 3)
    assert not log.yields_to(1, 2)
    assert not log.yields_to(9, 1)


def test_entries_can_be_cut() -> None:
    whole = entries(3, [1, 1, 2, 2], {4: voters(1), 6: voters(2)})
    assert whole.since(4) == entries(4, [1, 2, 2], {4: voters(1), 6: voters(2)})
    assert whole.since(6) == entries(6, [2], {6: voters(2)})


def test_the_newest_membership_counts_and_goes_with_its_entry() -> None:
    log = EntryLog(4, 1, voters(1))
    log.append(entries(5, [1, 1], {6: voters(1, 2)}))
    assert (log.membership, log.change_index) == (voters(1, 2), 6)
    assert log.membership_at(5) == voters(1)
    log.truncate(5)
    assert (log.membership, log.change_index) == (voters(1), 4)


def test_compaction_keeps_the_membership_in_effect() -> None:
    log = EntryLog(0, 0, voters(1))
    log.append(entries(1, [1, 1, 1], {2: voters(1, 2)}))
    log.compact(3)
    assert log.membership == voters(1, 2)
    assert log.membership_at(3) == voters(1, 2)


def test_a_snapshot_replaces_everything() -> None:
    log = log_of(1, 2, 3)
    log.reset(9, 5, voters(3))
    assert (log.compacted, log.last, log.last_term, log.membership) == (9, 9, 5, voters(3))

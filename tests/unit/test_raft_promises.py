"""What is said only when it is durable."""

from __future__ import annotations

from bedplate.consensus.messages import AppendReply, HeartbeatReply, VoteReply
from bedplate.consensus.promises import Promises


def holds(match: int, term: int = 1) -> AppendReply:
    return AppendReply(2, 1, term, True, match)


def test_a_vote_waits_for_the_batch_with_its_term() -> None:
    promises = Promises(0)
    promises.term_changed()
    vote = VoteReply(2, 1, 1, True)
    assert promises.hold(vote)
    assert promises.batch(0) == 1
    assert promises.kept(1) == [vote]
    assert not promises.hold(vote)


def test_a_match_waits_for_its_entries_and_other_words_do_not() -> None:
    promises = Promises(3)
    promises.log_changed()
    assert promises.batch(5) == 1
    assert not promises.hold(holds(3))
    assert not promises.hold(HeartbeatReply(2, 1, 1, 0))
    assert promises.hold(holds(5))
    promises.log_changed()
    assert promises.hold(holds(6))
    assert promises.batch(6) == 2
    assert promises.kept(1) == [holds(5)]
    assert promises.durable == 5
    assert promises.kept(2) == [holds(6)]


def test_nothing_changed_makes_no_batch() -> None:
    promises = Promises(0)
    assert promises.batch(0) == 0
    promises.log_changed()
    assert (promises.batch(1), promises.batch(1)) == (1, 0)


def test_what_was_superseded_is_not_durable_when_its_batch_is() -> None:
    promises = Promises(2)
    promises.log_changed()
    promises.batch(3)  # entry 3 of term 2
    promises.superseded(3)
    promises.log_changed()
    promises.batch(3)  # entry 3 of term 5
    promises.superseded(3)
    promises.log_changed()
    promises.batch(3)  # entry 3 of term 2 again
    assert promises.hold(holds(3))
    for number in (1, 2):
        assert promises.kept(number) == []
        assert promises.durable == 2
        assert promises.hold(holds(3))
    assert promises.kept(3) == [holds(3)] * 3
    assert promises.durable == 3


def test_a_snapshot_voids_what_was_said_of_later_entries() -> None:
    promises = Promises(2)
    promises.log_changed()
    promises.batch(9)
    assert promises.hold(holds(4))
    assert promises.hold(holds(9))
    promises.restored(5)
    assert promises.kept(1) == [holds(4)]
    assert promises.durable == 5

"""What a leader knows of a member."""

from __future__ import annotations

from bedplate.consensus.membership import Membership
from bedplate.consensus.progress import Pace, Progress, Window
from bedplate.consensus.reads import Reads


def progress(next_: int = 5, messages_max: int = 2, bytes_max: int = 100) -> Progress:
    return Progress(next_, Window(messages_max, bytes_max))


def test_a_probe_is_one_message() -> None:
    member = progress()
    member.sent(7, 10)
    assert (member.paused, member.next) == (True, 5)
    assert member.accepted(7)
    assert (member.paused, member.next, member.match) == (False, 8, 7)


def test_a_window_is_full_by_messages_or_by_bytes() -> None:
    for size in (10, 60):
        member = progress(messages_max=2 if size == 10 else 9)
        member.replicate()
        member.sent(5, size)
        assert not member.paused
        member.sent(6, size)
        assert member.paused
        member.accepted(5)
        assert not member.paused
        assert member.window.bytes == size


def test_a_refused_probe_goes_back_and_never_behind_the_match() -> None:
    member = progress(9)
    assert member.refused(8, fitting=4)
    assert member.next == 5
    assert not member.refused(8, fitting=1), "an answer to an older question"
    member.match = 3
    assert member.refused(4, fitting=0)
    assert member.next == 4


def test_a_refused_probe_always_goes_back() -> None:
    member = progress(9)
    assert member.refused(8, fitting=20)
    assert member.next == 8


def test_what_is_lost_is_sent_again_from_the_match_on() -> None:
    member = progress()
    member.accepted(4)
    member.replicate()
    member.sent(5, 10)
    member.sent(6, 10)
    member.lost()
    assert (member.pace, member.next, len(member.window)) == (Pace.PROBE, 5, 0)


def test_only_what_is_out_can_be_unanswered() -> None:
    member = progress()
    member.tick()
    assert member.unanswered == 0
    member.sent(5, 10)
    member.tick()
    assert member.unanswered == 1


def test_after_a_snapshot_comes_what_follows_it() -> None:
    member = progress()
    member.install(40)
    assert member.paused
    member.probe()
    assert (member.pace, member.next) == (Pace.PROBE, 41)


def test_a_read_waits_for_a_round_that_began_after_it() -> None:
    three = Membership(frozenset({1, 2, 3}))
    reads = Reads()
    reads.begin(10, 1, 7)
    assert reads.wants_round
    assert list(reads.confirmed({1: 0, 2: 0}, three)) == []
    reads.round += 1
    assert not reads.wants_round
    assert list(reads.confirmed({1: 1}, three)) == []
    assert [read.context for read in reads.confirmed({1: 1, 3: 1}, three)] == [7]
    assert list(reads.confirmed({1: 9, 3: 9}, three)) == []


def test_silence_counts_from_the_last_answer_and_what_broke_is_silent_at_once() -> None:
    member = progress()
    assert member.silent is None, "never heard of"
    member.heard()
    member.tick()
    member.tick()
    member.active = False  # as a check of the quorum leaves it
    assert member.silent == 2
    member.disconnected(5)
    member.tick()
    assert member.silent is None

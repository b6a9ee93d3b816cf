"""Messages between members: what is sent comes out as it went in, and nothing else comes out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.consensus.codec import MalformedMessage, decode, encode, is_bulk
from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import (
    Append,
    AppendReply,
    Entries,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteReply,
    ReadIndex,
    ReadIndexReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from bedplate.consensus.quarantine import StateHash

SOURCE, TARGET = 11, 22
numbers = st.integers(0, 2**64 - 1)
terms = st.integers(1, 2**64 - 1)
ids = st.integers(1, 2**64 - 1)


@st.composite
def memberships(draw: st.DrawFn) -> Membership:
    members = draw(st.lists(ids, min_size=1, max_size=9, unique=True))
    voters = draw(st.integers(1, len(members)))
    return Membership(frozenset(members[:voters]), frozenset(members[voters:]))


@st.composite
def appends(draw: st.DrawFn) -> Append:
    previous = draw(st.integers(0, 2**40))
    count = draw(st.integers(0, 20))
    previous_term, *run_terms = sorted(draw(st.lists(terms, min_size=4, max_size=4)))
    term = draw(st.integers(run_terms[-1], 2**64 - 1))
    runs, changes = [], []
    if count:
        starts = draw(st.sets(st.integers(previous + 2, previous + count + 1), max_size=2))
        firsts = [previous + 1, *sorted(s for s in starts if s <= previous + count)]
        runs = list(zip(firsts, run_terms, strict=False))
        at = draw(st.sets(st.integers(previous + 1, previous + count), max_size=2))
        changes = [(index, draw(memberships())) for index in sorted(at)]
    entries = Entries(previous + 1, previous + count, tuple(runs), tuple(changes))
    payload = draw(st.binary(min_size=1, max_size=64)) if count else None
    return Append(SOURCE, TARGET, term, previous, previous_term, entries, draw(numbers), payload)


def of(kind: type[Message], *fields: st.SearchStrategy[object]) -> st.SearchStrategy[Message]:
    return st.builds(kind, st.just(SOURCE), st.just(TARGET), terms, *fields)


messages = st.one_of(
    appends(),
    of(PreVote, numbers, numbers),
    of(PreVoteReply, st.booleans()),
    of(Vote, numbers, numbers, st.booleans()),
    of(VoteReply, st.booleans()),
    of(AppendReply, st.booleans(), numbers, numbers, numbers, numbers),
    of(Heartbeat, numbers, numbers),
    of(HeartbeatReply, numbers),
    of(TimeoutNow),
    of(ReadIndex, numbers),
    of(ReadIndexReply, numbers, numbers),
    of(StateHash, numbers, st.binary(min_size=16, max_size=16)),
)


@given(messages)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    frame = pb.RaftMessage.FromString(encode(message).SerializeToString())
    decoded = decode(frame, SOURCE, TARGET)
    assert decoded == message
    assert getattr(decoded, "payload", None) == getattr(message, "payload", None)


@given(messages)
def test_only_entries_and_their_answers_are_bulk(message: Message) -> None:
    assert is_bulk(message) is (type(message) in (Append, AppendReply))


def append(**changes: object) -> pb.RaftMessage:
    """Entries 5 and 6, of terms 2 and 3, after one of term 2, from a leader of term 3."""
    fields: dict[str, object] = {
        "previous_index": 4,
        "previous_term": 2,
        "last_index": 6,
        "terms": [pb.TermRun(first=5, term=2), pb.TermRun(first=6, term=3)],
        "payload": b"entries",
    }
    return pb.RaftMessage(term=3, append=pb.Append(**(fields | changes)))  # type: ignore[arg-type]


def change(index: int, *voters: int, learners: tuple[int, ...] = ()) -> pb.MembershipChange:
    return pb.MembershipChange(index=index, voters=voters, learners=learners)


def test_the_append_that_others_are_bent_from_is_sound() -> None:
    assert isinstance(decode(append(changes=[change(6, 1, 2)]), SOURCE, TARGET), Append)


@pytest.mark.parametrize(
    "frame",
    [
        pb.RaftMessage(term=1),
        pb.RaftMessage(term=0, heartbeat=pb.Heartbeat()),
        append(last_index=3),
        append(payload=b""),
        append(last_index=4, terms=[]),
        append(terms=[]),
        append(terms=[pb.TermRun(first=6, term=2)]),
        append(terms=[pb.TermRun(first=5, term=2), pb.TermRun(first=7, term=3)]),
        append(terms=[pb.TermRun(first=5, term=3), pb.TermRun(first=5, term=3)]),
        append(terms=[pb.TermRun(first=5, term=3), pb.TermRun(first=6, term=2)]),
        append(terms=[pb.TermRun(first=5, term=1)]),
        append(terms=[pb.TermRun(first=5, term=4)]),
        append(terms=[pb.TermRun(first=5)], previous_term=0),
        append(changes=[change(4, 1)]),
        append(changes=[change(7, 1)]),
        append(changes=[change(6, 1), change(5, 1)]),
        append(changes=[change(5)]),
        append(changes=[change(5, 0)]),
        append(changes=[change(5, 1, learners=(1,))]),
        pb.RaftMessage(term=1, state_hash=pb.StateHash(index=1, hash=b"short")),
    ],
)
def test_what_no_member_sends_is_refused(frame: pb.RaftMessage) -> None:
    with pytest.raises(MalformedMessage):
        decode(frame, SOURCE, TARGET)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        frame = pb.RaftMessage.FromString(data)
    except Exception:
        return
    try:
        message = decode(frame, SOURCE, TARGET)
    except MalformedMessage:
        return
    assert (message.source, message.target) == (SOURCE, TARGET)

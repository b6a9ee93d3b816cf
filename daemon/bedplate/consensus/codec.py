"""Messages as protobuf and back.

    Append(term, source, target, ..)  <-->  RaftMessage { term, oneof body }    source and target
                                                                                are the stream's
What comes in was written by another process: `decode` lets nothing through that `Raft.step` would
not expect, and says MalformedMessage instead.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

from bedplate.api.cluster.v1 import peer_pb2 as pb
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

HASH_SIZE: Final = 16


class MalformedMessage(Exception):
    """A frame that no member sends; the text says what is wrong with it."""


def encode(message: Message) -> pb.RaftMessage:
    """The message without source and target."""
    return _ENCODERS[type(message)](message)


def decode(frame: pb.RaftMessage, source: int, target: int) -> Message:
    """Raises MalformedMessage."""
    decoder = _DECODERS.get(frame.WhichOneof("body") or "")
    if decoder is None:
        raise MalformedMessage("a message that says nothing")
    if frame.term == 0:
        raise MalformedMessage("a message of term 0")
    return decoder(source, target, frame.term, frame)


def is_bulk(message: Message) -> bool:
    """Whether it belongs on the data stream, where it keeps its place among entries."""
    return isinstance(message, Append | AppendReply)


# ---- to protobuf -------------------------------------------------------------------------------


def _append_to(m: Append) -> pb.RaftMessage:
    entries = m.entries
    body = pb.Append(
        previous_index=m.previous_index,
        previous_term=m.previous_term,
        last_index=entries.last,
        terms=[pb.TermRun(first=first, term=term) for first, term in entries.terms],
        changes=[
            pb.MembershipChange(
                index=index, voters=sorted(change.voters), learners=sorted(change.learners)
            )
            for index, change in entries.changes
        ],
        commit=m.commit,
        payload=m.payload if isinstance(m.payload, bytes) else b"",
    )
    return pb.RaftMessage(term=m.term, append=body)


def _append_reply_to(m: AppendReply) -> pb.RaftMessage:
    body = pb.AppendReply(
        accepted=m.accepted,
        match=m.match,
        previous=m.previous,
        hint=m.hint,
        hint_term=m.hint_term,
    )
    return pb.RaftMessage(term=m.term, append_reply=body)


def _pre_vote_to(m: PreVote) -> pb.RaftMessage:
    body = pb.Candidacy(last_index=m.last_index, last_term=m.last_term)
    return pb.RaftMessage(term=m.term, pre_vote=body)


def _vote_to(m: Vote) -> pb.RaftMessage:
    body = pb.Candidacy(last_index=m.last_index, last_term=m.last_term, transfer=m.transfer)
    return pb.RaftMessage(term=m.term, vote=body)


def _read_index_reply_to(m: ReadIndexReply) -> pb.RaftMessage:
    body = pb.ReadIndexReply(context=m.context, index=m.index)
    return pb.RaftMessage(term=m.term, read_index_reply=body)


_ENCODERS: Final[Mapping[type[Message], Callable[[Any], pb.RaftMessage]]] = MappingProxyType(
    {
        PreVote: _pre_vote_to,
        PreVoteReply: lambda m: pb.RaftMessage(
            term=m.term, pre_vote_reply=pb.Ballot(granted=m.granted)
        ),
        Vote: _vote_to,
        VoteReply: lambda m: pb.RaftMessage(term=m.term, vote_reply=pb.Ballot(granted=m.granted)),
        Append: _append_to,
        AppendReply: _append_reply_to,
        Heartbeat: lambda m: pb.RaftMessage(
            term=m.term, heartbeat=pb.Heartbeat(commit=m.commit, round=m.round)
        ),
        HeartbeatReply: lambda m: pb.RaftMessage(
            term=m.term, heartbeat_reply=pb.HeartbeatReply(round=m.round)
        ),
        TimeoutNow: lambda m: pb.RaftMessage(term=m.term, timeout_now=pb.TimeoutNow()),
        ReadIndex: lambda m: pb.RaftMessage(
            term=m.term, read_index=pb.ReadIndex(context=m.context)
        ),
        ReadIndexReply: _read_index_reply_to,
        StateHash: lambda m: pb.RaftMessage(
            term=m.term, state_hash=pb.StateHash(index=m.index, hash=m.hash)
        ),
    }
)

# ---- from protobuf -----------------------------------------------------------------------------


def _append_from(source: int, target: int, term: int, frame: pb.RaftMessage) -> Message:
    body = frame.append
    entries = Entries(
        body.previous_index + 1,
        body.last_index,
        tuple((run.first, run.term) for run in body.terms),
        tuple((change.index, _membership(change)) for change in body.changes),
    )
    _check_entries(entries, body.previous_term, term)
    if bool(body.payload) != (len(entries) > 0):
        raise MalformedMessage("an append whose payload is not its entries")
    return Append(
        source,
        target,
        term,
        body.previous_index,
        body.previous_term,
        entries,
        body.commit,
        body.payload or None,
    )


def _check_entries(entries: Entries, previous_term: int, term: int) -> None:
    if entries.last < entries.first - 1:
        raise MalformedMessage("an append that ends before it begins")
    if not entries.terms:
        if len(entries) > 0 or entries.changes:
            raise MalformedMessage("an append whose entries have no term")
        return
    if entries.terms[0][0] != entries.first or not _ascends(
        first for first, _ in (*entries.terms, (entries.last + 1, 0))
    ):
        raise MalformedMessage("an append whose terms do not cover its entries")
    terms = [previous_term, *(run_term for _, run_term in entries.terms), term]
    if terms != sorted(terms) or entries.terms[0][1] == 0:
        raise MalformedMessage("an append whose terms fall")
    indexes = [entries.first - 1, *(index for index, _ in entries.changes), entries.last + 1]
    if not _ascends(indexes):
        raise MalformedMessage("an append with a membership that is not among its entries")


def _ascends(numbers: Iterable[int]) -> bool:
    return all(a < b for a, b in pairwise(numbers))


def _membership(change: pb.MembershipChange) -> Membership:
    voters, learners = frozenset(change.voters), frozenset(change.learners)
    if not voters or voters & learners or 0 in voters | learners:
        raise MalformedMessage("a membership that cannot be")
    return Membership(voters, learners)


def _append_reply_from(source: int, target: int, term: int, frame: pb.RaftMessage) -> Message:
    body = frame.append_reply
    return AppendReply(
        source,
        target,
        term,
        body.accepted,
        body.match,
        body.previous,
        body.hint,
        body.hint_term,
    )


def _vote_from(source: int, target: int, term: int, frame: pb.RaftMessage) -> Message:
    body = frame.vote
    return Vote(source, target, term, body.last_index, body.last_term, body.transfer)


def _pre_vote_from(source: int, target: int, term: int, frame: pb.RaftMessage) -> Message:
    return PreVote(source, target, term, frame.pre_vote.last_index, frame.pre_vote.last_term)


def _heartbeat_from(source: int, target: int, term: int, frame: pb.RaftMessage) -> Message:
    return Heartbeat(source, target, term, frame.heartbeat.commit, frame.heartbeat.round)


def _state_hash_from(source: int, target: int, term: int, frame: pb.RaftMessage) -> Message:
    if len(frame.state_hash.hash) != HASH_SIZE:
        raise MalformedMessage("a state hash of another size")
    return StateHash(source, target, term, frame.state_hash.index, frame.state_hash.hash)


def _read_index_reply_from(source: int, target: int, term: int, frame: pb.RaftMessage) -> Message:
    body = frame.read_index_reply
    return ReadIndexReply(source, target, term, body.context, body.index)


_Decoder = Callable[[int, int, int, pb.RaftMessage], Message]
_DECODERS: Final[Mapping[str, _Decoder]] = MappingProxyType(
    {
        "pre_vote": _pre_vote_from,
        "pre_vote_reply": lambda s, t, term, f: PreVoteReply(s, t, term, f.pre_vote_reply.granted),
        "vote": _vote_from,
        "vote_reply": lambda s, t, term, f: VoteReply(s, t, term, f.vote_reply.granted),
        "append": _append_from,
        "append_reply": _append_reply_from,
        "heartbeat": _heartbeat_from,
        "heartbeat_reply": lambda s, t, term, f: HeartbeatReply(
            s, t, term, f.heartbeat_reply.round
        ),
        "timeout_now": lambda s, t, term, _: TimeoutNow(s, t, term),
        "read_index": lambda s, t, term, f: ReadIndex(s, t, term, f.read_index.context),
        "read_index_reply": _read_index_reply_from,
        "state_hash": _state_hash_from,
    }
)

"""What a script's trace says of messages and memberships (see script.py)."""

from __future__ import annotations

from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import (
    Append,
    AppendReply,
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


def describe(message: Message) -> str:
    """One line."""
    term = f"term {message.term}"
    match message:
        case PreVote() | Vote():
            transfer = ", transfer" if isinstance(message, Vote) and message.transfer else ""
            what = f"last {message.last_index}@{message.last_term}{transfer}"
        case PreVoteReply() | VoteReply():
            what = "granted" if message.granted else "refused"
        case Append():
            entries = message.entries
            runs = []
            ends = [start - 1 for start, _ in entries.terms[1:]] + [entries.last]
            for (start, run), end in zip(entries.terms, ends, strict=len(entries) > 0):
                runs.append(f"{start}@{run}" + (f"..{end}@{run}" if end > start else ""))
            changes = "".join(f" ({at}: {members(m)})" for at, m in entries.changes)
            after = f"after {message.previous_index}@{message.previous_term}"
            what = f"{after}: {' '.join(runs) or 'nothing'}{changes}, commit {message.commit}"
        case AppendReply(accepted=True):
            what = f"holds {message.match}"
        case AppendReply():
            hint = f"try {message.hint}@{message.hint_term}"
            what = f"refused {message.previous}, {hint}" if message.previous else "refused"
        case Heartbeat():
            what = f"commit {message.commit}, round {message.round}"
        case HeartbeatReply():
            what = f"round {message.round}"
        case ReadIndex():
            what = f"read {message.context}"
        case ReadIndexReply():
            what = f"read {message.context} at {message.index}"
        case TimeoutNow():
            what = "stand now"
        case _:
            what = "?"
    return f"{type(message).__name__} {term}, {what}"


def members(membership: Membership) -> str:
    voters = " ".join(map(str, sorted(membership.voters)))
    learners = " ".join(map(str, sorted(membership.learners)))
    return voters + (f" | {learners}" if learners else "")

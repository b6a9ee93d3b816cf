"""What members say to each other (Figure 2 of the Raft paper, and what its thesis adds).

    control stream   PreVote Vote TimeoutNow Heartbeat ReadIndex, and their replies
    data stream      Append and its reply

Every message carries its sender's term, but for a PreVote, which carries the term it asks for and
that nobody has taken yet. Payload is opaque here: `Append.payload` is filled in by whoever sends
it, and handed on by whoever receives it.
"""

from dataclasses import dataclass, field

from bedplate.consensus.membership import Membership


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries first .. last as Raft sees them. Empty when last is first - 1.

    `terms` are runs, ascending: (index of a run's first entry, its term); the first begins at
    `first`. `changes` are the configuration entries among them.
    """

    first: int
    last: int
    terms: tuple[tuple[int, int], ...] = ()
    changes: tuple[tuple[int, Membership], ...] = ()

    def __len__(self) -> int:
        return self.last - self.first + 1

    def since(self, first: int) -> "Entries":
        """The entries from `first` on, which lies among them."""
        assert self.first <= first <= self.last
        term = next(term for start, term in reversed(self.terms) if start <= first)
        terms = ((first, term), *(run for run in self.terms if run[0] > first))
        changes = tuple(change for change in self.changes if change[0] >= first)
        return Entries(first, self.last, terms, changes)


@dataclass(frozen=True, slots=True)
class Message:
    """What all messages have. A source or target is a member id."""

    source: int
    target: int
    term: int


@dataclass(frozen=True, slots=True)
class PreVote(Message):
    """Would you vote for me in this term? Promises nothing (thesis, 9.6)."""

    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVoteReply(Message):
    """`term` is the one asked for when granted, else the voter's own."""

    granted: bool


@dataclass(frozen=True, slots=True)
class Vote(Message):
    """RequestVote. `transfer`: the leader itself asked for this election (thesis, 3.10)."""

    last_index: int
    last_term: int
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class VoteReply(Message):
    granted: bool


@dataclass(frozen=True, slots=True)
class Append(Message):
    """AppendEntries that carries entries, or asks whether the logs match before it does."""

    previous_index: int
    previous_term: int
    entries: Entries
    commit: int
    payload: object = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AppendReply(Message):
    """Accepted: everything through `match` is durable at the source and as the leader has it.

    Refused: nothing at `previous` fits; the highest index that may, going by terms, is `hint`
    (paper, 5.3, end), and `hint_term` the source's term there.
    """

    accepted: bool
    match: int = 0
    previous: int = 0
    hint: int = 0
    hint_term: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """I am the leader of this term. `commit` is at most what the target is known to hold."""

    commit: int
    round: int


@dataclass(frozen=True, slots=True)
class HeartbeatReply(Message):
    """The source still follows; `round` as it was sent."""

    round: int


@dataclass(frozen=True, slots=True)
class TimeoutNow(Message):
    """The target shall stand for election at once (thesis, 3.10)."""


@dataclass(frozen=True, slots=True)
class ReadIndex(Message):
    """From which index on may I answer reads that began before this message? (thesis, 6.4)"""

    context: int


@dataclass(frozen=True, slots=True)
class ReadIndexReply(Message):
    context: int
    index: int

"""Linearizable reads without a log entry (ReadIndex: thesis, 6.4).

    read arrives -> index = commit, round = the next one -> heartbeats carry the round
                                   a majority echoes it  -> the read may be answered at `index`

A leader that was deposed without knowing it never gets its round echoed. One round serves every
read that came before it went out. A follower asks its leader (Questions), which does the same for
it (Reads).
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bedplate.consensus.draft import Draft
from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import ReadIndex, ReadIndexReply


@dataclass(frozen=True, slots=True)
class PendingRead:
    """A read waiting for its round. `source` asked for it, maybe the leader itself."""

    round: int
    index: int
    source: int
    context: int


@dataclass(slots=True)
class Reads:
    """The reads of one leader in one term."""

    round: int = 0  # the newest that heartbeats carry
    pending: deque[PendingRead] = field(default_factory=deque)
    early: list[tuple[int, int]] = field(default_factory=list)  # before the term's first commit

    def begin(self, index: int, source: int, context: int) -> None:
        """A read that may be answered at `index` once the round after this is echoed."""
        self.pending.append(PendingRead(self.round + 1, index, source, context))

    @property
    def wants_round(self) -> bool:
        """Whether reads wait for a round that has not gone out."""
        return bool(self.pending) and self.pending[-1].round > self.round

    def confirmed(self, echoed: Mapping[int, int], membership: Membership) -> Iterator[PendingRead]:
        """Takes the reads whose round a majority has echoed."""
        agreed = membership.agreed(echoed)
        while self.pending and self.pending[0].round <= agreed:
            yield self.pending.popleft()

    def asked_by(self, source: int) -> list[int]:
        """The contexts of those that are not answered."""
        asked = [read.context for read in self.pending if read.source == source]
        return asked + [context for by, context in self.early if by == source]


class Questions:
    """A follower's reads, which its leader was asked about and has not answered."""

    def __init__(self, member: int, life: int, patience: int, draft: Draft) -> None:
        """Asked again after `patience` ticks. An answer to a question of another `life` is none: it
        may be too old for a read of this one that happens to have the same number.
        """
        self._member = member
        self._life = life
        self._patience = patience
        self._draft = draft
        self._waited: dict[int, int] = {}  # context -> ticks

    def ask(self, context: int, leader: int, term: int) -> None:
        self._waited[context] = 0
        self._send(context, leader, term)

    def tick(self, leader: int, term: int) -> None:
        """A question or its answer may have been lost."""
        for context, waited in self._waited.items():
            self._waited[context] = waited + 1
            if (waited + 1) % self._patience == 0:
                self._send(context, leader, term)

    def on_reply(self, message: ReadIndexReply) -> None:
        context = message.context - self._life
        if self._waited.pop(context, None) is not None:
            self._draft.answer(context, message.index)

    def drop(self) -> None:
        """Whoever was to answer leads no more: they are to be asked anew."""
        for context in self._waited:
            self._draft.answer(context, None)
        self._waited.clear()

    def _send(self, context: int, leader: int, term: int) -> None:
        self._draft.send(ReadIndex(self._member, leader, term, self._life + context))

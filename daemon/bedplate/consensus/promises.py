"""What a member may say only once it is durable, and what waits until then.

    batch 5: entries 8 9 10 of term 3      "I hold 10" (term 3) waits for batch 5
    batch 6: term 4, entries 8 9 of it     "I vote in 4" and "I hold 9" (term 4) wait for batch 6
        |                                  |
        +---- the disk, in this order -----+---> sent when the number of their batch is durable

Term and vote are durable before anything is said in that term (paper, Figure 2, "Persistent
state"), and entries before they are acknowledged. A member counts its own vote and its own match
by messages to itself that wait like all others (thesis, 10.2.1: the leader's disk is one of many).
"""

from collections import deque
from dataclasses import dataclass, field

from bedplate.consensus.messages import AppendReply, Message


@dataclass(slots=True)
class Promises:
    """Batches are numbered from 1 and become durable in order."""

    durable: int  # through here the log is durable as it is now
    number: int = 0  # the newest batch
    persisted: int = 0  # the newest one that is durable
    changed: bool = False  # term, vote or log changed since the newest batch was made
    _hard_number: int = 0  # the batch that holds the current term and vote
    _ends: deque[tuple[int, int]] = field(default_factory=deque)  # (number, index): see `batch`
    _waiting: list[tuple[int, Message]] = field(default_factory=list)

    def term_changed(self) -> None:
        self.changed = True
        self._hard_number = self.number + 1

    def log_changed(self) -> None:
        self.changed = True

    def superseded(self, first: int) -> None:
        """The entries from `first` on were replaced. The batches that held them say nothing any
        more about these indexes, not even if the same entries come back: a batch in between may
        still put the others on the disk (the ABA race).
        """
        self.durable = min(self.durable, first - 1)
        self._ends = deque((number, min(index, first - 1)) for number, index in self._ends)

    def batch(self, last: int) -> int:
        """Everything that changed becomes a batch, with the log as it is through `last`. Its
        number; 0 when nothing changed.
        """
        if not self.changed:
            return 0
        self.changed = False
        self.number += 1
        self._ends.append((self.number, last))
        return self.number

    def hold(self, message: Message) -> bool:
        """Whether a message must wait; if so, it is kept."""
        needs = self._needs(message)
        if needs <= self.persisted:
            return False
        self._waiting.append((needs, message))
        return True

    def kept(self, number: int) -> list[Message]:
        """The batches through `number` are durable: what may be said now."""
        self.persisted = max(self.persisted, number)
        while self._ends and self._ends[0][0] <= self.persisted:
            self.durable = max(self.durable, self._ends.popleft()[1])
        free = [message for needs, message in self._waiting if needs <= self.persisted]
        if free:
            self._waiting = [held for held in self._waiting if held[0] > self.persisted]
        return free

    def restored(self, index: int) -> None:
        """The log was replaced by a snapshot of `index`: what was said of later entries is void."""
        self.durable = index
        self._ends.clear()
        self._waiting = [
            (needs, message)
            for needs, message in self._waiting
            if not (isinstance(message, AppendReply) and message.match > index)
        ]

    def drop(self) -> None:
        """Nothing more will become durable."""
        self.changed = False
        self._ends.clear()
        self._waiting.clear()

    def _needs(self, message: Message) -> int:
        """The batch that must be durable before this message leaves."""
        if isinstance(message, AppendReply) and message.accepted and message.match > self.durable:
            return self.number + self.changed
        return self._hard_number

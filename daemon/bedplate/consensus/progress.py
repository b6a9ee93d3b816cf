"""What a leader knows of one member, and how fast it may send to it.

           refused / lost                   accepted
PROBE  <------------------- REPLICATE  <------------- PROBE
  |  one message a round       |  a window of messages, sent before they are answered
  |                            |
  +--- next is compacted ------+---> SNAPSHOT ---installed---> PROBE
"""

import enum
from collections import deque
from dataclasses import dataclass, field


class Pace(enum.Enum):
    """How entries are sent to a member."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class Window:
    """Messages sent and not answered, by the last index of each; bounded by count and bytes."""

    messages_max: int
    bytes_max: int
    bytes: int = 0
    _sent: deque[tuple[int, int]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        return len(self._sent) >= self.messages_max or self.bytes >= self.bytes_max

    def add(self, last: int, size: int) -> None:
        self._sent.append((last, size))
        self.bytes += size

    def free_through(self, match: int) -> None:
        """Everything up to `match` has arrived."""
        while self._sent and self._sent[0][0] <= match:
            self.bytes -= self._sent.popleft()[1]

    def clear(self) -> None:
        self._sent.clear()
        self.bytes = 0


@dataclass(slots=True)
class Progress:
    """One member, as its leader sees it."""

    next: int
    window: Window
    match: int = 0
    pace: Pace = Pace.PROBE
    waiting: bool = False  # PROBE: a message is out
    snapshot: int = 0  # SNAPSHOT: the index of the one under way
    unanswered: int = 0  # ticks for which something sent was not answered
    active: bool = False  # heard of since the last check of the quorum
    silent: int | None = None  # ticks since it was heard of; None: not since it was reached
    round: int = 0  # the last round of heartbeats it answered
    commit: int = 0  # the highest commit index it was told

    @property
    def paused(self) -> bool:
        match self.pace:
            case Pace.PROBE:
                return self.waiting
            case Pace.REPLICATE:
                return self.window.full
            case Pace.SNAPSHOT:
                return True

    def heard(self) -> None:
        """It answered something."""
        self.active = True
        self.silent = 0

    def tick(self) -> None:
        if self.silent is not None:
            self.silent += 1
        if self.waiting or len(self.window) > 0:
            self.unanswered += 1

    def lost(self) -> None:
        """It answers heartbeats, but not what it was sent: send that again, at a probe's pace."""
        self.unanswered = 0
        self.waiting = False
        if self.pace is Pace.REPLICATE:
            self.probe()

    def disconnected(self, resend_ticks: int) -> None:
        """What is under way may be lost; a probe is sent again as soon as it is heard of."""
        self.silent = None
        if self.pace is Pace.REPLICATE:
            self.probe()
        else:
            self.unanswered = resend_ticks

    def probe(self) -> None:
        """Something was lost: find out where it stands, one message at a time."""
        after_snapshot = self.snapshot + 1 if self.pace is Pace.SNAPSHOT else 0
        self._enter(Pace.PROBE)
        self.next = max(self.match + 1, after_snapshot)

    def replicate(self) -> None:
        self._enter(Pace.REPLICATE)
        self.next = self.match + 1

    def install(self, index: int) -> None:
        """A snapshot of `index` is on its way."""
        self._enter(Pace.SNAPSHOT)
        self.snapshot = index

    def sent(self, last: int, size: int) -> None:
        """Entries through `last` went out."""
        if self.pace is Pace.REPLICATE:
            self.next = last + 1
            self.window.add(last, size)
        else:
            self.waiting = True

    def accepted(self, match: int) -> bool:
        """It holds everything through `match`; whether that is news."""
        news = match > self.match
        self.match = max(self.match, match)
        self.next = max(self.next, match + 1)
        self.waiting = False
        self.window.free_through(match)
        return news

    def refused(self, previous: int, fitting: int) -> bool:
        """It does not hold what it was asked for; whether the answer is to the newest question."""
        if self.pace is Pace.REPLICATE:
            if previous <= self.match:
                return False
            self.next = self.match + 1
            return True
        if self.next - 1 != previous:
            return False
        self.next = max(min(previous, fitting + 1), self.match + 1)
        self.waiting = False
        return True

    def _enter(self, pace: Pace) -> None:
        self.pace = pace
        self.waiting = False
        self.unanswered = 0
        self.snapshot = 0
        self.window.clear()

"""What a Raft and whoever drives it hand each other. Values alone; raft.py says what they mean."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from bedplate.consensus.messages import Append, Message


class Role(enum.Enum):
    """Whether a member leads, follows, or stands for election."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are in ticks. The longest a message may take is far below an election."""

    heartbeat_ticks: int = 1
    election_ticks: int = 10  # an election starts after this many to twice as many ticks
    resend_ticks: int = 5  # what is not answered for so long by one who answers heartbeats is lost
    message_bytes_max: int = 4 << 20  # of one Append; one entry always fits
    window_messages_max: int = 128
    window_bytes_max: int = 64 << 20
    uncommitted_bytes_max: int = 64 << 20  # of a leader's own term


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be durable before it is acted upon (paper, Figure 2). `commit` may lag."""

    term: int = 0
    vote: int = 0
    commit: int = 0


@dataclass(frozen=True, slots=True)
class ReadState:
    """An answer to `read`: serve it once applied through `index`; None: ask again."""

    context: int
    index: int | None


@dataclass(frozen=True, slots=True)
class NoOp:
    """A new leader's first entry (paper, 8)."""

    term: int


@dataclass(frozen=True, slots=True)
class Ready:
    """What must happen now; see the rules at the top of raft.py."""

    number: int  # of what is to be persisted; 0: nothing
    hard_state: HardState
    entries: tuple[Append | NoOp, ...]  # for the log, in this order; later ones supersede earlier
    messages: tuple[Message, ...]
    commit: int
    reads: tuple[ReadState, ...]
    snapshots: tuple[int, ...]  # members that need one; answer with snapshot_sent
    role: Role
    leader: int  # 0: unknown


class Contradiction(Exception):
    """What a member sent cannot be if nobody ever lost what was durable. This member must stop."""


class Lost(Contradiction):
    """It is this member that has not any more what it had on its disk."""


class Differs(Contradiction):
    """What is committed here is not what the leader has: one of the two has lost it."""


class NotLeading(Exception):
    """Only a leader that is not handing over takes proposals."""


# Of the log's entries from `first` on, as many as fit `bytes_max` but at least one, up to `last`:
# the last of them and their bytes. A function of the log alone.
Reach = Callable[[int, int, int], tuple[int, int]]

"""Members whose states have come apart, and what each of them does about it.

Every member that applies a compaction entry tells the others the hash of its state there; the state
is a function of the log, so equal indexes mean equal hashes. Where they differ:

    a majority of voters agrees on one hash    who has another: out of service, until it is replaced
    every voter has spoken, no majority        nobody knows who is right: writes stop, all alarm
    else                                       nothing can be said yet
"""

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import Message

_INDEXES_MAX = 16
_AGAIN = 5


@dataclass(frozen=True, slots=True)
class StateHash(Message):
    """The source's state after the compaction entry `index` hashes to `hash`, 16 bytes."""

    index: int
    hash: bytes


class Verdict(enum.Enum):
    """What the hashes known so far say of one member."""

    SOUND = "sound"  # with a majority
    UNKNOWN = "unknown"
    DIVERGED = "diverged"  # against a majority
    NO_MAJORITY = "no majority"


def judge(member: int, hashes: Mapping[int, bytes], membership: Membership) -> Verdict:
    """Of `member`, by what members say of one index."""
    own = hashes.get(member)
    if own is None:
        return Verdict.UNKNOWN
    said = Counter(hashes[voter] for voter in membership.voters if voter in hashes)
    most, votes = said.most_common(1)[0] if said else (b"", 0)
    if votes >= membership.majority:
        return Verdict.SOUND if own == most else Verdict.DIVERGED
    missing = len(membership.voters) - said.total()
    return Verdict.UNKNOWN if votes + missing >= membership.majority else Verdict.NO_MAJORITY


@dataclass(slots=True)
class StateHashes:
    """What members said of the newest few indexes."""

    member: int
    _said: dict[int, dict[int, bytes]] = field(default_factory=dict)

    def add(self, member: int, index: int, hash_: bytes, membership: Membership) -> Verdict:
        """`member` says so; what follows for us."""
        if index not in self._said and len(self._said) >= _INDEXES_MAX:
            oldest = min(self._said)
            if index < oldest:
                return Verdict.UNKNOWN
            del self._said[oldest]
        hashes = self._said.setdefault(index, {})
        if member in membership.members:
            hashes[member] = hash_
        return judge(self.member, hashes, membership)


@dataclass(slots=True)
class Telling:
    """Which turns tell the others our newest hash: the first that has it, and now and then one
    after, because somebody may have been away.
    """

    _told: int = 0
    _turns: int = 0

    def due(self, index: int) -> bool:
        """Asked once a turn, with the index of the newest hash; 0: there is none."""
        self._turns += 1
        if index > self._told:
            self._told = index
            return True
        return self._told > 0 and self._turns % _AGAIN == 0

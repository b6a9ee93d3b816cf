"""Who is in the cluster, what a majority is, and which change may come next.

    voters     elect, and count towards commits
    learners   receive the log, and count for nothing

Changes are made one member at a time (Ongaro's thesis, 4.1): any two majorities of neighbouring
memberships share a voter, so no joint phase is needed.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class ChangeKind(enum.Enum):
    """What a change does to one member."""

    ADD_LEARNER = "add_learner"
    PROMOTE = "promote"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Change:
    """One step from a membership to the next."""

    kind: ChangeKind
    member: int


class ChangeRefused(Exception):
    """The change makes no sense for this membership; the text says why."""


@dataclass(frozen=True, slots=True)
class Membership:
    """A membership. Voters and learners are disjoint."""

    voters: frozenset[int]
    learners: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        assert not self.voters & self.learners

    @property
    def members(self) -> frozenset[int]:
        return self.voters | self.learners

    @property
    def majority(self) -> int:
        """How many voters decide."""
        return len(self.voters) // 2 + 1

    def is_majority(self, members: Iterable[int]) -> bool:
        """Whether these members, learners and strangers among them not counted, can decide."""
        return len(self.voters.intersection(members)) >= self.majority

    def agreed(self, match: Mapping[int, int]) -> int:
        """The highest number that a majority of voters has reached; who is missing has 0."""
        reached = sorted((match.get(voter, 0) for voter in self.voters), reverse=True)
        return reached[self.majority - 1] if reached else 0

    def after(self, change: Change) -> "Membership":
        """The membership that `change` leads to. Raises ChangeRefused."""
        member = change.member
        match change.kind:
            case ChangeKind.ADD_LEARNER:
                if member in self.members:
                    raise ChangeRefused(f"{member:016x} is a member already")
                return Membership(self.voters, self.learners | {member})
            case ChangeKind.PROMOTE:
                if member not in self.learners:
                    raise ChangeRefused(f"{member:016x} is not a learner")
                return Membership(self.voters | {member}, self.learners - {member})
            case ChangeKind.REMOVE:
                if member not in self.members:
                    raise ChangeRefused(f"{member:016x} is not a member")
                if self.voters == {member}:
                    raise ChangeRefused("the last voter cannot be removed")
                return Membership(self.voters - {member}, self.learners - {member})

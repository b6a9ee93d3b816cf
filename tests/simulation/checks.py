"""What must hold after every step (paper, Figure 3), looked at from outside with all disks open.

Election Safety        one leader a term; one vote a member and term
Pre-Vote               no term that nobody stands for, no candidate a majority would not elect
Log Matching           one entry a place (index, term), and one predecessor
Leader Completeness    who leads has everything that was committed in earlier terms
State Machine Safety   one entry, and one state, an index, whoever applies it
Durability             committed is on the disks of a majority; applied is on the own disk
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bedplate.consensus.messages import Message, PreVoteReply, Vote, VoteReply
from bedplate.consensus.raft import Raft
from tests.simulation.history import Violation
from tests.simulation.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Checks:
    """All raise Violation."""

    machines: Mapping[int, Machine]
    counts: Counter[str] = field(default_factory=Counter)
    leaders: dict[int, int] = field(default_factory=dict)  # by term
    _terms: set[int] = field(default_factory=lambda: {1})  # that somebody stood for
    _pre_votes: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    _votes: dict[tuple[int, int], int] = field(default_factory=dict)  # (voter, term): for whom
    _entries: dict[tuple[int, int], tuple[int, object]] = field(default_factory=dict)
    _committed: dict[int, int] = field(default_factory=dict)  # index: term
    _committed_through: int = 0
    _committed_by: dict[int, int] = field(default_factory=dict)  # the leader's term: index
    _applied: dict[int, tuple[int, int | None]] = field(default_factory=dict)

    @property
    def committed(self) -> int:
        return self._committed_through

    def sent(self, message: Message, raft: Raft) -> None:
        """A message has left a member."""
        if isinstance(message, VoteReply):
            if message.granted:
                self._voted(message.source, message.term, message.target)
        elif isinstance(message, PreVoteReply):
            if message.granted:
                place = (message.target, message.term)
                self._pre_votes.setdefault(place, {message.target}).add(message.source)
        elif isinstance(message, Vote):
            self._voted(message.source, message.term, message.source)
            would = self._pre_votes.get((message.source, message.term), {message.source})
            if not message.transfer and not raft.membership.is_majority(would):
                raise Violation(f"{message.source} stands in {message.term}; only {would} agreed")

    def _voted(self, voter: int, term: int, candidate: int) -> None:
        if self._votes.setdefault((voter, term), candidate) != candidate:
            raise Violation(f"{voter} voted twice in term {term}")

    def termed(self, raft: Raft) -> None:
        """A member has taken another term."""
        if raft.vote == raft.member:
            self._terms.add(raft.term)
        elif raft.term not in self._terms:
            raise Violation(f"{raft.member} is in term {raft.term}, for which nobody stood")

    def leads(self, raft: Raft) -> None:
        """A member has begun to lead."""
        self.counts["elections"] += 1
        if self.leaders.setdefault(raft.term, raft.member) != raft.member:
            other = self.leaders[raft.term]
            raise Violation(f"{raft.member} and {other} both lead term {raft.term}")
        for term, index in self._committed_by.items():
            holds = index <= raft.log.compacted or raft.log.holds(index, self._committed[index])
            if term < raft.term and not holds:
                raise Violation(f"{raft.member} leads without {index}, committed in term {term}")

    def turned(self, raft: Raft, commit: int) -> int:
        """A member has done its turn; `commit` was its index the turn before. The new one."""
        machine = self.machines[raft.member]
        for entry in machine.appended():
            place, what = (entry.index, entry.term), (entry.previous_term, entry.content)
            if self._entries.setdefault(place, what) != what:
                raise Violation(f"two entries at {place}: {what} and {self._entries[place]}")
        if (raft.log.last, raft.log.last_term) != machine.last() and not raft.failed:
            raise Violation(f"{raft.member} has {machine.last()}, Raft thinks {raft.log.last}")
        if raft.commit > commit:
            self._check_commit(raft, commit)
        elif raft.commit < commit:
            raise Violation(f"{raft.member} took back its commit of {commit}")
        return raft.commit

    def _check_commit(self, raft: Raft, before: int) -> None:
        for index in range(max(before, raft.log.compacted) + 1, raft.commit + 1):
            term = raft.log.term(index)
            assert term is not None
            if self._committed.setdefault(index, term) != term:
                raise Violation(f"{index} committed with terms {self._committed[index]}, {term}")
        self._committed_through = max(self._committed_through, raft.commit)
        if raft.is_leader:
            self._committed_by[raft.term] = raft.commit
            self._check_durable(raft)

    def _check_durable(self, raft: Raft) -> None:
        """Whoever crashes now, what a leader has just committed stays."""
        index, membership = raft.commit, raft.membership
        term = raft.log.term(index)
        assert term is not None
        voters = {voter: self.machines[voter] for voter in membership.voters}
        holders = {voter for voter, machine in voters.items() if machine.holds(index, term)}
        if not membership.is_majority(holders):
            raise Violation(f"{index} committed; on the disks of {holders} alone")
        ends = {voter: machine.kept()[::-1] for voter, machine in voters.items()}
        for other in voters.keys() - holders:
            if membership.is_majority(v for v in voters if ends[v] <= ends[other]):
                raise Violation(f"{index} committed; {other} may be elected without it")

    def applied(self, raft: Raft) -> None:
        """A member has applied entries."""
        machine = self.machines[raft.member]
        for entry in machine.applied():
            term, digest = self._applied.get(entry.index, (entry.term, None))
            differs = None not in (digest, entry.digest) and digest != entry.digest
            if term != entry.term or differs:
                raise Violation(f"{raft.member} applied another {entry.index} than others")
            self._applied[entry.index] = (term, entry.digest if digest is None else digest)
            if entry.index > raft.commit:
                raise Violation(f"{raft.member} applied {entry.index}, not committed")
            if not machine.holds(entry.index, entry.term):
                raise Violation(f"{raft.member} applied {entry.index}, not durable there")

"""A member in a script (see script.py): a Raft, a log of entries without payload, and a disk that
takes batches when it is told to.

    Raft.ready() --> carry_out: log, batches --> persist --> disk --> start (after a crash)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import Entries
from bedplate.consensus.raft import Raft
from bedplate.consensus.ready import HardState, NoOp, Ready, Settings
from tests.simulation.wording import describe


@dataclass(slots=True)
class Log:
    """Entries of a member, with what they hold as far as Raft cares."""

    base: int = 0
    base_term: int = 0
    base_membership: Membership = field(default_factory=lambda: Membership(frozenset()))
    terms: list[int] = field(default_factory=list)
    changes: dict[int, Membership] = field(default_factory=dict)

    @property
    def last(self) -> int:
        return self.base + len(self.terms)

    def copy(self) -> Log:
        head = (self.base, self.base_term, self.base_membership)
        return Log(*head, list(self.terms), dict(self.changes))

    def term(self, index: int) -> int:
        return self.base_term if index == self.base else self.terms[index - self.base - 1]

    def append(self, term: int, change: Membership | None = None) -> None:
        self.terms.append(term)
        if change is not None:
            self.changes[self.last] = change

    def take(self, entries: Entries) -> str:
        """As a store does; what that meant."""
        said, taken = "", []
        changes = dict(entries.changes)
        for index in range(max(entries.first, self.base + 1), entries.last + 1):
            term = next(term for start, term in reversed(entries.terms) if start <= index)
            if index <= self.last:
                if self.term(index) == term:
                    continue
                said = f" instead of {self.name(index, self.last)}"
                del self.terms[index - self.base - 1 :]
                self.changes = {at: m for at, m in self.changes.items() if at < index}
            taken.append(index)
            self.append(term, changes.get(index))
        return f"takes {self.name(taken[0], taken[-1])}{said}"

    def name(self, first: int, last: int) -> str:
        one = [f"{index}@{self.term(index)}" for index in (first, last)]
        return one[0] if first == last else f"{one[0]}..{one[1]}"

    def for_raft(self) -> EntryLog:
        log = EntryLog(self.base, self.base_term, self.base_membership)
        for index, term in enumerate(self.terms, self.base + 1):
            change = self.changes.get(index)
            changes = ((index, change),) if change is not None else ()
            log.append(Entries(index, index, ((index, term),), changes))
        return log


class Actor:
    """One member: a Raft, its log, its disk."""

    def __init__(self, member: int, settings: Settings, log: Log, hard_state: HardState) -> None:
        self.member = member
        self.settings = settings
        self.disk, self.disk_state = log, hard_state
        self.lives = 0
        self.start()

    def start(self) -> None:
        self.lives += 1
        self.log = self.disk.copy()
        self.batches: list[tuple[int, HardState, Log]] = []
        self.up = True
        self.said = ("follower", self.disk_state.term, 0)
        self.commit = max(self.disk_state.commit, self.log.base)
        self.raft = Raft(
            self.member,
            settings=self.settings,
            log=self.log.for_raft(),
            hard_state=self.disk_state,
            reach=self._reach,
            random=self._random,
        )

    def _random(self, n: int) -> int:
        """Of a timeout's few ticks, and of a life."""
        return (self.member - 1) % n if n < 1000 else (self.lives - 1) * 100

    def _reach(self, first: int, last: int, bytes_max: int) -> tuple[int, int]:
        """Every entry is taken to have 10 bytes."""
        last = max(first, min(last, first + bytes_max // 10 - 1))
        return last, (last - first + 1) * 10

    def carry_out(self, ready: Ready) -> Iterator[str]:
        """The lines that a Ready is worth, in the order of the rules in raft.py."""
        raft = self.raft
        says = (raft.role.value, raft.term, raft.leader)
        if says != self.said:
            self.said = says
            follows = f", follows {raft.leader}" if raft.leader not in (0, self.member) else ""
            yield f"! {self.member} {raft.role.value} in term {raft.term}{follows}"
        for entry in ready.entries:
            if isinstance(entry, NoOp):
                self.log.append(entry.term)
                yield f"{self.member} appends {self.log.name(self.log.last, self.log.last)}"
            else:
                yield f"{self.member} {self.log.take(entry.entries)}"
        if ready.number:
            self.batches.append((ready.number, ready.hard_state, self.log.copy()))
        for message in ready.messages:
            yield f"{message.source} -> {message.target}  {describe(message)}"
        if ready.commit > self.commit:
            self.commit = ready.commit
            yield f"! {self.member} commits {self.commit}"
        for read in ready.reads:
            answer = "ask again" if read.index is None else f"at {read.index}"
            yield f"{self.member} read {read.context}: {answer}"
        for member in ready.snapshots:
            yield f"{self.member} must send {member} a snapshot"

    def persist(self, count: int) -> None:
        for number, hard_state, log in self.batches[:count]:
            self.disk, self.disk_state = log, hard_state
            self.raft.persisted(number)
        del self.batches[:count]

    def status(self) -> Iterator[str]:
        raft = self.raft
        if not self.up:
            yield f"{self.member} is down"
            return
        terms = " ".join(map(str, self.log.terms))
        base = f"compacted through {self.log.name(self.log.base, self.log.base)}, then " * bool(
            self.log.base
        )
        yield (
            f"{self.member} {raft.role.value} in term {raft.term}: commit {raft.commit}, "
            f"{base}terms {terms}"
        )
        for member, progress in sorted(raft.progress.items()):
            if member != self.member:
                paused = ", paused" if progress.paused else ""
                pace = progress.pace.value
                yield f"  {member} {pace} match {progress.match} next {progress.next}{paused}"

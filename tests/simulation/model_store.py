"""A store for Raft to replicate, as simple as can be: what the engine does, without its speed.

    queued --gather--> table: entries base+1 ..           applied <= min(commit, durable)
      |                   | persist(number, hard state)
      +--forward--> batch v
                     [ batches to write ] --step_log--> Disk: entries, hard state, checkpoint

Durable is what the disk has of the table as it is now: everything before the first entry that a
batch still to be written, or none yet, holds.
"""

from __future__ import annotations

import marshal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from bedplate.consensus.membership import Membership
from bedplate.consensus.ready import HardState
from bedplate.consensus.replica import StoreState
from tests.simulation.machine import (
    Answer,
    Appended,
    Applied,
    BatchCompletion,
    Completion,
    Failure,
    Outcome,
    Read,
    Write,
)

NOOP, CONFIG, WRITES = range(3)
WRITE_BYTES = 100  # what a write is taken to need
# (term, type, content): nothing; voters and learners; writes. Plain tuples, for marshal.
Entry = tuple[int, int, tuple[object, ...]]


@dataclass(slots=True)
class State:
    """What applying entries leads to. The same entries lead to the same state everywhere."""

    index: int
    term: int
    membership: Membership
    revision: int = 0
    digest: int = 0
    values: dict[str, tuple[int, int]] = field(default_factory=dict)  # key: (value, version)
    requests: dict[int, tuple[int, Answer]] = field(default_factory=dict)  # client: its last

    def copy(self) -> State:
        head = (self.index, self.term, self.membership, self.revision, self.digest)
        return State(*head, dict(self.values), dict(self.requests))

    def close(self) -> None:
        """As a Snapshot: nothing holds it."""

    def apply(self, entry: Entry) -> list[Outcome]:
        """The next entry; what its writes return."""
        self.index += 1
        self.term, type_, content = entry
        outcomes: list[Outcome] = []
        if type_ == CONFIG:
            self.membership = membership_of(entry)
        elif type_ == WRITES:
            outcomes = [self.write(Write(*write)) for write in content]  # type: ignore[misc]
        self.digest = hash((self.digest, self.index, self.term, tuple(outcomes)))
        return outcomes

    def write(self, write: Write) -> Outcome:
        number, answer = self.requests.get(write.client, (0, Answer(0, 0, 0)))
        if write.number == number:
            return answer  # a retry gets the first result
        if write.number < number:
            return Failure(unknown=True)  # its client has gone on
        self.revision += 1
        version = self.values.get(write.key, (0, 0))[1] + 1
        self.values[write.key] = (write.value, version)
        answer = Answer(write.value, version, self.revision)
        self.requests[write.client] = (write.number, answer)
        return answer

    def read(self, key: str) -> Answer:
        return Answer(*self.values.get(key, (0, 0)), self.revision)


class Batch(NamedTuple):
    """What one `persist` wrote: the log is these entries from `first` on."""

    number: int
    hard_state: HardState
    first: int
    entries: list[Entry]


@dataclass(slots=True)
class Disk:
    """What survives. Entries follow `base`; the checkpoint may be further on."""

    checkpoint: State
    hard_state: HardState = field(default_factory=HardState)
    base: int = 0
    base_term: int = 0
    entries: list[Entry] = field(default_factory=list)
    torn: list[list[Batch]] = field(default_factory=list)  # by each crash; nobody looks at it

    def write(self, batch: Batch) -> None:
        self.hard_state = batch.hard_state
        if batch.entries:
            del self.entries[batch.first - self.base - 1 :]
            assert len(self.entries) == batch.first - self.base - 1
            self.entries.extend(batch.entries)

    def last(self) -> tuple[int, int]:
        index, checkpoint = self.base + len(self.entries), self.checkpoint
        if index <= checkpoint.index:
            return checkpoint.index, checkpoint.term
        return index, self.entries[-1][0]

    def holds(self, index: int, term: int) -> bool:
        if index <= self.checkpoint.index:
            return True
        at = index - self.base - 1
        return at < len(self.entries) and self.entries[at][0] == term


class ModelStore:
    """Fits ReplicatedStore. A new one after each start."""

    keep = 12  # applied entries that stay in the log for those who lag a little
    checkpoint_every = 16

    def __init__(self, disk: Disk, stalled_ms: Callable[[], int]) -> None:
        self.disk = disk
        self.applied_state = disk.checkpoint.copy()
        self.base = disk.checkpoint.index
        self.base_term = disk.checkpoint.term
        self.entries = disk.entries[self.base - disk.base :]
        disk.base, disk.base_term, disk.entries = self.base, self.base_term, list(self.entries)
        self.committed = max(disk.hard_state.commit, self.base)
        self.failed = False
        self.completions: list[Completion | BatchCompletion] = []
        self.appended: list[Appended] = []
        self.applied: list[Applied] = []
        self._stalled_ms = stalled_ms
        self.to_write: deque[Batch] = deque()
        self._changed_from = self.last + 1  # from here on the table differs from what was handed on
        self._persisted = 0
        self._leading = False
        # what waits: own writes by their cookie, batches of others by (their cookie,)
        self._writes: deque[tuple[int | tuple[int], tuple[Write, ...]]] = deque()
        self._groups: dict[int, tuple[int, list[tuple[int | tuple[int], int]]]] = {}
        self._reads: list[tuple[int, Read]] = []
        self._gates: dict[int, list[tuple[int, Read]]] = {}
        self._released: list[tuple[int, list[tuple[int, Read]]]] = []
        self._forwarded: dict[int, list[int]] = {}
        self._names = 0  # of gates and batches

    # ---- the log -------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    @property
    def durable(self) -> int:
        pending = [batch.first for batch in self.to_write if batch.entries]
        return min(self._changed_from, *pending, self.last + 1) - 1

    def term(self, index: int) -> int:
        return self.entries[index - self.base - 1][0] if index > self.base else self.base_term

    def look(self) -> StoreState:
        return StoreState(
            persisted=self._persisted,
            applied=self.applied_state.index,
            queued_writes=len(self._writes),
            queued_reads=len(self._reads),
            queued_arrivals=len(self._writes),
            failed=self.failed,
            stalled_ms=self._stalled_ms(),
        )

    def _append(self, entry: Entry) -> None:
        previous_term = self.term(self.last)
        self.entries.append(entry)
        self.appended.append(Appended(self.last, entry[0], previous_term, entry))

    def hold(self, write_bytes: int, arrivals: int, reads: bool) -> None:
        """The world gives every member its turns."""

    def gather(self, term: int, bytes_max: int) -> tuple[int, int]:
        writes: list[Write] = []
        group: list[tuple[int | tuple[int], int]] = []
        while self._writes:
            cookie, some = self._writes[0]
            if writes and (len(writes) + len(some)) * WRITE_BYTES > bytes_max:
                break
            self._writes.popleft()
            writes.extend(some)
            group.append((cookie, len(some)))
        if not writes:
            return self.last, 0
        self._append((term, WRITES, tuple(tuple(write) for write in writes)))
        self._groups[self.last] = (term, group)
        return self.last, len(writes) * WRITE_BYTES

    def propose_noop(self, term: int) -> None:
        self._append((term, NOOP, ()))

    def propose_change(self, term: int, membership: Membership) -> int:
        content = (tuple(sorted(membership.voters)), tuple(sorted(membership.learners)))
        self._append((term, CONFIG, content))
        return WRITE_BYTES

    def receive(self, payload: bytes) -> None:
        first, entries = marshal.loads(payload)
        for index, entry in enumerate(entries, first):
            if index <= self.base or (index <= self.last and self.term(index) == entry[0]):
                continue
            if index <= self.last:
                assert not any(at >= index for at in self._groups), "an entry with tickets is lost"
                del self.entries[index - self.base - 1 :]
                self._changed_from = min(self._changed_from, index)
            self._append(entry)

    def persist(self, number: int, hard_state: HardState) -> None:
        changed = self.entries[self._changed_from - self.base - 1 :]
        self.to_write.append(Batch(number, hard_state, self._changed_from, changed))
        self._changed_from = self.last + 1

    def write_batches(self, count: int) -> None:
        """The first `count` batches become durable."""
        for _ in range(count):
            batch = self.to_write.popleft()
            self.disk.write(batch)
            self._persisted = batch.number

    def message(self, first: int, last: int) -> bytes:
        entries = self.entries[first - self.base - 1 : last - self.base]
        return marshal.dumps((first, entries))

    def reach(self, first: int, last: int, bytes_max: int) -> tuple[int, int]:
        end, size = first - 1, 0
        while end < last:
            entry = self.entries[end - self.base]
            needs = max(1, len(entry[2])) * WRITE_BYTES
            if end >= first and size + needs > bytes_max:
                break
            end, size = end + 1, size + needs
        return end, size

    def compact(self, applied: int) -> int:
        state = self.applied_state
        if state.index - self.disk.checkpoint.index >= self.checkpoint_every:
            self.disk.checkpoint = state.copy()
        base = min(self.disk.checkpoint.index, applied - self.keep)
        if base > self.base:
            self.base_term = self.term(base)
            del self.entries[: base - self.base]
            del self.disk.entries[: base - self.disk.base]
            self.base = self.disk.base = base
            self.disk.base_term = self.base_term
        return self.base

    # ---- applying ------------------------------------------------------------------------------

    def commit(self, index: int) -> None:
        self.committed = max(self.committed, index)

    @property
    def may_apply(self) -> int:
        """Through here. What is not durable here could be lost here, and then be missing."""
        return min(self.committed, self.durable)

    def apply(self) -> None:
        """Everything that may be."""
        state = self.applied_state
        through = self.may_apply
        while state.index < through:
            entry = self.entries[state.index - self.base]
            outcomes = state.apply(entry)
            self.applied.append(Applied(state.index, state.term, state.digest))
            term, group = self._groups.pop(state.index, (0, []))
            if term == entry[0]:
                self._finish(group, outcomes)
        self._serve()

    def _finish(self, group: list[tuple[int | tuple[int], int]], outcomes: list[Outcome]) -> None:
        at = 0
        for cookie, count in group:
            some = outcomes[at : at + count]
            at += count
            if isinstance(cookie, int):
                self.completions.append(Completion(cookie, some[0]))
            else:
                self.completions.append(BatchCompletion(cookie[0], pack(some)))

    def _serve(self) -> None:
        state, later = self.applied_state, []
        for index, reads in self._released:
            if index > state.index:
                later.append((index, reads))
            else:
                for cookie, read in reads:
                    self.completions.append(Completion(cookie, state.read(read.key)))
        self._released = later

    # ---- clients -------------------------------------------------------------------------------

    def submit(self, cookie: int, operation: Write | Read) -> None:
        if self.failed and isinstance(operation, Write):
            self.completions.append(Completion(cookie, Failure(unknown=False)))
        elif isinstance(operation, Write):
            self._writes.append((cookie, (operation,)))
        else:
            self._reads.append((cookie, operation))

    def take_batch(self, cookie: int, requests: bytes) -> None:
        writes = tuple(Write(*write) for write in marshal.loads(requests))
        self._writes.append(((cookie,), writes))

    def answer_batch(self, batch: int, outcomes: bytes) -> None:
        cookies = self._forwarded.pop(batch, None)
        if cookies is not None:
            for cookie, outcome in zip(cookies, unpack(outcomes), strict=True):
                self.completions.append(Completion(cookie, outcome))

    def lead(self, leading: bool, term: int) -> None:
        self._leading = leading
        if leading:
            return
        for _, group in self._groups.values():
            for cookie, count in group:
                lost: list[Outcome] = [Failure(unknown=True)] * count
                self._finish([(cookie, count)], lost)
        self._groups.clear()
        kept = deque(item for item in self._writes if isinstance(item[0], int))
        for cookie, _ in self._writes:
            if not isinstance(cookie, int):
                self.completions.append(BatchCompletion(cookie[0], None))
        self._writes = kept

    def gate(self) -> int:
        if not self._reads:
            return 0
        self._names += 1
        self._gates[self._names] = self._reads
        self._reads = []
        return self._names

    def release(self, gate: int, index: int) -> None:
        self._released.append((index, self._gates.pop(gate)))
        self._serve()

    def refuse(self, gate: int) -> None:
        self._fail([cookie for cookie, _ in self._gates.pop(gate)], unknown=False)

    def forward(self, bytes_max: int) -> tuple[int, bytes] | None:
        if not self._writes:
            return None
        self._names += 1
        cookies: list[int] = []
        writes: list[Write] = []
        while self._writes and len(writes) * WRITE_BYTES < bytes_max:
            cookie, some = self._writes.popleft()
            assert isinstance(cookie, int), "a batch is not forwarded again"
            cookies.append(cookie)
            writes.extend(some)
        self._forwarded[self._names] = cookies
        return self._names, marshal.dumps([tuple(write) for write in writes])

    def forward_failed(self, batch: int, *, sent: bool) -> None:
        self._fail(self._forwarded.pop(batch), unknown=sent)

    def refuse_queued(self) -> None:
        self._fail_writes()
        reads, self._reads = self._reads, []
        self._fail([cookie for cookie, _ in reads], unknown=False)

    def give_up(self) -> None:
        self._fail_writes()
        released, self._released = self._released, []
        for _, reads in released:
            self._fail([cookie for cookie, _ in reads], unknown=False)

    def _fail_writes(self) -> None:
        """Those that are queued."""
        writes, self._writes = self._writes, deque()
        for cookie, _ in writes:
            if isinstance(cookie, int):
                self._fail([cookie], unknown=False)
            else:
                self.completions.append(BatchCompletion(cookie[0], None))

    def _fail(self, cookies: list[int], *, unknown: bool) -> None:
        self.completions.extend(Completion(cookie, Failure(unknown)) for cookie in cookies)

    # ---- snapshots -----------------------------------------------------------------------------

    def install(self, state: State) -> bool:
        """Only when nothing else is on its way to the disk."""
        if self.to_write or self._changed_from <= self.last or self.failed:
            return False
        assert not self._groups
        self.applied_state = state.copy()
        self.base, self.base_term, self.entries = state.index, state.term, []
        self.committed = max(self.committed, state.index)
        self._changed_from = self.last + 1
        self.disk.checkpoint = state.copy()
        self.disk.base, self.disk.base_term, self.disk.entries = state.index, state.term, []
        self._serve()
        return True


def membership_of(entry: Entry) -> Membership:
    voters, learners = entry[2]
    return Membership(frozenset(voters), frozenset(learners))  # type: ignore[call-overload]


def pack(outcomes: list[Outcome]) -> bytes:
    return marshal.dumps([tuple(outcome) for outcome in outcomes])


def unpack(outcomes: bytes) -> list[Outcome]:
    return [
        Failure(*outcome) if len(outcome) == 1 else Answer(*outcome)
        for outcome in marshal.loads(outcomes)
    ]

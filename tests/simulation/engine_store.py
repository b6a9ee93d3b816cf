"""The engine's store as a replica drives it, and notes of what the replica had it do.

appended   every entry that came to the log's end, and a hash of its bytes
handed     what `persist` handed to the log and no sync covers yet
Shadow     what the disk must still have after a crash now, whatever it loses
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from zlib import crc32

from bedplate._native import ffi, lib
from bedplate.consensus.membership import Membership
from bedplate.consensus.raft_store import RaftStore
from bedplate.consensus.ready import HardState
from bedplate.consensus.replica import StoreState
from bedplate.native.simulation import SteppedStore
from tests.simulation.machine import Appended

FIRST_INDEX = struct.Struct("<16xQ")  # of a message: where its first entry has its index


@dataclass(slots=True)
class Shadow:
    """A log as terms: entries base + 1 .. Whatever base stands for is on the disk."""

    base: int = 0
    base_term: int = 0
    terms: list[int] = field(default_factory=list)
    hard_state: HardState = field(default_factory=HardState)

    @property
    def last(self) -> int:
        return self.base + len(self.terms)

    def term(self, index: int) -> int | None:
        """None for an entry that is not there, or is behind the base."""
        if index == self.base:
            return self.base_term
        return self.terms[index - self.base - 1] if self.base < index <= self.last else None

    def end(self) -> tuple[int, int]:
        return self.last, self.terms[-1] if self.terms else self.base_term

    def take(self, index: int, term: int) -> None:
        """An entry: supersedes whatever differs from it, with all that follows."""
        if self.term(index) == term or index <= self.base:
            return
        assert index <= self.last + 1
        del self.terms[index - self.base - 1 :]
        self.terms.append(term)

    def holds(self, index: int, term: int) -> bool:
        return index <= self.base or self.term(index) == term


class EngineStore(RaftStore):
    """Fits ReplicatedStore. A new one after each start."""

    def __init__(
        self,
        stepped: SteppedStore,
        retain_bytes: int,
        *,
        stalled_ms: Callable[[], int],
        tell_time: Callable[[], None],
        maintain: Callable[[], None],
    ) -> None:
        super().__init__(stepped, retain_bytes)
        self.stepped = stepped
        self.shadow = Shadow()
        self.appended: list[Appended] = []
        self.handed: deque[tuple[int, HardState]] = deque()
        self.failed = False
        self.may_apply = self.applied_index = 0
        self._stalled_ms = stalled_ms
        self._tell_time = tell_time
        self._maintain = maintain
        self._table = Shadow()  # the log as it is, durable or not
        self._differs_from = 1  # entries from here on may not be in the shadow
        self._status = ffi.new("struct bp_status *")
        self.gather = self._gather
        self.receive = self._receive
        self.commit = self._commit

    def begin(self, table: Shadow) -> None:
        """What was found on the disk."""
        self._table = table
        self.shadow = replace(table, terms=list(table.terms))
        self._differs_from = table.last + 1
        self.look()

    # ---- what is durable -----------------------------------------------------------------------

    def look(self) -> StoreState:
        self._tell_time()
        state = super().look()
        self._settle()
        self.failed = state.failed
        return replace(state, stalled_ms=max(state.stalled_ms, self._stalled_ms()))

    def _settle(self) -> None:
        """The shadow follows what the engine says is durable."""
        state = self._native.look()
        while self.handed and self.handed[0][0] <= state.persisted:
            self.shadow.hard_state = self.handed.popleft()[1]
        for index in range(self._differs_from, state.durable_index + 1):
            term = self._table.term(index)
            assert term is not None
            self.shadow.take(index, term)
        self._differs_from = max(self._differs_from, state.durable_index + 1)
        self.applied_index = state.applied_index
        self.may_apply = min(state.committed_index, state.durable_index)

    def superseded(self) -> int:
        """The first durable entry that a newer leader has replaced, its own not being durable yet:
        a checkpoint need not keep it. Behind the end where there is none.
        """
        shadow = self.shadow
        for index in range(max(shadow.base, self._table.base) + 1, shadow.last + 1):
            if self._table.term(index) != shadow.term(index):
                return index
        return shadow.last + 1

    @property
    def settled(self) -> bool:
        """Nothing is on its way to the disk."""
        return not self.handed and self._differs_from > self._table.last and not self.failed

    # ---- the log's end -------------------------------------------------------------------------

    def term(self, index: int) -> int | None:
        return self._table.term(index)

    def end(self) -> tuple[int, int]:
        return self._table.end()

    def _notice(self, first: int) -> None:
        """Entries from `first` on may be new."""
        for entry in self._native.entries(max(first, self._table.base + 1)):
            index = entry.index
            if self._table.term(index) == entry.term:
                continue
            previous = self._table.term(index - 1)
            assert previous is not None, "a log with a hole"
            self._table.take(index, entry.term)
            self._differs_from = min(self._differs_from, index)
            content = (entry.type, crc32(self._native.message(index, index)))
            self.appended.append(Appended(index, entry.term, previous, content))

    def _gather(self, term: int, bytes_max: int) -> tuple[int, int]:
        last = self._table.last
        gathered = self._native.gather(term, bytes_max)
        self._notice(last + 1)
        return gathered

    def propose_noop(self, term: int) -> None:
        super().propose_noop(term)
        self._notice(self._table.last + 1)

    def propose_change(self, term: int, membership: Membership) -> int:
        size = super().propose_change(term, membership)
        self._notice(self._table.last + 1)
        return size

    def _receive(self, payload: bytes) -> None:
        self._native.receive(payload)
        self._notice(FIRST_INDEX.unpack_from(payload)[0])

    def persist(self, number: int, hard_state: HardState) -> None:
        super().persist(number, hard_state)
        self.handed.append((number, hard_state))

    def _commit(self, index: int) -> None:
        self._native.commit(index)
        self._settle()

    def compact(self, applied: int) -> int:
        self._maintain()
        return super().compact(applied)

    # ---- the state -----------------------------------------------------------------------------

    def digest(self) -> tuple[int, int, int]:
        """The applied index, and the hash of the state there."""
        lib.bp_get_status(self.stepped.pointer, self._status)
        status = self._status
        return int(status.applied_index), int(status.state_hash[0]), int(status.state_hash[1])

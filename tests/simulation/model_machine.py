"""A computer whose store is the model: batches reach its disk in order, or a crash takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import Entries
from bedplate.consensus.ready import HardState
from tests.simulation.machine import (
    Appended,
    Applied,
    BatchCompletion,
    Completion,
    LeaseCall,
    Machine,
    Operation,
    Recovered,
    Snapshot,
)
from tests.simulation.model_store import CONFIG, Disk, ModelStore, State, membership_of


class ModelMachine:
    """Fits Machine."""

    installs_by_restart = False

    def __init__(
        self,
        founders: frozenset[int],
        stalled_ms: Callable[[], int],
        *,
        store_type: type[ModelStore] = ModelStore,
        log_type: type[EntryLog] = EntryLog,
    ) -> None:
        """`founders`: the voters of a cluster that begins; nobody, for a machine that joins one."""
        self._disk = Disk(State(0, 0, Membership(frozenset())))
        self.lost_sectors = 0
        if founders:
            self._disk.entries.append((1, CONFIG, (tuple(sorted(founders)), ())))
            self._disk.hard_state = HardState(1, 0, 1)
        self._stalled_ms = stalled_ms
        self._store_type = store_type
        self._log_type = log_type
        self.store: ModelStore = store_type(self._disk, stalled_ms)

    def start(self) -> Recovered:
        self.store = store = self._store_type(self._disk, self._stalled_ms)
        checkpoint = self._disk.checkpoint
        log = self._log_type(checkpoint.index, checkpoint.term, checkpoint.membership)
        for index, entry in enumerate(store.entries, store.base + 1):
            changes = ((index, membership_of(entry)),) if entry[1] == CONFIG else ()
            log.append(Entries(index, index, ((index, entry[0]),), changes))
        return Recovered(log, self._disk.hard_state)

    def crash(self, random: Random) -> int:
        store = self.store
        store.write_batches(random.randint(0, len(store.to_write)))
        self._disk.torn.append(list(store.to_write))
        self.lost_sectors += len(store.to_write)
        return len(store.to_write)

    def has_log_work(self) -> bool:
        return bool(self.store.to_write) and not self.store.failed

    def step_log(self, random: Random) -> None:
        count = len(self.store.to_write)
        self.store.write_batches(count if random.random() < 0.7 else random.randint(1, count))

    def fail_log(self, random: Random) -> None:
        self.store.failed = True

    def has_apply_work(self) -> bool:
        return self.store.applied_state.index < self.store.may_apply

    def step_apply(self) -> None:
        self.store.apply()

    def submit(self, cookie: int, operation: Operation) -> None:
        assert not isinstance(operation, LeaseCall), "the model has no leases"
        self.store.submit(cookie, operation)

    def take_batch(self, cookie: int, requests: bytes) -> None:
        self.store.take_batch(cookie, requests)

    def answer_batch(self, batch: int, outcomes: bytes) -> None:
        self.store.answer_batch(batch, outcomes)

    def completions(self) -> list[Completion | BatchCompletion]:
        taken, self.store.completions = self.store.completions, []
        return taken

    def snapshot(self) -> Snapshot:
        return self.store.applied_state.copy()

    def install(self, snapshot: Snapshot, hard_state: HardState) -> bool:
        assert isinstance(snapshot, State)
        return self.store.install(snapshot)

    # Its disk keeps what it has, and is endless.

    def repair(self, others: Sequence[Machine]) -> int:
        return 0

    def flip(self, random: Random) -> bool:
        return False

    def misread(self, random: Random) -> None:
        pass

    def fill_disk(self, random: Random) -> None:
        pass

    def empty_disk(self) -> None:
        pass

    def close(self) -> None:
        pass

    def appended(self) -> list[Appended]:
        taken, self.store.appended = self.store.appended, []
        return taken

    def applied(self) -> list[Applied]:
        taken, self.store.applied = self.store.applied, []
        return taken

    def last(self) -> tuple[int, int]:
        return self.store.last, self.store.term(self.store.last)

    def kept(self) -> tuple[int, int]:
        return self._disk.last()

    def holds(self, index: int, term: int) -> bool:
        return self._disk.holds(index, term)

    def state(self) -> object:
        state = self.store.applied_state
        return (state.index, state.digest, state.revision, state.values, state.requests)

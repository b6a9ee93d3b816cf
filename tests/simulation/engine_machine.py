"""A computer that runs the engine that ships, on a disk and a clock in memory.

                 start --> bp_open_sim          step_log --> bp_step_log: everything handed over
    crash --> torn write, power cut             step_apply --> bp_step_apply

Between its rounds nothing is unsynced, so a crash begins a round of its own: the power goes in the
middle of some byte of it, and of the sectors written until then some are lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from bedplate.consensus.membership import Membership
from bedplate.consensus.ready import HardState
from bedplate.native.completions import CompletionQueue
from bedplate.native.errors import StoreError
from bedplate.native.options import Options
from bedplate.native.simulation import SimulatedMachine, SteppedStore
from bedplate.native.snapshot import (
    NativeInstall,
    NativeManifest,
    damaged,
    fetch,
    repair,
)
from bedplate.native.store import Keyspace
from tests.simulation.engine_requests import decode, encode, failure
from tests.simulation.engine_store import EngineStore, Shadow
from tests.simulation.history import Violation
from tests.simulation.machine import (
    Appended,
    Applied,
    BatchCompletion,
    Completion,
    Machine,
    Operation,
    Outcome,
    Recovered,
    Refused,
    Snapshot,
)
from tests.simulation.timeline import MS

WRITE_BYTES = 300  # what a write needs, most often
CLUSTER = bytes(range(16))
DIRECTORY = "store"
SEGMENT_BYTES = 8 << 20
CHECKPOINT_BYTES = 16 << 10
CACHE_BYTES = 4 << 10
PIECE = 700  # of a manifest


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """A manifest; its values are still the sender's, as long as it lives."""

    index: int
    term: int
    membership: Membership
    manifest: bytes
    source: EngineMachine
    life: int
    pin: NativeManifest

    def close(self) -> None:
        self.source.unpin(self)


class EngineMachine:
    """Fits Machine."""

    installs_by_restart = True
    store_type = EngineStore

    def __init__(
        self,
        member: int,
        founders: frozenset[int],
        *,
        seed: int,
        now: Callable[[], int],
        stalled_ms: Callable[[], int],
        reserve: bool,
    ) -> None:
        """`founders`: the voters of a cluster that begins; nobody, for a machine that joins one.
        `now` in microseconds. `reserve`: it keeps room for a full disk.
        """
        self.disk = SimulatedMachine(seed)
        self.random = Random(seed)
        self.lost_sectors = 0
        self._now = now
        self._clock = 0
        self._stalled_ms = stalled_ms
        self._options = Options(
            dir=DIRECTORY,
            segment_size=SEGMENT_BYTES,
            disk_reserve=0 if reserve else 1,
            checkpoint_bytes=CHECKPOINT_BYTES,
            raft_cache_bytes=CACHE_BYTES,
            clustered=1,
            joining=int(not founders),
            cluster_id=CLUSTER,
            member_id=member,
            n_members=len(founders),
            members=tuple(sorted(founders)),
        )
        self._shadow: Shadow | None = None
        self._lives = self._superseded = 0
        self._stepped: SteppedStore | None = None
        self._queue: CompletionQueue | None = None
        self._operations: dict[int, Operation] = {}
        self._completions: list[Completion | BatchCompletion] = []
        self._applied: list[Applied] = []
        self._pins: list[EngineSnapshot] = []
        self._mark_due = self._damaged = False
        self.store: EngineStore = None  # type: ignore[assignment]  # from the first start on

    # ---- lives ---------------------------------------------------------------------------------

    def start(self) -> Recovered:
        self._tell_time()
        self._lives += 1
        try:
            self._stepped = self.disk.open(self._options)
            self._queue = self._stepped.queue()
            return self._recover(self._stepped)
        except StoreError as error:
            self._drop()
            full = error.reason == "DISK_FULL"
            raise Refused(f"{error.reason}: {error}", passing=full) from error
        except Violation as violation:
            self._drop()
            if self._damaged:  # a damaged end is like one that was never written
                raise Refused(str(violation)) from violation
            raise

    def _recover(self, stepped: SteppedStore) -> Recovered:
        self.store = store = self.store_type(
            stepped,
            12 * WRITE_BYTES,
            stalled_ms=self._stalled_ms,
            tell_time=self._tell_time,
            maintain=self._maintain,
        )
        log, hard_state = store.take()
        terms = [log.term(index) or 0 for index in range(log.first, log.last + 1)]
        table = Shadow(log.compacted, log.term(log.compacted) or 0, terms, hard_state)
        if self._shadow is not None:
            _check_kept(self._shadow, table, self._superseded)
        store.begin(table)
        self._shadow = store.shadow
        self._note_applied(store.applied_index)
        return Recovered(log, hard_state)

    def crash(self, random: Random) -> int:
        if random.random() < 0.8:
            self._tear(random)
        self.store.look()
        lost = len(self.store.handed)
        self._superseded = self.store.superseded()
        self._drop()
        self.disk.power_cut(random.choice((0, 300, 700, 1000)))
        self.lost_sectors = self.disk.lost_sectors
        return lost

    def _tear(self, random: Random) -> None:
        """The power goes in the middle of a write."""
        assert self._stepped is not None
        self.disk.cut_after(int(2 ** (random.random() * 13)))
        if not self.store.failed:
            self._stepped.step_log()
        if random.random() < 0.3:
            with contextlib.suppress(StoreError):
                self._stepped.checkpoint(force=True)
        if random.random() < 0.3:
            self._stepped.clean()

    def _drop(self, *, finish: bool = False) -> None:
        for pin in list(self._pins):
            self.unpin(pin)
        if self._queue is not None:
            self._queue.close()
        if self._stepped is not None and finish:
            self._stepped.close()
        elif self._stepped is not None:
            self._stepped.abandon()
        self._stepped = self._queue = None
        self._operations.clear()
        self._completions.clear()

    def close(self) -> None:
        """Free it, up or down."""
        if self._stepped is not None:
            self._drop()
        self.disk.close()

    def _tell_time(self) -> None:
        milliseconds = (self._now() - self._clock) // MS
        if milliseconds > 0:
            self.disk.advance(milliseconds)
            self._clock += milliseconds * MS

    # ---- what happens to its disk --------------------------------------------------------------

    def flip(self, random: Random) -> bool:
        """Somewhere in what was written lately, or in a checkpoint."""
        files = [name for number in range(1, 40) if self._size(name := f"{number:08x}.log")]
        end = 4096 + 64 + int(random.random() * random.random() * 128_000)
        try:
            self.disk.flip(f"{DIRECTORY}/{random.choice(files)}", end, random.randrange(8))
        except (OSError, IndexError):
            return False
        self._damaged = True
        return True

    def _size(self, name: str) -> int:
        try:
            return self.disk.file_size(f"{DIRECTORY}/{name}")
        except OSError:
            return 0

    def misread(self, random: Random) -> None:
        assert self._stepped is not None
        self._stepped.arm(f"log.read=eio@1x{random.randint(1, 4)}")

    def fill_disk(self, random: Random) -> None:
        assert self._stepped is not None
        self.disk.limit(1 << 40)
        status = self._stepped.status()
        used = status.disk_total_bytes - status.disk_free_bytes
        self.disk.limit(used + int(random.random() * 64_000))
        self._stepped.arm(f"log.write=enospc@1x{random.randint(1, 5)}")

    def empty_disk(self) -> None:
        self.disk.limit(0)

    def repair(self, others: Sequence[Machine]) -> int:
        repaired = 0
        if self._stepped is None or (wanted := damaged(self._stepped)) is None:
            return 0
        for other in others:
            if isinstance(other, EngineMachine) and other._stepped is not None:
                with contextlib.suppress(StoreError):
                    repaired += repair(self._stepped, fetch(other._stepped, wanted))
        return repaired

    # ---- threads -------------------------------------------------------------------------------

    def has_log_work(self) -> bool:
        return bool(self.store.handed or self._mark_due) and not self.store.failed

    def step_log(self, random: Random) -> None:
        assert self._stepped is not None
        self._tell_time()
        self._mark_due = False
        self._stepped.step_log()
        self.store.look()

    def fail_log(self, random: Random) -> None:
        assert self._stepped is not None
        self._stepped.arm(random.choice(("log.write=eio@1", "log.sync=eio@1")))
        self._mark_due = True

    def has_apply_work(self) -> bool:
        return self.store.applied_index < self.store.may_apply

    def step_apply(self) -> None:
        assert self._stepped is not None
        self._tell_time()
        before = self.store.applied_index
        while self._stepped.step_apply():
            self.store.look()
            self._note_applied(before + 1)
            before = self.store.applied_index

    def _note_applied(self, first: int) -> None:
        """The state is known after the last entry of a round alone."""
        index, *digest = self.store.digest()
        for at in range(first, index + 1):
            term = self.store.term(at)
            if term is not None:
                hash_ = hash(tuple(digest)) if at == index else None
                self._applied.append(Applied(at, term, hash_))

    def _maintain(self) -> None:
        """What the keeper does, a step of it."""
        assert self._stepped is not None
        self._tell_time()
        self._stepped.tick()
        with contextlib.suppress(StoreError):
            self._stepped.checkpoint(force=self.random.random() < 0.1)
        self._stepped.clean()
        self._mark_due = not self.store.failed

    # ---- clients -------------------------------------------------------------------------------

    def submit(self, cookie: int, operation: Operation) -> None:
        assert self._stepped is not None
        assert self._queue is not None
        self._tell_time()
        method, request = encode(operation)
        self._operations[cookie] = operation
        try:
            self._stepped.submit_wire(self._queue, method, Keyspace.USER, request, cookie)
        except StoreError as error:
            self._completed(cookie, b"", 0, error)

    def take_batch(self, cookie: int, requests: bytes) -> None:
        assert self._stepped is not None
        assert self._queue is not None
        try:
            self._stepped.submit_forwarded(self._queue, requests, cookie)
        except StoreError as error:
            self._completed(cookie, b"", 0, error)

    def answer_batch(self, batch: int, outcomes: bytes) -> None:
        self.store.answer(outcomes)

    def completions(self) -> list[Completion | BatchCompletion]:
        assert self._queue is not None
        while self._queue.take(self._completed):
            pass
        taken, self._completions = self._completions, []
        return taken

    def _completed(self, cookie: int, reply: bytes, _: int, error: StoreError | None) -> None:
        operation = self._operations.pop(cookie, None)
        if operation is None:
            outcomes = reply if error is None else None
            self._completions.append(BatchCompletion(cookie, outcomes))
            return
        outcome: Outcome = decode(operation, reply) if error is None else failure(operation, error)
        self._completions.append(Completion(cookie, outcome))

    # ---- snapshots -----------------------------------------------------------------------------

    def snapshot(self) -> Snapshot | None:
        assert self._stepped is not None
        try:
            pin = NativeManifest(self._stepped)
        except StoreError:
            return None
        membership = self.store.membership()
        manifest = b"".join(iter(partial(pin.read, PIECE), b""))
        taken = EngineSnapshot(pin.index, pin.term, membership, manifest, self, self._lives, pin)
        self._pins.append(taken)
        return taken

    def unpin(self, snapshot: EngineSnapshot) -> None:
        if snapshot in self._pins:
            self._pins.remove(snapshot)
            snapshot.pin.close()

    def install(self, snapshot: Snapshot, hard_state: HardState) -> bool:
        assert isinstance(snapshot, EngineSnapshot)
        assert self._stepped is not None
        if not self.store.settled or snapshot not in snapshot.source._pins:
            return False
        install = NativeInstall(self._stepped)
        try:
            done = self._fill(install, snapshot)
            if done:
                install.finish(hard_state.term, hard_state.vote)
        except StoreError:
            done = False
        finally:
            install.close()
        if done:
            state = HardState(hard_state.term, hard_state.vote, snapshot.index)
            self._shadow = Shadow(snapshot.index, snapshot.term, [], state)
            self._superseded = snapshot.index + 1
            self._drop(finish=self.random.random() < 0.5)
        return done

    def _fill(self, install: NativeInstall, snapshot: EngineSnapshot) -> bool:
        for at in range(0, len(snapshot.manifest), PIECE):
            install.manifest(snapshot.manifest[at : at + PIECE])
        while (wanted := install.wanted()) is not None:
            source = snapshot.source._stepped
            if source is None or install.values(fetch(source, wanted)) == 0:
                return False
        return True

    # ---- what the checks look at ---------------------------------------------------------------

    def appended(self) -> list[Appended]:
        taken, self.store.appended = self.store.appended, []
        return taken

    def applied(self) -> list[Applied]:
        taken, self._applied = self._applied, []
        return taken

    def last(self) -> tuple[int, int]:
        return self.store.end()

    def kept(self) -> tuple[int, int]:
        assert self._shadow is not None
        return self._shadow.end()

    def holds(self, index: int, term: int) -> bool:
        assert self._shadow is not None
        return self._shadow.holds(index, term)

    def state(self) -> object:
        assert self._stepped is not None
        status = self._stepped.status()
        return (
            status.applied_index,
            status.revision,
            status.state_hash,
            status.keys,
            status.leases,
            status.request_ids,
        )


def _check_kept(before: Shadow, found: Shadow, superseded: int) -> None:
    """Whatever a sync covered is there; later terms may have superseded its end, and from
    `superseded` on it need not be there: who leads the later term knew that it was not committed.
    """
    kept, hard = before.hard_state, found.hard_state
    if (hard.term, hard.commit) < (kept.term, 0) or (
        hard.term == kept.term and kept.vote not in (0, hard.vote)
    ):
        raise Violation(f"{kept} was durable; after a crash it is {hard}")
    if hard.commit < kept.commit and found.base < kept.commit:
        raise Violation(f"{kept} was durable; after a crash it is {hard}")
    for index in range(max(before.base, found.base) + 1, before.last + 1):
        was, is_ = before.term(index), found.term(index)
        if is_ == was:
            continue
        if is_ is None and index >= superseded:
            return
        if is_ is None or was is None or is_ < was:
            raise Violation(f"entry {index} of term {was} was durable; now it is of {is_}")
        return  # superseded, with what followed

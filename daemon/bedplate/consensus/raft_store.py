"""The engine's store as Raft drives it: what a replica and a member ask, in the engine's terms."""

from collections.abc import Callable

from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import Entries
from bedplate.consensus.ready import HardState
from bedplate.consensus.replica import EntriesUnreadable, StoreState
from bedplate.errors import Code
from bedplate.native.errors import StoreError
from bedplate.native.raft import CONFIG_ENTRY, NativeRaft
from bedplate.native.snapshot import NativeInstall, NativeManifest, damaged, fetch, repair
from bedplate.native.store import NativeStore

RETAIN_BYTES, RETAIN_BYTES_MAX = 64 << 20, 1 << 30


class RaftStore:
    """Fits member.ClusterStore, node.DrivenStore and replica.ReplicatedStore."""

    def __init__(
        self,
        store: NativeStore,
        retain_bytes: int = RETAIN_BYTES,
        retain_bytes_max: int = RETAIN_BYTES_MAX,
    ) -> None:
        """`retain_bytes` of applied entries are kept for members that were away, and up to
        `retain_bytes_max` of those that `needed` says some member still needs.
        """
        self._store = store
        self._native = NativeRaft(store)
        self._retain_bytes = retain_bytes
        self._retain_bytes_max = max(retain_bytes, retain_bytes_max)
        self._persists = 0  # the number of the last one asked for
        self.needed: Callable[[], int | None] = lambda: None
        status = store.status()
        self.cluster_id, self.member = status.cluster_id, status.member_id
        native = self._native
        # What needs no translation.
        self.gather = native.gather
        self.receive = native.receive
        self.reach = native.reach
        self.commit = native.commit
        self.lead = native.lead
        self.gate = native.gate
        self.release = native.release
        self.refuse = native.refuse
        self.forward = native.forward
        self.forward_failed = native.forward_failed
        self.refuse_queued = native.refuse_queued
        self.give_up = native.give_up
        self.hold = native.hold
        self.answer = native.answer
        self.state_hash = native.state_hash

    def membership(self) -> Membership:
        """As applied; also before `take`."""
        voters, learners = self._native.membership()
        return Membership(frozenset(voters), frozenset(learners))

    def take(self) -> tuple[EntryLog, HardState]:
        """Become the driver; the log and hard state that are durable. Blocks. Raises StoreError."""
        self._native.take()
        state = self._native.look()
        first = state.compacted_index
        log = EntryLog(first, state.compacted_term, self._membership_at(first))
        for entry in self._native.entries(first + 1):
            index = entry.index
            changes = ((index, self._membership_at(index)),) if entry.type == CONFIG_ENTRY else ()
            log.append(Entries(index, index, ((index, entry.term),), changes))
        return log, HardState(state.term, state.vote, state.commit)

    def _membership_at(self, index: int) -> Membership:
        """Nobody's before the first entry."""
        if index == 0:
            return Membership(frozenset())
        voters, learners = self._native.membership(index)
        return Membership(frozenset(voters), frozenset(learners))

    @property
    def fd(self) -> int:
        """Readable when `look` would say something new."""
        return self._native.fd

    def look(self) -> StoreState:
        state = self._native.glance()
        return StoreState(
            persisted=state.persisted,
            applied=state.applied_index,
            queued_writes=state.queued_writes,
            queued_reads=state.queued_reads,
            failed=bool(state.poisoned),
            stalled_ms=state.stalled_ms,
            queued_bytes=state.queued_bytes,
            log_bytes=state.log_bytes,
            queued_arrivals=state.queued_arrivals,
        )

    def propose_noop(self, term: int) -> None:
        self._native.propose_noop(term)

    def propose_change(self, term: int, membership: Membership) -> int:
        voters, learners = sorted(membership.voters), sorted(membership.learners)
        return self._native.propose_members(term, voters, learners)

    def persist(self, number: int, hard_state: HardState) -> None:
        self._persists = number
        self._native.persist(number, hard_state.term, hard_state.vote, hard_state.commit)

    def message(self, first: int, last: int) -> bytes:
        """Raises EntriesUnreadable."""
        try:
            return self._native.message(first, last)
        except StoreError as error:
            if error.code is Code.RESOURCE_EXHAUSTED:
                raise
            raise EntriesUnreadable(self._first_unreadable(first, last)) from error

    def _first_unreadable(self, first: int, last: int) -> int:
        for index in range(first, last):
            try:
                self._native.message(index, index)
            except StoreError:
                return index
        return last

    def compact(self, applied: int) -> int:
        """All but the newest `retain_bytes` of what is applied, and what a member needs."""
        needed = self.needed()
        if needed is not None and needed < applied:
            self._native.compact(needed, self._retain_bytes)
            return self._native.compact(applied, self._retain_bytes_max)
        return self._native.compact(applied, self._retain_bytes)

    # ---- snapshots; all of this blocks -----------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be written. Does not block."""
        return self._native.look().persisted >= self._persists

    def manifest(self) -> NativeManifest:
        """The state now. Raises StoreError."""
        return NativeManifest(self._store)

    def install(self) -> NativeInstall:
        """Another member's state to come. Raises StoreError."""
        return NativeInstall(self._store)

    def fetch(self, wanted: bytes) -> bytes:
        """Values that another member asks for. Raises StoreError."""
        return fetch(self._store, wanted)

    def damaged(self) -> bytes | None:
        """A question for values that were found damaged here. Raises StoreError."""
        return damaged(self._store)

    def repair(self, values: bytes) -> int:
        """Put them back; how many. Raises StoreError."""
        return repair(self._store, values)

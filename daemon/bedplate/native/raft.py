"""bp_raft_*: a store whose driver is Raft. The calls carry out what Raft decides; none decides.

One thread at a time. Payload passes through as one bytes object a message, and is not looked at.
"""

from dataclasses import dataclass
from typing import Any

from bedplate._native import ffi, lib
from bedplate.native.errors import check
from bedplate.native.store import NativeStore

_ENTRIES_AT_ONCE = 4096
CONFIG_ENTRY = 3


@dataclass(frozen=True, slots=True)
class RaftState:
    """Of `struct bp_raft_state`, what changes; `commit` is the durable hard state's."""

    term: int
    vote: int
    commit: int
    compacted_index: int
    compacted_term: int
    last_index: int
    last_term: int
    durable_index: int
    durable_term: int
    applied_index: int
    committed_index: int
    persisted: int
    log_bytes: int
    queued_writes: int
    queued_arrivals: int
    queued_bytes: int
    queued_reads: int
    stalled_ms: int
    poisoned: int
    disk_full: int


@dataclass(frozen=True, slots=True)
class RaftEntry:
    """One entry as Raft sees it; `size` is its bytes in a message."""

    index: int
    term: int
    size: int
    type: int


_STATE_FIELDS = tuple(RaftState.__dataclass_fields__)


class NativeRaft:
    """The driver's side of an open store. Raises StoreError wherever C reports an error."""

    def __init__(self, store: NativeStore) -> None:
        self._store = store
        self._error = ffi.new("struct bp_error *")
        self._state = ffi.new("struct bp_raft_state *")
        self._reply = ffi.new("struct bp_reply *")
        self._numbers = ffi.new("uint64_t[2]")

    def take(self) -> None:
        """Drive the store from now on. Blocks until what is being written is applied."""
        check(lib.bp_raft_take(self._store.pointer, self._error), self._error)

    @property
    def fd(self) -> int:
        """Readable when `look` would say something new; -1 before `take`."""
        return int(lib.bp_raft_fd(self._store.pointer))

    # ---- what is there -------------------------------------------------------------------------

    def look(self) -> RaftState:
        """The state now; the descriptor is quiet until it changes."""
        state = self.glance()
        return RaftState(*[getattr(state, name) for name in _STATE_FIELDS])

    def glance(self) -> Any:
        """The same as `look`, as C has it, until the next one."""
        lib.bp_raft_look(self._store.pointer, self._state)
        return self._state

    def state_hash(self) -> tuple[int, bytes]:
        """As of the last `look`: the last compaction entry applied, and the state's hash there."""
        hash_ = self._state.hash
        return int(self._state.hash_index), bytes(ffi.buffer(hash_, ffi.sizeof(hash_)))

    def entries(self, first: int) -> list[RaftEntry]:
        """All entries from `first` on."""
        found: list[RaftEntry] = []
        taken = ffi.new("struct bp_raft_entry[]", _ENTRIES_AT_ONCE)
        while True:
            n = lib.bp_raft_entries(
                self._store.pointer, first + len(found), taken, _ENTRIES_AT_ONCE
            )
            found.extend(
                RaftEntry(entry.index, entry.term, entry.size, entry.type) for entry in taken[0:n]
            )
            if n < _ENTRIES_AT_ONCE:
                return found

    def membership(self, index: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Voters and learners of the CONFIG entry `index`, or at the compacted index; 0: as
        applied, also before `take`.
        """
        out = ffi.new("struct bp_raft_members *")
        check(lib.bp_raft_membership(self._store.pointer, index, out, self._error), self._error)
        members = tuple(int(member) for member in out.members)
        voters = out.voters
        return members[:voters], members[voters : voters + out.learners]

    # ---- entries -------------------------------------------------------------------------------

    def gather(self, term: int, bytes_max: int) -> tuple[int, int]:
        """Queued writes become entries at the log's end: its last index, and their bytes."""
        last, size = self._numbers, self._numbers + 1
        lib.bp_raft_gather(self._store.pointer, term, bytes_max, last, size)
        return int(last[0]), int(size[0])

    def propose_noop(self, term: int) -> int:
        """An empty entry at the log's end; its bytes."""
        return self._propose(term, ffi.NULL)

    def propose_members(self, term: int, voters: list[int], learners: list[int]) -> int:
        """A CONFIG entry at the log's end; its bytes."""
        members = ffi.new("struct bp_raft_members *")
        members.voters, members.learners = len(voters), len(learners)
        members.members = voters + learners
        return self._propose(term, members)

    def _propose(self, term: int, members: Any) -> int:
        out = ffi.new("struct bp_raft_entry *")
        code = lib.bp_raft_propose(self._store.pointer, term, members, out, self._error)
        check(code, self._error)
        return int(out.size)

    def receive(self, payload: bytes) -> None:
        """The entries of one message; those that are there already are passed over."""
        code = lib.bp_raft_receive(self._store.pointer, payload, len(payload), self._error)
        check(code, self._error)

    def persist(self, number: int, term: int, vote: int, commit: int) -> None:
        """Have all entries so far, and this hard state, made durable under `number`."""
        code = lib.bp_raft_persist(self._store.pointer, number, term, vote, commit, self._error)
        check(code, self._error)

    def message(self, first: int, last: int) -> bytes:
        """Entries as `receive` takes them."""
        code = lib.bp_raft_message(self._store.pointer, first, last, self._reply, self._error)
        check(code, self._error)
        return self._take_reply()

    def reach(self, first: int, last: int, bytes_max: int) -> tuple[int, int]:
        """Of first .. last as many as fit, at least one: the last of them and their bytes."""
        reached, size = self._numbers, self._numbers + 1
        lib.bp_raft_reach(self._store.pointer, first, last, bytes_max, reached, size)
        return int(reached[0]), int(size[0])

    def commit(self, index: int) -> None:
        """Apply through `index`, as far as it is durable."""
        lib.bp_raft_commit(self._store.pointer, index)

    def compact(self, index: int, keep_bytes: int) -> int:
        """Applied entries through `index` need not be served, but the newest `keep_bytes` of them;
        the index compacted through.
        """
        return int(lib.bp_raft_compact(self._store.pointer, index, keep_bytes))

    def lead(self, leading: bool, term: int) -> None:
        """Lead `term`, or no longer."""
        lib.bp_raft_lead(self._store.pointer, leading, term)

    # ---- requests ------------------------------------------------------------------------------

    def hold(self, write_bytes: int, arrivals: int, reads: bool) -> None:
        """From now on the descriptor tells of queued writes from so many bytes or arrivals on, and
        of queued reads unless `reads`.
        """
        lib.bp_raft_hold(self._store.pointer, write_bytes, arrivals, reads)

    def gate(self) -> int:
        """Names the reads queued so far, taken together; 0 when there are none."""
        return int(lib.bp_raft_gate(self._store.pointer))

    def release(self, gate: int, index: int) -> None:
        """Answer them once applied through `index`."""
        lib.bp_raft_release(self._store.pointer, gate, index, 0)

    def refuse(self, gate: int) -> None:
        """Fail them: UNAVAILABLE / NO_LEADER."""
        lib.bp_raft_release(self._store.pointer, gate, 0, 1)

    def forward(self, bytes_max: int) -> tuple[int, bytes] | None:
        """Queued writes as a batch for the leader, and its name; None when nothing is queued."""
        batch = int(lib.bp_raft_forward(self._store.pointer, bytes_max, self._reply))
        return (batch, self._take_reply()) if batch else None

    def answer(self, outcomes: bytes) -> None:
        """The leader's outcomes of a batch."""
        code = lib.bp_raft_answer(self._store.pointer, outcomes, len(outcomes), self._error)
        check(code, self._error)

    def forward_failed(self, batch: int, *, sent: bool) -> None:
        """Fail a batch: its outcome is unknown if it was sent, else nothing was done."""
        lib.bp_raft_forward_failed(self._store.pointer, batch, sent)

    def refuse_queued(self) -> None:
        """Fail everything queued: UNAVAILABLE / NO_LEADER."""
        lib.bp_raft_refuse_queued(self._store.pointer)

    def give_up(self) -> None:
        """Fail what waits for entries that this member cannot store."""
        lib.bp_raft_give_up(self._store.pointer)

    def _take_reply(self) -> bytes:
        reply = self._reply
        data = bytes(ffi.buffer(reply.data, reply.size)) if reply.size else b""
        lib.bp_reply_free(reply)
        return data

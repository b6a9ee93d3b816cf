"""What a replica does with a store, turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.membership import Change, ChangeKind, Membership
from bedplate.consensus.messages import (
    Append,
    AppendReply,
    Entries,
    HeartbeatReply,
    Message,
    TimeoutNow,
    VoteReply,
)
from bedplate.consensus.raft import Raft
from bedplate.consensus.ready import HardState, NotLeading, Settings
from bedplate.consensus.replica import EntriesUnreadable, Replica, ReplicaSettings, StoreState


@dataclass
class Store:
    """Remembers what it was asked, and has what it was told to have."""

    state: StoreState = field(default_factory=lambda: StoreState(0, 1, 0, 0, False, 0))
    calls: list[tuple[object, ...]] = field(default_factory=list)
    last: int = 1
    damaged: int = 0
    entry_bytes: int = 10
    room: int = 0
    reads: int = 0  # of entries
    gates: int = 0
    held: tuple[int, int, bool] = (0, 0, False)
    names: Iterator[int] = field(default_factory=lambda: iter(range(1, 100)))

    def look(self) -> StoreState:
        return self.state

    def gather(self, term: int, bytes_max: int) -> tuple[int, int]:
        self.last += 1
        self.state = replace(self.state, queued_writes=0, queued_arrivals=0, queued_bytes=0)
        self.calls.append(("gather", term))
        self.room = bytes_max
        log_bytes = self.state.log_bytes + self.entry_bytes
        self.state = replace(self.state, log_bytes=log_bytes)
        return self.last, self.entry_bytes

    def propose_noop(self, term: int) -> None:
        self.last += 1
        self.calls.append(("noop", term))

    def propose_change(self, term: int, membership: Membership) -> int:
        self.last += 1
        self.calls.append(("change", term, membership))
        return 10

    def receive(self, payload: bytes) -> None:
        self.calls.append(("receive", payload))

    def persist(self, number: int, hard_state: HardState) -> None:
        self.calls.append(("persist", number, hard_state.term))

    def message(self, first: int, last: int) -> bytes:
        self.reads += 1
        if first <= self.damaged <= last:
            raise EntriesUnreadable(self.damaged)
        return b"entries"

    def reach(self, first: int, last: int, bytes_max: int) -> tuple[int, int]:
        return last, 10

    def commit(self, index: int) -> None: ...

    def lead(self, leading: bool, term: int) -> None:
        self.calls.append(("lead", leading, term))

    def hold(self, write_bytes: int, arrivals: int, reads: bool) -> None:
        self.held = (write_bytes, arrivals, reads)

    def gate(self) -> int:
        self.gates += 1
        self.state = replace(self.state, queued_reads=0)
        return next(self.names)

    def release(self, gate: int, index: int) -> None:
        self.calls.append(("release", gate, index))

    def refuse(self, gate: int) -> None:
        self.calls.append(("refuse", gate))

    def forward(self, bytes_max: int) -> tuple[int, bytes] | None:
        self.state = replace(self.state, queued_writes=0, queued_arrivals=0, queued_bytes=0)
        return next(self.names), b"requests"

    def forward_failed(self, batch: int, *, sent: bool) -> None:
        self.calls.append(("failed", batch, sent))

    def refuse_queued(self) -> None:
        self.calls.append(("refuse_queued",))

    def give_up(self) -> None:
        self.state = replace(self.state, queued_writes=0)
        self.calls.append(("give_up",))

    def compact(self, applied: int) -> int:
        self.calls.append(("compact",))
        return 0


@dataclass
class Outbox:
    messages: list[Message] = field(default_factory=list)
    batches: list[tuple[int, int]] = field(default_factory=list)
    snapshots: list[int] = field(default_factory=list)
    connected: bool = True

    def send(self, message: Message) -> None:
        self.messages.append(message)

    def forward(self, leader: int, batch: int, requests: bytes) -> bool:
        self.batches.append((leader, batch))
        return self.connected

    def send_snapshot(self, member: int) -> None:
        self.snapshots.append(member)


EVER = 1 << 63
SETTINGS = ReplicaSettings(leader_wait_ticks=3, stall_ticks=2, compact_ticks=5, rounds_max=2)


class Stand:
    """Member 1 of three, by itself."""

    def __init__(
        self,
        settings: ReplicaSettings = SETTINGS,
        catching_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store, self.outbox = Store(), Outbox()
        log = EntryLog()
        membership = Membership(frozenset({1, 2, 3}))
        log.append(Entries(1, 1, ((1, 1),), ((1, membership),)))
        raft = Raft(
            1,
            settings=Settings(),
            log=log,
            hard_state=HardState(1, 0, 1),
            reach=self.store.reach,
            random=lambda n: 0,
        )
        self.replica = Replica(raft, self.store, self.outbox, settings, catching_up)

    def turn(self) -> None:
        while self.replica.turn():
            pass

    def set(self, **state: int | bool) -> None:
        self.store.state = replace(self.store.state, **state)  # type: ignore[arg-type]

    def elect(self) -> None:
        self.replica.receive(TimeoutNow(2, 1, 1))
        self.turn()
        self.set(persisted=1)
        self.turn()
        self.replica.receive(VoteReply(2, 1, 2, True))
        self.turn()

    def acknowledge(self, match: int) -> None:
        """Member 2 and this one hold entries through `match`."""
        self.set(persisted=99)
        self.replica.receive(AppendReply(2, 1, 2, True, match))

    def queue(self, arrivals: int, size: int = 100) -> None:
        """So many writes are queued now, and this member has a turn."""
        self.set(queued_writes=arrivals, queued_arrivals=arrivals, queued_bytes=arrivals * size)
        self.turn()

    def end_round(self) -> None:
        """What this leader has in its log is committed, and it has a turn."""
        self.acknowledge(self.replica.raft.log.last)
        self.turn()

    def lead(self) -> None:
        self.elect()
        self.end_round()

    @property
    def rounds(self) -> int:
        return self.store.calls.count(("gather", 2))

    def append(self, term: int, first: int, *, source: int = 2) -> None:
        entries = Entries(first, first, ((first, term),))
        self.replica.receive(Append(source, 1, term, 1, 1, entries, 1, b"payload"))


def test_a_leader_gathers_what_is_queued_into_an_entry() -> None:
    stand = Stand()
    stand.set(queued_writes=1)
    stand.elect()
    noop, gather = stand.store.calls.index(("noop", 2)), stand.store.calls.index(("gather", 2))
    assert stand.store.calls.index(("lead", True, 2)) < noop < gather
    assert stand.replica.raft.log.last == stand.store.last == 3


def test_what_comes_while_two_rounds_are_on_their_way_is_one_entry() -> None:
    stand = Stand()
    stand.elect()  # its no-op is the first
    for _ in range(3):
        stand.set(queued_writes=1)
        stand.turn()
    assert stand.store.calls.count(("gather", 2)) == 1
    assert stand.store.held == (SETTINGS.round_bytes, EVER, False)
    stand.acknowledge(3)
    stand.turn()
    assert stand.store.calls.count(("gather", 2)) == 2
    assert stand.store.state.queued_writes == 0
    stand.acknowledge(4)
    stand.turn()
    assert stand.store.held == (0, 0, False)


def test_many_bytes_are_a_round_of_their_own() -> None:
    stand = Stand()
    stand.elect()
    for _ in range(4):
        stand.set(queued_writes=1, queued_bytes=SETTINGS.round_bytes)
        stand.turn()
    assert stand.store.calls.count(("gather", 2)) == 4


LIMITED = replace(SETTINGS, retain_bytes=0, retain_bytes_max=24_000_000, rounds_max=1000)


def written_in(stand: Stand, ticks: int) -> int:
    """Bytes, by writers that never let up."""
    before = stand.store.state.log_bytes
    for _ in range(ticks):
        stand.replica.tick()
        for _ in range(100):
            stand.set(queued_writes=1, queued_bytes=1 << 20)
            stand.turn()
        stand.acknowledge(stand.store.last)
        stand.turn()
    return stand.store.state.log_bytes - before


def slowed(log_bytes: int, entry_bytes: int = 1000) -> Stand:
    """A leader of such a log, part of which a member that catches up needs."""
    stand = Stand(LIMITED, lambda: True)
    stand.store.entry_bytes = entry_bytes
    stand.elect()
    stand.set(log_bytes=log_bytes)
    stand.turn()
    stand.replica.tick()  # a second's debt is all there may be
    return stand


def test_the_fuller_the_log_of_a_member_that_catches_up_the_slower_the_writes() -> None:
    quarter, half, full = (slowed(12_000_000 + part) for part in (3_000_000, 6_000_000, 12_000_000))
    # 12 MB in 600 s: 10 kB/s were it linear; d/dt s = 1 / (2 s 600 s)
    assert written_in(quarter, 600) == pytest.approx(60 * 40_000, rel=0.25)
    assert written_in(half, 100) == pytest.approx(10 * 20_000, rel=0.1)
    assert written_in(full, 100) == pytest.approx(10 * 10_000, rel=0.1)
    assert half.replica.brake.slowed_ticks >= 100


def test_up_to_half_of_the_log_nobody_waits_and_no_round_goes_far_beyond() -> None:
    stand = slowed(0, entry_bytes=100_000)
    assert written_in(stand, 1) == 100 * 100_000
    assert stand.store.held[0] < 1 << 40
    assert stand.replica.brake.strength == 0
    stand.set(queued_writes=1)
    stand.turn()
    assert stand.store.room <= 12_000_000 - 100 * 100_000
    assert written_in(stand, 1) < 3_000_000


def test_however_full_the_log_one_request_a_second_passes() -> None:
    stand = slowed(24_000_000, entry_bytes=1_000_000)
    assert written_in(stand, 100) == pytest.approx(10_000_000, abs=1_000_000)


def test_a_log_that_would_slow_writes_is_compacted_at_once() -> None:
    stand = slowed(12_000_000)
    stand.store.calls.clear()
    stand.replica.tick()
    assert ("compact",) not in stand.store.calls
    stand.set(log_bytes=12_000_001)
    stand.turn()
    stand.replica.tick()
    assert ("compact",) in stand.store.calls


def test_writes_that_are_slowed_wake_nobody() -> None:
    stand = slowed(24_000_000, entry_bytes=1_000_000)
    written_in(stand, 1)
    assert stand.store.held[0] >= 1 << 40
    written_in(stand, 10)
    stand.set(log_bytes=0)
    stand.turn()
    assert stand.store.held[0] < 1 << 40


def test_writes_are_slowed_only_while_somebody_catches_up() -> None:
    catching_up = [True]
    stand = Stand(LIMITED, lambda: bool(catching_up))
    stand.elect()
    stand.set(log_bytes=24_000_000)
    stand.store.entry_bytes = 10_000
    assert written_in(stand, 10) < 1_000_000
    catching_up.clear()
    assert written_in(stand, 10) == 10 * 100 * 10_000
    assert stand.replica.brake.strength == 0


def test_a_log_that_is_kept_in_any_case_slows_nobody() -> None:
    stand = Stand(replace(LIMITED, retain_bytes=24_000_000), lambda: True)
    stand.elect()
    stand.set(log_bytes=24_000_000)
    assert written_in(stand, 10) == 10 * 100 * 10


def test_a_round_lingers_for_as_many_as_there_were() -> None:
    stand = Stand(ReplicaSettings())
    stand.lead()
    stand.queue(6)
    stand.queue(4)
    assert stand.rounds == 1
    stand.end_round()
    assert stand.rounds == 1
    assert stand.replica.lingers
    assert stand.store.held == (ReplicaSettings().linger_bytes, 10, False)
    stand.queue(9)
    assert stand.rounds == 1
    stand.queue(10)
    assert stand.rounds == 2
    assert not stand.replica.lingers


def test_all_who_get_the_same_entries_get_them_read_once() -> None:
    stand = Stand(ReplicaSettings())
    stand.lead()
    stand.replica.receive(AppendReply(3, 1, 2, True, 2))
    stand.turn()
    stand.store.reads = 0
    stand.outbox.messages.clear()
    stand.queue(1)
    sent = [message for message in stand.outbox.messages if isinstance(message, Append)]
    assert [(m.target, m.payload) for m in sent] == [(2, b"entries"), (3, b"entries")]
    assert stand.store.reads == 1


def test_a_turn_is_the_last_when_nothing_is_left_to_do_at_once() -> None:
    stand = Stand(ReplicaSettings())
    stand.append(2, 2)
    assert not stand.replica.turn()
    stand.replica.receive(TimeoutNow(2, 1, 2))
    assert not stand.replica.turn()
    stand.set(persisted=99)
    assert not stand.replica.turn()
    stand.replica.receive(VoteReply(2, 1, 3, True))
    assert stand.replica.turn()  # the first entry is in the log: now it is sent
    assert not stand.replica.turn()


def test_a_round_lingers_only_after_one_that_others_had_to_wait_for() -> None:
    stand = Stand()  # two rounds at a time
    stand.lead()
    for rounds in (1, 2):
        assert not stand.replica.lingers
        stand.queue(6)
        assert stand.rounds == rounds
    stand.queue(4)
    assert stand.rounds == 2
    stand.end_round()
    assert stand.store.held == (SETTINGS.linger_bytes, 10, False)


def test_who_writes_alone_waits_for_nobody() -> None:
    stand = Stand(ReplicaSettings())
    stand.lead()
    for rounds in range(1, 4):
        stand.queue(1)
        assert stand.rounds == rounds
        stand.end_round()
        assert not stand.replica.lingers
        assert stand.store.held == (0, 0, False)


def test_a_round_lingers_until_the_time_is_up() -> None:
    stand = Stand(ReplicaSettings())
    stand.lead()
    stand.queue(20)
    stand.end_round()
    stand.queue(8)
    assert stand.rounds == 1
    stand.replica.linger_no_more()
    stand.turn()
    assert stand.rounds == 2
    stand.queue(0)
    stand.end_round()
    assert stand.replica.lingers
    stand.replica.tick()  # of those who have no other clock
    stand.queue(1)
    assert stand.rounds == 3


def test_enough_bytes_are_not_lingered_with() -> None:
    stand = Stand(ReplicaSettings())
    stand.lead()
    stand.queue(20)
    stand.end_round()
    stand.queue(2, ReplicaSettings().linger_bytes // 2)
    assert stand.rounds == 2


def test_a_follower_lingers_with_its_batches_too() -> None:
    stand = Stand(ReplicaSettings())
    stand.append(2, 2)
    stand.turn()
    stand.queue(3)
    stand.replica.batch_done(1)
    stand.queue(2)
    assert len(stand.outbox.batches) == 1
    stand.queue(5)
    assert len(stand.outbox.batches) == 2


def test_a_new_leader_does_not_linger_for_whom_it_knew_as_a_follower() -> None:
    stand = Stand(ReplicaSettings())
    stand.append(2, 2)
    stand.turn()
    stand.queue(3)
    stand.replica.batch_done(1)
    stand.turn()
    assert stand.replica.lingers
    stand.append(3, 2, source=3)
    stand.replica.receive(TimeoutNow(3, 1, 3))
    stand.turn()
    stand.set(persisted=99)
    stand.turn()
    stand.replica.receive(VoteReply(2, 1, 4, True))
    stand.turn()
    assert stand.replica.raft.is_leader
    assert not stand.replica.lingers


def test_only_an_answer_to_a_heartbeat_that_no_read_waits_for_can_wait() -> None:
    stand = Stand(ReplicaSettings())
    stand.lead()
    assert not stand.replica.is_urgent(HeartbeatReply(2, 1, 2, 0))
    assert stand.replica.is_urgent(HeartbeatReply(3, 1, 2, 0))  # what it holds is not known yet
    assert stand.replica.is_urgent(HeartbeatReply(2, 1, 3, 0))
    assert stand.replica.is_urgent(HeartbeatReply(2, 1, 2, 1))
    assert stand.replica.is_urgent(AppendReply(2, 1, 2, True, 2))


def test_a_follower_has_two_batches_on_their_way_at_a_time() -> None:
    stand = Stand()
    stand.append(2, 2)
    for _ in range(3):
        stand.set(queued_writes=1)
        stand.turn()
    assert stand.outbox.batches == [(2, 1), (2, 2)]
    stand.replica.batch_done(1)
    stand.turn()
    assert stand.outbox.batches == [(2, 1), (2, 2), (2, 3)]


def test_reads_that_come_while_two_gates_are_asked_for_share_the_third() -> None:
    stand = Stand()
    stand.append(2, 2)
    for _ in range(4):
        stand.set(queued_reads=1)
        stand.turn()
    assert stand.store.gates == 2
    assert stand.store.held == (0, 0, True)


def test_a_follower_forwards_what_is_queued() -> None:
    stand = Stand()
    stand.append(2, 2)
    stand.set(queued_writes=4)
    stand.turn()
    assert stand.outbox.batches == [(2, 1)]
    assert ("receive", b"payload") in stand.store.calls


@pytest.mark.parametrize("connected", [True, False])
def test_a_batch_that_never_left_was_not_done_and_else_nobody_knows(connected: bool) -> None:
    stand = Stand()
    stand.outbox.connected = connected
    stand.append(2, 2)
    stand.set(queued_writes=1)
    stand.turn()
    stand.replica.connection_lost(2)
    assert [call for call in stand.store.calls if call[0] == "failed"] == [("failed", 1, connected)]


def test_a_batch_that_is_done_does_not_fail_with_its_leader() -> None:
    stand = Stand()
    stand.append(2, 2)
    stand.set(queued_writes=1)
    stand.turn()
    stand.replica.batch_done(1)
    stand.append(3, 2, source=3)
    stand.turn()
    assert not any(call[0] == "failed" for call in stand.store.calls)


def test_who_won_and_lost_between_two_turns_writes_its_entry_before_the_next_leaders() -> None:
    stand = Stand()
    stand.replica.receive(TimeoutNow(2, 1, 1))
    stand.turn()
    stand.set(persisted=1)
    stand.turn()
    stand.store.calls.clear()
    stand.replica.receive(VoteReply(2, 1, 2, True))
    stand.append(3, 2, source=3)
    stand.turn()
    assert stand.store.calls[:2] == [("noop", 2), ("receive", b"payload")]
    assert stand.replica.raft.log.last_term == 3


def test_losing_leadership_is_told_before_entries_are_superseded() -> None:
    stand = Stand()
    stand.elect()
    stand.store.calls.clear()
    stand.append(3, 2, source=3)
    stand.turn()
    assert stand.store.calls[:2] == [("lead", False, 0), ("receive", b"payload")]


def test_requests_wait_for_a_leader_and_then_no_longer() -> None:
    stand = Stand()
    stand.set(queued_reads=1, queued_writes=1)
    for _ in range(SETTINGS.leader_wait_ticks):
        stand.replica.tick()
        stand.turn()
    assert ("refuse", 1) not in stand.store.calls
    stand.replica.tick()
    assert ("refuse", 1) in stand.store.calls
    assert ("refuse_queued",) in stand.store.calls


def test_a_leader_whose_disk_stalls_makes_way() -> None:
    stand = Stand()
    stand.elect()
    stand.set(stalled_ms=1000)
    stand.turn()
    stand.replica.tick()
    assert not stand.replica.raft.is_leader


def test_a_follower_whose_disk_stalls_makes_nobody_wait() -> None:
    stand = Stand()
    stand.append(2, 2)
    stand.turn()
    stand.set(stalled_ms=SETTINGS.stall_ticks * SETTINGS.tick_ms + 1, queued_writes=1)
    stand.turn()
    assert stand.outbox.batches == []
    stand.replica.tick()
    assert ("give_up",) in stand.store.calls
    stand.store.calls.clear()
    stand.set(stalled_ms=0, queued_writes=1)
    stand.turn()
    stand.replica.tick()
    assert ("give_up",) not in stand.store.calls
    assert len(stand.outbox.batches) == 1


def test_a_member_whose_log_failed_says_nothing_more() -> None:
    stand = Stand()
    stand.set(failed=True)
    stand.turn()
    stand.outbox.messages.clear()
    stand.append(2, 2)
    for _ in range(50):
        stand.replica.tick()
    stand.turn()
    assert stand.outbox.messages == []


@pytest.mark.parametrize(("applied", "leads"), [(2, True), (1, False)])
def test_an_entry_that_cannot_be_read(applied: int, leads: bool) -> None:
    """Applied: whoever needs it gets a snapshot. Not applied: somebody else shall lead."""
    stand = Stand()
    stand.store.damaged = 2
    stand.set(applied=applied)
    stand.elect()
    assert stand.replica.raft.is_leader == leads
    assert stand.outbox.snapshots == ([2, 3] if leads else [])


def test_a_change_is_one_entry() -> None:
    stand = Stand()
    with pytest.raises(NotLeading):
        stand.replica.change(Change(ChangeKind.ADD_LEARNER, 4))
    stand.elect()
    stand.replica.receive(AppendReply(2, 1, 2, True, 2))
    stand.replica.receive(AppendReply(3, 1, 2, True, 2))
    stand.turn()
    membership = stand.replica.change(Change(ChangeKind.ADD_LEARNER, 4))
    assert membership.learners == {4}
    assert ("change", 2, membership) in stand.store.calls
    assert stand.replica.raft.log.last == stand.store.last

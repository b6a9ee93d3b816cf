"""A replica: Raft's decisions carried out on a store, one Ready a turn.

        store.look()            raft.persisted, disk in doubt
    queued writes ------------> leader: an entry each gathering; follower: a batch to the leader
    queued reads -------------> one gate each turn --> ReadIndex --> released at an index
        raft.ready()            entries, persist, messages, commit, answered reads

Nothing in here is done once per operation, waits, or knows of sockets and clocks: the daemon's loop
and the simulator drive the same object.

So that many small requests make few turns and messages, only so many rounds of them are on their
way at a time (entries not committed, batches at the leader, gates not answered). What comes
meanwhile wakes nobody and goes with the next round. Nor does a round of writes begin at once where
many clients write: it lingers for them (linger.py). A request that comes alone never waits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from bedplate.consensus.brake import Brake
from bedplate.consensus.linger import Linger
from bedplate.consensus.membership import Change, Membership
from bedplate.consensus.messages import Append, HeartbeatReply, Message
from bedplate.consensus.progress import Pace
from bedplate.consensus.raft import Raft
from bedplate.consensus.ready import HardState, NoOp


@dataclass(frozen=True, slots=True)
class StoreState:
    """What a store has done, and what waits in it."""

    persisted: int  # the number of the last `persist` that is durable
    applied: int
    queued_writes: int
    queued_reads: int
    failed: bool  # its log takes no more writes
    stalled_ms: int  # how long its log has been in one write or sync
    queued_bytes: int = 0  # of writes
    log_bytes: int = 0  # of the entries that others can get
    queued_arrivals: int = 0  # of writes: what entered together, as a forwarded batch, is one


class EntriesUnreadable(Exception):
    """Entries are damaged or gone; `index` is the first that cannot be read."""

    def __init__(self, index: int) -> None:
        super().__init__(f"entry {index} cannot be read")
        self.index = index


class ReplicatedStore(Protocol):
    """A store whose driver is Raft (native/src/raft.h has the promises)."""

    def look(self) -> StoreState: ...

    def gather(self, term: int, bytes_max: int) -> tuple[int, int]:
        """Queued writes become entries at the log's end: the last index, and their bytes. The last
        index as it was, and 0, when nothing was queued.
        """

    def propose_noop(self, term: int) -> None: ...

    def propose_change(self, term: int, membership: Membership) -> int:
        """A configuration entry at the log's end; its bytes."""

    def receive(self, payload: bytes) -> None:
        """The entries of one Append; those that are there already are passed over."""

    def persist(self, number: int, hard_state: HardState) -> None: ...

    def message(self, first: int, last: int) -> bytes:
        """The payload of an Append. Raises EntriesUnreadable."""

    def reach(self, first: int, last: int, bytes_max: int) -> tuple[int, int]: ...

    def commit(self, index: int) -> None: ...

    def lead(self, leading: bool, term: int) -> None:
        """Lead from now on, or no longer: what waits for entries of this member has no outcome that
        it could know.
        """

    def hold(self, write_bytes: int, arrivals: int, reads: bool) -> None:
        """Until the next call, queued writes of fewer bytes and arrivals than these are nothing to
        look at, nor are queued reads if `reads`. Those that are queued already are, if they are not
        held.
        """

    def gate(self) -> int:
        """Names the reads queued so far, taken together; 0 when there are none."""

    def release(self, gate: int, index: int) -> None:
        """Answer them once applied through `index`."""

    def refuse(self, gate: int) -> None:
        """Fail them: UNAVAILABLE / NO_LEADER."""

    def forward(self, bytes_max: int) -> tuple[int, bytes] | None:
        """Queued writes as a batch for the leader, and its name; None when nothing is queued."""

    def forward_failed(self, batch: int, *, sent: bool) -> None:
        """Fail a batch: its outcome is unknown if it was sent, else nothing was done."""

    def refuse_queued(self) -> None:
        """Fail everything queued: UNAVAILABLE / NO_LEADER."""

    def give_up(self) -> None:
        """Fail what waits for entries that this member cannot store: reads that were released, and
        queued writes, UNAVAILABLE with nothing done; batches that were answered, outcome unknown.
        """

    def compact(self, applied: int) -> int:
        """Forget entries that no member should need any more; the index compacted through."""


class Outbox(Protocol):
    """Where a replica's messages go. None of this waits; what cannot be sent is dropped."""

    def send(self, message: Message) -> None: ...

    def forward(self, leader: int, batch: int, requests: bytes) -> bool: ...

    def send_snapshot(self, member: int) -> None: ...


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """Times are in ticks, where their names do not say otherwise."""

    leader_wait_ticks: int = 30  # how long requests wait for a leader
    stall_ticks: int = 10  # whose disk stalls for so long leads no more, and makes nobody wait
    compact_ticks: int = 10
    forward_bytes_max: int = 2 << 20
    rounds_max: int = 1  # on their way at a time, of writes, of batches and of gates
    patience_ticks: int = 3  # a batch or gate that takes longer holds up no others
    round_bytes: int = 256 << 10  # so many queued bytes make a round of their own
    tick_ms: int = 100
    retain_bytes: int = 64 << 20  # of the log, whoever needs them
    retain_bytes_max: int = 1 << 30  # with what members that catch up need
    # How long a round lingers at most, 0: not at all. Of many clients a daemon hears three times
    # or more in a millisecond, so this makes some twenty a round, and is a fraction of what each of
    # 64 waits anyway.
    linger_ms: int = 5
    linger_bytes: int = 64 << 10  # so many queued bytes are worth a round,
    linger_least: int = 8  # and so many arrivals are worth lingering to the end


_EVER: Final = 1 << 63  # so many never come


@dataclass(frozen=True, slots=True)
class _Batch:
    leader: int
    since: int  # the tick when it was sent


class Replica:
    """One member: a Raft and the store it replicates."""

    def __init__(
        self,
        raft: Raft,
        store: ReplicatedStore,
        outbox: Outbox,
        settings: ReplicaSettings,
        catching_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """`catching_up`: whether a leader should keep the log for a member, and slow writes."""
        self.raft = raft
        self._store = store
        self._outbox = outbox
        self._settings = settings
        self._catching_up = catching_up
        self.brake = Brake(settings.retain_bytes, settings.retain_bytes_max, settings.tick_ms)
        self._ticks = 0
        self._leaderless_ticks = 0
        self._unanswered: list[int] = []  # gates that nobody could answer yet
        self._batches: dict[int, _Batch] = {}  # forwarded, by name
        self._led = (False, 0)
        self._gates: dict[int, int] = {}  # asked for and not answered: name -> since which tick
        self._round = 0  # arrivals in the newest round of writes on its way
        self._linger = Linger(enabled=settings.linger_ms > 0, least=settings.linger_least)
        self._held = (0, 0, False)
        self._again = False
        self._commit = 0  # as the store was told
        self.state = store.look()

    @property
    def leader(self) -> int:
        return self.raft.leader

    # ---- what happens --------------------------------------------------------------------------

    def tick(self) -> None:
        """settings.tick_ms have passed."""
        self._ticks += 1
        self.linger_no_more()  # of those who have no finer clock
        self.raft.tick()
        self.brake.tick(self.raft.is_leader and self._catching_up())
        self._leaderless_ticks = 0 if self.raft.leader else self._leaderless_ticks + 1
        if self._leaderless_ticks > self._settings.leader_wait_ticks:
            self._refuse_all()
        if self._stalled:
            self._make_way()
        full = self.state.log_bytes > self.brake.start  # so that only what is needed slows writes
        if full or self._ticks % self._settings.compact_ticks == 0:
            self.raft.compact(self._store.compact(self.state.applied))

    @property
    def _stalled(self) -> bool:
        """Whether the disk is full, or takes a write or sync for too long."""
        return self.state.stalled_ms > self._settings.stall_ticks * self._settings.tick_ms

    def _make_way(self) -> None:
        """Others can do what this member cannot: lead, and answer."""
        if self.raft.is_leader:
            self.raft.step_down()
        else:
            self._store.give_up()

    @property
    def lingers(self) -> bool:
        """Whether a round waits for company; after settings.linger_ms of it, `linger_no_more`."""
        return self._linger.expected > 0

    def linger_no_more(self) -> None:
        """Whoever has not come by now is not waited for."""
        self._linger.time_is_up()

    def is_urgent(self, message: Message) -> bool:
        """Whether a message changes anything before the next tick. A heartbeat's answer that no
        read waits for does not: the sender is alive, which only ticks ask.
        """
        if not isinstance(message, HeartbeatReply):
            return True
        progress = self.raft.progress.get(message.source)
        if progress is None or message.term != self.raft.term:
            return True
        return progress.pace is not Pace.REPLICATE or message.round > progress.round

    def receive(self, message: Message) -> None:
        """Raises Contradiction: this member must stop."""
        self.raft.step(message)

    def change(self, change: Change) -> Membership:
        """Begin a membership change; done when its entry is committed. Raises ChangeRefused,
        NotLeading.
        """
        membership = self.raft.propose_change(change, 0)
        self._store.propose_change(self.raft.term, membership)
        return membership

    def batch_done(self, batch: int) -> None:
        """A forwarded batch was answered."""
        self._batches.pop(batch, None)

    def batch_refused(self, batch: int) -> None:
        """The leader did not take a batch: nothing of it was done."""
        if self._batches.pop(batch, None) is not None:
            self._store.forward_failed(batch, sent=False)

    def connection_lost(self, member: int) -> None:
        """What was sent to `member` lately may not have arrived."""
        self.raft.unreachable(member)
        if member == self.raft.leader:
            self.raft.leader_unreachable()
        self._fail_batches(member)

    # ---- one turn ------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Do everything that can be done now; whether there is more already."""
        self._again = False
        self.state = self._store.look()
        self.brake.look(self.state.log_bytes)
        if self.state.failed and not self.raft.failed:
            self.raft.fail()
        self.raft.persisted(self.state.persisted)
        self._follow_leadership()  # first: what waits here and what is superseded depend on it
        self._take_writes()
        self._take_reads()
        self._carry_out()
        self._hold()
        return self._again

    def _take_writes(self) -> None:
        state, waits = self.state, self._writes_wait
        if self._round and self._held[1] == _EVER and not waits:  # they waited for it until now
            self._linger.begin(self._round, state.queued_arrivals)
            self._round = 0
        if state.queued_writes == 0:
            return
        if waits and state.queued_bytes < self._settings.round_bytes:
            return
        few = state.queued_arrivals < self._linger.expected
        if few and state.queued_bytes < self._settings.linger_bytes:
            return
        room = self.raft.room
        if room > 0:
            if not self._gather(min(room, self.brake.room)):
                return
        elif self.raft.leader and not self.raft.is_leader and not self._stalled:
            self._forward(self.raft.leader)
        else:
            return
        self._round = state.queued_arrivals
        self._linger.end(state.queued_arrivals)
        # What did not fit may go at once, or is much.
        self._again = not self._writes_wait or state.queued_bytes >= self._settings.round_bytes

    def _gather(self, room: int) -> bool:
        """Whether a round has begun."""
        if room == 0:
            return False  # a tick makes some
        last, size = self._store.gather(self.raft.term, room)
        if size == 0:  # reads alone
            self._again = True
            return False
        self.brake.took(size)
        self.raft.propose(last, size)
        return True

    @property
    def _writes_wait(self) -> bool:
        """Whether enough of them are on their way."""
        if self.raft.is_leader:
            return self.raft.rounds >= self._settings.rounds_max
        return self._enough(batch.since for batch in self._batches.values())

    @property
    def _reads_wait(self) -> bool:
        return self._enough(self._gates.values())

    def _enough(self, since: Iterable[int]) -> bool:
        newest = self._ticks - self._settings.patience_ticks
        return sum(tick > newest for tick in since) >= self._settings.rounds_max

    def _hold(self) -> None:
        """What has to wait for a round on its way need not be looked at before that has arrived."""
        settings = self._settings
        if self.raft.is_leader and self.brake.room == 0:
            held = (_EVER, _EVER, self._reads_wait)
        elif self._writes_wait:
            held = (settings.round_bytes, _EVER, self._reads_wait)
        else:
            expected = self._linger.expected
            held = (settings.linger_bytes if expected else 0, expected, self._reads_wait)
        if held != self._held:
            self._held = held
            self._store.hold(*held)

    def _forward(self, leader: int) -> None:
        taken = self._store.forward(self._settings.forward_bytes_max)
        if taken is None:
            return
        batch, requests = taken
        if self._outbox.forward(leader, batch, requests):
            self._batches[batch] = _Batch(leader, self._ticks)
        else:
            self._store.forward_failed(batch, sent=False)

    def _take_reads(self) -> None:
        if self.state.queued_reads > 0 and not self._reads_wait:
            gate = self._store.gate()
            if gate:
                self._unanswered.append(gate)
        if self._unanswered and self.raft.leader:
            gates, self._unanswered = self._unanswered, []
            for gate in gates:
                self._gates[gate] = self._ticks
                self.raft.read(gate)

    def _carry_out(self) -> None:
        ready = self.raft.ready()
        if ready is None:
            return
        for entry in ready.entries:
            if isinstance(entry, NoOp):
                self._store.propose_noop(entry.term)
                self._again = True  # it can be sent now
            else:
                assert isinstance(entry.payload, bytes)
                self._store.receive(entry.payload)
        if ready.number:
            self._store.persist(ready.number, ready.hard_state)
        payloads: dict[tuple[int, int], bytes] = {}  # most members get the same entries
        for message in ready.messages:
            self._send(message, payloads)
        if ready.commit > self._commit:
            self._commit = ready.commit
            self._store.commit(ready.commit)
        for read in ready.reads:
            self._gates.pop(read.context, None)
            if read.index is None:
                self._unanswered.append(read.context)
                self._again = self._again or bool(self.raft.leader)
            else:
                self._store.release(read.context, read.index)
        for member in ready.snapshots:
            self._outbox.send_snapshot(member)

    def _send(self, message: Message, payloads: dict[tuple[int, int], bytes]) -> None:
        if isinstance(message, Append) and len(message.entries) > 0:
            span = (message.entries.first, message.entries.last)
            try:
                payload = payloads.get(span) or self._store.message(*span)
            except EntriesUnreadable as unreadable:
                self._do_without(message.target, unreadable.index)
                return
            payloads[span] = payload
            message = replace(message, payload=payload)
        self._outbox.send(message)

    def _do_without(self, member: int, index: int) -> None:
        """What is applied is in the snapshot that `member` gets instead. What is not applied is in
        doubt here: somebody else shall lead.
        """
        self._again = True
        if index <= self.state.applied:
            self.raft.unreadable(member)
        else:
            self.raft.step_down()

    def _follow_leadership(self) -> None:
        leads, leader = self.raft.is_leader, self.raft.leader
        led = (leads, self.raft.term if leads else 0)
        if led != self._led:
            if self._led[0] and led[0]:  # lost and won between two turns
                self._store.lead(False, 0)
            self._led = led
            self._round = 0
            self._linger.end(0)
            self._store.lead(*led)
        for lost in {b.leader for b in self._batches.values() if b.leader != leader}:
            self._fail_batches(lost)

    def _fail_batches(self, leader: int) -> None:
        for batch in [name for name, b in self._batches.items() if b.leader == leader]:
            del self._batches[batch]
            self._store.forward_failed(batch, sent=True)

    def _refuse_all(self) -> None:
        self._store.refuse_queued()
        gates, self._unanswered = self._unanswered, []
        for gate in gates:
            self._store.refuse(gate)

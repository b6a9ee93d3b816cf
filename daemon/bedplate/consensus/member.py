"""A member at work: a node, its links, and what they and the records of the store tell it.

    records --> address book --> transport --> other members
    node: a turn --> membership, leader --> whom to connect to, whether we still belong

Made when a cluster has more than one member, and kept until the daemon stops.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final, Protocol

import structlog

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.consensus.address_book import AddressBook
from bedplate.consensus.config import ClusterConfig, RaftConfig
from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.link import LinkEvents
from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import Message, TimeoutNow
from bedplate.consensus.node import DrivenStore, Node
from bedplate.consensus.peer_channel import Credentials
from bedplate.consensus.progress import Pace
from bedplate.consensus.quarantine import StateHash, StateHashes, Telling, Verdict
from bedplate.consensus.raft import Raft
from bedplate.consensus.ready import HardState, Role, Settings
from bedplate.consensus.refusals import Refusals
from bedplate.consensus.repair import Repairer, fetch_values
from bedplate.consensus.replica import Replica, ReplicaSettings
from bedplate.consensus.snapshot_counters import SnapshotCounters
from bedplate.consensus.snapshot_sender import Offer, SnapshotSender
from bedplate.consensus.transport import Self, Transport
from bedplate.errors import BedplateError, Code, StartupError
from bedplate.native.snapshot import NativeInstall, NativeManifest

_HASH_TICKS: Final = 10


class ClusterStore(DrivenStore, Protocol):
    """A store that a member can be made of."""

    needed: Callable[[], int | None]  # from where on the log is needed, whatever its size

    @property
    def cluster_id(self) -> bytes: ...

    @property
    def member(self) -> int: ...

    def membership(self) -> Membership:
        """As applied; also before `take`. Nobody at all: it has joined, and received nothing."""

    def take(self) -> tuple[EntryLog, HardState]:
        """Become the store's driver for good; the log and hard state that are durable. Blocks until
        what is being written is applied. Raises StoreError: interval durability.
        """

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be written."""

    # These block, and raise StoreError.

    def manifest(self) -> NativeManifest: ...

    def install(self) -> NativeInstall: ...

    def fetch(self, wanted: bytes) -> bytes: ...

    def damaged(self) -> bytes | None: ...

    def repair(self, values: bytes) -> int: ...


def settings(config: ClusterConfig, retained: RaftConfig) -> tuple[Settings, ReplicaSettings]:
    """A tick is a heartbeat."""
    tick_ms = config.heartbeat_ms
    raft = Settings(
        heartbeat_ticks=1,
        election_ticks=max(5, config.election_ms // tick_ms),
        message_bytes_max=config.message_bytes_max,
        window_bytes_max=config.window_bytes_max,
    )
    replica = ReplicaSettings(
        leader_wait_ticks=config.leader_wait_ms // tick_ms,
        stall_ticks=raft.election_ticks,
        tick_ms=tick_ms,
        retain_bytes=retained.retain_bytes,
        retain_bytes_max=retained.retain_bytes_max,
    )
    return raft, replica


class Member:
    """`run` works until cancelled, and raises what must stop the daemon (see endings.py): a
    Contradiction, or a StartupError that says REMOVED.
    """

    def __init__(
        self,
        store: ClusterStore,
        restored: tuple[EntryLog, HardState],
        *,
        config: ClusterConfig,
        raft_config: RaftConfig,
        counters: SnapshotCounters,
        address: str,
        book: AddressBook,
        credentials: Credentials,
        quarantined: Callable[[str], Awaitable[None]],
    ) -> None:
        """`quarantined` is awaited before this member is taken out of service."""
        log, hard_state = restored
        raft_settings, replica_settings = settings(config, raft_config)
        self.id = store.member
        self.cluster_id = store.cluster_id
        self.address = address
        self.book = book
        self._store = store
        self._config = config
        self._quarantined = quarantined
        self._log = structlog.get_logger("bedplate.cluster")
        events = LinkEvents(
            lost=lambda member: self.node.connection_lost(member),
            dropped=lambda member: self.node.dropped(member),
            answered=self._forward_answered,
            refused=self._refused,
        )
        self._me = Self(self.cluster_id, self.id, address)
        self._credentials = credentials
        self.transport = Transport(self._me, book, credentials, events)
        self.raft = Raft(
            self.id,
            settings=raft_settings,
            log=log,
            hard_state=hard_state,
            reach=store.reach,
            random=Random().randrange,
        )
        self.node = Node(
            Replica(self.raft, store, self.transport, replica_settings, self._catching_up),
            store,
            tick_s=config.heartbeat_ms / 1000,
            linger_s=replica_settings.linger_ms / 1000,
            on_turn=self._look_around,
            on_tick=self._on_tick,
        )
        self._snapshots = SnapshotSender(
            store,
            book,
            credentials,
            counters,
            at_a_time=raft_config.snapshots_max,
            stall_s=raft_config.snapshot_stall_seconds,
            offer=self._offer,
            done=self._snapshot_done,
        )
        self._repairer = Repairer(store, counters, others=self._others, fetch=self._fetch)
        store.needed = self._needed
        self.changed = asyncio.Event()  # leader or membership; whoever waits clears it
        self.out_of_service = ""  # why, once it is
        self._callers: dict[int, int] = {}  # members with streams to us, and how many
        self._seen: tuple[int, Membership] | None = None
        self._belonged = False
        self._decided = Membership(frozenset())  # as last committed
        self._removed: frozenset[int] = frozenset()  # since this one began
        self._refused_since = 0.0
        self._refusals = Refusals()
        self._hashes = StateHashes(self.id)
        self._slowed_since: int | None = None  # of the brake's ticks
        self._telling = Telling()
        self._ticks = 0
        self._verdict = Verdict.UNKNOWN
        self._group: asyncio.TaskGroup | None = None
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            parts = (self.transport, self.node, self._snapshots, self._repairer)
            tasks = [group.create_task(part.run()) for part in parts]
            self._begin()
            try:
                await self._failure
            finally:
                for task in tasks:
                    task.cancel()

    def _begin(self) -> None:
        """Who votes alone need not wait for anybody."""
        if self.membership.voters == {self.id}:
            self.node.deliver((TimeoutNow(self.id, self.id, self.raft.term),))
        self.node.wake()

    # ---- what others may ask -------------------------------------------------------------------

    @property
    def membership(self) -> Membership:
        return self.raft.membership

    @property
    def role(self) -> str:
        """leader, follower, candidate or learner."""
        if self.raft.role is Role.FOLLOWER:
            return "follower" if self.id in self.membership.voters else "learner"
        return "leader" if self.raft.is_leader else "candidate"

    def admit(self, hello: pb.Hello) -> None:
        """Raises BedplateError: CLUSTER_MISMATCH, NOT_A_MEMBER."""
        if hello.cluster_id != self.cluster_id or hello.target != self.id:
            raise mismatch(self.cluster_id, self.id)
        self.check_member(hello.source)
        self.book.hint(hello.source, hello.address)

    def check_member(self, source: int) -> None:
        """Raises BedplateError: NOT_A_MEMBER, or REMOVED where that is decided, and so for ever.
        Only a leader knows: others may be behind.
        """
        if self.raft.is_leader and source not in self.membership.members:
            raise BedplateError(
                f"{source:016x} is not a member of this cluster",
                code=Code.FAILED_PRECONDITION,
                reason="REMOVED" if source in self._removed else "NOT_A_MEMBER",
            )

    def deliver(self, messages: Sequence[Message]) -> None:
        """What another member says."""
        for message in messages:
            if isinstance(message, StateHash):
                self._take_hash(message.source, message.index, message.hash)
        self.node.deliver([m for m in messages if not isinstance(m, StateHash)])

    def opened(self, source: int) -> None:
        """A stream from there has begun."""
        if source not in self._callers:
            self.transport.retry(source)
        self._callers[source] = self._callers.get(source, 0) + 1
        self._connect()

    def ended(self, source: int, *, lost: bool) -> None:
        """It has ended, and, if `lost`, has no successor."""
        left = self._callers.get(source, 1) - 1
        if left > 0:
            self._callers[source] = left
        else:
            self._callers.pop(source, None)
        if lost:
            self.node.connection_lost(source)

    def hand_over(self) -> None:
        """The daemon stops: let another voter lead, if one can."""
        if not self.raft.is_leader:
            return
        target = self.furthest()
        if target:
            self.raft.transfer(target)
            self.node.wake()

    def furthest(self) -> int:
        """The other voter that holds most of the log and can be talked to; 0: there is none."""
        others = [
            (self.raft.progress[member].match, member)
            for member in self.membership.voters - {self.id}
            if member in self.raft.progress and self.transport.is_up(member)
        ]
        return max(others)[1] if others else 0

    # ---- the turn and the tick -----------------------------------------------------------------

    def _look_around(self) -> None:
        self._send_snapshots()
        leader, membership = self.raft.leader, self.raft.membership
        if (leader, membership) != self._seen:
            self._seen = (leader, membership)
            self._connect()
            self.changed.set()
        if self.id in membership.voters or self.id in membership.learners:
            self._belonged = True
        elif self._belonged and self.raft.log.change_index <= self.raft.commit:
            self._fail("the cluster has removed this member", "REMOVED")
        if membership != self._decided and self.raft.log.change_index <= self.raft.commit:
            # An id is never given again.
            self._removed |= self._decided.members - membership.members
            self._decided = membership

    def _connect(self) -> None:
        wanted = {*self.membership.members, *self._callers}
        if self.raft.leader:
            wanted.add(self.raft.leader)
        if not self.membership.members:
            wanted.update(self.book.all())
        self.transport.connect(wanted - {self.id})

    def _on_tick(self) -> None:
        self._ticks += 1
        if self.raft.leader:
            self._refused_since = 0.0
        self._connect()
        self._tell_slowing()
        if self._ticks % _HASH_TICKS == 0:
            self._tell_hash()

    # ---- snapshots, and values for repair ------------------------------------------------------

    @property
    def stored_all(self) -> bool:
        """Whether what the node handed over is durable."""
        return self._store.idle

    def install(self) -> NativeInstall:
        """Another member's state to come. Blocks. Raises StoreError."""
        return self._store.install()

    def fetch(self, wanted: bytes) -> bytes:
        """Values that another member asks for. Blocks. Raises StoreError."""
        return self._store.fetch(wanted)

    def _send_snapshots(self) -> None:
        """Those that the last turn asked for."""
        wanted, self.transport.snapshots = self.transport.snapshots, set()
        if self.raft.is_leader:
            for member in wanted:
                self._snapshots.send(member)
        else:
            self._snapshots.stop()

    def _offer(self, member: int) -> Offer:
        return Offer(self._me.hello(member), self.raft.term, self.node.replica.state.applied)

    def _snapshot_done(self, member: int, installed: bool) -> None:
        progress, index = self.raft.progress.get(member), self._snapshots.pinned.get(member)
        if installed and index and progress is not None and progress.pace is Pace.SNAPSHOT:
            progress.install(index)  # it was opened later than asked for: the log goes on behind it
        self.raft.snapshot_sent(member, installed=installed)
        self.node.wake()

    def _needed(self) -> int | None:
        """By members that are catching up: they can be talked to, or were sent a snapshot."""
        if not self.raft.is_leader:
            return None
        followed = [
            progress.match
            for member, progress in self.raft.progress.items()
            if self.transport.is_up(member) and progress.pace is not Pace.SNAPSHOT
        ]
        return min([*followed, *self._pinned()], default=None)

    def _pinned(self) -> Sequence[int]:
        """From where on members with a snapshot need the log, those that it can still help."""
        indexes = self._snapshots.pinned.values()
        return [index for index in indexes if index >= self.raft.log.compacted]

    def _catching_up(self) -> bool:
        """Whether a member with a snapshot, or on the way from it, needs the log to be kept."""
        self._snapshots.look({m: p.match for m, p in self.raft.progress.items()}, self.raft.commit)
        return bool(self._pinned())

    def _tell_slowing(self) -> None:
        """When it begins, and when nobody catches up any more."""
        brake = self.node.replica.brake
        if self._slowed_since is None and brake.strength > 0:
            self._slowed_since = brake.slowed_ticks
            members = [f"{member:016x}" for member in sorted(self._snapshots.pinned)]
            self._log.warning("writes_slowed", catching_up=members, limit_bytes=brake.limit)
        elif self._slowed_since is not None and not brake.on:
            slowed_s = (brake.slowed_ticks - self._slowed_since) * brake.tick_ms / 1000
            self._slowed_since = None
            self._log.info("writes_not_slowed", slowed_seconds=round(slowed_s, 1))

    def _others(self) -> Sequence[int]:
        """Members whose values may replace damaged ones, the leader first."""
        others = [m for m in self.membership.members - {self.id} if self.transport.is_up(m)]
        return sorted(others, key=lambda member: (member != self.raft.leader, member))

    async def _fetch(self, member: int, wanted: bytes) -> Sequence[bytes]:
        address = self.book.address(member)
        return await fetch_values(address, self._me.hello(member), wanted, self._credentials)

    # ---- links ---------------------------------------------------------------------------------

    def _forward_answered(self, _: int, answer: pb.ForwardResponse) -> None:
        if not answer.batch:
            return
        if answer.refused:
            self.node.forward_refused(answer.batch)
        else:
            self.node.forward_answered(answer.batch, answer.outcomes)

    def _refused(self, member: int, error: BedplateError) -> None:
        """A leader that refuses us for longer than an election takes is not merely behind; one that
        has seen our removal decided need not be asked twice.
        """
        if error.reason == "REMOVED":
            self._fail("the cluster has removed this member", "REMOVED")
            return
        if error.reason != "NOT_A_MEMBER":
            self._refusals.note(member, self.book.address(member), error)
            return
        now = time.monotonic()
        if not self._refused_since:
            self._refused_since = now
        elif now - self._refused_since > 2 * self._config.election_ms / 1000:
            self._fail(_uncounted(self.address), "REMOVED")

    def _fail(self, why: str, reason: str) -> None:
        if not self._failure.done():
            self._failure.set_exception(StartupError(why, reason=reason))

    # ---- state hashes --------------------------------------------------------------------------

    def _tell_hash(self) -> None:
        index, hash_ = self._store.state_hash()
        if not self._telling.due(index):
            return
        self._take_hash(self.id, index, hash_)
        for member in self.membership.members - {self.id}:
            self.transport.send(StateHash(self.id, member, self.raft.term, index, hash_))

    def _take_hash(self, source: int, index: int, hash_: bytes) -> None:
        verdict = self._hashes.add(source, index, hash_, self.membership)
        if self._verdict in (Verdict.DIVERGED, Verdict.NO_MAJORITY):
            return  # nothing makes that good again
        self._verdict = verdict
        if verdict is Verdict.DIVERGED:
            self._out_of_service(f"this member's state differs from the others' at entry {index}")
        elif verdict is Verdict.NO_MAJORITY:
            self._out_of_service(f"no majority agrees on the state at entry {index}")

    def _out_of_service(self, why: str) -> None:
        self.out_of_service = why
        self._log.error("quarantined", why=why, advice="replace it: cluster remove, cluster add")
        self.hand_over()
        if self._group is not None:
            self._group.create_task(self._leave(why))

    async def _leave(self, why: str) -> None:
        """Take no part any more, after a last attempt to have somebody else lead."""
        election_s = self._config.election_ms / 1000
        with contextlib.suppress(TimeoutError):
            await self.node.until(lambda: not self.raft.is_leader, election_s)
        await self._quarantined(why)
        self.raft.fail()
        self.node.wake()


def _uncounted(address: str) -> str:
    return (
        "the cluster does not count this daemon among its members, and never will with this "
        f"directory: to be one, `bedplate cluster add {address}` on a member, then start it with a "
        "new directory"
    )


def mismatch(cluster_id: bytes, member: int) -> BedplateError:
    """For a caller who takes us for somebody else."""
    return BedplateError(
        f"this is member {member:016x} of cluster {cluster_id.hex()}",
        code=Code.FAILED_PRECONDITION,
        reason="CLUSTER_MISMATCH",
    )

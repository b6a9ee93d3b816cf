"""The cluster as one daemon lives in it, from a new directory to its last call.

prepare   who am I?       founding.json, the contacts      (the store is not open yet)
start     the store says  alone: its own driver works, as fast as ever
                          with others: a Member drives it
activate  alone no more   AddMember made it a cluster; there is no way back while it runs
stop      after the last call was answered, before the store closes
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable

import structlog

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.consensus.address_book import AddressBook
from bedplate.consensus.alone import check_alone
from bedplate.consensus.catch_up import CatchUp
from bedplate.consensus.config import ClusterConfig, RaftConfig
from bedplate.consensus.endings import STALE, ending
from bedplate.consensus.identity import Identity
from bedplate.consensus.member import ClusterStore, Member
from bedplate.consensus.membership import Membership
from bedplate.consensus.node import no_leader
from bedplate.consensus.origin import Origin, Place
from bedplate.consensus.peer_channel import Credentials
from bedplate.consensus.ready import Lost
from bedplate.consensus.record_keeper import RecordKeeper
from bedplate.consensus.records import MemberRecords
from bedplate.consensus.snapshot_counters import SnapshotCounters
from bedplate.consensus.snapshot_receiver import SnapshotReceiver
from bedplate.consensus.whereabouts import Whereabouts, check_place
from bedplate.errors import BedplateError, Code
from bedplate.native.errors import StoreError
from bedplate.storage.engine import Engine

_RETRY_S = 1.0
_EXPLAINED = ("NO_LEADER", "LEADER_LOST", "DISK_FULL")
_HINTED_RETRY_MS = 100
_ELECTIONS = 3  # in which a leader would have called
_RECORDS_S = 5.0  # for reading what is applied here
_ALONE_WAIT_S = 5.0  # for others that this one, alone, is configured to be a cluster with


Relayed = Callable[[pb.RelayRequest], Awaitable[pb.RelayResponse]]


class Cluster:
    """`prepare`, `start`, `failed` and `stop`, in this order, on one loop."""

    def __init__(
        self,
        config: ClusterConfig,
        engine: Engine,
        credentials: Credentials,
        make_store: Callable[[Engine], ClusterStore],
        *,
        raft_config: RaftConfig | None = None,
        peers_refused: str = "",
    ) -> None:
        """`peers_refused`: why no other member may be let in; "" if they may."""
        self.config = config
        self.engine = engine
        self.credentials = credentials
        self.peers_refused = peers_refused
        self.origin = Origin(config, credentials)
        self.records = MemberRecords(engine)
        self.book = AddressBook({})
        self.member: Member | None = None
        self.do_relayed: Relayed | None = None  # what ClusterService does for another member
        self.changing = asyncio.Lock()  # of the membership and the records, one at a time
        self.waiting = ""  # for whom, to know who this is; "" once that is known
        self._alone = False  # a cluster of one, driven by its store
        self._caught_up: CatchUp | None = None
        self.snapshot_counters = SnapshotCounters()
        self._log = structlog.get_logger("bedplate.cluster")
        self._raft_config = raft_config = raft_config or RaftConfig()
        self.receiver = SnapshotReceiver(
            self.snapshot_counters,
            stall_s=raft_config.snapshot_stall_seconds,
            member=lambda: self.at_work,
            reopen=self._reopen,
        )
        self._make_store = make_store
        self._store: ClusterStore | None = None
        self._work: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] | None = None

    # ---- life ----------------------------------------------------------------------------------

    async def prepare(self, place: Place, *, fresh: bool) -> Identity | None:
        """Who a store that is to be made belongs to; None where it says so itself, or founds a
        cluster of its own. Waits for the contacts as long as it must. Raises StartupError.
        """
        self._failed = asyncio.get_running_loop().create_future()
        identity = await self.origin.find(place, fresh=fresh, on_wait=self._wait)
        if identity is not None:
            self.book = AddressBook(identity.addresses)
        self.waiting = ""
        if self.origin.others:  # nothing is served before `start` has found who we are
            self.engine.refuse(recovering())
        return identity

    def _wait(self, what: str) -> None:
        self.waiting = what
        self.engine.refuse(recovering(what))

    async def start(self) -> None:
        """The store is open. Raises StoreError, StartupError."""
        await self.origin.store_made()
        self.engine.explain = self._explain
        store = self._make_store(self.engine)
        alone = store.membership() == Membership(frozenset({store.member}))
        alone = alone and not self.engine.status().clustered
        others = self.origin.others
        if alone and others and not self.origin.founded(store.cluster_id):
            await check_alone(self.address, others, self.origin.contacts, wait_s=_ALONE_WAIT_S)
        self._store, self._alone = store, alone
        if not alone:
            await self._check_place(store)
            await self.activate()
        if others:
            self.engine.refuse(None)

    async def _check_place(self, store: ClusterStore) -> None:
        """Before this member votes. Raises StartupError."""
        try:
            async with asyncio.timeout(_RECORDS_S):
                records = await self.records.local()
        except (BedplateError, TimeoutError):  # whatever is damaged is noticed elsewhere
            return
        check_place(store.member, self.address, records, store.membership().members)

    async def activate(self) -> None:
        """Drive the store from now on. Raises StoreError, and then everything is as it was."""
        if self.member is not None:
            return
        assert self._store is not None
        restored = await asyncio.to_thread(self._store.take)
        await self.origin.belongs()
        try:
            self.member = Member(
                self._store,
                restored,
                config=self.config,
                raft_config=self._raft_config,
                counters=self.snapshot_counters,
                address=self.address,
                book=self.book,
                credentials=self.credentials,
                quarantined=self._quarantine,
            )
        except Lost as error:
            raise self._ending(error) from None
        loop = asyncio.get_running_loop()
        nobodys = contextvars.Context()  # it outlives the call, if it was one, that began it
        self._work = loop.create_task(self._run(self.member), context=nobodys)
        self._work.add_done_callback(self._ended)
        self._alone = False
        self._caught_up = CatchUp(self.member.raft, self.records.newest)
        self._background = [
            loop.create_task(self._record_keeper(self.member).run(), context=nobodys),
            loop.create_task(self._caught_up.run(), context=nobodys),
        ]

    async def failed(self) -> None:
        """Wait for ever, or raise what must stop the daemon."""
        assert self._failed is not None
        await self._failed

    def drain(self) -> None:
        """The daemon will stop: somebody else shall lead."""
        if self.member is not None:
            self.member.hand_over()

    async def stop(self) -> None:
        """Take no part any more."""
        await self.receiver.close()
        await self._rest()

    async def _rest(self) -> None:
        """End what the member does."""
        tasks = [*self._background, *([self._work] if self._work is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _reopen(self) -> None:
        """A snapshot was installed: go on from it, as a daemon that was started anew would."""
        await self._rest()
        self.member = self._store = None
        try:
            await self.engine.reopen()
            self._store = self._make_store(self.engine)
            await self.activate()
        except BaseException as error:
            if self._failed is not None and not self._failed.done():
                self._failed.set_exception(error)
            raise

    async def _run(self, member: Member) -> None:
        """What it raises says why."""
        try:
            await member.run()
        except Exception as error:
            known = self._ending(error)
            if isinstance(known, BedplateError):
                self._log.error("member_stops", reason=known.reason, why=known.message)
                if known.reason == STALE:
                    with contextlib.suppress(OSError):
                        await self.origin.quarantine("it is older than what it acknowledged")
            raise known from None

    def _ending(self, error: Exception) -> BaseException:
        return ending(error, self.origin.place.directory, self.address)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._failed is None or self._failed.done():
            return
        error = task.exception()
        self._failed.set_exception(error or RuntimeError("the member's work ended"))

    # ---- what can be asked ---------------------------------------------------------------------

    @property
    def address(self) -> str:
        """This member's."""
        return self.origin.place.address

    @property
    def started(self) -> bool:
        """Whether this daemon knows what it is: alone, or a member at work."""
        return self._alone or self.member is not None

    @property
    def is_alone(self) -> bool:
        """Whether this is a cluster of one, which its store drives by itself."""
        return self._alone and self.member is None

    @property
    def has_leader(self) -> bool:
        """Whether this member knows who leads; one that is alone does."""
        return self._alone if self.member is None else self.member.raft.leader != 0

    @property
    def caught_up(self) -> bool:
        """Whether this member has what its leader had committed when it came to lead."""
        return self._alone or (self._caught_up is not None and self._caught_up.done)

    @property
    def ever_caught_up(self) -> bool:
        """Whether it had, at any time since it was started."""
        return self._alone or (self._caught_up is not None and self._caught_up.ever)

    @property
    def out_of_service(self) -> str:
        """Why this member serves nothing any more; "" if it does."""
        return self.member.out_of_service if self.member is not None else ""

    @property
    def role(self) -> str:
        """leader, follower, candidate or learner."""
        if self.member is not None:
            return self.member.role
        return "leader" if self._alone else "follower"  # or will be: it is being opened

    @property
    def store(self) -> ClusterStore:
        """Raises BedplateError: STORE_RECOVERING."""
        if self._store is None:
            raise recovering(self.waiting)
        return self._store

    @property
    def at_work(self) -> Member:
        """Raises BedplateError: NO_LEADER."""
        if self.member is None:
            raise no_leader()
        return self.member

    @property
    def leader(self) -> int:
        """0: unknown."""
        if self.member is not None:
            return self.member.raft.leader
        return self.store.member if self._alone else 0

    def _explain(self, error: StoreError) -> None:
        """Say who leads, where that helps."""
        if error.code is not Code.UNAVAILABLE or error.reason not in _EXPLAINED:
            return
        if self.member is None:
            return
        leader = self.member.raft.leader
        if leader:
            address = self.address if leader == self.member.id else self.book.address(leader)
            error.metadata = {**error.metadata, "leader": address, "leader_id": f"{leader:016x}"}
            error.retry_after_ms = _HINTED_RETRY_MS
        else:
            error.retry_after_ms = self.config.election_ms

    # ---- records -------------------------------------------------------------------------------

    def _record_keeper(self, member: Member) -> RecordKeeper:
        return RecordKeeper(
            self.engine,
            self.records,
            self.book,
            member,
            own=self.own_record,
            changing=self.changing,
            whereabouts=Whereabouts(self.address, _ELECTIONS * self.config.election_ms / 1000),
        )

    def own_record(self) -> pb.MemberRecord:
        """As it should be."""
        record, store = pb.MemberRecord(), self.store
        known = self.book.record(store.member)
        if known is not None:
            record.CopyFrom(known)
        record.member_id = store.member
        record.address = self.address
        if not record.name and not self.book.holder(self.config.member_name):
            record.name = self.config.member_name
        record.incarnation = record.incarnation or self.engine.status().store_id
        return record

    async def _quarantine(self, why: str) -> None:
        """Never serve from this directory again."""
        self.engine.refuse(
            StoreError(f"out of service: {why}", code=Code.UNAVAILABLE, reason="QUARANTINED")
        )
        await self.origin.quarantine(why)
        record = self.own_record()
        record.quarantined = True
        with contextlib.suppress(BedplateError, TimeoutError):
            async with asyncio.timeout(_RETRY_S):
                await self.records.write(record)


def recovering(waiting: str = "") -> StoreError:
    """For who asks too early. `waiting`: what for, where that is known."""
    return StoreError(
        f"{waiting or 'the store is recovering'}; try again soon",
        code=Code.UNAVAILABLE,
        reason="STORE_RECOVERING",
    )

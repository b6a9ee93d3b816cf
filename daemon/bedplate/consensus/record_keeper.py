"""Keeps what the cluster remembers of its members as it should be, while a member is at work.

watch, leader, time --> the address book is what the records say
                        our own record is there, and true
                        the leader sweeps those of nobody
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final

import structlog

from bedplate.api.cluster.v1.peer_pb2 import MemberRecord
from bedplate.consensus.address_book import AddressBook
from bedplate.consensus.member import Member
from bedplate.consensus.records import MemberRecords, watch_request
from bedplate.consensus.whereabouts import Whereabouts
from bedplate.errors import BedplateError
from bedplate.native.store import Keyspace
from bedplate.storage.engine import Engine

_LOOK_S: Final = 10.0  # how often records are looked at though nothing was heard
_RETRY_S: Final = 1.0


class RecordKeeper:
    """`run` works until cancelled."""

    def __init__(
        self,
        engine: Engine,
        records: MemberRecords,
        book: AddressBook,
        member: Member,
        *,
        own: Callable[[], MemberRecord],
        changing: asyncio.Lock,
        whereabouts: Whereabouts,
    ) -> None:
        """`own` is our record as it should be; `changing` is held while records are written."""
        self._engine = engine
        self._records = records
        self._book = book
        self._member = member
        self._own = own
        self._changing = changing
        self._whereabouts = whereabouts
        self._log = structlog.get_logger("bedplate.cluster")

    async def run(self) -> None:
        watching = asyncio.create_task(self._watch())
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            while True:
                self._member.changed.clear()
                pause = _LOOK_S
                try:
                    self._book.replace(await self._records.local())
                    self._look_around(loop.time() - begun)
                    if not await self._keep():
                        pause = _RETRY_S
                except BedplateError as error:
                    self._log.debug("records_wait", error=str(error))
                    pause = _RETRY_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._member.changed.wait()
        finally:
            watching.cancel()

    def _look_around(self, waited_s: float) -> None:
        record = self._book.record(self._member.id)
        recorded = record.address if record is not None else ""
        self._whereabouts.look(recorded, led=bool(self._member.raft.leader), waited_s=waited_s)

    async def _keep(self) -> bool:
        """Write and sweep what there is to; whether all is well. Raises BedplateError."""
        member, book = self._member, self._book
        if not member.raft.leader or member.id not in member.membership.members:
            return False
        if book.record(member.id) != self._own():
            async with self._changing:
                book.replace(await self._records.newest())  # ours may have come meanwhile
                own = self._own()
                if book.record(member.id) != own:
                    await self._records.write(own)
            return False
        if member.raft.is_leader and book.strangers(member.membership.members):
            async with self._changing:
                await self._records.sweep(member.membership.members)
        return True

    async def _watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._changes()) as changes:
                    async for _ in changes:
                        self._member.changed.set()
            except BedplateError as error:
                self._log.debug("records_watch", error=str(error))
            await asyncio.sleep(_RETRY_S)

    async def _changes(self) -> AsyncGenerator[bytes, None]:
        stream = self._engine.watch(Keyspace.SYSTEM, watch_request())
        try:
            async for response in stream:
                yield response
        finally:
            await stream.aclose()

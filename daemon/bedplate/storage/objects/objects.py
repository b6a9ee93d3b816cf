"""Objects: finding them, and the one loop by which they are put, copied, completed and deleted.

    read the object ── build the transaction ── commit, comparing what was read ── done
          ^                                              |
          +--------------- somebody was faster ----------+      at most CONFLICTS_MAX times

Conditions are judged by what was read, and the transaction compares exactly that.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bedplate.api.object.v1 import object_pb2
from bedplate.errors import BedplateError
from bedplate.storage.objects import conditions as rules
from bedplate.storage.objects import keys
from bedplate.storage.objects.blobs import BlobChanges
from bedplate.storage.objects.buckets import Buckets
from bedplate.storage.objects.core import Core, new_id
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.keys import Name
from bedplate.storage.objects.records import BlobRecord, ObjectRecord
from bedplate.storage.objects.store import Entry, Txn, is_full

CONFLICTS_MAX = 16
_BACKOFF_AFTER = 2
_BACKOFF_SECONDS_MAX = 0.1
_DELETES_PER_TXN = 200  # at most four ops and two compares each, of 1024


@dataclass(frozen=True, slots=True)
class Current:
    """An object as it was read."""

    record: ObjectRecord
    mod_revision: int


class Stored(NamedTuple):
    """A written object and the revision of the write."""

    record: ObjectRecord
    revision: int


class Deletion(NamedTuple):
    """One object of a DeleteObjects."""

    key: bytes
    conditions: object_pb2.Conditions


class Change(NamedTuple):
    """What a build adds to: one attempt at a transaction. `attempt` counts from 0."""

    txn: Txn
    blobs: BlobChanges
    current: Current | None
    attempt: int


class Nothing(Exception):
    """Raised by a build when there is nothing to do."""


Build = Callable[[Change], Awaitable[None]]
Make = Callable[[Change], Awaitable[ObjectRecord]]


class Objects:
    def __init__(self, core: Core, buckets: Buckets) -> None:
        self._core = core
        self._buckets = buckets

    async def find(self, name: Name) -> Current | None:
        return (await self.read(name))[0]

    async def read(self, name: Name) -> tuple[Current | None, int]:
        """The object, and the store's revision as of the reading."""
        entry, revision = await self._core.store.read(keys.object_(name))
        return _current(entry), revision

    async def require(self, name: Name, path: str = "") -> tuple[Current, int]:
        """As `read`. OBJECT_NOT_FOUND, BUCKET_NOT_FOUND."""
        current, revision = await self.read(name)
        if current is None:
            await self._buckets.require(name.bucket)
            raise ObjectError(Reason.OBJECT_NOT_FOUND, "there is no such object", path + "key")
        return current, revision

    async def put(
        self,
        name: Name,
        make: Make,
        conditions: object_pb2.Conditions,
        request_id: str = "",
    ) -> Stored:
        """Make an object with a blob of its own visible; `make` says what it is and adds to the
        transaction what consumes its upload. CONDITION_FAILED, BUCKET_NOT_FOUND, CONFLICT.
        """
        made: list[ObjectRecord] = []

        async def build(change: Change) -> None:
            record = await make(change)
            made[:] = [record]
            old = change.current.record if change.current else None
            rules.check(conditions, old)
            change.txn.put(keys.object_(name), record.encode())
            change.txn.put(keys.blob(record.blob), BlobRecord(1).encode())
            if old is not None:
                change.blobs.unlink(old)

        revision = await self._change(name, build, creates=True, request_id=request_id)
        return Stored(made[0], revision)

    async def delete(self, name: Name, conditions: object_pb2.Conditions) -> int | None:
        """Remove the object; its revision, None when there was none. CONDITION_FAILED, CONFLICT."""

        async def build(change: Change) -> None:
            rules.check(conditions, change.current.record if change.current else None)
            if change.current is None:
                raise Nothing
            change.txn.delete(keys.object_(name))
            change.blobs.unlink(change.current.record)

        try:
            return await self._change(name, build, creates=False)
        except Nothing:
            return None

    async def copy(
        self,
        source: Name,
        source_conditions: object_pb2.Conditions,
        target: Name,
        conditions: object_pb2.Conditions,
        description: tuple[str, dict[str, str]] | None,
    ) -> Stored:
        """Make the target an object with the source's blob and an etag of its own; `description` is
        a
        new content type and user metadata, None keeps the source's.
        """
        etag = new_id()
        made: list[ObjectRecord] = []

        async def build(change: Change) -> None:
            original, _ = await self.require(source, "source_")
            rules.check(source_conditions, original.record, "source_conditions")
            old = change.current.record if change.current else None
            rules.check(conditions, old)
            record = replace(original.record, etag=etag, modified_ms=self._core.clock_ms())
            if description is not None:
                record = replace(record, content_type=description[0], user_metadata=description[1])
            made[:] = [record]
            if source != target:
                change.txn.unchanged(keys.object_(source), original.mod_revision)
            change.txn.put(keys.object_(target), record.encode())
            change.blobs.link(record)
            if old is not None:
                change.blobs.unlink(old)

        revision = await self._change(target, build, creates=True)
        return Stored(made[0], revision)

    async def delete_many(
        self, bucket: bytes, deletions: Sequence[Deletion]
    ) -> list[int | BedplateError | None]:
        """The outcome for each, in order: as `delete` returns or raises it."""
        outcomes: list[int | BedplateError | None] = []
        for first in range(0, len(deletions), _DELETES_PER_TXN):
            group = deletions[first : first + _DELETES_PER_TXN]
            together = await self._delete_group(bucket, group)
            if together is None:  # raced, or no room for garbage records: each by itself
                together = [await self._delete_one(Name(bucket, d.key), d) for d in group]
            outcomes.extend(together)
        return outcomes

    async def _delete_one(self, name: Name, deletion: Deletion) -> int | BedplateError | None:
        try:
            return await self.delete(name, deletion.conditions)
        except BedplateError as error:
            return error

    async def _delete_group(
        self, bucket: bytes, group: Sequence[Deletion]
    ) -> list[int | BedplateError | None] | None:
        """All in one transaction; None when it did not happen."""
        names = [Name(bucket, deletion.key) for deletion in group]
        found = await asyncio.gather(*map(self.find, names))
        txn, blobs = Txn(), BlobChanges()
        outcomes: list[int | BedplateError | None] = [None] * len(group)
        doomed = []
        for i, (name, deletion, current) in enumerate(zip(names, group, found, strict=True)):
            try:
                rules.check(deletion.conditions, current.record if current else None)
            except ObjectError as error:
                outcomes[i] = error
                continue
            if current is not None:
                doomed.append(i)
                txn.unchanged(keys.object_(name), current.mod_revision)
                txn.delete(keys.object_(name))
                blobs.unlink(current.record)
        if not doomed:
            return outcomes
        if not await blobs.add_to(txn, self._core):
            return None
        try:
            committed = await self._core.store.commit(txn)
        except BedplateError as error:
            if is_full(error):
                return None
            raise
        if not committed.succeeded:
            return None
        for i in doomed:
            outcomes[i] = committed.revision
        return outcomes

    async def _change(
        self, name: Name, build: Build, *, creates: bool, request_id: str = ""
    ) -> int:
        """Build and commit until nobody interferes; the revision. `creates`: only while the bucket
        stands; else the change only takes away, and is done with deletes alone on a full disk.
        """
        only_deletes = False
        async with self._core.locks.hold(keys.object_(name)):
            for attempt in range(CONFLICTS_MAX):
                if attempt > _BACKOFF_AFTER:
                    await asyncio.sleep(random.uniform(0, _BACKOFF_SECONDS_MAX))
                current = await self.find(name)
                # A request id names one transaction, and this one has other compares each time.
                txn = Txn(f"{request_id}.{attempt}" if request_id else "")
                txn.unchanged(keys.object_(name), current.mod_revision if current else 0)
                if creates:
                    self._buckets.guard(txn, name.bucket)
                blobs = BlobChanges()
                await build(Change(txn, blobs, current, attempt))
                if not await blobs.add_to(txn, self._core, only_deletes=only_deletes):
                    continue
                try:
                    committed = await self._core.store.commit(txn)
                except BedplateError as error:
                    if creates or only_deletes or not is_full(error):
                        raise
                    only_deletes = True
                    continue
                if committed.succeeded:
                    return committed.revision
                if creates:
                    await self._buckets.settle(name.bucket)
        raise ObjectError(
            Reason.CONFLICT, "too many other writers of the same names; try again", "key"
        )


def _current(entry: Entry | None) -> Current | None:
    return Current(ObjectRecord.decode(entry.value), entry.mod_revision) if entry else None

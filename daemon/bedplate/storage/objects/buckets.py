"""Buckets, and deleting one without losing a race.

Whatever puts something into a bucket compares, in its own transaction, that the bucket is there and
not marked as closing. DeleteBucket marks it and looks into it in one transaction; nothing can come
in from then on; then it removes the bucket with the mark, or the mark alone. A writer that meets
the mark waits for the verdict. A mark whose owner died is removed by the reaper.
"""

import asyncio

from bedplate.storage.objects import keys
from bedplate.storage.objects.core import Core
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.records import BucketRecord
from bedplate.storage.objects.store import Txn


class Buckets:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, name: bytes) -> tuple[BucketRecord, int]:
        """Make an empty bucket; its record and revision. BUCKET_EXISTS."""
        record = BucketRecord(self._core.clock_ms())
        txn = Txn()
        txn.forbid(keys.bucket(name))
        txn.put(keys.bucket(name), record.encode())
        committed = await self._core.store.commit(txn)
        if not committed.succeeded:
            raise ObjectError(Reason.BUCKET_EXISTS, "there is a bucket of this name", "bucket")
        return record, committed.revision

    async def require(self, name: bytes) -> int:
        """The store's revision. BUCKET_NOT_FOUND unless it is there."""
        entry, revision = await self._core.store.read(keys.bucket(name))
        if entry is None:
            raise ObjectError(Reason.BUCKET_NOT_FOUND, "there is no such bucket", "bucket")
        return revision

    def guard(self, txn: Txn, name: bytes) -> None:
        """What every transaction compares that puts something into the bucket."""
        txn.require(keys.bucket(name))
        txn.forbid(keys.closing(name))

    async def settle(self, name: bytes) -> None:
        """After a guarded transaction failed: BUCKET_NOT_FOUND, or return when it may be tried
        again.
        """
        closing = self._core.closing.get(name)
        if closing is not None:
            await closing.wait()
        await self.require(name)

    async def delete(self, name: bytes) -> int:
        """Remove an empty bucket; the revision. BUCKET_NOT_FOUND, BUCKET_NOT_EMPTY."""
        await self._refuse_if_used(name)
        # To its end even when the caller goes away: the mark must not stay.
        return await asyncio.shield(asyncio.ensure_future(self._close(name)))

    async def _refuse_if_used(self, name: bytes) -> None:
        """The usual answer without touching anything."""
        await self.require(name)
        for prefix in (keys.objects_of(name), keys.multiparts_of(name)):
            if (await self._core.store.scan_prefix(prefix, 1, keys_only=True)).entries:
                raise _not_empty()

    async def _close(self, name: bytes) -> int:
        async with self._core.locks.hold(keys.bucket(name)):
            self._core.closing[name] = asyncio.Event()
            try:
                return await self._mark_and_remove(name)
            finally:
                self._core.closing.pop(name).set()

    async def _mark_and_remove(self, name: bytes) -> int:
        mark = keys.closing(name)
        txn = Txn()
        txn.require(keys.bucket(name))
        txn.put(mark, b"")
        txn.probe(keys.objects_of(name))
        txn.probe(keys.multiparts_of(name))
        marked = await self._core.store.commit(txn)
        if not marked.succeeded:
            raise ObjectError(Reason.BUCKET_NOT_FOUND, "there is no such bucket", "bucket")
        used = any(marked.found)
        txn = Txn()
        txn.unchanged(mark, marked.revision)
        txn.delete(mark)
        if not used:
            txn.delete(keys.bucket(name))
        committed = await self._core.store.commit(txn)
        if used:
            raise _not_empty()
        if not committed.succeeded:
            raise ObjectError(Reason.CONFLICT, "another call is deleting the bucket; try again")
        return committed.revision


def _not_empty() -> ObjectError:
    return ObjectError(
        Reason.BUCKET_NOT_EMPTY, "the bucket holds objects or multipart uploads", "bucket"
    )

"""Gives space back: the only place where data is deleted that was not named by a transaction.

    upload record without a living call  ──┐
    multipart upload without parts lately ─┼─> garbage record ──> chunks, so many a step ──> record
    last object of a large blob ───────────┘

Every record says by itself what is to be done, so a restart only begins again. Records of results
and marks of dead bucket deletions are swept on the way.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import structlog

from bedplate.errors import BedplateError
from bedplate.storage.objects import keys
from bedplate.storage.objects.blobs import delete_data
from bedplate.storage.objects.core import Core
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.multipart import Multipart
from bedplate.storage.objects.records import (
    GarbageRecord,
    MultipartRecord,
    ResultRecord,
    UploadRecord,
)
from bedplate.storage.objects.store import Entry, Txn, is_full

STEP_KEYS = 1000  # deleted by one request
_PAGE = 256
_SWEEPS_PER_IDLE = 16
_SWEEP_SECONDS = (1.0, 300.0)
_RETRY_SECONDS = (1.0, 60.0)
_LEADERLESS = ("NO_LEADER", "LEADER_LOST")


class Reaper:
    """`sole`: no other process has uploads in this store, so what an earlier one left is dead."""

    def __init__(self, core: Core, multipart: Multipart, *, sole: bool = True) -> None:
        self._core = core
        self._multipart = multipart
        self._sole = sole
        self._log = structlog.get_logger(__name__)

    async def run(self) -> None:
        """Work whenever there is something to reclaim, and look at everything from time to time.
        Ends
        only when cancelled; what the engine refuses is tried again later.
        """
        least, most = _SWEEP_SECONDS
        period = min(max(self._core.config.upload_idle_max / _SWEEPS_PER_IDLE, least), most)
        retry, retry_most = _RETRY_SECONDS
        sweep_at, known = self._core.monotonic(), ""
        while True:
            self._core.reclaim.clear()
            try:
                await self.sweep_uploads()
                if self._core.monotonic() >= sweep_at:
                    sweep_at = self._core.monotonic() + period
                    await self.sweep()
                await self.collect()
            except BedplateError as error:
                self._tell(error, known)
                known = error.reason
                await asyncio.sleep(retry)
                retry = min(retry * 2, retry_most)
                continue
            retry, known = _RETRY_SECONDS[0], ""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period):
                    await self._core.reclaim.wait()

    def _tell(self, error: BedplateError, known: str) -> None:
        """Once for as long as the reason lasts. Where a leader is lacking the cluster says so, and
        there is nothing to do about the reclaiming.
        """
        minor = error.reason == known or error.reason in _LEADERLESS
        level = logging.DEBUG if minor else logging.WARNING
        self._log.log(level, "reclaiming failed", reason=error.reason, error=error.message)

    async def sweep_uploads(self) -> None:
        """Turn uploads whose call is gone into garbage."""
        await self._sweep(keys.UPLOAD, self._judge_upload)

    async def sweep(self) -> None:
        """Drop what was left alone for too long, and marks that nobody will remove."""
        await self._sweep(keys.MULTIPART, self._judge_multipart)
        await self._sweep(keys.RESULT, self._judge_result)
        await self._sweep(keys.CLOSING, self._judge_closing)

    async def _sweep(self, prefix: bytes, judge: Callable[[Entry], Awaitable[None]]) -> None:
        last, more = b"", True
        while more:
            found = await self._core.store.scan_prefix(prefix, _PAGE, after=last)
            for entry in found.entries:
                await judge(entry)
                last = entry.key
            more = found.more

    async def collect(self) -> None:
        """Delete what garbage records name, but what is being read."""
        last, more, left = b"", True, 0
        while more:
            found = await self._core.store.scan_prefix(keys.GARBAGE, _PAGE, after=last)
            self._core.counts.garbage = left + len(found.entries)
            for entry in found.entries:
                last = entry.key
                blob = keys.decode_stream(entry.key).blob
                if not self._core.pins.held(blob, self._core.monotonic()):
                    await self._collect_one(entry)
                    self._core.counts.garbage -= 1
            left = self._core.counts.garbage
            more = found.more

    async def _collect_one(self, entry: Entry) -> None:
        for prefix in GarbageRecord.decode(entry.value).prefixes:
            more = True
            while more:
                found = await self._core.store.scan_prefix(prefix, STEP_KEYS, keys_only=True)
                if found.entries:
                    end = keys.after(found.entries[-1].key)
                    await self._core.store.delete_range(found.entries[0].key, end)
                    self._core.counts.chunks_reclaimed += len(found.entries)
                more = found.more
        await self._core.store.delete_range(entry.key, keys.after(entry.key))

    async def _judge_upload(self, entry: Entry) -> None:
        record = UploadRecord.decode(entry.value)
        active = self._core.uploads.get(entry.key)
        if active is not None:
            dead = self._core.monotonic() - active > self._core.config.upload_idle_max
        elif record.owner == self._core.owner or self._sole:
            dead = True
        else:
            dead = self._idle(record.created_ms)
        if dead:
            await self._revoke(entry)

    async def _revoke(self, entry: Entry) -> None:
        stream = keys.decode_stream(entry.key)
        txn = Txn()
        txn.unchanged(entry.key, entry.mod_revision)
        txn.delete(entry.key)
        chunks = [keys.chunks_of(stream)]
        try:
            garbage = GarbageRecord(tuple(chunks)).encode()
            txn.put(keys.garbage(stream), garbage)
            await self._core.store.commit(txn)
        except BedplateError as error:
            if not is_full(error):
                raise
            txn = Txn()
            txn.unchanged(entry.key, entry.mod_revision)
            txn.delete(entry.key)
            delete_data(txn, chunks)
            await self._core.store.commit(txn)

    async def _judge_multipart(self, entry: Entry) -> None:
        if self._idle(MultipartRecord.decode(entry.value).active_ms):
            name, blob = keys.split_multipart(entry.key)
            try:
                await self._multipart.abort(name, blob, entry.mod_revision)
            except ObjectError as error:
                if error.reason != Reason.UPLOAD_NOT_FOUND:  # a part came, or it was completed
                    raise

    async def _judge_result(self, entry: Entry) -> None:
        if self._idle(ResultRecord.decode(entry.value).completed_ms):
            await self._core.store.delete_range(entry.key, keys.after(entry.key))

    async def _judge_closing(self, entry: Entry) -> None:
        if self._sole and entry.key[1:] not in self._core.closing:
            txn = Txn()
            txn.unchanged(entry.key, entry.mod_revision)
            txn.delete(entry.key)
            await self._core.store.commit(txn)

    def _idle(self, since_ms: int) -> bool:
        return self._core.clock_ms() - since_ms > self._core.config.upload_idle_max * 1000

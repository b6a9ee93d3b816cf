"""Multipart uploads: created, filled part by part in any order, completed or aborted.

    p record ──┬── q part 1 ── stream (blob, 1, attempt)      The id is of the blob it will be.
               ├── q part 2 ── stream (blob, 2, attempt)      A part sent again gets a new
               └── ...                                        attempt; the old one is garbage.

Every part rewrites the p record. Completing compares that record's mod_revision, which so stands
for all parts at once, however many; it takes the record away, after which no part can be stored.
What the upload became stays on record for as long as an idle upload would, for a completion that is
repeated.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise

from bedplate.api.object.v1 import object_pb2
from bedplate.errors import BedplateError
from bedplate.storage.objects import keys
from bedplate.storage.objects.blobs import chunk_count, delete_data, drop_data
from bedplate.storage.objects.buckets import Buckets
from bedplate.storage.objects.checksums import combine
from bedplate.storage.objects.core import Core, new_id
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.keys import Name, Stream
from bedplate.storage.objects.names import upload_not_found
from bedplate.storage.objects.objects import CONFLICTS_MAX, Change, Objects, Stored
from bedplate.storage.objects.records import (
    GarbageRecord,
    LayoutRecord,
    MultipartRecord,
    ObjectRecord,
    PartRecord,
    ResultRecord,
    Segment,
)
from bedplate.storage.objects.store import Entry, Txn, is_full
from bedplate.storage.objects.upload import Upload, too_large

_PARTS_SCAN = 2000
# The garbage of parts that an upload was completed without; beside that of the whole blob, (0, 0).
_LEFTOVERS = (0, 1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the object must be, as far as the client said."""

    size: int | None
    crc32c: int | None
    conditions: object_pb2.Conditions


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    record: PartRecord

    @property
    def checksum(self) -> tuple[int, int]:
        """CRC-32C and size."""
        return self.record.crc32c, self.record.size

    def stream(self, blob: bytes) -> Stream:
        return Stream(blob, self.number, self.record.attempt)


class Multipart:
    def __init__(self, core: Core, buckets: Buckets, objects: Objects) -> None:
        self._core = core
        self._buckets = buckets
        self._objects = objects

    async def create(
        self, name: Name, content_type: str, user_metadata: dict[str, str]
    ) -> tuple[bytes, int]:
        """A new upload's blob, and the revision. BUCKET_NOT_FOUND, CONFLICT."""
        blob, now = new_id(), self._core.clock_ms()
        record = MultipartRecord(now, now, content_type, user_metadata)
        for _ in range(CONFLICTS_MAX):
            txn = Txn()
            self._buckets.guard(txn, name.bucket)
            txn.put(keys.multipart(name, blob), record.encode())
            committed = await self._core.store.commit(txn)
            if committed.succeeded:
                return blob, committed.revision
            await self._buckets.settle(name.bucket)
        raise ObjectError(Reason.CONFLICT, "the bucket is being deleted; try again", "bucket")

    async def require(self, name: Name, blob: bytes) -> tuple[MultipartRecord, int]:
        """The upload and its mod_revision. UPLOAD_NOT_FOUND."""
        entry = await self._core.store.get(keys.multipart(name, blob))
        if entry is None:
            raise upload_not_found()
        return MultipartRecord.decode(entry.value), entry.mod_revision

    async def begin_part(self, name: Name, blob: bytes, number: int, peer: str) -> Upload:
        """An upload for the part's data, which comes from `peer`. UPLOAD_NOT_FOUND."""
        await self.require(name, blob)
        stream = Stream(blob, number, secrets.randbits(64))
        required = (keys.multipart(name, blob),)
        return Upload(self._core, self._buckets, name, stream, required, upload_not_found, peer)

    async def finish_part(self, name: Name, upload: Upload) -> tuple[Part, int]:
        """Make received data the part, in place of an earlier one. UPLOAD_NOT_FOUND, CONFLICT."""
        store, stream = self._core.store, upload.stream
        record = PartRecord(stream.attempt, upload.size, upload.crc32c, self._core.clock_ms())
        key = keys.part(stream.blob, stream.part)
        async with self._core.locks.hold(key):
            for attempt in range(CONFLICTS_MAX):
                held, _ = await self.require(name, stream.blob)
                old = await store.get(key)
                txn = Txn()
                txn.require(keys.multipart(name, stream.blob))
                txn.unchanged(key, old.mod_revision if old else 0)
                await upload.finish(txn, attempt)
                touched = replace(held, active_ms=record.modified_ms)
                txn.put(keys.multipart(name, stream.blob), touched.encode())
                txn.put(key, record.encode())
                if old is not None:
                    self._drop_part(txn, _part(old), stream.blob)
                committed = await store.commit(txn)
                if committed.succeeded:
                    return Part(stream.part, record), committed.revision
        raise ObjectError(Reason.CONFLICT, "too many other writers of this part; try again")

    async def complete(
        self, name: Name, blob: bytes, listed: Sequence[object_pb2.CompletedPart], wanted: Wanted
    ) -> Stored:
        """Make the object of the listed parts; repeated, the first result again. UPLOAD_NOT_FOUND,
        PART_NOT_FOUND, PART_ORDER_INVALID, PART_TOO_SMALL, OBJECT_TOO_LARGE, SIZE_MISMATCH,
        CHECKSUM_MISMATCH, CONDITION_FAILED, BUCKET_NOT_FOUND, CONFLICT.
        """
        _check_order(listed)
        digest = sha256(b"".join(f"{p.part_number} {p.etag}\n".encode() for p in listed)).digest()

        async def make(change: Change) -> ObjectRecord:
            held, mod_revision = await self.require(name, blob)
            parts = await self.all_parts(blob)
            chosen = _choose(parts, listed)
            # Milliseconds for many parts: not on the loop.
            crc = await asyncio.to_thread(combine, [part.checksum for part in chosen])
            record = self._assemble(blob, held, chosen, crc, wanted)
            txn = change.txn
            txn.unchanged(keys.multipart(name, blob), mod_revision)
            txn.delete(keys.multipart(name, blob))
            txn.delete_prefix(keys.parts_of(blob))
            segments = tuple(Segment(part.stream(blob), part.record.size) for part in chosen)
            txn.put(keys.layout(blob), LayoutRecord(segments).encode())
            result = ResultRecord(record.modified_ms, digest, name, record)
            txn.put(keys.result(blob), result.encode())
            self._drop_leftovers(txn, blob, parts, chosen)
            return record

        try:
            return await self._objects.put(name, make, wanted.conditions, request_id=blob.hex())
        except ObjectError as error:
            if error.reason != Reason.UPLOAD_NOT_FOUND:
                raise
            return await self._repeated(name, blob, digest)

    async def abort(self, name: Name, blob: bytes, mod_revision: int = 0) -> int:
        """Drop the upload and its parts (as it was at mod_revision, if given); the revision.
        UPLOAD_NOT_FOUND.
        """
        key, only_deletes = keys.multipart(name, blob), False
        chunks = [keys.chunks_of_blob(blob)]
        while True:
            txn = Txn()
            if mod_revision:
                txn.unchanged(key, mod_revision)
            else:
                txn.require(key)
            txn.delete(key)
            txn.delete_prefix(keys.parts_of(blob))
            if only_deletes:
                delete_data(txn, chunks)
            else:
                txn.put(keys.garbage(Stream(blob)), GarbageRecord(tuple(chunks)).encode())
            try:
                committed = await self._core.store.commit(txn)
            except BedplateError as error:
                if only_deletes or not is_full(error):
                    raise
                only_deletes = True
                continue
            if not committed.succeeded:
                raise upload_not_found()
            self._core.reclaim.set()
            return committed.revision

    async def parts(self, blob: bytes, after: int, limit: int) -> tuple[list[Part], bool]:
        """Parts with numbers above `after` in order, and whether there are more."""
        first = keys.part(blob, after) if after else b""
        found = await self._core.store.scan_prefix(keys.parts_of(blob), limit, after=first)
        return [_part(entry) for entry in found.entries], found.more

    async def all_parts(self, blob: bytes) -> list[Part]:
        """Every part in order. Not one snapshot: compare the upload's mod_revision."""
        parts: list[Part] = []
        more = True
        while more:
            page, more = await self.parts(blob, parts[-1].number if parts else 0, _PARTS_SCAN)
            parts += page
        return parts

    def _assemble(
        self,
        blob: bytes,
        held: MultipartRecord,
        chosen: list[Part],
        crc: int,
        wanted: Wanted,
    ) -> ObjectRecord:
        """The object that these parts are, if it is what the client said."""
        for part in chosen[:-1]:
            if part.record.size < self._core.config.part_size_min:
                raise ObjectError(
                    Reason.PART_TOO_SMALL,
                    f"part {part.number} has {part.record.size} bytes; every part but the last "
                    f"has at least {self._core.config.part_size_min}",
                    "parts",
                )
        size = sum(part.record.size for part in chosen)
        if size > self._core.config.size_max:
            raise too_large(self._core.config.size_max, "parts")
        if wanted.size is not None and wanted.size != size:
            raise ObjectError(
                Reason.SIZE_MISMATCH, f"the parts have {size} bytes, not {wanted.size}", "size"
            )
        if wanted.crc32c is not None and wanted.crc32c != crc:
            raise ObjectError(
                Reason.CHECKSUM_MISMATCH,
                f"the parts have CRC-32C {crc:#010x}, not {wanted.crc32c:#010x}",
                "crc32c",
            )
        return ObjectRecord(
            blob=blob,
            etag=blob,
            size=size,
            crc32c=crc,
            modified_ms=self._core.clock_ms(),
            part_count=len(chosen),
            content_type=held.content_type,
            user_metadata=held.user_metadata,
        )

    def _drop_part(self, txn: Txn, part: Part, blob: bytes) -> None:
        stream = part.stream(blob)
        chunks = chunk_count(part.record.size)
        drop_data(txn, self._core, stream, [keys.chunks_of(stream)], chunks)

    def _drop_leftovers(self, txn: Txn, blob: bytes, parts: list[Part], chosen: list[Part]) -> None:
        """Let go of the parts that were not listed."""
        kept = {part.number for part in chosen}
        dropped = [part for part in parts if part.number not in kept]
        if dropped:
            prefixes = tuple(keys.chunks_of(part.stream(blob)) for part in dropped)
            txn.put(keys.garbage(Stream(blob, *_LEFTOVERS)), GarbageRecord(prefixes).encode())
            txn.afterwards.append(self._core.reclaim.set)

    async def _repeated(self, name: Name, blob: bytes, digest: bytes) -> Stored:
        """The result of an earlier completion with the same parts. UPLOAD_NOT_FOUND."""
        entry = await self._core.store.get(keys.result(blob))
        if entry is not None:
            result = ResultRecord.decode(entry.value)
            if result.parts_digest == digest and result.name == name:
                return Stored(result.object, entry.mod_revision)
        raise upload_not_found()


def _part(entry: Entry) -> Part:
    return Part(keys.part_number(entry.key), PartRecord.decode(entry.value))


def _check_order(listed: Sequence[object_pb2.CompletedPart]) -> None:
    ascending = all(a.part_number < b.part_number for a, b in pairwise(listed))
    if not listed or not ascending:
        raise ObjectError(
            Reason.PART_ORDER_INVALID, "list at least one part, numbers ascending", "parts"
        )


def _choose(parts: list[Part], listed: Sequence[object_pb2.CompletedPart]) -> list[Part]:
    stored = {part.number: part for part in parts}
    chosen = []
    for i, wanted in enumerate(listed):
        part = stored.get(wanted.part_number)
        if part is None or part.record.etag != wanted.etag:
            raise ObjectError(
                Reason.PART_NOT_FOUND,
                f"there is no part {wanted.part_number} with this etag",
                f"parts[{i}]",
            )
        chosen.append(part)
    return chosen

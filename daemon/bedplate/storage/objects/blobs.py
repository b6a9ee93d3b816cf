"""What one transaction does to the reference counts of blobs, and to the data of those it drops.

A blob's record counts the objects that have it. Whoever changes a count compares the record's
mod_revision, so two changes never lose one another. With the last object go, in the same
transaction, either the few chunks themselves, or, when they are many or being read, a garbage
record that the reaper works through.
"""

import asyncio
from collections import Counter

from bedplate.storage.objects import keys
from bedplate.storage.objects.core import Core
from bedplate.storage.objects.keys import CHUNK_SIZE, Stream
from bedplate.storage.objects.records import BlobRecord, GarbageRecord, ObjectRecord
from bedplate.storage.objects.store import Txn

# So few deletes may ride in the transaction itself: no record, no second pass.
DIRECT_CHUNKS_MAX = 16


def drop_data(txn: Txn, core: Core, stream: Stream, prefixes: list[bytes], chunks: int) -> None:
    """Let go of about so many chunks below the prefixes; as garbage they are named by `stream`."""
    pinned = core.pins.held(stream.blob, core.monotonic())
    if chunks <= DIRECT_CHUNKS_MAX and not pinned:
        delete_data(txn, prefixes)
    else:
        txn.put(keys.garbage(stream), GarbageRecord(tuple(prefixes)).encode())
        txn.afterwards.append(core.reclaim.set)  # before that there is nothing to find


def delete_data(txn: Txn, prefixes: list[bytes]) -> None:
    """The same at once, whatever the size: only deletes, which also a full disk takes."""
    for prefix in prefixes:
        txn.delete_prefix(prefix)


def chunk_count(size: int) -> int:
    """Chunks in a stream of so many bytes."""
    return -(-size // CHUNK_SIZE)


class BlobChanges:
    """Collects links and unlinks, then adds them to the transaction, one change a blob."""

    def __init__(self) -> None:
        self._objects: dict[bytes, ObjectRecord] = {}
        self._changes: Counter[bytes] = Counter()

    def link(self, record: ObjectRecord) -> None:
        """One more object has the blob of this one, which exists."""
        self._change(record, 1)

    def unlink(self, record: ObjectRecord) -> None:
        """This object lets go of its blob."""
        self._change(record, -1)

    def _change(self, record: ObjectRecord, by: int) -> None:
        self._objects[record.blob] = record
        self._changes[record.blob] += by

    async def add_to(self, txn: Txn, core: Core, *, only_deletes: bool = False) -> bool:
        """False when a blob is gone already: the object was changed after it was read."""
        changed = {blob: by for blob, by in self._changes.items() if by}
        entries = await asyncio.gather(*(core.store.get(keys.blob(blob)) for blob in changed))
        for (blob, by), entry in zip(changed.items(), entries, strict=True):
            if entry is None:
                return False
            references = BlobRecord.decode(entry.value).references + by
            txn.unchanged(keys.blob(blob), entry.mod_revision)
            if references > 0:
                txn.put(keys.blob(blob), BlobRecord(references).encode())
                continue
            txn.delete(keys.blob(blob))
            record = self._objects[blob]
            prefixes = [keys.chunks_of_blob(blob)]
            if record.part_count:
                prefixes.append(keys.layout(blob))
            if only_deletes:
                delete_data(txn, prefixes)
            else:
                chunks = chunk_count(record.size) + record.part_count
                drop_data(txn, core, Stream(blob), prefixes, chunks)
        return True

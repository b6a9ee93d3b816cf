"""What the object service promises, in the simplest Python that says it: dictionaries of bytes.

Every question has two halves: `refusals`, the reasons for which a call must fail (any of them: when
several hold, the contract does not say which comes first), and what it does or shows when there are
none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

CHUNK = 1 << 20
PART_MIN = 10  # the configuration that the model stands for


@dataclass(frozen=True, slots=True, eq=False)
class Blob:
    """Stored data, shared by copies: the sizes of the streams it came in."""

    sizes: tuple[int, ...]

    @property
    def chunks(self) -> int:
        return sum(-(-size // CHUNK) for size in self.sizes)


@dataclass(frozen=True, slots=True)
class Object:
    data: bytes
    etag: str
    blob: Blob
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    part_count: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    data: bytes
    etag: str


@dataclass(slots=True)
class Upload:
    """An unfinished multipart upload."""

    bucket: str
    key: str
    content_type: str
    parts: dict[int, Part] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Etags, "*" for any, "" for no condition."""

    if_match: str = ""
    if_none_match: str = ""

    def refusals(self, held: Object | None) -> set[str]:
        etag = held.etag if held else ""
        wrong = self.if_match and not (etag and self.if_match in ("*", etag))
        unwanted = etag and self.if_none_match in ("*", etag)
        return {"CONDITION_FAILED"} if wrong or unwanted else set()


NO_CONDITIONS = Conditions()
Listed = tuple[list[str], list[str]]  # keys, common prefixes


@dataclass
class ObjectModel:
    buckets: dict[str, dict[str, Object]] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)

    def held(self, bucket: str, key: str) -> Object | None:
        return self.buckets.get(bucket, {}).get(key)

    # ---- refusals --------------------------------------------------------------------------------

    def no_bucket(self, bucket: str) -> set[str]:
        return set() if bucket in self.buckets else {"BUCKET_NOT_FOUND"}

    def cannot_delete_bucket(self, bucket: str) -> set[str]:
        used = self.buckets.get(bucket) or any(u.bucket == bucket for u in self.uploads.values())
        return self.no_bucket(bucket) | ({"BUCKET_NOT_EMPTY"} if used else set())

    def cannot_write(self, bucket: str, key: str, conditions: Conditions) -> set[str]:
        return self.no_bucket(bucket) | conditions.refusals(self.held(bucket, key))

    def cannot_read(self, bucket: str, key: str, conditions: Conditions) -> set[str]:
        if self.no_bucket(bucket):
            return {"BUCKET_NOT_FOUND"}
        held = self.held(bucket, key)
        return conditions.refusals(held) if held else {"OBJECT_NOT_FOUND"}

    def cannot_complete(
        self, upload: Upload, listed: list[tuple[int, str]], conditions: Conditions
    ) -> set[str]:
        numbers = [number for number, _ in listed]
        chosen = [(upload.parts.get(number), etag) for number, etag in listed]
        found = {
            "PART_ORDER_INVALID": not listed or numbers != sorted(set(numbers)),
            "PART_NOT_FOUND": any(part is None or part.etag != etag for part, etag in chosen),
            "PART_TOO_SMALL": any(part and len(part.data) < PART_MIN for part, _ in chosen[:-1]),
        }
        reasons = {reason for reason, holds in found.items() if holds}
        return reasons | conditions.refusals(self.held(upload.bucket, upload.key))

    # ---- what is there ---------------------------------------------------------------------------

    def listing(
        self, bucket: str, prefix: str, delimiter: str, after: str, size: int
    ) -> list[Listed]:
        return pages_of(self.buckets[bucket], prefix, delimiter, after, size)

    @property
    def chunks(self) -> int:
        """Chunks that something still needs."""
        blobs = {held.blob for objects in self.buckets.values() for held in objects.values()}
        parts = [part for upload in self.uploads.values() for part in upload.parts.values()]
        return sum(blob.chunks for blob in blobs) + sum(
            Blob((len(part.data),)).chunks for part in parts
        )


def part_of(data: bytes, offset: int, length: int, suffix: int) -> bytes | None:
    """A range of an object; None: it cannot be satisfied."""
    if suffix:
        return data[-suffix:] if suffix < len(data) else data
    if offset and offset >= len(data):
        return None
    return data[offset : offset + length] if length else data[offset:]


def pages_of(
    names: Iterable[str], prefix: str, delimiter: str, after: str, size: int
) -> list[Listed]:
    """All pages of a listing, by the definition."""
    entries = dict(_entries(names, prefix, delimiter, after))
    ordered = sorted(entries)
    cut = [ordered[at : at + size] for at in range(0, len(ordered), size)]
    return [
        (
            [entry.decode() for entry in page if not entries[entry]],
            [entry.decode() for entry in page if entries[entry]],
        )
        for page in cut or [[]]
    ]


def _entries(
    names: Iterable[str], prefix: str, delimiter: str, after: str
) -> Iterator[tuple[bytes, bool]]:
    """Names or common prefixes, and whether it is folded."""
    for name in names:
        if not name.startswith(prefix) or (after and name.encode() <= after.encode()):
            continue
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        folded = cut >= 0
        yield (name[: cut + len(delimiter)] if folded else name).encode(), folded

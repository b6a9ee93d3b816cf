"""One page of names, folded at a delimiter, over any ordered source: pure but for the source.

    names       a/1  a/2  a/3 ... a/9999   b    c/1  c/2   d        prefix "", delimiter "/"
    page        a/  (seek behind every a/)  b    c/  (seek)  d

A folded prefix costs one short scan, however many names are below it: the scan begins small, grows
while nothing folds, and starts again behind each prefix. The page ends with the position of the
smallest name that is not on it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from bedplate.errors import BedplateError
from bedplate.storage.objects import keys
from bedplate.storage.objects.store import Entry, Scanned, Store, is_compacted

# The names from `start` (inclusive) on, before `end` (b"": to the end), at most so many.
Source = Callable[[bytes, bytes, int], Awaitable[Scanned]]

_FOLD_SCAN_MIN = 8
_SCAN_GROWTH = 4
_COMPACTED_MAX = 3  # snapshots that may vanish under one page


@dataclass(slots=True)
class Page:
    """Entries and common prefixes, each in order; `position` is where the next page begins, None at
    the end. The keys of entries are names.
    """

    entries: list[Entry] = field(default_factory=list)
    prefixes: list[bytes] = field(default_factory=list)
    position: bytes | None = None

    def __len__(self) -> int:
        return len(self.entries) + len(self.prefixes)


async def fold(
    source: Source, *, prefix: bytes, delimiter: bytes, start: bytes, limit: int
) -> Page:
    """The first `limit` names and common prefixes that begin with `prefix`, from `start` on."""
    assert limit > 0
    page = Page()
    end = keys.prefix_end(prefix)
    cursor = max(start, prefix)
    batch = _FOLD_SCAN_MIN if delimiter else limit + 1
    while not end or cursor < end:
        found = await source(cursor, end, min(batch, limit + 1 - len(page)))
        for entry in found.entries:
            if entry.key < cursor:
                continue  # below a prefix that is on the page already
            if len(page) == limit:
                page.position = cursor
                return page
            cut = entry.key.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                page.entries.append(entry)
                cursor = keys.after(entry.key)
            else:
                page.prefixes.append(entry.key[: cut + len(delimiter)])
                cursor = keys.prefix_end(page.prefixes[-1])
        if not found.more:
            return page
        assert found.entries, "a scan with more to come returned nothing"
        sought = cursor > keys.after(found.entries[-1].key)
        batch = _FOLD_SCAN_MIN if sought else batch * _SCAN_GROWTH
    return page


async def read_page(
    store: Store,
    base: bytes,
    *,
    prefix: bytes,
    delimiter: bytes = b"",
    start: bytes = b"",
    limit: int,
) -> tuple[Page, int]:
    """A page of the keys below `base`, whose names are what follows it: one snapshot, and its
    revision.
    """
    for attempt in range(_COMPACTED_MAX + 1):
        snapshot = _Snapshot(store, base)
        try:
            page = await fold(
                snapshot.scan, prefix=prefix, delimiter=delimiter, start=start, limit=limit
            )
        except BedplateError as error:
            if attempt == _COMPACTED_MAX or not is_compacted(error):
                raise
        else:
            return page, snapshot.revision
    raise AssertionError("unreachable")


class _Snapshot:
    """A source of the names below a base key, all as of the first scan."""

    def __init__(self, store: Store, base: bytes) -> None:
        self._store = store
        self._base = base
        self.revision = 0

    async def scan(self, start: bytes, end: bytes, limit: int) -> Scanned:
        base = self._base
        last = base + end if end else keys.prefix_end(base)
        found = await self._store.scan(base + start, last, limit, revision=self.revision)
        self.revision = found.revision
        named = [entry._replace(key=entry.key[len(base) :]) for entry in found.entries]
        return Scanned(named, found.more, found.revision)

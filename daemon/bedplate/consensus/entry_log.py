"""What Raft knows of the log: terms by index and configuration entries; never payload or sizes.

    compacted | 4 5 6 7 | 8 9 | 10 11 12 ..
         (3,t1)    t1     t3       t4          runs of one term each: a few for millions of entries
                          ^ commit

Entries up to the compacted index are committed, applied and no longer served; the index itself and
its term are remembered, so that what follows can still be matched. Entries up to `commit` are never
taken back; it is the one thing here that the log does not say by itself.
"""

from bisect import bisect_right

from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import Entries


class EntryLog:
    """The log as Raft sees it. Indexes are contiguous from compacted + 1 on."""

    def __init__(self, index: int = 0, term: int = 0, membership: Membership | None = None) -> None:
        """A log compacted through (index, term), at which `membership` was in effect."""
        self.reset(index, term, membership or Membership(frozenset()))

    def reset(self, index: int, term: int, membership: Membership) -> None:
        """Forget everything; the log now continues a snapshot of (index, term)."""
        self.compacted = index
        self.commit = index
        self.last = index
        self._starts = [index]
        self._terms = [term]
        self._changes = [(index, membership)]

    @property
    def first(self) -> int:
        """The lowest index that can be sent."""
        return self.compacted + 1

    @property
    def last_term(self) -> int:
        return self._terms[-1]

    @property
    def membership(self) -> Membership:
        """The newest one in the log, committed or not (thesis, 4.1)."""
        return self._changes[-1][1]

    @property
    def committed_membership(self) -> Membership:
        """The newest one that is known to be decided."""
        return self.membership_at(self.commit)

    @property
    def change_index(self) -> int:
        """Where the newest membership stands in the log."""
        return self._changes[-1][0]

    def membership_at(self, index: int) -> Membership:
        """The one in effect at an index, or the oldest that is known."""
        for start, membership in reversed(self._changes):
            if start <= index:
                return membership
        return self._changes[0][1]

    def term(self, index: int) -> int | None:
        """Of one entry; None below the compacted index and above the last."""
        if not self.compacted <= index <= self.last:
            return None
        return self._terms[bisect_right(self._starts, index) - 1]

    def holds(self, index: int, term: int) -> bool:
        return self.term(index) == term

    def yields_to(self, index: int, term: int) -> bool:
        """Whether a log that ends with (index, term) is at least as up to date (paper, 5.4.1)."""
        return (term, index) >= (self.last_term, self.last)

    def between(self, first: int, last: int) -> Entries:
        """The entries first .. last, which must be there."""
        assert self.first <= first <= last + 1
        assert last <= self.last
        if last < first:
            return Entries(first, last)
        at = bisect_right(self._starts, first) - 1
        terms = [(first, self._terms[at])]
        for start, term in zip(self._starts[at + 1 :], self._terms[at + 1 :], strict=True):
            if start > last:
                break
            terms.append((start, term))
        changes = tuple(change for change in self._changes if first <= change[0] <= last)
        return Entries(first, last, tuple(terms), changes)

    def append(self, entries: Entries) -> None:
        """At the end. Terms never fall along the log."""
        assert entries.first == self.last + 1
        for start, term in entries.terms:
            assert term >= self.last_term
            if term != self.last_term:
                self._starts.append(start)
                self._terms.append(term)
        self.last = max(self.last, entries.last)
        self._changes.extend(entries.changes)

    def truncate(self, last: int) -> None:
        """Drop what comes after `last`; a membership in it was never decided (thesis, 4.1)."""
        assert self.compacted <= last <= self.last
        while self._starts[-1] > last:
            self._starts.pop()
            self._terms.pop()
        while self._changes[-1][0] > last:
            self._changes.pop()
        self.last = last

    def compact(self, index: int) -> None:
        """Entries through `index`, which are applied, will not be asked for any more."""
        assert index <= self.last
        term = self.term(index)
        if term is None or index == self.compacted:
            return
        at = bisect_right(self._starts, index) - 1
        self._starts[: at + 1] = [index]
        self._terms[: at + 1] = [term]
        while len(self._changes) > 1 and self._changes[1][0] <= index:
            del self._changes[0]
        self.compacted = index

    def conflict(self, entries: Entries) -> int:
        """The first of these entries that is not in the log as it is here; last + 1 if all are."""
        at = max(entries.first, self.first)
        if not entries.terms:
            return entries.last + 1
        ends = [start for start, _ in entries.terms[1:]] + [entries.last + 1]
        for (_, term), end in zip(entries.terms, ends, strict=True):
            while at < end:
                if self.term(at) != term:
                    return at
                at = min(end, self._run_end(at))
        return entries.last + 1

    def fitting(self, index: int, term: int) -> int:
        """The highest index up to `index` whose term is at most `term`: where logs may agree.

        A follower that refused an append, and the leader that hears of it, both use it to skip
        whole terms at a time (paper, 5.3, end). Below the compacted index nothing is known: that
        index itself is returned.
        """
        at = min(index, self.last)
        if at <= self.compacted:
            return at
        run = bisect_right(self._starts, at) - 1
        while run > 0 and self._terms[run] > term:
            at = self._starts[run] - 1
            run -= 1
        return at if self._terms[run] <= term else self.compacted

    def _run_end(self, index: int) -> int:
        """The index behind the run that holds `index`, which is in the log."""
        run = bisect_right(self._starts, index)
        return self._starts[run] if run < len(self._starts) else self.last + 1

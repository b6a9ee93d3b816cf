"""Writes are slowed while the log fills up with what members that catch up still need.

    bytes in the log     kept      half of the rest      limit
                         |---------------|-----------------|
    writes a tick          all there are   less and less     then the log gives up its oldest

A member that gets a snapshot needs every entry behind it. A log that let go of them would make the
snapshot useless, and writers faster than snapshots would keep the member out for ever.

What a tick lets through is in inverse proportion to the share of the second half that is used: the
time that the same bytes take grows linearly. Writers that never let up fill it with the square root
of the time, and reach the limit after _LAST_MS. However little may pass, after _WAIT_MS one request
does, so nobody is stopped. Time is counted in ticks.
"""

from dataclasses import dataclass, field
from typing import Final

_LAST_MS: Final = 600_000  # a snapshot should be through by then
_WAIT_MS: Final = 1000
_STRENGTH_MIN: Final = 1 / 256  # for a first, finite share
_ALL: Final = 1 << 62


@dataclass(slots=True)
class Brake:
    """`tick` each tick, `look` before anything is asked, and `took` what was let through."""

    kept: int  # bytes in the log that slow nobody, whoever needs them
    limit: int
    tick_ms: int
    on: bool = False  # somebody catches up
    slowed_ticks: int = 0  # since the start
    _log_bytes: int = 0
    _allowance: int = 0
    start: int = field(init=False)  # more bytes than these slow writes

    def __post_init__(self) -> None:
        self.start = (self.kept + self.limit) // 2

    def tick(self, catching_up: bool) -> None:
        """Whether a member needs what is in the log because it catches up."""
        self.on = catching_up and self.limit > self.kept
        self.slowed_ticks += self.strength > 0
        share = self._share
        deepest = -share * (max(1, _WAIT_MS // self.tick_ms) - 1)
        self._allowance = min(max(self._allowance, deepest) + share, share)

    def look(self, log_bytes: int) -> None:
        """So many bytes are in the log now."""
        self._log_bytes = log_bytes

    def took(self, size: int) -> None:
        """So many bytes of writes went into the log since."""
        if self.strength > 0:
            self._allowance -= size
        self._log_bytes += size

    @property
    def strength(self) -> float:
        """How hard writes are slowed: from 0, not at all, to 1, at the limit."""
        if not self.on:
            return 0.0
        used = (self._log_bytes - self.start) / (self.limit - self.start)
        return min(1.0, max(0.0, used))

    @property
    def room(self) -> int:
        """How many bytes of writes may go into the log now."""
        if not self.on:
            return _ALL
        return max(0, self.start - self._log_bytes, self._allowance)

    @property
    def _share(self) -> int:
        """A tick's. ds/dt = 1 / (2 s _LAST_MS), so that s * s grows to 1 in _LAST_MS."""
        span = max(0, self.limit - self.start)
        strength = max(self.strength, _STRENGTH_MIN)
        return max(1, int(span * self.tick_ms / (2 * _LAST_MS * strength)))

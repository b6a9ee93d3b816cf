"""Whether the next round of writes waits for company, and for how much.

    a round of 6 on its way    .  .  .  .      4 have come meanwhile
    it has arrived             . . .  . ..     10 are expected: those 6 write again, and these 4
    the next one begins        with 10, or with fewer when the time is up

A round costs what it costs, whatever it carries, on every member; so where many write, few large
ones leave more for them than many small ones. One client alone has nobody to wait for.
"""

from typing import Final

_VAIN_MAX: Final = 6  # so often in a row are the rounds that do not linger doubled


class Linger:
    """Counts arrivals; somebody else has a clock.

    Clients that do not wait for answers before they write again come when they come: where the time
    is up and fewer than `least` have come, some rounds do not linger, and twice as many the next
    time that it was in vain.
    """

    def __init__(self, *, enabled: bool, least: int) -> None:
        self.expected = 0  # for so many a round is waiting; 0: for nobody
        self._enabled = enabled
        self._least = least
        self._timed_out = False
        self._vain = 0
        self._skips = 0  # rounds that shall not linger

    def begin(self, arrived: int, queued: int) -> None:
        """A round of `arrived` has arrived, while `queued` came."""
        self._timed_out = False
        if not self._enabled or arrived + queued == 1:
            return
        if self._skips > 0:
            self._skips -= 1
        else:
            self.expected = arrived + queued

    def time_is_up(self) -> None:
        """Whoever has not come by now is not waited for."""
        self._timed_out = self._timed_out or self.expected > 0
        self.expected = 0

    def end(self, arrivals: int) -> None:
        """The next round begins, with so many."""
        if self._timed_out and arrivals < self._least:
            self._vain = min(self._vain + 1, _VAIN_MAX)
            self._skips = 1 << self._vain
        elif self._timed_out or self.expected:
            self._vain = 0
        self.expected = 0
        self._timed_out = False

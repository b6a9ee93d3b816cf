"""Telling the operator that another member refuses this one: a token, a certificate or a cluster
that is not the same will not mend itself. What will is not worth a word: one that starts or stops.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from bedplate.errors import BedplateError, Code

AGAIN_S: Final = 60.0


class Refusals:
    """One warning for each member and reason, and another one for each minute in which it lasts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[tuple[int, str], float] = {}
        self._log = structlog.get_logger("bedplate.cluster")

    def note(self, member: int, address: str, error: BedplateError) -> None:
        """The stream to `member` was refused."""
        if error.code is Code.UNAVAILABLE:
            return
        now, key = self._clock(), (member, error.reason)
        if now - self._said.get(key, -AGAIN_S) >= AGAIN_S:
            self._said[key] = now
            self._log.warning(
                "peer_refuses",
                peer=f"{member:016x}",
                address=address,
                reason=error.reason,
                why=str(error),
            )

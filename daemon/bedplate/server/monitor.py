"""Watches the store's status: sets readiness, and says aloud what an operator must know."""

import asyncio
from typing import Final, Protocol

import structlog

from bedplate.native.status import Status
from bedplate.server.health import Health, Readiness
from bedplate.storage.engine import Engine, State

PERIOD_S: Final = 0.5


class Belonging(Protocol):
    """What a cluster says of this member."""

    @property
    def started(self) -> bool: ...

    @property
    def has_leader(self) -> bool: ...

    @property
    def caught_up(self) -> bool: ...

    @property
    def ever_caught_up(self) -> bool: ...

    @property
    def out_of_service(self) -> str: ...


class Monitor:
    """Compares each status with the one before."""

    def __init__(self, engine: Engine, health: Health, cluster: Belonging) -> None:
        self._engine = engine
        self._cluster = cluster
        self._health = health
        self._before: Status | None = None
        self._log = structlog.get_logger("bedplate.store")

    async def run(self) -> None:
        """Look every half second, for ever."""
        while True:
            self.look()
            await asyncio.sleep(PERIOD_S)

    def look(self) -> Status | None:
        """The status now, None while the store is not open; readiness follows it."""
        if self._engine.state is not State.OPEN:
            return None
        status = self._engine.status()
        self._report(status)
        self._before = status
        return status

    def readiness(self) -> Readiness:
        """Readiness as of now."""
        self.look()
        return self._health.readiness

    def _report(self, now: Status) -> None:
        before = self._before
        if now.slow_syncs > (before.slow_syncs if before else 0):
            self._log.warning(
                "fsync_slow", total=now.slow_syncs, longest_ms=now.sync_ns_max // 1_000_000
            )
        if now.damaged_segments > (before.damaged_segments if before else 0):
            self._log.warning(
                "segment_damaged",
                segments=now.damaged_segments,
                advice="run `bedplate verify` to see what is lost",
            )
        if now.checkpoint_failures > (before.checkpoint_failures if before else 0):
            self._log.warning("checkpoint_failed", total=now.checkpoint_failures)
        readiness = self._readiness(now)
        if self._health.set(readiness):
            self._announce(readiness, now)

    def _announce(self, readiness: Readiness, now: Status) -> None:
        match readiness:
            case Readiness.POISONED:
                self._log.error(
                    "log_poisoned",
                    advice="a sync of the log failed: writes stop until the daemon is restarted",
                )
            case Readiness.DISK_FULL:
                self._log.warning(
                    "disk_full", free_bytes=now.disk_free_bytes, reserve=now.disk_reserve_bytes
                )
            case Readiness.NO_LEADER:
                self._log.warning("no_leader", revision=now.revision)
            case Readiness.CATCHING_UP:
                self._log.info("catching_up", revision=now.revision)
            case Readiness.BEHIND:
                self._log.info("behind", revision=now.revision)
            case Readiness.QUARANTINED | Readiness.RECOVERING:
                pass  # has been said
            case _:
                self._log.info("ready", revision=now.revision)

    def _readiness(self, status: Status) -> Readiness:
        if status.poisoned:
            return Readiness.POISONED
        if self._cluster.out_of_service:
            return Readiness.QUARANTINED
        if status.disk_full:
            return Readiness.DISK_FULL
        return self._standing()

    def _standing(self) -> Readiness:
        """In the cluster."""
        cluster = self._cluster
        if not cluster.started:
            return Readiness.RECOVERING
        if cluster.caught_up:
            return Readiness.READY
        if not cluster.has_leader:
            return Readiness.NO_LEADER
        return Readiness.BEHIND if cluster.ever_caught_up else Readiness.CATCHING_UP

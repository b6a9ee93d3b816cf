"""grpc.health.v1, and the readiness that it and /readyz report.

    RECOVERING --> CATCHING_UP --> READY <--> POISONED, DISK_FULL, NO_LEADER, BEHIND, QUARANTINED
    any of them --> DRAINING

A daemon with a full disk still reads and deletes, one without a leader reads what it has, and one
that has fallen behind answers when it has caught up: their services stay SERVING while /readyz
fails. A member that never caught up since its start has nothing to serve.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from enum import Enum

import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from bedplate.errors import BedplateError, Code

_SERVING = HealthCheckResponse.SERVING
_NOT_SERVING = HealthCheckResponse.NOT_SERVING
_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


class Readiness(Enum):
    """What the daemon can do now; the value is the reason /readyz gives."""

    READY = "ready"
    RECOVERING = "recovering"
    CATCHING_UP = "catching up"
    POISONED = "log poisoned"
    DISK_FULL = "disk full"
    NO_LEADER = "no leader"
    BEHIND = "behind"
    QUARANTINED = "quarantined"
    DRAINING = "draining"

    @property
    def serving(self) -> bool:
        """Whether services answer at all."""
        return self in _SERVES


_SERVES = frozenset({Readiness.READY, Readiness.DISK_FULL, Readiness.NO_LEADER, Readiness.BEHIND})


class Health(HealthServicer):
    """Answers for every registered service and for "", the whole daemon."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services) | {""}
        self._readiness = Readiness.RECOVERING
        self._changed = asyncio.Event()

    @property
    def readiness(self) -> Readiness:
        return self._readiness

    def set(self, readiness: Readiness) -> bool:
        """Whether that is a change. Nothing follows DRAINING."""
        if readiness is self._readiness or self._readiness is Readiness.DRAINING:
            return False
        self._readiness = readiness
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    async def Check(
        self,
        request: HealthCheckRequest,
        context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse],
    ) -> HealthCheckResponse:
        status = self._status(request.service)
        if status == _UNKNOWN:
            raise BedplateError(
                f'there is no service "{request.service}"',
                code=Code.NOT_FOUND,
                reason="SERVICE_UNKNOWN",
                field="service",
            )
        return HealthCheckResponse(status=status)

    async def Watch(
        self,
        request: HealthCheckRequest,
        context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse],
    ) -> AsyncIterator[HealthCheckResponse]:
        sent: int | None = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != sent:
                yield HealthCheckResponse(status=status)
                sent = status
            elif self._readiness is Readiness.DRAINING:
                raise BedplateError(
                    "the daemon shuts down", code=Code.UNAVAILABLE, reason="STORE_CLOSED"
                )
            else:
                await changed.wait()

    def _status(self, service: str) -> int:
        if service not in self._services:
            return _UNKNOWN
        return _SERVING if self._readiness.serving else _NOT_SERVING

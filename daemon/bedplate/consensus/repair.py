"""Values that were found damaged here, fetched from members that have them.

reads, scrub --> store: what is damaged --> FetchValues, one member after the other --> repair

The store tells of each damaged value once; what nobody could give is told of again when it is met
again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import grpc.aio
import structlog

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.api.cluster.v1.peer_pb2_grpc import PeerServiceStub
from bedplate.consensus.peer_channel import Credentials, refusal
from bedplate.consensus.snapshot_counters import SnapshotCounters
from bedplate.errors import BedplateError
from bedplate.storage.threads import in_thread

_LOOK_S: Final = 1.0
_FETCH_S: Final = 30.0

# A member's answers to a question, in order.
Fetch = Callable[[int, bytes], Awaitable[Sequence[bytes]]]


class Damaged(Protocol):
    """A store that may hold damaged values. Both block; both raise StoreError."""

    def damaged(self) -> bytes | None: ...

    def repair(self, values: bytes) -> int: ...


class Repairer:
    """`run` works until cancelled."""

    def __init__(
        self,
        store: Damaged,
        counters: SnapshotCounters,
        *,
        others: Callable[[], Sequence[int]],
        fetch: Fetch,
    ) -> None:
        """`others` are whom to ask, the likeliest first; `fetch` raises BedplateError,
        TimeoutError.
        """
        self._store = store
        self._counters = counters
        self._others = others
        self._fetch = fetch
        self._log = structlog.get_logger("bedplate.cluster")

    async def run(self) -> None:
        """Look every second, for ever."""
        while True:
            while await self.step():
                pass
            await asyncio.sleep(_LOOK_S)

    async def step(self) -> bool:
        """Whether there was something to repair, and somebody to ask."""
        others = self._others()
        if not others:
            return False
        try:
            wanted = await in_thread(self._store.damaged)
            if wanted is None:
                return False
            repaired = await self._repair(wanted, others)
        except BedplateError as error:
            self._log.warning("repair_failed", reason=error.reason, error=str(error))
            return False
        self._counters.repaired_values += repaired
        if repaired:
            self._log.info("values_repaired", count=repaired)
        else:
            self._counters.repair_failures += 1
            self._log.warning("repair_failed", reason="VALUES_NOT_FOUND", asked=len(others))
        return bool(repaired)

    async def _repair(self, wanted: bytes, others: Sequence[int]) -> int:
        """Ask until somebody has some of them."""
        for member in others:
            repaired = 0
            try:
                for values in await self._fetch(member, wanted):
                    repaired += await in_thread(partial(self._store.repair, values))
            except (BedplateError, TimeoutError) as error:
                self._log.debug("repair_not_from", member=f"{member:016x}", error=str(error))
            if repaired:
                return repaired
        return 0


async def fetch_values(
    address: str, hello: pb.Hello, wanted: bytes, credentials: Credentials
) -> Sequence[bytes]:
    """FetchValues of one member. Raises BedplateError, TimeoutError."""
    request = pb.FetchValuesRequest(hello=hello, wanted=wanted)
    async with credentials.channel(address) as channel:
        stub: Any = PeerServiceStub(channel)
        try:
            async with asyncio.timeout(_FETCH_S):
                call = stub.FetchValues(request, metadata=credentials.metadata, timeout=_FETCH_S)
                return [answer.values async for answer in call]
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from error

"""A store so configured, and a load so shaped, that every persistence step comes up within a second
or two.

hot writers    overwrite a few keys with large values: segments fill up and empty out
cold writer    many small keys, each seldom: what cleaning must copy into settled segments
history        none to speak of, so that segments may go at once
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from http.client import HTTPException
from typing import Any

import grpc.aio

from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from tests.faults.recorder import Writer, check_all, settle_all
from tests.faults.warm_daemon import WarmDaemon

SETTINGS = (
    "log.segment_size=8MiB",
    "checkpoint.log_bytes=1MiB",
    "history.bytes_max=1",
    "history.versions_max=1",
    "clean.disk_reserve=8MiB",
)
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
SECONDS_MAX = 30.0


class BusyStore:
    """The clients of one directory through all its lives."""

    def __init__(self, seed: str) -> None:
        hot = (100_000, 300_000)
        self.writers = [
            Writer(i, random.Random(f"{seed} {i}"), keys=3, sizes=hot) for i in range(4)
        ]
        cold = random.Random(f"{seed} cold")
        self.writers.append(Writer(9, cold, keys=300, sizes=(50, 200), puts_only=True))

    @property
    def answered(self) -> int:
        return sum(writer.answered for writer in self.writers)

    async def load(self, daemon: WarmDaemon, enough: Callable[[], Awaitable[bool]]) -> bool:
        """Write until it is enough (True) or the daemon answers no more (False)."""
        stop = asyncio.Event()
        async with grpc.aio.insecure_channel(daemon.grpc, OPTIONS) as channel:
            kv: Any = KVServiceStub(channel)
            writing = asyncio.gather(
                *(writer.run(kv, lambda: not stop.is_set()) for writer in self.writers)
            )
            watching = asyncio.ensure_future(_until(enough))
            waited: list[asyncio.Future[Any]] = [watching, writing]
            done, _ = await asyncio.wait(waited, timeout=SECONDS_MAX, return_when="FIRST_COMPLETED")
            stop.set()
            watching.cancel()
            await writing
            assert done, "it never was enough"
            if watching in done:
                watching.result()
        return writing not in done

    async def check(self, daemon: WarmDaemon, **fields: Any) -> None:
        """The daemon has what was answered."""
        async with grpc.aio.insecure_channel(daemon.grpc, OPTIONS) as channel:
            await check_all(KVServiceStub(channel), self.writers, **fields)

    async def settle(self, daemon: WarmDaemon) -> None:
        """It has what was answered, and takes what was not."""
        async with grpc.aio.insecure_channel(daemon.grpc, OPTIONS) as channel:
            kv: Any = KVServiceStub(channel)
            await settle_all(kv, self.writers, await check_all(kv, self.writers))

    async def settle_if_it_lives(self, daemon: WarmDaemon) -> None:
        """As settle, but the daemon may die or stop of it; what is unknown then stays so."""
        try:
            await self.settle(daemon)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


async def _until(enough: Callable[[], Awaitable[bool]]) -> None:
    while not await enough():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def never() -> bool:
    return False


def hits(daemon: WarmDaemon) -> Callable[[], Awaitable[bool]]:
    """Whether a failpoint was hit."""
    return counted(daemon, "bedplate_failpoint_hits_total")


def counted(daemon: WarmDaemon, metric: str) -> Callable[[], Awaitable[bool]]:
    """Whether a counter is above zero."""

    async def look() -> bool:
        try:
            return await asyncio.to_thread(daemon.metric, metric) > 0
        except (OSError, HTTPException):
            return False  # it is dying, and the writers will notice

    return look

"""The reaper is woken when there is something to find, not before."""

import asyncio

import pytest
from structlog.testing import capture_logs

from bedplate.errors import BedplateError, Code
from bedplate.native.store import Keyspace, Method
from tests.unit.object_harness import MIB, make, pattern


@pytest.mark.parametrize(
    ("reasons", "levels"),
    [
        (("NO_LEADER",) * 3, ["debug"] * 3),
        (("LEADER_LOST", "NO_LEADER"), ["debug"] * 2),
        (("DISK_FULL",) * 3, ["warning", "debug", "debug"]),
        (("DISK_FULL", "", "DISK_FULL"), ["warning", "warning"]),
    ],
)
async def test_reclaiming_complains_once_and_never_of_a_lacking_leader(
    reasons: tuple[str, ...], levels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bedplate.storage.objects.reaper._RETRY_SECONDS", (0.0, 0.0))
    objects = await make()
    left, done = list(reasons), asyncio.Event()

    async def collect() -> None:
        if not left:
            done.set()
            return
        objects.core.reclaim.set()
        reason = left.pop(0)
        if reason:
            raise BedplateError("no", code=Code.UNAVAILABLE, reason=reason)

    reaper = objects.module.reaper
    monkeypatch.setattr(reaper, "collect", collect)
    with capture_logs() as records:
        work = asyncio.create_task(reaper.run())
        async with asyncio.timeout(10):
            await done.wait()
        work.cancel()
    assert [r["log_level"] for r in records if r["event"] == "reclaiming failed"] == levels


async def test_the_reaper_is_woken_once_the_garbage_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects = await make()
    await objects.put("k", pattern(20 * MIB))
    objects.core.reclaim.clear()
    commit, woken = objects.engine.call, []

    async def call(method: Method, keyspace: Keyspace, request: bytes) -> bytes:
        reply: bytes = await commit(method, keyspace, request)
        woken.append(objects.core.reclaim.is_set())
        return reply

    monkeypatch.setattr(objects.engine, "call", call)
    await objects.delete("k")
    assert not any(woken)
    assert objects.core.reclaim.is_set()

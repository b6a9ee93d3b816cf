"""The reaper is woken when there is something to find, not before."""

import pytest

from bedplate.native.store import Keyspace, Method
from tests.unit.object_harness import MIB, make, pattern


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

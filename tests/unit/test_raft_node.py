"""The loop that gives a replica its turns."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bedplate.consensus.messages import AppendReply, HeartbeatReply
from bedplate.consensus.node import Node
from bedplate.consensus.replica import ReplicaSettings
from tests.unit.test_raft_replica import Stand

NEVER_S = 1000.0


@asynccontextmanager
async def at_work(stand: Stand, linger_s: float) -> AsyncIterator[Node]:
    """A node that only its store's descriptor, messages and lingering give turns."""
    fd = os.eventfd(0)
    stand.store.fd = fd  # type: ignore[attr-defined]
    node = Node(stand.replica, stand.store, tick_s=NEVER_S, linger_s=linger_s)  # type: ignore[arg-type]
    running = asyncio.create_task(node.run())
    try:
        yield node
    finally:
        running.cancel()
        await asyncio.wait([running])
        os.close(fd)


async def test_a_round_that_lingers_begins_when_the_time_is_up() -> None:
    stand = Stand(ReplicaSettings())
    stand.lead()
    stand.queue(20)
    stand.end_round()
    stand.queue(5)
    assert stand.rounds == 1
    async with at_work(stand, linger_s=0.001) as node:
        node.wake()
        await node.until(lambda: stand.rounds == 2, 10)


async def test_what_changes_nothing_has_no_turn_of_its_own() -> None:
    stand = Stand(ReplicaSettings())
    stand.lead()
    async with at_work(stand, linger_s=NEVER_S) as node:
        node.deliver([HeartbeatReply(2, 1, 2, 0)])
        for _ in range(10):
            await asyncio.sleep(0)
        assert node.counters.received == 0
        node.deliver([AppendReply(3, 1, 2, True, 2)])
        await node.until(lambda: node.counters.received == 2, 10)

"""The bounds on what streams hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from bedplate.errors import BedplateError
from bedplate.native.errors import closed
from bedplate.storage.budget import MESSAGE_MAX, Budget, Share

MIB = 1 << 20
PATIENCE_S = 10.0


class Client:
    """Takes a message once it is let."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()

    async def write(self, _: bytes) -> None:
        await self.reads.wait()


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_comes_first_is_served_first() -> None:
    budget = Budget(4 * MIB)
    holder = budget.share()
    await holder.take(3 * MIB)
    served: list[int] = []

    async def wait(number: int, size: int) -> None:
        await budget.share().take(size)
        served.append(number)

    tasks = [asyncio.create_task(wait(*given)) for given in ((0, 2 * MIB), (1, 1), (2, 1))]
    await settle()
    assert served == []  # not even what would fit goes past the first
    assert budget.held == 3 * MIB
    holder.give(holder.held)
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2]


async def test_who_stops_waiting_makes_room_for_the_next() -> None:
    budget = Budget(4 * MIB)
    await budget.share().take(3 * MIB)
    first = asyncio.create_task(budget.share().take(2 * MIB))
    second = asyncio.create_task(budget.share().take(MIB))
    await settle()
    assert not second.done()
    first.cancel()
    await second
    assert budget.held == 4 * MIB


async def test_a_stream_that_ends_gives_back_what_it_held() -> None:
    budget = Budget(4 * MIB)
    with budget.share() as share:
        await share.take(MIB)
        assert share.take_spare(MIB)
        assert not share.take_spare(1)  # half of it is gone
    assert budget.held == 0


async def test_messages_shrink_as_the_budget_does() -> None:
    budget = Budget(64 * MIB)
    sizes = []
    while budget.held < 60 * MIB:
        sizes.append(budget.message_size(MIB))
        await budget.share().take(sizes[-1])
    assert sizes[:32] == [MESSAGE_MAX] * 32
    assert sizes[32:] == sorted(sizes[32:], reverse=True)
    assert sizes[-1] < 20 << 10
    assert len(sizes) > 400


async def test_a_client_that_has_not_read_yet_costs_little() -> None:
    budget = Budget(32 * MIB)
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(200):
            await budget.share().take(budget.message_size(0))
    assert budget.message_size(MIB) == MESSAGE_MAX


async def send(share: Share, client: Client) -> str:
    await share.take(2 * MIB)
    try:
        with share:
            await share.send(client, b"")
    except BedplateError as error:
        return error.reason
    return "sent"


async def test_who_does_not_read_is_ended_when_others_wait() -> None:
    budget = Budget(4 * MIB, stall_s=0.05)
    clients = [Client() for _ in range(2)]
    stalled = [asyncio.create_task(send(budget.share(), client)) for client in clients]
    await settle()
    reads = Client()
    reads.reads.set()
    async with asyncio.timeout(PATIENCE_S):
        assert await send(budget.share(), reads) == "sent"
    assert await stalled[0] == "CLIENT_STALLED"
    clients[1].reads.set()  # one was enough
    assert await stalled[1] == "sent"
    assert budget.held == 0


async def test_nobody_is_ended_while_nobody_waits() -> None:
    budget = Budget(4 * MIB, stall_s=0.001)
    client = Client()
    paused = asyncio.create_task(send(budget.share(), client))
    done, _ = await asyncio.wait([paused], timeout=0.1)
    assert not done
    client.reads.set()
    assert await paused == "sent"


async def test_what_never_waits_counts_and_ends_who_stalls() -> None:
    budget = Budget(4 * MIB, stall_s=0.05)

    async def owe(client: Client) -> str:
        try:
            with budget.share() as share:
                await share.send_owing(client, bytes(3 * MIB))
        except BedplateError as error:
            return error.reason
        return "sent"

    outcomes = [asyncio.create_task(owe(Client())) for _ in range(2)]
    await settle()
    assert budget.held == 6 * MIB
    done, left = await asyncio.wait(
        outcomes, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
    )
    assert [task.result() for task in done] == ["CLIENT_STALLED"]
    (last,) = left
    last.cancel()
    with suppress(asyncio.CancelledError):
        await last


async def test_a_silent_sender_puts_aside_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bedplate.storage.budget.SILENCE_S", 0.01)
    budget = Budget(4 * MIB)
    sends = asyncio.Event()

    async def messages() -> AsyncIterator[bytes]:
        await sends.wait()
        yield b"late"

    share, other = budget.share(), budget.share()
    await share.take(4 * MIB)

    async def put_aside() -> None:
        share.give(share.held)

    receiving = asyncio.create_task(share.receive(messages(), put_aside))
    await asyncio.wait([receiving], timeout=0.05)
    assert share.held == 4 * MIB  # nobody waits
    async with asyncio.timeout(PATIENCE_S):
        await other.take(4 * MIB)
    assert not receiving.done()
    sends.set()
    assert await receiving == b"late"
    assert share.held == 0


async def test_what_cannot_be_put_aside_fails_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bedplate.storage.budget.SILENCE_S", 0.01)
    budget = Budget(4 * MIB)

    async def messages() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b"never"

    async def put_aside() -> None:
        raise closed()

    async def receive() -> None:
        with budget.share() as share:
            await share.take(4 * MIB)
            await share.receive(messages(), put_aside)

    receiving = asyncio.create_task(receive())
    await settle()
    async with asyncio.timeout(PATIENCE_S):
        await budget.share().take(4 * MIB)
    with pytest.raises(BedplateError, match="closed"):
        await receiving


async def test_peers_take_turns() -> None:
    budget = Budget(MIB)
    holder = budget.share()
    await holder.take(MIB)
    served: list[str] = []

    async def wait(peer: str) -> None:
        with budget.share(peer) as share:
            await share.take(MIB)
            served.append(peer)

    tasks = [asyncio.create_task(wait(peer)) for peer in ("a", "a", "a", "b", "b", "c")]
    await settle()
    holder.give(MIB)
    await asyncio.gather(*tasks)
    assert served == ["a", "b", "c", "a", "b", "a"]

"""The links to all other members: where a replica's messages go.

send(message) --> link of its target --> control or data stream
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.consensus.address_book import AddressBook
from bedplate.consensus.codec import is_bulk
from bedplate.consensus.link import Link, LinkEvents
from bedplate.consensus.messages import Message
from bedplate.consensus.peer_channel import Credentials

FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Self:
    """What a member says of itself."""

    cluster_id: bytes
    member: int
    address: str

    def hello(self, target: int) -> pb.Hello:
        """The first frame of every stream to `target`."""
        return pb.Hello(
            cluster_id=self.cluster_id,
            source=self.member,
            target=target,
            version=FORMAT_VERSION,
            address=self.address,
        )


class Transport:
    """Fits replica.Outbox. Everything but `run` returns at once."""

    def __init__(
        self, me: Self, book: AddressBook, credentials: Credentials, on: LinkEvents
    ) -> None:
        self._me = me
        self._book = book
        self._credentials = credentials
        self._on = on
        self._links: dict[int, Link] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self.sent = 0  # messages, also those that were dropped
        self.snapshots: set[int] = set()  # members that need one

    async def run(self) -> None:
        """Keep the links up until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None
                for task in self._tasks.values():
                    task.cancel()
                self._links.clear()
                self._tasks.clear()

    def connect(self, members: Collection[int]) -> None:
        """Have links to these, as far as their addresses are known, and to nobody else."""
        for member in [member for member in self._links if member not in members]:
            self._disconnect(member)
        for member in members:
            address = self._book.address(member)
            link = self._links.get(member)
            if member == self._me.member or not address or self._group is None:
                continue
            if link is not None and link.address != address:
                self._disconnect(member)
                link = None
            if link is None:
                link = Link(member, address, self._me.hello(member), self._credentials, self._on)
                self._links[member] = link
                self._tasks[member] = self._group.create_task(link.run())

    def retry(self, member: int) -> None:
        """It has called, so it is there: connect at once, however many attempts have failed."""
        link = self._links.get(member)
        if link is not None:
            link.retry()

    def is_up(self, member: int) -> bool:
        """Whether the member can be talked to."""
        link = self._links.get(member)
        return link is not None and link.up

    def rtts(self) -> dict[int, float]:
        """Seconds that a frame takes there and back, of the members that can be talked to."""
        return {member: link.rtt_s for member, link in self._links.items() if link.up}

    # ---- replica.Outbox ------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        self.sent += 1
        link = self._links.get(message.target)
        if link is None:
            return
        if is_bulk(message):
            link.send_bulk(message)
        else:
            link.send(message)

    def forward(self, leader: int, batch: int, requests: bytes) -> bool:
        link = self._links.get(leader)
        return link is not None and link.forward(batch, requests)

    def send_snapshot(self, member: int) -> None:
        self.snapshots.add(member)

    def _disconnect(self, member: int) -> None:
        del self._links[member]
        self._tasks.pop(member).cancel()

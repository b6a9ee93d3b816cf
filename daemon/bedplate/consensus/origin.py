"""Where a daemon is, and what its directory and its configuration say about who it is.

new directory    founding.json decides --> a store is made for this identity, and for no other
with a store     the store says who we are; founding.json, that it is one of several
quarantined      its state differed from the cluster's, or was stale: never served again
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from bedplate.api.cluster.v1 import peer_pb2 as pb
from bedplate.consensus.config import ClusterConfig
from bedplate.consensus.contacts import PeerContacts
from bedplate.consensus.founding_file import QUARANTINE_FILE, FoundingFile
from bedplate.consensus.identity import Identity, Search, founding_id
from bedplate.consensus.peer_channel import Credentials
from bedplate.errors import StartupError

# A restored or rebuilt one would be another cluster.
_REPLACE = "A member of a cluster is replaced, and neither restored nor rebuilt"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a daemon is: its data directory and the address it tells others."""

    directory: Path
    address: str


class Origin:
    """Of one daemon. `find` comes first."""

    def __init__(self, config: ClusterConfig, credentials: Credentials) -> None:
        self.place = Place(Path(), "")
        self._config = config
        self._credentials = credentials
        self._file: FoundingFile | None = None
        self._search: Search | None = None
        self._log = structlog.get_logger("bedplate.cluster")

    async def find(
        self, place: Place, *, fresh: bool, on_wait: Callable[[str], None] = lambda _: None
    ) -> Identity | None:
        """See Cluster.prepare. `on_wait` is told what is waited for."""
        self.place = place
        if (place.directory / QUARANTINE_FILE).exists():
            raise StartupError(
                f"{place.directory} is quarantined: {await asyncio.to_thread(self._quarantined)}. "
                "Replace this member: `bedplate cluster remove`, `bedplate cluster add`, a new "
                "directory",
                reason="QUARANTINED",
            )
        file = self._file = await asyncio.to_thread(FoundingFile, place.directory)
        if file.content.identity is None and fresh and not self._config.alone:
            await self._decide(file, on_wait)
        return file.content.identity

    async def _decide(self, file: FoundingFile, on_wait: Callable[[str], None]) -> None:
        incarnation = await asyncio.to_thread(file.begin)
        search = self._search = Search(
            name=self._config.name,
            peers=self._config.peers,
            contacts=self._config.contacts,
            own=self.place.address,
            asked=self.contacts,
            on_wait=on_wait,
        )
        identity = await search.identity(incarnation)
        await asyncio.to_thread(file.decide, identity, search.founders)
        self._log.info(
            "identity",
            cluster=identity.cluster_id.hex(),
            member=f"{identity.member_id:016x}",
            joins=not identity.voters,
        )

    async def store_made(self) -> None:
        """From now on the store says who we are."""
        assert self._file is not None
        await asyncio.to_thread(self._file.store_made)
        self._search = None

    async def belongs(self) -> None:
        """One that was alone is one of several now."""
        if self._file is not None:
            await asyncio.to_thread(self._file.belongs)

    async def quarantine(self, why: str) -> None:
        """Never serve from this directory again."""
        path = self.place.directory / QUARANTINE_FILE
        await asyncio.to_thread(path.write_text, why + "\n", encoding="utf-8")

    def _quarantined(self) -> str:
        """Why it is."""
        path = self.place.directory / QUARANTINE_FILE
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return path.read_text(encoding="utf-8").strip() or "nothing says why"
        return "why cannot be read"

    @property
    def contacts(self) -> PeerContacts:
        """How to ask others."""
        return PeerContacts(self._credentials, self.place.address)

    @property
    def others(self) -> tuple[str, ...]:
        """Addresses of the configuration, without our own."""
        return tuple(at for at in self._config.contacts if at != self.place.address)

    def founded(self, cluster_id: bytes) -> bool:
        """Whether this is the cluster that the configuration founds: the last one in it."""
        peers = self._config.peers
        return bool(peers) and cluster_id == founding_id(self._config.name, peers)

    @property
    def searching(self) -> pb.IdentifyResponse | None:
        """What another one that searches is told; None once we know who we are."""
        if self._search is None or self._file is None:
            return None
        return pb.IdentifyResponse(
            founding=self._search.founding,
            incarnation=self._file.content.incarnation,
            name=self._config.name,
            peers=self._config.peers,
        )

    def founded_with(self, address: str) -> bytes:
        """Whose directory the cluster was founded with at an address; "" where with none."""
        return self._file.content.founders.get(address, b"") if self._file is not None else b""

    @property
    def repair_advice(self) -> str:
        """What else to do about a store that does not open; "" where there are no others."""
        if not self.others and (self._file is None or not self._file.exists):
            return ""
        address = self.place.address
        commands = f"`bedplate cluster remove {address}`, `bedplate cluster add {address}`"
        return f". {_REPLACE}: on another one {commands}, then a new directory here"

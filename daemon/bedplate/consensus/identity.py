"""Who a daemon with a new directory is: the founder of a cluster, or a member that joins one.

    founding.json                       all contacts answer
    ---------------------------         ----------------------------------------------------------
    incarnation, random                 fresh too, the same peers                -> found together
                                        established, founded with ours           -> found, late
                                        established, has an identity for us      -> join with it
                                        established, anything else               -> be replaced
    + founders, identity                decided, and the store is made
    founders alone                      the store is there

The danger is a member that voted, lost its disk, and votes again under the same id. Its directory
had an incarnation, which went with the disk: the others founded with that one, or gave the identity
to that one, and to no other. A daemon that merely stopped between deciding and making its store
still has the file, and goes on where it was. The incarnation is gone before the store is used.
"""

import asyncio
import enum
import hashlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from bedplate.errors import BedplateError, StartupError

ID_SIZE: Final = 16
_PAUSE_MIN_S, _PAUSE_MAX_S = 0.05, 1.0
_SAY_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a new store belongs to. `voters` found the cluster together; none: it joins one."""

    cluster_id: bytes
    member_id: int
    voters: tuple[int, ...] = ()
    addresses: Mapping[int, str] = field(default_factory=dict)  # of other members, as known now


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contact says of itself (IdentifyResponse)."""

    established: bool
    founding: bytes = b""
    incarnation: bytes = b""
    founded_with: bytes = b""
    name: str = ""  # of one that is not established, as it is configured there
    peers: tuple[str, ...] = ()
    cluster_id: bytes = b""  # of one that is established


class Contacts(Protocol):
    """How contacts are asked."""

    async def identify(self, address: str) -> Answer | None:
        """None when there is no answer."""

    async def join(self, address: str, incarnation: bytes) -> Identity:
        """Raises BedplateError: MEMBER_NOT_FOUND, MEMBER_REPLACED, or for now."""


class Step(enum.Enum):
    """What to do next."""

    WAIT = "wait"  # for those who have not answered
    FOUND = "found"
    JOIN = "join"
    CONTRADICTED = "contradicted"  # a fresh peer would found something else


def founding_id(name: str, peers: Sequence[str]) -> bytes:
    """The id of the cluster that these peers found: the same on each of them."""
    text = "\0".join(("bedplate cluster", name, *sorted(peers)))
    return hashlib.sha256(text.encode()).digest()[:ID_SIZE]


def member_id(cluster_id: bytes, address: str) -> int:
    """The id of a founding member."""
    digest = hashlib.sha256(cluster_id + address.encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


def founded(name: str, peers: Sequence[str], own: str) -> Identity:
    """Who the peer `own` is in the cluster that they found."""
    cluster_id = founding_id(name, peers)
    ids = {member_id(cluster_id, address): address for address in peers}
    return Identity(cluster_id, member_id(cluster_id, own), tuple(sorted(ids)), ids)


def next_step(
    founding: bytes, incarnation: bytes, peers: Sequence[str], answers: Mapping[str, Answer | None]
) -> tuple[Step, str]:
    """What follows from what every contact but ourselves has answered, and whom it concerns.

    `founding` is empty, and so is `peers`, for one that can only join.
    """
    for address, answer in answers.items():
        if answer is not None and answer.established and answer.founded_with != incarnation:
            return Step.JOIN, address
    for address in peers:
        answer = answers.get(address)
        if answer is not None and not answer.established and answer.founding != founding:
            return Step.CONTRADICTED, address
    if not founding or any(answers.get(address) is None for address in peers):
        silent = [address for address, answer in answers.items() if answer is None]
        return Step.WAIT, ", ".join(silent or answers)  # or they answer, and are nobody yet
    return Step.FOUND, ""


def difference(name: str, peers: Sequence[str], there: Answer) -> str:
    """In which configuration a peer would found something else."""
    if not there.name:
        return "cluster.name or cluster.peers"
    if not there.peers:
        return "cluster.peers is empty there"
    found = []
    if there.name != name:
        found.append(f'cluster.name is "{name}" here and "{there.name}" there')
    here_only, there_only = set(peers) - set(there.peers), set(there.peers) - set(peers)
    if here_only:
        found.append(f"cluster.peers has {', '.join(sorted(here_only))} only here")
    if there_only:
        found.append(f"cluster.peers has {', '.join(sorted(there_only))} only there")
    return "; ".join(found)


class Search:
    """The search of one fresh daemon. `founders` is complete when a founding was decided."""

    def __init__(
        self,
        *,
        name: str,
        peers: Sequence[str],
        contacts: Sequence[str],
        own: str,
        asked: Contacts,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_wait` is told what is waited for."""
        self._name = name
        self._own = own
        self._peers = tuple(peers)
        self._others = tuple(address for address in contacts if address != own)
        self._asked = asked
        self._on_wait = on_wait
        self._founding = founding_id(name, peers) if peers else b""
        self._log = structlog.get_logger("bedplate.cluster")
        self._said: tuple[str, float] = ("", 0.0)
        self.founders: dict[str, bytes] = {}

    @property
    def founding(self) -> bytes:
        return self._founding

    async def identity(self, incarnation: bytes) -> Identity:
        """Ask until it is clear who we are; cancel it to give up. Raises StartupError when we can
        be nobody.
        """
        pause = _PAUSE_MIN_S
        while True:
            answers = await self._ask_all()
            step, about = next_step(self._founding, incarnation, self._founding_peers, answers)
            match step:
                case Step.FOUND:
                    self.founders = {
                        address: answer.incarnation if answer is not None else b""
                        for address, answer in answers.items()
                    }
                    return founded(self._name, self._peers, self._own)
                case Step.JOIN:
                    identity = await self._join(about, incarnation, answers)
                    if identity is not None:
                        return identity
                case Step.CONTRADICTED:
                    self._tell_difference(about, answers[about])
                case Step.WAIT:
                    self._on_wait(f"waiting for {about}")
                    self._say("waiting_for_peers", missing=about)
            await asyncio.sleep(pause * (0.5 + random.random()))
            pause = min(2 * pause, _PAUSE_MAX_S)

    @property
    def _founding_peers(self) -> tuple[str, ...]:
        return tuple(address for address in self._peers if address != self._own)

    async def _ask_all(self) -> dict[str, Answer | None]:
        answers = await asyncio.gather(*(self._asked.identify(other) for other in self._others))
        return dict(zip(self._others, answers, strict=True))

    def _tell_difference(self, peer: str, answer: Answer | None) -> None:
        differs = difference(self._name, self._peers, answer or Answer(established=False))
        self._on_wait(f"waiting for {peer}, which is configured for another cluster: {differs}")
        self._say(
            "peers_differ",
            logging.WARNING,
            peer=peer,
            differs=differs,
            advice="give all of them the same cluster.name and cluster.peers",
        )

    async def _join(
        self, address: str, incarnation: bytes, answers: Mapping[str, Answer | None]
    ) -> Identity | None:
        """None where that may be told later."""
        self._on_wait(f"waiting to join the cluster of {address}")
        try:
            return await self._asked.join(address, incarnation)
        except BedplateError as error:
            removed = error.reason == "MEMBER_NOT_FOUND"
            if error.reason == "MEMBER_REPLACED" or (removed and self._peers):
                remove = "" if removed else f"`bedplate cluster remove {self._own}` and "
                raise StartupError(
                    f"{self._own} belonged to the cluster of {address}, and its directory is gone, "
                    f"with votes it may have cast: on another member, run {remove}"
                    f"`bedplate cluster add {self._own}`, then start it again",
                    reason="MEMBER_REPLACED",
                ) from error
            if self._founded(answers.values()):
                self._tell_loss(address, str(error))
                return None
            advice = f"run `bedplate cluster add {self._own}` on a member" if removed else "wait"
            self._say("waiting_to_join", at=address, reason=str(error), advice=advice)
            return None

    def _founded(self, answers: Iterable[Answer | None]) -> bool:
        """Whether our peers founded their cluster already: then with another directory of ours."""
        clusters = {answer.cluster_id for answer in answers if answer and answer.established}
        return bool(self._founding) and self._founding in clusters

    def _tell_loss(self, address: str, reason: str) -> None:
        self._say(
            "waiting_to_join",
            logging.WARNING,
            at=address,
            reason=reason,
            why=f"the directory with which {self._own} founded the cluster is gone, with votes it "
            "may have cast",
            advice="if it is only somewhere else, start it with that one. Else, once the cluster "
            f"has a leader, and unless that was done: on another member, `bedplate cluster "
            f"remove {self._own}`, `bedplate cluster add {self._own}`, then start it again. If a "
            "majority is gone for good: `bedplate cluster recover` on a survivor's directory",
        )

    def _say(self, event: str, level: int = logging.INFO, **fields: str) -> None:
        """A record, but not the same one again and again."""
        now = asyncio.get_running_loop().time()
        about = f"{event} {fields}"
        if about != self._said[0] or now - self._said[1] > _SAY_AGAIN_S:
            self._said = (about, now)
            self._log.log(level, event, **fields)

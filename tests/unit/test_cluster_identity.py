"""Who a daemon with a new directory may be."""

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bedplate.consensus.founding_file import NAME, FoundingFile
from bedplate.consensus.identity import (
    Answer,
    Identity,
    Search,
    Step,
    difference,
    founded,
    founding_id,
    next_step,
)
from bedplate.errors import BedplateError, Code, StartupError

PEERS = ("a:1", "b:1", "c:1")
OTHERS = PEERS[1:]
MINE, LOST = b"m" * 16, b"l" * 16
FOUNDING = founding_id("x", PEERS)
FRESH = Answer(established=False, founding=FOUNDING, incarnation=b"o" * 16)
WITH_ME = Answer(established=True, founded_with=MINE)


def step(**answers: Answer | None) -> Step:
    given = {f"{name}:1": answer for name, answer in answers.items()}
    return next_step(FOUNDING, MINE, OTHERS, given)[0]


def test_a_cluster_is_founded_when_every_peer_is_as_fresh() -> None:
    assert step(b=FRESH, c=FRESH) is Step.FOUND


def test_nothing_is_founded_before_every_peer_has_answered() -> None:
    assert step(b=FRESH, c=None) is Step.WAIT
    assert step(b=WITH_ME, c=None) is Step.WAIT


def test_who_was_counted_on_founds_late() -> None:
    assert step(b=WITH_ME, c=FRESH) is Step.FOUND
    assert step(b=WITH_ME, c=WITH_ME) is Step.FOUND


@pytest.mark.parametrize("other", [LOST, b""])
def test_who_lost_its_directory_founds_nothing(other: bytes) -> None:
    established = Answer(established=True, founded_with=other)
    assert step(b=established, c=FRESH) is Step.JOIN
    assert step(b=established, c=WITH_ME) is Step.JOIN
    assert step(b=established, c=None) is Step.JOIN


def test_other_peers_or_another_name_found_nothing_together() -> None:
    other = Answer(established=False, founding=founding_id("y", PEERS))
    assert step(b=FRESH, c=other) is Step.CONTRADICTED


def test_who_only_joins_never_founds() -> None:
    fresh = {"b:1": FRESH}
    assert next_step(b"", MINE, (), fresh) == (Step.WAIT, "b:1")
    assert next_step(b"", MINE, (), {"b:1": WITH_ME})[0] is Step.WAIT
    assert next_step(b"", MINE, (), {"b:1": Answer(established=True)})[0] is Step.JOIN


def test_one_peer_founds_alone() -> None:
    assert next_step(FOUNDING, MINE, (), {})[0] is Step.FOUND


def test_every_peer_comes_to_the_same_cluster() -> None:
    identities = [founded("x", peers, own) for own in PEERS for peers in (PEERS, PEERS[::-1])]
    assert {i.cluster_id for i in identities} == {FOUNDING}
    assert len({i.member_id for i in identities}) == 3
    assert len({i.voters for i in identities}) == 1
    assert founding_id("y", PEERS) != FOUNDING
    assert founding_id("x", PEERS[:2]) != FOUNDING


class Scripted:
    """Contacts that say one thing after the other."""

    def __init__(self, *rounds: dict[str, Answer], join: Identity | str = "") -> None:
        self._rounds = list(rounds)
        self._asked = 0
        self._join = join

    async def identify(self, address: str) -> Answer | None:
        answers = self._rounds[min(self._asked // len(OTHERS), len(self._rounds) - 1)]
        self._asked += 1
        return answers.get(address)

    async def join(self, address: str, incarnation: bytes) -> Identity:
        assert incarnation == MINE
        if isinstance(self._join, str):
            raise BedplateError("no", code=Code.NOT_FOUND, reason=self._join)
        return self._join


def search(asked: Scripted, peers: tuple[str, ...] = PEERS) -> Search:
    return Search(name="x", peers=peers, contacts=PEERS, own="a:1", asked=asked)


async def test_a_search_waits_and_remembers_whom_it_founded_with() -> None:
    both = {"b:1": FRESH, "c:1": FRESH}
    found = search(Scripted({}, {"b:1": FRESH}, both))
    assert await found.identity(MINE) == founded("x", PEERS, "a:1")
    assert found.founders == {"b:1": FRESH.incarnation, "c:1": FRESH.incarnation}


async def test_a_search_ends_with_the_identity_that_was_given() -> None:
    given = Identity(b"c" * 16, 7)
    asked = Scripted({"b:1": Answer(established=True)}, join=given)
    assert await search(asked).identity(MINE) == given


@pytest.mark.parametrize(
    ("reason", "peers"),
    [("MEMBER_REPLACED", PEERS), ("MEMBER_REPLACED", ()), ("MEMBER_NOT_FOUND", PEERS)],
)
async def test_a_member_without_its_directory_is_told_to_be_replaced(
    reason: str, peers: tuple[str, ...]
) -> None:
    asked = Scripted({"b:1": Answer(established=True)}, join=reason)
    with pytest.raises(StartupError) as refused:
        await search(asked, peers).identity(MINE)
    assert refused.value.reason == "MEMBER_REPLACED"
    assert "cluster add a:1" in str(refused.value)
    removed = reason == "MEMBER_NOT_FOUND"  # it need not be removed again
    assert ("cluster remove a:1" in str(refused.value)) is not removed


@pytest.mark.parametrize(("reason", "told"), [("MEMBER_NOT_FOUND", True), ("NO_LEADER", False)])
async def test_who_waits_to_join_is_told_to_be_added_only_if_that_helps(
    reason: str, told: bool
) -> None:
    asked = Scripted({"b:1": Answer(established=True)}, join=reason)
    with capture_logs() as records, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await search(asked, ()).identity(MINE)
    waiting = next(r for r in records if r["event"] == "waiting_to_join")
    assert ("cluster add" in waiting["advice"]) is told


async def waited(
    asked: Scripted, peers: tuple[str, ...] = PEERS
) -> tuple[list[str], MutableMapping[str, Any]]:
    """What a search that finds nothing was said to wait for, and its first record."""
    said = list[str]()
    looking = Search(
        name="x", peers=peers, contacts=PEERS, own="a:1", asked=asked, on_wait=said.append
    )
    with capture_logs() as records, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await looking.identity(MINE)
    return said, records[0]


async def test_a_search_says_whom_it_waits_for() -> None:
    said, record = await waited(Scripted({"b:1": FRESH}))
    assert said[0] == "waiting for c:1"
    assert (record["event"], record["missing"]) == ("waiting_for_peers", "c:1")
    said, _ = await waited(Scripted({"b:1": Answer(established=True)}, join="NO_LEADER"))
    assert said[0] == "waiting to join the cluster of b:1"


async def test_peers_that_differ_are_warned_of_with_what_differs() -> None:
    other = Answer(established=False, founding=b"y" * 16, name="y", peers=("a:1", "b:1", "d:1"))
    said, record = await waited(Scripted({"b:1": FRESH, "c:1": other}))
    assert (record["event"], record["log_level"]) == ("peers_differ", "warning")
    assert (record["peer"], record["differs"]) == ("c:1", difference("x", PEERS, other))
    assert "c:1" in said[0]
    assert record["differs"] in said[0]


@pytest.mark.parametrize(
    ("name", "peers", "expected"),
    [
        ("y", PEERS, 'cluster.name is "x" here and "y" there'),
        ("x", PEERS[:2], "cluster.peers has c:1 only here"),
        ("x", ("a:1", "b:1", "d:1"), "has c:1 only here; cluster.peers has d:1 only there"),
        ("x", (), "cluster.peers is empty there"),
        ("", (), "cluster.name or cluster.peers"),  # of a version that does not say
    ],
)
def test_a_difference_names_its_key(name: str, peers: tuple[str, ...], expected: str) -> None:
    there = Answer(established=False, name=name, peers=peers)
    assert expected in difference("x", PEERS, there)


@pytest.mark.parametrize("lost", [True, False])
async def test_a_founder_without_its_directory_is_warned_though_nobody_leads(lost: bool) -> None:
    there = Answer(established=True, cluster_id=FOUNDING if lost else b"c" * 16)
    _, record = await waited(Scripted({"b:1": there}, join="NO_LEADER"))
    assert record["event"] == "waiting_to_join"
    assert record["log_level"] == ("warning" if lost else "info")
    for part in ("cluster remove a:1", "cluster add a:1", "cluster recover"):
        assert (part in record["advice"]) is lost


class TestFoundingFile:
    def test_the_incarnation_stays_the_same_until_the_store_is_made(self, tmp_path: Path) -> None:
        first = FoundingFile(tmp_path).begin()
        assert len(first) == 16
        again = FoundingFile(tmp_path)
        assert again.begin() == first
        again.store_made()
        assert FoundingFile(tmp_path).content.incarnation == b""
        assert FoundingFile(tmp_path).begin() != first

    def test_what_was_decided_is_remembered_across_a_crash(self, tmp_path: Path) -> None:
        file = FoundingFile(tmp_path)
        file.begin()
        identity = founded("x", PEERS, "a:1")
        file.decide(identity, {"b:1": LOST})
        again = FoundingFile(tmp_path)
        assert again.content.identity == identity
        again.store_made()
        after = FoundingFile(tmp_path).content
        assert (after.identity, after.founders) == (None, {"b:1": LOST})

    def test_a_directory_without_one_is_not_written_to(self, tmp_path: Path) -> None:
        FoundingFile(tmp_path).store_made()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"incarnation": "x"})])
    def test_a_damaged_file_is_an_error(self, tmp_path: Path, text: str) -> None:
        (tmp_path / NAME).write_text(text)
        with pytest.raises(StartupError):
            FoundingFile(tmp_path)

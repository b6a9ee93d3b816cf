"""Whether a cluster of one serves where its configuration names others."""

from __future__ import annotations

import pytest

from bedplate.consensus.alone import check_alone
from bedplate.consensus.identity import Answer, Identity
from bedplate.errors import StartupError

FRESH, ELSEWHERE = Answer(established=False), Answer(established=True)


class Said:
    """Contacts whose answers are known; the last one is given again."""

    def __init__(self, **answers: list[Answer | None]) -> None:
        self._answers = answers

    async def identify(self, address: str) -> Answer | None:
        answers = self._answers[address]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def join(self, address: str, incarnation: bytes) -> Identity:
        raise AssertionError("nobody joins")


async def test_others_that_belong_to_nothing_are_no_reason_not_to_serve() -> None:
    await check_alone("a", ("b", "c"), Said(b=[FRESH], c=[None, FRESH]), wait_s=10)


@pytest.mark.parametrize(
    ("answers", "wait_s", "reason"),
    [
        ({"b": [FRESH], "c": [ELSEWHERE]}, 10, "OTHER_CLUSTER"),
        ({"b": [None], "c": [None, ELSEWHERE]}, 10, "OTHER_CLUSTER"),
        ({"b": [FRESH], "c": [None]}, 0, "PEERS_SILENT"),
    ],
)
async def test_who_may_stand_in_a_members_place_does_not_serve(
    answers: dict[str, list[Answer | None]], wait_s: float, reason: str
) -> None:
    with pytest.raises(StartupError) as refused:
        await check_alone("a", ("b", "c"), Said(**answers), wait_s=wait_s)
    assert refused.value.reason == reason
    assert "`bedplate cluster add a`" in str(refused.value)
    assert "take cluster.peers and cluster.join out" in str(refused.value)

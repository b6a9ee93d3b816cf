"""A member is where it is recorded, or is refused, or says that nobody can find it."""

import pytest
from structlog.testing import capture_logs

from bedplate.api.cluster.v1.peer_pb2 import MemberRecord
from bedplate.consensus.whereabouts import Whereabouts, check_place
from bedplate.errors import StartupError

RECORDS = [MemberRecord(member_id=n, address=f"{at}:1") for n, at in ((1, "a"), (2, "b"))]


def test_the_directory_of_one_member_is_refused_at_anothers_address() -> None:
    with pytest.raises(StartupError) as refused:
        check_place(1, "b:1", RECORDS, {1, 2})
    assert refused.value.reason == "ADDRESS_OF_ANOTHER"
    for part in ("0000000000000001", "a:1", "b:1", "0000000000000002"):
        assert part in refused.value.message


@pytest.mark.parametrize(
    ("member", "address", "members"),
    [
        (1, "a:1", {1, 2}),
        (1, "c:1", {1, 2}),  # moved, or forwarded
        (1, "b:1", {1}),  # whose address that was is no member any more
        (3, "c:1", {1, 2, 3}),  # not recorded yet
        (3, "b:1", {1, 2}),  # in the place of one that is removed, which is not applied yet
    ],
)
def test_an_address_that_is_nobody_elses_is_let_be(
    member: int, address: str, members: set[int]
) -> None:
    check_place(member, address, RECORDS, members)


def looked(*looks: tuple[str, bool, float]) -> list[str]:
    """The events of looks at (recorded address, a leader is known, seconds)."""
    where = Whereabouts("a:1", 3.0)
    with capture_logs() as records:
        for recorded, led, waited_s in looks:
            where.look(recorded, led=led, waited_s=waited_s)
    assert all(r["log_level"] == "error" and r["recorded"] == "b:1" for r in records)
    return [record["event"] for record in records]


def test_who_is_called_elsewhere_says_so_once() -> None:
    assert looked(("b:1", False, 2.9)) == []
    assert looked(("b:1", False, 2.9), ("b:1", False, 3), ("b:1", False, 9)) == ["address_differs"]


def test_who_is_where_it_is_recorded_or_reached_there_says_nothing() -> None:
    assert looked(("a:1", False, 9)) == []
    assert looked(("", False, 9)) == []
    assert looked(("b:1", True, 1), ("b:1", False, 9)) == []

"""Why a member's work ended by itself, told in one line."""

import pytest

from bedplate.consensus.endings import STALE, ending
from bedplate.consensus.ready import Contradiction, Differs, Lost
from bedplate.errors import BedplateError, Code, StartupError


def told(error: BaseException) -> BaseException:
    return ending(error, "/var/lib/bedplate", "a:1")


@pytest.mark.parametrize(
    ("error", "reason"), [(Lost("it ends at 7"), STALE), (Differs("entry 7"), "DIRECTORY_DIFFERS")]
)
def test_a_directory_that_cannot_be_right_is_named_with_what_to_do(
    error: Contradiction, reason: str
) -> None:
    said = told(ExceptionGroup("", [ExceptionGroup("", [error])]))
    assert isinstance(said, StartupError)
    assert said.reason == reason
    for part in ("/var/lib/bedplate", str(error), "cluster remove a:1", "cluster add a:1"):
        assert part in said.message
    assert "\n" not in said.message


def test_a_contradiction_that_another_member_may_have_to_do_with_condemns_no_directory() -> None:
    said = told(Contradiction("two lead term 7"))
    assert isinstance(said, BedplateError)
    assert not isinstance(said, StartupError)
    assert (said.reason, "two lead term 7" in said.message) == ("CONTRADICTION", True)


def test_what_says_why_is_told_before_what_follows_from_it() -> None:
    removed = StartupError("removed", reason="REMOVED")
    assert told(ExceptionGroup("", [ValueError("then"), removed])) is removed
    no_disk = BedplateError("no", code=Code.INTERNAL, reason="NO")
    assert told(ExceptionGroup("", [no_disk])) is no_disk


def test_what_nobody_foresaw_stays_what_it_is() -> None:
    unforeseen = ValueError("x")
    assert told(ExceptionGroup("", [unforeseen])) is unforeseen
    assert told(unforeseen) is unforeseen

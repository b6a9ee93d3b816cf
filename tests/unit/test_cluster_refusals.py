"""What an operator is told of members that refuse this one."""

from __future__ import annotations

from structlog.testing import capture_logs

from bedplate.consensus.refusals import AGAIN_S, Refusals
from bedplate.errors import BedplateError, Code

UNKNOWN = BedplateError("no token", code=Code.UNAUTHENTICATED, reason="PEER_UNKNOWN")
MISMATCH = BedplateError("another", code=Code.FAILED_PRECONDITION, reason="CLUSTER_MISMATCH")
STARTING = BedplateError("soon", code=Code.UNAVAILABLE, reason="STORE_RECOVERING")


def test_a_member_that_refuses_is_a_warning_once_a_minute_for_each_reason() -> None:
    now = [5.0]
    with capture_logs() as records:
        refusals = Refusals(lambda: now[0])
        for error in (UNKNOWN, UNKNOWN, MISMATCH, STARTING):
            refusals.note(2, "b:1", error)
        refusals.note(3, "c:1", UNKNOWN)
        said = [(r["peer"][-1], r["reason"], r["log_level"]) for r in records]
        assert said == [
            ("2", "PEER_UNKNOWN", "warning"),
            ("2", "CLUSTER_MISMATCH", "warning"),
            ("3", "PEER_UNKNOWN", "warning"),
        ]
        now[0] += AGAIN_S - 1
        refusals.note(2, "b:1", UNKNOWN)
        assert len(records) == 3
        now[0] += 1
        refusals.note(2, "b:1", UNKNOWN)
        assert len(records) == 4

"""Whether a member is where the cluster has recorded it: the others call it there, not elsewhere.

recorded for the own address   recorded for this member   what follows
----------------------------   ------------------------   --------------------------------------
this member, or nobody         the own address            all is well
another member                 another address            ADDRESS_OF_ANOTHER: it does not start,
                                                          since a copied directory votes twice
nobody                         another address            it starts. Where the recorded address
                                                          leads here too, a leader calls, and the
                                                          record is made true; where none calls
                                                          in time, that is said
"""

from collections.abc import Collection, Iterable

import structlog

from bedplate.api.cluster.v1.peer_pb2 import MemberRecord
from bedplate.errors import StartupError


def check_place(
    member: int, address: str, records: Iterable[MemberRecord], members: Collection[int]
) -> None:
    """By the records applied here. Raises StartupError: ADDRESS_OF_ANOTHER."""
    if member not in members:  # it joined, and has not applied that yet: all of this is the past
        return
    recorded = {r.member_id: r.address for r in records if r.member_id in members}
    own = recorded.pop(member, "")
    other = next((each for each, at in recorded.items() if at == address), None)
    if other is None or own == address:
        return
    raise StartupError(
        f"this is the directory of member {member:016x}, recorded at {own or 'no address'}, but "
        f"{address} is recorded for another one, {other:016x}: the directory was copied here, or "
        "the configuration is the other one's. Two daemons on copies of one directory would vote "
        f"twice. Start this directory at {own or 'its own address'} alone, and at {address} the "
        f"directory of {other:016x}; where that is lost, replace it: `bedplate cluster remove "
        f"{address}`, `bedplate cluster add {address}`, a new directory",
        reason="ADDRESS_OF_ANOTHER",
    )


class Whereabouts:
    """Says once that nobody can call this member, when no leader has for `patience_s`."""

    def __init__(self, address: str, patience_s: float) -> None:
        self._address = address
        self._patience_s = patience_s
        self._done = False
        self._log = structlog.get_logger("bedplate.cluster")

    def look(self, recorded: str, *, led: bool, waited_s: float) -> None:
        """`recorded`: for this member, "" if nothing is. `waited_s`: since it began."""
        if led:
            self._done = True
        if self._done or recorded in ("", self._address) or waited_s < self._patience_s:
            return
        self._done = True
        self._log.error(
            "address_differs",
            own=self._address,
            recorded=recorded,
            why="the other members call this one at the recorded address, and no leader has",
            advice="start it at the recorded address, or let that lead here until the record has "
            "changed (cluster.advertise names the new one); or replace it: cluster remove of the "
            "recorded address, cluster add of the own one, a new directory",
        )

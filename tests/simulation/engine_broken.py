"""Rules broken on purpose that only the engine can break, each by the smallest change around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bedplate.consensus.ready import HardState
from bedplate.consensus.replica import StoreState
from bedplate.native.simulation import SimulatedMachine
from tests.simulation.engine_machine import EngineMachine
from tests.simulation.engine_store import EngineStore, Shadow
from tests.simulation.machine import Recovered, Refused


class AckBeforeSync(EngineMachine):
    """The log is called durable before it was synced: a sync does nothing."""

    def start(self) -> Recovered:
        self.disk.lie_about_syncs(True)
        return super().start()


class DamagedVotesOn(EngineMachine):
    """A member whose log is damaged begins anew under its old id."""

    def start(self) -> Recovered:
        try:
            return super().start()
        except Refused as refused:
            if refused.passing:
                raise
        self.disk.close()
        self.disk = SimulatedMachine(self.random.getrandbits(32))
        self._clock = 0
        self._shadow = None
        return super().start()


class _LocalExpiry(EngineStore):
    def __init__(self, *rest: Any, **named: Any) -> None:
        super().__init__(*rest, **named)
        self.lead = self._lead

    def begin(self, table: Shadow) -> None:
        super().begin(table)
        self._native.lead(True, 0)

    def _lead(self, leading: bool, term: int) -> None:
        self._native.lead(leading, term)
        if not leading:
            self._native.lead(True, term)


class LeaseEndsByLocalClock(EngineMachine):
    """A follower, too, proposes the end of leases, which were kept alive at the leader."""

    store_type = _LocalExpiry


class AckBeforeWrite(EngineMachine):
    """What was handed to the log is called durable, and acknowledged, before it is written."""

    class store_type(EngineStore):
        def look(self) -> StoreState:
            state = super().look()
            newest = self.handed[-1][0] if self.handed else state.persisted
            return replace(state, persisted=newest)


class ForgetsVote(EngineMachine):
    """The vote is not written with the term."""

    class store_type(EngineStore):
        def persist(self, number: int, hard_state: HardState) -> None:
            super().persist(number, HardState(hard_state.term, 0, hard_state.commit))


class ReadsAtOnce(EngineMachine):
    """A read is answered without asking the leader."""

    class store_type(EngineStore):
        def __init__(self, *rest: Any, **named: Any) -> None:
            super().__init__(*rest, **named)
            self.gate = self._gate

        def _gate(self) -> int:
            gate = self._native.gate()
            if gate:
                self._native.release(gate, 0)
            return 0


# seed: one that catches it; says: part of what the run then says
BROKEN = (
    (AckBeforeSync, 0, "durable"),
    (AckBeforeWrite, 0, "on the disks of"),
    (DamagedVotesOn, 106, "is held here"),
    (ForgetsVote, 27, "voted twice"),
    (LeaseEndsByLocalClock, 5, "was kept alive"),
    (ReadsAtOnce, 0, "was seen before"),
)

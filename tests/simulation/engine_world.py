"""The same world on the engine that ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from bedplate.consensus.ready import Settings
from tests.simulation.engine_machine import WRITE_BYTES, EngineMachine
from tests.simulation.kinds import ENGINE_KINDS, Kind
from tests.simulation.leases import LeaseHolder
from tests.simulation.machine import Machine
from tests.simulation.world import RAFT, Parts, World


@dataclass(frozen=True, slots=True)
class EngineParts(Parts):
    """The real rules on the real engine, unless told otherwise."""

    machine_type: type[EngineMachine] = EngineMachine

    raft_settings: ClassVar[Settings] = replace(
        RAFT,
        window_bytes_max=10 * WRITE_BYTES,
        uncommitted_bytes_max=30 * WRITE_BYTES,
    )
    write_bytes: ClassVar[int] = WRITE_BYTES
    kinds: ClassVar[tuple[Kind, ...]] = ENGINE_KINDS
    repairs: ClassVar[bool] = True
    deletes: ClassVar[float] = 0.1
    replay: ClassVar[str] = " --engine"

    def holders(self, world: World) -> Sequence[LeaseHolder]:
        return (LeaseHolder(world),)

    def machine(self, world: World, number: int, founders: frozenset[int]) -> Machine:
        return self.machine_type(
            number,
            founders,
            seed=world.seed * 1000 + number,
            now=lambda: world.timeline.now,
            stalled_ms=world.stalled_ms_of(number),
            reserve="fill" in world.kind.weights,
        )

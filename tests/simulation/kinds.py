"""Kinds of trouble. Every kind crashes members, loses what disks had not written, and so makes new
leaders; beyond that each has its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.timeline import MS


@dataclass(frozen=True, slots=True)
class Kind:
    """How often what goes wrong: weights, and the mean time from one to the next."""

    name: str
    weights: dict[str, int]
    gap: int = 300 * MS
    disk_delay_max: int = 10 * MS
    turn_delay_max: int = 1 * MS
    shows: tuple[str, ...] = ()  # what runs of it must have met, beside what all must


KINDS = (
    Kind(
        "crashes",
        {"crash": 4, "crash_leader": 4, "crash_all": 2, "reset": 1, "transfer": 1,
         "uprising": 5, "figure_eight": 1},
        disk_delay_max=30 * MS,
    ),
    Kind(
        "partitions",
        {"isolate_leader": 3, "narrow": 2, "figure_eight": 2, "cut": 4, "one_way": 3,
         "crash_leader": 2, "crash": 1, "reset": 2, "uprising": 1},
    ),
    Kind(
        "weather",
        {"weather": 5, "reset": 3, "crash_leader": 2, "crash": 1, "transfer": 1, "cut": 1,
         "uprising": 1, "stray_snapshot": 4},
        turn_delay_max=5 * MS,
    ),
    Kind(
        "disks",
        {"stall": 4, "fail": 2, "slow": 3, "crash_leader": 2, "crash": 2, "isolate_leader": 1,
         "uprising": 2},
        disk_delay_max=20 * MS,
    ),
    Kind(
        "clocks",
        {"freeze": 5, "freeze_leader": 3, "clock": 3, "crash_leader": 2, "crash": 1, "cut": 1,
         "uprising": 1},
    ),
    Kind(
        "members",
        {"add": 5, "promote": 6, "remove": 4, "transfer": 2, "crash_leader": 2, "crash": 2,
         "cut": 1, "isolate_leader": 1, "uprising": 1},
        gap=200 * MS,
    ),
    Kind(
        "everything",
        {"crash": 2, "crash_leader": 2, "crash_all": 1, "isolate_leader": 2, "cut": 2,
         "one_way": 1, "weather": 2, "reset": 2, "stall": 1, "fail": 1, "slow": 1, "freeze": 2,
         "clock": 1, "transfer": 1, "add": 1, "promote": 2, "remove": 1,
         "uprising": 2},
        gap=250 * MS,
    ),
)  # fmt: skip

# What a model's disk has nothing to show for.
ENGINE_KINDS = (
    *KINDS,
    Kind(
        "damage",
        {"flip": 6, "misread": 3, "crash": 4, "crash_leader": 3, "crash_all": 1, "reset": 1,
         "uprising": 2},
        disk_delay_max=20 * MS,
        shows=("flips", "replaced"),
    ),
    Kind(
        "room",
        {"fill": 5, "fill_leader": 2, "crash": 3, "crash_leader": 3, "crash_all": 1, "stall": 1,
         "uprising": 2},
        disk_delay_max=20 * MS,
        shows=("filled",),
    ),
)  # fmt: skip

"""The seam between the simulation and what it runs: a computer with a store on its disk.

Everything that the world knows of a member's storage goes through `Machine`, so the same world runs
the model store (model_machine.py) and the real engine on simulated disks.

    start --> store, log, hard state         step_log     one round of the log's thread
    crash --> only what the disk kept        step_apply   one round of the applying thread
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import NamedTuple, Protocol

from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.membership import Membership
from bedplate.consensus.ready import HardState
from bedplate.consensus.replica import ReplicatedStore


class Refused(Exception):
    """A machine cannot start from what is on its disk; `passing`: now, for want of room."""

    def __init__(self, why: str, *, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


class Write(NamedTuple):
    """Put `value`, which nobody else writes, under `key`; 0: delete it. A retry has its client and
    number.
    """

    client: int
    number: int
    key: str
    value: int


class Read(NamedTuple):
    """Get `key`, linearizably."""

    key: str


class LeaseAct(Enum):
    """What can be done with a lease."""

    GRANT = auto()
    ATTACH = auto()
    KEEP_ALIVE = auto()


class LeaseCall(NamedTuple):
    """`key` is the one that is attached. Answered with version 0 where there is no such lease."""

    act: LeaseAct
    lease: int
    key: str


Operation = Write | Read | LeaseCall


class Answer(NamedTuple):
    """What a write or a read returned. `version` counts the writes to its key since it was there,
    `revision` all. Of a delete, `version` says how many keys were deleted.
    """

    value: int
    version: int
    revision: int


class Failure(NamedTuple):
    """No answer. `unknown`: a write may have been done, or be done later."""

    unknown: bool


Outcome = Answer | Failure


class Completion(NamedTuple):
    """An operation submitted here under `cookie` is over."""

    cookie: int
    outcome: Outcome


class BatchCompletion(NamedTuple):
    """A batch taken from another member under `cookie` is over: its outcomes, in order. None: it
    was not taken after all, and nothing of it was done.
    """

    cookie: int
    outcomes: bytes | None


@dataclass(frozen=True, slots=True)
class Appended:
    """An entry that went to the end of the log, and its predecessor's term."""

    index: int
    term: int
    previous_term: int
    content: object


@dataclass(frozen=True, slots=True)
class Applied:
    """An entry that was applied, and a digest of everything applied so far; None: nobody looked."""

    index: int
    term: int
    digest: int | None


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a start found on the disk."""

    log: EntryLog
    hard_state: HardState


class Snapshot(Protocol):
    """A state, to be installed at another machine."""

    @property
    def index(self) -> int: ...

    @property
    def term(self) -> int: ...

    @property
    def membership(self) -> Membership: ...

    def close(self) -> None:
        """Nobody will install it any more."""


class Machine(Protocol):
    """One computer. All but `start`, `kept`, `holds` and `close` only while it is up."""

    lost_sectors: int  # by crashes: parts of files that were written, and not synced
    installs_by_restart: bool  # an installed snapshot is there after the next start

    @property
    def store(self) -> ReplicatedStore: ...

    def start(self) -> Recovered:
        """Open the store from what is on the disk. Raises Refused."""

    def crash(self, random: Random) -> int:
        """Stop at once. Of what was not durable yet, the disk keeps as much as it likes. How many
        writes were lost.
        """

    # -- threads, a round at a time

    def has_log_work(self) -> bool: ...

    def step_log(self, random: Random) -> None:
        """Some of what waits becomes durable."""

    def fail_log(self, random: Random) -> None:
        """The write under way fails; from now on the log takes nothing."""

    def has_apply_work(self) -> bool: ...

    def step_apply(self) -> None: ...

    # -- clients

    def submit(self, cookie: int, operation: Operation) -> None: ...

    def take_batch(self, cookie: int, requests: bytes) -> None:
        """A leader gets a batch that another member forwarded."""

    def answer_batch(self, batch: int, outcomes: bytes) -> None:
        """Back at that member: what became of its batch."""

    def completions(self) -> list[Completion | BatchCompletion]:
        """Since the last call."""

    # -- snapshots

    def snapshot(self) -> Snapshot | None:
        """Of what is applied now; None: not now."""

    def install(self, snapshot: Snapshot, hard_state: HardState) -> bool:
        """Replace the log and the state, durably, or do nothing and return False: not now. The
        machine is down then if it `installs_by_restart`.
        """

    def repair(self, others: Sequence[Machine]) -> int:
        """Fetch from others what was found damaged; how many values were repaired."""

    def flip(self, random: Random) -> bool:
        """Damage a bit of the disk; whether there was one."""

    def misread(self, random: Random) -> None:
        """Some of the next reads of the log fail."""

    def fill_disk(self, random: Random) -> None:
        """Leave no more than a little room."""

    def empty_disk(self) -> None:
        """There is room again."""

    def close(self) -> None:
        """Nobody will start it again."""

    # -- what the checks look at

    def appended(self) -> list[Appended]:
        """Since the last call."""

    def applied(self) -> list[Applied]:
        """Since the last call."""

    def last(self) -> tuple[int, int]:
        """Index and term of the log's last entry."""

    def kept(self) -> tuple[int, int]:
        """The same of the log that the disk would still have after a crash now."""

    def holds(self, index: int, term: int) -> bool:
        """Whether the disk would still have this entry, or its effect, after a crash now."""

    def state(self) -> object:
        """Everything applied, comparable between machines that applied the same."""

"""Rules broken on purpose, one small method each: what the simulation must notice.

`seed` is one that catches it, and `says` part of what the run then says.
test_broken_rules.py runs each, and the same seed unbroken. After a change to the simulation:

    python -m tests.simulation.broken          # finds the seeds anew
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import chain
from typing import Any

from bedplate.consensus.change_rules import ChangeRules
from bedplate.consensus.election import Election
from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.follower import Follower
from bedplate.consensus.heartbeats import Heartbeats
from bedplate.consensus.leadership import Leadership
from bedplate.consensus.membership import Membership
from bedplate.consensus.messages import (
    Append,
    AppendReply,
    Entries,
    Message,
    PreVote,
    Vote,
    VoteReply,
)
from bedplate.consensus.progress import Progress
from bedplate.consensus.promises import Promises
from bedplate.consensus.raft import Raft
from bedplate.consensus.ready import HardState, Role
from bedplate.consensus.roster import Roster
from tests.simulation.history import Violation
from tests.simulation.machine import Failure, Outcome, Write
from tests.simulation.model_store import Disk, ModelStore, State
from tests.simulation.world import Parts, World

# mypy: disable-error-code="method-assign"

SEEDS_MAX = 10_000
SAMPLE = 35


class _Raft(Raft):
    """One of whose parts breaks a rule."""

    part: type  # takes the place of its base, wherever that is one of Raft's parts or of theirs

    def __init__(self, member: int, **rest: Any) -> None:
        super().__init__(member, **rest)
        self._break(self)
        self._break(self._draft)

    def _lead(self) -> None:
        super()._lead()
        self._break(self)
        self._break(self._leadership)

    def _break(self, whole: object) -> None:
        for part in vars(whole).values():
            if type(part) is self.part.__base__:
                part.__class__ = self.part


class _State(ModelStore):
    state_type: type[State]

    def __init__(self, disk: Disk, *rest: Any) -> None:
        super().__init__(disk, *rest)
        state = self.applied_state
        head = (state.index, state.term, state.membership, state.revision, state.digest)
        self.applied_state = self.state_type(*head, state.values, state.requests)


# ---- elections -------------------------------------------------------------------------------


class VoteBeforeDurable(Promises):
    """A vote leaves before it is on the disk."""

    __slots__ = ()

    def _needs(self, message: Message) -> int:
        return 0 if isinstance(message, VoteReply) else super()._needs(message)


class StandBeforeDurable(Promises):
    """A candidate asks for votes, and counts its own, before its own is on the disk."""

    __slots__ = ()

    def _needs(self, message: Message) -> int:
        own = message.source == message.target
        early = isinstance(message, Vote) or (isinstance(message, VoteReply) and own)
        return 0 if early else super()._needs(message)


class TwoVotes(Election):
    """Whoever asks gets a vote."""

    def on_vote(self, message: Vote) -> None:
        self.vote = self.leader = 0
        super().on_vote(message)


class AnyLogWins(EntryLog):
    """A vote does not ask whose log is newer."""

    def yields_to(self, index: int, term: int) -> bool:
        return True


class LeadsOn(Election):
    """A leader that hears of a higher term takes it, and goes on."""

    def meet_higher_term(self, message: Message) -> bool:
        if self.role is Role.LEADER and not isinstance(message, PreVote):
            self._set_term(message.term, vote=0)
            return False
        return super().meet_higher_term(message)


class PreVoteTakesTerm(Election):
    """A pre-vote is answered as if it were a vote: by taking the term."""

    def _grant_pre_vote(self, message: PreVote) -> bool:
        self._set_term(message.term, vote=0)
        return super()._grant_pre_vote(message)


class NoPreVote(Election):
    """A timeout takes the next term at once."""

    def _stand(self, role: Role, *, transfer: bool = False) -> None:
        super()._stand(Role.CANDIDATE, transfer=transfer)


# ---- the log -----------------------------------------------------------------------------------


class CountsOldTerms(Leadership):
    """An entry of an earlier term is committed because a majority holds it."""

    def _may_count(self, index: int) -> bool:
        return True


class AckBeforeDurable(Promises):
    """A follower says that it holds what its disk does not."""

    __slots__ = ()

    def _needs(self, message: Message) -> int:
        other = message.source != message.target
        early = isinstance(message, AppendReply) and other
        return self._hard_number if early else super()._needs(message)


class OwnMatchBeforeDurable(Promises):
    """A leader counts itself for what its disk does not hold."""

    __slots__ = ()

    def _needs(self, message: Message) -> int:
        own = message.source == message.target
        early = isinstance(message, AppendReply) and own
        return self._hard_number if early else super()._needs(message)


class KeepsConflicts(EntryLog):
    """A follower keeps its own entries where the leader has others."""

    def conflict(self, entries: Entries) -> int:
        return max(super().conflict(entries), min(self.last, entries.last) + 1)


class LateAppendCuts(EntryLog):
    """A follower drops whatever comes after an append, though nothing contradicts it."""

    def conflict(self, entries: Entries) -> int:
        conflict = super().conflict(entries)
        mine = self.first <= entries.last < self.last
        return max(entries.first, self.first) if mine else conflict


class CommitsUnseen(Follower):
    """A follower commits beyond what the leader's message showed to be the same."""

    def on_append(self, message: Append) -> None:
        super().on_append(message)
        self._log.commit = max(self._log.commit, min(message.commit, self._log.last))


class HeartbeatTellsAll(Heartbeats):
    """A heartbeat tells a commit index beyond what its target is known to hold."""

    def send(self, member: int, progress: Progress) -> None:
        match, progress.match = progress.match, self._log.commit
        super().send(member, progress)
        progress.match = match


class NeverSentAgain(Roster):
    """An append that was lost stays lost."""

    def tick(self) -> None:
        super().tick()
        for progress in self.progress.values():
            progress.unanswered = -1_000_000


class SnapshotOverAll(Raft):
    """A snapshot replaces the log even where the log has what the snapshot has, and more."""

    def wants_snapshot(self, index: int, term: int) -> bool:
        return index > self.commit and not self.failed


# ---- members -----------------------------------------------------------------------------------


class ChangesAtCommit(EntryLog):
    """A membership counts once it is committed, not once it is in the log."""

    @property
    def membership(self) -> Membership:
        return self.committed_membership


class ChangesAtOnce(ChangeRules):
    """A change begins before the last one is committed, or by a leader that committed nothing."""

    def _check_may_change(self) -> None:
        pass


class OnlyVotersStand(Election):
    """A member that removed itself never stands, though nobody else may be able to win."""

    @property
    def _may_stand(self) -> bool:
        return self.role is not Role.LEADER and self._member in self._log.membership.voters


# ---- reads -------------------------------------------------------------------------------------


class ReadsAlone(Heartbeats):
    """A leader answers a read without asking whether it still leads."""

    def begin_read(self, source: int, context: int) -> None:
        super().begin_read(source, context)
        self._reads.round += 1
        for progress in self._roster.progress.values():
            progress.round = self._reads.round
        self._confirm_reads()


class ReadsEarly(Heartbeats):
    """A new leader answers a read before it knows what is committed."""

    def begin_read(self, source: int, context: int) -> None:
        self._reads.begin(self._log.commit, source, context)


# ---- the store ---------------------------------------------------------------------------------


class AppliesUncommitted(ModelStore):
    """What is durable is applied."""

    @property
    def may_apply(self) -> int:
        return self.durable


class AppliesUndurable(ModelStore):
    """What is committed is applied, durable here or not."""

    @property
    def may_apply(self) -> int:
        return min(self.committed, self.last)


class RetriesTwice(_State):
    """A retried request is done again."""

    class state_type(State):
        def write(self, write: Write) -> Outcome:
            self.requests.pop(write.client, None)
            return super().write(write)

        def copy(self) -> State:
            return type(self)(*_head(self), dict(self.values), dict(self.requests))


class SaysNotDone(ModelStore):
    """A leader that lost its office says that nothing was done, which it cannot know."""

    def _finish(self, group: Any, outcomes: list[Outcome]) -> None:
        super()._finish(group, [Failure(False) if _lost(o) else o for o in outcomes])


class ForgetsVote(ModelStore):
    """The vote is not written with the term."""

    def persist(self, number: int, hard_state: HardState) -> None:
        super().persist(number, HardState(hard_state.term, 0, hard_state.commit))


class StaleFrames(ModelStore):
    """What lies behind a torn frame comes back once something else has filled the gap before it."""

    def __init__(self, disk: Disk, *rest: Any) -> None:
        for batch in chain.from_iterable(disk.torn[:-1]):
            if batch.entries and batch.first == disk.last()[0] + 1:
                disk.write(batch._replace(hard_state=_newer(batch.hard_state, disk.hard_state)))
        super().__init__(disk, *rest)


def _newer(one: HardState, other: HardState) -> HardState:
    return one if one.term > other.term else other


def _lost(outcome: Outcome) -> bool:
    return isinstance(outcome, Failure) and outcome.unknown


def _head(state: State) -> tuple[int, int, Membership, int, int]:
    return state.index, state.term, state.membership, state.revision, state.digest


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that is broken, and what tells."""

    rule: type  # of ModelStore, EntryLog or Raft, or of a part of Raft
    seed: int
    says: str

    @property
    def parts(self) -> Parts:
        if issubclass(self.rule, ModelStore):
            return Parts(store_type=self.rule)
        if issubclass(self.rule, EntryLog):
            return Parts(log_type=self.rule)
        if issubclass(self.rule, Raft):
            return Parts(raft_type=self.rule)
        return Parts(raft_type=type("BrokenRaft", (_Raft,), {"part": self.rule}))


BROKEN = (
    Broken(VoteBeforeDurable, 14, "voted twice"),
    Broken(StandBeforeDurable, 14, "voted twice"),
    Broken(TwoVotes, 3, "voted twice"),
    Broken(AnyLogWins, 1, "leads without"),
    Broken(LeadsOn, 3, "both lead"),
    Broken(PreVoteTakesTerm, 0, "nobody stood"),
    Broken(NoPreVote, 0, "agreed"),
    Broken(CountsOldTerms, 127, "may be elected without it"),
    Broken(AckBeforeDurable, 0, "on the disks of"),
    Broken(OwnMatchBeforeDurable, 0, "on the disks of"),
    Broken(KeepsConflicts, 7, "on the disks of"),
    Broken(LateAppendCuts, 15, "Raft thinks"),
    Broken(CommitsUnseen, 14, "committed with terms"),
    Broken(HeartbeatTellsAll, 0, "was told"),
    Broken(NeverSentAgain, 2, "no progress"),
    Broken(SnapshotOverAll, 9515, "on the disks of"),
    Broken(ChangesAtCommit, 12, "on the disks of"),
    Broken(ChangesAtOnce, 971, "leads without"),
    Broken(OnlyVotersStand, 453, "no progress"),
    Broken(ReadsAlone, 85, "was seen before"),
    Broken(ReadsEarly, 0, "was seen before"),
    Broken(AppliesUncommitted, 0, "not committed"),
    Broken(AppliesUndurable, 0, "not durable there"),
    Broken(RetriesTwice, 0, "not linearizable"),
    Broken(SaysNotDone, 3, "not linearizable"),
    Broken(StaleFrames, 139, "AssertionError"),
    Broken(ForgetsVote, 104, "voted twice"),
)


def catch(broken: Broken, seed: int) -> str | None:
    """What a run of this seed with the broken rule says; None: nothing."""
    try:
        World(seed, parts=broken.parts).run()
    except (Violation, AssertionError) as violation:
        return f"{type(violation).__name__}: {violation}"
    return None


def main(names: list[str]) -> None:
    """The first seed that catches each, and how many of the first few do."""
    for broken in BROKEN:
        if names and broken.rule.__name__ not in names:
            continue
        first, said, caught = None, "", 0
        for seed in range(SEEDS_MAX):
            if first is not None and seed >= SAMPLE:
                break
            what = catch(broken, seed)
            if what is not None:
                caught += 1
                if first is None:
                    first, said = seed, what
        line = said.partition("\n")[0]
        print(f"{broken.rule.__name__:20} {first!s:>5} {caught:>4}  {line}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

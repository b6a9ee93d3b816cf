"""A leader's work in its term: what it keeps for as long as it leads, and loses with its office
(paper, Figure 2, "Volatile state on leaders").

    propose -->  log  --[ Replication ]-- Append ------> others
                  |                       AppendReply <--
                  |  a majority holds it                           [ Roster ]  a Progress each
                  v
                commit --[ Heartbeats ]-- Heartbeat ---> others
    read -------- at -----+               HeartbeatReply <-- a majority: still the leader

    change --> [ ChangeRules ] --> an entry        transfer --> [ Transfer ] --> TimeoutNow
"""

from collections import deque
from collections.abc import Callable

from bedplate.consensus.change_rules import ChangeRules
from bedplate.consensus.heartbeats import Heartbeats
from bedplate.consensus.membership import Change, Membership
from bedplate.consensus.messages import AppendReply, Entries
from bedplate.consensus.office import Office
from bedplate.consensus.progress import Progress
from bedplate.consensus.ready import NoOp, NotLeading, Reach
from bedplate.consensus.replication import Replication
from bedplate.consensus.transfer import Transfer


class Backlog:
    """What a leader appended and did not commit: one proposal after the other."""

    def __init__(self) -> None:
        self.bytes = 0
        self._proposals: deque[tuple[int, int]] = deque()  # (last index, bytes)

    def __len__(self) -> int:
        return len(self._proposals)

    def add(self, last: int, size: int) -> None:
        self._proposals.append((last, size))
        self.bytes += size

    def committed(self, index: int) -> None:
        while self._proposals and self._proposals[0][0] <= index:
            self.bytes -= self._proposals.popleft()[1]


class Leadership:
    """One member's, in one term."""

    def __init__(self, office: Office, *, reach: Reach, resign: Callable[[], None]) -> None:
        """`resign` ends it."""
        self.transfer = Transfer(office)
        self.replication = Replication(office, reach)
        self.heartbeats = Heartbeats(office)
        self._changes = ChangeRules(office)
        self._backlog = Backlog()
        self._office = office
        self._log = office.log
        self._roster = office.roster
        self._draft = office.draft
        self._resign = resign
        self._elapsed = 0  # since the quorum was checked

    def begin(self) -> None:
        """Entries of earlier terms are committed by the first of this one (paper, 5.4.2)."""
        self._append(self._next_entry(), 0)
        self._draft.entries.append(NoOp(self._office.term))

    @property
    def progress(self) -> dict[int, Progress]:
        return self._roster.progress

    @property
    def room(self) -> int:
        """See Raft.room."""
        if self.transfer.target or self._draft.entries:
            return 0
        return max(0, self._office.settings.uncommitted_bytes_max - self._backlog.bytes)

    @property
    def rounds(self) -> int:
        """How many proposals are not committed."""
        return len(self._backlog)

    # ---- what happens --------------------------------------------------------------------------

    def tick(self) -> None:
        self._elapsed += 1
        self.heartbeats.tick()
        self._roster.tick()
        self.transfer.tick()
        if self._elapsed >= self._office.settings.election_ticks:
            self._elapsed = 0
            if not self._roster.check_quorum():
                self._resign()  # makes way for one that hears more (thesis, 6.2)

    def propose(self, last: int, size: int) -> None:
        """See Raft.propose."""
        first, term = self._log.last + 1, self._office.term
        assert not self._draft.entries
        assert last >= first
        if self.transfer.target:
            raise NotLeading
        self._append(Entries(first, last, ((first, term),)), size)

    def propose_change(self, change: Change, size: int) -> Membership:
        """See Raft.propose_change."""
        if self.transfer.target:
            raise NotLeading
        membership = self._changes.after(change)
        assert not self._draft.entries
        self._append(self._next_entry(membership), size)
        self._roster.sync()
        return membership

    def on_append_reply(self, message: AppendReply) -> None:
        """Raises Contradiction."""
        if self.replication.on_reply(message):
            if self._advance_commit() and self._removed:
                self.hand_over()  # led until its own removal was decided (thesis, 4.2.2)
            else:
                self.transfer.go_on()

    def hand_over(self) -> None:
        """Lead no longer, and let the member that is furthest stand at once (thesis, 3.10)."""
        for member, progress in self._roster.others:
            self.heartbeats.send(member, progress)  # tells what is committed
        self.transfer.to_the_furthest()
        self._resign()

    def send(self) -> None:
        """Once a Ready, so that a member gets one message for everything that has happened."""
        self.heartbeats.begin_round()
        if self._draft.entries:
            return  # with the next one: what is not in the log cannot be sent
        commit = self._log.commit
        for member, progress in self._roster.others:
            self.replication.send(member, progress)
            if min(commit, progress.match) > progress.commit:
                self.heartbeats.send(member, progress)

    # ---- entries -------------------------------------------------------------------------------

    def _next_entry(self, change: Membership | None = None) -> Entries:
        index = self._log.last + 1
        changes = () if change is None else ((index, change),)
        return Entries(index, index, ((index, self._office.term),), changes)

    def _append(self, entries: Entries, size: int) -> None:
        me, term = self._office.member, self._office.term
        self._log.append(entries)
        self._draft.promises.log_changed()
        self._backlog.add(entries.last, size)
        self._draft.send(AppendReply(me, me, term, True, entries.last))

    def _advance_commit(self) -> bool:
        """What a majority holds is committed, if it is of this term (paper, 5.4.2, Figure 8).
        Whether anything was.
        """
        agreed = self._roster.agreed()
        if agreed <= self._log.commit or not self._may_count(agreed):
            return False
        self._log.commit = agreed
        self._backlog.committed(agreed)
        self.heartbeats.begin_early_reads()
        return True

    def _may_count(self, index: int) -> bool:
        """An entry of an earlier term may still be superseded, whoever holds it."""
        return self._log.term(index) == self._office.term

    @property
    def _removed(self) -> bool:
        decided = self._log.change_index <= self._log.commit
        return decided and self._office.member not in self._log.membership.voters

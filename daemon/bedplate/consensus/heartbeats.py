"""Heartbeats: a leader's sign of life, its commit index, and the rounds that confirm reads.

read at 2 --ReadIndex--> leader: index = commit      (thesis, 6.4, batched; see reads.py)
own read --------------> leader: index = commit
                            | Heartbeat, round 7      one round for all that came before it
                            v
                         majority: HeartbeatReply, round 7
                            |
index <-ReadIndexReply-- leader: still was one, after all of these reads had begun
"""

from bedplate.consensus.messages import Heartbeat, HeartbeatReply, ReadIndexReply
from bedplate.consensus.office import Office
from bedplate.consensus.progress import Progress
from bedplate.consensus.reads import Reads


class Heartbeats:
    """Of one leader in one term, with the reads that wait for them."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._log = office.log
        self._roster = office.roster
        self._draft = office.draft
        self._reads = Reads()
        self._elapsed = 0

    def tick(self) -> None:
        self._elapsed += 1
        if self._elapsed >= self._office.settings.heartbeat_ticks:
            self._elapsed = 0
            self._broadcast()

    def send(self, member: int, progress: Progress) -> None:
        progress.commit = min(self._log.commit, progress.match)  # what it holds is all it may know
        me, term = self._office.member, self._office.term
        self._draft.send(Heartbeat(me, member, term, progress.commit, self._reads.round))

    def on_reply(self, message: HeartbeatReply) -> None:
        progress = self._roster.progress.get(message.source)
        if progress is None:
            return
        progress.heard()
        if progress.unanswered >= self._office.settings.resend_ticks:
            progress.lost()
        if message.round > progress.round:
            progress.round = message.round
            self._confirm_reads()

    # ---- reads ---------------------------------------------------------------------------------

    def begin_read(self, source: int, context: int) -> None:
        if self._office.committed_own_term:
            self._reads.begin(self._log.commit, source, context)
        else:  # what is committed is not known before the term's first entry is
            self._reads.early.append((source, context))

    def begin_early_reads(self) -> None:
        """Something was committed."""
        if self._reads.early and self._office.committed_own_term:
            early, self._reads.early = self._reads.early, []
            for source, context in early:
                self.begin_read(source, context)

    def begin_round(self) -> None:
        """If there are reads that wait for one."""
        if self._reads.wants_round:
            self._reads.round += 1
            self._broadcast()

    def refuse_reads(self) -> None:
        """They are not this leader's to answer any more: its own are to be asked anew."""
        for context in self._reads.asked_by(self._office.member):
            self._draft.answer(context, None)

    def _broadcast(self) -> None:
        for member, progress in self._roster.others:
            self.send(member, progress)
        self._confirm_reads()

    def _confirm_reads(self) -> None:
        if not self._reads.pending:
            return
        me, term, round_ = self._office.member, self._office.term, self._reads.round
        echoed = self._roster.echoed(round_)
        for read in self._reads.confirmed(echoed, self._log.membership):
            if read.source == me:
                self._draft.answer(read.context, read.index)
            else:
                reply = ReadIndexReply(me, read.source, term, read.context, read.index)
                self._draft.send(reply)

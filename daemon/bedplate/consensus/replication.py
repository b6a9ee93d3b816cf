"""How a leader brings its log to the others (paper, 5.3), at the pace of each (see progress.py).

                    next
                      v
match | .. on the way | not sent | last           Append: after next - 1, the entries from next
      |               |
      +-- a window ---+                           AppendReply: I hold through match, or
                                                  I do not hold next - 1; try there
"""

from bedplate.consensus.messages import Append, AppendReply
from bedplate.consensus.office import Office
from bedplate.consensus.progress import Pace, Progress
from bedplate.consensus.ready import Lost, Reach


class Replication:
    """The entries' way from one leader to the other members."""

    def __init__(self, office: Office, reach: Reach) -> None:
        self._member = office.member
        self._term = office.term
        self._settings = office.settings
        self._log = office.log
        self._progress = office.roster.progress
        self._draft = office.draft
        self._reach = reach

    def send(self, member: int, progress: Progress) -> None:
        """As much as its pace allows."""
        log, commit = self._log, self._log.commit
        probing = progress.pace is Pace.PROBE  # asks even where there is nothing to send
        while (progress.next <= log.last or probing) and not progress.paused:
            previous_term = log.term(progress.next - 1)
            if previous_term is None:
                if progress.active:
                    self._install(member, progress)
                return
            first, last, size = progress.next, progress.next - 1, 0
            if first <= log.last:
                last, size = self._reach(first, log.last, self._settings.message_bytes_max)
            entries = log.between(first, last)
            before = (first - 1, previous_term)
            self._draft.send(Append(self._member, member, self._term, *before, entries, commit))
            progress.sent(last, size)
            progress.commit = max(progress.commit, min(commit, last))

    def on_reply(self, message: AppendReply) -> bool:
        """Whether it says that more is held than was known. Raises Lost: what is held has been
        committed, and this leader was elected without it.
        """
        progress = self._progress.get(message.source)
        if progress is None:
            return False
        progress.heard()
        progress.unanswered = 0
        if not message.accepted:
            fitting = self._log.fitting(message.hint, message.hint_term)
            if progress.refused(message.previous, fitting) and progress.pace is Pace.REPLICATE:
                progress.probe()
            return False
        match, last = message.match, self._log.last
        if match > last:
            raise Lost(f"{message.source:016x} holds {match}, the leader {last}")
        news = progress.accepted(match)
        if progress.pace is Pace.PROBE:
            progress.replicate()
        elif progress.pace is Pace.SNAPSHOT and match >= progress.snapshot:
            progress.probe()
        return news

    def unreachable(self, member: int) -> None:
        """What was sent to `member` since its last answer may be lost."""
        progress = self._progress.get(member)
        if progress is not None:
            progress.disconnected(self._settings.resend_ticks)

    def unreadable(self, member: int) -> None:
        """Entries that `member` needs cannot be read any more: it needs a snapshot."""
        progress = self._progress.get(member)
        if progress is not None and progress.pace is not Pace.SNAPSHOT:
            self._install(member, progress)

    def snapshot_sent(self, member: int, *, installed: bool) -> None:
        """The snapshot that was asked for is installed, or failed and is to be tried anew."""
        progress = self._progress.get(member)
        if progress is None or progress.pace is not Pace.SNAPSHOT:
            return
        if not installed:
            progress.snapshot = 0
        progress.probe()
        progress.waiting = not installed  # else it would fail again at once

    def _install(self, member: int, progress: Progress) -> None:
        """It lacks entries that are gone from the log (paper, 7)."""
        progress.install(self._log.compacted)
        self._draft.snapshots.append(member)

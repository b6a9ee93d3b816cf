"""What a follower does with its leader's log (paper, 5.3).

leader's      .. 4@2 | 5@3 6@3 7@3      Append: after 4@2, entries 5..7
follower's    .. 4@2 | 5@2 6@2          4 is the same, so all before it is; 5 is not, so it
                     ^                  and what follows goes, and the leader's comes instead
                 previous
"""

from bedplate.consensus.draft import Draft
from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.messages import Append, AppendReply, Heartbeat, HeartbeatReply
from bedplate.consensus.ready import Differs, Lost


class Follower:
    """What it is given are messages of the leader of this member's term. Raises Lost, Differs."""

    def __init__(self, log: EntryLog, draft: Draft) -> None:
        self._log = log
        self._draft = draft

    def on_append(self, message: Append) -> None:
        log, entries, before = self._log, message.entries, message.previous_index
        me, leader, term = message.target, message.source, message.term
        if not self._fits(message):
            hint = log.fitting(before, message.previous_term)
            hint_term = log.term(hint) or 0
            self._draft.send(AppendReply(me, leader, term, False, 0, before, hint, hint_term))
            return
        conflict = log.conflict(entries)
        if conflict <= entries.last:
            self._take(message, conflict)
        # Beyond this message's entries nothing is known to be as the leader has it.
        log.commit = max(log.commit, min(message.commit, entries.last))
        self._draft.send(AppendReply(me, leader, term, True, max(entries.last, log.commit)))

    def on_heartbeat(self, message: Heartbeat) -> None:
        log = self._log
        if message.commit > log.last:
            what = f"{message.source:016x} was told that {message.commit} is held here"
            raise Lost(f"{what}; the log ends at {log.last}")
        log.commit = max(log.commit, message.commit)
        me, leader, term = message.target, message.source, message.term
        self._draft.send(HeartbeatReply(me, leader, term, message.round))

    def _fits(self, message: Append) -> bool:
        """Log matching: what is here up to `previous_index` is what the leader has."""
        before = message.previous_index
        return before <= self._log.commit or self._log.holds(before, message.previous_term)

    def _take(self, message: Append, conflict: int) -> None:
        log, promises = self._log, self._draft.promises
        if conflict <= log.commit:
            raise Differs(f"{message.source:016x} contradicts committed entry {conflict}")
        if conflict <= log.last:
            log.truncate(conflict - 1)
            promises.superseded(conflict)
        log.append(message.entries.since(conflict))
        promises.log_changed()
        self._draft.entries.append(message)

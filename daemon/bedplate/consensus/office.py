"""One term that one member leads: what the parts of its leadership share."""

from dataclasses import dataclass

from bedplate.consensus.draft import Draft
from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.ready import Settings
from bedplate.consensus.roster import Roster


@dataclass(frozen=True, slots=True)
class Office:
    """Who leads, when, over which log and members. Made when an election is won."""

    member: int
    term: int
    settings: Settings
    log: EntryLog
    roster: Roster
    draft: Draft

    @property
    def committed_own_term(self) -> bool:
        """Whether an entry of this term is: then everything committed is known (paper, 8)."""
        return self.log.term(self.log.commit) == self.term

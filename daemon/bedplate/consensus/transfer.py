"""Leadership handed to another voter (thesis, 3.10).

begin(3) --> nothing is proposed --> 3 holds the whole log --> TimeoutNow --> 3 stands at once
                                 --> an election's time is over: given up
"""

from bedplate.consensus.membership import ChangeRefused
from bedplate.consensus.messages import TimeoutNow
from bedplate.consensus.office import Office


class Transfer:
    """From one leader to whom it, or somebody who asked for it, chose."""

    def __init__(self, office: Office) -> None:
        self.target = 0  # nobody
        self._office = office
        self._elapsed = 0

    def begin(self, target: int) -> None:
        """Raises ChangeRefused."""
        if target not in self._office.log.membership.voters:
            raise ChangeRefused(f"{target:016x} is not a voter")
        if target != self._office.member:
            self.target = target
            self._elapsed = 0
            self.go_on()

    def go_on(self) -> None:
        """The target may hold the whole log now."""
        if self.target:
            progress = self._office.roster.progress.get(self.target)
            if progress is not None and progress.match == self._office.log.last:
                self._call(self.target)

    def tick(self) -> None:
        self._elapsed += 1
        if self._elapsed >= self._office.settings.election_ticks:
            self.target = 0  # it did not come to it

    def to_the_furthest(self) -> None:
        """At once, whatever is lost by it: this member leads no more."""
        voters = self._office.log.membership.voters
        heirs = [
            (progress.match, member)
            for member, progress in self._office.roster.others
            if member in voters and progress.active
        ]
        if heirs:
            self._call(max(heirs)[1])

    def _call(self, member: int) -> None:
        self._office.draft.send(TimeoutNow(self._office.member, member, self._office.term))

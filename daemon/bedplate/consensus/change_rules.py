"""When a leader begins a change of the membership (thesis, 4.1 and 4.2).

is the last one committed, and an entry of the own term?     else two leaders could each change
            |                                                the membership that they know
PROMOTE: has the learner caught up?                          else nothing is committed meanwhile
            |
does a majority of the voters that are left work?            else nobody would lead them
            |
            v  the new membership; it counts as soon as it is in the log
"""

from bedplate.consensus.membership import Change, ChangeKind, ChangeRefused, Membership
from bedplate.consensus.office import Office
from bedplate.consensus.progress import Pace


class ChangeRules:
    """Of one leader in one term."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def after(self, change: Change) -> Membership:
        """The membership that `change` leads to. Raises ChangeRefused."""
        self._check_may_change()
        if change.kind is ChangeKind.PROMOTE:
            self._check_caught_up(change.member)
        membership = self._office.log.membership.after(change)
        self._check_can_decide(membership)
        return membership

    def _check_may_change(self) -> None:
        """One at a time, and only when an entry of the own term is committed (the bug in the
        thesis's 4.1, found by Ongaro in 2015).
        """
        log = self._office.log
        if log.change_index > log.commit:
            raise ChangeRefused("another change is not committed yet")
        if not self._office.committed_own_term:
            raise ChangeRefused("the leader is new; try again")

    def _check_caught_up(self, member: int) -> None:
        """A learner votes when it could take part at once (thesis, 4.2.1): everything committed is
        on its way to it, which is at most a window, and it answers.
        """
        progress, commit = self._office.roster.progress.get(member), self._office.log.commit
        if progress is None:
            return  # Membership.after says what is wrong
        answers = progress.unanswered < self._office.settings.resend_ticks
        if progress.pace is not Pace.REPLICATE or progress.next <= commit or not answers:
            behind = commit - progress.match
            raise ChangeRefused(f"the learner is {behind} entries behind; wait until it caught up")

    def _check_can_decide(self, after: Membership) -> None:
        """Voters that are not heard of decide nothing: a membership that needs them would have no
        leader, and no change could ever mend that.
        """
        if after.voters == self._office.log.membership.voters:
            return
        me, roster = self._office.member, self._office.roster
        others = after.voters - {me}
        heard = {me, *(member for member in others if roster.heard_lately(member))}
        if not after.is_majority(heard):
            silent = ", ".join(f"{member:016x}" for member in sorted(others - heard))
            raise ChangeRefused(
                f"{len(after.voters)} voters would be left, of which {after.majority} must work, "
                f"and nothing is heard of {silent}: start it again, or remove it first"
            )

"""Terms, votes and roles: who leads, as far as this member knows (paper, 5.1 and 5.2; thesis, 9.6).

                       timeout                 majority would vote
        +----------+ ---------> +---------------+ ---------> +-----------+
    --> | FOLLOWER |            | PRE_CANDIDATE |            | CANDIDATE |
        +----------+ <--------- +---------------+            +-----------+
             ^         a leader, or a higher term                 | majority voted
             |                                                    v
             +---------------------------------------------- +--------+
               a higher term, or no majority heard of        | LEADER |
                                                             +--------+

What a leader does in its term is not seen here, but for two moments: `won` begins it, and `left`
ends whatever was expected of the leader known until now, be it this member or another.
"""

from collections.abc import Callable

from bedplate.consensus.draft import Draft
from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
)
from bedplate.consensus.ready import Contradiction, HardState, Role, Settings


class Election:
    """One member's term, vote and role, and its patience with the leader."""

    def __init__(
        self,
        member: int,
        *,
        settings: Settings,
        log: EntryLog,
        hard_state: HardState,
        draft: Draft,
        random: Callable[[int], int],
        won: Callable[[], None],
        left: Callable[[], None],
    ) -> None:
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader = 0
        self._member = member
        self._settings = settings
        self._log = log
        self._draft = draft
        self._random = random
        self._won = won
        self._left = left
        self._votes: dict[int, bool] = {}
        self._elapsed = 0  # since the leader, or a granted vote, was last heard of
        self._leader_lost = False
        self._draw_timeout()

    # ---- what happens --------------------------------------------------------------------------

    def tick(self) -> None:
        """One unit of time has passed, in which this member did not lead."""
        self._elapsed += 1
        if self._elapsed >= self._timeout:
            self.campaign()

    def campaign(self) -> None:
        """Stand for election now, if this member may."""
        if self._may_stand:
            self._stand(Role.PRE_CANDIDATE)

    def take_over(self) -> None:
        """The leader asked for it: stand without asking first (thesis, 3.10)."""
        if self._may_stand:
            self._stand(Role.CANDIDATE, transfer=True)

    def leader_unreachable(self) -> None:
        """The leader is likely dead."""
        if self.role is Role.FOLLOWER and self.leader and not self._leader_lost:
            self._leader_lost = True
            self.campaign()

    def hear(self, leader: int) -> None:
        """A message that only the leader of our term sends. Raises Contradiction."""
        if self.role is Role.LEADER:
            raise Contradiction(f"{leader:016x} leads term {self.term} too")
        if self.role is not Role.FOLLOWER or self.leader != leader:
            self.follow(self.term, leader)
        self._elapsed = 0
        self._leader_lost = False

    def follow(self, term: int, leader: int) -> None:
        """Neither lead nor stand in `term`, which may be news; `leader` is 0 where unknown."""
        if term > self.term:
            self._set_term(term, vote=0)
        if self.role is not Role.FOLLOWER or leader != self.leader:
            self._left()
            self._draw_timeout()
        self.role, self.leader = Role.FOLLOWER, leader
        self._leader_lost = False
        self._elapsed = 0

    def resign(self) -> None:
        """Lead or stand no more; whoever leads shall say so."""
        self.follow(self.term, 0)

    # ---- terms (paper, 5.1) --------------------------------------------------------------------

    def meet_higher_term(self, message: Message) -> bool:
        """Take on the term of a message, if it is one to take; whether to go on with it."""
        match message:
            case PreVote():
                if not self._hears_leader():
                    granted = self._grant_pre_vote(message)
                    term = message.term if granted else self.term
                    self._draft.send(PreVoteReply(self._member, message.source, term, granted))
                return False
            case PreVoteReply(granted=True):
                # In the term that we asked for and do not have yet.
                if message.term == self.term + 1:
                    self._on_votes(message.source, True, Role.PRE_CANDIDATE)
                return False
            case Vote(transfer=False) if self._hears_leader():
                return False
            case Append() | Heartbeat():
                self.follow(message.term, message.source)
            case _:
                self.follow(message.term, 0)
        return True

    def answer_stale(self, message: Message) -> None:
        """From an earlier term: its sender must learn of ours, or could keep asking for ever."""
        me, source, term = self._member, message.source, self.term
        match message:
            case PreVote():
                self._draft.send(PreVoteReply(me, source, term, False))
            case Vote():
                self._draft.send(VoteReply(me, source, term, False))
            case Append():
                self._draft.send(AppendReply(me, source, term, False))
            case Heartbeat():
                self._draft.send(HeartbeatReply(me, source, term, 0))

    def _set_term(self, term: int, *, vote: int) -> None:
        self.term, self.vote = term, vote
        self._draft.promises.term_changed()

    # ---- standing ------------------------------------------------------------------------------

    @property
    def _may_stand(self) -> bool:
        """A member whose removal is not known to be committed stands too: it may be the only one
        left that can win (thesis, 4.2.2).
        """
        if self.role is Role.LEADER:
            return False
        return self._member in self._log.membership.voters | self._log.committed_membership.voters

    def _draw_timeout(self) -> None:
        self._timeout = self._settings.election_ticks + self._random(self._settings.election_ticks)

    def _stand(self, role: Role, *, transfer: bool = False) -> None:
        """Ask for votes, first without taking the term (PRE_CANDIDATE), then with it."""
        self._left()
        self._elapsed = 0
        self._draw_timeout()
        self._votes = {}
        self.role, self.leader = role, 0
        if role is Role.CANDIDATE:
            self._set_term(self.term + 1, vote=self._member)
        me, index, term = self._member, self._log.last, self._log.last_term
        for voter in sorted(self._log.membership.voters - {me}):
            if role is Role.PRE_CANDIDATE:
                self._draft.send(PreVote(me, voter, self.term + 1, index, term))
            else:
                self._draft.send(Vote(me, voter, self.term, index, term, transfer))
        own = PreVoteReply if role is Role.PRE_CANDIDATE else VoteReply
        self._draft.send(own(me, me, self.term, True))

    def on_pre_vote_reply(self, message: PreVoteReply) -> None:
        """One granted in our term is our own, or to a question of an earlier term."""
        if not message.granted or message.source == self._member:
            self._on_votes(message.source, message.granted, Role.PRE_CANDIDATE)

    def on_vote_reply(self, message: VoteReply) -> None:
        self._on_votes(message.source, message.granted, Role.CANDIDATE)

    def _on_votes(self, voter: int, granted: bool, role: Role) -> None:
        if self.role is not role:
            return
        membership = self._log.membership
        self._votes.setdefault(voter, granted)
        if membership.is_majority(v for v, granted in self._votes.items() if granted):
            if role is Role.PRE_CANDIDATE:
                self._stand(Role.CANDIDATE)
            else:
                self.role, self.leader = Role.LEADER, self._member
                self._won()
        elif membership.is_majority(v for v, granted in self._votes.items() if not granted):
            self.resign()

    # ---- voting --------------------------------------------------------------------------------

    def on_pre_vote(self, message: PreVote) -> None:
        """At most our term: it is behind."""
        self._draft.send(PreVoteReply(self._member, message.source, self.term, False))

    def on_vote(self, message: Vote) -> None:
        """One vote a term, for a log at least as up to date as ours (paper, 5.4.1)."""
        free = self.vote == message.source or (self.vote == 0 and self.leader == 0)
        granted = free and self._log.yields_to(message.last_index, message.last_term)
        if granted:
            self._elapsed = 0
            if self.vote != message.source:
                self._set_term(self.term, vote=message.source)
        self._draft.send(VoteReply(self._member, message.source, self.term, granted))

    def _grant_pre_vote(self, message: PreVote) -> bool:
        """A vote costs nothing here, so more than one may have it; of two that ask each other with
        equal logs the one with the higher id goes on, so that they do not split the vote. It asks
        the other again, who may not have listened before it stood itself.
        """
        if not self._log.yields_to(message.last_index, message.last_term):
            return False
        index, term = self._log.last, self._log.last_term
        rival = self.role is Role.PRE_CANDIDATE and self._member > message.source
        if not rival or (message.last_term, message.last_index) != (term, index):
            return True
        self._draft.send(PreVote(self._member, message.source, self.term + 1, index, term))
        return False

    def _hears_leader(self) -> bool:
        """Whether a vote against the leader we know would only disturb it (thesis, 4.2.3)."""
        if self.role is Role.LEADER:
            return True
        fresh = self._elapsed < self._settings.election_ticks
        return bool(self.leader) and fresh and not self._leader_lost

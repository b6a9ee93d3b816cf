"""Raft: one member's part in it, as a pure state machine.

    tick  step  propose  read  persisted  ...            everything that happens comes in here
                      |
                  [ Raft ]        no I/O, clock, thread or randomness of its own
                      |
                  ready()         everything that must happen comes out here, a batch at a time

After Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (cited as paper)
and Ongaro's thesis, "Consensus: Bridging Theory and Practice" (cited as thesis).

    always            EntryLog         terms, memberships, commit      paper, Figure 2
                      Election         term, vote, role, leader        paper, 5.2; thesis, 9.6
                      Follower         the leader's entries            paper, 5.3
                      Questions        reads, asked of the leader      thesis, 6.4
                      Draft            the next Ready, with Promises   thesis, 10.2.1
    while it leads    Leadership       proposals, the commit rule      paper, 5.4.2; thesis, 6.2
                        Roster         a Progress for each member
                        Replication    entries to the others           paper, 5.3, 7
                        Heartbeats     commit, and the round of Reads  paper, 5.2; thesis, 6.4
                        ChangeRules    of the membership               thesis, 4
                        Transfer       of the leadership               thesis, 3.10

The rules of these files:
  * Whoever acts on a Ready does it in this order: put `entries` into the log; persist them and the
    hard state under `number`; send `messages`; apply through `commit`; serve `reads`. None of it
    need be finished before the next call, and persisting may take long: `persisted` says when it
    is done. Many calls may come between two Readys, whatever order they come in.
  * A message that promises something (a vote, a match, a new term) leaves only when what it
    promises is durable. It waits in here until then, so nobody outside can get that wrong. A member
    counts its own vote and its own match the same way: by messages to itself (see promises.py).
  * An entry's payload and size are not seen here. Entries are ranges of indexes with terms.
  * Appends are made in ready() alone: what a message says of the log is what the log then holds.
"""

from collections.abc import Callable, Mapping

from bedplate.consensus.draft import Draft
from bedplate.consensus.election import Election
from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.follower import Follower
from bedplate.consensus.leadership import Leadership
from bedplate.consensus.membership import Change, Membership
from bedplate.consensus.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteReply,
    ReadIndex,
    ReadIndexReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from bedplate.consensus.office import Office
from bedplate.consensus.progress import Progress
from bedplate.consensus.reads import Questions
from bedplate.consensus.ready import (
    HardState,
    Lost,
    NotLeading,
    Reach,
    Ready,
    Role,
    Settings,
)
from bedplate.consensus.roster import Roster


class Raft:
    """One member. `step` raises Contradiction, and nothing else, on what members may send."""

    def __init__(
        self,
        member: int,
        *,
        settings: Settings,
        log: EntryLog,
        hard_state: HardState,
        reach: Reach,
        random: Callable[[int], int],
    ) -> None:
        """`log` and `hard_state` as they are durable; `random(n)` is a number in [0, n), and not
        the same ones after a restart. Raises Lost.
        """
        log.commit = max(hard_state.commit, log.compacted)
        if log.commit > log.last:
            raise Lost(f"the log ends at {log.last}, before committed {log.commit}")
        term = hard_state.term
        if term < log.last_term:
            raise Lost(f"the log has term {log.last_term}, ahead of term {term}")
        self.member = member
        self.settings = settings
        self.log = log
        self.failed = False
        self._reach = reach
        self._draft = Draft(member, log.last, self.step)
        life = random(1 << 62)
        self._questions = Questions(member, life, settings.election_ticks, self._draft)
        self._follower = Follower(log, self._draft)
        self._election = Election(
            member,
            settings=settings,
            log=log,
            hard_state=hard_state,
            draft=self._draft,
            random=random,
            won=self._lead,
            left=self._leave,
        )
        self._leadership: Leadership | None = None  # while it leads
        self._seen = (log.commit, Role.FOLLOWER, 0)  # in the last Ready

    # ---- what can be asked ---------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self._election.term

    @property
    def vote(self) -> int:
        return self._election.vote

    @property
    def role(self) -> Role:
        return self._election.role

    @property
    def leader(self) -> int:
        """0: unknown."""
        return self._election.leader

    @property
    def is_leader(self) -> bool:
        return self._leadership is not None

    @property
    def commit(self) -> int:
        return self.log.commit

    @property
    def membership(self) -> Membership:
        return self.log.membership

    @property
    def hard_state(self) -> HardState:
        return HardState(self._election.term, self._election.vote, self.log.commit)

    @property
    def progress(self) -> Mapping[int, Progress]:
        """What a leader knows of the members; whoever does not lead knows nothing."""
        return {} if self._leadership is None else self._leadership.progress

    @property
    def transferee(self) -> int:
        """Whom leadership is being handed to; 0: nobody."""
        return 0 if self._leadership is None else self._leadership.transfer.target

    @property
    def room(self) -> int:
        """How many bytes of entries may be proposed now; none before a Ready's entries are in the
        log.
        """
        return 0 if self._leadership is None else self._leadership.room

    @property
    def rounds(self) -> int:
        """How many proposals of this leader are not committed."""
        return 0 if self._leadership is None else self._leadership.rounds

    # ---- what happens --------------------------------------------------------------------------

    def tick(self) -> None:
        """One unit of time has passed."""
        if self.failed:
            return
        if self._leadership is not None:
            self._leadership.tick()
        else:
            self._election.tick()
            self._questions.tick(self.leader, self.term)

    def step(self, message: Message) -> None:
        """A message has arrived, from another member or from this one itself."""
        if self.failed or message.target != self.member:
            return
        election, term = self._election, message.term
        if term > election.term and not election.meet_higher_term(message):
            return
        if term < election.term:
            election.answer_stale(message)
            return
        leadership = self._leadership
        match message:
            case Append():
                election.hear(message.source)
                self._follower.on_append(message)
            case AppendReply() if leadership is not None:
                leadership.on_append_reply(message)
            case Heartbeat():
                election.hear(message.source)
                self._follower.on_heartbeat(message)
            case HeartbeatReply() if leadership is not None:
                leadership.heartbeats.on_reply(message)
            case ReadIndex() if leadership is not None:
                leadership.heartbeats.begin_read(message.source, message.context)
            case ReadIndexReply():
                self._questions.on_reply(message)
            case PreVote():
                election.on_pre_vote(message)
            case PreVoteReply():
                election.on_pre_vote_reply(message)
            case Vote():
                election.on_vote(message)
            case VoteReply():
                election.on_vote_reply(message)
            case TimeoutNow():
                election.take_over()

    def propose(self, last: int, size: int) -> None:
        """Entries of the own term through `last`, `size` bytes in all, are at the log's end.
        Raises NotLeading.
        """
        self._leading.propose(last, size)

    def propose_change(self, change: Change, size: int) -> Membership:
        """The next entry is a configuration entry of `size` bytes; the membership it holds. Raises
        ChangeRefused, NotLeading.
        """
        return self._leading.propose_change(change, size)

    def transfer(self, target: int) -> None:
        """Hand leadership to a voter once it has the whole log; given up after an election's time.
        Raises NotLeading, ChangeRefused.
        """
        self._leading.transfer.begin(target)

    def read(self, context: int) -> None:
        """A read wants an index; a ReadState with this context will come."""
        if self._leadership is not None:
            self._leadership.heartbeats.begin_read(self.member, context)
        elif self.leader:
            self._questions.ask(context, self.leader, self.term)
        else:
            self._draft.answer(context, None)

    def persisted(self, number: int) -> None:
        """Everything that Ready `number` and those before it held is durable."""
        self._draft.persisted(number)

    def campaign(self) -> None:
        """Stand for election now: nobody else can, or somebody asked for it."""
        if not self.failed:
            self._election.campaign()

    def leader_unreachable(self) -> None:
        """The connection to the leader was reset: it is likely dead, so do not wait for a timeout.
        Who still hears from it refuses the pre-vote, so a mere reset changes nothing.
        """
        self._election.leader_unreachable()

    def unreachable(self, member: int) -> None:
        """What was sent to `member` since its last answer may be lost."""
        if self._leadership is not None:
            self._leadership.replication.unreachable(member)

    def unreadable(self, member: int) -> None:
        """Entries that `member` needs cannot be read any more: it needs a snapshot."""
        if self._leadership is not None:
            self._leadership.replication.unreadable(member)

    def snapshot_sent(self, member: int, *, installed: bool) -> None:
        """The snapshot that a Ready asked for is installed, or failed and is to be tried anew."""
        if self._leadership is not None:
            self._leadership.replication.snapshot_sent(member, installed=installed)

    def wants_snapshot(self, index: int, term: int) -> bool:
        """Whether a committed (index, term) is news. To be asked again at the moment when the
        snapshot would replace the log: what came meanwhile may hold more, and be acknowledged.
        """
        return index > self.commit and not self.log.holds(index, term) and not self.failed

    def restored(self, index: int, term: int, membership: Membership) -> None:
        """A snapshot of (index, term), which was wanted, is installed durably and replaces the log.

        Entries behind `index` go with it. They follow one that is not what was committed, so they
        are no leader's to count (paper, 7).
        """
        assert self.wants_snapshot(index, term)
        self.log.reset(index, term, membership)
        self._draft.promises.restored(index)
        self._draft.entries.clear()
        if self.leader and not self.is_leader:
            self._draft.send(AppendReply(self.member, self.leader, self.term, True, index))

    def compact(self, index: int) -> None:
        """Applied entries through `index` need not be served any more."""
        self.log.compact(min(index, self.commit))

    def step_down(self) -> None:
        """Lead no longer, for a reason outside Raft: a disk that stalls, a state in doubt."""
        if self._leadership is not None:
            self._leadership.hand_over()

    def fail(self) -> None:
        """The log can no longer be trusted to keep what it is given: take no part from now on."""
        self._draft.messages.clear()
        self.step_down()
        self._election.resign()
        self.failed = True
        self._draft.promises.drop()
        self._draft.entries.clear()

    # ---- what must happen ----------------------------------------------------------------------

    def ready(self) -> Ready | None:
        """Everything to be done since the last call; None when there is nothing. After a Ready with
        entries, ask again.
        """
        if self._leadership is not None:
            self._leadership.send()
        draft, state = self._draft, (self.log.commit, self._election.role, self._election.leader)
        if draft.empty and state == self._seen:
            return None
        self._seen = state
        return draft.take(self.hard_state, self.log.last, self._election.role, self.leader)

    # ---- in and out of office ------------------------------------------------------------------

    @property
    def _leading(self) -> Leadership:
        if self._leadership is None:
            raise NotLeading
        return self._leadership

    def _lead(self) -> None:
        roster = Roster(self.member, self.settings, self.log)
        office = Office(self.member, self.term, self.settings, self.log, roster, self._draft)
        self._leadership = Leadership(office, reach=self._reach, resign=self._election.resign)
        self._leadership.begin()

    def _leave(self) -> None:
        """Whoever led, this member or another, is not taken to lead any more."""
        if self._leadership is not None:
            self._leadership.heartbeats.refuse_reads()
            self._leadership = None
        self._questions.drop()

"""The members as their leader sees them: one Progress each, the leader's own among them.

match of each voter, highest first      9 | 7 | 4        of 3, 2 are a majority: they all
                                            ^            hold what the second holds
                                          agreed
"""

from bedplate.consensus.entry_log import EntryLog
from bedplate.consensus.progress import Progress, Window
from bedplate.consensus.ready import Settings


class Roster:
    """Who is in the log's newest membership, committed or not (thesis, 4.1)."""

    def __init__(self, member: int, settings: Settings, log: EntryLog) -> None:
        self.progress: dict[int, Progress] = {}
        self.others: list[tuple[int, Progress]] = []  # but the leader, in the order of their ids
        self._member = member
        self._settings = settings
        self._log = log
        self.sync()

    def sync(self) -> None:
        """The membership may have changed."""
        members = self._log.membership.members
        for member in members - self.progress.keys():
            window = Window(self._settings.window_messages_max, self._settings.window_bytes_max)
            self.progress[member] = Progress(self._log.last + 1, window, active=True)
        for member in self.progress.keys() - members:
            del self.progress[member]
        self.others = sorted(each for each in self.progress.items() if each[0] != self._member)

    def tick(self) -> None:
        for progress in self.progress.values():
            progress.tick()

    def agreed(self) -> int:
        """Through which index a majority holds the log."""
        return self._log.membership.agreed({m: p.match for m, p in self.progress.items()})

    def echoed(self, own: int) -> dict[int, int]:
        """The last round of heartbeats that each member answered; the leader's is its `own`."""
        rounds = {member: progress.round for member, progress in self.progress.items()}
        rounds[self._member] = own
        return rounds

    def check_quorum(self) -> bool:
        """Whether a majority was heard of since this was asked last."""
        heard = [member for member, progress in self.progress.items() if progress.active]
        for progress in self.progress.values():
            progress.active = False
        return self._log.membership.is_majority([*heard, self._member])

    def heard_lately(self, member: int) -> bool:
        """Whether a member was heard of within an election's time."""
        progress = self.progress.get(member)
        silent = None if progress is None else progress.silent
        return silent is not None and silent < self._settings.election_ticks
